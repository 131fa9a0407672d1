"""Which file of one side answers to which of the other. Pure."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from reconciler.core.compare.types import Side, SideFile, Value

_LIKE_ENOUGH = 0.5  # of all keys of two files, those that both have


def for_machine(side: Side, machine: Side) -> Side:
    """Given a side of git and one that is a machine, return what git has for that machine; any other side as it is.

    Where none of the machine's names is a host of git's, it is taken for the host whose files are most like its own.
    """
    hosts = {host.casefold(): host for file in side.files for host in file.hosts}
    if not hosts or not machine.hosts:
        return side
    known = next((name.casefold() for name in machine.hosts if name.casefold() in hosts), "")
    host = known or max(sorted(hosts), key=lambda one: _found_again(_for_host(side.files, one), machine.files))
    kept = _for_host(side.files, host)
    if len(kept) == len(side.files):
        return side
    why = "" if known else ", which the files there are most like"
    return replace(side, files=kept, left_out=(*side.left_out, f"what is for other hosts than {hosts[host]}{why}"))


def _for_host(files: Sequence[SideFile], host: str) -> tuple[SideFile, ...]:
    return tuple(one for one in files if not one.hosts or host in map(str.casefold, one.hosts))


def _found_again(files: Sequence[SideFile], there: Sequence[SideFile]) -> float:
    """How much of the files is there: one that is not counts against it."""
    pairs = [(one, other) for one, other in pair(files, there) if one]
    return sum(_resemblance(_marks(one), _marks(other)) if other else -1 for one, other in pairs)


Pair = tuple[SideFile | None, SideFile | None]


def pair(left: Sequence[SideFile], right: Sequence[SideFile]) -> list[Pair]:
    """Which file belongs to which: by path, else by name, else by the keys they share; one against one always."""
    if len(left) == len(right) == 1:
        return [(left[0], right[0])]
    rest_left, rest_right = list(left), list(right)
    pairs: list[Pair] = []
    for match in (_by_alias, _by_base, _by_keys):
        for one, other in list(match(rest_left, rest_right)):
            rest_left.remove(one)
            rest_right.remove(other)
            pairs.append((one, other))
    pairs += [(one, None) for one in rest_left]
    pairs += [(None, other) for other in rest_right]
    return sorted(pairs, key=lambda both: (both[0] or both[1] or left[0]).name)


def _by_alias(left: Sequence[SideFile], right: Sequence[SideFile]) -> Iterator[tuple[SideFile, SideFile]]:
    """The surest names first; of several files with one name those for the same host, then those most alike."""
    done: tuple[set[int], set[int]] = (set(), set())
    marks = [_marks(one) for one in left], [_marks(other) for other in right]

    def order(both: tuple[int, int]) -> tuple[bool, float, bool, tuple[int, int]]:
        one, other = left[both[0]], right[both[1]]
        strangers = bool(one.hosts and other.hosts) and set(one.hosts).isdisjoint(other.hosts)
        return strangers, -_resemblance(marks[0][both[0]], marks[1][both[1]]), one.name != other.name, both

    for _, pairs in sorted(_candidates(left, right).items()):
        free = [(here, there) for here, there in pairs if here not in done[0] and there not in done[1]]
        for here, there in sorted(free, key=order):
            if here not in done[0] and there not in done[1]:
                done[0].add(here)
                done[1].add(there)
                yield left[here], right[there]


def _candidates(left: Sequence[SideFile], right: Sequence[SideFile]) -> dict[int, set[tuple[int, int]]]:
    """The files, by their places, that have a name in common: the lower the key, the surer the names."""
    known: dict[str, list[tuple[int, int]]] = {}
    for there, other in enumerate(right):
        for rank, alias in enumerate(other.aliases):
            known.setdefault(alias, []).append((rank, there))
    found: dict[int, set[tuple[int, int]]] = {}
    for here, one in enumerate(left):
        for rank, alias in enumerate(one.aliases):
            for other_rank, there in known.get(alias, ()):
                found.setdefault(rank + other_rank, set()).add((here, there))
    return found


def _marks(one: SideFile) -> frozenset[tuple[str, str]]:
    """What makes a file like another: its keys, and these with their values, or else its content."""
    if one.keys is None:
        return frozenset({("", one.content or one.name)})
    known = ((key, value.fingerprint or value.written) for key, value in one.keys.items())
    return frozenset((*((key, "") for key in one.keys), *known))


def _resemblance(one: frozenset[tuple[str, str]], other: frozenset[tuple[str, str]]) -> float:
    """From 0 for nothing in common to 1."""
    return len(one & other) / max(len(one | other), 1)


def _by_base(left: Sequence[SideFile], right: Sequence[SideFile]) -> Iterator[tuple[SideFile, SideFile]]:
    """Files whose name, without directories, each side has once."""
    here, there = _once_by_base(left), _once_by_base(right)
    for base in sorted(here.keys() & there.keys()):
        yield here[base], there[base]


def _once_by_base(files: Sequence[SideFile]) -> dict[str, SideFile]:
    found: dict[str, list[SideFile]] = {}
    for one in files:
        found.setdefault(posixpath.basename(one.name), []).append(one)
    return {base: several[0] for base, several in found.items() if len(several) == 1}


def _by_keys(left: Sequence[SideFile], right: Sequence[SideFile]) -> Iterator[tuple[SideFile, SideFile]]:
    """The most alike first."""
    scored = [
        (likeness, one, other)
        for one in left
        for other in right
        if (likeness := _likeness(one.keys, other.keys)) >= _LIKE_ENOUGH
    ]
    scored.sort(key=lambda found: (-found[0], found[1].name, found[2].name))
    done: set[tuple[int, str]] = set()
    for _, one, other in scored:
        if (0, one.name) not in done and (1, other.name) not in done:
            done |= {(0, one.name), (1, other.name)}
            yield one, other


def _likeness(one: Mapping[str, Value] | None, other: Mapping[str, Value] | None) -> float:
    if not one or not other:
        return 0.0
    return len(one.keys() & other.keys()) / len(one.keys() | other.keys())
