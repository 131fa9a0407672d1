"""Containers that run with other values than their files say, on real components."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.compose import ComposeProject
from tests.support.server import ENVIRONMENT, Server
from tests.support.waiting import eventually

COMPOSE = """\
services:
  api:
    image: IMAGE
    network_mode: none
    stop_grace_period: 0s
    env_file: [api.env, common.env]
    environment: {EXTRA: "${EXTRA:-}"}
  worker: {image: IMAGE, network_mode: none, env_file: [worker.env], stop_grace_period: 0s}
"""
Start = Callable[..., tuple[Server, ComposeProject]]
SOURCES = {"api.env": b"MODE=git\n", "common.env": b"REGION=eu\n", "worker.env": b"JOBS=4\n"}


@pytest.fixture
def start(stack_server: Callable[..., tuple[Server, ComposeProject]]) -> Start:
    """A server in sync, its stack up."""

    def make() -> tuple[Server, ComposeProject]:
        server, project = stack_server(COMPOSE)
        server.commit(SOURCES, server.manifest(list(SOURCES)))
        assert server.sync()["result"] == "applied"
        project.up()
        assert server.sync()["result"] == "in_sync"
        return server, project

    return make


def change_of(outcome: dict[str, Any], source: str) -> dict[str, Any]:
    (change,) = (change for change in outcome["plan"]["changes"] if change["target"] == f"{ENVIRONMENT}/{source}")
    return dict(change)


@pytest.mark.docker
def test_a_key_that_git_adopts_during_a_pause_reaches_the_service_with_the_daemon_running(start: Start) -> None:
    """Pause, append a key by hand, adopt it, merge, resume."""
    server, project = start()
    with server.daemon():
        server.cli("pause", f"{ENVIRONMENT}/app", "--reason", "an incident")
        with (server.app / "api.env").open("ab") as file:
            file.write(b"NEW=1\n")
        assert server.sync()["result"] == "held"
        adopted = server.json("adopt", f"{ENVIRONMENT}/api.env")
        server.remote.merge(adopted["branch"])
        paused = server.sync()
        assert (paused["result"], change_of(paused, "api.env")["aspects"]) == ("held", ["stale"])
        assert "api: container runs older values of NEW; paused until" in change_of(paused, "api.env")["reason"]
        assert [change_of(paused, name)["sync"] for name in SOURCES] == ["drifted", "in_sync", "in_sync"]
        assert "NEW" not in project.environment("api")
        server.cli("resume", f"{ENVIRONMENT}/app")
        eventually(lambda: project.environment("api").get("NEW") == "1")
    assert server.json("history")[0]["actions"][0]["reason"] == "container runs older values of NEW"
    assert server.sync()["result"] == "in_sync"
