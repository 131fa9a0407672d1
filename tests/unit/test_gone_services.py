"""A service that ran and runs no more: how it is seen, named and remembered; and that nothing starts what somebody
stopped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from reconciler.core.decide.gone_services import Evidence, find_gone, stack_health, stopped_by_somebody
from reconciler.core.errors import EngineUnavailableError
from reconciler.core.model.compose import (
    Container,
    DeployedService,
    Ending,
    HealthStatus,
    Project,
    RanService,
    Service,
    ServiceHealth,
)
from reconciler.core.model.requests import OperatorRequest, ReconcileRequest, RequestKind
from reconciler.core.model.runs import Result
from reconciler.core.model.targets import OnDrift, Stack, StackKind
from reconciler.core.secret import Secret
from reconciler.engine.reconcile import Reconciler
from tests.fakes import APP, World, reconcile_once
from tests.support.cases import each

STACK = Stack("production", "app", APP, one_shot=frozenset({"migrate"}))
STOPPED, KILLED, FINISHED, DIED = Ending.STOPPED, Ending.KILLED, Ending.FINISHED, Ending.DIED
API = RanService("app", "api", {"api-1": "app-api-1"})
DB = RanService("app", "db", {"db-1": "app-db-1"})
SCALES = {"api": 1, "db": 1, "init": 1, "web": 3}
PROJECT = Project("app", {name: Service(name, Secret(b"{}"), {}, replicas=number) for name, number in SCALES.items()})


def ended(service: str, code: int = 0, *, policy: str = "no", state: str = "exited", oom: bool = False) -> Container:
    facts = {"HostConfig": {"RestartPolicy": {"Name": policy}}}
    identity = f"{service}-1"
    return Container(identity, service, state, exit_code=code, out_of_memory=oom, name=f"app-{identity}", facts=facts)


def running(service: str, number: int = 1) -> Container:
    return Container(f"{service}-{number}", service, "running", number=number, name=f"app-{service}-{number}")


def gone(
    containers: Sequence[Container],
    endings: Mapping[str, Ending] | None = None,
    *,
    ran: Sequence[RanService] = (API,),
    names: Sequence[str] = (),
    project: Project | None = PROJECT,
    paused: bool = False,
) -> tuple[ServiceHealth, ...]:
    evidence = Evidence(endings or {}, names, project)
    return find_gone(STACK, ran, containers, evidence, 1000.0, paused=paused).services


@each(
    ("containers", "endings", "state", "reason"),
    [
        ([ended("api", 137)], {"api-1": KILLED}, "killed", "killed through the engine (docker kill)"),
        ([ended("api", 137)], {"api-1": DIED}, "killed", "killed (exit code 137)"),
        ([ended("api", 137, oom=True)], {"api-1": DIED}, "killed", "killed by the kernel: out of memory"),
        ([ended("api", 143)], {"api-1": STOPPED}, "stopped", "stopped by hand"),
        ([ended("api", 1)], {"api-1": STOPPED}, "stopped", "stopped by hand"),
        ([ended("api", 0)], {"api-1": STOPPED}, "stopped", "stopped by hand"),
        ([ended("api", 143)], {}, "stopped", "stopped (exit code 143)"),
        ([ended("api", 0, policy="unless-stopped")], {}, "stopped", "stopped (exit code 0)"),
        ([ended("api", 3)], {"api-1": DIED}, "exited", "exited with code 3"),
        ([ended("api", state="created")], {}, "created", "was made, and never started"),
        ([ended("api", state="removing")], {}, "missing", "its container is gone"),
        ([], {"api-1": KILLED}, "missing", "killed and removed (docker rm -f)"),
        ([], {"api-1": STOPPED}, "stopped", "stopped by hand, and its container removed"),
        ([], {}, "missing", "its container is gone"),
    ],
    ids=[
        *("docker kill", "kill -9", "out of memory", "docker stop", "exits 1 when stopped", "exits 0 when stopped"),
        *("stopped unseen", "ended 0 but restarts always", "crashed", "made only", "being removed", "docker rm -f"),
        *("stopped and removed", "removed unseen"),
    ],
)
def test_a_service_that_runs_no_more_is_named(
    containers: list[Container], endings: dict[str, Ending], state: str, reason: str
) -> None:
    neighbour = running("db")  # so that it is not the whole project
    (service,) = gone([*containers, neighbour], endings)
    assert (service.service, service.state, service.healthy, service.acknowledged) == ("api", state, False, False)
    assert service.reason.startswith(f"{reason}, noticed at 1970-01-01 00:16:40Z. `docker compose up -d api` in {APP}")
    status = stack_health(STACK, [*containers, neighbour], [service])
    assert status.status is HealthStatus.UNHEALTHY
    assert [(known.service, known.healthy) for known in status.services] == [("api", False), ("db", True)]


@pytest.mark.parametrize(
    ("replicas", "on_drift", "way_on"),
    [
        (0, OnDrift.RESTORE, "`docker service scale app_api=1` starts it"),
        (None, OnDrift.RESTORE, "`reconciler sync` creates it again"),
        (None, OnDrift.REPORT, "With on_drift: restore, `reconciler sync` creates it again"),
    ],
)
def test_a_service_of_a_swarm_is_not_started_with_the_values_of_another_loader(
    replicas: int | None, on_drift: OnDrift, way_on: str
) -> None:
    stack = replace(STACK, kind=StackKind.SWARM, on_drift=on_drift)
    kept = {"db": DeployedService("db", {}, replicas=1)}
    kept |= {} if replicas is None else {"api": DeployedService("api", {}, replicas=replicas)}
    evidence = Evidence({}, (), PROJECT, deployed=kept)
    (service,) = find_gone(stack, [API], [running("db")], evidence, 1000.0).services
    assert service.reason.endswith(way_on)
    assert "deploy" not in service.reason


def test_a_container_that_is_not_composes_has_replaced_it() -> None:
    (service,) = gone([], {"api-1": STOPPED}, names=["app-api-1"])
    assert (service.state, service.acknowledged) == ("replaced", False)
    assert "the container app-api-1 is another one now" in service.reason


WITHOUT_API = replace(PROJECT, services={"db": PROJECT.services["db"]})
NO_REPLICA = replace(PROJECT, services={"api": replace(PROJECT.services["api"], replicas=0)})
INIT = RanService("app", "init", {"init-1": "app-init-1"})
WEB = RanService("app", "web", {f"web-{number}": f"app-web-{number}" for number in (1, 2, 3)})


@each(
    ("ran", "containers", "endings", "project"),
    [
        (API, [running("api")], {}, PROJECT),
        (API, [running("api", 7)], {"api-1": STOPPED}, PROJECT),
        (INIT, [ended("init")], {"init-1": FINISHED}, PROJECT),
        (INIT, [ended("init", policy="on-failure")], {}, PROJECT),
        (INIT, [], {"init-1": FINISHED}, PROJECT),
        (RanService("app", "migrate", {"migrate-1": "m"}), [ended("migrate", policy="always")], {}, None),
        (API, [], {}, WITHOUT_API),
        (API, [ended("api", 137)], {"api-1": KILLED}, NO_REPLICA),
        (WEB, [running("web", 1), running("web", 2)], {"web-3": STOPPED}, PROJECT),
        (WEB, [running("web", 8), running("web", 9)], {}, PROJECT),
        (replace(API, containers={"api-1": "a", "api-2": "b"}), [running("api")], {"api-2": KILLED}, PROJECT),
    ],
    ids=[
        *("runs", "recreated", "init done", "init with on-failure done", "init done and removed", "one-shot done"),
        *("left the project", "scaled to none", "scaled down by hand", "recreated with another scale"),
        "back to the project's scale",
    ],
)
def test_what_is_no_finding(
    ran: RanService, containers: list[Container], endings: dict[str, Ending], project: Project | None
) -> None:
    assert gone(containers, endings, ran=[ran], project=project) == ()


@pytest.mark.parametrize("removed", [True, False], ids=["docker rm -f", "docker kill"])
def test_a_lost_replica_is_a_finding(removed: bool) -> None:
    left = [] if removed else [replace(ended("web", 137), id="web-2")]
    (service,) = gone([running("web", 1), *left, running("web", 3)], {"web-2": KILLED}, ran=[WEB])
    assert service.state == ("missing" if removed else "killed")
    assert service.reason.startswith("1 of 3 containers: ")


# --- the whole project -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ran", "containers", "endings", "taken_down"),
    [
        ([API, DB], [], {"api-1": STOPPED, "db-1": STOPPED}, True),
        ([API], [], {"api-1": STOPPED}, True),
        ([API, DB], [], {"api-1": STOPPED}, True),
        ([API, DB], [ended("api", 143), ended("db", 0)], {"api-1": STOPPED, "db-1": STOPPED}, True),
        ([API], [ended("api", 143)], {"api-1": STOPPED}, False),
        ([API, DB], [ended("api", 137), ended("db", 0)], {"api-1": KILLED, "db-1": STOPPED}, False),
        ([API, DB], [], {"api-1": KILLED, "db-1": KILLED}, False),
        ([API, DB], [running("init")], {"api-1": STOPPED, "db-1": STOPPED}, False),
        ([API, DB], [ended("api", 143), ended("db", 143)], {}, False),
    ],
    ids=[
        *("down", "down of one service", "down after one was removed", "stop of all", "stop of the only one"),
        *("one killed, then stop", "rm -f of all", "another one runs", "nobody knows who stopped them"),
    ],
)
def test_a_project_that_somebody_took_down_is_not_unhealthy(
    ran: list[RanService], containers: list[Container], endings: dict[str, Ending], taken_down: bool
) -> None:
    services = gone(containers, endings, ran=ran)
    assert {service.acknowledged for service in services} == {taken_down}
    status = stack_health(STACK, containers, services).status
    assert status is (HealthStatus.STOPPED if taken_down else HealthStatus.UNHEALTHY)
    if taken_down:
        assert "with its project" in services[0].reason


def test_a_pause_acknowledges_what_does_not_run() -> None:
    (service,) = gone([ended("api", 137), running("db")], {"api-1": KILLED}, paused=True)
    assert (service.state, service.acknowledged) == ("killed", True)
    assert stack_health(STACK, [running("db")], [service]).status is HealthStatus.HEALTHY


# --- what must not be started ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("containers", "endings", "pending", "seen", "stopped"),
    [
        ([ended("api", 1)], {"api-1": STOPPED}, False, False, True),
        ([ended("api", 137)], {"api-1": KILLED}, False, False, True),
        ([], {"api-1": STOPPED}, False, False, True),
        ([ended("api", 1)], {"api-1": DIED}, False, False, False),
        ([ended("api", 143)], {}, False, False, False),
        ([running("api")], {"api-1": STOPPED}, False, False, False),
        ([ended("api", 143), Container("api-2", "api", "created")], {"api-1": STOPPED}, False, False, False),
        ([ended("api", 143)], {"api-1": STOPPED}, True, False, False),
        ([ended("api", 143)], {"api-1": STOPPED}, True, True, True),
    ],
    ids=[
        *("stopped", "killed", "down", "crashed", "nobody knows", "runs again", "an interrupted recreate"),
        *("perhaps by an interrupted restart", "seen to run since that restart"),
    ],
)
def test_who_stopped_a_service(
    containers: list[Container], endings: dict[str, Ending], pending: bool, seen: bool, stopped: bool
) -> None:
    ran = replace(API, seen_pending=seen)
    pending_restarts = {"api"} if pending else set()
    assert stopped_by_somebody([ran], containers, endings, pending_restarts) == ({"api"} if stopped else set())
    if containers and not seen:  # nor does it matter whether it was ever healthy
        assert stopped_by_somebody([], containers, endings, pending_restarts) == ({"api"} if stopped else set())


def stop(world: World, service: str, exit_code: int = 1) -> None:
    """As `docker stop` does with a program that does not end well on SIGTERM."""
    container = world.compose.running[service]
    world.compose.running[service] = replace(container, state="exited", health="", exit_code=exit_code)
    world.compose.ended[container.id] = STOPPED


async def test_a_rotation_does_not_start_a_service_that_somebody_stopped(world: World) -> None:
    stop(world, "api")
    world.commit("b", api="A=2", worker="W=2")
    assert (await reconcile_once(world)).result is Result.APPLIED
    assert [step for step in world.steps if step.startswith("recreate")] == ["recreate worker"]
    assert world.compose.running["api"].state == "exited"


async def test_a_rollback_does_not_start_a_service_that_somebody_stopped_meanwhile(world: World) -> None:
    world.compose.sick["A=bad"] = "starting"
    world.commit("b", api="A=bad", worker="W=2")
    world.clock.on_sleep = lambda: stop(world, "worker") if world.clock.time > 1_000_050 else None
    outcome = await reconcile_once(world)
    assert outcome.result is Result.ROLLED_BACK, outcome.reason
    assert "worker was stopped by somebody meanwhile, and is not started" in outcome.reason
    assert world.steps.count("recreate api worker") == 1
    assert world.steps.count("recreate api") == 1
    assert (world.live("worker"), world.compose.running["worker"].state) == ("W=1", "exited")


async def test_a_pending_restart_does_not_start_a_service_that_somebody_stopped_since(world: World) -> None:
    """The engine goes away before the restart and comes back with the service running; then somebody stops that."""
    reconciler = Reconciler(world.ports(), "production")
    world.commit("b", api="A=2", worker="W=1")
    world.journal.fail("recreate", EngineUnavailableError("gone"))
    assert (await reconciler.reconcile(ReconcileRequest("poll"))).result is Result.FAILED
    stop(world, "api")
    assert world.store.debts
    world.steps.clear()
    outcome = await reconciler.reconcile(ReconcileRequest("engine"))
    assert outcome.result is Result.APPLIED, outcome.reason
    assert "recreate api" not in world.steps
    assert not world.store.debts


async def test_a_restart_that_was_interrupted_is_done_though_it_has_stopped_the_service(world: World) -> None:
    world.commit("b", api="A=2", worker="W=1")
    world.journal.hooks["recreate"] = lambda: stop(world, "api")
    world.journal.fail("recreate", EngineUnavailableError("gone"))
    assert (await reconcile_once(world)).result is Result.FAILED
    world.journal.hooks.clear()
    outcome = await reconcile_once(world)
    assert outcome.result is Result.APPLIED, outcome.reason
    assert world.compose.running["api"].state == "running"


async def test_a_restart_that_is_interrupted_again_may_be_what_has_stopped_the_service(world: World) -> None:
    """That it ran after the first try says nothing about who stopped it in the second."""
    reconciler = Reconciler(world.ports(), "production")
    world.commit("b", api="A=2", worker="W=1")
    world.journal.fail("recreate", EngineUnavailableError("gone"))
    await reconciler.reconcile(ReconcileRequest("poll"))
    world.journal.hooks["recreate"] = lambda: stop(world, "api")
    world.journal.fail("recreate", EngineUnavailableError("gone"))
    await reconciler.reconcile(ReconcileRequest("poll"))
    world.journal.hooks.clear()
    outcome = await reconciler.reconcile(ReconcileRequest("poll"))
    assert outcome.result is Result.APPLIED, outcome.reason
    assert world.compose.running["api"].state == "running"


async def test_a_restart_pending_from_a_pause_does_not_start_what_was_stopped_then(world: World) -> None:
    reconciler = Reconciler(world.ports(), "production")
    world.commit("b", api="A=2", worker="W=1")
    world.journal.fail("recreate", EngineUnavailableError("gone"))
    await reconciler.reconcile(ReconcileRequest("poll"))
    world.commit("c", api="A=1", worker="W=1")
    pause = OperatorRequest(RequestKind.PAUSE, seconds=3600.0)
    await reconciler.reconcile(ReconcileRequest("pause", operator=pause))
    await reconciler.reconcile(ReconcileRequest("engine"))
    assert world.store.debts  # and seen to run
    stop(world, "api")
    await reconciler.reconcile(ReconcileRequest("engine"))
    world.steps.clear()
    outcome = await reconciler.reconcile(ReconcileRequest("resume", operator=OperatorRequest(RequestKind.RESUME)))
    assert outcome.result is Result.IN_SYNC, outcome.reason
    assert world.compose.running["api"].state == "exited"
    assert not [step for step in world.steps if step.startswith("recreate")]
    assert not world.store.debts


# --- the memory ------------------------------------------------------------------------------------------------------


def seen(world: World) -> dict[str, tuple[str, bool]]:
    return {it.service: (it.state, it.healthy) for stack in world.metrics.stacks for it in stack.services}


async def test_a_service_that_vanishes_is_remembered_across_restarts_until_it_runs_again(world: World) -> None:
    del world.compose.running["api"]
    for _ in range(2):
        outcome = await reconcile_once(world)
        assert outcome.result is Result.IN_SYNC, outcome.reason
        assert seen(world) == {"api": ("missing", False), "worker": ("healthy", True)}
        assert world.metrics.stacks[0].status is HealthStatus.UNHEALTHY
    assert not [step for step in world.steps if step.startswith("recreate")]
    world.compose.start("api")
    await reconcile_once(world)
    assert seen(world) == {"api": ("healthy", True), "worker": ("healthy", True)}


async def test_how_it_was_stopped_stays_known_when_the_engine_has_forgotten(world: World) -> None:
    stop(world, "api", 143)
    await reconcile_once(world)
    world.compose.ended.clear()
    await reconcile_once(world)
    (service,) = [service for service in world.metrics.stacks[0].services if service.service == "api"]
    assert "stopped by hand" in service.reason


async def test_a_service_that_was_never_healthy_is_not_missed(world: World) -> None:
    world.compose.sick["X="] = "unhealthy"
    world.commit("b", api="A=1", worker="W=1", extra="X=1")
    world.host.put(f"{APP}/extra.env", b"X=1\n")
    world.compose.start("extra")
    await reconcile_once(world)
    assert seen(world)["extra"] == ("unhealthy", False)
    del world.compose.running["extra"]
    await reconcile_once(world)
    assert seen(world) == {"api": ("healthy", True), "worker": ("healthy", True)}


async def test_a_pause_is_seen_immediately_and_only_while_it_lasts(world: World) -> None:
    reconciler = Reconciler(world.ports(), "production")
    del world.compose.running["api"]
    await reconciler.reconcile(ReconcileRequest("engine"))
    assert world.metrics.stacks[0].status is HealthStatus.UNHEALTHY
    pause = OperatorRequest(RequestKind.PAUSE, scope="production/app", seconds=60.0)
    await reconciler.reconcile(ReconcileRequest("pause", operator=pause))
    assert world.metrics.stacks[0].status is HealthStatus.HEALTHY
    assert [service.acknowledged for service in await reconciler.health()] == [True, False]
    world.clock.time += 61
    await reconciler.reconcile(ReconcileRequest("engine"))
    assert world.metrics.stacks[0].status is HealthStatus.UNHEALTHY


async def test_a_look_is_one_call_while_everything_runs(world: World) -> None:
    await reconcile_once(world)
    world.steps.clear()
    reconciler = Reconciler(world.ports(), "production")
    await reconciler.reconcile(ReconcileRequest("drift", poll=False))
    world.steps.clear()
    world.clock.time += world.settings.drift_interval
    await reconciler.reconcile(ReconcileRequest("drift", poll=False))
    assert world.steps == ["glance"]


def test_a_service_that_compose_cannot_resolve_here_is_still_missed() -> None:
    project = replace(PROJECT, services={}, unresolved={"web": "its env file is missing"})
    (service,) = gone([running("web", 1), running("web", 3)], {"web-2": KILLED}, ran=[WEB], project=project)
    assert (service.service, service.state) == ("web", "missing")
