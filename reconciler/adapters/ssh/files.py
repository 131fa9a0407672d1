"""Live files on another machine, over SFTP, with the guarantees of local/files.py as far as SFTP allows.

Links are not followed: the directory of a file, with all links resolved there, must be the one in its path, and the
file itself not a link. A new file gets its owner and mode before its first byte, is fsynced, and appears by an atomic
rename; `sync` flushes the directory. The replaced file keeps a second name until it was examined: an edit made since
the caller read the file is restored. What SFTP cannot do: exchange two files in one step, so another file that is
*renamed* to the live path in the instant between two requests is lost; and detect whether a process has the file open
for writing.
"""

from __future__ import annotations

import asyncio
import contextlib
import posixpath
import stat
import time
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from reconciler.adapters import process
from reconciler.adapters.local.live_files import (
    by_directory,
    changed,
    edit_of,
    left_beside,
    new_name,
    require_regular,
    require_small,
)
from reconciler.adapters.local.mounted_files import by_name, mounted_at
from reconciler.adapters.ssh.compose_context import (
    flush_directory,
    list_directory,
    put_private,
    resolve_path,
    staging_directory,
)
from reconciler.adapters.ssh.connection import SshConnection
from reconciler.adapters.ssh.stamps import stamps_of
from reconciler.core.decide.editors import editor_sentence
from reconciler.core.decide.guards import is_below
from reconciler.core.errors import ChangedMeanwhileError, GuardError, LiveFileError
from reconciler.core.model.compose import Sight
from reconciler.core.model.targets import Check, FileStamp, LiveFile, Ownership
from reconciler.core.secret import Secret

if TYPE_CHECKING:
    from asyncssh import SFTPAttrs, SFTPClient, SFTPError

_QUICK = process.Limits(timeout=20.0)
_CHECK = process.Limits(timeout=30.0)
# How a file compares with another one: see _SIGHTS.
_COMPARE = (
    'a=$(stat -L -c %d:%i "$1") && b=$(stat -c %d:%i "$2") || exit 3; [ "$a" = "$b" ] && exit 0; '
    'cmp -s "$1" "$2"; case $? in 0) exit 4;; 1) exit 5;; *) exit 3;; esac'
)
_SIGHTS = {0: Sight.SAME, 4: Sight.EQUAL, 5: Sight.OTHER}
_REMEMBER_IDS = 300.0  # seconds: a user is rarely recreated
_HINTS = {
    "permission": "Its directory must be writable for the user we log in as there",
    "failure": "Is the disk full, or mounted read-only? See `df` and `mount`",
}


