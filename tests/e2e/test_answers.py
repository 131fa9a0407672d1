"""The answers of the installed command in a real terminal and in a pipe; tests/unit/test_answers.py has all of them."""

from __future__ import annotations

import re

import pytest

from tests.support.server import ENVIRONMENT, Server
from tests.support.terminal import answer_lines

pytestmark = pytest.mark.slow

LONG = "A_NAME_OF_A_KEY_THAT_SOMEBODY_MADE_SIXTY_CHARACTERS_LONG_HERE"
MANY = [f"FEATURE_FLAG_NUMBER_{number:03}" for number in range(112)]
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@pytest.fixture
def drifted(server: Server) -> Server:
    """One file edited by hand, one changed in git, and a new one of 112 keys."""
    files = {"worker.env": b"LOG_LEVEL=info\nA=1\n", "customers/notifications/api.env": f"{LONG}=1\n".encode()}
    server.commit(files, server.plain(list(files)), message="Start")
    assert server.sync()["result"] == "applied"
    (server.app / "worker.env").write_bytes(b"LOG_LEVEL=debug\nA=1\nMADE_BY_HAND=1\n")
    files["customers/notifications/api.env"] = f"{LONG}=2\n".encode()
    files["flags.env"] = "".join(f"{name}=1\n" for name in MANY).encode()
    server.commit(files, server.plain(list(files)), message="Move the mail server")
    return server


@pytest.mark.parametrize("columns", [80, 120])
def test_no_line_of_plan_and_status_is_wider_than_the_terminal_and_no_name_is_broken(
    drifted: Server, columns: int
) -> None:
    for command in ("plan", "status"):
        lines = answer_lines(drifted, command, columns=columns, exit_code=2)
        plain = [COLOUR.sub("", line) for line in lines]
        assert any(line != text for line, text in zip(lines, plain, strict=True)), "no colours"
        assert [line for line in plain if len(line) > columns or "\x1b" in line] == []
        words = " ".join(plain).split()
        assert {LONG, "LOG_LEVEL", "MADE_BY_HAND", f"{ENVIRONMENT}/customers/notifications/api.env"} <= set(words)
        assert "+ 112 keys added; -v lists them" in " ".join(words)
    assert re.search(r"worker\.env +drifted \d\d:\d\dZ \(edited on the server\) +will restore", "\n".join(plain))


def test_verbose_lists_the_keys_and_summary_none(drifted: Server) -> None:
    assert set(MANY) <= set(drifted.cli("plan", "-v").stdout.split())
    assert drifted.cli("plan", "--summary").stdout.splitlines()[1:] == [
        "Plan: 1 file to create, 1 file to update, 1 file to restore, 0 services to restart."
    ]


def test_without_colours_where_these_are_not_wanted(drifted: Server) -> None:
    lines = answer_lines(drifted, "status", columns=80, exit_code=2, NO_COLOR="1")
    assert "\x1b" not in "".join(lines)
    assert re.search(r"just now|\d (s|min) ago", "\n".join(lines))


def test_a_pipe_gets_one_line_per_object_with_instants(drifted: Server) -> None:
    lines = drifted.cli("plan", environment={"COLUMNS": "40"}).stdout.splitlines()
    (edited,) = [line for line in lines if "worker.env" in line]
    assert re.search(r"drifted \d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ \(edited on the server\) +will restore$", edited)
    assert "ago" not in " ".join(lines).split()
