"""Backups on a real file system: complete or not there, for the daemon's eyes only, and the newest is never lost."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.adapters.local.backups import BackupDirectory
from reconciler.core.errors import LiveFileError
from reconciler.core.model.revisions import Revision
from reconciler.core.model.runs import Backup, BackupEntry, Run
from reconciler.core.secret import DIGEST_KEY_BYTES, Digester, Secret
from tests.support.components import program
from tests.support.disks import small_disk

DIGEST = Digester(b"k" * DIGEST_KEY_BYTES)
REVISION = Revision("c" * 40, "s" * 40)
NOON = 1_700_000_000.0  # 2023-11-14 22:13:20 UTC
DAY = 86_400.0
FOR_EVER = 1e12
Files = list[tuple[BackupEntry, Secret | None]]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "backups"


@pytest.fixture
def backups(directory: Path) -> BackupDirectory:
    return BackupDirectory(str(directory), DIGEST)


def run_of(identity: str = "1a2b3c4d", at: float = NOON, environment: str = "production") -> Run:
    return Run(identity, environment, "poll", at, REVISION)


def copy_of(path: str, data: bytes | None = b"A=1\n") -> tuple[BackupEntry, Secret | None]:
    name = path.rsplit("/", 1)[-1]
    if data is None:
        return BackupEntry(name, path, None), None
    return BackupEntry(name, path, f"0000-{name}", 0o640, 1000, 1001, DIGEST(data)), Secret(data)


def take(
    backups: BackupDirectory, number: int, at: float = NOON, files: Files | None = None, environment: str = "production"
) -> Backup:
    chosen = [copy_of("/opt/app/api.env")] if files is None else files
    return asyncio.run(backups.take(run_of(f"{number:08x}", at, environment), chosen, "from", "to"))


def ids(backups: BackupDirectory, environment: str | None = None) -> list[str]:
    return [backup.id for backup in backups.list(environment)]


def everything(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


# --- taking, listing, reading ----------------------------------------------------------------------------------------


def test_what_was_taken_is_listed_and_read_back(backups: BackupDirectory) -> None:
    files = [copy_of("/opt/app/api.env", b"A=\x00\xff\n"), copy_of("/opt/app/new.env", None)]
    before = len(os.listdir("/proc/self/fd"))
    backup = take(backups, 1, files=files)
    assert len(os.listdir("/proc/self/fd")) == before
    assert backup.id == "20231114T221320Z-00000001"
    assert backups.list() == (backup,)
    assert backups.list("production") == (backup,)
    assert backups.list("staging") == ()
    assert backup.entries == tuple(entry for entry, _ in files)
    assert backups.read(backup, backup.entries[0]) == Secret(b"A=\x00\xff\n")


def test_a_listed_backup_has_all_that_a_restore_needs(directory: Path, backups: BackupDirectory) -> None:
    backup = take(backups, 1)
    (listed,) = BackupDirectory(str(directory), DIGEST).list()
    entry = listed.entries[0]
    assert (entry.path, entry.mode, entry.uid, entry.gid) == ("/opt/app/api.env", 0o640, 1000, 1001)
    assert (listed.from_commit, listed.to_commit, listed.at, listed.run) == ("from", "to", NOON, backup.run)


def test_without_any_backup_the_list_is_empty(backups: BackupDirectory) -> None:
    assert backups.list() == ()
    assert backups.list("production") == ()


def test_directories_are_0700_and_files_0600_under_any_umask(directory: Path, backups: BackupDirectory) -> None:
    old_mask = os.umask(0)
    try:
        take(backups, 1)
    finally:
        os.umask(old_mask)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (directory, *directory.rglob("*"))}
    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}
    assert {mode for path, mode in modes.items() if path.is_file()} == {0o600}
    assert len(modes) == 5


def test_two_runs_in_the_same_second_are_two_backups(backups: BackupDirectory) -> None:
    first, second = take(backups, 1), take(backups, 2)
    assert ids(backups) == [second.id, first.id]


def test_the_same_run_twice_in_a_second_does_not_touch_the_first(backups: BackupDirectory) -> None:
    first = take(backups, 1)
    with pytest.raises(LiveFileError, match="cannot store the backup"):
        take(backups, 1, files=[copy_of("/opt/app/api.env", b"B=2\n")])
    assert backups.list() == (first,)
    assert backups.read(first, first.entries[0]) == Secret(b"A=1\n")


def test_a_copied_directory_belongs_to_where_it_lies(directory: Path, backups: BackupDirectory) -> None:
    """Whoever copies production's backups must not have them expire together with the copy."""
    for number in range(3):
        take(backups, number)
    shutil.copytree(directory / "production", directory / "staging")
    assert {backup.environment for backup in backups.list("staging")} == {"staging"}
    assert expire(backups, "staging", keep=1, max_age=FOR_EVER, now=NOON) == 2
    assert len(backups.list("production")) == 3


