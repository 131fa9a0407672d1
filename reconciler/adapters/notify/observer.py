"""Takes the outcomes of reconciliations, and has messages about them sent. What goes wrong here stays here."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Collection

from reconciler.adapters.notify.delivery import Delivery
from reconciler.core.decide.notifications import due, forget_units, sent, take
from reconciler.core.errors import ReconcilerError
from reconciler.core.model.notifications import Ledger, NotificationPolicy, Origin
from reconciler.core.ports import Clock
from reconciler.core.ports.notifications import NotificationStore
from reconciler.core.ports.observer import Reconciled

_MOST_EVENTS = 10_000  # reconciliations that have ended while messages were sent
_LOOK_AGAIN = 60.0  # seconds: the clock may have been set
_logger = logging.getLogger(__name__)


class NotificationObserver:
    """The ``Observer`` of reconciliations that notifies operators. ``units`` are those that the server has."""

    def __init__(
        self,
        delivery: Delivery,
        store: NotificationStore,
        clock: Clock,
        policy: NotificationPolicy,
        origin: Origin,
        units: Collection[str],
    ) -> None:
        self._delivery = delivery
        self._store = store
        self._clock = clock
        self._policy = policy
        self._origin = origin
        self._units = tuple(units)
        self._events: deque[Reconciled] = deque(maxlen=_MOST_EVENTS)
        self._wake = asyncio.Event()
        self._ledger = Ledger()
        self._saved: Ledger | None = None

    def reconciled(self, event: Reconciled) -> None:
        self._events.append(event)
        self._wake.set()

    async def run(self) -> None:
        try:
            self._ledger = forget_units(self._store.load(), self._units)
        except ReconcilerError as error:
            _logger.warning("what was notified of is not known, so it may be again: %s [%s]", error, error.id)
        try:
            while True:
                next_at = float("inf")
                try:
                    next_at = await self._report()
                except Exception:  # notifications go on, whatever happens
                    _logger.exception("notifying failed unexpectedly [internal-error]")
                await self._sleep(next_at)
        finally:
            self._take_events()
            self._save()
            await self._delivery.close()

    async def _report(self) -> float:
        """Send what is due; return when to look again (epoch seconds)."""
        self._take_events()
        result = due(self._ledger, self._clock.now(), self._policy, self._origin)
        self._ledger = result.ledger
        self._save()
        if result.message is not None:
            await self._delivery.send(result.message)
            self._ledger = sent(self._ledger, result.message, self._clock.now(), self._policy)
            self._save()
        return result.next_at

    def _take_events(self) -> None:
        self._wake.clear()
        while self._events:
            self._ledger = take(self._ledger, self._events.popleft(), self._policy, self._origin)

    def _save(self) -> None:
        if self._ledger == self._saved:
            return
        try:
            self._store.save(self._ledger)
            self._saved = self._ledger
        except ReconcilerError as error:  # it is saved with the next change
            _logger.warning("what was notified of is not remembered: %s [%s]", error, error.id)

    async def _sleep(self, until: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, min(until - self._clock.now(), _LOOK_AGAIN))):
                await self._wake.wait()
