"""Decides what a host reports of its health, and whether an environment may have a revision yet: the promotion gate.
Pure: time is an argument.

A host reports by refs in the config repository, ``refs/reconciler/healthy/UNIT/SECONDS``: each leads to the commit with
which the unit has been healthy for so long, by the host's own clock.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

from reconciler.core.model.compose import HealthStatus, StackHealth
from reconciler.core.model.records import EnvironmentRecord, PromotionState
from reconciler.core.model.revisions import Revision
from reconciler.core.model.runs import Outcome, Result
from reconciler.core.model.settings import PromotionGate
from reconciler.core.text import duration, instant

REPORTS = "refs/reconciler/healthy"
PROMOTION_WAITS = "promotion-waits"
"""The id of why a revision is not applied yet."""

_MINUTE, _HOUR, _DAY = 60, 3600, 86400
MARKS = (
    *(0, 5, 10, 30, _MINUTE, 2 * _MINUTE, 3 * _MINUTE, 5 * _MINUTE, 10 * _MINUTE, 15 * _MINUTE, 20 * _MINUTE),
    *(30 * _MINUTE, 45 * _MINUTE, _HOUR, 2 * _HOUR, 3 * _HOUR, 4 * _HOUR, 6 * _HOUR, 8 * _HOUR, 12 * _HOUR, _DAY),
    *(2 * _DAY, 3 * _DAY, 7 * _DAY),
)
"""After how many seconds of health a host reports it again: few pushes, and each usual ``for`` is among them."""

_IN_PLACE = (Result.APPLIED, Result.CORRECTED, Result.IN_SYNC)


# --- what a host reports ---


@dataclass(frozen=True, slots=True)
class HealthyTime:
    """A unit is healthy with ``commit`` since ``since``, and was when it was last looked at, ``seen`` (epoch
    seconds)."""

    commit: str
    since: float
    seen: float

    @property
    def marks(self) -> tuple[int, ...]:
        return tuple(mark for mark in MARKS if mark <= self.seen - self.since)


def healthy_time(
    before: HealthyTime | None, outcome: Outcome, health: Collection[StackHealth] | None, at: float
) -> HealthyTime | None:
    """What the outcome of a reconciliation says about a unit, given what was known before; None: it is not healthy.

    While services have not been looked at yet (``health`` is None), what was known stays.
    """
    if outcome.result not in _IN_PLACE or outcome.revision is None:
        return None
    if health is None:
        return before
    if any(stack.status is not HealthStatus.HEALTHY for stack in health):
        return None
    commit = outcome.revision.commit
    if before is None or before.commit != commit or at < before.seen:  # a clock that was set back measures nothing
        return HealthyTime(commit, at, at)
    return replace(before, seen=at)


def changed_reports(unit: str, time: HealthyTime | None, known: Mapping[str, str]) -> dict[str, str | None]:
    """How the refs of a unit change, given those ``known`` with their commits; None: it is removed.

    A longer time that was reported for the same commit before a restart stays; all others end, so that old reports do
    not pile up.
    """
    mine = {f"{REPORTS}/{unit}/{mark}": time.commit for mark in time.marks} if time else {}
    gone = [ref for ref, commit in known.items() if ref not in mine and (time is None or commit != time.commit)]
    return {**dict.fromkeys(gone), **{ref: commit for ref, commit in mine.items() if known.get(ref) != commit}}


# --- what a gate waits for ---


def mark_for(seconds: float) -> int:
    """The mark at which a host has been healthy for so long."""
    return next((mark for mark in MARKS if mark >= seconds), MARKS[-1])


def reason_to_wait(
    gate: PromotionGate, record: EnvironmentRecord, head: Revision, known_good: Collection[Revision]
) -> str:
    """Why the environment does not get ``head`` yet; "" if it may have it.

    What brings content back that the environment has had successfully (``known_good``) is a repair, and never waits.
    """
    state = record.promotion
    if head.commit == state.skipped or any(head.subtree == revision.subtree for revision in known_good):
        return ""
    missing = list(_missing(gate, head.commit, state.reports))
    if not missing:
        return ""
    since = f" (waiting since {instant(state.since)})" if state.since else ""
    return f"{'; '.join(missing)}{since}"


def _missing(gate: PromotionGate, commit: str, reports: Mapping[str, str]) -> Iterator[str]:
    needed = mark_for(gate.seconds)
    for unit in gate.units:
        if reports.get(f"{unit}/{needed}") == commit:
            continue
        if reports.get(f"{unit}/0") == commit:
            yield f"{unit} is healthy with it, but not for {duration(gate.seconds)} yet"
        else:
            yield f"{unit} has not reported it healthy"


def with_reports(
    state: PromotionState, gate: PromotionGate, head: str, reports: Mapping[str, str], now: float
) -> PromotionState:
    """What the gate knows after git was asked: the reports of its units, and since when ``head`` waits."""
    mine = {name: commit for name, commit in reports.items() if name.rpartition("/")[0] in gate.units}
    if state.commit != head:
        return PromotionState(mine, head, now)
    return replace(state, reports=mine)


def waits_for_promotion(outcome: Outcome) -> bool:
    """Whether the outcome says that a revision waits at the gate."""
    return outcome.error_id == PROMOTION_WAITS or f"[{PROMOTION_WAITS}]" in outcome.warning
