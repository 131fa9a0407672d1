"""Backups as an operator uses them: listed, verified, kept as long as configured, restored whole or not at all."""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.faults import make_faults
from tests.support.json_answers import read_answer
from tests.support.server import Server
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

CANARY = b"canary-of-the-backups"


@pytest.fixture
def settled(server: Server) -> Server:
    """Two files at their second revision; the older of the two backups says that there were no files."""
    for number in (1, 2):
        server.commit(
            {"a.env": b"A=%d.%s\n" % (number, CANARY), "b.env": b"B=%d.%s\n" % (number, CANARY)},
            server.plain(["a.env", "b.env"]),
        )
        assert server.sync()["result"] == "applied"
    return server


def listed(server: Server) -> list[str]:
    return [backup["backup"] for backup in server.json("backups")]


def latest(server: Server) -> Path:
    return server.state / "backups" / "production" / listed(server)[0]


def tree(*directories: Path) -> dict[str, tuple[int, bytes | None]]:
    """Everything below the directories, apart from the database and the lock: mode and bytes."""
    paths = (path for directory in directories for path in directory.rglob("*") if not path.is_socket())
    return {
        str(path): (stat.S_IMODE(path.stat().st_mode), path.read_bytes() if path.is_file() else None)
        for path in paths
        if not path.name.startswith(("state.db", "lock"))
    }


# --- --verify --------------------------------------------------------------------------------------------------------


def flipped(backup: Path) -> None:
    file = backup / "0000-a.env"
    data = file.read_bytes()
    file.write_bytes(bytes([data[0] ^ 1]) + data[1:])


def missing(backup: Path) -> None:
    (backup / "0000-a.env").unlink()


def unreadable(backup: Path) -> None:
    (backup / "manifest.json").write_text("{")


def foreign(backup: Path) -> None:
    (backup.parent / "foreign").mkdir()


def open_to_all(backup: Path) -> None:
    backup.chmod(0o777)


def open_parent(backup: Path) -> None:
    backup.parent.chmod(0o770)


def test_verify_says_that_all_are_intact_and_exits_0(settled: Server) -> None:
    done = settled.cli("backups", "--verify")
    assert done.returncode == 0
    assert "2 backups read, 0 damaged" in done.stdout
    assert [backup["problems"] for backup in settled.json("backups", "--verify")] == [[], []]
    assert all("problems" not in backup for backup in settled.json("backups"))


@pytest.mark.parametrize(
    ("damage", "problem", "damaged"),
    [
        pytest.param(flipped, "0000-a.env: the backup is damaged", 1, id="a flipped byte"),
        pytest.param(missing, "0000-a.env: the backup cannot be read (No such file or directory)", 1, id="missing"),
        pytest.param(unreadable, "its manifest.json cannot be read", 1, id="manifest"),
        pytest.param(foreign, "its manifest.json cannot be read", 1, id="foreign directory"),
        pytest.param(open_to_all, "other users may enter the backup directory", 1, id="backup open to all"),
        pytest.param(open_parent, "other users may enter the backup directory", 2, id="parent open to a group"),
    ],
)
def test_verify_names_what_is_wrong_shows_no_value_and_exits_1(
    settled: Server, damage: Callable[[Path], None], problem: str, damaged: int
) -> None:
    damage(latest(settled))
    done = settled.cli("backups", "--verify", "--json")
    backups = read_answer("backups", done.stdout)
    assert done.returncode == 1
    assert sum(bool(backup["problems"]) for backup in backups) == damaged
    problems = [text for backup in backups for text in backup["problems"]]
    assert problem in problems[0]
    assert {backup["environment"] for backup in backups} == {"production"}

    table = settled.cli("backups", "--verify")
    assert table.returncode == 1
    assert f"{len(backups)} backups read, {damaged} damaged" in table.stdout
    for text in (done.stdout, done.stderr, table.stdout, table.stderr):
        assert CANARY.decode() not in text
        assert "Traceback" not in text
    assert settled.cli("backups").returncode == 0


