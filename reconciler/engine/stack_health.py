"""Looks at the services of stacks: publishes their health while nothing is applied, and what ran and runs no more."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence

from reconciler.core.decide import gone_services
from reconciler.core.decide.gone_services import Evidence, GoneServices
from reconciler.core.decide.suspension import suspension_of
from reconciler.core.errors import EngineUnavailableError, ReconcilerError, StoreUnavailableError
from reconciler.core.model.compose import Container, HealthStatus, RanService, StackHealth
from reconciler.core.model.targets import Stack
from reconciler.core.ports import Ports
from reconciler.engine.history import record_recovery


async def observe_stacks(ports: Ports, environment: str, stacks: Sequence[Stack]) -> Mapping[str, frozenset[str]]:
    """Publish the health of every stack, and return its container ids, with the versions of the services that the
    engine itself keeps, by the stack's name. Remembers which services run and are healthy. Two cheap calls to the
    engine per stack, unless a service of it runs no more.

    Raises EngineUnavailableError, after publishing that nothing is known.
    """
    containers: dict[str, Sequence[Container]] = {}
    versions: dict[str, frozenset[str]] = {}
    summaries: list[StackHealth] = []
    ran: list[RanService] = []
    try:
        for stack in stacks:
            containers[stack.name] = await ports.compose.glance(stack)
            deployed = await ports.compose.deployed(stack, None) or ()
            versions[stack.name] = frozenset(f"{service.name} {service.version}" for service in deployed)
            summary, gone = await _judge(ports, environment, stack, containers[stack.name])
            summaries.append(summary)
            ran += gone_services.remember_running(stack, gone.ran, containers[stack.name], summary.services)
    except EngineUnavailableError:
        unknown = [StackHealth(stack.name, HealthStatus.UNKNOWN) for stack in stacks]
        ports.activity.health = tuple(unknown)
        ports.metrics.health(environment, unknown, ports.clock.now())
        ports.metrics.engine(environment, False)
        raise
    ports.metrics.engine(environment, True if stacks else None)
    ports.activity.health = tuple(summaries)
    failed_at = ports.metrics.health(environment, summaries, ports.clock.now())
    with contextlib.suppress(StoreUnavailableError):  # a full disk keeps nothing from being reconciled
        if failed_at is not None:
            record_recovery(ports, environment, failed_at)
        _remember(ports, environment, ran)
    return {name: versions[name] | {container.id for container in group} for name, group in containers.items()}


async def health_now(ports: Ports, environment: str, stacks: Iterable[Stack]) -> tuple[StackHealth, ...]:
    """The health of every stack at this moment; remembers nothing. Raises EngineUnavailableError."""
    summaries = []
    for stack in stacks:
        summary, _ = await _judge(ports, environment, stack, await ports.compose.containers(stack, None))
        summaries.append(summary)
    return tuple(summaries)


async def stopped_by_somebody(
    ports: Ports, environment: str, stack: Stack, containers: Sequence[Container], pending: frozenset[str] | None = None
) -> frozenset[str]:
    """The services of the stack that somebody stopped: nothing may start them. ``pending`` are the services with a
    pending restart, if those are not the stored ones. Raises EngineUnavailableError.
    """
    ran = _ran(ports, environment, stack)
    names = {container.service for container in containers} | {service.service for service in ran}
    if names <= {container.service for container in containers if gone_services.is_up(container)}:
        return frozenset()
    ids = {container.id for container in containers} | {identity for service in ran for identity in service.containers}
    endings = await ports.compose.endings(ids)
    pending = _pending(ports, environment, stack) if pending is None else pending
    return gone_services.stopped_by_somebody(ran, containers, endings, pending)


def begin_restart(ports: Ports, environment: str, stack: Stack, services: Iterable[str]) -> None:
    """Note that services are about to be stopped by us: that they ran while a restart was pending says nothing now."""
    remembered, restarted = ports.store.ran_services(environment), set(services)
    again = [
        gone_services.about_to_restart(service) if (service.stack, service.service in restarted) == (stack.name, True)
        else service
        for service in remembered
    ]  # fmt: skip
    _remember(ports, environment, again)


async def _judge(
    ports: Ports, environment: str, stack: Stack, containers: Sequence[Container]
) -> tuple[StackHealth, GoneServices]:
    ran, now = _ran(ports, environment, stack), ports.clock.now()
    paused = suspension_of(ports.store.environment(environment), now).paused(stack.name)
    evidence = Evidence(pending=_pending(ports, environment, stack))
    if lacking := [service for service in ran if gone_services.lacks_containers(service, containers)]:
        containers, evidence = await _look_closer(ports, stack, lacking, evidence.pending)
    gone = gone_services.find_gone(stack, ran, containers, evidence, now, paused=paused)
    return gone_services.stack_health(stack, containers, gone.services), gone


async def _look_closer(
    ports: Ports, stack: Stack, lacking: Sequence[RanService], pending: Iterable[str]
) -> tuple[Sequence[Container], Evidence]:
    """The stack's containers, and what else is known about the services that lack some."""
    project = None
    with contextlib.suppress(ReconcilerError):  # nobody knows then whether a service has left the project
        project = await ports.compose.project(stack)
    name = project.name if project else None
    containers, deployed = await ports.compose.containers(stack, name), await ports.compose.deployed(stack, name)
    ids = {identity for service in lacking for identity in gone_services.ids_of(service, containers)}
    present = {container.id for container in containers}
    names = {name for service in lacking for identity, name in service.containers.items() if identity not in present}
    names -= {container.name for container in containers}
    taken = await ports.compose.names_in_use(names) if names else frozenset()
    kept = None if deployed is None else {service.name: service for service in deployed}
    return containers, Evidence(await ports.compose.endings(ids), taken, project, frozenset(pending), kept)


def _ran(ports: Ports, environment: str, stack: Stack) -> tuple[RanService, ...]:
    return tuple(service for service in ports.store.ran_services(environment) if service.stack == stack.name)


def _pending(ports: Ports, environment: str, stack: Stack) -> frozenset[str]:
    """The services of the stack that a restart is pending of."""
    actions = ports.store.pending_restarts(environment)
    return frozenset(action.service for action in actions if action.stack == stack.name)


def _remember(ports: Ports, environment: str, ran: Iterable[RanService]) -> None:
    services = sorted(ran, key=lambda service: (service.stack, service.service))
    if tuple(services) != ports.store.ran_services(environment):
        ports.store.remember_ran_services(environment, services)
