"""From what was found on machines to what goes into git: the decisions of `reconciler import`. Pure.

No value is in anything that is decided here but the files' own bytes, which are Secrets.
"""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from reconciler.core.checks import line_lint
from reconciler.core.decide.guards import control_keys, is_below
from reconciler.core.dotenv.grammar import DotenvEntry, EnvFileError, read_entries
from reconciler.core.errors import RefusedError
from reconciler.core.inventory import FoundFile, FoundProject, Inventory, Use
from reconciler.core.model.targets import Format, Parser
from reconciler.core.secrets.names import names_a_secret
from reconciler.core.secrets.plaintext import is_env_file, reason_for_secrecy
from reconciler.core.sops.adoption import UnfitError, read_lines
from reconciler.core.sops.ciphertext import is_certainly_a_name
from reconciler.core.sops.patterns import MAX_BYTES
from reconciler.core.text import listed

DEFAULT_MODE = 0o600
AS_IT_IS = ".bin"
"""Ends a source's name where sops would else take the suffix for a format that does not keep every byte."""

_SUFFIXES = (".env", ".yaml", ".yml", ".json", ".ini")  # by which sops chooses a format of its own
_MANIFEST = re.compile(r"(?i)environments?\.ya?ml")
_EXAMPLE = re.compile(r"(?i)\.(example|template)$")  # which `reconciler check` takes for an example of another file
_UNUSUAL = re.compile(r"[^A-Za-z0-9._-]+")
_PERSON = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,31}\$?")
# What Compose reads in a directory without being told.
_USUAL_COMPOSE_FILES = re.compile(r"(docker-)?compose(\.override)?\.ya?ml")
_OF_THE_SYSTEM = (
    *("/bin", "/boot", "/dev", "/lib", "/lib64", "/proc", "/run", "/sbin", "/sys", "/usr", "/var/run"),
    *("/etc/ssl", "/etc/pki", "/etc/ca-certificates", "/etc/alternatives", "/etc/zoneinfo"),
)
_FILES_OF_THE_SYSTEM = frozenset(
    f"/etc/{name}"
    for name in (
        *("adjtime", "group", "gshadow", "hostname", "hosts", "localtime", "machine-id", "nsswitch.conf", "os-release"),
        *("passwd", "resolv.conf", "services", "shadow", "sudoers", "timezone"),
    )
)


@dataclass(frozen=True, slots=True)
class Place:
    """What was found on one machine; ``host`` is what a manifest calls it; ``left_out`` has the files that were found
    and cannot be imported, with the reason."""

    host: str
    inventory: Inventory
    left_out: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Taken:
    """One live file and the source it becomes.

    ``hosts`` has every machine where the file is exactly so; ``stack`` is None for a file that belongs to no project.
    ``why`` tells why the format is another than a person would expect, "" where it is not. ``keys`` are the names of
    its variables that can be shown, ``unshown`` counts the others.
    """

    source: str
    stack: str | None
    hosts: tuple[str, ...]
    file: FoundFile
    uses: tuple[Use, ...]
    services: tuple[str, ...]
    format: Format
    why: str = ""
    parser: Parser = Parser.OPAQUE
    keys: tuple[str, ...] = ()
    unshown: int = 0

    @property
    def mounted(self) -> bool:
        return Use.MOUNT in self.uses

    @property
    def looks_harmless(self) -> bool:
        """Whether it is a mounted file in which nothing looks like a secret."""
        return self.format is Format.BINARY and not self.why

    @property
    def owner(self) -> str:
        return _person(self.file.owner, self.file.uid)

    @property
    def group(self) -> str:
        return _person(self.file.group, self.file.gid)

    @property
    def mode(self) -> int:
        """The special bits are nothing a manifest can have."""
        return self.file.mode & 0o777


