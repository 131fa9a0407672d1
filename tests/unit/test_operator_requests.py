"""Operator requests, which revisions a server accepts from git, and what it reverts in git after a rollback."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from reconciler.core.errors import BadCiphertextError, GitUnreachableError, LiveFileError, RevertRefusedError
from reconciler.core.model.records import Pin
from reconciler.core.model.requests import OperatorRequest, ReconcileRequest, RequestKind
from reconciler.core.model.revisions import GitRevert, Reverted, RevertState, Verify
from reconciler.core.model.runs import Outcome, Result
from reconciler.engine.reconcile import Reconciler
from tests.fakes import API, World, reconcile_once

DAY = 86400.0


async def send(world: World, kind: RequestKind, revision: str = "", reason: str = "") -> Outcome:
    return await reconcile_once(world, operator=OperatorRequest(kind, revision, reason))


async def applied(world: World, name: str, **files: str) -> None:
    world.commit(name, **files)
    outcome = await reconcile_once(world)
    assert outcome.result is Result.APPLIED, outcome.reason


async def rolled_back(world: World, name: str = "b") -> Outcome:
    world.compose.sick["A=bad"] = "unhealthy"
    world.commit(name, api=f"A=bad{name}", worker="W=1")
    outcome = await reconcile_once(world)
    assert outcome.result is Result.ROLLED_BACK, outcome.reason
    return outcome


# --- pins ---


async def test_a_rollback_by_hand_pins_the_revision_before_and_later_ones_wait(world: World) -> None:
    await applied(world, "b", api="A=2", worker="W=1")
    outcome = await send(world, RequestKind.ROLLBACK, reason="slow since noon")
    assert outcome.result is Result.APPLIED
    assert world.live("api") == "A=1"
    assert world.store.record.pin == Pin(outcome.revision, "slow since noon", world.clock.now())  # type: ignore[arg-type]
    world.commit("c", api="A=3", worker="W=1")
    assert (await reconcile_once(world)).result is Result.IN_SYNC
    assert world.live("api") == "A=1"


async def test_unpin_returns_to_the_head(world: World) -> None:
    await applied(world, "b", api="A=2", worker="W=1")
    await send(world, RequestKind.ROLLBACK)
    assert (await send(world, RequestKind.UNPIN)).result is Result.APPLIED
    assert world.live("api") == "A=2"
    assert world.store.record.pin is None


async def test_drift_is_measured_against_the_pin(world: World) -> None:
    await applied(world, "b", api="A=2", worker="W=1")
    await send(world, RequestKind.ROLLBACK)
    world.host.put(API, b"A=hand\n")
    assert (await reconcile_once(world)).result is Result.CORRECTED
    assert world.live("api") == "A=1"


async def test_a_rollback_to_a_named_commit_pins_that_one(world: World) -> None:
    await applied(world, "b", api="A=2", worker="W=1")
    await applied(world, "c", api="A=3", worker="W=1")
    await send(world, RequestKind.ROLLBACK, "a")
    assert world.live("api") == "A=1"


async def test_the_previous_revision_is_the_last_one_that_succeeded(world: World) -> None:
    await applied(world, "b", api="A=2", worker="W=1")
    await rolled_back(world, "c")
    world.commit("d", api="A=4", worker="W=1")
    assert (await reconcile_once(world)).result is Result.APPLIED
    await send(world, RequestKind.ROLLBACK)
    assert world.live("api") == "A=2"


@pytest.mark.parametrize(
    ("kind", "revision", "says"),
    [
        pytest.param(RequestKind.UNPIN, "", "is not pinned", id="unpin-what-is-not-pinned"),
        pytest.param(RequestKind.ROLLBACK, "", "--to", id="nothing-before"),
        pytest.param(RequestKind.ROLLBACK, "fff", "no commit", id="unknown-commit"),
    ],
)
async def test_a_request_that_makes_no_sense_is_refused_and_nothing_changes(
    world: World, kind: RequestKind, revision: str, says: str
) -> None:
    before = world.store.record
    outcome = await send(world, kind, revision)
    assert outcome.result is Result.FAILED
    assert says in outcome.reason
    assert not outcome.retry
    assert world.store.record == before


async def test_a_commit_outside_the_accepted_history_cannot_be_pinned(world: World) -> None:
    await applied(world, "b", api="A=2", worker="W=1")
    world.git.rewritten = True
    outcome = await send(world, RequestKind.ROLLBACK, "a")
    assert "not part of the accepted history" in outcome.reason
    assert world.store.record.pin is None


async def test_a_pinned_revision_that_breaks_a_service_is_rolled_back_and_git_not_touched(world: World) -> None:
    world.settings = replace(world.settings, git_revert=GitRevert.PUSH)
    await applied(world, "b", api="A=2", worker="W=1")
    world.compose.sick["A=1"] = "unhealthy"
    outcome = await send(world, RequestKind.ROLLBACK)
    assert outcome.result is Result.ROLLED_BACK
    assert world.live("api") == "A=2"
    assert world.git_writer.requests == []
    assert "quarantined" in (await reconcile_once(world)).warning


# --- retry ---


async def test_retry_lifts_a_quarantine(world: World) -> None:
    await rolled_back(world)
    world.compose.sick.clear()
    assert (await send(world, RequestKind.RETRY)).result is Result.APPLIED
    assert world.live("api") == "A=badb"


async def test_retry_continues_after_a_failed_rollback(world: World) -> None:
    world.compose.sick["A=bad"] = "unhealthy"
    world.commit("b", api="A=bad", worker="W=1")
    world.journal.fail("write", LiveFileError("read-only now"), after=1)
    assert (await reconcile_once(world)).result is Result.ROLLBACK_FAILED
    world.commit("c", api="A=3", worker="W=1")
    outcome = await send(world, RequestKind.RETRY)
    assert outcome.result is Result.APPLIED, outcome.reason
    assert world.compose.running["api"].environment == {"A": "3"}


async def test_retry_looks_again_at_a_revision_that_was_stalled(world: World) -> None:
    reconciler = Reconciler(world.ports(), "production")
    world.decryptor.error = BadCiphertextError("MAC mismatch")
    world.commit("b", api="A=2", worker="W=1")
    assert (await reconciler.reconcile(ReconcileRequest("poll"))).result is Result.STALLED
    world.decryptor.error = None
    assert (await reconciler.reconcile(ReconcileRequest("poll"))).result is Result.STALLED
    assert (
        await reconciler.reconcile(ReconcileRequest("poll", operator=OperatorRequest(RequestKind.RETRY)))
    ).result is Result.APPLIED


# --- trust ---


async def test_a_rewritten_branch_is_followed_once_an_operator_accepts_it(world: World) -> None:
    world.git.rewritten = True
    world.commit("b", api="A=2", worker="W=1")
    assert "accept-rewrite" in (await reconcile_once(world)).warning
    assert (await send(world, RequestKind.ACCEPT_REWRITE)).result is Result.APPLIED
    assert world.live("api") == "A=2"


async def test_an_unsigned_head_is_refused_and_the_last_accepted_revision_stays_the_target(world: World) -> None:
    world.settings = replace(world.settings, verify=Verify.TIP)
    world.commit("b", api="A=2", worker="W=1")
    world.git.unsigned.add(world.git.tip)
    outcome = await reconcile_once(world)
    assert outcome.result is Result.IN_SYNC
    assert "not signed" in outcome.warning
    assert world.live("api") == "A=1"


async def test_the_first_head_must_be_signed_too(new_world: Callable[[], World]) -> None:
    fresh = new_world()
    fresh.settings = replace(fresh.settings, verify=Verify.RANGE)
    fresh.commit("a", api="A=1")
    fresh.git.unsigned.add(fresh.git.tip)
    outcome = await reconcile_once(fresh)
    assert outcome.result is Result.STALLED
    assert fresh.live("api") is None


@pytest.mark.parametrize(("verify", "revision"), [(Verify.TIP, "verify b"), (Verify.RANGE, "verify a")])
async def test_tip_checks_the_head_and_range_all_since_the_last_accepted(
    world: World, verify: Verify, revision: str
) -> None:
    world.settings = replace(world.settings, verify=verify)
    await applied(world, "b", api="A=2", worker="W=1")
    (step,) = [step for step in world.steps if step.startswith("verify")]
    assert step.startswith(revision)
    assert (".." in step) == (verify is Verify.RANGE)


async def test_accepting_a_rewrite_does_not_accept_an_unsigned_head(world: World) -> None:
    world.settings = replace(world.settings, verify=Verify.TIP)
    world.git.rewritten = True
    world.commit("b", api="A=2", worker="W=1")
    world.git.unsigned.add(world.git.tip)
    outcome = await send(world, RequestKind.ACCEPT_REWRITE)
    assert outcome.result is Result.STALLED
    assert world.live("api") == "A=1"


# --- the revert in git ---


@pytest.fixture
def pushing(world: World) -> World:
    world.settings = replace(world.settings, git_revert=GitRevert.PUSH, host="web-1")
    return world


async def test_a_rollback_ends_with_a_revert_in_git_and_the_history_says_so(pushing: World) -> None:
    outcome = await rolled_back(pushing)
    assert outcome.reason.endswith("In git: reverted in git")
    ((revert, mode),) = pushing.git_writer.requests
    assert mode is GitRevert.PUSH
    assert (revert.failed[:1], revert.good[:1], revert.host, revert.run) == ("b", "a", "web-1", outcome.run)
    assert "unhealthy" in revert.reason
    assert "reverted in git" in pushing.store.finished[-1][2]
    await reconcile_once(pushing)
    assert len(pushing.git_writer.requests) == 1, "it is pushed once"


async def test_the_server_is_healthy_again_before_git_is_asked(pushing: World) -> None:
    await rolled_back(pushing)
    steps = [step.partition(" ")[0] for step in pushing.steps]
    assert steps.index("revert") > steps.index("finish")


async def test_with_off_git_is_not_touched(world: World) -> None:
    await rolled_back(world)
    assert world.git_writer.requests == []


async def test_a_revert_waits_for_git_and_is_made_later(pushing: World) -> None:
    pushing.git_writer.ends = [GitUnreachableError("the remote is down")]
    outcome = await rolled_back(pushing)
    assert outcome.retry
    assert "the remote is down" in outcome.warning
    later = await reconcile_once(pushing)
    assert not later.retry
    assert pushing.store.record.quarantines
    assert pushing.store.record.quarantines[0].revert is RevertState.PUSHED


async def test_a_refused_revert_is_reported_and_not_retried(pushing: World) -> None:
    pushing.git_writer.ends = [RevertRefusedError("it conflicts with c", hint="Revert by hand")]
    outcome = await rolled_back(pushing)
    assert "it conflicts with c" in outcome.reason
    later = await reconcile_once(pushing)
    assert "Revert by hand" in later.warning
    assert len(pushing.git_writer.requests) == 1


async def test_no_more_reverts_are_pushed_than_a_day_may_have(pushing: World) -> None:
    pushing.settings = replace(pushing.settings, max_reverts_per_day=2)
    for name in "bcd":
        outcome = await rolled_back(pushing, name)
    assert len(pushing.git_writer.requests) == 2
    assert "max_per_day" in outcome.reason
    pushing.clock.time += DAY
    await rolled_back(pushing, "e")
    assert len(pushing.git_writer.requests) == 3


async def test_a_clock_that_was_set_back_gives_no_new_budget(pushing: World) -> None:
    pushing.settings = replace(pushing.settings, max_reverts_per_day=1)
    await rolled_back(pushing, "b")
    pushing.clock.time -= 3600
    assert "max_per_day" in (await rolled_back(pushing, "c")).reason


async def test_a_revert_begins_after_the_newest_good_commit(pushing: World) -> None:
    """Otherwise it would include our own revert of an earlier revision, and be refused."""
    await rolled_back(pushing, "b")
    pushing.commit("c", api="A=1", worker="W=1")  # the revert, as the branch has it now
    assert (await reconcile_once(pushing)).result is Result.IN_SYNC
    await rolled_back(pushing, "d")
    assert pushing.git_writer.requests[-1][0].good.startswith("c")


async def test_a_revert_stays_pending_when_the_daemon_is_killed(pushing: World) -> None:
    pushing.git_writer.ends = [GitUnreachableError("down")]
    await rolled_back(pushing)
    assert pushing.store.record.quarantines
    assert pushing.store.record.quarantines[0].revert is RevertState.PENDING
    pushing.git_writer.ends = [Reverted(RevertState.OVERTAKEN, "main", "", "already reverted by web-2")]
    assert "already reverted by web-2" in (await reconcile_once(pushing)).reason
