"""What is remembered between passes, in one sqlite file (0600).

Durable when a call returns: write-ahead log with synchronous=FULL. Holds names, digests and commit ids; never a value.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

from reconciler.core.errors import StoreError, StoreUnavailableError
from reconciler.core.model import (
    Action,
    ActionKind,
    Applied,
    EnvironmentRecord,
    Result,
    Revision,
    Run,
    RunChange,
)

VERSION = 1
_KEEP_RUNS = 1000

_SCHEMA = """
CREATE TABLE environment (name TEXT PRIMARY KEY, record TEXT NOT NULL) STRICT;
CREATE TABLE applied (
    environment TEXT NOT NULL, path TEXT NOT NULL, source TEXT NOT NULL, digest TEXT NOT NULL, mode INTEGER NOT NULL,
    commit_id TEXT NOT NULL, at REAL NOT NULL, stack TEXT, prune INTEGER NOT NULL,
    PRIMARY KEY (environment, path)
) STRICT;
CREATE TABLE plaintext (
    blob TEXT NOT NULL, format TEXT NOT NULL, identity TEXT NOT NULL, digest TEXT NOT NULL,
    PRIMARY KEY (blob, format, identity)
) STRICT;
CREATE TABLE run (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, environment TEXT NOT NULL, started_at REAL NOT NULL,
    finished_at REAL, facts TEXT NOT NULL, result TEXT, reason TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX run_by_environment ON run (environment, number);
CREATE TABLE owed (run TEXT NOT NULL, environment TEXT NOT NULL, action TEXT NOT NULL) STRICT;
"""


class SqliteStore:
    """The ``Store`` port. Raises StoreError for a file that is damaged or was written by a newer version."""

    def __init__(self, path: str) -> None:
        self._path = path
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            os.close(descriptor)
            self._database = sqlite3.connect(path, isolation_level=None, timeout=10.0)
            self._prepare()
        except sqlite3.DatabaseError as error:
            raise self._damaged(error) from error
        except OSError as error:
            hint = "make state_dir writable for the daemon's user"
            raise StoreError(
                f"cannot open the state database ({os.strerror(error.errno or 0)})", where=path, hint=hint
            ) from error

    def close(self) -> None:
        self._database.close()

    # --- environments and targets ---

    def environment(self, name: str) -> EnvironmentRecord:
        row = self._one("SELECT record FROM environment WHERE name = ?", name)
        return _record_from_json(row[0]) if row else EnvironmentRecord(name)

    def save_environment(self, record: EnvironmentRecord) -> None:
        with self._transaction() as do:
            do(*_upsert_environment(record))

    def applied(self, environment: str) -> Mapping[str, Applied]:
        rows = self._all(
            "SELECT source, path, digest, mode, commit_id, at, stack, prune FROM applied WHERE environment = ?",
            environment,
        )
        return {row[1]: Applied(*row) for row in rows}

    # --- what a blob decrypts to, as a keyed digest ---

    def digest(self, blob: str, format: str, identity: str) -> str | None:
        row = self._one(
            "SELECT digest FROM plaintext WHERE blob = ? AND format = ? AND identity = ?", blob, format, identity
        )
        return row[0] if row else None

    def remember_digest(self, blob: str, format: str, identity: str, digest: str) -> None:
        with self._transaction() as do:
            do("INSERT OR REPLACE INTO plaintext VALUES (?, ?, ?, ?)", (blob, format, identity, digest))

    # --- runs ---

    def begin(self, run: Run) -> None:
        with self._transaction() as do:
            do(
                "INSERT INTO run (id, environment, started_at, facts) VALUES (?, ?, ?, ?)",
                (run.id, run.environment, run.started_at, _run_facts(run)),
            )
            _insert_owed(do, run.id, run.environment, run.actions)

    def owe(self, run: str, actions: Sequence[Action]) -> None:
        with self._transaction() as do:
            row = self._one("SELECT environment FROM run WHERE id = ?", run)
            do("DELETE FROM owed WHERE run = ?", (run,))
            _insert_owed(do, run, row[0], actions)

    def owed(self, environment: str) -> tuple[Action, ...]:
        rows = self._all("SELECT DISTINCT action FROM owed WHERE environment = ? ORDER BY rowid", environment)
        return tuple(_action_from_json(json.loads(row[0])) for row in rows)

    def finish(
        self,
        run: Run,
        result: Result,
        reason: str,
        *,
        at: float,
        record: EnvironmentRecord,
        applied: Sequence[Applied] = (),
        forgotten: Sequence[str] = (),
        owed: Sequence[Action] = (),
    ) -> None:
        with self._transaction() as do:
            do("DELETE FROM owed WHERE environment = ?", (run.environment,))
            _insert_owed(do, run.id, run.environment, owed)
            do(
                "UPDATE run SET finished_at = ?, result = ?, reason = 'ended by a later run' "
                "WHERE environment = ? AND result IS NULL AND id != ?",
                (at, Result.FAILED, run.environment, run.id),
            )
            do(
                "INSERT INTO run (id, environment, started_at, finished_at, facts, result, reason) "
                "VALUES (?, ?, ?, ?, ?, ?, ?) "
                "ON CONFLICT (id) DO UPDATE SET finished_at = excluded.finished_at, facts = excluded.facts, "
                "result = excluded.result, reason = excluded.reason",
                (run.id, run.environment, run.started_at, at, _run_facts(run), result, reason),
            )
            do("DELETE FROM run WHERE number <= (SELECT max(number) FROM run) - ?", (_KEEP_RUNS,))
            for path in forgotten:
                do("DELETE FROM applied WHERE environment = ? AND path = ?", (run.environment, path))
            for one in applied:
                do(*_upsert_applied(run.environment, one))
            do(*_upsert_environment(record))

    def runs(self, environment: str | None = None, limit: int = 20) -> tuple[Run, ...]:
        rows = self._all(
            "SELECT id, environment, started_at, finished_at, facts, result, reason FROM run "
            "WHERE ? IS NULL OR environment = ? ORDER BY number DESC LIMIT ?",
            environment,
            environment,
            limit,
        )
        return tuple(_run_from_row(row) for row in rows)

    # --- the connection ---

    def _prepare(self) -> None:
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")
        (found,) = self._one("PRAGMA user_version")
        if found > VERSION:
            hint = f"this one knows version {VERSION}: install the newer reconciler again, or name another state_dir"
            what = f"the state database has version {found}, written by a newer reconciler"
            raise StoreError(what, where=self._path, hint=hint)
        if found == 0:
            self._database.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;")
        (state,) = self._one("PRAGMA quick_check(1)")
        if state != "ok":
            raise sqlite3.DatabaseError(state)

    def _one(self, statement: str, *values: object) -> Any:
        with self._guarded():
            return self._database.execute(statement, values).fetchone()

    def _all(self, statement: str, *values: object) -> list[Any]:
        with self._guarded():
            return self._database.execute(statement, values).fetchall()

    @contextlib.contextmanager
    def _transaction(self) -> Any:
        with self._guarded():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database.execute
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")

    @contextlib.contextmanager
    def _guarded(self) -> Any:
        try:
            yield
        except sqlite3.OperationalError as error:
            hint = "free space on the state directory's disk; it is tried again"
            raise StoreUnavailableError(
                f"the state database cannot be used now ({error})", where=self._path, hint=hint
            ) from error
        except sqlite3.DatabaseError as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> StoreError:
        hint = (
            "nothing was changed. Live files and backups are not part of it: move the file away and start again; "
            "a file that differs from git is then held as first contact"
        )
        return StoreError(f"the state database is damaged ({error})", where=self._path, hint=hint)


def _insert_owed(do: Any, run: str, environment: str, actions: Sequence[Action]) -> None:
    for action in actions:
        do(
            "INSERT INTO owed VALUES (?, ?, ?)",
            (run, environment, json.dumps(dataclasses.asdict(action), sort_keys=True)),
        )


def _upsert_environment(record: EnvironmentRecord) -> tuple[str, tuple[str, str]]:
    return (
        "INSERT INTO environment VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET record = excluded.record",
        (record.name, json.dumps(dataclasses.asdict(record))),
    )


def _upsert_applied(environment: str, one: Applied) -> tuple[str, tuple[object, ...]]:
    return (
        "INSERT OR REPLACE INTO applied (environment, path, source, digest, mode, commit_id, at, stack, prune) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (environment, one.path, one.source, one.digest, one.mode, one.commit, one.at, one.stack, int(one.prune)),
    )


def _record_from_json(text: str) -> EnvironmentRecord:
    data = json.loads(text)
    for name in ("head", "applied", "healthy"):
        data[name] = Revision(**data[name]) if data[name] else None
    return EnvironmentRecord(**data)


def _run_facts(run: Run) -> str:
    facts = dataclasses.asdict(run)
    return json.dumps(
        {name: facts[name] for name in ("trigger", "revision", "from_commit", "backup", "changes", "actions")}
    )


def _run_from_row(row: tuple[Any, ...]) -> Run:
    identity, environment, started_at, finished_at, facts, result, reason = row
    data = json.loads(facts)
    return Run(
        id=identity,
        environment=environment,
        trigger=data["trigger"],
        started_at=started_at,
        revision=Revision(**data["revision"]),
        from_commit=data["from_commit"],
        backup=data["backup"],
        changes=tuple(_run_change_from_json(change) for change in data["changes"]),
        actions=tuple(_action_from_json(action) for action in data["actions"]),
        finished_at=finished_at,
        result=Result(result) if result else None,
        reason=reason,
    )


def _run_change_from_json(data: dict[str, Any]) -> RunChange:
    names = {field: tuple(data[field]) for field in ("added", "removed", "changed")}
    return RunChange(source=data["source"], kind=data["kind"], **names)


def _action_from_json(data: dict[str, Any]) -> Action:
    return Action(**{**data, "kind": ActionKind(data["kind"])})
