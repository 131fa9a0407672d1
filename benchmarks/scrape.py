"""The daemon with few and with many targets: its memory, and how long a scrape takes and how large it is."""

from __future__ import annotations

import gzip
import http.client
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.daemon import resident_memory
from benchmarks.drift import cpu_seconds
from benchmarks.figures import Figure, Point
from tests.support.age_key import make_age_key
from tests.support.git_remote import make_git_remote
from tests.support.server import Daemon, Server

RUNS = 15
MEMORY_TARGETS = {3: 66.0, 1000: 80.0}  # MB, of 10^6 bytes, by number of targets
TIME_TARGET = 150.0  # ms
SIZE_TARGET = 600.0  # KB, of 10^3 bytes


def measure(root: Path) -> Iterator[Figure]:
    """Plain files in no stack: neither sops nor an engine plays a part in a scrape."""
    for targets, limit in MEMORY_TARGETS.items():
        server = _server(root / str(targets), targets)
        with server.daemon(installed=True) as daemon:
            before = cpu_seconds(daemon.process.pid)
            scrapes = [_scrape(daemon) for _ in range(RUNS)]
            used = (cpu_seconds(daemon.process.pid) - before) * 1000 / RUNS
            memory = resident_memory(daemon.process.pid)
        took, sent, raw = zip(*scrapes, strict=True)
        name = f"a scrape, {targets:,} targets"
        yield Figure(f"{name}: wall", "ms", took, TIME_TARGET)
        curve = "a scrape of /metrics, no stack"
        point = Point(f"{curve}: CPU", "files", targets)
        yield Figure(f"{name}: CPU of the daemon", "ms", (used,), TIME_TARGET, f"mean of {RUNS}", point)
        yield Figure(f"{name}: size", "KB", raw, SIZE_TARGET, point=Point(f"{curve}: size", "files", targets))
        yield Figure(f"{name}: size as gzip", "KB", sent)
        point = Point("idle daemon, no stack: resident memory", "files", targets)
        yield Figure(f"idle daemon, {targets:,} targets: resident memory", "MB", (memory,), limit, point=point)


def _server(root: Path, targets: int) -> Server:
    app = root / "app"
    app.mkdir(parents=True)
    server = Server(root, app, make_git_remote(root / "remote.git"), make_age_key(root))
    names = [f"service-{number:03}.conf" for number in range(targets)]
    manifest = server.plain({name: {"encrypted": False} for name in names})
    server.commit({name: f"number = {name}\n".encode() for name in names}, manifest)
    if server.sync()["result"] != "applied":
        raise ValueError("the files were not written")
    return server


def _scrape(daemon: Daemon) -> tuple[float, float, float]:
    """As Prometheus does it: ms until all of it has come, KB that were sent, and KB that they are."""
    connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=60)
    began = time.perf_counter()
    connection.request("GET", "/metrics", headers={"Accept-Encoding": "gzip"})
    response = connection.getresponse()
    body = response.read()
    took = (time.perf_counter() - began) * 1000
    connection.close()
    if (response.status, response.getheader("Content-Encoding")) != (200, "gzip"):
        raise ValueError(f"{response.status} {response.getheader('Content-Encoding')}")
    return took, len(body) / 1e3, len(gzip.decompress(body)) / 1e3
