"""Containers that run with other values than their files say, on real components."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.compose import ComposeProject
from tests.support.server import ENVIRONMENT, Server
from tests.support.waiting import eventually

COMPOSE = """\
services:
  api:
    image: IMAGE
    network_mode: host
    stop_grace_period: 0s
    env_file: [api.env, common.env]
    environment: {EXTRA: "${EXTRA:-}"}
  worker: {image: IMAGE, network_mode: host, env_file: [worker.env], stop_grace_period: 0s}
"""
Start = Callable[..., tuple[Server, ComposeProject]]
SOURCES = {"api.env": b"MODE=git\n", "common.env": b"REGION=eu\n", "worker.env": b"JOBS=4\n"}


@pytest.fixture
def start(stack_server: Callable[..., tuple[Server, ComposeProject]]) -> Start:
    """A server in sync, its stack up."""

    def make() -> tuple[Server, ComposeProject]:
        server, project = stack_server(COMPOSE)
        server.commit(SOURCES, server.manifest(list(SOURCES)))
        assert server.sync()["result"] == "applied"
        project.up()
        assert server.sync()["result"] == "in_sync"
        return server, project

    return make


def change_of(outcome: dict[str, Any], source: str) -> dict[str, Any]:
    (change,) = (change for change in outcome["plan"]["changes"] if change["target"] == f"{ENVIRONMENT}/{source}")
    return dict(change)


@pytest.mark.docker
def test_a_key_that_git_adopts_during_a_pause_reaches_the_service_with_the_daemon_running(start: Start) -> None:
    """Pause, append a key by hand, adopt it, merge, resume."""
    server, project = start()
    with server.daemon():
        server.cli("pause", f"{ENVIRONMENT}/app", "--reason", "an incident")
        with (server.app / "api.env").open("ab") as file:
            file.write(b"NEW=1\n")
        assert server.sync()["result"] == "held"
        adopted = server.json("adopt", f"{ENVIRONMENT}/api.env")
        server.remote.merge(adopted["branch"])
        paused = server.sync()
        assert (paused["result"], change_of(paused, "api.env")["aspects"]) == ("held", ["stale"])
        assert "api: container runs older values of NEW; paused until" in change_of(paused, "api.env")["reason"]
        assert [change_of(paused, name)["sync"] for name in SOURCES] == ["drifted", "in_sync", "in_sync"]
        assert "NEW" not in project.environment("api")
        server.cli("resume", f"{ENVIRONMENT}/app")
        eventually(lambda: project.environment("api").get("NEW") == "1")
    assert server.json("history")[0]["actions"][0]["reason"] == "container runs older values of NEW"
    assert server.sync()["result"] == "in_sync"


def by_hand(project: ComposeProject, service: str, **variables: str) -> None:
    """Recreate the container, with other variables in the shell."""
    done = project.compose("up", "-d", "--pull", "never", service, **variables)
    assert done.returncode == 0, done.stderr


@pytest.mark.docker
def test_a_container_recreated_by_hand_marks_the_file_that_explains_it_and_the_rest_goes_on(start: Start) -> None:
    server, project = start()
    (server.app / "api.env").write_bytes(b"MODE=hand\n")
    by_hand(project, "api")
    (server.app / "api.env").write_bytes(SOURCES["api.env"])
    server.commit({"worker.env": b"JOBS=5\n"})
    planned = server.json("plan")[0]
    assert {name: change_of(planned, name)["aspects"] for name in SOURCES} == {
        "api.env": ["stale"],
        "common.env": [],
        "worker.env": ["content"],
    }
    outcome = server.sync()
    assert outcome["result"] == "applied", outcome["reason"]
    assert (project.environment("api")["MODE"], project.environment("worker")["JOBS"]) == ("git", "5")


@pytest.mark.docker
def test_what_no_file_explains_is_reported_and_holds_that_service_with_its_files_only(start: Start) -> None:
    server, project = start()
    by_hand(project, "api", EXTRA="x")
    seen = server.sync()
    assert (seen["result"], [change_of(seen, name)["sync"] for name in SOURCES]) == ("in_sync", ["in_sync"] * 3)
    (note,) = seen["plan"]["notes"]
    assert "api runs with other values of EXTRA than the project says, and no managed file explains that" in note
    server.commit({"worker.env": b"JOBS=5\n", "common.env": b"REGION=us\n"})
    outcome = server.sync()
    assert (outcome["result"], project.environment("worker")["JOBS"]) == ("held", "5")
    assert "api: environment: EXTRA differs, and no managed file that it reads explains that" in outcome["reason"]
    held = change_of(outcome, "common.env")
    assert (held["effect"], held["reason"]) == ("hold", "git has new content; api of its stack app is held")
    assert [change_of(outcome, name)["aspects"] for name in ("api.env", "worker.env")] == [[], ["content"]]
    assert server.live("common.env") == SOURCES["common.env"]
    assert (project.environment("api")["EXTRA"], project.environment("api")["REGION"]) == ("x", "eu")
    again = server.sync("--accept-project", f"{ENVIRONMENT}/app")
    assert again["result"] == "applied", again["reason"]
    assert (project.environment("api")["EXTRA"], project.environment("api")["REGION"]) == ("", "us")
