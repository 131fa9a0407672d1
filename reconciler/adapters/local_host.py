"""Live files on this machine: read and replaced through directory descriptors, so that no link is ever followed.

The directories of ``allowed_paths`` are opened with their links resolved; from there every step is taken with
O_NOFOLLOW, so a link that is swapped in at any moment ends the operation instead of leading it elsewhere.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import grp
import os
import pwd
import secrets
import stat
from collections.abc import Iterator, Sequence

from reconciler.adapters import process
from reconciler.core.errors import ChangedMeanwhileError, GuardError, LiveFileError
from reconciler.core.guards import is_below
from reconciler.core.model import Check, LiveFile, Ownership
from reconciler.core.secret import Secret

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_TEMPORARY_MARK = ".reconciler-"
_LARGEST_FILE = 16 * process.MIB
_CHECK_LIMITS = process.Limits(timeout=30, grace=2)
# renameat2(2), Linux 3.15: fail where the new name exists; swap the two names.
_RENAME_NOREPLACE = 1
_RENAME_EXCHANGE = 2

_HINTS = {
    errno.ENOENT: "a directory of allowed_paths does not exist on this server: create it; it is tried again",
    errno.ENOSPC: "the disk is full: free some space; it is tried again",
    errno.EDQUOT: "the quota is used up: raise it; it is tried again",
    errno.EROFS: "the file system is mounted read-only: remount it read-write; it is tried again",
    errno.EACCES: "run the daemon as root, or give its user write access to the directory; it is tried again",
    errno.EPERM: "run the daemon as root, or check for an immutable flag (lsattr); it is tried again",
    errno.EIO: "the disk reports an error (dmesg); it is tried again",
    errno.ELOOP: "a symbolic link lies on the way and links are never followed: name the real path in the manifest",
    errno.ENOTDIR: "a part of the path is a link or a file, not a directory: name the real path in the manifest",
}


class LocalHost:
    """The ``Host`` port for the machine the daemon runs on.

    ``allowed_paths`` are absolute directories; nothing outside them is opened.
    """

    def __init__(self, allowed_paths: Sequence[str]) -> None:
        self._allowed = tuple(os.path.normpath(path) for path in allowed_paths)

    async def read(self, path: str) -> LiveFile | None:
        try:
            with self._parent(path) as (parent, name):
                return _read(parent, name, path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _live_file_error("cannot read the live file", path, error) from error

    async def write(
        self, path: str, data: Secret, *, mode: int, ownership: Ownership, replaces: LiveFile | None
    ) -> None:
        try:
            with self._parent(path, make=ownership) as (parent, name):
                _replace(parent, name, path, data, mode, ownership, replaces)
        except OSError as error:
            raise _live_file_error("cannot write the live file; it is as it was", path, error) from error

    async def remove(self, path: str, *, replaces: LiveFile) -> None:
        try:
            with self._parent(path) as (parent, name):
                _remove(parent, name, path, replaces)
        except FileNotFoundError:
            return
        except OSError as error:
            raise _live_file_error("cannot delete the live file", path, error) from error

    async def sweep(self, path: str) -> tuple[LiveFile, ...]:
        """Take away temporary files that a killed run left beside ``path`` and return what they held."""
        found = []
        try:
            with self._parent(path) as (parent, name):
                for leftover in os.listdir(parent):
                    if leftover.startswith(f".{name}{_TEMPORARY_MARK}"):
                        content = _read(parent, leftover, path)
                        os.unlink(leftover, dir_fd=parent)
                        found += [content] if content else []
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise _live_file_error("cannot clear a temporary file of an earlier run", path, error) from error
        return tuple(found)

    def ownership(self, owner: str | None, group: str | None) -> Ownership:
        return Ownership(_user_id(owner), _group_id(group))

    def resolve(self, path: str) -> str:
        return os.path.realpath(path)

    async def check(self, check: Check, data: Secret) -> None:
        """The staged bytes are in memory only: ``{file}`` becomes a path under /proc that leads to them."""
        descriptor = os.memfd_create("staged")
        try:
            view = memoryview(data.reveal())
            while view:
                view = view[os.write(descriptor, view) :]
            staged = f"/proc/{os.getpid()}/fd/{descriptor}"
            argv = [part.replace("{file}", staged) for part in check.argv]
            done = await process.run(argv, env={"PATH": os.defpath}, limits=_CHECK_LIMITS)
        except process.MissingProgramError as error:
            hint = "install it, or correct checks in the server's file"
            raise GuardError(
                f"the check's program {error.args[0]} is not there", where=f"check {check.name}", hint=hint
            ) from None
        finally:
            os.close(descriptor)
        if not done.ok:
            why = "did not end within 30 s" if done.timed_out else f"exit code {done.exit_code}"
            # What it printed may quote the file, so it is not repeated.
            hint = f"run `{' '.join(check.argv)}` by hand on the decrypted file"
            raise GuardError(f"the check refuses the new file ({why})", where=f"check {check.name}", hint=hint)

    @contextlib.contextmanager
    def _parent(self, path: str, make: Ownership | None = None) -> Iterator[tuple[int, str]]:
        """A descriptor of the directory that holds ``path``, and the file's own name."""
        root = next((allowed for allowed in self._allowed if is_below(path, allowed)), None)
        if root is None:
            raise LiveFileError("lies outside allowed_paths", where=path, hint=f"allowed: {', '.join(self._allowed)}")
        *directories, name = os.path.relpath(path, root).split(os.sep)
        descriptor = os.open(os.path.realpath(root), _DIRECTORY)
        try:
            for directory in directories:
                below = _enter(descriptor, directory, make)
                os.close(descriptor)
                descriptor = below
            yield descriptor, name
        finally:
            os.close(descriptor)


