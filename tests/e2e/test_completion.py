"""What bash, zsh and fish get to complete, from the script that the installed command prints for each."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.commands import run
from tests.support.forks import forked_command
from tests.support.server import Server

pytestmark = pytest.mark.slow

# Each defines `complete WORD…`, which prints the candidates for the last word, one a line.
ASK = {
    "bash": """
        eval "$(reconciler completion bash)"
        COMP_WORDS=(reconciler "$@"); COMP_CWORD=$#
        _reconciler_completion reconciler
        printf '%s\\n' "${COMPREPLY[@]}"
    """,
    "zsh": """
        autoload -U compinit; compinit -u -D  # -D: writes no file
        eval "$(reconciler completion zsh)"
        _describe() { print -rl -- $completions_with_descriptions }
        compadd() { print -rl -- $completions }
        words=(reconciler "$@"); CURRENT=$#words
        _reconciler_completion
    """,
    "fish": """
        reconciler completion fish | source
        complete -C "reconciler $argv"
    """,
}


@pytest.fixture(params=[shell for shell in ASK if shutil.which(shell)])  # `make provision` installs them all
def complete(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., str]:
    """``complete("status", "--w", RECONCILER_CONFIG=…)``: what the shell is offered for the last word."""
    script = tmp_path / f"ask.{request.param}"
    script.write_text(ASK[request.param])

    def ask(*words: str, **variables: str) -> str:
        path = f"{forked_command().parent}:{os.environ['PATH']}"
        done = run(request.param, script, *words, env={"PATH": path, "HOME": str(tmp_path), **variables}, cwd=tmp_path)
        return done.stdout.decode()

    return ask


def test_commands_options_and_names_are_completed(complete: Callable[..., str], server: Server) -> None:
    server.commit({"api.env": b"A=1\n", "worker.env": b"A=1\n"}, server.plain(["api.env", "worker.env"]))
    assert server.sync()["result"] == "applied"
    config = {"RECONCILER_CONFIG": str(server.config)}
    assert "history" in complete("--json", "his")
    assert "--watch" in complete("status", "--w")
    assert "production" in complete("plan", "-e", "pro", **config)
    assert "production/worker.env" in complete("--config", str(server.config), "adopt", "production/w")


def test_a_name_that_a_shell_would_evaluate_is_not_offered(complete: Callable[..., str], server: Server) -> None:
    server.commit({"api.env": b"A=1\n"}, server.plain(["api.env"]))
    assert server.sync()["result"] == "applied"
    with closing(sqlite3.connect(server.state / "state.db")) as database, database:
        database.execute("UPDATE applied SET source = 'a$(touch ' || ? || ')'", [str(server.root / "evaluated")])
    assert "touch" not in complete("adopt", "production/", RECONCILER_CONFIG=str(server.config))
    assert not (server.root / "evaluated").exists()
