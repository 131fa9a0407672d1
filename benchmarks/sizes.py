"""A new server, a start and a hand edit, with 3 and with 1,000 encrypted files of their own."""

from __future__ import annotations

import asyncio
import http
import os
import random
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.drift import restore
from benchmarks.figures import Figure, Point
from benchmarks.reconciliations import built, cost_of
from benchmarks.scratch import content
from reconciler.adapters.sops.program import Sops
from reconciler.core.model.runs import Result
from tests.support.age_key import make_age_key
from tests.support.git_remote import make_git_remote
from tests.support.server import ENVIRONMENT, Server

LARGE = 1000
RESTORE_TARGETS = {3: 100.0, LARGE: 150.0}  # ms, for 19 of 20 edits
FIRST_TARGET = 1.15  # times what sops alone takes, as many processes at a time as there are cores
START_TARGET = 1000.0  # ms, of wall and of CPU
EDITS = 20
STARTS = 5
PATIENCE = 60.0  # seconds
DECRYPTS = 20


def measure(root: Path) -> Iterator[Figure]:
    """The large server is made once: its first reconciliation, its starts, its edits."""
    small, _ = _server(root / "small", 3)
    large, sources = _server(root / "large", LARGE)
    yield from asyncio.run(_first(large, sources))
    yield from asyncio.run(_known(large))
    yield from _starts(large)
    for files, server in ((3, small), (LARGE, large)):
        yield _restores(server, files)


def _server(root: Path, files: int) -> tuple[Server, dict[str, bytes]]:
    """Each source is another ciphertext: equal ones would be decrypted once."""
    app = root / "app"
    app.mkdir(parents=True)
    server = Server(root, app, make_git_remote(root / "remote.git"), make_age_key(root))
    names = [f"service-{number:04}.env" for number in range(files)]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        sources = dict(zip(names, pool.map(lambda name: server.key.encrypt(name, content(name)), names), strict=True))
    server.remote.commit({f"envs/{ENVIRONMENT}/{name}": data for name, data in sources.items()})
    server.commit({}, server.plain(names))
    return server, sources


async def _first(server: Server, sources: dict[str, bytes]) -> list[Figure]:
    """Sops alone is measured before and after, as the daemon calls it."""
    alone = await _sops_alone(server, sources)
    async with built(server) as (_, reconciler):
        cost = await cost_of(reconciler, "start", Result.APPLIED)
    alone = statistics.mean([alone, await _sops_alone(server, sources)])
    name = f"first reconciliation of {LARGE:,} encrypted files"
    return [
        Figure(f"{name}: times sops alone", "", (cost.wall / (alone * LARGE),), FIRST_TARGET),
        Figure(f"{name}: wall", "ms", (cost.wall,)),
        Figure(f"{name}: CPU", "ms", (cost.cpu,)),
    ]


async def _sops_alone(server: Server, sources: dict[str, bytes]) -> float:
    """Milliseconds a file, as many at a time as there are cores."""
    decryptor = Sops(str(server.key.path))
    chosen = random.sample(sorted(sources), DECRYPTS)
    await decryptor.identity()
    began = time.perf_counter()
    await asyncio.gather(*(decryptor.decrypt(name, sources[name]) for name in chosen))
    return (time.perf_counter() - began) * 1000 / DECRYPTS


async def _known(server: Server) -> list[Figure]:
    """What a start costs in one process, and which programs it starts."""
    costs = []
    for _ in range(STARTS):
        async with built(server) as (_, reconciler):
            costs.append(await cost_of(reconciler, "start", Result.IN_SYNC))
    sops = [float(sum(number for name, number in cost.processes.items() if "sops" in name)) for cost in costs]
    name = f"first reconciliation after a start, {LARGE:,} known files"
    return [
        Figure(f"{name}: CPU", "ms", tuple(cost.cpu for cost in costs), START_TARGET),
        Figure(f"{name}: sops processes", "", tuple(sops[1:]), 0.0),
    ]


def _starts(server: Server) -> list[Figure]:
    """`reconciler run`, until /readyz says so."""
    took = tuple(_start(server) for _ in range(STARTS))
    return [Figure(f"daemon start with {LARGE:,} known files: ready", "ms", took, START_TARGET)]


def _start(server: Server) -> float:
    """Milliseconds. Requests take CPU from the daemon: it is asked once it has logged that it has reconciled."""
    began = time.perf_counter()
    with server.daemon(installed=True, ready=False) as daemon:
        while not any(event["event"] == "reconciled" for event in daemon.events()):
            _wait_since(began)
        while daemon.get("/readyz")[0] != http.HTTPStatus.OK:
            _wait_since(began)
        return (time.perf_counter() - began) * 1000


def _wait_since(began: float) -> None:
    if time.perf_counter() - began > PATIENCE:
        raise RuntimeError(f"the daemon was not ready within {PATIENCE:g} s")
    time.sleep(0.002)


def _restores(server: Server, files: int) -> Figure:
    """Each state sees two edits of a file at most: with the third one, there would be a conflicting writer."""
    server.settings["repository"]["poll_interval"] = server.settings["drift"]["interval"] = "10m"
    server.sync()
    names = sorted(path.name for path in server.app.iterdir())
    edited = names[:: max(1, len(names) // EDITS)][:EDITS]
    took: list[float] = []
    while len(took) < EDITS:
        server.settings["state_dir"] = str(server.root / f"state-{len(took)}")
        with server.daemon():
            took += [restore(server.app / source, source) for source in (edited * 2)[: EDITS - len(took)]]
    slow = statistics.quantiles(took, n=20)[-1]
    name = f"hand edit to restored file, {files:,} files: 95th percentile"
    point = Point("hand edit to restored file: wall, 95th percentile", "files", files)
    return Figure(name, "ms", (slow,), RESTORE_TARGETS[files], f"median {statistics.median(took):.0f} ms", point)
