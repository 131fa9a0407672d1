"""Looks into a state database, or copies it for that: nothing is created, repaired or upgraded beside the original."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from urllib.parse import quote


def copy_database(path: str, copy: str) -> None:
    """Copy the database at ``path``, which a daemon may be writing, to the new file ``copy`` (0600).

    Does nothing without one. A damaged one is copied as it is. Raises OSError.
    """
    if not os.path.exists(path):
        return
    os.close(os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    with contextlib.suppress(sqlite3.DatabaseError):
        with (
            contextlib.closing(_open_to_read(path)) as database,
            contextlib.closing(sqlite3.connect(copy)) as target,
        ):
            database.backup(target)
        return
    shutil.copyfile(path, copy)


def applied_names(path: str) -> list[tuple[str, str, str]]:
    """Environment, source and stack ("" for none) of each target that was ever applied. Raises sqlite3.Error."""
    with contextlib.closing(_open_to_read(path)) as database:
        return list(database.execute("SELECT environment, source, coalesce(stack, '') FROM applied ORDER BY 1, 2"))


def _open_to_read(path: str) -> sqlite3.Connection:
    # Even a reader creates the files of a write-ahead log, unless told that nobody writes.
    mode = "mode=ro" if os.path.exists(f"{path}-wal") else "mode=ro&immutable=1"
    return sqlite3.connect(f"file:{quote(path)}?{mode}", uri=True)
