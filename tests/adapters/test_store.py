"""The state database, on a real disk: what was stored is there after any end, and damage has its own error."""

from __future__ import annotations

import contextlib
import os
import random
import re
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reconciler.adapters import store as module
from reconciler.adapters.store import SqliteStore
from reconciler.core.errors import StoreError, StoreUnavailableError
from reconciler.core.model.compose import Action, ActionKind, Ending, RanService
from reconciler.core.model.records import Applied, EnvironmentRecord, Pin, Quarantine
from reconciler.core.model.revisions import RevertState, Revision
from reconciler.core.model.runs import Result, Run, RunChange
from reconciler.core.secret import Secret
from tests.support.components import program
from tests.support.disks import small_disk

REVISION = Revision("c" * 40, "s" * 40, "Ada <ada@example.org>", 1_700_000_000.5, "Rotate the key")
RESTART = Action("app", "api", ActionKind.RESTART, "mounts nginx.conf")
RECREATE = Action("app", "worker", ActionKind.RECREATE, "API_KEY changed", force=True, stale=("/opt/app/worker.env",))
SIGNAL = Action("app", "nginx", ActionKind.SIGNAL, "mounts nginx.conf", signal="HUP")
NOTHING = EnvironmentRecord("production")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture
def opened(path: Path) -> Iterator[Callable[[], SqliteStore]]:
    """``opened()`` is the store, with a connection of its own each time."""
    stores: list[SqliteStore] = []

    def connect() -> SqliteStore:
        stores.append(SqliteStore(str(path)))
        return stores[-1]

    yield connect
    for store in stores:
        store.close()


@pytest.fixture
def store(opened: Callable[[], SqliteStore]) -> SqliteStore:
    return opened()


def run_of(identity: str = "r1", environment: str = "production", **fields: Any) -> Run:
    return Run(identity, environment, "poll", 100.0, REVISION, **fields)


def applied_at(path: str, digest: str = "d1", **fields: Any) -> Applied:
    return Applied("api.env", path, digest, 0o640, "c" * 40, 5.5, **fields)


def finish(store: SqliteStore, run: Run, result: Result = Result.APPLIED, **fields: Any) -> None:
    store.finish(run, result, "because", at=200.0, record=fields.pop("record", NOTHING), **fields)


# --- what is stored is what comes back -------------------------------------------------------------------------------


def test_an_unknown_environment_has_an_empty_record(store: SqliteStore) -> None:
    assert store.environment("production") == NOTHING
    assert store.applied("production") == {}
    assert store.pending_restarts("production") == ()
    assert store.runs() == ()


def test_a_record_comes_back_after_reopening(opened: Callable[[], SqliteStore]) -> None:
    earlier = replace(REVISION, commit="o" * 40)
    record = EnvironmentRecord(
        "production",
        head=REVISION,
        applied=earlier,
        healthy=REVISION,
        pin=Pin(earlier, "until Monday", 7.5),
        quarantines=(Quarantine(REVISION, "api exited", 8.5, "r1", "g" * 40, RevertState.REFUSED, "it conflicts"),),
        degraded="api is unhealthy",
        stopped={"app": "a rollback failed", "": "a disk is read-only"},
        reverts=(1.5, 2.5),
    )
    opened().save_environment(record)
    assert opened().environment("production") == record
    without_revert = replace(record, quarantines=(Quarantine(REVISION, "api exited", 8.5, "r1"),), pin=None, head=None)
    opened().save_environment(without_revert)
    assert opened().environment("production") == without_revert
    assert opened().environment("staging") == EnvironmentRecord("staging")


def test_what_was_applied_comes_back_by_path(opened: Callable[[], SqliteStore]) -> None:
    first = applied_at("/opt/app/api.env", stack="app", prune=True)
    second = applied_at("/etc/app/motd")
    finish(opened(), run_of(), applied=[first, second])
    applied = opened().applied("production")
    assert applied == {"/opt/app/api.env": first, "/etc/app/motd": second}
    assert applied["/opt/app/api.env"].prune is True
    assert applied["/etc/app/motd"].prune is False
    assert opened().applied("staging") == {}


