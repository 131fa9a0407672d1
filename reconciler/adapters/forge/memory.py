"""The ``ForgeMemory`` port: a table in the state database."""

from __future__ import annotations

import json
import sqlite3

from reconciler.core.errors import StoreUnavailableError
from reconciler.core.ports.forge import CommitState, CommitStatus

_TABLE = "CREATE TABLE IF NOT EXISTS forge (subject TEXT PRIMARY KEY, reported TEXT NOT NULL) STRICT, WITHOUT ROWID"
_LOCK_TIMEOUT = 10.0  # seconds to wait for another process that is writing


class SqliteForgeMemory:
    """In the database at ``path``, which the store has opened and checked before. Raises StoreUnavailableError."""

    def __init__(self, path: str) -> None:
        self._path = path
        try:
            self._database = sqlite3.connect(path, isolation_level=None, timeout=_LOCK_TIMEOUT)
            self._database.execute("PRAGMA synchronous = FULL")
            self._database.execute(_TABLE)
        except sqlite3.Error as error:
            raise self._unavailable(error) from error

    def close(self) -> None:
        self._database.close()

    def status(self, context: str) -> CommitStatus | None:
        text = self._read(f"status {context}")
        try:
            fields = json.loads(text) if text else None
            return CommitStatus(**{**fields, "state": CommitState(fields["state"])}) if fields else None
        except (TypeError, ValueError, KeyError):
            return None  # of a newer version: it is set once more

    def remember_status(self, status: CommitStatus) -> None:
        fields = {
            "commit": status.commit,
            "context": status.context,
            "state": status.state.value,
            "summary": status.summary,
        }
        self._write(f"status {status.context}", json.dumps(fields))

    def comment(self, subject: str) -> str:
        return self._read(f"comment {subject}")

    def remember_comment(self, subject: str, digest: str) -> None:
        self._write(f"comment {subject}", digest)

    def _read(self, subject: str) -> str:
        try:
            row = self._database.execute("SELECT reported FROM forge WHERE subject = ?", (subject,)).fetchone()
        except sqlite3.Error as error:
            raise self._unavailable(error) from error
        return str(row[0]) if row else ""

    def _write(self, subject: str, reported: str) -> None:
        try:
            self._database.execute("INSERT OR REPLACE INTO forge VALUES (?, ?)", (subject, reported))
        except sqlite3.Error as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: sqlite3.Error) -> StoreUnavailableError:
        hint = "Free some space in the state directory, or make it writable for the daemon's user"
        return StoreUnavailableError(f"cannot be used now ({error})", where=self._path, hint=hint)
