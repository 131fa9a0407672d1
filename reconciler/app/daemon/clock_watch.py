"""Notices that the clock of the machine was set: what has a time of day then ends early, late, or in another order."""

from __future__ import annotations

from reconciler.app.daemon import logs
from reconciler.core.ports import Clock

_JUMP = 60.0  # seconds; time synchronisation corrects less than that step by step
_SLACK = 30.0  # seconds that a jump may be short of a round number
_UNITS = ((86400.0, "day"), (3600.0, "hour"), (60.0, "minute"))


class ClockWatch:
    """Compares the clock with the time that passes. Nothing that waits here uses the clock."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._offset = self._now()

    def look(self) -> None:
        """Log a warning if the clock was set since the last look."""
        offset = self._now()
        jump, self._offset = offset - self._offset, offset
        if abs(jump) >= _JUMP:
            logs.get_logger().warning("clock changed", reason=jump_sentence(jump), error_id="clock-changed")

    def _now(self) -> float:
        return self._clock.now() - self._clock.monotonic()


def jump_sentence(seconds: float) -> str:
    """What a jump of the clock means, given how far it went."""
    size, unit = next((known for known in _UNITS if abs(seconds) + _SLACK >= known[0]), _UNITS[-1])
    count = round(abs(seconds) / size)
    length = f"{count} {unit}{'s' if count > 1 else ''}"
    how = f"back by {length}" if seconds < 0 else f"forward by {length}, or the machine was asleep that long"
    return (
        f"the clock of this machine was set {how}. Reconciliations and retries go on as before; pauses, the age of "
        "secrets and backups, and alerts follow the new time. Check it with `timedatectl`"
    )
