"""What the commands, the HTTP interface and the control socket report: names and reasons as plain data, no values."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from reconciler.core.decide.classify import sync_status
from reconciler.core.errors import ReconcilerError, with_id
from reconciler.core.history.entries import action_facts, iso_instant, revision_facts
from reconciler.core.model.plans import Change, KeyChange, Plan, ServiceDrift, SyncStatus
from reconciler.core.model.records import Applied, EnvironmentRecord, Pause, Pin
from reconciler.core.model.requests import Adopted, KeyAge, Restored, TargetAge
from reconciler.core.model.revisions import Revision
from reconciler.core.model.runs import Activity, Backup, Outcome, Result, RunChange

if TYPE_CHECKING:
    from reconciler.engine.reconcile import Reconciler


def _serialize_change(change: Change) -> dict[str, Any]:
    return {
        "target": change.target.id,
        "path": change.target.path,
        "stack": change.target.stack,
        "sync": sync_status(change).value,
        "kind": change.kind.value,
        "effect": change.effect.value,
        "aspects": sorted(aspect.value for aspect in change.aspects),
        "keys": _keys(change.keys),
        "by_hand": _keys(change.by_hand),
        "from_git": _keys(change.from_git),
        "edited_at": iso_instant(change.edited_at),
        "edited_by": change.edited_by,
        "restored_from": change.restored_from or None,
        "renamed_from": change.renamed_from or None,
        "moved_to": change.moved_to or None,
        "reason": change.reason,
        "error_id": change.error_id,
    }


def _keys(keys: KeyChange | RunChange) -> dict[str, tuple[str, ...]]:
    return {"added": keys.added, "removed": keys.removed, "changed": keys.changed}


def serialize_revision(revision: Revision | None) -> dict[str, Any] | None:
    return None if revision is None else revision_facts(revision)


def _serialize_plan(plan: Plan | None) -> dict[str, Any] | None:
    if plan is None:
        return None
    return {
        "changes": [_serialize_change(change) for change in plan.changes],
        "actions": [action_facts(action) for action in plan.actions],
        "drifts": [_serialize_drift(drift) for drift in plan.drifts],
        "notes": list(plan.notes),
    }


def _serialize_drift(drift: ServiceDrift) -> dict[str, Any]:
    return {
        "stack": drift.stack,
        "service": drift.service,
        "effect": drift.effect.value,
        "missing": drift.missing,
        "keys": _keys(drift.keys),
        "fields": list(drift.fields),
        "details": list(drift.details),
        "reason": drift.reason,
        "error_id": drift.error_id,
    }


def _result(outcome: Outcome, *, pending: bool) -> str:
    """The result; of a preview with something to do ``drifted`` where that is only hand edits, else ``pending``."""
    if not pending or outcome.plan is None or outcome.result is not Result.IN_SYNC:
        return outcome.result.value
    edited = all(change.drifted for change in outcome.plan.writes)
    renewed = all(action.stale or action.repairs for action in outcome.plan.actions)
    by_hand = edited and (bool(outcome.plan.writes) or renewed)
    return (SyncStatus.DRIFTED if by_hand else SyncStatus.PENDING).value


def serialize_outcome(outcome: Outcome) -> dict[str, Any]:
    pending = outcome.plan is not None and not outcome.plan.empty and outcome.run is None
    return {
        "environment": outcome.environment,
        "result": _result(outcome, pending=pending),
        "reason": outcome.reason,
        "error_id": outcome.error_id,
        "revision": serialize_revision(outcome.revision),
        "run": outcome.run,
        "backup": outcome.backup,
        "retry": outcome.retry,
        "warning": outcome.warning,
        "pending": pending,
        "plan": _serialize_plan(outcome.plan),
        "after": _serialize_plan(outcome.after),
    }


def serialize_backup(backup: Backup) -> dict[str, Any]:
    return {
        "backup": backup.id,
        "environment": backup.environment,
        "run": backup.run,
        "at": iso_instant(backup.at),
        "from_commit": backup.from_commit,
        "to_commit": backup.to_commit,
        "files": [
            {"source": entry.source, "path": entry.path, "existed": entry.file is not None} for entry in backup.entries
        ],
    }


def serialize_environment(
    record: EnvironmentRecord,
    last: Outcome | None,
    applied: Mapping[str, Applied],
    *,
    at: float | None = None,
    since: float | None = None,
) -> dict[str, Any]:
    """One environment: its revisions, its last outcome, and what was ``applied`` to each target, by live path. ``at``
    and ``since`` are epoch seconds."""
    outcome: dict[str, Any] = dict(_NO_OUTCOME) if last is None else serialize_outcome(last)
    left_at = {orphan.path: iso_instant(orphan.at) for orphan in record.orphans}
    for change in outcome["after"]["changes"] if outcome["after"] else ():
        known = applied.get(change["path"])
        change["applied"] = {"commit": known.commit, "at": iso_instant(known.at)} if known else None
        change["left_at"] = left_at.get(change["path"]) if change["sync"] == SyncStatus.ORPHAN else None
    return {
        **outcome,
        "environment": record.name,
        "head": serialize_revision(record.head),
        "applied": serialize_revision(record.applied),
        "healthy": serialize_revision(record.healthy),
        "pin": _serialize_pin(record.pin),
        "pauses": serialize_pauses(record, at),
        "quarantine": _serialize_quarantine(record),
        "suspended": dict(record.stopped),
        "checked_at": iso_instant(at),
        "since": iso_instant(since),
    }


def _serialize_pin(pin: Pin | None) -> dict[str, Any] | None:
    if pin is None:
        return None
    return {"revision": serialize_revision(pin.revision), "reason": pin.reason, "since": iso_instant(pin.at)}


def serialize_pauses(record: EnvironmentRecord, at: float | None) -> list[dict[str, Any]]:
    """The pauses that have not ended ``at`` (epoch seconds)."""
    return [_serialize_pause(pause) for pause in record.pauses if at is None or pause.until > at]


def _serialize_pause(pause: Pause) -> dict[str, Any]:
    return {
        "scope": pause.scope,
        "until": iso_instant(pause.until),
        "reason": pause.reason,
        "since": iso_instant(pause.at),
    }


def _serialize_quarantine(record: EnvironmentRecord) -> dict[str, Any] | None:
    """The quarantine that keeps the branch's head, or the pin, from being applied; others do not matter any more."""
    quarantine = record.quarantine_of(record.desired) if record.desired else None
    if quarantine is None:
        return None
    return {
        "revision": serialize_revision(quarantine.revision),
        "reason": quarantine.reason,
        "since": iso_instant(quarantine.at),
        "run": quarantine.run,
        "revert": {"state": quarantine.revert.value, "reason": quarantine.revert_note} if quarantine.revert else None,
    }