@dataclass(frozen=True, slots=True)
class TakenStack:
    """A Compose project; ``hosts`` is empty where it is the same on every machine. The other fields are those of a
    manifest's stack, empty where Compose does it by itself; paths below the directory are relative to it."""

    name: str
    directory: str
    hosts: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    env_files: tuple[str, ...] = ()
    project: str = ""
    project_directory: str = ""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A file that is not imported."""

    host: str
    path: str
    why: str


@dataclass(frozen=True, slots=True)
class Draft:
    """What is to be imported. ``notes`` are sentences for a person."""

    environment: str
    stacks: tuple[TakenStack, ...]
    files: tuple[Taken, ...]
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plain:
    """Which mounted files are to stay readable in git: ``globs`` of live paths, as a person gives them, and the live
    paths ``kept`` that an earlier import left plain."""

    globs: Collection[str] = ()
    kept: Collection[str] = ()

    def wants(self, file: FoundFile) -> bool:
        """Whether the file is to be plain. What may hold a secret has to be named itself, and not by a pattern.

        Raises RefusedError where it is not.
        """
        if file.path in self.globs:
            return True
        why = _why_secret(file)
        if named := next((one for one in self.globs if fnmatchcase(file.path, one)), ""):
            if why:
                what = f"it may hold a secret ({why}), and --plain {named} would leave it readable"
                hint = f"If it holds none, name the file itself: --plain {file.path}. Else choose a narrower pattern"
                raise RefusedError(what, where=file.path, hint=hint)
            return True
        return file.path in self.kept and not why


def _why_secret(file: FoundFile) -> str:
    return reason_for_secrecy(posixpath.basename(file.path), file.data.reveal())


def draft(
    environment: str, places: Sequence[Place], exclude: Collection[str] = (), plain: Plain | None = None
) -> Draft:
    """Given what was found, decide what becomes of every file. ``exclude`` are globs of live paths.

    Raises RefusedError where a file must not be as plain as ``plain`` says.
    """
    plain = plain or Plain()
    left_out = [LeftOut(place.host, path, why) for place in places for path, why in place.left_out.items()]
    notes = [text for place in places for text in (*place.inventory.left_out, *place.inventory.unread)]
    groups = _grouped(places)
    names = _stack_names(groups)
    claimed: dict[tuple[str, str], str] = {}
    taken: list[Taken] = []
    stacks = []
    for group, name in zip(groups, names, strict=True):
        stacks.append(_stack(group, name, len(places), notes))
        for used in _merged(group.project):
            why = _why_not(used.file, used.uses, exclude, group.project.compose_files) or _why_not_the_project(group)
            others = [claimed.get((host, used.file.path)) for host in group.hosts]
            if why:
                left_out += [LeftOut(host, used.file.path, why) for host in group.hosts]
            elif other := next((one for one in others if one), None):
                notes.append(_shared(used.file.path, other, name))
            else:
                claimed |= {(host, used.file.path): name for host in group.hosts}
                taken.append(_take(used, name, group.hosts, plain))
    alone, without = _loose(places, exclude, has_projects=bool(groups))
    taken, left_out = taken + alone, left_out + without
    named = _named(taken, prefixed=len(stacks) > 1)
    notes += [note for one in named for note in _about(one, stacks)]
    notes += _about_plain(named, plain)
    used_stacks = {one.stack for one in named}
    return Draft(
        environment=environment,
        stacks=tuple(stack for stack in stacks if stack.name in used_stacks),
        files=tuple(named),
        left_out=tuple(left_out),
        notes=tuple(dict.fromkeys(notes)),
    )


# --- projects ---


@dataclass(frozen=True, slots=True)
class _Group:
    """A project with the machines on which it is exactly so."""

    project: FoundProject
    hosts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Used:
    """A file of a project with everything it is used for."""

    file: FoundFile
    uses: tuple[Use, ...]
    services: tuple[str, ...]
    raw: bool = False


def _grouped(places: Sequence[Place]) -> list[_Group]:
    groups: list[_Group] = []
    for place in places:
        for project in place.inventory.projects:
            for number, group in enumerate(groups):
                if place.host not in group.hosts and _alike(group.project, project):
                    groups[number] = replace(group, hosts=(*group.hosts, place.host))
                    break
            else:
                groups.append(_Group(project, (place.host,)))
    return groups


def _alike(one: FoundProject, other: FoundProject) -> bool:
    """Whether one stack of a manifest can stand for both."""

    def seen(project: FoundProject) -> object:
        files = [(_fields(used.file), used.file.data, used.use, used.raw) for used in project.files]
        started = (project.main_files, project.env_files, project.project_directory)
        return project.name, project.directory, started, files

    return seen(one) == seen(other)


def _fields(file: FoundFile) -> tuple[str, int, str, str]:
    return file.path, file.mode, _person(file.owner, file.uid), _person(file.group, file.gid)


def _stack_names(groups: Sequence[_Group]) -> list[str]:
    """The project's own name; with the first of its machines where several would have it."""
    plain = [_clean(group.project.name) or _clean(posixpath.basename(group.project.directory)) for group in groups]
    times = Counter(plain)
    names: list[str] = []
    for name, group in zip(plain, groups, strict=True):
        wanted = name if times[name] == 1 else f"{name}-{_clean(group.hosts[0])}"
        names.append(_free(wanted[:60], names))
    return names


