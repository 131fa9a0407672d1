"""Metrics of services that somebody changed on the engine itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from reconciler.adapters.source_metrics import SourceMetrics
from reconciler.core.model.plans import ServiceDrift

_SERVICE = ("environment", "stack", "service")
_KEY_KINDS = ("added", "removed", "changed")
_Values = dict[tuple[str, ...], float]


class ServiceDriftMetrics(SourceMetrics):
    """The part of the ``Metrics`` port that is about such services."""

    def __init__(self, host: str) -> None:
        super().__init__(host)
        gauge, counter = self._sparse_gauge, self._sparse_counter
        self._service_drift = gauge(
            "service_drift", "1 where the service was changed by hand on the engine itself.", *_SERVICE, "kind"
        )
        self._service_drift_keys = gauge(
            "service_drift_keys", "Variables of the service that differ from its project.", *_SERVICE, "kind"
        )
        self._service_drift_detected = counter("service_drift_detected", "Times that was detected.", *_SERVICE)
        self._service_drift_corrected = counter("service_drift_corrected", "Times it was taken back.", *_SERVICE)
        self._drifting: dict[str, set[tuple[str, str]]] = {}

    def observe_drifts(self, environment: str, drifts: Iterable[ServiceDrift]) -> None:
        """The services of the environment that are changed by hand now."""
        before = self._drifting.get(environment, set())
        by_stack: dict[str, list[ServiceDrift]] = {stack: [] for stack, _ in before}
        for drift in drifts:
            by_stack.setdefault(drift.stack, []).append(drift)
        for stack, mine in by_stack.items():
            kinds: _Values = {(drift.service, kind): 1.0 for drift in mine for kind in _kinds(drift)}
            keys: _Values = {
                (it.service, kind): float(len(getattr(it.keys, kind))) for it in mine for kind in _KEY_KINDS
            }
            self._service_drift.set_all(environment, stack, kinds)
            self._service_drift_keys.set_all(environment, stack, keys)
        now = {(stack, drift.service) for stack, mine in by_stack.items() for drift in mine}
        for stack, service in sorted(now - before):
            self._service_drift_detected.add(environment, stack, service)
        self._drifting[environment] = now

    def services_corrected(self, environment: str, services: Sequence[tuple[str, str]]) -> None:
        for stack, service in services:
            self._service_drift_corrected.add(environment, stack, service)


def _kinds(drift: ServiceDrift) -> list[str]:
    differs = {"environment": not drift.keys.empty, "definition": bool(drift.fields), "missing": drift.missing}
    return [kind for kind, value in differs.items() if value]
