"""Measure what docs/performance.md explains: `make bench`, or `python benchmarks/run.py [--json FILE]`.

Print medians, with minimum and maximum, next to their targets. Exit with 1 if a median misses its target.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for the package and tests/support

from benchmarks import (
    checks,
    compare,
    daemon,
    drift,
    failures,
    history,
    hosts,
    latency,
    merge_plans,
    pages,
    reconciliations,
    services,
)
from benchmarks.figures import Figure, machine, skipped, table
from benchmarks.scratch import TARGETS, make_server
from tests.support.git_remote import make_git_remote

HELP_RUNS = 15
HELP_TARGET = 300.0  # ms


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure reconciler on this machine, next to its targets.")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write every sample to this file")
    parser.add_argument(
        "--kills", metavar="N", type=int, default=failures.KILLS, help="kills at random instants (default: %(default)s)"
    )
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that everything is cleaned up
    described = machine()
    print("\n".join(f"{name:>10}: {value}" for name, value in described.items()))
    if os.getloadavg()[0] > len(os.sched_getaffinity(0)):
        print("This machine is busy with something else: do not trust the wall times.")
    sys.stdout.flush()
    figures: list[Figure] = []
    try:
        with tempfile.TemporaryDirectory(prefix="reconciler-benchmark-") as scratch:
            figures.extend(measure(Path(scratch), arguments.kills))
    finally:
        print("\n" + table(figures))  # also after a failure half way
    if arguments.json:
        data = {"machine": described, "figures": [figure.data() for figure in figures]}
        arguments.json.write_text(json.dumps(data, indent=2) + "\n")
    missed = [figure.name for figure in figures if figure.missed]
    print(f"\nmissed: {'; '.join(missed)}" if missed else "\nevery target is met")
    return 1 if missed else 0


def measure(scratch: Path, kills: int) -> Iterator[Figure]:
    """All figures, one after another: they would disturb each other."""
    yield from start_of_the_command()
    yield from checks.measure(scratch / "checks")
    yield from compare.measure(scratch / "compare")
    yield from pages.measure()
    server = make_server(scratch / "files")
    yield from asyncio.run(reconciliations.parts(server))
    yield from asyncio.run(reconciliations.first(server))
    yield from asyncio.run(reconciliations.change(server))
    yield from asyncio.run(reconciliations.idle(server, f"{TARGETS} targets"))
    yield from drift.restores(server, "no stack")
    yield from drift.flood(server)
    yield from failures.full_disks(scratch / "disks")
    yield from hosts.unchanged(scratch / "hosts")
    yield from history.ages(make_git_remote(scratch / "history" / "remote.git"), str(scratch / "history"))
    yield from merge_plans.replayed(scratch / "merges")
    if reason := services.obstacle():
        yield from daemon.idle(server, f"{TARGETS} targets")
        yield skipped("everything with a stack", reason)
        return
    with services.stack(scratch / "stack") as (with_stack, project):
        asyncio.run(services.start(with_stack, project))
        yield from asyncio.run(reconciliations.idle(with_stack, f"{TARGETS} targets in a stack"))
        yield from asyncio.run(services.change(with_stack, project))
        yield from daemon.idle(with_stack, f"{TARGETS} targets in a stack")
        yield from drift.restores(with_stack, "in a stack")
        yield from merge_plans.announced(with_stack)
    yield from latency.measure(scratch / "latency")
    with failures.stack(scratch / "failures") as (failing, project):
        yield from failures.rolling_back(failing, project)
        yield from failures.killed(failing, project, kills)


def start_of_the_command() -> list[Figure]:
    """`reconciler --help`, the installed command."""
    command = [str(Path(sys.executable).parent / "reconciler"), "--help"]
    wall, cpu = [], []
    for _ in range(HELP_RUNS):
        began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        wall.append((time.perf_counter() - began) * 1000)
        cpu.append((after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1000)
    return [
        Figure("reconciler --help: wall", "ms", tuple(wall), HELP_TARGET),
        Figure("reconciler --help: CPU", "ms", tuple(cpu)),
    ]


if __name__ == "__main__":
    sys.exit(main())
