"""What a merged change comes to is seen at the forge: statuses beside the commit, a comment on the pull request. Real
git, sops, Compose project and daemon; the forge is a server on loopback."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.compose import ComposeProject
from tests.support.forge import TOKEN, FakeForge, Pull, fake_forge
from tests.support.server import Server
from tests.support.waiting import eventually

MAY_CRASH = """\
services:
  api:
    image: IMAGE
    network_mode: host
    env_file: [api.env]
    command: [sh, -c, 'case $$MODE in bad*) exit 1;; esac; exec sleep infinity']
"""
CANARY = "c4n4ry-w1th-n0-equal"
CONTEXT = "reconciler/production@test"
PAGE = "https://ops.example.org/reconciler/"


def report_to(server: Server, forge: FakeForge, kind: str) -> None:
    token = server.root / "forge-token"
    token.write_text(f"{TOKEN}\n")
    token.chmod(0o600)
    server.settings["forge"] = {
        "kind": kind,
        "api_url": forge.url,
        "repository": forge.repository,
        "token_file": str(token),
    }
    server.settings["http"]["page_url"] = PAGE


def shown(forge: FakeForge, commit: str, state: str) -> dict[str, str]:
    """The last status of the commit, once it has this state."""

    def last() -> dict[str, str] | None:
        statuses = [status for status in forge.statuses if status["commit"] == commit]
        return statuses[-1] if statuses and statuses[-1]["state"] == state else None

    status = eventually(last)
    assert status is not None
    return status


def texts(forge: FakeForge) -> list[str]:
    return [comment["text"] for comment in forge.comments.get(7, [])]


def asked_by_doctor(server: Server) -> dict[str, str]:
    findings: list[dict[str, str]] = server.json("doctor")
    return next(finding for finding in findings if finding["component"] == "forge")


@pytest.mark.docker
def test_a_merge_is_followed_from_pending_to_success_and_a_rollback_to_its_comment(
    stack_server: Callable[..., tuple[Server, ComposeProject]],
) -> None:
    server, project = stack_server(MAY_CRASH)
    server.settings["rollback"] = {"git": "push", "author": "Reconciler <reconciler@example.org>"}
    good = server.commit({"api.env": f"MODE=good1\nTOKEN={CANARY}\n".encode()}, server.manifest(["api.env"]))
    assert server.sync()["result"] == "applied"
    project.up()
    with fake_forge("github") as forge:
        report_to(server, forge, "github")
        with server.daemon() as daemon:
            shown(forge, good, "success")
            better = server.commit({"api.env": f"MODE=good2\nTOKEN={CANARY}\n".encode()})
            server.cli("sync")
            status = shown(forge, better, "success")
            states = [known["state"] for known in forge.statuses if known["commit"] == better]
            assert states == ["pending", "success"]
            assert status["context"] == CONTEXT
            assert status["summary"] == "applied and healthy: api recreated"
            assert status["url"].startswith(f"{PAGE}runs/")
            forge.pulls.append(Pull(7))
            bad = server.commit({"api.env": f"MODE=bad\nTOKEN={CANARY}\nNEW=1\n".encode()}, message="Merge it (#7)")
            forge.pulls[0].merged = bad
            server.cli("sync")
            eventually(lambda: any("in git: pushed" in text for text in texts(forge)))
            assert shown(forge, bad, "failure")["summary"].startswith("rolled back: stack app: api exited")
            server.cli("sync")
            shown(forge, server.remote.head(), "success")
            assert daemon.metrics()['reconciler_forge_requests_total{result="ok"}'] >= 5
        (comment,) = texts(forge)
        assert "**`production@test`**" in comment
        assert "`NEW` added, `MODE` changed" in comment
        assert "`api`" in comment
        assert asked_by_doctor(server)["level"] == "ok"
        forge.may_write = False
        lacking = asked_by_doctor(server)
        assert lacking["level"] == "error"
        assert "Resource not accessible by personal access token" in lacking["result"]
        forge.may_write = True
        # A restart repeats nothing.
        requests_before = len(forge.requests)
        with server.daemon():
            server.sync()
        assert len(forge.requests) == requests_before
        everything = json.dumps([forge.statuses, forge.comments]) + Path(daemon.log).read_text()
        assert CANARY not in everything
        assert TOKEN not in everything
