"""Decides what an import takes from machines into git, and how. Pure.

No decision holds a value; the bytes of the files are Secrets.
"""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from reconciler.core.checks import line_lint
from reconciler.core.decide.guards import is_below
from reconciler.core.dotenv.grammar import DotenvEntry, EnvFileError, read_entries
from reconciler.core.errors import RefusedError
from reconciler.core.inventory import FoundFile, FoundProject, Use
from reconciler.core.model.targets import Format, Parser
from reconciler.core.onboarding.notes import file_notes, plain_notes
from reconciler.core.onboarding.source_names import clean_name, free_name, name_sources
from reconciler.core.onboarding.types import (
    Draft,
    DraftFile,
    DraftStack,
    ImportSource,
    LeftOut,
    PlainFiles,
    account_name,
    holds_variables,
    secret_reason,
)
from reconciler.core.secret import Secret
from reconciler.core.sops.ciphertext import is_certainly_a_name
from reconciler.core.sops.dotenv_lines import UnfitError, read_lines
from reconciler.core.sops.file_format import store_of
from reconciler.core.sops.normal_form import normal_form
from reconciler.core.sops.patterns import MAX_BYTES

# Compose finds these in a directory by itself.
_USUAL_COMPOSE_FILES = re.compile(r"(docker-)?compose(\.override)?\.ya?ml")
_SYSTEM_DIRECTORIES = (
    *("/bin", "/boot", "/dev", "/lib", "/lib64", "/proc", "/run", "/sbin", "/sys", "/usr", "/var/run"),
    *("/etc/ssl", "/etc/pki", "/etc/ca-certificates", "/etc/alternatives", "/etc/zoneinfo"),
)
_SYSTEM_FILES = frozenset(
    f"/etc/{name}"
    for name in (
        *("adjtime", "group", "gshadow", "hostname", "hosts", "localtime", "machine-id", "nsswitch.conf", "os-release"),
        *("passwd", "resolv.conf", "services", "shadow", "sudoers", "timezone"),
    )
)


def draft_environment(
    environment: str,
    sources: Sequence[ImportSource],
    exclude: Collection[str] = (),
    plain: PlainFiles | None = None,
    managed: Mapping[str, tuple[Use, ...]] | None = None,
    *,
    exact: bool = False,
) -> Draft:
    """Given the contents of machines, decide what to do with every file. ``exclude`` are globs of live paths.
    ``managed`` are the live paths that git has already, with how they are used where no project says it.
    ``exact``: git gets every byte of a file, not its normal form.

    Raises RefusedError if ``plain`` would leave a possible secret readable.
    """
    storage = _Storage(plain or PlainFiles(), exact=exact)
    left_out = [LeftOut(source.host, path, reason) for source in sources for path, reason in source.left_out.items()]
    notes = [text for source in sources for text in (*source.inventory.left_out, *source.inventory.unread)]
    groups = _grouped(sources)
    names = _stack_names(groups)
    claimed: dict[tuple[str, str], str] = {}
    taken: list[DraftFile] = []
    stacks = []
    for group, name in zip(groups, names, strict=True):
        stacks.append(_stack(group, name, len(sources), notes))
        for used in _merged(group.project):
            reason = _obstacle(used.file, used.uses, exclude, group.project.compose_files) or _project_obstacle(group)
            others = [claimed.get((host, used.file.path)) for host in group.hosts]
            if reason:
                left_out += [LeftOut(host, used.file.path, reason) for host in group.hosts]
            elif user := next((user for user in others if user), None):
                notes.append(_shared(used.file.path, user, name))
            else:
                claimed |= {(host, used.file.path): name for host in group.hosts}
                taken.append(_take(used, name, group.hosts, storage))
    managed = managed or {}
    alone, without = _loose(sources, exclude, storage, managed, has_projects=bool(groups))
    taken, left_out = taken + alone, left_out + without
    named = name_sources(taken, {stack.name: stack.directory for stack in stacks}, prefixed=len(stacks) > 1)
    new = [file for file in named if file.file.path not in managed]
    notes += [note for file in new for note in file_notes(file, stacks)]
    notes += plain_notes(named, new, storage.plain)
    used_stacks = {file.stack for file in named}
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
    """A project with the machines on which it is identical."""

    project: FoundProject
    hosts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _UsedFile:
    """A file of a project with all its uses."""

    file: FoundFile
    uses: tuple[Use, ...]
    services: tuple[str, ...]
    raw: bool = False
    mounted: bool = False


