"""What is read from services and tasks of a Swarm, and what is given to `docker stack deploy`."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock

import pytest
import yaml
from aiodocker.exceptions import DockerError

from reconciler.adapters import process
from reconciler.adapters.compose.context import LocalComposeContext
from reconciler.adapters.swarm.api import SwarmEngine
from reconciler.adapters.swarm.contents import contents_of, owner_of, with_contents
from reconciler.adapters.swarm.errors import of_deploy
from reconciler.adapters.swarm.notes import notes_on
from reconciler.adapters.swarm.refusals import require_deployable
from reconciler.adapters.swarm.stack import DockerSwarm
from reconciler.adapters.swarm.stack_file import stack_file, unknown_fields
from reconciler.adapters.swarm.tasks import allowed_time, containers_of, references
from reconciler.core.decide.health import Verdict, watch_health
from reconciler.core.decide.one_shots import with_one_shots
from reconciler.core.decide.stack_notes import stack_notes
from reconciler.core.errors import ChangedMeanwhileError, ModelRefusedError, NodeLostError, SwarmUnavailableError
from reconciler.core.fidelity.swarm_service import deployed_service, expected_fields
from reconciler.core.model.compose import Action, ActionKind, DeployedService, Project, Service
from reconciler.core.model.targets import HealthPolicy, LiveFile, MountedTarget, Ownership, Stack, StackKind
from reconciler.core.secret import Digester, Secret
from reconciler.engine.project_guard import StackSides, judge_project
from tests.support.cases import each

DIGEST = Digester(bytes(32))
STACK = Stack("production", "app", "/opt/app", health=HealthPolicy(timeout=90, stable_for=1), kind=StackKind.SWARM)


# --- tasks → containers ----------------------------------------------------------------------------------------------


def service(replicas: int = 1, env: str = "A=1", update: str = "", **spec: Any) -> dict[str, Any]:
    template = {"ContainerSpec": {"Image": "app:1@sha256:0", "Env": [env]}, "ForceUpdate": 0, "Runtime": "container"}
    labels = {"com.docker.stack.namespace": "app", "com.docker.stack.image": "app:1"}
    mode = {"Replicated": {"Replicas": replicas}}
    status = {"UpdateStatus": {"State": update, "Message": "update paused due to task t9"}} if update else {}
    full = {"Name": "app_api", "Labels": labels, "TaskTemplate": template, "Mode": mode, **spec}
    return {"ID": "s1", "Version": {"Index": 9}, "Spec": full, **status}


def task(identity: str, state: str, env: str = "A=1", slot: int = 1, desired: str = "running", **status: Any) -> Any:
    return {
        "ID": identity,
        "Version": {"Index": 1},
        "CreatedAt": f"2026-11-29T10:00:0{identity[-1]}Z",
        "Spec": {"ContainerSpec": {"Image": "app:1@sha256:0", "Env": [env]}, "ForceUpdate": 0},
        "ServiceID": "s1",
        "Slot": slot,
        "NodeID": "n1",
        "Status": {"State": state, **status},
        "DesiredState": desired,
    }


FAILED = {"Err": "task: non-zero exit (3)", "ContainerStatus": {"ExitCode": 3}, "Timestamp": "2026-11-29T10:00:09Z"}
NO_NODE = {"Err": "no suitable node (insufficient resources on 3 nodes)"}


@each(
    ("facts", "tasks", "expected"),
    [
        (service(), [task("t1", "running")], ("running", "", "")),
        (service(), [task("t1", "starting")], ("running", "starting", "")),
        (service(env="A=2"), [task("t1", "running")], ("running", "starting", "")),
        (service(update="updating"), [task("t1", "running")], ("running", "starting", "")),
        (service(), [task("t1", "pending", **NO_NODE)], ("pending", "", NO_NODE["Err"])),
        (service(), [task("t1", "failed", desired="shutdown", **FAILED)], ("exited", "", FAILED["Err"])),
        (
            service(),
            [task("t1", "failed", desired="shutdown", **FAILED), task("t2", "ready")],
            ("restarting", "", FAILED["Err"]),
        ),
        (service(), [], ("pending", "", "no task is there")),
        # The new task has failed, and the old one of its place was never stopped.
        (service(), [task("t1", "running"), task("t2", "failed", "A=2", desired="shutdown")], ("running", "", "")),
        (
            service(update="paused"),
            [task("t1", "running"), task("t2", "failed", desired="shutdown", **FAILED)],
            ("exited", "", f"update paused due to task t9: {FAILED['Err']}"),
        ),
    ],
    ids=["runs", "starts", "older", "updating", "pending", "failed", "restarting", "none", "start-first", "paused"],
)
def test_a_place_is_as_its_task_is(facts: Any, tasks: Any, expected: tuple[str, str, str]) -> None:
    (container,) = containers_of(facts, tasks, {"n1": "web-1"})
    assert (container.state, container.health, container.error) == expected
    assert container.service == "api"
    if tasks:
        assert (container.node, container.name, container.image) == ("web-1", "app_api.1", "app:1")


def test_a_node_that_has_just_come_back_is_no_failure_of_the_task() -> None:
    error = {"Err": "cannot create a swarm scoped network when swarm is not active"}
    tasks = [task("t1", "rejected", desired="shutdown", **error), task("t2", "running")]
    (container,) = containers_of(service(), tasks, {})
    assert (container.state, container.restarts) == ("running", 0)


def test_a_task_that_ended_with_its_node_has_not_failed() -> None:
    back = {"Err": "task: non-zero exit (255)", "ContainerStatus": {"ExitCode": 255}}
    late, soon = {**back, "Timestamp": "2026-11-29T10:00:08Z"}, {**back, "Timestamp": "2026-11-29T10:00:01Z"}
    replaced = [task("t1", "failed", desired="shutdown", **late), task("t2", "running")]
    assert containers_of(service(), replaced, {})[0].restarts == 0
    # Its node may have been restarted before Swarm calls it down: only a second time is it the task's own failure.
    once = [task("t1", "failed", desired="shutdown", **soon), task("t2", "running")]
    assert containers_of(service(), once, {})[0].restarts == 0
    assert containers_of(service(), once[:1], {})[0].state == "pending"
    twice = [*once[:1], task("t2", "failed", desired="shutdown", **back, Timestamp="2026-11-29T10:00:02Z")]
    assert containers_of(service(), [*twice, task("t3", "running")], {})[0].restarts == 2
    assert containers_of(service(), twice, {})[0].state == "exited"
    assert containers_of(service(), [*twice[1:], task("t3", "failed", "A=0", **soon)], {})[0].state == "pending"
    (container,) = containers_of(service(), [task("t1", "running")], {"n1": "web-1"}, down={"n1"})
    assert (container.state, container.error) == ("pending", "node web-1 is down")


JOB = {"Mode": {"ReplicatedJob": {"MaxConcurrent": 2, "TotalCompletions": 2}}}
ENDED = {"ContainerStatus": {"ExitCode": 0}}


def test_a_job_is_as_the_tasks_of_its_latest_run_are() -> None:
    job = {**service(**JOB), "JobStatus": {"JobIteration": {"Index": 5}}}
    earlier = {**task("t1", "complete", slot=0, desired="remove", **ENDED), "JobIteration": {}}
    tasks = [
        earlier,
        {**task("t2", "complete", slot=0, desired="complete", **ENDED), "JobIteration": {"Index": 5}},
        {**task("t3", "failed", slot=1, desired="shutdown", **FAILED), "JobIteration": {"Index": 5}},
    ]
    containers = containers_of(job, tasks, {"n1": "web-1"})
    assert [(it.state, it.exit_code, it.name) for it in containers] == [
        ("exited", 0, "app_api.0"),
        ("exited", 3, "app_api.1"),
    ]
    assert {it.allowed for it in containers} == {0.0}, "nobody knows how long its work takes"
    assert [it.state for it in containers_of(job, [earlier], {})] == ["pending", "pending"]
    moved = {**tasks[2], "Slot": 0, "NodeID": "n2", "ID": "t1", "CreatedAt": "2026-11-29T10:00:01Z"}
    assert [it.state for it in containers_of(job, [moved, tasks[1]], {})] == ["exited", "pending"], (
        "one place, on two nodes"
    )
    everywhere = {**service(Mode={"GlobalJob": {}}), "JobStatus": {"JobIteration": {}}}
    (container,) = containers_of(everywhere, [{**earlier, "DesiredState": "complete"}], {})
    assert (container.state, container.name) == ("exited", "app_api.n1")


def test_a_job_is_meant_to_end_and_takes_no_update_config() -> None:
    own = {"image": "app:1", "deploy": {"mode": "replicated-job"}}
    job = defined(own)
    project = Project("app", {"api": replace(job, deploys_as=expected_fields("app", job))})
    assert with_one_shots(STACK, project, []).one_shot == {"api"}
    assert with_one_shots(STACK, Project("app", {"api": job}), []).one_shot == set(), "Compose runs it as any service"
    own["deploy"] = {"mode": "global-job", "update_config": {"parallelism": 1}}
    with pytest.raises(ModelRefusedError, match=r"api has deploy\.update_config"):
        require_deployable(Project("app", {"api": defined(own)}), STACK)


async def test_a_service_of_another_mode_is_held_also_where_the_project_is_accepted() -> None:
    everywhere = defined({"image": "app:1", "deploy": {"mode": "global"}})
    project = Project("app", {"api": replace(everywhere, deploys_as=expected_fields("app", everywhere))})
    runs = [DeployedService("api", expected_fields("app", defined({"image": "app:1"})))]
    sides = StackSides(STACK, project, project, [], {}, deployed=runs)
    settings = SimpleNamespace(git_may_change={}, allow_compose_files=True)
    ports = SimpleNamespace(settings=settings, compose=SimpleNamespace(images=AsyncMock(return_value={})))
    due = [Action("app", "api", ActionKind.RECREATE, "")]
    verdict = await judge_project(ports, sides, due, accepted=True)  # type: ignore[arg-type]
    assert (verdict.services, verdict.accepted) == ({"api"}, "")
    assert "api is replicated, and the project says global" in verdict.hold
    assert verdict.hold.endswith(
        "remove it with `docker service rm app_api`, then deploy it once by hand, "
        "then `reconciler sync --accept-project production/app` gives it its values"
    )
    sides = replace(sides, deployed=[*runs, DeployedService("worker", {})])
    verdict = await judge_project(ports, sides, due, accepted=True)  # type: ignore[arg-type]
    assert verdict.hold.endswith("then `reconciler sync` creates it again")


class _LostNode:
    """A Swarm whose only other node is down, and what it is asked to update."""

    def __init__(self, facts: Any, tasks: list[Any]) -> None:
        self.facts, self.told, self.updated = facts, tasks, list[str]()

    async def force_update(self, service: Any) -> Any:
        self.updated.append(service["ID"])
        return {**service["Spec"]["TaskTemplate"], "ForceUpdate": 1}

    async def networks(self, ids: Any) -> Any:
        return {}

    async def objects_of(self, kind: str, namespace: str, stack: str) -> Any:
        return {}

    async def nodes(self) -> Any:
        return {"n1": "web-1"}, frozenset({"n1"})

    async def services(self, namespace: str) -> Any:
        return [self.facts]

    async def tasks(self, namespace: str) -> Any:
        return self.told


@pytest.mark.parametrize(
    ("facts", "tasks"),
    [
        (service(update="updating"), [task("t1", "assigned", desired="shutdown"), task("t2", "running")]),
        (service(update="paused"), [task("t9", "running", desired="shutdown")]),
        (service(env="A=0", update="rollback_completed"), [task("t9", "running", desired="shutdown")]),
    ],
    ids=["stuck", "paused", "rolled-back"],
)
async def test_an_update_that_ends_with_a_node_is_deployed_again_and_blames_no_revision(facts: Any, tasks: Any) -> None:
    swarm = DockerSwarm(SimpleNamespace(engine=None), SimpleNamespace(), DIGEST)  # type: ignore[arg-type]
    swarm._engine = _LostNode(facts, tasks)  # type: ignore[assignment]
    await swarm.containers(STACK, "app")
    swarm._deployed["s1"] = None
    with pytest.raises(NodeLostError, match="node web-1 was lost during the update of api"):
        await swarm.containers(STACK, "app")
    await swarm.containers(STACK, "app")  # planning the next try is not kept from it
    assert await swarm._stuck("app", [facts]) == ({"api"} if facts["UpdateStatus"]["State"] == "updating" else set())


async def test_whoever_waits_learns_of_a_lost_node_whichever_process_has_deployed() -> None:
    tasks = [task("t1", "assigned", desired="shutdown"), task("t2", "running")]
    swarm = DockerSwarm(SimpleNamespace(engine=None), SimpleNamespace(), DIGEST)  # type: ignore[arg-type]
    swarm._engine = engine = _LostNode(service(update="updating"), tasks)  # type: ignore[assignment]
    engine.listen_to = AsyncMock()  # type: ignore[attr-defined]
    await swarm.containers(STACK, "app")
    async with swarm.noticing(Project("app", {})):
        with pytest.raises(NodeLostError):
            await swarm.containers(STACK, "app")
    await swarm.containers(STACK, "app")


async def test_a_deploy_that_something_else_is_always_faster_than_blames_no_revision() -> None:
    stderr = b"failed to update service app_api: Error response from daemon: rpc error: desc = update out of sequence"
    completed = process.Completed("docker", 1, b"", stderr)
    assert isinstance(of_deploy(Project("app", {}), completed, "api"), SwarmUnavailableError)
    refused = of_deploy(
        Project("app", {}), replace(completed, stderr=b"services.api.x must be a string: s3cr3t"), "api"
    )
    assert isinstance(refused, ModelRefusedError)
    assert "s3cr3t" not in str(refused)


def test_an_update_that_swarm_rolled_back_has_failed_only_if_it_was_ours() -> None:
    facts, tasks = service(update="rollback_completed"), [task("t1", "running")]
    assert containers_of(facts, tasks, {})[0].state == "running"
    assert containers_of(facts, tasks, {}, ours=True)[0].state == "exited"


def template(env: str, forced: int = 0) -> dict[str, Any]:
    return {**service(env=env)["Spec"]["TaskTemplate"], "ForceUpdate": forced}


async def glances(deployed: Any, *moments: tuple[dict[str, Any], str]) -> list[str]:
    """The states of a service that we have deployed with this template, by its templates and update states since."""
    swarm = DockerSwarm(SimpleNamespace(engine=None), SimpleNamespace(), DIGEST)  # type: ignore[arg-type]
    swarm._deployed["s1"] = deployed
    states = []
    for now, update in moments:
        running = {**task("t1", "running"), "Spec": now}
        swarm._engine = _LostNode(service(update=update, TaskTemplate=now), [running])  # type: ignore[assignment]
        (container,) = await swarm.glance(replace(STACK, project="app"))
        states.append(container.state)
    return states


@pytest.mark.parametrize(
    ("now", "state"),
    [
        pytest.param(template("A=1", 1), "exited", id="our-definition"),
        pytest.param(template("A=2", 0), "exited", id="our-restart"),
        pytest.param(template("A=2", 1), "running", id="an-update-by-hand"),
    ],
)
async def test_an_update_that_swarm_rolled_back_was_ours_only_if_what_we_deployed_is_gone(now: Any, state: str) -> None:
    assert await glances(template("A=2", 1), (now, "rollback_completed")) == [state]
    assert await glances(None, (now, "rollback_completed")) == ["exited"]


@pytest.mark.parametrize("update", ["completed", ""])
async def test_what_is_rolled_back_after_our_deploy_went_well_was_not_ours(update: str) -> None:
    moments = (template("A=2"), update), (template("A=1"), "rollback_completed")
    assert await glances(template("A=2"), *moments) == ["running", "running"]


@pytest.mark.parametrize(
    ("due", "before", "after", "updated", "deployed"),
    [
        pytest.param(False, "", "", ["s1"], template("A=1", 1), id="restart"),
        pytest.param(False, "completed", "completed", ["s1"], template("A=1", 1), id="restart-after-an-update"),
        pytest.param(
            *(False, "rollback_completed", "rollback_completed", ["s1"], template("A=1", 1)),
            id="restart-after-an-earlier-rollback",
        ),
        pytest.param(True, "", "", ["s1"], template("A=1", 1), id="nothing-of-the-tasks-differed"),
        pytest.param(True, "", "rollback_started", [], None, id="rolled-back-already"),
    ],
)
async def test_a_restart_replaces_the_tasks_unless_swarm_has_just_rolled_it_back(
    due: bool, before: str, after: str, updated: list[str], deployed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    swarm = DockerSwarm(SimpleNamespace(engine=None), SimpleNamespace(), DIGEST)  # type: ignore[arg-type]
    engine = _LostNode(service(update=before), [task("t1", "running")])
    swarm._engine = engine  # type: ignore[assignment]

    async def deploy(*_: Any) -> None:
        engine.facts = service(update=after)

    monkeypatch.setattr(swarm, "_deploy_file", deploy)
    monkeypatch.setattr("reconciler.adapters.swarm.stack._is_deployed", lambda *_: not due)
    swarm._stacks["app"] = STACK
    await swarm.restart(Project("app", {"api": defined({"image": "app:1"})}), ["api"])
    assert (engine.updated, swarm._deployed) == (updated, {"s1": deployed})


@pytest.mark.parametrize(("has", "expected"), [(4, 4), (0, 0)])
async def test_a_restart_keeps_as_many_tasks_as_somebody_scaled_the_service_to(has: int, expected: int) -> None:
    """Also where the restart is a deploy, as its definition names a new config."""
    context = SimpleNamespace(engine=None, docker_config=AsyncMock(return_value=None))
    swarm, commands = deploying(context)
    swarm._engine = _LostNode(service(replicas=has), [task("t1", "running")])  # type: ignore[assignment]
    api = defined({"image": "app:1", "deploy": {"replicas": 1}})
    api = replace(api, deploys_as=expected_fields("app", api), digest="new")
    await swarm.restart(Project("app", {"api": api}), ["api"])
    assert json.loads(commands[0][-1])["services"]["api"]["deploy"]["replicas"] == expected


def test_places_that_are_missing_or_given_up_are_counted() -> None:
    tasks = [task("t1", "running"), task("t2", "shutdown", slot=2, desired="shutdown"), task("t3", "running", slot=4)]
    containers = containers_of(service(replicas=3), tasks, {})
    assert [(it.number, it.state) for it in containers] == [(1, "running"), (2, "running"), (3, "pending")]


@pytest.mark.parametrize("update", ["updating", "rollback_started"])
@pytest.mark.parametrize(("env", "health"), [("A=1", ""), ("A=0", "starting")])
def test_an_update_that_only_waits_for_a_node_has_reached_the_tasks_that_run(
    update: str, env: str, health: str
) -> None:
    tasks = [task("t1", "running", env), task("t2", "pending", slot=2, **NO_NODE)]
    containers = containers_of(service(replicas=2, update=update), tasks, {})
    assert [(it.state, it.health) for it in containers] == [("running", health), ("pending", "")]


def test_a_stuck_service_fails_when_the_timeout_ends_and_a_crash_immediately() -> None:
    watch = watch_health(STACK, ["api"], [], 0.0)
    stuck = containers_of(service(), [task("t1", "pending", **NO_NODE)], {})
    watch, report = watch.look(stuck, 0.0)
    assert report.verdict is Verdict.WAIT
    _, report = watch.look(stuck, 90.0)
    assert report.reason == f"api is still pending after 90 s: {NO_NODE['Err']}"
    crashed = containers_of(service(), [task("t1", "failed", desired="shutdown", **FAILED)], {"n1": "web-1"})
    _, report = watch_health(STACK, ["api"], [], 0.0).look(crashed, 0.0)
    assert (report.verdict, report.reason) == (Verdict.FAILED, "api failed on web-1: task: non-zero exit (3)")


def test_a_task_that_ran_nowhere_before_does_not_end_the_wait_for_an_update_that_goes_on() -> None:
    watch, facts = watch_health(STACK, ["api"], [], 0.0), service(replicas=2, env="A=2", update="updating")
    before = task("t1", "pending", **NO_NODE)
    for now in (0.0, 90.0):  # the update takes longer than health.timeout, as Swarm lets it
        tasks = [before, task("t2", "starting", "A=2", slot=2)]
        places = [replace(place, allowed=300.0) for place in containers_of(facts, tasks, {})]
        watch, report = watch.look(places, now)
        assert report.verdict is Verdict.WAIT
    tasks = [task("t3", "pending", "A=2", **NO_NODE), task("t2", "running", "A=2", slot=2)]
    for now in (91.0, 181.0):
        watch, report = watch.look(containers_of(facts, tasks, {}), now)
    assert (report.verdict, report.findings[0].unplaced) == (Verdict.FAILED, 1), "as many as before: it is excused"


SECOND = 1_000_000_000  # the engine counts nanoseconds


@pytest.mark.parametrize(
    ("grace", "update", "expected"),
    [
        # In every batch a task is stopped (10 s unless it says otherwise), started, and watched by Swarm for 5 s.
        (None, "", 3 * (10 + 5 + 5) + 5),
        (40 * SECOND, "", 3 * (40 + 5 + 5) + 5),
        (0, "updating", 3 * (0 + 5 + 5) + 5),
        (None, "rollback_started", 1 * (10 + 5 + 2 + 7) + 5),
        (None, "rollback_paused", 1 * (10 + 5 + 2 + 7) + 5),
    ],
)
def test_an_update_may_take_as_long_as_its_tasks_take_to_stop_and_start(
    grace: int | None, update: str, expected: float
) -> None:
    rollback = {"Parallelism": 0, "Monitor": 2 * SECOND, "Delay": 7 * SECOND}
    facts = service(replicas=3, update=update, UpdateConfig={"Parallelism": 1}, RollbackConfig=rollback)
    if grace is not None:
        facts["Spec"]["TaskTemplate"]["ContainerSpec"]["StopGracePeriod"] = grace
    assert allowed_time(facts) == expected


def test_the_definition_before_and_running_tasks_keep_their_secrets() -> None:
    def using(secret: str) -> dict[str, Any]:
        return {"ContainerSpec": {"Secrets": [{"SecretID": secret}], "Configs": [{"ConfigID": f"{secret}-c"}]}}

    facts = {"Spec": {"TaskTemplate": using("now")}, "PreviousSpec": {"TaskTemplate": using("before")}}
    tasks = [{"Spec": using("old"), "Status": {"State": state}} for state in ("running", "complete")]
    tasks[1]["Spec"] = using("ended")
    assert {*references(facts, tasks)} == {*("now", "before", "old"), *("now-c", "before-c", "old-c")}


class _Objects(SwarmEngine):
    """A Swarm with services, and configs by id with their labels."""

    def __init__(self, services: Sequence[Any], configs: Mapping[str, Mapping[str, str]]) -> None:
        self.found, self.configs, self.removed = services, configs, list[str]()

    async def _listed(self, path: str, labels: Mapping[str, str]) -> list[Any]:
        configs = [{"ID": name, "Spec": {"Name": name, "Labels": given}} for name, given in self.configs.items()]
        things = {"services": self.found, "configs": configs}.get(path, ())
        return [thing for thing in things if labels.items() <= thing["Spec"]["Labels"].items()]

    async def remove(self, kind: str, identity: str) -> None:
        self.removed.append(identity)


async def test_only_configs_of_the_project_that_nothing_in_the_swarm_refers_to_are_removed() -> None:
    ours = {"com.docker.stack.namespace": "app", "io.reconciler.stack": STACK.id}
    template = {"ContainerSpec": {"Configs": [{"ConfigID": "borrowed"}]}}
    borrower = service(Name="web_api", Labels={"com.docker.stack.namespace": "web"}, TaskTemplate=template)
    configs = {"unused": ours, "borrowed": ours, "another": {**ours, "com.docker.stack.namespace": "web"}}
    swarm = DockerSwarm(SimpleNamespace(engine=None), SimpleNamespace(), DIGEST)  # type: ignore[arg-type]
    swarm._engine = engine = _Objects([borrower], configs)
    swarm._stacks["app"] = STACK
    await swarm._remove_unused(Project("app", {}))
    assert engine.removed == ["unused"]


# --- services → what is deployed -------------------------------------------------------------------------------------


def deploying(context: Any) -> tuple[DockerSwarm, list[Sequence[str]]]:
    """A Swarm, and the commands that it would run, with their stdin as the last word."""
    swarm, commands = DockerSwarm(context, SimpleNamespace(), DIGEST), list[Sequence[str]]()

    async def run(argv: Sequence[str], directory: str, limits: Any, stdin: bytes) -> process.Completed:
        commands.append([*argv, stdin.decode()])
        return process.Completed("docker", 0, b"", b"")

    swarm._stacks["app"] = STACK
    swarm._resolver.run, swarm._provide = run, AsyncMock()  # type: ignore[method-assign, assignment]
    return swarm, commands


def defined(own: dict[str, Any], **referred: Any) -> Service:
    definition = json.dumps({"service": own, "configs": {}, "secrets": {}, "networks": {}, "volumes": {}, **referred})
    return Service("api", Secret(definition.encode()), own.get("environment") or {})


def test_the_stack_file_has_what_the_command_accepts() -> None:
    own = {
        "image": "app:1",
        "command": None,
        "environment": {"A": "a$b", "UNSET": None},
        "ports": [{"mode": "ingress", "target": 80, "published": "8080", "protocol": "tcp", "host_ip": "0.0.0.0"}],
        "deploy": {"resources": {"limits": {"cpus": 0.5, "pids": 9}}, "labels": {"x": "y"}},
        "volumes": [{"type": "bind", "source": "/a", "target": "/b", "bind": {"create_host_path": True}}],
        "configs": [{"source": "app", "mode": "0400"}],
        "extra_hosts": ["db=10.0.0.1"],
        "networks": {"default": {"aliases": ["a"], "priority": 3}},
        "scale": 2,
    }
    config = {"app": {"name": "app_conf_0123", "file": "/opt/app/conf"}}
    file = stack_file([defined(own, configs=config)], {"api": {"l": "1"}}, {"api": 5})
    deployed = json.loads(file)
    assert deployed == {
        "version": "3.9",
        "services": {
            "api": {
                "image": "app:1",
                "environment": {"A": "a$$b"},
                "ports": [{"mode": "ingress", "target": 80, "published": 8080, "protocol": "tcp"}],
                "deploy": {
                    "resources": {"limits": {"cpus": "0.5", "pids": 9}},
                    "labels": {"x": "y", "l": "1"},
                    "replicas": 5,
                },
                "volumes": [{"type": "bind", "source": "/a", "target": "/b"}],
                "configs": [{"source": "app", "mode": 0o400}],
                "extra_hosts": ["db:10.0.0.1"],
                "networks": {"default": {"aliases": ["a"]}},
            }
        },
        "configs": {"app": {"name": "app_conf_0123", "external": True}},
    }
    assert unknown_fields(defined({**own, "mem_limit": "1g", "cpus": None})) == ["mem_limit"]


def test_every_character_reaches_the_service_and_what_is_none_is_refused() -> None:
    text = '\U0001f600 \\ud83d\\ude00 \x7f\x85\u2028 é $ \t"'
    file = stack_file([defined({"image": "app:1", "environment": {"A": text}})], {})
    assert yaml.safe_load(file)["services"]["api"]["environment"] == {"A": text.replace("$", "$$")}
    assert file.isascii()
    values = {"GOOD": text, "LONE": "a\ud83d", "REPLACED": "a\ufffd"}
    damaged = defined({"image": "app:1", "environment": values, "command": ["x\udcff"]})
    with pytest.raises(ModelRefusedError) as raised:
        require_deployable(Project("app", {"api": damaged}), STACK)
    assert "api has LONE, REPLACED, command" in str(raised.value)


async def owned(path: str, target: MountedTarget) -> tuple[int, int]:
    return (1000 if target.owner == "web" else 0), 50


@pytest.mark.parametrize(
    ("target", "live", "expected"),
    [
        (MountedTarget(owner="web"), LiveFile(Secret(b"x"), 0o600, 7, 8), (1000, 8)),
        (MountedTarget(owner="web", group="web"), None, (1000, 1001)),
        (MountedTarget(), LiveFile(Secret(b"x"), 0o600, 7, 8), (7, 8)),
        (MountedTarget(), None, (998, 997)),
        (MountedTarget(owner="web"), None, (1000, 997)),
    ],
    ids=["owner", "new", "as-it-is", "new-of-nobody", "new-of-no-group"],
)
async def test_a_bound_file_keeps_its_owner(
    target: MountedTarget, live: LiveFile | None, expected: tuple[int, int]
) -> None:
    async def ownership(owner: str | None, group: str | None) -> Ownership:
        return Ownership(1000 if owner else None, 1001 if group else None)

    new_owner = AsyncMock(return_value=Ownership(998, 997))
    host = SimpleNamespace(ownership=ownership, new_owner=new_owner, read=AsyncMock(return_value=live))
    assert await owner_of(host, "/opt/app/web.conf", target) == expected  # type: ignore[arg-type]


async def test_a_stack_with_a_bind_of_a_managed_file_is_held_until_an_operator_accepts_a_config() -> None:
    async def read(path: str) -> bytes:
        return b"w"

    stack = replace(STACK, managed={"/opt/app/web.conf": MountedTarget(False, 0o644)})
    bind = {"type": "bind", "source": "/opt/app/web.conf", "target": "/etc/web.conf", "read_only": True}
    by_hand = defined({"image": "app:1", "volumes": [bind]})
    runs = DeployedService("api", expected_fields("app", by_hand))
    (api,) = (await with_contents(Project("app", {"api": by_hand}), stack, DIGEST, read, owned)).services.values()
    project = Project("app", {"api": replace(api, deploys_as=expected_fields("app", api), digest="d")})
    sides = StackSides(stack, project, project, [], {}, deployed=[runs])
    ports = SimpleNamespace(
        compose=SimpleNamespace(images=AsyncMock(return_value={})),
        settings=SimpleNamespace(git_may_change={}, allow_compose_files=False),
    )
    due = [Action("app", "api", ActionKind.RECREATE, "")]
    verdict = await judge_project(ports, sides, due)  # type: ignore[arg-type]
    assert (verdict.services, verdict.id) == ({"api"}, "project-edited")
    assert "api binds /opt/app/web.conf, which git manages: a bind exists on one node only" in verdict.hold
    assert "accept it with `reconciler sync --accept-project production/app`" in verdict.hold
    assert "run `docker" not in verdict.hold
    accepted = await judge_project(ports, sides, due, accepted=True)  # type: ignore[arg-type]
    assert (accepted.hold, "mounts" in accepted.accepted) == ("", True)


HUB = {"auths": {"https://index.docker.io/v1/": {"auth": "eA=="}}}


@pytest.mark.parametrize(
    ("config", "given"),
    [
        (None, []),
        (HUB, ["nginx:1", "docker.io/library/nginx"]),
        ({"auths": {"registry.example.org:5000": {"auth": "eA=="}}}, ["registry.example.org:5000/app:1"]),
        ({"auths": {"registry.example.org:5000": {}}}, []),
        ({"credHelpers": {"registry.example.org:5000": "pass"}}, ["registry.example.org:5000/app:1"]),
        ({"credsStore": "pass"}, ["nginx:1", "docker.io/library/nginx", "registry.example.org:5000/app:1"]),
        ([], []),
    ],
)
@pytest.mark.parametrize("image", ["nginx:1", "docker.io/library/nginx", "registry.example.org:5000/app:1"])
async def test_credentials_are_given_only_for_a_registry_with_a_login(
    image: str, config: Any, given: Sequence[str], tmp_path: Path
) -> None:
    """Else the deploy would replace those that the Swarm keeps by none."""
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    context = LocalComposeContext(str(tmp_path), {"DOCKER_CONFIG": str(tmp_path)})
    swarm, commands = deploying(context)
    await swarm._deploy_file(Project("app", {}), [defined({"image": image})], {}, {})
    assert ["--with-registry-auth" in command for command in commands] == [image in given]


async def test_the_image_from_before_an_update_is_deployed_again_by_its_digest() -> None:
    """The tag may have moved meanwhile: a rollback would run what nobody has seen healthy."""

    def facts(tag: str, digest: str, labels: Mapping[str, str] = MappingProxyType({})) -> dict[str, Any]:
        template = {"ContainerSpec": {"Image": f"{tag}@sha256:{digest}"}}
        given = {"com.docker.stack.image": tag, "com.docker.stack.namespace": "app", **labels}
        return {"Name": "app_api", "Labels": given, "TaskTemplate": template}

    context = SimpleNamespace(engine=None, docker_config=AsyncMock(return_value=None))
    before, wanted = {"Spec": facts("app:2", "22"), "PreviousSpec": facts("app:1", "11")}, defined({"image": "app:1"})
    wanted = replace(wanted, deploys_as=expected_fields("app", wanted))
    swarm, commands = deploying(context)
    await swarm._deploy_file(Project("app", {}), [wanted], {}, {"api": before})
    given = json.loads(commands[0][-1])["services"]["api"]
    assert (commands[0][commands[0].index("--resolve-image") + 1], given["image"]) == ("never", "app:1@sha256:11")
    labels = {**given["deploy"]["labels"], "com.docker.stack.image": given["image"]}  # as the command writes it down
    now = {"Spec": facts("app:1", "11", labels)}
    assert deployed_service("app", now, {}).fields["image"] == wanted.deploys_as["image"]
    swarm, commands = deploying(context)
    await swarm._deploy_file(Project("app", {}), [wanted], {}, {"api": now})
    assert json.loads(commands[0][-1])["services"]["api"]["image"] == "app:1@sha256:11"
    swarm, commands = deploying(context)
    before["PreviousSpec"] = facts("app:0", "00")
    await swarm._deploy_file(Project("app", {}), [wanted], {}, {"api": before})
    assert (
        commands[0][commands[0].index("--resolve-image") + 1],
        json.loads(commands[0][-1])["services"]["api"]["image"],
    ) == ("changed", "app:1")


async def test_an_edited_project_of_a_swarm_is_accepted_and_not_deployed_by_hand() -> None:
    """Docker's own loader would read other values of the same files."""
    project = Project("app", {"api": replace(defined({"image": "app:2"}), deploys_as={"image": {"": "app:2"}})})
    runs = [DeployedService("api", {"image": {"": "app:1"}})]
    sides = StackSides(STACK, project, project, [], {}, deployed=runs)
    settings = SimpleNamespace(git_may_change={}, allow_compose_files=False)
    ports = SimpleNamespace(settings=settings, compose=SimpleNamespace(images=AsyncMock(return_value={})))
    due = [Action("app", "api", ActionKind.RECREATE, "")]
    verdict = await judge_project(ports, sides, due)  # type: ignore[arg-type]
    assert verdict.hold.endswith("Accept it as it stands with `reconciler sync --accept-project production/app`")
    assert not [words for words in ("stack deploy", "up -d") if words in verdict.hold]


