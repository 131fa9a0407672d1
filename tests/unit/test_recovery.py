"""A run that is interrupted at any step, and how the next process continues."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from reconciler.core.errors import EngineUnavailableError, LiveFileError, ModelRefusedError, StoreUnavailableError
from reconciler.core.model.compose import Container
from reconciler.core.model.requests import ReconcileRequest
from reconciler.core.model.runs import Outcome, Result
from reconciler.core.model.targets import OnDrift, OnFirstContact
from reconciler.engine.reconcile import Reconciler
from tests.fakes import API, WORKER, Killed, World, reconcile_once

STEPS = ("backup", "begin", "write", "model", "amend", "recreate", "finish")


def kept(world: World) -> set[bytes]:
    """The bytes of every file in every backup."""
    return {data.reveal() for _, files in world.backups.taken for data in files.values()}


async def killed(world: World, step: str, after: int) -> bool:
    """Reconcile, and die when ``step`` comes for the ``after``-th time; returns whether it came that often."""
    world.journal.fail(step, Killed(), after=after)
    try:
        await reconcile_once(world)
    except Killed:
        return True
    world.journal.failures.clear()
    return False


@pytest.mark.parametrize("after", [0, 1, 2, 3])
@pytest.mark.parametrize("step", STEPS)
async def test_a_run_killed_at_any_step_is_resumed_and_nothing_is_lost(world: World, step: str, after: int) -> None:
    world.commit("b", api="A=2", worker="W=2")
    if not await killed(world, step, after):
        assert after > 0, f"{step} never came"
        return
    assert (world.live("api"), world.live("worker")) in {("A=1", "W=1"), ("A=2", "W=1"), ("A=2", "W=2")}

    outcome = await reconcile_once(world)

    assert outcome.result is Result.APPLIED, outcome.reason
    assert (world.live("api"), world.live("worker")) == ("A=2", "W=2")
    assert {name: container.environment for name, container in world.compose.running.items()} == {
        "api": {"A": "2"},
        "worker": {"W": "2"},
    }
    assert kept(world) >= {b"A=1\n", b"W=1\n"}
    assert world.store.debts == ()
    assert world.store.open_run is None
    assert (await reconcile_once(world)).result is Result.IN_SYNC


@pytest.mark.parametrize("after", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("step", STEPS)
async def test_a_run_of_a_bad_revision_killed_at_any_step_ends_rolled_back(world: World, step: str, after: int) -> None:
    world.compose.sick["A=bad"] = "unhealthy"
    world.commit("b", api="A=bad", worker="W=2")
    if not await killed(world, step, after):
        assert after > 0, f"{step} never came"
        return

    first = await reconcile_once(world)
    last = await reconcile_once(world)

    assert last.result is Result.IN_SYNC, (first, last)
    assert "quarantined" in last.warning
    assert (world.live("api"), world.live("worker")) == ("A=1", "W=1")
    assert {name: container.environment for name, container in world.compose.running.items()} == {
        "api": {"A": "1"},
        "worker": {"W": "1"},
    }
    assert [result for _, result, _ in world.store.finished][-1] is Result.ROLLED_BACK
    assert world.store.debts == ()


async def test_the_backup_of_the_killed_run_stays_the_way_back_of_the_resumed_one(world: World) -> None:
    world.compose.sick["A=bad"] = "unhealthy"
    world.commit("b", api="A=bad", worker="W=2")
    assert await killed(world, "write", 1)
    assert (world.live("api"), world.live("worker")) == ("A=bad", "W=1")
    outcome = await reconcile_once(world)
    assert outcome.result is Result.ROLLED_BACK
    assert (world.live("api"), world.live("worker")) == ("A=1", "W=1")
    assert len(world.backups.taken) == 1, "it is backed up only once"


async def test_an_edit_made_while_the_daemon_was_dead_is_backed_up_before_the_run_resumes(world: World) -> None:
    world.commit("b", api="A=2", worker="W=2")
    assert await killed(world, "write", 1)
    world.host.put(WORKER, b"W=hand\n")
    outcome = await reconcile_once(world)
    assert outcome.result is Result.APPLIED, outcome.reason
    assert world.live("worker") == "W=2"
    assert b"W=hand\n" in kept(world)


async def test_a_service_that_the_killed_run_broke_is_not_excused_by_being_broken_already(world: World) -> None:
    world.compose.sick["A=bad"] = "unhealthy"
    world.commit("b", api="A=bad", worker="W=1")
    assert await killed(world, "finish", 0)  # of the rollback
    assert world.store.open_run is not None
    not_yet = replace(world.store.open_run, rolling_back="")
    world.store.amend(not_yet, replace(world.store.record, quarantines=()))
    world.host.put(API, b"A=bad\n")
    world.compose.start("api")
    assert (await reconcile_once(world)).result is Result.ROLLED_BACK


async def test_a_killed_run_whose_revision_is_no_longer_desired_is_undone_before_the_new_one(world: World) -> None:
    world.commit("b", api="A=2", worker="W=2")
    assert await killed(world, "write", 1)
    world.commit("c", api="A=1", worker="W=3")
    world.steps.clear()
    outcome = await reconcile_once(world)
    assert outcome.result is Result.APPLIED
    assert (world.live("api"), world.live("worker")) == ("A=1", "W=3")
    assert [(result, "interrupted" in reason) for _, result, reason in world.store.finished[-2:]] == [
        (Result.FAILED, True),
        (Result.APPLIED, False),
    ]
    writes = [step for step in world.steps if step.startswith("write")]
    assert writes == [f"write {API}", f"write {WORKER}"]


async def test_a_killed_run_without_its_backup_says_so_and_continues(world: World) -> None:
    world.commit("b", api="A=2", worker="W=2")
    assert await killed(world, "write", 1)
    world.backups.taken.clear()
    world.commit("c", api="A=3", worker="W=3")
    outcome = await reconcile_once(world)
    assert outcome.result is Result.APPLIED
    assert "there is no backup" in world.store.finished[-2][2]
    assert kept(world) >= {b"A=2\n", b"W=1\n"}


async def test_a_killed_run_that_a_guard_stops_now_is_undone(world: World) -> None:
    world.commit("b", api="A=2", worker="W=2")
    assert await killed(world, "write", 1)
    world.compose.refuses = lambda files: ModelRefusedError("no") if b"W=2\n" in files.values() else None
    outcome = await reconcile_once(world)
    assert outcome.result is Result.STALLED
    assert (world.live("api"), world.live("worker")) == ("A=1", "W=1")
    assert world.store.open_run is None


@pytest.mark.parametrize("undone_by", ["rollback", "newer revision"])
async def test_leftovers_of_a_killed_run_beside_a_former_target_are_removed(world: World, undone_by: str) -> None:
    world.compose.sick["A=bad"] = "unhealthy"
    world.commit("b", api="A=bad", worker="W=2", new="N=2")
    assert await killed(world, "amend", 2 if undone_by == "rollback" else 0)
    world.host.put("/opt/app/.new.env.reconciler-1", b"N=2\n")  # ours, under another name
    world.host.put("/opt/app/.new.env.reconciler-2", b"N=hand\n")
    if undone_by == "newer revision":
        world.commit("c", api="A=1", worker="W=3")
    await reconcile_once(world)
    assert [path for path in world.host.files if "reconciler" in path] == []
    assert b"N=hand\n" in kept(world)
    assert b"N=2\n" not in kept(world)
    assert world.live("new") is None


async def test_a_first_contact_that_an_operator_allowed_stays_allowed_after_a_kill(world: World) -> None:
    world.target_fields = {"on_first_contact": OnFirstContact.HOLD}
    world.host.put("/opt/app/new.env", b"N=hand\n")
    world.commit("b", api="A=2", worker="W=1", new="N=1")
    world.journal.fail("write", Killed())
    with pytest.raises(Killed):
        await Reconciler(world.ports(), "production").reconcile(
            ReconcileRequest("manual", take_over=("production/new.env",))
        )
    outcome = await reconcile_once(world)
    assert outcome.result is Result.APPLIED, outcome.reason
    assert world.live("new") == "N=1"
    assert b"N=hand\n" in kept(world)


async def test_a_reported_hand_edit_is_not_touched_by_a_resumed_run(world: World) -> None:
    world.target_fields = {"on_drift": OnDrift.REPORT}
    world.commit("b", api="A=2", worker="W=1")
    assert await killed(world, "write", 0)
    world.host.put(WORKER, b"W=hand\n")
    outcome = await reconcile_once(world)
    assert outcome.result is Result.HELD
    assert (world.live("api"), world.live("worker")) == ("A=2", "W=hand")


@pytest.mark.parametrize("step", ["write", "model", "amend", "recreate", "finish"])
async def test_a_resumed_run_may_remove_a_variable(world: World, step: str) -> None:
    """The guard against foreign variables was asked before the run began; its file no longer names the key."""
    world.target_fields = {"allow_shrink": True}
    world.commit("b", api="B=2", worker="W=1")
    assert await killed(world, step, 0)
    outcome = await reconcile_once(world)
    assert outcome.result is Result.APPLIED, outcome.reason
    assert world.compose.running["api"].environment == {"B": "2"}


async def test_a_newer_revision_may_remove_what_a_killed_run_gave_to_a_container(world: World) -> None:
    world.target_fields = {"allow_shrink": True}
    world.commit("b", api="B=2", worker="W=1")
    assert await killed(world, "finish", 0)
    assert world.compose.running["api"].environment == {"B": "2"}
    world.commit("c", api="C=3", worker="W=1")
    outcome = await reconcile_once(world)
    assert outcome.result is Result.APPLIED, outcome.reason
    assert world.compose.running["api"].environment == {"C": "3"}


# --- the engine or the disk goes away ---


async def test_with_the_engine_gone_before_the_recreate_a_bad_revision_is_still_rolled_back_later(world: World) -> None:
    world.compose.sick["A=bad"] = "unhealthy"
    world.commit("b", api="A=bad", worker="W=1")
    world.journal.fail("recreate", EngineUnavailableError("gone"))
    assert (await reconcile_once(world)).retry
    assert world.live("api") == "A=bad"
    outcome = await reconcile_once(world)
    assert outcome.result is Result.ROLLED_BACK, outcome.reason
    assert world.live("api") == "A=1"


async def test_with_the_engine_gone_a_newer_revision_first_restores_the_files_and_is_applied_later(
    world: World,
) -> None:
    world.commit("b", api="A=2", worker="W=1")
    world.journal.fail("recreate", EngineUnavailableError("gone"))
    await reconcile_once(world)
    world.compose.reachable = False
    world.commit("c", api="A=3", worker="W=1")
    assert (await reconcile_once(world)).retry
    assert world.live("api") == "A=1"
    world.compose.reachable = True
    assert (await reconcile_once(world)).result is Result.APPLIED
    assert world.compose.running["api"].environment == {"A": "3"}


async def test_a_rollback_waits_for_the_engine_and_is_not_a_success_until_then(world: World) -> None:
    world.compose.sick["A=bad"] = "unhealthy"
    world.commit("b", api="A=bad", worker="W=1")
    world.journal.fail("recreate", EngineUnavailableError("gone"), after=1)
    outcome = await reconcile_once(world)
    assert (outcome.result, outcome.retry) == (Result.FAILED, True)
    assert "wait for the engine" in outcome.reason
    assert world.live("api") == "A=1"
    again = await reconcile_once(world)
    assert (again.result, again.run) == (Result.ROLLED_BACK, outcome.run)
    assert world.compose.running["api"].environment == {"A": "1"}


async def test_a_full_state_disk_does_not_keep_the_files_from_being_restored(world: World) -> None:
    world.compose.sick["A=bad"] = "unhealthy"
    world.commit("b", api="A=bad", worker="W=1")
    full = StoreUnavailableError("disk full")
    world.journal.failures["amend"] = [None, full, full, full]
    world.journal.failures["finish"] = [full]
    outcome = await reconcile_once(world)
    assert (outcome.result, outcome.retry) == (Result.FAILED, True)
    assert "disk full" in outcome.reason
    assert world.live("api") == "A=1"
    assert world.compose.running["api"].environment == {"A": "1"}


# --- a rollback that fails ---


async def failed_rollback(world: World) -> Outcome:
    world.compose.sick["A=bad"] = "unhealthy"
    world.commit("b", api="A=bad", worker="W=1")
    world.journal.fail("write", LiveFileError("read-only now"), after=1)
    return await reconcile_once(world)


async def test_after_a_failed_rollback_the_stack_is_suspended_until_an_operator_retries(world: World) -> None:
    first = await failed_rollback(world)
    assert first.result is Result.ROLLBACK_FAILED
    world.commit("c", api="A=3", worker="W=3")
    world.steps.clear()
    later = await reconcile_once(world)
    assert later.result is Result.ROLLBACK_FAILED
    assert (first.error_id, later.error_id) == ("rollback-failed", "rollback-failed")
    assert "reconciler retry" in later.reason
    assert not [step for step in world.steps if step.startswith(("write", "recreate"))]
    assert [action.service for action in world.store.debts] == ["api"]


async def test_health_is_not_claimed_while_a_rollback_has_failed(world: World) -> None:
    await failed_rollback(world)
    world.commit("c", api="A=3", worker="W=3")
    await reconcile_once(world)
    assert world.store.record.healthy is not None
    assert world.store.record.healthy.commit.startswith("a")


# --- a rollback whose services take long to start ---


async def slow_rollback(world: World) -> Outcome:
    """A bad revision, on whose old values the service is still starting after its timeout."""
    world.compose.sick |= {"A=bad": "unhealthy", "A=1": "starting"}
    world.commit("b", api="A=bad", worker="W=1")
    return await reconcile_once(world)


def finish_starting(world: World, **facts: Any) -> None:
    world.compose.running["api"] = replace(world.compose.running["api"], **facts)


async def test_a_rollback_that_is_only_slow_goes_on_and_nothing_is_recreated_for_it(world: World) -> None:
    outcome = await slow_rollback(world)
    assert (outcome.result, outcome.retry) == (Result.ROLLING_BACK, True), outcome.reason
    assert "api is still starting after 90 s" in outcome.reason
    assert world.live("api") == "A=1"
    assert (await reconcile_once(world)).result is Result.ROLLING_BACK
    world.steps.clear()
    finish_starting(world, health="healthy")
    again = await reconcile_once(world)
    assert (again.result, again.run) == (Result.ROLLED_BACK, outcome.run), again.reason
    assert not [step for step in world.steps if step.startswith("recreate")]


async def test_a_slow_start_is_remembered_and_the_next_one_may_take_as_long(world: World) -> None:
    await slow_rollback(world)
    finish_starting(world, health="healthy")
    await reconcile_once(world)
    assert 90 <= world.store.record.startups["app/api"] <= 100
    world.compose.sick["A=2"] = "starting"
    began = world.clock.time
    world.clock.on_sleep = lambda: finish_starting(world, health="healthy") if world.clock.time > began + 150 else None
    world.commit("c", api="A=2", worker="W=1")
    assert (await reconcile_once(world)).result is Result.APPLIED
    assert world.store.record.startups["app/api"] > 149


@pytest.mark.parametrize("facts", [{"health": "unhealthy"}, {"state": "exited", "exit_code": 1}, {"restarts": 1}])
async def test_a_service_that_fails_while_its_rollback_waits_is_recreated_once_more(
    world: World, facts: dict[str, Any]
) -> None:
    await slow_rollback(world)
    finish_starting(world, **facts)
    world.compose.sick["A=1"] = "unhealthy"
    world.steps.clear()
    assert (await reconcile_once(world)).result is Result.ROLLBACK_FAILED
    assert [step for step in world.steps if step.startswith("recreate")] == ["recreate api"]


async def test_a_rollback_whose_services_never_stop_starting_has_failed(world: World) -> None:
    await slow_rollback(world)
    results = [(await reconcile_once(world)).result for _ in range(3)]
    assert results == [Result.ROLLING_BACK, Result.ROLLING_BACK, Result.ROLLBACK_FAILED]


# --- who is to blame ---


async def test_a_service_that_failed_before_does_not_hide_what_the_change_does_to_another(world: World) -> None:
    world.compose.sick = {"W=": "unhealthy", "A=bad": "unhealthy"}
    world.compose.start("worker")
    slow = _healthy_then_unhealthy(world, "api")
    world.commit("b", api="A=bad", worker="W=2")
    world.compose.after_recreate = slow
    outcome = await reconcile_once(world)
    assert outcome.result is Result.ROLLED_BACK, outcome.reason
    assert "api" in outcome.reason


@pytest.mark.parametrize(("before", "result"), [(1, Result.ROLLED_BACK), (0, Result.ROLLBACK_FAILED)])
async def test_a_rollback_does_not_ask_for_a_task_that_no_node_ran_before_the_change(
    world: World, before: int, result: Result
) -> None:
    world.compose.sick = {"A=bad": "unhealthy"}
    pending = Container("api.2", "api", "pending", error="no suitable node", number=2, name="app-api-2")

    def turn_pending() -> None:
        world.compose.running["api.2"] = pending

    world.compose.after_recreate = turn_pending
    if before:
        turn_pending()
    world.commit("b", api="A=bad", worker="W=1")
    outcome = await reconcile_once(world)
    assert outcome.result is result, outcome.reason
    assert world.live("api") == "A=1"


def _healthy_then_unhealthy(world: World, service: str) -> Callable[[], None]:
    """After a recreate the service is starting; only a later look shows what its file says."""
    states: dict[str, Container] = {}

    def begin() -> None:
        container = world.compose.running[service]
        if container.health == "unhealthy":
            states[service] = container
            world.compose.running[service] = replace(container, health="starting")

    def turn() -> None:
        if service in states:
            world.compose.running[service] = states.pop(service)

    world.clock.on_sleep = turn
    return begin
