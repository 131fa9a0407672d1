"""Pairs the files of two sides. Pure."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from reconciler.core.compare.types import Side, SideFile, Value

_SHORTEST = 3  # characters of an environment's name in a path: dev, prod
_LIKE_ENOUGH = 0.5  # the share of all keys of two files that both have


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
    pairs = [(left, right) for left, right in pair(files, live) if left]
    return sum(_resemblance(_marks(left), _marks(right)) if right else -1 for left, right in pairs)


Pair = tuple[SideFile | None, SideFile | None]


def pair(left: Sequence[SideFile], right: Sequence[SideFile]) -> list[Pair]:
    """Pair files by path, else by name, else by the keys they share; a file is in one pair only."""
    if len(left) == len(right) == 1:
        return [(left[0], right[0])]
    rest_left, rest_right = list(left), list(right)
    pairs: list[Pair] = []
    for match in (_by_alias, _by_base, _by_keys):
        for left_file, right_file in list(match(rest_left, rest_right)):
            rest_left.remove(left_file)
            rest_right.remove(right_file)
            pairs.append((left_file, right_file))
    pairs += [(file, None) for file in rest_left]
    pairs += [(None, file) for file in rest_right]
    return sorted(pairs, key=lambda both: (both[0] or both[1] or left[0]).name)


def belong_together(left: SideFile, right: SideFile) -> bool:
    """Whether two files that were paired share a name or most of their keys, or are just what was left."""
    named = {*left.aliases} & {*right.aliases} or posixpath.basename(left.name) == posixpath.basename(right.name)
    return bool(named) or _likeness(left.keys, right.keys) >= _LIKE_ENOUGH


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


def _by_keys(left: Sequence[SideFile], right: Sequence[SideFile]) -> Iterator[tuple[SideFile, SideFile]]:
    """The most similar first."""
    scored = [
        (likeness, left_file, right_file)
        for left_file in left
        for right_file in right
        if (likeness := _likeness(left_file.keys, right_file.keys)) >= _LIKE_ENOUGH
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