def serialize_activity(activity: Activity) -> dict[str, Any] | None:
    """A reconciliation that runs: since when, in which phase, and what it does there; None where none runs."""
    if activity.since is None:
        return None
    return {
        "since": iso_instant(activity.since),
        "phase": activity.phase.value if activity.phase else None,
        "doing": activity.words,
    }


def serialize_error(error: ReconcilerError) -> dict[str, str]:
    return {"what": error.what, "where": error.where, "hint": error.hint, "id": error.id}


async def serialize_services(reconciler: Reconciler, *, within: float | None = None) -> dict[str, Any]:
    """The services as they are now; where the engine does not answer ``within`` so many seconds, why."""
    try:
        async with asyncio.timeout(within):
            services = await reconciler.health()
    except TimeoutError:
        return {"services": [], "services_unknown": f"no answer from the Docker engine within {within:g} s"}
    except ReconcilerError as error:
        return {"services": [], "services_unknown": with_id(str(error), error.id)}
    return {"services": [asdict(service) for service in services]}


def serialize_restored(restored: Restored) -> dict[str, Any]:
    return {"restored": list(restored.paths), "from": restored.source, "backup": restored.backup}


def serialize_adopted(adopted: Adopted, base_branch: str) -> dict[str, Any]:
    return {
        "target": adopted.target.id,
        "branch": adopted.branch,
        "commit": adopted.commit,
        "base": adopted.base.commit,
        "base_branch": base_branch,
        "keys": _keys(adopted.keys),
        "whole": adopted.whole,
    }


def serialize_ages(
    environment: str, revision: Revision, ages: Sequence[TargetAge], oldest: float | None
) -> dict[str, Any]:
    """``oldest``: a secret from before that instant (epoch seconds) is too old; None: none is."""
    return {
        "environment": environment,
        "revision": serialize_revision(revision),
        "targets": [
            {
                "target": age.target.id,
                "last_rotated": iso_instant(age.oldest),
                "keys": [_serialize_key_age(key, oldest) for key in age.keys],
            }
            for age in ages
        ],
    }


def _serialize_key_age(age: KeyAge, oldest: float | None) -> dict[str, Any]:
    return {
        "key": age.key,
        "empty": age.at is None,
        "last_rotated": iso_instant(age.at),
        "too_old": oldest is not None and age.at is not None and age.at < oldest,
    }


_NO_OUTCOME = {
    "result": None,
    "reason": "not reconciled yet",
    "error_id": "",
    "revision": None,
    "run": None,
    "backup": None,
    "retry": False,
    "warning": "",
    "pending": True,
    "plan": None,
    "after": None,
}
