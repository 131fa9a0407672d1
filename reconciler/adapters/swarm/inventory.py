"""The Swarm stacks of a read-only machine, by the docker command there; they join what the Compose inventory holds.

A Swarm keeps no path: a stack is only found together with the directory of its compose file, by its name or services.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from reconciler.adapters.compose.containers import Labelled, containers_of, instant
from reconciler.adapters.swarm import tasks as swarm_tasks
from reconciler.core.compose_names import without_project
from reconciler.core.fidelity.differences import ENVIRONMENT
from reconciler.core.fidelity.swarm_service import spec_fields
from reconciler.core.inventory import FoundContainer, FoundProject, Inventory
from reconciler.core.model.compose import Container, StartedAs
from reconciler.core.model.targets import StackKind
from reconciler.core.ports.host import Machine
from reconciler.core.secret import Secret
from reconciler.core.text import listed

Json = Mapping[str, Any]

_SECONDS = 30.0
# Facts of their own, and digests that each server makes with a key of its own.
_APART = frozenset(
    {
        *(ENVIRONMENT, "image", "replicas", "ports", "memory", "cpus", "service labels"),
        *("config content", "secret content"),
    }
)
_OF_PROJECT = frozenset({"networks", "aliases", "mounts", "configs", "secrets", "hostname"})


class _SilentError(Exception):
    """The Swarm of the machine cannot be asked."""


@dataclass(frozen=True, slots=True)
class _Stacks:
    """The services of the Swarm that are of a stack, by the stack's name, with their places as containers."""

    services: Mapping[str, frozenset[str]]
    containers: Mapping[str, Sequence[Labelled]]


async def with_stacks(machine: Machine, inventory: Inventory, path: str | None) -> Inventory:
    """The inventory with what a Swarm runs of its projects. ``path``: what was asked for, None for everything.

    Raises HostUnreachableError.
    """
    if not inventory.engine or (path is not None and all(project.containers for project in inventory.projects)):
        return inventory
    try:
        stacks = await _stacks(machine)
    except _SilentError as error:
        return replace(inventory, unread=(*inventory.unread, f"{machine.name}: {error}"), engine=False)
    if not stacks.services:
        return inventory
    names = _names_of(inventory.projects, stacks)
    projects = tuple(map(partial(_of_swarm, stacks), inventory.projects, names))
    unread = inventory.unread
    matched = {project.name for project in projects if project.kind is StackKind.SWARM}
    if path is None and (rest := sorted(stacks.services.keys() - matched)):
        unread = (
            *unread,
            f"{machine.name}: Swarm runs {listed(rest)}, and does not keep where the compose files are: "
            "name the directory instead",
        )
    return replace(inventory, projects=projects, unread=unread)


async def stack_containers(machine: Machine) -> tuple[Labelled, ...]:
    """The places of all services of Swarm stacks; none where the machine is no manager that can be asked."""
    try:
        stacks = await _stacks(machine)
    except _SilentError:
        return ()
    return tuple(container for containers in stacks.containers.values() for container in containers)


def _names_of(projects: Sequence[FoundProject], stacks: _Stacks) -> list[str]:
    """As which stack each project is deployed, "" for none: the one of its name, else the only one with its services.
    Of several projects that look like one stack, none is it unless it has the name."""
    names = []
    for project in projects:
        services = set(project.services)
        alike = [name for name, deployed in stacks.services.items() if deployed == services]
        if project.containers:
            names.append("")
        elif services & stacks.services.get(project.name, frozenset()):
            names.append(project.name)
        else:
            names.append(alike[0] if len(alike) == 1 else "")
    return [
        name if names.count(name) == 1 or name == project.name else ""
        for name, project in zip(names, projects, strict=True)
    ]


def _of_swarm(stacks: _Stacks, project: FoundProject, name: str) -> FoundProject:
    if not name:
        return project
    return replace(
        project,
        kind=StackKind.SWARM,
        name=name,
        named=project.named if name == project.name else name,
        containers=containers_of(stacks.containers[name]),
        notes=(*project.notes, "a Swarm runs it: its manager needs swarm_manager: true in the server configuration"),
    )


