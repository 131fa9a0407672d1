"""What a reconciliation publishes, on fakes: deliveries, failures, corrections, and stack health when idle."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from reconciler.core.decide import health
from reconciler.core.errors import DecryptFailedError, EngineUnavailableError, KeyUnavailableError
from reconciler.core.model.compose import Container, HealthStatus
from reconciler.core.model.plans import Aspect
from reconciler.core.model.requests import OperatorRequest, ReconcileRequest, RequestKind
from reconciler.core.model.runs import Result
from reconciler.core.model.targets import Stack
from reconciler.engine.reconcile import Reconciler
from tests.fakes import APP, World, reconcile_once

STACK = Stack("production", "app", APP, one_shot=frozenset({"migrate"}))


def statuses(world: World) -> dict[str, str]:
    return {stack.stack: stack.status.value for stack in world.metrics.stacks}


# --- deliveries ------------------------------------------------------------------------------------------------------


async def test_a_new_revision_is_a_delivery_and_no_other_reconciliation_is(world: World) -> None:
    world.commit("b", api="A=2", worker="W=1")
    assert (await reconcile_once(world)).result is Result.APPLIED
    assert world.metrics.delivery_times == [world.clock.now() - 1.0]  # the commit was made at 1.0
    assert (await reconcile_once(world)).result is Result.IN_SYNC
    assert len(world.metrics.delivery_times) == 1


async def test_the_first_revision_of_a_new_server_is_not_a_delivery(new_world: Callable[[], World]) -> None:
    world = new_world()
    world.commit("a", api="A=1")
    assert (await reconcile_once(world)).result is Result.APPLIED
    assert world.metrics.delivery_times == []


async def test_a_pin_to_an_earlier_revision_is_not_a_delivery(world: World) -> None:
    world.commit("b", api="A=2", worker="W=1")
    await reconcile_once(world)
    world.metrics.delivery_times.clear()
    outcome = await reconcile_once(world, "rollback", OperatorRequest(RequestKind.ROLLBACK, "a"))
    assert outcome.result is Result.APPLIED, outcome.reason
    assert world.metrics.delivery_times == []


async def test_a_revision_that_is_rolled_back_is_a_failure_and_no_delivery(world: World) -> None:
    world.compose.sick["A=bad"] = "unhealthy"
    world.commit("b", api="A=bad", worker="W=1")
    assert (await reconcile_once(world)).result is Result.ROLLED_BACK
    assert world.metrics.delivery_times == []
    assert world.metrics.failures == 1
    assert statuses(world) == {"app": "healthy"}  # a look after the rollback ends the failure


async def test_a_service_that_was_unhealthy_before_is_a_failure_too(world: World) -> None:
    world.compose.sick["A="] = "unhealthy"
    world.compose.start("api")
    world.commit("b", api="A=2", worker="W=1")
    assert (await reconcile_once(world)).result is Result.FAILED
    assert world.metrics.failures == 1
    assert statuses(world) == {"app": "unhealthy"}


# --- corrections -----------------------------------------------------------------------------------------------------


async def test_a_stale_container_that_is_renewed_was_a_correction_and_is_no_longer_stale(world: World) -> None:
    world.host.put(f"{APP}/api.env", b"A=old\n")
    world.compose.start("api")
    world.host.put(f"{APP}/api.env", b"A=1\n")
    outcome = await reconcile_once(world)
    assert outcome.result is Result.CORRECTED, outcome.reason
    assert "production/api.env" in world.metrics.corrections
    assert world.metrics.plan is not None
    assert not [change for change in world.metrics.plan.changes if change.aspects]


async def test_a_stale_container_of_a_paused_stack_stays_stale(world: World) -> None:
    world.host.put(f"{APP}/api.env", b"A=old\n")
    world.compose.start("api")
    world.host.put(f"{APP}/api.env", b"A=1\n")
    outcome = await reconcile_once(
        world, "pause", OperatorRequest(RequestKind.PAUSE, scope="production/app", seconds=60.0)
    )
    assert outcome.result is Result.HELD, outcome.reason
    assert world.metrics.corrections == []
    assert world.metrics.plan is not None
    stale = [change.target.id for change in world.metrics.plan.changes if Aspect.STALE in change.aspects]
    assert "production/api.env" in stale


# --- sources that cannot be decrypted --------------------------------------------------------------------------------


async def test_each_source_for_other_keys_is_named_until_git_has_a_fix(world: World) -> None:
    reconciler = Reconciler(world.ports(), "production")
    assert (await reconciler.reconcile(ReconcileRequest("start"))).result is Result.IN_SYNC
    world.decryptor.foreign = {b"A=2\n", b"W=2\n"}
    world.commit("b", api="A=2", worker="W=2")
    for _ in range(2):  # the second one remembers the failure
        assert (await reconciler.reconcile(ReconcileRequest("poll"))).result is Result.STALLED
        named = {"production/api.env": "key", "production/worker.env": "key"}
        assert world.metrics.failing_decryptions == named
    assert world.steps.count("decrypt envs/production/api.env") == 1

    world.commit("c", api="A=1", worker="W=2")
    await reconciler.reconcile(ReconcileRequest("poll"))
    assert world.metrics.failing_decryptions == {"production/worker.env": "key"}

    world.commit("d", api="A=1", worker="W=1")
    assert (await reconciler.reconcile(ReconcileRequest("poll"))).result is Result.IN_SYNC
    assert world.metrics.failing_decryptions == {}


async def test_a_key_that_is_gone_names_the_target_that_needs_it_first(world: World) -> None:
    world.decryptor.key_error = KeyUnavailableError("no age key")
    assert (await reconcile_once(world)).result is Result.FAILED
    assert world.metrics.failing_decryptions == {"production/api.env": "key"}
    world.decryptor.key_error = None
    await reconcile_once(world)
    assert world.metrics.failing_decryptions == {}


async def test_a_key_that_is_gone_when_drift_is_restored_is_reported_though_the_revision_is_known(world: World) -> None:
    reconciler = Reconciler(world.ports(), "production")
    await reconciler.reconcile(ReconcileRequest("start"))
    world.decryptor.error = DecryptFailedError("sops is gone")
    world.host.put(f"{APP}/api.env", b"A=by hand\n")
    assert (await reconciler.reconcile(ReconcileRequest("watch"))).result is Result.FAILED
    assert world.metrics.failing_decryptions == {"production/api.env": "sops"}
    world.decryptor.error = None
    assert (await reconciler.reconcile(ReconcileRequest("watch"))).result is Result.CORRECTED
    assert world.metrics.failing_decryptions == {}


async def test_a_plan_for_another_revision_does_not_blame_the_current_source(world: World) -> None:
    world.commit("b", api="A=2", worker="W=1")
    world.commit("c", api="A=1", worker="W=1")
    await reconcile_once(world)
    world.decryptor.foreign = {b"A=2\n"}
    outcome = await reconcile_once(world, "plan", OperatorRequest(RequestKind.PLAN, "b"))
    assert outcome.result is Result.STALLED
    assert world.metrics.failing_decryptions == {}


# --- services while nothing is applied -------------------------------------------------------------------------------


async def test_idle_services_are_checked_once_a_drift_interval(world: World) -> None:
    reconciler = Reconciler(world.ports(), "production")
    await reconciler.reconcile(ReconcileRequest("start"))
    world.steps.clear()
    world.compose.sick["A="] = "unhealthy"
    world.compose.start("api")
    await reconciler.reconcile(ReconcileRequest("poll"))
    assert (world.steps, statuses(world)) == (["ls-remote"], {"app": "healthy"})
    world.clock.time += world.settings.drift_interval
    await reconciler.reconcile(ReconcileRequest("poll"))
    assert statuses(world) == {"app": "unhealthy"}
    assert world.steps.count("glance") == 1


async def test_a_dry_run_does_not_hide_moved_containers_from_the_next_reconciliation(world: World) -> None:
    reconciler = Reconciler(world.ports(), "production")
    await reconciler.reconcile(ReconcileRequest("start"))
    world.clock.time += world.settings.drift_interval
    world.compose.start("api")
    world.steps.clear()
    await reconciler.reconcile(ReconcileRequest("plan", dry_run=True))
    assert "glance" not in world.steps
    await reconciler.reconcile(ReconcileRequest("poll"))
    assert "model" in world.steps


async def test_with_an_engine_that_does_not_answer_health_is_unknown(world: World) -> None:
    world.compose.reachable = False
    outcome = await reconcile_once(world)
    assert (outcome.result, outcome.retry) == (Result.FAILED, True)
    assert statuses(world) == {"app": "unknown"}


async def test_an_engine_that_goes_away_after_the_transaction_does_not_change_how_it_ended(world: World) -> None:
    world.commit("b", api="A=2", worker="W=1")
    world.journal.fail("glance", EngineUnavailableError("gone"), after=1)
    outcome = await reconcile_once(world)
    assert outcome.result is Result.APPLIED
    assert statuses(world) == {"app": "unknown"}


def container(service: str, state: str, health: str = "", exit_code: int = 0) -> Container:
    return Container(f"{service}-{state}", service, state, health, exit_code)


@pytest.mark.parametrize(
    ("containers", "status"),
    [
        ([container("api", "running", "healthy"), container("db", "running")], HealthStatus.HEALTHY),
        ([container("api", "running"), container("migrate", "exited")], HealthStatus.HEALTHY),
        ([container("api", "running"), container("db", "running", "starting")], HealthStatus.STARTING),
        ([container("api", "running"), container("db", "running", "unhealthy")], HealthStatus.UNHEALTHY),
        ([container("api", "running", "starting"), container("db", "exited", exit_code=1)], HealthStatus.UNHEALTHY),
        ([container("api", "restarting", exit_code=1)], HealthStatus.UNHEALTHY),
        ([container("api", "running"), container("db", "exited", exit_code=143)], HealthStatus.HEALTHY),
        ([container("api", "exited"), container("db", "exited", exit_code=137)], HealthStatus.STOPPED),
        ([], HealthStatus.STOPPED),
    ],
    ids=["healthy", "done", "starting", "unhealthy", "crashed", "restarting", "one stopped", "all stopped", "none"],
)
def test_the_worst_service_says_how_the_stack_is(containers: list[Container], status: HealthStatus) -> None:
    assert health.summarise_health(STACK, containers).status is status
