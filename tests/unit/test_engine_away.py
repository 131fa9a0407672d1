"""The Docker engine does not answer: live files are measured and restored, services get what they need later."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from reconciler.core.errors import (
    EngineUnavailableError,
    HostUnreachableError,
    LiveFileError,
    ReconcilerError,
    StackGoneError,
    SwarmUnavailableError,
)
from reconciler.core.model.compose import Action, ActionKind
from reconciler.core.model.requests import ReconcileRequest
from reconciler.core.model.runs import Outcome, Result, Run
from reconciler.core.model.targets import ChangeMode, OnChange
from reconciler.engine.reconcile import Reconciler
from tests import fakes
from tests.fakes import API, WORKER, World, reconcile_once

AWAY = "the engine does not answer"


def edit(world: World, path: str = API, text: bytes = b"A=edited\n") -> None:
    world.host.put(path, text)


async def test_both_edits_are_restored_and_the_engine_is_named(world: World) -> None:
    world.compose.reachable = False
    edit(world)
    edit(world, WORKER)

    outcome = await reconcile_once(world, "drift")

    assert (world.live("api"), world.live("worker")) == ("A=1", "W=1")
    assert (outcome.result, outcome.retry) == (Result.CORRECTED, True)
    assert AWAY in outcome.reason
    assert "restarts of the services that use api.env, worker.env, if they need any" in outcome.reason
    assert "healthy" not in outcome.reason
    assert world.metrics.engine_up is False
    assert sorted(world.metrics.corrections) == ["production/api.env", "production/worker.env"]


async def test_without_a_quorum_nothing_is_written_and_the_metric_says_so(world: World) -> None:
    world.compose.reachable, world.compose.away = False, SwarmUnavailableError("the Swarm has no leader")
    edit(world)
    outcome = await reconcile_once(world, "drift")
    assert (outcome.result, outcome.error_id, outcome.retry) == (Result.FAILED, "swarm-unavailable", True)
    assert (world.live("api"), world.metrics.engine_up) == ("A=edited", False)


async def test_what_a_correction_leaves_pending_is_done_when_the_engine_is_back(world: World) -> None:
    world.compose.reachable = False
    edit(world)
    await reconcile_once(world, "drift")
    waiting = await reconcile_once(world, "drift")
    assert (waiting.result, waiting.retry) == (Result.FAILED, True)
    assert f"{AWAY}. Waiting for it: restarts of the services that use api.env" in waiting.reason

    # Meanwhile somebody had recreated the service with the edited values.
    world.compose.running["api"] = world.compose._container("api")
    world.compose.running["api"].environment["A"] = "edited"  # type: ignore[index]
    world.compose.reachable = True
    outcome = await reconcile_once(world, "engine")

    assert outcome.result is Result.CORRECTED
    assert "recreate api" in world.steps
    assert (await reconcile_once(world)).result is Result.IN_SYNC
    assert world.store.record.written_without_engine == ()


async def test_services_that_need_nothing_are_left_alone_when_the_engine_is_back(world: World) -> None:
    world.compose.reachable = False
    edit(world)
    await reconcile_once(world, "drift")
    world.compose.reachable = True
    world.steps.clear()

    outcome = await reconcile_once(world, "engine")

    assert (outcome.result, outcome.warning) == (Result.IN_SYNC, "")
    assert not [step for step in world.steps if step.startswith(("recreate", "restart"))]
    assert world.store.record.written_without_engine == ()
    assert world.metrics.engine_up is True


async def restore_a_mounted_file_without_the_engine(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine answers again afterwards."""
    resolved = fakes._resolved
    monkeypatch.setattr(fakes, "_resolved", lambda path, data: replace(resolved(path, data), sources=frozenset({path})))
    world.target_fields["on_change"] = OnChange(ChangeMode.RESTART)
    world.compose.reachable = False
    edit(world)
    await reconcile_once(world, "drift")
    world.compose.reachable = True


async def test_a_mounted_file_gets_its_restart_when_the_engine_is_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await restore_a_mounted_file_without_the_engine(world, monkeypatch)

    outcome = await reconcile_once(world, "engine")

    assert outcome.result is Result.CORRECTED
    assert "restart api" in world.steps
    assert "restart worker" not in world.steps


async def test_new_content_waits_while_drift_beside_it_is_restored(world: World) -> None:
    world.compose.reachable = False
    world.commit("b", api="A=2", worker="W=1")
    edit(world, WORKER)

    outcome = await reconcile_once(world)

    assert (world.live("api"), world.live("worker")) == ("A=1", "W=1")
    assert (outcome.result, outcome.retry) == (Result.FAILED, True)
    assert "new content of api.env" in outcome.reason
    assert world.store.record.applied is not None
    assert world.store.record.applied.commit.startswith("a")
    again = await reconcile_once(world)
    assert again.result is Result.FAILED
    assert f"{AWAY}. Waiting for it: new content of api.env; restarts of the services" in again.reason

    world.compose.reachable = True
    assert (await reconcile_once(world)).result is Result.APPLIED
    assert world.live("api") == "A=2"
    assert world.compose.running["api"].environment == {"A": "2"}


async def test_a_conflict_waits(world: World) -> None:
    world.compose.reachable = False
    world.commit("b", api="A=2", worker="W=1")
    edit(world)

    outcome = await reconcile_once(world)

    assert outcome.result is Result.FAILED
    assert world.live("api") == "A=edited"


