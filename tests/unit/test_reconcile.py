"""A reconciliation and its transaction, on fakes: the order of its steps, and what every interruption leaves behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from reconciler.adapters.metrics import PrometheusMetrics
from reconciler.app.daemon.answers.serialize import serialize_environment, serialize_outcome
from reconciler.cli.exit_codes import plan_exit_code, status_exit_code
from reconciler.core.errors import (
    BadCiphertextError,
    EngineUnavailableError,
    GitUnreachableError,
    LiveFileError,
    ManifestError,
    ModelRefusedError,
    StoreUnavailableError,
)
from reconciler.core.model.plans import Aspect, Kind
from reconciler.core.model.records import Pause
from reconciler.core.model.requests import ReconcileRequest
from reconciler.core.model.runs import Outcome, Result
from reconciler.core.model.targets import Manifest, OnDrift, OnFailure, Stack, Target
from reconciler.engine.memory import Claims
from reconciler.engine.reconcile import Reconciler
from tests.fakes import API, APP, WORKER, FakeClock, Killed, World, iv, reconcile_once


async def test_a_change_is_backed_up_begun_written_recreated_and_finished_in_this_order(world: World) -> None:
    world.commit("b", api="A=2", worker="W=1")
    outcome = await reconcile_once(world)
    assert outcome.result is Result.APPLIED
    expected = ["model-staged", f"backup {API}", "begin", f"write {API}", "amend", "recreate api", "finish"]
    steps = [step for step in world.steps if step in (*expected, "model")]
    assert [step for step in steps[-len(expected) - 1 :] if step != "model"] == expected
    assert "model" not in steps[steps.index(expected[1]) :]  # what was resolved before the write still holds
    assert "recreate worker" not in " ".join(world.steps)
    assert world.live("api") == "A=2"


async def test_compose_does_not_read_what_may_not_be_written_as_its_project(world: World) -> None:
    world.commit("b", **{"": "A=2"})
    assert (await reconcile_once(world)).result is Result.APPLIED
    assert "model-staged" in world.steps
    world.steps.clear()
    world.commit("c", **{"": "A=2 GIT_SSH_COMMAND=x"})
    for trigger in ("plan", "manual"):
        outcome = await reconcile_once(world, trigger)
        assert (outcome.result, outcome.error_id) == (Result.STALLED, "project-file"), outcome
    assert "model-staged" not in world.steps


async def test_a_file_that_compose_finds_past_the_staged_one_is_resolved_after_the_write(world: World) -> None:
    world.compose.unseen = {API}
    world.commit("b", api="A=2", worker="W=1")
    assert (await reconcile_once(world)).result is Result.APPLIED
    expected = [f"write {API}", "model", "amend", "recreate api", "finish"]
    assert [step for step in world.steps if step in expected][-len(expected) :] == expected


async def test_a_service_is_seen_healthy_as_soon_as_the_engine_reports_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def report(_: FakeClock, seconds: float) -> None:
        world.compose.running["api"] = replace(world.compose.running["api"], health="healthy")
        world.compose.noticed.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(FakeClock, "sleep", report)
    world.compose.sick["A=2"] = "starting"
    world.commit("b", api="A=2", worker="W=1")
    outcome = await asyncio.wait_for(reconcile_once(world), 20)
    assert outcome.result is Result.APPLIED


async def test_an_idle_reconciliation_asks_git_and_nothing_else(world: World) -> None:
    reconciler = Reconciler(world.ports(), "production")
    await reconciler.reconcile(ReconcileRequest("start"))
    world.steps.clear()
    outcome = await reconciler.reconcile(ReconcileRequest("poll"))
    assert outcome.result is Result.IN_SYNC
    assert world.steps == ["ls-remote"]


async def test_a_commit_elsewhere_in_the_repository_starts_no_run(world: World) -> None:
    runs = len(world.store.finished)
    world.commit("b", api="A=1", worker="W=1")
    outcome = await reconcile_once(world)
    assert outcome.result is Result.IN_SYNC
    assert len(world.store.finished) == runs


async def test_a_dry_run_changes_nothing(world: World) -> None:
    world.commit("b", api="A=2", worker="W=1")
    outcome = await Reconciler(world.ports(), "production").reconcile(ReconcileRequest("plan", dry_run=True))
    assert outcome.plan is not None
    assert [change.keys.changed for change in outcome.plan.writes] == [("A",)]
    assert [action.service for action in outcome.plan.actions] == ["api"]
    assert not {"backup", "begin", "write", "recreate", "finish"} & {step.partition(" ")[0] for step in world.steps}


async def test_a_backup_that_cannot_be_stored_stops_before_anything_is_written(world: World) -> None:
    world.commit("b", api="A=2", worker="W=1")
    world.journal.fail("backup", LiveFileError("disk full"))
    outcome = await reconcile_once(world)
    assert (outcome.result, outcome.retry) == (Result.FAILED, True)
    assert world.live("api") == "A=1"
    assert "begin" not in world.steps


async def test_a_write_that_fails_half_way_restores_the_written_files(world: World) -> None:
    world.commit("b", api="A=2", worker="W=2")
    world.journal.fail("write", LiveFileError("disk full"), after=1)
    outcome = await reconcile_once(world)
    assert (outcome.result, outcome.retry) == (Result.FAILED, True)
    assert (world.live("api"), world.live("worker")) == ("A=1", "W=1")
    assert "as before" in outcome.reason
    assert world.store.debts == ()
    assert (await reconcile_once(world)).result is Result.APPLIED


async def test_a_failed_attempt_leaves_no_backup_that_would_push_out_older_ones(world: World) -> None:
    world.commit("b", api="A=2", worker="W=2")
    world.journal.fail("write", LiveFileError("read-only"), after=1)
    outcome = await reconcile_once(world)
    assert outcome.backup is None
    assert world.backups.taken == []


async def test_an_edit_between_read_and_write_stays_for_the_next_reconciliation(world: World) -> None:
    world.target_fields = {"on_drift": OnDrift.REPORT}
    world.commit("b", api="A=2", worker="W=2")
    world.journal.hooks["begin"] = lambda: world.host.put(WORKER, b"W=hand\n")
    outcome = await reconcile_once(world)
    assert (outcome.result, outcome.retry) == (Result.FAILED, True)
    assert (world.live("api"), world.live("worker")) == ("A=1", "W=hand")
    world.journal.hooks.clear()
    assert (await reconcile_once(world)).result is Result.HELD
    assert world.live("worker") == "W=hand"


async def test_an_engine_that_goes_away_after_the_write_leaves_the_restart_pending(world: World) -> None:
    world.commit("b", api="A=2", worker="W=1")
    world.journal.fail("recreate", EngineUnavailableError("gone"))
    outcome = await reconcile_once(world)
    assert (outcome.result, outcome.retry) == (Result.FAILED, True)
    assert "api" in outcome.reason
    assert world.live("api") == "A=2"
    assert [action.service for action in world.store.debts] == ["api"]
    world.steps.clear()
    again = await reconcile_once(world)
    assert (again.result, again.run) == (Result.APPLIED, outcome.run)
    assert "recreate api" in world.steps
    assert world.store.debts == ()
    assert world.store.record.healthy == again.revision


async def test_pending_restarts_of_a_killed_run_are_done_by_the_next_process(world: World) -> None:
    world.commit("b", api="A=2", worker="W=1")
    world.journal.fail("recreate", Killed())
    with pytest.raises(Killed):
        await reconcile_once(world)
    assert world.live("api") == "A=2"
    assert [action.service for action in world.store.debts] == ["api"]
    world.steps.clear()
    assert (await reconcile_once(world)).result is Result.APPLIED
    assert "recreate api" in world.steps


async def test_an_unhealthy_service_is_rolled_back_and_its_revision_quarantined(world: World) -> None:
    world.compose.sick["A=bad"] = "unhealthy"
    world.commit("b", api="A=bad", worker="W=1")
    outcome = await reconcile_once(world)
    assert outcome.result is Result.ROLLED_BACK, outcome.reason
    assert "api is unhealthy" in outcome.reason
    assert world.live("api") == "A=1"
    assert world.compose.running["api"].environment == {"A": "1"}
    world.steps.clear()
    later = await reconcile_once(world)
    assert later.result is Result.IN_SYNC
    assert "quarantined" in later.warning
    assert not [step for step in world.steps if step.startswith(("write", "recreate"))]
    world.commit("c", api="A=3", worker="W=1")
    assert (await reconcile_once(world)).result is Result.APPLIED
    assert world.live("api") == "A=3"


async def test_a_service_that_was_unhealthy_before_blames_nobody(world: World) -> None:
    world.compose.sick["A="] = "unhealthy"
    world.compose.start("api")
    world.commit("b", api="A=2", worker="W=1")
    outcome = await reconcile_once(world)
    assert outcome.result is Result.FAILED
    assert "as before" in outcome.reason
    assert world.live("api") == "A=2"


async def test_hold_keeps_the_new_files_of_a_failed_revision(world: World) -> None:
    world.stack = Stack("production", "app", APP, on_failure=OnFailure.HOLD)
    world.compose.sick["A=bad"] = "unhealthy"
    world.commit("b", api="A=bad", worker="W=1")
    outcome = await reconcile_once(world)
    assert outcome.result is Result.FAILED
    assert "hold" in outcome.reason
    assert world.live("api") == "A=bad"
    again = await reconcile_once(world)
    assert (again.result, again.reason) == (Result.FAILED, outcome.reason)
    assert world.store.record.healthy is not None
    assert world.store.record.healthy.commit.startswith("a")
    world.compose.sick.clear()
    world.compose.start("api")
    assert (await reconcile_once(world)).result is Result.IN_SYNC
    assert world.store.record.healthy.commit.startswith("b")


async def test_a_rollback_that_fails_says_so_and_names_the_backup(world: World) -> None:
    world.compose.sick["A=bad"] = "unhealthy"
    world.commit("b", api="A=bad", worker="W=1")
    world.journal.fail("write", LiveFileError("read-only now"), after=1)
    outcome = await reconcile_once(world)
    assert outcome.result is Result.ROLLBACK_FAILED
    assert outcome.backup is not None
    assert outcome.backup in outcome.reason


async def test_a_rollback_backs_up_an_edit_made_during_the_run(world: World) -> None:
    world.compose.sick["A=bad"] = "unhealthy"
    world.commit("b", api="A=bad", worker="W=1")
    edits = [b"A=hand\n"]

    def edit_once() -> None:
        if edits:
            world.host.put(API, edits.pop())

    world.compose.after_recreate = edit_once
    outcome = await reconcile_once(world)
    assert outcome.result is Result.ROLLED_BACK, outcome.reason
    assert world.live("api") == "A=1"
    assert any(secret.reveal() == b"A=hand\n" for _, data in world.backups.taken for secret in data.values())


async def test_compose_refusing_the_staged_files_stalls_before_anything_is_written(world: World) -> None:
    world.compose.refuses = lambda files: ModelRefusedError("bad") if b"A=2\n" in files.values() else None
    world.commit("b", api="A=2", worker="W=1")
    outcome = await reconcile_once(world)
    assert outcome.result is Result.STALLED
    assert "begin" not in world.steps
    assert world.live("api") == "A=1"


async def test_a_stalled_revision_is_not_decrypted_in_every_reconciliation(world: World) -> None:
    world.commit("b", api="A=2", worker="W=1")
    world.decryptor.error = BadCiphertextError("MAC mismatch")
    reconciler = Reconciler(world.ports(), "production")
    results = [(await reconciler.reconcile(ReconcileRequest("poll"))).result for _ in range(3)]
    assert results == [Result.STALLED] * 3
    assert len([step for step in world.steps if step.startswith("decrypt")]) == 1
    await reconciler.reconcile(ReconcileRequest("manual"))
    assert len([step for step in world.steps if step.startswith("decrypt")]) == 2


async def test_with_git_gone_drift_is_still_repaired_and_the_warning_says_so(world: World) -> None:
    world.git.reachable = False
    world.host.put(API, b"A=hand\n")
    outcome = await reconcile_once(world)
    assert outcome.result is Result.CORRECTED
    assert "does not answer" in outcome.warning
    assert world.live("api") == "A=1"


async def test_a_rewritten_branch_is_refused_and_the_last_accepted_revision_stays_the_target(world: World) -> None:
    world.git.rewritten = True
    world.commit("b", api="A=2", worker="W=1")
    outcome = await reconcile_once(world)
    assert outcome.result is Result.IN_SYNC
    assert "rewritten" in outcome.warning
    assert world.live("api") == "A=1"


async def test_reported_drift_is_held_and_not_written(world: World) -> None:
    world.target_fields = {"on_drift": OnDrift.REPORT}
    world.host.put(API, b"A=hand\n")
    outcome = await reconcile_once(world)
    assert outcome.result is Result.HELD
    assert world.live("api") == "A=hand"
    assert world.metrics.plan is not None
    assert [change.kind for change in world.metrics.plan.reported] == [Kind.DRIFT]


async def test_drift_is_restored_even_if_most_keys_of_the_hand_edit_go(world: World) -> None:
    world.host.put(API, b"A=1\nB=1\nC=1\nD=1\n")
    assert (await reconcile_once(world)).result is Result.CORRECTED
    assert world.live("api") == "A=1"


async def test_a_store_that_cannot_be_written_stops_before_the_first_write(world: World) -> None:
    world.commit("b", api="A=2", worker="W=1")
    world.journal.fail("begin", StoreUnavailableError("disk full"))
    outcome = await reconcile_once(world)
    assert (outcome.result, outcome.retry) == (Result.FAILED, True)
    assert world.live("api") == "A=1"


async def test_leftovers_of_a_killed_run_are_backed_up_if_unknown_and_removed(world: World) -> None:
    ours, edit = f"{APP}/.api.env.reconciler-000000000001", f"{APP}/.api.env.reconciler-000000000002"
    world.host.put(ours, b"A=1\n")
    world.host.put(edit, b"A=hand\n")
    assert (await reconcile_once(world)).result is Result.IN_SYNC
    assert not {ours, edit} & world.host.files.keys()
    ((_, kept),) = world.backups.taken
    assert [data.reveal() for data in kept.values()] == [b"A=hand\n"]
    assert world.steps.index(f"backup {API}") < world.steps.index(f"remove {edit}")


def test_two_environments_on_one_server_cannot_claim_one_live_path() -> None:
    def manifest(environment: str, *paths: str) -> Manifest:
        return Manifest(environment, (), tuple(Target(environment, path.strip("/"), path) for path in paths))

    claims = Claims()
    claims.claim(manifest("staging", "/opt/app/a.env", "/opt/app/b.env"))
    with pytest.raises(ManifestError, match=r"/opt/app/b\.env: the environment staging"):
        claims.claim(manifest("production", "/opt/app/b.env"))
    claims.claim(manifest("staging", "/opt/app/a.env"))
    claims.claim(manifest("production", "/opt/app/b.env"))


async def test_a_run_that_cannot_be_begun_leaves_no_backup_that_would_push_out_older_ones(world: World) -> None:
    world.commit("b", api="A=2", worker="W=1")
    for _ in range(2):
        world.journal.fail("begin", StoreUnavailableError("the disk reports an error"))
        outcome = await reconcile_once(world)
        assert (outcome.result, outcome.retry) == (Result.FAILED, True)
    assert world.backups.taken == []
    assert world.live("api") == "A=1"


async def test_the_backup_stays_until_the_store_says_that_nothing_was_written(world: World) -> None:
    world.commit("b", api="A=2", worker="W=2")
    world.journal.fail("write", LiveFileError("the disk reports an error"), after=1)
    world.journal.fail("finish", StoreUnavailableError("the disk reports an error"))
    outcome = await reconcile_once(world)
    assert (outcome.result, outcome.retry) == (Result.FAILED, True)
    assert (world.live("api"), world.live("worker")) == ("A=1", "W=1")
    assert world.store.open_run is not None
    assert world.store.open_run.backup in {backup.id for backup, _ in world.backups.taken}
    assert (await reconcile_once(world)).result is Result.APPLIED
    assert len(world.backups.taken) == 1


# --- containers that run older values ---


async def stale(world: World) -> Outcome:
    """api's container runs other values than its file holds."""
    world.host.put(API, b"A=old\n")
    world.compose.start("api")
    world.host.put(API, b"A=1\n")
    return await reconcile_once(world)


