"""A service that somebody changed on the engine itself: found, repaired or reported, by name and never by value."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

import pytest

from reconciler.adapters.metrics import PrometheusMetrics
from reconciler.app.daemon.answers.serialize import serialize_outcome
from reconciler.cli.layout import Page
from reconciler.cli.plan_reports import outcome_report, plan_report
from reconciler.core.model.plans import Effect, ServiceDrift
from reconciler.core.model.records import Pause
from reconciler.core.model.requests import OperatorRequest, ReconcileRequest, RequestKind
from reconciler.core.model.runs import Outcome, Result
from reconciler.core.model.targets import OnDrift, OnFailure
from reconciler.engine.reconcile import Reconciler
from tests.fakes import API, World, reconcile_once

EDITED = {"A": "hunter2-by-hand", "B": "hunter2-new"}


@pytest.fixture
async def kept(world: World) -> World:
    """The world, whose engine keeps the services api and worker."""
    world.compose.keep("api", "worker")
    assert (await reconcile_once(world)).result is Result.IN_SYNC
    world.steps.clear()
    return world


def drifts(outcome: Outcome) -> tuple[ServiceDrift, ...]:
    assert outcome.plan is not None
    return outcome.plan.drifts


def environment_of(world: World, service: str) -> Mapping[str, str]:
    assert world.compose.kept is not None
    return world.compose.kept[service].fields["environment"]


def printed(lines: list[str]) -> str:
    return "\n".join(lines)


async def test_a_hand_edit_is_taken_back_and_named(kept: World) -> None:
    kept.compose.change_by_hand("api", environment=EDITED, image={"": "evil:9"})
    plan = await Reconciler(kept.ports(), "production").reconcile(ReconcileRequest("plan", dry_run=True))
    outcome = await reconcile_once(kept)
    assert outcome.result is Result.CORRECTED
    assert outcome.reason == "redeployed api (A, B, image were changed by hand); api healthy on the new values"
    (drift,) = drifts(outcome)
    assert (drift.keys.changed, drift.keys.removed, drift.fields) == (("A",), ("B",), ("image",))
    assert drift.details == ("image: the service has evil:9, the project now says app:1",)
    assert environment_of(kept, "api") == {"A": "1"}
    assert "recreate worker" not in " ".join(kept.steps)
    assert kept.metrics.corrections == ["app/api"]
    assert outcome.after is not None
    assert outcome.after.drifts == ()
    (run, *_) = kept.store.runs("production", 1)
    assert [(action.service, action.repairs, action.reason) for action in run.actions] == [
        ("api", True, "A, B, image were changed by hand")
    ]
    said = [serialize_outcome(each) for each in (plan, outcome)]
    assert said[0]["result"] == "drifted"
    page = Page()
    text = printed([*plan_report([said[0]], page), *outcome_report([said[1]], page)])
    assert "app/api" in text
    assert "drifted (changed by hand on the engine)" in text
    assert "hunter2" not in text + json.dumps(said)


async def test_a_reported_hand_edit_stays_and_waits_for_an_operator(kept: World) -> None:
    kept.stack = replace(kept.stack, on_drift=OnDrift.REPORT)
    kept.compose.change_by_hand("api", environment=EDITED)
    reconciler = Reconciler(kept.ports(), "production")
    for _ in range(2):  # it is said for as long as it lasts
        outcome = await reconciler.reconcile(ReconcileRequest("drift"))
        assert (outcome.result, outcome.error_id) == (Result.HELD, "service-drift")
        assert [drift.effect for drift in drifts(outcome)] == [Effect.REPORT]
        assert outcome.reason.endswith("app/api: A, B were changed by hand; on_drift is report")
    assert environment_of(kept, "api") == EDITED
    kept.commit("b", api="A=2", worker="W=1")
    outcome = await reconciler.reconcile(ReconcileRequest("poll"))
    assert (outcome.result, outcome.error_id) == (Result.HELD, "service-drift")
    assert "changed by hand, and git changes it too. api: environment: A, B of the service and of the" in outcome.reason
    assert "`reconciler sync --accept-project production/app`" in outcome.reason
    assert kept.live("api") == "A=1"
    assert environment_of(kept, "api") == EDITED
    request = ReconcileRequest("manual", accept_projects=frozenset({"production/app"}))
    assert (await reconciler.reconcile(request)).result is Result.APPLIED
    assert environment_of(kept, "api") == {"A": "2"}


async def test_git_and_a_hand_at_the_same_time_end_as_git_says(kept: World) -> None:
    kept.compose.change_by_hand("api", environment={"A": "hunter2"}, image={"": "evil:9"})
    kept.commit("b", api="A=2", worker="W=1")
    outcome = await reconcile_once(kept)
    assert outcome.result is Result.APPLIED
    assert kept.compose.kept is not None
    assert kept.compose.kept["api"].fields["image"] == {"": "app:1"}
    assert environment_of(kept, "api") == {"A": "2"}
    (run, *_) = kept.store.runs("production", 1)
    assert [action.repairs for action in run.actions] == [True]
    assert "A, image were changed by hand" in run.actions[0].reason
    assert "redeployed api (" in outcome.reason


async def test_a_file_and_the_service_edited_by_hand_are_both_restored(kept: World) -> None:
    kept.host.put(API, b"A=edited\n")
    kept.compose.change_by_hand("api", image={"": "evil:9"})
    outcome = await reconcile_once(kept)
    assert outcome.result is Result.CORRECTED
    assert kept.live("api") == "A=1"
    assert kept.compose.kept is not None
    assert kept.compose.kept["api"].fields["image"] == {"": "app:1"}


async def test_a_service_that_was_removed_is_created_again(kept: World) -> None:
    assert kept.compose.kept is not None
    del kept.compose.kept["api"], kept.compose.running["api"]
    outcome = await reconcile_once(kept)
    assert outcome.result is Result.CORRECTED
    assert [(drift.service, drift.missing) for drift in drifts(outcome)] == [("api", True)]
    assert environment_of(kept, "api") == {"A": "1"}


async def test_a_stack_that_was_taken_down_stays_down(kept: World) -> None:
    kept.compose.kept, kept.compose.running = {}, {}
    outcome = await reconcile_once(kept)
    assert (outcome.result, drifts(outcome)) == (Result.IN_SYNC, ())
    assert all(service.acknowledged for stack in kept.metrics.stacks for service in stack.services)


async def test_a_scale_by_hand_is_noted_and_kept(kept: World) -> None:
    kept.compose.change_by_hand("api", replicas=3)
    outcome = await reconcile_once(kept)
    assert (outcome.result, drifts(outcome)) == (Result.IN_SYNC, ())
    assert outcome.plan is not None
    assert outcome.plan.notes == ("stack app: api is scaled to 3 by hand, the project says 1. It stays so",)
    kept.commit("b", api="A=2", worker="W=1")
    await reconcile_once(kept)
    assert kept.compose.kept is not None
    assert kept.compose.kept["api"].replicas == 3


@pytest.mark.parametrize("replicas", [0, 1])
async def test_a_service_that_was_scaled_down_by_hand_is_said_so(kept: World, replicas: int) -> None:
    kept.compose.running["api-2"] = replace(kept.compose.running["api"], id="second")
    kept.compose.change_by_hand("api", replicas=2)
    await reconcile_once(kept)
    del kept.compose.running["api-2"]
    if not replicas:
        del kept.compose.running["api"]
    kept.compose.change_by_hand("api", replicas=replicas)
    await reconcile_once(kept)
    (api, *_) = (service for stack in kept.metrics.stacks for service in stack.services if service.service == "api")
    if replicas:
        assert api.healthy
    else:
        assert (api.state, api.acknowledged) == ("stopped", False)
        assert api.reason.startswith("scaled to 0 by hand")


async def test_a_service_scaled_to_none_gets_the_new_values_without_a_container(kept: World) -> None:
    del kept.compose.running["api"]
    kept.compose.change_by_hand("api", replicas=0)
    await reconcile_once(kept)
    kept.commit("b", api="A=2", worker="W=1")
    assert (await reconcile_once(kept)).result is Result.APPLIED
    assert kept.compose.kept is not None
    assert (environment_of(kept, "api"), kept.compose.kept["api"].replicas) == ({"A": "2"}, 0)
    assert "api" not in kept.compose.running


async def test_an_unchanged_engine_costs_an_idle_reconciliation_nothing(kept: World) -> None:
    reconciler = Reconciler(kept.ports(), "production")
    await reconciler.reconcile(ReconcileRequest("start"))
    kept.steps.clear()
    await reconciler.reconcile(ReconcileRequest("engine"))
    assert "model" not in kept.steps
    kept.compose.change_by_hand("api", environment=EDITED)
    assert (await reconciler.reconcile(ReconcileRequest("engine"))).result is Result.CORRECTED


async def test_nothing_of_a_paused_stack_is_deployed_again(kept: World) -> None:
    record = kept.store.environment("production")
    pause = Pause("production/app", kept.clock.now() + 60, "", kept.clock.now())
    kept.store.save_environment(replace(record, pauses=(pause,)))
    kept.compose.change_by_hand("api", environment=EDITED)
    outcome = await reconcile_once(kept)
    assert [drift.effect for drift in drifts(outcome)] == [Effect.HOLD]
    assert environment_of(kept, "api") == EDITED


async def test_somebody_who_keeps_changing_a_service_is_not_fought(kept: World) -> None:
    outcomes = []
    for number in range(5):
        kept.compose.change_by_hand("api", environment={"A": str(number + 7)})
        outcomes.append(await reconcile_once(kept))
    assert [outcome.result for outcome in outcomes[:3]] == [Result.CORRECTED] * 3
    assert "conflicting writer: restored 3 times within an hour" in outcomes[-1].reason
    assert environment_of(kept, "api") == {"A": "11"}


async def test_a_stack_that_another_loader_read_is_held_at_first_contact(kept: World) -> None:
    """Docker's own loader keeps the quotes of env files: nobody has changed a value."""
    assert kept.compose.kept is not None
    quoted = {**kept.compose.kept["api"].fields, "environment": {"A": "'1'"}}
    kept.compose.kept["api"] = replace(kept.compose.kept["api"], deployed_as="", fields=quoted)
    api = kept.compose.running["api"]
    kept.compose.running["api"] = replace(api, environment={"A": "'1'"})
    outcome = await reconcile_once(kept)
    assert outcome.result is Result.HELD
    assert "api: environment: A of the service and of the project differ" in outcome.reason
    assert "`reconciler sync --accept-project production/app`" in outcome.reason
    assert "recreate" not in printed(kept.steps)
    request = ReconcileRequest("manual", accept_projects=frozenset({"production/app"}))
    outcome = await Reconciler(kept.ports(), "production").reconcile(request)
    assert (outcome.result, environment_of(kept, "api")) == (Result.CORRECTED, {"A": "1"})
    assert outcome.reason.startswith("api healthy on the new values; an operator accepted the project")


