"""The chain of the history: whatever is changed, lost or swapped in the database or in an export is found."""

from __future__ import annotations

import contextlib
import json
import random
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reconciler.adapters import store_history
from reconciler.adapters.store import SqliteStore
from reconciler.app.daemon.history import verify_lines
from reconciler.core.history.chain import GENESIS, chained, entry_line, head_line
from reconciler.core.model.records import EnvironmentRecord
from reconciler.core.model.revisions import Revision
from reconciler.core.model.runs import Result, Run

REVISION = Revision("c" * 40, "t" * 40, "Ada <ada@example.org>", 50.0, "Rotate the mail password")
RECORD = EnvironmentRecord("production")


def run_of(identity: str, environment: str = "production", **fields: Any) -> Run:
    return Run(identity, environment, "poll", 100.0, REVISION, **fields)


def decision_of(identity: str) -> Run:
    return run_of(identity, finished_at=101.0, result=Result.DONE, reason="ada paused it", requested_by="ada")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    with contextlib.closing(SqliteStore(str(path))) as opened:
        yield opened


def fill(store: SqliteStore, count: int = 12) -> None:
    """Runs of two environments, decisions, and one run that was noted after its end."""
    for number in range(count - 1):
        environment = ("production", "staging")[number % 2]
        if number % 3:
            store.decide(replace(decision_of(f"r{number}"), environment=environment))
        else:
            run = run_of(f"r{number}", environment)
            store.finish(run, Result.APPLIED, "done", at=200.0, record=EnvironmentRecord(environment))
    store.note("r3", "Reverted in git", EnvironmentRecord("staging"), 300.0)


def tamper(path: Path, statement: str, *values: object) -> None:
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute(statement, values)


def exported(store: SqliteStore) -> list[str]:
    return [*map(entry_line, store.entries()), head_line(1, store.history_head())]


# --- the database ---


def test_an_untouched_history_is_whole(store: SqliteStore) -> None:
    assert store.verify_history().problem == ""
    fill(store)
    verification = store.verify_history()
    assert (verification.problem, verification.entries, verification.head.last) == ("", 12, 12)
    assert next(store.entries()).previous == GENESIS


@pytest.mark.parametrize("number", range(1, 13))
def test_any_one_entry_that_is_changed_or_lost_is_named(path: Path, store: SqliteStore, number: int) -> None:
    fill(store)
    store.close()
    original = path.read_bytes()
    generator = random.Random(number)
    with contextlib.closing(sqlite3.connect(path)) as database:
        (content,) = database.execute("SELECT content FROM entry WHERE number = ?", (number,)).fetchone()
    at = generator.randrange(len(content))
    another = content[:at] + chr(ord(content[at]) ^ 1) + content[at + 1 :]
    attacks: list[tuple[str, tuple[object, ...]]] = [
        ("UPDATE entry SET content = ? WHERE number = ?", (another, number)),
        ("UPDATE entry SET previous = ? WHERE number = ?", ("f" * 64, number)),
        ("UPDATE entry SET sha256 = ? WHERE number = ?", ("f" * 64, number)),
        ("UPDATE entry SET environment = 'hidden' WHERE number = ?", (number,)),
        ("UPDATE entry SET run = 'hidden' WHERE number = ?", (number,)),
        ("UPDATE entry SET first = 4711 WHERE number = ?", (number,)),
        ("DELETE FROM entry WHERE number = ?", (number,)),
    ]
    for statement, values in attacks:
        tamper(path, statement, *values)
        with contextlib.closing(SqliteStore(str(path))) as opened:
            verification = opened.verify_history()
        assert verification.bad == number, (statement, verification)
        for file in path.parent.iterdir():
            file.unlink()
        path.write_bytes(original)


def test_two_entries_that_are_swapped_are_found(path: Path, store: SqliteStore) -> None:
    fill(store)
    contents = {entry.number: entry.content for entry in store.entries()}
    generator = random.Random(7)
    for _ in range(20):
        first, second = sorted(generator.sample(sorted(contents), 2))
        for number, content in ((first, contents[second]), (second, contents[first])):
            tamper(path, "UPDATE entry SET content = ? WHERE number = ?", content, number)
        assert store.verify_history().bad == first
        for number in (first, second):
            tamper(path, "UPDATE entry SET content = ? WHERE number = ?", contents[number], number)
    assert store.verify_history().problem == ""


def test_an_entry_that_is_changed_with_its_hash_does_not_carry_the_next_one(path: Path, store: SqliteStore) -> None:
    fill(store)
    entry = list(store.entries())[4]
    forged = chained(replace(store.history_head(), last=4, sha256=entry.previous), {**entry.facts, "reason": "no"})
    statement = "UPDATE entry SET content = ?, sha256 = ? WHERE number = 5"
    tamper(path, statement, forged.content, forged.sha256)
    verification = store.verify_history()
    assert verification.bad == 6
    assert "does not follow entry 5" in verification.problem


