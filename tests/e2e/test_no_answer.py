"""Git or the daemon takes the connection and never answers: nothing else waits for it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from tests.support.server import Daemon, Server
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

GIT_GIVES_UP = 30.0  # seconds: how long reconciler waits for git


@pytest.fixture
def silence() -> Iterator[str]:
    """An address that accepts every connection and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        yield f"https://127.0.0.1:{listener.getsockname()[1]}/repository.git"


@pytest.fixture
def settled(server: Server) -> Server:
    server.commit({"api.env": b"A=1\n", "worker.env": b"W=1\n"}, server.plain(["api.env", "worker.env"]))
    assert server.sync()["result"] == "applied"
    return server


def test_drift_is_repaired_while_git_hangs(settled: Server, silence: str) -> None:
    settled.settings["repository"]["url"] = silence
    (settled.app / "worker.env").write_bytes(b"W=edited-before-the-start\n")
    began = time.monotonic()
    with settled.daemon(ready=False) as daemon:
        eventually(lambda: settled.live("worker.env") == b"W=1\n")
        assert daemon.get("/readyz") == (503, "the first reconciliation has not ended\n")
        with settled.start("sync") as sync:  # it waits for git; the loop does not wait for it
            (settled.app / "api.env").write_bytes(b"A=edited\n")
            eventually(lambda: settled.live("api.env") == b"A=1\n")
            repaired = time.monotonic() - began
            assert sync.poll() is None
            (status,) = settled.json("status")["environments"]
            # Its own write has it look again: the last run says what was done.
            assert (daemon.history()[0]["result"], status["warning"]) == ("corrected", "")
            sync.wait(120)
        assert repaired < GIT_GIVES_UP
        eventually(lambda: "no answer within 30 s" in daemon.environment()["warning"], timeout=60)
        daemon.wait_until_ready()


def test_the_end_of_the_daemon_does_not_wait_for_git(settled: Server, silence: str) -> None:
    settled.settings["repository"]["url"] = silence
    with settled.daemon(ready=False) as daemon:
        began = time.monotonic()
        assert daemon.stop() == 0
        assert time.monotonic() - began < GIT_GIVES_UP


def test_a_daemon_that_does_not_answer_is_named_within_seconds(settled: Server) -> None:
    with settled.daemon() as daemon:
        os.kill(daemon.process.pid, signal.SIGSTOP)
        try:
            for command in ("status", "plan", "age"):
                began = time.monotonic()
                done = settled.cli(command)
                it_is_named(daemon, done, time.monotonic() - began)
        finally:
            os.kill(daemon.process.pid, signal.SIGCONT)


def it_is_named(daemon: Daemon, done: subprocess.CompletedProcess[str], waited: float) -> None:
    assert done.returncode == 1, done.args
    said = " ".join(done.stderr.split())
    assert f"the daemon (process {daemon.process.pid} (reconciler run) since " in said
    assert ") does not answer within 3 s. It is stopped, hangs or is overloaded." in said
    assert 3 <= waited < GIT_GIVES_UP


def test_status_says_what_a_running_reconciliation_does(settled: Server, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    settled.settings["checks"] = {"gate": ["sh", "-c", f"while ! test -e {gate}; do sleep 0.05; done", "{file}"]}
    with settled.daemon() as daemon:

        def reconciling() -> dict[str, str] | None:
            (environment,) = json.loads(daemon.get("/api/v1/status")[1])["environments"]
            return cast("dict[str, str] | None", environment["reconciling"])

        def comparing() -> dict[str, str] | None:
            running = reconciling()
            return running if running and running["phase"] == "observe" else None

        assert reconciling() is None
        settled.commit({"api.env": b"A=2\n"}, settled.plain({"api.env": {"check": "gate"}, "worker.env": {}}))
        with settled.start("sync") as sync:
            running = eventually(comparing)
            text = settled.cli("status").stdout
            gate.touch()
            assert sync.wait(60) == 0
        eventually(lambda: reconciling() is None)
    assert running["doing"] == "comparing the live files"
    assert running["since"] <= time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())
    assert "reconciling since 20" in text
    assert "(observe: comparing the live files)" in text
