"""What a scrape gets: names and labels that Prometheus takes, series that are there from the start and go in time."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from reconciler.adapters.comparison_metrics import ComparisonMetrics
from reconciler.adapters.metrics import PrometheusMetrics
from reconciler.adapters.promotion_metrics import PromotionMetrics
from reconciler.core.history.chain import HistoryHead
from reconciler.core.model.compose import Action, ActionKind, HealthStatus, ServiceHealth, StackHealth
from reconciler.core.model.plans import Aspect, Change, Effect, KeyChange, Kind, Plan, ServiceDrift
from reconciler.core.model.records import Applied, EnvironmentRecord, Orphan, Pause, Pin, Quarantine
from reconciler.core.model.revisions import Revision
from reconciler.core.model.runs import ENDS_NO_RECONCILIATION, Backup, BackupEntry, Outcome, Phase, Result
from reconciler.core.model.targets import OnDrift, Target
from tests.support.components import program

REVISION = Revision("abcdef0123456789" + "0" * 24, "5" * 40)
API = Target("production", "api.env", "/opt/app/api.env", stack="app")
WORKER = Target("production", "worker.env", "/opt/app/config/worker.env", stack="app")
MOTD = Target("production", "motd", "/etc/motd", on_drift=OnDrift.REPORT)
RECREATE = Action("app", "api", ActionKind.RECREATE, "API_KEY changed")

RESULTS = [result for result in Result if result not in ENDS_NO_RECONCILIATION]

REQUIRED = {
    **dict.fromkeys(("engine_up", "state_free_bytes", "state_free_inodes"), "gauge"),
    "build_info": "gauge",
    "target_info": "gauge",
    "revision_info": "gauge",
    "drift": "gauge",
    "drift_keys": "gauge",
    **dict.fromkeys(("service_drift", "service_drift_keys"), "gauge"),
    **dict.fromkeys(("service_drift_detected_total", "service_drift_corrected_total"), "counter"),
    "drift_since_timestamp_seconds": "gauge",
    "drift_detected_total": "counter",
    "drift_corrected_total": "counter",
    "pending_changes": "gauge",
    "target_revision_info": "gauge",
    "target_commit_to_applied_seconds": "gauge",
    "sync_status": "gauge",
    "health_status": "gauge",
    "paused": "gauge",
    "paused_until_timestamp_seconds": "gauge",
    "last_result": "gauge",
    "reconcile_interval_seconds": "gauge",
    "drift_corrections_last_hour": "gauge",
    "git_failing_since_timestamp_seconds": "gauge",
    "source_unverified": "gauge",
    "decryption_failing": "gauge",
    "backup_failing": "gauge",
    "rollback_last_timestamp_seconds": "gauge",
    "rollback_failed": "gauge",
    "commit_to_applied_seconds": "histogram",
    "failure_to_recovered_seconds": "histogram",
    "forge_requests_total": "counter",
    "promotion_waiting": "gauge",
    "health_reports_total": "counter",
    "environment_differences": "gauge",
    "comparison_last_success_timestamp_seconds": "gauge",
    "comparison_failing_since_timestamp_seconds": "gauge",
    "webhook_requests_total": "counter",
    "notifications_total": "counter",
    "notifications_failing_since_timestamp_seconds": "gauge",
    "reconcile_total": "counter",
    "changes_total": "counter",
    "history_entries": "gauge",
    "history_head_info": "gauge",
    "reconcile_duration_seconds": "histogram",
    "phase_duration_seconds": "histogram",
    "decrypt_total": "counter",
    "git_fetch_total": "counter",
    "git_last_fetch_success_timestamp_seconds": "gauge",
    "backup_total": "counter",
    "backups": "gauge",
    "backup_last_timestamp_seconds": "gauge",
    "service_recreate_total": "counter",
    "service_healthy": "gauge",
    "service_containers": "gauge",
    "service_containers_running": "gauge",
    "rollback_total": "counter",
    "quarantined": "gauge",
    "pinned": "gauge",
    "orphan_since_timestamp_seconds": "gauge",
    "source_verification_total": "counter",
    "last_attempt_timestamp_seconds": "gauge",
    "last_success_timestamp_seconds": "gauge",
    "loop_last_tick_timestamp_seconds": "gauge",
    "secret_last_rotated_timestamp_seconds": "gauge",
}


@pytest.fixture
def metrics() -> PrometheusMetrics:
    return PrometheusMetrics("1.2.3", ["production"], host="web-1")


def changed(target: Target, kind: Kind, *aspects: Aspect, keys: KeyChange = KeyChange()) -> Change:  # noqa: B008
    return Change(target, kind, Effect.WRITE, "because", frozenset(aspects), keys)


def plan_of(*changes: Change, actions: tuple[Action, ...] = ()) -> Plan:
    return Plan("production", REVISION, changes, actions)


def in_sync(*targets: Target) -> Plan:
    return plan_of(*(changed(target, Kind.IN_SYNC) for target in targets))


def stack_of(name: str, **services: bool) -> StackHealth:
    status = HealthStatus.HEALTHY if all(services.values()) else HealthStatus.UNHEALTHY
    healths = [
        ServiceHealth(name, service, "running" if well else "exited", well) for service, well in services.items()
    ]
    return StackHealth(name, status, tuple(healths))


def backup_of(*targets: Target, at: float) -> Backup:
    entries = tuple(BackupEntry(target.source, target.path, "0000") for target in targets)
    return Backup(f"b{at}", "production", "run", at, "", "", entries)


def series(metrics: PrometheusMetrics, name: str) -> dict[tuple[str, ...], float]:
    """The samples of a name in the second scrape: label values (but for host and environment, by label) → value."""
    samples = {}
    metrics.render()
    for family in text_string_to_metric_families(metrics.render().decode()):
        for sample in family.samples:
            if sample.name == f"reconciler_{name}":
                labels = tuple(
                    value for label, value in sorted(sample.labels.items()) if label not in ("environment", "host")
                )
                samples[labels] = sample.value
    return samples


def documented_labels() -> dict[str, set[str]]:
    """By metric, from docs/metrics.md."""
    page = (Path(__file__).parent.parent.parent / "docs/metrics.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| ([\w, ]*?) ?\| \S.* \|$", page, re.MULTILINE)
    assert {name: kind for name, kind, _ in rows} == REQUIRED
    return {name: set(filter(None, labels.split(", "))) for name, _, labels in rows}


def drift_of(metrics: PrometheusMetrics, target: str) -> set[str]:
    return {kind for (kind, name), value in series(metrics, "drift").items() if name == target and value == 1}


def busy() -> PrometheusMetrics:
    """Metrics after a reconciliation in which everything happened."""
    metrics = PrometheusMetrics("1.2.3", ["production"], host="web-1")
    for phase in Phase:
        metrics.phase(phase, 0.2)
    metrics.recorded(HistoryHead(1, 3, "a" * 64))
    comparisons, pair = ComparisonMetrics(metrics), ("releases", "git:staging", "git:production")
    comparisons.compared(pair, {"missing-right": 1}, 100.0)
    comparisons.failing(pair, 0.0)
    PromotionMetrics(metrics, ["production"]).reported("ok")
    metrics.fetched("production", True, 100.0)
    metrics.fetched("production", False, 101.0)
    metrics.undecryptable("production", {WORKER.id: "key"})
    metrics.decrypted("production", "ok")
    metrics.decrypted("production", "failed", "key")
    metrics.backed_up("production", True)
    metrics.backups("production", [backup_of(API, at=102.0)])
    metrics.revision("production", "desired", REVISION)
    keys = KeyChange(added=("SECRET_NAME",), changed=("DATABASE_URL",))
    metrics.observed(
        plan_of(
            changed(API, Kind.DRIFT, Aspect.CONTENT, Aspect.MODE, keys=keys),
            changed(WORKER, Kind.UPDATE, Aspect.CONTENT),
            changed(MOTD, Kind.IN_SYNC),
            actions=(RECREATE,),
        ),
        103.0,
    )
    drift = ServiceDrift("app", "api", Effect.WRITE, "", KeyChange(added=("SECRET_NAME",)))
    metrics.observe_drifts("production", [drift])
    metrics.services_corrected("production", [("app", "api")])
    metrics.recreated("production", "app", "api", "ok")
    scaled = ServiceHealth("shop", "web", "healthy", True, containers=3, running=3, nodes=("web-1", "web-2"))
    metrics.health(
        "production", [stack_of("app", api=True), StackHealth("shop", HealthStatus.HEALTHY, (scaled,))], 103.0
    )
    metrics.engine("production", True)
    metrics.watch_disk(lambda: (5000, 7, 100))
    metrics.corrected("production", [API.id], 103.0)
    metrics.rotated("production", API.id, 99.0)
    metrics.rolled_back("production", "local", True)
    metrics.delivered("production", 12.0)
    metrics.delivered_target("production", API.id, 12.0)
    metrics.failed("production", 103.0)
    metrics.remembered(
        EnvironmentRecord(
            "production",
            head=REVISION,
            applied=REVISION,
            healthy=REVISION,
            pin=Pin(REVISION, "a reason", 1.0),
            pauses=(Pause("", 500.0, "a reason", 1.0),),
            quarantines=(Quarantine(REVISION, "a reason", 1.0, "run"),),
            orphans=(Orphan("old.env", "/opt/app/old.env", 1.0),),
            stopped={"app": "the rollback failed too"},
        ),
        104.0,
    )
    metrics.applied("production", [Applied(API.source, API.path, "digest", 0o600, "a" * 40, 1.0)])
    metrics.announced(202)
    metrics.verified("production", "failed", "signature")
    metrics.finished(Outcome("production", Result.CORRECTED, "wrote api.env"), 1.5, 104.0)
    metrics.tick(105.0)
    return metrics


# --- names, types, labels --------------------------------------------------------------------------------------------


def test_every_metric_is_there_with_its_type_and_a_help() -> None:
    families = list(text_string_to_metric_families(busy().render().decode()))
    types = {}
    for family in families:
        if family.name.startswith("reconciler_"):
            assert family.documentation
            assert family.samples, family.name
            suffix = "_total" if family.type == "counter" else ""
            types[family.name.removeprefix("reconciler_") + suffix] = family.type
    assert types == REQUIRED


def test_the_page_about_metrics_names_each_with_its_type_and_labels() -> None:
    exposed = {}
    for family in text_string_to_metric_families(busy().render().decode()):
        labels = {label for sample in family.samples for label in sample.labels} - {"le", "host"}
        suffix = "_total" if family.type == "counter" else ""
        if family.name.startswith("reconciler_"):
            exposed[family.name.removeprefix("reconciler_") + suffix] = (family.type, labels)
    assert {name: (REQUIRED[name], labels) for name, labels in documented_labels().items()} == exposed


def test_the_process_itself_is_measured() -> None:
    """Descriptors and memory that grow are how a leak shows; an alert waits for a while after the start."""
    text = busy().render().decode()
    assert "process_open_fds " in text
    assert "process_resident_memory_bytes " in text
    assert "process_start_time_seconds " in text


@pytest.mark.prometheus
def test_promtool_finds_nothing_to_say() -> None:
    promtool = program("promtool")
    assert promtool is not None
    done = subprocess.run(
        [promtool, "check", "metrics"], input=busy().render(), check=False, capture_output=True, timeout=30
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_no_label_holds_a_key_a_path_a_url_or_a_whole_commit_id() -> None:
    values = {
        value
        for family in text_string_to_metric_families(busy().render().decode())
        for sample in family.samples
        for value in sample.labels.values()
    }
    assert "production/api.env" in values
    assert not [value for value in values if value.startswith("/") or "://" in value]
    assert not values & {"SECRET_NAME", "DATABASE_URL", REVISION.commit, REVISION.subtree}
    assert REVISION.short in values


# --- there from the start --------------------------------------------------------------------------------------------


def test_counters_are_0_before_anything_has_happened(metrics: PrometheusMetrics) -> None:
    assert series(metrics, "reconcile_total") == {(result.value,): 0 for result in RESULTS}
    ends = ("applied", "corrected", "failed", "stalled", "rolled_back", "rollback_failed")
    assert series(metrics, "changes_total") == {(end,): 0 for end in ends}
    assert series(metrics, "git_fetch_total") == {("ok",): 0, ("failed",): 0}
    assert series(metrics, "backup_total") == {("ok",): 0, ("failed",): 0}
    reasons = {("", "ok"), ("key", "failed"), ("ciphertext", "failed"), ("sops", "failed")}
    assert series(metrics, "decrypt_total") == dict.fromkeys(reasons, 0)
    kinds = {(kind, end) for kind in ("local", "git") for end in ("ok", "failed")}
    assert series(metrics, "rollback_total") == dict.fromkeys(kinds, 0)
    assert series(metrics, "phase_duration_seconds_count") == {(phase.value,): 0 for phase in Phase}
    for name in ("reconcile_duration_seconds", "commit_to_applied_seconds", "failure_to_recovered_seconds"):
        assert series(metrics, f"{name}_count") == {(): 0}
    assert series(metrics, "webhook_requests_total") == {
        (code,): 0 for code in ("200", "202", "403", "408", "413", "503")
    }


def test_gauges_are_0_before_anything_has_happened(metrics: PrometheusMetrics) -> None:
    for name in (
        "last_attempt_timestamp_seconds",
        "last_success_timestamp_seconds",
        "git_last_fetch_success_timestamp_seconds",
        "quarantined",
        "pinned",
        "loop_last_tick_timestamp_seconds",
    ):
        assert series(metrics, name) == {(): 0}, name
    assert series(metrics, "build_info") == {("1.2.3",): 1}
    assert series(metrics, "last_result") == {(result.value,): 0 for result in RESULTS}


def test_nothing_is_said_of_a_target_and_a_stack_that_are_well(metrics: PrometheusMetrics) -> None:
    metrics.observed(in_sync(API), 100.0)
    metrics.remembered(EnvironmentRecord("production", head=REVISION, applied=REVISION), 100.0)
    metrics.applied("production", [Applied(API.source, API.path, "digest", 0o600, "a" * 40, 1.0)])
    metrics.backups("production", [])
    metrics.health("production", [stack_of("app", api=True)], 100.0)
    assert samples_about(metrics, "target", API.id) == ["reconciler_target_info"]
    assert samples_about(metrics, "stack", "app") == [
        "reconciler_target_info",
        "reconciler_service_healthy",
        "reconciler_health_status",
    ]


def test_a_counter_that_begins_is_0_for_a_scrape_so_that_prometheus_sees_the_increase(
    metrics: PrometheusMetrics,
) -> None:
    def scraped(name: str) -> list[float]:
        families = text_string_to_metric_families(metrics.render().decode())
        return [sample.value for family in families for sample in family.samples if sample.name == f"reconciler_{name}"]

    drift = plan_of(changed(API, Kind.DRIFT, Aspect.CONTENT))
    metrics.observed(drift, 100.0)
    metrics.corrected("production", [API.id], 101.0)
    metrics.recreated("production", "app", "api", "ok")
    counters = ("drift_detected_total", "drift_corrected_total", "service_recreate_total")
    assert [scraped(name) for name in counters] == [[0], [1], [1]]  # one scrape shows all of them
    metrics.observed(in_sync(API), 110.0)
    metrics.observed(drift, 120.0)
    assert scraped("drift_detected_total") == [2]
    metrics.observed(in_sync(WORKER), 130.0)
    assert scraped("drift_detected_total") == []
    metrics.observed(drift, 140.0)  # back again
    assert [scraped("drift_detected_total"), scraped("drift_detected_total")] == [[0], [1]]


def test_1000_targets_in_sync_are_not_more_than_600_kb(metrics: PrometheusMetrics) -> None:
    """Each encrypted, with the age of its secrets and a backup; in 100 stacks of two services."""
    targets = [
        replace(API, source=f"app-{number:03}/service.env", stack=f"app-{number % 100:03}") for number in range(1000)
    ]
    metrics.observed(in_sync(*targets), 100.0)
    metrics.backups("production", [backup_of(*targets, at=1.0)])
    metrics.applied("production", [Applied(target.source, target.path, "", 0o600, "a" * 40, 1.0) for target in targets])
    metrics.health("production", [stack_of(f"app-{number:03}", api=True, db=True) for number in range(100)], 100.0)
    for target in targets:
        metrics.rotated("production", target.id, 100.0)
    metrics.render()
    assert 300_000 < len(metrics.render()) <= 600_000


# --- drift -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("aspect", Aspect)
def test_each_kind_of_drift_is_reported_by_its_name(metrics: PrometheusMetrics, aspect: Aspect) -> None:
    metrics.observed(plan_of(changed(API, Kind.DRIFT, aspect), changed(WORKER, Kind.IN_SYNC)), 100.0)
    assert drift_of(metrics, API.id) == {aspect.value}
    assert drift_of(metrics, WORKER.id) == set()


@pytest.mark.parametrize(
    ("kind", "drifted", "pending", "word"),
    [
        (Kind.IN_SYNC, False, 0, "in_sync"),
        (Kind.CREATE, False, 1, "pending"),
        (Kind.UPDATE, False, 1, "pending"),
        (Kind.DRIFT, True, 0, "drifted"),
        (Kind.CONFLICT, True, 1, "drifted"),
        (Kind.FIRST_CONTACT, True, 0, "pending"),
    ],
)
def test_what_git_has_changed_is_pending_and_what_others_have_changed_is_drift(
    metrics: PrometheusMetrics, kind: Kind, drifted: bool, pending: int, word: str
) -> None:
    metrics.observed(plan_of(changed(API, kind, Aspect.CONTENT, keys=KeyChange(added=("A", "B")))), 100.0)
    assert drift_of(metrics, API.id) == ({"content"} if drifted else set())
    assert series(metrics, "drift_keys") == ({("added", API.id): 2} if drifted else {})
    assert series(metrics, "pending_changes") == ({(API.id,): 1} if pending else {})
    assert series(metrics, "sync_status") == ({} if word == "in_sync" else {(word, API.id): 1})


def test_a_stale_container_is_drift_though_the_file_is_right(metrics: PrometheusMetrics) -> None:
    metrics.observed(plan_of(changed(API, Kind.IN_SYNC, Aspect.STALE)), 100.0)
    assert drift_of(metrics, API.id) == {"stale"}
    assert series(metrics, "drift_since_timestamp_seconds") == {(API.id,): 100.0}
    assert series(metrics, "drift_detected_total") == {(API.id,): 1}


def test_keys_are_counted_by_kind(metrics: PrometheusMetrics) -> None:
    keys = KeyChange(added=("A",), removed=("B", "C"), changed=("D", "E", "F"))
    metrics.observed(plan_of(changed(API, Kind.DRIFT, Aspect.CONTENT, keys=keys)), 100.0)
    expected = {("added", API.id): 1, ("removed", API.id): 2, ("changed", API.id): 3}
    assert series(metrics, "drift_keys") == expected
    metrics.observed(in_sync(API), 101.0)
    assert series(metrics, "drift_keys") == {}


def test_drift_is_detected_once_for_as_long_as_it_lasts(metrics: PrometheusMetrics) -> None:
    drift = plan_of(changed(API, Kind.DRIFT, Aspect.CONTENT))
    for at in (100.0, 160.0, 220.0):
        metrics.observed(drift, at)
    assert series(metrics, "drift_detected_total") == {(API.id,): 1}
    assert series(metrics, "drift_since_timestamp_seconds") == {(API.id,): 100.0}
    metrics.observed(in_sync(API), 230.0)
    assert series(metrics, "drift_since_timestamp_seconds") == {}
    metrics.observed(drift, 300.0)
    assert series(metrics, "drift_detected_total") == {(API.id,): 2}
    assert series(metrics, "drift_since_timestamp_seconds") == {(API.id,): 300.0}


def test_a_target_that_comes_back_as_it_was_has_its_series_again(metrics: PrometheusMetrics) -> None:
    drift = changed(WORKER, Kind.DRIFT, Aspect.CONTENT)
    for plan in (plan_of(drift, changed(API, Kind.IN_SYNC)), in_sync(API), plan_of(drift, changed(API, Kind.UPDATE))):
        metrics.observed(plan, 100.0)
    assert drift_of(metrics, WORKER.id) == {"content"}
    assert {labels[-1] for labels in series(metrics, "target_info")} == {API.id, WORKER.id}
    assert series(metrics, "pending_changes") == {(API.id,): 1}


def test_a_correction_is_counted(metrics: PrometheusMetrics) -> None:
    metrics.observed(in_sync(API, WORKER), 100.0)
    metrics.corrected("production", [API.id], 103.0)
    assert series(metrics, "drift_corrected_total") == {(API.id,): 1}


def test_a_target_whose_path_has_moved_is_judged_by_the_new_one(metrics: PrometheusMetrics) -> None:
    """The old file stays as an orphan of the same name; it must not hide the drift, nor count it repeatedly."""
    old = replace(API, path="/opt/app/old.env", on_drift=OnDrift.RESTORE)
    moved = replace(API, on_drift=OnDrift.REPORT)
    for at, rest in ((100.0, Kind.ORPHAN), (160.0, Kind.NOT_OURS), (220.0, Kind.IN_SYNC)):
        metrics.observed(plan_of(changed(moved, Kind.DRIFT, Aspect.CONTENT), changed(old, rest)), at)
        assert drift_of(metrics, API.id) == {"content"}
        assert series(metrics, "drift_detected_total") == {(API.id,): 1}
        assert series(metrics, "drift_since_timestamp_seconds") == {(API.id,): 100.0}
        assert series(metrics, "target_info") == {("report", "app", API.id): 1}


# --- gone in time ----------------------------------------------------------------------------------------------------


def samples_about(metrics: PrometheusMetrics, label: str, value: str) -> list[str]:
    return [
        sample.name
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
        if sample.labels.get(label) == value
    ]


@pytest.mark.parametrize(
    "after",
    [
        pytest.param(in_sync(API), id="out of the plan"),
        pytest.param(plan_of(changed(API, Kind.IN_SYNC), changed(MOTD, Kind.ORPHAN)), id="an orphan on the server"),
        pytest.param(plan_of(changed(API, Kind.IN_SYNC), changed(MOTD, Kind.NOT_OURS)), id="not ours any more"),
    ],
)
def test_the_series_of_a_removed_target_vanish(metrics: PrometheusMetrics, after: Plan) -> None:
    keys = KeyChange(added=("A",))
    plan = plan_of(*(changed(target, Kind.CONFLICT, Aspect.MODE, keys=keys) for target in (API, MOTD)))
    metrics.undecryptable("production", {API.id: "key", MOTD.id: "key"})
    metrics.observed(plan, 100.0)
    metrics.remembered(EnvironmentRecord("production", pauses=(Pause("", 500.0, "", 1.0),)), 100.0)
    metrics.backups("production", [backup_of(API, MOTD, at=60.0)])
    metrics.applied("production", [Applied(each.source, each.path, "", 0o600, "a" * 40, 1.0) for each in (API, MOTD)])
    metrics.corrected("production", [API.id, MOTD.id], 100.0)
    for target in (API, MOTD):
        metrics.delivered_target("production", target.id, 12.0)
        metrics.rotated("production", target.id, 50.0)
    alike = sorted(samples_about(metrics, "target", API.id))
    with_target = {name for name, labels in documented_labels().items() if "target" in labels}
    assert {name.removeprefix("reconciler_") for name in alike} == with_target - {"orphan_since_timestamp_seconds"}
    assert sorted(samples_about(metrics, "target", MOTD.id)) == alike
    metrics.observed(after, 160.0)
    assert samples_about(metrics, "target", MOTD.id) == []
    assert "reconciler_target_info" in samples_about(metrics, "target", API.id)
    # Back again, it starts again.
    metrics.observed(plan_of(changed(MOTD, Kind.DRIFT, Aspect.MODE)), 220.0)
    assert series(metrics, "drift_since_timestamp_seconds")[MOTD.id,] == 220.0


def test_an_orphan_has_a_series_until_it_is_forgotten(metrics: PrometheusMetrics) -> None:
    moved, old = Orphan("api.env", "/opt/app/api.env", 70.0), Orphan("old.env", "/opt/app/old.env", 50.0)
    metrics.remembered(EnvironmentRecord("production", orphans=(replace(moved, at=60.0), moved, old)), 100.0)
    expected = {("production/api.env",): 60.0, ("production/old.env",): 50.0}
    assert series(metrics, "orphan_since_timestamp_seconds") == expected
    metrics.remembered(EnvironmentRecord("production", orphans=(moved,)), 100.0)
    assert series(metrics, "orphan_since_timestamp_seconds") == {("production/api.env",): 70.0}


def test_the_age_of_a_targets_secrets_goes_with_them_or_with_the_target(metrics: PrometheusMetrics) -> None:
    metrics.observed(in_sync(API, MOTD), 100.0)
    metrics.rotated("production", API.id, 50.0)
    metrics.rotated("production", MOTD.id, None)
    assert series(metrics, "secret_last_rotated_timestamp_seconds") == {(API.id,): 50.0}
    metrics.rotated("production", API.id, None)
    assert series(metrics, "secret_last_rotated_timestamp_seconds") == {}
    metrics.rotated("production", API.id, 60.0)
    metrics.observed(in_sync(MOTD), 160.0)
    assert series(metrics, "secret_last_rotated_timestamp_seconds") == {}


def test_another_stack_or_policy_replaces_the_info_of_a_target(metrics: PrometheusMetrics) -> None:
    metrics.observed(in_sync(API), 100.0)
    metrics.observed(in_sync(replace(API, stack=None, on_drift=OnDrift.REPORT)), 160.0)
    assert series(metrics, "target_info") == {("report", "", API.id): 1}


def test_the_targets_of_another_environment_stay(metrics: PrometheusMetrics) -> None:
    staging = replace(API, environment="staging")
    metrics.observed(in_sync(API), 100.0)
    metrics.observed(Plan("staging", REVISION, (changed(staging, Kind.IN_SYNC),)), 100.0)
    metrics.observed(Plan("staging", REVISION, ()), 160.0)
    assert samples_about(metrics, "target", API.id)
    assert samples_about(metrics, "target", staging.id) == []


def test_the_services_of_a_removed_stack_vanish(metrics: PrometheusMetrics) -> None:
    """Else a service that was unhealthy when its stack was removed would alert for ever."""
    metrics.health("production", [stack_of("app", api=False), stack_of("other", db=True)], 100.0)
    metrics.recreated("production", "app", "api", "failed")
    assert series(metrics, "service_healthy") == {("api", "app", "exited"): 0, ("db", "other", "running"): 1}
    metrics.health("production", [stack_of("other", db=True)], 160.0)
    assert samples_about(metrics, "stack", "app") == []
    assert series(metrics, "service_healthy") == {("db", "other", "running"): 1}


def test_a_service_has_one_series_whatever_its_state(metrics: PrometheusMetrics) -> None:
    """Else the last state of a service that has another one now would alert for ever."""
    service = ServiceHealth("app", "api", "killed", healthy=False)
    for at, state in enumerate(("killed", "missing", "replaced")):
        health = StackHealth("app", HealthStatus.UNHEALTHY, (replace(service, state=state),))
        metrics.health("production", [health], float(at))
        assert series(metrics, "service_healthy") == {("api", "app", state): 0}
    metrics.health("production", [stack_of("app", api=True)], 160.0)
    assert series(metrics, "service_healthy") == {("api", "app", "running"): 1}


def test_a_service_that_an_operator_stopped_with_its_project_has_no_health(metrics: PrometheusMetrics) -> None:
    service = ServiceHealth("app", "api", "stopped", healthy=False, acknowledged=True)
    metrics.health("production", [stack_of("app", api=True)], 100.0)
    metrics.recreated("production", "app", "api", "ok")
    metrics.health("production", [StackHealth("app", HealthStatus.STOPPED, (service,))], 160.0)
    assert series(metrics, "service_healthy") == {}
    assert series(metrics, "service_recreate_total")["ok", "api", "app"] == 1


@pytest.mark.parametrize("status", HealthStatus)
def test_a_stack_has_one_status_at_a_time(metrics: PrometheusMetrics, status: HealthStatus) -> None:
    metrics.health("production", [stack_of("app", api=True)], 100.0)
    metrics.health("production", [StackHealth("app", status)], 160.0)
    assert series(metrics, "health_status") == {("app", status.value): 1}


def test_an_old_revision_vanishes(metrics: PrometheusMetrics) -> None:
    newer = Revision("fedcba9876543210" + "0" * 24, "5" * 40)
    metrics.revision("production", "head", REVISION)
    metrics.revision("production", "healthy", REVISION)
    metrics.revision("production", "head", newer)
    assert series(metrics, "revision_info") == {("fedcba987654", "head"): 1, ("abcdef012345", "healthy"): 1}
    metrics.revision("production", "healthy", None)
    assert series(metrics, "revision_info") == {("fedcba987654", "head"): 1}


# --- counting and timing ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("result", "success"),
    [
        (Result.APPLIED, True),
        (Result.IN_SYNC, True),
        (Result.CORRECTED, True),
        (Result.HELD, False),
        (Result.STALLED, False),
        (Result.ROLLED_BACK, False),
        (Result.ROLLBACK_FAILED, False),
        (Result.FAILED, False),
    ],
)
def test_only_some_ends_are_a_success(metrics: PrometheusMetrics, result: Result, success: bool) -> None:
    metrics.finished(Outcome("production", result, "because"), 2.0, 500.0)
    assert series(metrics, "reconcile_total")[result.value,] == 1
    assert series(metrics, "last_attempt_timestamp_seconds") == {(): 500.0}
    assert series(metrics, "last_success_timestamp_seconds") == {(): 500.0 if success else 0}
    assert series(metrics, "reconcile_duration_seconds_sum") == {(): 2.0}


def test_an_unanswered_question_leaves_the_time_of_the_last_answer(metrics: PrometheusMetrics) -> None:
    metrics.recorded(HistoryHead(1, 3, "a" * 64))
    comparisons, pair = ComparisonMetrics(metrics), ("releases", "git:staging", "git:production")
    comparisons.compared(pair, {"missing-right": 1}, 100.0)
    comparisons.failing(pair, 0.0)
    metrics.fetched("production", True, 100.0)
    metrics.fetched("production", False, 160.0)
    assert series(metrics, "git_last_fetch_success_timestamp_seconds") == {(): 100.0}
    assert series(metrics, "git_fetch_total") == {("ok",): 1, ("failed",): 1}


def test_backups_are_reported_for_each_target_there_is(metrics: PrometheusMetrics) -> None:
    """Also those from before the daemon's start, which are reported before the targets are known."""
    metrics.backups("production", [backup_of(API, WORKER, at=160.0), backup_of(API, MOTD, at=100.0)])
    assert series(metrics, "backups") == {}
    metrics.observed(in_sync(API, WORKER), 200.0)
    assert series(metrics, "backups") == {(API.id,): 2, (WORKER.id,): 1}
    assert series(metrics, "backup_last_timestamp_seconds") == {(API.id,): 160.0, (WORKER.id,): 160.0}
    metrics.backups("production", [])
    assert series(metrics, "backups") == series(metrics, "backup_last_timestamp_seconds") == {}


