"""Containers that share a namespace or volumes with one that a change touches: followed in order, or named."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reconciler.core.decide.guests import broken_by, cut_off, follow
from reconciler.core.errors import EngineUnavailableError
from reconciler.core.model.compose import Action, ActionKind, Guest
from reconciler.core.model.records import Pause
from reconciler.core.model.requests import ReconcileRequest
from reconciler.core.model.runs import Outcome, Result
from reconciler.core.model.targets import Stack
from reconciler.engine.reconcile import Reconciler
from tests.fakes import APP, World, reconcile_once

OWNER = Action("app", "vpn", ActionKind.RECREATE, "KEY changed")
GUEST = Guest("g", "web-1", {"network": frozenset({"v"})}, project="web", service="web", directory="/opt/web")
PLAIN = Guest("p", "plain", {"network": frozenset({"v"})})


# --- what a guest needs ---


@pytest.mark.parametrize(
    ("kind", "word", "needed"),
    [
        pytest.param(ActionKind.RECREATE, "network", ActionKind.RECREATE, id="recreate"),
        pytest.param(ActionKind.RESTART, "network", ActionKind.RESTART, id="restart"),
        pytest.param(ActionKind.SIGNAL, "network", None, id="signal"),
        pytest.param(ActionKind.RECREATE, "volumes", ActionKind.RECREATE, id="volumes-recreate"),
        pytest.param(ActionKind.RESTART, "volumes", None, id="volumes-restart"),
    ],
)
def test_a_guest_needs_what_its_owner_got(kind: ActionKind, word: str, needed: ActionKind | None) -> None:
    guest = replace(GUEST, shares={word: frozenset({"v"})})
    follows = follow(guest, {"v": replace(OWNER, kind=kind, wave=1)})
    assert (follows.kind if follows else None) == needed
    if follows:
        action = follows.action("web", "web")
        assert (action.wave, action.force) == (2, needed is ActionKind.RECREATE)
    assert follow(guest, {"other": OWNER}) is None


def test_an_owner_is_named_with_its_stack_where_that_is_another() -> None:
    elsewhere, own = follow(GUEST, {"v": OWNER}, "web"), follow(GUEST, {"v": OWNER}, "app")
    assert elsewhere is not None
    assert own is not None
    assert (elsewhere.reason, own.reason) == ("shares the network of app/vpn", "shares the network of vpn")


def test_what_is_broken_is_named_with_the_next_step() -> None:
    recreated, restarted = follow(PLAIN, {"v": OWNER}), follow(GUEST, {"v": replace(OWNER, kind=ActionKind.RESTART)})
    assert recreated is not None
    assert restarted is not None
    assert broken_by(PLAIN, recreated, "it is part of no managed stack") == (
        "stack app: the recreate of vpn breaks plain, which shares the network of app/vpn: it is part of no managed "
        "stack. Remove it and run it again afterwards"
    )
    assert broken_by(GUEST, restarted, "paused").endswith("Restart it with `docker restart web-1` afterwards")
    assert cut_off(replace(GUEST, lost=("network",), gone=True)) == (
        "web-1 is cut off: the container whose network it shares was removed. Recreate it with "
        "`docker compose -p web up -d --force-recreate web` in /opt/web"
    )


# --- what a reconciliation does for it ---


@pytest.fixture
def shared(world: World) -> World:
    """worker, in the stack web, lives in the network of api, in the stack app."""
    world.compose.stacks["worker"] = "web"
    world.other_stacks = (Stack("production", "web", APP),)
    world.compose.joins["worker"] = ("network", "api")
    world.compose.start("api", "worker")
    return world


def recreated(world: World) -> list[str]:
    return [step for step in world.steps if step.startswith("recreate")]


def is_joined(world: World) -> bool:
    return not any(guest.lost for guest in world.compose.guests_now())


def notes(outcome: Outcome) -> str:
    assert outcome.plan is not None
    return "\n".join(outcome.plan.notes)


async def test_a_guest_in_another_stack_is_recreated_after_its_owner(shared: World) -> None:
    shared.commit("b", api="A=2", worker="W=1")
    outcome = await reconcile_once(shared)
    assert outcome.result is Result.APPLIED, outcome.reason
    assert outcome.plan is not None
    assert [(action.stack, action.service, action.reason) for action in outcome.plan.actions] == [
        ("app", "api", "A changed"),
        ("web", "worker", "shares the network of app/api"),
    ]
    assert recreated(shared) == ["recreate api", "recreate worker"]
    assert is_joined(shared)


async def test_a_guest_with_new_values_of_its_own_is_recreated_once_and_last(shared: World) -> None:
    shared.compose.stacks = {"api": "web", "worker": "app"}  # the guest's stack comes first
    shared.commit("b", api="A=2", worker="W=2")
    assert (await reconcile_once(shared)).result is Result.APPLIED
    assert recreated(shared) == ["recreate api", "recreate worker"]


@pytest.mark.parametrize("stack", ["app", "web"])
async def test_guests_of_guests_follow_in_order(shared: World, stack: str) -> None:
    shared.host.put(f"{APP}/extra.env", b"E=1\n")
    shared.compose.joins["extra"] = ("PID namespace", "worker")
    shared.compose.stacks["extra"] = stack
    shared.compose.start("extra")
    shared.commit("b", api="A=2", worker="W=1", extra="E=1")
    assert (await reconcile_once(shared)).result is Result.APPLIED
    assert recreated(shared) == ["recreate api", "recreate worker", "recreate extra"]


async def test_a_guest_that_fails_has_its_owner_rolled_back_and_itself_after_it(shared: World) -> None:
    shared.compose.sick["W=1"] = "unhealthy"
    shared.compose.after_recreate = lambda: shared.compose.sick.clear() if len(recreated(shared)) == 2 else None
    shared.commit("b", api="A=2", worker="W=1")
    outcome = await reconcile_once(shared)
    assert outcome.result is Result.ROLLED_BACK, outcome.reason
    assert recreated(shared) == ["recreate api", "recreate worker"] * 2
    assert shared.live("api") == "A=1"
    assert is_joined(shared)


async def test_an_owner_that_fails_takes_its_guest_along_in_the_rollback(shared: World) -> None:
    """The guest was not touched yet, and its owner is already another one."""
    shared.journal.fail("recreate", EngineUnavailableError("gone"), after=1)
    shared.commit("b", api="A=2", worker="W=1")
    assert (await reconcile_once(shared)).retry
    shared.compose.sick["A=2"] = "unhealthy"
    shared.steps.clear()
    outcome = await reconcile_once(shared)
    assert outcome.result is Result.ROLLED_BACK, outcome.reason
    assert recreated(shared)[-2:] == ["recreate api", "recreate worker"]
    assert is_joined(shared)


async def test_a_guest_that_a_kill_left_behind_is_recreated_by_the_resumed_run(shared: World) -> None:
    shared.journal.fail("recreate", EngineUnavailableError("gone"), after=1)
    shared.commit("b", api="A=2", worker="W=1")
    assert (await reconcile_once(shared)).retry
    assert not is_joined(shared)
    assert (await reconcile_once(shared)).result is Result.APPLIED
    assert is_joined(shared)


@pytest.mark.parametrize("obstacle", ["stranger", "paused"])
async def test_a_guest_that_may_not_be_touched_is_named_before_and_after(shared: World, obstacle: str) -> None:
    if obstacle == "stranger":
        shared.compose.stacks["worker"] = "elsewhere"
    else:
        pause = Pause("production/web", shared.clock.time + 1000, "tests", shared.clock.time)
        shared.store.save_environment(replace(shared.store.environment("production"), pauses=(pause,)))
    shared.commit("b", api="A=2", worker="W=1")
    outcome = await reconcile_once(shared)
    reason = "it is part of no managed stack" if obstacle == "stranger" else "its stack web is suspended (paused until"
    assert f"stack app: the recreate of api breaks worker, which shares the network of app/api: {reason}" in notes(
        outcome
    )
    assert recreated(shared) == ["recreate api"]
    assert "worker is cut off: the container whose network it shares was removed" in notes(await reconcile_once(shared))


async def test_the_note_on_a_guest_ends_with_the_guest(shared: World) -> None:
    shared.compose.stacks["worker"] = "elsewhere"
    reconciler = Reconciler(shared.ports(), "production")
    shared.commit("b", api="A=2", worker="W=1")
    await reconciler.reconcile(ReconcileRequest("poll"))
    assert "worker is cut off" in notes(await reconciler.reconcile(ReconcileRequest("watch", poll=False)))

    del shared.compose.running["worker"], shared.compose.joins["worker"]
    shared.commit("c", api="A=3", worker="W=1")
    await reconciler.reconcile(ReconcileRequest("poll"))
    assert "cut off" not in notes(await reconciler.reconcile(ReconcileRequest("watch", poll=False)))


async def test_a_guest_whose_owner_is_gone_is_recreated_where_a_restart_is_due(shared: World) -> None:
    """The engine answers a restart with "No such container", and leaves the guest stopped."""
    shared.compose.start("api")  # by hand
    (run, *_) = shared.store.runs("production", 1)
    due = (Action("web", "worker", ActionKind.RESTART, "mounts a.conf"),)
    record = shared.store.environment("production")
    shared.store.finish(run, Result.IN_SYNC, "", at=0.0, record=record, pending_restarts=due)
    outcome = await reconcile_once(shared)
    assert recreated(shared) == ["recreate worker"], outcome.reason
    assert "restart worker" not in shared.steps
    assert is_joined(shared)


async def test_a_guest_that_somebody_stopped_stays_stopped(shared: World) -> None:
    shared.compose.running["worker"] = replace(shared.compose.running["worker"], state="exited", exit_code=143)
    shared.commit("b", api="A=2", worker="W=1")
    assert (await reconcile_once(shared)).result is Result.APPLIED
    assert recreated(shared) == ["recreate api"]


# --- after a service that is meant to end ---


@pytest.mark.parametrize(("code", "result"), [(0, Result.APPLIED), (3, Result.ROLLED_BACK)])
async def test_what_comes_after_a_one_shot_waits_for_its_end(world: World, code: int, result: Result) -> None:
    """api prepares a volume that worker, recreated after it, uses."""
    world.stack = replace(world.stack, one_shot=frozenset({"api"}))
    world.compose.joins["worker"] = ("volumes", "api")
    world.compose.start("api", "worker")

    def end() -> None:
        api = world.compose.running["api"]
        exit_code = code if api.environment == {"A": "2"} else 0
        world.compose.running["api"] = replace(api, state="exited", exit_code=exit_code)
        world.steps.append("end api")

    world.clock.on_sleep = end
    world.commit("b", api="A=2", worker="W=1")
    outcome = await reconcile_once(world)
    assert outcome.result is result, outcome.reason
    order = [step for step in dict.fromkeys(world.steps) if step in ("recreate api", "end api", "recreate worker")]
    assert order == ["recreate api", "end api", "recreate worker"]
    assert ("api exited with code 3" in outcome.reason) is (code != 0)
