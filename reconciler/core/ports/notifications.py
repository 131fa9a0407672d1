"""What notifications need from the world: receivers, and a memory that outlives the daemon."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from reconciler.core.model.notifications import Ledger, Message
from reconciler.core.secret import Secret


@dataclass(frozen=True, slots=True)
class Receiver:
    """A service that takes messages. ``name`` shows nothing secret of its ``url``; ``line`` is its line in the file."""

    line: int
    name: str
    url: Secret

    def __str__(self) -> str:
        return f"line {self.line} ({self.name})"


class Messenger(Protocol):
    """Sends messages to the receivers that the operator has listed."""

    def receivers(self) -> tuple[Receiver, ...]:
        """Those listed now. Raises ConfigError, which quotes no URL."""

    async def send(self, receiver: Receiver, message: Message) -> str:
        """Why the receiver did not accept the message, as a clause; "" if it did. Returns within a bounded time."""


class NotificationStore(Protocol):
    """Remembers what was reported. Every change is durable when the call returns; both raise StoreError,
    StoreUnavailableError."""

    def load(self) -> Ledger: ...

    def save(self, ledger: Ledger) -> None: ...


class NotificationMetrics(Protocol):
    """Counts what became of messages, and shows since when some receiver accepts none."""

    def notified(self, event: str, result: str) -> None: ...

    def notifications_failing(self, since: float) -> None:
        """Since when (epoch seconds); 0: every receiver accepts."""
