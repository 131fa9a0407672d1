"""Production waits for staging: two real daemons, one config repository between them, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.compose import ComposeProject
from tests.support.server import Daemon, Server
from tests.support.waiting import eventually

MAY_CRASH = """\
services:
  api:
    image: IMAGE
    network_mode: host
    stop_grace_period: 0s
    env_file: [api.env]
    command: [sh, -c, 'case $$MODE in bad*) exit 1;; esac; exec sleep infinity']
"""
REPORTS = "refs/reconciler/healthy"


def commit_both(staging: Server, mode: str) -> str:
    """What a pull request for both environments brings: one commit."""
    files = {
        f"envs/{name}/api.env": staging.key.encrypt("api.env", f"MODE={mode}\n".encode())
        for name in ("staging", "production")
    }
    return staging.remote.commit(files, f"Change the mode to {mode}")


def reports(server: Server) -> dict[str, str]:
    lines = server.remote.git("for-each-ref", "--format=%(refname) %(objectname)", REPORTS).splitlines()
    return {ref.removeprefix(f"{REPORTS}/"): commit for ref, commit in (line.split() for line in lines)}


def state(daemon: Daemon) -> dict[str, str]:
    (environment,) = json.loads(daemon.get("/api/v1/status")[1])["environments"]
    return dict(environment)


@pytest.fixture
def servers(
    stack_server: Callable[..., tuple[Server, ComposeProject]], tmp_path: Path
) -> tuple[Server, Server, ComposeProject]:
    """Staging has a container; production has files only. Both are in sync at one commit."""
    staging, project = stack_server(MAY_CRASH)
    live = tmp_path / "p" / "app"
    live.mkdir(parents=True)
    production = Server(tmp_path / "p", live, staging.remote, staging.key, forked=True)
    quick = {"poll_interval": "1s", "url": staging.remote.url}
    staging.settings |= {"environment": "staging", "host": "web-1", "repository": quick, "drift": {"interval": "1s"}}
    staging.settings["promotion"] = {"publish": True}
    staging.settings["rollback"] = {"git": "push"}
    production.settings |= {"repository": quick}
    production.settings["promotion"] = {"gates": {"production": {"after": ["staging@web-1"], "for": "5s"}}}
    staging.commit({"api.env": b"MODE=good1\n"}, staging.manifest(["api.env"]), environment="staging")
    staging.commit({"api.env": b"MODE=good1\n"}, production.plain(["api.env"]))
    assert staging.sync()["result"] == "applied"
    project.up()
    first = production.sync("--skip-promotion", "--reason", "the first one")
    assert (first["result"], first["exit_code"]) == ("applied", 0)
    return staging, production, project


@pytest.mark.docker
def test_production_follows_what_staging_has_proven(
    servers: tuple[Server, Server, ComposeProject],
) -> None:
    staging, production, _ = servers
    with production.daemon() as waits, staging.daemon():
        commit = commit_both(staging, "good2")
        held = eventually(lambda: last if (last := state(waits))["result"] == "held" else None, timeout=60)
        assert "staging@web-1" in held["reason"]
        assert "waits to be promoted: staging@web-1" in waits.get("/")[1]
        assert production.live("api.env") == b"MODE=good1\n"
        assert waits.metrics()['reconciler_promotion_waiting{environment="production"}'] == 1
        eventually(lambda: production.live("api.env") == b"MODE=good2\n", timeout=90)
        assert reports(staging)["staging@web-1/5"] == commit
        assert eventually(lambda: state(waits)["result"] == "in_sync", timeout=30)
        assert waits.metrics()['reconciler_promotion_waiting{environment="production"}'] == 0

        bad = commit_both(staging, "bad")
        revert = eventually(lambda: head if (head := staging.remote.head()) != bad else None, timeout=90)
        # The revert brings back what production has: it does not wait for staging to be healthy with it.
        eventually(lambda: (state(waits)["head"]["commit"], state(waits)["result"]) == (revert, "in_sync"), timeout=60)
        eventually(lambda: set(reports(staging).values()) == {revert}, timeout=60)
        assert production.live("api.env") == b"MODE=good2\n"
    history = production.json("history")
    assert len([run for run in history if any(change["changed"] == ["MODE"] for change in run["changes"])]) == 1
    assert any("let revision" in run["reason"] for run in history)


def test_a_server_that_may_not_push_says_so_and_reconciles_all_the_same(server: Server) -> None:
    server.settings["promotion"] = {"publish": True}
    server.commit({"api.env": b"MODE=good1\n"}, server.plain(["api.env"]))
    hook = server.remote.path / "hooks" / "pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho 'this key is read-only' >&2\nexit 1\n")
    hook.chmod(0o755)
    with server.daemon() as daemon:
        refused = 'reconciler_health_reports_total{result="refused"}'
        eventually(lambda: daemon.metrics()[refused] >= 1, timeout=60)
        warnings = [event for event in daemon.events() if "health-report-refused" in str(event)]
        assert len(warnings) == 1
        assert "this key is read-only" in str(warnings[0])
        assert state(daemon)["result"] in ("applied", "in_sync")
        examined = {finding["component"]: finding for finding in server.json("doctor")}
        assert examined["health reports"]["level"] == "warning"
        assert "no report of production@test" in examined["health reports"]["result"]
    assert reports(server) == {}