def test_a_path_is_applied_again_and_forgotten(store: SqliteStore) -> None:
    finish(store, run_of(), applied=[applied_at("/a"), applied_at("/b")])
    finish(store, run_of("r2"), applied=[applied_at("/a", "d2")], forgotten=["/b", "/never there"])
    assert store.applied("production") == {"/a": applied_at("/a", "d2")}


def test_the_same_path_in_two_environments_is_two_things(store: SqliteStore) -> None:
    finish(store, run_of(), applied=[applied_at("/a")])
    finish(store, run_of("r2", "staging"), applied=[applied_at("/a", "d2")], record=EnvironmentRecord("staging"))
    finish(store, run_of("r3"), forgotten=["/a"])
    assert store.applied("production") == {}
    assert store.applied("staging") == {"/a": applied_at("/a", "d2")}


def test_digests_are_remembered_by_blob_format_and_identity(opened: Callable[[], SqliteStore]) -> None:
    known = ("blob", "dotenv", "key")
    opened().remember_digests({known: "digest"})
    store = opened()
    unknown = [("other", "dotenv", "key"), ("blob", "binary", "key"), ("blob", "dotenv", "another key")]
    assert store.digests([known, *unknown]) == {known: "digest"}
    store.remember_digests({known: "newer"})
    assert store.digests([known]) == {known: "newer"}


def test_a_run_comes_back_whole(opened: Callable[[], SqliteStore]) -> None:
    changes = (
        RunChange("api.env", "update", ("NEW",), ("OLD",), ("API_KEY", "URL")),
        RunChange("motd", "create", path="/etc/motd", digest="d1", stack="app"),
    )
    run = run_of(from_commit="f" * 40, backup="b1", changes=changes, actions=(RESTART, RECREATE, SIGNAL))
    opened().begin(run)
    assert opened().runs() == (run,)
    finish(opened(), run, Result.ROLLED_BACK)
    ended = replace(run, finished_at=200.0, result=Result.ROLLED_BACK, reason="because")
    assert opened().runs() == (ended,)


def test_a_run_that_never_began_is_stored_by_its_end(store: SqliteStore) -> None:
    finish(store, run_of(), Result.IN_SYNC)
    assert [run.result for run in store.runs()] == [Result.IN_SYNC]


def test_runs_come_newest_first_by_environment_and_as_many_as_asked(store: SqliteStore) -> None:
    for number in range(6):
        environment = ("production", "staging")[number % 2]
        finish(store, run_of(f"r{number}", environment), record=EnvironmentRecord(environment))
    assert [run.id for run in store.runs()] == ["r5", "r4", "r3", "r2", "r1", "r0"]
    assert [run.id for run in store.runs("staging")] == ["r5", "r3", "r1"]
    assert [run.id for run in store.runs("staging", limit=2)] == ["r5", "r3"]
    assert store.runs("elsewhere") == ()


def test_runs_can_be_those_since_a_time(store: SqliteStore) -> None:
    for number in range(3):
        started = replace(run_of(f"r{number}"), started_at=100.0 * number)
        finish(store, started, record=EnvironmentRecord("production"))
    assert [run.id for run in store.runs("production", since=100.0)] == ["r2", "r1"]
    assert [run.id for run in store.runs(since=150.0)] == ["r2"]


def test_runs_can_be_those_that_ended_in_one_way(store: SqliteStore) -> None:
    for number, result in enumerate([Result.CORRECTED, Result.APPLIED, Result.CORRECTED]):
        finish(store, run_of(f"r{number}"), result, record=EnvironmentRecord("production"))
    store.begin(run_of("r3"))
    assert [run.id for run in store.runs("production", result=Result.CORRECTED)] == ["r2", "r0"]
    assert [run.id for run in store.runs(limit=1, result=Result.APPLIED)] == ["r1"]


