"""What of the engine's work is in the history: every decision once, with who asked and why, and what it counts as."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from reconciler.core.model.records import EnvironmentRecord
from reconciler.core.model.requests import GitAnswer, OperatorRequest, ReconcileRequest, RequestKind
from reconciler.core.model.revisions import Revision, Verify
from reconciler.core.model.runs import Outcome, Result, Run
from reconciler.core.model.targets import OnFirstContact
from reconciler.engine.reconcile import Reconciler
from tests.fakes import API, World, reconcile_once

ADA = "root (uid 0), logged in as ada (uid 1000)"


def listed(world: World, count: int = 20) -> list[dict[str, Any]]:
    """Oldest first."""
    return [dict(entry.facts) for entry in reversed(world.store.history(["production"], count))]


def results(world: World) -> list[tuple[str, str]]:
    return [(facts["trigger"], facts["result"]) for facts in listed(world)]


async def send(world: World, kind: RequestKind, **fields: Any) -> Outcome:
    return await reconcile_once(world, kind, OperatorRequest(kind, requested_by=ADA, **fields))


async def reconcile(world: World, **fields: Any) -> Outcome:
    return await Reconciler(world.ports(), "production").reconcile(ReconcileRequest(**{"trigger": "poll", **fields}))


async def test_every_request_is_recorded_with_who_asked_and_why(world: World) -> None:
    world.commit("b", api="A=2", worker="W=1")
    await reconcile_once(world)
    before = len(listed(world, 100))
    await send(world, RequestKind.PAUSE, scope="production/api.env", seconds=600.0, reason="a migration")
    await send(world, RequestKind.RESUME, scope="production/api.env")
    await send(world, RequestKind.ROLLBACK, reason="slow since noon")
    await send(world, RequestKind.UNPIN, reason="fixed")
    await send(world, RequestKind.RETRY)
    decisions = [facts for facts in listed(world, 100)[before:] if facts["result"] == "done"]
    assert [facts["trigger"] for facts in decisions] == ["pause", "resume", "rollback", "unpin", "retry"]
    assert {facts["requested_by"] for facts in decisions} == {ADA}
    assert [facts["request_reason"] for facts in decisions] == ["a migration", "", "slow since noon", "fixed", ""]
    assert decisions[0]["reason"].startswith(f"{ADA} paused production/api.env until 19")
    assert decisions[2]["revision"]["commit"] == "a".ljust(40, "0")
    applied = [facts for facts in listed(world, 100)[before:] if facts["result"] == "applied"]
    assert {(facts["trigger"], facts["requested_by"]) for facts in applied} == {("rollback", ADA), ("unpin", ADA)}
    assert world.store.verify_history().problem == ""


async def test_a_stalled_revision_is_recorded_once_and_again_for_another_reason(world: World) -> None:
    world.commit("b", api="", worker="W=1")
    reconciler = Reconciler(world.ports(), "production")
    for _ in range(5):
        assert (await reconciler.reconcile(ReconcileRequest("poll"))).result is Result.STALLED
    assert (await reconcile(world)).result is Result.STALLED  # after a restart
    assert results(world)[-1] == ("poll", "stalled")
    assert [result for _, result in results(world)].count("stalled") == 1
    world.commit("c", api="", worker="")
    for _ in range(2):
        await reconcile(world)
    assert [result for _, result in results(world)].count("stalled") == 2
    assert world.metrics.changes.count(Result.STALLED) == 2
    assert listed(world)[-1]["revision"]["commit"] == "c".ljust(40, "0")


async def test_drift_that_is_only_reported_is_recorded_again_after_all_was_well(world: World) -> None:
    world.reported.add("api.env")
    world.commit("b", api="A=1", worker="W=2")
    reconciler = Reconciler(world.ports(), "production")
    await reconciler.reconcile(ReconcileRequest("poll"))
    for content in (b"A=hand\n", b"A=hand\n", b"A=1\n", b"A=hand\n"):
        world.host.put(API, content)
        world.clock.time += 40.0
        await reconciler.reconcile(ReconcileRequest("drift"))
    held = [facts for facts in listed(world) if facts["result"] == "held"]
    assert len(held) == 2
    assert held[0]["changes"][0]["changed"] == ["A"]
    assert Result.HELD not in world.metrics.changes


async def test_a_refused_head_is_recorded_once_with_its_author(world: World) -> None:
    world.settings = replace(world.settings, verify=Verify.TIP)
    world.commit("b", api="A=2", worker="W=1")
    world.git.unsigned.add(world.git.tip)
    for _ in range(3):
        await reconcile(world, answer=GitAnswer("b".ljust(40, "0")))
    refused = [facts for facts in listed(world) if facts["result"] == "refused"]
    assert [facts["revision"]["commit"] for facts in refused] == ["b".ljust(40, "0")]


async def test_a_recovery_is_recorded_as_the_metric_measures_it(world: World) -> None:
    world.compose.sick["A=bad"] = "unhealthy"
    world.commit("b", api="A=bad", worker="W=1")
    assert (await reconcile_once(world)).result is Result.ROLLED_BACK
    recovered = [facts for facts in listed(world) if facts["result"] == "recovered"]
    assert [facts["trigger"] for facts in recovered] == ["health"]
    assert world.metrics.changes == [Result.ROLLED_BACK]


async def test_only_changes_of_the_own_environment_count(world: World) -> None:
    reconciler = Reconciler(world.ports(), "production")
    await reconciler.reconcile(ReconcileRequest("poll"))
    elsewhere = Run("r1", "staging", "poll", 1.0, Revision("s" * 40, ""))
    world.store.finish(elsewhere, Result.FAILED, "no", at=2.0, record=EnvironmentRecord("staging"))
    world.commit("b", api="A=2", worker="W=1")
    await reconciler.reconcile(ReconcileRequest("poll"))
    assert world.metrics.changes == [Result.APPLIED]


async def test_what_the_manifest_takes_over_names_nobody(world: World) -> None:
    world.target_fields["on_first_contact"] = OnFirstContact.TAKE_OVER
    world.commit("b", api="A=1", worker="W=1", extra="E=1")
    world.host.put("/opt/app/extra.env", b"E=unknown\n")
    assert (await reconcile(world, trigger="manual", requested_by=ADA)).result is Result.APPLIED
    assert not [facts for facts in listed(world) if facts["accepted"]]


@pytest.mark.parametrize("allowed", [True, False])
async def test_a_take_over_names_who_asked(world: World, allowed: bool) -> None:
    world.commit("b", api="A=1", worker="W=1", extra="E=1")
    world.host.put("/opt/app/extra.env", b"E=unknown\n")
    await reconcile_once(world)
    names = ["production/extra.env"] if allowed else []
    await reconcile(world, trigger="manual", take_over=names, requested_by=ADA, reason="it is ours")
    taken = [facts for facts in listed(world) if facts["accepted"]]
    sentence = f"{ADA} took over production/extra.env"
    assert [facts["accepted"] for facts in taken] == ([[sentence]] if allowed else [])