def _grouped(sources: Sequence[ImportSource]) -> list[_Group]:
    groups: list[_Group] = []
    for source in sources:
        for project in source.inventory.projects:
            for number, group in enumerate(groups):
                if source.host not in group.hosts and _alike(group.project, project):
                    groups[number] = replace(group, hosts=(*group.hosts, source.host))
                    break
            else:
                groups.append(_Group(project, (source.host,)))
    return groups


def _alike(left: FoundProject, right: FoundProject) -> bool:
    """Whether one stack of a manifest can represent both."""

    def identity(project: FoundProject) -> object:
        files = [(_fields(used.file), used.file.data, used.use, used.raw, used.mounted) for used in project.files]
        started = (project.main_files, project.env_files, project.project_directory)
        return project.kind, project.name, project.directory, started, files

    return identity(left) == identity(right)


def _fields(file: FoundFile) -> tuple[str, int, str, str]:
    return file.path, file.mode, account_name(file.owner, file.uid), account_name(file.group, file.gid)


def _stack_names(groups: Sequence[_Group]) -> list[str]:
    """The name of each project, with its first machine if several projects share the name."""
    plain = [
        clean_name(group.project.name) or clean_name(posixpath.basename(group.project.directory)) for group in groups
    ]
    times = Counter(plain)
    names: list[str] = []
    for name, group in zip(plain, groups, strict=True):
        desired = name if times[name] == 1 else f"{name}-{clean_name(group.hosts[0])}"
        names.append(free_name(desired[:60], names))
    return names


def _stack(group: _Group, name: str, machines: int, notes: list[str]) -> DraftStack:
    project = group.project
    if project.problem:
        notes.append(f"{name}: the inventory is incomplete: {project.problem}")
    notes += [f"{name}: {note}" for note in project.notes]

    def relative(path: str) -> str:
        return posixpath.relpath(path, project.directory) if is_below(path, project.directory) else path

    files = tuple(map(relative, project.main_files))
    usual = not project.env_files and all(_USUAL_COMPOSE_FILES.fullmatch(path) for path in files)
    return DraftStack(
        name,
        project.directory,
        hosts=() if len(group.hosts) == machines else group.hosts,
        files=() if usual else files,
        env_files=tuple(map(relative, project.env_files)),
        project=project.named,
        kind=project.kind,
        project_directory=relative(project.project_directory) if project.project_directory else "",
    )


def _merged(project: FoundProject) -> list[_UsedFile]:
    """Each file once, with all its uses; files in the project's directory come first, and so are named first."""
    merged: dict[str, _UsedFile] = {}
    for used in project.files:
        existing = merged.get(used.file.path, _UsedFile(used.file, (), ()))
        merged[used.file.path] = _UsedFile(
            used.file,
            tuple(dict.fromkeys((*existing.uses, used.use))),
            tuple(sorted({*existing.services, *used.services})),
            existing.raw or used.raw,
            existing.mounted or used.mounted or used.use is Use.MOUNT,
        )
    return [
        merged[path]
        for path in sorted(merged, key=lambda path: (not is_below(path, project.directory), path.count("/"), path))
    ]


def _obstacle(file: FoundFile, uses: Collection[Use], exclude: Collection[str], compose_files: Collection[str]) -> str:
    """Why a file cannot be imported; "" if it can."""
    if any(fnmatchcase(file.path, pattern) for pattern in exclude):
        return "excluded"
    if unfit := _path_obstacle(file.path):
        return f"its path {unfit}"
    if file.path in compose_files:
        return "it is a compose file, which is not imported"
    only_mounted = set(uses) == {Use.MOUNT}
    if only_mounted and (
        file.path in _SYSTEM_FILES or any(is_below(file.path, directory) for directory in _SYSTEM_DIRECTORIES)
    ):
        return "it belongs to the operating system"
    if len(file.data.reveal()) > MAX_BYTES // 2:  # encryption adds a third
        return f"it is larger than {MAX_BYTES // 2} bytes"
    if b"ENC[" in file.data.reveal():
        if store := store_of(file.data.reveal()):
            return f"it is a {store.upper()} store of sops already, and would be encrypted twice"
        return "it contains ENC[, so it seems to be encrypted already"
    return ""


def _project_obstacle(group: _Group) -> str:
    paths = (group.project.directory, *group.project.main_files, *group.project.env_files)
    return next((f"the path of its project {unfit}" for path in paths if (unfit := _path_obstacle(path))), "")