class SshHost:
    """The ``Host`` port for a machine over SSH. ``memory``: see compose_context.py."""

    def __init__(self, connection: SshConnection, allowed_paths: Sequence[str], memory: str) -> None:
        self._connection = connection
        self._allowed = tuple(posixpath.normpath(path) for path in allowed_paths)
        self._memory = memory
        self._ids: dict[tuple[str, str], tuple[int, float]] = {}
        self._cleared = False

    async def reach(self) -> None:
        await self._connection.sftp()

    async def read(self, path: str) -> LiveFile | None:
        import asyncssh

        sftp = await self._connection.sftp()
        try:
            async with self._connection.answering():
                await self._require_real_path(sftp, path)
                return await _read(sftp, path)
        except (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNotADirectory):
            return None
        except asyncssh.SFTPError as error:
            raise self._error("cannot read the live file", path, error) from None

    async def read_all(self, paths: Collection[str]) -> Mapping[str, LiveFile | LiveFileError | None]:
        files = await asyncio.gather(*map(self._read_or_error, paths))  # each takes some round trips
        return dict(zip(paths, files, strict=True))

    async def _read_or_error(self, path: str) -> LiveFile | LiveFileError | None:
        try:
            return await self.read(path)
        except LiveFileError as error:
            return error

    async def stamps(self, paths: Collection[str]) -> Mapping[str, FileStamp | None]:
        allowed = [path for path in paths if any(is_below(path, root) for root in self._allowed)]
        return await stamps_of(self._connection, {path: self._root(path) for path in allowed})

    async def editor(self, path: str, live: LiveFile | None) -> str:
        return editor_sentence((), None, f"uid {live.uid}" if live else "")

    async def write(
        self,
        path: str,
        data: Secret,
        *,
        mode: int,
        ownership: Ownership,
        replaces: LiveFile | None,
        in_place: bool = False,
    ) -> None:
        import asyncssh

        if in_place and replaces is not None:  # SFTP shows neither its other names nor who has it open
            where = f"{self._connection.name}: {path}"
            hint = "Set write: replace"
            raise LiveFileError("cannot be written in place over SSH", where=where, hint=hint, id="not-in-place")
        sftp = await self._connection.sftp()
        try:
            async with self._connection.answering():
                await self._make_parents(sftp, path, ownership)
                await self._require_real_path(sftp, path)
                if replaces is None:
                    await _create(sftp, path, data, mode, ownership)
                else:
                    await _replace(sftp, path, data, mode, ownership, replaces)
            await flush_directory(self._connection, posixpath.dirname(path), _QUICK)
        except asyncssh.SFTPError as error:
            raise self._error("cannot write the live file", path, error) from None

    async def remove(self, path: str, *, replaces: LiveFile) -> None:
        import asyncssh

        sftp = await self._connection.sftp()
        try:
            async with self._connection.answering():
                await self._require_real_path(sftp, path)
                await _remove(sftp, path, replaces)
            await flush_directory(self._connection, posixpath.dirname(path), _QUICK)
        except asyncssh.SFTPNoSuchFile:
            return
        except asyncssh.SFTPError as error:
            raise self._error("cannot delete the live file", path, error) from None

    async def sight(self, path: str, container: str, pid: int, inside: str) -> Sight:
        """Needs no rights there to see that the file was deleted, and root's to compare the two."""
        mounts = await self._connection.run(["cat", f"/proc/{pid}/mountinfo"], limits=_QUICK)
        mounted = mounted_at(mounts.stdout.decode("utf-8", "surrogateescape"), container, inside)
        if not mounts.ok or mounted is None:
            return Sight.UNKNOWN
        argv = ["sh", "-c", _COMPARE, "sh", f"/proc/{pid}/root{inside}", path]
        compared = await self._connection.run(argv, limits=_QUICK)
        return _SIGHTS.get(compared.exit_code) or by_name(mounted, path)

    async def leftovers(self, paths: Collection[str]) -> Mapping[str, tuple[str, ...]]:
        if not self._cleared:  # what a killed process had staged
            await self._connection.run(["rm", "-rf", "--", self._memory, f"{self._memory}-check"], limits=_QUICK)
            self._cleared = True
        leftovers: dict[str, tuple[str, ...]] = {}
        for directory, names in by_directory(paths).items():
            async with self._connection.answering():
                leftovers |= left_beside(directory, names, await list_directory(self._connection, directory))
        return leftovers

    async def ownership(self, owner: str | None, group: str | None) -> Ownership:
        return Ownership(await self._id("passwd", "user", owner), await self._id("group", "group", group))

    async def new_owner(self, path: str) -> Ownership:
        import asyncssh

        done = await self._connection.run(["sh", "-c", "id -u; id -g"], limits=_QUICK)
        numbers = [int(word) for word in done.stdout.split() if word.isdigit()]
        if len(numbers) != 2:
            raise GuardError("`id` does not show our user and group", where=self._connection.name)
        uid, gid = numbers
        sftp = await self._connection.sftp()
        with contextlib.suppress(asyncssh.SFTPError):
            async with self._connection.answering():
                directory = await sftp.stat(posixpath.dirname(path))
            if (directory.permissions or 0) & stat.S_ISGID and directory.gid is not None:
                gid = directory.gid
        return Ownership(uid, gid)

    async def resolve(self, path: str) -> str:
        return await resolve_path(self._connection, path)

    async def check(self, check: Check, data: Secret) -> None:
        """The staged bytes are there in memory only."""
        import asyncssh

        where = f"check {check.name}"
        try:
            async with staging_directory(self._connection, f"{self._memory}-check") as directory:
                async with self._connection.answering():
                    await put_private(self._connection, f"{directory}/staged", data)
                argv = [part.replace("{file}", f"{directory}/staged") for part in check.argv]
                done = await self._connection.run(argv, limits=_CHECK)
        except process.MissingProgramError as error:
            hint = f"Install it on {self._connection.name}, or correct checks in the server configuration"
            raise GuardError(f"the check's program {error.args[0]} is not installed", where=where, hint=hint) from None
        except asyncssh.SFTPError as error:
            raise self._error("cannot stage the file for its check", self._memory, error) from None
        if not done.ok:
            reason = "timed out" if done.timed_out else f"exit code {done.exit_code}"
            hint = f"Run `{' '.join(check.argv)}` on {self._connection.name} manually on the decrypted file"
            raise GuardError(f"the check rejects the new file ({reason})", where=where, hint=hint)

    # --- paths ---

    def _root(self, path: str) -> str:
        roots = [allowed for allowed in self._allowed if is_below(path, allowed)]
        if not roots:
            hint = f"Allowed: {', '.join(self._allowed)}"
            raise LiveFileError("lies outside allowed_paths", where=path, hint=hint, id="outside-allowed-paths")
        return max(roots, key=len)  # the deepest: it may be listed because it is behind a link

    async def _require_real_path(self, sftp: SFTPClient, path: str) -> None:
        """Raises LiveFileError where a link below the allowed path leads elsewhere, SFTPNoSuchFile where a directory is
        missing."""
        await self._require_real_directory(sftp, path, posixpath.dirname(path))

    async def _require_real_directory(self, sftp: SFTPClient, path: str, directory: str) -> None:
        root = self._root(path)
        resolved_root, resolved = await asyncio.gather(sftp.realpath(root), sftp.realpath(directory))
        expected = posixpath.normpath(posixpath.join(str(resolved_root), posixpath.relpath(directory, root)))
        if str(resolved) != expected:
            hint = "Links are never followed: name the real path in the manifest"
            where = f"{self._connection.name}: {path}"
            raise LiveFileError("a link is in the place of a directory", where=where, hint=hint, id="link-on-the-way")

    async def _make_parents(self, sftp: SFTPClient, path: str, ownership: Ownership) -> None:
        import asyncssh

        root = self._root(path)
        missing: list[str] = []
        directory = posixpath.dirname(path)
        while directory != root and is_below(directory, root):
            try:
                await sftp.lstat(directory)
                break
            except asyncssh.SFTPNoSuchFile:
                missing.append(directory)
                directory = posixpath.dirname(directory)
        if missing:
            await self._require_real_directory(sftp, path, directory)
        for directory in reversed(missing):
            with contextlib.suppress(
                asyncssh.SFTPFailure, asyncssh.SFTPFileAlreadyExists
            ):  # another process was faster
                await sftp.mkdir(directory, asyncssh.SFTPAttrs(permissions=0o755))
            await sftp.setstat(directory, _attributes(0o755, ownership, await sftp.lstat(directory)))

    # --- names ---

    async def _id(self, database: str, kind: str, name: str | None) -> int | None:
        if name is None:
            return None
        if name.isdecimal():
            return int(name)
        known, at = self._ids.get((kind, name), (0, float("-inf")))
        if time.monotonic() - at > _REMEMBER_IDS:
            known = await self._look_up(database, kind, name)
            self._ids[kind, name] = known, time.monotonic()
        return known

    async def _look_up(self, database: str, kind: str, name: str) -> int:
        script = 'getent "$1" "$2" 2>/dev/null || grep "^$2:" "/etc/$1"'
        done = await self._connection.run(["sh", "-c", script, "sh", database, name], limits=_QUICK)
        fields = done.stdout.decode(errors="replace").split("\n")[0].split(":")
        if len(fields) > 2 and fields[0] == name and fields[2].isdecimal():
            return int(fields[2])
        hint = (
            f"Create it there (`{'useradd' if kind == 'user' else 'groupadd'} --system {name}`) or correct the manifest"
        )
        problem = f"the {kind} {name!r} does not exist on {self._connection.name}"
        raise GuardError(problem, hint=hint, id="unknown-owner")

    def _error(self, failure: str, path: str, error: SFTPError) -> LiveFileError:
        import asyncssh

        id = ""
        if isinstance(error, asyncssh.SFTPPermissionDenied):
            hint, id = _HINTS["permission"], "no-write-access"
        elif isinstance(error, asyncssh.SFTPOpUnsupported):
            hint = "Use OpenSSH's SFTP server, with its extensions fsync, hardlink and posix-rename"
        else:
            hint = _HINTS["failure"]
        return LiveFileError(f"{failure} ({error.reason})", where=f"{self._connection.name}: {path}", hint=hint, id=id)


