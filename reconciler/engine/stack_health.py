"""Publishes stack health while nothing is applied, from one cheap call to the engine per stack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from reconciler.core.decide import health
from reconciler.core.errors import EngineUnavailableError
from reconciler.core.model.compose import Container, HealthStatus, StackHealth
from reconciler.core.model.targets import Stack
from reconciler.core.ports import Ports


async def observe_stacks(ports: Ports, environment: str, stacks: Sequence[Stack]) -> Mapping[str, frozenset[str]]:
    """Publish the health of every stack, and return its container ids by the stack's name.

    Raises EngineUnavailableError, after publishing that nothing is known.
    """
    containers: dict[str, Sequence[Container]] = {}
    try:
        for stack in stacks:
            containers[stack.name] = await ports.compose.glance(stack)
    except EngineUnavailableError:
        unknown = [StackHealth(stack.name, HealthStatus.UNKNOWN) for stack in stacks]
        ports.metrics.health(environment, unknown, ports.clock.now())
        ports.metrics.engine(environment, False)
        raise
    ports.metrics.engine(environment, True if stacks else None)
    summaries = [health.summarise_health(stack, containers[stack.name]) for stack in stacks]
    ports.metrics.health(environment, summaries, ports.clock.now())
    return {name: frozenset(container.id for container in group) for name, group in containers.items()}
