"""`history export`, `history verify` and `report`: they read a copy of the state, so the daemon is not needed.

A copy, because another version may be installed than the one that runs: opening the state would upgrade it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

from reconciler.app.config.server import load_server_config
from reconciler.app.daemon.client import Progress
from reconciler.app.daemon.commands import read_secret_ages, read_status
from reconciler.app.daemon.without_daemon import require_state
from reconciler.app.wiring.server import open_store, scratch_state
from reconciler.core.errors import ReconcilerError, RefusedError, with_id
from reconciler.core.history.chain import (
    ChainVerification,
    HistoryHead,
    entry_line,
    head_line,
    read_export,
    verify_chain,
)
from reconciler.core.history.entries import HistoryEntry
from reconciler.core.history.report import make_report
from reconciler.core.ports.store import Store
from reconciler.core.text import epoch_seconds

_EVERY = 1_000_000_000  # runs
_SHORTEST_HEAD = 8  # hex digits


def export_history(config_file: str, seconds: float | None) -> Iterator[str]:
    """The lines of an export, oldest first: every entry, or those recorded within the last ``seconds``; the head last.

    Raises ConfigError, RefusedError, StoreError.
    """
    with _store(config_file) as store:
        head, first = store.history_head(), 0
        earliest = None if seconds is None else time.time() - seconds
        for entry in store.entries():
            if first or earliest is None or epoch_seconds(entry.facts["recorded_at"]) >= earliest:
                first = first or entry.number
                yield entry_line(entry)
        yield head_line(first or head.last + 1, head)


def verify_history(config_file: str, heads: Collection[str]) -> dict[str, Any]:
    """Whether the server's history is whole, and has these ``heads``. Raises ConfigError, RefusedError, StoreError."""
    _check_heads(heads)
    with _store(config_file) as store:
        return serialize_verification(store.verify_history(heads))


def verify_export(path: str, heads: Collection[str]) -> dict[str, Any]:
    """The same for an exported file. Raises RefusedError where it cannot be read."""
    _check_heads(heads)
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return serialize_verification(verify_lines(file, heads))
    except OSError as error:
        raise RefusedError(f"cannot be read ({error.strerror})", where=path, hint="Name an exported file") from error


def verify_lines(lines: Iterable[str], heads: Collection[str] = ()) -> ChainVerification:
    """Verify the lines of an export, which ends with its head."""
    ends: list[HistoryHead] = []
    count = 0

    def entries() -> Iterator[HistoryEntry]:
        nonlocal count
        for item in read_export(lines):
            if ends:
                raise ValueError("something follows the line with the head")
            if isinstance(item, HistoryHead):
                ends.append(item)
            else:
                count += 1
                yield item

    try:
        verification = verify_chain(entries(), None, heads)
    except ValueError as error:
        return ChainVerification(count, HistoryHead(), str(error))
    if verification.problem:
        return verification
    if not ends:
        return dataclasses.replace(verification, problem="the line with the head is missing: the export was cut off")
    (claimed,) = ends
    if count == 0 and claimed.first == claimed.last + 1:
        return ChainVerification(0, claimed)
    if claimed.first != verification.head.first:
        return dataclasses.replace(verification, problem=f"entry {claimed.first} is lost", bad=claimed.first)
    if (claimed.last, claimed.sha256) != (verification.head.last, verification.head.sha256):
        bad = verification.head.last + 1
        return dataclasses.replace(verification, problem=f"entry {bad} is lost, or the head was changed", bad=bad)
    return verification


def serialize_verification(verification: ChainVerification) -> dict[str, Any]:
    return {
        "whole": not verification.problem,
        "entries": verification.entries,
        "head": dataclasses.asdict(verification.head),
        "problem": verification.problem,
        "bad_entry": verification.bad,
        "error_id": "history-broken" if verification.problem else "",
    }


def report_history(
    config_file: str, seconds: float, environment: str | None, max_age: float, progress: Progress
) -> dict[str, Any]:
    """What the last ``seconds`` come to, for all environments or one (on all of its hosts), and what is overdue now;
    ``max_age`` of a secret is in seconds. Raises ConfigError, RefusedError, StoreError."""
    from reconciler.app.daemon.requests import check_environments, units_of

    config, now = load_server_config(config_file), time.time()
    check_environments(config.units, [environment] if environment else [])
    units = units_of(config.units, environment) or frozenset(config.units)
    with _store(config_file) as store:
        entries = [entry.facts for entry in store.history(units, _EVERY)]
    status = [item for item in read_status(config_file, progress)["environments"] if item["environment"] in units]
    ages: Sequence[dict[str, Any]] = ()
    warnings = []
    try:
        ages = read_secret_ages(config_file, environment, max_age, progress)["environments"]
    except ReconcilerError as error:
        warnings.append(with_id(f"The age of the secrets is not known: {error}", error.id))
    report = make_report(entries, status, ages, since=now - seconds, now=now, warnings=warnings)
    return {"host": config.host, **dataclasses.asdict(report)}


def _check_heads(heads: Collection[str]) -> None:
    for head in heads:
        if len(head) < _SHORTEST_HEAD or set(head) - set("0123456789abcdef"):
            hint = f"Give at least the first {_SHORTEST_HEAD} of its 64 hex digits, as an export's last line has them"
            raise RefusedError(f"{head!r} is not a head", where="--head", hint=hint)


@contextlib.contextmanager
def _store(config_file: str) -> Iterator[Store]:
    config = load_server_config(config_file)
    require_state(config)
    with scratch_state(config) as copy, contextlib.closing(open_store(copy)) as store:
        yield store
