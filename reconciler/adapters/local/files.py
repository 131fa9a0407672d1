"""Live files on this machine: read and replaced through directory descriptors, so that no link is ever followed.

The directories of ``allowed_paths`` are opened with their links resolved; from there every step uses O_NOFOLLOW, so a
link that is swapped in at any moment ends the operation instead of redirecting it.

A replaced file first gets a name of ours and is examined, and only then deleted. ``leftovers`` finds what a kill leaves
under such a name.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import pwd
import stat
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

from reconciler.adapters import process
from reconciler.adapters.disk import disk_id, disk_reason
from reconciler.adapters.local.file_writers import FileWriters
from reconciler.adapters.local.in_place import overwrite
from reconciler.adapters.local.live_files import by_directory, changed, edit_of, left_beside, names_before, new_name
from reconciler.adapters.local.mounted_files import sight_of
from reconciler.adapters.local.open_files import TO_READ, chown_arguments, is_being_written, read_open, write_all
from reconciler.adapters.local.renames import claim_name, exchange
from reconciler.adapters.local.users import login_sessions, user_name
from reconciler.adapters.memory_file import in_memory
from reconciler.core.decide.editors import editor_sentence
from reconciler.core.decide.guards import is_below
from reconciler.core.errors import GuardError, LiveFileError, OutsideError
from reconciler.core.exhaustion import INODES, MEMORY
from reconciler.core.model.compose import Sight
from reconciler.core.model.targets import Check, FileStamp, LiveFile, Ownership
from reconciler.core.secret import Secret

# A session may end before it is looked for, so only a file that has just been written is anybody's by that.
_FRESH = 60.0  # seconds
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_TO_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_CHECK_LIMITS = process.Limits(timeout=30, grace=2)
# The PATH of a root shell: nginx and the like are in sbin, which os.defpath lacks.
_PROGRAMS = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_LARGEST_ID = 2**32 - 2  # the next one means "unchanged"
_TAKEN = frozenset({errno.EEXIST, errno.ENOTEMPTY})
# The kernel's messages for links that O_NOFOLLOW meets are misleading.
_REASONS = {errno.ELOOP: "it is a symbolic link", errno.ENOTDIR: "a link or a file is in the place of a directory"}
_HINTS = {
    errno.ENOENT: "A directory of allowed_paths does not exist on this server: create it",
    errno.ENOSPC: "The disk is full: free some space",
    errno.EDQUOT: "The quota is used up: raise it",
    errno.EROFS: "The file system is mounted read-only: remount it read-write",
    errno.EACCES: "Run the daemon as root, or give its user write access to the directory",
    errno.EPERM: "Run the daemon as root, or check for an immutable flag (lsattr)",
    errno.EIO: "The disk reports an error (dmesg)",
    errno.ELOOP: "Links are never followed: name the real path in the manifest, or replace the link by the file",
    errno.ENOTDIR: "Links are never followed: name the real path in the manifest",
    errno.EBUSY: "The file itself is a mount point: mount the directory that holds it instead",
    errno.ENAMETOOLONG: "A temporary file beside it has a name 25 bytes longer: choose a shorter name",
    errno.ENXIO: "A socket is in its place: move it away",
}


class LocalHost:
    """The ``Host`` port for the machine the daemon runs on. ``writers`` learns of each file that is read.

    ``allowed_paths`` are absolute directories; nothing outside them is opened.
    """

    def __init__(self, allowed_paths: Sequence[str], writers: FileWriters | None = None) -> None:
        self._allowed = tuple(os.path.normpath(path) for path in allowed_paths)
        self._writers = writers
        self._editors: dict[str, tuple[float, str]] = {}  # by path: when it was modified, and by whom

    async def reach(self) -> None:
        """This machine always answers."""

    async def read(self, path: str) -> LiveFile | None:
        file = (await self.read_all([path]))[path]
        if isinstance(file, LiveFileError):
            raise file
        return file

    async def read_all(self, paths: Collection[str]) -> Mapping[str, LiveFile | LiveFileError | None]:
        files: dict[str, LiveFile | LiveFileError | None] = {}
        for inside in _by_parent(paths):
            try:
                with self._parent(inside[0]) as (parent, _):
                    files |= {path: self._read(parent, path) for path in inside}
            except FileNotFoundError:
                files |= dict.fromkeys(inside)
            except (OSError, LiveFileError) as error:  # of the directory
                files |= {path: _unreadable(path, error) for path in inside}
        return files

    def _read(self, parent: int, path: str) -> LiveFile | LiveFileError | None:
        try:
            if self._writers is not None:
                self._writers.follow(path)
            return _read(parent, os.path.basename(os.path.normpath(path)), path)
        except FileNotFoundError:
            return None
        except (OSError, LiveFileError) as error:
            return _unreadable(path, error)

    async def stamps(self, paths: Collection[str]) -> Mapping[str, FileStamp | None]:
        stamps: dict[str, FileStamp | None] = {}
        for directory, names in by_directory(paths).items():
            try:
                with self._parent(f"{directory}/{next(iter(names))}") as (parent, _):
                    stamps |= _stamps(parent, directory, names)
            except FileNotFoundError:
                stamps |= dict.fromkeys(f"{directory}/{name}" for name in names)
            except (OSError, LiveFileError):  # whoever reads it gets the reason
                continue
        return stamps

    async def editor(self, path: str, live: LiveFile | None) -> str:
        modified_at = live.modified_at if live else 0.0
        writers = self._writers.writers_of(path, modified_at) if self._writers else ()
        fresh = live is not None and 0 <= time.time() - modified_at < _FRESH
        sessions, owner = login_sessions(modified_at) if fresh else None, user_name(live.uid) if live else ""
        sentence = editor_sentence(writers, sessions, owner)
        # What was known when it was looked at first is not forgotten with the sessions.
        if not writers and (known := self._editors.get(path)) is not None and known[0] == modified_at:
            return known[1]
        self._editors[path] = (modified_at, sentence)
        return sentence

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
        try:
            with self._parent(path, make=ownership) as (parent, name):
                if replaces is None:
                    _create(parent, name, path, data, mode, ownership)
                elif in_place:
                    overwrite(parent, name, path, data, mode, ownership, replaces)
                else:
                    _replace(parent, name, path, data, mode, ownership, replaces)
        except OSError as error:
            raise _live_file_error("cannot write the live file", path, error) from error

    async def remove(self, path: str, *, replaces: LiveFile) -> None:
        try:
            with self._parent(path) as (parent, name):
                _remove(parent, name, path, replaces)
        except FileNotFoundError:
            return
        except OSError as error:
            raise _live_file_error("cannot delete the live file", path, error) from error

    async def sight(self, path: str, container: str, pid: int, inside: str) -> Sight:
        return sight_of(path, container, pid, inside)

    async def leftovers(self, paths: Collection[str]) -> Mapping[str, tuple[str, ...]]:
        leftovers: dict[str, tuple[str, ...]] = {}
        for directory, names in by_directory(paths).items():
            path = f"{directory}/{min(names)}"
            try:
                with self._parent(path) as (parent, _):
                    entries = [entry for entry in os.listdir(parent) if names_before(entry) and _is_file(parent, entry)]
            except FileNotFoundError:
                continue
            except OSError as error:
                raise _live_file_error("cannot look for leftovers of an earlier run", path, error) from error
            leftovers |= left_beside(directory, names, entries)
        return leftovers

    async def ownership(self, owner: str | None, group: str | None) -> Ownership:
        return Ownership(
            _id("user", "useradd", owner, lambda name: pwd.getpwnam(name).pw_uid),
            _id("group", "groupadd", group, lambda name: grp.getgrnam(name).gr_gid),
        )

    async def new_owner(self, path: str) -> Ownership:
        with contextlib.suppress(OSError):
            directory = os.stat(os.path.dirname(path))
            if directory.st_mode & stat.S_ISGID:
                return Ownership(os.geteuid(), directory.st_gid)
        return Ownership(os.geteuid(), os.getegid())

    async def resolve(self, path: str) -> str:
        return os.path.realpath(path)  # noqa: ASYNC240  # a few stat calls

    async def check(self, check: Check, data: Secret) -> None:
        """The staged bytes are in memory only: ``{file}`` becomes a path to them under /proc."""
        try:
            with in_memory(data.reveal()) as staged:
                argv = [part.replace("{file}", staged.path) for part in check.argv]
                done = await process.run(argv, env={"PATH": _PROGRAMS}, limits=_CHECK_LIMITS)
        except process.MissingProgramError as error:
            hint = "Install it, or correct checks in the server configuration"
            raise GuardError(
                f"the check's program {error.args[0]} is not installed", where=f"check {check.name}", hint=hint
            ) from None
        if done.out_of_memory:
            raise OutsideError(f"the check could not run: {MEMORY[0]}", where=f"check {check.name}", hint=MEMORY[1])
        if not done.ok:
            # Its output may quote the file, so it is not repeated.
            hint = f"Run `{' '.join(check.argv)}` manually on the decrypted file"
            raise GuardError(
                f"the check rejects the new file ({_check_failure(done)})", where=f"check {check.name}", hint=hint
            )

    @contextlib.contextmanager
    def _parent(self, path: str, make: Ownership | None = None) -> Iterator[tuple[int, str]]:
        """A descriptor of the directory that contains ``path``, and the file's own name."""
        roots = [allowed for allowed in self._allowed if is_below(path, allowed)]
        if not roots:
            hint = f"Allowed: {', '.join(self._allowed)}"
            raise LiveFileError("lies outside allowed_paths", where=path, hint=hint, id="outside-allowed-paths")
        root = max(roots, key=len)  # the deepest: it may be listed because it is behind a link
        *directories, name = os.path.relpath(path, root).split(os.sep)
        descriptor = os.open(root, _DIRECTORY & ~os.O_NOFOLLOW)
        try:
            for directory in directories:
                below = _enter(descriptor, directory, make)
                os.close(descriptor)
                descriptor = below
            yield descriptor, name
        finally:
            os.close(descriptor)


