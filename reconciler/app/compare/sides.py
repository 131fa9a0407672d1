"""From the name of a side to its files and containers."""

from __future__ import annotations

import asyncio
import os
import posixpath
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from reconciler.app.checks.contracts import open_book
from reconciler.app.checks.survey import MANIFEST, Source, survey_environments
from reconciler.app.compare.contents import NO_VARIABLES, Content, KnownVariables, Reader
from reconciler.app.compare.interpolation import Interpolation, read_interpolation
from reconciler.app.compare.side_names import SideKind, SideName
from reconciler.app.config.manifest import Outline, outlines
from reconciler.app.wiring import clone
from reconciler.core.compare.types import NOBODY, Holder, Side, SideFile, SideProject
from reconciler.core.contract import Notes
from reconciler.core.decide.guards import is_below
from reconciler.core.errors import RefusedError
from reconciler.core.inventory import FoundContainer, FoundFile, FoundProject, Inventory, Use, UsedFile
from reconciler.core.model.hosts import SshAddress
from reconciler.core.model.targets import Manifest, Parser
from reconciler.core.onboarding.source_names import host_name
from reconciler.core.ports.host import Machine
from reconciler.core.secret import Secret
from reconciler.core.secrets.plaintext import is_env_file
from reconciler.core.text import listed, printable
from reconciler.core.tree import Tree

# Variables in a project's .env that Compose reads itself.
_COMPOSE_PREFIXES = ("COMPOSE_", "DOCKER_")


@dataclass(frozen=True, slots=True)
class GitSource:
    """``read`` returns the directory ``path`` of the repository at a revision. ``head`` is the revision that counts if
    no side names one, "" for none. ``here`` is the manifests' name for this machine, if the server configuration has
    one, ``hosts`` their names for others, by address and port, and ``addresses`` how the server reaches these."""

    read: Callable[[str], Awaitable[Tree]]
    path: str
    head: str = ""
    here: str = ""
    hosts: Mapping[tuple[str, int], str] = field(default_factory=dict)
    addresses: Mapping[str, SshAddress] = field(default_factory=dict)


@dataclass(slots=True)
class SideContext:
    """What all sides are read with. A machine in ``machines`` is connected to once, even if several sides are on it;
    ``manifest`` returns the manifest of one of this server's environments, on another host if that is given."""

    reader: Reader
    source: GitSource
    machines: Mapping[str, Machine]
    manifest: Callable[[str, str], Awaitable[Manifest]]
    trees: dict[str, asyncio.Future[Tree]] = field(default_factory=dict)


async def open_side(name: SideName, context: SideContext) -> Side:
    """Read the side. Raises RefusedError if it does not exist, OutsideError if it cannot be reached."""
    match name.kind:
        case SideKind.GIT:
            side = await _git(name, context)
        case SideKind.LIVE:
            side = await _live(name, context)
        case SideKind.CONTAINER:
            side = await _container(name, context)
        case _:
            side = await _machine(name, context)
    return replace(side, files=_distinct(side.files), hosts=_hosts(name, context.source))


def _distinct(files: Sequence[SideFile]) -> tuple[SideFile, ...]:
    """Each file once; a source with other live paths on other hosts counts as several."""
    distinct: dict[tuple[str, str, tuple[str, ...]], SideFile] = {}
    for file in files:
        distinct.setdefault((file.name, file.aliases[0], file.hosts), file)
    return tuple(distinct[key] for key in sorted(distinct))


def _hosts(name: SideName, source: GitSource) -> tuple[str, ...]:
    """Names a manifest may have for the side's machine, the most reliable first: as the server configuration has it,
    then as `import` names it."""
    if name.kind is SideKind.GIT:
        return ()
    if name.kind is SideKind.LIVE and name.host:
        return (name.host,)
    if name.kind is SideKind.SSH:
        address = name.host
        names = [source.hosts.get((address, name.port), ""), f"{host_name(address)}-{name.port}"]
    else:
        address, names = socket.gethostname(), [source.here]
    label = address.partition(".")[0]
    short = "" if label.isdigit() else label  # an IP address has no short form
    return tuple(dict.fromkeys(host for host in (*names, host_name(address), short) if host))