# --- one file ---


async def _read(sftp: SFTPClient, path: str) -> LiveFile:
    import asyncssh

    seen = await sftp.lstat(path)
    _require_file(path, seen)
    size = seen.size or 0
    require_small(path, size)
    async with sftp.open(path, "rb") as file:
        status, data = await asyncio.gather(file.stat(), file.read(size + 1))
    assert isinstance(data, bytes)
    if _facts(status) != _facts(seen) or len(data) != (status.size or 0):
        raise ChangedMeanwhileError("it changed while it was read", where=path)
    if status.permissions is None or status.uid is None or status.gid is None:
        raise asyncssh.SFTPOpUnsupported("its SSH server does not report modes and owners")
    return LiveFile(Secret(data), stat.S_IMODE(status.permissions), status.uid, status.gid, float(status.mtime or 0))


def _require_file(path: str, status: SFTPAttrs) -> None:
    """Raises LiveFileError for anything but a regular file."""
    mode = status.permissions or 0
    if stat.S_ISLNK(mode):
        hint = "Links are never followed: name the real path in the manifest, or replace the link by the file"
        raise LiveFileError("it is a symbolic link", where=path, hint=hint, id="live-path-is-a-link")
    require_regular(path, mode)


def _facts(status: SFTPAttrs) -> tuple[object, ...]:
    return status.permissions, status.uid, status.gid, status.size, status.mtime