async def test_a_change_of_git_is_deployed_though_another_loader_read_the_value_before(kept: World) -> None:
    assert kept.compose.kept is not None
    quoted = {**kept.compose.kept["api"].fields, "environment": {"A": "'1'"}}
    kept.compose.kept["api"] = replace(kept.compose.kept["api"], deployed_as="", fields=quoted)
    kept.compose.running["api"] = replace(kept.compose.running["api"], environment={"A": "'1'"})
    kept.commit("b", api="A=2", worker="W=1")
    assert (await reconcile_once(kept)).result is Result.APPLIED
    assert environment_of(kept, "api") == {"A": "2"}


async def test_an_edit_of_the_project_is_no_hand_edit(kept: World) -> None:
    assert kept.compose.kept is not None
    kept.compose.kept["api"] = replace(kept.compose.kept["api"], deployed_as="another", fields={"image": {"": "app:0"}})
    outcome = await reconcile_once(kept)
    assert (outcome.result, drifts(outcome)) == (Result.IN_SYNC, ())
    kept.commit("b", api="A=2", worker="W=1")
    outcome = await reconcile_once(kept)
    assert outcome.result is Result.HELD
    assert "api: image: the service has app:0, the project now says app:1" in outcome.reason


def test_metrics_say_what_was_changed_and_that_it_was_taken_back() -> None:
    metrics = PrometheusMetrics("1", ["production"], host="ada")
    labels = {"environment": "production", "stack": "app", "service": "api"}

    def value(name: str, **more: str) -> float | None:
        return metrics.registry.get_sample_value(f"reconciler_{name}", {**labels, **more})

    assert value("service_drift_detected_total") is None
    drift = ServiceDrift("app", "api", Effect.WRITE, "", fields=("image",))
    metrics.observe_drifts("production", [drift])
    metrics.observe_drifts("production", [drift])
    assert (value("service_drift", kind="definition"), value("service_drift", kind="environment")) == (1, None)
    assert value("service_drift_detected_total") == 1
    metrics.services_corrected("production", [("app", "api")])
    metrics.observe_drifts("production", [])
    metrics.render()
    assert (value("service_drift", kind="definition"), value("service_drift_corrected_total")) == (None, 1)


