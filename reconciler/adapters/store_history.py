"""The history's entries in the state database: appended in the transaction of what they are about, never changed."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from typing import Any

from reconciler.adapters.store_statements import Execute
from reconciler.core.history.chain import ChainVerification, HistoryHead, chained, verify_chain
from reconciler.core.history.entries import HistoryEntry, iso_instant, run_facts_of
from reconciler.core.model.runs import Result, Run

# Ten a day last five years; 30 MB at most.
KEEP_ENTRIES = 20_000

_COLUMNS = "number, previous, content, sha256"
_NEWEST = "NOT EXISTS (SELECT 1 FROM entry AS newer WHERE newer.run = entry.run AND newer.number > entry.number)"


def append_entry(do: Execute, run: Run, at: float) -> None:
    """Append what the run or the decision is now (``at``: epoch seconds). It supersedes an earlier entry of the run."""
    head = read_head(do)
    earlier, first = do("SELECT max(number), min(first) FROM entry WHERE run = ?", (run.id,)).fetchone()
    facts = {**run_facts_of(run), "recorded_at": iso_instant(at), "supersedes": earlier}
    entry = chained(head, facts)
    do(
        "INSERT INTO entry (number, first, run, environment, content, previous, sha256) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (entry.number, first or entry.number, run.id, run.environment, entry.content, entry.previous, entry.sha256),
    )
    oldest = max(head.first, entry.number - KEEP_ENTRIES + 1)
    if oldest > head.first:
        do("DELETE FROM entry WHERE number < ?", (oldest,))
    do("UPDATE entry_head SET first = ?, last = ?, sha256 = ?", (oldest, entry.number, entry.sha256))


def append_runs(do: Execute, runs: Iterable[Run]) -> None:
    """Begin the chain with finished runs of an earlier version, oldest first."""
    for run in runs:
        append_entry(do, run, run.finished_at or run.started_at)


def read_head(do: Execute) -> HistoryHead:
    """The recorded ends of the chain; where the row is lost, those of an empty one."""
    row = do("SELECT first, last, sha256 FROM entry_head").fetchone()
    return HistoryHead(*row) if row else HistoryHead()


def newest_entries(
    do: Execute, environments: Collection[str] | None, limit: int, *, before: str | None, recoveries: bool
) -> tuple[HistoryEntry, ...]:
    """The newest entry of each run, those of the runs that ended last first; ``before`` is the id of a run."""
    conditions, values = [_NEWEST], list[Any]()
    if environments is not None:
        conditions.append("environment IN (SELECT value FROM json_each(?))")
        values.append(json.dumps(sorted(environments)))
    if before is not None:  # one that is unfinished has no entry, and is newer than all
        conditions.append("first < coalesce((SELECT min(first) FROM entry WHERE run = ?), 1e15)")
        values.append(before)
    if not recoveries:
        conditions.append(f"json_extract(content, '$.result') != '{Result.RECOVERED}'")
    statement = f"SELECT {_COLUMNS} FROM entry WHERE {' AND '.join(conditions)} ORDER BY first DESC LIMIT ?"  # noqa: S608
    return tuple(HistoryEntry(*row) for row in do(statement, (*values, limit)))


def newest_entry(do: Execute, run: str) -> HistoryEntry | None:
    row = do(f"SELECT {_COLUMNS} FROM entry WHERE run = ? ORDER BY number DESC LIMIT 1", (run,)).fetchone()  # noqa: S608
    return HistoryEntry(*row) if row else None


def read_entries(do: Execute, after: int) -> Iterator[HistoryEntry]:
    """The entries with a number above ``after``, oldest first."""
    for row in do(f"SELECT {_COLUMNS} FROM entry WHERE number > ? ORDER BY number", (after,)):  # noqa: S608  # ours
        yield HistoryEntry(*row)


def verify_entries(do: Execute, heads: Collection[str]) -> ChainVerification:
    """Check the chain, and that the columns by which entries are found agree with it. It may begin later only to make
    room for newer entries."""
    head = read_head(do)
    head = replace(head, first=min(head.first, max(1, head.last - KEEP_ENTRIES + 1)))
    rows = do("SELECT number, previous, CAST(content AS BLOB), sha256 FROM entry ORDER BY number")
    entries = (
        HistoryEntry(number, previous, text.decode("utf-8", "replace"), sha) for number, previous, text, sha in rows
    )
    verification = verify_chain(entries, head, heads)
    if verification.problem:
        return verification
    row = do(_MISLAID).fetchone()
    return (
        replace(verification, problem=f"entry {row[0]} is filed under another run", bad=row[0]) if row else verification
    )


_MISLAID = (
    "SELECT number FROM entry WHERE run != json_extract(content, '$.run') "
    "OR environment != json_extract(content, '$.environment') OR first != coalesce("
    "(SELECT earlier.first FROM entry AS earlier WHERE earlier.number = json_extract(entry.content, '$.supersedes')), "
    "CASE WHEN json_extract(content, '$.supersedes') IS NULL THEN number ELSE first END) ORDER BY number LIMIT 1"
)