# --- git ---


async def _git(name: SideName, context: SideContext) -> Side:
    environment = str(name.subject)
    tree = await tree_at(name.revision, context)
    kept = {path: data for path, data in tree.files.items() if belongs_to(environment, path)}
    if f"{environment}/{MANIFEST}" not in kept:
        names = sorted({path.partition("/")[0] for path in tree.files if path.endswith(f"/{MANIFEST}")})
        there = (
            f"Available: {', '.join(names)}"
            if names
            else f"There is no environment in {context.source.path}: see --path"
        )
        problem = f"that commit has no {environment}/{MANIFEST}"
        raise RefusedError(problem, where=name.text, hint=printable(there))
    tree = Tree(kept, tree.odd)
    parse = context.reader.parse_yaml
    # In a thread: it takes a while for many files, and a daemon has other work.
    surveyed = await asyncio.to_thread(survey_environments, tree, context.source.path, parse_yaml=parse)
    notes = open_book(surveyed).notes_of(surveyed.sources)
    manifest = next(entry for entry in surveyed.environments if entry.name == environment).manifest
    problems = () if manifest else (f"{environment}/{MANIFEST} cannot be used: `reconciler check` shows why",)
    sources = {
        source.name: source for source in surveyed.sources if source.environment == environment and source.outline
    }
    selected = [outline for outline in (outlines(manifest) if manifest else ()) if outline.source in sources]
    pairs = [(sources[outline.source], outline) for outline in selected]
    contents = await asyncio.gather(
        *(context.reader.read(source.name, source.data, outline.parser) for source, outline in pairs)
    )
    return Side(
        name.text,
        tuple(
            _of_source(*pair, content, notes.get(pair[0].path, {}))
            for pair, content in zip(pairs, contents, strict=True)
        ),
        environment,
        problems=problems,
        sealed=len({source.name for (source, _), content in zip(pairs, contents, strict=True) if content.sealed}),
    )


def belongs_to(environment: str, path: str) -> bool:
    """Whether the environment's side depends on the file: its own, and whatever may be a contract."""
    return path.startswith(f"{environment}/") or path.endswith((".yaml", ".yml"))


async def tree_at(revision: str, context: SideContext) -> Tree:
    """The environments' directory at the revision, read once for all sides."""
    if revision not in context.trees:
        context.trees[revision] = asyncio.ensure_future(context.source.read(revision))
    return await asyncio.shield(context.trees[revision])


def _of_source(source: Source, outline: Outline, content: Content, notes: Mapping[str, Notes]) -> SideFile:
    relative = posixpath.relpath(outline.path, outline.directory)
    return SideFile(
        name=source.name,
        aliases=(outline.path, relative, source.name),
        keys=content.keys,
        content=content.digest,
        mode=int(outline.mode, 8),
        owner=_holder(outline.owner),
        group=_holder(outline.group),
        notes=notes,
        ignored=outline.ignore_keys,
        hosts=outline.hosts,
        problem=content.problem,
    )


def _holder(text: str) -> Holder:
    """An owner as a manifest gives it, by name or number; root has the same number everywhere."""
    if text.isdecimal():
        return Holder(number=int(text))
    return Holder(text, 0 if text == "root" else None)


# --- machines ---


async def _machine(name: SideName, context: SideContext) -> Side:
    inventory = await clone.take_inventory(context.machines[name.text], name.subject)
    if inventory.empty and not inventory.unread:
        hint = "Name a file, or a directory that contains env files or a Compose project"
        raise RefusedError("has nothing to compare", where=name.text, hint=hint)
    return await _of_inventory(name.text, inventory, context.reader)


