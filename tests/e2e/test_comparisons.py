"""The comparisons that the daemon makes by itself: from a push to the metric, through a real git, sops and sshd."""

from __future__ import annotations

import time

import pytest

from tests.support.json_answers import read_answer
from tests.support.server import Daemon, Server
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

TOKEN = b"the webhook's own token"
CANARY = "invented-"
RELEASES = 'comparison="releases",left="git:staging",right="git:production"'


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


def differences(daemon: Daemon, pair: str = RELEASES) -> dict[str, float]:
    """The numbers of differences that are not 0, by class; none before the first comparison."""
    classes = {}
    for name, value in daemon.metrics().items():
        if name.startswith("reconciler_environment_differences{") and all(label in name for label in pair.split(",")):
            classes[name.partition('class="')[2].partition('"')[0]] = value
    return {name: value for name, value in classes.items() if value} if classes else {"none": 1}


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

        done = server.cli("compare", "releases", "--json")
        (comparison,) = read_answer("compare", done.stdout)["comparisons"]
        assert (done.returncode, comparison["unexplained"]) == (2, 1)
        assert "1 key of staging is missing in production: NEW" in comparison["sentences"]
        assert CANARY not in done.stdout + done.stderr + daemon.log.read_text()
    print(f"from the push to the metric: {took:.1f} s")
    assert took < 60
