"""Writes into a live file that is there, so that it stays the same file for a container that mounts it by itself.

That is not atomic. The caller has a backup; a kill leaves a beginning of the new content before an end of the old one,
which the next process recognises (core/decide/torn_writes.py). An error restores what was there.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import functools
import os

from reconciler.adapters.local.live_files import changed, edit_of
from reconciler.adapters.local.open_files import chown_arguments, is_being_written, lease, read_open, write_all
from reconciler.core.errors import LiveFileError
from reconciler.core.model.targets import LiveFile, Ownership
from reconciler.core.secret import Secret

_TO_CHANGE = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_KEEP_SIZE = 1  # FALLOC_FL_KEEP_SIZE
_CANNOT_ALLOCATE = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})
_ID = "not-in-place"
_INSTEAD = "Set write: replace for the target: its services are restarted then"


def overwrite(
    parent: int, name: str, path: str, data: Secret, mode: int, ownership: Ownership, expected: LiveFile
) -> None:
    """Make ``data`` the content of the file, if it is as the caller saw it. Raises OSError, ChangedMeanwhileError, and
    LiveFileError where that would not be safe.

    From the last look at it until the end nobody else can open the file. Where a process has it open for reading all
    along, only what another one writes within some microseconds is not noticed.
    """
    if is_being_written(parent, name):
        raise changed(path, "somebody is writing to the live file")
    try:
        descriptor = os.open(name, _TO_CHANGE, dir_fd=parent)
    except FileNotFoundError:
        raise changed(path, "somebody removed the live file meanwhile") from None
    try:
        if lease(descriptor, fcntl.F_WRLCK) is None:
            problem = "cannot be written in place: nobody can be kept from writing to it meanwhile on this file system"
            raise LiveFileError(problem, where=path, hint=_INSTEAD, id=_ID)
        if os.fstat(descriptor).st_nlink != 1:  # another name may lie anywhere
            problem = "cannot be written in place: it has another name, which would change too (a hard link)"
            raise LiveFileError(problem, where=path, hint=f"Remove the other name. {_INSTEAD}", id=_ID)
        live = read_open(descriptor, path)
        if edit := edit_of(live, expected):
            raise changed(path, edit)
        _allocate(descriptor, len(data.reveal()))
        try:
            os.fchown(descriptor, *chown_arguments(ownership))
            os.fchmod(descriptor, mode)
            _put(descriptor, data)
        except BaseException:
            with contextlib.suppress(OSError):
                _put(descriptor, live.data)
                os.fchown(descriptor, live.uid, live.gid)
                os.fchmod(descriptor, live.mode)
            raise
    finally:
        os.close(descriptor)


def _put(descriptor: int, data: Secret) -> None:
    os.lseek(descriptor, 0, os.SEEK_SET)
    write_all(descriptor, data)
    os.ftruncate(descriptor, len(data.reveal()))
    os.fsync(descriptor)


def _allocate(descriptor: int, size: int) -> None:
    """Reserve the space before the first byte changes. Raises OSError where there is none."""
    if size and _fallocate()(descriptor, _KEEP_SIZE, 0, size) != 0:
        number = ctypes.get_errno()
        if number not in _CANNOT_ALLOCATE:
            raise OSError(number, os.strerror(number))


@functools.cache
def _fallocate() -> ctypes._NamedFuncPointer:
    # Python's own, posix_fallocate, makes the file longer: readers would see zeros.
    function = ctypes.CDLL(None, use_errno=True).fallocate
    function.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_longlong, ctypes.c_longlong)
    return function
