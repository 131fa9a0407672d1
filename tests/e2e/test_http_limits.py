"""A real daemon under clients that misbehave: many, idle, slow, malformed, or led there by another site's page."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.support.server import Daemon, Server
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

IDLE, SLOW = 500, 200
RSS_LIMIT = 100.0  # MB
PATIENCE = 60.0  # seconds; only ends a failing test
SLOW_HEADER = b"POST /webhook HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: "
SLOW_BODY = (
    b"POST /webhook HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Hub-Signature-256: sha256=" + b"0" * 64 + b"\r\n"
    b"Content-Length: 1000000\r\n\r\n" + b"x" * 100_000
)
SLOW_READER = b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 30


@pytest.fixture
def settled(server: Server) -> Server:
    """A server whose file is in git, and which looks at live files every second."""
    server.commit({"api.env": b"A=1\n"}, server.plain(["api.env"]))
    (server.root / "secret").write_bytes(b"the webhook's own secret")
    server.settings["webhook"] = {"secret_file": str(server.root / "secret")}
    server.settings["drift"]["interval"] = "1s"
    return server


def connect(port: int, data: bytes = b"") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    with contextlib.suppress(ConnectionError):
        connection.sendall(data)
    return connection


@contextlib.contextmanager
def connections(port: int, *kinds: bytes) -> Iterator[list[socket.socket]]:
    """A connection for each kind, on which that has been sent."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(connect(port, kind)) for kind in kinds]


def exchange(port: int, data: bytes) -> bytes:
    """Everything that is answered to ``data``."""
    with connect(port, data) as connection:
        answer = b""
        with contextlib.suppress(ConnectionError):
            while chunk := connection.recv(65536):
                answer += chunk
        return answer


def rss(daemon: Daemon) -> float:
    """MB of 10^6 bytes."""
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024 / 1e6


def descriptors(daemon: Daemon) -> int:
    return len(os.listdir(f"/proc/{daemon.process.pid}/fd"))


def seconds_of_cpu(daemon: Daemon) -> float:
    fields = Path(f"/proc/{daemon.process.pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def drift_is_repaired(server: Server) -> None:
    (server.app / "api.env").write_bytes(b"A=by hand\n")
    eventually(lambda: server.live("api.env") == b"A=1\n", timeout=30)


def logged(daemon: Daemon, event: str) -> list[dict[str, Any]]:
    return [line for line in daemon.events() if line["event"] == event]


# A soft limit far below the hard one is raised; a hard one leaves room for 10 clients beside the reconciliation.
@pytest.mark.parametrize("limits", ["ulimit -Sn 256", "ulimit -n 64"])
def test_700_connections_keep_no_memory_and_neither_drift_repair_nor_health_from_working(
    settled: Server, limits: str
) -> None:
    settled.started_by = ("sh", "-c", f'{limits}; exec "$@"', "sh")
    slow = [SLOW_HEADER, SLOW_BODY, SLOW_BODY, SLOW_READER] * (SLOW // 4)
    with settled.daemon() as daemon:
        quiet = descriptors(daemon)
        with connections(daemon.port, *slow, *[b""] * IDLE):
            assert daemon.get("/healthz") == (200, "alive\n")
            drift_is_repaired(settled)
            assert settled.cli("status").returncode == 0
            assert daemon.metrics()["reconciler_loop_last_tick_timestamp_seconds"] > 0
            assert rss(daemon) < RSS_LIMIT
            assert descriptors(daemon) < quiet + 100

            began, used = time.monotonic(), seconds_of_cpu(daemon)
            eventually(lambda: time.monotonic() - began > 2)
            assert seconds_of_cpu(daemon) - used < (time.monotonic() - began) / 2
        eventually(lambda: descriptors(daemon) <= quiet + 5, timeout=30)
        noise: dict[str, list[datetime]] = {}
        for line in daemon.events():
            if line["event"] not in ("started", "reconciled"):
                noise.setdefault(line["event"], []).append(datetime.fromisoformat(line["timestamp"]))
        assert len(noise) <= 3
        for times in noise.values():
            assert all((later - earlier).total_seconds() > 59 for earlier, later in pairwise(times))
        assert "Traceback" not in daemon.log.read_text()
