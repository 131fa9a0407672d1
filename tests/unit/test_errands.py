"""Errands: what a person asks for beside passes is done while none runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from reconciler.app.daemon.loop import Daemon
from reconciler.core.errors import RefusedError
from reconciler.core.model.runs import Outcome, Result
from reconciler.engine.reconcile import Reconciler
from reconciler.engine.rollout import Rollout
from tests.fakes import FakeClock, World


class SlowPasses(Reconciler):
    """Notes when a pass begins and ends, and lets everything else run meanwhile."""

    def __init__(self, steps: list[str]) -> None:
        self.environment = "production"
        self.steps = steps

    async def run(self, *_: object, **__: object) -> Outcome:
        self.steps.append("pass begins")
        for _turn in range(20):
            await asyncio.sleep(0)
        self.steps.append("pass ends")
        return Outcome("production", Result.IN_SYNC, "in sync")


class NoMetrics:
    def tick(self, at: float) -> None: ...


@asynccontextmanager
async def running(steps: list[str], tmp_path: Path) -> AsyncIterator[Daemon]:
    passes = {"production": SlowPasses(steps)}
    rollouts = [Rollout(World(tmp_path).ports(), [passes["production"]])]
    daemon = Daemon(passes, rollouts, clock=FakeClock(), metrics=NoMetrics(), poll_interval=60, drift_interval=60)
    task = asyncio.create_task(daemon.run())
    yield daemon
    daemon.stop()
    await task


async def test_an_errand_waits_for_the_pass_and_the_next_pass_for_it(tmp_path: Path) -> None:
    steps: list[str] = []

    async def errand() -> str:
        steps.append("errand begins")
        for _turn in range(20):
            await asyncio.sleep(0)
        steps.append("errand ends")
        return "done"

    async with running(steps, tmp_path) as daemon:
        done = await asyncio.gather(daemon.ask("manual"), daemon.between_passes(errand), daemon.ask("manual"))
    assert done[1] == "done"
    between = ["errand begins", "errand ends"]
    one_pass = ["pass begins", "pass ends"]
    position = steps.index("errand begins")
    assert steps[position : position + 2] == between
    rest = [step for step in steps if step not in between]
    assert rest == one_pass * (len(rest) // 2)


@pytest.mark.parametrize("error", [RefusedError("no"), ValueError("a defect")], ids=repr)
async def test_what_an_errand_raises_goes_to_who_asked_and_the_daemon_goes_on(error: Exception, tmp_path: Path) -> None:
    async def errand() -> None:
        raise error

    async with running([], tmp_path) as daemon:
        with pytest.raises(type(error)):
            await daemon.between_passes(errand)
        (outcome,) = await daemon.ask("manual")
    assert outcome.result is Result.IN_SYNC
