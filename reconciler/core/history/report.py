"""What a span of the history comes to: what changed, what failed, how fast services recovered, what is overdue. Pure.

The dashboard shows the same figures: metrics count what ``counts_as_change``, and observe what a recovery entry says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reconciler.core.history.entries import Facts, iso_instant
from reconciler.core.model.runs import Result
from reconciler.core.text import epoch_seconds

SUCCEEDED = (Result.APPLIED, Result.CORRECTED)
FAILED = (Result.FAILED, Result.STALLED, Result.ROLLED_BACK, Result.ROLLBACK_FAILED)
_DECIDED = (Result.DONE, Result.HELD, Result.REFUSED)
_WAITS = {
    Result.HELD: "held",
    Result.STALLED: "stalled",
    Result.FAILED: "failed",
    Result.ROLLBACK_FAILED: "rollback failed",
}
_DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class ReportedRun:
    """One run or decision of the span; ``at`` is when it ended, ``edited_by`` who had edited its live files by hand."""

    run: str
    environment: str
    at: str
    result: str
    commit: str
    author: str
    subject: str
    targets: tuple[str, ...]
    services: tuple[str, ...]
    requested_by: str
    edited_by: tuple[str, ...]
    reason: str
    error_id: str


@dataclass(frozen=True, slots=True)
class ReportedRecovery:
    """A failure of services that has ended in the span: ``at`` then, after so many ``seconds``."""

    environment: str
    at: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Overdue:
    """What waits for an operator now: ``kind`` in a word or two, ``where``, since when (None: not known) and why."""

    kind: str
    where: str
    since: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class HistoryReport:
    """``changed`` and ``failed`` are the changes of the span, ``decided`` what was decided beside them, all newest
    first. Idle reconciliations are no changes. ``success_rate`` is from 0 to 1; None without a change."""

    since: str
    until: str
    environments: tuple[str, ...]
    changed: tuple[ReportedRun, ...]
    failed: tuple[ReportedRun, ...]
    decided: tuple[ReportedRun, ...]
    success_rate: float | None
    recoveries: tuple[ReportedRecovery, ...]
    mean_recovery_seconds: float | None
    worst_recovery_seconds: float | None
    overdue: tuple[Overdue, ...]
    warnings: tuple[str, ...] = ()


def counts_as_change(facts: Facts) -> bool:
    """Whether an entry says how a change went: git's or a hand's, done, undone or refused by a guard. What was only
    recorded, an operator's decision, or a target that is held is none."""
    return facts["result"] in (*SUCCEEDED, *FAILED)


def make_report(
    entries: Iterable[Facts],
    status: Sequence[Facts],
    ages: Sequence[Facts],
    *,
    since: float,
    now: float,
    warnings: Sequence[str] = (),
) -> HistoryReport:
    """Given the newest entry of each run, newest first, the environments as `status` has them now and the secrets as
    `age` has them, report on what ended from ``since`` to ``now`` (epoch seconds)."""
    mine = {environment["environment"] for environment in status}
    span = [facts for facts in entries if facts["environment"] in mine and _ended_since(facts, since)]
    changed = tuple(_reported(facts) for facts in span if facts["result"] in SUCCEEDED)
    failed = tuple(_reported(facts) for facts in span if facts["result"] in FAILED)
    recoveries = tuple(_recovery(facts) for facts in span if facts["result"] == Result.RECOVERED)
    seconds = [recovery.seconds for recovery in recoveries]
    return HistoryReport(
        since=iso_instant(since) or "",
        until=iso_instant(now) or "",
        environments=tuple(sorted(mine)),
        changed=changed,
        failed=failed,
        decided=tuple(_reported(facts) for facts in span if facts["result"] in _DECIDED),
        success_rate=len(changed) / (len(changed) + len(failed)) if changed or failed else None,
        recoveries=recoveries,
        mean_recovery_seconds=sum(seconds) / len(seconds) if seconds else None,
        worst_recovery_seconds=max(seconds, default=None),
        overdue=(*(item for facts in status for item in _overdue(facts, now)), *_old_secrets(ages)),
        warnings=tuple(warnings),
    )


def _ended_since(facts: Facts, since: float) -> bool:
    return facts["finished_at"] is not None and epoch_seconds(facts["finished_at"]) >= since


def _reported(facts: Facts) -> ReportedRun:
    revision = facts["revision"]
    return ReportedRun(
        run=facts["run"],
        environment=facts["environment"],
        at=facts["finished_at"],
        result=facts["result"],
        commit=revision["commit"],
        author=revision["author"],
        subject=revision["subject"],
        targets=tuple(change["source"] for change in facts["changes"]),
        services=tuple(sorted({action["service"] for action in facts["actions"]})),
        requested_by=facts["requested_by"],
        edited_by=tuple(dict.fromkeys(filter(None, (change.get("edited_by") for change in facts["changes"])))),
        reason=facts["reason"],
        error_id=facts["error_id"],
    )


def _recovery(facts: Facts) -> ReportedRecovery:
    seconds = epoch_seconds(facts["finished_at"]) - epoch_seconds(facts["started_at"])
    return ReportedRecovery(facts["environment"], facts["finished_at"], max(0.0, seconds))


def _overdue(facts: Facts, now: float) -> Iterable[Overdue]:
    """What an environment waits for."""
    unit = facts["environment"]
    for stack, reason in facts["suspended"].items():
        yield Overdue("suspended", f"{unit}/{stack}" if stack else unit, facts["since"], reason)
    if quarantine := facts["quarantine"]:
        commit = quarantine["revision"]["commit"][:12]
        yield Overdue("quarantined", f"{unit} {commit}", quarantine["since"], quarantine["reason"])
    kind = _WAITS.get(facts["result"]) if facts["result"] in list(Result) else None
    if kind and not facts["suspended"]:
        yield Overdue(kind, unit, facts["since"], facts["reason"])
    for pause in facts["pauses"]:
        if _is_old(pause["since"], now):
            yield Overdue("paused", pause["scope"] or unit, pause["since"], pause["reason"])
    if (pin := facts["pin"]) and _is_old(pin["since"], now):
        yield Overdue("pinned", f"{unit} {pin['revision']['commit'][:12]}", pin["since"], pin["reason"])
    for change in facts["after"]["changes"] if facts["after"] else ():
        left_at = change.get("left_at")
        if left_at and _is_old(left_at, now):
            reason = f"{change['path']} stays: `reconciler forget` ends that"
            yield Overdue("left git", change["target"], left_at, reason)


def _is_old(instant: str, now: float) -> bool:
    return now - epoch_seconds(instant) > _DAY


def _old_secrets(ages: Sequence[Mapping[str, Any]]) -> Iterable[Overdue]:
    for environment in ages:
        for target in environment["targets"]:
            if old := [key["key"] or "the whole file" for key in target["keys"] if key["too_old"]]:
                yield Overdue("old secrets", target["target"], target["last_rotated"], ", ".join(sorted(old)))
