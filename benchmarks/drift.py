"""How soon a hand edit is restored, and what a flood of changes next to the live files costs."""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path

from benchmarks.figures import Figure
from benchmarks.scratch import SOURCES, content
from tests.support.server import Server

RESTORE_TARGET = 300.0  # ms, for 19 of 20 edits
PATIENCE = 60.0  # seconds
EDITS = 20
# Seconds between two edits: longer than the daemon rests after one, four times the CPU time of two reconciliations (its
# own write causes the second one), a quarter of a second each with 1,000 files or with Compose.
REST = 2.5
FLOOD = 10_000
FLOOD_FILES = 100
CPU_TARGET = 20.0  # percent of a core
MEMORY_TARGET = 100.0  # MB


def restores(server: Server, kind: str) -> list[Figure]:
    """`reconciler run`, idle: some live files are edited once, one after another."""
    server.settings["repository"]["poll_interval"] = server.settings["drift"]["interval"] = "10m"
    with server.daemon():
        took = tuple(restore(server.app / source, source) for source in SOURCES[:EDITS])
    slow = statistics.quantiles(took, n=20)[-1]
    name = f"hand edit to restored file, {kind}"
    return [Figure(name, "ms", took), Figure(f"{name}: 95th percentile", "ms", (slow,), RESTORE_TARGET)]


def restore(live: Path, source: str) -> float:
    """Milliseconds until the file matches git again."""
    time.sleep(REST)
    desired = live.read_bytes()  # other measurements have changed some
    began = time.perf_counter()
    live.write_bytes(content(source, "by hand"))
    while live.read_bytes() != desired:
        if time.perf_counter() - began > PATIENCE:
            raise RuntimeError(f"{live} was not restored within {PATIENCE:g} s")
        time.sleep(0.001)
    return (time.perf_counter() - began) * 1000


def flood(server: Server) -> list[Figure]:
    """`reconciler run` while other files in its live files' directory are written to, 1,000 times a second."""
    server.settings["repository"]["poll_interval"] = server.settings["drift"]["interval"] = "10m"
    with server.daemon() as daemon:
        pid = daemon.process.pid
        before, began = cpu_seconds(pid), time.perf_counter()
        for number in range(FLOOD):
            (server.app / f"log.{number % FLOOD_FILES}").write_bytes(b"%d" % number)
            time.sleep(max(0.0, began + number / 1000 - time.perf_counter()))
        share = 100 * (cpu_seconds(pid) - before) / (time.perf_counter() - began)
        memory = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    name = f"a flood of {FLOOD:,} changes next to the live files"
    return [
        Figure(f"{name}: CPU", "% of a core", (share,), CPU_TARGET),
        Figure(f"{name}: resident memory", "MB", (memory,), MEMORY_TARGET),
    ]


def cpu_seconds(pid: int) -> float:
    """Seconds of CPU that the process and its ended children have had."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
