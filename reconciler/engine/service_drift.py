"""Finds the services of a stack that somebody changed on the engine itself. Reads only.

The decision is pure: see core/decide/service_drift.py.
"""

from __future__ import annotations

from collections.abc import Collection

from reconciler.core.decide.service_drift import DriftPolicy, scale_notes, service_drifts
from reconciler.core.decide.suspension import RUNS_LOOKED_AT, Suspension, conflicting_operator
from reconciler.core.model.plans import ServiceDrift
from reconciler.core.ports import Ports
from reconciler.engine.project_guard import StackSides, project_sides


def find_drifts(
    ports: Ports, sides: StackSides, suspension: Suspension
) -> tuple[tuple[ServiceDrift, ...], Collection[str]]:
    """Given a stack before and after a change, return what was changed by hand of its services, and notes on those that
    were scaled. Nothing where the engine keeps only containers."""
    if sides.deployed is None or sides.after is None:
        return (), ()
    stack, environment = sides.stack, sides.stack.environment

    def backing_off(service: str) -> str:
        runs = ports.store.runs(environment, RUNS_LOOKED_AT)
        return conflicting_operator(runs, stack.name, service, ports.clock.now())

    ran = {service.service for service in ports.store.ran_services(environment) if service.stack == stack.name}
    policy = DriftPolicy(suspension.of_stack(stack.name), backing_off, ran, sides.hidden)
    compared = project_sides(sides, sides.containers)
    return service_drifts(stack, compared, policy), scale_notes(stack, compared)