async def test_a_container_that_runs_older_values_is_recreated(world: World) -> None:
    assert (await stale(world)).result is Result.CORRECTED
    assert world.compose.running["api"].environment == {"A": "1"}


async def test_with_report_a_stale_container_is_reported_and_left(world: World) -> None:
    world.target_fields = {"on_drift": OnDrift.REPORT}
    outcome = await stale(world)
    assert outcome.result is Result.HELD
    assert "container runs older values of A; on_drift is report" in outcome.reason
    assert outcome.error_id == "older-values"
    assert world.compose.running["api"].environment == {"A": "old"}


async def test_a_stale_container_of_a_paused_stack_is_reported_and_left(world: World) -> None:
    record = world.store.record
    world.store.record = replace(record, pauses=(Pause("production/app", 2e9, "an incident", 0.0),))
    outcome = await stale(world)
    assert outcome.result is Result.HELD
    assert "container runs older values of A; paused until" in outcome.reason
    assert world.compose.running["api"].environment == {"A": "old"}
    assert world.metrics.plan is not None
    stale_targets = {change.target.path for change in world.metrics.plan.changes if Aspect.STALE in change.aspects}
    assert stale_targets == {API}
    world.store.record = record
    assert (await reconcile_once(world)).result is Result.CORRECTED


