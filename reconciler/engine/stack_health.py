"""How the stacks of an environment are while nothing is applied: one cheap look at the engine, told to the metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from reconciler.core.decide import health
from reconciler.core.errors import EngineUnavailableError
from reconciler.core.model.compose import Container, HealthStatus, StackHealth
from reconciler.core.model.targets import Stack
from reconciler.core.ports import Ports


async def observe_stacks(ports: Ports, environment: str, stacks: Sequence[Stack]) -> Mapping[str, frozenset[str]]:
    """Tell the metrics how every stack is, and return the ids of its containers by the stack's name.

    Raises EngineUnavailableError; then they are told that nothing is known.
    """
    seen: dict[str, Sequence[Container]] = {}
    try:
        for stack in stacks:
            seen[stack.name] = await ports.compose.glance(stack)
    except EngineUnavailableError:
        unknown = [StackHealth(stack.name, HealthStatus.UNKNOWN) for stack in stacks]
        ports.metrics.health(environment, unknown, ports.clock.now())
        raise
    found = [health.summary(stack, seen[stack.name]) for stack in stacks]
    ports.metrics.health(environment, found, ports.clock.now())
    return {name: frozenset(container.id for container in containers) for name, containers in seen.items()}
