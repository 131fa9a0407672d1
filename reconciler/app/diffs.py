"""`reconciler diff`: what changed between two commits, by environment, file and key, and which stack it touches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from reconciler.app.checks.contracts import check_contracts, open_book
from reconciler.app.checks.run import Tools, open_all
from reconciler.app.checks.survey import MANIFEST, Source, Survey, survey
from reconciler.app.checks.values import Opened
from reconciler.app.manifest import outlines
from reconciler.core import dotenv
from reconciler.core.envdiff import CipherChange, compare
from reconciler.core.model import Format, KeyChange, Parser
from reconciler.core.rules import Finding
from reconciler.core.tree import Tree


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
class Difference:
    """Everything between two commits below one directory. ``others`` are changed files of no environment, and
    manifests; ``targets`` lists (environment, "added" or "removed", source)."""

    base: str
    head: str
    directory: str
    files: tuple[FileChange, ...]
    targets: tuple[tuple[str, str, str], ...]
    others: tuple[tuple[str, str], ...]
    with_values: bool

    @property
    def empty(self) -> bool:
        return not (self.files or self.others)


async def difference(
    base: str, head: str, trees: tuple[Tree, Tree], directory: str, tools: Tools, only: Sequence[str]
) -> Difference:
    """Given two commits and what each holds below ``directory``, return what changed from the first to the second."""
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
    files = await _with_contracts(files, second, tools)
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
    )


def _changed(old: Tree, new: Tree) -> list[str]:
    every = {*old.files, *old.odd, *new.files, *new.odd}
    return sorted(
        path for path in every if old.files.get(path) != new.files.get(path) or old.odd.get(path) != new.odd.get(path)
    )


def _concerned(tree: Tree, changed: Sequence[str]) -> Tree:
    """The part of a tree that can tell anything of the change: files of a changed one's name, in any environment, and
    what may be a contract. Not reading the others halves the time."""
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
        return CipherChange(KeyChange()), "cannot be read without a key: `reconciler check` says why"
    if len({one.cipher is None for one in sides}) == 2:
        return CipherChange(KeyChange()), "is encrypted now" if sides[1].cipher else "is no longer encrypted"
    if sides[0].cipher is not None:
        change = compare(old.cipher if old else None, new.cipher if new else None)
        if sides[-1].cipher and sides[-1].cipher.format is Format.BINARY:  # one value that is the whole file
            content = "" if change.only_reencrypted or change.rotated else "content changed (names only with a key)"
            return replace(change, keys=KeyChange()), content
        return change, ""
    if all(one.parser is not Parser.OPAQUE and one.keys is not None for one in sides):
        return CipherChange(_plain_change(old, new, sides[-1].parser)), ""
    return CipherChange(KeyChange()), "content changed"


def _plain_change(old: Source | None, new: Source | None, parser: Parser) -> KeyChange:
    try:
        return dotenv.key_diff(old.data if old else None, new.data if new else None, parser=parser)
    except dotenv.EnvFileError:  # a variable that only the server has: by the entries as they are written
        before, after = (
            {entry.key: entry.template for entry in dotenv.entries(one.data, parser)} if one else {}
            for one in (old, new)
        )
        return _between(before, after)


def _between(before: Mapping[str, str], after: Mapping[str, str]) -> KeyChange:
    return KeyChange(
        added=tuple(sorted(after.keys() - before.keys())),
        removed=tuple(sorted(before.keys() - after.keys())),
        changed=tuple(sorted(key for key in before.keys() & after.keys() if before[key] != after[key])),
    )


def _targets(old: Survey, new: Survey, only: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    was, now = _named(old), _named(new)
    for name, source in sorted(was ^ now):
        if not only or name in only:
            yield name, "added" if (name, source) in now else "removed", source


def _named(found: Survey) -> set[tuple[str, str]]:
    return {
        (environment.name, outline.source)
        for environment in found.environments
        for outline in (outlines(environment.manifest) if environment.manifest else ())
    }


# --- contracts, and values where there is a key ---


async def _with_contracts(files: list[FileChange], after: Survey, tools: Tools) -> list[FileChange]:
    """What the contracts at the second commit say of the changed files."""
    paths = {one.path for one in files}
    if not any(source.path in paths and source.outline and source.outline.contracts for source in after.sources):
        return files
    opened = await _open(after, paths, tools)
    book = open_book(after)
    variables = {path: one.variables for path, one in opened.items()}
    found = await check_contracts(after, book, tools.contracts, variables, tools.now)
    return [replace(one, findings=tuple(finding for finding in found if finding.path == one.path)) for one in files]


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
