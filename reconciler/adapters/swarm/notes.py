"""What of a service is otherwise in a Swarm than the project says, in sentences. Pure."""

from __future__ import annotations

import posixpath
from collections.abc import Collection

from reconciler.core.decide.guards import is_below
from reconciler.core.fidelity.swarm_spec import ignored_fields, own_definition
from reconciler.core.model.compose import Service
from reconciler.core.text import listed

_ONE_NODE = ("node.hostname==", "node.id==")


def notes_on(service: Service, managed: Collection[str]) -> tuple[str, ...]:
    """Given a service whose binds of ``managed`` live files have become configs and secrets, return what an operator
    should know of it."""
    notes = []
    if fields := ignored_fields(service):
        notes.append(f"Swarm ignores what {service.name} says as {listed(fields)}")
    if (directories := managed_directories(service, managed)) and not _has_one_node(service):
        notes.append(
            f"{service.name} binds {listed(directories)}, where git manages files: only its tasks on this node have "
            "them. Bind the files themselves, or say with a placement constraint where it runs"
        )
    return tuple(notes)


def managed_directories(service: Service, managed: Collection[str]) -> list[str]:
    """The directories that the service binds and that hold ``managed`` live files, sorted."""
    sources = {mount["source"] for mount in own_definition(service).get("volumes") or () if mount.get("type") == "bind"}
    return sorted(
        source for source in map(posixpath.normpath, sources) if any(is_below(path, source) for path in managed)
    )


def _has_one_node(service: Service) -> bool:
    constraints = ((own_definition(service).get("deploy") or {}).get("placement") or {}).get("constraints") or ()
    return any(str(constraint).replace(" ", "").startswith(_ONE_NODE) for constraint in constraints)
