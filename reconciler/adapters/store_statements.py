"""Statements that write records to the state database."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
from collections.abc import Callable, Sequence

from reconciler.core.model.compose import Action
from reconciler.core.model.records import Applied, EnvironmentRecord

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
