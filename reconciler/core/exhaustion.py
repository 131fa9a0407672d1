"""Names what a machine has run out of, where an error only hints at it. Pure."""

from __future__ import annotations

import errno

PROCESSES = (
    "the limit of processes is reached",
    "`systemctl status reconciler` shows its tasks. End processes, or raise TasksMax of the service",
)
MEMORY = (
    "no memory is left",
    "Free memory, or raise MemoryMax of the service (`dmesg` shows what was killed)",
)
FILES = (
    "the limit of open files is reached",
    "`ls /proc/$(pidof -s reconciler)/fd | wc -l` counts them. Raise LimitNOFILE of the service",
)
INODES = (
    "no inodes are left on the disk, although it may have free space",
    "`df -i` shows it: remove files, most often many small ones",
)
SPACE = ("the disk is full", "Free some space")

_BY_NUMBER = {errno.EAGAIN: PROCESSES, errno.ENOMEM: MEMORY, errno.EMFILE: FILES, errno.ENFILE: FILES}
# What git, Docker Compose and sops print about it. The text is only searched: it may quote a secret.
_BY_WORDS = {
    PROCESSES: (
        *("resource temporarily unavailable", "failed to create new os thread", "unable to create thread"),
        *("cannot fork", "unable to fork", "fork failed", "pthread_create failed"),
    ),
    MEMORY: ("cannot allocate memory", "out of memory", "failed to reserve", "cannot map pages", "died of signal 9"),
    FILES: ("too many open files",),
}


def exhausted_by(error: BaseException) -> tuple[str, str] | None:
    """Given why a process or thread could not be started, return what has run out and what to do; None: nothing."""
    if isinstance(error, MemoryError):
        return MEMORY
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return PROCESSES
    return _BY_NUMBER.get(error.errno or 0) if isinstance(error, OSError) else None


def exhausted_in(printed: bytes) -> tuple[str, str] | None:
    """Given what a failed program printed, return what has run out and what to do; None: nothing that shows."""
    text = printed.decode(errors="replace").lower()
    return next((facts for facts, words in _BY_WORDS.items() if any(word in text for word in words)), None)


def missing_space(free_inodes: int, inodes: int) -> tuple[str, str]:
    """Given the inodes of a file system on which nothing can be written for want of space, return what is missing.

    A file system without a fixed number of inodes has 0 of them.
    """
    return INODES if inodes and not free_inodes else SPACE