def _enter(parent: int, name: str, make: Ownership | None) -> int:
    try:
        return os.open(name, _DIRECTORY, dir_fd=parent)
    except FileNotFoundError:
        if make is None:
            raise
    os.mkdir(name, 0o755, dir_fd=parent)
    made = os.open(name, _DIRECTORY, dir_fd=parent)
    os.fchown(made, *_chown_arguments(make))
    os.fsync(parent)
    return made


def _read(parent: int, name: str, path: str) -> LiveFile | None:
    # O_NONBLOCK: a named pipe in the file's place must not hold the daemon.
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=parent)
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            what = "is a directory" if stat.S_ISDIR(found.st_mode) else "is not a regular file"
            raise LiveFileError(what, where=path, hint="move it away, or correct the target's path; it is tried again")
        if found.st_size > _LARGEST_FILE:
            raise LiveFileError(
                f"is larger than {_LARGEST_FILE // process.MIB} MiB", where=path, hint="no env file is; move it away"
            )
        return LiveFile(
            data=Secret(file.read()),
            mode=stat.S_IMODE(found.st_mode),
            uid=found.st_uid,
            gid=found.st_gid,
            inode=found.st_ino,
            modified_at=found.st_mtime,
        )


def _replace(
    parent: int, name: str, path: str, data: Secret, mode: int, ownership: Ownership, replaces: LiveFile | None
) -> None:
    temporary = f".{name}{_TEMPORARY_MARK}{secrets.token_hex(6)}"
    keep = Ownership(
        ownership.uid if ownership.uid is not None or replaces is None else replaces.uid,
        ownership.gid if ownership.gid is not None or replaces is None else replaces.gid,
    )
    _write_temporary(parent, temporary, data, mode, keep)
    try:
        if replaces is None:
            _rename(parent, temporary, name, _RENAME_NOREPLACE)
        else:
            _swap(parent, temporary, name, path, replaces)
    except OSError as error:
        _discard(parent, temporary, path, data)
        if error.errno in (errno.EEXIST, errno.ENOENT):
            raise _changed(path) from None
        raise
    except ChangedMeanwhileError:
        _discard(parent, temporary, path, data)
        raise
    os.fsync(parent)


