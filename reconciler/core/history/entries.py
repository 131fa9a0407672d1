"""What an entry of the history says about a run or a decision: names and reasons as plain data, never a value. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from reconciler.core.model.compose import Action
from reconciler.core.model.revisions import Revision
from reconciler.core.model.runs import Run, RunChange

Facts = Mapping[str, Any]
"""What an entry says, as JSON."""

UNFINISHED = "unfinished"

# Fields that an entry of an earlier version may lack.
_SINCE_ADDED: Facts = {"requested_by": "", "request_reason": ""}


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One link of the chain. ``content`` is canonical JSON, ``sha256`` covers it, the ``number`` and ``previous``: the
    sha256 of the entry before. An entry never changes: one that ``supersedes`` another number says how its run has
    gone on."""

    number: int
    previous: str
    content: str
    sha256: str

    @property
    def facts(self) -> Facts:
        """Raises ValueError for content that is no JSON."""
        return {**_SINCE_ADDED, **json.loads(self.content)}

    def shown(self) -> dict[str, Any]:
        """As `history` lists it: the run's facts, and the entry's number."""
        facts = {name: value for name, value in self.facts.items() if name not in ("supersedes", "recorded_at")}
        return {**facts, "entry": self.number}


def run_facts_of(run: Run) -> dict[str, Any]:
    """What the history says about a run, finished or not."""
    return {
        "run": run.id,
        "environment": run.environment,
        "trigger": run.trigger,
        "requested_by": run.requested_by,
        "request_reason": run.request_reason,
        "started_at": iso_instant(run.started_at),
        "finished_at": iso_instant(run.finished_at),
        "revision": revision_facts(run.revision),
        "from_commit": run.from_commit,
        "changes": [_change_facts(change) for change in run.changes],
        "actions": [action_facts(action) for action in run.actions],
        "backup": run.backup or None,
        "result": run.result.value if run.result else UNFINISHED,
        "reason": run.reason,
        "error_id": run.reason_id,
        "accepted": list(run.accepted),
    }


def iso_instant(seconds: float | None) -> str | None:
    """Seconds since the epoch as ISO 8601 in UTC."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def revision_facts(revision: Revision) -> dict[str, Any]:
    return {
        "commit": revision.commit,
        "author": revision.author,
        "committed_at": iso_instant(revision.committed_at),
        "subject": revision.subject,
    }


def action_facts(action: Action) -> dict[str, Any]:
    return {"stack": action.stack, "service": action.service, "action": action.kind.value, "reason": action.reason}


def _change_facts(change: RunChange) -> dict[str, Any]:
    return {
        "source": change.source,
        "kind": change.kind,
        "restored_from": change.restored_from or None,
        "renamed_from": change.renamed_from or None,
        "edited_by": change.edited_by,
        "added": list(change.added),
        "removed": list(change.removed),
        "changed": list(change.changed),
    }
