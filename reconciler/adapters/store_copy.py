"""Copies a state database to look into it: nothing is created, repaired or upgraded beside the original."""

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
    # Even a reader creates the files of a write-ahead log, unless told that nobody writes.
    mode = "mode=ro" if os.path.exists(f"{path}-wal") else "mode=ro&immutable=1"
    with contextlib.suppress(sqlite3.DatabaseError):
        with (
            contextlib.closing(sqlite3.connect(f"file:{quote(path)}?{mode}", uri=True)) as database,
            contextlib.closing(sqlite3.connect(copy)) as target,
        ):
            database.backup(target)
        return
    shutil.copyfile(path, copy)
