"""Docker Compose and the engine: projects, containers, and what is done to services."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from reconciler.core.model.compose import Container, Project
from reconciler.core.model.targets import HttpCheck, Stack
from reconciler.core.secret import Secret


class Compose(Protocol):
    async def project(self, stack: Stack, staged: Mapping[str, Secret | None] | None = None) -> Project:
        """The project as Compose resolves it, all profiles.

        ``staged`` (absolute path → bytes, None: removed) resolves it as if those files were in place, without a write;
        a file that the compose file reaches only by an absolute path is not seen. Raises ModelRefusedError (Compose
        refuses; says why without quoting a value), EngineUnavailableError (no docker, no compose file).
        """
        ...

    async def project_files(self, stack: Stack) -> frozenset[str]:
        """Absolute paths of the files Compose reads as project configuration, whether they exist or not."""
        ...

    async def environment_files(self, stack: Stack) -> frozenset[str]:
        """Absolute paths of the files whose COMPOSE_* and DOCKER_* keys change what Compose runs (the .env)."""
        ...

    async def containers(self, stack: Stack, project: str | None) -> tuple[Container, ...]:
        """Containers of the project, by their labels (by the stack's directory if the name is unknown).

        Raises EngineUnavailableError.
        """
        ...

    async def glance(self, stack: Stack) -> tuple[Container, ...]:
        """The stack's containers from one cheap call: only their id, service, state, health and exit code.

        Raises EngineUnavailableError.
        """
        ...

    async def recreate(self, stack: Stack, project: str, services: Sequence[str], *, force: bool = False) -> None:
        """``up -d --no-deps`` for these services; ``force`` if Compose itself would see no difference.

        Raises ModelRefusedError, EngineUnavailableError. ``restart`` and ``signal`` raise the latter.
        """
        ...

    async def restart(self, stack: Stack, project: str, services: Sequence[str]) -> None: ...

    async def signal(self, stack: Stack, project: str, service: str, signal: str) -> None: ...


class HttpProbe(Protocol):
    async def ok(self, check: HttpCheck) -> bool:
        """Whether the URL answers with the expected status."""
        ...
