"""From the name of a side to what is there."""

from __future__ import annotations

import asyncio
import os
import posixpath
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from reconciler.app.checks.contracts import open_book
from reconciler.app.checks.survey import MANIFEST, Source, survey
from reconciler.app.compare.contents import ALONE, Around, Content, Reader
from reconciler.app.compare.interpolation import interpolation_of
from reconciler.app.compare.side_names import Kind, SideName
from reconciler.app.config.manifest import Outline, outlines
from reconciler.app.wiring import clone as local_wiring
from reconciler.core.compare.types import NOBODY, Holder, Side, SideFile
from reconciler.core.contract import Notes
from reconciler.core.errors import RefusedError
from reconciler.core.inventory import FoundContainer, FoundFile, FoundProject, Inventory, Use, UsedFile
from reconciler.core.model.targets import Manifest, Parser
from reconciler.core.onboarding.draft import host_name
from reconciler.core.ports.host import Machine
from reconciler.core.secret import Secret
from reconciler.core.secrets.plaintext import is_env_file
from reconciler.core.text import listed, printable
from reconciler.core.tree import Tree

# Compose reads these of a project's .env itself.
_COMPOSES_OWN = ("COMPOSE_", "DOCKER_")


@dataclass(frozen=True, slots=True)
class Place:
    """Where git sides are read: a directory of the clone around the working directory, or ``repository``. ``here`` is
    what the manifests there call this machine, where the server's file says so, ``hosts`` what they call others, by
    address and port."""

    repository: str
    path: str
    here: str = ""
    hosts: Mapping[tuple[str, int], str] = field(default_factory=dict)


@dataclass(slots=True)
class Surroundings:
    """What sides are made from. ``machines`` are connected to once, however many sides they serve; ``manifest`` gives
    that of an environment of this server."""

    reader: Reader
    place: Place
    machines: Mapping[str, Machine]
    manifest: Callable[[str], Awaitable[Manifest]]
    trees: dict[str, asyncio.Task[Tree]] = field(default_factory=dict)


async def open_side(name: SideName, around: Surroundings) -> Side:
    """Everything of the side. Raises RefusedError where there is nothing, OutsideError where it cannot be reached."""
    match name.kind:
        case Kind.GIT:
            side = await _git(name, around)
        case Kind.LIVE:
            side = await _live(name, around)
        case Kind.CONTAINER:
            side = await _container(name, around)
        case _:
            side = await _machine(name, around)
    return replace(side, files=_distinct(side.files), hosts=_hosts(name, around.place))


def _distinct(files: Sequence[SideFile]) -> tuple[SideFile, ...]:
    """Each file once; a source that goes to other places on other hosts is several."""
    found: dict[tuple[str, str, tuple[str, ...]], SideFile] = {}
    for one in files:
        found.setdefault((one.name, one.aliases[0], one.hosts), one)
    return tuple(found[key] for key in sorted(found))


def _hosts(name: SideName, place: Place) -> tuple[str, ...]:
    """What a manifest may call the side's machine, the surest first: as the server's file has it, as `import` does."""
    if name.kind is Kind.GIT:
        return ()
    if name.kind is Kind.SSH:
        address = name.host
        surest = [place.hosts.get((address, name.port), ""), f"{host_name(address)}-{name.port}"]
    else:
        address, surest = socket.gethostname(), [place.here]
    label = address.partition(".")[0]
    short = "" if label.isdigit() else label  # an address of numbers has no short form
    return tuple(dict.fromkeys(one for one in (*surest, host_name(address), short) if one))


# --- git ---


async def _git(name: SideName, around: Surroundings) -> Side:
    environment = str(name.what)
    tree = await tree_of(name, around)
    kept = {
        path: data
        for path, data in tree.files.items()
        if path.startswith(f"{environment}/") or path.endswith((".yaml", ".yml"))
    }
    if f"{environment}/{MANIFEST}" not in kept:
        names = sorted({path.partition("/")[0] for path in tree.files if path.endswith(f"/{MANIFEST}")})
        there = (
            f"There are: {', '.join(names)}" if names else f"Nothing like it lies in {around.place.path}: see --path"
        )
        what = f"there is no {environment}/{MANIFEST} in that commit"
        raise RefusedError(what, where=name.text, hint=printable(there))
    found = survey(Tree(kept, tree.odd), around.place.path, parse_yaml=around.reader.parse_yaml)
    notes = open_book(found).notes(found.sources)
    manifest = next(one for one in found.environments if one.name == environment).manifest
    problems = () if manifest else (f"{environment}/{MANIFEST} cannot be used: `reconciler check` says why",)
    sources = {one.name: one for one in found.sources if one.environment == environment and one.outline}
    said = [one for one in (outlines(manifest) if manifest else ()) if one.source in sources]
    pairs = [(sources[outline.source], outline) for outline in said]
    contents = await asyncio.gather(*(_content(*pair, around.reader) for pair in pairs))
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


