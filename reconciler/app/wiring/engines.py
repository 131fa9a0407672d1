"""The one port of stacks, over what runs them: each call goes to Compose or to Swarm, by the stack's kind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

from reconciler.adapters.compose.context import ComposeContext
from reconciler.adapters.compose.project import DockerCompose
from reconciler.adapters.compose.remotes import Written
from reconciler.core.errors import SwarmUnavailableError
from reconciler.core.model.compose import Container, DeployedService, Ending, Guest, Project, ProjectFiles
from reconciler.core.model.targets import Stack, StackKind
from reconciler.core.ports.host import Host
from reconciler.core.secret import Digester, Secret

if TYPE_CHECKING:
    from reconciler.adapters.swarm.stack import DockerSwarm

Staged = Mapping[str, Secret | None]


class StackEngines:
    """Implements the Compose port. What is asked about the machine's engine as a whole is Compose's to answer."""

    def __init__(self, compose: DockerCompose, swarm: DockerSwarm | None) -> None:
        self._compose = compose
        self._swarm = swarm

    def _of(self, subject: Stack | Project) -> DockerCompose | DockerSwarm:
        if subject.kind is StackKind.COMPOSE:
            return self._compose
        if self._swarm is None:
            hint = "Set swarm_manager: true in the server configuration, or run the stack elsewhere"
            raise SwarmUnavailableError("this host is not a Swarm manager", where=f"stack {subject.name}", hint=hint)
        return self._swarm

    async def close(self) -> None:
        await self._compose.close()
        if self._swarm is not None:
            await self._swarm.close()

    async def follow(self, touched: Callable[[], None], directories: Callable[[], Collection[str]]) -> None:
        """Call ``touched`` whenever something happens to what runs for a stack. Runs until it is cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._compose.follow(touched, directories))
            if self._swarm is not None:
                group.create_task(self._swarm.follow(touched, directories))

    async def project(self, stack: Stack, staged: Staged | None = None) -> Project:
        return await self._of(stack).project(stack, staged)

    async def is_current(self, stack: Stack, project: Project) -> bool:
        return await self._of(stack).is_current(stack, project)

    async def project_files(self, stack: Stack, staged: Staged | None = None) -> ProjectFiles:
        return await self._of(stack).project_files(stack, staged)

    async def other_project_files(self) -> ProjectFiles:
        return await self._compose.other_project_files()

    async def images(self, references: Collection[str]) -> Mapping[str, str]:
        return await self._compose.images(references)

    async def own_hash(self, project: Project, service: str) -> tuple[str, str]:
        return await self._compose.own_hash(project, service)

    async def containers(self, stack: Stack, project: str | None) -> tuple[Container, ...]:
        return await self._of(stack).containers(stack, project)

    async def glance(self, stack: Stack) -> tuple[Container, ...]:
        return await self._of(stack).glance(stack)

    async def deployed(self, stack: Stack, project: str | None) -> tuple[DeployedService, ...] | None:
        return await self._of(stack).deployed(stack, project)

    def noticing(self, project: Project) -> AbstractAsyncContextManager[asyncio.Event]:
        return self._of(project).noticing(project)

    async def guests(self) -> tuple[Guest, ...]:
        return await self._compose.guests()

    async def require_names(
        self, project: Project, services: Sequence[str], scale: Mapping[str, int] | None = None
    ) -> None:
        await self._of(project).require_names(project, services, scale)

    async def endings(self, containers: Collection[str]) -> Mapping[str, Ending]:
        return await self._compose.endings(containers)

    async def names_in_use(self, names: Collection[str]) -> frozenset[str]:
        return await self._compose.names_in_use(names)

    async def recreate(
        self, project: Project, services: Sequence[str], *, scale: Mapping[str, int] | None = None, force: bool = False
    ) -> None:
        await self._of(project).recreate(project, services, scale=scale, force=force)

    async def restart(self, project: Project, services: Sequence[str]) -> None:
        await self._of(project).restart(project, services)

    async def signal(self, project: Project, service: str, signal: str) -> None:
        await self._of(project).signal(project, service, signal)


def stack_engines(
    context: ComposeContext, host: Host, digest: Digester, written: Written, *, swarm: bool
) -> StackEngines:
    """What runs the stacks of one machine; ``written`` are those of some real paths there that reconciler has written;
    ``swarm``: it is a manager of one."""
    if not swarm:
        return StackEngines(DockerCompose(context, written), None)
    from reconciler.adapters.swarm.stack import DockerSwarm

    return StackEngines(DockerCompose(context, written), DockerSwarm(context, host, digest, written))
