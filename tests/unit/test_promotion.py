"""The promotion gate: what staging reports, what production waits for, and what never waits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from reconciler.core.decide.promotion import (
    MARKS,
    PROMOTION_WAITS,
    REPORTS,
    HealthyTime,
    changed_reports,
    healthy_time,
    mark_for,
)
from reconciler.core.errors import GitUnreachableError, RefusedError
from reconciler.core.model.compose import HealthStatus, StackHealth
from reconciler.core.model.requests import OperatorRequest, ReconcileRequest, RequestKind
from reconciler.core.model.revisions import GitRevert, Revision
from reconciler.core.model.runs import Outcome, Result, Run
from reconciler.core.model.settings import PromotionGate
from reconciler.core.ports.observer import Reconciled
from reconciler.engine.health_reports import HealthReports, ReportSide
from reconciler.engine.reconcile import Reconciler
from tests.fakes import World, reconcile_once

UNITS = ("staging@one", "staging@two")
HEALTHY = (StackHealth("app", HealthStatus.HEALTHY),)


# --- what a host reports ---


def outcome(result: Result = Result.IN_SYNC, commit: str = "b") -> Outcome:
    return Outcome("staging", result, "", Revision(commit, "tree"))


def test_a_host_reports_at_each_mark_what_it_has_seen() -> None:
    """The time counts to the last look, by its own clock: what nobody looked at was not healthy."""
    time = healthy_time(None, outcome(), HEALTHY, 100.0)
    assert changed_reports("u", time, {}) == {f"{REPORTS}/u/0": "b"}
    time = healthy_time(time, outcome(), HEALTHY, 161.0)
    assert time is not None
    assert time.marks == (0, 5, 10, 30, 60)
    known = {f"{REPORTS}/u/{mark}": "b" for mark in (0, 5, 10, 30)}
    assert changed_reports("u", time, known) == {f"{REPORTS}/u/60": "b"}


ENDS = {
    "unhealthy": (outcome(), (StackHealth("app", HealthStatus.UNHEALTHY),)),
    "starting": (outcome(), (StackHealth("app", HealthStatus.STARTING),)),
    "the engine is away": (outcome(), (StackHealth("app", HealthStatus.UNKNOWN),)),
    "rolled back": (outcome(Result.ROLLED_BACK), HEALTHY),
    "stalled": (outcome(Result.STALLED), HEALTHY),
    "held": (outcome(Result.HELD), HEALTHY),
}


@pytest.mark.parametrize("case", ENDS)
def test_what_is_not_healthy_withdraws_every_report(case: str) -> None:
    ended, health = ENDS[case]
    assert healthy_time(HealthyTime("b", 0, 600), ended, health, 601) is None
    known = {f"{REPORTS}/u/0": "b", f"{REPORTS}/u/600": "a"}
    assert changed_reports("u", None, known) == dict.fromkeys(known)


def test_another_commit_or_an_earlier_clock_begins_again() -> None:
    time = HealthyTime("a", 0, 600)
    assert healthy_time(time, outcome(), HEALTHY, 601) == HealthyTime("b", 601, 601)
    assert healthy_time(time, outcome(commit="a"), HEALTHY, 599) == HealthyTime("a", 599, 599)


def test_old_reports_end_and_those_of_this_commit_survive_a_restart() -> None:
    known = {f"{REPORTS}/u/0": "b", f"{REPORTS}/u/600": "b", f"{REPORTS}/u/3600": "a"}
    assert changed_reports("u", HealthyTime("b", 0, 0), known) == {f"{REPORTS}/u/3600": None}


def test_each_time_to_wait_has_a_mark_that_is_not_shorter() -> None:
    assert (mark_for(600), mark_for(601), mark_for(MARKS[-1])) == (600, 900, MARKS[-1])


async def test_a_refused_push_is_logged_once_and_tried_later(
    new_world: Callable[[], World], caplog: pytest.LogCaptureFixture
) -> None:
    world, results = new_world(), list[str]()
    side = ReportSide(world.git, world.git_writer, world.clock, "one", results.append)
    reports = HealthReports(side)
    world.git_writer.refuses = RefusedError("the remote refuses", id="health-report-refused")

    async def look() -> None:
        reports.reconciled(Reconciled(outcome(), "poll", world.clock.now(), None, HEALTHY))
        await reports.report_news()

    await look()
    await look()
    assert results == ["refused"]
    assert caplog.text.count("health-report-refused") == 1
    await world.clock.sleep(301)
    world.git_writer.refuses = None
    await look()
    assert results == ["refused", "ok"]
    assert world.git_writer.published[0][f"{REPORTS}/staging@one/0"] == "b"


async def test_the_report_of_another_commit_goes_before_the_new_one_comes(new_world: Callable[[], World]) -> None:
    """Nothing is pushed by force, although the two commits may be in any order."""
    world, ref = new_world(), f"{REPORTS}/staging@one/0"
    reports = HealthReports(ReportSide(world.git, world.git_writer, world.clock, "one", lambda _: None))
    for commit in ("b", "a"):
        reports.reconciled(Reconciled(outcome(commit=commit), "poll", world.clock.now(), None, HEALTHY))
        await reports.report_news()
    assert world.git_writer.published == [{ref: "b"}, {ref: None}, {ref: "a"}]


# --- what an environment waits for ---


@pytest.fixture
def gated(world: World) -> World:
    """Production runs revision a, and waits for two hosts of staging before it gets b."""
    gate = PromotionGate(UNITS, 600.0)
    world.settings = replace(world.settings, promotion={"production": gate})
    world.commit("b", api="A=2", worker="W=1")
    return world


def report(world: World, commit: str, *units: str, seconds: int = 600) -> None:
    for unit in units:
        for mark in [mark for mark in MARKS if mark <= seconds]:
            world.git.refs[f"{REPORTS}/{unit}/{mark}"] = commit


async def test_it_is_held_until_every_host_is_healthy_for_so_long(gated: World) -> None:
    world, commit = gated, gated.git.tip
    held = await reconcile_once(world)
    assert (held.result, held.error_id) == (Result.HELD, PROMOTION_WAITS)
    assert "staging@one has not reported it healthy; staging@two has not" in held.reason
    assert "(waiting since 1970-01-12 13:46:40Z)" in held.reason
    report(world, commit, "staging@one")
    report(world, commit, "staging@two", seconds=300)
    held = await reconcile_once(world)
    assert "staging@two is healthy with it, but not for 10 min yet" in held.reason
    assert "staging@one" not in held.reason
    report(world, commit, "staging@two")
    assert world.live("api") == "A=1"
    applied = await reconcile_once(world)
    assert (applied.result, world.live("api")) == (Result.APPLIED, "A=2")


async def test_drift_is_corrected_while_it_waits(gated: World) -> None:
    gated.host.put("/opt/app/api.env", b"A=hand\n")
    assert (await reconcile_once(gated)).result is Result.CORRECTED
    assert gated.live("api") == "A=1"


async def test_reports_of_another_commit_or_another_host_do_not_count(gated: World) -> None:
    report(gated, "a" * 40, *UNITS)
    report(gated, gated.git.tip, "staging@three", "production@one")
    assert (await reconcile_once(gated)).result is Result.HELD


async def test_what_changes_nothing_here_does_not_wait(gated: World) -> None:
    gated.commit("c", api="A=1", worker="W=1")
    assert (await reconcile_once(gated)).result is Result.IN_SYNC


async def test_what_was_known_stays_where_git_does_not_answer(gated: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new daemon has its reports from the store; so it neither forgets nor invents."""
    report(gated, gated.git.tip, *UNITS, seconds=300)
    await reconcile_once(gated)

    async def refs_below(*prefixes: str) -> dict[str, str]:
        raise GitUnreachableError("no answer")

    monkeypatch.setattr(type(gated.git), "refs_below", lambda self, *prefixes: refs_below())
    held = await reconcile_once(gated)
    assert "not for 10 min yet" in held.reason


