"""`status --watch` and `history --follow` of the installed command, beside a daemon, in a pipe and in a terminal."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.json_answers import read_answer
from tests.support.server import Server
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow


@pytest.fixture
def applied(server: Server) -> Server:
    server.commit({"api.env": b"A=1\n"}, server.plain(["api.env"]))
    assert server.sync()["result"] == "applied"
    return server


@contextlib.contextmanager
def following(server: Server, *arguments: str) -> Iterator[Path]:
    """The command with its output in a file; in the end Ctrl-C, and it must say that it was interrupted."""
    file = server.root / f"{arguments[0]}.out"
    with file.open("wb") as output, server.start(*arguments, stdout=output, stderr=output) as process:
        try:
            yield file
            os.killpg(process.pid, signal.SIGINT)
            assert process.wait(60) == 130, file.read_text()
        finally:
            process.kill()


def commit_and_sync(server: Server, value: int) -> None:
    server.commit({"api.env": b"A=%d\n" % value})
    assert server.sync()["result"] == "applied"


def test_in_a_pipe_what_has_changed_is_printed_once_and_each_run_when_it_ends(applied: Server) -> None:
    with applied.daemon(), contextlib.ExitStack() as stack:
        text = stack.enter_context(following(applied, "status", "--watch"))
        runs = stack.enter_context(following(applied, "history", "--follow", "--json", "-n", "1"))
        eventually(lambda: text.read_text().count("in sync") >= 1 and runs.read_text().count("\n") == 1)
        commit_and_sync(applied, 2)
        eventually(lambda: runs.read_text().count("\n") == 2)
        head = applied.json("status")["environments"][0]["head"]["commit"][:12]
        eventually(lambda: head in text.read_text())
        printed = text.read_text()
    assert printed.count("\nproduction") == 2, printed  # a block for each revision, none for looks in between
    assert "\x1b" not in printed
    # Ctrl-C ends the line on standard error, which goes to the same file.
    (first,), (second,) = (read_answer("history", line) for line in runs.read_text().strip().splitlines())
    assert (first["started_at"] <= second["started_at"], second["result"]) == (True, "applied")


def test_a_terminal_is_written_over_without_being_cleared_and_left_as_it_was(applied: Server) -> None:
    ours, theirs = pty.openpty()
    output = bytearray()

    def read() -> None:
        with contextlib.suppress(OSError):
            while data := os.read(ours, 65536):
                output.extend(data)

    with applied.daemon():
        process = applied.start(
            "status", "--watch", environment={"TERM": "xterm"}, stdin=theirs, stdout=theirs, stderr=theirs
        )
        os.close(theirs)
        reader = threading.Thread(target=read)
        reader.start()
        try:
            eventually(lambda: output.count(b"\x1b[H") >= 2)  # refreshed
            os.killpg(process.pid, signal.SIGINT)
            assert process.wait(60) == 130
        finally:
            process.kill()
            process.wait()
            reader.join()
            os.close(ours)
    screen = output.decode()
    assert "\x1b[2J" not in screen
    entered, left = screen.index("\x1b[?1049h"), screen.index("\x1b[?1049l")
    assert entered < screen.index("in sync") < left < screen.rindex("in sync")  # the last one stays
