"""Somebody else has the container name or the port that a new revision needs."""

from __future__ import annotations

import os
import re
import secrets
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.support.commands import lines, output, run
from tests.support.compose import ComposeProject
from tests.support.engine import IMAGE
from tests.support.server import Server

pytestmark = [pytest.mark.slow, pytest.mark.docker]

MakeStackServer = Callable[..., tuple[Server, ComposeProject]]
NAMED = """\
services:
  web:
    image: IMAGE
    container_name: NAME
    network_mode: host
    env_file: [api.env]
    stop_grace_period: 0s
    command: sleep infinity
"""
PUBLISHED = """\
services:
  web:
    image: IMAGE
    env_file: [api.env]
    ports: ['127.0.0.1:${API_PORT}:8000']
    stop_grace_period: 0s
    command: sleep infinity
"""


@contextmanager
def stranger(name: str, *options: str) -> Iterator[str]:
    """A container that Compose has not made; yields its id."""
    identity = (
        output("docker", "run", "--detach", "--name", name, *options, IMAGE, "sleep", "infinity").decode().strip()
    )
    try:
        yield identity
    finally:
        run("docker", "rm", "--force", identity)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def renamed_containers(project: ComposeProject) -> list[str]:
    """What a recreate of Compose left under its temporary name."""
    mine = f"label=com.docker.compose.project={project.name}"
    names = lines("docker", "ps", "--all", "--filter", mine, "--format", "{{.Names}}")
    return [name for name in names if re.match(r"[0-9a-f]{12}_", name)]


def assert_rolled_back_once(
    server: Server, project: ComposeProject, outcome: dict[str, object], said: str, before: int = 0
) -> None:
    """``before`` are the rollbacks of earlier revisions."""
    assert outcome["result"] == "rolled_back", outcome["reason"]
    assert said in str(outcome["reason"])
    assert "Rolled back; revision" in str(outcome["reason"])
    again = server.sync()
    assert again["result"] == "in_sync"
    assert "quarantined" in str(again["warning"])
    assert [run["result"] for run in server.json("history")].count("rolled_back") == before + 1
    assert renamed_containers(project) == []


@pytest.fixture
def name() -> str:
    return f"rct-name-{secrets.token_hex(4)}"


def holder_words(name: str, identity: str) -> str:
    return f"taken by the container {name} ({identity[:12]}, image {IMAGE}, not of Compose, running)"


def test_a_container_name_that_a_stranger_has(stack_server: MakeStackServer, name: str) -> None:
    server, project = stack_server(NAMED.replace("NAME", "${NAME}"))
    server.settings["allow_compose_files"] = True
    env = f"NAME={name}-old\n".encode()
    server.commit({".env": env, "api.env": b"A=1\n"}, server.manifest([".env", "api.env"]))
    server.sync()
    project.up()
    before = project.container("web")
    server.commit({".env": f"NAME={name}\n".encode()})

    with stranger(name, "--network", "none") as identity:
        outcome = server.sync()
        said = f"web needs the container name {name}, which is {holder_words(name, identity)}"
        assert_rolled_back_once(server, project, outcome, said)
    now = project.container("web")
    assert (now["Id"], now["Name"], now["State"]["Running"]) == (before["Id"], f"/{name}-old", True)
    assert server.live(".env") == env


def test_a_stack_whose_container_was_replaced_by_a_stranger_is_held(stack_server: MakeStackServer, name: str) -> None:
    """Renamed by hand: already that is not what git explains."""
    server, project = stack_server(NAMED.replace("NAME", name))
    server.commit({"api.env": b"A=1\n"}, server.manifest(["api.env"]))
    server.sync()
    project.up()
    output("docker", "rename", name, f"{name}-old")
    before = project.container("web")["Id"]
    server.commit({"api.env": b"A=2\n"})

    with stranger(name, "--network", "none") as identity:
        outcome = server.sync()
        assert outcome["result"] == "held"
        assert f"web needs the container name {name}, which is {holder_words(name, identity)}" in outcome["reason"]
        accepted = server.sync("--accept-project", "production/app")
        assert_rolled_back_once(server, project, accepted, holder_words(name, identity))
    assert project.container("web")["Id"] == before
    assert project.container("web")["Name"] == f"/{name}-old"


def test_a_port_that_a_process_and_then_a_container_has(stack_server: MakeStackServer, name: str) -> None:
    server, project = stack_server(PUBLISHED)
    server.settings["stacks"] = {"app": {"git_may_change": ["ports"]}}
    mine, taken = free_port(), free_port()
    env = b"A=1\n"
    server.commit({".env": b"API_PORT=%d\n" % mine, "api.env": env}, server.manifest([".env", "api.env"]))
    server.sync()
    project.up()

    server.commit({".env": b"API_PORT=%d\n" % taken})
    with socket.create_server(("127.0.0.1", taken)):
        outcome = server.sync()
    assert f"web: port {taken} is taken by the process " in outcome["reason"]
    assert_rolled_back_once(server, project, outcome, f"(pid {os.getpid()})")
    assert_runs_on(project, mine)

    taken = free_port()
    server.commit({".env": b"API_PORT=%d\n" % taken})
    publish = ("--network", f"{project.name}_default", "--publish", f"127.0.0.1:{taken}:80")
    with stranger(name, *publish) as identity:
        outcome = server.sync()
    assert_rolled_back_once(server, project, outcome, f"port {taken} is {holder_words(name, identity)}", before=1)
    assert_runs_on(project, mine)


def assert_runs_on(project: ComposeProject, mine: int) -> None:
    now = project.container("web")
    assert now["HostConfig"]["PortBindings"]["8000/tcp"][0]["HostPort"] == str(mine)
    assert now["State"]["Running"]
    assert now["Name"] == f"/{project.name}-web-1"
