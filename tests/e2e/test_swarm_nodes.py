"""A Swarm of three managers whose nodes are killed and cut off, and a reconciler that is killed at every step.

What must hold after each: no service is left on mixed values. What runs is asked of the nodes' own engines, container
by container, not of the Swarm.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import killer
from tests.support.age_key import AgeKey
from tests.support.engine import IMAGE
from tests.support.git_remote import make_git_remote
from tests.support.overlay_client import OverlayClient, start_client
from tests.support.server import Server
from tests.support.swarm_nodes import Node, SwarmNodes
from tests.support.waiting import eventually

pytestmark = [pytest.mark.swarm, pytest.mark.xdist_group("swarm")]

# MODE that begins with bad makes the health check fail. Each check is a process in a container, of which there are many
# here: a short interval keeps two cores busy, and a short timeout fails where they are.
_DEPLOY = """\
      endpoint_mode: dnsrr
      restart_policy: {delay: 100ms}
      update_config: {order: start-first, failure_action: rollback, monitor: 1s}
      rollback_config: {order: start-first, monitor: 1s}
"""
# In the nodes' own network, which costs nothing.
COMPOSE = f"""\
networks: {{net: {{external: true, name: host}}}}
services:
  web:
    image: {IMAGE}
    env_file: [web.env]
    networks: [net]
    stop_grace_period: 0s
    command: [sleep, infinity]
    healthcheck: {{test: 'case $$MODE in bad*) exit 1;; esac', interval: 2s, timeout: 60s, retries: 1}}
    deploy:
      replicas: 2
{_DEPLOY}
"""
# Busybox's httpd as process 1 does not hear SIGTERM: a task that has left the name serves on until its grace period
# ends, for requests that wait for the processor. The service's name stands for the addresses of its tasks, as many
# kernels of test machines lack IPVS.
SERVING = f"""\
networks: {{net: {{driver: overlay}}}}
services:
  client:
    image: {IMAGE}
    networks: [net]
    stop_grace_period: 0s
    command: [sleep, infinity]
    deploy: {{endpoint_mode: dnsrr}}
  web:
    image: {IMAGE}
    env_file: [web.env]
    networks: [net]
    stop_signal: SIGTERM
    stop_grace_period: 10s
    command: [sh, -c, 'echo $$MODE >/tmp/index.html; exec httpd -f -p 80 -h /tmp']
    healthcheck:
      test: 'case $$MODE in bad*) exit 1;; esac; wget -q -O /dev/null http://127.0.0.1/'
      interval: 2s
      timeout: 60s
      retries: 1
    deploy:
      replicas: 3
{_DEPLOY}
"""


@dataclass(slots=True)
class SwarmStack:
    """A server on one of the managers, with a stack of a service ``web`` of so many replicas."""

    nodes: SwarmNodes
    server: Server
    name: str
    node: Node
    replicas: int

    def commit(self, mode: str) -> None:
        self.server.commit({"web.env": f"MODE={mode}\n".encode()})

    def sync(self) -> dict[str, Any]:
        return self.server.sync()

    def sync_while(self, mode: str, happens: Callable[[], None], *, killed: bool = False) -> dict[str, Any]:
        """Reconcile a new commit; while its update is under way, something happens. Returns the outcome. ``killed``:
        reconciler gets SIGKILL at the same moment, and has to be started again."""
        self.commit(mode)
        with (self.server.root / "outcome.json").open("w+b") as printed:
            process = self.server.start("sync", "--json", stdout=printed)
            eventually(lambda: process.poll() is not None or self.some_replaced(), timeout=60)
            assert process.poll() is None, Path(printed.name).read_text()
            if killed:
                process.kill()
            happens()
            process.wait()
            printed.seek(0)
            return {} if killed else json.load(printed)["outcomes"][0]

    def assert_arrives(self, mode: str) -> None:
        """Reconcile as the daemon does, again as long as a node is lost or the Swarm has no leader; no revision is to
        blame for that, and all replicas come to run with it."""
        outcome = self.sync()
        while outcome["error_id"] in ("node-lost", "swarm-unavailable"):
            outcome = self.sync()
        assert (outcome["result"] in ("applied", "in_sync"), self.mode) == (True, mode), outcome
        self.assert_settles()

    def move_to(self, node: Node) -> None:
        """Have reconciler run at another manager."""
        os.environ["DOCKER_HOST"] = node.docker_host  # the fixture restores it
        self.node = node

    @property
    def mode(self) -> str:
        """What the live file says."""
        return self.server.live("web.env").decode().strip().removeprefix("MODE=")

    def running(self) -> list[str]:
        """MODE of each container of ``web`` that runs, on any node."""
        return sorted(
            container["MODE"] for node in self.nodes.nodes if node.running for container in self._on(node, "web")
        )

    def _on(self, node: Node, service: str) -> Iterator[dict[str, str]]:
        filters = json.dumps({"label": [f"com.docker.swarm.service.name={self.name}_{service}"]})
        for container in node.ask("GET", "containers/json", filters=filters) or ():
            facts = node.ask("GET", f"containers/{container['Id']}/json")
            if facts is not None and facts["State"]["Running"]:
                variables = dict(entry.split("=", 1) for entry in facts["Config"]["Env"])
                yield {**variables, "namespace": facts["NetworkSettings"]["SandboxKey"]}

    def assert_settles(self) -> None:
        """All replicas come to run with the value of the live file, and none with another.

        Swarm may keep more of them than there should be where a node comes back in the middle of an update.
        """
        eventually(self._is_settled, timeout=60)

    def _is_settled(self) -> bool:
        running = self.running()
        assert set(running) == {self.mode}, f"{running}, and the live file has {self.mode}"
        return len(running) >= self.replicas

    # --- what Swarm says ---

    def update(self) -> str:
        """The state of the service's newest update."""
        service = self.node.ask("GET", f"services/{self.name}_web") or {}
        return str((service.get("UpdateStatus") or {}).get("State", ""))

    def some_replaced(self) -> bool:
        """Whether an update has replaced one replica, and not all."""
        return self.update() == "updating" and len(set(self.running())) > 1

    def client(self, number: int) -> OverlayClient:
        """A client in the stack's network that asks so many times, or more, until its result is wanted."""
        node, container = next((node, each) for node in self.nodes.nodes for each in self._on(node, "client"))
        return start_client(f"/proc/{node.init}/root{container['namespace']}", "web", number)


