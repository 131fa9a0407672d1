"""One environment on several hosts: waves, what stops them, and who rolls back; also after a kill between two."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from reconciler.core.errors import HostUnreachableError
from reconciler.core.model.records import Pin
from reconciler.core.model.requests import OperatorRequest, ReconcileRequest, RequestKind
from reconciler.core.model.revisions import GitRevert
from reconciler.core.model.runs import Result
from reconciler.core.model.settings import PromotionGate
from reconciler.core.model.targets import OnFailure, Stack, WriteMode
from reconciler.engine.reconcile import Reconciler
from reconciler.engine.rollout import Rollout
from tests.fakes import World


class Hosts:
    """Three worlds that share git and the store, like hosts of one environment; each has the service api."""

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

    def rollout(self) -> Rollout:
        """As a process has it that has just started."""
        hosts = [Reconciler(world.ports(), unit) for unit, world in self.worlds.items()]
        return Rollout(next(iter(self.worlds.values())).ports(), hosts, self.at_a_time)

    async def run(self, *only: str, operator: OperatorRequest | None = None, poll: bool = True) -> dict[str, Result]:
        """Reconcile all hosts, or ``only`` these; returns their results by short name."""
        units = [f"production@{name}" for name in only] or None
        outcomes = await self.rollout().reconcile(ReconcileRequest("manual", poll=poll, operator=operator), only=units)
        self.outcomes = {outcome.environment: outcome for outcome in outcomes}
        return {unit.partition("@")[2]: outcome.result for unit, outcome in self.outcomes.items()}

    async def start(self, *names: str) -> None:
        """Revision a is applied and healthy on all hosts, or on ``names``."""
        self.commit("a", api="A=1")
        for world in self.worlds.values():
            world.compose.start("api")
        assert set((await self.run(*names)).values()) == {Result.APPLIED}

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


async def test_where_nothing_changes_the_records_of_all_hosts_are_compared_once(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not once more after each host: that would grow with the square of their number."""
    await hosts.run()
    read: list[str] = []
    of_store = type(hosts.store).environment
    monkeypatch.setattr(
        type(hosts.store), "environment", lambda store, name: (read.append(name), of_store(store, name))[1]
    )
    await hosts.run(poll=False)
    compared_again = len(read)
    hosts.at_a_time = 2  # one wave less
    read.clear()
    await hosts.run(poll=False)
    assert len(read) == compared_again


async def test_a_revision_that_fails_on_one_host_reaches_no_further_one_and_is_rolled_back_on_those_before(
    hosts: Hosts,
) -> None:
    hosts.sicken("two", "A=2")
    hosts.commit("b", api="A=2")
    before = len(hosts.worlds["production@three"].steps)
    assert await hosts.run() == {"one": Result.ROLLED_BACK, "two": Result.ROLLED_BACK, "three": Result.IN_SYNC}
    assert hosts.live == ["A=1"] * 3
    assert hosts.outcomes["production@one"].reason.startswith("on production@two: ")
    assert not any(step.startswith("write") for step in hosts.worlds["production@three"].steps[before:])
    assert await hosts.run() == dict.fromkeys(("one", "two", "three"), Result.IN_SYNC)
    hosts.commit("c", api="A=3")
    assert await hosts.run() == dict.fromkeys(("one", "two", "three"), Result.APPLIED)


async def test_a_kill_between_the_failure_and_the_other_rollbacks_loses_nothing(hosts: Hosts) -> None:
    """The hosts that have it roll back at the next start, from what is stored."""
    hosts.sicken("two", "A=2")
    hosts.commit("b", api="A=2")
    units = list(hosts.worlds)
    for unit in units[:2]:  # each host alone, without what lies between them
        await Reconciler(hosts.worlds[unit].ports(), unit).reconcile(ReconcileRequest("manual"))
    assert hosts.live == ["A=2", "A=1", "A=1"]
    assert await hosts.run() == {"one": Result.ROLLED_BACK, "two": Result.IN_SYNC, "three": Result.IN_SYNC}
    assert hosts.live == ["A=1"] * 3


