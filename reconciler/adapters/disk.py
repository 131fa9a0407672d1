"""What is missing on a disk that takes nothing more."""

from __future__ import annotations

import errno
import os

from reconciler.core.exhaustion import INODES, missing_space

_IDS = {
    errno.EDQUOT: "disk-full",
    errno.EROFS: "read-only-disk",
    errno.EACCES: "no-write-access",
    errno.EPERM: "no-write-access",
    errno.EIO: "disk-error",
    errno.ELOOP: "live-path-is-a-link",
    errno.ENOTDIR: "link-on-the-way",
}
_STATE_IDS = {"disk-full": "state-disk-full", "no-inodes": "state-no-inodes", "read-only-disk": "state-read-only"}


def disk_state(path: str) -> tuple[int, int, int]:
    """Of the file system that holds ``path``, or its nearest directory: free bytes, free inodes, all inodes; for an
    ordinary user. Raises OSError."""
    while not os.path.exists(path) and path != os.path.dirname(path):
        path = os.path.dirname(path)
    facts = os.statvfs(path)
    return facts.f_bavail * facts.f_frsize, facts.f_favail, facts.f_files


def disk_id(error: OSError, path: str) -> str:
    """The id of an error that comes from the disk below ``path``; "" for any other."""
    if error.errno == errno.ENOSPC:
        return "no-inodes" if INODES[0] in disk_reason(error, path) else "disk-full"
    return _IDS.get(error.errno or 0, "")


def state_id(error: OSError, path: str) -> str:
    """The same for the disk of the state directory."""
    return _STATE_IDS.get(disk_id(error, path), "")


def disk_reason(error: OSError, path: str) -> str:
    """Why nothing could be written below ``path``, for a message: the error's own words, but for a full disk what is
    full about it."""
    words = os.strerror(error.errno or 0)
    if error.errno != errno.ENOSPC:
        return words
    try:
        _, free, inodes = disk_state(path)
    except OSError:
        return words
    return f"{words}: {missing_space(free, inodes)[0]}"