@pytest.fixture
def swarm_stacks(
    swarm_nodes: SwarmNodes, tmp_path: Path, age_key: AgeKey, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., list[SwarmStack]]:
    """``swarm_stacks(number, node)`` are servers at a manager, each in sync with a stack of its own that runs."""
    swarm_nodes.repair()
    swarm_nodes.remove_stacks()
    stacks: list[SwarmStack] = []

    def make(number: int, node: Node, compose: str = COMPOSE, timeout: str = "60s") -> list[SwarmStack]:
        monkeypatch.setenv("DOCKER_HOST", node.docker_host)
        for _ in range(number):
            name = f"rct{secrets.token_hex(3)}"
            root = tmp_path / f"{len(stacks)}"
            app = root / name
            app.mkdir(parents=True)
            (app / "compose.yaml").write_text(compose)
            (app / "web.env").write_text("MODE=0\n")
            (app / "web.env").chmod(0o600)
            server = Server(root, app, make_git_remote(root / "remote.git"), age_key, forked=True)
            server.settings["swarm_manager"] = True
            stacks.append(SwarmStack(swarm_nodes, server, name, node, 2 if "replicas: 2" in compose else 3))
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda stack: _begin(stack, timeout), stacks[-number:]))
        return stacks[-number:]

    return make


def _begin(stack: SwarmStack, timeout: str) -> None:
    compose = str(stack.server.app / "compose.yaml")
    stack.node.docker("stack", "deploy", "--detach", "--resolve-image", "never", "--compose-file", compose, stack.name)
    health = {"timeout": timeout, "stable_for": "1s"}
    manifest = stack.server.manifest(["web.env"], kind="swarm", project=stack.name, health=health)
    stack.server.commit({"web.env": b"MODE=0\n"}, manifest)
    stack.assert_settles()
    outcome = stack.sync()
    assert outcome["result"] == "in_sync", outcome


# --- zero downtime ---------------------------------------------------------------------------------------------------


def test_neither_a_start_first_update_nor_one_that_is_rolled_back_loses_a_request(
    swarm_nodes: SwarmNodes, swarm_stacks: Callable[..., list[SwarmStack]]
) -> None:
    """At the same time, in two stacks, so that it takes half as long."""
    stacks = swarm_stacks(2, swarm_nodes.leader, SERVING)
    clients = [stack.client(2000) for stack in stacks]
    modes = ["1", "bad"]
    for stack, mode in zip(stacks, modes, strict=True):
        stack.commit(mode)
    with ThreadPoolExecutor() as pool:
        outcomes = list(pool.map(SwarmStack.sync, stacks))
    still_asking = [client.process.poll() is None for client in clients]
    good, bad = (client.result() for client in clients)
    for name, asked in (("applied", good), ("rolled back", bad)):
        print(
            f"{name}: {asked.number} requests, {len(asked.lost)} lost, the slowest {asked.slowest:.2f} s", asked.answers
        )

    assert [outcome["result"] for outcome in outcomes] == ["applied", "rolled_back"], outcomes
    assert still_asking == [True, True], "the clients ended before the updates did"
    assert (good.lost, bad.lost) == ([], [])
    assert min(good.number, bad.number) >= 2000
    assert good.answers.keys() == {"0", "1"}
    assert bad.answers.keys() == {"0"}


# --- reconciler is killed --------------------------------------------------------------------------------------------