# --- how old the secrets are -----------------------------------------------------------------------------------------


async def test_the_age_of_secrets_is_published_once_per_revision_and_by_itself(world: World) -> None:
    world.store.remember_first_seen("envs", "a", {iv("1"): 5.0, iv("2"): 9.0})
    reconciler = Reconciler(world.ports(), "production")
    await reconciler.reconcile(ReconcileRequest("start"))
    assert world.metrics.ages == {}  # neither its outcome nor being ready waits for them
    await reconciler.publish_ages()
    assert world.metrics.ages == {"production/api.env": 5.0, "production/worker.env": 5.0}
    world.commit("b", api="A=2", worker="W=1")
    world.steps.clear()
    await reconciler.reconcile(ReconcileRequest("poll"))
    await reconciler.publish_ages()
    assert world.metrics.ages["production/api.env"] == 9.0
    assert world.steps[-2:] == ["first-seen a..b", "remember-first-seen"]
    world.steps.clear()
    await reconciler.reconcile(ReconcileRequest("poll"))
    await reconciler.publish_ages()
    assert not [step for step in world.steps if "first-seen" in step]


async def test_a_history_that_cannot_be_read_fails_no_reconciliation_and_is_retried_later(world: World) -> None:
    world.commit("b", api="A=2", worker="W=1")
    world.journal.fail("first-seen", GitUnreachableError("no answer"))
    reconciler = Reconciler(world.ports(), "production")
    outcome = await reconciler.reconcile(ReconcileRequest("start"))
    await reconciler.publish_ages()
    assert (outcome.result, outcome.warning, outcome.retry) == (Result.APPLIED, "", False)
    world.metrics.ages.clear()
    await reconciler.publish_ages()
    assert world.metrics.ages == {}
    world.clock.time += 301
    await reconciler.publish_ages()
    assert world.metrics.ages.keys() == {"production/api.env", "production/worker.env"}


