"""What is done with an open live file on this machine: read, written, and who else has it open."""

from __future__ import annotations

import fcntl
import os
import signal
import stat

from reconciler.adapters.local.live_files import LARGEST_FILE, require_regular, require_small
from reconciler.core.model.targets import LiveFile, Ownership
from reconciler.core.secret import Secret

# A pipe in the file's place must not block the daemon, nor a terminal become its own.
TO_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


def read_open(descriptor: int, path: str) -> LiveFile:
    """The open file, from its beginning. Raises LiveFileError for anything but a regular file that is not too large."""
    status = os.fstat(descriptor)
    require_regular(path, status.st_mode)
    data = os.read(descriptor, min(status.st_size, LARGEST_FILE) + 1)  # memory for the largest takes five times as long
    if more := os.read(descriptor, 1):  # it has grown, or is read in parts
        with open(descriptor, "rb", closefd=False) as file:
            data += more + file.read(LARGEST_FILE + 1 - len(data))
    require_small(path, len(data))
    return LiveFile(
        data=Secret(data),
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        modified_at=status.st_mtime,
    )


def write_all(descriptor: int, data: Secret) -> None:
    view = memoryview(data.reveal())
    while view:
        view = view[os.write(descriptor, view) :]


def chown_arguments(ownership: Ownership) -> tuple[int, int]:
    return (-1 if ownership.uid is None else ownership.uid, -1 if ownership.gid is None else ownership.gid)


def is_being_written(parent: int, name: str) -> bool:
    """Whether a process has the file open for writing: what it writes next would go into a deleted file.

    The kernel grants a read lease, fcntl(2), only where no process has. It grants it to root with CAP_LEASE and to the
    file's owner, on local file systems; elsewhere this cannot be determined, and the answer is no.
    """
    descriptor = os.open(name, TO_READ, dir_fd=parent)
    try:
        return lease(descriptor, fcntl.F_RDLCK) is False
    finally:
        os.close(descriptor)  # and the lease ends


def lease(descriptor: int, kind: int) -> bool | None:
    """Take a lease until the descriptor is closed: whoever opens the file in a way that the ``kind`` excludes waits.

    False where somebody has it open so already, None where there are no leases.
    """
    try:
        # When a lease is revoked the signal would be SIGIO, which ends a process; this one is ignored.
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, kind)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True