async def tree_of(name: SideName, around: Surroundings) -> Tree:
    """The environments' directory at the revision, read once for all sides that want it."""
    if name.revision not in around.trees:
        around.trees[name.revision] = asyncio.create_task(_read_tree(name.revision, around.place))
    return await asyncio.shield(around.trees[name.revision])


async def _read_tree(revision: str, place: Place) -> Tree:
    clone = local_wiring.clone(place.repository)
    commit, _ = await clone.resolve(revision, revision, from_fork_point=False)
    (tree,) = await clone.trees([commit], place.path)
    return tree


async def _content(source: Source, outline: Outline, reader: Reader) -> Content:
    return await reader.read(source.name, source.data, outline.parser)


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


def _holder(said: str) -> Holder:
    """An owner as a manifest names it, by name or number; root has the same number everywhere."""
    if said.isdecimal():
        return Holder(number=int(said))
    return Holder(said, 0 if said == "root" else None)


# --- machines ---


async def _machine(name: SideName, around: Surroundings) -> Side:
    inventory = await local_wiring.take_inventory(around.machines[name.text], name.what)
    if inventory.empty and not inventory.unread:
        hint = "Name a file, or a directory with env files or a Compose project in it or below it"
        raise RefusedError("nothing to compare is there", where=name.text, hint=hint)
    return await _of_inventory(name.text, inventory, around.reader)


async def _of_inventory(name: str, inventory: Inventory, reader: Reader) -> Side:
    alone = not inventory.projects and len(inventory.loose) == 1
    known = await asyncio.gather(*(interpolation_of(project, reader) for project in inventory.projects))
    used = [
        _of_file(one.file, inventory, reader, _parser(one), known_here.project, one, known_here.around(one))
        for known_here in known
        for one in known_here.project.files
    ]
    loose = [
        _of_file(file, inventory, reader, _parser_of_loose(file, alone=alone and file.path == inventory.place))
        for file in inventory.loose
    ]
    files = await asyncio.gather(*used, *loose)
    containers = _containers(inventory.projects)
    problems = tuple(f"{one.directory}: {one.problem}" for one in inventory.projects if one.problem)
    return Side(
        name,
        tuple(file for file, _ in files),
        services=containers if inventory.projects and inventory.engine else None,
        left_out=(*inventory.left_out, *_without_engine([inventory])),
        problems=(*problems, *inventory.unread),
        sealed=sum(sealed for _, sealed in files),
        directory=_directory(inventory),
        compose_options={project.directory: project.options for project in inventory.projects},
    )


def _containers(projects: Sequence[FoundProject]) -> tuple[FoundContainer, ...]:
    return tuple(replace(container, project=project.name) for project in projects for container in project.containers)


def _without_engine(inventories: Sequence[Inventory]) -> tuple[str, ...]:
    """Projects whose containers are not known are none without containers."""
    silent = any(one.projects and not one.engine for one in inventories)
    return ("containers: docker does not answer there",) if silent else ()


def _directory(inventory: Inventory) -> str:
    """Where probes run: the named directory, or that of the one project of a whole machine."""
    if not inventory.place.startswith("/"):
        return inventory.projects[0].directory if len(inventory.projects) == 1 else ""
    is_file = any(file.path == inventory.place for file in inventory.loose)
    return posixpath.dirname(inventory.place) if is_file else inventory.place


def _parser(used: UsedFile) -> Parser:
    if used.use is Use.MOUNT:
        return Parser.COMPOSE if is_env_file(posixpath.basename(used.file.path)) else Parser.OPAQUE
    return Parser.RAW if used.raw else Parser.COMPOSE


def _parser_of_loose(file: FoundFile, *, alone: bool) -> Parser:
    """A file that a person names is one of variables where its lines are, whatever its name."""
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
    around: Around = ALONE,
) -> tuple[SideFile, bool]:
    """The file, and whether no key of ours opens it. Mode and owner of an encrypted one say nothing of a live file."""
    data = file.data.reveal()
    content, encrypted = await reader.read(file.path, data, parser, around), b"ENC[AES256_GCM," in data
    top = posixpath.dirname(inventory.place) if file.path == inventory.place else inventory.place
    name = posixpath.relpath(file.path, top) if top.startswith("/") else file.path
    relative = posixpath.relpath(file.path, project.directory) if project else name
    found = SideFile(
        name=name if not name.startswith("../") else file.path,
        aliases=tuple(dict.fromkeys((file.path, name, relative))),
        keys=content.keys,
        content=content.digest,
        mode=None if encrypted else file.mode,
        owner=NOBODY if encrypted else Holder(file.owner, file.uid),
        group=NOBODY if encrypted else Holder(file.group, file.gid),
        services=used.services if used else (),
        unused=_unused(content, inventory, project, used),
        problem=content.problem,
    )
    return found, content.sealed


