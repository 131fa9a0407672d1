"""Builds what the section ``promotion`` of the server configuration asks for."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from reconciler.adapters.metric_registry import MetricRegistry
from reconciler.adapters.promotion_metrics import PromotionMetrics
from reconciler.app.config.server import ServerConfig
from reconciler.core.model.settings import PromotionGate
from reconciler.core.model.targets import environment_of
from reconciler.core.ports import Ports
from reconciler.core.ports.observer import Observer
from reconciler.engine.health_reports import HealthReports, ReportSide


def promotion_gates(config: ServerConfig) -> Mapping[str, PromotionGate]:
    """The gate of each environment that has one."""
    gates = config.promotion.gates
    return {name: PromotionGate(tuple(dict.fromkeys(gate.after)), gate.for_) for name, gate in gates.items()}


def promotion_observers(
    config: ServerConfig, ports: Ports, units: Collection[str], metrics: MetricRegistry
) -> Iterator[Observer]:
    """What reports to other servers' gates, and what measures; nothing where the configuration does not ask for it."""
    section = config.promotion
    if not (section.publish or section.gates):
        return
    gated = [unit for unit in units if environment_of(unit) in section.gates]
    measures = PromotionMetrics(metrics, gated)
    yield measures
    if section.publish:
        yield HealthReports(ReportSide(ports.git, ports.git_writer, ports.clock, config.host, measures.reported))
