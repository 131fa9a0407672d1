"""Pairs the files of two sides. Pure."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from reconciler.core.compare.types import PairedBy, Side, SideFile, Value

_SHORTEST = 3  # characters of an environment's name in a path: dev, prod
_LIKE_ENOUGH = 0.5  # the share of all keys of two files that both have
_ENVIRONMENTS = frozenset(
    (
        *("acceptance", "ci", "demo", "dev", "devel", "development", "integration", "live", "local", "pre", "preprod"),
        *("preview", "prd", "prod", "production", "qa", "sandbox", "stage", "staging", "stg", "test", "testing"),
        *("tst", "uat"),
    )
)
"""Words of a path that name an environment."""


def for_machine(side: Side, machine: Side) -> Side:
    """Given a side of git and one that is a machine, return what git has for that machine; return other sides as is.

    If no name of the machine is a host in git, choose the host whose files resemble the machine's most.
    """
    hosts = {host.casefold(): host for file in side.files for host in file.hosts}
    if not hosts or not machine.hosts:
        return side
    known = next((name.casefold() for name in machine.hosts if name.casefold() in hosts), "")
    host = known or max(sorted(hosts), key=lambda name: _coverage(_for_host(side.files, name), machine.files))
    kept = _for_host(side.files, host)
    if len(kept) == len(side.files):
        return side
    reason = "" if known else ", chosen because its files are the most similar"
    return replace(side, files=kept, left_out=(*side.left_out, f"files for hosts other than {hosts[host]}{reason}"))


def _for_host(files: Sequence[SideFile], host: str) -> tuple[SideFile, ...]:
    return tuple(file for file in files if not file.hosts or host in map(str.casefold, file.hosts))


def _coverage(files: Sequence[SideFile], live: Sequence[SideFile]) -> float:
    """How much of the files the machine has; a missing file counts against it."""
    pairs = [(both.left, both.right) for both in pair(files, live)]
    return sum(_resemblance(_marks(left), _marks(right)) if right else -1 for left, right in pairs if left)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two files that are compared with each other, and why; or a file without a counterpart, None on the other side."""

    left: SideFile | None
    right: SideFile | None
    paired_by: PairedBy | None = None


def pair(left: Sequence[SideFile], right: Sequence[SideFile], chosen: Sequence[tuple[str, str]] = ()) -> list[Pair]:
    """Pair files as ``chosen`` by an operator, else by path, by path without environments' names, by name, and by the
    keys they share; a file is in one pair only."""
    if len(left) == len(right) == 1:
        return [Pair(left[0], right[0], _reason_of_only(left[0], right[0]))]
    rest_left, rest_right = list(left), list(right)
    pairs: list[Pair] = []

    def add(matches: Iterable[tuple[SideFile, SideFile]], paired_by: PairedBy) -> None:
        for left_file, right_file in list(matches):
            rest_left.remove(left_file)
            rest_right.remove(right_file)
            pairs.append(Pair(left_file, right_file, paired_by))

    add(_as_chosen(rest_left, rest_right, chosen), PairedBy.CHOSEN)
    add(_by_alias(rest_left, rest_right), PairedBy.PATH)
    add(_by_environment(rest_left, rest_right), PairedBy.ENVIRONMENT)
    add(_by_base(rest_left, rest_right), PairedBy.NAME)
    add(_by_keys(rest_left, rest_right), PairedBy.KEYS)
    pairs += [Pair(file, None) for file in rest_left]
    pairs += [Pair(None, file) for file in rest_right]
    return sorted(pairs, key=lambda both: (both.left or both.right or left[0]).name)


def _reason_of_only(left: SideFile, right: SideFile) -> PairedBy:
    if _share_a_path(left, right):
        return PairedBy.PATH
    alike = not {_words(path) for path in _paths(left)}.isdisjoint({_words(path) for path in _paths(right)})
    return PairedBy.ENVIRONMENT if alike else PairedBy.ONLY


def named(files: Sequence[SideFile], name: str) -> SideFile | None:
    """The file that an operator means by ``name``: its name, one of its paths, or a base name that only one has."""
    exact = next((file for file in files if name == file.name or name in file.aliases), None)
    return exact or _once_by_base(files).get(name)


def _as_chosen(
    left: Sequence[SideFile], right: Sequence[SideFile], chosen: Sequence[tuple[str, str]]
) -> Iterator[tuple[SideFile, SideFile]]:
    taken: list[SideFile] = []
    for left_name, right_name in chosen:
        left_file, right_file = named(left, left_name), named(right, right_name)
        if left_file and right_file and left_file not in taken and right_file not in taken:
            taken += [left_file, right_file]
            yield left_file, right_file


def _share_a_path(left: SideFile, right: SideFile) -> bool:
    return not {*left.aliases}.isdisjoint(right.aliases)


def belong_together(left: SideFile, right: SideFile) -> bool:
    """Whether two files that were paired share a name or most of their keys, or are just what was left."""
    alike = _share_a_path(left, right) or posixpath.basename(left.name) == posixpath.basename(right.name)
    return alike or _likeness(left.keys, right.keys) >= _LIKE_ENOUGH


def neutral_name(name: str, environment: str) -> str:
    """Given the path of a file in an environment, return it without the environment's name, or a short form of it:
    ``prod.env`` of production and ``development.env`` of development are the same file."""

    def neutral(word: re.Match[str]) -> str:
        short = len(word[0]) >= _SHORTEST and environment.casefold().startswith(word[0].casefold())
        return "*" if short else word[0]

    return re.sub(r"[^\W_]+", neutral, name)


