"""A pull request is planned before it is merged: a status and one comment at the forge. Real git, sops, Compose project
and daemon; the forge is a server on loopback."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.test_forge import report_to, shown
from tests.support.compose import ComposeProject
from tests.support.forge import Pull, fake_forge
from tests.support.server import Daemon, Server
from tests.support.waiting import eventually

SECRET = b"the webhook's own secret"
CANARY = "c4n4ry-w1th-n0-equal"
TWO_SERVICES = """\
services:
  api:
    image: IMAGE
    network_mode: host
    env_file: [api.env]
  worker:
    image: IMAGE
    network_mode: host
    env_file: [worker.env]
"""


def announce(daemon: Daemon, event: str, body: object) -> tuple[int, str]:
    data = json.dumps(body).encode()
    signature = hmac.new(SECRET, data, hashlib.sha256).hexdigest()
    return daemon.post("/webhook", data, {"X-Hub-Signature-256": f"sha256={signature}", "X-GitHub-Event": event})


@pytest.mark.docker
def test_a_pull_request_is_planned_and_its_merge_does_what_was_planned(
    stack_server: Callable[..., tuple[Server, ComposeProject]],
) -> None:
    server, project = stack_server(TWO_SERVICES)
    api, worker = f"TOKEN={CANARY}1\nPORT=1\n".encode(), b"W=1\n"
    server.commit({"api.env": api, "worker.env": worker}, server.manifest(["api.env", "worker.env"]))
    assert server.sync()["result"] == "applied"
    project.up()
    (server.root / "webhook").write_bytes(SECRET)
    server.settings["webhook"] = {"secret_file": str(server.root / "webhook")}
    with fake_forge("github") as forge:
        report_to(server, forge, "github")
        server.settings["forge"]["plan_pull_requests"] = ["change/*"]
        with server.daemon() as daemon:
            server.remote.make_branch("change/token")
            changed = server.key.encrypt("api.env", f"TOKEN={CANARY}2\nPORT=1\n".encode())
            head = server.remote.commit({"envs/production/api.env": changed}, branch="change/token")
            forge.pulls += [
                Pull(7, "change/token", head),
                Pull(8, "change/token", head, fork=True),
                Pull(9, "other", head),
            ]
            assert announce(daemon, "push", {"ref": "refs/heads/other"})[0] == 200
            assert announce(daemon, "push", {"ref": "refs/heads/change/token"}) == (202, "planning\n")
            status = shown(forge, head, "success")
            assert (status["context"], status["summary"]) == (
                "reconciler/plan@test",
                "production@test: api recreated (PORT, TOKEN changed), worker untouched",
            )
            eventually(lambda: forge.comments.get(7))
            assert forge.comments.keys() == {7}
            assert server.live("api.env") == api
            (comment,) = forge.comments[7]

            # Another push replaces the text of the one comment; a breach is a failure.
            unreadable = server.remote.commit({"envs/production/worker.env": b"W=2\n"}, branch="change/token")
            forge.pulls[0].head = unreadable
            assert announce(daemon, "pull_request", {"action": "synchronize"}) == (202, "planning\n")
            assert "would be refused" in shown(forge, unreadable, "failure")["summary"]
            eventually(lambda: "would be refused" in comment["text"])
            assert len(forge.comments[7]) == 1

            server.remote.make_branch("change/token", head)
            server.remote.merge("change/token")
            server.sync()
            run = server.json("history", "--limit", "1")[0]
            assert (run["result"], [service["service"] for service in run["actions"]]) == ("applied", ["api"])
        assert [name for name in Path(server.state).iterdir() if name.name.startswith("merge-")] == []
        everything = json.dumps([forge.statuses, forge.comments]) + Path(daemon.log).read_text()
        assert CANARY not in everything