def test_backups_are_counted_by_how_they_ended(metrics: PrometheusMetrics) -> None:
    metrics.backed_up("production", True)
    metrics.backed_up("production", False)
    assert series(metrics, "backup_total") == {("ok",): 1, ("failed",): 1}


def test_a_pause_is_reported_for_each_target_it_covers_until_it_ends(metrics: PrometheusMetrics) -> None:
    metrics.observed(in_sync(API, WORKER, MOTD), 100.0)
    stack, target = Pause("production/app", 300.0, "", 1.0), Pause(API.id, 500.0, "", 1.0)
    record = EnvironmentRecord("production", pauses=(stack, target))
    metrics.remembered(record, 200.0)
    assert series(metrics, "paused") == {(API.id,): 1, (WORKER.id,): 1}
    assert series(metrics, "paused_until_timestamp_seconds") == {(API.id,): 500.0, (WORKER.id,): 300.0}
    metrics.remembered(record, 400.0)
    assert series(metrics, "paused") == {(API.id,): 1}
    metrics.remembered(record, 600.0)
    assert series(metrics, "paused") == series(metrics, "paused_until_timestamp_seconds") == {}


def test_only_a_quarantine_that_the_target_revision_runs_into_is_reported(metrics: PrometheusMetrics) -> None:
    quarantine, newer = Quarantine(REVISION, "", 1.0, "run"), Revision("f" * 40, "6" * 40)
    metrics.remembered(EnvironmentRecord("production", head=REVISION, quarantines=(quarantine,)), 1.0)
    assert series(metrics, "quarantined") == {(): 1}
    metrics.remembered(EnvironmentRecord("production", head=newer, quarantines=(quarantine,)), 2.0)
    assert series(metrics, "quarantined") == {(): 0}


