"""A revision that breaks a contract is stalled; and plans for another revision: on fakes."""

from __future__ import annotations

from reconciler.core.errors import ContractError
from reconciler.core.model.requests import OperatorRequest, ReconcileRequest, RequestKind
from reconciler.core.model.runs import Outcome, Result
from reconciler.core.model.targets import Parser
from reconciler.engine.reconcile import Reconciler
from tests.fakes import API, World, reconcile_once

CONTRACT = "contracts/api.yaml"


def with_contract(world: World, required: str) -> None:
    """From the next commit on, both targets have a contract that requires these keys."""
    world.target_fields["contracts"] = (CONTRACT,)
    world.git.commits[world.git.tip][f"envs/{CONTRACT}"] = required.encode()


async def test_a_revision_that_breaks_its_contract_is_stalled_with_the_key_and_the_rule(world: World) -> None:
    world.commit("b", api="A=2", worker="W=1")
    with_contract(world, "A MISSING")

    outcome = await reconcile_once(world)

    assert outcome.result is Result.STALLED
    assert f"production/api.env: MISSING is missing; {CONTRACT}:1 requires it" in outcome.reason
    assert world.live("api") == "A=1"
    assert not {"backup", "begin", "write"} & {step.partition(" ")[0] for step in world.steps}


async def test_a_revision_that_keeps_its_contract_is_applied(world: World) -> None:
    world.commit("b", api="A=2", worker="W=1")
    with_contract(world, "A")

    assert (await reconcile_once(world)).result is Result.APPLIED
    assert world.live("api") == "A=2"


async def test_a_contract_that_is_not_in_git_stalls_the_revision_and_is_named(world: World) -> None:
    world.commit("b", api="A=2", worker="W=1")
    world.target_fields["contracts"] = (CONTRACT,)

    outcome = await reconcile_once(world)

    assert outcome.result is Result.STALLED
    assert f"envs/{CONTRACT}: the contract does not exist at revision b" in outcome.reason


async def test_a_contract_that_takes_too_long_stalls_the_revision(world: World) -> None:
    world.commit("b", api="A=2", worker="W=1")
    with_contract(world, "A")
    world.journal.fail("contract", ContractError("a contract takes too long", where=CONTRACT))

    outcome = await reconcile_once(world)

    assert (outcome.result, outcome.reason) == (
        Result.STALLED,
        f"production/api.env: {CONTRACT}: a contract takes too long. Nothing was written",
    )


async def test_a_hand_edit_is_reverted_whatever_the_contract_says_now(world: World) -> None:
    with_contract(world, "MISSING")
    world.host.put(API, b"A=by-hand\n")

    assert (await reconcile_once(world)).result is Result.CORRECTED
    assert world.live("api") == "A=1"


async def test_git_is_not_blamed_for_a_key_left_to_the_server(world: World) -> None:
    world.commit("b", api="A=2", worker="W=1")
    with_contract(world, "A LOCAL_ONE")
    world.target_fields["ignore_keys"] = ("LOCAL_*",)

    assert (await reconcile_once(world)).result is Result.APPLIED


async def test_a_contract_for_a_file_without_keys_is_reported(world: World) -> None:
    world.commit("b", api="A=2", worker="W=1")
    with_contract(world, "A")
    world.target_fields["parser"] = Parser.OPAQUE

    outcome = await reconcile_once(world)

    assert outcome.result is Result.STALLED
    assert "no keys to check against it" in outcome.reason


async def plan_at(world: World, reconciler: Reconciler, name: str) -> Outcome:
    operator = OperatorRequest(RequestKind.PLAN, name.ljust(40, "0"))
    return await reconciler.reconcile(ReconcileRequest("plan", dry_run=True, operator=operator))


async def test_a_plan_for_another_revision_shows_keys_and_services(world: World) -> None:
    world.commit("b", api="A=2", worker="W=1")
    world.commit("c", api="A=1", worker="W=1")

    outcome = await plan_at(world, Reconciler(world.ports(), "production"), "b")

    assert outcome.plan is not None
    assert outcome.revision is not None
    assert outcome.revision.commit.startswith("b")
    assert [(change.target.source, change.keys.changed) for change in outcome.plan.writes] == [("api.env", ("A",))]
    assert [action.service for action in outcome.plan.actions] == ["api"]


async def test_a_plan_for_another_revision_changes_nothing_that_a_daemon_remembers(world: World) -> None:
    world.commit("b", api="A=2", worker="W=1")
    world.commit("c", api="A=1", worker="W=1")
    reconciler = Reconciler(world.ports(), "production")
    await reconciler.reconcile(ReconcileRequest("start"))
    seen, steps = world.metrics.plan, len(world.steps)

    await plan_at(world, reconciler, "b")

    assert world.metrics.plan is seen
    assert not {"backup", "begin", "write", "finish"} & {step.partition(" ")[0] for step in world.steps[steps:]}
    world.steps.clear()
    assert (await reconciler.reconcile(ReconcileRequest("poll"))).result is Result.IN_SYNC
    assert world.steps == ["ls-remote"], "the desired revision was read again"


async def test_a_plan_for_a_revision_that_the_branch_does_not_have_is_an_error(world: World) -> None:
    outcome = await plan_at(world, Reconciler(world.ports(), "production"), "f")

    assert outcome.result is Result.FAILED
    assert world.live("api") == "A=1"
