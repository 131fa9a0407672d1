"""A reconciliation without a change, over hosts reached through kept SSH connections."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.figures import Figure
from benchmarks.reconciliations import settle
from benchmarks.scratch import make_server
from reconciler.app.config.server import load_server_config
from reconciler.app.wiring.server import runtime
from reconciler.core.model.requests import ReconcileRequest
from reconciler.core.model.runs import Result
from tests.support.server import Server
from tests.support.sshd import Sshd, make_sshd

HOSTS = 20
FILES = 50
RECONCILIATIONS = 15
TARGET = 0.3  # seconds of CPU


def unchanged(scratch: Path) -> Iterator[Figure]:
    """CPU time and wall time of our process, for all hosts together."""
    server = make_server(scratch)
    with _hosts(scratch) as hosts:
        server.settings |= {"local": False, "hosts": {name: host.as_host() for name, host in hosts.items()}}
        names = [f"f{number}.env" for number in range(FILES)]
        server.commit(dict.fromkeys(names, b"A=1\nB=2\n"), server.plain(names))
        samples = asyncio.run(_reconciliations(server))
    name = f"reconciliation without a change over {HOSTS} hosts with {FILES} files each"
    yield Figure(f"{name}, CPU", "s", tuple(cpu for cpu, _ in samples), TARGET)
    yield Figure(f"{name}, wall", "s", tuple(wall for _, wall in samples))


async def _reconciliations(server: Server) -> list[tuple[float, float]]:
    samples = []
    async with runtime(load_server_config(str(server.config))) as built:
        (rollout,) = built.rollouts
        await settle(lambda: rollout.reconcile(ReconcileRequest("drift")))
        for _ in range(RECONCILIATIONS):
            began = time.process_time(), time.monotonic()
            outcomes = await rollout.reconcile(ReconcileRequest("drift", poll=False))
            samples.append((time.process_time() - began[0], time.monotonic() - began[1]))
            assert [outcome.result for outcome in outcomes] == [Result.IN_SYNC] * HOSTS, outcomes
    return samples


@contextlib.contextmanager
def _hosts(scratch: Path) -> Iterator[dict[str, Sshd]]:
    with contextlib.ExitStack() as stack:
        made = {}
        for number in range(HOSTS):
            directory = scratch / f"sshd-{number}"
            directory.mkdir()
            sshd = made[f"host-{number}"] = make_sshd(directory)
            stack.callback(sshd.stop)
        yield made
