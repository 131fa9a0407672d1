"""A scrape of a daemon with 1,000 targets: how long it takes, and how large it is."""

from __future__ import annotations

import gzip
import http.client
import time
from pathlib import Path

from benchmarks.daemon import resident_memory
from benchmarks.figures import Figure
from tests.support.age_key import make_age_key
from tests.support.git_remote import make_git_remote
from tests.support.server import Daemon, Server

TARGETS = 1000
RUNS = 15
TIME_TARGET = 150.0  # ms
SIZE_TARGET = 600.0  # KB, of 10^3 bytes
MEMORY_TARGET = 80.0  # MB, of 10^6 bytes


def measure(root: Path) -> list[Figure]:
    """Plain files in no stack: neither sops nor an engine plays a part in a scrape."""
    app = root / "app"
    app.mkdir(parents=True)
    server = Server(root, app, make_git_remote(root / "remote.git"), make_age_key(root))
    names = [f"service-{number:03}.conf" for number in range(TARGETS)]
    server.commit({name: f"number = {name}\n".encode() for name in names}, server.plain(names))
    server.sync()
    with server.daemon(installed=True) as daemon:
        scrapes = [_scrape(daemon) for _ in range(RUNS)]
        memory = resident_memory(daemon.process.pid)
    took, sent, raw = zip(*scrapes, strict=True)
    name = f"a scrape, {TARGETS:,} targets"
    return [
        Figure(f"{name}: wall", "ms", took, TIME_TARGET),
        Figure(f"{name}: size", "KB", raw, SIZE_TARGET),
        Figure(f"{name}: size as gzip", "KB", sent),
        Figure(f"idle daemon, {TARGETS:,} targets: resident memory", "MB", (memory,), MEMORY_TARGET),
    ]


def _scrape(daemon: Daemon) -> tuple[float, float, float]:
    """As Prometheus asks: ms until all of it is there, and the KB that were sent, and that they are."""
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