async def test_hosts_that_do_not_answer_stop_no_other_and_follow_later(hosts: Hosts) -> None:
    world = hosts.worlds["production@one"]
    gone = HostUnreachableError("gone")
    world.journal.fail("write", gone)
    hosts.commit("b", api="A=2")
    first = await hosts.run()
    assert (first["one"], first["two"], first["three"]) == (Result.FAILED, Result.APPLIED, Result.APPLIED)
    assert hosts.store.environment("production@one").quarantines == ()
    assert (await hosts.run())["one"] is Result.APPLIED


async def test_a_revision_that_a_guard_refuses_on_one_host_is_held_back_on_the_others(hosts: Hosts) -> None:
    world = hosts.worlds["production@one"]
    world.settings = replace(world.settings, allowed_paths=("/elsewhere",))
    hosts.commit("b", api="A=2")
    assert await hosts.run() == {"one": Result.STALLED, "two": Result.IN_SYNC, "three": Result.IN_SYNC}
    assert "production@one" in hosts.outcomes["production@three"].warning
    assert hosts.live == ["A=1"] * 3


async def test_a_host_without_any_revision_waits_too(new_world: Callable[[], World]) -> None:
    made = Hosts(new_world)
    made.commit("a", api="A=1")
    for world in made.worlds.values():
        world.compose.start("api")
    world = made.worlds["production@one"]
    world.settings = replace(world.settings, allowed_paths=("/elsewhere",))
    assert await made.run() == {"one": Result.STALLED, "two": Result.HELD, "three": Result.HELD}
    assert made.live == [None] * 3


async def test_a_pinned_host_stays_where_it_is(hosts: Hosts) -> None:
    hosts.sicken("two", "A=2")
    hosts.commit("b", api="A=2")
    record = hosts.store.environment("production@one")
    await Reconciler(hosts.worlds["production@one"].ports(), "production@one").reconcile(ReconcileRequest("manual"))
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
    assert await hosts.run(operator=OperatorRequest(RequestKind.RETRY)) == dict.fromkeys(
        ("one", "two", "three"), Result.APPLIED
    )


async def test_a_dry_run_rolls_no_host_back(hosts: Hosts) -> None:
    hosts.sicken("two", "A=2")
    hosts.commit("b", api="A=2")
    for unit in list(hosts.worlds)[:2]:
        await Reconciler(hosts.worlds[unit].ports(), unit).reconcile(ReconcileRequest("manual"))

    await hosts.rollout().reconcile(ReconcileRequest("plan", dry_run=True))
    assert hosts.live == ["A=2", "A=1", "A=1"]


# --- hosts that are not in step --------------------------------------------------------------------------------------


async def test_a_revision_that_fails_on_a_new_host_stays_where_it_is_healthy(new_world: Callable[[], World]) -> None:
    hosts = Hosts(new_world)
    await hosts.start("one", "two")
    hosts.commit("b", api="A=2")
    await hosts.run("one", "two")
    hosts.sicken("three", "A=2")
    assert await hosts.run() == {"one": Result.IN_SYNC, "two": Result.IN_SYNC, "three": Result.ROLLED_BACK}
    assert hosts.live == ["A=2", "A=2", None]


async def test_a_host_that_was_away_reverts_nothing_that_works_on_others(hosts: Hosts) -> None:
    three = hosts.worlds["production@three"]
    for world in hosts.worlds.values():
        world.settings = replace(world.settings, git_revert=GitRevert.PUSH)
    hosts.commit("b", api="A=2")
    await hosts.run("one", "two")
    hosts.commit("c", api="A=3")
    await hosts.run("one", "two")
    hosts.sicken("three", "A=3")
    assert await hosts.run() == {"one": Result.IN_SYNC, "two": Result.IN_SYNC, "three": Result.ROLLED_BACK}
    assert hosts.live == ["A=3", "A=3", "A=1"]
    assert not any(step.startswith("revert") for step in three.steps)
    note = hosts.store.environment("production@three").quarantines[0].revert_note
    assert note.endswith("works on production@one meanwhile")


