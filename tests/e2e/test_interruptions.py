"""Interruptions in the middle of a reconciliation: the engine, git, the clock, or somebody's edit. Nothing is lost, and
no success is reported too early."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from reconciler.adapters.compose.docker_api import QUICK
from tests.support.compose import ComposeProject
from tests.support.faults import Faults, make_faults
from tests.support.json_answers import read_answer
from tests.support.relay import Relay
from tests.support.server import Daemon, Server
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

MakeStackServer = Callable[..., tuple[Server, ComposeProject]]

# Ends immediately where MODE is bad; healthy once the gate is open.
STACK = """\
services:
  api:
    image: IMAGE
    network_mode: host
    env_file: [api.env]
    volumes: ['./gate:/gate:ro']
    command: [sh, -c, 'test "$$MODE" != bad && exec sleep infinity']
    healthcheck: {test: [CMD, test, -e, /gate/open], interval: 1s, retries: 60}
"""
RECREATE = rb"POST /v[0-9.]+/containers/create"


def quick(server: Server) -> Server:
    server.settings["repository"]["poll_interval"] = server.settings["drift"]["interval"] = "1s"
    return server


def last_event(daemon: Daemon) -> dict[str, Any]:
    """The daemon's last logged outcome."""
    return [event for event in daemon.events() if event.get("event") == "reconciled"][-1]


def run_of(daemon: Daemon, commit: str) -> str:
    """The result of the commit's latest run, from the history."""
    return str(next(run["result"] for run in daemon.history() if run["revision"]["commit"] == commit))


# --- the Docker engine -----------------------------------------------------------------------------------------------


@pytest.fixture
def relay(tmp_path: Path, docker_engine: str) -> Iterator[Relay]:
    relay = Relay(tmp_path / "engine.sock")
    yield relay
    relay.cut()


@pytest.fixture
def stack(stack_server: MakeStackServer) -> tuple[Server, ComposeProject]:
    """A healthy service that runs MODE=good."""
    server, project = stack_server(STACK, {"gate/open": ""})
    server.commit({"api.env": b"MODE=good\n"}, server.manifest(["api.env"]))
    server.sync()
    project.up()
    assert server.sync()["result"] == "in_sync"
    return quick(server), project


def assert_waits_for_the_engine(server: Server, daemon: Daemon, commit: str, words: str) -> None:
    eventually(lambda: words in last_event(daemon)["reason"], timeout=60)
    assert (last_event(daemon)["result"], last_event(daemon)["retry"]) == ("failed", True)
    assert "the Docker engine does not answer" in last_event(daemon)["reason"]
    assert run_of(daemon, commit) == "unfinished"
    assert server.cli("status").returncode == 1


def assert_nothing_pending(server: Server, project: ComposeProject, mode: str) -> None:
    assert server.live("api.env") == f"MODE={mode}\n".encode()
    assert project.environment("api")["MODE"] == mode
    assert project.container("api")["State"]["Health"]["Status"] == "healthy"
    assert server.sync()["result"] == "in_sync"
    assert "unfinished" not in {run["result"] for run in server.json("history")}


@pytest.mark.docker
@pytest.mark.parametrize(
    ("mode", "result", "ends_with"), [("better", "applied", "better"), ("bad", "rolled_back", "good")]
)
def test_engine_stopped_between_the_write_and_the_recreate(
    stack: tuple[Server, ComposeProject], relay: Relay, mode: str, result: str, ends_with: str
) -> None:
    server, project = stack
    with server.daemon(DOCKER_HOST=relay.docker_host) as daemon:
        relay.cut_at(RECREATE)
        commit = server.commit({"api.env": f"MODE={mode}\n".encode()})
        assert relay.was_cut.wait(120)
        assert_waits_for_the_engine(server, daemon, commit, "The files are in place; pending restarts: api")
        assert server.live("api.env") == f"MODE={mode}\n".encode()
        assert project.environment("api")["MODE"] == "good"

        relay.repair()
        eventually(lambda: run_of(daemon, commit) == result, timeout=60)
        assert_nothing_pending(server, project, ends_with)


