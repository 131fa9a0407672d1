"""The registry that a scrape reads: metrics named ``reconciler_…``, and the name of this server on every series."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.registry import Collector

from reconciler.adapters.sparse_series import SparseCounter, SparseGauge

_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class MetricRegistry:
    """A separate registry, with the process's own metrics in it.

    ``host`` is the server's name, a label of every series: alerts of two servers must differ, whatever addresses
    Prometheus knows them by.
    """

    def __init__(self, host: str) -> None:
        # Would add one more series for each counter, which nothing here uses.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._named = _OnHost(self.registry, host)
        ProcessCollector(registry=self.registry)

    def _gauge(self, name: str, help: str, *labels: str) -> Gauge:
        return Gauge(f"reconciler_{name}", help, labels, registry=self.registry)

    def _counter(self, name: str, help: str, *labels: str) -> Counter:
        return Counter(f"reconciler_{name}", help, labels, registry=self.registry)

    def _sparse_gauge(self, name: str, help: str, *labels: str) -> SparseGauge:
        return SparseGauge(self.registry, name, help, *labels)

    def _sparse_counter(self, name: str, help: str, *labels: str) -> SparseCounter:
        return SparseCounter(self.registry, name, help, *labels)

    def _histogram(self, name: str, help: str, *labels: str, buckets: Sequence[float] = _SECONDS) -> Histogram:
        return Histogram(f"reconciler_{name}", help, labels, registry=self.registry, buckets=buckets)

    def render(self) -> bytes:
        """The text for a scrape."""
        return generate_latest(self._named)


class _OnHost(Collector):
    """The series of a registry, each with the label ``host``."""

    def __init__(self, registry: CollectorRegistry, host: str) -> None:
        self._registry = registry
        self._host = host

    def collect(self) -> Iterator[Metric]:
        for family in self._registry.collect():
            family.samples = [
                sample._replace(labels={**sample.labels, "host": self._host}) for sample in family.samples
            ]
            yield family
