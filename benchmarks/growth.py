"""How costs grow: with the files, the hosts and the keys. history.py has the length of git's history."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import reconciliations
from benchmarks.figures import Figure, Point
from reconciler.app.config.server import load_server_config
from reconciler.app.wiring.server import runtime
from reconciler.core.model.requests import ReconcileRequest
from reconciler.core.model.runs import Result
from tests.support.age_key import make_age_key
from tests.support.git_remote import make_git_remote
from tests.support.server import ENVIRONMENT, Server
from tests.support.sshd import make_sshd

FILES = {3: 7.0, 50: 8.0, 200: 12.0, 1000: 30.0}  # with the target of an idle reconciliation, in ms of CPU
HOSTS = (2, 5, 10, 20)  # with a single one, nothing lies between hosts
FILES_OF_A_HOST = 10
KEYS = (20, 200, 1000, 5000)
IDLE_RECONCILIATIONS = 15
CHANGES = 5


def measure(root: Path) -> Iterator[Figure]:
    """CPU of this process and its children, for each size."""
    for files, target in FILES.items():
        server = _server(root / f"files-{files}")
        yield from asyncio.run(_with_files(server, files, target))
    yield from _with_hosts(root / "hosts")
    for keys in KEYS:
        server = _server(root / f"keys-{keys}")
        changes = asyncio.run(_changes(server, ["a.env"], keys))
        yield _figure("one changed key of a file", changes, "keys", keys)


def _server(root: Path) -> Server:
    app = root / "app"
    app.mkdir(parents=True)
    return Server(root, app, make_git_remote(root / "remote.git"), make_age_key(root))


def _content(keys: int, changed: str) -> bytes:
    lines = "".join(f"SETTING_{number:04}=value number {number}\n" for number in range(keys - 1))
    return f"CHANGED={changed}\n{lines}".encode()


async def _with_files(server: Server, files: int, target: float) -> list[Figure]:
    names = [f"service-{number:04}.env" for number in range(files)]
    changes = await _changes(server, names, 20)
    async with reconciliations.built(server) as (_, reconciler):
        await reconciliations.settle(lambda: reconciler.reconcile(ReconcileRequest("poll")))
        idle = [
            (await reconciliations.cost_of(reconciler, "poll", Result.IN_SYNC)).cpu for _ in range(IDLE_RECONCILIATIONS)
        ]
    return [
        _figure("nothing changed", idle, "files", files, target),
        _figure("one changed key", changes, "files", files),
    ]


async def _changes(server: Server, names: list[str], keys: int) -> list[float]:
    """CPU of applying one changed key of the first file, a few times."""
    first = server.key.encrypt("a.env", _content(keys, "first"))
    server.remote.commit({f"envs/{ENVIRONMENT}/{name}": first for name in names})
    server.commit({}, server.plain(names))
    costs = []
    async with reconciliations.built(server) as (_, reconciler):
        await reconciliations.cost_of(reconciler, "start", Result.APPLIED)
        for number in range(CHANGES):
            server.commit({names[0]: _content(keys, f"value {number}")})
            costs.append((await reconciliations.cost_of(reconciler, "webhook", Result.APPLIED)).cpu)
    return costs


def _with_hosts(root: Path) -> Iterator[Figure]:
    with contextlib.ExitStack() as stack:
        servers = {}
        for number in range(max(HOSTS)):
            (room := root / f"sshd-{number}").mkdir(parents=True)
            servers[f"host-{number}"] = make_sshd(room)
            stack.callback(servers[f"host-{number}"].stop)
        for hosts in HOSTS:
            server = _server(root / f"{hosts}")
            server.settings["local"] = False
            server.settings["hosts"] = {name: sshd.as_host() for name, sshd in list(servers.items())[:hosts]}
            names = [f"f{number}.env" for number in range(FILES_OF_A_HOST)]
            server.commit(dict.fromkeys(names, b"A=1\nB=2\n"), server.plain(names))
            samples = asyncio.run(_idle_rollouts(server))
            yield _figure(f"nothing changed, {FILES_OF_A_HOST} files each", samples, "hosts", hosts)


async def _idle_rollouts(server: Server) -> list[float]:
    samples = []
    async with runtime(load_server_config(str(server.config))) as built:
        (rollout,) = built.rollouts
        await reconciliations.settle(lambda: rollout.reconcile(ReconcileRequest("drift")))
        for _ in range(IDLE_RECONCILIATIONS):
            began = time.process_time()
            outcomes = await rollout.reconcile(ReconcileRequest("drift", poll=False))
            samples.append((time.process_time() - began) * 1000)
            if any(outcome.result is not Result.IN_SYNC for outcome in outcomes):
                raise RuntimeError(f"a reconciliation without a change ended with {outcomes}")
    return samples


def _figure(curve: str, samples: list[float], axis: str, x: int, target: float | None = None) -> Figure:
    name = f"{curve}, {x:,} {axis}: CPU"
    return Figure(name, "ms", tuple(samples), target, point=Point(f"{curve}: CPU", axis, x))