# --- begin, owe, finish ----------------------------------------------------------------------------------------------


def test_a_runs_actions_are_pending_from_its_beginning_to_its_end(opened: Callable[[], SqliteStore]) -> None:
    opened().begin(run_of(actions=(RESTART, RECREATE)))
    assert opened().pending_restarts("production") == (RESTART, RECREATE)
    opened().amend(run_of(actions=(RECREATE, SIGNAL)))
    assert opened().pending_restarts("production") == (RECREATE, SIGNAL)
    opened().amend(run_of())
    assert opened().pending_restarts("production") == ()
    opened().amend(run_of(actions=(SIGNAL,)))
    finish(opened(), run_of())
    assert opened().pending_restarts("production") == ()


def test_an_unfinished_run_comes_back_as_it_was_last_stored_until_its_end(opened: Callable[[], SqliteStore]) -> None:
    run = run_of(failing=("app/api",), silent=("http://127.0.0.1/",), unplaced=("app/api", "app/api"))
    assert opened().unfinished("production") is None
    opened().begin(run)
    assert opened().unfinished("production") == run
    undoing = replace(run, backup="b1", rolling_back="api exited", reason="waits for the engine", actions=(SIGNAL,))
    opened().amend(undoing, replace(NOTHING, degraded="why"))
    assert opened().unfinished("production") == undoing
    assert opened().unfinished("staging") is None
    assert opened().environment("production").degraded == "why"
    finish(opened(), undoing)
    assert opened().unfinished("production") is None


def test_amending_one_run_leaves_pending_restarts_of_others(store: SqliteStore) -> None:
    finish(store, run_of("r1"), pending_restarts=[RECREATE])
    store.begin(run_of("r2", actions=(SIGNAL,)))
    store.amend(run_of("r2"))
    assert store.pending_restarts("production") == (RECREATE,)


def test_a_note_is_added_to_the_reason_of_an_ended_run(store: SqliteStore) -> None:
    finish(store, run_of())
    store.note("r1", "Reverted in git", replace(NOTHING, degraded="why"), 300.0)
    assert store.runs()[0].reason == "because. Reverted in git"
    assert store.environment("production").degraded == "why"


def test_the_end_says_which_restarts_stay_pending(store: SqliteStore) -> None:
    store.begin(run_of(actions=(RESTART, RECREATE)))
    finish(store, run_of(), Result.FAILED, pending_restarts=[RECREATE])
    assert store.pending_restarts("production") == (RECREATE,)


def test_pending_restarts_of_several_runs_are_reported_once_and_in_order(store: SqliteStore) -> None:
    store.begin(run_of("r1", actions=(SIGNAL, RECREATE)))
    store.begin(run_of("r2", actions=(RESTART, RECREATE)))
    store.begin(run_of("r3", "staging", actions=(RECREATE,)))
    assert store.pending_restarts("production") == (SIGNAL, RECREATE, RESTART)


def test_the_end_of_a_run_ends_older_ones_of_its_environment(store: SqliteStore) -> None:
    store.begin(run_of("r1", actions=(RESTART,)))
    store.begin(run_of("r2", "staging", actions=(SIGNAL,)))
    store.begin(run_of("r3"))
    finish(store, run_of("r3"))
    assert {run.id: (run.result, run.finished_at) for run in store.runs()} == {
        "r1": (Result.FAILED, 200.0),
        "r2": (None, None),
        "r3": (Result.APPLIED, 200.0),
    }
    assert store.pending_restarts("production") == (RESTART,), "it was given to nobody"
    finish(store, run_of("r4"), settled=[RESTART])
    assert store.pending_restarts("production") == ()
    assert store.pending_restarts("staging") == (SIGNAL,)


