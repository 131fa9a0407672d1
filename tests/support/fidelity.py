"""What the guard of the project says of services that are about to be touched."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from reconciler.core.decide.affected_services import managed_keys
from reconciler.core.fidelity.guard import Grants, ProjectSides, edits
from reconciler.core.model.compose import Action, Container, ManagedFile, Project


def managing(keys: Mapping[str, Collection[str]]) -> dict[str, ManagedFile]:
    """Managed files by path, from the names of their keys."""
    return {path: ManagedFile(path, frozenset(names)) for path, names in keys.items()}


def edited(
    project: Project, containers: Sequence[Container], actions: Iterable[Action], managed: Mapping[str, ManagedFile]
) -> list[str]:
    """Sentences about what a recreate would bring along that no managed file explains."""
    services = {action.service for action in actions} & project.services.keys()
    keys = {name: managed_keys(project, project.services[name], managed) for name in services}
    return edits(ProjectSides(project, project, containers), services, Grants(keys))