@pytest.mark.docker
def test_engine_stopped_between_the_recreate_and_its_health(stack: tuple[Server, ComposeProject], relay: Relay) -> None:
    server, project = stack
    with server.daemon(DOCKER_HOST=relay.docker_host) as daemon:
        (server.app / "gate/open").unlink()
        commit = server.commit({"api.env": b"MODE=better\n"})
        eventually(lambda: project.environment("api")["MODE"] == "better", timeout=30)
        eventually(lambda: project.container("api")["State"]["Running"], timeout=30)
        relay.cut()
        assert_waits_for_the_engine(server, daemon, commit, "The files are in place; pending restarts: api")

        (server.app / "gate/open").touch()
        relay.repair()
        eventually(lambda: run_of(daemon, commit) == "applied", timeout=60)
        assert_nothing_pending(server, project, "better")


@pytest.mark.docker
def test_engine_stopped_during_a_rollback(stack: tuple[Server, ComposeProject], relay: Relay) -> None:
    server, project = stack
    with server.daemon(DOCKER_HOST=relay.docker_host) as daemon:
        relay.cut_at(RECREATE, after=1)
        commit = server.commit({"api.env": b"MODE=bad\n"})
        assert relay.was_cut.wait(120)
        assert_waits_for_the_engine(server, daemon, commit, "the services wait for the engine")
        assert server.live("api.env") == b"MODE=good\n"

        relay.repair()
        eventually(lambda: run_of(daemon, commit) == "rolled_back", timeout=60)
        assert_nothing_pending(server, project, "good")
        assert "quarantined" in server.json("status")["environments"][0]["warning"]


def engine_up(daemon: Daemon) -> float:
    return daemon.metrics()['reconciler_engine_up{environment="production"}']


@pytest.mark.docker
def test_a_daemon_that_starts_without_the_engine_repairs_files_and_restarts_services_later(
    stack: tuple[Server, ComposeProject], relay: Relay
) -> None:
    server, project = stack
    (server.app / "api.env").write_bytes(b"MODE=by-hand\n")
    project.up()
    relay.cut()
    with server.daemon(ready=False, DOCKER_HOST=relay.docker_host) as daemon:
        eventually(lambda: server.live("api.env") == b"MODE=good\n", timeout=30)
        daemon.wait_until_ready()
        eventually(lambda: engine_up(daemon) == 0, timeout=30)
        status, body = daemon.get("/readyz")
        assert status == 200
        assert body.startswith("ready\nproduction: ")
        assert "the Docker engine does not answer" in body
        (environment,) = server.json("status")["environments"]
        assert "the Docker engine does not answer" in environment["engine_away"]
        assert "restarts of the services that use api.env, if they need any" in environment["reason"]
        assert project.environment("api")["MODE"] == "by-hand"

        relay.repair()
        eventually(lambda: project.environment("api")["MODE"] == "good", timeout=60)
        eventually(lambda: engine_up(daemon) == 1, timeout=30)
        eventually(lambda: daemon.get("/readyz") == (200, "ready\n"), timeout=30)
    assert_nothing_pending(server, project, "good")


@pytest.mark.docker
@pytest.mark.parametrize("way", ["cut", "hang"])
def test_a_daemon_that_loses_the_engine_repairs_files_and_holds_new_content(
    stack: tuple[Server, ComposeProject], relay: Relay, way: str
) -> None:
    server, project = stack
    container = project.container("api")["Id"]
    with server.daemon(DOCKER_HOST=relay.docker_host) as daemon:
        relay.cut()
        with socket.socket(socket.AF_UNIX) as silent:
            if way == "hang":
                silent.bind(str(relay.path))
                silent.listen(256)
            eventually(lambda: engine_up(daemon) == 0, timeout=90)
            (server.app / "api.env").write_bytes(b"MODE=by-hand\n")
            eventually(lambda: server.live("api.env") == b"MODE=good\n", timeout=30)
            began = time.monotonic()
            assert server.cli("status").returncode == 1
            assert time.monotonic() - began < QUICK  # it does not ask the engine itself
            commit = server.commit({"api.env": b"MODE=better\n"})
            eventually(lambda: "new content of api.env" in last_event(daemon)["reason"], timeout=60)
            assert server.live("api.env") == b"MODE=good\n"
        relay.path.unlink(missing_ok=True)
        assert project.container("api")["Id"] == container
        relay.repair()
        eventually(lambda: server.live("api.env") == b"MODE=better\n", timeout=60)
        eventually(lambda: run_of(daemon, commit) == "applied", timeout=60)
    assert_nothing_pending(server, project, "better")