# --- directories ---


def _by_parent(paths: Iterable[str]) -> Iterable[list[str]]:
    """The paths by the directory that they are in, as ``_parent`` finds it."""
    directories: dict[str, list[str]] = {}
    for path in paths:
        directories.setdefault(os.path.dirname(os.path.normpath(path)), []).append(path)
    return directories.values()


def _enter(parent: int, name: str, make: Ownership | None) -> int:
    """Open a directory; create it where it is missing and ``make`` gives its owner."""
    try:
        return os.open(name, _DIRECTORY, dir_fd=parent)
    except FileNotFoundError:
        if make is None:
            raise
    return _make(parent, name, make)


def _make(parent: int, name: str, ownership: Ownership) -> int:
    """Create and open a directory. It gets its name together with owner and mode, so a kill leaves no partial one."""
    _remove_leftover_directories(parent, name)
    temporary = new_name(name)
    os.mkdir(temporary, 0o700, dir_fd=parent)
    made = os.open(temporary, _DIRECTORY, dir_fd=parent)
    try:
        os.fchown(made, *chown_arguments(ownership))
        os.fchmod(made, 0o755)  # whatever the umask: its files have their own modes
        claim_name(parent, temporary, name, directory=True)
        os.fsync(parent)
    except BaseException as error:
        os.close(made)
        with contextlib.suppress(OSError):
            os.rmdir(temporary, dir_fd=parent)
        if isinstance(error, OSError) and error.errno in _TAKEN:  # another process was faster: use its directory
            return os.open(name, _DIRECTORY, dir_fd=parent)
        raise
    return made


