"""Metrics of services that somebody changed on the engine itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from reconciler.adapters.source_metrics import SourceMetrics
from reconciler.core.model.plans import ServiceDrift

_SERVICE = ("environment", "stack", "service")
_KEY_KINDS = ("added", "removed", "changed")


class ServiceDriftMetrics(SourceMetrics):
    """The part of the metrics that is about such services. A service has these series once it was changed so."""

    def __init__(self, host: str) -> None:
        super().__init__(host)
        gauge, counter = self._gauge, self._counter
        self._service_drift = gauge(
            "service_drift", "1 where the service was changed by hand on the engine itself.", *_SERVICE, "kind"
        )
        self._service_drift_keys = gauge(
            "service_drift_keys", "Variables of the service that differ from its project.", *_SERVICE, "kind"
        )
        self._service_drift_detected = counter("service_drift_detected", "Times that was detected.", *_SERVICE)
        self._service_drift_corrected = counter("service_drift_corrected", "Times it was taken back.", *_SERVICE)
        self._drifting: dict[tuple[str, str, str], ServiceDrift] = {}

    def observe_drifts(self, environment: str, drifts: Iterable[ServiceDrift]) -> None:
        """The services of the environment that are changed by hand now."""
        now = {(environment, drift.stack, drift.service): drift for drift in drifts}
        before = [service for service in self._drifting if service[0] == environment]
        for service in before:
            if service not in now:
                drift = self._drifting.pop(service)
                self._show(service, ServiceDrift(drift.stack, drift.service, drift.effect, ""))
        for service, drift in now.items():
            self._service_drift_corrected.labels(*service)
            self._service_drift_detected.labels(*service).inc(service not in self._drifting)
            self._show(service, drift)
        self._drifting |= now

    def services_corrected(self, environment: str, services: Sequence[tuple[str, str]]) -> None:
        for stack, service in services:
            self._service_drift_corrected.labels(environment, stack, service).inc()

    def _show(self, service: tuple[str, str, str], drift: ServiceDrift) -> None:
        differs = {
            "environment": not drift.keys.empty,
            "definition": bool(drift.fields),
            "missing": drift.missing,
        }
        for kind, value in differs.items():
            self._service_drift.labels(*service, kind).set(int(value))
        for kind in _KEY_KINDS:
            self._service_drift_keys.labels(*service, kind).set(len(getattr(drift.keys, kind)))
