"""`reconciler import --update`: what the servers have changed in an environment that git has.

The servers are right about the content of files, and git about the rest: the names of sources and stacks, every field
of the manifest, comments and order. A target is removed only if its live file is gone. What the import does not see,
such as another server, stays as it is.
"""

from __future__ import annotations

import contextlib
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from reconciler.app.config.manifest import Outline
from reconciler.app.onboarding.import_files import EarlierManifest
from reconciler.app.onboarding.import_sources import ImportSide
from reconciler.app.wiring.clone import Keys
from reconciler.core.decide.guards import is_below
from reconciler.core.dotenv.grammar import EnvFileError
from reconciler.core.dotenv.ignored_keys import exactly, with_server_keys
from reconciler.core.errors import DecryptFailedError, KeyUnavailableError, LiveFileError, RefusedError, SourceError
from reconciler.core.inventory import FoundFile, Use
from reconciler.core.model.plans import KeyChange
from reconciler.core.model.targets import Format, Parser
from reconciler.core.onboarding.source_merge import merge_source, pending_keys, variables_changed
from reconciler.core.onboarding.source_names import BINARY_SUFFIX, binary_name, free_name
from reconciler.core.onboarding.types import (
    Draft,
    DraftFile,
    DraftStack,
    ImportSource,
    RemovedTarget,
    SourceChange,
    SourceEdit,
)
from reconciler.core.ports.host import Machine
from reconciler.core.secret import Secret
from reconciler.core.sops.ciphertext import Ciphertext
from reconciler.core.sops.dotenv_lines import UnfitError
from reconciler.core.text import listed


@dataclass(frozen=True, slots=True)
class GitState:
    """What git has of the environment: the manifest, and its sources by their name there. ``base`` is what it had after
    the last import; None if there was none."""

    environment: str
    manifest: EarlierManifest
    sources: Mapping[str, bytes]
    keys: Keys
    base: GitState | None = None

    def name(self, source: str) -> str:
        return f"{self.environment}/{source}"

    async def text(self, target: Outline) -> Secret | None:
        """What the source of a target holds; None if it does not exist. Raises as decrypting does."""
        data = self.sources.get(target.source)
        if data is None or not target.encrypted:
            return None if data is None else Secret(data)
        return await self.keys.decrypt(self.name(target.source), data, target.parser)

    async def before(self, target: Outline) -> Secret | None:
        """What the last import had for the live file of a target; None if that is unknown."""
        if self.base is None:
            return None
        earlier = next((entry for entry in self.base.manifest.targets if _is_same_file(entry, target)), None)
        with contextlib.suppress(SourceError, KeyUnavailableError, DecryptFailedError):
            return await self.base.text(earlier) if earlier else None
        return None


def _is_same_file(left: Outline, right: Outline) -> bool:
    return left.path == right.path and set(left.hosts) == set(right.hosts)


# --- the servers ---


async def add_managed_files(
    state: GitState, machines: Sequence[Machine], sides: Sequence[ImportSide], sources: Sequence[ImportSource]
) -> tuple[list[ImportSource], tuple[Outline, ...]]:
    """The inventories with the live files of targets that no project names; and the targets whose file is gone.

    Targets of other machines and directories are in neither, nor are those that git has got since the last import.
    """
    git, base = state.manifest, state.base
    extended = []
    present: set[Outline] = set()
    absent: dict[Outline, None] = {}
    for machine, side, source in zip(machines, sides, sources, strict=True):
        known = _paths(source)
        files: list[FoundFile] = []
        left_out: dict[str, str] = {}
        for target in git.targets:
            if not _is_seen(target, side, source):
                continue
            if target.path in known:
                present.add(target)
                continue
            try:
                file = await machine.read(target.path)
            except LiveFileError as error:
                left_out[target.path] = str(error)
                present.add(target)
                continue
            if file is None:
                absent[target] = None
            else:
                files.append(file)
                present.add(target)
        inventory = replace(source.inventory, loose=(*source.inventory.loose, *files))
        extended.append(replace(source, inventory=inventory, left_out={**source.left_out, **left_out}))
    gone = [target for target in absent if target not in present]
    if base is not None:
        gone = [target for target in gone if any(_is_same_file(target, earlier) for earlier in base.manifest.targets)]
    return extended, tuple(gone)


