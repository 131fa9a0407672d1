"""Which services are meant to end: migrations, and what prepares something for others. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from reconciler.core.model.compose import Container, Project
from reconciler.core.model.targets import Stack

_COMPLETED, _HEALTHY = "service_completed_successfully", "service_healthy"
_NO_RESTART = ("", "no")
_JOBS = frozenset({"replicated-job", "global-job"})


def with_one_shots(
    stack: Stack, project: Project | None, containers: Sequence[Container], long_running: Collection[str] = ()
) -> Stack:
    """Given a stack with its containers, return it with every service in ``one_shot`` that is meant to end.

    Beside those that the manifest names: jobs (``deploy.mode``, where the engine knows them), services whose completion
    others wait for, by the project or by how their containers were started, and services that ended with 0 by
    themselves, as far as that shows. ``long_running`` are services that are known to run all the time: one of these
    that ended with 0 was stopped.
    """
    services = project.services.values() if project else ()
    jobs = {service.name for service in services if service.deploys_as.get("mode", {}).get("", "") in _JOBS}
    dependencies = [*(service.depends_on for service in services), *(container.depends_on for container in containers)]
    conditions = [condition for depends_on in dependencies for condition in depends_on.items()]
    awaited = {name for name, condition in conditions if condition == _COMPLETED}
    needed = {name for name, condition in conditions if condition == _HEALTHY}
    by_service: dict[str, list[Container]] = {}
    for container in containers:
        by_service.setdefault(container.service, []).append(container)
    ended = {
        name
        for name, replicas in by_service.items()
        if name not in needed
        and name not in long_running
        and all(ended_by_itself(replica.facts, replica.state, replica.exit_code) for replica in replicas)
    }
    return replace(stack, one_shot=stack.one_shot | jobs | awaited | ended)


def ended_by_itself(facts: Mapping[str, Any], state: str, exit_code: int | None) -> bool:
    """Given what inspect says of a container, return whether it ended with 0, and nothing shows that it was to run
    until somebody stops it.

    The engine does not say whether a container was stopped, and a server that is stopped may end with 0 too.
    """
    host, config = facts.get("HostConfig") or {}, facts.get("Config") or {}
    if not host or state != "exited" or exit_code != 0:
        return False
    restarts = (host.get("RestartPolicy") or {}).get("Name", "") not in _NO_RESTART
    return not (restarts or host.get("PortBindings") or (config.get("Healthcheck") or {}).get("Test"))
