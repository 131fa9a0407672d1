"""Prometheus metrics of the comparisons that the daemon makes."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import Gauge

from reconciler.adapters.metric_registry import MetricRegistry

_PAIR = ("comparison", "left", "right")


class ComparisonMetrics:
    """The series of the pairs of sides, in the registry of ``metrics``. A ``pair`` is its name and its two sides."""

    def __init__(self, metrics: MetricRegistry) -> None:
        def gauge(name: str, help: str, *labels: str) -> Gauge:
            return Gauge(f"reconciler_{name}", help, labels, registry=metrics.registry)

        self._differences = gauge("environment_differences", "Differences of two sides, by class.", *_PAIR, "class")
        self._last_success = gauge(
            "comparison_last_success_timestamp_seconds", "When the two sides were last compared; 0: never.", *_PAIR
        )
        self._failing_since = gauge(
            "comparison_failing_since_timestamp_seconds", "Since when the comparison fails; 0: it does not.", *_PAIR
        )

    def compared(self, pair: tuple[str, str, str], counts: Mapping[str, int], at: float) -> None:
        """The two sides are compared: how many differences there are, by class, and when (epoch seconds)."""
        for name, number in counts.items():
            self._differences.labels(*pair, name).set(number)
        self._last_success.labels(*pair).set(at)

    def failing(self, pair: tuple[str, str, str], since: float) -> None:
        """Since when (epoch seconds) the sides cannot be compared; 0: they can. Differences stay as they were."""
        self._last_success.labels(*pair)
        self._failing_since.labels(*pair).set(since)