async def test_managed_files_are_configs_or_where_git_encrypts_them_secrets() -> None:
    files = {"/opt/app/conf": b"c", "/opt/app/token": b"t", "/opt/app/web.conf": b"w"}

    async def read(path: str) -> bytes | None:
        return files.get(path)

    web = MountedTarget(False, 0o600, owner="web")
    stack = replace(STACK, managed={"/opt/app/web.conf": web, "/opt/app/token": MountedTarget(True, 0o600)})
    own = {
        "volumes": [
            {"type": "bind", "source": "/opt/app/web.conf", "target": "/etc/web.conf"},
            {"type": "bind", "source": "/opt/app/other", "target": "/o"},
        ],
        "configs": [{"source": "token"}, {"source": "conf"}],
    }
    configs = {"token": {"name": "app_token", "file": "/opt/app/token"}, "conf": {"file": "/opt/app/conf"}}
    project = Project("app", {"api": defined(own, configs=configs)})
    named = (await with_contents(project, stack, DIGEST, read, owned)).services["api"]
    whole = json.loads(named.definition.reveal())
    assert [mount["source"] for mount in whole["service"]["volumes"]] == ["/opt/app/other"]
    assert whole["service"]["secrets"] == [{"source": "token", "target": "/token"}]
    owner = {"uid": "1000", "gid": "50"}
    assert whole["service"]["configs"][1] == {"source": "web.conf", "target": "/etc/web.conf", "mode": 0o600, **owner}
    assert expected_fields("app", named)["configs"]["/etc/web.conf"] == "app_web.conf 1000:50 0600"
    deployed = json.loads(stack_file([named], {}))["services"]["api"]["configs"]
    assert {**deployed[1], **owner} == deployed[1]
    contents = {(it.kind, it.name): it.data.reveal() for it in await contents_of(named, DIGEST, read)}
    assert contents == {
        ("secrets", f"app_token_{DIGEST(b't')[:12]}"): b"t",
        ("configs", f"app_conf_{DIGEST(b'c')[:12]}"): b"c",
        ("configs", f"app_web.conf_{DIGEST(b'w')[:12]}"): b"w",
    }
    files["/opt/app/conf"] = b"changed"
    with pytest.raises(ChangedMeanwhileError):
        await contents_of(named, DIGEST, read)
    del files["/opt/app/conf"]
    with pytest.raises(ModelRefusedError, match="api needs it as config conf"):
        await contents_of(named, DIGEST, read)


