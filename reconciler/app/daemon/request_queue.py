"""Operators' requests that wait until nothing is reconciled."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from reconciler.app.daemon.client import Progress
from reconciler.core.errors import RefusedError


@dataclass(frozen=True, slots=True)
class _QueuedRequest:
    """``answer`` gets what ``work`` returns or raises."""

    work: Callable[[], Awaitable[Any]]
    answer: asyncio.Future[Any]
    progress: Progress

    async def serve(self) -> None:
        try:
            result = await self.work()
        except Exception as error:  # noqa: BLE001  # it goes to the requester as it is
            if not self.answer.done():
                self.answer.set_exception(error)
        else:
            if not self.answer.done():
                self.answer.set_result(result)


class NotServedError(RefusedError):
    """The daemon has ended before it began with a request."""

    def __init__(self) -> None:
        hint = "Nothing was done. Run the command again: without a daemon it does the work itself"
        super().__init__("the daemon is stopping and no longer takes this request", hint=hint)


class RequestQueue:
    """First come, first served. ``wake`` is called for each new request."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._requests: deque[_QueuedRequest] = deque()
        self._closed = False

    @property
    def empty(self) -> bool:
        return not self._requests

    async def put(self, work: Callable[[], Awaitable[Any]], progress: Progress) -> Any:
        """Have ``work`` done by ``serve_next``; return what it returns, and raise what it raises.

        Raises NotServedError where the daemon ends first.
        """
        if self._closed:
            raise NotServedError
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._requests.append(_QueuedRequest(work, answer, progress))
        self._wake()
        return await answer

    async def serve_next(self, on_progress: Callable[[Progress | None], None]) -> None:
        """Serve the request that has waited longest, and pass its ``progress`` on meanwhile."""
        request = self._requests.popleft()
        on_progress(request.progress)
        await request.serve()
        on_progress(None)

    def close(self) -> None:
        """Raise NotServedError to whoever waits, and to all who come later."""
        self._closed = True
        while self._requests:
            answer = self._requests.popleft().answer
            if not answer.done():
                answer.set_exception(NotServedError())
