"""One environment on several hosts: waves, what stops them, and who goes back; also after a kill between two hosts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from reconciler.core.errors import HostUnreachableError
from reconciler.core.model import Order, OrderKind, Outcome, Pin, Result, Stack
from reconciler.engine.reconcile import Reconciler
from reconciler.engine.rollout import Rollout, Turn, take_turn
from tests.fakes import World


class Hosts:
    """Three worlds that share git and the store, as hosts of one environment do; each with the service api."""

    def __init__(self, new_world: Callable[[], World], at_a_time: int = 1) -> None:
        self.worlds = {f"production@{name}": new_world() for name in ("one", "two", "three")}
        first = next(iter(self.worlds.values()))
        for unit, world in self.worlds.items():
            world.git, world.store = first.git, first.store
            world.stack = Stack(unit, "app", world.stack.directory)
            world.run_numbers = first.run_numbers
        self.store = first.store
        self.at_a_time = at_a_time
        self.commit = first.commit
        self.order: Order | None = None

    def rollout(self) -> Rollout:
        """As a freshly started process has it."""
        hosts = [Reconciler(world.ports(), unit) for unit, world in self.worlds.items()]
        return Rollout(next(iter(self.worlds.values())).ports(), hosts, self.at_a_time)

    async def make(self, host: Reconciler, turn: Turn) -> Outcome:
        return await take_turn(host, "manual", turn, order=self.order)

    async def run(self, **options: bool) -> dict[str, Result]:
        retry = self.order is not None
        done = await self.rollout().run(self.make, retry=retry, **options)
        self.outcomes = {one.environment: one for one in done}
        return {unit.partition("@")[2]: one.result for unit, one in self.outcomes.items()}

    async def start(self) -> None:
        self.commit("a", api="A=1")
        for world in self.worlds.values():
            world.compose.start("api")
        assert set((await self.run()).values()) == {Result.APPLIED}

    def sicken(self, name: str, text: str) -> None:
        self.worlds[f"production@{name}"].compose.sick = {text: "unhealthy"}

    @property
    def live(self) -> list[str | None]:
        return [world.live("api") for world in self.worlds.values()]


@pytest.fixture
async def hosts(new_world: Callable[[], World]) -> Hosts:
    made = Hosts(new_world)
    await made.start()
    return made


async def test_git_is_asked_once_for_all_hosts(hosts: Hosts) -> None:
    first = next(iter(hosts.worlds.values()))
    before = first.steps.count("ls-remote")
    hosts.commit("b", api="A=2")
    await hosts.run()
    assert first.steps.count("ls-remote") == before + 1
    assert hosts.live == ["A=2"] * 3


async def test_what_fails_on_one_host_is_given_to_no_further_one_and_taken_from_those_before(hosts: Hosts) -> None:
    hosts.sicken("two", "A=2")
    hosts.commit("b", api="A=2")
    assert await hosts.run() == {"one": Result.ROLLED_BACK, "two": Result.ROLLED_BACK, "three": Result.IN_SYNC}
    assert hosts.live == ["A=1"] * 3
    assert hosts.outcomes["production@one"].reason.startswith("on production@two: ")
    assert not any("write" in step and "A=2" in step for step in hosts.worlds["production@three"].steps)
    assert await hosts.run() == dict.fromkeys(("one", "two", "three"), Result.IN_SYNC)
    hosts.commit("c", api="A=3")
    assert await hosts.run() == dict.fromkeys(("one", "two", "three"), Result.APPLIED)


async def test_a_kill_between_the_failure_and_the_others_loses_nothing(hosts: Hosts) -> None:
    """The hosts that are done go back at the next start: it is found in what is stored."""
    hosts.sicken("two", "A=2")
    hosts.commit("b", api="A=2")
    units = list(hosts.worlds)
    for unit in units[:2]:  # as they run one by one, without what lies between them
        await Reconciler(hosts.worlds[unit].ports(), unit).run("manual")
    assert hosts.live == ["A=2", "A=1", "A=1"]
    assert await hosts.run() == {"one": Result.ROLLED_BACK, "two": Result.IN_SYNC, "three": Result.IN_SYNC}
    assert hosts.live == ["A=1"] * 3


async def test_hosts_that_do_not_answer_stop_nobody_and_follow_later(hosts: Hosts) -> None:
    world = hosts.worlds["production@one"]
    gone = HostUnreachableError("gone")
    world.journal.fail("write", gone)
    hosts.commit("b", api="A=2")
    first = await hosts.run()
    assert (first["one"], first["two"], first["three"]) == (Result.FAILED, Result.APPLIED, Result.APPLIED)
    assert hosts.store.environment("production@one").quarantines == ()
    assert (await hosts.run())["one"] is Result.APPLIED


async def test_a_revision_that_a_guard_refuses_on_one_host_waits_for_the_others(hosts: Hosts) -> None:
    world = hosts.worlds["production@one"]
    world.settings = replace(world.settings, allowed_paths=("/elsewhere",))
    hosts.commit("b", api="A=2")
    assert await hosts.run() == {"one": Result.STALLED, "two": Result.IN_SYNC, "three": Result.IN_SYNC}
    assert "production@one" in hosts.outcomes["production@three"].warning
    assert hosts.live == ["A=1"] * 3


async def test_a_host_that_never_had_a_revision_waits_too(new_world: Callable[[], World]) -> None:
    made = Hosts(new_world)
    made.commit("a", api="A=1")
    for world in made.worlds.values():
        world.compose.start("api")
    world = made.worlds["production@one"]
    world.settings = replace(world.settings, allowed_paths=("/elsewhere",))
    assert await made.run() == {"one": Result.STALLED, "two": Result.HELD, "three": Result.HELD}
    assert made.live == [None] * 3


async def test_a_host_that_a_person_has_pinned_stays_where_it_is(hosts: Hosts) -> None:
    hosts.sicken("two", "A=2")
    hosts.commit("b", api="A=2")
    record = hosts.store.environment("production@one")
    await Reconciler(hosts.worlds["production@one"].ports(), "production@one").run("manual")
    record = hosts.store.environment("production@one")
    assert record.applied
    hosts.store.save_environment(replace(record, pin=Pin(record.applied, "mine", 0.0)))
    assert (await hosts.run())["one"] is Result.IN_SYNC
    assert hosts.live == ["A=2", "A=1", "A=1"]


async def test_retry_is_for_all_hosts(hosts: Hosts) -> None:
    hosts.sicken("two", "A=2")
    hosts.commit("b", api="A=2")
    await hosts.run()
    hosts.sicken("two", "nothing")
    hosts.order = Order(OrderKind.RETRY)
    assert await hosts.run() == dict.fromkeys(("one", "two", "three"), Result.APPLIED)


async def test_a_dry_run_sends_nobody_back(hosts: Hosts) -> None:
    hosts.sicken("two", "A=2")
    hosts.commit("b", api="A=2")
    for unit in list(hosts.worlds)[:2]:
        await Reconciler(hosts.worlds[unit].ports(), unit).run("manual")

    async def look(host: Reconciler, turn: Turn) -> Outcome:
        return await take_turn(host, "plan", turn, dry_run=True)

    await hosts.rollout().run(look, dry_run=True)
    assert hosts.live == ["A=2", "A=1", "A=1"]