def managed_uses(git: EarlierManifest) -> dict[str, tuple[Use, ...]]:
    """The live paths that git manages; a file without keys counts as mounted."""
    return {target.path: (Use.MOUNT,) if target.parser is Parser.OPAQUE else () for target in git.targets}


def _paths(source: ImportSource) -> set[str]:
    used = {file.file.path for project in source.inventory.projects for file in project.files}
    return used | {file.path for file in source.inventory.loose} | source.left_out.keys()


def _is_seen(target: Outline, side: ImportSide, source: ImportSource) -> bool:
    """Whether the import looks where the target's live file lies."""
    if not _runs_on(target.hosts, [source.host]):
        return False
    directories = [project.directory for project in source.inventory.projects]
    around = [*directories, *([side.path] if side.path else ["/"])]
    return target.directory in directories or any(target.path == path or is_below(target.path, path) for path in around)


def _runs_on(hosts: Sequence[str], names: Iterable[str]) -> bool:
    return not hosts or set(names) <= set(hosts)


# --- stacks and targets ---


def follow_manifest(draft: Draft, git: EarlierManifest, hosts: Sequence[str], gone: Sequence[Outline]) -> Draft:
    """The draft with the names that git has for its stacks and sources. ``hosts`` are those of the import, ``gone`` are
    targets whose live file does not exist. Raises RefusedError where git cannot follow by itself."""
    names: dict[str, str] = {}
    stacks = []
    for stack in draft.stacks:
        name = _stack_in_git(stack, git, hosts, names)
        if name is None:
            _require_not_moved(stack, git, gone)
            name = free_name(stack.name, [*git.stacks, *names.values()])
            limited = any(fields.hosts for fields in git.stacks.values())
            stack = replace(stack, hosts=stack.hosts or (tuple(hosts) if limited else ()))
        names[stack.name] = name
        stacks.append(replace(stack, name=name))
    taken = list(git.sources)
    files = []
    for file in draft.files:
        target = target_of(file, git)
        if target is None:
            renamed = _new_source(file, names.get(file.stack or ""), git, taken)
            taken.append(renamed.source)
            files.append(renamed)
        else:
            change = SourceChange(target.source, SourceEdit.KEEP)
            files.append(replace(file, source=target.source, stack=target.stack, change=change))
    _require_one_content(files)
    known = {stack.name for stack in stacks}
    stacks += [
        DraftStack(name, git.stacks[name].directory)
        for name in dict.fromkeys(file.stack for file in files)
        if name is not None and name not in known
    ]
    removed = tuple(RemovedTarget(target.source, target.path) for target in gone)
    return replace(draft, update=True, stacks=tuple(stacks), files=tuple(files), removed=removed)


def target_of(file: DraftFile, git: EarlierManifest) -> Outline | None:
    """The target that git has for a live file."""
    targets = (target for target in git.targets if target.path == file.file.path)
    return next((target for target in targets if _runs_on(target.hosts, file.hosts)), None)


def _require_one_content(files: Sequence[DraftFile]) -> None:
    """Several targets may have one source in git. Raises RefusedError if their live files differ."""
    by_source: dict[str, DraftFile] = {}
    for file in files:
        first = by_source.setdefault(file.source, file)
        if first.content != file.content:
            problem = f"{file.source} is one source for {first.file.path} and {file.file.path}, which differ now"
            raise RefusedError(problem, hint="Give each a source of its own in git, or leave one out with --exclude")


def _stack_in_git(
    stack: DraftStack, git: EarlierManifest, hosts: Sequence[str], taken: Mapping[str, str]
) -> str | None:
    alike = [
        name
        for name, fields in git.stacks.items()
        if fields.directory == stack.directory and _runs_on(fields.hosts or (), stack.hosts or hosts)
    ]
    free = [name for name in alike if name not in taken.values()]
    if alike and not free and stack.hosts:
        hint = "Update from one machine at a time: git's content then goes to all of them; or split the stack in git"
        raise RefusedError(f"{alike[0]} is one stack in git, but differs between the machines", hint=hint)
    return stack.name if stack.name in free else next(iter(free), None)


def _require_not_moved(stack: DraftStack, git: EarlierManifest, gone: Sequence[Outline]) -> None:
    fields = git.stacks.get(stack.name)
    targets = [target for target in git.targets if target.stack == stack.name]
    if fields and targets and set(targets) <= set(gone):
        problem = f"{stack.name} is in {stack.directory} now, but git has it in {fields.directory}"
        hint = "Change `directory` of the stack in environment.yaml, commit that, and update again"
        raise RefusedError(problem, hint=hint)


