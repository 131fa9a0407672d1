"""The comparisons that the daemon makes by itself: from a push to the metric, through a real git, sops and sshd."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.age_key import make_age_key
from tests.support.json_answers import read_answer
from tests.support.server import Daemon, Server
from tests.support.sshd import Sshd
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

TOKEN = b"the webhook's own token"
CANARY = "invented-"


@pytest.fixture
def server(server: Server) -> Server:
    """Follows production; staging is only in git. The first comparison has nothing to complain about."""
    server.settings["webhook"] = {"secret_file": str(server.root / "token")}
    (server.root / "token").write_bytes(TOKEN)
    server.settings["comparisons"] = {"releases": {"left": "git:staging", "right": "git:production"}}
    for environment in ("production", "staging"):
        sources = {"api.env": f"TOKEN={CANARY}{environment}\nMODE=fast\n".encode()}
        server.commit(sources, server.plain(["api.env"]), environment=environment)
    return server


def differences(daemon: Daemon, pair: str = "releases") -> dict[str, float] | None:
    """The numbers of differences that are not 0, by class; None before the first comparison."""
    classes = {
        name.partition('class="')[2].partition('"')[0]: value
        for name, value in daemon.metrics().items()
        if name.startswith("reconciler_environment_differences{") and f'comparison="{pair}"' in name
    }
    return {name: value for name, value in classes.items() if value} if classes else None


def announce(daemon: Daemon) -> None:
    assert daemon.post("/webhook", b"", {"X-Gitlab-Token": TOKEN.decode()})[0] == 202


def test_a_new_key_on_staging_is_missed_in_production_within_a_minute_of_its_push(server: Server) -> None:
    with server.daemon() as daemon:
        eventually(lambda: differences(daemon) == {"expected": 1}, timeout=60)  # the secret, which must differ

        server.commit(
            {"api.env": f"TOKEN={CANARY}staging\nMODE=fast\nNEW={CANARY}key\n".encode()}, environment="staging"
        )
        announce(daemon)
        pushed = time.monotonic()
        eventually(lambda: differences(daemon) == {"expected": 1, "missing-right": 1}, timeout=60)
        took = time.monotonic() - pushed

        (pair,) = json.loads(daemon.get("/api/v1/comparison")[1])["comparisons"]
        (key,) = [difference for difference in pair["differences"] if difference["unexplained"]]
        assert (pair["verdict"], key["class"], key["name"]) == ("1 unexplained finding", "missing-right", "NEW")
        page = daemon.get("/comparison")[1]
        assert "1 unexplained finding" in page
        assert "<code>NEW</code>" in page
        assert CANARY not in page + str(pair)

        done = server.cli("compare", "releases", "--json")
        (comparison,) = read_answer("compare", done.stdout)["comparisons"]
        assert (done.returncode, comparison["unexplained"]) == (2, 1)
        assert "1 key of staging is missing in production: NEW" in comparison["sentences"]
        assert CANARY not in done.stdout + done.stderr + daemon.log.read_text()
        for arguments, problem in (
            (["relesaes"], "is not one of the server's comparisons"),
            (["releases", "--same-environment"], "its options are those of the server configuration"),
            (["live:production", "live:production@web-9"], "web-9 is not one of this server's hosts"),
        ):
            refused = server.cli("compare", *arguments)
            assert (refused.returncode, problem in refused.stderr) == (1, True), refused.stderr
    print(f"from the push to the metric: {took:.1f} s")


@pytest.mark.sshd
def test_live_sides_are_compared_over_ssh_and_one_that_fails_keeps_its_last_result(
    server: Server, sshd: Sshd, tmp_path: Path
) -> None:
    copy, stranger = tmp_path / "copy", tmp_path / "stranger"
    copy.mkdir()
    stranger.mkdir()
    (copy / "api.env").write_text(f"TOKEN={CANARY}production\n")
    (copy / "api.env").chmod(0o600)
    for name in ("production", "staging"):
        sources = {"api.env": f"TOKEN={CANARY}{name}\nMODE=fast\n".encode()}
        owner = server if name == "production" else replace(server, key=make_age_key(stranger))
        owner.commit(sources, environment=name)
    address = f"ssh://{sshd.user}@{sshd.host}:{sshd.port}{copy}"
    keys = {"ssh_key_file": str(sshd.key_path), "known_hosts_file": str(sshd.known_hosts)}
    server.settings["hosts"] = {"web-2": sshd.as_host()}
    server.settings["comparisons"] |= {
        "hosts": {"left": "live:production", "right": "live:production@web-2"},
        "copy": {"left": "live:production", "right": address, "interval": "1s", "same_environment": True, **keys},
    }
    sides = f'comparison="copy",left="live:production",right="{sshd.host}:{sshd.port}"'
    failing = f"reconciler_comparison_failing_since_timestamp_seconds{{{sides}}}"
    with server.daemon() as daemon:
        # Both hosts are this machine; its key does not open what staging has.
        expected = {"hosts": {}, "copy": {"missing-right": 1}, "releases": {"unknown": 2}}
        eventually(lambda: {pair: differences(daemon, pair) for pair in expected} == expected, timeout=60)
        assert daemon.metrics()[failing] == 0

        sshd.stop()

        eventually(lambda: daemon.metrics()[failing] > 0, timeout=60)
        assert differences(daemon, "copy") == {"missing-right": 1}
        assert server.cli("reload").returncode == 0
        assert differences(daemon, "copy") == {"missing-right": 1}
        (reason,) = {event["reason"] for event in daemon.events() if event.get("event") == "comparison failed"}
        assert sshd.host in reason
        assert CANARY not in daemon.log.read_text()
