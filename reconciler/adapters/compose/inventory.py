"""Takes the inventory of a machine: Compose projects with the env files and mounted files they use, and other env
files.

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
from typing import Any

from reconciler.adapters.compose import files as compose_files
from reconciler.adapters.compose.containers import Labelled, containers_of, labelled
from reconciler.adapters.compose.files import Written, as_list, expand, join
from reconciler.core.dotenv.grammar import EnvFileError, Quote, parse_env_file
from reconciler.core.errors import LiveFileError
from reconciler.core.inventory import FoundFile, FoundProject, Inventory, Use, UsedFile
from reconciler.core.ports.host import Machine
from reconciler.core.secrets.plaintext import is_env_file

DEEPEST = 3
"""How many levels of directories below the named one are read."""
MOST_DIRECTORIES = 400
MOST_FILES = 400

_SKIPPED = frozenset({"node_modules", "__pycache__", "venv", "site-packages"})
# Files of the operating system that many containers mount.
_SYSTEM = ("/usr/", "/lib/", "/lib64/", "/bin/", "/sbin/", "/boot/", "/run/", "/var/run/", "/dev/", "/proc/", "/sys/")
_SYSTEM_FILES = frozenset(
    f"/etc/{name}" for name in ("localtime", "timezone", "hosts", "passwd", "group", "resolv.conf", "machine-id")
)
# PATH:TARGET, where PATH may contain ${NAME:-default}; a bare name is a volume.
_SHORT_MOUNT = re.compile(r"((?=[./~$])(?:\$\{[^}]*\}|[^:])+):")
_VARIABLE = re.compile(r"\$(?:\{([_A-Za-z]\w*)|([_A-Za-z]\w*))", re.ASCII)


async def take_inventory(machine: Machine, path: str | None) -> Inventory:
    """Take the inventory of ``path``, an absolute path: a file, or a directory that contains env files and Compose
    projects. None stands for every Compose project that has containers on the machine.

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
    # Only the containers of a project that runs with -f know its compose files.
    compose_files_of = {
        container.directory: container.files for container in containers or () if container.directory in walk.listings
    }
    there = {
        directory: files
        for directory, files in compose_files_of.items()
        if directory not in walk.projects or walk.has(files)
    }
    places = [
        _Place(directory, walk.listings[directory], there.get(directory, ()))
        for directory in sorted({*walk.projects, *there})
    ]
    projects = _not_included(await asyncio.gather(*(_project(machine, place, containers) for place in places)))
    used = {used.file.path for project in projects for used in project.files}
    loose = [path for path in walk.env_files if path not in used]
    found_files, problems = await _read_all(machine, loose)
    files = tuple(found_files[path] for path in loose if path in found_files)
    unread = (*walk.unread, *problems)
    return Inventory(path, projects, files, tuple(walk.left_out), unread, engine=containers is not None)


def _not_included(projects: Sequence[FoundProject]) -> tuple[FoundProject, ...]:
    """Drop projects that are only a part of another one and have no container."""
    return tuple(
        project
        for project in projects
        if project.containers
        or not any(
            set(project.compose_files) < set(larger.compose_files) for larger in projects if project.compose_files
        )
    )


async def _everywhere(machine: Machine) -> Inventory:
    containers = await labelled(machine)
    if containers is None:
        return Inventory(machine.name, unread=(f"{machine.name}: Docker does not answer; name a directory instead",))
    directories = {container.directory: container.files for container in containers if container.directory}
    listings = await asyncio.gather(*(_listed(machine, directory) for directory in directories))
    places, gone = [], []
    for (directory, files), names in zip(directories.items(), listings, strict=True):
        if names:
            places.append(_Place(directory, names, files))
        else:
            gone.append(f"{directory}: the directory is gone or cannot be read")
    projects = await asyncio.gather(*(_project(machine, place, containers) for place in places))
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
        names = set(compose_files.BASE_NAMES)
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
class _Place:
    """A project's directory with the names in it; ``files`` as for compose -f, if its containers know them."""

    directory: str
    names: tuple[str, ...]
    files: tuple[str, ...] = ()