def test_an_end_that_fails_half_way_has_changed_nothing(store: SqliteStore) -> None:
    store.begin(run_of(actions=(RESTART,)))
    broken = applied_at("/a", digest=None)  # type: ignore[arg-type]
    with pytest.raises(sqlite3.IntegrityError):
        finish(store, run_of(), applied=[applied_at("/b"), broken], record=replace(NOTHING, healthy=REVISION))
    assert store.pending_restarts("production") == (RESTART,)
    assert store.runs()[0].result is None
    assert store.applied("production") == {}
    assert store.environment("production") == NOTHING
    finish(store, run_of())  # and the connection is as good as before
    assert store.pending_restarts("production") == ()


def test_the_history_keeps_a_thousand_runs(path: Path, store: SqliteStore) -> None:
    finish(store, run_of("first"))
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        rows = ((f"r{number}",) for number in range(1, 1000))
        database.executemany(
            "INSERT INTO run (id, environment, started_at, facts) SELECT ?, environment, started_at, facts FROM run "
            "WHERE id = 'first'",
            rows,
        )
    assert len(store.runs(limit=5000)) == 1000
    finish(store, run_of("last"))
    runs = store.runs(limit=5000)
    assert len(runs) == 1000
    assert (runs[0].id, runs[-1].id) == ("last", "r1")


# --- kill, and other processes ---------------------------------------------------------------------------------------

SERIES = """
import sys
from reconciler.adapters.store import SqliteStore
from reconciler.core.model.compose import Action, ActionKind, Ending, RanService
from reconciler.core.model.records import Applied, EnvironmentRecord
from reconciler.core.model.revisions import Revision
from reconciler.core.model.runs import Result, Run

store = SqliteStore(sys.argv[1])
for number in range(int(sys.argv[2]), int(sys.argv[3])):
    name = f"{number:06}"
    revision = Revision(name, name)
    run = Run(name, "production", "poll", float(number), revision)
    store.begin(run)
    store.finish(
        run, Result.APPLIED, name, at=float(number), record=EnvironmentRecord("production", healthy=revision),
        applied=[Applied("api.env", f"/{file}", name, 0o600, name, 0.0) for file in range(3)],
        pending_restarts=[Action("app", name, ActionKind.RESTART, "")],
        settled=store.pending_restarts("production"),
    )
    print(number, flush=True)
"""


def series(path: Path, first: int, last: int = 1_000_000) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SERIES, str(path), str(first), str(last)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_killed_in_a_series_of_ends_all_parts_of_one_are_there_and_the_last_reported_is(
    path: Path, opened: Callable[[], SqliteStore]
) -> None:
    first = 0
    for kill in range(4):
        with series(path, first) as child:
            assert child.stdout is not None
            reported = first
            for _ in range(random.Random(kill).randint(3, 20)):
                reported = int(child.stdout.readline())
            child.kill()
            rest = child.stdout.read().split("\n")
        reported = int([line for line in rest if line.isdecimal()][-1]) if any(rest) else reported
        store = opened()
        record = store.environment("production")
        assert record.healthy is not None
        number = record.healthy.commit
        assert int(number) in (reported, reported + 1)
        assert {target.digest for target in store.applied("production").values()} == {number}
        assert [action.service for action in store.pending_restarts("production")] == [number]
        ended = [run.id for run in store.runs() if run.result is not None]
        assert ended[0] == number
        first = int(number) + 2


def test_one_process_reads_while_another_writes(path: Path) -> None:
    SqliteStore(str(path)).close()
    with series(path, 0, 60) as child:
        seen: set[str] = set()
        while child.poll() is None:
            with contextlib.closing(SqliteStore(str(path))) as store:  # as `reconciler history` does
                record = store.environment("production")
                runs = store.runs("production")
            if record.healthy is not None:
                seen.add(record.healthy.commit)
                assert int(runs[0].id) >= int(record.healthy.commit)
        assert child.returncode == 0
    assert len(seen) > 3
    with contextlib.closing(SqliteStore(str(path))) as store:
        assert store.runs()[0].id == "000059"


