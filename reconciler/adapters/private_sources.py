"""Where secrets of our own come from: a file for its owner alone, or a command that prints them."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence

from reconciler.adapters import process
from reconciler.core.decide.private_files import is_exposed
from reconciler.core.errors import ExhaustedError


class PrivateSourceError(Exception):
    """Why there is no secret, as the end of a sentence. ``mode`` is that of a file that others may read or change."""

    def __init__(self, reason: str, mode: int | None = None) -> None:
        super().__init__(reason)
        self.mode = mode


def read_private_file(path: str, most: int, *, strict: bool = True) -> bytes:
    """The first ``most`` bytes of the file; ``strict``: only if it is for its owner alone.

    Raises PrivateSourceError.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a named pipe would block forever
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise PrivateSourceError("it is not a regular file")
            data = file.read(most)
    except OSError as error:
        irregular = error.errno == errno.EISDIR
        reason = "it is not a regular file" if irregular else error.strerror or "it cannot be read"
        raise PrivateSourceError(reason) from None
    mode = stat.S_IMODE(status.st_mode)
    if strict and is_exposed(path, mode, os.environ.get("CREDENTIALS_DIRECTORY", "")):
        raise PrivateSourceError(f"has mode {mode:04o}: others may read or change it, so it is not used", mode)
    return data


async def run_for_secret(command: Sequence[str], limits: process.Limits, secret: str) -> bytes:
    """What the command prints. Its messages are dropped: they could quote the ``secret``, which is what it is called.
    Raises PrivateSourceError."""
    try:
        done = await process.run(command, env=dict(os.environ), limits=limits)
    except process.MissingProgramError:
        raise PrivateSourceError("cannot be started: not found, or not executable") from None
    except (ExhaustedError, OSError) as error:
        raise PrivateSourceError(f"cannot be started: {error}") from error
    if done.ok:
        return done.stdout
    reason = "timed out" if done.timed_out else "printed too much" if done.overflowed else f"exit {done.exit_code}"
    raise PrivateSourceError(f"gave no {secret} ({reason})")