async def test_a_dry_run_reads_no_history(world: World) -> None:
    world.commit("b", api="A=2", worker="W=1")
    await Reconciler(world.ports(), "production").reconcile(ReconcileRequest("plan", dry_run=True))
    assert not [step for step in world.steps if step.startswith("first-seen")]


KEYS = "K0=1 K1=1 K2=1"


@pytest.mark.parametrize(
    "edit",
    [
        pytest.param(f"{KEYS} H0=1 H1=1 H2=1 H3=1 H4=1", id="keys added"),
        pytest.param("K0=flapping X=1 Y=1 Z=1 Q=1", id="rewritten"),
        pytest.param("K9=1", id="other keys"),
    ],
)
async def test_a_hand_edit_does_not_stall_a_commit_that_removes_nothing(
    new_world: Callable[[], World], edit: str
) -> None:
    world = new_world()
    world.commit("a", api=KEYS)
    world.compose.start("api")
    await reconcile_once(world)
    world.host.put(API, (edit.replace(" ", "\n") + "\n").encode())
    world.commit("b", api="K0=2 K1=1 K2=1")
    outcome = await reconcile_once(world)
    assert outcome.result is Result.APPLIED, outcome.reason
    assert world.live("api") == "K0=2 K1=1 K2=1"
    assert world.backups.list()[0].run == outcome.run


