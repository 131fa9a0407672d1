"""Who wrote to a live file, asked of the real kernel; and what is said where it cannot be asked."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.adapters.local import file_writers
from reconciler.adapters.local.file_writers import FileWriters
from reconciler.adapters.local.files import LocalHost
from reconciler.adapters.local.users import login_sessions
from reconciler.core.decide.editors import FileWriter, editor_sentence
from reconciler.core.model.targets import Ownership
from reconciler.core.secret import Secret
from tests.support.waiting import eventually

DAEMON, BIN = 1, 2  # every system has these users
AS = "import os, sys; open('/proc/self/loginuid', 'w').write(sys.argv[1]); os.execvp(sys.argv[2], sys.argv[2:])"


@pytest.fixture
def writers() -> Iterator[FileWriters]:
    with contextlib.closing(FileWriters()) as opened:
        if not opened.available:
            pytest.skip("fanotify needs root and Linux 5.15")
        yield opened


@pytest.fixture
def file(tmp_path: Path, writers: FileWriters) -> Path:
    file = tmp_path / "api.env"
    file.write_text("A=1\n")
    writers.follow(str(file))
    return file


def edit(login: int | None, *argv: str) -> None:
    command = argv if login is None else (sys.executable, "-c", AS, str(login), *argv)
    subprocess.run(command, check=True)


def names(writers: FileWriters, file: Path) -> list[str | None]:
    return [writer.login for writer in writers.writers_of(str(file), file.stat().st_mtime)]


EDITS = {
    "in place": ("sh", "-c", "echo A=2 > {}; sleep 0.2"),
    "by a program that ends immediately": ("tee", "{}"),
    "by a file that takes its place": ("sed", "-i", "s/1/2/", "{}"),
    "of its mode": ("chmod", "600", "{}"),
    "by a link that is moved": ("sh", "-c", "echo A=2 > {}.new; mv {}.new {}"),
}


@pytest.mark.root
@pytest.mark.parametrize("argv", EDITS.values(), ids=EDITS)
def test_an_edit_is_by_who_had_logged_in_or_by_nobody(argv: tuple[str, ...], file: Path, writers: FileWriters) -> None:
    """Never by somebody else: a process may have ended before it could be looked up."""
    edit(DAEMON, *(part.replace("{}", str(file)) for part in argv))
    with contextlib.suppress(AssertionError):
        eventually(lambda: names(writers, file), timeout=1)
    assert names(writers, file) in ([], ["daemon"])


@pytest.mark.root
def test_editors_follow_each_other_until_we_write(file: Path, writers: FileWriters) -> None:
    host = LocalHost([str(file.parent)], writers)
    for login in (DAEMON, BIN):
        edit(login, "sh", "-c", f"echo A={login} > {file}; sleep 0.3")
    eventually(lambda: names(writers, file) == ["daemon", "bin"], timeout=10)
    live = asyncio.run(host.read(str(file)))
    sentence = asyncio.run(host.editor(str(file), live))
    assert sentence == "daemon, then bin (login uids of the processes that wrote it)"
    asyncio.run(host.write(str(file), Secret(b"A=1\n"), mode=0o640, ownership=Ownership(), replaces=live))
    eventually(lambda: names(writers, file) == [], timeout=10)
    edit(BIN, "sh", "-c", f"echo A=3 > {file}; sleep 0.3")
    eventually(lambda: names(writers, file) == ["bin"], timeout=10)


@pytest.mark.root
def test_a_write_that_was_not_seen_makes_the_earlier_ones_say_nothing(file: Path, writers: FileWriters) -> None:
    edit(DAEMON, "sh", "-c", f"echo A=2 > {file}; sleep 0.3")
    eventually(lambda: names(writers, file) == ["daemon"], timeout=10)
    assert writers.writers_of(str(file), file.stat().st_mtime + 60) == ()
    writers._forget_all()
    assert names(writers, file) == []


@pytest.mark.root
def test_a_directory_that_was_replaced_is_followed_again(file: Path, writers: FileWriters) -> None:
    file.parent.rename(file.parent.with_name("before"))
    file.parent.mkdir()
    file.write_text("A=1\n")
    writers.follow(str(file))
    edit(DAEMON, "sh", "-c", f"echo A=2 > {file}; sleep 0.3")
    eventually(lambda: names(writers, file) == ["daemon"], timeout=10)


def test_without_the_right_to_ask_nothing_is_known_and_nothing_fails(
    monkeypatch: pytest.MonkeyPatch, file: Path
) -> None:
    monkeypatch.setattr("reconciler.adapters.local.file_writers._has_fanotify", lambda _: False)
    with contextlib.closing(FileWriters()) as writers:
        writers.follow(str(file))
        assert not writers.available
        assert writers.writers_of(str(file), 0.0) == ()


CRON = "'cron\N{REPLACEMENT CHARACTER}[2J', a process without a login, as root"


@pytest.mark.parametrize(
    ("writers", "sessions", "expected"),
    [
        ([FileWriter("ada", "root", "vim")], ["bob"], "ada (login uid of the process that wrote it)"),
        (
            [FileWriter(None, "root", "cron\x1b[2J")],
            ["bob"],
            CRON,
        ),
        ([], ["ada", "ada"], "probably ada: the only login session then"),
        ([], ["ada", "bob"], "unknown (logged in then: ada, bob; the file belongs to deploy)"),
        ([], [], "unknown (the file belongs to deploy)"),
        ([], None, "unknown (the file belongs to deploy)"),
    ],
)
def test_a_guess_is_called_one(writers: list[FileWriter], sessions: list[str] | None, expected: str) -> None:
    assert editor_sentence(writers, sessions, "deploy") == expected


def test_a_session_that_began_after_the_edit_is_not_counted(tmp_path: Path) -> None:
    for number, (user, began) in enumerate([("ada", 100), ("bob", 300)]):
        text = f"# private\nUID={number}\nUSER={user}\nCLASS=user\nREALTIME={began}000000\n"
        (tmp_path / f"c{number}").write_text(text)
    (tmp_path / "c3").write_text("UID=3\nUSER=gdm\nCLASS=greeter\nREALTIME=1000000\n")
    assert login_sessions(200.0, str(tmp_path)) == ("ada",)
    assert login_sessions(400.0, str(tmp_path)) in (("ada", "bob"), ("bob", "ada"))
    (tmp_path / "c4").write_text("in another form\n")
    assert login_sessions(200.0, str(tmp_path)) is None
    assert login_sessions(200.0, str(tmp_path / "missing")) is None
    assert os.path.isdir(tmp_path)


def test_the_thread_rests_after_many_events_and_ends_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_writers, "_LONGEST_REST", 1e6)
    resting = threading.Event()

    class Resting(FileWriters):
        def _rest(self, seconds: float) -> None:
            resting.set()
            super()._rest(1e6)

    with contextlib.closing(Resting()) as writers:
        writers.follow(str(tmp_path / "api.env"))
        for number in range(200):
            (tmp_path / f"log.{number}").touch()
        assert resting.wait(60)
