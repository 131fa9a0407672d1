"""What was reported to operators, in a table of its own in the state database."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from reconciler.adapters.store import SqliteStore
from reconciler.core.model.notifications import Corrections, Ledger, Notice, NotificationEvent, OngoingFailure

_TABLE = "CREATE TABLE IF NOT EXISTS notification (ledger TEXT NOT NULL) STRICT"


class NotificationTable:
    """The ``NotificationStore`` port. An older reconciler does without the table, so the database keeps its version."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store

    def load(self) -> Ledger:
        with self._store._transaction() as do:
            do(_TABLE)
            row = do("SELECT ledger FROM notification").fetchone()
        with self._store._decoding():
            return _ledger(json.loads(row[0])) if row else Ledger()

    def save(self, ledger: Ledger) -> None:
        text = json.dumps(dataclasses.asdict(ledger))
        with self._store._transaction() as do:
            do("DELETE FROM notification")
            do("INSERT INTO notification VALUES (?)", (text,))


def _ledger(facts: dict[str, Any]) -> Ledger:
    return Ledger(
        tuple(
            OngoingFailure(**{**failure, "event": NotificationEvent(failure["event"])}) for failure in facts["failures"]
        ),
        tuple(Notice(**{**notice, "event": NotificationEvent(notice["event"])}) for notice in facts["waiting"]),
        tuple(Corrections(**{**known, "keys": tuple(known["keys"])}) for known in facts["corrections"]),
        facts["sent_at"],
        facts["burst"],
    )