@pytest.mark.parametrize(
    ("kind", "size", "problem"),
    [
        ("configs", 0, "config blob is empty"),
        ("configs", 1_024_000, "config blob has 1024000 bytes"),
        ("secrets", 512_000, "secret blob has 512000 bytes"),
        ("configs", 1_023_999, ""),
        ("secrets", 511_999, ""),
    ],
)
async def test_content_that_the_swarm_refuses_is_refused_before_any_write(kind: str, size: int, problem: str) -> None:
    read = AsyncMock(return_value=bytes(size))
    project = Project("app", {"api": defined({kind: [{"source": "blob"}]}, **{kind: {"blob": {"file": "/opt/blob"}}})})
    with pytest.raises(ModelRefusedError, match=problem) if problem else contextlib.nullcontext():
        await with_contents(project, STACK, DIGEST, read, owned)


@pytest.mark.parametrize(("status", "expected"), [(201, None), (409, None), (400, ModelRefusedError)])
async def test_content_that_the_engine_refuses_blames_the_revision(status: int, expected: Any) -> None:
    engine, query = SwarmEngine(AsyncMock()), AsyncMock()
    if status >= 400:
        query.side_effect = DockerError(status, "rpc error: code = InvalidArgument desc = s3cr3t")
    engine._docker = SimpleNamespace(_query_json=query)  # type: ignore[assignment]
    with pytest.raises(expected) if expected else contextlib.nullcontext() as raised:
        await engine.create("configs", "app_conf", b"x", {})
    assert "s3cr3t" not in str(raised and raised.value)


