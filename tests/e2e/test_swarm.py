"""Stacks of a Docker Swarm, on a real Swarm of one node."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.age_key import AgeKey
from tests.support.engine import IMAGE
from tests.support.git_remote import GitRemote
from tests.support.server import Server
from tests.support.swarm import Swarm, single_node_swarm

pytestmark = [pytest.mark.docker, pytest.mark.root]

# MODE=bad makes the health check fail. Short times, so that a failed update is over soon.
COMPOSE = f"""\
x-update: &update
  order: start-first
  failure_action: rollback
  monitor: 500ms
services:
  api:
    image: {IMAGE}
    env_file: [api.env]
    command: [sleep, infinity]
    stop_grace_period: 0s
    healthcheck: {{test: 'test "$$MODE" != bad', interval: 300ms, timeout: 5s, retries: 2}}
    deploy: {{update_config: *update, restart_policy: {{delay: 100ms}}}}
  worker:
    image: {IMAGE}
    env_file: [worker.env]
    command: [sleep, infinity]
    stop_grace_period: 0s
    deploy: {{update_config: *update, restart_policy: {{delay: 100ms}}}}
"""


@pytest.fixture(scope="module")
def swarm() -> Iterator[Swarm]:
    with single_node_swarm() as made:
        yield made


@pytest.fixture
def swarm_server(
    swarm: Swarm,
    tmp_path: Path,
    git_remote: Callable[..., GitRemote],
    age_key: AgeKey,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[..., tuple[Server, str]]]:
    """``swarm_server(compose, files)`` is the manager of a Swarm with the stack deployed by hand, and its name."""
    monkeypatch.setenv("DOCKER_HOST", swarm.host)
    stacks: list[str] = []

    def make(compose: str, files: dict[str, bytes]) -> tuple[Server, str]:
        name = f"rct{secrets.token_hex(4)}"
        app = tmp_path / name
        app.mkdir()
        for path, data in {"compose.yaml": compose.encode(), **files}.items():
            (app / path).write_bytes(data)
            (app / path).chmod(0o600)
        server = Server(tmp_path, app, git_remote(), age_key, forked=True)
        server.settings["swarm_manager"] = True
        stacks.append(name)
        swarm.deploy(app, name)
        return server, name

    yield make
    for stack in stacks:
        swarm.remove(stack)


def test_a_key_reaches_only_the_service_that_reads_it_and_an_unhealthy_one_is_rolled_back(
    swarm: Swarm, swarm_server: Callable[..., tuple[Server, str]]
) -> None:
    files = {"api.env": b"MODE=good\nA=1\n", "worker.env": b"W=1\n"}
    server, name = swarm_server(COMPOSE, files)
    server.settings["rollback"] = {"git": "push"}
    server.commit(files, server.manifest(["api.env", "worker.env"], kind="swarm", project=name))
    first = server.sync()
    assert (first["result"], first["exit_code"]) == ("in_sync", 0), first
    worker = swarm.tasks(f"{name}_worker")

    server.commit({"api.env": b"MODE=good\nA=2\n"})
    applied = server.sync()
    assert applied["result"] == "applied", applied
    assert swarm.environment(f"{name}_api")["A"] == "2"
    assert swarm.tasks(f"{name}_worker") == worker

    server.commit({"api.env": b"MODE=bad\nA=3\n"})
    failed = server.sync()
    assert failed["result"] == "rolled_back", failed
    assert server.live("api.env") == b"MODE=good\nA=2\n"
    assert swarm.environment(f"{name}_api") == {"MODE": "good", "A": "2"}
    assert "Reconciler-Rollback-Of" in server.remote.git("log", "-1", "main")
    assert swarm.tasks(f"{name}_worker") == worker
    assert server.sync()["result"] == "in_sync"
