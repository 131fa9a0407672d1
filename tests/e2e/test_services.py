"""What a change needs beside the recreate of a service: services that are meant to end, those that share something with
another container, and those that take their time to start. Real git, real sops, real Compose, the installed command."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator

import pytest

from tests.support.commands import output, run
from tests.support.compose import ComposeProject
from tests.support.engine import IMAGE
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
    network_mode: host
    env_file: [app.env]
    volumes: [notes:/notes]
    command: [sh, -c, 'echo $$VALUE; echo $$VALUE >> /notes/init; case $$VALUE in bad*) exit 3;; esac']
  app:
    image: IMAGE
    network_mode: host
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
    network_mode: host
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


# --- containers that share something with another one -----------------------------------------------------------------

# The owner; app/near, of the same project, joins it by its container's name.
OWNER = """\
services:
  vpn:
    image: IMAGE
    container_name: NAME
    network_mode: host
    ipc: shareable
    stop_grace_period: 0s
    env_file: [vpn.env]
    volumes: [/data, ./conf:/conf:ro]
    command: [sh, -c, 'case $$MODE in bad) exit 1;; esac; exec sleep infinity']
  near:
    image: IMAGE
    network_mode: container:NAME
    stop_grace_period: 0s
    command: sleep infinity
"""
GUEST = """\
  KIND:
    image: IMAGE
    stop_grace_period: 0s
    command: sleep infinity
"""
JOINS = {
    "net": '    network_mode: "container:NAME"\n',
    "ipc": '    network_mode: host\n    ipc: "container:NAME"\n',
    "pid": '    network_mode: host\n    pid: "container:NAME"\n',
    "vol": '    network_mode: host\n    volumes_from: ["container:NAME"]\n',
}
GUESTS = "services:\n" + "".join(GUEST.replace("KIND", kind) + joins for kind, joins in JOINS.items())


def namespaces(project: ComposeProject, service: str) -> tuple[str, ...]:
    """The network, IPC and PID namespace that the service's main process is in."""
    process = project.container(service)["State"]["Pid"]
    assert process, f"{service} does not run"
    return tuple(os.readlink(f"/proc/{process}/ns/{kind}") for kind in ("net", "ipc", "pid"))


def shares_all(owner: ComposeProject, guests: ComposeProject) -> bool:
    """Whether every guest shares with the container that the owner has now what it is meant to share."""
    of_owner = namespaces(owner, "vpn")
    networks = {namespaces(owner, "near")[0], namespaces(guests, "net")[0]}
    others = namespaces(guests, "ipc")[1], namespaces(guests, "pid")[2]
    volumes = [
        {mount.get("Name") for mount in made["Mounts"]} for made in (owner.container("vpn"), guests.container("vol"))
    ]
    return networks == {of_owner[0]} and others == of_owner[1:] and volumes[0] == volumes[1]


@pytest.fixture
def shared(
    stack_server: MakeStackServer, compose_project: Callable[..., ComposeProject]
) -> Iterator[tuple[Server, ComposeProject, ComposeProject, str]]:
    """A server whose stack web lives with a container of its stack app, that container's name, and one of nobody's."""
    name = f"vpn-{secrets.token_hex(4)}"
    server, owner = stack_server(OWNER.replace("NAME", name), {"vpn.env": "MODE=1\n", "conf/a": "1"})
    guests = compose_project(GUESTS.replace("NAME", name), {"web.env": "A=1\n"})
    owner.up("vpn")
    owner.up("near")
    guests.up()
    output(
        *("docker", "run", "--detach", "--name", f"{name}-plain", "--network", f"container:{name}"),
        IMAGE,
        "sleep",
        "1d",
    )
    server.settings["allowed_paths"] = [str(owner.directory), str(guests.directory)]
    conf = {"path": "conf/a", "parser": "opaque", "encrypted": False, "mode": "0644", "on_change": "restart"}
    manifest = server.manifest({"vpn.env": None, "a.conf": conf})
    health = {"timeout": "20s", "stable_for": "1s"}
    manifest["stacks"] = {  # the guests come first
        "web": {"directory": str(guests.directory), "health": health, "targets": {"web.env": None}},
        **manifest["stacks"],
    }
    server.commit({"vpn.env": b"MODE=1\n", "web.env": b"A=1\n", "a.conf": b"1"}, manifest)
    assert server.sync()["plan"]["actions"] == []
    yield server, owner, guests, name
    run("docker", "rm", "--force", f"{name}-plain")


def test_containers_that_share_something_follow_the_one_that_is_recreated(
    shared: tuple[Server, ComposeProject, ComposeProject, str],
) -> None:
    """Case namespace: within a project and across projects, also in the rollback; what nobody manages is named."""
    server, owner, guests, name = shared
    server.commit({"vpn.env": b"MODE=2\n"})
    broken = (
        f"the recreate of vpn breaks {name}-plain, which shares the network of app/vpn: it is part of no managed stack"
    )
    plan = server.json("plan")[0]
    assert any(broken in note for note in plan["plan"]["notes"]), plan
    assert {action["service"] for action in plan["plan"]["actions"]} == {"vpn", "near", *JOINS}, plan["plan"]["notes"]

    outcome = server.sync()
    assert outcome["result"] == "applied", outcome
    assert owner.environment("vpn")["MODE"] == "2"
    assert shares_all(owner, guests)
    status = " ".join(server.cli("status").stdout.split())
    assert f"{name}-plain is cut off: the container whose network it shares was removed" in status

    server.commit({"vpn.env": b"MODE=bad\n"})
    outcome = server.sync()
    assert outcome["result"] == "rolled_back", outcome
    assert owner.environment("vpn")["MODE"] == "2"
    assert shares_all(owner, guests)


def test_containers_that_share_a_namespace_are_restarted_with_the_one_that_is_restarted(
    shared: tuple[Server, ComposeProject, ComposeProject, str],
) -> None:
    server, owner, guests, name = shared
    run("docker", "restart", "--time", "0", name)
    status = " ".join(server.cli("status").stdout.split())
    assert f"{name}-plain is cut off: the container whose network it shares was restarted since" in status
    assert f"stack web: {guests.name}-net-1 is cut off" in status

    ids = [guests.container(kind)["Id"] for kind in JOINS]
    run("docker", "start", ids[2])  # it ended with the container whose PID namespace it shared
    server.commit({"a.conf": b"2"})
    outcome = server.sync()
    assert outcome["result"] == "applied", outcome
    touched = {action["service"]: action["action"] for action in outcome["plan"]["actions"]}
    assert touched == dict.fromkeys(("vpn", "near", "net", "ipc", "pid"), "restart")
    assert shares_all(owner, guests)
    assert [guests.container(kind)["Id"] for kind in JOINS] == ids
