"""Stacks on a machine over SSH: `docker compose` runs there, and a tunnel leads to its engine.

Staged files are there in memory only (/dev/shm), in a private directory, while Compose reads them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import posixpath
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from reconciler.adapters import process
from reconciler.adapters.compose import files as compose_files
from reconciler.adapters.compose.context import Staged, cannot_stage, reader
from reconciler.adapters.compose.engine_address import EngineAddress, config_path
from reconciler.adapters.compose.staging import ancestors
from reconciler.adapters.ssh.connection import SshConnection
from reconciler.core.compose_names import OFFLINE
from reconciler.core.model.compose import Invocation
from reconciler.core.secret import Secret

if TYPE_CHECKING:
    from asyncssh import SFTPAttrs, SFTPClient

_QUICK = process.Limits(timeout=20.0)


class SshComposeContext:
    """The ``ComposeContext`` of a stack on another machine.

    ``tunnel`` is the path of the local socket that leads to its Docker engine; ``memory`` a private directory there, on
    a file system in memory, for staged files: we create and remove it.
    """

    def __init__(self, connection: SshConnection, tunnel: str, memory: str) -> None:
        self._connection = connection
        self._tunnel = tunnel
        self._memory = memory
        self._login: Mapping[str, str] | None = None
        self._staging = asyncio.Lock()

    async def engine(self) -> EngineAddress:
        await self._connection.connected()
        return EngineAddress(f"unix://{self._tunnel}", None, self._connection.name)

    async def run(
        self,
        argv: Sequence[str],
        directory: str,
        limits: process.Limits,
        stdin: bytes | None = None,
        *,
        fetches: bool = False,
    ) -> process.Completed:
        login = await self._environment()
        given = {name: value for name, value in login.items() if name.startswith("DOCKER_")}
        env = {**given, "PWD": directory, **({} if fetches else OFFLINE)}
        return await self._connection.run(argv, directory=directory, env=env, limits=limits, stdin=stdin or b"")

    async def docker_config(self) -> bytes | None:
        return await self.read_file(config_path(await self._environment()))

    async def configuration(self, invocation: Invocation, staged: Staged) -> compose_files.Configuration:
        return await self._reading(compose_files.read_configuration, invocation, staged)

    async def main_files(self, invocation: Invocation) -> tuple[str, ...]:
        return (await self._reading(compose_files.choose, invocation, {})).main

    async def _reading(
        self,
        walk: Callable[[Invocation, Mapping[str, str], compose_files.Read], compose_files.Configuration],
        invocation: Invocation,
        staged: Staged,
    ) -> compose_files.Configuration:
        """Run a walk through files there: a plain function, and so beside the loop."""
        environment = {**await self._environment(), "PWD": invocation.directory}
        loop = asyncio.get_running_loop()

        def read(path: str) -> bytes | None:
            # The walk through includes is synchronous, so it runs in a thread.
            return asyncio.run_coroutine_threadsafe(self.read_file(path), loop).result()

        return await asyncio.to_thread(walk, invocation, environment, reader(staged, read))

    async def has_directory(self, path: str) -> bool:
        sftp = await self._connection.sftp()
        async with self._connection.answering():
            return await sftp.isdir(path)

    async def has_file(self, path: str) -> bool:
        sftp = await self._connection.sftp()
        async with self._connection.answering():
            return await sftp.isfile(path)

    async def resolve(self, path: str) -> str:
        return await resolve_path(self._connection, path)

    async def process_on_port(self, port: int) -> str:
        return ""  # only a program could tell, and it need not be installed there

    @contextlib.asynccontextmanager
    async def farm(self, directory: str, staged: Staged) -> AsyncIterator[str]:
        """Like compose/staging.py locally: links to existing files, and to the staged ones, which are in memory."""
        async with self._staging, staging_directory(self._connection, self._memory) as root:
            sftp, farm = await self._connection.sftp(), f"{root}/farm"
            for ancestor in ancestors(directory, staged):
                async with self._connection.answering():
                    await self._mirror(farm, ancestor)
            for number, (path, data) in enumerate(staged.items()):
                async with self._connection.answering():
                    with contextlib.suppress(FileNotFoundError):
                        await _unlink(sftp, farm + path)
                    if data is not None:
                        await put_private(self._connection, f"{root}/{number}", data)
                        await sftp.symlink(f"{root}/{number}", farm + path)
            yield farm

    async def _mirror(self, farm: str, directory: str) -> None:
        """Create ``directory`` in the farm, filled with links to its entries."""
        sftp, inside = await self._connection.sftp(), farm + directory.rstrip("/")
        with contextlib.suppress(FileNotFoundError):
            await _unlink(sftp, inside)
        await sftp.mkdir(inside, _attributes(0o700))
        names = await list_directory(self._connection, directory)
        await asyncio.gather(
            *(sftp.symlink(posixpath.join(directory, name), posixpath.join(inside, name)) for name in names)
        )

    async def read_file(self, path: str) -> bytes | None:
        import asyncssh

        sftp = await self._connection.sftp()
        try:
            async with self._connection.answering():
                if not await sftp.isfile(path):  # a device or pipe may never end
                    return None
            async with self._connection.answering(), sftp.open(path, "rb") as file:
                data = await file.read()
                return data if isinstance(data, bytes) else None
        except asyncssh.SFTPError:
            return None

    async def _environment(self) -> Mapping[str, str]:
        """The part of the login's environment that Compose gets."""
        if self._login is None:
            names = ("HOME", "PATH", "DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG")
            script = "".join(f'printf "%s\\n" "{name}=${name}"; ' for name in names)
            done = await self._connection.run(["sh", "-c", script], limits=_QUICK)
            pairs = (line.split("=", 1) for line in done.stdout.decode(errors="replace").splitlines() if "=" in line)
            self._login = {name: value for name, value in pairs if value}
        return self._login


