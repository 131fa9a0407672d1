"""Merges three versions of a YAML or JSON document by its leaves. A list is one leaf: nobody can say which of its items
is which. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from reconciler.core.merging.lines import MergeSide

Path = tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Leaf:
    """A value of a document, which may be null. 1 is not true, although Python says so."""

    value: object = field(repr=False)

    def __eq__(self, leaf: object) -> bool:
        return isinstance(leaf, Leaf) and same_document(self.value, leaf.value)

    def __hash__(self) -> int:
        return hash(_text(self.value))


@dataclass(frozen=True, slots=True)
class MergedLeaves:
    """What to do to ours: ``changes`` by path, removals first, so that a value can replace a mapping and the other way
    round; ``conflicts`` are the paths that both sides changed."""

    changes: Mapping[Path, Leaf | None] = field(repr=False)
    conflicts: tuple[Path, ...]


def merge_leaves(
    base: object, ours: object, theirs: object, decisions: Mapping[str, MergeSide] | None = None
) -> MergedLeaves:
    """Given three documents, return what changes in ours; ``decisions`` are by the path as it is shown."""
    versions = [dict(_leaves(document)) for document in (base, ours, theirs)]
    changes: dict[Path, Leaf | None] = {}
    conflicts = []
    for path in dict.fromkeys([*versions[2], *versions[0]]):
        old, mine, new = (version.get(path) for version in versions)
        if new in (old, mine):
            continue
        if mine != old or _overlaps(path, versions[1], versions[0]):
            decided = (decisions or {}).get(shown(path))
            if decided is None:
                conflicts.append(path)
            if decided is not MergeSide.THEIRS:
                continue
        changes[path] = new
    removed = _whole_mappings({path for path, leaf in changes.items() if leaf is None}, versions[1], theirs)
    kept = {path: leaf for path, leaf in changes.items() if leaf is not None}
    return MergedLeaves(dict.fromkeys(removed) | kept, tuple(conflicts))


def same_document(left: object, right: object) -> bool:
    return _text(left) == _text(right)


def _text(document: object) -> str:
    return json.dumps(document, sort_keys=True)


def _whole_mappings(removed: set[Path], ours: Iterable[Path], theirs: object) -> list[Path]:
    """The removed paths; of a mapping that theirs lacks and of which nothing stays, its own path."""
    staying = {path[:end] for path in ours if path not in removed for end in range(1, len(path))}
    wholes = {
        next(
            path[:end]
            for end in range(1, len(path) + 1)
            if end == len(path) or (path[:end] not in staying and not _is_in(theirs, path[:end]))
        )
        for path in removed
    }
    return sorted(wholes)


def _is_in(document: object, path: Path) -> bool:
    for name in path:
        if not isinstance(document, dict) or name not in document:
            return False
        document = document[name]
    return True


def _overlaps(path: Path, ours: Mapping[Path, Leaf], base: Mapping[Path, Leaf]) -> bool:
    """Whether ours has made a mapping of what was a value, or the other way round."""
    above = any(ours.get(path[:end]) != base.get(path[:end]) for end in range(1, len(path)))
    below = any(longer[: len(path)] == path and longer not in base for longer in ours if len(longer) > len(path))
    return above or below


def applied(document: object, changes: Mapping[Path, Leaf | None]) -> object:
    """The document with the changes."""
    if not isinstance(document, dict):
        return document
    result = {key: applied(value, {}) if isinstance(value, dict) else value for key, value in document.items()}
    for path, leaf in changes.items():
        place = result
        for name in path[:-1]:
            inner = place.get(name)
            place[name] = inner = inner if isinstance(inner, dict) else {}
            place = inner
        if leaf is None:
            place.pop(path[-1], None)
        else:
            place[path[-1]] = leaf.value
    return result


def settable_changes(changes: Mapping[Path, Leaf | None], document: object) -> dict[Path, Leaf | None] | None:
    """The changes as `sops set` can make them: it sets no list, but a mapping that holds one. ``document`` is what
    comes of them. None where a list is in no mapping."""
    wholes = {path[:-1] for path, leaf in changes.items() if leaf is not None and isinstance(leaf.value, list)}
    if () in wholes:
        return None
    outermost = {path for path in wholes if not any(path[:end] in wholes for end in range(1, len(path)))}
    rest = {
        path: leaf
        for path, leaf in changes.items()
        if not any(path[:end] in outermost for end in range(1, len(path) + 1))
    }
    return rest | {path: Leaf(_at(document, path)) for path in outermost}


def _at(document: object, path: Path) -> object:
    for name in path:
        assert isinstance(document, dict)
        document = document[name]
    return document


def shown(path: Path) -> str:
    return ".".join(path)


def _leaves(document: object, path: Path = ()) -> Iterator[tuple[Path, Leaf]]:
    if isinstance(document, dict) and document:
        for key, value in document.items():
            yield from _leaves(value, (*path, str(key)))
    elif path:
        yield path, Leaf(document)
