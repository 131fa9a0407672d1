"""Several things at once: two stacks, pauses, pins, quarantines, unfinished runs, an engine or a disk that is gone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from reconciler.core.errors import (
    BackupUnusableError,
    EngineUnavailableError,
    LiveFileError,
    ManifestError,
)
from reconciler.core.model.compose import Action, ActionKind
from reconciler.core.model.records import EnvironmentRecord
from reconciler.core.model.requests import OperatorRequest, ReconcileRequest, RequestKind
from reconciler.core.model.revisions import GitRevert, Revision, Verify
from reconciler.core.model.runs import Outcome, Result, Run
from reconciler.core.model.targets import HealthPolicy, HttpCheck, Manifest, OnDrift, OnFailure, Stack
from reconciler.engine.reconcile import Reconciler
from tests.fakes import API, APP, World, reconcile_once

WEB = f"{APP}/web.env"
GONE = EngineUnavailableError("gone")


@pytest.fixture
def two(new_world: Callable[[], World]) -> World:
    """Stack app with the service api, stack two with web; nothing has happened yet."""
    world = new_world()
    world.other_stacks = (Stack("production", "two", APP),)
    world.compose.stacks["web"] = "two"
    return world


async def start(world: World, **files: str) -> None:
    """Everything in sync at revision a."""
    for service, text in files.items():
        world.host.put(f"{APP}/{service}.env", (text.replace(" ", "\n") + "\n").encode())
    world.compose.start(*files)
    world.commit("a", **files)
    assert (await reconcile_once(world)).result is Result.IN_SYNC


async def send(world: World, kind: RequestKind, **fields: str | float) -> Outcome:
    return await reconcile_once(world, operator=OperatorRequest(kind, **fields))  # type: ignore[arg-type]


def running(world: World, service: str) -> str:
    """What the service's container was made with."""
    return " ".join(f"{key}={value}" for key, value in world.compose.running[service].environment.items())


def pending_restarts(world: World) -> list[str]:
    return sorted({action.service for action in world.store.debts})


# --- who is to blame, with two stacks --------------------------------------------------------------------------------


async def test_a_stack_that_failed_before_does_not_hide_what_the_change_does_to_another(two: World) -> None:
    two.compose.sick = {"A=": "unhealthy", "X=bad": "unhealthy"}
    await start(two, api="A=1", web="X=1")
    two.commit("b", api="A=2", web="X=bad")
    outcome = await reconcile_once(two)
    assert outcome.result is Result.ROLLED_BACK, outcome.reason
    assert running(two, "web") == "X=1"


async def test_a_rollback_is_not_a_success_where_any_stack_is_not_as_healthy_as_before(two: World) -> None:
    two.compose.sick = {"A=": "unhealthy", "X=bad": "unhealthy"}
    await start(two, api="A=1", web="X=1")

    def never_again() -> None:
        if two.live("web") == "X=1":
            two.compose.running["web"] = replace(two.compose.running["web"], health="unhealthy")

    two.compose.after_recreate = never_again
    two.commit("b", api="A=2", web="X=bad")
    outcome = await reconcile_once(two)
    assert outcome.result is Result.ROLLBACK_FAILED, outcome.reason
    assert list(two.store.record.stopped) == ["two"]


async def test_a_url_that_was_silent_before_does_not_excuse_another(two: World) -> None:
    two.stack = replace(two.stack, health=HealthPolicy(http=(HttpCheck("http://a"), HttpCheck("http://b"))))
    two.probe.silent = {"http://b"}
    await start(two, api="A=1", web="X=1")
    two.compose.after_recreate = lambda: two.probe.silent.update({"http://a"} if two.live("api") == "A=bad" else set())
    two.commit("b", api="A=bad", web="X=1")
    outcome = await reconcile_once(two)
    assert outcome.result is not Result.FAILED, outcome.reason
    assert two.live("api") == "A=1"


async def test_hold_on_a_stack_that_the_change_does_not_touch_holds_nothing(two: World) -> None:
    two.other_stacks = (Stack("production", "two", APP, on_failure=OnFailure.HOLD),)
    await start(two, api="A=1", web="X=1")
    two.compose.sick["A=bad"] = "unhealthy"
    two.commit("b", api="A=bad", web="X=1")
    assert (await reconcile_once(two)).result is Result.ROLLED_BACK
    assert two.live("api") == "A=1"


# --- a rollback that fails, and retry --------------------------------------------------------------------------------


async def failed_rollback(world: World, *, report: bool = False) -> None:
    """The file of app cannot be restored."""
    if report:
        world.target_fields = {"on_drift": OnDrift.REPORT}
    await start(world, api="A=1", web="X=1")
    world.compose.sick["A=bad"] = "unhealthy"
    world.commit("b", api="A=bad", web="X=1")
    world.journal.fail("write", LiveFileError("read-only"), after=1)
    assert (await reconcile_once(world)).result is Result.ROLLBACK_FAILED


