"""Machines that are only read: this one, and one over SSH. Both implement the Machine port."""

from __future__ import annotations

import asyncio
import contextlib
import grp
import os
import posixpath
import pwd
import re
import stat
from collections.abc import Awaitable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from reconciler.adapters import process
from reconciler.adapters.imports import import_aiohttp, trust
from reconciler.adapters.ssh.connection import SshConnection
from reconciler.adapters.ssh.tunnel import tunnel_socket
from reconciler.core.errors import LiveFileError
from reconciler.core.inventory import FoundFile
from reconciler.core.model.commands import CommandResult
from reconciler.core.secret import Secret

if TYPE_CHECKING:
    from aiohttp import BaseConnector
    from asyncssh import SFTPAttrs, SFTPClient

MAX_FILE = 1024 * 1024
"""The most bytes of a file that are read; no env file is larger."""

_AT_ONCE = 32  # files read at the same time over one connection
_MOST_PRINTED = 4 * process.MIB
# Virtual file systems of the kernel: reading may block, or have side effects.
_KERNEL = ("/proc", "/sys", "/dev")
_ROOT = {0: "root"}
_ID = re.compile("[0-9]{1,10}")
_T = TypeVar("_T")


class LocalMachine:
    """This machine, as the current user."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        given = os.environ if environment is None else environment
        kept = ("PATH", "HOME", "LANG")
        self._environment = {
            name: value for name, value in given.items() if name in kept or name.startswith(("DOCKER_", "LC_"))
        }

    @property
    def name(self) -> str:
        return "this machine"

    async def read(self, path: str) -> FoundFile | None:
        _require_name(path)
        return await asyncio.to_thread(_read, path)

    async def list(self, directory: str) -> tuple[str, ...]:
        _require_name(directory)
        return await asyncio.to_thread(_list, directory)

    async def run(self, argv: Sequence[str], directory: str, seconds: float) -> CommandResult:
        if directory and not await asyncio.to_thread(os.path.isdir, directory):
            return CommandResult(None, Secret(b""), f"the directory {directory} does not exist")
        limits = process.Limits(timeout=seconds, stdout=_MOST_PRINTED)
        running = process.run(argv, env=self._environment, limits=limits, cwd=directory or "/")
        return await _ran(running, seconds)

    async def get(self, url: str, seconds: float) -> CommandResult:
        return await _get(url, seconds)


def _read(path: str) -> FoundFile | None:
    try:
        real = os.path.realpath(path)
        status = os.stat(real)
        if not stat.S_ISREG(status.st_mode) or _is_virtual(real):
            return None
        _refuse_large(path, status.st_size)
        # Non-blocking, in case a pipe replaces it meanwhile.
        with open(os.open(real, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            data = file.read(MAX_FILE + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _unreadable(path, (error.strerror or "unknown reason").lower()) from None
    _refuse_large(path, len(data))
    owner, group = _user_name(status.st_uid), _group_name(status.st_gid)
    return FoundFile(
        path, Secret(data), stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, owner=owner, group=group
    )


def _list(directory: str) -> tuple[str, ...]:
    try:
        if _is_virtual(os.path.realpath(directory)):
            return ()
        with os.scandir(directory) as entries:
            return tuple(sorted(f"{entry.name}/" if _is_directory(entry) else entry.name for entry in entries))
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except OSError as error:
        raise _unreadable(directory, (error.strerror or "unknown reason").lower()) from None


def _is_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or to where we may not look
        return False


def _user_name(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return ""


def _group_name(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return ""


class SshMachine:
    """A machine over one persistent connection: files by SFTP, many at the same time, commands by exec."""

    def __init__(self, connection: SshConnection) -> None:
        self._connection = connection
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._names: asyncio.Task[tuple[Mapping[int, str], Mapping[int, str]]] | None = None
        self._listed: dict[str, SFTPAttrs] = {}

    @property
    def name(self) -> str:
        return self._connection.name

    async def close(self) -> None:
        if self._names is not None:
            self._names.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await self._names
        await self._connection.close()

    async def read(self, path: str) -> FoundFile | None:
        file = await self._read(path)
        if file is None:
            return None
        data, attributes = file
        uid, gid = attributes.uid or 0, attributes.gid or 0
        users, groups = await self._names_of(uid, gid)
        mode = stat.S_IMODE(attributes.permissions or 0)
        return FoundFile(path, Secret(data), mode, uid, gid, owner=users.get(uid, ""), group=groups.get(gid, ""))

    async def _read(self, path: str) -> tuple[bytes, SFTPAttrs] | None:
        _require_name(path)
        async with self._slots:
            sftp = await self._connection.sftp()
            attributes, real = self._listed.get(path), path
            if attributes is None or not stat.S_ISREG(attributes.permissions or 0):
                named = await self._answer(path, sftp.realpath(path))
                if named is None or _is_virtual(real := _text(named)):
                    return None
                # Checked before it is opened: opening a pipe would block everything else.
                attributes = await self._answer(path, sftp.stat(real))
            if attributes is None or not stat.S_ISREG(attributes.permissions or 0):
                return None
            size = attributes.size or 0
            _refuse_large(path, size)
            data = await self._answer(path, _contents(sftp, real, size + 1))
            if data is None:
                return None
            _refuse_large(path, len(data))
            return data, attributes

    async def list(self, directory: str) -> tuple[str, ...]:
        _require_name(directory)
        sftp = await self._connection.sftp()
        named = await self._answer(directory, sftp.realpath(directory))
        if named is None or _is_virtual(real := _text(named)):
            return ()
        entries = [
            (_text(entry.filename), entry.attrs)
            for entry in await self._answer(directory, sftp.readdir(real)) or ()
            if _text(entry.filename) not in (".", "..")
        ]
        # An entry that was just listed needs no second stat before it is read.
        self._listed |= {posixpath.join(directory, name): attributes for name, attributes in entries}
        return tuple(sorted(await asyncio.gather(*(self._marked(directory, *entry) for entry in entries))))

    async def _marked(self, directory: str, name: str, attributes: SFTPAttrs) -> str:
        """The name, with a / where it is a directory or a link to one."""
        mode = attributes.permissions or 0
        if stat.S_ISLNK(mode):
            path = posixpath.join(directory, name)
            async with self._slots:
                sftp = await self._connection.sftp()
                with contextlib.suppress(LiveFileError):
                    led_to = await self._answer(path, sftp.stat(path))
                    mode = (led_to.permissions or 0) if led_to else mode
        return f"{name}/" if stat.S_ISDIR(mode) else name

    async def run(self, argv: Sequence[str], directory: str, seconds: float) -> CommandResult:
        limits = process.Limits(timeout=seconds, stdout=_MOST_PRINTED)
        return await _ran(self._connection.run(argv, limits=limits, directory=directory), seconds)

    async def get(self, url: str, seconds: float) -> CommandResult:
        """Request the URL from there."""
        import_aiohttp()
        import aiohttp

        async with tunnel_socket(self._connection, url) as path:
            return await _get(url, seconds, aiohttp.UnixConnector(path))

    async def _names_of(self, uid: int, gid: int) -> tuple[Mapping[int, str], Mapping[int, str]]:
        """Users and groups by number, read once for all files; root needs no lookup."""
        if uid == 0 and gid == 0:
            return _ROOT, _ROOT
        if self._names is None:
            self._names = asyncio.create_task(self._read_names())
        return await asyncio.shield(self._names)

    async def _read_names(self) -> tuple[Mapping[int, str], Mapping[int, str]]:
        users, groups = await asyncio.gather(self._list_of_names("/etc/passwd"), self._list_of_names("/etc/group"))
        return users, groups

    async def _list_of_names(self, path: str) -> dict[int, str]:
        with contextlib.suppress(LiveFileError):
            file = await self._read(path)
            lines = file[0].decode("utf-8", "replace").splitlines() if file else []
            fields = [line.split(":") for line in lines]
            return {int(field[2]): field[0] for field in reversed(fields) if len(field) > 2 and _ID.fullmatch(field[2])}
        return {}

    async def _answer(self, path: str, question: Awaitable[_T]) -> _T | None:
        """The answer, None where the path does not exist. Raises LiveFileError, HostUnreachableError."""
        import asyncssh

        try:
            async with self._connection.answering():
                return await question
        except (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath):
            return None
        except asyncssh.SFTPError as error:
            raise _unreadable(f"{self.name}{path}", error.reason.lower()) from None


async def _contents(sftp: SFTPClient, path: str, size: int) -> bytes:
    """At most ``size`` bytes of the file; requesting no more than it has saves round trips."""
    async with sftp.open(path, "rb") as file:
        data = await file.read(size)
    return data if isinstance(data, bytes) else data.encode()


def _text(name: bytes | str) -> str:
    return name.decode("utf-8", "surrogateescape") if isinstance(name, bytes) else name


def _is_virtual(path: str) -> bool:
    return any(path == root or path.startswith(f"{root}/") for root in _KERNEL)


def _refuse_large(path: str, size: int) -> None:
    if size > MAX_FILE:
        raise LiveFileError(f"is larger than {MAX_FILE // 1024} KiB", where=path, hint="No env file is that large")


def _require_name(path: str) -> None:
    """Raises LiveFileError for an impossible file name; an SFTP server would end the session over it."""
    if "\0" in path:
        raise _unreadable(path.replace("\0", "\\0"), "no file can have this name")


def _unreadable(path: str, reason: str) -> LiveFileError:
    return LiveFileError(f"cannot be read ({reason})", where=path, hint="Run this as a user who may read it")


async def _get(url: str, seconds: float, connector: BaseConnector | None = None) -> CommandResult:
    import_aiohttp()
    import aiohttp

    try:
        async with (
            aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=seconds)) as session,
            session.get(url, allow_redirects=False, ssl=trust(url)) as answer,
        ):
            data = b""
            async for chunk in answer.content.iter_chunked(64 * process.KIB):
                data += chunk
                if len(data) > _MOST_PRINTED:
                    return CommandResult(
                        None, Secret(b""), f"the answer has more than {_MOST_PRINTED // process.MIB} MiB"
                    )
            return CommandResult(answer.status, Secret(data))
    except TimeoutError:
        return CommandResult(None, Secret(b""), f"no answer within {seconds:g} s")
    except (aiohttp.ClientError, OSError):
        return CommandResult(None, Secret(b""), "no answer")


async def _ran(running: Awaitable[process.Completed], seconds: float) -> CommandResult:
    try:
        done = await running
    except process.MissingProgramError as missing:
        return CommandResult(None, Secret(b""), f"{missing.args[0]} is not installed")
    if done.timed_out:
        return CommandResult(None, Secret(b""), f"{done.program} timed out after {seconds:g} s")
    if done.overflowed:
        return CommandResult(None, Secret(b""), f"{done.program} printed more than {_MOST_PRINTED // process.MIB} MiB")
    return CommandResult(done.exit_code, Secret(done.stdout), error=Secret(done.stderr))
