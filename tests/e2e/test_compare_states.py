"""States of services are findings of `reconciler compare`, also where both sides are equally bad."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_compare import compare, data, only_comparison
from tests.support.compose import ComposeProject
from tests.support.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.docker]

BOTH = """
x-any: &any {image: IMAGE, stop_grace_period: 0s, network_mode: host, command: sleep 600}
services:
  sick: {<<: *any, healthcheck: {test: [CMD, "false"], interval: 1s, retries: 1}}
  loops: {<<: *any, restart: always, command: "false"}
  dead: {<<: *any, command: [sh, -c, exit 3]}
  job: {<<: *any, command: "true"}
  gone: {<<: *any}
  asleep: {<<: *any, profiles: [never]}
  off: {<<: *any, scale: 0}
"""
ALONE = "  alone: {<<: *any, mem_limit: 64m, command: [sh, -c, exit 4]}\n"


def settled(project: ComposeProject, *more: str) -> None:
    """Start the project, wait until each service is what it becomes, and remove the container of ``gone``."""
    project.up()
    ended = ("dead", "job", *more)
    eventually(lambda: all(project.container(name)["State"]["Status"] == "exited" for name in ended), timeout=60)
    eventually(lambda: project.container("sick")["State"]["Health"]["Status"] == "unhealthy", timeout=60)
    # From the fifth on, the engine waits seconds before each start: until then a look may meet it running.
    eventually(lambda: project.container("loops")["RestartCount"] > 4, timeout=60)
    assert project.compose("rm", "--stop", "--force", "gone").returncode == 0


def finding(comparison: dict[str, Any], service: str) -> dict[str, str]:
    """The unexplained facts of the service, each with its class."""
    (facts,) = (entry["facts"] for entry in comparison["services"] if entry["service"].endswith(service))
    return {fact["name"]: fact["class"] for fact in facts if fact["unexplained"]}


def while_restarting(comparison: dict[str, Any]) -> dict[str, Any]:
    """The comparison, if it met ``loops`` between two of its starts: a busy machine may take longer than that."""
    assert "state" in finding(comparison, "loops")
    return comparison


def test_bad_states_count_on_both_sides_and_on_one(
    compose_project: Callable[..., ComposeProject], tmp_path: Path
) -> None:
    first, second = compose_project(BOTH + ALONE), compose_project(BOTH)
    settled(first, "alone")
    settled(second)
    sides = (f"file:{first.directory}", f"file:{second.directory}", "--same-environment")
    comparison = eventually(lambda: while_restarting(only_comparison(data(tmp_path, *sides))), timeout=60)
    assert {name: finding(comparison, name) for name in ("sick", "dead", "job", "gone", "alone")} == {
        "sick": {"health": "failed"},
        "dead": {"state": "failed"},
        "job": {},  # it ended with 0, and was meant to
        "gone": {"container": "failed"},
        "alone": {"container": "missing-right", "state": "failed"},
    }
    assert not {entry["service"] for entry in comparison["services"]} & {"asleep", "off"}
    (alone,) = (entry for entry in comparison["services"] if entry["service"] == "alone")
    texts = {fact["name"]: (fact["left"], fact["right"]) for fact in alone["facts"]}
    assert (texts["memory"], texts["exit code"], texts["restarts"]) == (("64 MiB", ""), ("4", ""), ("0", ""))
    for form in ("table", "markdown", "html"):
        text = compare(tmp_path, *sides, "--format", form).stdout
        for words in (
            "exited with 3",
            "running, unhealthy",
            "no container",
            "no such service",
            "64 MiB",
            "only in",
            "exited in ",
        ):
            assert words in text, (form, words)


def test_projects_that_nobody_has_started_miss_nothing(
    compose_project: Callable[..., ComposeProject], tmp_path: Path
) -> None:
    first, second = compose_project(BOTH, {"a.env": "A=1\n"}), compose_project(BOTH, {"a.env": "A=1\n"})
    sides = (f"file:{first.directory}", f"file:{second.directory}", "--same-environment")
    assert only_comparison(data(tmp_path, *sides, code=0))["unexplained"] == 0
