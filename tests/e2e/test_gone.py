"""What ran and runs no more, on a real engine: seen whatever ended it, and started by nobody but an operator."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.commands import output
from tests.support.compose import ComposeProject
from tests.support.monitoring import alertmanager, prometheus, receiver
from tests.support.server import Daemon, Server
from tests.support.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.docker]

LOST = ("killed", "slain", "stopped", "ungraceful", "removed", "replaced")
SERVICE = """\
  {name}:
    image: IMAGE
    network_mode: host
    init: true
    stop_grace_period: {grace}
    env_file: [api.env]
    command: {command}
"""
SLEEP = "[sleep, infinity]"
# Takes its stop for a failure, as many a program does.
FAILS_WHEN_STOPPED = """[sh, -c, 'trap "exit 1" TERM; while :; do sleep 0.1; done']"""
FEW = "services:\n" + "".join(
    [
        SERVICE.format(name="ungraceful", grace="30s", command=FAILS_WHEN_STOPPED),
        SERVICE.format(name="steady", grace="0s", command=SLEEP),
        SERVICE.format(name="init", grace="0s", command="[sh, -c, 'sleep 2']"),
    ]
)
COMPOSE = FEW + "".join(SERVICE.format(name=name, grace="0s", command=SLEEP) for name in LOST if name != "ungraceful")
WELL = dict.fromkeys((*LOST, "steady"), ("running", 1.0))
FEW_WELL = {name: WELL[name] for name in ("ungraceful", "steady")}
ENDED = {
    "killed": ("killed", 0.0),
    "slain": ("killed", 0.0),
    "stopped": ("stopped", 0.0),
    "ungraceful": ("stopped", 0.0),
    "removed": ("missing", 0.0),
    "replaced": ("replaced", 0.0),
    "steady": ("running", 1.0),
}


def states(daemon: Daemon) -> dict[str, tuple[str, float]]:
    """State and value of `service_healthy`, by service; a service with two series fails the test."""
    seen: dict[str, tuple[str, float]] = {}
    for family in text_string_to_metric_families(daemon.get("/metrics")[1]):
        for sample in family.samples:
            if sample.name == "reconciler_service_healthy":
                assert sample.labels["service"] not in seen
                seen[sample.labels["service"]] = (sample.labels["state"], sample.value)
    return seen


def stack_status(daemon: Daemon) -> str:
    metrics = daemon.metrics()
    (status,) = [name for name, value in metrics.items() if name.startswith("reconciler_health_status") and value]
    return status.partition('status="')[2].partition('"')[0]


def services(status: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {service["service"]: service for service in status["environments"][0]["services"]}


def end(project: ComposeProject) -> None:
    """Every service of LOST ends in its own way."""
    ids = {name: project.container(name) for name in LOST}
    output("docker", "kill", ids["killed"]["Id"])
    os.kill(ids["slain"]["State"]["Pid"], signal.SIGKILL)
    output("docker", "stop", "-t", "0", ids["stopped"]["Id"])
    output("docker", "stop", ids["ungraceful"]["Id"])
    output("docker", "rm", "-f", ids["removed"]["Id"])
    output("docker", "rm", "-f", ids["replaced"]["Id"])
    name, image = ids["replaced"]["Name"].lstrip("/"), ids["replaced"]["Image"]
    output("docker", "run", "-d", "--network", "none", "--name", name, image, "sleep", "infinity")


@pytest.fixture
def stack(
    stack_server: Callable[..., tuple[Server, ComposeProject]], request: pytest.FixtureRequest
) -> Iterator[tuple[Server, ComposeProject]]:
    """The services of COMPOSE, or those that the test's parameter names."""
    server, project = stack_server(getattr(request, "param", COMPOSE))
    server.commit({"api.env": b"A=1\n"}, server.manifest(["api.env"]))
    server.sync()
    project.up()
    server.settings["drift"]["interval"] = "1s"
    yield server, project
    output("sh", "-c", f"docker rm -f {project.name}-replaced-1 2>/dev/null || true")


