"""SIGHUP takes the server configuration again. It never ends the daemon, and nobody who waits is cut off."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.server import Daemon, Server
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

KEPT = "not reloaded, the former configuration stays"


@pytest.fixture
def settled(server: Server) -> Server:
    """A server whose file is in git; nothing has run yet."""
    server.commit({"api.env": b"A=1\n"}, server.plain(["api.env"]))
    return server


def event_of(daemon: Daemon, name: str, since: int = 0) -> dict[str, Any] | None:
    return next((event for event in daemon.events()[since:] if event["event"] == name), None)


def environments(daemon: Daemon) -> list[str]:
    return [environment["environment"] for environment in json.loads(daemon.get("/api/v1/status")[1])["environments"]]


def reload(daemon: Daemon, event: str = "reloaded") -> dict[str, Any]:
    """SIGHUP; returns the line that it leads to."""
    before = len(daemon.events())
    daemon.process.send_signal(signal.SIGHUP)
    return eventually(lambda: event_of(daemon, event, before), timeout=30) or {}


def port_of(event: dict[str, Any]) -> int:
    return int(event["http"].rpartition(":")[2])


def lives(server: Server, data: bytes) -> None:
    eventually(lambda: (server.app / "api.env").exists() and server.live("api.env") == data, timeout=30)


def test_a_mistake_keeps_the_former_configuration_and_says_so(settled: Server) -> None:
    token = settled.root / "token"
    token.touch(0o600)
    token.write_text("0123456789abcdef0123456789abcdef\n")
    with settled.daemon() as daemon:
        correct = settled.config.read_text()
        for text, says in (
            ("drfit: 1", "drfit"),
            ("state_dir: /nonexistent/state", "state_dir"),
            ("webhook: {secret_file: /nonexistent/secret}", "cannot read the webhook secret"),
            ("http: {listen: '192.0.2.1:1'}", "no http.token_file; accepted: a token_file"),
            ("http: {listen: '0:0'}", "lets other machines connect (0.0.0.0), and there is no http.token_file"),
            (f"http: {{listen: '192.0.2.1:1', token_file: {token}}}", "192.0.2.1:1: cannot listen"),
            ("http: {listen: '0.0.0.0:0', token_file: /nonexistent/token}", "cannot read the token"),
            ("http: {listen: 'no-such-host.invalid:1'}", "no-such-host.invalid"),
            ("environment: [production, production]", "environment"),
        ):
            mistake = {**yaml.safe_load(correct), **yaml.safe_load(text)}
            settled.config.write_text(yaml.safe_dump(mistake))
            assert says in reload(daemon, KEPT)["reason"]
        for content in (b"", b"\xff\xfe", b"[" * 50_000, b"a: &a [*a]"):
            settled.config.write_bytes(content)
            assert reload(daemon, KEPT)["reason"]
        os.unlink(settled.root / "reconciler.yaml")
        assert "No such file" in reload(daemon, KEPT)["reason"]

        assert daemon.get("/healthz") == (200, "alive\n")
        assert environments(daemon) == ["production"]
        settled.app.joinpath("api.env").write_bytes(b"A=2\n")
        lives(settled, b"A=1\n")
        assert daemon.stop() == 0


def test_every_setting_but_the_state_directory_is_taken(settled: Server) -> None:
    with settled.daemon() as daemon:
        former = daemon.port
        settled.settings["environment"] = ["production", "staging"]
        settled.config  # noqa: B018 - reading it writes the file
        assert port_of(reload(daemon)) == former
        assert environments(daemon) == ["production", "staging"]

        assert daemon.get("/healthz", host="web-1")[0] == 421
        settled.settings["http"] = {"listen": "localhost:0", "allowed_hosts": ["web-1"]}
        settled.config  # noqa: B018
        daemon.port = port_of(reload(daemon))
        assert daemon.get("/healthz", host="web-1")[0] == 200
        with pytest.raises(OSError, match="refused"):
            Daemon(daemon.process, daemon.log, port=former).get("/healthz")

        settled.app.joinpath("api.env").write_bytes(b"A=2\n")
        lives(settled, b"A=1\n")
        assert daemon.stop() == 0


def test_clients_and_commands_wait_for_a_reload_and_none_is_turned_away(settled: Server) -> None:
    with settled.daemon() as daemon:
        ended, answers = threading.Event(), []

        def ask() -> None:
            while not ended.is_set():
                answers.append((daemon.get("/healthz"), settled.cli("status").returncode))

        asking = threading.Thread(target=ask)
        asking.start()
        try:
            for _ in range(5):
                reload(daemon)
        finally:
            ended.set()
            asking.join()
        assert set(answers) == {((200, "alive\n"), 0)}


def test_the_command_returns_once_the_configuration_is_in_use_or_says_why_it_is_not(settled: Server) -> None:
    with settled.daemon() as daemon:
        settled.settings["environment"] = ["production", "staging"]
        done = settled.cli("reload")
        assert (done.returncode, environments(daemon)) == (0, ["production", "staging"]), done.stderr
        settled.settings["webhook"] = {"secret_file": "/nonexistent/secret"}
        done = settled.cli("reload")
        assert (done.returncode, "cannot read the webhook secret" in done.stderr) == (1, True)
        assert event_of(daemon, KEPT)
        assert daemon.stop() == 0
    done = settled.cli("reload")
    assert (done.returncode, "no daemon listens here" in done.stderr) == (1, True)


@contextmanager
def waiting_request(server: Server) -> Iterator[tuple[Daemon, subprocess.Popen[bytes], Path]]:
    """A daemon in the middle of a reconciliation, which ends once the file is there, and `reconciler pause` that waits
    for that."""
    gate, begun = server.root / "gate", server.root / "begun"
    waiting = 'touch "$3"; while ! test -e "$2"; do sleep 0.05; done'
    server.settings["checks"] = {"gate": ["sh", "-c", waiting, "gate", "{file}", str(gate), str(begun)]}
    server.commit({"api.env": b"A=1\n"}, server.plain({"api.env": {"check": "gate"}}))
    with server.daemon(ready=False) as daemon:
        eventually(begun.exists, timeout=30)
        open_files = Path(f"/proc/{daemon.process.pid}/fd")
        before = len(list(open_files.iterdir()))
        command = server.start("pause", "--all", "--reason", "trying", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            eventually(lambda: len(list(open_files.iterdir())) > before, timeout=30)
            yield daemon, command, gate
        finally:
            gate.touch()
            command.communicate(timeout=120)


def test_a_request_that_waits_is_served_after_the_reload(server: Server) -> None:
    with waiting_request(server) as (daemon, command, gate):
        daemon.process.send_signal(signal.SIGHUP)
        daemon.process.send_signal(signal.SIGHUP)
        gate.touch()
        _, errors = command.communicate(timeout=120)
        # 2 where the machine is so busy that the check has timed out meanwhile: then the file is still pending.
        assert command.returncode in (0, 2), errors
        eventually(lambda: event_of(daemon, "reloaded"), timeout=30)
        (environment,) = server.json("status")["environments"]
        assert environment["pauses"][0]["reason"] == "trying"


def test_a_request_that_waits_when_the_daemon_ends_is_refused_and_says_what_to_do(server: Server) -> None:
    with waiting_request(server) as (daemon, command, gate):
        open_files = Path(f"/proc/{daemon.process.pid}/fd")
        before = len(list(open_files.iterdir()))
        reloading = server.start("reload", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        eventually(lambda: len(list(open_files.iterdir())) > before, timeout=30)
        daemon.process.terminate()
        _, reload_errors = reloading.communicate(timeout=120)  # it does not wait for the reconciliation
        assert (reloading.returncode, b"the daemon is stopping. Its next start" in reload_errors) == (1, True)
        gate.touch()
        _, errors = command.communicate(timeout=120)
        message = " ".join(errors.decode().split())
        assert command.returncode == 1
        assert message.endswith(
            "the daemon is stopping and no longer takes this request. Nothing was done. "
            "Run the command again: without a daemon it does the work itself [refused]"
        )
        assert daemon.process.wait(120) == 0


def test_sighup_ends_no_daemon_however_early_it_comes(settled: Server) -> None:
    with settled.daemon() as daemon:
        (settled.root / "other").mkdir()
        settled.settings["state_dir"] = str(settled.root / "other")
        with (settled.root / "early.log").open("wb") as log:
            early = settled.start("run", installed=True, stdout=log, stderr=log)
        try:
            # Caught and not ignored, as soon as the program has begun.
            eventually(
                lambda: int(Path(f"/proc/{early.pid}/status").read_text().partition("SigCgt:")[2].split()[0], 16) & 1
            )
            for _ in range(200):
                early.send_signal(signal.SIGHUP)
            eventually(lambda: b"reloaded" in (settled.root / "early.log").read_bytes(), timeout=30)
        finally:
            early.terminate()
        assert early.wait(120) == 0
        assert daemon.get("/healthz")[0] == 200