async def _of_inventory(name: str, inventory: Inventory, reader: Reader) -> Side:
    alone = not inventory.projects and len(inventory.loose) == 1
    interpolations = await asyncio.gather(*(read_interpolation(project, reader) for project in inventory.projects))
    used = [
        _of_file(used.file, inventory, reader, _parser(used), project.project, used, project.variables_for(used))
        for project in interpolations
        for used in project.project.files
    ]
    loose = [
        _of_file(file, inventory, reader, _parser_of_loose(file, alone=alone and file.path == inventory.place))
        for file in inventory.loose
    ]
    files = await asyncio.gather(*used, *loose)
    containers = _containers(inventory.projects, reader)
    problems = tuple(f"{project.directory}: {project.problem}" for project in inventory.projects if project.problem)
    return Side(
        name,
        tuple(file for file, _ in files),
        services=containers if inventory.projects and inventory.engine else None,
        left_out=(*inventory.left_out, *_without_engine([inventory])),
        problems=(*problems, *inventory.unread),
        sealed=sum(sealed for _, sealed in files),
        directory=_directory(inventory),
        projects=_projects(interpolations),
    )


def _projects(interpolations: Sequence[Interpolation]) -> tuple[SideProject, ...]:
    return tuple(
        SideProject(project.name, project.directory, project.options, project.active, each.variables or {})
        for each in interpolations
        for project in (each.project,)
    )


def _containers(projects: Sequence[FoundProject], reader: Reader) -> tuple[FoundContainer, ...]:
    """The containers of all projects, each with its project; nothing shows the values of their variables."""
    containers = [replace(container, project=project.name) for project in projects for container in project.containers]
    reader.values.update(value for container in containers for value in container.values)
    return tuple(containers)


def _without_engine(inventories: Sequence[Inventory]) -> tuple[str, ...]:
    """Unknown containers do not mean that there are none."""
    silent = any(inventory.projects and not inventory.engine for inventory in inventories)
    return ("containers: Docker does not answer there",) if silent else ()


def _directory(inventory: Inventory) -> str:
    """Where probes run: the named directory, or that of a machine's only project."""
    if not inventory.place.startswith("/"):
        return inventory.projects[0].directory if len(inventory.projects) == 1 else ""
    is_file = any(file.path == inventory.place for file in inventory.loose)
    return posixpath.dirname(inventory.place) if is_file else inventory.place


def _parser(used: UsedFile) -> Parser:
    if used.use is Use.MOUNT:
        return Parser.COMPOSE if is_env_file(posixpath.basename(used.file.path)) else Parser.OPAQUE
    return Parser.RAW if used.raw else Parser.COMPOSE


def _parser_of_loose(file: FoundFile, *, alone: bool) -> Parser:
    """A file that is named itself is an env file if its lines look so, whatever its name."""
    if is_env_file(posixpath.basename(file.path)):
        return Parser.COMPOSE
    lines = [line.strip() for line in file.data.reveal().splitlines() if line.strip() and not line.startswith(b"#")]
    return Parser.COMPOSE if alone and lines and all(b"=" in line for line in lines) else Parser.OPAQUE


async def _of_file(
    file: FoundFile,
    inventory: Inventory,
    reader: Reader,
    parser: Parser,
    project: FoundProject | None = None,
    used: UsedFile | None = None,
    known: KnownVariables = NO_VARIABLES,
) -> tuple[SideFile, bool]:
    """The file, and whether no key opens it. Mode and owner of an encrypted file say nothing about a live file."""
    data = file.data.reveal()
    content, encrypted = await reader.read(file.path, data, parser, known), b"ENC[AES256_GCM," in data
    top = posixpath.dirname(inventory.place) if file.path == inventory.place else inventory.place
    name = posixpath.relpath(file.path, top) if top.startswith("/") else file.path
    relative = posixpath.relpath(file.path, project.directory) if project else name
    side_file = SideFile(
        name=name if not name.startswith("../") else file.path,
        aliases=tuple(dict.fromkeys((file.path, name, relative))),
        keys=content.keys,
        content=content.digest,
        mode=None if encrypted else file.mode,
        owner=NOBODY if encrypted else Holder(file.owner, file.uid),
        group=NOBODY if encrypted else Holder(file.group, file.gid),
        services=used.services if used else (),
        unused=_unused(file.path, content, inventory, project, used),
        problem=content.problem,
    )
    return side_file, content.sealed