def _write_temporary(parent: int, name: str, data: Secret, mode: int, ownership: Ownership) -> None:
    """Owner and mode are set before the first byte, the bytes are on disk before anyone sees the name."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(name, flags, 0o600, dir_fd=parent)
    try:
        os.fchown(descriptor, *_chown_arguments(ownership))
        os.fchmod(descriptor, mode)
        view = memoryview(data.reveal())
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    except BaseException:
        _unlink(parent, name)
        raise
    finally:
        os.close(descriptor)


def _swap(parent: int, temporary: str, name: str, path: str, expected: LiveFile) -> None:
    """Exchange the two names, then look at what came out: if it is not what the caller saw, exchange them back.

    A plain rename would lose an edit made between the caller's look and now.
    """
    _rename(parent, temporary, name, _RENAME_EXCHANGE)
    taken_out = _read_or_none(parent, temporary, path)
    if taken_out is None or taken_out.data != expected.data:
        _rename(parent, temporary, name, _RENAME_EXCHANGE)
        raise _changed(path)
    os.unlink(temporary, dir_fd=parent)


def _remove(parent: int, name: str, path: str, expected: LiveFile) -> None:
    aside = f".{name}{_TEMPORARY_MARK}{secrets.token_hex(6)}"
    _rename(parent, name, aside, _RENAME_NOREPLACE)
    taken_out = _read_or_none(parent, aside, path)
    if taken_out is None or taken_out.data != expected.data:
        _rename(parent, aside, name, _RENAME_NOREPLACE)
        raise _changed(path)
    os.unlink(aside, dir_fd=parent)
    os.fsync(parent)


def _read_or_none(parent: int, name: str, path: str) -> LiveFile | None:
    try:
        return _read(parent, name, path)
    except (OSError, LiveFileError):
        return None


@functools.cache
def _renameat2() -> ctypes._NamedFuncPointer:
    # Python has no binding for it; glibc has since 2.28.
    function = ctypes.CDLL(None, use_errno=True).renameat2
    function.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    return function


def _rename(parent: int, old: str, new: str, flags: int) -> None:
    if _renameat2()(parent, os.fsencode(old), parent, os.fsencode(new), flags) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _discard(parent: int, name: str, path: str, ours: Secret) -> None:
    """Remove a temporary file, unless an exchange has left somebody else's edit under its name."""
    found = _read_or_none(parent, name, path)
    if found is not None and found.data == ours:
        _unlink(parent, name)


def _unlink(parent: int, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=parent)


def _chown_arguments(ownership: Ownership) -> tuple[int, int]:
    return (-1 if ownership.uid is None else ownership.uid, -1 if ownership.gid is None else ownership.gid)


def _user_id(name: str | None) -> int | None:
    if name is None:
        return None
    try:
        return int(name) if name.isdecimal() else pwd.getpwnam(name).pw_uid
    except KeyError:
        hint = f"create it (`useradd --system {name}`) or correct owner in the manifest"
        raise GuardError(f"the user {name!r} does not exist on this machine", hint=hint) from None


def _group_id(name: str | None) -> int | None:
    if name is None:
        return None
    try:
        return int(name) if name.isdecimal() else grp.getgrnam(name).gr_gid
    except KeyError:
        hint = f"create it (`groupadd --system {name}`) or correct group in the manifest"
        raise GuardError(f"the group {name!r} does not exist on this machine", hint=hint) from None


def _live_file_error(what: str, path: str, error: OSError) -> LiveFileError:
    hint = _HINTS.get(error.errno or 0, "it is tried again")
    return LiveFileError(f"{what} ({os.strerror(error.errno or 0)})", where=path, hint=hint)


def _changed(path: str) -> ChangedMeanwhileError:
    return ChangedMeanwhileError(
        "somebody changed the live file while it was being replaced",
        where=path,
        hint="nothing was overwritten; the next pass looks again",
    )
