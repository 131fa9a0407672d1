"""What live files here and over SSH share: names of temporary files, and how edits and errors are described."""

from __future__ import annotations

import re
import secrets
import stat
from collections.abc import Collection, Iterable

from reconciler.adapters import process
from reconciler.core.errors import ChangedMeanwhileError, LiveFileError
from reconciler.core.model.targets import LiveFile

LARGEST_FILE = 16 * process.MIB
_LEFTOVER = re.compile(r"\.(.+)\.reconciler-[0-9a-f]{12}", re.DOTALL)


def new_name(name: str) -> str:
    """A temporary name beside ``name`` for a file that is not visible yet, or no longer."""
    return f".{name}.reconciler-{secrets.token_hex(6)}"


def names_before(candidate: str) -> tuple[str, ...]:
    """The names of the files that ``candidate`` may be a temporary name for, or for such a temporary file."""
    names = []
    while match := _LEFTOVER.fullmatch(candidate):
        candidate = match[1]
        names.append(candidate)
    return tuple(names)


def left_beside(directory: str, names: Collection[str], entries: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Given the names of live files, and what a directory has, return by path the temporary files of each, as paths."""
    beside: dict[str, list[str]] = {}
    for entry in sorted(entries):
        for name in names_before(entry):
            if name in names:
                beside.setdefault(f"{directory}/{name}", []).append(f"{directory}/{entry}")
    return {path: tuple(leftovers) for path, leftovers in beside.items()}


def by_directory(paths: Iterable[str]) -> dict[str, set[str]]:
    """Names of files by their directory."""
    directories: dict[str, set[str]] = {}
    for path in paths:
        directory, _, name = path.rpartition("/")
        directories.setdefault(directory, set()).add(name)
    return directories


def require_regular(path: str, mode: int) -> None:
    """Raises LiveFileError for anything but a regular file; ``mode`` with its type, as stat gives it."""
    if not stat.S_ISREG(mode):
        problem = "is a directory" if stat.S_ISDIR(mode) else "is not a regular file"
        id = "live-path-is-a-directory" if stat.S_ISDIR(mode) else ""
        hint = "Move it away, or correct the target's path"
        raise LiveFileError(problem, where=path, hint=hint, id=id)


def require_small(path: str, size: int) -> None:
    """Raises LiveFileError for a file of more bytes than we read."""
    if size > LARGEST_FILE:
        problem = f"is larger than {LARGEST_FILE // process.MIB} MiB"
        raise LiveFileError(problem, where=path, hint="No env file is that large; move it away")


def edit_of(live: LiveFile, expected: LiveFile) -> str:
    """How somebody changed a file since the caller read it; "" where nobody did."""
    same = (live.data, live.mode, live.uid, live.gid) == (expected.data, expected.mode, expected.uid, expected.gid)
    return "" if same else "somebody changed the live file meanwhile"


def changed(path: str, edit: str) -> ChangedMeanwhileError:
    """The error for an edit that somebody made to a live file meanwhile."""
    return ChangedMeanwhileError(edit, where=path, hint="Nothing was overwritten")
