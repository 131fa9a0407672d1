"""What is missing on a disk that takes nothing more."""

from __future__ import annotations

import errno
import os

from reconciler.core.exhaustion import missing_space


def disk_state(path: str) -> tuple[int, int, int]:
    """Of the file system that holds ``path``, or its nearest directory: free bytes, free inodes, all inodes; for an
    ordinary user. Raises OSError."""
    while not os.path.exists(path) and path != os.path.dirname(path):
        path = os.path.dirname(path)
    facts = os.statvfs(path)
    return facts.f_bavail * facts.f_frsize, facts.f_favail, facts.f_files


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
