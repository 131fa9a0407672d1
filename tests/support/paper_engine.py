"""A Compose port whose containers are lines in a file: they outlive the process, and cost nothing.

For tests that need a thousand passes. What Compose and the engine really do is tested on them.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from reconciler.adapters.clock import SystemClock
from reconciler.core.dotenv.interpolation import resolve_env_file
from reconciler.core.model.compose import (
    Container,
    DeployedService,
    Ending,
    Guest,
    Invocation,
    Project,
    ProjectFiles,
    Service,
)
from reconciler.core.model.targets import Stack
from reconciler.core.secret import Secret

SERVICES = ("api", "worker")


def source_of(service: str) -> str:
    """The env file of a service, in the stack's directory."""
    return f"{service}.env"


class PaperEngine:
    """Two services, api and worker, each with the variables of its own file; MODE=bad makes one unhealthy.

    ``step`` is called before and after each change.
    """

    def __init__(self, path: str, step: Callable[[str], None]) -> None:
        self._path = Path(path)
        self._step = step

    async def close(self) -> None:
        pass

    async def follow(self, touched: Callable[[], None], directories: Callable[[], Collection[str]]) -> None:
        """Nothing here happens by itself."""

    async def project(self, stack: Stack, staged: Mapping[str, Secret | None] | None = None) -> Project:
        self._step("compose config")
        paths = {name: f"{stack.directory}/{source_of(name)}" for name in SERVICES}
        services = {name: _service(name, path, variables(_data(path, staged or {}))) for name, path in paths.items()}
        return Project("app", services, Invocation(stack.directory))

    async def is_current(self, stack: Stack, project: Project) -> bool:
        return False

    async def project_files(self, stack: Stack, staged: Mapping[str, Secret | None] | None = None) -> ProjectFiles:
        return ProjectFiles(frozenset({f"{stack.directory}/compose.yaml"}), frozenset({f"{stack.directory}/.env"}))

    async def other_project_files(self) -> ProjectFiles:
        return ProjectFiles(frozenset(), frozenset())

    async def images(self, references: Collection[str]) -> Mapping[str, Mapping[str, Any]]:
        return {}

    async def own_hash(self, project: Project, service: str) -> tuple[str, str]:
        return "", ""

    async def deployed(self, stack: Stack, project: str | None) -> tuple[DeployedService, ...] | None:
        return None

    @contextlib.asynccontextmanager
    async def noticing(self, project: Project) -> AsyncIterator[asyncio.Event]:
        yield asyncio.Event()

    async def guests(self) -> tuple[Guest, ...]:
        return ()

    async def containers(self, stack: Stack, project: str | None) -> tuple[Container, ...]:
        self._step("engine inspect")
        return containers(self._path)

    async def glance(self, stack: Stack) -> tuple[Container, ...]:
        return containers(self._path)

    async def require_names(
        self, project: Project, services: Sequence[str], scale: Mapping[str, int] | None = None
    ) -> None:
        """Nobody else has containers here."""

    async def endings(self, containers: Collection[str]) -> Mapping[str, Ending]:
        return {}

    async def names_in_use(self, names: Collection[str]) -> frozenset[str]:
        return frozenset()

    async def recreate(
        self, project: Project, services: Sequence[str], *, scale: Mapping[str, int] | None = None, force: bool = False
    ) -> None:
        """One service after the other. As in Compose, the same variables mean no change, unless forced."""
        for name in services:
            now = {container.service: container for container in containers(self._path)}
            desired = variables(_data(f"{project.invocation.directory}/{source_of(name)}", {}))
            if force or name not in now or now[name].environment != desired:
                self._step(f"compose up {name}")
                now[name] = _container(name, desired)
                _store(self._path, now)
        self._step("compose up, ended")

    async def restart(self, project: Project, services: Sequence[str]) -> None:
        raise NotImplementedError

    async def signal(self, project: Project, service: str, signal: str) -> None:
        raise NotImplementedError


class QuickClock(SystemClock):
    """Waiting takes no time, but the clock shows that it has passed."""

    def __init__(self) -> None:
        self._waited = 0.0

    def now(self) -> float:
        return super().now() + self._waited

    def monotonic(self) -> float:
        return super().monotonic() + self._waited

    async def sleep(self, seconds: float) -> None:
        self._waited += seconds


def containers(path: Path) -> tuple[Container, ...]:
    """The containers there are now."""
    if not path.exists():
        return ()
    return tuple(Container(**facts) for facts in json.loads(path.read_text()).values())


def start_all(path: Path, directory: Path) -> None:
    """As `docker compose up` would, by hand."""
    _store(path, {name: _container(name, variables((directory / source_of(name)).read_bytes())) for name in SERVICES})


def variables(data: bytes) -> dict[str, str]:
    return resolve_env_file(data, {})


def _data(path: str, staged: Mapping[str, Secret | None]) -> bytes:
    if path in staged:
        data = staged[path]
        return b"" if data is None else data.reveal()
    return Path(path).read_bytes() if os.path.exists(path) else b""


def _service(name: str, path: str, environment: Mapping[str, str]) -> Service:
    definition = json.dumps({"service": {"environment": dict(environment)}})
    env_files = frozenset({path})
    return Service(name, Secret(definition.encode()), environment, env_files=env_files)


def _container(name: str, environment: Mapping[str, str]) -> Container:
    health = "unhealthy" if environment.get("MODE") == "bad" else "healthy"
    identity = os.urandom(8).hex()
    return Container(identity, name, "running", health, started_at=identity, environment=dict(environment))


def _store(path: Path, running: Mapping[str, Container]) -> None:
    data: dict[str, Any] = {name: dataclasses.asdict(container) for name, container in running.items()}
    new = path.with_suffix(".new")
    new.write_text(json.dumps(data))
    new.rename(path)
