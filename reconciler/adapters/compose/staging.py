"""A private copy of a stack's surroundings in which staged files lie, without a byte of them on disk.

Compose reads files by path. So it is given a farm of symbolic links that mirrors the way to the stack's directory,

    <scratch>/<random>/opt/app/compose.yaml  → /opt/app/compose.yaml
    <scratch>/<random>/opt/app/api.env       → /proc/<our pid>/fd/7, a file in memory

and is started there. Every relative path (env_file, include, `.env`, `../common.env`) then leads to what would be
read if the staged files were in place, and the directory's own name, from which Compose takes the project's, stays.
An absolute path in a compose file leads out of the farm: a staged file that is only reached so is not seen.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping

from reconciler.adapters.memory_file import in_memory
from reconciler.core.secret import Secret

_MEMORY = "/dev/shm"  # noqa: S108  # in a directory of our own
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def memory_directory() -> str:
    """A directory in memory that only we can write to, where links cost nothing however busy the disks are; "" where
    this machine has none, or somebody else has taken its name."""
    path = os.path.join(_MEMORY, f"reconciler-{os.geteuid()}")
    with contextlib.suppress(OSError):
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)
        facts = os.lstat(path)
        if stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.geteuid() and not facts.st_mode & 0o077:
            return path
    return ""


@contextlib.contextmanager
def farm(scratch: str, directory: str, staged: Mapping[str, Secret | None]) -> Iterator[str]:
    """Make the farm for a stack's `directory` and yield its root: `root + path` stands for the absolute `path`.

    `staged` maps absolute paths to bytes, or to None for a file that is gone. The farm is removed at the end; what a
    killed process left in `scratch` is removed at the beginning. Raises OSError.
    """
    with contextlib.ExitStack() as stack:
        root = stack.enter_context(_private_directory(scratch))
        changes: dict[str, str | None] = {}
        for path, data in staged.items():
            changes[path] = None if data is None else stack.enter_context(in_memory(data.reveal())).path
        for place in ancestors(directory, changes):
            _mirror(root, place)
        for path, source in changes.items():
            _put(root + path, source)
        yield root


@contextlib.contextmanager
def _private_directory(scratch: str) -> Iterator[str]:
    """A new directory in `scratch`, locked for as long as it is in use: one that nobody locks is a leftover."""
    os.makedirs(scratch, mode=0o700, exist_ok=True)
    with contextlib.ExitStack() as stack:
        with _locked(scratch):
            _remove_leftovers(scratch)
            root = os.path.join(scratch, secrets.token_hex(8))
            os.mkdir(root, 0o700)
            stack.enter_context(_locked(root))
            stack.callback(shutil.rmtree, root)  # before the lock is given up: nobody else may take it for a leftover
        yield root


@contextlib.contextmanager
def _locked(directory: str, flags: int = 0) -> Iterator[None]:
    descriptor = os.open(directory, _OPEN_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | flags)
        yield
    finally:
        os.close(descriptor)


def _remove_leftovers(scratch: str) -> None:
    for entry in list(os.scandir(scratch)):
        # Another process may be using it, or taking it away, at this moment.
        with contextlib.suppress(BlockingIOError, FileNotFoundError), _locked(entry.path, fcntl.LOCK_NB):
            shutil.rmtree(entry.path)


def ancestors(directory: str, paths: Iterable[str]) -> list[str]:
    """The directories that must be real in the farm, outermost first: the stack's, those of `paths`, all above."""
    places = {directory, *(os.path.dirname(path) for path in paths)}
    for place in tuple(places):
        while place != "/":
            place = os.path.dirname(place)
            places.add(place)
    return sorted(places, key=lambda place: place.rstrip("/").count("/"))


def _mirror(root: str, place: str) -> None:
    """Make `place` a real directory in the farm, filled with links to what is in it."""
    inside = root + place
    if place != "/":
        with contextlib.suppress(FileNotFoundError):
            os.unlink(inside)
        os.mkdir(inside, 0o700)
    # A directory that we may enter but not list, or that is only about to be made, has nothing to offer.
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
        for name in os.listdir(place):
            os.symlink(os.path.join(place, name), os.path.join(inside, name))


def _put(path: str, source: str | None) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    if source is not None:
        os.symlink(source, path)