async def test_content_keeps_its_template_driver_and_labels() -> None:
    plain = {"name": "conf", "file": "/opt/app/conf", "labels": {"team": "web"}}
    named = {}
    for driver in ("", "golang"):
        own = {"configs": [{"source": "conf"}]}
        definition = {**plain, "template_driver": driver} if driver else plain
        project = Project("app", {"api": defined(own, configs={"conf": definition})})
        read = AsyncMock(return_value=b"c")
        (api,) = (await with_contents(project, STACK, DIGEST, read, owned)).services.values()
        (named[driver],) = await contents_of(api, DIGEST, read)
    assert named[""].name == f"conf_{DIGEST(b'c')[:12]}" != named["golang"].name
    swarm = DockerSwarm(SimpleNamespace(engine=None, read_file=read), SimpleNamespace(), DIGEST)  # type: ignore[arg-type]
    query = AsyncMock(return_value=[])
    swarm._engine._docker = SimpleNamespace(_query_json=query)  # type: ignore[assignment]
    swarm._stacks["app"] = STACK
    swarm._engine._address = AsyncMock()
    await swarm._provide(Project("app", {}), [api])
    spec = query.await_args.kwargs["data"]  # type: ignore[union-attr]
    assert (spec["Name"], spec["Templating"]) == (named["golang"].name, {"Name": "golang"})
    assert spec["Labels"].items() >= {"team": "web", "io.reconciler.stack": STACK.id}.items()


