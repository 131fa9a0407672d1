"""Containers that run with other values than their files say: found whenever that can be known, and attributed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from reconciler.core.decide.affected_services import affected, explaining_files
from reconciler.core.decide.stack_notes import stack_notes
from reconciler.core.model.compose import Container, ManagedFile, Project, Service
from reconciler.core.model.plans import Aspect
from reconciler.core.model.records import Pause
from reconciler.core.model.requests import ReconcileRequest
from reconciler.core.model.runs import Outcome, Result
from reconciler.core.model.targets import OnDrift, Stack
from reconciler.core.secret import Secret
from reconciler.engine.reconcile import Reconciler
from tests.fakes import API, APP, WORKER, World

STACK = Stack("production", "app", "/opt/app")


def daemon(world: World) -> Callable[..., object]:
    reconciler = Reconciler(world.ports(), "production")
    return lambda trigger="poll": reconciler.reconcile(ReconcileRequest(trigger))


def stale_targets(outcome: Outcome) -> set[str]:
    plan = outcome.after
    assert plan is not None
    return {change.target.source for change in plan.changes if Aspect.STALE in change.aspects}


# --- found in every reconciliation that could know ---


@pytest.mark.parametrize("scope", ["production/app", "production/api.env", ""], ids=["stack", "target", "environment"])
@pytest.mark.parametrize(
    "edit", ["A=1 NEW=1", "A=2", "B=1"], ids=["a key appended", "a value changed", "a key removed"]
)
async def test_a_hand_edit_that_git_adopts_during_a_pause_reaches_the_services(
    world: World, scope: str, edit: str
) -> None:
    """Pause, edit, adopt, merge, resume: nothing of that is a write of ours."""
    look = daemon(world)
    await look("start")
    record = world.store.record
    world.store.record = replace(record, pauses=(Pause(scope, 2e9, "an incident", 0.0),))
    world.host.put(API, (edit.replace(" ", "\n") + "\n").encode())
    assert (await look("watch")).result is Result.HELD
    world.commit("b", api=edit, worker="W=1")
    paused = await look()
    assert (paused.result, stale_targets(paused)) == (Result.HELD, {"api.env"})
    assert "api: container runs older values of" in paused.reason
    world.store.record = replace(world.store.record, pauses=())
    outcome = await look("resume")
    assert outcome.result is Result.CORRECTED, outcome.reason
    assert world.compose.running["api"].environment == dict(pair.split("=") for pair in edit.split())
    world.steps.clear()
    assert (await look()).result is Result.IN_SYNC
    assert world.store.applied("production")[API].commit.startswith("b")


@pytest.mark.parametrize("ignored", [(), ("A",)], ids=["of a file in report mode", "that is left to the server"])
async def test_a_hand_edit_that_stays_is_found_in_the_containers(
    new_world: Callable[[], World], ignored: tuple[str, ...]
) -> None:
    world = new_world()
    world.target_fields = {"ignore_keys": ignored} if ignored else {"on_drift": OnDrift.REPORT}
    world.commit("a", api="A=1 B=1")
    world.host.put(API, b"A=1\nB=1\n")
    world.compose.start("api")
    look = daemon(world)
    await look("start")
    world.host.put(API, b"A=2\nB=1\n")
    outcome = await look("watch")
    if ignored:
        assert outcome.result is Result.CORRECTED, outcome.reason
        assert world.compose.running["api"].environment == {"A": "2", "B": "1"}
    else:  # it is the file that is not right
        assert stale_targets(outcome) == set()
        world.commit("b", api="A=2 B=1")
        outcome = await look()
        assert (outcome.result, stale_targets(outcome)) == (Result.HELD, {"api.env"})
        assert "container runs older values of A; on_drift is report" in outcome.reason


async def test_an_idle_reconciliation_asks_compose_nothing(world: World) -> None:
    look = daemon(world)
    await look("start")
    world.steps.clear()
    await look()
    assert world.steps == ["ls-remote"]


# --- the file that differs, and no other ---


async def test_only_the_files_in_report_mode_keep_older_values(world: World) -> None:
    """worker.env is restored as ever, although api.env of the same stack is only reported."""
    world.reported = {"api.env"}
    for service in ("api", "worker"):
        path = f"/opt/app/{service}.env"
        file = world.host.files[path]
        world.host.put(path, file.data.reveal().replace(b"=1", b"=0"))
        world.compose.start(service)
        world.host.files[path] = file
    outcome = await daemon(world)("start")
    assert (outcome.result, stale_targets(outcome)) == (Result.HELD, {"api.env"})
    assert world.compose.running["worker"].environment == {"W": "1"}
    assert world.compose.running["api"].environment == {"A": "0"}


def service(environment: dict[str, str], *env_files: str, **references: str) -> Service:
    names = {key: frozenset(name for name in [value] if name) for key, value in references.items()}
    return Service("api", Secret(b"{}"), environment, env_files=frozenset(env_files), references=names)


A, B, DOTENV = "/opt/app/a.env", "/opt/app/b.env", "/opt/app/.env"


@pytest.mark.parametrize(
    ("resolved", "files", "explaining"),
    [
        pytest.param(service({"K": "1"}, A, B), {A: {"K": "1"}, B: {"L": "1"}}, {A}, id="the file that has it"),
        pytest.param(service({"K": "2"}, A, B), {A: {"K": "1"}, B: {"K": "2"}}, {B}, id="the file that wins"),
        pytest.param(service({"K": "1"}, A), {A: {"K": "1"}, B: {"K": "1"}}, {A}, id="not one that it does not read"),
        pytest.param(service({"K": "1"}, A, K="D"), {A: {"K": "2"}, DOTENV: {"D": "1"}}, {DOTENV}, id="interpolated"),
        pytest.param(service({"K": "1"}, A, K=""), {A: {"K": "2"}}, set(), id="environment wins"),
        pytest.param(service({"K": "1"}, A, K="K"), {A: {"K": "1"}}, {A}, id="named without a value"),
        pytest.param(service({}, A), {A: {"K": ""}}, {A}, id="removed"),
    ],
)
def test_the_file_that_gives_a_variable_explains_it(
    resolved: Service, files: dict[str, dict[str, str]], explaining: set[str]
) -> None:
    managed = {path: ManagedFile(path, frozenset(values), values) for path, values in files.items()}
    project = Project("app", {"api": resolved}, environments=frozenset({DOTENV}))
    assert set(explaining_files(project, resolved, managed, ["K"])) == explaining


def test_a_difference_that_no_file_explains_is_noted_without_blaming_one() -> None:
    resolved = service({"K": "1", "EXTRA": ""}, A)
    managed = {A: ManagedFile(A, frozenset({"K"}), {"K": "1"})}
    project = Project("app", {"api": resolved})
    made = Container("api-1", "api", "running", environment={"K": "1", "EXTRA": "c4n4ry"})
    assert affected(STACK, project, project, [made], {}, managed=managed) == ()
    (note,) = stack_notes(STACK, project, [made], {A: A}, managed)
    assert "api runs with other values of EXTRA than the project says, and no managed file explains that" in note
    assert "c4n4ry" not in note


async def test_a_change_has_only_its_own_stack_looked_at(new_world: Callable[[], World]) -> None:
    world = new_world()
    world.other_stacks = (Stack("production", "two", APP),)
    world.compose.stacks["worker"] = "two"
    world.commit("a", api="A=1", worker="W=1")
    world.host.put(API, b"A=1\n")
    world.host.put(WORKER, b"W=1\n")
    world.compose.start("api", "worker")
    look = daemon(world)
    assert (await look("start")).result is Result.IN_SYNC
    assert models(world) == 2

    world.commit("b", api="A=2", worker="W=1")
    assert (await look()).result is Result.APPLIED
    assert models(world) == 2  # before, and with the new file staged
    assert (await look("watch")).result is Result.IN_SYNC
    assert models(world) == 1
    assert (await look("drift")).result is Result.IN_SYNC
    assert models(world) == 0


def models(world: World) -> int:
    """How often Compose has resolved a stack since the last time."""
    number = len([step for step in world.steps if step in ("model", "model-staged")])
    world.steps.clear()
    return number