@pytest.mark.parametrize("report", [False, True], ids=["restore", "report"])
async def test_retry_continues_a_failed_rollback(two: World, report: bool) -> None:
    await failed_rollback(two, report=report)
    outcome = await send(two, RequestKind.RETRY)
    assert outcome.result is Result.IN_SYNC, outcome.reason
    assert (two.live("api"), running(two, "api")) == ("A=1", "A=1")
    assert two.store.finished[-1][1] is Result.ROLLED_BACK
    assert "quarantined" in outcome.warning, "a second retry lifts that"
    two.compose.sick.clear()
    assert (await send(two, RequestKind.RETRY)).result is Result.APPLIED


async def test_every_file_that_can_be_restored_is(two: World) -> None:
    await start(two, api="A=1", web="X=1")
    two.compose.sick["A=bad"] = "unhealthy"
    two.commit("b", api="A=bad", web="X=2")
    two.journal.fail("write", LiveFileError("read-only"), after=2)
    outcome = await reconcile_once(two)
    assert outcome.result is Result.ROLLBACK_FAILED
    assert (two.live("web"), running(two, "web")) == ("X=1", "X=1")
    assert list(two.store.record.stopped) == ["app"]


async def test_retry_is_refused_while_a_rollback_waits_for_the_engine(two: World) -> None:
    await start(two, api="A=1", web="X=1")
    two.compose.sick["A=bad"] = "unhealthy"
    two.commit("b", api="A=bad", web="X=1")
    two.journal.fail("recreate", GONE, after=1)
    assert (await reconcile_once(two)).retry
    refused = await send(two, RequestKind.RETRY)
    assert refused.refused
    assert "is being rolled back" in refused.reason
    assert (await reconcile_once(two)).result is Result.ROLLED_BACK
    assert "quarantined" in (await reconcile_once(two)).warning


async def test_a_rollback_of_a_removed_stack_ends_and_a_fix_is_applied(two: World) -> None:
    await start(two, api="A=1", web="X=1")
    two.compose.sick["A=bad"] = "unhealthy"
    two.commit("b", api="A=bad", web="X=1")
    two.journal.fail("recreate", GONE, after=1)
    assert (await reconcile_once(two)).retry
    two.stack = replace(two.stack, name="renamed")
    outcome = await reconcile_once(two)
    assert outcome.result is Result.ROLLBACK_FAILED
    assert "the stack app is no longer known on this server" in outcome.reason
    assert two.live("api") == "A=1"


async def test_a_rollback_whose_manifest_can_no_longer_be_read_ends(two: World) -> None:
    await start(two, api="A=1", web="X=1")
    two.compose.sick["A=bad"] = "unhealthy"
    two.commit("b", api="A=bad", web="X=1")
    two.journal.fail("recreate", GONE, after=1)
    assert (await reconcile_once(two)).retry

    def refuses(text: bytes, environment: str, file: str) -> Manifest:
        raise ManifestError("outside allowed_paths")

    ports = replace(two.ports(), read_manifest=refuses)
    assert (await Reconciler(ports, "production").reconcile(ReconcileRequest("poll"))).result is Result.ROLLBACK_FAILED


# --- pauses ----------------------------------------------------------------------------------------------------------


async def test_an_unfinished_run_lifts_no_pause_of_what_it_does_not_touch(two: World) -> None:
    await start(two, api="A=1", web="X=1")
    await send(two, RequestKind.PAUSE, scope="production/two", seconds=3600.0)
    two.host.put(WEB, b"X=hand\n")
    two.commit("b", api="A=2", web="X=1")
    two.journal.fail("recreate", GONE)
    await reconcile_once(two)
    outcome = await reconcile_once(two)
    assert outcome.result is Result.HELD
    assert (running(two, "api"), two.live("web")) == ("A=2", "X=hand")


@pytest.mark.parametrize("end", ["time", "resume"])
async def test_older_values_in_a_container_are_found_again_after_a_pause(two: World, end: str) -> None:
    await start(two, api="A=1", web="X=1")
    reconciler = Reconciler(two.ports(), "production")
    await reconciler.reconcile(ReconcileRequest("pause", operator=OperatorRequest(RequestKind.PAUSE, seconds=600.0)))
    stale(two)
    assert (await reconciler.reconcile(ReconcileRequest("poll"))).result is Result.HELD
    if end == "time":
        two.clock.time += 1000
        outcome = await reconciler.reconcile(ReconcileRequest("poll"))
    else:
        outcome = await reconciler.reconcile(ReconcileRequest("resume", operator=OperatorRequest(RequestKind.RESUME)))
    assert outcome.result is Result.CORRECTED, outcome.reason
    assert running(two, "api") == "A=1"


