"""What an error of sqlite says about the state database: something outside is in the way, or the file is damaged."""

from __future__ import annotations

import contextlib
import sqlite3

from reconciler.adapters.disk import disk_state
from reconciler.core.errors import ReconcilerError, StoreError, StoreUnavailableError
from reconciler.core.exhaustion import INODES, missing_space

# Errors of sqlite, by primary result code, that do not mean a damaged file: what to do about each.
_OUTSIDE = {
    sqlite3.SQLITE_FULL: "The state directory's disk is full: free some space",
    sqlite3.SQLITE_IOERR: "The state directory's disk is full or reports errors (dmesg): free some space",
    sqlite3.SQLITE_READONLY: "Make state_dir writable for the daemon's user",
    sqlite3.SQLITE_CANTOPEN: "Make state_dir, and the file, writable for the daemon's user",
    sqlite3.SQLITE_PERM: "Make state_dir writable for the daemon's user",
    sqlite3.SQLITE_AUTH: "Make state_dir writable for the daemon's user",
    sqlite3.SQLITE_BUSY: "Wait for the other reconciler to finish",
    sqlite3.SQLITE_LOCKED: "Wait for the other reconciler to finish",
    sqlite3.SQLITE_PROTOCOL: "Wait for the other reconciler to finish",
    sqlite3.SQLITE_NOMEM: "Free some memory",
}
_OUTSIDE_IDS = {
    sqlite3.SQLITE_FULL: "state-disk-full",
    sqlite3.SQLITE_IOERR: "state-disk-full",
    sqlite3.SQLITE_READONLY: "state-read-only",
}


def store_error(path: str, error: sqlite3.DatabaseError) -> ReconcilerError:
    """The error to raise for what sqlite has raised about the database at ``path``."""
    hint = _OUTSIDE.get(getattr(error, "sqlite_errorcode", 0) & 0xFF)
    if hint is None:
        return damaged_store(path, str(error))
    full = _full(path, error)
    id = "state-no-inodes" if INODES[0] in full else _OUTSIDE_IDS.get(error.sqlite_errorcode & 0xFF, "")
    problem = f"the state database cannot be used now ({error}{full})"
    return StoreUnavailableError(problem, where=path, hint=hint, id=id)


def _full(path: str, error: sqlite3.DatabaseError) -> str:
    """What is full about the disk, where that may be why."""
    if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN):
        return ""
    with contextlib.suppress(OSError):
        space, free, inodes = disk_state(path)
        return f": {missing_space(free, inodes)[0]}" if not space or (inodes and not free) else ""
    return ""


def damaged_store(path: str, reason: str) -> StoreError:
    hint = (
        "Nothing was changed. Live files and backups are not part of it: stop the daemon, move it away with "
        "state.db-wal and state.db-shm, and start again. Files equal to git are then recorded, one that differs is "
        "held as first contact"
    )
    problem = f"the state database is damaged ({reason})"
    return StoreError(problem, where=path, hint=hint, id="damaged-database")