# --- git -------------------------------------------------------------------------------------------------------------


class Vanishing:
    """A git for the daemon's PATH that takes the remote away just before it runs ``command``."""

    def __init__(self, server: Server, command: str) -> None:
        self.remote, self.away = server.remote.path, server.root / "away.git"
        self._order, programs = server.root / "vanish", server.root / "programs"
        programs.mkdir()
        self.path = f"{programs}:{shutil.os.environ['PATH']}"
        (programs / "git").write_text(
            f"#!/bin/sh\ncase \" $* \" in *' {command} '*)\n"
            f"  test -e '{self._order}' && rm '{self._order}' && mv '{self.remote}' '{self.away}';;\nesac\n"
            f'exec {shutil.which("git")} "$@"\n'
        )
        (programs / "git").chmod(0o755)

    def order(self) -> None:
        self._order.touch()

    def wait(self) -> None:
        eventually(self.away.exists, timeout=60)

    def come_back(self) -> None:
        self.away.rename(self.remote)


def test_git_gone_between_the_question_and_the_fetch(server: Server) -> None:
    server.commit({"api.env": b"A=1\n"}, server.plain(["api.env"]))
    known = server.remote.head()
    git = Vanishing(quick(server), "fetch")
    with server.daemon(PATH=git.path) as daemon:
        git.order()
        server.commit({"api.env": b"A=2\n"})
        git.wait()
        eventually(
            lambda: f"the target revision stays {known[:12]}" in last_event(daemon).get("warning", ""), timeout=30
        )
        (server.app / "api.env").write_bytes(b"A=by hand\n")
        eventually(lambda: server.live("api.env") == b"A=1\n", timeout=30)

        git.come_back()
        eventually(lambda: server.live("api.env") == b"A=2\n", timeout=30)
        eventually(lambda: "warning" not in last_event(daemon))
        eventually(lambda: [run["result"] for run in daemon.history()] == ["applied", "corrected", "applied"])


@pytest.mark.docker
def test_git_gone_during_the_push_of_a_revert(stack: tuple[Server, ComposeProject]) -> None:
    server, project = stack
    server.settings["rollback"] = {"git": "push"}
    git = Vanishing(server, "push")
    with server.daemon(PATH=git.path) as daemon:
        git.order()
        bad = server.commit({"api.env": b"MODE=bad\n"})
        git.wait()
        eventually(lambda: run_of(daemon, bad) == "rolled_back", timeout=30)  # it does not wait for the push
        eventually(
            lambda: last_event(daemon)["result"] == "rolled_back" and last_event(daemon).get("warning"), timeout=30
        )
        (server.app / "api.env").write_bytes(b"MODE=by-hand\n")
        eventually(lambda: server.live("api.env") == b"MODE=good\n", timeout=30)
        eventually(lambda: project.environment("api")["MODE"] == "good", timeout=30)

        git.come_back()
        assert server.remote.head() == bad
        eventually(lambda: server.remote.head() != bad, timeout=60)
        assert f"Reconciler-Rollback-Of: {bad}" in server.remote.git("log", "-1", "--format=%B", "main")
        eventually(lambda: daemon.environment()["warning"] == "", timeout=30)
        assert len(server.remote.log()) == 3
    assert_nothing_pending(server, project, "good")


# --- a third party ---------------------------------------------------------------------------------------------------