def test_several_processes_may_start_immediately(path: Path) -> None:
    script = "import sys; from reconciler.adapters.store import SqliteStore; SqliteStore(sys.argv[1]).runs()"
    children = [
        subprocess.Popen([sys.executable, "-c", script, str(path)], stderr=subprocess.PIPE, text=True) for _ in range(4)
    ]
    for child in children:
        _, complaint = child.communicate(timeout=120)
        assert (child.returncode, complaint) == (0, "")


def test_opening_it_twice_in_one_process_keeps_the_first_safe(path: Path, opened: Callable[[], SqliteStore]) -> None:
    """Closing a second descriptor of the file would drop the first one's locks, and the next process to come would
    clear the log that the first still writes to."""
    first = opened()
    first.save_environment(replace(NOTHING, degraded="before"))
    SqliteStore(str(path)).close()
    script = "import sys; from reconciler.adapters.store import SqliteStore; SqliteStore(sys.argv[1]).close()"
    subprocess.run([sys.executable, "-c", script, str(path)], check=True)
    first.save_environment(replace(NOTHING, degraded="after"))
    script = (
        "import sys; from reconciler.adapters.store import SqliteStore; "
        "print(SqliteStore(sys.argv[1]).environment('production').degraded)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], check=True, capture_output=True, text=True)
    assert done.stdout == "after\n"


def test_a_file_that_another_process_holds_is_not_called_damaged(
    path: Path, store: SqliteStore, opened: Callable[[], SqliteStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LOCK_TIMEOUT", 0.05)
    hasty = opened()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailableError, match=r"locked.*Wait for the other reconciler to finish") as error:
            hasty.begin(run_of())
        assert error.value.retryable
        assert hasty.environment("production") == NOTHING
        connection.execute("ROLLBACK")
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        store.close()
        hasty.close()
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreUnavailableError, match="locked"):
            opened()
    opened().begin(run_of())


def test_how_services_ran_comes_back_and_is_replaced(opened: Callable[[], SqliteStore]) -> None:
    api = RanService("app", "api", {"c1": "app-api-1"}, {"c1": Ending.STOPPED}, 1000.5, seen_pending=True)
    opened().remember_ran_services("production", [api, replace(api, service="db")])
    opened().remember_ran_services("staging", [api])
    opened().remember_ran_services("production", [api])
    assert opened().ran_services("production") == opened().ran_services("staging") == (api,)
    assert opened().ran_services("other") == ()


# --- versions and damage ---------------------------------------------------------------------------------------------


CHAIN = ("entry", "entry_head")


def test_a_newer_version_is_refused_and_not_touched(path: Path) -> None:
    SqliteStore(str(path)).close()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("PRAGMA user_version = 7")
    before = path.read_bytes()
    with pytest.raises(StoreError, match=r"has version 7.*newer reconciler.*knows version 5") as error:
        SqliteStore(str(path))
    assert error.value.where == str(path)
    assert not error.value.retryable
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("version", "missing"),
    [
        (1, ("written", "guarded", "ran", *CHAIN)),
        (2, ("guarded", "ran", *CHAIN)),
        (3, ("guarded", *CHAIN)),
        (4, CHAIN),
    ],
)
def test_an_earlier_version_is_upgraded_and_keeps_what_it_knows(
    path: Path, version: int, missing: tuple[str, ...]
) -> None:
    with contextlib.closing(SqliteStore(str(path))) as store:
        finish(store, run_of("r1"), applied=[applied_at("/opt/app/api.env", "d" * 32)])
        store.begin(run_of("unfinished", "staging"))
        store.remember_written("", ["/opt/app/api.env"], ["/opt/app/api.env"])
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        for table in missing:
            database.execute(f"DROP TABLE {table}")
        database.execute(f"PRAGMA user_version = {version}")
    for _ in range(2):
        with contextlib.closing(SqliteStore(str(path))) as store:
            assert store.ever_written("", ["/opt/app/api.env"]) == {"/opt/app/api.env"}
            unguarded = {"/opt/app/api.env"} if version < 4 else set()
            assert store.ever_unguarded("", ["/opt/app/api.env"]) == unguarded
            assert [entry.facts["run"] for entry in store.entries()] == ["r1"]
            assert store.verify_history().problem == ""
            assert store.ran_services("production") == ()
            assert [run.id for run in store.runs("production")] == ["r1"]