async def _project(machine: Machine, place: _Place, containers: Sequence[Labelled] | None) -> FoundProject:
    configuration = await _configuration(machine, place)
    written = configuration.written
    uses = [use for document in written if not document.extended for use in _uses(document, written)]
    uses += [_Named(path, Use.INTERPOLATION, "") for path in configuration.environments]
    paths = sorted({use.path for use in uses})
    files, problems = await _read_all(machine, paths)
    missing = [path for path in paths if path not in files and any(use.required and use.path == path for use in uses)]
    problems += [f"{path} is missing" for path in missing if not any(path in problem for problem in problems)]
    services = {
        name for document in written if not document.extended for name in _mapping(document.document.get("services"))
    }
    problems += [] if written else [f"no compose file of {place.directory} can be read"]
    here = [container for container in containers or () if container.directory == place.directory]
    return FoundProject(
        name=_name(configuration, here, place.directory),
        directory=place.directory,
        compose_files=tuple(dict.fromkeys(document.path for document in written)),
        files=tuple(_used(files[path], uses) for path in paths if path in files),
        services=tuple(sorted(services)),
        containers=containers_of(here),
        interpolated=tuple(sorted({*_interpolated(written), *_inherited(written), *_in_env_files(files, uses)})),
        main_files=tuple(dict.fromkeys(document.path for document in written if document.path in configuration.main)),
        problem="; ".join(problems),
    )


async def _configuration(machine: Machine, place: _Place) -> compose_files.Configuration:
    """The compose files and `.env` of the project, with everything they include or extend. Files that are missing in
    one round are read for the next."""
    known: dict[str, bytes | None] = {
        join(place.directory, name): None
        for name in (*compose_files.BASE_NAMES, *compose_files.OVERRIDE_NAMES, compose_files.ENVIRONMENT_NAME)
        if name not in place.names
    }
    missed: set[str] = set()

    def read(path: str) -> bytes | None:
        if path not in known:
            missed.add(path)
        return known.get(path)

    while True:
        missed.clear()
        configuration = compose_files.find(place.directory, place.files, {}, read)
        if not missed or len(known) > MOST_FILES:
            return configuration
        files, _ = await _read_all(machine, sorted(missed))
        known.update({path: files[path].data.reveal() if path in files else None for path in missed})


def _name(configuration: compose_files.Configuration, containers: Sequence[Labelled], directory: str) -> str:
    """The name that Compose uses: of its containers, in its .env, its compose file, or of its directory."""
    if containers:
        return containers[0].project
    names = [document.document.get("name") for document in configuration.written if document.path in configuration.main]
    named = configuration.variables.get("COMPOSE_PROJECT_NAME") or next((str(name) for name in names if name), "")
    return expand(named, configuration.variables) or posixpath.basename(directory)


def _interpolated(written: Iterable[Written]) -> Iterator[str]:
    for document in written:
        for text in _texts(document.document):
            yield from (match[1] or match[2] for match in _VARIABLE.finditer(text.replace("$$", "")))


def _texts(value: object) -> Iterator[str]:
    """Every string in a document, including keys."""
    if isinstance(value, dict):
        for name, inside in value.items():
            yield from (*_texts(name), *_texts(inside))
    elif isinstance(value, list):
        for inside in value:
            yield from _texts(inside)
    elif isinstance(value, str):
        yield value


def _inherited(written: Iterable[Written]) -> Iterator[str]:
    """Names without a value that Compose fills in: in `environment`, build arguments, configs and secrets."""
    for document in written:
        for service in _mapping(document.document.get("services")).values():
            build = _mapping(_mapping(service).get("build"))
            for given in (_mapping(service).get("environment"), build.get("args")):
                pairs = given.items() if isinstance(given, dict) else ((entry, None) for entry in as_list(given))
                yield from (str(name) for name, value in pairs if value is None and "=" not in str(name))
        for kind in ("configs", "secrets"):
            for definition in _mapping(document.document.get(kind)).values():
                yield str(_mapping(definition).get("environment") or "")


