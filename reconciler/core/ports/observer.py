"""What takes the outcomes of reconciliations elsewhere: notifications, a forge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from reconciler.core.model.compose import StackHealth
from reconciler.core.model.runs import Outcome


@dataclass(frozen=True, slots=True)
class Reconciled:
    """A reconciliation of a unit that has ended. ``before`` is the outcome of the one before it since the start, None
    for the first; ``at`` is in seconds since the epoch. ``health`` is that of its stacks as they were last looked at;
    None before the first look. Dry runs and refused requests are none."""

    outcome: Outcome
    trigger: str
    at: float
    before: Outcome | None
    health: tuple[StackHealth, ...] | None = None


class Observer(Protocol):
    """Reports elsewhere what the daemon has done, beside its loop: never delays or fails a reconciliation."""

    def reconciled(self, event: Reconciled) -> None:
        """Take the event, without I/O and without waiting; what it raises is logged."""

    async def run(self) -> None:
        """Report the events taken, until cancelled; what could not be reported is retried or logged here."""