def _remove_leftover_directories(parent: int, name: str) -> None:
    """Remove what a killed earlier attempt left; only an empty directory is removed."""
    for entry in os.listdir(parent):
        if name in names_before(entry):
            with contextlib.suppress(OSError):
                os.rmdir(entry, dir_fd=parent)


# --- reading ---


def _read(parent: int, name: str, path: str) -> LiveFile:
    descriptor = os.open(name, TO_READ, dir_fd=parent)
    try:
        return read_open(descriptor, path)
    finally:
        os.close(descriptor)


def _stamps(parent: int, directory: str, names: Collection[str]) -> dict[str, FileStamp | None]:
    """What stat says of the regular files in an open directory."""
    stamps: dict[str, FileStamp | None] = {}
    for name in names:
        try:
            status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            stamps[f"{directory}/{name}"] = None
            continue
        if stat.S_ISREG(status.st_mode):
            facts = (status.st_dev, status.st_ino, status.st_size, status.st_mode, status.st_uid, status.st_gid)
            stamps[f"{directory}/{name}"] = (*facts, status.st_mtime_ns, status.st_ctime_ns)
    return stamps


def _is_file(parent: int, name: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


# --- writing ---


def _create(parent: int, name: str, path: str, data: Secret, mode: int, ownership: Ownership) -> None:
    with _temporary(parent, name, data, mode, ownership) as temporary:
        try:
            claim_name(parent, temporary, name)
        except FileExistsError:
            raise changed(path, "somebody created the file meanwhile") from None
    os.fsync(parent)


def _replace(
    parent: int, name: str, path: str, data: Secret, mode: int, ownership: Ownership, expected: LiveFile
) -> None:
    """Exchange the two files, then examine the old one: if it is not what the caller saw, exchange them back.

    A plain rename would lose an edit made since the caller read the file.
    """
    uid = expected.uid if ownership.uid is None else ownership.uid
    gid = expected.gid if ownership.gid is None else ownership.gid
    with _temporary(parent, name, data, mode, Ownership(uid, gid)) as temporary:
        try:
            exchange(parent, temporary, name)
            if edit := _edit(parent, temporary, path, expected):
                exchange(parent, temporary, name)
                raise changed(path, edit)
        except FileNotFoundError:
            raise changed(path, "somebody removed the live file meanwhile") from None
        os.unlink(temporary, dir_fd=parent)
    os.fsync(parent)


def _remove(parent: int, name: str, path: str, expected: LiveFile) -> None:
    aside = new_name(name)
    os.rename(name, aside, src_dir_fd=parent, dst_dir_fd=parent)
    if edit := _edit(parent, aside, path, expected):
        with contextlib.suppress(FileExistsError):  # then the edit remains as a leftover
            claim_name(parent, aside, name)
        raise changed(path, edit)
    os.unlink(aside, dir_fd=parent)
    os.fsync(parent)


@contextlib.contextmanager
def _temporary(parent: int, name: str, data: Secret, mode: int, ownership: Ownership) -> Iterator[str]:
    """The name of a new file beside ``name``. It is deleted at the end, unless an exchange left an edit there.

    Owner and mode are set before the first byte, and the bytes are on disk before anyone sees them under ``name``.
    """
    temporary = new_name(name)
    descriptor = os.open(temporary, _TO_WRITE, 0o600, dir_fd=parent)
    try:
        os.fchown(descriptor, *chown_arguments(ownership))
        os.fchmod(descriptor, mode)
        write_all(descriptor, data)
        os.fsync(descriptor)
    except BaseException:
        os.unlink(temporary, dir_fd=parent)
        raise
    finally:
        os.close(descriptor)
    try:
        yield temporary
    finally:
        if _holds(parent, temporary, data):
            os.unlink(temporary, dir_fd=parent)


# --- somebody else's edits ---


def _edit(parent: int, name: str, path: str, expected: LiveFile) -> str:
    """How somebody changed a file since the caller read it; "" where nobody did.

    ``name`` is one of ours, so nobody can open the file any more: once nobody has it open, its content is final.
    """
    try:
        if is_being_written(parent, name):
            return "somebody is writing to the live file"
        live = _read(parent, name, path)
    except (OSError, LiveFileError):
        return "something else is in the place of the live file"
    return edit_of(live, expected)


def _holds(parent: int, name: str, data: Secret) -> bool:
    """Whether ``name`` is a file with exactly this content that nobody is writing to."""
    try:
        return not is_being_written(parent, name) and _read(parent, name, name).data == data
    except (OSError, LiveFileError):
        return False


# --- ids and errors ---


def _id(kind: str, command: str, name: str | None, look_up: Callable[[str], int]) -> int | None:
    if name is None:
        return None
    if name.isdecimal():
        if int(name) <= _LARGEST_ID:
            return int(name)
        raise GuardError(f"{name} is too large for a {kind} id", hint="Correct it in the manifest")
    try:
        return look_up(name)
    except KeyError:
        hint = f"Create it (`{command} --system {name}`) or correct the manifest"
        problem = f"the {kind} {name!r} does not exist on this machine"
        raise GuardError(problem, hint=hint, id="unknown-owner") from None


def _check_failure(completed: process.Completed) -> str:
    if completed.timed_out:
        return f"timed out after {_CHECK_LIMITS.timeout:g} s"
    return "printed too much" if completed.overflowed else f"exit code {completed.exit_code}"


def _unreadable(path: str, error: OSError | LiveFileError) -> LiveFileError:
    if isinstance(error, OSError):
        return _live_file_error("cannot read the live file", path, error)
    return LiveFileError(error.what, where=path, hint=error.hint, id=error.id)


def _live_file_error(failure: str, path: str, error: OSError) -> LiveFileError:
    reason = _REASONS.get(error.errno or 0) or disk_reason(error, path)
    hint = INODES[1] if INODES[0] in reason else _HINTS.get(error.errno or 0, "")
    return LiveFileError(f"{failure} ({reason})", where=path, hint=hint, id=disk_id(error, path))
