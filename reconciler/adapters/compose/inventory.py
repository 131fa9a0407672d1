"""Takes the inventory of a machine: Compose projects with the env files and mounted files they use, other env files.

Compose files are read as text, by Compose's own rules (files.py), without running Compose: its resolved project
contains every secret and no longer shows which env file a variable came from, and `--no-interpolate` refuses mounts
such as `./${NAME:-x}.conf:/x.conf`. This also works without Docker, or with a broken env file.
"""

from __future__ import annotations

import asyncio
import posixpath
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from reconciler.adapters.compose import files as compose_files
from reconciler.adapters.compose.containers import Labelled, containers_of, labelled
from reconciler.adapters.compose.files import expand, join
from reconciler.adapters.compose.uses import (
    VARIABLE,
    NamedFile,
    files_used,
    interpolated,
    mapping,
    profiles,
    scaled_to_zero,
)
from reconciler.core.compose_names import BASE_NAMES, ENVIRONMENT_NAME, OVERRIDE_NAMES
from reconciler.core.decide.invocation import manifest_invocation, resolve_invocation
from reconciler.core.dotenv.grammar import EnvFileError, Quote, parse_env_file
from reconciler.core.errors import LiveFileError, StartedOtherwiseError
from reconciler.core.inventory import FoundFile, FoundProject, Inventory, Use, UsedFile
from reconciler.core.model.compose import Invocation
from reconciler.core.model.targets import Stack
from reconciler.core.ports.host import Machine
from reconciler.core.secrets.plaintext import is_env_file
from reconciler.core.text import listed

DEEPEST = 3
"""How many levels of directories below the named one are read."""
MOST_DIRECTORIES = 400
MOST_FILES = 400

_NOT_IN_NAMES = re.compile(r"[^a-z0-9_-]")
_SKIPPED = frozenset({"node_modules", "__pycache__", "venv", "site-packages"})


async def take_inventory(machine: Machine, path: str | None, stacks: Sequence[Stack] = ()) -> Inventory:
    """Take the inventory of ``path``, an absolute path: a file, or a directory that contains env files and Compose
    projects. None stands for every Compose project that has containers on the machine. ``stacks`` are those of a
    manifest for the projects there.

    Raises LiveFileError if the path itself cannot be read, HostUnreachableError.
    """
    if path is None:
        return await _everywhere(machine)
    path = posixpath.normpath(path)
    if file := await machine.read(path):
        return Inventory(path, loose=(file,))
    walk = await _walk(machine, path)
    # Docker takes longer than everything else, so ask it only if there may be a compose file of any name.
    containers = await labelled(machine, path) if walk.may_hold_projects else None
    # A project that is run with -f: only its containers know which files those are.
    started = _by_directory(containers or ())
    known = {
        directory: labels
        for directory, labels in started.items()
        if directory in walk.listings
        and (directory not in walk.projects or all(walk.has(label.started.files) for label in labels))
    }
    by_path: dict[str, list[Stack | None]] = {}
    for stack in stacks:
        by_path.setdefault(stack.directory, []).append(stack)
    directories = [
        _ProjectDirectory(directory, walk.listings[directory], tuple(known.get(directory, ())), stack)
        for directory in sorted({*walk.projects, *known, *(by_path.keys() & walk.listings.keys())})
        for stack in by_path.get(directory, [None])
    ]
    projects = _not_included(await asyncio.gather(*(_project(machine, it, containers) for it in directories)))
    used = {used.file.path for project in projects for used in project.files}
    loose = [path for path in walk.env_files if path not in used]
    contents, problems = await _read_all(machine, loose)
    files = tuple(contents[path] for path in loose if path in contents)
    unread = (*walk.unread, *problems)
    return Inventory(path, projects, files, tuple(walk.left_out), unread, engine=containers is not None)


def _by_directory(containers: Iterable[Labelled]) -> dict[str, list[Labelled]]:
    directories: dict[str, list[Labelled]] = {}
    for container in containers:
        if container.directory:
            directories.setdefault(container.directory, []).append(container)
    return directories


def _not_included(projects: Sequence[FoundProject]) -> tuple[FoundProject, ...]:
    """Without those that are only parts of another, and have no container of their own."""
    return tuple(project for project in projects if project.containers or not _is_part(project, projects))


def _is_part(project: FoundProject, projects: Iterable[FoundProject]) -> bool:
    files = set(project.compose_files)
    return bool(files) and any(files < set(whole.compose_files) for whole in projects)


async def _everywhere(machine: Machine) -> Inventory:
    containers = await labelled(machine)
    if containers is None:
        return Inventory(machine.name, unread=(f"{machine.name}: Docker does not answer; name a directory instead",))
    started = _by_directory(containers)
    listings = await asyncio.gather(*(_listed(machine, directory) for directory in started))
    directories, gone = [], []
    for (directory, labels), names in zip(started.items(), listings, strict=True):
        if names:
            directories.append(_ProjectDirectory(directory, names, tuple(labels)))
        else:
            gone.append(f"{directory}: the directory is gone or cannot be read")
    projects = await asyncio.gather(*(_project(machine, directory, containers) for directory in directories))
    return Inventory(machine.name, tuple(projects), unread=tuple(gone), engine=True)


