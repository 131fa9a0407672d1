"""What the idle daemon holds: memory, descriptors and threads, and whether they grow."""

from __future__ import annotations

import os
import time
from pathlib import Path

from benchmarks.figures import Figure
from reconciler.app.daemon.commands import sync_environments
from tests.support.server import ENVIRONMENT, Daemon, Server

POLLS = 20
MORE_RECONCILIATIONS = 300
LOOKS = 5
RSS_TARGET = 70.0  # MB, of 10^6 bytes
GROWTH_TARGET = 1.0  # MB


def idle(server: Server, kind: str) -> list[Figure]:
    """`reconciler run`, polling every second: after its first polls, and after many more reconciliations.

    It is scraped meanwhile, as a daemon is. Its short-lived children (git) are not counted.
    """
    server.settings["repository"]["poll_interval"] = "1s"
    server.settings["drift"]["interval"] = "1s"
    config = str(server.config)
    with server.daemon(installed=True) as daemon:  # not forked from what has more in memory
        while _polls(daemon) < POLLS:
            time.sleep(1)
        early = _looks(daemon)
        for _ in range(MORE_RECONCILIATIONS):
            sync_environments(config, (), (), lambda _: None)
            daemon.metrics()
        polls = _polls(daemon)
        late = _looks(daemon)
    name = f"idle daemon, {kind}"
    figures = [Figure(f"{name}: resident memory", "MB", early["memory"], RSS_TARGET, f"after {POLLS} polls")]
    for quantity, unit, target in (("memory", "MB", GROWTH_TARGET), ("threads", "", 0.0), ("descriptors", "", 0.0)):
        grown = min(late[quantity]) - min(early[quantity])
        note = f"after {polls:.0f} polls, from {min(early[quantity]):g} to {min(late[quantity]):g}"
        figures.append(Figure(f"{name}: growth of {quantity}", unit, (grown,), target, note))
    return figures


def _polls(daemon: Daemon) -> float:
    return daemon.metrics()[f'reconciler_git_fetch_total{{environment="{ENVIRONMENT}",result="ok"}}']


def _looks(daemon: Daemon) -> dict[str, tuple[float, ...]]:
    """Some samples over a poll interval; while a poll runs there are a pipe or two more."""
    samples = []
    for _ in range(LOOKS):
        time.sleep(0.3)
        samples.append(_look(daemon.process.pid))
    return {quantity: tuple(sample[quantity] for sample in samples) for quantity in samples[0]}


def resident_memory(pid: int) -> float:
    """In MB, of 10^6 bytes."""
    return int(_status(pid)["VmRSS"].split()[0]) * 1024 / 1e6


def _status(pid: int) -> dict[str, str]:
    return dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())


def _look(pid: int) -> dict[str, float]:
    process = Path(f"/proc/{pid}")
    return {
        "memory": resident_memory(pid),
        "threads": float(_status(pid)["Threads"]),
        "descriptors": float(len(os.listdir(process / "fd"))),
    }
