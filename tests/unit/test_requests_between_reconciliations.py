"""What an operator asks for beside reconciliations is done between two of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from reconciler.app.daemon.loop import Daemon
from reconciler.core.errors import RefusedError
from reconciler.core.model.records import EnvironmentRecord
from reconciler.core.model.requests import GitAnswer, ReconcileRequest
from reconciler.core.model.revisions import Revision
from reconciler.core.model.runs import Activity, Outcome, Result
from reconciler.engine.reconcile import Reconciler
from reconciler.engine.rollout import Rollout
from reconciler.engine.target_revision import ask_git as ask_remote
from tests.fakes import FakeClock, World
from tests.support.waiting import until


class SlowReconciler(Reconciler):
    """Records when a reconciliation begins and ends, and lets everything else run in between."""

    def __init__(self, steps: list[str]) -> None:
        self.environment = "production"
        self.steps = steps
        self.activity = Activity()
        self.triggers: list[str] = []

    async def reconcile(self, request: ReconcileRequest) -> Outcome:
        self.triggers.append(request.trigger)
        self.steps.append("reconciliation begins")
        for _ in range(20):
            await asyncio.sleep(0)
        self.steps.append("reconciliation ends")
        return Outcome("production", Result.IN_SYNC, "in sync")


async def ask_git(trigger: str) -> GitAnswer:
    return GitAnswer("a" * 40)


class NoMetrics:
    def tick(self, at: float) -> None: ...


@asynccontextmanager
async def running(
    steps: list[str],
    tmp_path: Path,
    ask_git: Callable[[str], Awaitable[GitAnswer]] = ask_git,
    head: Revision | None = None,
) -> AsyncIterator[Daemon]:
    hosts = {"production": SlowReconciler(steps)}
    world = World(tmp_path)
    world.store.record = EnvironmentRecord("production", head=head)
    rollouts = [Rollout(world.ports(), [hosts["production"]])]
    daemon = Daemon(
        hosts, rollouts, ask_git=ask_git, clock=FakeClock(), metrics=NoMetrics(), poll_interval=60, drift_interval=60
    )
    task = asyncio.create_task(daemon.run())
    yield daemon
    daemon.stop()
    await task


async def sync(daemon: Daemon) -> tuple[Outcome, ...]:
    outcomes: tuple[Outcome, ...] = await daemon.between_reconciliations(
        lambda: daemon.reconcile(ReconcileRequest("manual"))
    )
    return outcomes


async def test_a_request_waits_for_the_reconciliation_and_the_next_one_waits_for_it(tmp_path: Path) -> None:
    steps: list[str] = []

    async def work() -> str:
        steps.append("request begins")
        for _ in range(20):
            await asyncio.sleep(0)
        steps.append("request ends")
        return "done"

    async with running(steps, tmp_path) as daemon:
        done = await asyncio.gather(sync(daemon), daemon.between_reconciliations(work), sync(daemon))
    assert done[1] == "done"
    between = ["request begins", "request ends"]
    reconciliation = ["reconciliation begins", "reconciliation ends"]
    position = steps.index("request begins")
    assert steps[position : position + 2] == between
    rest = [step for step in steps if step not in between]
    assert rest == reconciliation * (len(rest) // 2)


async def test_git_that_never_answers_delays_neither_a_look_nor_a_request_nor_the_end(tmp_path: Path) -> None:
    steps: list[str] = []

    async def hanging(trigger: str) -> GitAnswer:
        steps.append("git is asked")
        await asyncio.Event().wait()
        raise AssertionError("never")

    async with running(steps, tmp_path, hanging, Revision("a" * 40, "tree")) as daemon:
        assert await until(lambda: "reconciliation ends" in steps)
        daemon.poll_now("webhook")
        assert [outcome.result for outcome in await sync(daemon)] == [Result.IN_SYNC]
        steps.clear()
        daemon.look_soon("watch")
        daemon._rest_until = 0.0
        assert await until(lambda: "reconciliation ends" in steps)
        assert not daemon.ready
    assert "git is asked" not in steps  # one question at a time


@pytest.mark.parametrize("beside", ["a touched file", "an answer of git's"])
async def test_what_happens_to_a_container_is_looked_at_whatever_comes_with_it(tmp_path: Path, beside: str) -> None:
    daemons: list[Daemon] = []

    async def answering(trigger: str) -> GitAnswer:
        if daemons:
            daemons[0].look_soon("engine")
        return GitAnswer("a" * 40)

    async with running([], tmp_path, answering, Revision("a" * 40, "tree")) as daemon:
        assert await until(lambda: daemon.ready)
        host = daemon.reconcilers["production"]
        assert isinstance(host, SlowReconciler)
        host.triggers.clear()
        daemon._rest_until = 0.0
        if beside == "a touched file":
            daemon.look_soon("engine")
            daemon.look_soon("watch")
        else:
            daemons.append(daemon)
            daemon.poll_now("webhook")
        assert await until(lambda: "engine" in host.triggers, seconds=20.0), host.triggers


async def test_nothing_is_compared_before_git_has_answered_for_the_first_time(tmp_path: Path) -> None:
    steps: list[str] = []
    gate = asyncio.Event()

    async def answering(trigger: str) -> GitAnswer:
        await gate.wait()
        return GitAnswer("a" * 40)

    async with running(steps, tmp_path, answering) as daemon:
        await daemon.between_reconciliations(lambda: asyncio.sleep(0))
        assert (steps, daemon.ready) == ([], False)
        gate.set()
        assert await until(lambda: daemon.ready)


@pytest.mark.parametrize("error", [RefusedError("no"), ValueError("a defect")], ids=repr)
async def test_an_error_goes_to_whoever_sent_the_request_and_the_daemon_goes_on(
    error: Exception, tmp_path: Path
) -> None:
    async def work() -> None:
        raise error

    async with running([], tmp_path) as daemon:
        with pytest.raises(type(error)):
            await daemon.between_reconciliations(work)
        (outcome,) = await sync(daemon)
    assert outcome.result is Result.IN_SYNC


async def test_only_what_a_webhook_announces_is_fetched_without_asking(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.commit("a", api="A=1")
    ports = world.ports()
    (tmp_path / "loop").mkdir()
    async with running([], tmp_path / "loop", lambda trigger: ask_remote(ports, ["production"], trigger)) as daemon:
        await until(lambda: daemon.ready)
        assert world.steps == ["ls-remote", "fetch"]
        daemon.poll_now("webhook")
        assert await until(lambda: "fetch-head" in world.steps)
    assert world.steps[2:3] == ["fetch-head"]
