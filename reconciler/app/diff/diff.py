"""`reconciler diff`: the changes between two commits, by environment, file and key, with the stack they affect."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from reconciler.app.checks.contracts import check_contracts, open_book
from reconciler.app.checks.plain_files import check_plain_files
from reconciler.app.checks.project_files import check_control_keys
from reconciler.app.checks.run import open_all
from reconciler.app.checks.survey import MANIFEST, Source, Survey, survey_environments
from reconciler.app.checks.values import Opened
from reconciler.app.config.manifest import Outline, outlines
from reconciler.app.diff.renames import fate_of, renamed_paths
from reconciler.app.wiring.tools import Tools
from reconciler.core.checks import rules
from reconciler.core.checks.line_lint import may_be_a_value
from reconciler.core.checks.rules import Finding
from reconciler.core.dotenv.grammar import EnvFileError, read_entries
from reconciler.core.dotenv.readings import key_diff
from reconciler.core.errors import RefusedError
from reconciler.core.model.plans import KeyChange
from reconciler.core.model.targets import Format, Parser
from reconciler.core.sops.cipher_diff import CipherChange, compare_ciphertexts
from reconciler.core.sops.ciphertext import is_certainly_a_name
from reconciler.core.sops.file_format import format_of
from reconciler.core.text import printable
from reconciler.core.tree import Tree

_PLAIN = frozenset({rules.NOT_ENCRYPTED, rules.PRIVATE_KEY, rules.PLAIN_SECRET, rules.ENCRYPTED_TWICE})


@dataclass(frozen=True, slots=True)
class FileChange:
    """One file of an environment. ``status`` is added, removed, modified or renamed; of a renamed one ``renamed_from``
    is the former source. ``note`` says what the keys do not show; ``stack`` and ``live`` are its destination (None, "":
    none). ``equal`` is only known with a key: for each changed variable, the other environments that had the "old" or
    have the "new" value. ``findings`` come from contracts."""

    environment: str
    source: str
    path: str
    status: str
    change: CipherChange
    stack: str | None = None
    live: str = ""
    note: str = ""
    equal: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    renamed_from: str = ""

    @property
    def has_both(self) -> bool:
        """Whether both commits have it."""
        return self.status in ("modified", "renamed")

    @property
    def former_path(self) -> str:
        return f"{self.environment}/{self.renamed_from or self.source}"


@dataclass(frozen=True, slots=True)
class TargetChange:
    """One target of a manifest. ``change`` is added, removed, changed or renamed, then ``renamed_from`` is its former
    source; ``details`` has an entry per changed field."""

    environment: str
    source: str
    change: str
    stack: str | None
    details: tuple[str, ...] = ()
    renamed_from: str = ""


@dataclass(frozen=True, slots=True)
class CommitDiff:
    """All changes between two commits below one directory. ``others`` are changed manifests and files of no
    environment. ``rechecked`` are unchanged files whose contract changed; ``findings`` are those of their contracts,
    and changed files with plain text."""

    base: str
    head: str
    directory: str
    files: tuple[FileChange, ...]
    targets: tuple[TargetChange, ...]
    others: tuple[tuple[str, str], ...]
    with_values: bool
    rechecked: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()

    @property
    def empty(self) -> bool:
        return not (self.files or self.others)


async def compare_commits(
    base: str, head: str, trees: tuple[Tree, Tree], directory: str, tools: Tools, only: Sequence[str]
) -> CommitDiff:
    """Given two commits and the content of ``directory`` in each, return the changes from the first to the second.

    Raises RefusedError if neither has one of the environments in ``only``.
    """
    _refuse_unknown(trees, only)
    changed = _changed(*trees)
    old, new = trees
    with_earlier = replace(new, earlier={path: [data] for path, data in old.files.items() if path in changed})
    first, second = surveys = [
        survey_environments(tree, directory, parse_yaml=tools.parse_yaml)
        for tree in (_concerned(trees[0], changed), _concerned(with_earlier, changed))
    ]
    before, after = ({source.path: source for source in survey.sources} for survey in surveys)
    paths = [path for path in changed if not only or path.partition("/")[0] in only]
    manifests = {f"{environment.name}/{MANIFEST}" for survey in surveys for environment in survey.environments}
    former = await _renamed(before, after, surveys, tools)
    live = _live_paths(second)
    files = [
        _file(trees, path, before.get(former.get(path, path)), after.get(path), live)
        for path in paths
        if path not in manifests and path not in former.values() and (path in before or path in after)
    ]
    named = {file.path for file in files} | set(former.values())
    rechecked = _with_new_contract(first, second, changed, only) - named
    findings = await _check_contracts(second, named | rechecked, tools)
    files = [
        replace(file, findings=tuple(finding for finding in findings if finding.path == file.path)) for file in files
    ]
    everything = (*second.findings, *check_plain_files(second))
    plain = [finding for finding in everything if finding.rule in _PLAIN and finding.path in paths]
    if tools.opener is not None:
        files = await _with_values(files, surveys, tools)
    files = [_with_control_keys(file, second, after.get(file.path)) for file in files]
    return CommitDiff(
        base=base,
        head=head,
        directory=directory,
        files=tuple(files),
        targets=tuple(_targets(first, second, only, {new: before[old].name for new, old in former.items()})),
        others=tuple((path, _status(trees, path)) for path in paths if path not in named),
        with_values=tools.opener is not None,
        rechecked=tuple(sorted(rechecked)),
        findings=(*plain, *(finding for finding in findings if finding.path not in named)),
    )


def _refuse_unknown(trees: tuple[Tree, Tree], only: Sequence[str]) -> None:
    names = sorted({path.partition("/")[0] for tree in trees for path in tree.files if path.endswith(f"/{MANIFEST}")})
    if unknown := sorted(set(only) - set(names)):
        hint = printable(f"Available: {', '.join(names)}") if names else f"There is no directory with an {MANIFEST}"
        raise RefusedError(f"there is no environment {printable(', '.join(unknown))} in either commit", hint=hint)


def _changed(old: Tree, new: Tree) -> list[str]:
    every = {*old.files, *old.odd, *new.files, *new.odd}
    return sorted(
        path for path in every if old.files.get(path) != new.files.get(path) or old.odd.get(path) != new.odd.get(path)
    )


def _concerned(tree: Tree, changed: Sequence[str]) -> Tree:
    """The part of a tree that the change concerns: files with the name of a changed one, in any environment, and
    possible contracts. Skipping the rest halves the time."""
    if any(path.endswith((".yaml", ".yml")) for path in changed):  # it may be the contract of any file
        return tree
    names = {path.partition("/")[2] for path in changed}
    environments = {path.partition("/")[0] for path in tree.files if path.endswith(f"/{MANIFEST}")}

    def concerns(path: str) -> bool:
        top, _, name = path.partition("/")
        return top not in environments or name in names or name.endswith((".yaml", ".yml"))

    return replace(tree, files={path: data for path, data in tree.files.items() if concerns(path)})


def _status(trees: tuple[Tree, Tree], path: str) -> str:
    was, now = (path in tree.files or path in tree.odd for tree in trees)
    return "modified" if was and now else "added" if now else "removed"


async def _renamed(
    before: Mapping[str, Source], after: Mapping[str, Source], surveys: Sequence[Survey], tools: Tools
) -> dict[str, str]:
    """The former path of each renamed source; re-encrypted ones are recognised by their values, with a key."""
    gone, new = before.keys() - after.keys(), after.keys() - before.keys()
    if tools.opener is None or not gone or not new:
        return renamed_paths(before, after)
    opened = [await _open(survey, paths, tools) for survey, paths in zip(surveys, (gone, new), strict=True)]
    first, second = ({path: file.variables for path, file in files.items()} for files in opened)
    return renamed_paths(before, after, (first, second))


def _file(
    trees: tuple[Tree, Tree], path: str, old: Source | None, new: Source | None, live: Collection[tuple[str, str]]
) -> FileChange:
    """``live`` are the live paths of the second commit, with their environments."""
    present = new or old
    assert present is not None
    change, note = _compared(old, new)
    outline, renamed = present.outline, old is not None and new is not None and old.name != new.name
    kept = [path for name, path in live if name == present.environment]
    fate = fate_of(old.outline, kept, present.environment) if old and (renamed or not new) else ""
    notes = (note, "" if outline else "no target names it", fate)
    return FileChange(
        environment=present.environment,
        source=present.name,
        path=path,
        status="renamed" if renamed else _status(trees, path),
        change=change,
        stack=outline.stack if outline else None,
        live=outline.path if outline else "",
        note="; ".join(filter(None, notes)),
        renamed_from=old.name if renamed and old else "",
    )


def _live_paths(survey: Survey) -> set[tuple[str, str]]:
    """The live paths of all targets, with their environments."""
    named = _named(survey).items()
    return {(environment, outline.path) for (environment, _), several in named for outline in several}


def _compared(old: Source | None, new: Source | None) -> tuple[CipherChange, str]:
    """The changed keys, and a note on changes that keys do not show."""
    sides = [side for side in (old, new) if side is not None]
    if any(side.encrypted and side.cipher is None for side in sides):
        note = "is damaged, or not all of it is encrypted: `reconciler check` shows why"
        return CipherChange(_by_lines(old, new)), note if new and new.encrypted and new.cipher is None else ""
    if len({side.cipher is None for side in sides}) == 2:
        note = "is encrypted now" if sides[1].cipher else "is no longer encrypted"
        return CipherChange(replace(_by_lines(old, new), changed=())), note
    if sides[0].cipher is not None:
        change = compare_ciphertexts(old.cipher if old else None, new.cipher if new else None)
        if sides[-1].cipher and sides[-1].cipher.format is Format.BINARY:  # one value that is the whole file
            content = "content changed (names only with a key)" if old and new else ""
            return replace(change, keys=KeyChange()), "" if change.only_reencrypted or change.rotated else content
        return change, ""
    if all(side.parser is not Parser.OPAQUE and side.keys is not None for side in sides):
        return CipherChange(_plain_change(old, new, sides[-1].parser)), ""
    if all(side.parser is not Parser.OPAQUE for side in sides):
        return CipherChange(_by_lines(old, new)), "cannot be parsed completely: `reconciler check` shows why"
    return CipherChange(KeyChange()), "content changed" if old and new else ""


def _with_control_keys(file: FileChange, survey: Survey, source: Source | None) -> FileChange:
    """With a finding for each key that a server would refuse to change. A new file may be what a server has already."""
    if source is None or not file.has_both:
        return file
    environment = next(each for each in survey.environments if each.name == file.environment)
    findings = tuple(check_control_keys(environment, source, file.change.keys.names))
    return replace(file, findings=(*file.findings, *findings))


def _by_lines(old: Source | None, new: Source | None) -> KeyChange:
    """The keys of damaged or partly plain files, by lines."""
    return KeyChange.between(*({} if side is None else _lines(side) for side in (old, new)))


def _lines(source: Source) -> dict[str, str]:
    """The raw text after each name, for files in which a line is a variable."""
    if format_of(source.name, source.data) is not Format.DOTENV and source.parser is Parser.OPAQUE:
        return {}
    values = {}
    for number, line in enumerate(source.data.decode("utf-8", "replace").splitlines(), start=1):
        name, equals, value = line.removeprefix("export ").partition("=")
        if equals and not name.startswith(("#", "sops_")):
            values[_name(name.strip(), value, number)] = value
    return values


def _name(name: str, value: str, line: int) -> str:
    """The name, or its line if it may be a bare secret."""
    certain = is_certainly_a_name(name, value) if value else not may_be_a_value(name, value)
    return name if certain else f"line {line}"


def _plain_change(old: Source | None, new: Source | None, parser: Parser) -> KeyChange:
    try:
        return key_diff(old.data if old else None, new.data if new else None, parser=parser)
    except EnvFileError:  # a variable that only the server has: compare the entries as written
        before, after = (
            {entry.key: entry.template for entry in read_entries(side.data, parser)} if side else {}
            for side in (old, new)
        )
        return KeyChange.between(before, after)


def _targets(old: Survey, new: Survey, only: Sequence[str], renamed: Mapping[str, str]) -> Iterator[TargetChange]:
    """``renamed`` gives the former source of a renamed one, by path."""
    was, now, live = _named(old), _named(new), _live_paths(new)
    former = {(path.partition("/")[0], source) for path, source in renamed.items()}
    for name, source in sorted(was.keys() | now.keys()):
        if (only and name not in only) or ((name, source) in former and (name, source) not in now):
            continue
        origin = renamed.get(f"{name}/{source}", "")
        before, after = was.get((name, origin or source), ()), now.get((name, source), ())
        kept = [path for environment, path in live if environment == name]
        fates = tuple(filter(None, (fate_of(outline, kept, name) for outline in before)))
        if not before or not after:
            (outline, *_) = after or before
            yield TargetChange(name, source, "added" if after else "removed", outline.stack, fates)
        elif len(before) == len(after) == 1 and ((details := tuple(_details(before[0], after[0]))) or origin):
            if origin:  # the live path is that of the file, which says what becomes of the former one
                details = tuple(detail for detail in details if not detail.startswith("path "))
                yield TargetChange(name, source, "renamed", after[0].stack, details, origin)
            else:
                yield TargetChange(name, source, "changed", after[0].stack, (*details, *fates))


def _details(old: Outline, new: Outline) -> Iterator[str]:
    """The changed fields of a target."""
    fields = (
        ("stack", old.stack or "none", new.stack or "none"),
        ("path", old.path, new.path),
        ("mode", old.mode, new.mode),
        ("encrypted", str(old.encrypted).lower(), str(new.encrypted).lower()),
        ("parser", str(old.parser), str(new.parser)),
        ("schema", ", ".join(old.contracts) or "none", ", ".join(new.contracts) or "none"),
        ("ignore_keys", ", ".join(old.ignore_keys) or "none", ", ".join(new.ignore_keys) or "none"),
    )
    yield from (f"{field} {before} → {after}" for field, before, after in fields if before != after)


def _named(survey: Survey) -> dict[tuple[str, str], tuple[Outline, ...]]:
    """The targets by environment and source; a source may have several, on different hosts."""
    outlines_by_source: dict[tuple[str, str], tuple[Outline, ...]] = {}
    for environment in survey.environments:
        for outline in outlines(environment.manifest) if environment.manifest else ():
            key = (environment.name, outline.source)
            outlines_by_source[key] = (*outlines_by_source.get(key, ()), outline)
    return outlines_by_source


# --- contracts, and values with a key ---


def _with_new_contract(before: Survey, after: Survey, changed: Sequence[str], only: Sequence[str]) -> set[str]:
    """The paths of sources whose contract changed, or that now name another one."""
    had = {source.path: source.outline.contracts for source in before.sources if source.outline}
    paths = set()
    for source in after.sources:
        named = source.outline.contracts if source.outline else ()
        new = had.get(source.path, named) != named or not set(named).isdisjoint(changed)
        if named and new and (not only or source.environment in only):
            paths.add(source.path)
    return paths


async def _check_contracts(after: Survey, paths: set[str], tools: Tools) -> list[Finding]:
    """Findings of the second commit's contracts for the files at ``paths``, and of the contracts themselves."""
    sources = [
        source for source in after.sources if source.path in paths and source.outline and source.outline.contracts
    ]
    if not sources:
        return []
    opened = await _open(after, paths, tools)
    book = open_book(after)
    variables = {path: content.variables for path, content in opened.items()}
    findings = (await check_contracts(after, book, tools.contracts, variables, tools.now)).findings
    named = {path for source in sources if source.outline for path in source.outline.contracts}
    return [finding for finding in [*book.findings, *findings] if finding.path in paths | named]