def test_a_failure_lasts_from_its_first_sight_until_every_stack_is_well(metrics: PrometheusMetrics) -> None:
    well, ill = stack_of("app", api=True), stack_of("app", api=False)
    starting = StackHealth("other", HealthStatus.STARTING)
    metrics.health("production", [well], 100.0)
    metrics.failed("production", 110.0)
    for at, stacks in ((120.0, [ill]), (130.0, [well, starting]), (150.0, [well, stack_of("other", db=True)])):
        assert series(metrics, "failure_to_recovered_seconds_count") == {(): 0}
        metrics.health("production", stacks, at)
    assert series(metrics, "failure_to_recovered_seconds_sum") == {(): 40.0}
    metrics.health("production", [well], 160.0)
    assert series(metrics, "failure_to_recovered_seconds_count") == {(): 1}


@pytest.mark.parametrize("result", RESULTS)
def test_the_latest_result_is_the_only_one_that_is_1(metrics: PrometheusMetrics, result: Result) -> None:
    metrics.finished(Outcome("production", Result.STALLED, "because"), 2.0, 500.0)
    metrics.finished(Outcome("production", result, "because"), 2.0, 501.0)
    assert series(metrics, "last_result") == {(candidate.value,): int(candidate is result) for candidate in RESULTS}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("phase_duration_seconds_count", {(phase.value,): 1 for phase in Phase}),
        ("service_recreate_total", {("ok", "api", "app"): 1}),
        ("service_healthy", {("api", "app", "running"): 1, ("web", "shop", "healthy"): 1}),
        ("service_containers", {("web", "shop"): 3}),
        ("service_containers_running", {("web", "shop"): 3}),
        ("webhook_requests_total", {("200",): 0, ("202",): 1, ("403",): 0, ("408",): 0, ("413",): 0, ("503",): 0}),
        ("commit_to_applied_seconds_sum", {(): 12.0}),
        ("quarantined", {(): 1}),
        ("loop_last_tick_timestamp_seconds", {(): 105.0}),
    ],
    ids=[
        "phases",
        "services",
        "health",
        "containers",
        "containers-running",
        "webhook",
        "delivery",
        "quarantine",
        "tick",
    ],
)
def test_what_happened_is_reported(name: str, expected: dict[tuple[str, ...], float]) -> None:
    assert series(busy(), name) == expected


