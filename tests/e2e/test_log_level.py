"""What the daemon logs at each level, and in which colours."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import sys

import pytest

from tests.support.commands import run
from tests.support.json_answers import read_answer
from tests.support.server import Server
from tests.support.waiting import eventually

SAY = """
import sys
from reconciler.app.daemon import logs
logs.set_up(sys.argv[1])
for level in ("debug", "info", "warning", "error"):
    getattr(logs.get_logger(), level)(f"a {level}")
"""


LEVELS = ("debug", "info", "warning", "error")


@pytest.mark.parametrize("level", LEVELS)
def test_nothing_below_the_level_is_logged(level: str) -> None:
    done = run(sys.executable, "-c", SAY, level, env={"PATH": os.environ["PATH"]})
    events = [json.loads(line)["event"] for line in done.stderr.decode().splitlines()]
    assert events == [f"a {name}" for name in LEVELS[LEVELS.index(level) :]]


@pytest.mark.parametrize(("variables", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)], ids=["usual", "plain"])
def test_a_log_on_a_terminal_has_colours_where_these_are_wanted(variables: dict[str, str], coloured: bool) -> None:
    ours, theirs = pty.openpty()
    try:
        env = {"PATH": os.environ["PATH"], "TERM": "xterm", **variables}
        if (child := os.fork()) == 0:
            os.dup2(theirs, 2)
            os.execve(sys.executable, [sys.executable, "-c", SAY, "info"], env)
        os.close(theirs)
        written = b""
        with contextlib.suppress(OSError):
            while data := os.read(ours, 65536):
                written += data
        os.waitpid(child, 0)
    finally:
        os.close(ours)
    assert b"a warning" in written
    assert (b"\x1b[" in written) == coloured


@pytest.mark.slow
def test_debug_shows_each_answer_of_git_and_each_reconciliation_without_news_but_no_value(server: Server) -> None:
    server.commit({"api.env": b"A=plaintext-value\n"}, server.plain(["api.env"]))
    server.settings["drift"] = {"interval": "1s"}
    with server.daemon(RECONCILER_LOG_LEVEL="debug") as daemon:
        known = {"git answered", "reconciled", "reconciled, as before"}
        eventually(lambda: known <= {event["event"] for event in daemon.events()})
        (environment,) = read_answer("status", daemon.get("/api/v1/status")[1])["environments"]
        assert environment["result"] in ("applied", "in_sync")
        assert "plaintext-value" not in daemon.log.read_text()
