"""What a span of the history comes to, and that what comes from elsewhere is harmless in Markdown and HTML."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from reconciler.app.pages.html import render_html
from reconciler.cli.history_reports import markdown_report, page_facts
from reconciler.cli.layout import Page
from reconciler.core.history.entries import iso_instant
from reconciler.core.history.report import HistoryReport, make_report
from reconciler.core.model.runs import Result
from tests.support import answers

NOW = 1_000_000.0
HOUR = 3600.0
HOSTILE = "<script>alert(1)</script> | [x](http://evil) @everyone `code`"


def entry(result: str, hours_ago: float = 1.0, seconds: float = 0.0, environment: str = "production") -> dict[str, Any]:
    ended = NOW - hours_ago * HOUR
    facts = answers.run(result, environment=environment, finished_at=iso_instant(ended))
    return {**facts, "started_at": iso_instant(ended - seconds), "supersedes": None}


def state(**more: Any) -> dict[str, Any]:
    facts = {"environment": "production", "result": "in_sync", "reason": "", "since": iso_instant(NOW - HOUR)}
    return {**facts, "suspended": {}, "quarantine": None, "pauses": [], "pin": None, "after": None, **more}


def report(*entries: dict[str, Any], status: Any = None, ages: Any = (), days: float = 7.0) -> HistoryReport:
    return make_report(entries, [status or state()], ages, since=NOW - days * 24 * HOUR, now=NOW)


def test_only_changes_count_for_the_rate() -> None:
    made = report(*(entry(result) for result in [*Result, "unfinished"]))
    assert sorted(run.result for run in made.changed) == ["applied", "corrected"]
    assert sorted(run.result for run in made.failed) == ["failed", "rollback_failed", "rolled_back", "stalled"]
    assert made.success_rate == pytest.approx(2 / 6)
    assert sorted(run.result for run in made.decided) == ["done", "held", "refused"]


def test_without_a_change_there_is_no_rate_and_without_a_recovery_no_time() -> None:
    made = report(entry("in_sync"), entry("done"))
    assert (made.success_rate, made.mean_recovery_seconds, made.worst_recovery_seconds) == (None, None, None)


def test_recovery_times_are_those_of_the_entries_in_the_span() -> None:
    made = report(
        entry("recovered", seconds=60), entry("recovered", seconds=600), entry("recovered", 24 * 8, seconds=9999)
    )
    assert (made.mean_recovery_seconds, made.worst_recovery_seconds) == (330.0, 600.0)


def test_other_environments_and_what_ended_earlier_are_left_out() -> None:
    made = report(entry("applied"), entry("applied", 25), entry("applied", environment="staging"), days=1)
    assert len(made.changed) == 1


def test_a_correction_names_who_edited_and_not_the_author_of_the_commit() -> None:
    hand = {**answers.run("corrected"), "finished_at": iso_instant(NOW), "supersedes": None}
    hand["changes"] = [{"source": name, "edited_by": "bob"} for name in ("a.env", "b.env")]
    (run,) = report(hand, entry("done")).changed
    assert run.edited_by == ("bob",)
    lines = "\n".join(markdown_report(answers.REPORT, Page())).splitlines()
    (corrected,) = [line for line in lines if "| corrected |" in line]
    assert "edited by probably bob: the only login session then" in corrected
    assert "Ada" not in corrected


OVERDUE: dict[str, tuple[dict[str, Any], list[tuple[str, str]]]] = {
    "held": ({"result": "held"}, [("held", "production")]),
    "stalled": ({"result": "stalled"}, [("stalled", "production")]),
    "suspended": (
        {"result": "rollback_failed", "suspended": {"app": "why"}},
        [("suspended", "production/app")],
    ),
    "quarantined": (
        {"quarantine": {"revision": answers.revision(), "since": iso_instant(NOW), "reason": "api exited"}},
        [("quarantined", "production 02fdac92abcd")],
    ),
    "paused long": (
        {"pauses": [{"scope": "", "since": iso_instant(NOW - 25 * HOUR), "reason": "a fair"}]},
        [("paused", "production")],
    ),
    "just paused": ({"pauses": [{"scope": "", "since": iso_instant(NOW - HOUR), "reason": ""}]}, []),
    "not reconciled yet": ({"result": None}, []),
    "pending": ({"result": "pending"}, []),
}


@pytest.mark.parametrize(("more", "expected"), OVERDUE.values(), ids=OVERDUE)
def test_what_waits_for_an_operator_is_overdue(more: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    assert [(item.kind, item.where) for item in report(status=state(**more)).overdue] == expected


def test_secrets_older_than_allowed_are_overdue_by_target() -> None:
    keys = [{"key": name, "too_old": old} for name, old in [("TOKEN", True), ("API_KEY", True), ("NEW", False)]]
    ages = [{"targets": [{"target": "production/api.env", "last_rotated": iso_instant(1.0), "keys": keys}]}]
    (item,) = report(ages=ages).overdue
    assert (item.kind, item.where, item.reason) == ("old secrets", "production/api.env", "API_KEY, TOKEN")


def test_what_comes_from_elsewhere_is_no_markup() -> None:
    facts = json.loads(json.dumps(answers.REPORT))
    facts["failed"][0] |= {"reason": HOSTILE, "environment": HOSTILE, "requested_by": HOSTILE, "targets": [HOSTILE]}
    facts["overdue"][0] |= {"reason": HOSTILE, "where": HOSTILE}
    text = "\n".join(markdown_report(facts, Page()))
    table = [line for line in text.splitlines() if "alert" in line]
    assert table
    for line in table:
        outside = re.sub(r"(?<!\\)`[^`]*`", "", line)  # in code, nothing is markup
        assert not [markup for markup in ("[x](", "@everyone", "<script", "http://") if markup in outside]
    page = render_html("report.html", **page_facts(facts))
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "http://" not in page.replace("http://evil", "")


def test_the_report_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    page = render_html("report.html", **page_facts(answers.REPORT))
    assert "2 of 3 (66.7%)" in page
    for attribute in ("src=", "href=", "@import", "url("):
        assert attribute not in page