def test_a_copy_of_the_backups_in_another_environment_is_checked_too(settled: Server) -> None:
    settled.settings["environment"] = ["production", "staging"]
    backups = settled.state / "backups"
    shutil.copytree(backups / "production", backups / "staging")
    flipped(backups / "staging" / latest(settled).name)
    backups = settled.json("backups", "--verify")
    assert sorted((backup["environment"], bool(backup["problems"])) for backup in backups) == [
        ("production", False),
        ("production", False),
        ("staging", False),
        ("staging", True),
    ]
    assert settled.cli("backups", "--verify", "--environment", "production").returncode == 0


def test_verify_without_any_backup_says_so(server: Server) -> None:
    server.commit({"a.env": b"A=1\n"}, server.plain(["a.env"]))
    (server.app / "a.env").touch(0o600)
    (server.app / "a.env").write_bytes(b"A=1\n")
    server.sync()
    done = server.cli("backups", "--verify")
    assert (done.returncode, done.stdout.strip()) == (0, "No backups yet.")


# --- restore ---------------------------------------------------------------------------------------------------------


def test_restore_of_a_backup_with_one_damaged_file_changes_nothing_at_all(settled: Server) -> None:
    (latest(settled) / "0001-b.env").write_bytes(b"B=0\n")
    before = tree(settled.app, settled.state)
    done = settled.cli("restore", latest(settled).name)
    assert done.returncode == 1
    assert "0001-b.env: the backup is damaged" in done.stderr
    assert "`reconciler backups`" in done.stderr
    assert CANARY.decode() not in done.stderr
    assert tree(settled.app, settled.state) == before

    assert settled.cli("restore", latest(settled).name, "--target", "a.env").returncode == 0  # the other file is intact
    assert settled.live("a.env") == b"A=1.%s\n" % CANARY


def test_restore_that_cannot_write_the_second_file_undoes_the_first(settled: Server) -> None:
    backup, before = latest(settled).name, tree(settled.app)
    faults = make_faults(settled.root / "faults")
    faults.fail_disk(settled.app / ".b.env.")
    done = settled.cli("restore", backup, environment=faults.variables)
    assert done.returncode == 1
    assert "b.env: cannot write the live file (Input/output error)" in done.stderr
    assert tree(settled.app) == before
    assert settled.cli("restore", backup).returncode == 0
    assert settled.live("a.env") == b"A=1.%s\n" % CANARY


@pytest.mark.parametrize("mode", [0o770, 0o707], ids=["group", "world"])
@pytest.mark.parametrize("which", ["", "production"], ids=["all backups", "the environment's"])
def test_backups_that_others_may_write_to_are_neither_taken_nor_restored_until_that_is_fixed(
    settled: Server, which: str, mode: int
) -> None:
    oldest = listed(settled)[-1]  # restoring it deletes: no file of it is read
    directory = settled.state / "backups" / which
    directory.chmod(mode)
    before = tree(settled.app, settled.state / "backups")
    fix = f"chmod 0700 {directory}"

    for done in (settled.cli("restore", oldest), settled.cli("restore", listed(settled)[0])):
        assert done.returncode == 1
        assert f"{directory}: other users may enter the backup directory" in done.stderr
        assert fix in done.stderr
    (result,) = [finding for finding in settled.json("doctor") if finding["component"] == "backups"]
    assert (result["level"], fix in result["advice"]) == ("error", True)
    settled.commit({"a.env": b"A=3\n"})
    outcome = settled.sync()
    assert (outcome["result"], outcome["retry"], outcome["exit_code"]) == ("failed", True, 1)
    assert fix in outcome["reason"]
    assert tree(settled.app, settled.state / "backups") == before

    directory.chmod(0o700)
    assert settled.sync()["result"] == "applied"
    assert settled.cli("restore", oldest).returncode == 0
    assert not (settled.app / "a.env").exists()


