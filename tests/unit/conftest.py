from __future__ import annotations

import pytest

from reconciler.core.model import Result
from tests.fakes import API, WORKER, World, one_pass


@pytest.fixture
async def world() -> World:
    """api and worker run at revision a, everything in sync."""
    world = World()
    world.commit("a", api="A=1", worker="W=1")
    world.host.put(API, b"A=1\n")
    world.host.put(WORKER, b"W=1\n")
    world.compose.start("api", "worker")
    outcome = await one_pass(world)
    assert outcome.result is Result.IN_SYNC, outcome.reason
    world.steps.clear()
    return world
