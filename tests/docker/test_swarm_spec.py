"""What a Swarm keeps of a service is what its project says, on a real Swarm; and what a hand changes there is named."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from reconciler.adapters.compose.context import LocalComposeContext
from reconciler.adapters.local.files import LocalHost
from reconciler.adapters.swarm.api import is_of_stack
from reconciler.adapters.swarm.stack import DockerSwarm
from reconciler.core.fidelity.deployed import Standing, judge_deployed
from reconciler.core.model.compose import Project
from reconciler.core.model.targets import Stack, StackKind
from reconciler.core.secret import Digester
from tests.support.engine import IMAGE
from tests.support.swarm import NAMESPACE, Swarm, single_node_swarm

pytestmark = pytest.mark.docker

SHAPES = Path(__file__).parent.parent / "data" / "swarm" / "shapes.yaml"
NAME = "rct-shapes"
ENV = 'RICH=1\nQUOTED="a b $$x"\n'
# Options of `docker service update`, and the items of fields that they change.
OF_EACH = {
    "--args=sleep 99": ["command"],
    "--entrypoint=sh -e": ["entrypoint"],
    "--image=busybox:9": ["image"],
    "--env-add=NEW=1": ["environment NEW"],
    "--container-label-add=q=1": ["labels q"],
    "--label-add=q=1": ["service labels q"],
    "--user=7": ["user"],
    "--group-add=5": ["group_add 5"],
    "--workdir=/tmp": ["working_dir"],
    "--hostname=h": ["hostname"],
    "--stop-signal=SIGQUIT": ["stop_signal"],
    "--stop-grace-period=7s": ["stop_grace_period"],
    "--mount-add=type=bind,src=/etc,dst=/hostetc": ["mounts /hostetc"],
    "--host-add=q:192.0.2.9": ["extra_hosts q:192.0.2.9"],
    "--dns-add=192.0.2.3": ["dns"],
    "--dns-option-add=ndots:2": ["dns_opt"],
    "--dns-search-add=x.org": ["dns_search"],
    "--ulimit-add=core=3:4": ["ulimits core"],
    "--cap-add=SYS_PTRACE": ["cap_add SYS_PTRACE"],
    "--sysctl-add=net.ipv4.ip_forward=1": ["sysctls net.ipv4.ip_forward"],
    "--limit-cpu=0.7": ["cpus"],
    "--limit-memory=70M": ["memory"],
    "--limit-pids=7": ["pids"],
    "--reserve-cpu=0.01": ["cpus reservation"],
    "--reserve-memory=5M": ["memory reservation"],
    "--restart-delay=9s": ["restart delay"],
    "--restart-max-attempts=9": ["restart max_attempts"],
    "--restart-window=9s": ["restart window"],
    "--constraint-add=node.role == worker": ["constraints node.role == worker"],
    "--placement-pref-add=spread=node.labels.q": ["placement preferences"],
    "--replicas-max-per-node=9": ["replicas per node"],
    "--publish-add=80": ["ports ->80/tcp"],
    "--update-parallelism=7": ["update parallelism"],
    "--update-delay=9s": ["update delay"],
    "--update-failure-action=continue": ["update failure_action"],
    "--update-monitor=9s": ["update monitor"],
    "--update-max-failure-ratio=0.9": ["update max_failure_ratio"],
    "--rollback-delay=9s": ["rollback delay"],
    "--rollback-order=start-first": ["rollback order"],
    "--health-cmd=false": ["healthcheck test"],
    "--health-interval=5s": ["healthcheck interval"],
}
OF_THE_RICH = {
    "--env-add=A=2": ["environment A"],
    "--env-rm=RICH": ["environment RICH"],
    "--container-label-rm=number": ["labels number"],
    "--mount-rm=/data": ["mounts /data"],
    f"--config-rm={NAME}_app_CONTENT": [
        *("configs /app", "configs /etc/app2.conf"),
        *("config content /app", "config content /etc/app2.conf"),
    ],
    f"--network-rm={NAME}-back": [f"networks {NAME}-back"],
    "--publish-rm=8080": ["ports 80->8080/tcp"],
    "--read-only=false": ["read_only"],
    "--init=false": ["init"],
    "--log-driver=none": ["logging", "logging options max-file", "logging options max-size"],
}


@pytest.fixture(scope="module")
def swarm() -> Iterator[Swarm]:
    with single_node_swarm() as made:
        yield made


@pytest.fixture
async def engine(swarm: Swarm, tmp_path: Path) -> AsyncIterator[DockerSwarm]:
    environment = {**os.environ, "DOCKER_HOST": swarm.host}
    context, host = LocalComposeContext(str(tmp_path / "scratch"), environment), LocalHost([str(tmp_path)])
    docker = DockerSwarm(context, host, Digester(b"k" * 32))
    yield docker
    await docker.close()
    swarm.docker(
        "kill", *swarm.docker("ps", "--quiet").split(), check=False
    )  # else the engine waits for them when it ends


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    files = {
        "compose.yaml": SHAPES.read_text(),
        "rich.env": 'RICH=1\nQUOTED="a b $$x"\n',
        "app.conf": "x",
        "token": "t",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text.replace("IMAGE", IMAGE).replace("NAME", NAME))
    return Stack("production", "app", str(tmp_path), project=NAME, kind=StackKind.SWARM)


@pytest.mark.parametrize("kind", ["container", "service"])
async def test_a_watch_notices_what_happens_to_a_stack(swarm: Swarm, engine: DockerSwarm, kind: str) -> None:
    stack = f"{NAME}-{kind}"
    label, name = f"{NAMESPACE}={stack}", f"{stack}_api"
    commands = [["run", "--rm", "--label", label, IMAGE, "true"]]
    if kind == "service":
        commands = [
            ["service", "create", "--detach", "--replicas", "0", "--name", name, IMAGE],
            ["service", "rm", name],
        ]
    async with engine.noticing(Project(stack, {})) as noticed, asyncio.timeout(60):
        while not noticed.is_set():  # the stream begins when the engine has time for it
            for command in commands:
                await asyncio.to_thread(swarm.docker, *command)


def test_an_event_is_of_a_stack_by_the_label_of_a_container_or_the_name_of_a_service() -> None:
    events = [{"name": "app_api"}, {NAMESPACE: "app"}, {"name": "apple_api"}, {NAMESPACE: "apple", "name": "x"}, {}]
    assert [is_of_stack(event, ["app"]) for event in events] == [True, True, False, False, False]


async def differences(engine: DockerSwarm, stack: Stack, project: Project) -> dict[str, list[str]]:
    """The items of each service that differ from its project, and that the service is told to be edited by hand."""
    found = {}
    for deployed in await engine.deployed(stack, NAME):
        service = project.services[deployed.name]
        judgement = judge_deployed(deployed, service, service)
        assert judgement.standing is (Standing.EDITED_BY_HAND if judgement.differences else Standing.IN_SYNC)
        assert deployed.replicas in (None, service.replicas)
        found[deployed.name] = sorted(f"{it.name} {it.item}".rstrip() for it in judgement.differences)
    return found


async def test_a_swarm_keeps_what_the_project_says_and_every_hand_edit_is_named(
    swarm: Swarm, engine: DockerSwarm, stack: Stack
) -> None:
    project = await engine.project(stack)
    await engine.recreate(project, sorted(project.services))
    assert await differences(engine, stack, project) == {name: [] for name in sorted(project.services)}

    (config,) = (it for it in swarm.docker("config", "ls", "--format", "{{.Name}}").split() if "_app_" in it)
    for service, options in (("plain", OF_EACH), ("rich", {**OF_EACH, **OF_THE_RICH})):
        given = [option.replace(f"{NAME}_app_CONTENT", config) for option in options]
        swarm.docker("service", "update", "--detach", "--no-resolve-image", *given, f"{NAME}_{service}")
        edited = await differences(engine, stack, project)
        assert edited[service] == sorted(item for items in options.values() for item in items), service
    assert {name for name, items in edited.items() if items} == {"plain", "rich"}

    await engine.recreate(project, ["plain", "rich"])
    assert not any((await differences(engine, stack, project)).values())