def test_a_service_that_ran_is_missed_until_it_runs_again(stack: tuple[Server, ComposeProject]) -> None:
    server, project = stack
    with server.daemon() as daemon:
        eventually(lambda: states(daemon) == WELL, timeout=60)  # the init service among them, while it ran
        end(project)
        eventually(lambda: states(daemon) == ENDED, timeout=60)
        assert stack_status(daemon) == "unhealthy"
        status = json.loads(daemon.get("/api/v1/status")[1])
        assert {name: service["healthy"] for name, service in services(status).items()} == {
            name: bool(value) for name, (_, value) in ENDED.items()
        }
        by_hand = {name for name, service in services(status).items() if "stopped by hand" in service["reason"]}
        assert by_hand == {"stopped", "ungraceful"}
        assert services(status) == services(server.json("status"))
        (line,) = [it for it in server.cli("status").stdout.splitlines() if it.startswith("  app/killed ")]
        assert "killed through the engine (docker kill), noticed at 20" in line
        assert line.endswith(f"up -d killed` in {project.directory} starts it")

    with server.daemon() as daemon:  # it remembers
        eventually(lambda: states(daemon) == ENDED, timeout=60)
        server.commit({"api.env": b"A=2\n"})
        server.sync()
        assert project.environment("steady")["A"] == "2"
        running = output("docker", "ps", "-q", "--filter", f"label=com.docker.compose.project={project.name}")
        assert len(running.split()) == 1  # the rotation has started nothing that was stopped
        eventually(lambda: states(daemon) == ENDED, timeout=60)

        assert server.cli("pause", "production/app", "--for", "1h").returncode == 0
        eventually(lambda: states(daemon) == {"steady": ("running", 1.0)}, timeout=60)
        assert services(server.json("status"))["killed"]["acknowledged"]
        assert server.cli("resume", "production/app").returncode == 0
        eventually(lambda: states(daemon) == ENDED, timeout=60)

        output("docker", "rm", "-f", f"{project.name}-replaced-1")
        project.up()
        eventually(lambda: states(daemon) == WELL, timeout=60)
        assert stack_status(daemon) == "healthy"


@pytest.mark.parametrize("stack", [pytest.param(FEW, id="few")], indirect=True)
@pytest.mark.parametrize("command", ["stop", "down"])
def test_a_project_that_is_taken_down_on_purpose_is_not_unhealthy(
    stack: tuple[Server, ComposeProject], command: str
) -> None:
    server, project = stack
    with server.daemon() as daemon:
        eventually(lambda: states(daemon) == FEW_WELL, timeout=60)
        assert project.compose(command).returncode == 0
        eventually(lambda: stack_status(daemon) == "stopped", timeout=60)
        assert states(daemon) == {}
    with server.daemon() as daemon:
        assert (stack_status(daemon), states(daemon)) == ("stopped", {})
        known = services(server.json("status"))
        assert known.keys() == FEW_WELL.keys()
        assert all("stopped by hand" in service["reason"] and service["acknowledged"] for service in known.values())
        project.up()
        eventually(lambda: states(daemon) == FEW_WELL, timeout=60)


@pytest.mark.prometheus
def test_one_alert_names_the_state_and_lasts_while_it_changes(
    stack_server: Callable[..., tuple[Server, ComposeProject]], tmp_path: Path
) -> None:
    server, project = stack_server("services:\n" + SERVICE.format(name="api", grace="0s", command=SLEEP))
    server.commit({"api.env": b"A=1\n"}, server.manifest(["api.env"]))
    server.sync()
    project.up()
    server.settings["drift"]["interval"] = "1s"
    with (
        server.daemon() as daemon,
        receiver() as heard,
        alertmanager(tmp_path / "alertmanager", heard.url) as manager,
        prometheus(tmp_path / "prometheus", daemon.port, alertmanager=manager.port) as watching,
    ):
        eventually(lambda: watching.samples("reconciler_service_healthy == 1"), timeout=60)
        output("docker", "kill", project.container("api")["Id"])
        fired = eventually(lambda: heard.notification("ReconcilerUnhealthy", "firing"), timeout=60)
        assert "api of production/app" in fired["annotations"]["summary"]
        assert "killed" in fired["annotations"]["summary"]
        output("docker", "rm", project.container("api")["Id"])
        eventually(lambda: watching.samples('reconciler_service_healthy{state="missing"} == 0'), timeout=60)
        assert heard.notification("ReconcilerUnhealthy", "resolved") is None
        project.up()
        resolved = eventually(lambda: heard.notification("ReconcilerUnhealthy", "resolved"), timeout=60)
        assert resolved["fingerprint"] == fired["fingerprint"]
