"""The figure groups of `make bench`, one line each in ``GROUPS``, and what they share."""

from __future__ import annotations

import asyncio
import functools
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks import (
    checks,
    client,
    compare,
    daemon,
    drift,
    failures,
    growth,
    history,
    hosts,
    latency,
    merge_plans,
    pages,
    reconciliations,
    remote,
    scrape,
    services,
    sizes,
)
from benchmarks.figures import Figure, skipped
from benchmarks.scratch import TARGETS, make_server
from tests.support.compose import ComposeProject
from tests.support.git_remote import make_git_remote
from tests.support.server import Server

HELP_RUNS = 15
HELP_TARGET = 300.0  # ms


class Bench:
    """What groups share, made when the first of them asks for it. ``kills``: how often the group kills does it."""

    def __init__(self, scratch: Path, cleanup: ExitStack, kills: int) -> None:
        self.kills = kills
        self._scratch = scratch
        self._running = cleanup.enter_context(ExitStack())

    def room(self, name: str) -> Path:
        """The path of a directory for one group, which makes it."""
        return self._scratch / name

    @functools.cached_property
    def server(self) -> Server:
        """A server with 50 encrypted targets that belong to no stack."""
        return make_server(self.room("files"))

    @functools.cached_property
    def stack(self) -> tuple[Server, ComposeProject]:
        """A server with 50 encrypted targets in a stack of two running services."""
        self.stop_services()
        server, project = self._running.enter_context(services.stack(self.room("stack")))
        asyncio.run(services.start(server, project))
        return server, project

    @functools.cached_property
    def failing(self) -> tuple[Server, ComposeProject]:
        """A server with two services whose files say whether they are healthy."""
        self.stop_services()
        return self._running.enter_context(failures.stack(self.room("failures")))

    def stop_services(self) -> None:
        """Remove the stack of the groups before: its containers, and their health checks, cost each change some time.
        No group after this may ask for it again."""
        self._running.close()


@dataclass(frozen=True, slots=True)
class Group:
    """Figures that are measured together; ``measure`` gets what groups share. ``engine``: it needs a Docker engine."""

    name: str
    about: str
    measure: Callable[[Bench], Iterable[Figure]]
    engine: bool = False


def start_of_the_command(_: Bench) -> list[Figure]:
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


def reconciliations_of_files(bench: Bench) -> Iterator[Figure]:
    """Parts, the first reconciliation, one change, and nothing to do, without a stack."""
    yield from asyncio.run(reconciliations.parts(bench.server))
    yield from asyncio.run(reconciliations.first(bench.server))
    yield from asyncio.run(reconciliations.change(bench.server))
    yield from asyncio.run(reconciliations.idle(bench.server, f"{TARGETS} targets"))


def reconciliations_of_a_stack(bench: Bench) -> Iterator[Figure]:
    """Nothing to do and one change, with a stack."""
    yield from asyncio.run(reconciliations.idle(bench.stack[0], f"{TARGETS} targets in a stack"))
    yield from asyncio.run(services.change(*bench.stack))


def idle_daemon(bench: Bench) -> Iterator[Figure]:
    """With a stack where there is an engine."""
    if services.obstacle():
        yield from daemon.idle(bench.server, f"{TARGETS} targets")
    else:
        yield from daemon.idle(bench.stack[0], f"{TARGETS} targets in a stack")


def pushes(bench: Bench) -> Iterator[Figure]:
    """With no other containers than its own."""
    bench.stop_services()
    yield from latency.measure(bench.room("latency"))


# In the order in which they run. `--only NAME` runs one of them; to add figures, add a line.
GROUPS = (
    Group("help", "start of the installed command", start_of_the_command),
    Group("client", "commands that ask the daemon", lambda bench: client.measure(bench.server, TARGETS)),
    Group("scrape", "memory and /metrics with 3 and 1,000 targets", lambda bench: scrape.measure(bench.room("scrape"))),
    Group("checks", "check and diff of 200 files", lambda bench: checks.measure(bench.room("checks"))),
    Group("compare", "compare with 20 hosts", lambda bench: compare.measure(bench.room("compare"))),
    Group("pages", "the daemon's page of 200 targets", lambda _: pages.measure()),
    Group("files", "first, changed and idle reconciliation of 50 files", reconciliations_of_files),
    Group("sizes", "a new server, a start, a hand edit, 1,000 files", lambda bench: sizes.measure(bench.room("sizes"))),
    Group("drift", "hand edit until the file is restored", lambda bench: drift.restores(bench.server, "no stack")),
    Group("flood", "10,000 changes next to the live files", lambda bench: drift.flood(bench.server)),
    Group("disks", "changes on full disks", lambda bench: failures.full_disks(bench.room("disks"))),
    Group("hosts", "20 hosts, nothing changed", lambda bench: hosts.unchanged(bench.room("hosts"))),
    Group(
        "history",
        "age of secrets, up to 5,000 commits",
        lambda bench: history.ages(make_git_remote(bench.room("history") / "remote.git"), str(bench.room("history"))),
    ),
    Group("merges", "random merges, planned and then made", lambda bench: merge_plans.replayed(bench.room("merges"))),
    Group("growth", "cost against files, hosts and keys", lambda bench: growth.measure(bench.room("growth"))),
    Group("remote", "polls and fetches, at the git remote's side", lambda bench: remote.measure(bench.room("remote"))),
    Group("stack", "idle and changed reconciliation of a stack", reconciliations_of_a_stack, engine=True),
    Group("daemon", "memory, descriptors and threads of the idle daemon", idle_daemon),
    Group("drift-stack", "as drift, in a stack", lambda bench: drift.restores(bench.stack[0], "in a stack"), True),
    Group("plans", "push until its plan is at the forge", lambda bench: merge_plans.announced(bench.stack[0]), True),
    Group("latency", "push until the container is healthy", pushes, engine=True),
    Group("rollback", "rollback of an unhealthy revision", lambda bench: failures.rolling_back(*bench.failing), True),
    Group("kills", "kills at random instants", lambda bench: failures.killed(*bench.failing, bench.kills), True),
)


def select_groups(names: str | None) -> list[Group]:
    """Given ``NAME[,NAME]``, return those groups in the order in which they run; for None, all.

    Raises ValueError for a name that no group has.
    """
    if names is None:
        return list(GROUPS)
    wanted = {name.strip() for name in names.split(",")}
    if unknown := wanted - {group.name for group in GROUPS}:
        known = ", ".join(group.name for group in GROUPS)
        raise ValueError(f"no group {', '.join(sorted(unknown))}; there are: {known}")
    return [group for group in GROUPS if group.name in wanted]


def measure(groups: Iterable[Group], bench: Bench) -> Iterator[tuple[Group, list[Figure], Exception | None]]:
    """Measure the groups one after another, as they would disturb each other.

    Yield for each what it measured and, where it failed, why; the others run all the same.
    """
    for group in groups:
        figures: list[Figure] = []
        if group.engine and (reason := services.obstacle()):
            yield group, [skipped(group.about, reason)], None
            continue
        try:
            for figure in group.measure(bench):
                figures.append(figure)  # noqa: PERF402  # those before a failure are kept
        except Exception as error:  # noqa: BLE001  # whatever it is, it is reported and ends in exit 1
            yield group, figures, error
        else:
            yield group, figures, None