def _stack(group: _Group, name: str, machines: int, notes: list[str]) -> TakenStack:
    project = group.project
    if project.problem:
        notes.append(f"{name}: not everything could be found out: {project.problem}")

    def inside(path: str) -> str:
        return posixpath.relpath(path, project.directory) if is_below(path, project.directory) else path

    files = tuple(map(inside, project.main_files))
    usual = not project.env_files and all(_USUAL_COMPOSE_FILES.fullmatch(path) for path in files)
    return TakenStack(
        name,
        project.directory,
        hosts=() if len(group.hosts) == machines else group.hosts,
        files=() if usual else files,
        env_files=tuple(map(inside, project.env_files)),
        project=project.named,
        project_directory=inside(project.project_directory) if project.project_directory else "",
    )


def _merged(project: FoundProject) -> list[_Used]:
    """Each file once, whatever uses it; those in the directory itself first, which are named first."""
    found: dict[str, _Used] = {}
    for used in project.files:
        one = found.get(used.file.path, _Used(used.file, (), ()))
        found[used.file.path] = _Used(
            used.file,
            tuple(dict.fromkeys((*one.uses, used.use))),
            tuple(sorted({*one.services, *used.services})),
            one.raw or used.raw,
        )
    return [
        found[path]
        for path in sorted(found, key=lambda one: (not is_below(one, project.directory), one.count("/"), one))
    ]


def _why_not(file: FoundFile, uses: Collection[Use], exclude: Collection[str], compose_files: Collection[str]) -> str:
    """Why a file is not imported; "" where it is."""
    if any(fnmatchcase(file.path, pattern) for pattern in exclude):
        return "excluded"
    if unfit := _unfit(file.path):
        return f"its path {unfit}"
    if file.path in compose_files:
        return "Compose reads it as project configuration: that stays where it is"
    only_mounted = set(uses) == {Use.MOUNT}
    if only_mounted and (file.path in _FILES_OF_THE_SYSTEM or any(is_below(file.path, one) for one in _OF_THE_SYSTEM)):
        return "it belongs to the operating system"
    if len(file.data.reveal()) > MAX_BYTES // 2:  # encrypted it grows by a third
        return f"it is larger than {MAX_BYTES // 2} bytes"
    if b"ENC[" in file.data.reveal():
        return "it holds ENC[, so it seems to be encrypted already"
    return ""


def _why_not_the_project(group: _Group) -> str:
    paths = (group.project.directory, *group.project.main_files, *group.project.env_files)
    return next((f"the path of its project {unfit}" for path in paths if (unfit := _unfit(path))), "")