def test_a_secret_of_a_driver_is_refused() -> None:
    secrets = {"token": {"driver": "vault"}, "mine": {"external": True, "name": "mine"}}
    project = Project("app", {"api": defined({"image": "app:1"}, secrets=secrets)})
    with pytest.raises(ModelRefusedError, match=r"api has token\. Create it with `docker secret create --driver`"):
        require_deployable(project, STACK)


@pytest.mark.parametrize(
    ("own", "field"),
    [
        ({"ports": ["9000:9000", {"target": 80, "published": "8080", "host_ip": "127.0.0.1"}]}, "ports.host_ip"),
        ({"volumes": [{"type": "volume", "target": "/d", "volume": {"subpath": "a"}}]}, "volumes.volume.subpath"),
        ({"privileged": True}, "privileged"),
        ({"devices": [{"source": "/dev/fuse", "target": "/dev/fuse"}]}, "devices"),
    ],
)
def test_what_is_reachable_or_allowed_is_never_changed_silently(own: dict[str, Any], field: str) -> None:
    project = Project("app", {"api": defined({"image": "app:1", **own})})
    with pytest.raises(ModelRefusedError, match=f"api has {field}"):
        require_deployable(project, STACK)


def test_what_swarm_ignores_is_a_note() -> None:
    tmpfs = {"type": "tmpfs", "target": "/t", "tmpfs": {"mode": 0o700}}
    own = {"network_mode": "host", "security_opt": ["no-new-privileges"], "privileged": False, "volumes": [tmpfs]}
    project = Project("app", {"api": defined({"image": "app:1", "devices": [], **own})})
    require_deployable(project, STACK)
    noted = {name: replace(service, notes=notes_on(service, ())) for name, service in project.services.items()}
    (note,) = stack_notes(STACK, replace(project, services=noted), [], {}, {})
    assert note == "stack app: Swarm ignores what api says as network_mode, security_opt, volumes.tmpfs.mode"
    assert stack_notes(STACK, project, [], {}, {}) == []


