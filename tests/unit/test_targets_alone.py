"""One target that waits alone (paused, reported, a conflicting writer) holds back nothing else of its environment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from reconciler.app.daemon.answers.serialize import serialize_environment
from reconciler.core.model.records import Pause
from reconciler.core.model.requests import ReconcileRequest
from reconciler.core.model.runs import Result
from reconciler.engine.reconcile import Reconciler
from tests.fakes import API, WORKER, World, reconcile_once


def paused(world: World, scope: str = "production/api.env") -> None:
    world.store.record = replace(world.store.record, pauses=(Pause(scope, 2e9, "an incident", 0.0),))


def reported(world: World) -> None:
    world.reported = {"api.env"}
    world.host.put(API, b"A=hand\n")


def applied(world: World) -> dict[str, str]:
    """The first letter of the commit of each target, and of the environment."""
    commits = {state.source: state.commit[:1] for state in world.store.applied("production").values()}
    assert world.metrics.applied_commits == commits
    record = world.store.record
    return {**commits, "": record.applied.commit[:1] if record.applied else ""}


@pytest.mark.parametrize("alone", [paused, reported])
async def test_a_commit_that_changes_the_target_that_waits_is_applied_but_for_that(
    world: World, alone: Callable[[World], None]
) -> None:
    alone(world)
    world.commit("b", api="A=2", worker="W=2")
    outcome = await reconcile_once(world)
    assert outcome.result is Result.HELD
    assert outcome.error_id == {paused: "paused", reported: "drift-reported"}[alone]
    assert (world.live("worker"), world.live("api") == "A=2") == ("W=2", False)
    assert applied(world) == {"api.env": "a", "worker.env": "b", "": "b"}
    assert len(world.metrics.delivery_times) == 1
    assert world.metrics.delivered_targets.keys() == {"production/worker.env"}
    assert outcome.after is not None
    assert outcome.after.only_targets_wait
    world.commit("c", api="A=2", worker="W=3")
    await reconcile_once(world)
    assert applied(world) == {"api.env": "a", "worker.env": "c", "": "c"}
    status = serialize_environment(world.store.record, outcome, world.store.applied("production"))
    assert [change["applied"]["commit"][:1] for change in status["after"]["changes"]] == ["a", "c"]


async def test_a_target_that_a_commit_does_not_change_is_at_its_revision(world: World) -> None:
    world.commit("b", api="A=1", worker="W=2")
    await reconcile_once(world)
    assert applied(world) == {"api.env": "b", "worker.env": "b", "": "b"}
    world.commit("c", api="A=1", worker="W=2")
    runs = len(world.store.finished)
    assert (await reconcile_once(world)).result is Result.IN_SYNC
    assert applied(world) == {"api.env": "c", "worker.env": "c", "": "c"}
    assert len(world.store.finished) == runs


async def test_a_pause_of_the_stack_keeps_the_revision_from_being_applied(world: World) -> None:
    paused(world, "production/app")
    world.commit("b", api="A=2", worker="W=1")
    await reconcile_once(world)
    assert applied(world) == {"api.env": "a", "worker.env": "b", "": "a"}
    assert world.metrics.delivery_times == []


async def test_what_waited_is_rolled_back_if_it_turns_out_to_be_bad(world: World) -> None:
    """Its revision counted as applied and healthy, and this part of it was never tried."""
    paused(world)
    world.compose.sick["A=bad"] = "unhealthy"
    world.commit("b", api="A=bad", worker="W=2")
    assert (await reconcile_once(world)).result is Result.HELD
    world.store.record = replace(world.store.record, pauses=())
    outcome = await reconcile_once(world)
    assert outcome.result is Result.ROLLED_BACK, outcome.reason
    assert world.live("api") == "A=1"
    outcome = await reconcile_once(world)
    assert (outcome.result, world.live("worker")) == (Result.APPLIED, "W=1"), outcome.reason
    assert "quarantined" in outcome.warning


async def test_an_edit_between_the_look_and_compose_reaches_no_service(world: World) -> None:
    """Compose reads the live files after us."""
    edits = [b"A=hand\n"]
    world.journal.hooks["model"] = lambda: world.host.put(API, edits.pop()) if edits else None
    reconciler = Reconciler(world.ports(), "production")
    outcome = await reconciler.reconcile(ReconcileRequest("start"))
    assert (outcome.result, world.live("api")) == (Result.CORRECTED, "A=1"), outcome.reason
    assert not [step for step in world.steps if step.startswith("recreate")]
    assert [result for _, result, _ in world.store.finished][1:] == [Result.CORRECTED]


async def test_an_edit_between_the_write_and_the_services_reaches_none_of_them(world: World) -> None:
    world.commit("b", api="A=2", worker="W=1")
    edits = [b"A=hand\n"]
    world.journal.hooks["amend"] = lambda: world.host.put(API, edits.pop()) if edits else None
    outcome = await reconcile_once(world)
    assert (outcome.result, outcome.retry) == (Result.FAILED, True)
    assert "somebody changed the live file meanwhile" in outcome.reason
    assert world.compose.running["api"].environment == {"A": "1"}
    world.steps.clear()
    outcome = await reconcile_once(world)
    assert outcome.result is Result.APPLIED, outcome.reason
    assert (world.live("api"), world.live("worker")) == ("A=2", "W=1")
    assert world.compose.running["api"].environment == {"A": "2"}


async def test_a_writer_who_never_stops_ends_the_reconciliation_before_anything_changes(world: World) -> None:
    numbers = iter(range(100))
    world.journal.hooks["model"] = lambda: world.host.put(WORKER, f"W={next(numbers)}\n".encode())
    outcome = await reconcile_once(world)
    assert (outcome.result, outcome.retry) == (Result.FAILED, True)
    assert not [step for step in world.steps if step.split()[0] in ("write", "begin", "recreate")]