def stale(world: World) -> None:
    """Somebody recreated api's container with other values, a while ago."""
    world.clock.time += 100
    world.compose.running["api"] = replace(world.compose.running["api"], id="by-hand", environment={"A": "0"})


async def test_older_values_in_a_container_are_found_again_after_a_look_that_failed(two: World) -> None:
    await start(two, api="A=1", web="X=1")
    reconciler = Reconciler(two.ports(), "production")
    await reconciler.reconcile(ReconcileRequest("poll"))
    stale(two)
    two.journal.fail("model", EngineUnavailableError("no answer in 60 s"))
    assert (await reconciler.reconcile(ReconcileRequest("poll"))).result is Result.FAILED
    assert (await reconciler.reconcile(ReconcileRequest("poll"))).result is Result.CORRECTED
    assert running(two, "api") == "A=1"


async def test_with_the_engine_gone_every_reconciliation_says_so(two: World) -> None:
    await start(two, api="A=1", web="X=1")
    reconciler = Reconciler(two.ports(), "production")
    await reconciler.reconcile(ReconcileRequest("poll"))
    two.compose.reachable = False
    results = []
    for _ in range(3):
        two.clock.time += 70
        results += [
            (await reconciler.reconcile(ReconcileRequest("poll"))).result,
            (await reconciler.reconcile(ReconcileRequest("drift"))).result,
        ]
    assert set(results) == {Result.FAILED}


# --- pending restarts ---------------------------------------------------------------------------------------------


async def owing(world: World) -> None:
    """b is written, but its service is not recreated."""
    await start(world, api="A=1", web="X=1")
    world.commit("b", api="A=2", web="X=1")
    world.journal.fail("recreate", GONE)
    await reconcile_once(world)
    assert pending_restarts(world) == ["api"]


async def test_a_restart_stays_pending_if_the_next_run_writes_nothing(two: World) -> None:
    await owing(two)
    two.commit("c", api="A=1", web="X=3")
    two.journal.fail("write", LiveFileError("disk full"), after=1)
    assert (await reconcile_once(two)).retry
    assert pending_restarts(two) == ["api"]
    two.steps.clear()
    assert (await reconcile_once(two)).result is Result.APPLIED
    assert "api" in " ".join(step for step in two.steps if step.startswith("recreate"))
    assert pending_restarts(two) == []


async def test_pending_restarts_of_a_stopped_stack_outlive_the_rollback_of_another(two: World) -> None:
    await failed_rollback(two)
    two.compose.sick["X=bad"] = "unhealthy"
    two.commit("c", api="A=bad", web="X=bad")
    assert (await reconcile_once(two)).result is Result.ROLLED_BACK
    assert two.live("web") == "X=1"
    assert pending_restarts(two) == ["api"]


async def test_a_pending_restart_of_a_removed_service_is_forgotten(two: World) -> None:
    await start(two, api="A=1", web="X=1")
    run = Run("r9", "production", "poll", 1.0, Revision("a" * 40, "s"))
    action = Action("app", "gone", ActionKind.RECREATE, "an earlier run")
    two.store.finish(run, Result.FAILED, "", at=1.0, record=two.store.record, pending_restarts=[action])
    await reconcile_once(two)
    assert pending_restarts(two) == []


# --- ends ------------------------------------------------------------------------------------------------------------


async def test_keys_left_to_the_server_keep_their_value_in_a_rollback(two: World) -> None:
    two.target_fields = {"ignore_keys": ("TAG",)}
    await start(two, api="A=1 TAG=v1", web="X=1")
    two.commit("b", api="A=2 TAG=v1", web="X=1")
    two.journal.fail("recreate", GONE)
    await reconcile_once(two)
    two.host.put(API, b"A=2\nTAG=v2\n")  # a deployment
    two.commit("c", api="A=3 TAG=v1", web="X=1")
    assert (await reconcile_once(two)).result is Result.APPLIED
    assert two.live("api") == "A=3 TAG=v2"


async def test_an_unfinished_run_with_a_damaged_backup_ends_and_the_live_file_is_backed_up(two: World) -> None:
    await owing(two)

    two.journal.fail("read-backup", BackupUnusableError("its digest differs"))
    two.commit("c", api="A=3", web="X=1")
    assert (await reconcile_once(two)).result is Result.APPLIED
    assert any(data.reveal() == b"A=2\n" for _, files in two.backups.taken for data in files.values())