@pytest.mark.parametrize(
    "edit",
    [
        pytest.param(b"K0=1\n", id="the same keys removed by hand"),
        pytest.param(b"", id="emptied by hand"),
        pytest.param(None, id="deleted by hand"),
    ],
)
async def test_a_hand_edit_does_not_hide_a_commit_that_removes_most_keys(
    new_world: Callable[[], World], edit: bytes | None
) -> None:
    world = new_world()
    world.commit("a", api=KEYS)
    world.compose.start("api")
    await reconcile_once(world)
    world.host.files.pop(API) if edit is None else world.host.put(API, edit)
    world.commit("b", api="K0=2")
    outcome = await reconcile_once(world)
    assert outcome.result is Result.STALLED, outcome.reason
    assert "2 of 3 of the keys would go; set allow_shrink: true" in outcome.reason


@pytest.mark.parametrize(
    ("git", "live", "result", "exit_code"),
    [
        pytest.param("A=1", "A=1", "in_sync", 0, id="nothing to do"),
        pytest.param("A=2", "A=1", "pending", 2, id="a commit"),
        pytest.param("A=1", "A=hand", "drifted", 2, id="a hand edit"),
        pytest.param("A=2", "A=hand", "drifted", 2, id="both"),
    ],
)
@pytest.mark.parametrize("trigger", ["plan", "status"])
async def test_a_preview_with_something_to_do_is_not_in_sync(
    world: World, git: str, live: str, result: str, exit_code: int, trigger: str
) -> None:
    world.commit("b", api=git, worker="W=1")
    world.host.put(API, f"{live}\n".encode())
    outcome = await Reconciler(world.ports(), "production").reconcile(ReconcileRequest(trigger, dry_run=True))
    status = serialize_environment(world.store.record, outcome, world.store.applied("production"))
    assert (status["result"], status["pending"]) == (result, result != "in_sync")
    assert status_exit_code(status) == plan_exit_code(serialize_outcome(outcome)) == exit_code
    assert plan_exit_code({**status, "warning": "git does not answer", "retry": True}) == 1


