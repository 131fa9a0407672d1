"""What is reported to operators: failures that last, notices that wait to be sent, and messages."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class NotificationEvent(StrEnum):
    """What operators can be notified of. ``corrected``: drift that was corrected; ``drift``: drift that stays."""

    ROLLBACK_FAILED = "rollback_failed"
    ROLLED_BACK = "rolled_back"
    SERVICE_DOWN = "service_down"
    STALLED = "stalled"
    FAILED = "failed"
    HELD = "held"
    DRIFT = "drift"
    CORRECTED = "corrected"
    APPLIED = "applied"
    RECOVERED = "recovered"


@dataclass(frozen=True, slots=True)
class Notice:
    """One line of a message, as a harmless sentence without a value. ``at`` in epoch seconds; ``link`` is a URL of the
    server's own, or "". ``reminder``: it was reported before."""

    event: NotificationEvent
    unit: str
    text: str
    at: float
    link: str = ""
    reminder: bool = False


@dataclass(frozen=True, slots=True)
class OngoingFailure:
    """A failure that lasts: of a ``unit``, of one kind (``event``), about one ``subject`` (a service, a target, a run;
    "" for the unit), with the ``id`` of its reason. Times in epoch seconds: ``reported_at`` is 0 until it is reported,
    ``over_since`` 0 while it lasts.
    """

    event: NotificationEvent
    unit: str
    subject: str
    id: str
    text: str
    since: float
    link: str = ""
    reported_at: float = 0.0
    over_since: float = 0.0

    @property
    def key(self) -> tuple[str, str, str, str]:
        return (self.unit, self.event, self.subject, self.id)


@dataclass(frozen=True, slots=True)
class Corrections:
    """Corrections of one target's drift: when they were last reported, how many there were since, and of which keys."""

    unit: str
    source: str
    reported_at: float
    count: int = 0
    keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Ledger:
    """What must outlive the daemon so that nothing is reported twice, or not at all. ``sent_at`` is when the last
    message was sent, ``burst`` how many followed each other without a rest."""

    failures: tuple[OngoingFailure, ...] = ()
    waiting: tuple[Notice, ...] = ()
    corrections: tuple[Corrections, ...] = ()
    sent_at: float = 0.0
    burst: int = 0


@dataclass(frozen=True, slots=True)
class NotificationPolicy:
    """What an operator wants: these ``events``, a reminder of a failure that lasts after ``reminder`` seconds, and what
    happens within ``digest`` seconds in one message."""

    events: frozenset[NotificationEvent] = frozenset(NotificationEvent)
    reminder: float = 3600.0
    digest: float = 10.0


@dataclass(frozen=True, slots=True)
class Message:
    """What is sent: plain text of several lines, and the notices that it is made of."""

    title: str
    body: str
    notices: tuple[Notice, ...] = ()

    @property
    def bad(self) -> bool:
        """Whether it reports a failure."""
        good = (NotificationEvent.APPLIED, NotificationEvent.CORRECTED, NotificationEvent.RECOVERED)
        return any(notice.event not in good for notice in self.notices)


@dataclass(frozen=True, slots=True)
class Origin:
    """Who reports: the server's name, what precedes a run's id in the URL of its page ("" without one), and the git
    address of the repository."""

    host: str
    run_url: str = ""
    repository: str = ""
