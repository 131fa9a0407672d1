"""Operators' requests that wait until nothing is reconciled. The queue outlives a reload of the configuration."""

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


class RequestQueue:
    """First come, first served. ``wake`` is called for each new request; a daemon sets it while it runs."""

    def __init__(self) -> None:
        self.wake: Callable[[], None] = lambda: None
        self._requests: deque[_QueuedRequest] = deque()
        self._closed = False

    def __bool__(self) -> bool:
        return bool(self._requests)

    async def put(self, work: Callable[[], Awaitable[Any]], progress: Progress) -> Any:
        """Have ``work`` done by ``serve_next``; return what it returns, and raise what it raises.

        Raises RefusedError where the daemon stops first.
        """
        if self._closed:
            raise _stopping()
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._requests.append(_QueuedRequest(work, answer, progress))
        self.wake()
        return await answer

    async def serve_next(self, on_progress: Callable[[Progress | None], None]) -> None:
        """Serve the request that has waited longest, and pass its ``progress`` on meanwhile."""
        request = self._requests.popleft()
        on_progress(request.progress)
        await request.serve()
        on_progress(None)

    def close(self) -> None:
        """Refuse whatever waits, and every later request: the daemon is stopping."""
        self._closed = True
        while self._requests:
            answer = self._requests.popleft().answer
            if not answer.done():
                answer.set_exception(_stopping())


def _stopping() -> RefusedError:
    hint = "Nothing was done. Run the command again: without a daemon it does the work itself"
    return RefusedError("the daemon is stopping and no longer takes this request", hint=hint)
