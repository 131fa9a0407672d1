"""The state directory damaged: what is refused, and the way back that the messages and docs/errors.md advise."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.server import Server

pytestmark = pytest.mark.slow

STATE = ("state.db", "state.db-wal", "state.db-shm")


@pytest.fixture
def settled(server: Server) -> Server:
    """Two files at their second revision, with a backup of the first; one of them was changed by hand since."""
    server.settings["http"] = {"listen": "127.0.0.1:0"}
    for number in (1, 2):
        server.commit({"a.env": b"A=%d\n" % number, "b.env": b"B=%d\n" % number}, server.plain(["a.env", "b.env"]))
        assert server.sync()["result"] == "applied"
    (server.app / "b.env").write_bytes(b"B=by hand\n")
    return server


def move_away(server: Server, *names: str) -> None:
    (server.root / "away").mkdir(exist_ok=True)
    for name in names:
        if (server.state / name).exists():
            (server.state / name).rename(server.root / "away" / name)


def contents(*directories: Path) -> dict[str, bytes]:
    return {
        str(path): path.read_bytes() for directory in directories for path in directory.rglob("*") if path.is_file()
    }


def noise(database: Path) -> None:
    database.write_bytes(os.urandom(database.stat().st_size))


def half(database: Path) -> None:
    database.write_bytes(database.read_bytes()[: database.stat().st_size // 2])


def empty(database: Path) -> None:
    database.write_bytes(b"")


def without_a_record(database: Path) -> None:
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE environment SET record = '{'")


@pytest.mark.parametrize("damage", [noise, half, empty, without_a_record])
def test_a_damaged_database_is_refused_and_the_advice_leads_back(
    settled: Server, damage: Callable[[Path], None]
) -> None:
    (newest, *_) = settled.json("backups")
    damage(settled.state / "state.db")
    before = contents(settled.app, settled.state / "backups")
    for command in ("sync", "plan", "status"):
        done = settled.cli(command)
        assert done.returncode == 1, command
        said = " ".join((done.stdout + done.stderr).split())
        assert "the state database is damaged" in said
        assert "move it away with state.db-wal and state.db-shm, and start again" in said
        assert "held as first contact" in said
        assert "Traceback" not in said
    assert contents(settled.app, settled.state / "backups") == before
    assert settled.json("backups")[0] == newest  # they can be read all the same
    assert settled.cli("backups", "--verify").returncode == 0

    move_away(settled, *STATE)
    outcome = settled.sync()
    assert (outcome["result"], outcome["exit_code"]) == ("held", 2)
    assert "sync --take-over production/b.env" in outcome["reason"]
    assert "a.env" not in outcome["reason"]
    assert contents(settled.app, settled.state / "backups") == before

    outcome = settled.sync("--take-over", "production/b.env")
    assert (outcome["result"], outcome["exit_code"]) == ("applied", 0)
    assert settled.live("b.env") == b"B=2\n"
    assert settled.backed_up(outcome["backup"]) == {"b.env": b"B=by hand\n"}
    assert settled.json("backups")[1] == newest
    assert settled.cli("restore", newest["backup"]).returncode == 0
    assert (settled.live("a.env"), settled.live("b.env")) == (b"A=1\n", b"B=1\n")


def test_a_daemon_does_not_start_on_a_damaged_database(settled: Server) -> None:
    noise(settled.state / "state.db")
    done = settled.cli("run")
    assert done.returncode == 1
    assert "the state database is damaged" in done.stderr
    assert settled.live("b.env") == b"B=by hand\n"


def test_a_database_that_cannot_be_opened_is_not_called_damaged(settled: Server) -> None:
    move_away(settled, "state.db")
    (settled.state / "state.db").mkdir()
    for command in ("sync", "history"):
        done = settled.cli(command)
        assert done.returncode == 1
        assert f"{settled.state}/state.db: the state database cannot be used now" in done.stderr
        assert "Make state_dir, and the file, writable for the daemon's user" in done.stderr
        assert "Traceback" not in done.stderr
    (settled.state / "state.db").rmdir()
    (settled.root / "away" / "state.db").rename(settled.state / "state.db")
    assert settled.sync()["result"] == "corrected"


@pytest.mark.parametrize("damage", ["cut off", "overwritten"])
def test_of_a_damaged_log_what_is_whole_counts_and_the_rest_is_found_out_again(settled: Server, damage: str) -> None:
    """A killed daemon leaves the log behind; sqlite takes from it what has a good checksum."""
    settled.sync()
    with settled.daemon() as daemon:
        settled.commit({"a.env": b"A=3\n", "b.env": b"B=3\n"})
        assert settled.sync()["result"] == "applied"
        daemon.kill()
    log = settled.state / "state.db-wal"
    data = log.read_bytes()
    assert len(data) > 8192
    log.write_bytes(data[: len(data) // 2] + (b"" if damage == "cut off" else os.urandom(len(data) - len(data) // 2)))

    outcome = settled.sync()
    assert outcome["exit_code"] == 0, outcome["reason"]
    assert settled.live("a.env") == b"A=3\n"
    (settled.app / "a.env").write_bytes(b"A=by hand\n")
    assert settled.sync()["result"] == "corrected"
    assert settled.cli("backups", "--verify").returncode == 0


@pytest.mark.parametrize("key", [None, b"k" * 32, b"short"], ids=["gone", "replaced", "too short"])
def test_without_its_digest_key_nothing_is_judged_and_the_advice_leads_back(settled: Server, key: bytes | None) -> None:
    (newest, *_) = settled.json("backups")
    move_away(settled, "digest.key")
    if key is not None:
        (settled.state / "digest.key").write_bytes(key)
    before = contents(settled.app, settled.state / "backups")
    for command in (["sync"], ["plan"], ["restore", newest["backup"]]):
        done = settled.cli(*command)
        assert (done.returncode, done.stdout) == (1, "")
        assert f"{settled.state}/digest.key: " in done.stderr
        assert "Restore the right one from a backup of the machine" in done.stderr
        assert "move state.db and digest.key away and start again" in done.stderr
    assert (settled.state / "digest.key").exists() == (key is not None)
    assert settled.cli("backups", "--verify").returncode == 1
    assert settled.json("backups")[0] == newest
    assert contents(settled.app, settled.state / "backups") == before

    move_away(settled, "digest.key", *STATE)
    outcome = settled.sync()
    assert outcome["result"] == "held"  # b.env; a.env is equal to git
    assert "a.env" not in outcome["reason"]
    refused = settled.cli("restore", newest["backup"])
    assert refused.returncode == 1
    assert "was made with another digest.key" in refused.stderr
    assert contents(settled.app, settled.state / "backups") == before
    assert settled.sync("--take-over", "production/b.env")["result"] == "applied"
    assert settled.sync()["result"] == "in_sync"
    assert len(settled.json("backups")) == 3


def test_a_first_start_that_was_killed_after_the_database_was_made_goes_on(server: Server) -> None:
    server.commit({"a.env": b"A=1\n"}, server.plain(["a.env"]))
    server.state.mkdir(mode=0o700)
    assert server.cli("history").returncode == 0  # makes the database, and no key
    assert [path.name for path in server.state.glob("*")] == ["state.db"]
    assert server.sync()["result"] == "applied"
