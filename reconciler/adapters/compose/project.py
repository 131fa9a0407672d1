"""Docker Compose: resolves projects, finds their containers and recreates them. Implements the Compose port.

Compose is started where the stack lives (context.py), with PATH, HOME, PWD and DOCKER_* only: the daemon's own
variables would win over those of the files. Looking at containers goes to the engine directly (docker_api.py): it
is cheap, and works while an env file is broken.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import re
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from reconciler.adapters import process
from reconciler.adapters.compose import errors
from reconciler.adapters.compose.awaiting import finished, noticing, together
from reconciler.adapters.compose.context import ComposeContext, Staged
from reconciler.adapters.compose.docker_api import (
    DIRECTORY_LABEL,
    PROJECT_LABEL,
    SERVICE_LABEL,
    Engine,
    in_waves,
    started_as,
)
from reconciler.adapters.compose.holders import container_words, needed_names, port_taken, publisher, require_free
from reconciler.adapters.compose.host_projects import host_project_files
from reconciler.adapters.compose.own_hash import own_hash
from reconciler.adapters.compose.remotes import Written
from reconciler.adapters.compose.resolver import ProjectResolver
from reconciler.core.decide.invocation import (
    label_invocation,
    manifest_invocation,
    named_paths,
    of_stack,
    project_directory,
    resolve_invocation,
)
from reconciler.core.errors import (
    EngineUnavailableError,
    ReconcilerError,
    StartedOtherwiseError,
)
from reconciler.core.model.compose import (
    Container,
    DeployedService,
    Ending,
    Guest,
    Invocation,
    Project,
    ProjectFiles,
    StartedAs,
)
from reconciler.core.model.targets import Stack

if TYPE_CHECKING:
    from aiodocker.containers import DockerContainer

# A container may take its whole stop_grace_period. Compose is never killed lightly: it would leave a container with a
# temporary name, or none.
_UP = process.Limits(timeout=600.0, grace=60.0, stderr=4 * process.MIB)
# Compose makes the new container beside the old one as <first 12 digits of the old id>_<name>.
_TEMPORARY_NAME = re.compile(r"/[0-9a-f]{12}_(.+)")
# Seconds before an `up` that met what an interrupted one left is tried again.
_PAUSES = (0.0, 0.2, 0.5, 1.0, 2.0, 4.0)
# For so long (seconds) after a look at the containers, how a project is run is not asked again to stage its files. Once
# they are in place, ``is_current`` looks again.
_RECENT = 0.2
_LISTEN_AGAIN = 5.0  # seconds until an engine that does not answer is asked again


class DockerCompose:
    """`docker compose` and the engine behind it, on one machine. ``written`` are those of some real paths there that
    reconciler has written; unless it is given, that may be all."""

    def __init__(self, context: ComposeContext, written: Written = frozenset) -> None:
        self._context = context
        self._engine = Engine(context.engine)
        self._resolver = ProjectResolver(context, self._running, written)
        self._names: dict[str, str] = {}
        self._invocations: dict[str, tuple[float, Stack, Invocation]] = {}
        self._started_as: dict[str, Sequence[StartedAs]] = {}
        self._strangers: dict[str, Mapping[str, StartedAs]] = {}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def close(self) -> None:
        await self._engine.close()

    async def follow(self, touched: Callable[[], None], directories: Callable[[], Collection[str]]) -> None:
        """Call ``touched`` whenever a container of a stack in one of the ``directories`` starts, ends or goes; when the
        engine answers (again), as some of that may have been missed; and when it is lost. Runs until it is cancelled.
        """

        async def reported(labels: Mapping[str, str]) -> None:
            directory = await self._context.resolve(labels.get(DIRECTORY_LABEL, ""))
            followed = [await self._context.resolve(path) for path in directories()]
            if directory in followed or labels.get(PROJECT_LABEL) in self._names.values():
                touched()

        while True:
            with contextlib.suppress(EngineUnavailableError):
                await self._engine.greet()
                touched()
                try:
                    await self._engine.follow(reported)
                finally:
                    touched()
            await asyncio.sleep(_LISTEN_AGAIN)

    # --- how it is run ---

    async def invocation(self, stack: Stack) -> Invocation:
        """How the stack's project is run: as the manifest says and its containers were started.

        Raises StartedOtherwiseError, EngineUnavailableError.
        """
        self._invocations.pop(stack.id, None)
        usual = await self._context.main_files(Invocation(stack.directory))
        containers = [_started(container) for container in await self._engine.find(DIRECTORY_LABEL)]
        paths = {stack.directory, project_directory(stack), *named_paths(stack), *usual}
        for container in containers:
            paths |= {container.directory, *container.files, *container.env_files}
        paths |= {os.path.dirname(path) for path in paths}
        # All at the same time: over SSH each takes some round trips.
        ordered = sorted(paths)
        real = dict(zip(ordered, await asyncio.gather(*map(self._context.resolve, ordered)), strict=True))
        own = of_stack(stack, containers, usual, real.__getitem__)
        self._started_as[stack.id] = own
        self._strangers[stack.id] = {} if own else {container.project: container for container in containers}
        invocation = resolve_invocation(stack, own, usual, real.__getitem__)
        self._invocations[stack.id] = time.monotonic(), stack, invocation
        return invocation

    async def _recent_invocation(self, stack: Stack) -> Invocation:
        """For files that are staged: once they are in place, ``is_current`` looks at the containers again."""
        at, of, invocation = self._invocations.get(stack.id, (0.0, None, None))
        if invocation is not None and of == stack and time.monotonic() - at < _RECENT:
            return invocation
        return await self.invocation(stack)

    async def project_files(self, stack: Stack, staged: Staged | None = None) -> ProjectFiles:
        """What Compose reads as the stack's project, by the manifest and by every one of its containers: by those seen
        last, where the engine does not answer."""
        with contextlib.suppress(EngineUnavailableError, StartedOtherwiseError):
            await self.invocation(stack)
        invocations = {manifest_invocation(stack)}
        invocations |= {label_invocation(stack, container) for container in self._started_as.get(stack.id, ())}
        return await self._resolver.project_files(stack, invocations, staged)

    async def other_project_files(self) -> ProjectFiles:
        """What Compose reads as any project that has a container on the engine, by what it has noted on them."""
        containers = [_started(container) for container in await self._engine.find(PROJECT_LABEL)]
        return await host_project_files(self._context, containers)

    async def images(self, references: Collection[str]) -> Mapping[str, str]:
        """The ids of the images that these references stand for now; one that is not there is left out."""
        return await self._engine.images(references)

    async def own_hash(self, project: Project, service: str) -> tuple[str, str]:
        """The version of Compose, and the hash that it gives a service of the project; "" where it does not say."""
        await self._resolver.require_directory(project.invocation.directory)
        return await own_hash(self._context, project, service)

    # --- the project ---

    async def project(self, stack: Stack, staged: Staged | None = None) -> Project:
        """The project as Compose resolves it, all profiles; see ProjectResolver.

        Raises ModelRefusedError, StartedOtherwiseError, EngineUnavailableError.
        """
        await self._resolver.require_directory(stack.directory)
        invocation = await (self.invocation(stack) if staged is None else self._recent_invocation(stack))
        resolved = await self._resolver.resolve(stack, invocation, staged)
        if stranger := self._strangers[stack.id].get(resolved.name):
            # Containers of that name from elsewhere: of another directory, or started inside another container.
            resolve_invocation(replace(stack, project=resolved.name), [stranger], ())
        if staged is None:
            self._names[stack.id] = resolved.name
        return resolved

    async def is_current(self, stack: Stack, project: Project) -> bool:
        """Whether Compose would resolve the project so again, from the files as they are: see inputs.py.

        Raises as ``invocation`` does.
        """
        invocation = await self.invocation(stack)
        if project.name in self._strangers[stack.id] or not await self._resolver.is_current(invocation, project):
            return False
        self._names[stack.id] = project.name
        return True

    async def _running(self, stack: Stack, invocation: Invocation) -> frozenset[str]:
        """The services that have a container."""
        containers = await self._list(stack, invocation.project or None)
        return frozenset(container["Labels"].get(SERVICE_LABEL, "") for container in containers)

    # --- containers ---

    async def containers(self, stack: Stack, project: str | None) -> tuple[Container, ...]:
        """Containers of the project, found by their labels (as the stack's where the name is unknown).

        Raises EngineUnavailableError.
        """
        return await self._engine.inspect(await self._list(stack, project))

    async def glance(self, stack: Stack) -> tuple[Container, ...]:
        """The stack's containers as the engine lists them, in one cheap call. Raises EngineUnavailableError."""
        return await self._engine.summarise(await self._list(stack, self._names.get(stack.id)))

    async def deployed(self, stack: Stack, project: str | None) -> tuple[DeployedService, ...] | None:
        """Nothing: of a Compose project the engine keeps containers only."""
        return None

    def noticing(self, project: Project) -> contextlib.AbstractAsyncContextManager[asyncio.Event]:
        """Sets the event inside whenever something happens to a container of the project."""
        return noticing(functools.partial(self._engine.listen, f"{PROJECT_LABEL}={project.name}"))

    async def guests(self) -> tuple[Guest, ...]:
        """The containers that share a namespace or volumes with another, in a manifest or not."""
        return await self._engine.guests()

    async def endings(self, containers: Collection[str]) -> Mapping[str, Ending]:
        """How these containers (ids) ended, as far as the engine still knows. Raises EngineUnavailableError."""
        return await self._engine.endings(containers)

    async def names_in_use(self, names: Collection[str]) -> frozenset[str]:
        """Those of the names that a container has, whoever made it. Raises EngineUnavailableError."""
        holders = await self._engine.named(names)
        return frozenset(name.lstrip("/") for holder in holders for name in holder["Names"]) & frozenset(names)

    async def _list(self, stack: Stack, project: str | None) -> list[DockerContainer]:
        names = {project}
        if project is None:
            try:
                names = {(await self.invocation(stack)).project}
            except StartedOtherwiseError:
                names = {container.project for container in self._started_as[stack.id]}
        listings = [await self._engine.find(f"{PROJECT_LABEL}={name}") for name in sorted(filter(None, names))]
        return [container for listing in listings for container in listing]

    # --- changes ---

    async def require_names(
        self, project: Project, services: Sequence[str], scale: Mapping[str, int] | None = None
    ) -> None:
        """Make sure that no other container has a name which `up` would give one of these services' containers.

        Compose finds out only after it has removed the old container. Raises NameTakenError, EngineUnavailableError.
        """
        own = await self._engine.find(f"{PROJECT_LABEL}={project.name}")
        needed = needed_names(project, services, own, scale or {})
        require_free(project, needed, await self._engine.named(needed))

    async def recreate(
        self, project: Project, services: Sequence[str], *, scale: Mapping[str, int] | None = None, force: bool = False
    ) -> None:
        """`up -d --no-deps` for these services, all their replicas, in the order of their dependencies.

        `scale` has the number of containers of those services that run another number than the project says. `force`
        also recreates those in which Compose sees no difference: it does not see a changed mounted file or inline
        config. Cancelling lets Compose finish, for a while. Raises ModelRefusedError (NameTakenError where another
        container has taken a name meanwhile), EngineUnavailableError.
        """
        if not services:
            return
        invocation = replace(project.invocation, project=project.name)
        flags = ["--detach", "--no-deps", "--no-build", "--pull", "never", *(["--force-recreate"] if force else [])]
        flags += [word for service, count in (scale or {}).items() for word in ("--scale", f"{service}={count}")]
        argv = ["docker", "compose", *invocation.options(project.profiles), "up", *flags, "--", *services]
        fetches = await self._resolver.may_fetch(invocation)
        async with self._locks[project.name]:
            completed = await finished(self._resolver.run(argv, invocation.directory, _UP, fetches=fetches))
            for pause in _PAUSES:
                if not errors.is_conflict(errors.stderr_of(completed)):
                    break
                await self.require_names(project, services, scale)
                # An `up` that was cut off left a container with a temporary name, at worst one per service; each try
                # has one removed, and the engine may take its time with that.
                await asyncio.sleep(pause)
                completed = await finished(self._resolver.run(argv, invocation.directory, _UP, fetches=fetches))
            if not completed.ok:
                raise await self._start_error(invocation, completed, services)
            await self._restore_names(project, services)

    async def _start_error(
        self, invocation: Invocation, completed: process.Completed, services: Sequence[str]
    ) -> ReconcilerError:
        if (port := errors.port_in_use(errors.stderr_of(completed))) is None:
            return errors.of_command(invocation, completed, f"start {', '.join(services)}", "up")
        held = publisher(await self._engine.running(), port)
        holder = container_words(held) if held else await self._context.process_on_port(port)
        return port_taken(invocation, services, port, holder)

    async def restart(self, project: Project, services: Sequence[str]) -> None:
        """Restart the containers of these services; each after those of them that it depends on.

        Their environment stays what it was. Raises ModelRefusedError, EngineUnavailableError.
        """
        async with self._locks[project.name]:
            containers = await self._of_services(project, services)
            for wave in in_waves(containers):
                await together(self._engine.restart(container) for container in wave)

    async def signal(self, project: Project, service: str, signal: str) -> None:
        """Send the running containers of the service a signal, such as HUP.

        Raises ModelRefusedError, EngineUnavailableError.
        """
        containers = await self._of_services(project, [service])
        running = [container for container in containers if container["State"] == "running"]
        await together(self._engine.kill(container, signal) for container in running)

    async def _restore_names(self, project: Project, services: Sequence[str]) -> None:
        """Rename containers that still have the temporary name of an `up` that was cut off."""
        containers = await self._engine.find(f"{PROJECT_LABEL}={project.name}")
        taken = {name for container in containers for name in container["Names"]}
        for container in containers:
            temporary = _TEMPORARY_NAME.fullmatch(container["Names"][0])
            if temporary and f"/{temporary[1]}" not in taken and container["Labels"].get(SERVICE_LABEL) in services:
                await self.require_names(project, services)
                await self._engine.rename(container, temporary[1])

    async def _of_services(self, project: Project, services: Sequence[str]) -> list[DockerContainer]:
        containers = await self._engine.find(f"{PROJECT_LABEL}={project.name}")
        return [container for container in containers if container["Labels"].get(SERVICE_LABEL) in services]


def _started(container: DockerContainer) -> StartedAs:
    running = container["State"] in ("running", "restarting", "paused")
    return started_as(container["Labels"], running=running, created=float(container["Created"]))