def test_rollbacks_and_decryptions_are_counted_by_how_they_ended() -> None:
    metrics = busy()
    metrics.rolled_back("production", "git", False)
    assert series(metrics, "rollback_total") == {
        ("local", "ok"): 1,
        ("local", "failed"): 0,
        ("git", "ok"): 0,
        ("git", "failed"): 1,
    }
    assert series(metrics, "decrypt_total")["key", "failed"] == 1
    assert series(metrics, "decrypt_total")["", "ok"] == 1


# --- the engine, and the disk of the state directory -----------------------------------------------------------------


def test_an_environment_without_stacks_has_no_engine() -> None:
    metrics = PrometheusMetrics("1.2.3", ["production"], host="web-1")
    metrics.engine("production", False)
    assert b'reconciler_engine_up{environment="production",host="web-1"} 0.0' in metrics.render()
    metrics.engine("production", None)
    assert b"reconciler_engine_up{" not in metrics.render()


def test_a_disk_shows_what_is_free_at_the_scrape() -> None:
    metrics = PrometheusMetrics("1.2.3", ["production"], host="web-1")
    states = iter([(5000, 7, 100), (5000, 7, 100), (4000, 0, 0), (4000, 0, 0)])
    metrics.watch_disk(lambda: next(states))
    assert b'reconciler_state_free_bytes{host="web-1"} 5000.0\n' in (first := metrics.render())
    assert b'reconciler_state_free_inodes{host="web-1"} 7.0\n' in first
    assert b'reconciler_state_free_inodes{host="web-1"} -1.0\n' in metrics.render()


