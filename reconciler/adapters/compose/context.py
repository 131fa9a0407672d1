"""Where a stack lives: what DockerCompose needs of a machine. This one here; one over SSH in ssh_place.py."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from reconciler.adapters import process
from reconciler.adapters.compose import files as compose_files
from reconciler.adapters.compose import staging
from reconciler.core.errors import EngineUnavailableError
from reconciler.core.secret import Secret

Staged = Mapping[str, Secret | None]
"""Absolute path → bytes; None for a file that is to be gone."""


@dataclass(frozen=True, slots=True)
class EngineAddress:
    """How the Docker engine is reached from here: ``url`` and ``context`` as in DOCKER_HOST and DOCKER_CONTEXT, None
    for the usual ones; ``shown`` for messages."""

    url: str | None = None
    context: str | None = None
    shown: str = ""


class Place(Protocol):
    """The machine of some stacks. Everything raises EngineUnavailableError where it cannot be reached."""

    async def engine(self) -> EngineAddress: ...

    async def run(self, argv: Sequence[str], directory: str, limits: process.Limits) -> process.Completed:
        """Run a docker command there. Raises MissingProgramError."""
        ...

    async def configuration(self, directory: str, files: Sequence[str], staged: Staged) -> compose_files.Configuration:
        """What Compose would read, as if the staged files were in place."""
        ...

    async def has_directory(self, path: str) -> bool: ...

    async def has_file(self, path: str) -> bool: ...

    async def resolve(self, path: str) -> str:
        """``path`` with every link resolved."""
        ...

    def farm(self, directory: str, staged: Staged) -> contextlib.AbstractAsyncContextManager[str]:
        """Surroundings of the stack's directory with the staged files in place: see compose_stage.py."""
        ...


class LocalPlace:
    """This machine. ``scratch`` is where staged projects are laid out; ``environment`` is the process's own."""

    def __init__(self, scratch: str, environment: Mapping[str, str]) -> None:
        self._scratch = scratch
        self._environment = {
            name: value for name, value in environment.items() if name in ("PATH", "HOME") or name.startswith("DOCKER_")
        }

    async def engine(self) -> EngineAddress:
        url = self._environment.get("DOCKER_HOST")
        return EngineAddress(url, None if url else self._environment.get("DOCKER_CONTEXT"), url or "")

    async def run(self, argv: Sequence[str], directory: str, limits: process.Limits) -> process.Completed:
        return await process.run(argv, env=self._environment_in(directory), cwd=directory, limits=limits)

    async def configuration(self, directory: str, files: Sequence[str], staged: Staged) -> compose_files.Configuration:
        return compose_files.find(directory, files, self._environment_in(directory), reader(staged))

    async def has_directory(self, path: str) -> bool:
        return os.path.isdir(path)  # noqa: ASYNC240  # on this machine that is a matter of microseconds

    async def has_file(self, path: str) -> bool:
        return compose_files.read_file(path) is not None

    async def resolve(self, path: str) -> str:
        return os.path.realpath(path)  # noqa: ASYNC240

    @contextlib.asynccontextmanager
    async def farm(self, directory: str, staged: Staged) -> AsyncIterator[str]:
        try:
            with staging.farm(self._scratch, directory, staged) as root:
                yield root
        except OSError as error:
            raise cannot_stage(error.strerror or "", error.filename or self._scratch) from error

    def _environment_in(self, directory: str) -> dict[str, str]:
        """What Compose is given. It takes the project's default name, and `${PWD}`, from how the directory is typed."""
        return {**self._environment, "PWD": directory}


def reader(staged: Staged, read: compose_files.Read = compose_files.read_file) -> compose_files.Read:
    """Reads a file as if the staged ones were in place."""

    def read_staged(path: str) -> bytes | None:
        if path in staged:
            data = staged[path]
            return None if data is None else data.reveal()
        return read(path)

    return read_staged


def cannot_stage(why: str, where: str, hint: str = "state_dir must be writable, with room in it") -> Exception:
    return EngineUnavailableError(f"cannot lay out the files for a trial: {why}", where=where, hint=hint)
