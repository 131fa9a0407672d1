"""Where an import reads from: a machine or a directory on it, named as for `reconciler compare`."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from reconciler.app.compare.addresses import ssh_address
from reconciler.app.compare.side_names import SideKind, read_side
from reconciler.app.onboarding.real_paths import UNRESOLVED, real_paths
from reconciler.app.wiring import clone
from reconciler.core.errors import RefusedError
from reconciler.core.inventory import FoundProject, Inventory
from reconciler.core.model.hosts import SshAddress
from reconciler.core.onboarding.source_names import host_name
from reconciler.core.onboarding.types import ImportSource
from reconciler.core.ports.host import Machine
from reconciler.core.text import printable

StepProgress = Callable[[str, int, int], None]
"""Receives the current step, how much of it is done, and of how much."""

_FORMS = (
    "Import from ssh://USER@HOST[:PORT]/PATH, ssh://USER@HOST for all of its Compose projects, file:PATH, or here: for "
    "all Compose projects of this machine"
)


@dataclass(frozen=True, slots=True)
class ImportSide:
    """``text`` as typed; ``address`` None is this machine; ``path`` None is every Compose project there."""

    text: str
    address: SshAddress | None
    path: str | None


def read_import_side(text: str, ssh_key: str | None = None, known_hosts: str | None = None) -> ImportSide:
    """Given a side as typed, and the files to log in with, return it. Raises RefusedError for an invalid one."""
    if text == "here:":
        return ImportSide(text, None, None)
    name = read_side(text)
    if name.kind not in (SideKind.FILE, SideKind.SSH):
        raise RefusedError("is not a machine", where=printable(text), hint=_FORMS)
    return ImportSide(text, ssh_address(name, ssh_key, known_hosts), name.subject)


def host_names(sides: Sequence[ImportSide]) -> list[str]:
    """The name of each machine in the manifest. Raises RefusedError if two sides are on one machine."""
    names = [host_name(side.address.host if side.address else socket.gethostname()) for side in sides]
    for number, side in enumerate(sides):
        if side.address and names.count(names[number]) > 1:
            names[number] = f"{names[number]}-{side.address.port}"
    if len(set(names)) != len(names):
        twice = next(side.text for side, name in zip(sides, names, strict=True) if names.count(name) > 1)
        raise RefusedError("two sides are on one machine", where=twice, hint="Name a directory that contains both")
    return names


async def read_sources(
    machines: Sequence[Machine], sides: Sequence[ImportSide], hosts: Sequence[str], progress: StepProgress
) -> list[ImportSource]:
    """Take the inventory of every machine at the same time."""
    done = 0

    async def read(machine: Machine, side: ImportSide, host: str) -> ImportSource:
        nonlocal done
        inventory = await clone.take_inventory(machine, side.path)
        source = await _resolved(machine, host, inventory)
        done += 1
        progress("reading machines", done, len(machines))
        return source

    progress("reading machines", 0, len(machines))
    return list(await asyncio.gather(*map(read, machines, sides, hosts)))


async def _resolved(machine: Machine, host: str, inventory: Inventory) -> ImportSource:
    """The inventory with real paths; files whose path cannot be resolved are left out."""
    paths = [file.path for file in inventory.loose]
    for project in inventory.projects:
        paths += [*_project_paths(project), *(used.file.path for used in project.files)]
    real = await real_paths(machine, paths)
    left_out = {file.path: UNRESOLVED for file in inventory.loose if file.path not in real}
    projects = []
    for project in inventory.projects:
        lost = next((path for path in _project_paths(project) if path not in real), None)
        reason = UNRESOLVED if lost is None else f"{lost}, of its project, {UNRESOLVED}"
        left_out |= {used.file.path: reason for used in project.files if lost is not None or used.file.path not in real}
        if lost is None:
            projects.append(_with_real_paths(project, real))
    loose = tuple(replace(file, path=real[file.path]) for file in inventory.loose if file.path in real)
    return ImportSource(host, replace(inventory, projects=tuple(projects), loose=loose), left_out)


def _project_paths(project: FoundProject) -> tuple[str, ...]:
    directory = [project.project_directory] if project.project_directory else []
    return project.directory, *project.compose_files, *project.main_files, *project.env_files, *directory


def _with_real_paths(project: FoundProject, real: Mapping[str, str]) -> FoundProject:
    files = [used for used in project.files if used.file.path in real]
    return replace(
        project,
        directory=real[project.directory],
        compose_files=tuple(real[path] for path in project.compose_files),
        main_files=tuple(real[path] for path in project.main_files),
        env_files=tuple(real[path] for path in project.env_files),
        project_directory=real.get(project.project_directory, ""),
        files=tuple(replace(used, file=replace(used.file, path=real[used.file.path])) for used in files),
    )
