"""What is remembered between reconciliations, in one sqlite file (0600).

Durable when a call returns: write-ahead log with synchronous=FULL. Contains names, digests and commit ids, never a
value.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from reconciler.adapters.disk import disk_reason, state_id
from reconciler.adapters.store_errors import damaged_store, store_error
from reconciler.adapters.store_history import (
    append_entry,
    append_runs,
    newest_entries,
    newest_entry,
    read_entries,
    read_head,
    verify_entries,
)
from reconciler.adapters.store_json import (
    action_from_json,
    ran_service_from_json,
    record_from_json,
    run_facts,
    run_from_row,
)
from reconciler.adapters.store_statements import (
    ENTRIES,
    FORGET_RUNS,
    GUARDED,
    RAN,
    SELECT_RUN,
    VERSION,
    WRITTEN,
    Execute,
    create_database,
    insert_pending_restarts,
    upsert_applied,
    upsert_ended_run,
    upsert_environment,
)
from reconciler.core.decide.guards import folded
from reconciler.core.errors import StoreError
from reconciler.core.history.chain import ChainVerification, HistoryHead
from reconciler.core.history.entries import HistoryEntry
from reconciler.core.model.compose import Action, RanService
from reconciler.core.model.records import Applied, EnvironmentRecord
from reconciler.core.model.runs import Result, Run
from reconciler.core.model.targets import host_of

_KEEP_RUNS = 1000
_LOCK_TIMEOUT = 10.0  # seconds to wait for another process that is writing


class SqliteStore:
    """The ``Store`` port. Raises StoreError for a file that is damaged or has another version.

    Another process may read while this one writes, and vice versa.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        with self._guarded():
            self._create()
            self._database = sqlite3.connect(path, isolation_level=None, timeout=_LOCK_TIMEOUT)
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._database.close()

    # --- the key of the stored digests ---

    def digest_key(self) -> str | None:
        """The mark of the key that made the stored digests; None: there are none yet."""
        return (self._one("SELECT mark FROM digest_key") or (None,))[0]

    def note_digest_key(self, mark: str) -> None:
        with self._transaction() as do:
            do("INSERT INTO digest_key VALUES (?)", (mark,))

    # --- environments and targets ---

    @property
    def version(self) -> tuple[int, int]:
        return self._one("PRAGMA data_version")[0], self._database.total_changes  # what others and what we have stored

    def environment(self, name: str) -> EnvironmentRecord:
        row = self._one("SELECT record FROM environment WHERE name = ?", name)
        with self._decoding():
            return record_from_json(row[0]) if row else EnvironmentRecord(name)

    def environments(self) -> tuple[str, ...]:
        return tuple(name for (name,) in self._all("SELECT name FROM environment ORDER BY name"))

    def save_environment(self, record: EnvironmentRecord) -> None:
        with self._transaction() as do:
            do(*upsert_environment(record))

    def applied(self, environment: str) -> Mapping[str, Applied]:
        rows = self._all(
            "SELECT path, source, path, digest, mode, commit_id, at, stack, prune FROM applied WHERE environment = ?",
            environment,
        )
        return {path: Applied(*(*facts, bool(prune))) for path, *facts, prune in rows}

    def advance(self, environment: str, paths: Collection[str], commit: str) -> None:
        with self._transaction() as do:
            for path in paths:
                do("UPDATE applied SET commit_id = ? WHERE environment = ? AND path = ?", (commit, environment, path))

    # --- what a blob decrypts to, as a keyed digest ---

    def digests(self, sources: Collection[tuple[str, str, str]]) -> Mapping[tuple[str, str, str], str]:
        blobs = json.dumps([blob for blob, _, _ in sources])
        rows = self._all("SELECT * FROM plaintext WHERE blob IN (SELECT value FROM json_each(?))", blobs)
        known = {tuple(source): digest for *source, digest in rows}
        return {source: known[source] for source in sources if source in known}

    def remember_digests(self, digests: Mapping[tuple[str, str, str], str]) -> None:
        with self._transaction() as do:
            for source, digest in digests.items():
                do("INSERT OR REPLACE INTO plaintext VALUES (?, ?, ?, ?)", (*source, digest))

    # --- when the values in git's history first appeared ---

    def history_read(self, directory: str) -> str | None:
        row = self._one("SELECT commit_id FROM history WHERE directory = ?", directory)
        return row[0] if row else None

    def first_seen(self, ivs: Collection[str]) -> Mapping[str, float]:
        ivs_as_json = json.dumps(list(ivs))
        return dict(
            self._all("SELECT iv, at FROM first_seen WHERE iv IN (SELECT value FROM json_each(?))", ivs_as_json)
        )

    def remember_first_seen(self, directory: str, commit: str, seen: Mapping[str, float]) -> None:
        with self._transaction() as do:
            for appearance in seen.items():
                do(
                    "INSERT INTO first_seen VALUES (?, ?) ON CONFLICT (iv) DO UPDATE SET at = min(at, excluded.at)",
                    appearance,
                )
            do("INSERT OR REPLACE INTO history VALUES (?, ?)", (directory, commit))

    # --- which files were ever written ---

    def ever_written(self, host: str, paths: Collection[str]) -> frozenset[str]:
        known = self._known("written", host, paths)
        return frozenset(path for path in paths if folded(path) in known)

    def ever_unguarded(self, host: str, paths: Collection[str]) -> frozenset[str]:
        guarded = self._known("guarded", host, paths)
        return frozenset(path for path in self.ever_written(host, paths) if folded(path) not in guarded)

    def remember_written(self, host: str, paths: Collection[str], guarded: Collection[str] = ()) -> None:
        names, safe = {folded(path) for path in paths}, {folded(path) for path in guarded}
        new, before = names - self._known("written", host, paths), self._known("guarded", host, paths)
        if not new and not before - safe:
            return
        with self._transaction() as do:
            for name in sorted(new):
                do("INSERT OR IGNORE INTO written VALUES (?, ?)", (host, name))
            for name in sorted(new & safe):
                do("INSERT OR IGNORE INTO guarded VALUES (?, ?)", (host, name))
            for name in sorted(before - safe):
                do("DELETE FROM guarded WHERE host = ? AND folded = ?", (host, name))

    def _known(self, table: str, host: str, paths: Collection[str]) -> frozenset[str]:
        names = json.dumps([folded(path) for path in paths])
        statement = f"SELECT folded FROM {table} WHERE host = ? AND folded IN (SELECT value FROM json_each(?))"  # noqa: S608  # ours
        return frozenset(name for (name,) in self._all(statement, host, names))

    # --- which services ran when they were last healthy ---

    def ran_services(self, environment: str) -> tuple[RanService, ...]:
        row = self._one("SELECT services FROM ran WHERE environment = ?", environment)
        with self._decoding():
            return tuple(ran_service_from_json(service) for service in json.loads(row[0])) if row else ()

    def remember_ran_services(self, environment: str, services: Sequence[RanService]) -> None:
        facts = json.dumps([dataclasses.asdict(service) for service in services])
        with self._transaction() as do:
            do("INSERT OR REPLACE INTO ran VALUES (?, ?)", (environment, facts))

    # --- runs ---

    def begin(self, run: Run) -> None:
        with self._transaction() as do:
            do(
                "INSERT INTO run (id, environment, started_at, facts) VALUES (?, ?, ?, ?)",
                (run.id, run.environment, run.started_at, run_facts(run)),
            )
            insert_pending_restarts(do, run.id, run.environment, run.actions)

    def amend(self, run: Run, record: EnvironmentRecord | None = None) -> None:
        with self._transaction() as do:
            do("UPDATE run SET facts = ?, reason = ? WHERE id = ?", (run_facts(run), run.reason, run.id))
            do("DELETE FROM pending_restart WHERE run = ?", (run.id,))
            insert_pending_restarts(do, run.id, run.environment, run.actions)
            if record is not None:
                do(*upsert_environment(record))

    def unfinished(self, environment: str) -> Run | None:
        row = self._one(f"{SELECT_RUN} WHERE environment = ? AND result IS NULL ORDER BY number DESC", environment)
        with self._decoding():
            return run_from_row(row) if row else None

    def reopen(self, run: Run, record: EnvironmentRecord, decision: Run) -> None:
        with self._transaction() as do:
            append_entry(do, decision, decision.started_at)
            do("UPDATE run SET result = NULL, finished_at = NULL WHERE id = ?", (run.id,))
            self._append_stored(do, run.id, decision.started_at)
            do(*upsert_environment(record))

    def note(self, run: str, sentence: str, record: EnvironmentRecord, at: float) -> None:
        with self._transaction() as do:
            do("UPDATE run SET reason = rtrim(reason, '.') || '. ' || ? WHERE id = ?", (sentence, run))
            self._append_stored(do, run, at)
            do(*upsert_environment(record))

    def _append_stored(self, do: Execute, run: str, at: float) -> None:
        """Chain the run as it is stored now; nothing where its row has been forgotten meanwhile."""
        for row in do(f"{SELECT_RUN} WHERE id = ?", (run,)).fetchall():
            with self._decoding():
                append_entry(do, run_from_row(row), at)

    def pending_restarts(self, environment: str) -> tuple[Action, ...]:
        rows = self._all(
            "SELECT action FROM pending_restart WHERE environment = ? GROUP BY action ORDER BY min(rowid)", environment
        )
        with self._decoding():
            return tuple(action_from_json(json.loads(row[0])) for row in rows)

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
        pending_restarts: Sequence[Action] = (),
        settled: Sequence[Action] = (),
    ) -> None:
        done = {(action.stack, action.service) for action in settled}
        with self._transaction() as do:
            for rowid, text in self._all(
                "SELECT rowid, action FROM pending_restart WHERE environment = ?", run.environment
            ):
                action = action_from_json(json.loads(text))
                if (action.stack, action.service) in done:
                    do("DELETE FROM pending_restart WHERE rowid = ?", (rowid,))
            do("DELETE FROM pending_restart WHERE run = ?", (run.id,))
            insert_pending_restarts(do, run.id, run.environment, pending_restarts)
            left = do(
                "SELECT id FROM run WHERE environment = ? AND result IS NULL AND id != ?", (run.environment, run.id)
            )
            for (identity,) in left.fetchall():
                ended = "UPDATE run SET finished_at = ?, result = ?, reason = 'ended by a later run' WHERE id = ?"
                do(ended, (at, Result.FAILED, identity))
                self._append_stored(do, identity, at)
            do(*upsert_ended_run(run, result, reason, at))
            self._append_stored(do, run.id, at)
            do(FORGET_RUNS, (run.environment, run.environment, _KEEP_RUNS))
            for path in forgotten:
                do("DELETE FROM applied WHERE environment = ? AND path = ?", (run.environment, path))
            for state in applied:
                do(*upsert_applied(run.environment, state))
            do(*upsert_environment(record))

    # --- the history ---

    def decide(self, decision: Run, record: EnvironmentRecord | None = None, *, forgotten: Sequence[str] = ()) -> None:
        with self._transaction() as do:
            append_entry(do, decision, decision.finished_at or decision.started_at)
            for path in forgotten:
                do("DELETE FROM applied WHERE environment = ? AND path = ?", (decision.environment, path))
            if record is not None:
                do(*upsert_environment(record))

    def history(
        self,
        environments: Collection[str] | None = None,
        limit: int = 20,
        *,
        before: str | None = None,
        recoveries: bool = True,
    ) -> tuple[HistoryEntry, ...]:
        with self._guarded():
            return newest_entries(self._database.execute, environments, limit, before=before, recoveries=recoveries)

    def history_of(self, run: str) -> HistoryEntry | None:
        with self._guarded():
            return newest_entry(self._database.execute, run)

    def entries(self, after: int = 0) -> Iterator[HistoryEntry]:
        with self._guarded():
            yield from read_entries(self._database.execute, after)

    def history_head(self) -> HistoryHead:
        with self._guarded():
            return read_head(self._database.execute)

    def verify_history(self, heads: Collection[str] = ()) -> ChainVerification:
        with self._guarded():
            return verify_entries(self._database.execute, heads)

    def runs(
        self,
        environment: str | Collection[str] | None = None,
        limit: int = 20,
        *,
        since: float = 0.0,
        result: Result | None = None,
    ) -> tuple[Run, ...]:
        names = [environment] if isinstance(environment, str) else environment
        among = f"AND environment IN ({', '.join('?' * len(names))})" if names is not None else ""
        statement = f"{SELECT_RUN} WHERE started_at >= ? {among} {'AND result = ?' if result else ''}"
        values = (since, *(names or ()), *([result] if result else ()), limit)
        rows = self._all(f"{statement} ORDER BY number DESC LIMIT ?", *values)
        with self._decoding():
            return tuple(run_from_row(row) for row in rows)

    # --- the connection ---

    def _create(self) -> None:
        """Create the file with its tables, 0600, if it does not exist.

        Atomically, so that an empty file is known to be damaged, not new. An existing one is not even opened: closing
        any descriptor of it would drop the locks that this process already holds on it, fcntl(2).
        """
        log = f"{self._path}-wal"
        log_left = os.path.exists(log)  # checked first: another process may be creating the file
        if os.path.exists(self._path):
            return
        if log_left:
            hint = "Restore the database, or move this file away too: a new database must not be mixed with it"
            problem = "belongs to a state database that no longer exists"
            raise StoreError(problem, where=log, hint=hint, id="log-without-database")
        try:
            create_database(self._path)
        except OSError as error:
            hint = "Make state_dir writable for the daemon's user, with free space in it"
            problem = f"cannot create the state database ({disk_reason(error, self._path)})"
            raise StoreError(problem, where=self._path, hint=hint, id=state_id(error, self._path)) from error

    def _prepare(self) -> None:
        if os.path.getsize(self._path) == 0:
            raise damaged_store(self._path, "it is empty")
        with self._guarded():
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = FULL")
        version = self._version()
        if version == 0:
            raise damaged_store(self._path, "it has no version")
        if version > VERSION:
            hint = f"This one knows version {VERSION}: install the newer reconciler again, or name another state_dir"
            problem = f"the state database has version {version}, written by a newer reconciler"
            raise StoreError(problem, where=self._path, hint=hint, id="newer-database")
        (state,) = self._one("PRAGMA quick_check(1)")
        if state != "ok":
            raise damaged_store(self._path, state.splitlines()[-1])  # after a heading
        if version < VERSION:
            self._upgrade()

    def _upgrade(self) -> None:
        """Version 1 did not remember every path that was ever written: it knows the applied ones, and those of runs.
        Version 2 did not remember which services ran: the next look sees those that run now. Version 3 did not remember
        which paths were always guarded: none counts as such. Version 4 had no chain of entries: it begins with the runs
        that are known."""
        rows = self._all("SELECT environment, path FROM applied")
        with self._decoding():
            for environment, facts in self._all("SELECT environment, facts FROM run"):
                rows += [(environment, change["path"]) for change in json.loads(facts)["changes"]]
        names = {(host_of(environment), folded(path)) for environment, path in rows}
        with self._transaction() as do:
            version = self._version()
            if version == VERSION:  # another process was faster
                return
            if version < 2:
                do(WRITTEN)
                for name in sorted(names):
                    do("INSERT INTO written VALUES (?, ?)", name)
            if version < 3:
                do(RAN)
            if version < 4:
                do(GUARDED)
            for statement in ENTRIES:
                do(statement)
            with self._decoding():
                append_runs(
                    do, map(run_from_row, do(f"{SELECT_RUN} WHERE result IS NOT NULL ORDER BY number").fetchall())
                )
            do(f"PRAGMA user_version = {VERSION}")

    def _version(self) -> int:
        return int(self._one("PRAGMA user_version")[0])

    def _one(self, statement: str, *values: object) -> Any:
        with self._guarded():
            return self._database.execute(statement, values).fetchone()

    def _all(self, statement: str, *values: object) -> list[Any]:
        with self._guarded():
            return self._database.execute(statement, values).fetchall()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[Execute]:
        with self._guarded():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database.execute
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:  # a full disk may have ended it already
                    self._database.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.IntegrityError, sqlite3.ProgrammingError):
            raise  # a bug of ours
        except sqlite3.DatabaseError as error:
            raise store_error(self._path, error) from error
        except UnicodeDecodeError as error:  # sqlite's message quotes the damage
            raise damaged_store(self._path, "it holds text that is not UTF-8") from error

    @contextlib.contextmanager
    def _decoding(self) -> Iterator[None]:
        try:
            yield
        except (ValueError, TypeError, KeyError) as error:
            raise damaged_store(self._path, f"a record cannot be read: {type(error).__name__}") from error
