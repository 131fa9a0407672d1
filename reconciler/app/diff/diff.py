"""`reconciler diff`: what changed between two commits, by environment, file and key, and which stack it touches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from reconciler.app.checks.contracts import check_contracts, open_book
from reconciler.app.checks.run import Tools, open_all
from reconciler.app.checks.survey import MANIFEST, Source, Survey, survey
from reconciler.app.checks.values import Opened
from reconciler.app.config.manifest import Outline, outlines
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

_PLAIN = frozenset({rules.NOT_ENCRYPTED, rules.PRIVATE_KEY, rules.PLAIN_SECRET})


@dataclass(frozen=True, slots=True)
class FileChange:
    """One file of an environment. ``status`` is added, removed or modified; ``note`` says what keys do not;
    ``stack`` and ``live`` are where it goes (None, "": nowhere); ``equal`` tells with a key of each changed variable in
    which other environments it had ("old") or has ("new") the same value; ``findings`` are what contracts say."""

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


@dataclass(frozen=True, slots=True)
class TargetChange:
    """One target of a manifest. ``what`` is added, removed or changed; ``details`` say what of it, a field each."""

    environment: str
    source: str
    what: str
    stack: str | None
    details: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Difference:
    """Everything between two commits below one directory. ``others`` are changed files of no environment, and
    manifests; ``asked`` are the unchanged files that a changed contract was asked about, and ``findings`` what it says
    of them, and which of the changed files hold plain text."""

    base: str
    head: str
    directory: str
    files: tuple[FileChange, ...]
    targets: tuple[TargetChange, ...]
    others: tuple[tuple[str, str], ...]
    with_values: bool
    asked: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()

    @property
    def empty(self) -> bool:
        return not (self.files or self.others)


async def difference(
    base: str, head: str, trees: tuple[Tree, Tree], directory: str, tools: Tools, only: Sequence[str]
) -> Difference:
    """Given two commits and what each holds below ``directory``, return what changed from the first to the second.

    Raises RefusedError where neither has an environment that ``only`` names.
    """
    _refuse_unknown(trees, only)
    changed = _changed(*trees)
    first, second = surveys = [
        survey(_concerned(tree, changed), directory, parse_yaml=tools.parse_yaml) for tree in trees
    ]
    before, after = ({source.path: source for source in one.sources} for one in surveys)
    paths = [path for path in changed if not only or path.partition("/")[0] in only]
    manifests = {f"{environment.name}/{MANIFEST}" for one in surveys for environment in one.environments}
    files = [
        _file(trees, path, before.get(path), after.get(path))
        for path in paths
        if path not in manifests and (path in before or path in after)
    ]
    named = {one.path for one in files}
    asked = _asked_anew(first, second, changed, only) - named
    found = await _contracts_say(second, named | asked, tools)
    files = [replace(one, findings=tuple(each for each in found if each.path == one.path)) for one in files]
    plain = [one for one in second.findings if one.rule in _PLAIN and one.path in paths]
    if tools.opener is not None:
        files = await _with_values(files, surveys, tools)
    return Difference(
        base=base,
        head=head,
        directory=directory,
        files=tuple(files),
        targets=tuple(_targets(first, second, only)),
        others=tuple((path, _status(trees, path)) for path in paths if path not in named),
        with_values=tools.opener is not None,
        asked=tuple(sorted(asked)),
        findings=(*plain, *(one for one in found if one.path not in named)),
    )


def _refuse_unknown(trees: tuple[Tree, Tree], only: Sequence[str]) -> None:
    names = sorted({path.partition("/")[0] for tree in trees for path in tree.files if path.endswith(f"/{MANIFEST}")})
    if unknown := sorted(set(only) - set(names)):
        hint = printable(f"There are: {', '.join(names)}") if names else f"There is no directory with an {MANIFEST}"
        raise RefusedError(f"no environment {printable(', '.join(unknown))} in either commit", hint=hint)


def _changed(old: Tree, new: Tree) -> list[str]:
    every = {*old.files, *old.odd, *new.files, *new.odd}
    return sorted(
        path for path in every if old.files.get(path) != new.files.get(path) or old.odd.get(path) != new.odd.get(path)
    )


def _concerned(tree: Tree, changed: Sequence[str]) -> Tree:
    """The part of a tree that can tell anything of the change: files of a changed one's name, in any environment, and
    what may be a contract. Not reading the others halves the time."""
    if any(path.endswith((".yaml", ".yml")) for path in changed):  # any file may have it for a contract
        return tree
    names = {path.partition("/")[2] for path in changed}
    environments = {path.partition("/")[0] for path in tree.files if path.endswith(f"/{MANIFEST}")}

    def concerns(path: str) -> bool:
        top, _, name = path.partition("/")
        return top not in environments or name in names or name.endswith((".yaml", ".yml"))

    return Tree({path: data for path, data in tree.files.items() if concerns(path)}, tree.odd)


def _status(trees: tuple[Tree, Tree], path: str) -> str:
    was, now = (path in tree.files or path in tree.odd for tree in trees)
    return "modified" if was and now else "added" if now else "removed"


def _file(trees: tuple[Tree, Tree], path: str, old: Source | None, new: Source | None) -> FileChange:
    present = new or old
    assert present is not None
    change, note = _compared(old, new)
    outline = present.outline
    return FileChange(
        environment=present.environment,
        source=present.name,
        path=path,
        status=_status(trees, path),
        change=change,
        stack=outline.stack if outline else None,
        live=outline.path if outline else "",
        note=note if outline else "; ".join(part for part in (note, "no target names it") if part),
    )


def _compared(old: Source | None, new: Source | None) -> tuple[CipherChange, str]:
    """What changed, and a word on it where keys cannot tell."""
    sides = [one for one in (old, new) if one is not None]
    if any(one.encrypted and one.cipher is None for one in sides):
        note = "is damaged, or not all of it is encrypted: `reconciler check` says why"
        return CipherChange(_by_lines(old, new)), note if new and new.encrypted and new.cipher is None else ""
    if len({one.cipher is None for one in sides}) == 2:
        note = "is encrypted now" if sides[1].cipher else "is no longer encrypted"
        return CipherChange(replace(_by_lines(old, new), changed=())), note
    if sides[0].cipher is not None:
        change = compare_ciphertexts(old.cipher if old else None, new.cipher if new else None)
        if sides[-1].cipher and sides[-1].cipher.format is Format.BINARY:  # one value that is the whole file
            content = "" if change.only_reencrypted or change.rotated else "content changed (names only with a key)"
            return replace(change, keys=KeyChange()), content
        return change, ""
    if all(one.parser is not Parser.OPAQUE and one.keys is not None for one in sides):
        return CipherChange(_plain_change(old, new, sides[-1].parser)), ""
    if all(one.parser is not Parser.OPAQUE for one in sides):
        return CipherChange(_by_lines(old, new)), "cannot be read to its end: `reconciler check` says why"
    return CipherChange(KeyChange()), "content changed"


def _by_lines(old: Source | None, new: Source | None) -> KeyChange:
    """What can be read of files that are damaged or partly plain: the names, and which lines are others."""
    return _between(*({} if one is None else _lines(one) for one in (old, new)))


def _lines(source: Source) -> dict[str, str]:
    """What stands behind each name; only of files in which a line is a variable."""
    if format_of(source.name, source.data) is not Format.DOTENV and source.parser is Parser.OPAQUE:
        return {}
    found = {}
    for number, line in enumerate(source.data.decode("utf-8", "replace").splitlines(), start=1):
        name, equals, value = line.removeprefix("export ").partition("=")
        if equals and not name.startswith(("#", "sops_")):
            found[_name(name.strip(), value, number)] = value
    return found


def _name(name: str, value: str, line: int) -> str:
    """The name, or where it may be a secret that stands alone, its line."""
    certain = is_certainly_a_name(name, value) if value else not may_be_a_value(name, value)
    return name if certain else f"line {line}"


def _plain_change(old: Source | None, new: Source | None, parser: Parser) -> KeyChange:
    try:
        return key_diff(old.data if old else None, new.data if new else None, parser=parser)
    except EnvFileError:  # a variable that only the server has: by the entries as they are written
        before, after = (
            {entry.key: entry.template for entry in read_entries(one.data, parser)} if one else {} for one in (old, new)
        )
        return _between(before, after)


def _between(before: Mapping[str, str], after: Mapping[str, str]) -> KeyChange:
    return KeyChange(
        added=tuple(sorted(after.keys() - before.keys())),
        removed=tuple(sorted(before.keys() - after.keys())),
        changed=tuple(sorted(key for key in before.keys() & after.keys() if before[key] != after[key])),
    )


def _targets(old: Survey, new: Survey, only: Sequence[str]) -> Iterator[TargetChange]:
    was, now = _named(old), _named(new)
    for name, source in sorted(was.keys() | now.keys()):
        if only and name not in only:
            continue
        before, after = was.get((name, source), ()), now.get((name, source), ())
        if not before or not after:
            (outline, *_) = after or before
            yield TargetChange(name, source, "added" if after else "removed", outline.stack)
        elif len(before) == len(after) == 1 and (details := tuple(_details(before[0], after[0]))):
            yield TargetChange(name, source, "changed", after[0].stack, details)


def _details(old: Outline, new: Outline) -> Iterator[str]:
    """What a manifest says otherwise of one target."""
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


def _named(found: Survey) -> dict[tuple[str, str], tuple[Outline, ...]]:
    """What the manifests say, by environment and source; a source may go to several hosts."""
    said: dict[tuple[str, str], tuple[Outline, ...]] = {}
    for environment in found.environments:
        for outline in outlines(environment.manifest) if environment.manifest else ():
            key = (environment.name, outline.source)
            said[key] = (*said.get(key, ()), outline)
    return said


# --- contracts, and values where there is a key ---


def _asked_anew(before: Survey, after: Survey, changed: Sequence[str], only: Sequence[str]) -> set[str]:
    """The paths of sources of which a contract changed, or which have another one now."""
    had = {source.path: source.outline.contracts for source in before.sources if source.outline}
    found = set()
    for source in after.sources:
        named = source.outline.contracts if source.outline else ()
        new = had.get(source.path, named) != named or not set(named).isdisjoint(changed)
        if named and new and (not only or source.environment in only):
            found.add(source.path)
    return found


async def _contracts_say(after: Survey, paths: set[str], tools: Tools) -> list[Finding]:
    """What the contracts at the second commit say of the files at ``paths``, and which of them cannot be used."""
    asked = [source for source in after.sources if source.path in paths and source.outline and source.outline.contracts]
    if not asked:
        return []
    opened = await _open(after, paths, tools)
    book = open_book(after)
    variables = {path: one.variables for path, one in opened.items()}
    said = await check_contracts(after, book, tools.contracts, variables, tools.now)
    named = {path for source in asked if source.outline for path in source.outline.contracts}
    return [one for one in [*book.findings, *said] if one.path in paths | named]


async def _with_values(files: list[FileChange], surveys: Sequence[Survey], tools: Tools) -> list[FileChange]:
    """The same files, with the names that only values tell, and where else their values are or were the same."""
    names = {one.source for one in files}
    before, after = [
        await _open(found, {source.path for source in found.sources if source.name in names}, tools)
        for found in surveys
    ]
    return [_with_values_of_one(one, before, after) for one in files]


def _with_values_of_one(one: FileChange, before: Mapping[str, Opened], after: Mapping[str, Opened]) -> FileChange:
    old, new = before.get(one.path), after.get(one.path)
    if old is None and new is None:
        return one
    keys, anew, rotated = one.change.keys, one.change.only_reencrypted, one.change.rotated
    if one.status != "modified" or (old and new):  # now it is known which values really changed
        keys = _between(old.variables if old else {}, new.variables if new else {})
        anew, rotated = one.status == "modified" and keys.empty, False
    equal = {}
    for key in keys.names:
        found = {"old": _elsewhere(one, key, old, before), "new": _elsewhere(one, key, new, after)}
        if any(found.values()):
            equal[key] = {when: environments for when, environments in found.items() if environments}
    change = replace(one.change, keys=keys, only_reencrypted=anew, rotated=rotated)
    return replace(one, change=change, equal=equal)


def _elsewhere(one: FileChange, key: str, opened: Opened | None, every: Mapping[str, Opened]) -> tuple[str, ...]:
    """The other environments whose file of the same name has the same value for the key. Empty values are not told."""
    value = opened.variables.get(key) if opened else None
    if not value:
        return ()
    others = (other for other in every.values() if other.source.name == one.source and other is not opened)
    return tuple(sorted(other.source.environment for other in others if other.variables.get(key) == value))


async def _open(found: Survey, paths: set[str], tools: Tools) -> dict[str, Opened]:
    values = await open_all(found, tools, paths)
    return {one.source.path: one for one in values.opened}
