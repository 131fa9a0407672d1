"""A Swarm of three managers whose nodes are killed and cut off, and a reconciler that is killed at every step.

What must hold after each: no service is left on mixed values. What runs is asked of the nodes' own engines, container
by container, not of the Swarm.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.age_key import AgeKey
from tests.support.engine import IMAGE
from tests.support.git_remote import make_git_remote
from tests.support.overlay_client import OverlayClient, start_client
from tests.support.server import Server
from tests.support.swarm_nodes import Node, SwarmNodes
from tests.support.waiting import eventually

pytestmark = [pytest.mark.swarm, pytest.mark.xdist_group("swarm")]

# MODE that begins with bad makes the health check fail. Busybox's httpd as process 1 ends by SIGKILL, without a word to
# its clients. No IPVS: the name stands for the addresses of the tasks.
COMPOSE = f"""\
networks: {{net: {{driver: overlay}}}}
services:
  web:
    image: {IMAGE}
    env_file: [web.env]
    networks: [net]
    stop_grace_period: 1s
    command: [sh, -c, 'echo $$MODE >/tmp/index.html; exec httpd -f -p 80 -h /tmp']
    healthcheck:
      test: 'case $$MODE in bad*) exit 1;; esac; wget -q -O /dev/null http://127.0.0.1/'
      interval: 500ms
      timeout: 10s
      retries: 2
    deploy:
      replicas: 3
      endpoint_mode: dnsrr
      restart_policy: {{delay: 100ms}}
      update_config: {{order: start-first, failure_action: rollback, monitor: 1s}}
      rollback_config: {{order: start-first, monitor: 1s}}
"""
CLIENT = f"""\
  client:
    image: {IMAGE}
    networks: [net]
    command: [sleep, infinity]
    stop_grace_period: 0s
    deploy: {{endpoint_mode: dnsrr}}
"""


@dataclass(slots=True)
class SwarmStack:
    """A server on one of the managers, with a stack of a service ``web`` of three replicas."""

    nodes: SwarmNodes
    server: Server
    name: str
    node: Node

    def commit(self, mode: str) -> None:
        self.server.commit({"web.env": f"MODE={mode}\n".encode()})

    def sync(self) -> dict[str, Any]:
        return self.server.sync()

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
        """All three replicas, and nothing else, come to run with the value of the live file."""
        eventually(lambda: self._is_settled(), timeout=60)

    def _is_settled(self) -> bool:
        running = self.running()
        assert running == [self.mode] * 3, f"{running}, and the live file has {self.mode}"
        return True

    def client(self, number: int) -> OverlayClient:
        """A client in the stack's network that asks so many times."""
        node, container = next((node, each) for node in self.nodes.nodes for each in self._on(node, "client"))
        return start_client(f"/proc/{node.init}/root{container['namespace']}", "web", number)


@pytest.fixture
def swarm_stacks(
    swarm_nodes: SwarmNodes, tmp_path: Path, age_key: AgeKey, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., list[SwarmStack]]]:
    """``swarm_stacks(number, node)`` are servers at a manager, each in sync with a stack of its own that runs."""
    stacks: list[SwarmStack] = []

    def make(number: int, node: Node, compose: str = COMPOSE) -> list[SwarmStack]:
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
            stacks.append(SwarmStack(swarm_nodes, server, name, node))
        with ThreadPoolExecutor() as pool:
            list(pool.map(_begin, stacks[-number:]))
        return stacks[-number:]

    yield make
    swarm_nodes.repair()
    for stack in stacks:
        swarm_nodes.leader.docker("stack", "rm", stack.name)


def _begin(stack: SwarmStack) -> None:
    compose = str(stack.server.app / "compose.yaml")
    stack.node.docker("stack", "deploy", "--detach", "--resolve-image", "never", "--compose-file", compose, stack.name)
    health = {"timeout": "60s", "stable_for": "1s"}
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
    stacks = swarm_stacks(2, swarm_nodes.leader, COMPOSE + CLIENT)
    clients = [stack.client(2000) for stack in stacks]
    modes = ["1", "bad"]
    for stack, mode in zip(stacks, modes, strict=True):
        stack.commit(mode)
    with ThreadPoolExecutor() as pool:
        outcomes = list(pool.map(SwarmStack.sync, stacks))
    still_asking = [client.process.poll() is None for client in clients]
    good, bad = (client.result() for client in clients)

    assert [outcome["result"] for outcome in outcomes] == ["applied", "rolled_back"], outcomes
    assert still_asking == [True, True], "the clients ended before the updates did"
    assert (good.lost, bad.lost) == ([], [])
    assert (good.number, bad.number) == (2000, 2000)
    assert good.answers.keys() == {"0", "1"}
    assert bad.answers.keys() == {"0"}