async def test_a_revision_that_failed_on_a_host_in_step_is_reverted_in_git(hosts: Hosts) -> None:
    two = hosts.worlds["production@two"]
    two.settings = replace(two.settings, git_revert=GitRevert.PUSH)
    hosts.sicken("two", "A=2")
    hosts.commit("b", api="A=2")
    await hosts.run()
    assert sum(step.startswith("revert") for step in two.steps) == 1


async def test_the_hosts_of_an_environment_share_its_budget_of_reverts(hosts: Hosts) -> None:
    for world in hosts.worlds.values():
        world.settings = replace(world.settings, git_revert=GitRevert.PUSH, max_reverts_per_day=1)
    hosts.sicken("two", "A=2")
    hosts.commit("b", api="A=2")
    await hosts.run()
    hosts.sicken("one", "A=3")
    hosts.commit("c", api="A=3")
    await hosts.run()
    assert sum(step.startswith("revert") for world in hosts.worlds.values() for step in world.steps) == 1
    assert "max_per_day" in hosts.outcomes["production@one"].reason


async def test_a_revision_quarantined_before_a_restart_reaches_no_host_of_the_same_wave(
    new_world: Callable[[], World],
) -> None:
    hosts = Hosts(new_world, at_a_time=3)
    await hosts.start()
    hosts.sicken("two", "A=2")
    hosts.commit("b", api="A=2")
    await Reconciler(hosts.worlds["production@two"].ports(), "production@two").reconcile(ReconcileRequest("manual"))
    before = len(hosts.worlds["production@three"].steps)
    await hosts.run()
    assert hosts.live == ["A=1"] * 3
    assert not any(step.startswith("write") for step in hosts.worlds["production@three"].steps[before:])


async def test_a_host_reconciled_alone_does_not_fall_back_to_an_older_head(hosts: Hosts) -> None:
    hosts.commit("b", api="A=2")
    assert await hosts.run("three") == {"three": Result.APPLIED}
    assert (await hosts.run(poll=False))["three"] is Result.IN_SYNC
    assert hosts.live == ["A=2"] * 3


async def test_files_held_for_an_operator_stay_while_a_newer_revision_waits(hosts: Hosts) -> None:
    three = hosts.worlds["production@three"]
    three.stack = replace(three.stack, on_failure=OnFailure.HOLD)
    hosts.sicken("three", "A=2")
    hosts.commit("b", api="A=2")
    assert (await hosts.run())["three"] is Result.FAILED
    world = hosts.worlds["production@one"]
    world.settings = replace(world.settings, allowed_paths=("/elsewhere",))
    hosts.commit("c", api="A=3")
    assert (await hosts.run())["one"] is Result.STALLED
    assert hosts.live == ["A=2"] * 3


async def test_old_values_that_fail_too_are_no_success_and_do_not_bring_back_the_bad_ones(hosts: Hosts) -> None:
    hosts.commit("b", api="A=2")
    hosts.sicken("two", "A=2")
    world = hosts.worlds["production@one"]
    units = list(hosts.worlds)
    await Reconciler(world.ports(), units[0]).reconcile(ReconcileRequest("manual"))
    hosts.sicken("one", "A=1")
    assert await hosts.run() == {"one": Result.FAILED, "two": Result.ROLLED_BACK, "three": Result.IN_SYNC}
    assert hosts.live == ["A=1"] * 3
    assert [quarantine.revision.short[0] for quarantine in hosts.store.environment(units[0]).quarantines] == ["b"]


# --- what stops other hosts, and what does not -----------------------------------------------------------------------