def test_a_backup_that_another_process_takes_meanwhile_is_older_than_the_next(
    directory: Path, backups: BackupDirectory
) -> None:
    first = take(backups, 1)
    second = take(BackupDirectory(str(directory), DIGEST), 2, NOON - 60)
    third = take(backups, 3, NOON - 120)
    assert ids(backups) == [third.id, second.id, first.id]


# --- expiring --------------------------------------------------------------------------------------------------------


def expire(backups: BackupDirectory, environment: str, *, keep: int, max_age: float, now: float) -> int:
    """Return how many are removed."""
    before = len(backups.list(environment))
    asyncio.run(backups.expire(environment, keep=keep, max_age=max_age, now=now))
    return before - len(backups.list(environment))


def test_as_many_stay_as_are_kept_and_the_newest_of_them(directory: Path, backups: BackupDirectory) -> None:
    taken = [take(backups, number, NOON + number) for number in range(5)]
    assert expire(backups, "production", keep=3, max_age=FOR_EVER, now=NOON) == 2
    assert ids(backups) == [backup.id for backup in reversed(taken[2:])]
    assert expire(backups, "production", keep=3, max_age=FOR_EVER, now=NOON) == 0
    assert len(os.listdir(directory / "production")) == 3


@pytest.mark.parametrize(("age", "gone"), [(90 * DAY, 0), (90 * DAY + 1, 1)], ids=["just young enough", "too old"])
def test_what_is_too_old_goes(backups: BackupDirectory, age: float, gone: int) -> None:
    take(backups, 1, NOON)
    newest = take(backups, 2, NOON + 1)
    assert expire(backups, "production", keep=50, max_age=90 * DAY, now=NOON + age) == gone
    assert ids(backups)[0] == newest.id


def test_the_newest_of_a_path_stays_however_old(backups: BackupDirectory) -> None:
    take(backups, 1)
    assert expire(backups, "production", keep=1, max_age=1, now=NOON + 3650 * DAY) == 0
    assert len(backups.list()) == 1


def test_a_backup_stays_while_it_is_the_newest_of_any_of_its_paths(backups: BackupDirectory) -> None:
    old = take(backups, 1, files=[copy_of("/opt/app/a.env"), copy_of("/opt/app/b.env")])
    for number in range(2, 5):
        take(backups, number, NOON + number, [copy_of("/opt/app/a.env")])
    assert expire(backups, "production", keep=1, max_age=1, now=NOON + DAY) == 2
    assert ids(backups)[-1] == old.id


def test_paths_are_counted_by_themselves(backups: BackupDirectory) -> None:
    for number in range(6):
        take(backups, number, NOON + number, [copy_of(f"/opt/app/{'ab'[number % 2]}.env")])
    assert expire(backups, "production", keep=2, max_age=FOR_EVER, now=NOON) == 2
    assert len(backups.list()) == 4


def test_other_environments_are_not_touched(backups: BackupDirectory) -> None:
    for environment in ("production", "staging"):
        for number in range(3):
            take(backups, number, environment=environment)
    asyncio.run(backups.expire("staging", keep=1, max_age=FOR_EVER, now=NOON))
    assert [len(backups.list(environment)) for environment in ("production", "staging")] == [3, 1]


def test_the_newest_stays_the_newest_though_the_clock_has_jumped_back(backups: BackupDirectory) -> None:
    """Else a run would expire its own backup before it writes."""
    take(backups, 1, NOON + 365 * DAY)
    newest = take(backups, 2, NOON)
    assert expire(backups, "production", keep=1, max_age=90 * DAY, now=NOON) == 1
    assert ids(backups) == [newest.id]


def test_a_backup_that_cannot_be_removed_does_not_stop_the_others(directory: Path, backups: BackupDirectory) -> None:
    taken = [take(backups, number, NOON + number) for number in range(4)]
    (directory / "production" / f".{taken[1].id}" / "in the way").mkdir(parents=True)
    assert expire(backups, "production", keep=1, max_age=FOR_EVER, now=NOON) == 2
    assert set(ids(backups)) == {taken[1].id, taken[3].id}


# --- damage ----------------------------------------------------------------------------------------------------------


def alter(file: Path) -> None:
    file.write_bytes(b"A=2\n")


def truncate(file: Path) -> None:
    file.write_bytes(b"")


def remove(file: Path) -> None:
    file.unlink()


def link_away(file: Path) -> None:
    file.rename(file.with_name("elsewhere"))
    file.symlink_to("elsewhere")


