"""One process at a time works on a state directory."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from datetime import UTC, datetime

from reconciler.core.errors import LockedError, StoreError

_IDS = {errno.EROFS: "state-read-only", errno.ENOSPC: "state-disk-full"}


@contextlib.contextmanager
def exclusive(state_dir: str, purpose: str) -> Iterator[None]:
    """Hold the state directory's lock. ``purpose`` names the holder to the next process.

    Raises LockedError with the holder's process id, purpose and since when; StoreError where the lock cannot be made.
    The kernel frees the lock when its holder dies, however it dies.
    """
    path = os.path.join(state_dir, "lock")
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        hint = "Make the state directory writable for the daemon's user, with room in it"
        problem = f"cannot open the lock ({os.strerror(error.errno or 0)})"
        raise StoreError(problem, where=path, hint=hint, id=_IDS.get(error.errno or 0, "")) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "another process"
            hint = "Wait for it to end; if a daemon no longer answers, `systemctl restart reconciler`"
            raise LockedError(f"the state directory is in use by {holder}", where=state_dir, hint=hint) from None
        since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
        with contextlib.suppress(OSError):  # on a full disk the lock still holds, it only does not name its holder
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} ({purpose}) since {since}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)