async def resolve_path(connection: SshConnection, path: str) -> str:
    """``path`` there with every link resolved, as far as it exists."""
    import asyncssh

    sftp = await connection.sftp()
    rest: list[str] = []
    while True:
        try:
            async with connection.answering():
                resolved = str(await sftp.realpath(path or "/"))
            return posixpath.join(resolved, *reversed(rest))
        except asyncssh.SFTPError:  # it does not exist, or we may not see it
            if path in ("", "/"):
                return posixpath.join("/", *reversed(rest))
            path, name = posixpath.split(path)
            rest.append(name)


async def list_directory(connection: SshConnection, directory: str) -> list[str]:
    """Names in the directory; none where it does not exist or may not be read."""
    import asyncssh

    sftp = await connection.sftp()
    try:
        names = await sftp.listdir(directory)
    except (asyncssh.SFTPNoSuchFile, asyncssh.SFTPPermissionDenied, asyncssh.SFTPNotADirectory, asyncssh.SFTPFailure):
        return []
    return [os.fsdecode(name) for name in names if name not in (".", "..", b".", b"..")]


async def flush_directory(connection: SshConnection, directory: str, limits: process.Limits) -> None:
    """Flush the directory there to disk. Coreutils' sync takes a path; any other implementation flushes everything."""
    script = 'sync -- "$1" 2>/dev/null || sync'
    await connection.run(["sh", "-c", script, "sh", directory], limits=limits)


@contextlib.asynccontextmanager
async def staging_directory(connection: SshConnection, memory: str) -> AsyncIterator[str]:
    """Create the directory ``memory`` there, 0700, and remove it with its contents at the end.

    Leftovers of a killed process are removed first.
    """
    import asyncssh

    sftp = await connection.sftp()
    remove = ["rm", "-rf", "--", memory]
    try:
        await connection.run(remove, limits=_QUICK)
        async with connection.answering():
            await sftp.mkdir(memory, _attributes(0o700))
    except asyncssh.SFTPError as error:
        hint = "Provide a file system in memory at /dev/shm, with free space, so that no secret touches the disk"
        raise cannot_stage(error.reason, f"{connection.name}: {memory}", hint) from None
    try:
        yield memory
    except asyncssh.SFTPError as error:
        raise cannot_stage(error.reason, f"{connection.name}: {memory}", "Free some space in it") from None
    finally:
        await connection.run(remove, limits=_QUICK)


async def put_private(connection: SshConnection, path: str, data: Secret) -> None:
    """Write a new file, 0600, in a private directory."""
    sftp = await connection.sftp()
    async with sftp.open(path, "xb", attrs=_attributes(0o600)) as file:
        await file.write(data.reveal())


async def _unlink(sftp: SFTPClient, path: str) -> None:
    import asyncssh

    try:
        await sftp.unlink(path)
    except asyncssh.SFTPNoSuchFile:
        raise FileNotFoundError from None


def _attributes(mode: int) -> SFTPAttrs:
    import asyncssh

    return asyncssh.SFTPAttrs(permissions=mode)