async def test_a_revert_never_waits(gated: World) -> None:
    report(gated, gated.git.tip, *UNITS)
    assert (await reconcile_once(gated)).result is Result.APPLIED
    gated.git.refs.clear()
    gated.commit("c", api="A=1", worker="W=1")
    assert (await reconcile_once(gated)).result is Result.APPLIED
    assert gated.live("api") == "A=1"


async def test_a_rollback_to_an_operators_revision_never_waits(gated: World) -> None:
    report(gated, gated.git.tip, *UNITS)
    await reconcile_once(gated)
    gated.commit("c", api="A=3", worker="W=1")
    assert (await reconcile_once(gated)).result is Result.HELD
    pin = OperatorRequest(RequestKind.ROLLBACK, reason="it is slow")
    assert (await reconcile_once(gated, operator=pin)).result is Result.APPLIED
    assert gated.live("api") == "A=1"


async def test_a_failed_revision_rolls_back_and_its_revert_is_not_blocked(gated: World) -> None:
    report(gated, gated.git.tip, *UNITS)
    gated.settings = replace(gated.settings, git_revert=GitRevert.PUSH)
    gated.compose.sick = {"A=2": "unhealthy"}
    assert (await reconcile_once(gated)).result is Result.ROLLED_BACK
    gated.git.refs.clear()
    gated.commit("r", api="A=1", worker="W=1")
    assert (await reconcile_once(gated)).result is Result.IN_SYNC


async def test_a_killed_run_of_a_promoted_revision_is_resumed(gated: World) -> None:
    """Its hosts may have gone on since; half a revision must not stay."""
    head = await gated.git.revision(gated.git.tip, "envs/production")
    gated.store.begin(Run("killed", "production", "poll", 0.0, head))
    assert (await reconcile_once(gated)).result is Result.APPLIED


async def test_an_operator_lets_one_revision_pass(gated: World) -> None:
    request = ReconcileRequest("manual", skip_promotion=True, requested_by="ada", reason="staging is down")
    passed = await Reconciler(gated.ports(), "production").reconcile(request)
    assert (passed.result, gated.live("api")) == (Result.APPLIED, "A=2")
    (entry,) = [entry for entry in gated.store.history(["production"]) if "promotion gate" in entry.facts["reason"]]
    assert entry.facts["reason"].startswith("ada let revision ")
    assert entry.facts["reason"].endswith("pass the promotion gate: staging is down")
    gated.commit("c", api="A=3", worker="W=1")
    assert (await reconcile_once(gated)).result is Result.HELD  # only that one
    gated.commit("d", api="A=2", worker="W=1")
    needless = await Reconciler(gated.ports(), "production").reconcile(request)
    assert "no revision waits to be promoted" in needless.warning
