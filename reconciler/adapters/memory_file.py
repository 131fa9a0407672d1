"""Files in memory, to hand content to a program that takes a path."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MemoryFile:
    """A file without a name; another process of the same user can open it at ``path``."""

    descriptor: int

    @property
    def path(self) -> str:
        return f"/proc/{os.getpid()}/fd/{self.descriptor}"

    def content(self) -> bytes:
        return os.pread(self.descriptor, os.fstat(self.descriptor).st_size, 0)


@contextlib.contextmanager
def in_memory(data: bytes) -> Iterator[MemoryFile]:
    """A file that leaves nothing behind, whichever process ends first."""
    descriptor = os.memfd_create("staged", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(data)
        yield MemoryFile(descriptor)
    finally:
        os.close(descriptor)
