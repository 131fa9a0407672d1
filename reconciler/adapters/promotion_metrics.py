"""Prometheus metrics of promotion gates, and of what this server reports to those of others."""

from __future__ import annotations

from collections.abc import Collection

from prometheus_client import Counter, Gauge

from reconciler.adapters.metric_registry import MetricRegistry
from reconciler.core.decide.promotion import waits_for_promotion
from reconciler.core.ports.observer import Reconciled

REPORT_RESULTS = ("ok", "refused", "failed")


class PromotionMetrics:
    """The series, in the registry of ``metrics``; an ``Observer``. ``gated`` are the units that have a gate."""

    def __init__(self, metrics: MetricRegistry, gated: Collection[str]) -> None:
        registry = metrics.registry
        help = "1 while a revision waits to be promoted."
        self._waiting = Gauge("reconciler_promotion_waiting", help, ["environment"], registry=registry)
        self._reports = Counter(
            "reconciler_health_reports", "Reports to promotion gates, by result.", ["result"], registry=registry
        )
        self._gated = frozenset(gated)
        for unit in gated:
            self._waiting.labels(unit)
        for result in REPORT_RESULTS:
            self._reports.labels(result)

    def reported(self, result: str) -> None:
        self._reports.labels(result).inc()

    def reconciled(self, event: Reconciled) -> None:
        if event.outcome.environment in self._gated:
            self._waiting.labels(event.outcome.environment).set(int(waits_for_promotion(event.outcome)))

    async def run(self) -> None:
        """There is nothing to do beside the loop."""
