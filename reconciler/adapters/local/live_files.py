"""What local_host.py and ssh_host.py have in common: names of files that are half way, and what is said of files."""

from __future__ import annotations

import re
import secrets
import stat

from reconciler.adapters import process
from reconciler.core.errors import ChangedMeanwhileError, LiveFileError
from reconciler.core.model.targets import LiveFile

LARGEST_FILE = 16 * process.MIB
_LEFTOVER = re.compile(r"\.(.+)\.reconciler-[0-9a-f]{12}", re.DOTALL)


def new_name(name: str) -> str:
    """A name beside ``name`` for a file of ours that is not there yet, or not to be seen any more."""
    return f".{name}.reconciler-{secrets.token_hex(6)}"


def is_left_of(name: str, candidate: str) -> bool:
    """Whether ``other`` is a name of ours for the file ``name``, or for such a file in its turn."""
    while match := _LEFTOVER.fullmatch(candidate):
        candidate = match[1]
        if candidate == name:
            return True
    return False


def require_regular(path: str, mode: int) -> None:
    """Raises LiveFileError for anything but a regular file; ``mode`` with its type, as stat gives it."""
    if not stat.S_ISREG(mode):
        what = "is a directory" if stat.S_ISDIR(mode) else "is not a regular file"
        hint = "An ordinary file belongs there: move it away, or correct the target's path; will retry"
        raise LiveFileError(what, where=path, hint=hint)


def require_small(path: str, size: int) -> None:
    """Raises LiveFileError for a file of more bytes than we read."""
    if size > LARGEST_FILE:
        what = f"is larger than {LARGEST_FILE // process.MIB} MiB"
        raise LiveFileError(what, where=path, hint="No env file is; move it away")


def edit_of(live: LiveFile, expected: LiveFile) -> str:
    """What somebody has done to a file since the caller looked, in words; "" where nothing."""
    same = (live.data, live.mode, live.uid, live.gid) == (expected.data, expected.mode, expected.uid, expected.gid)
    return "" if same else "somebody has changed the live file meanwhile"


def changed(path: str, what: str) -> ChangedMeanwhileError:
    return ChangedMeanwhileError(what, where=path, hint="Nothing was overwritten; the next pass looks again")
