"""What is suspended, and why: paused by an operator, stopped by a failed rollback, or changed back by a conflicting
writer. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from reconciler.core.model.compose import Action
from reconciler.core.model.plans import Change, Effect, Kind
from reconciler.core.model.records import EnvironmentRecord, Pause
from reconciler.core.model.runs import ROLLBACK_FAILED, Result, Run, RunChange
from reconciler.core.model.targets import Target
from reconciler.core.text import instant

HOUR = 3600.0
# This many corrections of one target within an hour mean that there is a conflicting writer.
CONFLICTING = 3
CONFLICTING_WRITER = "conflicting-writer"  # the id of that
RUNS_LOOKED_AT = 100  # more than an hour can have, as corrections that follow each other wait
_BY_HAND = (Kind.DRIFT, Kind.CONFLICT)
_FIRST_BACKOFF = 60.0  # seconds; doubles with every further correction, up to an hour


@dataclass(frozen=True, slots=True)
class Suspension:
    """``stopped`` gives, by stack ("" for targets of none), why it is suspended; ``pauses`` have not ended.

    ``begun`` is a run that is finished whatever was paused since.
    """

    environment: str = ""
    stopped: Mapping[str, str] = field(default_factory=dict)
    pauses: tuple[Pause, ...] = ()
    begun: Run | None = None

    def of_target(self, target: Target) -> str:
        """Why nothing may be written to the target; "" if it may."""
        if reason := self.stopped.get(target.stack or ""):
            return f"the stack is suspended until `reconciler retry`: {reason}"
        if self.begun and target.path in {change.path for change in self.begun.changes}:
            return ""
        return _until([pause for pause in self.pauses if pause.covers(target)])

    def id_of(self, target: Target) -> str:
        """The id of why nothing may be written to the target."""
        return ROLLBACK_FAILED if self.stopped.get(target.stack or "") else "paused"

    def is_of_target_alone(self, target: Target) -> bool:
        """Whether what suspends the target is a pause of itself, and of nothing else."""
        covering = [pause for pause in self.pauses if pause.covers(target)]
        return not self.stopped.get(target.stack or "") and all(pause.scope == target.id for pause in covering)

    def of_stack(self, name: str) -> str:
        """Why nothing may be done to the stack's services; "" if it may."""
        if name in self.stopped:
            return self.stopped[name]
        if self.begun and name in self.begun.stacks:
            return ""
        return _until([pause for pause in self.pauses if pause.scope in ("", f"{self.environment}/{name}")])

    def paused(self, name: str) -> bool:
        """Whether an operator has paused the stack, or the whole environment."""
        return any(pause.scope in ("", f"{self.environment}/{name}") for pause in self.pauses)

    def split(self, pending_restarts: Sequence[Action]) -> tuple[tuple[Action, ...], tuple[Action, ...]]:
        """Given the pending restarts, return those that may happen now, and those that have to wait."""
        now = tuple(action for action in pending_restarts if not self.of_stack(action.stack))
        return now, tuple(action for action in pending_restarts if action not in now)


def suspension_of(record: EnvironmentRecord, now: float, begun: Run | None = None) -> Suspension:
    """Given an environment's record, return what is suspended at ``now`` (epoch seconds)."""
    pauses = tuple(pause for pause in record.pauses if pause.until > now)
    return Suspension(record.name, record.stopped, pauses, begun)


def suspended(change: Change, reason: str, id: str, *, alone: bool = False) -> Change:
    """Given why nothing may be written, and its id, return the change held; one that writes nothing stays as it is.

    ``alone``: the reason is about this target only.
    """
    if not reason or not change.writes:
        return change
    return replace(change, effect=Effect.HOLD, reason=f"{change.reason}; {reason}", alone=alone, error_id=id)


def corrections(runs: Sequence[Run]) -> list[tuple[RunChange, float]]:
    """Given runs, return the hand edits that they corrected, each with the time (epoch seconds). What an operator had
    restored is none."""
    corrected = [run for run in runs if run.result is Result.CORRECTED]
    changes = [(change, run.started_at) for run in corrected for change in run.changes]
    return [(change, at) for change, at in changes if change.kind == Kind.DRIFT and not change.restored_from]


def conflicting_writer(change: Change, corrected_at: Sequence[float], now: float) -> str:
    """Given when the target was corrected, return why it is not corrected again yet; "" if it may be.

    Times are epoch seconds. If the clock was set back, some lie in the future; they do not count.
    """
    return "" if change.kind is not Kind.DRIFT else _backing_off(corrected_at, now)


def _backing_off(corrected_at: Sequence[float], now: float) -> str:
    recent = sorted(at for at in corrected_at if 0 <= now - at < HOUR)
    if len(recent) < CONFLICTING:
        return ""
    next_try = recent[-1] + min(HOUR, _FIRST_BACKOFF * 2 ** (len(recent) - CONFLICTING))
    if now >= next_try:
        return ""
    return (
        f"conflicting writer: restored {len(recent)} times within an hour and changed again; "
        f"backing off until {instant(next_try)}"
    )


def conflicting_operator(runs: Sequence[Run], stack: str, service: str, now: float) -> str:
    """Given runs, return why a service that somebody keeps changing on the engine itself is not deployed again yet; ""
    if it may be."""
    repaired = [
        run.started_at
        for run in runs
        if any(action.repairs and (action.stack, action.service) == (stack, service) for action in run.actions)
    ]
    return _backing_off(repaired, now)


def restored_stacks(runs: Sequence[Run], current: Run, now: float) -> frozenset[str]:
    """Given the runs, newest first, return the stacks whose containers are renewed after the hand edit of a file that
    is already counted as a correction: in the current run, or in the newest one of the stack within the hour."""
    restored = {change.stack for change in current.changes if change.kind in _BY_HAND}
    seen: set[str] = set()
    for run in runs:
        if run.id == current.id or not 0 <= now - run.started_at < HOUR:
            continue
        restored |= {change.stack for change in run.changes if change.kind in _BY_HAND} - seen
        seen |= run.stacks
    return frozenset(restored)


def _until(pauses: Sequence[Pause]) -> str:
    if not pauses:
        return ""
    last = max(pauses, key=lambda pause: pause.until)
    reason = f": {last.reason}" if last.reason else ""
    return f"paused until {instant(last.until)}{reason}"
