"""What DockerCompose needs of the machine where a stack runs: this one here, one over SSH in ssh/compose_context.py."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol

from reconciler.adapters import process
from reconciler.adapters.compose import files as compose_files
from reconciler.adapters.compose import staging
from reconciler.adapters.compose.engine_address import EngineAddress, config_path, find_engine
from reconciler.adapters.compose.plugin import compose_command
from reconciler.adapters.compose.port_owner import process_words
from reconciler.adapters.disk import disk_reason
from reconciler.core.compose_names import OFFLINE
from reconciler.core.errors import EngineUnavailableError
from reconciler.core.model.compose import Invocation
from reconciler.core.secret import Secret

Staged = Mapping[str, Secret | None]
"""Absolute path → bytes; None for a file that is to be gone."""


class ComposeContext(Protocol):
    """The machine of some stacks. Everything raises EngineUnavailableError where it cannot be reached."""

    async def engine(self) -> EngineAddress: ...

    async def run(
        self,
        argv: Sequence[str],
        directory: str,
        limits: process.Limits,
        stdin: bytes | None = None,
        *,
        fetches: bool = False,
    ) -> process.Completed:
        """Run a docker command there; only where it ``fetches``, Compose may fetch what a project includes. Raises
        MissingProgramError."""

    async def docker_config(self) -> bytes | None:
        """The configuration of the docker command as ``run`` runs it; None where there is none."""

    async def configuration(self, invocation: Invocation, staged: Staged) -> compose_files.Configuration:
        """What Compose would read, as if the staged files were in place."""

    async def main_files(self, invocation: Invocation) -> tuple[str, ...]:
        """The compose files that Compose would begin with."""

    async def has_directory(self, path: str) -> bool: ...

    async def has_file(self, path: str) -> bool: ...

    async def read_file(self, path: str) -> bytes | None:
        """Its bytes; None where there is none that we may read."""

    async def resolve(self, path: str) -> str:
        """``path`` with every link resolved."""

    async def process_on_port(self, port: int) -> str:
        """The process that listens on the port there, for a message; "" where that is not known."""

    def farm(self, directory: str, staged: Staged) -> contextlib.AbstractAsyncContextManager[str]:
        """Surroundings of the stack's directory with the staged files in place: see staging.py."""


class LocalComposeContext:
    """This machine. ``scratch`` is where staged projects are laid out, ``in_memory`` if that is possible;
    ``environment`` is the process's own."""

    def __init__(self, scratch: str, environment: Mapping[str, str], *, in_memory: bool = False) -> None:
        self._scratch = scratch
        self._in_memory = in_memory
        self._environment = {
            name: value for name, value in environment.items() if name in ("PATH", "HOME") or name.startswith("DOCKER_")
        }
        self._address: EngineAddress | None = None

    async def engine(self) -> EngineAddress:
        if self._address is None:
            self._address = find_engine(self._environment)
        return self._address

    async def run(
        self,
        argv: Sequence[str],
        directory: str,
        limits: process.Limits,
        stdin: bytes | None = None,
        *,
        fetches: bool = False,
    ) -> process.Completed:
        environment = {**self._environment_in(directory), **({} if fetches else OFFLINE)}
        if not environment.get("DOCKER_HOST"):
            environment["DOCKER_CONTEXT"] = (await self.engine()).chosen
        command, environment = compose_command(argv, environment)
        return await process.run(command, env=environment, cwd=directory, limits=limits, stdin=stdin)

    async def docker_config(self) -> bytes | None:
        return compose_files.read_file(config_path(self._environment))

    async def configuration(self, invocation: Invocation, staged: Staged) -> compose_files.Configuration:
        environment = self._environment_in(invocation.directory)
        return compose_files.read_configuration(invocation, environment, reader(staged))

    async def main_files(self, invocation: Invocation) -> tuple[str, ...]:
        return compose_files.choose(invocation, self._environment_in(invocation.directory)).main

    async def has_directory(self, path: str) -> bool:
        return os.path.isdir(path)  # noqa: ASYNC240  # on this machine that is a matter of microseconds

    async def has_file(self, path: str) -> bool:
        return compose_files.read_file(path) is not None

    async def read_file(self, path: str) -> bytes | None:
        return compose_files.read_file(path)

    async def resolve(self, path: str) -> str:
        return os.path.realpath(path)  # noqa: ASYNC240

    async def process_on_port(self, port: int) -> str:
        return process_words(port)

    @contextlib.asynccontextmanager
    async def farm(self, directory: str, staged: Staged) -> AsyncIterator[str]:
        memory = staging.memory_directory() if self._in_memory else ""
        with contextlib.ExitStack() as stack:
            try:
                root = self._laid_out(stack, memory, directory, staged)
            except OSError as error:
                raise cannot_stage(disk_reason(error, self._scratch), error.filename or self._scratch) from error
            yield root

    def _laid_out(self, stack: contextlib.ExitStack, memory: str, directory: str, staged: Staged) -> str:
        """The farm in memory; on disk where that has no room, which anybody may have used up. Raises OSError."""
        if memory:
            with contextlib.suppress(OSError):
                return stack.enter_context(staging.farm(memory, directory, staged))
        return stack.enter_context(staging.farm(self._scratch, directory, staged))

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


def cannot_stage(reason: str, where: str, hint: str = "state_dir must be writable, with room in it") -> Exception:
    return EngineUnavailableError(f"cannot stage the files for a dry run: {reason}", where=where, hint=hint)
