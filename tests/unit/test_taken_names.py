"""A container of somebody else has a name that a service needs: nothing is touched, and nothing is tried again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reconciler.adapters.compose.errors import port_in_use
from reconciler.core.model.runs import Result
from tests.fakes import World, reconcile_once


async def test_a_new_revision_is_rolled_back_without_touching_a_service(world: World) -> None:
    world.commit("b", api="A=2", worker="W=1")
    world.compose.taken.add("api")

    outcome = await reconcile_once(world)

    assert outcome.result is Result.ROLLED_BACK
    assert "taken by the container stranger. Rolled back; revision b00000000000 is quarantined" in outcome.reason
    assert world.live("api") == "A=1"
    assert not [step for step in world.steps if step.startswith("recreate")]
    world.steps.clear()
    assert (await reconcile_once(world)).result is Result.IN_SYNC
    assert "begin" not in world.steps


async def test_older_values_are_held_until_the_name_is_free(world: World) -> None:
    world.compose.running["api"] = replace(world.compose.running["api"], id="by-hand", environment={"A": "0"})
    world.compose.taken.add("api")

    for _ in range(2):
        outcome = await reconcile_once(world)
        assert (outcome.result, outcome.run, outcome.error_id) == (Result.HELD, None, "name-or-port-taken")
        assert "taken by the container stranger" in outcome.reason
    world.compose.taken.clear()
    assert (await reconcile_once(world)).result is Result.CORRECTED


@pytest.mark.parametrize(
    ("said", "port"),
    [
        ("driver failed: Bind for 127.0.0.1:18301 failed: port is already allocated", 18301),
        ("Bind for :::18301 failed: port is already allocated", 18301),
        ("failed to bind port 127.0.0.1:18301/tcp: Error starting userland proxy: listen tcp4 127.0.0.1:18301: bind: "
         "address already in use", 18301),
        ("failed to bind host port for 127.0.0.1:18301:172.18.0.2:8000/tcp: address already in use", 18301),
        ("failed to bind host port 0.0.0.0:53/udp: address already in use", 53),
        ("listen tcp6 [::1]:18301: bind: address already in use", 18301),
        ("no such image: 127.0.0.1:5000/app", None),
    ],
)  # fmt: skip
def test_the_port_that_could_not_be_bound(said: str, port: int | None) -> None:
    assert port_in_use(f"Error response from daemon: {said}\n") == port
