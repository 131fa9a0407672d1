"""Takes from a forked command, and from all that it starts, the right of root to pass by the modes of files."""

from __future__ import annotations

import ctypes
import struct

_DAC_OVERRIDE, _DAC_READ_SEARCH = 1, 2  # see capability.h
_VERSION = 0x20080522
_PR_CAPBSET_DROP = 24


def prepare() -> None:
    """Called in the command's process, before it begins."""
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in (_DAC_OVERRIDE, _DAC_READ_SEARCH):
        _check(libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0))
    header = ctypes.create_string_buffer(struct.pack("Ii", _VERSION, 0))
    held = ctypes.create_string_buffer(24)  # effective, permitted, inheritable: first the lower halves of each
    _check(libc.capget(header, held))
    kept = ~(1 << _DAC_OVERRIDE | 1 << _DAC_READ_SEARCH)
    lower = (word & kept for word in struct.unpack("3I", held.raw[:12]))
    _check(libc.capset(header, ctypes.create_string_buffer(struct.pack("3I", *lower) + held.raw[12:24])))


def _check(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), "cannot give the rights away")
