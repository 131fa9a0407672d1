"""A change that recreates a service, compared with Compose alone."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import reconciliations
from benchmarks.figures import Figure
from benchmarks.scratch import SOURCES, make_server
from reconciler.core.model.requests import ReconcileRequest
from reconciler.core.model.runs import Result
from reconciler.demo import dockerd
from tests.support.commands import output, run
from tests.support.compose import ComposeProject
from tests.support.server import Server
from tests.support.waiting import eventually

CHANGES = 5
IMAGE = "reconciler-benchmark/busybox:1"
SERVICE = "api"
UP = ("docker", "compose", "up", "--detach", "--no-deps", "--force-recreate", SERVICE)
COMPOSE = f"""\
services:
  {SERVICE}:
    image: {IMAGE}
    env_file: [{SOURCES[0]}]
    healthcheck: {{test: ["CMD", "true"], interval: 500ms, timeout: 2s, retries: 3}}
  worker:
    image: {IMAGE}
    env_file: [{SOURCES[1]}]
"""


def obstacle() -> str | None:
    """Why services cannot be measured here; None if they can. Starts no engine."""
    if not dockerd.answers():
        return "no Docker Engine answers"
    return None if dockerd.static_busybox() else "there is no static busybox to make an image of"


@contextmanager
def stack(root: Path) -> Iterator[tuple[Server, ComposeProject]]:
    """A server whose targets belong to a stack of two services; its containers and the image go at the end."""
    dockerd.ensure_image(IMAGE)
    server = make_server(root, COMPOSE, f"reconciler-benchmark-{os.getpid()}")
    project = ComposeProject(server.app.name, server.app)
    try:
        yield server, project
    finally:
        project.remove()
        run("docker", "image", "rm", IMAGE)


async def start(server: Server, project: ComposeProject) -> None:
    """The first reconciliation writes the files; an operator starts the services."""
    async with reconciliations.built(server) as (_, reconciler):
        await reconciliations.cost_of(reconciler, "start", Result.APPLIED)
    project.up()
    _wait_until_healthy(project)


async def change(server: Server, project: ComposeProject) -> list[Figure]:
    """Alternate: one key changes in git, and Compose alone recreates the service that uses it."""
    costs, alone, healthy = [], [], []
    async with reconciliations.built(server) as (_, reconciler):
        await reconciler.reconcile(ReconcileRequest("start"))
        for _ in range(CHANGES):
            reconciliations.commit_change(server)
            costs.append(await reconciliations.cost_of(reconciler, "webhook", Result.APPLIED))
            began = time.perf_counter()
            output(*UP, cwd=project.directory)
            alone.append((time.perf_counter() - began) * 1000)
            _wait_until_healthy(project)
            healthy.append((time.perf_counter() - began) * 1000)
    ratios = tuple(cost.wall / base for cost, base in zip(costs, healthy, strict=True))
    return [
        *reconciliations.wall_and_cpu("one key, from commit to service healthy", costs),
        Figure("compose alone, up --force-recreate: wall", "ms", tuple(alone)),
        Figure("compose alone, the same until healthy: wall", "ms", tuple(healthy)),
        Figure("commit to healthy, by compose alone until healthy", "", ratios),
    ]


def _wait_until_healthy(project: ComposeProject) -> None:
    eventually(lambda: project.container(SERVICE)["State"]["Health"]["Status"] == "healthy", timeout=30)
