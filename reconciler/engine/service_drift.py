"""Finds the services of a stack that somebody, or the engine by itself, changed on the engine. Reads only.

The decision is pure: see core/decide/service_drift.py.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence

from reconciler.core.decide.service_drift import DriftPolicy, scale_notes, service_drifts
from reconciler.core.decide.suspension import RUNS_LOOKED_AT, Suspension, conflicting_operator
from reconciler.core.errors import EngineUnavailableError
from reconciler.core.fidelity.differences import ENVIRONMENT
from reconciler.core.model.compose import DeployedService, Project
from reconciler.core.model.plans import KeyChange, ServiceDrift
from reconciler.core.model.runs import Run
from reconciler.core.model.targets import OnFailure, Stack
from reconciler.core.ports import Ports
from reconciler.core.text import listed
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


def services_put_back(
    ports: Ports, stack: Stack, project: Project | None, deployed: Sequence[DeployedService] | None
) -> frozenset[str]:
    """The services that the engine itself rolled back while the files of the failed revision stay (on_failure: hold).

    To deploy that revision to them again could only end the same way.
    """
    if project is None or stack.on_failure is not OnFailure.HOLD:
        return frozenset()
    if not ports.store.environment(stack.environment).degraded:
        return frozenset()
    return frozenset(service.name for service in _older(project, deployed))


async def mixed_state(ports: Ports, stack: Stack, project: Project | None, run: Run) -> str:
    """What runs and what lies there, where the engine rolled back services of the run by itself; "" where none."""
    if project is None:
        return ""
    services = {action.service for action in run.actions if action.stack == stack.name}
    older: list[DeployedService] = []
    with contextlib.suppress(EngineUnavailableError):  # what it does is seen with the next look
        deployed = await ports.compose.deployed(stack, project.name)
        older = [service for service in _older(project, deployed) if service.name in services]
    sentences = []
    for service in older:
        says = project.services[service.name].deploys_as
        keys = KeyChange.between(service.fields.get(ENVIRONMENT, {}), says.get(ENVIRONMENT, {}))
        of = f" of {listed(keys.names)}" if keys.names else ""
        sentences.append(f"The engine rolled {service.name} back by itself: it runs with the old values{of}")
    more = "The files have the new ones; nothing is deployed again until a new commit or `reconciler retry`"
    return ". ".join([*sentences, more]) if sentences else ""


def _older(project: Project, deployed: Sequence[DeployedService] | None) -> list[DeployedService]:
    """Those that were not deployed from the project as it is."""
    known = project.services
    return [it for it in deployed or () if it.name in known and it.deployed_as != known[it.name].digest]
