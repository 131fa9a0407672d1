"""A flood of touched files must not keep the daemon busy, and nothing else delays a hand edit's repair."""

from __future__ import annotations

import pytest

from reconciler.app.daemon.loop import Daemon
from reconciler.core.model.requests import GitAnswer
from tests.fakes import FakeClock

LONG = 60.0  # seconds


class NoMetrics:
    def tick(self, at: float) -> None: ...


class SlowDaemon(Daemon):
    """Each of its reconciliations takes long, and computes for ``computes`` seconds of that."""

    triggers: list[str]
    computes = LONG
    used = 0.0

    async def _reconcile_all(self, trigger: str, answer: GitAnswer | None) -> float:
        self.triggers.append(trigger)
        await self._clock.sleep(LONG)
        self.used += self.computes
        return 10 * LONG


async def test_only_what_a_touched_file_started_is_followed_by_a_rest_and_that_is_short() -> None:
    async def ask_git(_: str) -> GitAnswer:
        return GitAnswer("a" * 40)

    clock = FakeClock(time=0.0)
    daemon = SlowDaemon(
        {}, [], ask_git=ask_git, clock=clock, metrics=NoMetrics(), poll_interval=600, drift_interval=600
    )
    daemon.triggers, daemon._cpu_seconds = [], lambda: daemon.used

    async def touch() -> list[str]:
        daemon._touched_by = "watch"
        await daemon._turn(clock.monotonic(), 100 * LONG)
        return daemon.triggers

    await daemon._turn(0.0, 0.0)
    assert await touch() == ["start", "watch"]  # a start that took long delays nothing
    assert await touch() == ["start", "watch"]
    clock.time += 10.0
    assert await touch() == ["start", "watch", "watch"]
    daemon.computes, clock.time = 0.0, clock.time + 10.0
    assert await touch() == ["start", "watch", "watch", "watch"]
    assert len(await touch()) == 5  # one that only waited for services delays nothing either
    daemon.computes = LONG
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(daemon._poll, "take", lambda: ("poll", GitAnswer("a" * 40)))
        await touch()
    assert (await touch())[-2:] == ["poll", "watch"]  # nor what git has started, touched or not
