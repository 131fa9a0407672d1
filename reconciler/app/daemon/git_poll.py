"""Polls git beside the reconciliations: one that does not answer delays none of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from reconciler.app.daemon import logs
from reconciler.core.errors import GitUnreachableError
from reconciler.core.model.requests import GitAnswer


class GitPoll:
    """Asks git with ``ask``, which gets what started it, when that is requested, or due; ``answered`` is called when
    there is an answer to take.

    ``next_at`` is when to ask again by itself, in monotonic seconds.
    """

    def __init__(self, ask: Callable[[str], Awaitable[GitAnswer]], answered: Callable[[], None]) -> None:
        self._ask = ask
        self._answered = answered
        self._requested_by = ""
        self._trigger = ""
        self._asking: asyncio.Task[GitAnswer] | None = None
        self.next_at = 0.0
        self.answer: GitAnswer | None = None

    def request(self, trigger: str) -> None:
        """Ask soon; what is asked already may have missed what this is about."""
        self._requested_by = trigger

    @property
    def pending(self) -> bool:
        """Whether git is asked, and has not answered yet."""
        return self._asking is not None and not self._asking.done()

    @property
    def wants_a_turn(self) -> bool:
        """Whether there is something to do: an answer to take, or a request to begin with."""
        return self._asking.done() if self._asking else bool(self._requested_by)

    def begin_if_due(self, now: float) -> None:
        if self._asking is None and (self._requested_by or now >= self.next_at):
            self._trigger, self._requested_by = self._requested_by or "poll", ""
            self.next_at = float("inf")
            self._asking = asyncio.create_task(self._safely())
            self._asking.add_done_callback(lambda _: self._answered())

    def take(self) -> tuple[str, GitAnswer] | None:
        """What started the poll that has ended, and its answer; None if there is none."""
        if self._asking is None or not self._asking.done():
            return None
        self.answer, self._asking = self._asking.result(), None
        reason = str(self.answer.error) if self.answer.error else None
        logs.get_logger().debug("git answered", trigger=self._trigger, head=self.answer.commit, reason=reason)
        return self._trigger, self.answer

    async def close(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    async def _safely(self) -> GitAnswer:
        try:
            return await self._ask(self._trigger)
        except Exception as error:  # noqa: BLE001  # a defect of ours must not end the daemon
            logs.get_logger().error("asking git failed unexpectedly", exc_info=error)
            return GitAnswer(error=GitUnreachableError("internal error; the log has the traceback"))