@pytest.mark.parametrize(
    ("damage", "message"),
    [(alter, "damaged"), (truncate, "damaged"), (remove, "cannot be read"), (link_away, "cannot be read")],
)
def test_a_damaged_backup_is_refused(
    directory: Path, backups: BackupDirectory, damage: Callable[[Path], None], message: str
) -> None:
    backup = take(backups, 1)
    file = directory / "production" / backup.id / "0000-api.env"
    damage(file)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(LiveFileError, match=message) as error:
        backups.read(backup, backup.entries[0])
    assert error.value.where == str(file)
    assert "`reconciler backups`" in error.value.hint
    assert len(os.listdir("/proc/self/fd")) == before


def test_an_entry_without_a_file_is_read_as_that_but_only_where_nobody_else_could_have_made_it_so(
    directory: Path, backups: BackupDirectory
) -> None:
    backup = take(backups, 1, files=[copy_of("/opt/app/new.env", None)])
    assert backups.read(backup, backup.entries[0]) is None
    for place in (directory, directory / "production", directory / "production" / backup.id):
        place.chmod(0o770)
        with pytest.raises(LiveFileError, match="other users may enter"):
            backups.read(backup, backup.entries[0])
        place.chmod(0o700)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("{", id="cut off"),
        pytest.param("[]", id="a list"),
        pytest.param('"text"', id="text"),
        pytest.param("{}", id="no fields"),
        pytest.param(json.dumps({"number": 1, "run": "r", "at": 1, "from_commit": "", "to_commit": ""}), id="no files"),
        pytest.param(json.dumps({"number": 1, "run": "r", "at": "noon", "entries": []}), id="no time"),
        pytest.param(
            json.dumps({"number": 1, "run": "r", "at": 1, "from_commit": "", "to_commit": "", "entries": [1]}),
            id="no entries",
        ),
        pytest.param("\udcff", id="not UTF-8"),
    ],
)
def test_a_manifest_that_cannot_be_read_hides_only_its_own_backup(
    directory: Path, backups: BackupDirectory, text: str
) -> None:
    good, bad = take(backups, 1), take(backups, 2)
    manifest = directory / "production" / bad.id / "manifest.json"
    manifest.write_bytes(text.encode(errors="surrogateescape"))
    assert backups.list() == (good,)
    newest = take(backups, 3)
    assert backups.list() == (newest, good)
    # An operator may still need its files.
    asyncio.run(backups.expire("production", keep=1, max_age=1, now=NOON + DAY))
    assert (directory / "production" / bad.id / "0000-api.env").exists()


def test_strange_things_in_the_directory_are_passed_over(directory: Path, backups: BackupDirectory) -> None:
    backup = take(backups, 1)
    (directory / "README").write_text("a file")
    (directory / "production" / "README").write_text("a file")
    (directory / "production" / "empty").mkdir()
    (directory / "production" / "odd" / "manifest.json").mkdir(parents=True)
    assert backups.list() == (backup,)


# --- what a kill leaves behind ---------------------------------------------------------------------------------------

CHILD = """
import asyncio
import sys
from reconciler.adapters.local.backups import BackupDirectory
from reconciler.core.model.revisions import Revision
from reconciler.core.model.runs import BackupEntry, Run
from reconciler.core.secret import Digester, Secret

digest, data = Digester(b"k" * 32), b"A=1\\n"
backups = BackupDirectory(sys.argv[1], digest)
run = Run(sys.argv[2], "production", "poll", 1_700_000_100.0, Revision("c", "s"))
files = [(BackupEntry("api.env", "/opt/app/api.env", "0000-api.env", 0o600, 0, 0, digest(data)), Secret(data))]
asyncio.run(backups.take(run, files, "from", "to"))
asyncio.run(backups.expire("production", keep=1, max_age=1e12, now=0.0))
"""


def traced(arguments: list[str], directory: Path) -> subprocess.CompletedProcess[bytes]:
    if program("strace") is None:
        pytest.skip("strace is not installed: make provision")
    command = ["strace", "-f", "-qq", "-y", *arguments, sys.executable, "-c", CHILD, str(directory), "2"]
    done = subprocess.run(command, check=False, capture_output=True, timeout=30)
    if b"ptrace" in done.stderr:
        pytest.skip("this machine lets nobody trace a process")
    return done


def test_a_backup_is_on_disk_before_it_has_its_name(directory: Path, tmp_path: Path) -> None:
    log = tmp_path / "calls"
    assert traced(["-o", str(log), "-e", "trace=mkdir,write,fsync,rename"], directory).returncode == 0
    order = re.findall(rf'(\w+)\((?:\d+<|"){re.escape(str(directory.parent))}/([^>"]+)', log.read_text())
    parent = "backups/production"
    making = f"{parent}/.20231114T221500Z-2"
    files = [(call, f"{making}/{name}") for name in ("0000-api.env", "manifest.json") for call in ("write", "fsync")]
    assert order == [
        ("mkdir", "backups"),
        ("mkdir", parent),
        ("fsync", "backups"),
        ("mkdir", making),
        *files,
        ("fsync", making),
        ("rename", making),
        ("fsync", parent),
    ]