def _unfit(path: str) -> str:
    """Why a manifest cannot have the path; "" where it can."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return "is not UTF-8, which a manifest is"
    fit = path.isprintable() and "\\" not in path
    return "" if fit else "holds an invisible character or a backslash, which no manifest may"


def _shared(path: str, owner: str, other: str) -> str:
    return (
        f"{path} is used by {other} too: it becomes a target of {owner} alone, so that a change of it recreates no "
        f"service of {other}"
    )


def _loose(
    places: Sequence[Place], exclude: Collection[str], *, has_projects: bool
) -> tuple[list[Taken], list[LeftOut]]:
    """Files of no project: taken where nothing else was found, and only where they are the same on every machine."""
    taken, left_out = [], []
    by_path: dict[str, dict[str, FoundFile]] = {}
    for place in places:
        for file in place.inventory.loose:
            by_path.setdefault(file.path, {})[place.host] = file
    for path, files in sorted(by_path.items()):
        first = next(iter(files.values()))
        alike = len(files) == len(places) and all(
            _fields(one) == _fields(first) and one.data == first.data for one in files.values()
        )
        why = _why_not(first, (), exclude, ())
        why = why or ("no Compose project uses it; name the file itself to import it" if has_projects else "")
        why = why or ("" if alike else "it belongs to no Compose project, and is not the same on every machine")
        if why:
            left_out += [LeftOut(host, path, why) for host in files]
        else:
            taken.append(_take(_Used(first, (), ()), None, tuple(files), Plain()))
    return taken, left_out


# --- one file ---


def _take(used: _Used, stack: str | None, hosts: tuple[str, ...], plain: Plain) -> Taken:
    """Decide how a file is kept in git. Its source has no name yet."""
    data = used.file.data.reveal()
    kept = Taken("", stack, hosts, used.file, used.uses, used.services, Format.DOTENV)
    if not holds_variables(used.file.path, used.uses):
        if plain.wants(used.file):
            return replace(kept, format=Format.PLAIN)
        return replace(kept, format=Format.BINARY, why=_why_secret(used.file))
    if used.file.path in plain.globs:
        what = "it holds variables, and those are always encrypted"
        raise RefusedError(what, where=used.file.path, hint="Leave it out of --plain")
    reader = Parser.RAW if used.raw else Parser.COMPOSE
    keys, unshown, odd = _variables(data, reader)
    why = _why_not_dotenv(data, reader)
    kept = replace(kept, format=Format.BINARY if why else Format.DOTENV, keys=keys, unshown=unshown)
    if odd:
        return replace(kept, format=Format.BINARY, why=odd)
    return replace(kept, why=why, parser=reader)


def holds_variables(path: str, uses: Collection[Use]) -> bool:
    """Whether a file is an env file, and no other configuration: by its use, or by its name."""
    return not uses or set(uses) != {Use.MOUNT} or is_env_file(posixpath.basename(path))


def _why_not_dotenv(data: bytes, reader: Parser) -> str:
    """Why sops' dotenv cannot hold the file byte for byte, without a value; "" where it can."""
    try:
        return "" if read_lines(data, reader) else "it has no lines"
    except UnfitError as unfit:
        return str(unfit)


def _variables(data: bytes, reader: Parser) -> tuple[tuple[str, ...], int, str]:
    """The names that can be shown, how many cannot, and why its keys cannot be managed ("" if they can)."""
    try:
        entries = read_entries(data, reader)
    except EnvFileError as error:
        return (), 0, f"it cannot be read ({error}), so its keys are not looked at"
    if findings := line_lint.plain("", entries):
        what = f"line {findings[0].line}: {findings[0].message}"
        return _shown(entries), 0, f"{what}. Until that is mended, its keys are not looked at"
    names = _shown(entries)
    return names, len({entry.key for entry in entries}) - len(names), ""


def _shown(entries: Iterable[DotenvEntry]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(entry.key for entry in entries if is_certainly_a_name(entry.key, entry.template or "x")))


def as_binary(one: Taken, why: str, others: Collection[str]) -> Taken:
    """The same file in the format that keeps every byte, under a name that says so and that no other has."""
    name = one.source.removesuffix(AS_IT_IS)
    return replace(one, format=Format.BINARY, why=why, source=_free(f"{name}{AS_IT_IS}", others))


# --- names in git ---


def _named(taken: Iterable[Taken], *, prefixed: bool) -> list[Taken]:
    """Each with a source's name of its own: that of the file, below the stack's where there are several."""
    named: list[Taken] = []
    for one in taken:
        name = _source_name(one)
        directory = _clean(posixpath.basename(posixpath.dirname(one.file.path)))
        wanted = f"{one.stack}/{name}" if prefixed and one.stack else name
        others = [other.source for other in named]
        if _is_taken(wanted, others) and directory:
            wanted = posixpath.join(posixpath.dirname(wanted), f"{directory}-{name}")
        named.append(replace(one, source=_free(wanted, others)))
    return named