@pytest.fixture
def faults(server: Server) -> Faults:
    return make_faults(server.root / "faults")


def rewritten(path: Path) -> None:
    path.write_bytes(b"A=by hand\n")


def replaced(path: Path) -> None:
    new = path.with_name("api.env~")
    new.write_bytes(b"A=by hand\n")
    new.chmod(0o600)
    new.rename(path)


@pytest.mark.parametrize("edit", [rewritten, replaced])
def test_an_edit_between_our_read_and_our_rename_stays_and_then_goes_into_a_backup(
    server: Server, faults: Faults, edit: Callable[[Path], None]
) -> None:
    server.commit({"api.env": b"A=1\n"}, server.plain(["api.env"]))
    server.sync()
    server.commit({"api.env": b"A=2\n"})
    with server.start("sync", "--json", environment=faults.variables, stdout=subprocess.PIPE) as process:
        with faults.held_before_the_exchange():
            faults.wait_until_held()
            edit(server.app / "api.env")
        assert process.stdout is not None
        (outcome,) = read_answer("sync", process.stdout.read())
    assert (outcome["result"], outcome["retry"]) == ("failed", True)
    assert "somebody changed the live file meanwhile" in outcome["reason"]
    assert "Nothing was overwritten" in outcome["reason"]
    assert server.live("api.env") == b"A=by hand\n"
    assert [path.name for path in server.app.iterdir()] == ["api.env"]

    outcome = server.sync()
    assert outcome["result"] == "applied"
    assert server.live("api.env") == b"A=2\n"
    assert server.backed_up(outcome["backup"]) == {"api.env": b"A=by hand\n"}


# --- the clock -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hours", [-1, 1], ids=["back", "forward"])
def test_a_clock_that_jumps_an_hour_changes_neither_order_nor_retention_nor_reconciliations(
    server: Server, faults: Faults, hours: int
) -> None:
    server.settings["backups"] = {"keep": 2}
    server.commit({"api.env": b"A=0\n"}, server.plain(["api.env"]))
    with quick(server).daemon(**faults.variables) as daemon:
        for number in range(1, 5):
            if number == 3:
                faults.set_clock(hours * 3600)
            server.commit({"api.env": b"A=%d\n" % number})
            eventually(lambda: server.live("api.env") == b"A=%d\n" % number, timeout=30)  # noqa: B023
            eventually(lambda: last_event(daemon)["revision"] == server.remote.head()[:12], timeout=30)
        server.remote.path.rename(server.root / "away.git")
        eventually(lambda: last_event(daemon).get("warning"), timeout=30)
        faults.set_clock(-hours * 3600)  # while it waits to retry
        (server.root / "away.git").rename(server.remote.path)
        eventually(lambda: "warning" not in last_event(daemon), timeout=30)

    backups = [server.backed_up(backup["backup"])["api.env"] for backup in server.json("backups")]
    assert backups == [b"A=3\n", b"A=2\n"]
    runs = server.json("history")
    assert [run["revision"]["commit"] for run in runs] == server.remote.log()
    assert {run["result"] for run in runs} == {"applied"}
    restored = server.cli("restore", server.json("backups")[-1]["backup"])
    assert restored.returncode == 0
    assert server.live("api.env") == b"A=2\n"


@pytest.mark.parametrize(("seconds", "words"), [(-3600, "back by 1 hour."), (86400, "forward by 1 day, or")])
def test_a_clock_that_was_set_is_named(server: Server, faults: Faults, seconds: int, words: str) -> None:
    server.commit({"api.env": b"A=1\n"}, server.plain(["api.env"]))
    with quick(server).daemon(**faults.variables) as daemon:
        faults.set_clock(seconds)
        server.commit({"api.env": b"A=2\n"})
        eventually(lambda: server.live("api.env") == b"A=2\n", timeout=30)
        jumps = eventually(lambda: [event for event in daemon.events() if event.get("event") == "clock changed"])
    assert [event["level"] for event in jumps] == ["warning"]
    assert f"the clock of this machine was set {words}" in jumps[0]["reason"]
