"""Servers that were started together do not ask git together: each interval between two polls is a little different."""

from __future__ import annotations

import asyncio
import itertools

from reconciler.app.daemon.loop import Daemon
from reconciler.core.model.requests import GitAnswer
from tests.fakes import FakeClock

POLLS = 40
MOST_TURNS = 10_000  # of the loop


class NoMetrics:
    def tick(self, at: float) -> None: ...


class HastyDaemon(Daemon):
    """Its clock goes on as soon as nothing is left to do, and it stops if it turns without end."""

    turns = 0

    async def _sleep(self, until: float) -> None:
        self.turns += 1
        self._stopping = self._stopping or self.turns > MOST_TURNS
        await asyncio.sleep(0)
        if not self._poll.pending and not self._poll.wants_a_turn:
            self._clock.time = max(self._clock.monotonic(), until)  # type: ignore[attr-defined]


async def test_polls_are_spread_over_a_tenth_of_the_interval() -> None:
    clock, polls = FakeClock(time=0.0), []

    async def ask_git(_: str) -> GitAnswer:
        polls.append(clock.monotonic())
        if len(polls) > POLLS:
            daemon.stop()
        return GitAnswer("a" * 40)

    daemon = HastyDaemon(
        {}, [], ask_git=ask_git, clock=clock, metrics=NoMetrics(), poll_interval=60, drift_interval=3600
    )
    await daemon.run()
    assert len(polls) > POLLS
    intervals = [later - earlier for earlier, later in itertools.pairwise(polls)]
    assert all(57 <= interval <= 63 for interval in intervals)
    assert max(intervals) - min(intervals) > 3  # of the 6 seconds; 40 polls miss that once in 10^10
