"""Chains the entries of the history by hash, and finds where a chain is broken. Pure.

Whoever can write the database can compute a new chain: only a head that is kept elsewhere proves that none was.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from reconciler.core.history.entries import Facts, HistoryEntry

GENESIS = "0" * 64
"""What the first entry names as the one before."""

_SCHEMA = 1


@dataclass(frozen=True, slots=True)
class HistoryHead:
    """The ends of a chain: the numbers of its ``first`` and ``last`` entry, and the ``sha256`` of the last one. Of a
    chain without entries, ``last`` is 0."""

    first: int = 1
    last: int = 0
    sha256: str = GENESIS


@dataclass(frozen=True, slots=True)
class ChainVerification:
    """What came of verifying a chain: how many ``entries`` were read up to the first bad one, and the ``head`` of what
    holds. ``problem`` says what is wrong with the entry ``bad``; "" and None where all hold."""

    entries: int
    head: HistoryHead
    problem: str = ""
    bad: int | None = None


def canonical(facts: Facts) -> str:
    """The one text of these facts: sorted names, no spaces, ASCII."""
    return json.dumps(facts, sort_keys=True, separators=(",", ":"))


def chained(head: HistoryHead, facts: Facts) -> HistoryEntry:
    """The entry with these facts that follows the head."""
    number, content = head.last + 1, canonical(facts)
    return HistoryEntry(number, head.sha256, content, entry_hash(number, head.sha256, content))


def entry_hash(number: int, previous: str, content: str) -> str:
    """The SHA-256 of the canonical JSON of the entry: ``content``, ``number`` and ``previous``."""
    text = f'{{"content":{content},"number":{number},"previous":"{previous}"}}'
    return hashlib.sha256(text.encode()).hexdigest()


def verify_chain(
    entries: Iterable[HistoryEntry], claimed: HistoryHead | None, heads: Collection[str] = ()
) -> ChainVerification:
    """Check every entry, oldest first, then that the chain has the ends that it is ``claimed`` to have (None: nothing
    is known of them), and every sha256 (or its beginning) of ``heads``, which were noted elsewhere."""
    count, first, last, sha256 = 0, 0, None, ""
    missing = set(heads)
    for entry in entries:
        expected = (claimed.first if claimed else entry.number) if last is None else last + 1
        first = first or expected
        previous = sha256 or (GENESIS if expected == 1 else entry.previous)
        if problem := _problem(entry, expected, previous):
            bad = min(entry.number, expected) if entry.number > expected else entry.number
            return ChainVerification(count, HistoryHead(first, last or first - 1, sha256 or GENESIS), problem, bad)
        count, last, sha256 = count + 1, entry.number, entry.sha256
        missing -= {head for head in missing if sha256.startswith(head)}
    head = HistoryHead(first or 1, last or 0, sha256 or GENESIS)
    if claimed is not None and claimed.last > head.last:
        problem = f"entry {head.last + 1} is lost, and all after it up to {claimed.last}"
        return ChainVerification(count, head, problem, head.last + 1)
    if claimed is not None and (claimed.last, claimed.sha256) != (head.last, head.sha256):
        return ChainVerification(count, head, f"entry {head.last} is not the recorded head of the chain", head.last)
    if missing:
        problem = f"no entry has the sha256 {', '.join(sorted(missing))}: it was lost, or the chain was made again"
        return ChainVerification(count, head, problem, head.last)
    return ChainVerification(count, head)


def _problem(entry: HistoryEntry, expected: int, previous: str) -> str:
    """What is wrong with an entry that should have the number ``expected`` and name ``previous``; "" if nothing is."""
    if entry.number > expected:
        lost = f"entry {expected}" if entry.number == expected + 1 else f"entries {expected} to {entry.number - 1}"
        return f"{lost} {'is' if entry.number == expected + 1 else 'are'} lost"
    if entry.number < expected:
        return f"entry {entry.number} is not at its place"
    if entry.sha256 != entry_hash(entry.number, entry.previous, entry.content):
        return f"entry {entry.number} was changed"
    if entry.previous != previous:
        return f"entry {entry.number} does not follow entry {entry.number - 1}: one of the two was changed"
    return ""


# --- exported: one JSON object a line ---


def entry_line(entry: HistoryEntry) -> str:
    """An exported entry."""
    facts = f'"content":{entry.content},"number":{entry.number},"previous":"{entry.previous}"'
    return f'{{{facts},"schema":{_SCHEMA},"sha256":"{entry.sha256}"}}'


def head_line(first: int, head: HistoryHead) -> str:
    """The last line of an export, so that one that was cut off is no whole one; ``first`` is its first entry."""
    return canonical({"schema": _SCHEMA, "first": first, "last": head.last, "sha256": head.sha256})


def read_export(lines: Iterable[str]) -> Iterator[HistoryEntry | HistoryHead]:
    """The entries of an export, and at its end the head. Raises ValueError with the number of a line that is none."""
    for number, line in enumerate(lines, 1):
        try:
            yield _from_line(json.loads(line))
        except (ValueError, TypeError, KeyError, AttributeError):
            raise ValueError(f"line {number} is neither an entry nor the head") from None


def _from_line(data: Any) -> HistoryEntry | HistoryHead:
    if "content" not in data:
        return HistoryHead(int(data["first"]), int(data["last"]), str(data["sha256"]))
    # Dumped again: the text may differ in spaces and order, the facts may not.
    return HistoryEntry(int(data["number"]), str(data["previous"]), canonical(data["content"]), str(data["sha256"]))