def _source_name(one: Taken) -> str:
    base = posixpath.basename(one.file.path)
    stem = one.stack or _clean(posixpath.basename(posixpath.dirname(one.file.path))) or "files"
    name = f"{stem}.{_clean(base)}" if base.startswith(".") or _MANIFEST.fullmatch(base) else _clean(base)
    name = _EXAMPLE.sub(r"-\1", name) or stem
    env = holds_variables(one.file.path, one.uses)
    if env and not name.endswith(".env") and one.format is Format.DOTENV:
        head, dot_env, tail = name.partition(".env.")  # sops goes by the suffix: api.env.old → api.old.env
        name = f"{head}.{tail}.env" if dot_env else f"{name}.env"
    if env and one.format is Format.BINARY and ".env." not in f"{name}.":
        name = f"{name}.env"
    if one.format is Format.BINARY and name.endswith(_SUFFIXES):
        name += AS_IT_IS
    return name


def _clean(text: str) -> str:
    """Letters, digits, dots and dashes of ``text``, fit for a name: no dot or dash at its beginning, no two dots."""
    return re.sub(r"\.\.+", ".", _UNUSUAL.sub("-", text)).strip(".-_")[:80]


def host_name(text: str) -> str:
    """What a manifest calls a machine, given its address."""
    return _clean(text)[:60] or "host"


def _is_taken(name: str, others: Iterable[str]) -> bool:
    return name.casefold() in {other.casefold() for other in others}


def _free(name: str, others: Collection[str]) -> str:
    """``name``, or with a number where another has it."""
    stem, dot, suffix = name.partition(".")
    number, free = 2, name
    while _is_taken(free, others):
        free, number = f"{stem}-{number}{dot}{suffix}", number + 1
    return free


def _person(name: str, number: int) -> str:
    return name if _PERSON.fullmatch(name) else str(number)


# --- what a person should know ---


def _steers_compose(one: Taken, stacks: Iterable[TakenStack]) -> bool:
    """Whether Compose reads the file as the project's .env, whatever else it is."""
    return any(stack.name == one.stack and one.file.path == posixpath.join(stack.directory, ".env") for stack in stacks)


def _about(one: Taken, stacks: Iterable[TakenStack]) -> Iterator[str]:
    path = one.file.path
    directory = next((stack.directory for stack in stacks if stack.name == one.stack), None)
    if directory is not None and not is_below(path, directory):
        yield f"{path} lies outside of {directory}: the server's allowed_paths must cover it"
    if control := control_keys(one.keys) if _steers_compose(one, stacks) else ():
        yield (
            f"{path}: {listed(control)} decides what Compose runs, so a server applies a change of this file only with "
            "allow_compose_files: true"
        )
    if one.format is not Format.PLAIN and not one.looks_harmless and one.mode & 0o004:
        yield f'{path} is readable for everybody on its machine (mode {one.mode:04o}); mode: "0600" ends that'
    if one.file.mode & 0o7000:
        yield f"{path} has setuid, setgid or sticky (mode {one.file.mode:04o}), which no manifest can ask for"
    if b"\r\n" in one.file.data.reveal() and holds_variables(path, one.uses):
        yield f"{path} has Windows line ends: Compose takes a carriage return within quotes for a part of the value"


def _about_plain(files: Sequence[Taken], plain: Plain) -> Iterator[str]:
    """What could be readable in git, what no longer is, and what was meant to be and is not there."""
    if harmless := [one.file.path for one in files if one.looks_harmless]:
        yield f"nothing in {listed(harmless)} looks like a secret; --plain PATH keeps such a file readable in git"
    for one in files:
        if one.format is not Format.PLAIN and one.file.path in plain.kept:
            yield (
                f"{one.file.path} was plain and is encrypted from now on, since it may hold a secret ({one.why}); what "
                "git has of it already stays readable in its history"
            )
    paths = [one.file.path for one in files if one.format is Format.PLAIN]
    for glob in plain.globs:
        if not any(fnmatchcase(path, glob) or path == glob for path in paths):
            yield f"--plain {glob} names no mounted file that was found"


