"""Merges three versions of a dotenv file by key: what each side changed of the base. Pure.

The order and the comments are ours; what only theirs has comes to where theirs has it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum


class MergeSide(StrEnum):
    OURS = "ours"
    THEIRS = "theirs"


@dataclass(frozen=True, slots=True)
class StoredLine:
    """A line as sops stores it: its ``key`` ("" for a comment), what it says (``token``: the plaintext, or without a
    key the ciphertext, which is the same where nobody has changed it), and the ``stored`` text."""

    key: str
    token: str = field(repr=False)
    stored: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Conflict:
    """A key that both sides have changed, each in its own way; None: removed."""

    key: str
    ours: StoredLine | None
    theirs: StoredLine | None


@dataclass(frozen=True, slots=True)
class MergedLines:
    """``lines`` has a Conflict where a key is not decided. ``taken`` counts what comes from theirs."""

    lines: tuple[StoredLine | Conflict, ...]
    taken: int

    @property
    def conflicts(self) -> tuple[Conflict, ...]:
        return tuple(line for line in self.lines if isinstance(line, Conflict))

    @property
    def decided(self) -> tuple[StoredLine, ...]:
        return tuple(line for line in self.lines if isinstance(line, StoredLine))


class TwiceError(ValueError):
    """A key stands in a file twice, so that nobody can say which line is meant."""


def merge_lines(
    base: Sequence[StoredLine],
    ours: Sequence[StoredLine],
    theirs: Sequence[StoredLine],
    decisions: Mapping[str, MergeSide] | None = None,
) -> MergedLines:
    """Given three versions, return the merged lines; ``decisions`` say by key which side a conflict takes.

    Raises TwiceError.
    """
    return _Merge(base, ours, theirs, decisions or {}).run()


class _Merge:
    def __init__(
        self,
        base: Sequence[StoredLine],
        ours: Sequence[StoredLine],
        theirs: Sequence[StoredLine],
        decisions: Mapping[str, MergeSide],
    ) -> None:
        self._base, self._ours, self._theirs = _by_key(base), _by_key(ours), _by_key(theirs)
        self._order = list(dict.fromkeys([*self._theirs, *self._base]))
        self._decisions = decisions
        self._their_lines = theirs
        gone = _comments(base) - _comments(theirs)
        self._new_comments = _comments(theirs) - _comments(base) - (_comments(ours) - _comments(base))
        self._pending: dict[str, StoredLine | Conflict] = {}
        self._taken = 0
        self._lines: list[StoredLine | Conflict] = []
        for line in ours:
            if not line.key and gone[line.token]:
                gone[line.token] -= 1
                self._taken += 1
            else:
                self._lines.append(line)

    def run(self) -> MergedLines:
        for key in self._order:
            base, ours, theirs = self._base.get(key), self._ours.get(key), self._theirs.get(key)
            if _same(theirs, base) or _same(theirs, ours):
                continue
            if not _same(ours, base):
                decided = self._decisions.get(key)
                if decided is MergeSide.OURS:
                    continue
                if decided is None:
                    self._put(key, Conflict(key, ours, theirs))
                    continue
            self._taken += 1
            self._put(key, theirs)
        self._place()
        return MergedLines(tuple(self._lines), self._taken)

    def _put(self, key: str, line: StoredLine | Conflict | None) -> None:
        """Replace, remove or later add what the key has."""
        at = self._find(key)
        if at is None:
            if line is not None:
                self._pending[key] = line
        elif line is None:
            del self._lines[at]
        else:
            self._lines[at] = line

    def _place(self) -> None:
        """Bring what only theirs has to its place: after what it stands after there."""
        at = 0
        for line in self._their_lines:
            if not self._pending and not self._new_comments.total():
                break
            if line.key in self._pending:
                self._lines.insert(at, self._pending.pop(line.key))
                at += 1
            elif line.key:
                known = self._find(line.key)
                at = at if known is None else known + 1
            elif self._new_comments[line.token]:
                self._new_comments[line.token] -= 1
                self._lines.insert(at, line)
                self._taken += 1
                at += 1
            else:
                known = next((n for n, kept in enumerate(self._lines) if n >= at and _is_comment(kept, line)), None)
                at = at if known is None else known + 1
        self._lines += self._pending.values()  # what theirs has no place for

    def _find(self, key: str) -> int | None:
        return next((number for number, line in enumerate(self._lines) if line.key == key), None)


def _is_comment(line: StoredLine | Conflict, comment: StoredLine) -> bool:
    return isinstance(line, StoredLine) and not line.key and line.token == comment.token


def _same(left: StoredLine | None, right: StoredLine | None) -> bool:
    return (left and left.token) == (right and right.token)


def _comments(lines: Sequence[StoredLine]) -> Counter[str]:
    return Counter(line.token for line in lines if not line.key)


def _by_key(lines: Sequence[StoredLine]) -> dict[str, StoredLine]:
    by_key: dict[str, StoredLine] = {}
    for line in lines:
        if line.key and line.key in by_key:
            raise TwiceError(line.key)
        if line.key:
            by_key[line.key] = line
    return by_key