# --- states that alerts read -----------------------------------------------------------------------------------------


def test_every_series_names_the_server() -> None:
    """Otherwise the alerts of two servers that each have their own Prometheus are one alert for Alertmanager."""
    families = text_string_to_metric_families(busy().render().decode())
    assert {sample.labels.get("host") for family in families for sample in family.samples} == {"web-1"}


def test_a_source_that_cannot_be_decrypted_is_named_until_it_can_be(metrics: PrometheusMetrics) -> None:
    metrics.undecryptable("production", {API.id: "key"})  # before any plan: the first revision is undecryptable
    assert series(metrics, "decryption_failing") == {("key", API.id): 1}
    metrics.observed(in_sync(API), 100.0)
    assert series(metrics, "decryption_failing") == {("key", API.id): 1}
    metrics.undecryptable("production", {API.id: "ciphertext"})
    assert series(metrics, "decryption_failing") == {("ciphertext", API.id): 1}
    metrics.undecryptable("production", {})
    metrics.observed(in_sync(API), 160.0)
    assert series(metrics, "decryption_failing") == {}


def test_a_refused_head_is_unverified_until_one_is_accepted(metrics: PrometheusMetrics) -> None:
    metrics.verified("production", "failed", "signature")
    assert series(metrics, "source_unverified") == {("signature",): 1, ("unavailable",): 0}
    metrics.fetched("production", False, 100.0)
    assert series(metrics, "source_unverified")[("signature",)] == 1
    metrics.fetched("production", True, 160.0)  # the branch is again where it was accepted: nothing is verified
    assert series(metrics, "source_unverified") == {("signature",): 0, ("unavailable",): 0}
    metrics.verified("production", "failed", "unavailable")
    metrics.verified("production", "ok")
    assert series(metrics, "source_unverified") == {("signature",): 0, ("unavailable",): 0}