# --- what is written beside the sources ---


def manifest(found: Draft, contracts: Mapping[str, Sequence[str]]) -> dict[str, object]:
    """environment.yaml as data, in its shortest form. ``contracts`` has the paths of contracts by the source."""
    defaults = _defaults(found.files)
    written: dict[str, object] = {"defaults": defaults} if defaults else {}
    if found.stacks:
        written["stacks"] = {
            stack.name: _stack_fields(stack, found.files, defaults, contracts) for stack in found.stacks
        }
    if alone := {one.source: _target(one, None, defaults, contracts) for one in found.files if one.stack is None}:
        written["targets"] = alone
    return written


def _stack_fields(
    stack: TakenStack, files: Iterable[Taken], defaults: Mapping[str, str], contracts: Mapping[str, Sequence[str]]
) -> dict[str, object]:
    fields: dict[str, object] = {"directory": stack.directory}
    for name in ("files", "env_files", "project", "project_directory", "hosts"):
        if value := getattr(stack, name):
            fields[name] = value if isinstance(value, str) else list(value)
    targets = {
        one.source: _target(one, stack.directory, defaults, contracts) for one in files if one.stack == stack.name
    }
    return fields | {"targets": targets}


def _target(
    one: Taken, directory: str | None, defaults: Mapping[str, str], contracts: Mapping[str, Sequence[str]]
) -> dict[str, object] | str | None:
    path = one.file.path
    if directory is not None and is_below(path, directory):
        path = posixpath.relpath(path, directory)
    fields: dict[str, object] = {} if directory is not None and path == one.source else {"path": path}
    if one.format is Format.PLAIN:
        fields["encrypted"] = False
    said = {"mode": f"{DEFAULT_MODE:04o}", "owner": "root", "group": "root", **defaults}
    fields |= {name: value for name, value in _attributes(one).items() if said[name] != value}
    if one.mounted:
        fields["on_change"] = "restart"
    if one.parser is not Parser.COMPOSE and holds_variables(one.file.path, one.uses):
        fields["parser"] = str(one.parser)
    if said_by := contracts.get(one.source, ()):
        fields["schema"] = said_by[0] if len(said_by) == 1 else list(said_by)
    if not fields:
        return None
    return str(fields["path"]) if fields.keys() == {"path"} else fields


def _attributes(one: Taken) -> dict[str, str]:
    return {"mode": f"{one.mode:04o}", "owner": one.owner, "group": one.group}


def _defaults(files: Sequence[Taken]) -> dict[str, str]:
    """The commonest owner, where it is not what a daemon that is root gives anyway. A mode is said where it is not
    0600: what comes later shall not be readable for everybody because of a default."""
    if not files:
        return {}
    ((owner, group), _), *_ = Counter((one.owner, one.group) for one in files).most_common(1)
    return {"owner": owner, "group": group} if (owner, group) != ("root", "root") else {}


def contract(one: Taken) -> dict[str, object]:
    """A first contract of a file's variables: their names, and which of them are secrets. No value is in it."""
    secret = {name: {"writeOnly": True} if names_a_secret(name) else {} for name in one.keys}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "required": list(one.keys),
        "properties": secret,
    }


def contract_name(source: str) -> str:
    """Where a source's contract lies below ``contracts/``, without its suffix: api.env → api."""
    return source.removesuffix(AS_IT_IS).removesuffix(".env").replace("/", "-")


def example(files: Iterable[Taken]) -> str:
    """env.example: every name once, without a value, in groups that tell which files hold it."""
    holders: dict[str, list[str]] = {}
    for one in files:
        for name in one.keys if one.parser is not Parser.OPAQUE else ():
            holders.setdefault(name, []).append(one.source)
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, sources in holders.items():
        groups.setdefault(tuple(sources), []).append(name)
    head = "# Every name once; the line above a group names the files that hold exactly these. No value belongs here.\n"
    return head + "".join(
        f"\n# files: {' '.join(sources)}\n" + "".join(f"{name}=\n" for name in names)
        for sources, names in groups.items()
    )