def _new_source(file: DraftFile, stack: str | None, git: EarlierManifest, taken: Sequence[str]) -> DraftFile:
    """The file with a source name that git has not used, below the stack's name where git does so."""
    base = posixpath.basename(file.source)
    theirs = [target.source for target in git.targets if target.stack == stack]
    below = any("/" in source for source in theirs) if theirs else len(git.stacks) > 0 or "/" in file.source
    if stack and below:
        base = f"{stack}/{base}"
    return replace(file, stack=stack, source=free_name(base, taken))


# --- sources ---


async def compare_with_git(draft: Draft, git: GitState) -> Draft:
    """The draft with what changes in the source of every file that git has.

    Raises SourceError, KeyUnavailableError and the like for a source that cannot be decrypted, RefusedError for a file
    that would lose its keys.
    """
    files, notes = [], list(draft.notes)
    for file in draft.files:
        if file.change is None:
            files.append(file)
            continue
        target = target_of(file, git.manifest)
        assert target is not None
        compared, more = await _compared(file, target, git)
        files.append(compared)
        notes += [*more, *_attribute_notes(file, target, git)]
    return replace(draft, files=tuple(files), notes=tuple(notes))


async def _compared(file: DraftFile, target: Outline, git: GitState) -> tuple[DraftFile, list[str]]:
    live = file.file.data
    file = replace(file, parser=target.parser, rewritings=())
    data, file_format = git.sources.get(target.source), Format.PLAIN
    if data is not None and target.encrypted:
        cipher = git.keys.read(git.name(target.source), data, target.parser)
        file_format = cipher.format
        if not git.keys.opens(cipher.metadata.age):
            note = f"{git.name(target.source)}: the key does not open it, so it is encrypted again as a whole"
            return _rewritten(file, target), [note]
    text = await git.text(target)
    if text is None:
        return _rewritten(file, target), []
    before = await git.before(target)
    if text == live or _has_same_variables(text, live, target):
        return _kept(file, file_format, text), []
    if before is not None and (before == live or _has_same_variables(before, live, target)):
        names = _differing(text, live, target) if file_format is Format.DOTENV else ()
        return _pending(_kept(file, file_format, text), ("*",)), [_pending_note(target, git, names)]
    if not target.encrypted:
        return _changed_plain(file, target)
    if cipher.output is not Format.DOTENV:
        return _changed_whole(file, target, cipher, text), []
    if file.format is not Format.DOTENV:
        return _as_binary(file, target, text), []
    try:
        return _merged(file, target, cipher, text, before, git)
    except (UnfitError, EnvFileError) as error:
        return _as_binary(replace(file, reason=str(error)), target, text), []


def _rewritten(file: DraftFile, target: Outline) -> DraftFile:
    """A source of which nothing is known: git gets what a first import would write."""
    source = binary_name(target.source) if file.format is Format.BINARY else target.source
    return _changed(file, target, SourceEdit.WHOLE, KeyChange(), file.content, source)


def _merged(
    file: DraftFile, target: Outline, cipher: Ciphertext, text: Secret, before: Secret | None, git: GitState
) -> tuple[DraftFile, list[str]]:
    """A dotenv source with the keys that the server has changed. Raises UnfitError, EnvFileError."""
    reader = Parser.COMPOSE if target.parser is Parser.OPAQUE else target.parser
    ours, theirs, ignored, notes = text.reveal(), file.content.reveal(), target.ignore_keys, []
    names = pending_keys(ours, theirs, before.reveal(), reader, ignored) if before is not None else ()
    if names:
        notes.append(_pending_note(target, git, names))
    pending = tuple(map(exactly, names))
    merged = merge_source(ours, theirs, reader, (*ignored, *pending))
    if merged.comments:
        notes.append(
            f"{git.name(target.source)} keeps git's comments; lines of comments in {file.file.path} that git does not "
            f"have: {merged.comments}"
        )
    edit = SourceEdit.TEXT if merged.edits is None else SourceEdit.KEYS if merged.edits else SourceEdit.KEEP
    if cipher.format is not Format.DOTENV:  # a JSON or YAML store of lines
        edit = SourceEdit.WHOLE
    change = SourceChange(target.source, edit, merged.keys, merged.edits or {}, pending)
    merged_file = replace(file, source=target.source, normal=merged.content, change=change)
    return replace(merged_file, format=Format.DOTENV, reason=""), notes