def _unused(
    content: Content, inventory: Inventory, project: FoundProject | None, used: UsedFile | None
) -> frozenset[str]:
    """Keys that reach no service: those of a file that no project found there names, and what of a .env nothing
    interpolates."""
    keys = frozenset(content.keys or ())
    if project is None or used is None:
        return keys if inventory.projects else frozenset()
    if used.use is Use.INTERPOLATION:
        return frozenset(key for key in keys if key not in project.interpolated and not key.startswith(_COMPOSES_OWN))
    return frozenset()


# --- this server's live files ---


async def _live(name: SideName, around: Surroundings) -> Side:
    environment = str(name.what)
    manifest = await around.manifest(environment)
    machine = around.machines[name.text]
    files = await asyncio.gather(*(machine.read(target.path) for target in manifest.targets))
    directories = sorted({stack.directory for stack in manifest.stacks})
    inventories = await asyncio.gather(
        *(local_wiring.take_inventory(machine, it, manifest.stacks) for it in directories)
    )
    projects = [project for inventory in inventories for project in inventory.projects]
    known = await asyncio.gather(*(interpolation_of(project, around.reader) for project in projects))
    owners = {used.file.path: (one.project, used, one.around(used)) for one in known for used in one.project.files}
    found = []
    for target, file in zip(manifest.targets, files, strict=True):
        if file is None:
            continue
        user = owners.get(target.path, (None, None, ALONE))
        whole = Inventory(os.path.dirname(target.path), tuple(projects))
        one, _ = await _of_file(file, whole, around.reader, target.parser, *user)
        found.append(replace(one, name=target.source, aliases=(target.path, target.source), ignored=target.ignore_keys))
    answers = any(inventory.engine for inventory in inventories)
    return Side(
        name.text,
        tuple(found),
        environment,
        _containers(projects) if answers else None,
        _without_engine(inventories),
        directory=directories[0] if len(directories) == 1 else "",
        compose_options={project.directory: project.options for project in projects},
    )


# --- a container ---


async def _container(name: SideName, around: Surroundings) -> Side:
    wanted = str(name.what)
    project, _, service = wanted.rpartition("/")
    found = await local_wiring.containers(around.machines[name.text])
    if found is None:
        raise RefusedError("docker does not answer on this machine", where=name.text, hint="`docker ps` says why")
    every = [one for one in found if one.container.service == service and (not project or one.project == project)]
    if not every:
        hint = "`docker compose ls` and `docker compose ps` list what runs; accepted: SERVICE or PROJECT/SERVICE"
        raise RefusedError("there is no container of that service", where=name.text, hint=hint)
    running = [one for one in every if one.container.state == "running"]
    if not running:
        states = ", ".join(sorted({one.container.state for one in every}))
        hint = "Start it: the variables of a container that does not run are nobody's"
        raise RefusedError(f"no container of that service is running ({states})", where=name.text, hint=hint)
    projects = sorted({one.project for one in running})
    if len(projects) > 1:
        names = " or ".join(f"container:{one}/{service}" for one in projects)
        raise RefusedError("several projects have that service", where=name.text, hint=printable(f"Name {names}"))
    keys = {
        key: around.reader.value(value.reveal().decode("utf-8", "surrogateescape"))
        for key, value in running[0].environment.items()
    }
    aliases = (f"{service}.env", service)
    file = SideFile(aliases[0], aliases, keys, None, services=(service,), defaults=running[0].defaults)
    return Side(name.text, (file,), problems=_unlike(name, [one.environment for one in running]))


def _unlike(name: SideName, containers: Sequence[Mapping[str, Secret]]) -> tuple[str, ...]:
    """What is to be said of containers of one service that do not have the same variables; only one is compared."""
    every = {key for one in containers for key in one}
    differing = sorted(key for key in every if len({one.get(key) for one in containers}) > 1)
    if not differing:
        return ()
    names = listed([printable(key) for key in differing])
    return (f"{name.text}: its {len(containers)} containers do not have the same variables: {names}",)