async def _listed(machine: Machine, directory: str) -> tuple[str, ...]:
    try:
        return await machine.list(directory)
    except LiveFileError:
        return ()


# --- the directories ---


@dataclass(slots=True)
class _Walk:
    """``projects`` are directories with a compose file, ``env_files`` paths; both sorted."""

    listings: dict[str, tuple[str, ...]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)

    @property
    def projects(self) -> list[str]:
        names = set(BASE_NAMES)
        return sorted(directory for directory, listed in self.listings.items() if names & set(listed))

    @property
    def may_hold_projects(self) -> bool:
        return any(name.endswith((".yaml", ".yml")) for listed in self.listings.values() for name in listed)

    def has(self, files: Sequence[str]) -> bool:
        """Whether these files still exist, as far as their directories were listed."""
        places = [posixpath.split(file) for file in files]
        return all(name in self.listings.get(directory, (name,)) for directory, name in places)

    @property
    def env_files(self) -> list[str]:
        return sorted(
            posixpath.join(directory, name)
            for directory, listed in self.listings.items()
            for name in listed
            if not name.endswith("/") and is_env_file(name)
        )


async def _walk(machine: Machine, top: str) -> _Walk:
    """List the directories level by level, each level at the same time."""
    walk = _Walk()
    level = [top]
    for depth in range(DEEPEST + 1):
        room = MOST_DIRECTORIES - len(walk.listings)
        if len(level) > room:
            walk.left_out.append(f"{top}: skipped {len(level) - room} directories and everything below them: too many")
        level = level[:room]
        results = await asyncio.gather(*(machine.list(directory) for directory in level), return_exceptions=depth > 0)
        for directory, names in zip(level, results, strict=True):
            if isinstance(names, LiveFileError):
                walk.unread.append(str(names))
            elif isinstance(names, BaseException):
                raise names
            else:
                walk.listings[directory] = names
        level = [
            posixpath.join(directory, name[:-1])
            for directory in level
            for name in walk.listings.get(directory, ())
            if name.endswith("/") and name[:-1] not in _SKIPPED and not name.startswith(".")
        ]
    if level:
        walk.left_out.append(f"{top}: skipped everything deeper than {DEEPEST} directories")
    return walk


async def _read_all(machine: Machine, paths: Sequence[str]) -> tuple[dict[str, FoundFile], list[str]]:
    """The files that exist, by path, and problems reading others."""
    selected, too_many = paths[:MOST_FILES], len(paths) - MOST_FILES
    files: dict[str, FoundFile] = {}
    problems = []
    for path, result in zip(
        selected, await asyncio.gather(*(machine.read(path) for path in selected), return_exceptions=True), strict=True
    ):
        if isinstance(result, LiveFileError):
            problems.append(str(result))
        elif isinstance(result, BaseException):
            raise result
        elif result is not None:
            files[path] = result
    if too_many > 0:
        problems.append(f"skipped {too_many} more files: too many")
    return files, problems


# --- a project ---


@dataclass(frozen=True, slots=True)
class _ProjectDirectory:
    """A project's directory with the names in it; ``labels`` are its containers, where they say how it was started,
    ``stack`` what a manifest says of it."""

    path: str
    names: tuple[str, ...]
    labels: tuple[Labelled, ...] = ()
    stack: Stack | None = None


async def _project(
    machine: Machine, directory: _ProjectDirectory, containers: Sequence[Labelled] | None
) -> FoundProject:
    invocation, problems = await _invocation(machine, directory)
    configuration = await _configuration(machine, directory, invocation)
    written = configuration.written
    uses = [*files_used(written), *(NamedFile(path, Use.INTERPOLATION, "") for path in configuration.environments)]
    paths = sorted({use.path for use in uses})
    contents, unread = await _read_all(machine, paths)
    required = {use.path for use in uses if use.required} | set(invocation.env_files)
    missing = [path for path in paths if path not in contents and path in required]
    problems += unread
    idle = _idle_services(configuration, directory)
    users = {path: {use.service for use in uses if use.path == path and use.required} for path in missing}
    notes = [
        f"{path} is missing, which only {listed(sorted(users[path]))} needs: its profile is not active"
        for path in missing
        if users[path] and users[path] <= idle
    ]
    missing = [path for path in missing if not users[path] or not users[path] <= idle]
    problems += [f"{path} is missing" for path in missing if not any(path in problem for problem in problems)]
    services = {name for it in written if not it.extended for name in mapping(it.document.get("services"))}
    problems += [] if written else [f"no compose file of {directory.path} can be read"]
    here = [
        container
        for container in containers or ()
        if container.directory == directory.path
        and (directory.stack is None or container.project == invocation.project)
    ]
    usual = _usual_name(configuration)
    return FoundProject(
        name=invocation.project or usual,
        directory=directory.path,
        compose_files=tuple(dict.fromkeys(it.path for it in written)),
        files=tuple(_used(contents[path], uses) for path in paths if path in contents),
        services=tuple(sorted(services)),
        active=tuple(sorted(services - idle - scaled_to_zero(written))),
        containers=containers_of(here),
        interpolated=tuple(sorted({*interpolated(written), *_in_env_files(contents, uses)})),
        main_files=tuple(dict.fromkeys(it.path for it in written if it.path in configuration.main)),
        env_files=invocation.env_files,
        named=invocation.project if invocation.project != usual else "",
        project_directory=invocation.project_directory,
        options=tuple(invocation.options()),
        problem="; ".join(problems),
        notes=tuple(notes),
    )


