"""What a scrape of a real daemon shows: every documented metric, and the facts that only a running daemon knows."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from reconciler.core.model.requests import ReconcileRequest
from reconciler.core.model.runs import Activity, Outcome, Result
from tests.support.commands import run
from tests.support.components import program
from tests.support.compose import ComposeProject
from tests.support.loop import make_loop
from tests.support.server import Daemon, Server
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parent.parent.parent / "docs/metrics.md"
API = {"stack": "app", "service": "api"}
TOKEN = b"the webhook's own token"
SLEEPER = "services: {api: {image: IMAGE, network_mode: host, env_file: [api.env], command: [sleep, infinity]}}"
MORTAL = """\
services:
  api:
    image: IMAGE
    network_mode: host
    init: true
    env_file: [api.env]
    volumes: ['./order:/order:ro']
    command: [sh, -c, 'until test -e /order/die; do sleep 0.2; done; exit 3']
"""


def value(daemon: Daemon, name: str, **labels: str) -> float | None:
    """The sample whose labels these are, beside host and environment; None where there is none."""
    for family in text_string_to_metric_families(daemon.get("/metrics")[1]):
        for sample in family.samples:
            own = {label: text for label, text in sample.labels.items() if label not in ("environment", "host")}
            if (sample.name, own) == (f"reconciler_{name}", labels):
                return sample.value
    return None


def names(daemon: Daemon) -> set[str]:
    families = list(text_string_to_metric_families(daemon.get("/metrics")[1]))
    names = {family.name + ("_total" if family.type == "counter" else "") for family in families}
    return {name.removeprefix("reconciler_") for name in names if name.startswith("reconciler_")}


@pytest.mark.docker
@pytest.mark.prometheus
def test_a_daemon_with_a_stack_exposes_every_documented_metric_in_good_form(
    stack_server: Callable[..., tuple[Server, ComposeProject]],
) -> None:
    server, project = stack_server(SLEEPER)
    server.commit({"api.env": b"A=1\n", "b.env": b"B=1\n"}, server.manifest(["api.env", "b.env"]))
    server.sync()
    project.up()
    server.settings["comparisons"] = {"again": {"left": "git:production", "right": "live:production"}}
    server.settings["promotion"] = {"publish": True}
    server.commit({"api.env": b"A=2\n", "b.env": None}, server.manifest(["api.env"]))
    with server.daemon() as daemon:
        documented = set(re.findall(r"^\| `(\w+)` \|", PAGE.read_text(), re.MULTILINE))
        eventually(lambda: names(daemon) == documented, timeout=30)  # the comparison is made beside the rest
        checked = run(program("promtool") or "", "check", "metrics", stdin=daemon.get("/metrics")[1].encode())
        assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


@pytest.mark.docker
def test_a_service_that_dies_and_comes_back_is_reported_though_nothing_is_applied(
    stack_server: Callable[..., tuple[Server, ComposeProject]],
) -> None:
    server, project = stack_server(MORTAL, {"order/none": ""})
    server.commit({"api.env": b"A=1\n"}, server.manifest(["api.env"]))
    server.sync()
    project.up()
    server.settings["drift"]["interval"] = "1s"
    with server.daemon() as daemon:
        assert value(daemon, "service_healthy", **API, state="running") == 1
        (server.app / "order/die").touch()
        eventually(lambda: value(daemon, "service_healthy", **API, state="exited") == 0, timeout=30)
        assert value(daemon, "health_status", stack="app", status="unhealthy") == 1
        assert value(daemon, "failure_to_recovered_seconds_count") == 0

        (server.app / "order/die").unlink()
        project.compose("start", "api")

        eventually(lambda: value(daemon, "failure_to_recovered_seconds_count") == 1, timeout=30)
        assert value(daemon, "service_healthy", **API, state="running") == 1
        assert value(daemon, "health_status", stack="app", status="healthy") == 1

        project.compose("down")

        eventually(lambda: value(daemon, "health_status", stack="app", status="stopped") == 1, timeout=30)
        assert not [name for name in daemon.metrics() if name.startswith("reconciler_service_healthy")]


def test_a_new_revision_a_pause_and_notifications_are_counted(server: Server) -> None:
    server.commit({"api.env": b"A=1\n", "b.env": b"B=1\n"}, server.plain(["api.env", "b.env"]))
    server.settings["webhook"] = {"secret_file": str(server.root / "token")}
    (server.root / "token").write_bytes(TOKEN)
    with server.daemon() as daemon:
        assert value(daemon, "commit_to_applied_seconds_count") == 0
        assert value(daemon, "reconcile_total", result="applied") == 1
        eventually(lambda: value(daemon, "last_result", result="in_sync") == 1, timeout=30)  # after its own write
        assert value(daemon, "reconcile_interval_seconds") == 600
        assert value(daemon, "webhook_requests_total", code="202") == 0

        server.commit({"api.env": b"A=2\n"})
        assert daemon.post("/webhook", b"", {"X-Gitlab-Token": "guess"})[0] == 403
        assert daemon.post("/webhook", b" " * (1024 * 1024 + 1), {"X-Gitlab-Token": TOKEN.decode()})[0] == 413
        assert daemon.post("/webhook", b"", {"X-Gitlab-Token": TOKEN.decode()})[0] == 202
        for code in ("202", "403", "413"):
            assert value(daemon, "webhook_requests_total", code=code) == 1, code
        eventually(lambda: value(daemon, "commit_to_applied_seconds_count") == 1, timeout=30)
        assert value(daemon, "backups", target="production/api.env") == 2

        assert server.cli("pause", "production/api.env", "--for", "1h", "--reason", "trying").returncode == 0
        assert value(daemon, "paused", target="production/api.env") == 1
        assert value(daemon, "paused", target="production/b.env") is None
        assert (value(daemon, "paused_until_timestamp_seconds", target="production/api.env") or 0) > 1e9
        assert server.cli("resume", "production/api.env").returncode == 0
        assert value(daemon, "paused", target="production/api.env") is None

        server.commit({"b.env": None}, server.plain(["api.env"]))
        server.sync()
        left = [line for line in daemon.get("/metrics")[1].splitlines() if "production/b.env" in line]
        assert [line.partition("{")[0] for line in left] == ["reconciler_orphan_since_timestamp_seconds"]


async def test_an_idle_loop_turns_long_before_the_next_reconciliation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a daemon that looks rarely would seem to hang."""
    monkeypatch.setattr("reconciler.app.daemon.loop._TURN", 0.01)
    turned, triggers = asyncio.Event(), []

    class Idle:
        environment = "production"
        live_paths: frozenset[str] = frozenset()
        activity = Activity()

        async def reconcile(self, request: ReconcileRequest) -> Outcome:
            triggers.append(request.trigger)
            return Outcome("production", Result.IN_SYNC, "in sync")

    class Ticks:
        count = 0

        def tick(self, at: float) -> None:
            self.count += 1
            if self.count == 5:
                turned.set()

    loop = make_loop(tmp_path, {"production": Idle()}, Ticks())
    running = asyncio.create_task(loop.run())
    await asyncio.wait_for(turned.wait(), 120)
    loop.stop()
    await running
    assert triggers == ["start"]
