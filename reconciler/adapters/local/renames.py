"""Renames in a directory that lose no file: to a name that must be free, or by swapping two files."""

from __future__ import annotations

import ctypes
import errno
import functools
import os

from reconciler.adapters.local.live_files import new_name

# renameat2(2), Linux 3.15: fail where the new name exists; swap the two names. NFS and some FUSE file systems do not.
_RENAME_NOREPLACE = 1
_RENAME_EXCHANGE = 2
_NO_RENAME_FLAGS = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})


def claim_name(parent: int, old: str, new: str, *, directory: bool = False) -> None:
    """Give a file, or a ``directory``, a name that must be free. Raises FileExistsError."""
    try:
        _rename(parent, old, new, _RENAME_NOREPLACE)
    except OSError as error:
        if error.errno not in _NO_RENAME_FLAGS:
            raise
        if directory:
            os.rename(old, new, src_dir_fd=parent, dst_dir_fd=parent)  # second best: an empty one is replaced
        else:
            os.link(old, new, src_dir_fd=parent, dst_dir_fd=parent, follow_symlinks=False)
            os.unlink(old, dir_fd=parent)


def exchange(parent: int, ours: str, name: str) -> None:
    """Swap two files, so that one exists under ``name`` at every moment. Raises FileNotFoundError."""
    try:
        _rename(parent, ours, name, _RENAME_EXCHANGE)
    except OSError as error:
        if error.errno not in _NO_RENAME_FLAGS:
            raise
        _exchange_in_steps(parent, ours, name)


def _exchange_in_steps(parent: int, ours: str, name: str) -> None:
    """Second best: a file that somebody renames to ``name`` between the first two steps is lost."""
    old = new_name(name)
    os.link(name, old, src_dir_fd=parent, dst_dir_fd=parent, follow_symlinks=False)
    try:
        os.rename(ours, name, src_dir_fd=parent, dst_dir_fd=parent)
    except OSError:
        os.unlink(old, dir_fd=parent)
        raise
    os.rename(old, ours, src_dir_fd=parent, dst_dir_fd=parent)


@functools.cache
def _renameat2() -> ctypes._NamedFuncPointer:
    # Python has no binding for it; glibc has since 2.28.
    function = ctypes.CDLL(None, use_errno=True).renameat2
    function.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    return function


def _rename(parent: int, old: str, new: str, flags: int) -> None:
    if _renameat2()(parent, os.fsencode(old), parent, os.fsencode(new), flags) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