def _by_alias(left: Sequence[SideFile], right: Sequence[SideFile]) -> Iterator[tuple[SideFile, SideFile]]:
    """The most reliable names first; of several files with one name, those for the same host, then the most similar."""
    done: tuple[set[int], set[int]] = (set(), set())
    marks = [_marks(file) for file in left], [_marks(file) for file in right]

    def order(both: tuple[int, int]) -> tuple[bool, float, bool, tuple[int, int]]:
        left_file, right_file = left[both[0]], right[both[1]]
        strangers = bool(left_file.hosts and right_file.hosts) and set(left_file.hosts).isdisjoint(right_file.hosts)
        return strangers, -_resemblance(marks[0][both[0]], marks[1][both[1]]), left_file.name != right_file.name, both

    for _, pairs in sorted(_candidates(left, right).items()):
        free = [(here, there) for here, there in pairs if here not in done[0] and there not in done[1]]
        for here, there in sorted(free, key=order):
            if here not in done[0] and there not in done[1]:
                done[0].add(here)
                done[1].add(there)
                yield left[here], right[there]


def _candidates(left: Sequence[SideFile], right: Sequence[SideFile]) -> dict[int, set[tuple[int, int]]]:
    """The positions of files that share a name; the lower the key, the more reliable the name."""
    known: dict[str, list[tuple[int, int]]] = {}
    for there, right_file in enumerate(right):
        for rank, alias in enumerate(right_file.aliases):
            known.setdefault(alias, []).append((rank, there))
    candidates: dict[int, set[tuple[int, int]]] = {}
    for here, left_file in enumerate(left):
        for rank, alias in enumerate(left_file.aliases):
            for other_rank, there in known.get(alias, ()):
                candidates.setdefault(rank + other_rank, set()).add((here, there))
    return candidates


def _marks(file: SideFile) -> frozenset[tuple[str, str]]:
    """What files resemble each other by: keys, keys with their values, or else the content."""
    if file.keys is None:
        return frozenset({("", file.content or file.name)})
    known = ((key, value.fingerprint or value.written) for key, value in file.keys.items())
    return frozenset((*((key, "") for key in file.keys), *known))


def _resemblance(left: frozenset[tuple[str, str]], right: frozenset[tuple[str, str]]) -> float:
    """From 0 (nothing in common) to 1."""
    return len(left & right) / max(len(left | right), 1)


def _by_base(left: Sequence[SideFile], right: Sequence[SideFile]) -> Iterator[tuple[SideFile, SideFile]]:
    """Files whose base name each side has once."""
    here, there = _once_by_base(left), _once_by_base(right)
    for base in sorted(here.keys() & there.keys()):
        yield here[base], there[base]


def _once_by_base(files: Sequence[SideFile]) -> dict[str, SideFile]:
    by_base: dict[str, list[SideFile]] = {}
    for file in files:
        by_base.setdefault(posixpath.basename(file.name), []).append(file)
    return {base: several[0] for base, several in by_base.items() if len(several) == 1}


def _by_environment(left: Sequence[SideFile], right: Sequence[SideFile]) -> Iterator[tuple[SideFile, SideFile]]:
    """Files whose paths differ in environments' names only, such as `development.env` and `.env.prod`; the most similar
    first."""
    by_words: dict[tuple[str, ...], list[SideFile]] = {}
    for right_file in right:
        for words in {_words(alias) for alias in _paths(right_file)}:
            by_words.setdefault(words, []).append(right_file)
    candidates = [
        (left_file, right_file)
        for left_file in left
        for words in {_words(alias) for alias in _paths(left_file)}
        for right_file in by_words.get(words, ())
        if left_file.keys is right_file.keys is None or _likeness(left_file.keys, right_file.keys) > 0
    ]
    return _most_alike(candidates)


def _paths(file: SideFile) -> Iterator[str]:
    """The names that are not absolute: what lies above a side's directory says nothing about the file."""
    yield file.name
    yield from (alias for alias in file.aliases if not alias.startswith("/"))


def _words(path: str) -> tuple[str, ...]:
    return tuple(word for word in re.split(r"[\W_]+", path.casefold()) if word and word not in _ENVIRONMENTS)


def _by_keys(left: Sequence[SideFile], right: Sequence[SideFile]) -> Iterator[tuple[SideFile, SideFile]]:
    """The most similar first."""
    candidates = [(left_file, right_file) for left_file in left for right_file in right]
    return _most_alike(candidates, _LIKE_ENOUGH)


def _most_alike(
    candidates: Iterable[tuple[SideFile, SideFile]], at_least: float = 0.0
) -> Iterator[tuple[SideFile, SideFile]]:
    scored = [
        (likeness, left_file, right_file)
        for left_file, right_file in candidates
        if (likeness := _likeness(left_file.keys, right_file.keys)) >= at_least
    ]
    scored.sort(key=lambda pair: (-pair[0], pair[1].name, pair[2].name))
    done: set[tuple[int, str]] = set()
    for _, left_file, right_file in scored:
        if (0, left_file.name) not in done and (1, right_file.name) not in done:
            done |= {(0, left_file.name), (1, right_file.name)}
            yield left_file, right_file


def _likeness(left: Mapping[str, Value] | None, right: Mapping[str, Value] | None) -> float:
    if not left or not right:
        return 0.0
    return len(left.keys() & right.keys()) / len(left.keys() | right.keys())