@pytest.mark.parametrize(
    ("source", "constraints", "noted"),
    [
        ("/opt/app/conf/", [], True),
        ("/opt/app/conf", ["node.role == manager"], True),
        ("/opt/app/conf", ["node.role == manager", "node.hostname == web-1"], False),
        ("/opt/app/data", [], False),
    ],
)
def test_a_bound_directory_of_managed_files_is_a_note_as_other_nodes_lack_them(
    source: str, constraints: list[str], *, noted: bool
) -> None:
    bind = {"type": "bind", "source": source, "target": "/conf"}
    api = defined({"image": "app:1", "volumes": [bind], "deploy": {"placement": {"constraints": constraints}}})
    notes = notes_on(api, ["/opt/app/conf/web.conf"])
    assert [note.partition(":")[0] for note in notes] == (
        ["api binds /opt/app/conf, where git manages files"] if noted else []
    )


@pytest.mark.parametrize("place", ["services.api.deploy.resources.limits", "volumes.data", "services.api.ports.0"])
def test_a_field_that_the_command_does_not_know_is_named_wherever_it_is(place: str) -> None:
    completed = process.Completed("docker", 1, b"", f"{place} Additional property gpu is not allowed".encode())
    assert f"{place}: it does not know the field gpu" in str(of_deploy(Project("app", {}), completed, "api"))