def test_a_path_that_was_written_unguarded_once_stays_so(path: Path) -> None:
    with contextlib.closing(SqliteStore(str(path))) as store:
        store.remember_written("", ["/a/.env", "/b/.env"], ["/a/.env"])
        store.remember_written("web-2", ["/a/.env"])
        assert store.ever_unguarded("", ["/a/.ENV", "/b/.env", "/never"]) == {"/b/.env"}
        assert store.ever_unguarded("web-2", ["/a/.env"]) == {"/a/.env"}
        store.remember_written("", ["/A/.env", "/b/.env"], ["/b/.env"])
        assert store.ever_unguarded("", ["/a/.env", "/b/.env"]) == {"/a/.env", "/b/.env"}
        store.remember_written("", ["/a/.env"], ["/a/.env"])
        assert store.ever_unguarded("", ["/a/.env"]) == {"/a/.env"}


def filled(path: Path) -> bytes:
    """A database with something in every table, and its bytes."""
    store = SqliteStore(str(path))
    for number in range(40):
        finish(
            store,
            run_of(f"r{number}", changes=(RunChange("api.env", "update", ("KEY",) * 20),)),
            applied=[applied_at(f"/opt/app/{number}.env", f"{number:032}")],
            pending_restarts=[RESTART],
        )
        store.remember_digests({(f"blob{number}", "dotenv", "key"): f"{number:032}"})
    store.close()
    return path.read_bytes()


def read_all(path: Path) -> None:
    with contextlib.closing(SqliteStore(str(path))) as store:
        store.environment("production")
        store.applied("production")
        store.pending_restarts("production")
        store.runs(limit=1000)
        store.digests([("blob1", "dotenv", "key")])


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: data[: len(data) // 2], id="cut off in the middle"),
        pytest.param(lambda data: data[:100], id="cut off after the header"),
        pytest.param(lambda data: data[:10], id="cut off in the header"),
        pytest.param(lambda data: b"\0" * 4096 + data[4096:], id="first page blank"),
        pytest.param(lambda data: data[:100] + b"\xff" * 3996 + data[4096:], id="schema overwritten"),
        pytest.param(lambda data: b"not a database at all\n" * 500, id="a text"),
    ],
)
def test_a_damaged_file_says_what_to_do_and_is_not_touched(path: Path, damage: Callable[[bytes], bytes]) -> None:
    path.write_bytes(damage(filled(path)))
    before, descriptors = path.read_bytes(), len(os.listdir("/proc/self/fd"))
    with pytest.raises(StoreError, match=r"damaged.*move it away.*start again.*first contact") as error:
        read_all(path)
    assert error.value.where == str(path)
    assert path.read_bytes() == before
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_random_bytes_anywhere_are_damage_or_harmless_and_never_a_crash(path: Path) -> None:
    data = filled(path)
    noise, refused = random.Random(1), 0
    for offset in range(0, len(data), 509):
        path.write_bytes(data[:offset] + noise.randbytes(64) + data[offset + 64 :])
        try:
            read_all(path)
        except (StoreError, StoreUnavailableError):
            refused += 1
    assert refused > 20


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("environment", "record", "{"),
        ("environment", "record", "[]"),
        ("environment", "record", '{"name": "production"}'),
        ("environment", "record", '{"name": "production", "head": 1, "applied": null, "healthy": null}'),
        ("run", "facts", "{}"),
        ("run", "result", "splendid"),
        ("pending_restart", "action", '{"kind": "dance"}'),
    ],
)
def test_a_record_that_means_nothing_is_damage(path: Path, table: str, column: str, value: str) -> None:
    filled(path)
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute(f"UPDATE {table} SET {column} = ?", (value,))
    with pytest.raises(StoreError, match=r"damaged.*a record cannot be read"):
        read_all(path)