def test_git_fails_since_its_first_unanswered_query(metrics: PrometheusMetrics) -> None:
    for at in (100.0, 160.0):
        metrics.fetched("production", False, at)
        assert series(metrics, "git_failing_since_timestamp_seconds") == {(): 100.0}
    metrics.fetched("production", True, 220.0)
    assert series(metrics, "git_failing_since_timestamp_seconds") == {(): 0}


def test_backups_fail_until_one_is_stored_or_none_is_needed(metrics: PrometheusMetrics) -> None:
    metrics.backed_up("production", False)
    metrics.finished(Outcome("production", Result.FAILED, "no space left"), 1.0, 100.0)
    assert series(metrics, "backup_failing") == {(): 1}
    metrics.backed_up("production", True)
    assert series(metrics, "backup_failing") == {(): 0}
    metrics.backed_up("production", False)
    metrics.finished(Outcome("production", Result.IN_SYNC, "in sync"), 1.0, 160.0)
    assert series(metrics, "backup_failing") == {(): 0}


def test_a_failed_rollback_is_reported_until_it_is_repaired(metrics: PrometheusMetrics) -> None:
    metrics.health("production", [stack_of("app", api=True)], 100.0)
    assert series(metrics, "rollback_failed") == {}
    failed = EnvironmentRecord("production", stopped={"app": "the rollback failed too"})
    metrics.remembered(failed, 100.0)
    metrics.health("production", [stack_of("app", api=False)], 160.0)
    assert series(metrics, "rollback_failed") == {("app",): 1}
    metrics.remembered(replace(failed, stopped={}), 220.0)
    assert series(metrics, "rollback_failed") == {}


