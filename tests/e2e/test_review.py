"""`reconciler review`: all about a server on one page, from the daemon and without one."""

from __future__ import annotations

import email.policy
from pathlib import Path
from typing import Any

import pytest

from tests.support.receiver import message_receiver
from tests.support.server import Daemon, Server
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

VALUE = "invented-s3cret"
PAIRS = {
    "stages": {"left": "git:staging", "right": "git:production"},
    "away": {"left": "git:production", "right": "ssh://deploy@127.0.0.1:1/srv/app"},
}


@pytest.fixture
def filled(server: Server) -> Server:
    """Two targets, one edited by hand and reported, the other paused; staging has a key that production lacks."""
    files = {"api.env": f"A=1\nDB_PASSWORD={VALUE}\n".encode(), "worker.env": b"QUEUE=mail\n"}
    manifest = server.plain(["api.env", "worker.env"]) | {"defaults": {"on_drift": "report"}}
    more = {**files, "api.env": b"A=1\nDB_PASSWORD=another\nADDED=1\n"}
    server.commit(more, server.plain(["api.env", "worker.env"]), environment="staging")
    server.commit(files, manifest)
    first = server.sync()
    assert first["exit_code"] == 0, first
    (server.app / "api.env").write_text("A=2\n")
    assert server.cli("pause", "production/worker.env", "--for", "1d", "--reason", "the move").returncode in (0, 2)
    return server


def review(server: Server, *arguments: str, code: int, **environment: str) -> str:
    done = server.cli("review", *arguments, environment=environment)
    assert done.returncode == code, done.stdout + done.stderr
    assert VALUE not in done.stdout + done.stderr
    return done.stdout


def words(answer: dict[str, Any]) -> dict[str, str]:
    """Where → the word of everything that needs an operator."""
    return {entry["where"].partition(":")[0]: entry["word"] for entry in answer["attention"]}


def sendmail(directory: Path) -> Path:
    """A mailer that keeps what it is given."""
    program, kept = directory / "bin" / "sendmail", directory / "mail"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" > {kept}.arguments\ncat > {kept}\n')
    program.chmod(0o755)
    return kept


def test_every_form_has_what_needs_an_operator(filled: Server, tmp_path: Path) -> None:
    filled.settings["comparisons"] = PAIRS
    with filled.daemon() as daemon:
        compared(daemon, filled)
        answer = filled.json("review", "--max-age", "1h")
        assert words(answer) == {"away": "not compared", "stages": "differs", "production": "drifted"} | {
            "check": "warnings",
            "production/worker.env": "paused",
        }
        assert [entry["kind"] for entry in answer["attention"]] == ["bad", "mid", "mid", "mid", "info"]
        assert answer["failures"] == []
        with message_receiver() as receiver:
            urls = filled.root / "urls"
            urls.touch(0o600)
            urls.write_text(f"json://127.0.0.1:{receiver.port}/hook\n")
            filled.settings["notifications"] = {"urls_file": str(urls)}
            assert review(filled, "--notify", code=1) == ""
            (message,) = receiver.messages
            assert message["title"] == "reconciler on test: 4 things need you, 1 broken"
            assert "stages: differs. git:staging and git:production: 1 unexplained finding" in message["message"]
        assert answer["check"]["errors"] == 0
        kept = sendmail(tmp_path)
        review(filled, "--mail", "root", code=1, PATH=f"{kept.parent / 'bin'}:{filled.variables()['PATH']}")
        for text in (
            review(filled, code=1),
            review(filled, "--format", "markdown", code=1),
            review(filled, "--format", "html", code=1),
            kept.read_text(),
        ):
            for expected in ("need you", "not compared", "ADDED", "missing in git:production", "the move"):
                assert expected in text.replace("=\n", ""), (expected, text)
    mail = email.message_from_bytes(kept.read_bytes(), policy=email.policy.default)
    assert mail["Subject"] == "reconciler: test: 4 things need you, 1 broken"
    assert {part.get_content_type() for part in mail.walk()} > {"text/plain", "text/html"}
    assert (tmp_path / "mail.arguments").read_text() == "-i -- root\n"


def compared(daemon: Daemon, server: Server) -> None:
    def ended() -> bool:
        pairs = {pair["name"]: pair for pair in server.json("review")["comparisons"]}
        return bool(pairs["stages"]["at"] and pairs["away"]["error"])

    eventually(ended, timeout=60)


def test_without_a_daemon_everything_is_looked_at_here_and_a_part_that_fails_hides_nothing(filled: Server) -> None:
    filled.settings["comparisons"] = {"stages": PAIRS["stages"]}
    answer = filled.json("review")
    assert words(answer) == {
        "the daemon": "not running",
        "production": "drifted",
        "stages": "differs",
        "check": "warnings",
        "production/worker.env": "paused",
    }
    (pair,) = answer["comparisons"]
    assert pair["unexplained"] == 1
    filled.settings["decryption"] = {"age_key_file": str(filled.root / "nowhere")}
    answer = filled.json("review")
    review(filled, code=1)
    assert "partly looked at" in [entry["word"] for entry in answer["attention"]]
    assert answer["environments"][0]["result"] == "failed"
    assert answer["ages"]
    assert answer["comparisons"]


def test_nothing_needs_anybody(server: Server) -> None:
    server.commit({"api.env": b"A=1\n"}, server.plain(["api.env"]))
    with server.daemon():
        assert "test: nothing needs you" in review(server, code=0)


def test_a_mail_that_nobody_takes_is_an_error(server: Server, tmp_path: Path) -> None:
    kept = sendmail(tmp_path)
    (kept.parent / "bin" / "sendmail").write_text("#!/bin/sh\nexit 75\n")
    path = f"{kept.parent / 'bin'}:{server.variables()['PATH']}"
    with message_receiver() as receiver:
        urls = server.root / "urls"
        urls.touch(0o600)
        urls.write_text(f"json://127.0.0.1:{receiver.port}/hook\n")
        server.settings["notifications"] = {"urls_file": str(urls)}
        done = server.cli("review", "--mail", "root", "--notify", environment={"PATH": path})
        assert (done.returncode, "[mail-failed]" in done.stderr) == (1, True)
        assert len(receiver.messages) == 1
    assert server.cli("review", "--mail", "-oops", environment={"PATH": path}).returncode == 1
