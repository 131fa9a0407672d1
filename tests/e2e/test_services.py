"""What a change needs beside the recreate of a service: services that are meant to end, those that share something with
another container, and those that take their time to start. Real git, real sops, real Compose, the installed command."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.compose import ComposeProject
from tests.support.server import Server

pytestmark = pytest.mark.docker

MakeStackServer = Callable[..., tuple[Server, ComposeProject]]
CANARY = "c4n4ry-w1th-n0-equal"

# --- services that are meant to end -----------------------------------------------------------------------------------

# init notes the VALUE it ran with, and prints it; app shows what was noted when it was started.
INIT = """\
services:
  init:
    image: IMAGE
    network_mode: none
    env_file: [app.env]
    volumes: [notes:/notes]
    command: [sh, -c, 'echo $$VALUE; echo $$VALUE >> /notes/init; case $$VALUE in bad*) exit 3;; esac']
  app:
    image: IMAGE
    network_mode: none
    stop_grace_period: 0s
    env_file: [app.env]
    volumes: [notes:/notes]
    depends_on: {init: {condition: service_completed_successfully}}
    command: [sh, -c, 'cat /notes/init; exec sleep infinity']
volumes: {notes: {}}
"""


def test_an_init_service_runs_again_before_its_dependents_and_its_failure_is_rolled_back(
    stack_server: MakeStackServer,
) -> None:
    """Case init."""
    server, project = stack_server(INIT, {"app.env": "VALUE=1\n"})
    project.up()
    server.commit({"app.env": b"VALUE=1\n"}, server.manifest(["app.env"]))
    assert server.sync()["plan"]["actions"] == []
    server.commit({"app.env": b"VALUE=2\n"})
    outcome = server.sync()
    assert (outcome["result"], [action["service"] for action in outcome["plan"]["actions"]]) == (
        "applied",
        ["app", "init"],
    ), outcome
    assert project.logs("app").split() == ["1", "2"]
    assert "exited" not in server.cli("status").stdout

    server.commit({"app.env": f"VALUE=bad-{CANARY}\n".encode()})
    done = server.cli("sync")
    assert done.returncode == 3, done
    assert "init, whose completion others wait for, ended with exit code 3" in " ".join(done.stdout.split())
    assert CANARY not in done.stdout + done.stderr
    assert (project.environment("init")["VALUE"], project.environment("app")["VALUE"]) == ("2", "2")
    assert project.logs("app").split()[-1] == "2"
    assert project.container("app")["State"]["Running"]


# --- services that take their time ------------------------------------------------------------------------------------

# Healthy when /ready exists, and the container runs as long as nobody ends it; MODE=bad ends it immediately.
SLOW = """\
services:
  api:
    image: IMAGE
    network_mode: none
    stop_grace_period: 0s
    env_file: [api.env]
    command: [sh, -c, 'case $$MODE in bad) exit 1;; esac; sleep 5; touch /ready; exec sleep infinity']
    healthcheck: {test: test -e /ready, interval: 1s, timeout: 5s, retries: 1, start_period: 60s}
"""


def test_a_service_within_its_start_period_fails_neither_a_change_nor_its_rollback(
    stack_server: MakeStackServer,
) -> None:
    """Case slow."""
    server, project = stack_server(SLOW, {"api.env": "MODE=1\n"})
    project.up()
    health = {"timeout": "2s", "stable_for": "1s"}
    server.commit({"api.env": b"MODE=1\n"}, server.manifest(["api.env"], health=health))
    server.sync()
    server.commit({"api.env": b"MODE=2\n"})
    outcome = server.sync()
    assert outcome["result"] == "applied", outcome
    server.commit({"api.env": b"MODE=bad\n"})
    outcome = server.sync()
    assert outcome["result"] == "rolled_back", outcome
    assert project.environment("api")["MODE"] == "2"
    assert project.container("api")["State"]["Health"]["Status"] == "healthy"
    (finding,) = [line for line in server.json("doctor") if "health.timeout" in line["component"]]
    assert (finding["level"], "health checks allow api 66 s" in finding["result"]) == ("warning", True), finding