async def test_many_runs_of_another_environment_push_out_no_unfinished_one(two: World) -> None:
    await owing(two)
    record = EnvironmentRecord("other")
    for number in range(1002):
        run = Run(f"o{number}", "other", "drift", 0.0, Revision("1" * 40, "t"))
        two.store.finish(run, Result.CORRECTED, "", at=0.0, record=record)
    assert two.store.open_run is not None
    assert len(two.store.runs("other", 5000)) == 1000


# --- quarantines, pins, reverts --------------------------------------------------------------------------------------


async def test_a_second_quarantine_does_not_let_the_first_revision_in_again(two: World) -> None:
    await start(two, api="A=1", web="X=1")
    for name in "pq":
        two.commit(name, api=f"A={name}", web="X=1")
        await reconcile_once(two)
    two.compose.sick = {"A=bad": "unhealthy", "A=p": "unhealthy"}
    two.commit("b", api="A=bad", web="X=1")
    assert (await reconcile_once(two)).result is Result.ROLLED_BACK
    assert (await send(two, RequestKind.ROLLBACK, revision="p")).result is Result.ROLLED_BACK
    two.steps.clear()
    outcome = await send(two, RequestKind.UNPIN)
    assert "quarantined" in outcome.warning
    assert not [step for step in two.steps if step.startswith("write")]


async def test_rolling_back_by_hand_twice_goes_further_back(two: World) -> None:
    await start(two, api="A=1", web="X=1")
    for name, value in (("b", "2"), ("c", "3")):
        two.commit(name, api=f"A={value}", web="X=1")
        await reconcile_once(two)
    seen = []
    for _ in range(2):
        await send(two, RequestKind.ROLLBACK)
        seen.append(two.live("api"))
    assert seen == ["A=2", "A=1"]
    assert (await send(two, RequestKind.ROLLBACK)).refused


async def test_a_revert_undoes_nothing_that_was_healthy_while_part_of_it_was_paused(two: World) -> None:
    two.settings = replace(two.settings, git_revert=GitRevert.PUSH)
    await start(two, api="A=1", web="X=1")
    await send(two, RequestKind.PAUSE, scope="production/two", seconds=3600.0)
    two.commit("b", api="A=2", web="X=2")
    assert (await reconcile_once(two)).result is Result.HELD
    two.compose.sick["A=bad"] = "unhealthy"
    two.commit("c", api="A=bad", web="X=2")
    assert (await reconcile_once(two)).result is Result.ROLLED_BACK
    assert [(revert.good[:1], revert.failed[:1]) for revert, _ in two.git_writer.requests] == [("b", "c")]
    await reconcile_once(two)
    assert two.live("api") == "A=2"


async def test_a_revision_whose_paused_part_turns_out_bad_is_rolled_back_as_a_whole(two: World) -> None:
    await start(two, api="A=1", web="X=1")
    await send(two, RequestKind.PAUSE, scope="production/two", seconds=600.0)
    two.compose.sick["X=bad"] = "unhealthy"
    two.commit("b", api="A=2", web="X=bad")
    assert (await reconcile_once(two)).result is Result.HELD
    two.clock.time += 1000
    assert (await reconcile_once(two)).result is Result.ROLLED_BACK
    await reconcile_once(two)
    assert (two.live("api"), two.live("web")) == ("A=1", "X=1")
    assert "quarantined" in (await reconcile_once(two)).warning


async def test_a_revert_begins_at_the_good_revision_even_if_an_older_one_was_pinned_since(two: World) -> None:
    two.settings = replace(two.settings, git_revert=GitRevert.PUSH)
    await start(two, api="A=1", web="X=1")
    two.commit("b", api="A=2", web="X=1")
    await reconcile_once(two)
    await send(two, RequestKind.ROLLBACK)
    two.compose.sick["A=bad"] = "unhealthy"
    two.commit("c", api="A=bad", web="X=1")
    assert (await send(two, RequestKind.UNPIN)).result is Result.ROLLED_BACK
    assert [(revert.good[:1], revert.failed[:1]) for revert, _ in two.git_writer.requests] == [("b", "c")]


async def test_a_rewrite_can_be_accepted_even_if_git_no_longer_has_what_it_replaces(two: World) -> None:
    two.settings = replace(two.settings, verify=Verify.RANGE)
    await start(two, api="A=1", web="X=1")

    two.git.forgotten.add(two.git.tip)
    two.git.rewritten = True
    two.commit("b", api="A=2", web="X=1")
    assert (await reconcile_once(two)).result is Result.IN_SYNC
    assert (await send(two, RequestKind.ACCEPT_REWRITE)).result is Result.APPLIED


async def test_a_refused_request_reconciles_nothing(two: World) -> None:
    await start(two, api="A=1", web="X=1")
    two.metrics.results.clear()
    assert (await send(two, RequestKind.UNPIN)).refused
    assert two.metrics.results == []