async def test_a_degraded_host_that_does_not_answer_stops_no_other(hosts: Hosts) -> None:
    world = hosts.worlds["production@one"]
    record = hosts.store.environment("production@one")
    hosts.store.save_environment(replace(record, degraded="api is not healthy"))
    world.journal.fail("write", HostUnreachableError("gone"))
    hosts.commit("b", api="A=2")
    results = await hosts.run()
    assert (results["two"], results["three"]) == (Result.APPLIED, Result.APPLIED)


async def test_after_a_failed_rollback_only_that_host_waits_for_an_operator(hosts: Hosts) -> None:
    record = hosts.store.environment("production@one")
    hosts.store.save_environment(replace(record, stopped={"app": "it does not come back"}))
    hosts.commit("b", api="A=2")
    results = await hosts.run()
    assert (results["two"], results["three"]) == (Result.APPLIED, Result.APPLIED)


async def test_a_retry_of_another_environment_lifts_nothing_here(hosts: Hosts) -> None:
    hosts.sicken("two", "A=2")
    hosts.commit("b", api="A=2")
    await hosts.run()
    retry = ReconcileRequest("retry", operator=OperatorRequest(RequestKind.RETRY))
    assert await hosts.rollout().reconcile(retry, only=frozenset()) == ()
    assert hosts.store.environment("production@two").quarantines


async def test_a_retry_of_a_failed_rollback_rolls_the_bad_revision_out_to_no_host(hosts: Hosts) -> None:
    hosts.sicken("two", "A=2")
    hosts.commit("b", api="A=2")
    await hosts.run()
    record = hosts.store.environment("production@two")
    hosts.store.save_environment(replace(record, stopped={"app": "it does not come back"}))
    await hosts.run(operator=OperatorRequest(RequestKind.RETRY))
    assert hosts.live == ["A=1"] * 3
    assert hosts.store.environment("production@two").stopped == {}
    assert hosts.store.environment("production@two").quarantines


# --- rollback by hand ----------------------------------------------------------------------------------------------


async def test_a_rollback_by_hand_takes_all_hosts_to_one_revision(hosts: Hosts) -> None:
    hosts.commit("b", api="A=2")
    await hosts.run()
    hosts.commit("c", api="A=3")
    await hosts.run("one", "two")
    await hosts.run(operator=OperatorRequest(RequestKind.ROLLBACK, reason="x"))
    assert hosts.live == ["A=2"] * 3


async def test_a_rollback_by_hand_stops_at_the_first_host_it_fails_on(hosts: Hosts) -> None:
    hosts.commit("b", api="A=2")
    await hosts.run()
    hosts.sicken("one", "A=1")
    await hosts.run(operator=OperatorRequest(RequestKind.ROLLBACK, reason="x"))
    assert hosts.live == ["A=2"] * 3
    assert hosts.store.environment("production@two").pin is None


async def test_no_file_is_written_in_place_over_ssh(hosts: Hosts) -> None:
    """Nobody there could be kept from writing to it at the same time."""
    world = hosts.worlds["production@one"]
    world.target_fields = {"write": WriteMode.IN_PLACE}
    hosts.commit("b", api="A=2")
    assert (await hosts.run("one"))["one"] is Result.STALLED
    assert "write: in_place is not possible over SSH" in hosts.outcomes["production@one"].reason
    assert world.live("api") == "A=1"


async def test_every_host_waits_at_the_promotion_gate_and_git_is_asked_once(new_world: Callable[[], World]) -> None:
    hosts = Hosts(new_world)
    await hosts.start()
    gate = PromotionGate(("staging@one",), 600.0)
    for world in hosts.worlds.values():
        world.settings = replace(world.settings, promotion={"production": gate})
    hosts.commit("b", api="A=2")
    assert set((await hosts.run()).values()) == {Result.HELD}
    git = next(iter(hosts.worlds.values())).git
    git.refs["refs/reconciler/healthy/staging@one/600"] = git.tip
    assert set((await hosts.run(poll=False)).values()) == {Result.HELD}
    assert set((await hosts.run()).values()) == {Result.APPLIED}
    assert hosts.live == ["A=2", "A=2", "A=2"]