def _path_obstacle(path: str) -> str:
    """Why a manifest cannot contain the path; "" if it can."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return "is not valid UTF-8"
    fit = path.isprintable() and "\\" not in path
    return "" if fit else "contains an invisible character or a backslash"


def _shared(path: str, owner: str, user: str) -> str:
    return (
        f"{path} is used by {user} too: it becomes a target of {owner} alone, so that a change of it recreates no "
        f"service of {user}"
    )


def _loose(
    sources: Sequence[ImportSource],
    exclude: Collection[str],
    storage: _Storage,
    managed: Mapping[str, tuple[Use, ...]],
    *,
    has_projects: bool,
) -> tuple[list[DraftFile], list[LeftOut]]:
    """Files of no project: imported only if there are no projects and every machine has the same file, or if git has
    the file already."""
    taken, left_out = [], []
    by_path: dict[str, dict[str, FoundFile]] = {}
    for source in sources:
        for file in source.inventory.loose:
            by_path.setdefault(file.path, {})[source.host] = file
    for path, files in sorted(by_path.items()):
        first = next(iter(files.values()))
        alike = (path in managed or len(files) == len(sources)) and all(
            _fields(file) == _fields(first) and file.data == first.data for file in files.values()
        )
        reason = _obstacle(first, (), exclude, ())
        unused = has_projects and path not in managed
        reason = reason or ("no Compose project uses it; name the file to import it" if unused else "")
        reason = reason or ("" if alike else "it belongs to no Compose project and differs between machines")
        if reason:
            left_out += [LeftOut(host, path, reason) for host in files]
        else:
            file_storage = storage if path in managed else replace(storage, plain=PlainFiles())
            taken.append(_take(_UsedFile(first, managed.get(path, ()), ()), None, tuple(files), file_storage))
    return taken, left_out


# --- one file ---


@dataclass(frozen=True, slots=True)
class _Storage:
    """What the user says about storing files: which are ``plain``, and whether git gets the ``exact`` bytes."""

    plain: PlainFiles
    exact: bool


def _take(used: _UsedFile, stack: str | None, hosts: tuple[str, ...], storage: _Storage) -> DraftFile:
    """Decide how git stores a file. Its source has no name yet."""
    kept = DraftFile("", stack, hosts, used.file, used.uses, used.services, Format.DOTENV)
    if not holds_variables(used.file.path, used.uses):
        if storage.plain.includes(used.file):
            return replace(kept, format=Format.PLAIN)
        return replace(kept, format=Format.BINARY, reason=secret_reason(used.file))
    if used.file.path in storage.plain.globs:
        problem = "it holds variables, which are always encrypted"
        raise RefusedError(problem, where=used.file.path, hint="Remove it from --plain")
    reader = Parser.RAW if used.raw else Parser.COMPOSE
    kept, reason = _formed(kept, reader, mounted=used.mounted, exact=storage.exact)
    keys, unshown, odd = _variables(kept.content.reveal(), reader)
    if odd:  # its keys are not managed: every byte stays
        return replace(kept, format=Format.BINARY, reason=odd, keys=keys, unshown=unshown, normal=None, rewritings=())
    form = Format.BINARY if reason else Format.DOTENV
    return replace(kept, format=form, reason=reason, parser=reader, keys=keys, unshown=unshown)


def _formed(file: DraftFile, reader: Parser, *, mounted: bool, exact: bool) -> tuple[DraftFile, str]:
    """The file with its normal form, and why sops' dotenv format cannot store it, without quoting a value; "" if it
    can."""
    data = file.file.data.reveal()
    try:
        if exact:
            return file, "" if read_lines(data, reader) else "it has no lines"
        form = normal_form(data, reader, mounted=mounted)
    except UnfitError as unfit:
        return file, str(unfit)
    except EnvFileError as error:
        return file, str(error)
    if not form.rewritings:
        return file, "" if data else "it has no lines"
    return replace(file, normal=Secret(form.data), rewritings=form.rewritings), ""


def _variables(data: bytes, reader: Parser) -> tuple[tuple[str, ...], int, str]:
    """The names that can be shown, the number of others, and why the keys cannot be managed ("" if they can)."""
    try:
        entries = read_entries(data, reader)
    except EnvFileError as error:
        return (), 0, f"it cannot be parsed ({error}), so its keys are not managed"
    if findings := line_lint.lint_entries("", entries):
        problem = f"line {findings[0].line}: {findings[0].message}"
        return _shown(entries), 0, f"{problem}. Until that is fixed, its keys are not managed"
    names = _shown(entries)
    return names, len({entry.key for entry in entries}) - len(names), ""


def _shown(entries: Iterable[DotenvEntry]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(entry.key for entry in entries if is_certainly_a_name(entry.key, entry.template or "x")))
