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