async def test_containers_with_older_values_are_not_in_sync(world: World) -> None:
    world.host.put(API, b"A=2\n")
    world.compose.start("api")  # by hand, with other values
    world.host.put(API, b"A=1\n")
    outcome = await Reconciler(world.ports(), "production").reconcile(ReconcileRequest("status", dry_run=True))
    status = serialize_outcome(outcome)
    assert status["result"] == "drifted"
    assert "drifted" in {change["sync"] for change in status["plan"]["changes"]}


def edit_and_start(world: World, value: str) -> None:
    """As an operator does who edits a file and runs `docker compose up -d`."""
    world.host.put(API, f"A={value}\n".encode())
    world.compose.start("api")


async def test_a_hand_edit_that_reaches_the_container_too_is_one_correction(world: World) -> None:
    for edits in (1, 2, 3):
        world.clock.time += 60.0
        world.host.put(API, b"A=hand\n")
        assert (await reconcile_once(world, "watch")).result is Result.CORRECTED
        edit_and_start(world, "hand")  # Compose had read the file before it was restored
        world.host.put(API, b"A=1\n")
        assert (await reconcile_once(world, "engine")).result is Result.CORRECTED
        assert world.compose.running["api"].environment == {"A": "1"}
        assert world.metrics.corrections == ["production/api.env"] * edits


async def test_a_hand_edit_of_file_and_container_found_together_is_one_correction(world: World) -> None:
    edit_and_start(world, "hand")
    assert (await reconcile_once(world)).result is Result.CORRECTED
    assert world.metrics.corrections == ["production/api.env"]


async def test_each_container_started_by_hand_with_other_values_is_a_correction(world: World) -> None:
    world.host.put(API, b"A=hand\n")
    await reconcile_once(world, "watch")  # its container had the file's older values: nothing of it is left
    world.metrics.corrections.clear()
    for starts in (0, 1, 2):  # the first belongs to that edit
        edit_and_start(world, "hand")
        world.host.put(API, b"A=1\n")
        assert (await reconcile_once(world, "engine")).result is Result.CORRECTED
        assert world.metrics.corrections.count("production/api.env") == starts


async def test_a_container_started_by_hand_long_after_an_edit_is_a_correction(world: World) -> None:
    world.host.put(API, b"A=hand\n")
    await reconcile_once(world, "watch")
    world.clock.time += 2 * 3600.0
    edit_and_start(world, "hand")
    world.host.put(API, b"A=1\n")
    await reconcile_once(world, "engine")
    assert world.metrics.corrections.count("production/api.env") == 2


@pytest.mark.parametrize("paused", [False, True], ids=["report", "paused"])
@pytest.mark.parametrize("worker", ["W=1", "W=2"], ids=["other files", "its own file"])
async def test_a_hand_edit_that_stays_does_not_hide_that_git_is_followed(
    world: World, paused: bool, worker: str
) -> None:
    if paused:
        pause = Pause("production/worker.env", world.clock.time + 3600.0, "", 0.0)
        world.store.record = replace(world.store.record, pauses=(pause,))
    else:
        world.target_fields = {"on_drift": OnDrift.REPORT}
    world.host.put(WORKER, b"W=hand\n")
    for number in range(9):
        world.commit(f"b{number}", api=f"A={number + 2}", worker=worker)
        outcome = await reconcile_once(world)
        assert outcome.result is Result.HELD
        assert world.store.record.applied == outcome.revision
        published = PrometheusMetrics("1", ["production"], host="web-1")
        published.finished(outcome, 1.0, 500.0)
        last = "reconciler_last_success_timestamp_seconds"
        assert published.registry.get_sample_value(last, {"environment": "production"}) == 500.0
