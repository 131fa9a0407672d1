"""Prometheus metrics, in a registry of their own. No label holds a key, a value, a path or a URL."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from reconciler.core.model import Aspect, Change, Kind, Outcome, Phase, Plan, Result, Revision, ServiceHealth

_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_DECRYPT_RESULTS = (("ok", ""), ("failed", "key"), ("failed", "ciphertext"), ("failed", "sops"))
_KEY_KINDS = ("added", "removed", "changed")
_VERIFICATION_RESULTS = (("ok", ""), ("failed", "signature"), ("failed", "unavailable"))
_ENDS = ("ok", "failed")
# What git no longer names is no target any more.
_LEFT_GIT = (Kind.ORPHAN, Kind.NOT_OURS)
# What lies on the server is not what git wants, and git has not just changed its mind.
_DRIFTED = (Kind.DRIFT, Kind.CONFLICT, Kind.FIRST_CONTACT)


class PrometheusMetrics:
    """The ``Metrics`` port. Counters exist at 0 from the start; series of removed targets and stacks vanish."""

    def __init__(self, version: str, environments: Sequence[str]) -> None:
        # One more series for each counter, which nothing here asks for.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._targets: dict[str, dict[str, tuple[str, ...]]] = {}
        self._services: dict[str, set[tuple[str, str]]] = {}
        self._revisions: dict[tuple[str, str], str] = {}
        self._drift_since: dict[tuple[str, str], float] = {}
        self._with_secrets: set[tuple[str, str]] = set()
        self._define()
        self._build_info.labels(version).set(1)
        for environment in environments:
            self._start_at_zero(environment)
        for phase in Phase:
            self._phase_duration.labels(phase)

    def _define(self) -> None:
        gauge, counter = self._gauge, self._counter
        self._build_info = gauge("build_info", "The running version.", "version")
        self._target_info = gauge("target_info", "A managed live file.", "environment", "target", "stack", "on_drift")
        self._revision_info = gauge(
            "revision_info", "Revisions: head, wanted, applied, healthy.", "environment", "state", "revision"
        )
        self._drift_keys = gauge("drift_keys", "Keys that differ from git.", "environment", "target", "kind")
        self._drift = gauge("drift", "1 where the live side differs from git.", "environment", "target", "kind")
        self._drift_since_gauge = gauge(
            "drift_since_timestamp_seconds", "When the drift was first seen; 0: none.", "environment", "target"
        )
        self._drift_detected = counter("drift_detected", "Times drift was first seen.", "environment", "target")
        self._drift_corrected = counter("drift_corrected", "Times drift was repaired.", "environment", "target")
        self._pending = gauge("pending_changes", "1 where git has content not yet applied.", "environment", "target")
        self._reconcile = counter("reconcile", "Passes by result.", "environment", "result")
        self._reconcile_duration = self._histogram("reconcile_duration_seconds", "Length of a pass.", "environment")
        self._phase_duration = self._histogram("phase_duration_seconds", "Length of a part of a pass.", "phase")
        self._last_attempt = gauge("last_attempt_timestamp_seconds", "When a pass last ended.", "environment")
        self._last_success = gauge(
            "last_success_timestamp_seconds", "When a pass last ended in sync or applied.", "environment"
        )
        self._tick = gauge("loop_last_tick_timestamp_seconds", "When the daemon's loop last turned.")
        self._git_fetch = counter("git_fetch", "Questions to the git remote.", "environment", "result")
        self._git_last = gauge(
            "git_last_fetch_success_timestamp_seconds", "When the git remote last answered.", "environment"
        )
        self._decrypt = counter("decrypt", "Calls of sops.", "environment", "result", "reason")
        self._backup = counter("backup", "Backups taken.", "environment", "result")
        self._backups = gauge("backups", "Backups kept.", "environment")
        self._backup_last = gauge("backup_last_timestamp_seconds", "When the last backup was taken.", "environment")
        self._recreate = counter(
            "service_recreate",
            "Services recreated, restarted or signalled.",
            "environment",
            "stack",
            "service",
            "result",
        )
        self._service_healthy = gauge(
            "service_healthy", "1 where the service is healthy.", "environment", "stack", "service"
        )
        self._rollback = counter("rollback", "Rollbacks.", "environment", "kind", "result")
        self._quarantined = gauge("quarantined", "1 while a revision is quarantined.", "environment")
        self._pinned = gauge("pinned", "1 while a person holds the environment at a revision.", "environment")
        self._verification = counter(
            "source_verification", "Checks of commits' signatures.", "environment", "result", "reason"
        )

        self._rotated = gauge(
            "secret_last_rotated_timestamp_seconds",
            "When the oldest secret of the target was made.",
            "environment",
            "target",
        )

    def _start_at_zero(self, environment: str) -> None:
        for result in Result:
            self._reconcile.labels(environment, result)
        for end in _ENDS:
            self._git_fetch.labels(environment, end)
            self._backup.labels(environment, end)
            for kind in ("local", "git"):
                self._rollback.labels(environment, kind, end)
        for ended, reason in _DECRYPT_RESULTS:
            self._decrypt.labels(environment, ended, reason)
        for gauge in (self._last_attempt, self._last_success, self._git_last, self._backup_last, self._backups):
            gauge.labels(environment)
        self._quarantined.labels(environment)
        self._pinned.labels(environment)
        for ended, reason in _VERIFICATION_RESULTS:
            self._verification.labels(environment, ended, reason)
        self._reconcile_duration.labels(environment)

    # --- the port ---

    def phase(self, phase: Phase, seconds: float) -> None:
        self._phase_duration.labels(phase).observe(seconds)

    def fetched(self, environment: str, ok: bool, at: float) -> None:
        self._git_fetch.labels(environment, "ok" if ok else "failed").inc()
        if ok:
            self._git_last.labels(environment).set(at)

    def decrypted(self, environment: str, result: str, reason: str = "") -> None:
        self._decrypt.labels(environment, result, reason).inc()

    def backed_up(self, environment: str, ok: bool, at: float, kept: int) -> None:
        self._backup.labels(environment, "ok" if ok else "failed").inc()
        if ok:
            self._backup_last.labels(environment).set(at)
        self._backups.labels(environment).set(kept)

    def backups_found(self, environment: str, kept: int, last: float) -> None:
        """What lies in the backup directory when the daemon starts; ``last`` is the newest one's time, 0 for none."""
        self._backups.labels(environment).set(kept)
        self._backup_last.labels(environment).set(last)

    def recreated(self, environment: str, stack: str, service: str, result: str) -> None:
        self._meet(environment, stack, service)
        self._recreate.labels(environment, stack, service, result).inc()

    def revision(self, environment: str, state: str, revision: Revision | None) -> None:
        old = self._revisions.pop((environment, state), None)
        if old is not None:
            self._revision_info.remove(environment, state, old)
        if revision is not None:
            self._revisions[environment, state] = revision.short
            self._revision_info.labels(environment, state, revision.short).set(1)

    def observed(self, plan: Plan, at: float) -> None:
        # A target whose path has moved is there twice, under one name: the wanted one comes first, and counts.
        changes = {change.target.id: change for change in reversed(plan.changes) if change.kind not in _LEFT_GIT}
        infos = {target: _info(change) for target, change in changes.items()}
        known = self._targets.get(plan.environment, {})
        for target in known.keys() - infos.keys():
            self._forget(plan.environment, target)
        for target, labels in infos.items():
            if known.get(target, labels) != labels:
                self._target_info.remove(*known[target])
            self._target_info.labels(*labels).set(1)
        self._targets[plan.environment] = infos
        for change in changes.values():
            self._observe(plan.environment, change, at)
        self._observe_services(plan)

    def _observe_services(self, plan: Plan) -> None:
        stacks = {change.target.stack for change in plan.changes} | {action.stack for action in plan.actions}
        known = self._services.setdefault(plan.environment, set())
        for gone in {one for one in known if one[0] not in stacks}:
            known.discard(gone)
            self._service_healthy.remove(plan.environment, *gone)
            for end in _ENDS:
                self._recreate.remove(plan.environment, *gone, end)
        for action in plan.actions:
            self._meet(plan.environment, action.stack, action.service)

    def _meet(self, environment: str, stack: str, service: str) -> None:
        """Start a service's counters at 0, so that the first increase is seen as one."""
        self._services.setdefault(environment, set()).add((stack, service))
        for end in _ENDS:
            self._recreate.labels(environment, stack, service, end)

    def _observe(self, environment: str, change: Change, at: float) -> None:
        target = change.target.id
        drifted = change.kind in _DRIFTED or Aspect.STALE in change.aspects
        for aspect in Aspect:
            self._drift.labels(environment, target, aspect).set(int(drifted and aspect in change.aspects))
        for kind in _KEY_KINDS:
            self._drift_keys.labels(environment, target, kind).set(len(getattr(change.keys, kind)) if drifted else 0)
        self._pending.labels(environment, target).set(int(change.kind in (Kind.UPDATE, Kind.CREATE, Kind.CONFLICT)))
        detected = self._drift_detected.labels(environment, target)
        self._drift_corrected.labels(environment, target)
        if not drifted:
            self._drift_since.pop((environment, target), None)
        elif (environment, target) not in self._drift_since:
            self._drift_since[environment, target] = at
            detected.inc()
        self._drift_since_gauge.labels(environment, target).set(self._drift_since.get((environment, target), 0))

    def _forget(self, environment: str, target: str) -> None:
        self._target_info.remove(*self._targets[environment][target])
        for aspect in Aspect:
            self._drift.remove(environment, target, aspect)
        for kind in _KEY_KINDS:
            self._drift_keys.remove(environment, target, kind)
        for series in (self._pending, self._drift_detected, self._drift_corrected, self._drift_since_gauge):
            series.remove(environment, target)
        self._drift_since.pop((environment, target), None)
        self.rotated(environment, target, None)

    def corrected(self, environment: str, targets: Sequence[str]) -> None:
        for target in targets:
            self._drift_corrected.labels(environment, target).inc()

    def health(self, environment: str, services: Sequence[ServiceHealth]) -> None:
        for one in services:
            self._meet(environment, one.stack, one.service)
            self._service_healthy.labels(environment, one.stack, one.service).set(int(one.healthy))

    def rolled_back(self, environment: str, kind: str, ok: bool) -> None:
        self._rollback.labels(environment, kind, "ok" if ok else "failed").inc()

    def quarantined(self, environment: str, quarantined: bool) -> None:
        self._quarantined.labels(environment).set(int(quarantined))

    def pinned(self, environment: str, pinned: bool) -> None:
        self._pinned.labels(environment).set(int(pinned))

    def verified(self, environment: str, result: str, reason: str = "") -> None:
        self._verification.labels(environment, result, reason).inc()

    def rotated(self, environment: str, target: str, at: float | None) -> None:
        if at is not None:
            self._with_secrets.add((environment, target))
            self._rotated.labels(environment, target).set(at)
        elif (environment, target) in self._with_secrets:
            self._with_secrets.remove((environment, target))
            self._rotated.remove(environment, target)

    def finished(self, outcome: Outcome, seconds: float, at: float) -> None:
        self._reconcile.labels(outcome.environment, outcome.result).inc()
        self._reconcile_duration.labels(outcome.environment).observe(seconds)
        self._last_attempt.labels(outcome.environment).set(at)
        if outcome.result in (Result.APPLIED, Result.IN_SYNC, Result.CORRECTED):
            self._last_success.labels(outcome.environment).set(at)

    # --- for the daemon ---

    def tick(self, at: float) -> None:
        self._tick.set(at)

    def render(self) -> bytes:
        """The text a scrape gets."""
        return generate_latest(self.registry)

    def _gauge(self, name: str, help: str, *labels: str) -> Gauge:
        return Gauge(f"reconciler_{name}", help, labels, registry=self.registry)

    def _counter(self, name: str, help: str, *labels: str) -> Counter:
        return Counter(f"reconciler_{name}", help, labels, registry=self.registry)

    def _histogram(self, name: str, help: str, *labels: str) -> Histogram:
        return Histogram(f"reconciler_{name}", help, labels, registry=self.registry, buckets=_SECONDS)


def _info(change: Change) -> tuple[str, ...]:
    target = change.target
    return (target.environment, target.id, target.stack or "", target.on_drift)