def test_a_state_directory_that_others_may_write_to_is_refused(settled: Server) -> None:
    settled.state.chmod(0o775)
    for command in (["sync"], ["restore", latest(settled).name]):
        done = settled.cli(*command)
        assert done.returncode == 1
        assert "others may write to the state directory" in done.stderr
        assert f"chmod 0700 {settled.state}" in done.stderr


# --- how long they stay ----------------------------------------------------------------------------------------------


def test_old_and_surplus_backups_go_and_the_newest_of_each_path_stays(server: Server) -> None:
    server.settings["backups"] = {"keep": 2}
    server.commit({"a.env": b"A=0\n", "b.env": b"B=0\n"}, server.plain(["a.env", "b.env"]))
    server.sync()
    server.commit({"b.env": b"B=1\n"})
    of_b = server.sync()["backup"]
    for number in range(1, 5):
        server.commit({"a.env": b"A=%d\n" % number})
        server.sync()
    kept: dict[str, Any] = {
        backup["backup"]: [file["source"] for file in backup["files"]] for backup in server.json("backups")
    }
    assert sorted(kept.values()) == [["a.env"], ["a.env"], ["a.env", "b.env"], ["b.env"]]
    assert of_b in kept

    server.settings["backups"] = {"keep": 50, "max_age": "1s"}
    for backup in (server.state / "backups" / "production").iterdir():
        aged(backup)
    server.commit({"a.env": b"A=9\n"})
    newest = server.sync()["backup"]
    assert set(listed(server)) == {newest, of_b}


def aged(backup: Path) -> None:
    """Make it look as if taken an hour earlier."""
    manifest = json.loads((backup / "manifest.json").read_text())
    (backup / "manifest.json").write_text(json.dumps({**manifest, "at": manifest["at"] - 3600}))


# --- what was restored is no hand edit -------------------------------------------------------------------------------


def test_nothing_says_that_a_restored_file_was_changed_by_hand(settled: Server) -> None:
    backup = latest(settled).name
    with settled.daemon() as daemon:
        settled.cli("pause", "--all", "--reason", "an incident")
        settled.cli("restore", backup)

        def change() -> dict[str, Any]:
            (environment,) = settled.json("status")["environments"]
            return {change["target"]: change for change in environment["after"]["changes"]}["production/a.env"]

        eventually(lambda: change()["sync"] == "held")
        assert (change()["restored_from"], change()["by_hand"]) == (backup, {"added": [], "removed": [], "changed": []})
        assert f"restored from backup {backup}" in change()["reason"]
        answers = [settled.cli(*command).stdout for command in (["status"], ["plan"], ["status", "--json"])]
        assert (
            daemon.metrics()['reconciler_drift{environment="production",kind="restored",target="production/a.env"}']
            == 1
        )
        answers.append(settled.cli("resume", "--all").stdout)
        answers += [settled.cli(*command).stdout for command in (["history"], ["history", "--json"], ["status"])]
        for answer in answers:
            assert "by hand" not in answer
            assert "edited" not in answer.replace("edited_at", "").replace('"edited_by": ""', "")
        assert "restored from a backup" in answers[0]
        assert f"a.env (was restored from backup {backup})" in answers[4]
        assert f"restored a.env, b.env from backup {backup}" in answers[4]
        corrected = 'reconciler_drift_corrections_last_hour{environment="production",target="production/a.env"}'
        assert corrected not in daemon.metrics()
        assert settled.live("a.env") == b"A=2.%s\n" % CANARY

        # A hand edit after that is one.
        settled.cli("pause", "--all")
        (settled.app / "a.env").write_bytes(b"A=3\n")
        eventually(lambda: change()["sync"] == "held")
        assert change()["restored_from"] is None
        assert "changed by hand" in change()["reason"]
