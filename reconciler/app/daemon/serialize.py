"""What `status`, the HTTP interface and the control socket tell: plain data, names and reasons, never values."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from reconciler.core.decide.classify import sync_status
from reconciler.core.errors import ReconcilerError
from reconciler.core.model.compose import Action, ServiceHealth
from reconciler.core.model.plans import Change, KeyChange, Plan
from reconciler.core.model.records import EnvironmentRecord, Pause, Pin
from reconciler.core.model.requests import OperatorRequest, RequestKind
from reconciler.core.model.revisions import Revision
from reconciler.core.model.runs import Backup, Outcome, Run
from reconciler.engine.reconcile import Reconciler


def instant(seconds: float | None) -> str | None:
    """Seconds since the epoch as ISO 8601 in UTC."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def change(one: Change) -> dict[str, Any]:
    return {
        "target": one.target.id,
        "path": one.target.path,
        "stack": one.target.stack,
        "sync": sync_status(one).value,
        "kind": one.kind.value,
        "effect": one.effect.value,
        "aspects": sorted(aspect.value for aspect in one.aspects),
        "keys": _keys(one.keys),
        "by_hand": _keys(one.by_hand),
        "from_git": _keys(one.from_git),
        "edited_at": instant(one.edited_at),
        "reason": one.reason,
    }


def _keys(one: KeyChange) -> dict[str, tuple[str, ...]]:
    return {"added": one.added, "removed": one.removed, "changed": one.changed}


def action(one: Action) -> dict[str, Any]:
    return {"stack": one.stack, "service": one.service, "action": one.kind.value, "reason": one.reason}


def revision(one: Revision | None) -> dict[str, Any] | None:
    if one is None:
        return None
    return {
        "commit": one.commit,
        "author": one.author,
        "committed_at": instant(one.committed_at),
        "subject": one.subject,
    }


def plan(one: Plan | None) -> dict[str, Any] | None:
    if one is None:
        return None
    return {
        "changes": [change(each) for each in one.changes],
        "actions": [action(each) for each in one.actions],
        "notes": list(one.notes),
    }


def outcome(one: Outcome) -> dict[str, Any]:
    return {
        "environment": one.environment,
        "result": one.result.value,
        "reason": one.reason,
        "revision": revision(one.revision),
        "run": one.run,
        "backup": one.backup,
        "retry": one.retry,
        "warning": one.warning,
        "pending": one.plan is not None and not one.plan.empty and one.run is None,
        "plan": plan(one.plan),
        "after": plan(one.after),
    }


def order(one: OperatorRequest | None) -> dict[str, Any] | None:
    """An order as it travels through the control socket."""
    return None if one is None else dataclasses.asdict(one)


def order_from(data: Mapping[str, Any] | None) -> OperatorRequest | None:
    return OperatorRequest(**{**data, "kind": RequestKind(data["kind"])}) if data else None


def run(one: Run) -> dict[str, Any]:
    return {
        "run": one.id,
        "environment": one.environment,
        "trigger": one.trigger,
        "started_at": instant(one.started_at),
        "finished_at": instant(one.finished_at),
        "revision": revision(one.revision),
        "from_commit": one.from_commit,
        "changes": [
            {
                "source": each.source,
                "kind": each.kind,
                "added": each.added,
                "removed": each.removed,
                "changed": each.changed,
            }
            for each in one.changes
        ],
        "actions": [action(each) for each in one.actions],
        "backup": one.backup or None,
        "result": one.result.value if one.result else "unfinished",
        "reason": one.reason,
    }


def backup(one: Backup) -> dict[str, Any]:
    return {
        "backup": one.id,
        "environment": one.environment,
        "run": one.run,
        "at": instant(one.at),
        "from_commit": one.from_commit,
        "to_commit": one.to_commit,
        "files": [
            {"source": entry.source, "path": entry.path, "was_there": entry.file is not None} for entry in one.entries
        ],
    }


def environment(
    record: EnvironmentRecord, last: Outcome | None, *, at: float | None = None, since: float | None = None
) -> dict[str, Any]:
    """One environment: its revisions and how the last pass ended. ``at`` and ``since`` are epoch seconds."""
    return {
        **(_UNKNOWN if last is None else outcome(last)),
        "environment": record.name,
        "head": revision(record.head),
        "applied": revision(record.applied),
        "healthy": revision(record.healthy),
        "pin": _pin(record.pin),
        "pauses": [_pause(one) for one in record.pauses if at is None or one.until > at],
        "quarantine": _quarantine(record),
        "stopped": dict(record.stopped),
        "checked_at": instant(at),
        "since": instant(since),
    }


def _pin(one: Pin | None) -> dict[str, Any] | None:
    if one is None:
        return None
    return {"revision": revision(one.revision), "reason": one.reason, "since": instant(one.at)}


def _pause(one: Pause) -> dict[str, Any]:
    return {"scope": one.scope, "until": instant(one.until), "reason": one.reason, "since": instant(one.at)}


def _quarantine(record: EnvironmentRecord) -> dict[str, Any] | None:
    """What keeps the branch's head, or the pin, from being applied; one that neither runs into any more is no news."""
    wanted = record.pin.revision if record.pin else record.head
    one = record.quarantine_of(wanted) if wanted else None
    if one is None:
        return None
    return {
        "revision": revision(one.revision),
        "reason": one.reason,
        "since": instant(one.at),
        "run": one.run,
        "revert": {"state": one.revert.value, "reason": one.revert_note} if one.revert else None,
    }


async def health_of(one: Reconciler) -> dict[str, Any]:
    """The services as they are now; where the engine does not answer, why."""
    try:
        return {"services": services(await one.health())}
    except ReconcilerError as error:
        return {"services": [], "services_unknown": str(error)}


def services(found: Iterable[ServiceHealth]) -> list[dict[str, Any]]:
    return [
        {
            "stack": one.stack,
            "service": one.service,
            "state": one.state,
            "healthy": one.healthy,
            "restarts": one.restarts,
        }
        for one in found
    ]


_UNKNOWN = {
    "result": None,
    "reason": "no pass has ended yet",
    "warning": "",
    "pending": True,
    "plan": None,
    "after": None,
}
