"""The daemon's overview of many targets: from the data of the API to the whole page, as one request renders it."""

from __future__ import annotations

import time
from typing import Any

from benchmarks.figures import Figure
from reconciler.app.pages.html import render_html
from reconciler.app.pages.overview import overview_facts
from tests.support import answers

TARGETS = 200
RUNS = 30
TARGET = 100.0  # ms


def overview(targets: int) -> str:
    """The page of an environment with so many targets, a third of them with something to say, and 20 runs."""
    changes = [_change(number) for number in range(targets)]
    services = [answers.service(f"app/service-{number}") for number in range(targets // 4)]
    status = answers.status(answers.state("drifted", answers.plan(*changes), services=services))
    runs = [answers.HISTORY[number % len(answers.HISTORY)] for number in range(20)]
    at = "2026-11-29T08:00:00+00:00"
    known = {
        "here": "",
        "root": "./",
        "host": "web-1",
        "now": answers.NOW,
        "at": at,
        "link": lambda commit: f"https://x/{commit}",
    }
    return render_html("overview.html", script="refresh.js", **known, **overview_facts(status, runs))


def _change(number: int) -> Any:
    target = f"production/service-{number:03}.env"
    if number % 3:
        return answers.change(target, since=answers.at("29T05:00:00"))
    return answers.drift(target, effect="report" if number % 6 else "write")


def measure() -> list[Figure]:
    overview(TARGETS)  # the first one compiles the templates
    samples = []
    for _ in range(RUNS):
        began = time.perf_counter()
        overview(TARGETS)
        samples.append((time.perf_counter() - began) * 1000)
    return [Figure(f"the daemon's page, {TARGETS} targets", "ms", tuple(samples), TARGET)]
