"""When a service counts as healthy, when as failed, and what is said about it. Time is an argument: nothing waits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from reconciler.core.decide import health
from reconciler.core.decide.health import HealthReport, Verdict, failing
from reconciler.core.decide.startup import allowed_by_definition
from reconciler.core.model.compose import Container, Project, Service, ServiceHealth
from reconciler.core.model.targets import HealthPolicy, HttpCheck, Stack
from reconciler.core.secret import Secret

START = 1000.0
POLICY = HealthPolicy(timeout=90, stable_for=15)
STACK = Stack("production", "app", "/opt/app", health=POLICY, one_shot=frozenset({"migrate"}))
URL = "http://127.0.0.1:8000/health"

BEFORE = Container("old", "api", "running", restarts=4, started_at="2026-01-01T00:00:00Z")
NEW = Container("new", "api", "running", started_at="2026-01-02T00:00:00.5Z", finished_at="0001-01-01T00:00:00Z")


def look(
    *moments: tuple[float, list[Container]],
    before: list[Container] | None = None,
    services: tuple[str, ...] = ("api",),
    stack: Stack = STACK,
    answers: dict[str, bool] | None = None,
) -> HealthReport:
    """What is said after the last of the moments (seconds since the watch began, containers)."""
    watch = health.watch_health(stack, services, [BEFORE] if before is None else before, START)
    for seconds, containers in moments:
        watch, report = watch.look(containers, START + seconds, answers)
    return report


# --- with a health check ---


def test_healthy_container_is_enough_immediately() -> None:
    report = look((0, [replace(NEW, health="healthy")]))
    assert (report.verdict, report.reason) == (Verdict.HEALTHY, "api healthy")


def test_starting_container_is_waited_for() -> None:
    report = look((0, [replace(NEW, health="starting")]), (89, [replace(NEW, health="starting")]))
    assert (report.verdict, report.reason) == (Verdict.WAIT, "api is starting")


def test_container_that_stays_starting_fails_at_the_timeout() -> None:
    report = look((90, [replace(NEW, health="starting")]))
    assert (report.verdict, report.reason) == (Verdict.FAILED, "api is still starting after 90 s")


def test_unhealthy_container_fails_immediately() -> None:
    report = look((1, [replace(NEW, health="unhealthy")]))
    assert (report.verdict, report.reason) == (Verdict.FAILED, "api is unhealthy")


def test_health_from_before_a_signal_says_nothing_until_it_has_lasted() -> None:
    """A container that was only signalled is the same as before: its last probe may be older than the signal."""
    same = replace(BEFORE, health="healthy")
    assert look((1, [same]), before=[same]).verdict is Verdict.WAIT
    assert look((1, [same]), (15, [same]), before=[same]).verdict is Verdict.HEALTHY


def test_health_after_a_restart_of_the_same_container_counts_immediately() -> None:
    restarted = replace(BEFORE, health="healthy", restarts=0, started_at=NEW.started_at)
    assert look((1, [restarted])).verdict is Verdict.HEALTHY


# --- that takes its time ---

SECOND = 1_000_000_000  # the engine counts nanoseconds


def checked(**check: Any) -> Container:
    """A container that is starting, with this health check as inspect shows it."""
    return replace(NEW, health="starting", facts={"Config": {"Healthcheck": {"Test": ["CMD", "true"], **check}}})


@pytest.mark.parametrize(
    ("check", "patience"),
    [
        pytest.param({"StartPeriod": 60 * SECOND, "Interval": SECOND, "Timeout": SECOND, "Retries": 3}, 90, id="less"),
        pytest.param(
            {"StartPeriod": 120 * SECOND, "Interval": SECOND, "Timeout": SECOND, "Retries": 3}, 126, id="more"
        ),
        pytest.param({"Interval": 20 * SECOND, "Timeout": 5 * SECOND, "Retries": 5}, 125, id="without-a-start-period"),
        pytest.param({}, 180, id="the-engine's-own-times"),
        pytest.param({"Test": ["NONE"], "StartPeriod": 200 * SECOND}, 90, id="disabled"),
    ],
)
def test_a_service_may_start_as_long_as_its_health_check_allows(check: dict[str, Any], patience: float) -> None:
    starting = checked(**check)
    assert look((0, [starting]), (patience - 0.1, [starting])).verdict is Verdict.WAIT
    report = look((0, [starting]), (patience, [starting]))
    assert (report.verdict, report.reason) == (Verdict.FAILED, f"api is still starting after {patience} s")
    assert report.late == {"api"}


def test_http_checks_wait_for_what_is_still_starting() -> None:
    stack = replace(STACK, health=HealthPolicy(90, 15, (HttpCheck(URL),)))
    healthy = replace(checked(StartPeriod=120 * SECOND, Interval=SECOND, Timeout=SECOND), health="healthy")
    assert look((125, [healthy]), stack=stack).verdict is Verdict.WAIT
    assert look((126, [healthy]), stack=stack).verdict is Verdict.FAILED


def test_a_service_may_take_longer_than_the_last_time() -> None:
    starting = replace(NEW, health="starting")
    watch = health.watch_health(STACK, ["api"], [BEFORE], START, last_startups={"api": 100.0, "worker": 500.0})
    assert watch.look([starting], START + 199)[1].verdict is Verdict.WAIT
    assert watch.look([starting], START + 200)[1].verdict is Verdict.FAILED


def test_the_time_to_healthy_is_that_of_the_first_look_that_finds_it() -> None:
    watch = health.watch_health(STACK, ["api", "worker"], [BEFORE], START)
    worker = replace(NEW, id="2", service="worker")
    for seconds, state in ((5, "starting"), (8, "healthy"), (30, "healthy")):
        watch, _ = watch.look([replace(NEW, health=state), worker], START + seconds)
    assert watch.startups == {"api": 8}


@pytest.mark.parametrize(
    ("check", "seconds"),
    [
        pytest.param({"test": "true", "start_period": "1m30s", "interval": "5s", "timeout": "1s"}, 108, id="times"),
        pytest.param({"start_period": "500ms", "interval": "1s", "timeout": "1s", "retries": 1}, 2.5, id="no-test"),
        pytest.param({"test": "true"}, 0, id="says-nothing"),
        pytest.param({"disable": True, "start_period": "1h"}, 0, id="disabled"),
        pytest.param({"test": ["NONE"], "start_period": "1h"}, 0, id="none"),
        pytest.param({"retries": "${TRIES}", "interval": "1s", "timeout": "1s"}, 6, id="variable"),
    ],
)
def test_what_a_health_check_of_a_compose_file_allows(check: dict[str, Any], seconds: float) -> None:
    assert allowed_by_definition(check) == seconds


# --- without one ---


def test_running_must_last() -> None:
    report = look((0, [NEW]), (14.9, [NEW]))
    assert (report.verdict, report.reason) == (Verdict.WAIT, "api must run for 15 s")
    assert look((0, [NEW]), (15, [NEW])).verdict is Verdict.HEALTHY


def test_time_counts_from_when_the_container_was_first_seen() -> None:
    assert look((0, []), (10, [NEW]), (24, [NEW])).verdict is Verdict.WAIT
    assert look((0, []), (10, [NEW]), (25, [NEW])).verdict is Verdict.HEALTHY


def test_time_starts_again_when_somebody_restarts_the_container() -> None:
    again = replace(NEW, started_at="2026-01-02T00:01:00Z")
    assert look((0, [NEW]), (10, [again]), (15, [again])).verdict is Verdict.WAIT
    assert look((0, [NEW]), (10, [again]), (25, [again])).verdict is Verdict.HEALTHY


def test_running_late_may_outlast_the_timeout() -> None:
    """A service that runs is given its stable_for, even where the timeout ends meanwhile."""
    assert look((80, [NEW]), (94, [NEW])).verdict is Verdict.WAIT
    assert look((80, [NEW]), (95, [NEW])).verdict is Verdict.HEALTHY


@pytest.mark.parametrize("code", [137, 143])
def test_a_service_that_is_stopped_from_outside_blames_nobody_immediately(code: int) -> None:
    """The engine itself may be ending: the next look then finds none."""
    stopped = replace(NEW, state="exited", exit_code=code)
    report = look((1, [stopped]))
    assert (report.verdict, report.reason) == (Verdict.WAIT, f"api is stopped (exit code {code})")
    assert look((1, [stopped]), (90, [stopped])).verdict is Verdict.FAILED
    assert look((1, [replace(stopped, out_of_memory=True)])).verdict is Verdict.FAILED


# --- failures ---


@pytest.mark.parametrize(
    ("container", "reason"),
    [
        pytest.param(
            replace(NEW, state="exited", exit_code=3, finished_at="2026-01-02T00:00:02.6Z"),
            "api exited with code 3 after 2 s",
            id="exited",
        ),
        pytest.param(
            replace(NEW, state="exited", exit_code=127, finished_at="2026-01-02T00:00:00.4Z"),
            "api exited with code 127 immediately",
            id="never-began",
        ),
        pytest.param(
            replace(NEW, state="exited", exit_code=1, finished_at=""), "api exited with code 1", id="time-unknown"
        ),
        pytest.param(
            replace(NEW, state="exited", exit_code=0, finished_at="2026-01-02T00:01:00.5Z"),
            "api exited with code 0 after 60 s (if it is meant to end, name it in one_shot)",
            id="finished-though-not-one-shot",
        ),
        pytest.param(replace(NEW, restarts=1), "api restarted once", id="restarted-once"),
        pytest.param(
            replace(NEW, restarts=3, state="restarting", exit_code=2),
            "api restarted 3 times, exit code 2",
            id="crash-loop",
        ),
        pytest.param(
            replace(NEW, state="restarting", exit_code=2), "api is being restarted, exit code 2", id="first-crash"
        ),
        pytest.param(replace(NEW, state="dead"), "api is dead: the engine could not remove its container", id="dead"),
        pytest.param(
            replace(NEW, state="exited", exit_code=1, health="healthy"), "api exited with code 1", id="was-healthy"
        ),
    ],
)
def test_failure_is_found_at_the_first_look_and_said_in_words(container: Container, reason: str) -> None:
    report = look((2, [container]))
    assert report.verdict is Verdict.FAILED
    assert report.reason.startswith(reason)
    assert report.failed == {"api"}


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        pytest.param("created", "api is still created after 90 s", id="created"),
        pytest.param("paused", "api is still paused after 90 s", id="paused"),
        pytest.param("removing", "api is still removing after 90 s", id="removing"),
        pytest.param(None, "api still has no container after 90 s", id="no-container"),
    ],
)
def test_what_is_not_running_is_waited_for_until_the_timeout(state: str | None, reason: str) -> None:
    containers = [replace(NEW, state=state)] if state else []
    assert look((89, containers)).verdict is Verdict.WAIT
    report = look((90, containers))
    assert (report.verdict, report.reason) == (Verdict.FAILED, reason)


# --- restarts: the engine counts from when the container was made, or last restarted by hand ---


@pytest.mark.parametrize(
    ("restarts", "started_at", "verdict"),
    [
        pytest.param(4, BEFORE.started_at, Verdict.WAIT, id="untouched"),
        pytest.param(5, "later", Verdict.FAILED, id="crashed-since"),
        pytest.param(0, "later", Verdict.WAIT, id="restarted-by-us"),
        pytest.param(1, "later", Verdict.FAILED, id="restarted-by-us-and-crashed"),
    ],
)
def test_only_restarts_since_the_change_count(restarts: int, started_at: str, verdict: Verdict) -> None:
    assert look((1, [replace(BEFORE, restarts=restarts, started_at=started_at)])).verdict is verdict


def test_restarts_add_up_over_looks() -> None:
    first, second = replace(NEW, restarts=1, started_at="a"), replace(NEW, restarts=3, started_at="b")
    assert look((1, [NEW]), (2, [first]), (3, [second])).reason == "api restarted 3 times"


# --- one-shot services ---


def test_one_shot_that_ends_well_is_healthy() -> None:
    done = replace(NEW, service="migrate", state="exited", exit_code=0)
    assert look((1, [done]), services=("migrate",)).verdict is Verdict.HEALTHY


def test_one_shot_that_fails_is_a_failure() -> None:
    done = replace(NEW, service="migrate", state="exited", exit_code=1)
    assert look((1, [done]), services=("migrate",)).verdict is Verdict.FAILED


def test_one_shot_that_needed_a_second_try_is_healthy() -> None:
    done = replace(NEW, service="migrate", state="exited", exit_code=0, restarts=1)
    assert look((1, [done]), services=("migrate",)).verdict is Verdict.HEALTHY


def test_one_shot_at_work_is_waited_for_until_the_timeout_and_is_no_failure_then() -> None:
    """It may fail at its end, and some take hours."""
    at_work = replace(NEW, service="migrate")
    assert look((0, [at_work]), (89, [at_work]), services=("migrate",)).verdict is Verdict.WAIT
    assert look((0, [at_work]), (90, [at_work]), services=("migrate",)).verdict is Verdict.HEALTHY


# --- several containers, several services ---


def test_all_replicas_must_be_healthy() -> None:
    first, second = replace(NEW, id="1", health="healthy"), replace(NEW, id="2", health="starting")
    assert look((1, [first, second])).verdict is Verdict.WAIT
    assert look((1, [first, replace(second, health="healthy")])).verdict is Verdict.HEALTHY
    assert look((1, [second, replace(first, health="unhealthy")])).verdict is Verdict.FAILED


def test_first_failure_ends_the_watch_though_others_are_still_waited_for() -> None:
    report = look(
        (1, [replace(NEW, health="starting"), replace(NEW, id="w", service="worker", restarts=2)]),
        services=("api", "worker"),
    )
    assert (report.verdict, report.reason, report.failed) == (Verdict.FAILED, "worker restarted 2 times", {"worker"})


NO_NODE = "no suitable node (insufficient resources on 3 nodes)"
STARTING = replace(NEW, id="1", health="starting")
PENDING = replace(NEW, id="2", number=2, name="app_api.2", state="pending", error=NO_NODE)


@pytest.mark.parametrize(
    ("moments", "verdict", "reason"),
    [
        pytest.param([0], Verdict.WAIT, f"api is pending: {NO_NODE}", id="waits"),
        pytest.param([0, 90], Verdict.FAILED, f"api is still pending after 90 s: {NO_NODE}", id="at-the-timeout"),
        pytest.param([90], Verdict.FAILED, f"api is still pending after 90 s: {NO_NODE}", id="seen-late"),
    ],
)
def test_the_reason_of_the_scheduler_is_not_lost_among_other_replicas(
    moments: list[float], verdict: Verdict, reason: str
) -> None:
    report = look(*((moment, [STARTING, PENDING]) for moment in moments))
    assert (report.verdict, report.reason) == (verdict, reason)
    assert report.late == report.failed


def test_a_crash_is_said_before_what_only_takes_long() -> None:
    crashed = replace(NEW, id="3", restarts=2)
    assert look((90, [STARTING, PENDING, crashed])).reason == "api restarted 2 times"


@pytest.mark.parametrize(
    ("containers", "unplaced"),
    [
        pytest.param([replace(NEW, id="1", health="healthy"), PENDING], 1, id="one-of-two"),
        pytest.param([PENDING], 1, id="all"),
        pytest.param([STARTING, PENDING], 0, id="another-one-is-not-healthy"),
        pytest.param([replace(NEW, id="1", health="unhealthy"), PENDING], 0, id="another-one-fails"),
    ],
)
def test_what_fails_only_because_no_node_runs_it_is_counted(containers: list[Container], unplaced: int) -> None:
    (finding,) = look((0, containers), (90, containers)).findings
    assert (finding.verdict, finding.unplaced) == (Verdict.FAILED, unplaced)


def test_a_place_that_turns_pending_late_in_an_update_has_its_own_time() -> None:
    slow = replace(STARTING, allowed=300)
    assert look((0, [slow]), (100, [slow, PENDING])).verdict is Verdict.WAIT


def test_services_that_were_not_touched_do_not_matter() -> None:
    containers = [replace(NEW, health="healthy"), replace(NEW, id="x", service="broken", state="dead")]
    assert look((1, containers)).verdict is Verdict.HEALTHY


def test_service_that_is_scaled_to_none_needs_no_container() -> None:
    project = Project("app", {"api": Service("api", Secret(b"{}"), {}, replicas=0)})
    watch = health.watch_health(STACK, ["api"], [BEFORE], START, project)
    assert watch.look([], START)[1].verdict is Verdict.HEALTHY


# --- HTTP checks ---

WITH_HTTP = replace(STACK, health=replace(POLICY, http=(HttpCheck(URL, 204),)))


@pytest.mark.parametrize(
    ("seconds", "answers", "verdict", "reason"),
    [
        pytest.param(1, {URL: True}, Verdict.HEALTHY, "api healthy", id="answers"),
        pytest.param(1, {URL: False}, Verdict.WAIT, f"{URL} must answer 204", id="not-yet"),
        pytest.param(1, {}, Verdict.WAIT, f"{URL} must answer 204", id="not-asked"),
        pytest.param(90, {URL: False}, Verdict.FAILED, f"{URL} does not answer 204 after 90 s", id="never"),
    ],
)
def test_http_checks_must_answer_too(seconds: float, answers: dict[str, bool], verdict: Verdict, reason: str) -> None:
    report = look((seconds, [replace(NEW, health="healthy")]), stack=WITH_HTTP, answers=answers)
    assert (report.verdict, report.reason) == (verdict, reason)
    assert report.failed == frozenset()


# --- what is shown ---


def test_the_report_shows_the_state_of_each_service() -> None:
    report = look(
        (1, [replace(NEW, id="1", health="healthy"), replace(NEW, id="2", health="starting", restarts=0)]),
        services=("api", "worker"),
    )
    assert report.services == (
        ServiceHealth("app", "api", "starting", healthy=False, containers=2, running=2),
        ServiceHealth("app", "worker", "missing", healthy=False),
    )


def test_the_report_shows_how_many_run_on_which_nodes_and_why_the_rest_do_not() -> None:
    running = replace(NEW, id="1", health="healthy", node="web-2")
    waiting = replace(NEW, id="2", state="pending", error="no suitable node (insufficient resources on 3 nodes)")
    report = look((1, [running, waiting]))
    reason = "no suitable node (insufficient resources on 3 nodes)"
    nodes = ("web-2",)
    expected = ServiceHealth("app", "api", "pending", False, reason=reason, containers=2, running=1, nodes=nodes)
    assert report.services == (expected,)


@pytest.mark.parametrize(
    ("container", "expected"),
    [
        pytest.param(replace(NEW, health="healthy"), ("healthy", True), id="healthy"),
        pytest.param(NEW, ("running", True), id="running"),
        pytest.param(BEFORE, ("running", True), id="restarted-long-ago"),
        pytest.param(replace(NEW, health="starting"), ("starting", False), id="starting"),
        pytest.param(replace(NEW, health="unhealthy"), ("unhealthy", False), id="unhealthy"),
        pytest.param(replace(NEW, state="restarting", health="unhealthy"), ("restarting", False), id="restarting"),
        pytest.param(replace(NEW, state="paused"), ("paused", False), id="paused"),
        pytest.param(replace(NEW, state="exited", exit_code=1), ("exited", False), id="crashed"),
        pytest.param(replace(NEW, service="migrate", state="exited"), ("exited", True), id="one-shot-done"),
    ],
)
def test_assess_says_what_is_known_without_waiting(container: Container, expected: tuple[str, bool]) -> None:
    (service,) = health.assess(STACK, [container])
    assert (service.state, service.healthy) == expected


@pytest.mark.parametrize(("state", "said"), [("unhealthy", True), ("starting", False), ("healthy", False)])
def test_an_unhealthy_service_names_the_command_that_shows_why(state: str, said: bool) -> None:
    well = replace(NEW, id="1", health="healthy", name="shop-api-1")
    (service,) = health.assess(STACK, [well, replace(NEW, id="2", health=state, name="shop-api-2")])
    assert service.reason == ("`docker logs --tail 50 shop-api-2` shows why" if said else "")


def test_assess_skips_what_was_stopped_on_purpose() -> None:
    assert health.assess(STACK, [replace(NEW, state="exited", exit_code=143)]) == ()


@pytest.mark.parametrize(
    ("state", "fails"),
    [
        ({"state": "running", "health": "unhealthy"}, True),
        ({"state": "restarting", "exit_code": 1}, True),
        ({"state": "exited", "exit_code": 1}, True),
        ({"state": "running", "health": "starting"}, False),
        ({"state": "running", "health": "healthy"}, False),
        ({"state": "running"}, False),
    ],
)
def test_only_what_has_failed_before_a_change_is_excused_after_it(state: dict[str, Any], fails: bool) -> None:
    services = failing(Stack("production", "app", "/opt/app"), [Container("1", "api", **state)])
    assert services == (frozenset({"api"}) if fails else frozenset())
