"""Docker Compose and the engine: projects, containers, and what is done to services."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from reconciler.core.model.compose import Container, DeployedService, Ending, Guest, Project, ProjectFiles
from reconciler.core.model.targets import HttpCheck, Stack
from reconciler.core.secret import Secret


class ChangeNotice(Protocol):
    """That something has happened: set until it is cleared, as an asyncio.Event."""

    def clear(self) -> None: ...

    async def wait(self) -> object:
        """Until it is set."""


class Compose(Protocol):
    async def project(self, stack: Stack, staged: Mapping[str, Secret | None] | None = None) -> Project:
        """The project as Compose resolves it, all profiles.

        ``staged`` (absolute path → bytes, None: removed) resolves it as if those files were in place, without a write;
        a file that the compose file reaches only by an absolute path is not seen. Raises ModelRefusedError (Compose
        refuses; says why without quoting a value), StartedOtherwiseError (the containers were started in another way
        than the manifest says), EngineUnavailableError (no docker, no compose file).
        """

    async def is_current(self, stack: Stack, project: Project) -> bool:
        """Whether Compose would resolve the stack's project so again, from the files as they are; False in doubt.

        Raises StartedOtherwiseError, EngineUnavailableError.
        """

    async def project_files(self, stack: Stack, staged: Mapping[str, Secret | None] | None = None) -> ProjectFiles:
        """What Compose reads as the stack's project, by the manifest and by every one of its containers; with
        ``staged`` as if those files were in place."""

    async def other_project_files(self) -> ProjectFiles:
        """The same of every Compose project that has a container on the engine, in a manifest or not.

        Raises EngineUnavailableError.
        """

    async def images(self, references: Collection[str]) -> Mapping[str, str]:
        """The ids of the images that these references stand for now, without those that are not there.

        Raises EngineUnavailableError.
        """

    async def own_hash(self, project: Project, service: str) -> tuple[str, str]:
        """The version of Compose, and the hash that it gives a service of the resolved project; "" where it does not
        say. Raises EngineUnavailableError.
        """

    async def containers(self, stack: Stack, project: str | None) -> tuple[Container, ...]:
        """Containers of the project, by their labels (by the stack's directory if the name is unknown).

        Raises EngineUnavailableError.
        """

    async def glance(self, stack: Stack) -> tuple[Container, ...]:
        """The stack's containers from one cheap call: only their id, name, service, state, health and exit code.

        Raises EngineUnavailableError.
        """

    async def deployed(self, stack: Stack, project: str | None) -> tuple[DeployedService, ...] | None:
        """The services of the project as the engine itself keeps them, sorted; None where it keeps only containers. One
        cheap call. Raises EngineUnavailableError.
        """

    def noticing(self, project: Project) -> AbstractAsyncContextManager[ChangeNotice]:
        """Inside, the notice is set whenever a container of the project starts, ends, or is found healthy or not, as
        far as the engine says so: it may miss some, and raises nothing.
        """

    async def guests(self) -> tuple[Guest, ...]:
        """The containers on the engine that share a namespace or volumes with another one, in a manifest or not.

        Raises EngineUnavailableError.
        """

    async def require_names(
        self, project: Project, services: Sequence[str], scale: Mapping[str, int] | None = None
    ) -> None:
        """Make sure that no other container has a name which ``recreate`` needs; asks the engine.

        Raises NameTakenError, which says who has it, and EngineUnavailableError.
        """

    async def endings(self, containers: Collection[str]) -> Mapping[str, Ending]:
        """How these containers (ids) ended: those that ended lately and were not started again. The engine remembers
        little, and nothing once it was restarted. Raises EngineUnavailableError.
        """

    async def names_in_use(self, names: Collection[str]) -> frozenset[str]:
        """Those of the names that a container has, whoever made it. Raises EngineUnavailableError."""

    async def recreate(
        self, project: Project, services: Sequence[str], *, scale: Mapping[str, int] | None = None, force: bool = False
    ) -> None:
        """``up -d --no-deps`` for these services, run as the project was resolved; ``scale`` has the number of
        containers if it is not the project's; ``force`` if Compose itself would see no difference.

        Raises ModelRefusedError, EngineUnavailableError. ``restart`` and ``signal`` raise the latter.
        """

    async def restart(self, project: Project, services: Sequence[str]) -> None: ...

    async def signal(self, project: Project, service: str, signal: str) -> None: ...


class HttpProbe(Protocol):
    async def ok(self, check: HttpCheck) -> bool:
        """Whether the URL answers with the expected status."""