def test_a_chain_that_was_made_again_is_only_found_by_a_head_kept_elsewhere(path: Path, store: SqliteStore) -> None:
    fill(store)
    head = store.history_head().sha256
    assert store.verify_history([head[:12]]).problem == ""
    tamper(path, "DELETE FROM entry WHERE number > 10")
    last = list(store.entries())[-1]
    tamper(path, "UPDATE entry_head SET last = 10, sha256 = ?", last.sha256)
    assert store.verify_history().problem == ""
    assert head in store.verify_history([head]).problem


def test_the_oldest_entries_make_room_and_their_loss_is_no_damage(
    store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_history, "KEEP_ENTRIES", 5)
    fill(store)
    assert [entry.number for entry in store.entries()] == [8, 9, 10, 11, 12]
    assert store.verify_history().problem == ""
    tamper(path, "DELETE FROM entry WHERE number = 8")
    assert store.verify_history().bad == 8


def test_a_beginning_that_is_lost_with_its_number_is_found(path: Path, store: SqliteStore) -> None:
    fill(store)
    tamper(path, "DELETE FROM entry WHERE number < 3")
    tamper(path, "UPDATE entry_head SET first = 3")
    assert store.verify_history().problem == "entries 1 to 2 are lost"


def test_ten_thousand_entries_are_verified_within_a_second(path: Path, store: SqliteStore) -> None:
    store.decide(decision_of("r0"))
    head = store.history_head()
    rows = []
    for number in range(1, 10_000):
        entry = chained(head, {**next(store.entries()).facts, "run": f"r{number}"})
        rows.append(
            (entry.number, entry.number, f"r{number}", "production", entry.content, entry.previous, entry.sha256)
        )
        head = replace(head, last=entry.number, sha256=entry.sha256)
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.executemany("INSERT INTO entry VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        database.execute("UPDATE entry_head SET last = ?, sha256 = ?", (head.last, head.sha256))
    began = time.process_time()
    verification = store.verify_history()
    assert (verification.problem, verification.entries) == ("", 10_000)
    assert time.process_time() - began < 1.0
    tamper(path, "UPDATE entry SET content = replace(content, 'ada', 'eve') WHERE number = 9876")
    assert store.verify_history().bad == 9876


def test_a_run_is_superseded_by_what_becomes_of_it(store: SqliteStore) -> None:
    fill(store)
    store.reopen(run_of("r6"), RECORD, decision_of("retry"))
    entries = list(store.entries())
    assert [entry.facts["supersedes"] for entry in entries if entry.facts["run"] == "r3"] == [None, 4]
    newest = {entry.facts["run"]: entry.facts for entry in store.history(limit=50)}
    assert newest["r3"]["reason"] == "done. Reverted in git"
    assert newest["r6"]["result"] == "unfinished"
    assert [entry.facts["run"] for entry in entries[-2:]] == ["retry", "r6"]
    order = [entry.facts["run"] for entry in store.history(limit=50)]
    assert order == ["retry", *(f"r{number}" for number in range(10, -1, -1))]
    assert store.verify_history().problem == ""


# --- an export ---


@pytest.mark.parametrize("number", range(13))
def test_any_one_line_that_is_changed_lost_or_moved_is_found_in_an_export(store: SqliteStore, number: int) -> None:
    fill(store)
    lines = exported(store)
    assert verify_lines(lines).problem == ""
    bad = number + 1 if number < 12 else None
    without = verify_lines([*lines[:number], *lines[number + 1 :]])
    assert without.problem
    assert without.bad == bad
    data = json.loads(lines[number])
    if number < 12:
        data["content"]["reason"] = "nothing happened"
    else:
        data["sha256"] = "f" * 64
    assert verify_lines([*lines[:number], json.dumps(data), *lines[number + 1 :]]).problem
    swapped = [*lines]
    swapped[number], swapped[number - 1] = swapped[number - 1], swapped[number]
    assert verify_lines(swapped).problem
    assert verify_lines([*lines[:number], lines[number][:-7], *lines[number + 1 :]]).problem


def test_an_export_that_begins_later_or_was_written_anew_is_whole(store: SqliteStore) -> None:
    fill(store)
    head = store.history_head()
    later = [*map(entry_line, store.entries(after=5)), head_line(6, head)]
    assert verify_lines(later, [head.sha256[:8]]).problem == ""
    indented = [json.dumps(json.loads(line), indent=None, sort_keys=False) for line in later]
    assert verify_lines(indented).problem == ""
    assert "0123456789" in verify_lines(later, ["0123456789"]).problem
    assert verify_lines([head_line(13, head)]).problem == ""
