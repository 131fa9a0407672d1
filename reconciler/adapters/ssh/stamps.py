"""What `stat` says of live files on another machine. SFTP shows neither ctime nor inode, and whole seconds only: with
it, an edit that keeps the size and sets the time back would look like none."""

from __future__ import annotations

import os
import posixpath
import stat
import string
from collections.abc import Callable, Collection, Mapping

from reconciler.adapters import process
from reconciler.adapters.ssh.connection import SshConnection
from reconciler.core.decide.guards import is_below
from reconciler.core.model.targets import FileStamp

_LIMITS = process.Limits(timeout=20.0)
_PROGRAM = "stat"
# Device, inode, size, mode, owner, group, mtime and ctime (as seconds, and with their fractions), name.
_FIELDS = ("%d", "%i", "%s", "%f", "%u", "%g", "%Y", "%Z", "%y", "%z", "%n")


async def stamps_of(connection: SshConnection, roots: Mapping[str, str]) -> Mapping[str, FileStamp | None]:
    """Given the allowed path of each live file, return the stamps of the files that are there, one command for all. No
    link below the allowed path is followed. Where the programs are missing there are none.

    Raises HostUnreachableError.
    """
    directories = {path: _directories(path, root) for path, root in roots.items() if "\n" not in path}
    names = {*directories, *(name for above in directories.values() for name in above)}
    try:
        seen = await _stat(connection, names) if names else {}
    except process.MissingProgramError:
        return {}
    return {
        path: seen[path]
        for path, above in directories.items()
        if _is(stat.S_ISREG, seen.get(path)) and all(_is(stat.S_ISDIR, seen.get(name)) for name in above)
    }


async def _stat(connection: SshConnection, names: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Without those that do not exist."""
    argv = ["xargs", "-0", _PROGRAM, "-c", "/".join(_FIELDS), "--"]
    asked = b"".join(os.fsencode(name) + b"\0" for name in names)
    done = await connection.run(argv, limits=_LIMITS, stdin=asked)
    if done.timed_out or done.overflowed:
        return {}
    lines = (line.split("/", len(_FIELDS) - 1) for line in os.fsdecode(done.stdout).split("\n"))
    answers = [fields for fields in lines if len(fields) == len(_FIELDS) and fields[-1] in names]
    return {fields[-1]: tuple(fields[:-1]) for fields in answers if _is_hexadecimal(fields[_FIELDS.index("%f")])}


def _is_hexadecimal(text: str) -> bool:
    return bool(text) and set(text) <= set(string.hexdigits)


def _directories(path: str, root: str) -> tuple[str, ...]:
    """Those of a live file, up to its allowed path, which may be a link."""
    directories, directory = [], posixpath.dirname(path)
    while is_below(directory, root):
        directories.append(directory)
        directory = posixpath.dirname(directory)
    return (*directories, posixpath.join(root, "."))


def _is(kind: Callable[[int], bool], facts: tuple[str, ...] | None) -> bool:
    return facts is not None and kind(int(facts[_FIELDS.index("%f")], 16))
