"""Services and the engine are looked at in every reconciliation, also in one that cannot get to its plan."""

from __future__ import annotations

import pytest

from reconciler.core.model.requests import ReconcileRequest
from reconciler.core.model.runs import Result
from reconciler.engine.reconcile import Reconciler
from tests.fakes import Killed, World, reconcile_once

DRIFT = ReconcileRequest("drift", poll=False)


def unhealthy(world: World) -> list[str]:
    return [service.service for stack in world.metrics.stacks for service in stack.services if not service.healthy]


async def stall(world: World) -> Reconciler:
    reconciler = Reconciler(world.ports(), "production")
    await reconciler.reconcile(ReconcileRequest("start"))
    world.git.commit("b", {"environment.yaml": b"missing.env"})
    assert (await reconciler.reconcile(ReconcileRequest("poll"))).result is Result.STALLED
    return reconciler


async def test_a_service_that_is_killed_while_the_revision_stalls_is_seen_and_seen_to_run_again(world: World) -> None:
    reconciler = await stall(world)
    container = world.compose.running.pop("worker")
    world.clock.time += world.settings.drift_interval

    assert (await reconciler.reconcile(DRIFT)).result is Result.STALLED
    assert unhealthy(world) == ["worker"]

    world.compose.running["worker"] = container
    world.clock.time += world.settings.drift_interval
    await reconciler.reconcile(DRIFT)
    assert unhealthy(world) == []


async def test_an_engine_that_is_lost_while_the_revision_stalls_is_named_until_it_is_back(world: World) -> None:
    reconciler = await stall(world)
    world.compose.reachable = False
    world.clock.time += world.settings.drift_interval

    assert (await reconciler.reconcile(DRIFT)).result is Result.STALLED
    assert world.metrics.engine_up is False
    assert reconciler.engine_away

    world.compose.reachable = True
    await reconciler.reconcile(DRIFT)
    assert world.metrics.engine_up is True
    assert reconciler.engine_away == ""


async def test_an_engine_that_is_away_is_named_while_a_rollback_waits_for_it(world: World) -> None:
    world.compose.sick["A=bad"] = "unhealthy"
    world.commit("b", api="A=bad", worker="W=1")
    world.journal.fail("recreate", Killed(), after=1)
    with pytest.raises(Killed):
        await reconcile_once(world)
    world.compose.reachable = False
    world.metrics.engine_up = None

    reconciler = Reconciler(world.ports(), "production")
    outcome = await reconciler.reconcile(ReconcileRequest("start"))

    assert (outcome.result, outcome.retry) == (Result.FAILED, True)
    assert "the services wait for the engine" in outcome.reason
    assert world.metrics.engine_up is False
    assert reconciler.engine_away