def _unused(
    path: str, content: Content, inventory: Inventory, project: FoundProject | None, used: UsedFile | None
) -> frozenset[str]:
    """Keys that reach no service: those of a file that the project around it does not use, and those of a .env that
    nothing interpolates."""
    if used is not None and used.use is not Use.INTERPOLATION:
        return frozenset()
    own = project or max(
        (project for project in inventory.projects if is_below(path, project.directory)),
        key=lambda project: len(project.directory),
        default=None,
    )
    if own is None or own.problem:  # nobody can say what a project uses that could not be read whole
        return frozenset()
    # A file that no container names may still be given with --env-file.
    return frozenset(
        key for key in content.keys or () if key not in own.interpolated and not key.startswith(_COMPOSE_PREFIXES)
    )


# --- live files of this server and its hosts ---


async def _live(name: SideName, context: SideContext) -> Side:
    environment = str(name.subject)
    manifest = await context.manifest(environment, name.host)
    machine = context.machines[name.text]
    files = await asyncio.gather(*(machine.read(target.path) for target in manifest.targets))
    directories = sorted({stack.directory for stack in manifest.stacks})
    inventories = await asyncio.gather(
        *(clone.take_inventory(machine, directory, manifest.stacks) for directory in directories)
    )
    projects = [project for inventory in inventories for project in inventory.projects]
    interpolations = await asyncio.gather(*(read_interpolation(project, context.reader) for project in projects))
    owners = {
        used.file.path: (interpolation.project, used, interpolation.variables_for(used))
        for interpolation in interpolations
        for used in interpolation.project.files
    }
    live_files = []
    for target, file in zip(manifest.targets, files, strict=True):
        if file is None:
            continue
        user = owners.get(target.path, (None, None, NO_VARIABLES))
        whole = Inventory(os.path.dirname(target.path), tuple(projects))
        side_file, _ = await _of_file(file, whole, context.reader, target.parser, *user)
        live_files.append(
            replace(side_file, name=target.source, aliases=(target.path, target.source), ignored=target.ignore_keys)
        )
    answers = any(inventory.engine for inventory in inventories)
    return Side(
        name.text,
        tuple(live_files),
        environment,
        _containers(projects, context.reader) if answers else None,
        _without_engine(inventories),
        directory=directories[0] if len(directories) == 1 else "",
        projects=_projects(interpolations),
    )


# --- a container ---


async def _container(name: SideName, context: SideContext) -> Side:
    project, _, service = str(name.subject).rpartition("/")
    containers = await clone.containers(context.machines[name.text])
    if containers is None:
        raise RefusedError("Docker does not answer on this machine", where=name.text, hint="`docker ps` shows why")
    every = [
        container
        for container in containers
        if container.container.service == service and (not project or container.project == project)
    ]
    if not every:
        hint = "Give SERVICE or PROJECT/SERVICE; `docker compose ls` and `docker compose ps` list them"
        raise RefusedError("that service has no container", where=name.text, hint=hint)
    running = [container for container in every if container.container.state == "running"]
    if not running:
        states = ", ".join(sorted({container.container.state for container in every}))
        hint = "Start it: a stopped container uses no variables"
        raise RefusedError(f"no container of that service is running ({states})", where=name.text, hint=hint)
    projects = sorted({container.project for container in running})
    if len(projects) > 1:
        names = " or ".join(f"container:{candidate}/{service}" for candidate in projects)
        raise RefusedError(
            "several projects have a service of that name", where=name.text, hint=printable(f"Name {names}")
        )
    keys = {
        key: context.reader.value(value.reveal().decode("utf-8", "surrogateescape"))
        for key, value in running[0].environment.items()
    }
    aliases = (f"{service}.env", service)
    file = SideFile(aliases[0], aliases, keys, None, services=(service,), defaults=running[0].defaults)
    return Side(name.text, (file,), problems=_unlike(name, [container.environment for container in running]))


def _unlike(name: SideName, containers: Sequence[Mapping[str, Secret]]) -> tuple[str, ...]:
    """A warning about containers of one service that have different variables; only one is compared."""
    every = {key for variables in containers for key in variables}
    differing = sorted(key for key in every if len({variables.get(key) for variables in containers}) > 1)
    if not differing:
        return ()
    names = listed([printable(key) for key in differing])
    return (f"{name.text}: its {len(containers)} containers have different variables: {names}",)