def _in_env_files(files: Mapping[str, FoundFile], uses: Iterable[_Named]) -> Iterator[str]:
    """Variables that env files of services take from the project: bare names, and references in values."""
    for path in {use.path for use in uses if use.use is Use.ENV_FILE and use.path in files}:
        try:
            entries = parse_env_file(files[path].data.reveal())
        except EnvFileError:
            continue
        for entry in entries:
            yield entry.key if entry.inherited else ""
            if entry.quote is not Quote.SINGLE:
                yield from (match[1] or match[2] for match in _VARIABLE.finditer(entry.template))


# --- which files it uses ---


@dataclass(frozen=True, slots=True)
class _Named:
    """A path in a compose file, with the service that uses it."""

    path: str
    use: Use
    service: str
    required: bool = False
    raw: bool = False


def _uses(here: Written, every: Sequence[Written]) -> Iterator[_Named]:
    """The files that the services of one document use; it may refer to definitions in the others."""
    definitions: dict[str, dict[str, str]] = {"configs": {}, "secrets": {}}
    for document in every:
        for kind, paths in definitions.items():
            for name, definition in _mapping(document.document.get(kind)).items():
                if isinstance(file := _mapping(definition).get("file"), str):
                    paths[name] = _path(file, document)
    for name, service in _mapping(here.document.get("services")).items():
        yield from _of_service(name, _mapping(service), here, definitions)
        yield from _extended(name, _mapping(service), here, every, definitions)


def _extended(
    name: str,
    service: Mapping[str, Any],
    here: Written,
    every: Sequence[Written],
    definitions: Mapping[str, Mapping[str, str]],
) -> Iterator[_Named]:
    """The files of a service that come from those it extends, directly or not."""
    extends = service.get("extends")
    for _ in range(DEEPEST):
        extends = {"service": extends} if isinstance(extends, str) else extends
        if not isinstance(extends, dict):
            return
        path = _path(str(extends["file"]), here) if extends.get("file") else here.path
        here = next((document for document in every if document.path == path), here)
        base = _mapping(_mapping(here.document.get("services")).get(str(extends.get("service"))))
        yield from _of_service(name, base, here, definitions)
        extends = base.get("extends")


def _of_service(
    name: str, service: Mapping[str, Any], here: Written, definitions: Mapping[str, Mapping[str, str]]
) -> Iterator[_Named]:
    for entry in as_list(service.get("env_file")):
        path = entry.get("path") if isinstance(entry, dict) else entry
        required = not isinstance(entry, dict) or entry.get("required", True) is not False
        raw = isinstance(entry, dict) and entry.get("format") == "raw"
        if isinstance(path, str):
            yield _Named(_path(path, here), Use.ENV_FILE, name, required, raw)
    for mount in as_list(service.get("volumes")):
        if source := _bound(mount):
            path = _path(source, here)
            if not path.startswith(_SYSTEM) and path not in _SYSTEM_FILES:
                yield _Named(path, Use.MOUNT, name)
    for kind, defined in definitions.items():
        for entry in as_list(service.get(kind)):
            definition = str(entry.get("source") if isinstance(entry, dict) else entry)
            if definition in defined:
                yield _Named(defined[definition], Use.MOUNT, name)


def _bound(mount: Any) -> str:
    """The mounted path of the machine, "" for a named volume."""
    if isinstance(mount, dict):
        source = mount.get("source")
        return source if mount.get("type") == "bind" and isinstance(source, str) else ""
    source = _SHORT_MOUNT.match(str(mount))
    return source[1] if source else ""


def _path(name: str, here: Written) -> str:
    return join(here.base, expand(name, here.variables))


def _mapping(value: Any) -> Mapping[str, Any]:
    return {str(name): inside for name, inside in value.items()} if isinstance(value, dict) else {}


def _used(file: FoundFile, uses: Iterable[_Named]) -> UsedFile:
    """The file with its most specific use: a service's env file, then a mount, then interpolation."""
    services: defaultdict[Use, set[str]] = defaultdict(set)
    raw = False
    for reference in uses:
        if reference.path == file.path:
            services[reference.use].add(reference.service)
            raw = raw or reference.raw
    use = next(use for use in (Use.ENV_FILE, Use.MOUNT, Use.INTERPOLATION) if use in services)
    return UsedFile(file, use, tuple(sorted(services[use] - {""})), raw)