async def test_with_on_failure_hold_what_the_engine_rolled_back_is_said_and_not_deployed_again(kept: World) -> None:
    kept.stack = replace(kept.stack, on_failure=OnFailure.HOLD)
    assert kept.compose.kept is not None
    before = kept.compose.kept["api"], kept.compose.running["api"]

    def roll_back() -> None:
        assert kept.compose.kept is not None
        kept.compose.kept["api"] = before[0]
        failed = replace(before[1], state="exited", health="", error="update rolled back due to task t9: exit (3)")
        kept.compose.running["api"] = failed

    kept.compose.after_recreate = roll_back
    kept.commit("b", api="A=2", worker="W=1")
    reconciler = Reconciler(kept.ports(), "production")
    outcome = await reconciler.reconcile(ReconcileRequest("poll"))
    assert outcome.result is Result.FAILED
    mixed = "The engine rolled api back by itself: it runs with the old values of A. The files have the new ones"
    assert mixed in outcome.reason
    assert kept.live("api") == "A=2"
    kept.compose.running["api"] = before[1]  # as another process sees it: a rollback that was not ours
    for known in (reconciler, Reconciler(kept.ports(), "production")):
        kept.steps.clear()
        outcome = await known.reconcile(ReconcileRequest("engine"))
        assert (outcome.result, outcome.error_id, drifts(outcome)) == (Result.FAILED, "degraded", ())
        assert mixed in outcome.reason
        assert not [step for step in kept.steps if step.startswith("recreate")]
    kept.compose.after_recreate = lambda: None
    retry = OperatorRequest(RequestKind.RETRY, requested_by="ada")
    outcome = await reconciler.reconcile(ReconcileRequest("manual", operator=retry))
    assert outcome.result is Result.CORRECTED, outcome
    assert environment_of(kept, "api") == {"A": "2"}
