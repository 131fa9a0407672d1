"""What a reconciliation costs, in a long-lived process built like the daemon."""

from __future__ import annotations

import asyncio
import os
import resource
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

from benchmarks.figures import Figure
from benchmarks.scratch import SOURCES, content
from reconciler.adapters.sops.program import Sops
from reconciler.app.config.server import load_server_config
from reconciler.app.wiring.server import Runtime, runtime
from reconciler.core.dotenv.interpolation import resolve_env_file
from reconciler.core.model.requests import ReconcileRequest
from reconciler.core.model.runs import Result
from reconciler.engine.reconcile import Reconciler
from tests.support.server import ENVIRONMENT, Server

KNOWN_AFTER = 3.2  # seconds: until then, files are read again (engine/unchanged.py)
IDLE_RECONCILIATIONS = 50
IDLE_TARGET = 8.0  # ms of CPU
FIRST_RECONCILIATIONS = 3
CHANGES = 7
PARTS = 20
TOKENIZED_KEYS = 1000

_started: Counter[str] = Counter()
_values = count()


def _note_process(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "subprocess.Popen":
        program, *words = arguments[1]
        command = next((str(word) for word in words if not str(word).startswith(("-", "/"))), "")
        _started[f"{os.path.basename(program)} {command}".strip()] += 1


sys.addaudithook(_note_process)  # Python audits every process that it starts


@dataclass(frozen=True, slots=True)
class Cost:
    """``wall`` and ``cpu`` in ms, the latter of this process and its children; how often each program was started."""

    wall: float
    cpu: float
    processes: Mapping[str, int]


async def cost_of(reconciler: Reconciler, trigger: str, expected: Result) -> Cost:
    """Reconcile once. Raises RuntimeError unless it ends as expected: a failing reconciliation is quick."""
    _started.clear()
    cpu, wall = _cpu(), time.perf_counter()
    outcome = await reconciler.reconcile(ReconcileRequest(trigger))
    cost = Cost((time.perf_counter() - wall) * 1000, _cpu() - cpu, dict(_started))
    if outcome.result is not expected:
        raise RuntimeError(f"a reconciliation ended with {outcome.result} instead of {expected}: {outcome.reason}")
    return cost


def _cpu() -> float:
    """Children count once they have ended and been waited for, which a reconciliation does before it continues."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used) * 1000


def wall_and_cpu(name: str, costs: Sequence[Cost], target: float | None = None) -> list[Figure]:
    """Two figures for reconciliations of one kind; ``target`` is for the CPU. The programs are the last one's."""
    programs = ", ".join(f"{program} x{number}" for program, number in costs[-1].processes.items())
    return [
        Figure(f"{name}: CPU", "ms", tuple(cost.cpu for cost in costs), target, f"starts {programs or 'nothing'}"),
        Figure(f"{name}: wall", "ms", tuple(cost.wall for cost in costs)),
    ]


@asynccontextmanager
async def built(server: Server) -> AsyncIterator[tuple[Runtime, Reconciler]]:
    """What the daemon is built of, except that every reconciliation, not one per drift interval, queries containers."""
    async with runtime(load_server_config(str(server.config))) as made:
        settings = replace(made.ports.settings, drift_interval=0.0)
        yield made, Reconciler(replace(made.ports, settings=settings), ENVIRONMENT)


async def settle(reconcile: Callable[[], Awaitable[object]]) -> None:
    """Reconcile until what was just written is known by what stat says."""
    for _ in range(2):
        await reconcile()
        await reconcile()
        await asyncio.sleep(KNOWN_AFTER)
    await reconcile()


async def idle(server: Server, kind: str) -> list[Figure]:
    """A reconciliation that finds nothing to do. ``kind`` goes into the names of the figures."""
    async with built(server) as (made, reconciler):
        await settle(lambda: reconciler.reconcile(ReconcileRequest("poll")))
        before = _decrypts(made)
        costs = [await cost_of(reconciler, "poll", Result.IN_SYNC) for _ in range(IDLE_RECONCILIATIONS)]
        decrypts = _decrypts(made) - before
    sops = sum(number for cost in costs for name, number in cost.processes.items() if name.startswith("sops"))
    processes = tuple(float(sum(cost.processes.values())) for cost in costs)
    return [
        *wall_and_cpu(f"idle reconciliation, {kind}", costs, IDLE_TARGET),
        Figure(f"idle reconciliation, {kind}: processes started", "", processes),
        Figure(f"idle reconciliation, {kind}: decrypts in all of them", "", (float(max(sops, decrypts)),), 0.0),
    ]


def _decrypts(made: Runtime) -> int:
    """What the daemon's own metric says."""
    families = (family for family in made.metrics.registry.collect() if family.name == "reconciler_decrypt")
    return sum(int(each.value) for family in families for each in family.samples if each.name.endswith("_total"))


async def first(server: Server) -> list[Figure]:
    """The first reconciliation of a new server: an empty state directory and no live files."""
    costs = []
    for number in range(FIRST_RECONCILIATIONS):
        server.settings["state_dir"] = str(server.root / f"first-{number}")
        for source in SOURCES:
            (server.app / source).unlink(missing_ok=True)
        async with built(server) as (_, reconciler):
            costs.append(await cost_of(reconciler, "start", Result.APPLIED))
    return wall_and_cpu(f"first reconciliation of {len(SOURCES)} encrypted targets", costs)


def commit_change(server: Server) -> bytes:
    """Commit another value of one key of the first source; return the file's new content."""
    changed = content(SOURCES[0], f"value {next(_values)}")
    server.commit({SOURCES[0]: changed})
    return changed


async def change(server: Server) -> list[Figure]:
    """One key changes in git; no service is affected."""
    costs = []
    async with built(server) as (_, reconciler):
        await reconciler.reconcile(ReconcileRequest("start"))
        for _ in range(CHANGES):
            committed = commit_change(server)
            costs.append(await cost_of(reconciler, "webhook", Result.APPLIED))
            if server.live(SOURCES[0]) != committed:
                raise RuntimeError("the result is applied, but the live file differs")
    return wall_and_cpu("one key, from commit to applied, files only", costs)


async def parts(server: Server) -> list[Figure]:
    """The tokenizer, and one call of sops as the daemon makes it."""
    text = b"".join(b'KEY_%d="${KEY_0:-none} and value %d"\n' % (number, number) for number in range(TOKENIZED_KEYS))
    encrypted = server.key.encrypt(SOURCES[0], content(SOURCES[0]))
    decryptor = Sops(str(server.key.path))
    resolved, decrypted = [], []
    for _ in range(PARTS):
        began = time.perf_counter()
        resolve_env_file(text, {})
        between = time.perf_counter()
        await decryptor.decrypt(SOURCES[0], encrypted)
        resolved.append((between - began) * 1000)
        decrypted.append((time.perf_counter() - between) * 1000)
    return [
        Figure(f"resolving an env file of {TOKENIZED_KEYS} keys: wall", "ms", tuple(resolved)),
        Figure("decrypting one file: wall", "ms", tuple(decrypted)),
    ]
