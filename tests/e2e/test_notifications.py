"""Notifications of a real daemon, through apprise, to a receiver on loopback."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.compose import ComposeProject
from tests.support.json_answers import read_answer
from tests.support.receiver import MessageReceiver, message_receiver
from tests.support.server import Server
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

# Ends immediately where MODE begins with bad.
MAY_CRASH = """\
services:
  api:
    image: IMAGE
    network_mode: host
    env_file: [api.env]
    command: [sh, -c, 'case $$MODE in bad*) exit 1;; esac; exec sleep infinity']
"""
TOKEN = "t0ken-of-the-receiver"
VALUE = "value-of-a-secret"


@pytest.fixture
def receiver() -> Iterator[MessageReceiver]:
    with message_receiver() as receiver:
        receiver.looks_for = TOKEN
        yield receiver


@pytest.fixture
def notifying(server: Server, receiver: MessageReceiver) -> Server:
    """A server with a file in git, which notifies the receiver."""
    urls = listed(server, f"json://user:{TOKEN}@127.0.0.1:{receiver.port}/hook")
    server.settings["notifications"] = {"urls_file": str(urls), "digest": "1s"}
    server.commit({"api.env": f"A=1\nTOKEN={VALUE}\n".encode()}, server.plain(["api.env"]))
    return server


def listed(server: Server, *urls: str) -> Path:
    path = server.root / "urls"
    path.touch(0o600)
    path.write_text("\n".join(["# on call", "", *urls]))
    return path


def test_a_failure_is_one_message_whatever_restarts_and_its_end_another(
    notifying: Server, receiver: MessageReceiver
) -> None:
    with notifying.daemon() as daemon:
        eventually(lambda: len(receiver.lines) == 1, timeout=30)
        assert receiver.lines[0].startswith("production on test: applied. Revision ")
        assert "by Ada Example" in receiver.lines[0]
        assert receiver.lines[0].endswith("api.env: A, TOKEN added")

        notifying.commit({"environment.yaml": b"targets: {api.env: {onwer: x}}\n"})
        assert notifying.sync()["result"] == "stalled"
        eventually(lambda: len(receiver.lines) == 2, timeout=30)
        assert receiver.lines[1].startswith("production on test: stalled. envs/production/environment.yaml:1: ")
        assert receiver.messages[1]["title"] == "production on test: stalled"
        assert receiver.messages[1]["type"] == "failure"
        counter = 'reconciler_notifications_total{event="stalled",result="accepted"}'
        eventually(lambda: daemon.metrics()[counter] == 1)

        assert notifying.cli("reload").returncode == 0
        assert notifying.sync()["result"] == "stalled"
    with notifying.daemon():
        assert notifying.sync()["result"] == "stalled"
        notifying.commit({}, notifying.plain(["api.env"]))
        assert notifying.sync()["result"] == "in_sync"
        eventually(lambda: len(receiver.lines) == 3, timeout=30)
    assert receiver.lines[2].startswith("production on test: recovered. It was: stalled, for ")
    assert not receiver.shown_by
    log = (notifying.root / "daemon.log").read_text()
    assert TOKEN not in log
    assert str(receiver.port) not in log
    assert VALUE not in str(receiver.messages) + log


@pytest.mark.docker
def test_a_rollback_is_reported_with_its_reason_and_once_what_fixes_it(
    stack_server: Callable[..., tuple[Server, ComposeProject]], receiver: MessageReceiver
) -> None:
    server, project = stack_server(MAY_CRASH)
    urls = listed(server, f"json://127.0.0.1:{receiver.port}/hook")
    server.settings["notifications"] = {"urls_file": str(urls), "digest": "1s", "events": ["rolled_back", "recovered"]}
    server.settings["http"]["page_url"] = "https://rec.example.org/"
    server.commit({"api.env": f"MODE=good\nTOKEN={VALUE}\n".encode()}, server.manifest(["api.env"]))
    assert server.sync()["result"] == "applied"
    project.up()
    with server.daemon():
        server.commit({"api.env": f"MODE=bad\nTOKEN={VALUE}\n".encode()})
        run = server.sync()
        assert run["result"] == "rolled_back"
        eventually(lambda: len(receiver.lines) == 1, timeout=30)
        assert receiver.lines[0].startswith("production on test: rolled back. stack app: api exited with code 1")
        assert receiver.lines[0].endswith(f"Fix it with a new commit https://rec.example.org/runs/{run['run']}")
        assert server.sync()["result"] == "in_sync"
        server.commit({"api.env": f"MODE=fixed\nTOKEN={VALUE}\n".encode()})
        assert server.sync()["result"] == "applied"
        eventually(lambda: len(receiver.lines) == 2, timeout=30)
    assert receiver.lines[1].startswith("production on test: recovered. It was: rolled back, for ")
    assert VALUE not in str(receiver.messages)


def test_a_test_message_says_who_accepted_it_and_doctor_what_is_wrong(
    notifying: Server, receiver: MessageReceiver
) -> None:
    assert notifying.cli("notify", "--test").returncode == 0
    assert receiver.messages[-1]["title"] == "reconciler on test: test"
    path = listed(notifying, f"json://127.0.0.1:{receiver.port}/{TOKEN}", f"slack://{TOKEN}", f"nonsense://{TOKEN}")
    done = notifying.cli("notify", "--test", "--json")
    assert done.returncode == 1
    good, *bad = read_answer("notify", done.stdout)
    assert good == {"line": 3, "receiver": "json://127.0.0.1", "accepted": True, "problem": ""}
    assert [(known["line"], known["receiver"], known["problem"]) for known in bad] == [
        (4, "slack", "is not a URL that apprise knows"),
        (5, "nonsense", "is not a URL that apprise knows"),
    ]
    findings = notifying.json("doctor")
    results = [finding["result"] for finding in findings if finding["component"] == "notifications"]
    assert results == [f"{path}:{line}: is not a URL that apprise knows" for line in (4, 5)]
    path.chmod(0o644)
    printed = notifying.cli("doctor").stdout + notifying.cli("notify", "--test").stderr
    assert printed.count("others may read its tokens") == 2
    assert TOKEN not in done.stdout + done.stderr + str(findings) + printed
    assert notifying.cli("notify").returncode == 1


def test_a_receiver_that_hangs_or_fails_delays_neither_a_reconciliation_nor_the_others(
    notifying: Server, receiver: MessageReceiver
) -> None:
    with message_receiver() as hanging:
        hanging.open.clear()
        listed(
            notifying,
            f"json://127.0.0.1:{hanging.port}/{TOKEN}",
            f"json://127.0.0.1:{receiver.port}/hook",
            "json://127.0.0.1:1/nobody",
        )
        with notifying.daemon() as daemon:
            eventually(lambda: hanging.requests == 1 and len(receiver.lines) == 1, timeout=30)
            notifying.commit({"api.env": b"A=2\n"}, message="while it hangs")
            assert notifying.sync()["result"] == "applied"
            assert hanging.messages == []
            assert notifying.live("api.env") == b"A=2\n"
            hanging.open.set()
            eventually(lambda: len(receiver.lines) == len(hanging.lines) == 2, timeout=60)
            assert hanging.lines == receiver.lines
            assert daemon.metrics()["reconciler_notifications_failing_since_timestamp_seconds"] > 0
    log = (notifying.root / "daemon.log").read_text()
    assert re.search(r"notification dropped: \d message\(s\) that were not accepted yet", log)
    assert TOKEN not in log