def _idle_services(configuration: compose_files.Configuration, directory: _ProjectDirectory) -> set[str]:
    """The services of profiles that are not active: neither the manifest nor COMPOSE_PROFILES names them, and no
    container is of one."""
    by_service = profiles(configuration.written)
    active = {name.strip() for name in (configuration.variables.get("COMPOSE_PROFILES") or "").split(",")}
    active |= set(directory.stack.profiles if directory.stack else ())
    for labelled_container in directory.labels:
        active |= by_service.get(labelled_container.container.service, frozenset())
    if "*" in active:
        return set()
    return {service for service, names in by_service.items() if names and not names & active}


async def _invocation(machine: Machine, directory: _ProjectDirectory) -> tuple[Invocation, list[str]]:
    """How the project is run, and what cannot be said of it."""
    stack = directory.stack or Stack("", directory.path, directory.path)
    started = [container.started for container in directory.labels]
    if not started:
        return manifest_invocation(stack), []
    usual = (await _configuration(machine, directory, Invocation(directory.path))).main
    try:
        return resolve_invocation(stack, started, usual), []
    except StartedOtherwiseError as error:
        newest = max(started, key=lambda container: container.created)
        return Invocation(directory.path, newest.files, newest.project, newest.env_files), [error.what]


async def _configuration(
    machine: Machine, directory: _ProjectDirectory, invocation: Invocation
) -> compose_files.Configuration:
    """The compose files and env files of the project, whatever includes or extends whatever: what one look misses is
    fetched for the next."""
    known: dict[str, bytes | None] = {
        join(directory.path, name): None
        for name in (*BASE_NAMES, *OVERRIDE_NAMES, ENVIRONMENT_NAME)
        if name not in directory.names
    }
    missed: set[str] = set()

    def read(path: str) -> bytes | None:
        if path not in known:
            missed.add(path)
        return known.get(path)

    while True:
        missed.clear()
        configuration = compose_files.read_configuration(invocation, {}, read)
        if not missed or len(known) > MOST_FILES:
            return configuration
        contents, _ = await _read_all(machine, sorted(missed))
        known.update({path: contents[path].data.reveal() if path in contents else None for path in missed})


def _usual_name(configuration: compose_files.Configuration) -> str:
    """The project's name as Compose chooses it: by its env files, its compose file, its directory."""
    names = [it.document.get("name") for it in configuration.written if it.path in configuration.main]
    by_environment = configuration.usual_name
    named = by_environment or next((str(name) for name in names if name), "")
    name = expand(named, configuration.variables) or posixpath.basename(configuration.directory)
    return _NOT_IN_NAMES.sub("", name.lower()).lstrip("_-")


def _in_env_files(contents: Mapping[str, FoundFile], uses: Iterable[NamedFile]) -> Iterator[str]:
    """What env files of services take from the project: bare names, and references in values."""
    for path in {use.path for use in uses if use.use is Use.ENV_FILE and use.path in contents}:
        try:
            entries = parse_env_file(contents[path].data.reveal())
        except EnvFileError:
            continue
        for entry in entries:
            yield entry.key if entry.inherited else ""
            if entry.quote is not Quote.SINGLE:
                yield from (match[1] or match[2] for match in VARIABLE.finditer(entry.template))


def _used(file: FoundFile, uses: Iterable[NamedFile]) -> UsedFile:
    """The file with its most telling use: a service's own env file before a mounted one before interpolation."""
    services: defaultdict[Use, set[str]] = defaultdict(set)
    raw = False
    for use in uses:
        if use.path == file.path:
            services[use.use].add(use.service)
            raw = raw or use.raw
    kind = next(kind for kind in (Use.ENV_FILE, Use.MOUNT, Use.INTERPOLATION) if kind in services)
    return UsedFile(file, kind, tuple(sorted(services[kind] - {""})), raw, mounted=Use.MOUNT in services)
