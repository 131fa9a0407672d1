"""What a machine runs and uses, whatever runs it: Compose projects, and stacks of a Swarm."""

from __future__ import annotations

from collections.abc import Sequence

from reconciler.adapters.compose import inventory as compose_inventory
from reconciler.adapters.compose.containers import Labelled, labelled
from reconciler.adapters.swarm.inventory import stack_containers, with_stacks
from reconciler.core.inventory import Inventory
from reconciler.core.model.targets import Stack
from reconciler.core.ports.host import Machine


async def take_inventory(machine: Machine, path: str | None, stacks: Sequence[Stack] = ()) -> Inventory:
    """Take the inventory of ``path`` as adapters/compose/inventory.py says; with what a Swarm runs of it.

    Raises LiveFileError if the path itself cannot be read, HostUnreachableError.
    """
    return await with_stacks(machine, await compose_inventory.take_inventory(machine, path, stacks), path)


async def containers(machine: Machine) -> tuple[Labelled, ...] | None:
    """Every container of a Compose project, and every place of a Swarm stack's service; None without an engine."""
    own = await labelled(machine)
    return None if own is None else (*own, *await stack_containers(machine))