def test_the_last_rollback_is_that_of_the_newest_quarantine(metrics: PrometheusMetrics) -> None:
    quarantines = (
        Quarantine(replace(REVISION, subtree="6" * 40), "a reason", 90.0, "run"),
        Quarantine(REVISION, "a reason", 80.0, "run"),
    )
    metrics.remembered(EnvironmentRecord("production", quarantines=quarantines), 100.0)
    assert series(metrics, "rollback_last_timestamp_seconds") == {(): 90.0}
    metrics.remembered(EnvironmentRecord("production"), 160.0)
    assert series(metrics, "rollback_last_timestamp_seconds") == {(): 0}


def test_corrections_count_for_an_hour_also_those_before_a_restart(metrics: PrometheusMetrics) -> None:
    metrics.was_corrected("production", API.id, 100.0)
    metrics.observed(unchanged := in_sync(API), 200.0)
    metrics.corrected("production", [API.id], 1000.0)
    assert series(metrics, "drift_corrections_last_hour") == {(API.id,): 2}
    metrics.observed(unchanged, 3701.0)
    assert series(metrics, "drift_corrections_last_hour") == {(API.id,): 1}
    metrics.observed(unchanged, 4601.0)
    assert series(metrics, "drift_corrections_last_hour") == {}
    assert series(metrics, "drift_corrected_total") == {(API.id,): 1}