async def _stacks(machine: Machine) -> _Stacks:
    """Raises _SilentError where the machine is of a Swarm that cannot be asked."""
    ran = await machine.run(["docker", "info", "--format", "{{json .Swarm}}"], "", _SECONDS)
    swarm = _json(ran.output.reveal() if ran.exit_code == 0 else b"") or {}
    if not isinstance(swarm, dict) or swarm.get("LocalNodeState") in (None, "", "inactive"):
        return _Stacks({}, {})
    if not swarm.get("ControlAvailable"):
        raise _SilentError("it is a worker of a Swarm, and only a manager knows the services: name a manager")
    ids = await _lines(
        machine,
        ["service", "ls", "--quiet", "--filter", f"label={swarm_tasks.NAMESPACE_LABEL}"],
    )
    if not ids:
        return _Stacks({}, {})
    services = await _inspected(machine, "service", ids)
    task_ids = await _lines(machine, ["service", "ps", "--quiet", "--no-trunc", *ids])
    tasks = await _inspected(machine, "task", task_ids)
    nodes = dict(await _names(machine, ["node", "ls", "--format", "{{.ID}}\t{{.Hostname}}"]))
    networks = dict(await _names(machine, ["network", "ls", "--no-trunc", "--format", "{{.ID}}\t{{.Name}}"]))
    try:
        return _read(services, tasks, nodes, networks)
    except (AttributeError, ArithmeticError, KeyError, TypeError, ValueError) as error:
        raise _SilentError("the answer about its Swarm is not docker's") from error


def _read(
    services: Iterable[Json], tasks: Sequence[Json], nodes: Mapping[str, str], networks: Mapping[str, str]
) -> _Stacks:
    names: dict[str, set[str]] = {}
    containers: dict[str, list[Labelled]] = {}
    for service in services:
        stack = service["Spec"]["Labels"][swarm_tasks.NAMESPACE_LABEL]
        names.setdefault(stack, set()).add(swarm_tasks.service_name(service))
        own = [task for task in tasks if task["ServiceID"] == service["ID"]]
        containers.setdefault(stack, []).extend(
            _labelled(stack, service, container, networks)
            for container in swarm_tasks.containers_of(service, own, nodes)
        )
    return _Stacks({stack: frozenset(services) for stack, services in names.items()}, containers)


def _labelled(stack: str, service: Json, container: Container, networks: Mapping[str, str]) -> Labelled:
    """A place of a service; what is said beside its state is the service's definition."""
    spec = service["Spec"]
    template = spec["TaskTemplate"]
    limits = (template.get("Resources") or {}).get("Limits") or {}
    environment = dict(container.environment)
    found = FoundContainer(
        service=container.service,
        state=container.state,
        health=container.health,
        restarts=container.restarts,
        image=container.image.partition("@")[0],
        image_digest=str((template.get("ContainerSpec") or {}).get("Image", "")).partition("@")[2],
        ports=tuple(sorted(_ports((spec.get("EndpointSpec") or {}).get("Ports") or ()))),
        memory=int(limits.get("MemoryBytes") or 0),
        cpus=float(limits.get("NanoCPUs") or 0) / 1e9,
        since=instant(container.finished_at),
        exit_code=container.exit_code,
        ended=container.state == "exited" and container.exit_code == 0 and swarm_tasks.is_job(service),
        fields=dict(_fields(stack, spec, networks)),
        values=frozenset(environment.values()),
    )
    return Labelled(
        started=StartedAs(stack, "", running=container.state == "running"),
        container=found,
        environment={name: Secret(value.encode("utf-8", "surrogateescape")) for name, value in environment.items()},
    )


def _ports(ports: Iterable[Json]) -> Iterator[str]:
    for port in ports:
        inside = f"{port.get('TargetPort')}/{port.get('Protocol', 'tcp')}"
        yield f"{port.get('PublishedPort') or ''}->{inside}"


def _fields(stack: str, spec: Json, networks: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for name, items in spec_fields(spec, networks).items():
        if name in _APART or not items:
            continue
        own = name in _OF_PROJECT
        if not any(items.values()):  # a set of names
            yield name, ", ".join(sorted(without_project(item, stack, "/") if own else item for item in items))
        else:
            for item, text in items.items():
                yield f"{name} {item}".strip(), without_project(text, stack, "/") if own else text


# --- the docker command there ---


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return None


async def _lines(machine: Machine, arguments: Sequence[str]) -> list[str]:
    """Raises _SilentError where the command fails: without a quorum, nobody answers."""
    ran = await machine.run(["docker", *arguments], "", _SECONDS)
    if ran.exit_code != 0:
        raise _SilentError("its Swarm does not answer: too few managers may be online (`docker node ls`)")
    return ran.output.reveal().decode("utf-8", "replace").splitlines()


async def _names(machine: Machine, arguments: Sequence[str]) -> list[tuple[str, str]]:
    pairs = (line.partition("\t") for line in await _lines(machine, arguments))
    return [(identity, name) for identity, _, name in pairs]


async def _inspected(machine: Machine, kind: str, ids: Sequence[str]) -> list[Json]:
    """What docker knows of them; one that has gone meanwhile is left out."""
    if not ids:
        return []
    ran = await machine.run(["docker", "inspect", "--type", kind, *ids], "", _SECONDS)
    things = _json(ran.output.reveal())
    return things if isinstance(things, list) else []