async def test_a_daemon_that_starts_without_the_engine_and_has_nothing_to_do_says_so(world: World) -> None:
    world.compose.reachable = False
    reconciler = Reconciler(world.ports(), "production")

    outcome = await reconciler.reconcile(ReconcileRequest("start"))

    assert (outcome.result, outcome.retry, outcome.warning) == (Result.FAILED, True, "")
    assert outcome.reason == f"{AWAY}. The live files are as they should be; the services are unknown"
    assert AWAY in reconciler.engine_away
    world.compose.reachable = True
    assert (await reconciler.reconcile(ReconcileRequest("engine", poll=False))).result is Result.IN_SYNC
    assert reconciler.engine_away == ""


async def test_an_engine_lost_between_two_looks_is_noticed_and_remembered(world: World) -> None:
    reconciler = Reconciler(world.ports(), "production")
    await reconciler.reconcile(ReconcileRequest("start"))
    world.compose.reachable = False
    edit(world)  # containers are not due yet

    assert (await reconciler.reconcile(ReconcileRequest("watch", poll=False))).result is Result.CORRECTED
    assert AWAY in reconciler.engine_away
    assert (await reconciler.reconcile(ReconcileRequest("drift", poll=False))).result is Result.FAILED
    assert world.metrics.engine_up is False


async def test_restarts_that_were_pending_before_stay_pending(world: World) -> None:
    record, owed = world.store.record, Action("app", "api", ActionKind.RESTART, "mounts app.conf")
    assert record.head is not None
    run = Run("earlier", "production", "poll", world.clock.now(), record.head)
    world.store.finish(run, Result.FAILED, "interrupted", at=1.0, record=record, pending_restarts=[owed])
    world.compose.reachable = False
    edit(world, WORKER)

    outcome = await reconcile_once(world, "drift")

    assert (outcome.result, world.live("worker")) == (Result.CORRECTED, "W=1")
    assert "Waiting for it: pending restarts of api; restarts of the services that use worker.env" in outcome.reason
    assert list(world.store.debts) == [owed]
    world.compose.reachable = True
    await reconcile_once(world)
    assert "restart api" in world.steps
    assert world.store.debts == ()


async def test_an_interrupted_run_stays_unfinished_and_its_files_are_kept(world: World) -> None:
    world.commit("b", api="A=2", worker="W=1")
    world.journal.hooks["recreate"] = lambda: setattr(world.compose, "reachable", False)
    world.journal.fail("recreate", EngineUnavailableError(AWAY))
    await reconcile_once(world)
    assert world.store.open_run is not None
    world.journal.hooks.clear()
    edit(world)
    edit(world, WORKER)

    outcome = await reconcile_once(world)

    assert (world.live("api"), world.live("worker")) == ("A=2", "W=1")
    assert (outcome.result, outcome.retry) == (Result.FAILED, True)
    assert "The files are in place; pending restarts: api" in outcome.reason
    assert [action.service for action in world.store.debts] == ["api"]

    world.compose.reachable = True
    assert (await reconcile_once(world)).result is Result.APPLIED
    assert world.compose.running["api"].environment == {"A": "2"}
    assert world.store.debts == ()
    assert world.store.record.written_without_engine == ()


@pytest.mark.parametrize(
    "error", [HostUnreachableError("gone"), StackGoneError("gone")], ids=lambda error: type(error).__name__
)
async def test_a_host_or_stack_that_is_gone_is_no_engine_away(world: World, error: ReconcilerError) -> None:
    world.journal.fail("glance", error)
    edit(world)

    outcome = await reconcile_once(world)

    assert (outcome.result, world.live("api")) == (Result.FAILED, "A=edited")


async def test_a_plan_without_the_engine_says_what_waits(world: World) -> None:
    world.compose.reachable = False
    world.commit("b", api="A=2", worker="W=1")

    reconciler = Reconciler(world.ports(), "production")
    outcome: Outcome = await reconciler.reconcile(ReconcileRequest("plan", dry_run=True))

    assert (outcome.result, outcome.retry) == (Result.FAILED, True)
    assert f"{AWAY}. Waiting for it: new content of api.env" in outcome.reason


async def test_a_file_of_no_stack_is_applied_without_the_engine(new_world: Callable[[], World]) -> None:
    world = new_world()
    world.compose.stacks["api"] = ""  # of none
    world.commit("a", api="A=1", worker="W=1")
    world.host.put(API, b"A=1\n")
    world.host.put(WORKER, b"W=1\n")
    world.compose.start("worker")
    await reconcile_once(world)
    world.compose.reachable = False
    world.commit("b", api="A=2", worker="W=1")

    outcome = await reconcile_once(world)

    assert world.live("api") == "A=2"
    assert (outcome.result, outcome.retry) == (Result.APPLIED, True)
    assert outcome.reason == f"wrote api.env. {AWAY}"


async def test_a_restart_that_waited_for_the_engine_outlives_a_run_that_fails(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await restore_a_mounted_file_without_the_engine(world, monkeypatch)
    world.commit("b", api="A=1", worker="W=2")
    world.journal.fail("write", LiveFileError("no space left"))

    assert (await reconcile_once(world)).result is Result.FAILED
    assert "restart api" not in world.steps
    assert (await reconcile_once(world)).result is Result.APPLIED

    assert [step for step in world.steps if step.startswith("restart")] == ["restart api"]
    assert world.store.record.written_without_engine == ()
