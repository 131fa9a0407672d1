"""Brings messages to their receivers. One that does not accept them is retried for a while, and holds up no other."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from reconciler.core.errors import ConfigError
from reconciler.core.model.notifications import Message
from reconciler.core.ports import Clock
from reconciler.core.ports.notifications import Messenger, NotificationMetrics, Receiver
from reconciler.core.secret import Secret

_FIRST_RETRY = 5.0  # seconds; then twice as long each time
_LAST_RETRY = 120.0
_GIVE_UP = 900.0  # seconds after which a message is old news
_MOST_WAITING = 50  # messages of one receiver


@dataclass(slots=True)
class _Waiting:
    message: Message
    until: float
    tried: asyncio.Event = field(default_factory=asyncio.Event)


class Delivery:
    """A queue for each receiver, so that messages arrive in their order."""

    def __init__(self, messenger: Messenger, clock: Clock, metrics: NotificationMetrics) -> None:
        self._messenger = messenger
        self._clock = clock
        self._metrics = metrics
        self._queues: dict[Secret, deque[_Waiting]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._failing: dict[Secret | None, float] = {}

    async def send(self, message: Message) -> None:
        """Return once every receiver was tried, or still has earlier messages to accept."""
        try:
            receivers = self._messenger.receivers()
        except ConfigError as error:
            self._note(None, failed=True)
            self._drop(message, str(error))
            return
        self._note(None, failed=False)
        known = {receiver.url for receiver in receivers}
        self._failing = {url: since for url, since in self._failing.items() if url in known}
        await asyncio.gather(*(self._put(receiver, message) for receiver in receivers))

    async def close(self) -> None:
        """Give up what still waits."""
        left = sum(map(len, self._queues.values()))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if left:
            _log("%s message(s) that were not accepted yet, as the daemon ends or reloads", left)

    async def _put(self, receiver: Receiver, message: Message) -> None:
        waiting = _Waiting(message, self._clock.monotonic() + _GIVE_UP)
        if queue := self._queues.get(receiver.url):
            if len(queue) < _MOST_WAITING:
                queue.append(waiting)
            else:
                self._drop(message, f"{receiver}: {_MOST_WAITING} messages wait already")
            return
        self._queues[receiver.url] = deque([waiting])
        task = asyncio.create_task(self._work(receiver))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await asyncio.wait({task, tried := asyncio.ensure_future(waiting.tried.wait())}, return_when="FIRST_COMPLETED")
        tried.cancel()

    async def _work(self, receiver: Receiver) -> None:
        """Send what waits for the receiver, until nothing does."""
        queue, delay = self._queues[receiver.url], _FIRST_RETRY
        try:
            while queue:
                first = queue[0]
                problem = await self._try(receiver, first.message)
                first.tried.set()
                if problem is None:
                    return
                if problem and self._clock.monotonic() < first.until:
                    await self._clock.sleep(delay)
                    delay = min(_LAST_RETRY, delay * 2)
                    continue
                queue.popleft()
                if problem:
                    self._drop(first.message, f"{receiver} {problem}")
                else:
                    delay = _FIRST_RETRY
                    self._count(first.message, "accepted")
        finally:
            del self._queues[receiver.url]

    async def _try(self, receiver: Receiver, message: Message) -> str | None:
        """Why it was not accepted; "" if it was; None: the receiver is no longer listed."""
        try:
            if all(receiver.url != listed.url for listed in self._messenger.receivers()):
                self._note(receiver.url, failed=False)
                return None
            problem = await self._messenger.send(receiver, message)
        except ConfigError as error:
            problem = str(error)
        except Exception as error:  # noqa: BLE001  # a defect of ours must not end the queue; its text may quote the URL
            problem = f"failed unexpectedly ({type(error).__name__})"
        self._note(receiver.url, failed=bool(problem))
        return problem

    def _note(self, url: Secret | None, *, failed: bool) -> None:
        if failed:
            self._failing.setdefault(url, self._clock.now())
        else:
            self._failing.pop(url, None)
        self._metrics.notifications_failing(min(self._failing.values(), default=0.0))

    def _drop(self, message: Message, reason: str) -> None:
        self._count(message, "dropped")
        _log("%s (%s)", reason, message.title)

    def _count(self, message: Message, result: str) -> None:
        for event in _events(message):
            self._metrics.notified(event, result)


def _events(message: Message) -> Iterable[str]:
    return (notice.event for notice in message.notices)


def _log(text: str, *facts: object) -> None:
    logging.getLogger(__name__).warning(f"notification dropped: {text} [notification-dropped]", *facts)
