"""The tables of the state database, and statements that write records to it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import secrets
import sqlite3
from collections.abc import Callable, Sequence

from reconciler.adapters.store_json import run_facts
from reconciler.core.history.chain import GENESIS
from reconciler.core.model.compose import Action
from reconciler.core.model.records import Applied, EnvironmentRecord
from reconciler.core.model.runs import Result, Run

VERSION = 5
WRITTEN = (
    "CREATE TABLE written (host TEXT NOT NULL, folded TEXT NOT NULL, PRIMARY KEY (host, folded)) STRICT, WITHOUT ROWID"
)
GUARDED = (
    "CREATE TABLE guarded (host TEXT NOT NULL, folded TEXT NOT NULL, PRIMARY KEY (host, folded)) STRICT, WITHOUT ROWID"
)
RAN = "CREATE TABLE ran (environment TEXT PRIMARY KEY, services TEXT NOT NULL) STRICT, WITHOUT ROWID"
# The history: ``first`` is the number of the first entry of the same run. ``entry_head`` has one row: the ends of the
# chain. The table ``history`` says up to where git was read.
ENTRIES = (
    "CREATE TABLE entry (number INTEGER PRIMARY KEY, first INTEGER NOT NULL, run TEXT NOT NULL, "
    "environment TEXT NOT NULL, content TEXT NOT NULL, previous TEXT NOT NULL, sha256 TEXT NOT NULL) STRICT",
    "CREATE INDEX entry_by_run ON entry (run, number)",
    "CREATE INDEX entry_by_first ON entry (first)",
    "CREATE INDEX entry_by_environment ON entry (environment, first)",
    "CREATE TABLE entry_head (first INTEGER NOT NULL, last INTEGER NOT NULL, sha256 TEXT NOT NULL) STRICT",
    f"INSERT INTO entry_head VALUES (1, 0, '{GENESIS}')",  # noqa: S608  # ours
)
SCHEMA = (
    "CREATE TABLE environment (name TEXT PRIMARY KEY, record TEXT NOT NULL) STRICT",
    "CREATE TABLE applied (environment TEXT NOT NULL, path TEXT NOT NULL, source TEXT NOT NULL, digest TEXT NOT NULL, "
    "mode INTEGER NOT NULL, commit_id TEXT NOT NULL, at REAL NOT NULL, stack TEXT, prune INTEGER NOT NULL, "
    "PRIMARY KEY (environment, path)) STRICT",
    "CREATE TABLE plaintext (blob TEXT NOT NULL, format TEXT NOT NULL, identity TEXT NOT NULL, digest TEXT NOT NULL, "
    "PRIMARY KEY (blob, format, identity)) STRICT",
    "CREATE TABLE run (number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, environment TEXT NOT NULL, "
    "started_at REAL NOT NULL, finished_at REAL, facts TEXT NOT NULL, result TEXT, "
    "reason TEXT NOT NULL DEFAULT '') STRICT",
    "CREATE INDEX run_by_environment ON run (environment, number)",
    "CREATE TABLE history (directory TEXT PRIMARY KEY, commit_id TEXT NOT NULL) STRICT",
    "CREATE TABLE first_seen (iv TEXT PRIMARY KEY, at REAL NOT NULL) STRICT, WITHOUT ROWID",
    "CREATE TABLE pending_restart (run TEXT NOT NULL, environment TEXT NOT NULL, action TEXT NOT NULL) STRICT",
    WRITTEN,
    GUARDED,
    RAN,
    *ENTRIES,
    "CREATE TABLE digest_key (mark TEXT NOT NULL) STRICT",
    f"PRAGMA user_version = {VERSION}",
)
# The columns as run_from_row takes them.
SELECT_RUN = "SELECT id, environment, started_at, finished_at, facts, result, reason FROM run"
FORGET_RUNS = (
    "DELETE FROM run WHERE environment = ? AND result IS NOT NULL AND number <= "
    "(SELECT number FROM run WHERE environment = ? AND result IS NOT NULL ORDER BY number DESC LIMIT 1 OFFSET ?)"
)

Execute = Callable[..., sqlite3.Cursor]


def insert_pending_restarts(do: Execute, run: str, environment: str, actions: Sequence[Action]) -> None:
    for action in actions:
        do(
            "INSERT INTO pending_restart VALUES (?, ?, ?)",
            (run, environment, json.dumps(dataclasses.asdict(action), sort_keys=True)),
        )


def upsert_environment(record: EnvironmentRecord) -> tuple[str, tuple[str, str]]:
    return (
        "INSERT INTO environment VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET record = excluded.record",
        (record.name, json.dumps(dataclasses.asdict(record))),
    )


def upsert_ended_run(run: Run, result: Result, reason: str, at: float) -> tuple[str, tuple[object, ...]]:
    return (
        "INSERT INTO run (id, environment, started_at, finished_at, facts, result, reason) "
        "VALUES (?, ?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (id) DO UPDATE SET finished_at = excluded.finished_at, facts = excluded.facts, "
        "result = excluded.result, reason = excluded.reason",
        (run.id, run.environment, run.started_at, at, run_facts(run), result, reason),
    )


def upsert_applied(environment: str, applied: Applied) -> tuple[str, tuple[object, ...]]:
    return (
        "INSERT OR REPLACE INTO applied (environment, path, source, digest, mode, commit_id, at, stack, prune) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            environment,
            applied.path,
            applied.source,
            applied.digest,
            applied.mode,
            applied.commit,
            applied.at,
            applied.stack,
            int(applied.prune),
        ),
    )


def create_database(path: str) -> None:
    """Create a database with its tables, 0600, under another name first. Where another process is faster, its file
    stays. Raises OSError."""
    new = f"{path}.new-{secrets.token_hex(4)}"
    descriptor = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with contextlib.closing(sqlite3.connect(new, isolation_level=None)) as database:
            for statement in ("BEGIN", *SCHEMA, "COMMIT"):
                database.execute(statement)
        os.fsync(descriptor)
        with contextlib.suppress(FileExistsError):
            os.link(new, path)
    finally:
        os.close(descriptor)
        os.unlink(new)