def test_a_missing_table_is_damage(path: Path) -> None:
    filled(path)
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("DROP TABLE pending_restart")
    with pytest.raises(StoreError, match="damaged"):
        read_all(path)


def test_damage_that_no_reading_meets_is_found_at_the_start(path: Path) -> None:
    filled(path)
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("PRAGMA writable_schema = ON")
        database.execute("DELETE FROM sqlite_master WHERE name = 'run_by_environment'")
    with pytest.raises(StoreError, match=r"damaged \(Page \d+ is never used\)"):
        SqliteStore(str(path))


# --- disks, rights, secrets ------------------------------------------------------------------------------------------


def fill(disk: Path) -> Path:
    filler = disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while file.write(b"x" * 4096):
            pass
    return filler


@pytest.mark.root
def test_a_full_disk_loses_nothing_and_work_goes_on_when_there_is_room(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "size=256k") as disk:
        with contextlib.closing(SqliteStore(str(disk / "state.db"))) as store:
            record = replace(NOTHING, degraded="x" * 20_000)
            store.begin(run_of(actions=(RESTART,)))
            filler = fill(disk)
            for _ in range(2):
                with pytest.raises(StoreUnavailableError, match=r"full.*free some space") as error:
                    finish(store, run_of(), record=record)
                assert error.value.retryable
            assert store.pending_restarts("production") == (RESTART,)
            assert store.environment("production") == NOTHING
            filler.unlink()
            finish(store, run_of(), record=record)
        with contextlib.closing(SqliteStore(str(disk / "state.db"))) as store:
            assert store.environment("production") == record


@pytest.mark.root
def test_a_disk_that_is_full_at_the_start_is_not_called_damage(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "size=256k") as disk:
        filler = fill(disk)
        with pytest.raises((StoreUnavailableError, StoreError), match=r"free some space|with room in it"):
            SqliteStore(str(disk / "state.db"))
        filler.unlink()
        SqliteStore(str(disk / "state.db")).close()


@pytest.mark.root
def test_a_read_only_disk_is_not_called_damage(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "size=256k") as disk:
        with contextlib.closing(SqliteStore(str(disk / "state.db"))) as store:
            store.begin(run_of())
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(StoreUnavailableError, match=r"Make state_dir.* writable"):
            SqliteStore(str(disk / "state.db")).begin(run_of("r2"))


def test_a_missing_directory_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"cannot create the state database \(No such file.*Make state_dir writable"):
        SqliteStore(str(tmp_path / "missing" / "state.db"))


def test_its_files_are_for_the_daemon_alone_under_any_umask(path: Path) -> None:
    old_mask = os.umask(0)
    try:
        with contextlib.closing(SqliteStore(str(path))) as store:
            store.begin(run_of())
            modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    finally:
        os.umask(old_mask)
    assert modes == {"state.db": 0o600, "state.db-wal": 0o600, "state.db-shm": 0o600}


def test_a_secret_handed_over_by_mistake_is_refused(path: Path, store: SqliteStore) -> None:
    canary = b"canary-55aa"
    with pytest.raises(TypeError):
        store.save_environment(replace(NOTHING, degraded=Secret(canary)))  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        store.begin(run_of(from_commit=Secret(canary)))
    assert not [file for file in path.parent.iterdir() if canary in file.read_bytes()]


SAVING = """
import sys
from reconciler.adapters.store import SqliteStore
from reconciler.core.errors import StoreUnavailableError
from reconciler.core.model.records import EnvironmentRecord

store = SqliteStore(sys.argv[1])
try:
    store.save_environment(EnvironmentRecord("production", degraded="after"))
except StoreUnavailableError as error:
    print(error)
"""