async def _with_values(files: list[FileChange], surveys: Sequence[Survey], tools: Tools) -> list[FileChange]:
    """The same files, with keys known from values, and other environments with the same values."""
    names = {name for file in files for name in (file.source, file.renamed_from)}
    before, after = [
        await _open(survey, {source.path for source in survey.sources if source.name in names}, tools)
        for survey in surveys
    ]
    return [_with_values_of(file, before, after) for file in files]


def _with_values_of(file: FileChange, before: Mapping[str, Opened], after: Mapping[str, Opened]) -> FileChange:
    old, new = before.get(file.former_path), after.get(file.path)
    if old is None and new is None:
        return file
    keys, reencrypted, rotated = file.change.keys, file.change.only_reencrypted, file.change.rotated
    if not file.has_both or (old and new):  # the values show what really changed
        keys = KeyChange.between(old.variables if old else {}, new.variables if new else {})
        reencrypted, rotated = file.has_both and keys.empty, False
    equal = {}
    for key in keys.names:
        elsewhere = {"old": _elsewhere(file, key, old, before), "new": _elsewhere(file, key, new, after)}
        if any(elsewhere.values()):
            equal[key] = {when: environments for when, environments in elsewhere.items() if environments}
    change = replace(file.change, keys=keys, only_reencrypted=reencrypted, rotated=rotated)
    return replace(file, change=change, equal=equal)


def _elsewhere(file: FileChange, key: str, opened: Opened | None, every: Mapping[str, Opened]) -> tuple[str, ...]:
    """The other environments whose file of the same name has the same, non-empty value for the key."""
    value = opened.variables.get(key) if opened else None
    if not value:
        return ()
    others = (
        candidate for candidate in every.values() if candidate.source.name == file.source and candidate is not opened
    )
    return tuple(sorted(match.source.environment for match in others if match.variables.get(key) == value))


async def _open(survey: Survey, paths: set[str], tools: Tools) -> dict[str, Opened]:
    values = await open_all(survey, tools, paths)
    return {content.source.path: content for content in values.opened}
