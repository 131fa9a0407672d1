"""Series that exist only where something is to be said: with 1,000 targets in sync, nothing says 0 a thousand times.

The first two labels are an environment and its ``subject``: a target or a stack.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

_Values = tuple[tuple[tuple[str, ...], float], ...]
"""Pairs of the labels behind the first two, and the value: most subjects have one, of which a dict takes three times as
much memory."""


class _SparseSeries(Collector):
    def __init__(self, registry: CollectorRegistry, name: str, help: str, *labels: str) -> None:
        self._name, self._help, self._labels = f"reconciler_{name}", help, labels
        self._values: dict[str, dict[str, _Values]] = {}
        registry.register(self)

    def keep(self, environment: str, subjects: Collection[str]) -> None:
        """Remove the series of all other subjects of the environment."""
        known = self._values.get(environment, {})
        for gone in known.keys() - set(subjects):
            del known[gone]

    def _samples(self) -> Iterator[tuple[tuple[str, ...], float]]:
        for environment, subjects in self._values.items():
            for subject, values in subjects.items():
                for labels, value in values:
                    yield (environment, subject, *labels), value


class SparseGauge(_SparseSeries):
    """A gauge. What holds no longer has no series."""

    def set(self, environment: str, subject: str, value: float, *labels: str) -> None:
        """Make this the only series of the subject; 0: none."""
        self.set_all(environment, subject, {labels: value})

    def set_all(self, environment: str, subject: str, values: Mapping[tuple[str, ...], float]) -> None:
        """Make these the series of the subject, but those that are 0."""
        subjects = self._values.setdefault(environment, {})
        if shown := tuple(pair for pair in values.items() if pair[1]):
            subjects[subject] = shown
        else:
            subjects.pop(subject, None)

    def subjects(self, environment: str) -> Collection[str]:
        """Those with a series."""
        return self._values.get(environment, {}).keys()

    def collect(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(self._name, self._help, labels=self._labels)
        for labels, value in self._samples():
            family.add_metric(labels, value)
        yield family


class SparseCounter(_SparseSeries):
    """A counter whose series begins with what it counts first.

    It is 0 in the first scrape, and has its value from the next one on: Prometheus sees no increase in a series that
    begins at 1.
    """

    def __init__(self, registry: CollectorRegistry, name: str, help: str, *labels: str) -> None:
        super().__init__(registry, name, help, *labels)
        self._scraped: set[tuple[str, ...]] = set()

    def add(self, environment: str, subject: str, *labels: str) -> None:
        subjects = self._values.setdefault(environment, {})
        values = dict(subjects.get(subject, ()))
        values[labels] = values.get(labels, 0.0) + 1.0
        subjects[subject] = tuple(values.items())

    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily(self._name, self._help, labels=self._labels)
        scraped = dict(self._samples())
        for labels, value in scraped.items():
            family.add_metric(labels, value if labels in self._scraped else 0.0)
        self._scraped = set(scraped)
        yield family
