"""What the commands that ask the daemon cost, each a process that an operator, a timer or a script starts."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.figures import Figure
from tests.support.server import Server

RUNS = 15
TARGET = 150.0  # ms of CPU
COMMANDS = (
    ("status",),
    ("sync",),
    ("history", "--limit", "5"),
    ("pause", "--all", "--for", "1h"),
)


def measure(server: Server, targets: int) -> Iterator[Figure]:
    """Each command, while the daemon runs; the daemon's work is not counted."""
    with server.daemon():
        for command in COMMANDS:
            samples = tuple(_cpu(command, server.variables()) for _ in range(RUNS))
            yield Figure(f"reconciler {command[0]}, {targets} targets: CPU of the client", "ms", samples, TARGET)
        server.cli("resume", "--all")  # for the groups that follow


def _cpu(command: tuple[str, ...], environment: dict[str, str]) -> float:
    """User and system time of the installed command, in ms."""
    argv = [str(Path(sys.executable).parent / "reconciler"), *command]
    with subprocess.Popen(argv, env=environment, stdout=subprocess.DEVNULL) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 2):  # 2: something is paused
        raise subprocess.CalledProcessError(process.returncode, argv)
    return (used.ru_utime + used.ru_stime) * 1000
