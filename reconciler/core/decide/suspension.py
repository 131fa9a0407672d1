"""What is left alone for a while, and why: what a person has paused, what a failed rollback has stopped, and what
somebody else keeps changing back. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from reconciler.core.model.compose import Action
from reconciler.core.model.plans import Change, Effect, Kind
from reconciler.core.model.records import EnvironmentRecord, Pause
from reconciler.core.model.runs import Run
from reconciler.core.model.targets import Target
from reconciler.core.text import instant

HOUR = 3600.0
# So many corrections of one target within an hour mean that something fights us.
CONTENDED = 3
_FIRST_WAIT = 60.0  # seconds; doubled with every further correction, up to an hour


@dataclass(frozen=True, slots=True)
class Suspension:
    """``stopped`` tells by stack ("" for targets of none) why nothing is done about it; ``pauses`` have not ended.

    ``begun`` is a run that is brought to its end, whatever was paused since.
    """

    environment: str = ""
    stopped: Mapping[str, str] = field(default_factory=dict)
    pauses: tuple[Pause, ...] = ()
    begun: Run | None = None

    def of_target(self, target: Target) -> str:
        """Why nothing may be written to the target; "" where it may."""
        if why := self.stopped.get(target.stack or ""):
            return f"the stack is left alone until `reconciler retry`: {why}"
        if self.begun and target.path in {change.path for change in self.begun.changes}:
            return ""
        return _until([pause for pause in self.pauses if pause.covers(target)])

    def of_stack(self, name: str) -> str:
        """Why nothing may be done to the stack's services; "" where it may."""
        if name in self.stopped:
            return self.stopped[name]
        if self.begun and name in self.begun.stacks:
            return ""
        return _until([pause for pause in self.pauses if pause.scope in ("", f"{self.environment}/{name}")])

    def split(self, pending_restarts: Sequence[Action]) -> tuple[tuple[Action, ...], tuple[Action, ...]]:
        """Given what services are owed, return what may be given to them now, and what has to wait."""
        now = tuple(action for action in pending_restarts if not self.of_stack(action.stack))
        return now, tuple(action for action in pending_restarts if action not in now)


def suspension_of(record: EnvironmentRecord, now: float, begun: Run | None = None) -> Suspension:
    """Given what is remembered of an environment, return what is left alone at ``now`` (epoch seconds)."""
    pauses = tuple(pause for pause in record.pauses if pause.until > now)
    return Suspension(record.name, record.stopped, pauses, begun)


def suspended(change: Change, why: str) -> Change:
    """Given why nothing may be written, return the change that waits; one that writes nothing stays as it is."""
    if not why or not change.writes:
        return change
    return replace(change, effect=Effect.HOLD, reason=f"{change.reason}; {why}")


def conflicting_writer(change: Change, corrections: Sequence[float], now: float) -> str:
    """Given when the target was corrected, return why it is not corrected again yet; "" where it may be.

    Times are epoch seconds. A clock that was set back gives times in the future; they do not count.
    """
    lately = sorted(at for at in corrections if 0 <= now - at < HOUR)
    if change.kind is not Kind.DRIFT or len(lately) < CONTENDED:
        return ""
    again = lately[-1] + min(HOUR, _FIRST_WAIT * 2 ** (len(lately) - CONTENDED))
    if now >= again:
        return ""
    return (
        f"contended: it was put back {len(lately)} times within an hour and is changed again, so something else writes "
        f"it; the next try is at {instant(again)}"
    )


def _until(pauses: Sequence[Pause]) -> str:
    if not pauses:
        return ""
    last = max(pauses, key=lambda pause: pause.until)
    why = f": {last.reason}" if last.reason else ""
    return f"paused until {instant(last.until)}{why}"
