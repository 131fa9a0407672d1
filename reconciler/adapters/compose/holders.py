"""Who holds what a container needs: a name, or a port of the machine."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from reconciler.adapters.compose.docker_api import PROJECT_LABEL, SERVICE_LABEL, number_of
from reconciler.core.errors import ModelRefusedError, NameTakenError
from reconciler.core.model.compose import Invocation, Project
from reconciler.core.text import printable

if TYPE_CHECKING:
    from aiodocker.containers import DockerContainer


def container_names(project: Project, service: str, numbers: Collection[int]) -> frozenset[str]:
    """The names that Compose gives the service's containers with these numbers."""
    if service not in project.services:
        return frozenset()
    fixed = json.loads(project.services[service].text.reveal()).get("container_name")
    return frozenset({fixed} if fixed else {f"{project.name}-{service}-{number}" for number in numbers})


def is_of_service(container: DockerContainer, project: str, service: str) -> bool:
    labels = container["Labels"]
    return (labels.get(PROJECT_LABEL), labels.get(SERVICE_LABEL)) == (project, service)


def container_words(container: DockerContainer) -> str:
    """A container for a message: its name, id and where it comes from."""
    labels = container["Labels"]
    name = printable(container["Names"][0].lstrip("/")) if container["Names"] else ""
    project, service = labels.get(PROJECT_LABEL), labels.get(SERVICE_LABEL)
    origin = f"service {service} of project {project}" if project else f"image {container['Image']}, not of Compose"
    return f"the container {name} ({container.id[:12]}, {printable(origin)}, {container['State']})"


def publisher(containers: Iterable[DockerContainer], port: int) -> DockerContainer | None:
    """The container that publishes the port."""
    for container in containers:
        if any(published.get("PublicPort") == port for published in container["Ports"] or ()):
            return container
    return None


def needed_names(
    project: Project, services: Sequence[str], containers: Sequence[DockerContainer], scale: Mapping[str, int]
) -> dict[str, str]:
    """The names that an `up` gives containers of these services, with the service; ``containers`` are the project's."""
    needed: dict[str, str] = {}
    for service in services:
        own = [container for container in containers if is_of_service(container, project.name, service)]
        numbers = {number_of(container["Labels"]) for container in own}
        count = scale.get(service, 1)
        numbers |= set(range(1, count + 1)) if count > len(own) else set()
        needed |= dict.fromkeys(container_names(project, service, numbers), service)
    return needed


def require_free(project: Project, needed: Mapping[str, str], holders: Iterable[DockerContainer]) -> None:
    """Raises NameTakenError if one of the ``holders`` of the needed names is not a container of that service."""
    for holder in holders:
        for name in (name.lstrip("/") for name in holder["Names"]):
            if name in needed and not is_of_service(holder, project.name, needed[name]):
                raise _name_taken(project, needed[name], name, holder)


def _name_taken(project: Project, service: str, name: str, holder: DockerContainer) -> NameTakenError:
    hint = f"Rename or remove that container (`docker rename {name} OTHER`), or give {service} another container_name"
    problem = f"{service} needs the container name {name}, which is taken by {container_words(holder)}"
    return NameTakenError(problem, where=project.invocation.directory, hint=hint)


def port_taken(invocation: Invocation, services: Sequence[str], port: int, holder: str) -> ModelRefusedError:
    """The error of an `up` that could not have the port; ``holder`` is who has it, in words, "" where nobody knows."""
    hint = f"Stop that, or publish another port. `ss -ltnp 'sport = :{port}'` shows who listens"
    taken = f"port {port} is taken by {holder or 'a process that does not show'}"
    return ModelRefusedError(
        f"Compose cannot start {', '.join(services)}: {taken}",
        where=invocation.directory,
        hint=hint,
        id=NameTakenError.id,
    )
