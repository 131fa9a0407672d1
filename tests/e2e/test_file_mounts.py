"""Files that a container mounts by themselves: it has the new one afterwards, or is not called healthy on it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from reconciler.adapters.local.files import LocalHost
from reconciler.adapters.ssh.connection import SshConnection
from reconciler.adapters.ssh.files import SshHost
from reconciler.core.model.compose import Sight
from reconciler.core.model.hosts import SshAddress
from tests.support import killer
from tests.support.compose import ComposeProject
from tests.support.server import ENVIRONMENT, Server
from tests.support.sshd import Sshd

COMPOSE = """\
services:
  api:
    image: IMAGE
    network_mode: host
    stop_grace_period: 0s
    volumes: ['./app.conf:/etc/app.conf:ro']
    command: [sh, -c, "trap 'cat /etc/app.conf' HUP; echo ready; while :; do sleep 1 & wait $$!; done"]
"""
Start = Callable[..., tuple[Server, ComposeProject]]


@pytest.fixture
def start(stack_server: Callable[..., tuple[Server, ComposeProject]]) -> Start:
    """A server in sync whose service mounts app.conf by itself."""

    def make(on_change: str, write: str = "replace") -> tuple[Server, ComposeProject]:
        server, project = stack_server(COMPOSE)
        target = {"encrypted": False, "mode": "0644", "on_change": on_change, "write": write}
        server.commit({"app.conf": b"version 1\n"}, server.manifest({"app.conf": target}))
        assert server.sync()["result"] == "applied"
        project.up()
        assert server.sync()["result"] == "in_sync"
        return server, project

    return make


def inside(project: ComposeProject) -> str:
    """The file as the container's process has it; `docker cp` would show what lies on the host."""
    return Path(f"/proc/{project.container('api')['State']['Pid']}/root/etc/app.conf").read_text()


def action_of(outcome: dict[str, Any]) -> tuple[str, str]:
    (action,) = outcome["plan"]["actions"]
    return action["action"], action["reason"]


@pytest.mark.docker
@pytest.mark.root
@pytest.mark.parametrize("on_change", ["signal:HUP", "none"])
def test_a_service_that_mounts_the_file_by_itself_is_restarted_and_told_why(start: Start, on_change: str) -> None:
    server, project = start(on_change)
    server.commit({"app.conf": b"version 2\n"})
    reason = (
        f"mounts app.conf by itself, and sees the new file only once it restarts (on_change: {on_change} is not enough)"
    )
    assert action_of(server.json("plan")[0]) == ("restart", reason)
    outcome = server.sync()
    assert (outcome["result"], action_of(outcome)) == ("applied", ("restart", reason))
    assert inside(project) == "version 2\n"


@pytest.mark.docker
@pytest.mark.root
def test_written_in_place_the_same_file_reaches_the_process_without_a_restart(start: Start) -> None:
    server, project = start("signal:HUP", "in_place")
    before, file = project.container("api")["State"], (server.app / "app.conf").stat()
    server.commit({"app.conf": b"version 2, which is longer\n"})
    outcome = server.sync()
    assert (outcome["result"], action_of(outcome)[0]) == ("applied", "signal")
    assert inside(project) == "version 2, which is longer\n"
    assert project.container("api")["State"] == before
    assert (server.app / "app.conf").stat().st_ino == file.st_ino


@pytest.mark.docker
@pytest.mark.root
def test_a_file_that_an_editor_replaced_is_found_in_the_container_after_it_was_adopted(start: Start) -> None:
    """The editor's save is a new file, which in_place would write to, and the container would never see."""
    server, project = start("none", "in_place")
    server.cli("pause", f"{ENVIRONMENT}/app")
    new = server.app / "new"
    new.write_bytes(b"by hand\n")
    new.chmod(0o644)
    new.rename(server.app / "app.conf")
    server.commit({"app.conf": b"by hand\n"})
    paused = server.sync()
    (change,) = paused["plan"]["changes"]
    assert (paused["result"], change["sync"], change["aspects"]) == ("held", "drifted", ["stale"])
    assert "api: mounts app.conf by itself, and still has the file that was there before; paused" in change["reason"]
    assert inside(project) == "version 1\n"
    server.cli("resume", f"{ENVIRONMENT}/app")
    assert inside(project) == "by hand\n"
    assert server.sync()["result"] == "in_sync"


def test_a_write_in_place_that_was_killed_is_finished_and_is_no_hand_edit(server: Server) -> None:
    old, new = b"A" * 5000 + b"\n", b"B" * 3000 + b"\n"
    target = {"encrypted": False, "on_drift": "report", "write": "in_place"}
    server.commit({"app.conf": old}, server.plain({"app.conf": target}))
    assert server.sync()["result"] == "applied"
    file = server.app / "app.conf"
    server.commit({"app.conf": new})
    steps = killer.run(server, "sync", "--json", on_paper=False).steps
    assert file.read_bytes() == new
    server.commit({"app.conf": old})
    at = next(number for number, step in enumerate(steps, 1) if step.startswith("ftruncate"))
    assert killer.run(server, "sync", "--json", die_at=at, on_paper=False).killed
    inode = file.stat().st_ino
    file.write_bytes(old[:4096] + new[4096:])
    outcome = server.sync()
    assert outcome["result"] == "applied", outcome["reason"]
    assert (file.read_bytes(), file.stat().st_ino) == (old, inode)


@contextlib.contextmanager
def replaced_by(file: Path, data: bytes) -> Iterator[None]:
    aside = file.with_name("aside")
    os.link(file, aside)
    new = file.with_name("new")
    new.write_bytes(data)
    new.rename(file)
    yield
    aside.rename(file)


@pytest.mark.docker
@pytest.mark.sshd
@pytest.mark.root
@pytest.mark.parametrize("over_ssh", [False, True], ids=["here", "over-ssh"])
async def test_what_a_container_has_is_compared_with_what_lies_there(
    compose_project: Callable[..., ComposeProject], sshd: Sshd, over_ssh: bool
) -> None:
    project = compose_project(COMPOSE, {"app.conf": "version 1\n"})
    project.up()
    container, file = project.container("api"), project.directory / "app.conf"
    address = SshAddress("127.0.0.1", sshd.port, sshd.user, str(sshd.key_path), str(sshd.known_hosts))
    connection = SshConnection(address, "web-1")
    allowed = [str(project.directory)]
    host = SshHost(connection, allowed, "/dev/shm/reconciler-test") if over_ssh else LocalHost(allowed)

    async def sight(pid: int = container["State"]["Pid"], identity: str = container["Id"]) -> Sight:
        return await host.sight(str(file), identity, pid, "/etc/app.conf")

    assert await sight() is Sight.SAME
    with replaced_by(file, b"version 1\n"):
        assert await sight() is Sight.EQUAL
    with replaced_by(file, b"version 2\n"):
        assert await sight() is Sight.OTHER
    assert await sight() is Sight.SAME
    assert await sight(pid=os.getpid()) is Sight.UNKNOWN
    assert await sight(identity="0" * 64) is Sight.UNKNOWN
    await connection.close()
