"""What a container on this machine has of a live file that it mounts by itself.

The engine's own answer (`docker cp`) is about the file that lies there now, not the one that the container has. So its
first process is asked: its mounts in /proc/PID/mountinfo, which anybody may read, and the file itself in
/proc/PID/root, which takes root's rights.
"""

from __future__ import annotations

import os
import re
import stat

from reconciler.adapters.local.live_files import LARGEST_FILE
from reconciler.core.model.compose import Sight

_DELETED = "//deleted"
_OCTAL = re.compile(r"\\([0-7]{3})")


def sight_of(path: str, container: str, pid: int, inside: str) -> Sight:
    """See ``Host.sight``. Unknown where the process is not the container's, as we see processes."""
    try:
        with open(f"/proc/{pid}/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            mounted = mounted_at(file.read(), container, inside)
    except OSError:
        return Sight.UNKNOWN
    if mounted is None:
        return Sight.UNKNOWN
    try:
        return _compare(f"/proc/{pid}/root{inside}", path)
    except OSError:
        return by_name(mounted, path)


def mounted_at(mountinfo: str, container: str, inside: str) -> str | None:
    """Given the mounts of a container's process, return the path on its file system of what is mounted ``inside``; None
    where nothing is, or where these are the mounts of another process: those of a container name its id."""
    if container not in mountinfo:
        return None
    root = None
    for line in mountinfo.splitlines():
        fields = line.split(" ")
        if len(fields) > 4 and _unescaped(fields[4]) == inside:
            root = _unescaped(fields[3])  # a later mount hides an earlier one
    return root


def by_name(mounted: str, path: str) -> Sight:
    """What can be told by the name of the mounted file alone: one that was replaced is deleted, or has another name."""
    replaced = mounted.endswith(_DELETED) or os.path.basename(mounted) != os.path.basename(path)
    return Sight.OTHER if replaced else Sight.UNKNOWN


def _unescaped(field: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), field)


def _compare(mine: str, path: str) -> Sight:
    """Raises OSError where one of the two cannot be read."""
    first, second = os.stat(mine), os.stat(path, follow_symlinks=False)
    if not stat.S_ISREG(first.st_mode) or not stat.S_ISREG(second.st_mode):
        return Sight.UNKNOWN
    if (first.st_dev, first.st_ino) == (second.st_dev, second.st_ino):
        return Sight.SAME
    if first.st_size != second.st_size or first.st_size > LARGEST_FILE:
        return Sight.OTHER
    with open(mine, "rb") as old, open(path, "rb") as new:
        return Sight.EQUAL if old.read() == new.read() else Sight.OTHER