# By name: the mode that is committed, and at or before which moments reconciler is killed, one run after the other. A
# moment is a step, the so many-th such, or what the update has come to.
KILLS: dict[str, tuple[str, tuple[tuple[str, int] | str, ...]]] = {
    "before anything is deployed": (
        "1",
        (("commit .*insert-run", 1), ("exchange .*/web.env", 1), ("docker deploy$", 1)),
    ),
    "in the deploy, and in the update": ("1", (("docker deploy, begun", 1), "updating", "some replaced")),
    "in the update that Swarm then rolls back by itself": ("bad", ("some replaced",)),
    "in the rollback": ("bad", (("exchange .*/web.env", 2), ("docker deploy$", 1))),
}


def test_reconciler_killed_at_every_step_of_an_update_leaves_no_service_on_mixed_values(
    swarm_nodes: SwarmNodes, swarm_stacks: Callable[..., list[SwarmStack]]
) -> None:
    stacks = swarm_stacks(len(KILLS), swarm_nodes.leader)
    with ThreadPoolExecutor(len(KILLS)) as pool:
        problems = list(pool.map(_killed_and_recovered, stacks, KILLS))
    assert [problem for problem in problems if problem] == []


def _killed_and_recovered(stack: SwarmStack, kills: str) -> str:
    """Commit, reconcile and SIGKILL that at each of the moments, reconcile again; return what does not hold then."""
    mode, moments = KILLS[kills]
    stack.commit(mode)
    for moment in moments:
        if problem := _kill_at(stack, mode, moment):
            return f"{kills}: {problem}"
        if stack.mode not in ("0", mode):
            return f"{kills}: the live file holds {stack.mode}"
    outcomes = [stack.sync(), stack.sync()]
    results = [outcome["result"] for outcome in outcomes]
    stack.assert_settles()
    expected = ("0", ("rolled_back", "in_sync")) if mode == "bad" else ("1", ("applied", "in_sync"))
    if (stack.mode, results[1]) != (expected[0], "in_sync") or results[0] not in expected[1]:
        return f"{kills}: {stack.mode} is live, {[outcome['reason'] for outcome in outcomes]}"
    return ""


def _kill_at(stack: SwarmStack, mode: str, moment: tuple[str, int] | str) -> str:
    """Reconcile until then; return what it did if it ended before."""
    if isinstance(moment, tuple):
        ended = killer.run(stack.server, "sync", "--json", die_before=moment, on_paper=False)
        return "" if ended.killed else f"it ended by itself after {ended.steps}: {ended.printed}"
    printed = stack.server.root / "printed"
    with printed.open("wb") as output:
        process = stack.server.start("sync", stdout=output, stderr=output)
    reached = stack.some_replaced if moment == "some replaced" else lambda: stack.update() == moment
    eventually(lambda: reached() or process.poll() is not None, timeout=60)
    if process.poll() is not None:
        return f"it ended by itself: {printed.read_text()}"
    process.kill()
    process.wait()
    if mode == "bad":
        eventually(lambda: stack.update() == "rollback_completed", timeout=60)
    return ""


# --- nodes are lost --------------------------------------------------------------------------------------------------


def test_after_a_lost_node_leader_or_quorum_all_tasks_run_with_the_live_file(
    swarm_nodes: SwarmNodes, swarm_stacks: Callable[..., list[SwarmStack]]
) -> None:
    """Each is lost in the middle of an update, which goes on and blames no revision."""
    leader = swarm_nodes.leader
    here, worker = swarm_nodes.followers
    (stack,) = swarm_stacks(1, here, COMPOSE.replace("replicas: 2", "replicas: 3"))

    # A worker, and reconciler at the same moment: the next process knows nothing of the update that waits for the node.
    stack.sync_while("1", worker.kill, killed=True)
    stack.assert_arrives("1")

    # The leader too: nobody can decide anything. A reconciler that runs would wait for an election: it does so below.
    stack.sync_while("2", leader.kill, killed=True)
    eventually(here.has_no_leader, timeout=60)
    (stack.server.app / "web.env").write_bytes(b"MODE=by hand\n")
    backups = sorted(stack.server.state.glob("backups/*/*"))
    outcome = stack.sync()
    assert (outcome["result"], outcome["error_id"]) == ("failed", "swarm-unavailable"), outcome
    assert stack.mode == "by hand"
    assert sorted(stack.server.state.glob("backups/*/*")) == backups
    swarm_nodes.repair()
    stack.assert_arrives("2")

    # The leader is cut off, and goes on with old values until it is connected again.
    leader = swarm_nodes.leader
    stack.move_to(swarm_nodes.followers[0])

    def elect_another() -> None:
        leader.cut_off()
        eventually(lambda: stack.node.leader() not in ("", leader.name), timeout=60)
        leader.connect()

    stack.sync_while("3", elect_another)
    stack.assert_arrives("3")
