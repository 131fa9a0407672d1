from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from reconciler.core.model.runs import Result
from tests.fakes import API, WORKER, World, reconcile_once


@pytest.fixture
def new_world(tmp_path: Path) -> Iterator[Callable[[], World]]:
    """``new_world()`` makes a world in which nothing has happened yet."""
    with contextlib.ExitStack() as stack:

        def make() -> World:
            directory = tmp_path / f"world-{len(list(tmp_path.iterdir()))}"
            directory.mkdir()
            world = World(directory)
            stack.callback(world.store.close)
            return world

        yield make


@pytest.fixture
async def world(new_world: Callable[[], World]) -> World:
    """api and worker run at revision a, everything in sync."""
    world = new_world()
    world.commit("a", api="A=1", worker="W=1")
    world.host.put(API, b"A=1\n")
    world.host.put(WORKER, b"W=1\n")
    world.compose.start("api", "worker")
    outcome = await reconcile_once(world)
    assert outcome.result is Result.IN_SYNC, outcome.reason
    world.steps.clear()
    return world