@pytest.mark.parametrize("call", ["pwrite64", "fdatasync"])
def test_a_disk_error_is_not_called_damage_and_loses_nothing(path: Path, call: str) -> None:
    if program("strace") is None:
        pytest.skip("strace is not installed: make provision")
    with contextlib.closing(SqliteStore(str(path))) as store:
        store.save_environment(replace(NOTHING, degraded="before"))
        log = f"{path}-wal"
        inject = ["-P", log, "-e", f"trace={call}", "-e", f"inject={call}:error=EIO"]
        command = ["strace", "-f", "-qq", "-o", "/dev/null", *inject, sys.executable, "-c", SAVING, str(path)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        assert re.search(r"cannot be used now.*reports errors \(dmesg\)", done.stdout), done
        assert store.environment("production").degraded == "before"
    with contextlib.closing(SqliteStore(str(path))) as store:
        assert store.environment("production").degraded == "before"
        store.save_environment(replace(NOTHING, degraded="after"))


# --- what a power cut must find --------------------------------------------------------------------------------------

BEGINNER = """
import dataclasses, os, sys
from reconciler.adapters.store import SqliteStore
from reconciler.core.model.records import EnvironmentRecord
from reconciler.core.model.revisions import Revision
from reconciler.core.model.runs import Result, Run

store = SqliteStore(sys.argv[1])
run = Run("r1", "production", "poll", 1.0, Revision("c" * 40, "t" * 40))
for call in ("begin", "amend", "finish"):
    if call == "finish":
        store.finish(run, Result.APPLIED, "done", at=2.0, record=EnvironmentRecord("production"))
    else:
        getattr(store, call)(run)
    run = dataclasses.replace(run, rolling_back="it failed")
    os.write(1, call.encode())
"""


def test_what_a_call_stores_is_on_disk_when_it_returns(tmp_path: Path) -> None:
    if program("strace") is None:
        pytest.skip("strace is not installed: make provision")
    log, path = tmp_path / "calls", tmp_path / "state.db"
    done = subprocess.run(
        [
            "strace",
            "-f",
            "-y",
            "-o",
            log,
            "-e",
            "trace=pwrite64,fdatasync,fsync,write",
            sys.executable,
            "-c",
            BEGINNER,
            path,
        ],
        check=False,
        capture_output=True,
        timeout=60,
    )
    if b"ptrace" in done.stderr.lower():
        pytest.skip("this machine lets nobody trace a process")
    assert done.stdout == b"beginamendfinish"
    journal = re.escape(f"{path}-wal")
    order = re.findall(rf'(pwrite64|f(?:data)?sync)\(\d+<{journal}>|write\(1<.*?>, "(\w+)"', log.read_text())
    calls = [call.replace("fsync", "fdatasync") or step for call, step in order]
    for step in ("begin", "amend", "finish"):
        stored, calls = calls[: calls.index(step)], calls[calls.index(step) + 1 :]
        assert "pwrite64" in stored, step
        assert stored[-1] == "fdatasync", f"{step} returned before its last byte was on disk"


# --- since when the values of git's history have been there ----------------------------------------------------------


def test_the_earlier_time_at_which_a_value_was_seen_stays(opened: Callable[[], SqliteStore]) -> None:
    store = opened()
    assert store.history_read("envs") is None
    store.remember_first_seen("envs", "c1", {"a": 5.0, "b": 5.0})
    store.remember_first_seen("envs", "c2", {"a": 4.0, "b": 6.0, "c": 6.0})
    again = opened()
    assert again.first_seen(["a", "b", "c", "d"]) == {"a": 4.0, "b": 5.0, "c": 6.0}
    assert again.first_seen([]) == {}
    assert again.history_read("envs") == "c2"
    assert again.history_read("") is None
    many = {f"iv{number}": 1.0 for number in range(50_000)}
    again.remember_first_seen("envs", "c3", many)
    assert again.first_seen(many.keys()) == many
