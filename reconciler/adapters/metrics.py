"""Prometheus metrics, in a separate registry. No label contains a key, a value, a path or a URL.

Alerts read states and times, not increases of counters: Prometheus does not see an increase that happens before its
first scrape of a series.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

from reconciler.adapters.service_drift_metrics import ServiceDriftMetrics
from reconciler.core.decide.classify import sync_status
from reconciler.core.decide.promotion import PROMOTION_WAITS
from reconciler.core.decide.suspension import HOUR, suspension_of
from reconciler.core.history.chain import HistoryHead
from reconciler.core.history.report import FAILED, SUCCEEDED
from reconciler.core.model.compose import HealthStatus, StackHealth
from reconciler.core.model.plans import LEFT_GIT, Aspect, Change, Kind, Plan, SyncStatus
from reconciler.core.model.records import Applied, EnvironmentRecord
from reconciler.core.model.revisions import Revision
from reconciler.core.model.runs import ENDS_NO_RECONCILIATION, Backup, Outcome, Phase, Result
from reconciler.core.model.targets import Target

# From a commit to its services, and from a failure to its end: people merge, images start, somebody wakes up at night.
_LONG = (5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600, 4 * 3600, 86400)
_TARGET = ("environment", "target")
_ENVIRONMENT_RESULT = ("environment", "result")
_KEY_KINDS = ("added", "removed", "changed")
_ENDS = ("ok", "failed")
# How a reconciliation can end.
_RESULTS = tuple(result for result in Result if result not in ENDS_NO_RECONCILIATION)
# The live file differs from git, and not because git just changed.
_DRIFTED = (Kind.DRIFT, Kind.CONFLICT, Kind.FIRST_CONTACT)


class PrometheusMetrics(ServiceDriftMetrics):
    """The ``Metrics`` port. Counters of an environment exist at 0 from the start; a target or a stack has a series only
    where something is to be said of it, and none once it is removed.

    ``host`` is this server's name, a label of every series: alerts of two servers must differ whatever Prometheus calls
    them. ``interval``: seconds between two reconciliations while all is well, the unit for alerts on missing ones.
    """

    def __init__(self, version: str, environments: Sequence[str], interval: float = 0.0, *, host: str) -> None:
        super().__init__(host)
        self._observed: dict[str, Plan] = {}
        self._targets: dict[str, dict[str, Target]] = {}
        self._stacks: dict[str, set[str]] = {}
        self._drift_since: dict[tuple[str, str], float] = {}
        self._failing_since: dict[str, float] = {}
        self._corrections: dict[tuple[str, str], list[float]] = {}  # of the last hour
        self._kept: dict[str, dict[str, tuple[int, float]]] = {}  # backups by target: how many, and the newest's time
        self._define()
        self._define_by_environment()
        self._define_by_target()
        self._define_by_stack()
        self._build_info.labels(version).set(1)
        self._interval.set(interval)
        for environment in environments:
            self._start_at_zero(environment)
        for phase in Phase:
            self._phase_duration.labels(phase)

    def _define(self) -> None:
        gauge, counter = self._gauge, self._counter
        self._build_info = gauge("build_info", "The running version.", "version")
        self._revision_info = self._sparse_gauge(
            "revision_info", "Revisions: head, desired, applied, healthy.", "environment", "state", "revision"
        )
        self._changes = counter("changes", "Changes by result; idle reconciliations are none.", *_ENVIRONMENT_RESULT)
        self._reconcile = counter("reconcile", "Reconciliations by result.", *_ENVIRONMENT_RESULT)
        self._last_result = gauge("last_result", "1 for the result of the latest reconciliation.", *_ENVIRONMENT_RESULT)
        self._history = gauge("history_entries", "The number of the newest entry of the history.")
        self._history_head = gauge("history_head_info", "1 for the head of the history.", "head")
        self._reconcile_duration = self._histogram(
            "reconcile_duration_seconds", "Duration of a reconciliation.", "environment"
        )
        self._phase_duration = self._histogram(
            "phase_duration_seconds", "Duration of a phase of a reconciliation.", "phase"
        )
        self._last_attempt = gauge("last_attempt_timestamp_seconds", "When a reconciliation last ended.", "environment")
        self._last_success = gauge(
            "last_success_timestamp_seconds", "When a reconciliation last succeeded.", "environment"
        )
        self._tick = gauge("loop_last_tick_timestamp_seconds", "When the daemon's loop last turned.")
        self._interval = gauge("reconcile_interval_seconds", "Seconds between two reconciliations while all is well.")

    def _define_by_environment(self) -> None:
        gauge, counter = self._gauge, self._counter
        self._delivery = self._histogram(
            "commit_to_applied_seconds", "From a commit to healthy services on it.", "environment", buckets=_LONG
        )
        self._recovery = self._histogram(
            "failure_to_recovered_seconds",
            "From the first detection of a failing service to its recovery.",
            "environment",
            buckets=_LONG,
        )
        self._backup = counter("backup", "Backups taken.", "environment", "result")
        self._backup_failing = gauge("backup_failing", "1 while the needed backup cannot be stored.", "environment")
        self._rollback = counter("rollback", "Rollbacks.", "environment", "kind", "result")
        self._rollback_last = gauge(
            "rollback_last_timestamp_seconds", "When the newest quarantined revision was rolled back.", "environment"
        )
        self._rollback_failed = self._sparse_gauge(
            "rollback_failed", "1 while the stack is suspended by a failed rollback.", "environment", "stack"
        )
        self._quarantined = gauge("quarantined", "1 while a revision is quarantined.", "environment")
        self._orphan_since = self._sparse_gauge(
            "orphan_since_timestamp_seconds", "Since when the target has left git, and its live file stays.", *_TARGET
        )
        self._pinned = gauge("pinned", "1 while an operator pins the environment to a revision.", "environment")

    def _define_by_target(self) -> None:
        gauge, counter = self._sparse_gauge, self._sparse_counter
        self._target_info = gauge("target_info", "A managed live file.", "environment", "target", "stack", "on_drift")
        self._drift_keys = gauge("drift_keys", "Keys that differ from git.", "environment", "target", "kind")
        self._drift = gauge(
            "drift", "1 where the live file or its containers differ from git.", "environment", "target", "kind"
        )
        self._drift_since_gauge = gauge(
            "drift_since_timestamp_seconds", "When the drift was first detected.", "environment", "target"
        )
        self._drift_detected = counter("drift_detected", "Times drift was detected.", "environment", "target")
        self._drift_corrected = counter("drift_corrected", "Times drift was corrected.", "environment", "target")
        self._applied = gauge(
            "target_revision_info", "The revision that a target has which is not in sync.", *_TARGET, "revision"
        )
        self._applied_after = gauge(
            "target_commit_to_applied_seconds", "From the newest commit that changed it to healthy services.", *_TARGET
        )
        self._drift_corrections = gauge(
            "drift_corrections_last_hour", "Times drift was corrected within the last hour.", "environment", "target"
        )
        self._pending = gauge("pending_changes", "1 where git has content not yet applied.", "environment", "target")
        self._sync = gauge("sync_status", "1 for the status of a live file that is not in sync.", *_TARGET, "status")
        self._paused = gauge("paused", "1 while an operator has paused the target.", "environment", "target")
        self._paused_until = gauge("paused_until_timestamp_seconds", "When the pause ends.", "environment", "target")
        self._backups = gauge("backups", "Backups kept.", "environment", "target")
        self._backup_last = gauge(
            "backup_last_timestamp_seconds", "When the newest backup was taken.", "environment", "target"
        )
        self._rotated = gauge(
            "secret_last_rotated_timestamp_seconds",
            "When the oldest secret of the target was created.",
            "environment",
            "target",
        )

    def _define_by_stack(self) -> None:
        service = ("environment", "stack", "service")
        self._recreate = self._sparse_counter(
            "service_recreate", "Services recreated, restarted or signalled.", *service, "result"
        )
        self._engine_up = self._gauge(
            "engine_up",
            "1 while the Docker engine of the environment's stacks answers, and a Swarm's manager.",
            "environment",
        )
        self._service_healthy = self._gauge(
            "service_healthy", "1 where the service is healthy; one series a service.", *service, "state"
        )
        self._containers = self._gauge(
            "service_containers", "Containers of the service; of a Swarm's, those that it shall have.", *service
        )
        self._containers_running = self._gauge("service_containers_running", "Those of them that run.", *service)
        self._health = self._sparse_gauge(
            "health_status", "1 for the health of the stack's services.", "environment", "stack", "status"
        )

    def _start_at_zero(self, environment: str) -> None:
        for result in _RESULTS:
            self._reconcile.labels(environment, result)
            self._last_result.labels(environment, result)
        for result in (*SUCCEEDED, *FAILED):
            self._changes.labels(environment, result)
        for end in _ENDS:
            self._backup.labels(environment, end)
            for kind in ("local", "git"):
                self._rollback.labels(environment, kind, end)
        times = (self._last_attempt, self._last_success, self._rollback_last)
        for gauge in (*times, self._quarantined, self._pinned, self._backup_failing):
            gauge.labels(environment)
        self.start_source_at_zero(environment)
        for histogram in (self._reconcile_duration, self._delivery, self._recovery):
            histogram.labels(environment)

    # --- the port ---

    def phase(self, phase: Phase, seconds: float) -> None:
        self._phase_duration.labels(phase).observe(seconds)

    def backed_up(self, environment: str, ok: bool) -> None:
        self._backup.labels(environment, "ok" if ok else "failed").inc()
        self._backup_failing.labels(environment).set(int(not ok))

    def backups(self, environment: str, backups: Sequence[Backup]) -> None:
        kept: dict[str, tuple[int, float]] = {}
        for backup in backups:
            for source in {entry.source for entry in backup.entries}:
                target = f"{environment}/{source}"
                number, newest = kept.get(target, (0, 0.0))
                kept[target] = (number + 1, max(newest, backup.at))
        self._kept[environment] = kept
        self._set_backups(environment)

    def _set_backups(self, environment: str) -> None:
        """For the current targets: a backup of a file that left git belongs to none."""
        kept = self._kept.get(environment, {})
        for target in self._targets.get(environment, ()):
            number, newest = kept.get(target, (0, 0.0))
            self._backups.set(environment, target, number)
            self._backup_last.set(environment, target, newest)

    def recreated(self, environment: str, stack: str, service: str, result: str) -> None:
        self._recreate.add(environment, stack, service, result)

    def revision(self, environment: str, state: str, revision: Revision | None) -> None:
        self._revision_info.set_all(environment, state, {(revision.short,): 1} if revision else {})

    def observed(self, plan: Plan, at: float) -> None:
        before = self._observed.get(plan.environment)
        if plan is not before:
            self._observed[plan.environment] = plan
            self._observe_plan(plan, before, at)
        targets = self._targets[plan.environment]
        for key in [key for key in self._corrections if key[0] == plan.environment and key[1] in targets]:
            self._set_corrections(*key, at)

    def _observe_plan(self, plan: Plan, before: Plan | None, at: float) -> None:
        """What is as in the plan ``before`` has its series."""
        changes, unchanged = _by_target(plan), _by_target(before) if before else {}
        targets = {identity: change.target for identity, change in changes.items()}
        known = self._targets.get(plan.environment, {})
        self._targets[plan.environment] = targets
        if known.keys() != targets.keys():
            self._forget_others(plan.environment, targets)
            self._set_backups(plan.environment)
        for identity, change in changes.items():
            if change != unchanged.get(identity):
                target = change.target
                self._target_info.set(plan.environment, identity, 1, target.stack or "", target.on_drift)
                self._observe(plan.environment, change, at)
        self.observe_drifts(plan.environment, plan.drifts)

    def _observe(self, environment: str, change: Change, at: float) -> None:
        target = change.target.id
        drifted = change.kind in _DRIFTED or Aspect.STALE in change.aspects
        self._drift.set_all(environment, target, {(aspect,): 1 for aspect in change.aspects} if drifted else {})
        counts = [((kind,), float(len(getattr(change.keys, kind)))) for kind in _KEY_KINDS]
        self._drift_keys.set_all(environment, target, dict(counts) if drifted else {})
        self._pending.set(environment, target, int(change.kind in (Kind.UPDATE, Kind.CREATE, Kind.CONFLICT)))
        status = sync_status(change)
        self._sync.set(environment, target, int(status is not SyncStatus.IN_SYNC), status)
        if not drifted:
            self._drift_since.pop((environment, target), None)
        elif (environment, target) not in self._drift_since:
            self._drift_since[environment, target] = at
            self._drift_detected.add(environment, target)
        self._drift_since_gauge.set(environment, target, self._drift_since.get((environment, target), 0))

    def _forget_others(self, environment: str, targets: Collection[str]) -> None:
        states = (self._target_info, self._drift, self._drift_keys, self._drift_since_gauge, self._pending, self._sync)
        counts = (self._drift_detected, self._drift_corrected, self._drift_corrections)
        kept = (self._backups, self._backup_last, self._paused, self._paused_until, self._rotated)
        for series in (*states, *counts, *kept, self._applied, self._applied_after, self._decryption_failing):
            series.keep(environment, targets)
        for known in (self._drift_since, self._corrections):
            for gone in [key for key in known if key[0] == environment and key[1] not in targets]:
                del known[gone]

    def corrected(self, environment: str, targets: Sequence[str], at: float) -> None:
        for target in targets:
            self._drift_corrected.add(environment, target)
            self.was_corrected(environment, target, at)
            self._set_corrections(environment, target, at)

    def was_corrected(self, environment: str, target: str, at: float) -> None:
        """Count a correction by an earlier process for the last hour."""
        self._corrections.setdefault((environment, target), []).append(at)

    def _set_corrections(self, environment: str, target: str, now: float) -> None:
        recent = [at for at in self._corrections.pop((environment, target), ()) if 0 <= now - at < HOUR]
        if recent:
            self._corrections[environment, target] = recent
        self._drift_corrections.set(environment, target, len(recent))

    def applied(self, environment: str, applied: Iterable[Applied]) -> None:
        commits = {f"{environment}/{state.source}": state.commit for state in applied}
        behind = self._sync.subjects(environment)
        self._applied.keep(environment, behind)
        for target in behind:
            self._applied.set(environment, target, int(target in commits), commits.get(target, "")[:12])

    def delivered_target(self, environment: str, target: str, seconds: float) -> None:
        self._applied_after.set(environment, target, seconds)

    def delivered(self, environment: str, seconds: float) -> None:
        self._delivery.labels(environment).observe(seconds)

    def failed(self, environment: str, at: float) -> None:
        self._failing_since.setdefault(environment, at)

    def changed(self, environment: str, result: Result) -> None:
        self._changes.labels(environment, result).inc()

    def recorded(self, head: HistoryHead) -> None:
        self._history.set(head.last)
        self._history_head.clear()
        self._history_head.labels(head.sha256[:12]).set(1)

    def health(self, environment: str, stacks: Sequence[StackHealth], at: float) -> float | None:
        self._forget_stacks(environment, {stack.stack for stack in stacks})
        for stack in stacks:
            self._health.set(environment, stack.stack, 1, stack.status)
            self._forget_services(environment, stack.stack)
            for service in stack.services:
                if not service.acknowledged:
                    labels = (environment, stack.stack, service.service)
                    self._service_healthy.labels(*labels, service.state).set(int(service.healthy))
                    if service.containers > 1 or service.nodes:  # of a single one, service_healthy says it all
                        self._containers.labels(*labels).set(service.containers)
                        self._containers_running.labels(*labels).set(service.running)
        statuses = {stack.status for stack in stacks}
        if HealthStatus.UNHEALTHY in statuses:
            self.failed(environment, at)
        elif statuses <= {HealthStatus.HEALTHY, HealthStatus.STOPPED} and environment in self._failing_since:
            since = self._failing_since.pop(environment)
            self._recovery.labels(environment).observe(max(0.0, at - since))
            return since
        return None

    def _forget_stacks(self, environment: str, present: set[str]) -> None:
        """Otherwise a service that was unhealthy when its stack was removed would alert forever."""
        for gone in self._stacks.get(environment, set()) - present:
            self._forget_services(environment, gone)
        for series in (self._health, self._recreate):
            series.keep(environment, present)
        self._stacks[environment] = present

    def _forget_services(self, environment: str, stack: str) -> None:
        for gauge in (self._service_healthy, self._containers, self._containers_running):
            gauge.remove_by_labels({"environment": environment, "stack": stack})

    def remembered(self, record: EnvironmentRecord, at: float) -> None:
        for state, revision in (("head", record.head), ("applied", record.applied), ("healthy", record.healthy)):
            self.revision(record.name, state, revision)
        self._pinned.labels(record.name).set(int(record.pin is not None))
        quarantine = record.quarantine_of(record.desired) if record.desired else None
        self._quarantined.labels(record.name).set(int(quarantine is not None))
        self._rollback_last.labels(record.name).set(max((known.at for known in record.quarantines), default=0.0))
        self._rollback_failed.keep(record.name, record.stopped)
        for stack in record.stopped:
            self._rollback_failed.set(record.name, stack, 1)
        self._orphan_since.keep(record.name, ())
        for orphan in sorted(record.orphans, key=lambda orphan: -orphan.at):  # of one name, the oldest comes last
            self._orphan_since.set(record.name, f"{record.name}/{orphan.source}", orphan.at)
        pauses = suspension_of(record, at).pauses
        for target in self._targets.get(record.name, {}).values():
            until = max((pause.until for pause in pauses if pause.covers(target)), default=0.0)
            self._paused.set(record.name, target.id, int(until > 0))
            self._paused_until.set(record.name, target.id, until)

    def rolled_back(self, environment: str, kind: str, ok: bool) -> None:
        self._rollback.labels(environment, kind, "ok" if ok else "failed").inc()

    def engine(self, environment: str, up: bool | None) -> None:
        if up is None:
            self._engine_up.remove_by_labels({"environment": environment})
        else:
            self._engine_up.labels(environment).set(int(up))

    def rotated(self, environment: str, target: str, at: float | None) -> None:
        self._rotated.set(environment, target, at or 0)

    def finished(self, outcome: Outcome, seconds: float, at: float) -> None:
        self._reconcile.labels(outcome.environment, outcome.result).inc()
        for result in _RESULTS:
            self._last_result.labels(outcome.environment, result).set(int(result is outcome.result))
        self._reconcile_duration.labels(outcome.environment).observe(seconds)
        self._last_attempt.labels(outcome.environment).set(at)
        followed = outcome.result is Result.HELD and outcome.after is not None and outcome.after.only_targets_wait
        followed |= outcome.error_id == PROMOTION_WAITS  # what it may have is in place
        if followed or outcome.result in (Result.APPLIED, Result.IN_SYNC, Result.CORRECTED):
            self._last_success.labels(outcome.environment).set(at)
            self._backup_failing.labels(outcome.environment).set(0)  # one that is needed was taken

    # --- for the daemon ---

    def tick(self, at: float) -> None:
        self._tick.set(at)

    def watch_disk(self, measure: Callable[[], tuple[int, int, int]]) -> None:
        """Show with every scrape what is free on the disk of the state directory: ``measure`` returns free bytes, free
        inodes and all inodes, or raises OSError."""
        free_bytes = self._gauge("state_free_bytes", "Free space on the disk of the state directory.")
        free_bytes.set_function(lambda: _disk_state(measure)[0])
        free_inodes = self._gauge("state_free_inodes", "Free inodes there; -1: it has no fixed number of them.")
        free_inodes.set_function(lambda: _disk_state(measure)[1])


def _by_target(plan: Plan) -> dict[str, Change]:
    """A target whose path has moved exists twice, under one name: the desired one comes first, and counts."""
    return {change.target.id: change for change in reversed(plan.changes) if change.kind not in LEFT_GIT}


def _disk_state(measure: Callable[[], tuple[int, int, int]]) -> tuple[float, float]:
    try:
        free_bytes, free_inodes, inodes = measure()
    except OSError:
        return float("nan"), float("nan")
    return free_bytes, free_inodes if inodes else -1
