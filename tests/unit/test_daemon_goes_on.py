"""An error outside a reconciliation must not end the daemon: it is reported, and the daemon will retry."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

import pytest

from reconciler.app.daemon.loop import Daemon
from reconciler.core.errors import StoreUnavailableError
from reconciler.core.model.compose import HealthStatus, StackHealth
from reconciler.core.model.requests import GitAnswer, ReconcileRequest
from reconciler.core.model.runs import Result
from reconciler.core.ports import Ports
from reconciler.core.ports.observer import Observer, Reconciled
from reconciler.engine.reconcile import Reconciler
from reconciler.engine.rollout import Rollout
from tests.fakes import FakeClock, World
from tests.support.waiting import until

UNITS = ("production@one", "production@two")
LOCKED = StoreUnavailableError("the database is locked", where="state.db")


async def ask_git(trigger: str) -> GitAnswer:
    return GitAnswer("a" * 40)


class NoMetrics:
    def tick(self, at: float) -> None: ...


def between_hosts(ports: Ports, error: Exception) -> Ports:
    """Ports for the rollout itself: any use of the store raises ``error``."""

    class Store:
        def __getattr__(self, name: str) -> object:
            raise error

    return replace(ports, store=Store())  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "reason"), [(LOCKED, str(LOCKED)), (ValueError("a defect"), "internal error; the log has the traceback")]
)
async def test_an_error_between_two_hosts(new_world: Callable[[], World], error: Exception, reason: str) -> None:
    world, other_world = new_world(), new_world()
    world.commit("a", api="A=1")
    broken = [Reconciler(world.ports(), unit) for unit in UNITS]
    sound = Reconciler(other_world.ports(), "staging")
    rollouts = [Rollout(between_hosts(world.ports(), error), broken), Rollout(other_world.ports(), [sound])]
    hosts = {host.environment: host for host in (*broken, sound)}
    daemon = Daemon(
        hosts, rollouts, ask_git=ask_git, clock=FakeClock(), metrics=NoMetrics(), poll_interval=60, drift_interval=60
    )
    task = asyncio.create_task(daemon.run())
    for _ in range(2):
        reconciled = await daemon.between_reconciliations(lambda: daemon.reconcile(ReconcileRequest("manual")))
        outcomes = {outcome.environment: outcome for outcome in reconciled}
        assert (outcomes[UNITS[0]].result, outcomes[UNITS[0]].reason) == (Result.FAILED, reason)
        assert outcomes[UNITS[0]].retry
        assert "staging" in outcomes
    assert daemon.last_outcomes[UNITS[0]].outcome.reason == reason
    assert await until(lambda: daemon.looked)
    assert not daemon.ready  # one host has no outcome
    daemon.stop()
    await task


def daemon_of(
    world: World, host: Reconciler, ask: Callable[[str], Awaitable[GitAnswer]], observers: Sequence[Observer] = ()
) -> Daemon:
    """A daemon with this host alone."""
    return Daemon(
        {host.environment: host},
        [Rollout(world.ports(), [host])],
        ask_git=ask,
        clock=FakeClock(),
        metrics=NoMetrics(),
        poll_interval=60,
        drift_interval=60,
        observers=observers,
    )


class Observing:
    """Keeps every event; the first one raises."""

    def __init__(self) -> None:
        self.events: list[Reconciled] = []

    def reconciled(self, event: Reconciled) -> None:
        self.events.append(event)
        if len(self.events) == 1:
            raise RuntimeError("a defect of an observer")

    async def run(self) -> None: ...


async def test_an_observer_gets_outcomes_and_health_and_cannot_stop_the_loop(world: World) -> None:
    async def no_news(trigger: str) -> GitAnswer:
        return GitAnswer(await world.git.head())

    observer, host = Observing(), Reconciler(world.ports(), "production")
    daemon = daemon_of(world, host, no_news, [observer])
    task = asyncio.create_task(daemon.run())

    async def reconcile(trigger: str) -> StackHealth:
        """One reconciliation; the health that its event tells of the only stack."""
        await daemon.between_reconciliations(lambda: daemon.reconcile(ReconcileRequest(trigger)))
        (health,) = last(trigger).health or ()
        return health

    def last(trigger: str) -> Reconciled:  # git's answer may have caused another one meanwhile
        return next(event for event in reversed(observer.events) if event.trigger == trigger)

    assert (await reconcile("manual")).status is HealthStatus.HEALTHY
    world.compose.running["api"] = replace(world.compose.running["api"], state="exited", exit_code=1)
    failing = await reconcile("engine")
    assert failing.status is HealthStatus.UNHEALTHY
    assert [service.service for service in failing.services if not service.healthy] == ["api"]
    event = last("engine")
    assert event.outcome.result is Result.IN_SYNC
    assert event.before == observer.events[observer.events.index(event) - 1].outcome
    daemon.stop()
    await task


async def test_being_ready_does_not_wait_for_the_ages_of_secrets(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A known revision is reconciled before git has answered; what is read of its history comes after that answer."""
    world.commit("a", api="A=1", worker="W=1")
    host = Reconciler(world.ports(), "production")
    await host.reconcile(ReconcileRequest("start"))
    answers, ready = asyncio.Event(), list[bool]()

    async def slow_git(trigger: str) -> GitAnswer:
        await answers.wait()
        return GitAnswer(await world.git.head())

    async def publish_ages() -> None:
        ready.append(daemon.ready)

    monkeypatch.setattr(host, "publish_ages", publish_ages)
    daemon = daemon_of(world, host, slow_git)
    task = asyncio.create_task(daemon.run())
    assert await until(lambda: "production" in daemon.last_outcomes)
    assert not daemon.ready
    answers.set()
    assert await until(lambda: bool(ready))
    assert all(ready)
    daemon.stop()
    await task