@pytest.mark.parametrize("call", ["fsync:1", "fsync:2", "fsync:3", "rename:1", "fsync:4", "rename:2", "unlinkat:1"])
def test_killed_at_any_instant_every_listed_backup_is_whole(
    directory: Path, backups: BackupDirectory, call: str
) -> None:
    first = take(backups, 1)
    name, _, number = call.partition(":")
    inject = ["-o", "/dev/null", "-e", f"trace={name}", "-e", f"inject={name}:signal=SIGKILL:when={number}"]
    assert traced(inject, directory).returncode != 0
    listed = backups.list()
    assert listed
    assert first in listed or len(listed) == 1
    for backup in listed:
        assert backups.read(backup, backup.entries[0]) == Secret(b"A=1\n")
    # The next one clears away what was left half done.
    take(backups, 3)
    assert not [name for name in os.listdir(directory / "production") if name.startswith(".")]
    assert [backup.id for backup in backups.list()[1:]] == [backup.id for backup in listed]


# --- what must not be written to -------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["", "production"], ids=["backups", "environment"])
@pytest.mark.parametrize("mode", [0o770, 0o702, 0o755], ids=["group may write", "others may write", "others may read"])
def test_a_directory_that_others_may_enter_is_refused(
    directory: Path, backups: BackupDirectory, which: str, mode: int
) -> None:
    take(backups, 1)
    (directory / which).chmod(mode)
    before = everything(directory)
    with pytest.raises(LiveFileError, match=r"other users may enter.*chmod 0700"):
        take(backups, 2)
    assert everything(directory) == before


@pytest.mark.root
def test_a_directory_of_somebody_else_is_refused(directory: Path, backups: BackupDirectory) -> None:
    take(backups, 1)
    os.chown(directory / "production", 1000, 1000)
    with pytest.raises(LiveFileError, match="chown 0 "):
        take(backups, 2)


@pytest.mark.parametrize("which", ["backups", "backups/production"])
def test_a_link_is_never_followed(tmp_path: Path, backups: BackupDirectory, which: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    (tmp_path / which).parent.mkdir(mode=0o700, exist_ok=True)
    (tmp_path / which).symlink_to(elsewhere)
    with pytest.raises(LiveFileError, match="is a link or a file"):
        take(backups, 1)
    assert everything(elsewhere) == []


# --- full disks and missing rights -----------------------------------------------------------------------------------


@pytest.mark.root
def test_a_full_disk_leaves_nothing_half_made(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "size=64k,mode=0700") as disk:
        backups = BackupDirectory(str(disk / "backups"), DIGEST)
        first = take(backups, 1)
        before = everything(disk)
        large = [copy_of("/opt/app/api.env", b"A" * 30_000), copy_of("/opt/app/b.env", b"B" * 60_000)]
        with pytest.raises(
            LiveFileError, match=r"No space left on device.*Nothing was changed\. Free some space"
        ) as error:
            take(backups, 2, files=large)
        assert error.value.retryable
        assert everything(disk) == before
        assert backups.list() == (first,)
        take(backups, 3)


@pytest.mark.root
def test_a_read_only_disk_says_so(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "size=64k,mode=0700") as disk:
        backups = BackupDirectory(str(disk / "backups"), DIGEST)
        for number in range(2):
            take(backups, number)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(LiveFileError, match="Read-only file system"):
            take(backups, 3)
        assert expire(backups, "production", keep=1, max_age=1, now=NOON + DAY) == 0
        assert len(backups.list()) == 2


@pytest.mark.root
def test_another_user_is_reported_who_may_look(directory: Path, backups: BackupDirectory) -> None:
    take(backups, 1)
    os.seteuid(65534)
    try:
        with pytest.raises(LiveFileError, match=r"cannot list the backups \(Permission denied\)"):
            backups.list()
    finally:
        os.seteuid(0)


def test_a_missing_state_directory_says_so(tmp_path: Path) -> None:
    backups = BackupDirectory(str(tmp_path / "state" / "backups"), DIGEST)
    with pytest.raises(LiveFileError, match=r"cannot store the backup \(No such file or directory\)"):
        take(backups, 1)


def test_no_message_and_no_manifest_holds_a_value(directory: Path, backups: BackupDirectory) -> None:
    canary = b"canary-71e2"
    backup = take(backups, 1, files=[copy_of("/opt/app/api.env", canary)])
    assert canary not in (directory / "production" / backup.id / "manifest.json").read_bytes()
    with pytest.raises(LiveFileError) as error:
        backups.read(backup, replace(backup.entries[0], digest="0"))
    assert canary.decode() not in f"{error.value!r} {error.value} {backup!r}"