def _pending_note(target: Outline, git: GitState, names: Sequence[str] | None) -> str:
    changes = listed(names) if names else "it"
    return (
        f"{git.name(target.source)}: git has changed {changes} since the last import, and {target.path} has not: "
        "git's stays"
    )


def _pending(file: DraftFile, patterns: tuple[str, ...]) -> DraftFile:
    assert file.change is not None
    return replace(file, change=replace(file.change, pending=patterns))


def _has_same_variables(git: Secret, live: Secret, target: Outline) -> bool:
    return _differing(git, live, target) == ()


def _differing(git: Secret, live: Secret, target: Outline) -> tuple[str, ...] | None:
    """The keys that differ for a container; None where they cannot be read."""
    if target.parser is Parser.OPAQUE:
        return None
    try:
        return variables_changed(git.reveal(), live.reveal(), target.parser, target.ignore_keys).names
    except EnvFileError:
        return None


def _kept(file: DraftFile, file_format: Format, text: Secret) -> DraftFile:
    return replace(file, format=file_format, reason="", normal=text)


def _changed(
    file: DraftFile, target: Outline, edit: SourceEdit, keys: KeyChange, content: Secret, source: str = ""
) -> DraftFile:
    change = SourceChange(target.source, edit, keys)
    return replace(file, source=source or target.source, normal=content, change=change)


def _changed_plain(file: DraftFile, target: Outline) -> tuple[DraftFile, list[str]]:
    """A file that git has in plain text stays so, unless it may hold a secret now."""
    if file.format is Format.PLAIN:
        return _changed(file, target, SourceEdit.WHOLE, KeyChange(), file.file.data), []
    reason = f" ({file.reason})" if file.reason else ""
    notes = [
        f"{file.file.path} was plain and is now encrypted, because it may hold a secret{reason}; earlier versions stay "
        "readable in git's history"
    ]
    source = binary_name(target.source) if file.format is Format.BINARY else target.source
    return _changed(file, target, SourceEdit.WHOLE, KeyChange(), file.content, source), notes


def _changed_whole(file: DraftFile, target: Outline, cipher: Ciphertext, text: Secret) -> DraftFile:
    """A source without lines of its own: git gets the live file, in the same format."""
    content = file.file.data
    if target.ignore_keys:
        content = Secret(with_server_keys(content.reveal(), text.reveal(), target.parser, target.ignore_keys))
    edit = SourceEdit.WHOLE if cipher.format is Format.BINARY else SourceEdit.TEXT
    return replace(_changed(file, target, edit, KeyChange(), content), format=cipher.format, reason="")


def _as_binary(file: DraftFile, target: Outline, text: Secret) -> DraftFile:
    """A dotenv source whose live file dotenv cannot hold any more. Raises RefusedError if its keys cannot be read."""
    if target.parser is not Parser.OPAQUE:
        try:
            variables_changed(text.reveal(), file.file.data.reveal(), target.parser)
        except EnvFileError as error:
            hint = "Correct the file on the server, or leave it as git has it with --exclude"
            raise RefusedError(f"it cannot be read any more: {error}", where=file.file.path, hint=hint) from None
    source = f"{target.source.removesuffix(BINARY_SUFFIX)}{BINARY_SUFFIX}"
    changed = _changed(file, target, SourceEdit.WHOLE, KeyChange(), file.file.data, source)
    return replace(changed, format=Format.BINARY)


def _attribute_notes(file: DraftFile, target: Outline, git: GitState) -> list[str]:
    """Where the server has another mode or owner than the manifest, which stays."""
    here = {"mode": f"{file.mode:04o}", "owner": file.owner, "group": file.group}
    there = {"mode": target.mode, "owner": target.owner, "group": target.group}
    numbers = {"owner": str(file.file.uid), "group": str(file.file.gid)}
    different = [
        f"{name} {here[name]} (git: {there[name]})"
        for name in here
        if there[name] and there[name] not in (here[name], numbers.get(name))
    ]
    if not different:
        return []
    return [f"{file.file.path} has {listed(different)}: the manifest stays, and the next reconciliation follows it"]