async def _create(sftp: SFTPClient, path: str, data: Secret, mode: int, ownership: Ownership) -> None:
    import asyncssh

    async with _temporary(sftp, path, data, mode, ownership) as temporary:
        try:
            # SFTP's own rename fails where the new name exists; OpenSSH implements it by link and unlink.
            await sftp.rename(temporary, path)
        except (asyncssh.SFTPFailure, asyncssh.SFTPFileAlreadyExists):
            if await sftp.lexists(path):
                raise changed(path, "somebody created the file meanwhile") from None
            raise


async def _replace(
    sftp: SFTPClient, path: str, data: Secret, mode: int, ownership: Ownership, expected: LiveFile
) -> None:
    import asyncssh

    uid = expected.uid if ownership.uid is None else ownership.uid
    gid = expected.gid if ownership.gid is None else ownership.gid
    async with _temporary(sftp, path, data, mode, Ownership(uid, gid)) as temporary:
        old = _beside(path)
        try:
            await sftp.link(path, old)
        except asyncssh.SFTPNoSuchFile:
            raise changed(path, "somebody removed the live file meanwhile") from None
        if edit := await _edit(sftp, old, expected):
            await _discard(sftp, old)
            raise changed(path, edit)
        await sftp.posix_rename(temporary, path)
        # From here on this may be the only name of somebody's edit. If anything fails, it stays as a leftover.
        if edit := await _edit(sftp, old, expected):
            await sftp.posix_rename(old, path)
            raise changed(path, edit)
        await sftp.unlink(old)


async def _remove(sftp: SFTPClient, path: str, expected: LiveFile) -> None:
    aside = _beside(path)
    await sftp.posix_rename(path, aside)
    if edit := await _edit(sftp, aside, expected):
        await sftp.rename(aside, path)
        raise changed(path, edit)
    await sftp.unlink(aside)


async def _edit(sftp: SFTPClient, path: str, expected: LiveFile) -> str:
    """How somebody changed the file since the caller read it; "" where nobody did."""
    try:
        live = await _read(sftp, path)
    except LiveFileError:
        return "something else is in the place of the live file"
    except ChangedMeanwhileError:
        return "somebody is writing to the live file"
    return edit_of(live, expected)


@contextlib.asynccontextmanager
async def _temporary(sftp: SFTPClient, path: str, data: Secret, mode: int, ownership: Ownership) -> AsyncIterator[str]:
    """The path of a new file beside ``path``, flushed to disk; owner and mode are set before the first byte. It is
    removed at the end, if it still exists."""
    import asyncssh

    temporary = _beside(path)
    try:
        async with sftp.open(temporary, "xb", attrs=asyncssh.SFTPAttrs(permissions=0o600)) as file:
            await file.setstat(_attributes(mode, ownership, await file.stat()))
            await file.write(data.reveal())
            await file.fsync()
        yield temporary
    finally:
        await _discard(sftp, temporary)


async def _discard(sftp: SFTPClient, path: str) -> None:
    import asyncssh

    with contextlib.suppress(asyncssh.SFTPError):
        await sftp.unlink(path)


def _attributes(mode: int, ownership: Ownership, current: SFTPAttrs) -> Any:
    """The mode, and the owner: SFTP sets both of its numbers or none."""
    import asyncssh

    uid = current.uid if ownership.uid is None else ownership.uid
    gid = current.gid if ownership.gid is None else ownership.gid
    return asyncssh.SFTPAttrs(permissions=mode, uid=uid, gid=gid)


def _beside(path: str) -> str:
    directory, name = posixpath.split(path)
    return posixpath.join(directory, new_name(name))
