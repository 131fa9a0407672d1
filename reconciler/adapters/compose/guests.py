"""Reads from the engine's inspect which containers share a namespace or volumes with others. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from reconciler.core.model.compose import Guest

_NAMESPACES = {"NetworkMode": "network", "IpcMode": "IPC namespace", "PidMode": "PID namespace"}
VOLUMES = "volumes"


def shares(host: Mapping[str, Any]) -> dict[str, list[str]]:
    """Given the HostConfig of a container, return by what it shares the containers it shares it with: ids or names, as
    they were given when it was made. That never changes."""
    shared: dict[str, list[str]] = {}
    for field, word in _NAMESPACES.items():
        kind, _, owner = str(host.get(field) or "").partition(":")
        if kind == "container" and owner:
            shared[word] = [owner]
    if volumes := [str(entry).partition(":")[0] for entry in host.get("VolumesFrom") or ()]:
        shared[VOLUMES] = volumes
    return shared


def guest(
    facts: Mapping[str, Any], owners: Mapping[str, Mapping[str, Any]], ids: Mapping[str, str], labels: Iterable[str]
) -> Guest:
    """Given what inspect says of a container and, by id, of those it shares something with, return the guest.

    ``ids`` gives the id of every container on the engine by its id and its name; ``labels`` are the keys of the
    project's, service's and directory's label.
    """
    shared = shares(facts["HostConfig"])
    running = facts["State"]["Status"] in ("running", "paused")
    lost = []
    for word, references in shared.items():
        missing = any(reference not in ids for reference in references)
        again = [
            owners[ids[reference]]["State"]["StartedAt"] for reference in references if ids.get(reference) in owners
        ]
        # Times of one clock, in one form: as text they are in order.
        if word != VOLUMES and (missing or any(at > facts["State"]["StartedAt"] for at in again)):
            lost.append(word)
    values = [str((facts["Config"].get("Labels") or {}).get(label) or "") for label in labels]
    project, service, directory = values
    return Guest(
        facts["Id"],
        facts["Name"].lstrip("/"),
        {word: frozenset(ids.get(reference, reference) for reference in group) for word, group in shared.items()},
        running=running,
        lost=tuple(lost) if running else (),
        gone=any(reference not in ids for word in shared.keys() - {VOLUMES} for reference in shared[word]),
        project=project,
        service=service,
        directory=directory,
    )
