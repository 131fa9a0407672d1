"""The main job on real components: git, sops, a Compose project on a real engine, and the installed command.

Every container here uses no network unless a test is about one: that makes a stack start in half a second.
"""

from __future__ import annotations

import os
import pwd
import socket
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.compose import MAY_CRASH, ComposeProject, left_behind
from tests.support.server import ENVIRONMENT, Server
from tests.support.sshd import Sshd
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

MakeStackServer = Callable[..., tuple[Server, ComposeProject]]
Start = Callable[..., tuple[Server, ComposeProject]]

TWO_SERVICES = """\
services:
  api: {image: IMAGE, network_mode: host, env_file: [api.env]}
  worker: {image: IMAGE, network_mode: host, env_file: [worker.env]}
"""
TWO_SOURCES = {"api.env": b"COLOUR=red\nSIZE=1\n", "worker.env": b"JOBS=4\n"}


@pytest.fixture
def start(stack_server: MakeStackServer) -> Start:
    """``start(compose, sources, targets=…, files={}, **stack)``: a server in sync, its stack up."""

    def make(
        compose: str = TWO_SERVICES,
        sources: Mapping[str, bytes] = TWO_SOURCES,
        targets: Mapping[str, Any] | None = None,
        files: Mapping[str, str | bytes] | None = None,
        **stack: Any,
    ) -> tuple[Server, ComposeProject]:
        server, project = stack_server(compose, files)
        server.commit(sources, server.manifest(targets or list(sources), **stack))
        applied(server)
        project.up()
        return server, project

    return make


def applied(server: Server, *arguments: str) -> dict[str, Any]:
    """A reconciliation that must have this result."""
    outcome = server.sync(*arguments)
    assert (outcome["result"], outcome["exit_code"]) == ("applied", 0), outcome["reason"]
    return outcome


def ids(project: ComposeProject, *services: str) -> dict[str, str]:
    """Container id by service."""
    return {service: str(project.container(service)["Id"]) for service in services}


def printed(project: ComposeProject, service: str, *command: str) -> str:
    """What a command prints inside the service's container."""
    done = project.compose("exec", "-T", service, *command)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


def change(outcome: Mapping[str, Any], source: str, *, environment: str = ENVIRONMENT) -> dict[str, Any]:
    """The part of an outcome's plan that is about one target."""
    (change,) = (change for change in outcome["plan"]["changes"] if change["target"] == f"{environment}/{source}")
    return dict(change)


def touched(outcome: Mapping[str, Any]) -> dict[str, str]:
    """What the reconciliation did to services, by service."""
    return {action["service"]: action["action"] for action in outcome["plan"]["actions"]}


# --- the first reconciliation ---------------------------------------------------------------------------------------


@pytest.mark.docker
def test_first_reconciliation_on_an_empty_directory_writes_the_files_and_starts_nothing(
    stack_server: MakeStackServer,
) -> None:
    server, project = stack_server(TWO_SERVICES)
    targets = {"api.env": {"mode": "0640"}, "worker.env": None, "etc/app.conf": {"encrypted": False, "mode": "0644"}}
    commit = server.commit({**TWO_SOURCES, "etc/app.conf": b"listen 80;\n"}, server.manifest(targets))

    outcome = server.sync()

    assert (outcome["result"], outcome["exit_code"]) == ("applied", 0)
    assert outcome["revision"]["commit"] == commit
    assert {name: server.live(name) for name in targets} == {**TWO_SOURCES, "etc/app.conf": b"listen 80;\n"}
    modes = {name: stat.S_IMODE((server.app / name).stat().st_mode) for name in targets}
    assert modes == {"api.env": 0o640, "worker.env": 0o600, "etc/app.conf": 0o644}
    assert left_behind(project.name) == []
    assert server.sync()["result"] == "in_sync"


@pytest.mark.root
def test_written_file_belongs_to_the_owner_and_group_that_git_names(server: Server) -> None:
    nobody = pwd.getpwnam("nobody")
    server.commit({"api.env": b"A=1\n"}, server.plain({"api.env": {"owner": "nobody", "group": str(nobody.pw_gid)}}))

    server.sync()

    status = (server.app / "api.env").stat()
    assert (status.st_uid, status.st_gid) == (nobody.pw_uid, nobody.pw_gid)


# --- a change in git -------------------------------------------------------------------------------------------------


@pytest.mark.docker
def test_a_change_in_git_touches_the_service_that_reads_it_and_no_other(start: Start) -> None:
    server, project = start()
    a_reencrypted_source_writes_nothing_and_is_remembered_as_applied(server, project)
    a_changed_key_recreates_only_the_service_that_reads_it(server, project)
    a_plan_of_the_revision_before_names_the_services_it_would_touch_and_why(server, project)
    a_git_revert_by_hand_restores_the_old_values(server, project)
    a_cosmetic_change_is_written_and_touches_no_service(server, project)


def a_cosmetic_change_is_written_and_touches_no_service(server: Server, project: ComposeProject) -> None:
    before = ids(project, "api")
    same_variables = b"# sorted by hand\nSIZE='1'\nCOLOUR=\"red\"\n"
    server.commit({"api.env": same_variables})

    outcome = server.sync()

    assert outcome["result"] == "applied"
    assert change(outcome, "api.env")["aspects"] == ["cosmetic"]
    assert touched(outcome) == {}
    assert server.live("api.env") == same_variables
    assert ids(project, "api") == before


def a_reencrypted_source_writes_nothing_and_is_remembered_as_applied(server: Server, project: ComposeProject) -> None:
    before, file = ids(project, "api"), (server.app / "api.env").stat()
    old = server.remote.read("envs/production/api.env")
    commit = server.commit({"api.env": TWO_SOURCES["api.env"]}, message="Rotate the data key")
    assert server.remote.read("envs/production/api.env") != old

    outcome = server.sync()

    assert (outcome["result"], outcome["backup"]) == ("in_sync", None)
    after = (server.app / "api.env").stat()
    assert (after.st_ino, after.st_mtime_ns) == (file.st_ino, file.st_mtime_ns)
    assert ids(project, "api") == before
    latest = server.json("history")[0]
    assert (latest["revision"]["commit"], latest["changes"], latest["actions"]) == (commit, [], [])
    assert server.json("status")["environments"][0]["applied"]["commit"] == commit
    assert server.sync()["run"] is None


def a_changed_key_recreates_only_the_service_that_reads_it(server: Server, project: ComposeProject) -> None:
    before = ids(project, "api", "worker")
    blue = {"api.env": b"COLOUR=blue\nSIZE=1\n"}
    with server.daemon() as daemon:
        commit = server.commit(blue, message="Paint it", author="Bob <bob@example.org>")
        outcome = applied(server)
        metrics = daemon.metrics()
    after = ids(project, "api", "worker")

    assert touched(outcome) == {"api": "recreate"}
    assert after["worker"] == before["worker"]
    assert after["api"] != before["api"]
    assert "COLOUR=blue\n" in printed(project, "api", "env")
    assert server.backed_up(outcome["backup"]) == {"api.env": TWO_SOURCES["api.env"]}

    latest = server.json("history")[0]
    assert (latest["revision"]["commit"], latest["revision"]["author"]) == (commit, "Bob <bob@example.org>")
    assert latest["changes"] == [
        {
            "source": "api.env",
            "kind": "update",
            "restored_from": None,
            "renamed_from": None,
            "edited_by": "",
            "added": [],
            "removed": [],
            "changed": ["COLOUR"],
        }
    ]
    assert [(action["service"], action["reason"]) for action in latest["actions"]] == [("api", "COLOUR changed")]
    assert latest["backup"] == outcome["backup"]

    recreated = 'reconciler_service_recreate_total{environment="production",result="ok",service="%s",stack="app"}'
    assert metrics[recreated % "api"] == 1
    assert metrics.get(recreated % "worker", 0) == 0
    assert metrics['reconciler_reconcile_total{environment="production",result="applied"}'] == 1
    assert (
        metrics['reconciler_service_healthy{environment="production",service="api",stack="app",state="running"}'] == 1
    )
    for state in ("head", "desired", "applied", "healthy"):
        labels = f'environment="production",revision="{commit[:12]}",state="{state}"'
        assert metrics[f"reconciler_revision_info{{{labels}}}"] == 1


def a_plan_of_the_revision_before_names_the_services_it_would_touch_and_why(
    server: Server, project: ComposeProject
) -> None:
    first = server.remote.log()[1]
    running = ids(project, "api", "worker")

    (planned,) = server.json("plan", "--revision", first[:10])

    assert [(action["service"], action["action"], action["reason"]) for action in planned["plan"]["actions"]] == [
        ("api", "recreate", "COLOUR changed")
    ]
    assert change(planned, "api.env")["keys"]["changed"] == ["COLOUR"]
    assert server.live("api.env") == b"COLOUR=blue\nSIZE=1\n"
    assert ids(project, "api", "worker") == running


def a_git_revert_by_hand_restores_the_old_values(server: Server, project: ComposeProject) -> None:
    assert project.environment("api")["COLOUR"] == "blue"

    server.remote.revert(server.remote.head())
    outcome = server.sync()

    assert (outcome["result"], touched(outcome)) == ("applied", {"api": "recreate"})
    assert server.live("api.env") == TWO_SOURCES["api.env"]
    assert project.environment("api")["COLOUR"] == "red"


@pytest.mark.docker
@pytest.mark.sshd
def test_change_arrives_over_ssh_and_an_unknown_host_key_brings_nothing(start: Start, sshd: Sshd) -> None:
    server, project = start()
    server.settings["repository"] |= {
        "url": sshd.url(server.remote.path),
        "ssh_key_file": str(sshd.key_path),
        "known_hosts_file": str(sshd.known_hosts),
    }
    server.commit({"api.env": b"COLOUR=blue\nSIZE=1\n"})
    outcome = server.sync()
    assert (outcome["result"], touched(outcome)) == ("applied", {"api": "recreate"})
    assert project.environment("api")["COLOUR"] == "blue"

    sshd.rotate_host_key()
    server.commit({"api.env": b"COLOUR=green\nSIZE=1\n"})
    outcome = server.sync()
    assert outcome["result"] == "in_sync"
    assert "host key" in outcome["warning"].lower()
    assert server.live("api.env") == b"COLOUR=blue\nSIZE=1\n"


@pytest.mark.docker
def test_mounted_file_reaches_its_user_in_the_way_the_manifest_says(start: Start) -> None:
    compose = """\
services:
  restarted: {image: IMAGE, network_mode: host, volumes: ['./web.conf:/etc/app.conf:ro']}
  recreated: {image: IMAGE, network_mode: host, volumes: ['./proxy.conf:/etc/app.conf:ro']}
  signalled:
    image: IMAGE
    network_mode: host
    volumes: ['./conf.d:/etc/conf.d:ro']
    command: [sh, -c, "trap 'cat /etc/conf.d/app.conf' HUP; echo ready; while :; do sleep 1 & wait $$!; done"]
  left: {image: IMAGE, network_mode: host, volumes: ['./left:/etc/left:ro']}
"""
    effects = {
        "web.conf": "restart",
        "proxy.conf": "recreate",
        "conf.d/app.conf": "signal:HUP",
        "left/app.conf": "none",
    }
    targets = {name: {"encrypted": False, "mode": "0644", "on_change": effect} for name, effect in effects.items()}
    server, project = start(compose, dict.fromkeys(targets, b"version 1;\n"), targets)
    eventually(lambda: "ready" in project.logs("signalled"))
    services = ("restarted", "recreated", "signalled", "left")
    before = {service: project.container(service) for service in services}

    server.commit(dict.fromkeys(targets, b"version 2;\n"))
    outcome = server.sync()

    assert outcome["result"] == "applied"
    assert touched(outcome) == {"restarted": "restart", "recreated": "recreate", "signalled": "signal"}
    after = {service: project.container(service) for service in services}
    same_container = {service for service in services if before[service]["Id"] == after[service]["Id"]}
    same_run = {service for service in services if before[service]["State"] == after[service]["State"]}
    assert same_container == {"restarted", "signalled", "left"}
    assert same_run == {"signalled", "left"}
    assert printed(project, "restarted", "cat", "/etc/app.conf") == "version 2;\n"
    assert printed(project, "recreated", "cat", "/etc/app.conf") == "version 2;\n"
    eventually(lambda: "version 2;" in project.logs("signalled"))


def test_commit_elsewhere_in_the_repository_is_not_a_change(server: Server) -> None:
    server.commit({"api.env": b"A=1\n"}, server.plain(["api.env"]))
    server.sync()
    server.remote.commit({"README.md": b"hello\n", "envs/staging/api.env": b"not ours\n"})

    outcome = server.sync()

    assert (outcome["result"], outcome["run"]) == ("in_sync", None)
    assert len(server.json("history")) == 1


# --- which services --------------------------------------------------------------------------------------------------


@pytest.mark.docker
def test_services_that_were_stopped_by_hand_or_never_started_stay_so(start: Start) -> None:
    compose = """\
x-common: &common {image: IMAGE, network_mode: host, env_file: [api.env]}
services:
  api: *common
  stopped: *common
  tool: {<<: *common, profiles: [tools]}
  created: {<<: *common, profiles: [more]}
  unused: {<<: *common, profiles: [more]}
"""
    server, project = start(compose, {"api.env": b"COLOUR=red\n"})
    project.up("tool")
    project.compose("stop", "stopped")
    project.compose("create", "created")
    before = ids(project, "stopped", "created")

    server.commit({"api.env": b"COLOUR=blue\n"})
    outcome = server.sync()

    assert outcome["result"] == "applied"
    assert touched(outcome) == {"api": "recreate", "tool": "recreate"}
    assert ids(project, "stopped", "created") == before
    assert [project.container(service)["State"]["Status"] for service in before] == ["exited", "created"]
    assert project.environment("tool")["COLOUR"] == "blue"
    assert project.compose("ps", "--all", "--quiet", "unused").stdout == b""

    project.up("stopped")
    assert project.environment("stopped")["COLOUR"] == "blue"


@pytest.mark.docker
def test_service_in_the_network_namespace_of_a_recreated_one_follows_it(start: Start) -> None:
    compose = """\
services:
  api: {image: IMAGE, network_mode: host, env_file: [api.env]}
  sidecar: {image: IMAGE, network_mode: 'service:api'}
  other: {image: IMAGE, network_mode: host, depends_on: [api]}
"""
    server, project = start(compose, {"api.env": b"COLOUR=red\n"})
    before = ids(project, "api", "sidecar", "other")

    server.commit({"api.env": b"COLOUR=blue\n"})
    outcome = server.sync()

    assert touched(outcome) == {"api": "recreate", "sidecar": "recreate"}
    after = ids(project, "api", "sidecar", "other")
    assert after["other"] == before["other"]
    assert project.container("sidecar")["HostConfig"]["NetworkMode"] == f"container:{after['api']}"


@pytest.mark.docker
def test_change_for_one_of_two_stacks_leaves_the_other_alone(
    start: Start, compose_project: Callable[..., ComposeProject]
) -> None:
    server, project = start()
    second = compose_project("services: {db: {image: IMAGE, network_mode: host, env_file: [db.env]}}")
    server.settings["allowed_paths"].append(str(second.directory))
    manifest = server.manifest(list(TWO_SOURCES))
    manifest["stacks"]["data"] = {
        "directory": str(second.directory),
        "health": {"timeout": "20s", "stable_for": "1s"},
        "targets": {"db.env": None},
    }
    server.commit({"db.env": b"NAME=main\n"}, manifest)
    applied(server)
    second.up()
    before = ids(project, "api", "worker")

    server.commit({"db.env": b"NAME=other\n"})
    outcome = server.sync()

    assert [(action["stack"], action["service"]) for action in outcome["plan"]["actions"]] == [("data", "db")]
    assert second.environment("db")["NAME"] == "other"
    assert ids(project, "api", "worker") == before


def test_environments_of_one_server_stand_and_fall_each_by_itself(server: Server, tmp_path: Path) -> None:
    tools_directory = tmp_path / "other"
    tools_directory.mkdir()
    server.settings |= {"environment": [ENVIRONMENT, "tools"], "allowed_paths": [str(server.app), str(tools_directory)]}
    server.commit({"api.env": b"A=1\n"}, server.plain(["api.env"]))
    tools = {"targets": {"tool.env": {"path": str(tools_directory / "tool.env")}}}
    server.commit({"tool.env": b"T=1\n"}, tools, environment="tools")

    first = server.outcomes()
    assert {name: outcome["result"] for name, outcome in first.items()} == {ENVIRONMENT: "applied", "tools": "applied"}
    assert (server.live("api.env"), (tools_directory / "tool.env").read_bytes()) == (b"A=1\n", b"T=1\n")

    server.commit({"tool.env": b"T=2\n"}, environment="tools")
    server.commit({"api.env": None})
    second = server.outcomes()
    assert {name: outcome["result"] for name, outcome in second.items()} == {ENVIRONMENT: "stalled", "tools": "applied"}
    assert (server.live("api.env"), (tools_directory / "tool.env").read_bytes()) == (b"A=1\n", b"T=2\n")


# --- a change on the server ------------------------------------------------------------------------------------------


@pytest.mark.docker
def test_what_somebody_does_to_a_file_is_undone_without_touching_a_container_that_has_not_seen_it(start: Start) -> None:
    server, project = start()
    a_hand_edit_is_reverted(server, project)
    an_env_file_that_a_hand_edit_broke_is_reverted(server, project)
    a_deleted_file_is_written_again(server, project)


@pytest.mark.docker
def test_a_container_with_other_values_than_those_of_git_is_recreated(start: Start) -> None:
    server, project = start()
    one_made_with_hand_edited_values(server, project)
    one_that_runs_older_values_than_its_file(server, project)


def a_hand_edit_is_reverted(server: Server, project: ComposeProject) -> None:
    before = ids(project, "api")
    by_hand = b"COLOUR=pink\nEXTRA=1\n"
    (server.app / "api.env").write_bytes(by_hand)

    outcome = server.sync()

    assert (outcome["result"], outcome["exit_code"]) == ("corrected", 0)
    drift = change(outcome, "api.env")
    assert (drift["kind"], drift["sync"]) == ("drift", "drifted")
    assert drift["keys"] == {"added": ["SIZE"], "removed": ["EXTRA"], "changed": ["COLOUR"]}
    assert server.live("api.env") == TWO_SOURCES["api.env"]
    assert server.backed_up(outcome["backup"]) == {"api.env": by_hand}
    assert touched(outcome) == {}
    assert ids(project, "api") == before


def an_env_file_that_a_hand_edit_broke_is_reverted(server: Server, project: ComposeProject) -> None:
    before = ids(project, "api")
    (server.app / "api.env").write_bytes(b'COLOUR="red\n')
    assert project.compose("ps").returncode != 0  # Compose itself no longer works here

    assert server.sync()["result"] == "corrected"
    assert server.live("api.env") == TWO_SOURCES["api.env"]
    assert ids(project, "api") == before


def a_deleted_file_is_written_again(server: Server, project: ComposeProject) -> None:
    before = ids(project, "api")
    (server.app / "api.env").unlink()

    outcome = server.sync()

    assert outcome["result"] == "corrected"
    assert change(outcome, "api.env")["aspects"] == ["missing"]
    assert server.live("api.env") == TWO_SOURCES["api.env"]
    assert ids(project, "api") == before


def one_made_with_hand_edited_values(server: Server, project: ComposeProject) -> None:
    (server.app / "api.env").write_bytes(b"COLOUR=pink\nSIZE=1\n")
    project.up("api")
    assert project.environment("api")["COLOUR"] == "pink"

    outcome = server.sync()

    assert (outcome["result"], touched(outcome)) == ("corrected", {"api": "recreate"})
    assert project.environment("api")["COLOUR"] == "red"


def one_that_runs_older_values_than_its_file(server: Server, project: ComposeProject) -> None:
    (server.app / "api.env").write_bytes(b"COLOUR=pink\nSIZE=1\n")
    project.up("api")
    (server.app / "api.env").write_bytes(TWO_SOURCES["api.env"])

    planned = server.json("plan")[0]
    assert (planned["pending"], touched(planned)) == (True, {"api": "recreate"})
    assert "stale" in change(planned, "api.env")["aspects"]
    outcome = server.sync()

    assert touched(outcome) == {"api": "recreate"}
    assert project.environment("api")["COLOUR"] == "red"
    assert server.sync()["result"] == "in_sync"


def test_drift_that_is_only_to_be_reported_is_left_and_exits_2(server: Server) -> None:
    server.commit({"api.env": b"A=1\nB=1\n"}, server.plain({"api.env": {"on_drift": "report"}}))
    server.sync()
    (server.app / "api.env").write_bytes(b"A=2\nB=1\n")

    outcome = server.sync()

    assert (outcome["result"], outcome["exit_code"]) == ("held", 2)
    assert change(outcome, "api.env")["keys"]["changed"] == ["A"]
    assert "api.env" in outcome["reason"]
    assert server.live("api.env") == b"A=2\nB=1\n"


def test_changed_mode_is_drift_and_reverted(server: Server) -> None:
    server.commit({"api.env": b"A=1\n"}, server.plain(["api.env"]))
    server.sync()
    (server.app / "api.env").chmod(0o644)

    outcome = server.sync()

    assert outcome["result"] == "corrected"
    assert change(outcome, "api.env")["aspects"] == ["mode"]
    assert stat.S_IMODE((server.app / "api.env").stat().st_mode) == 0o600


@pytest.mark.root
def test_changed_owner_is_drift_and_reverted(server: Server) -> None:
    server.commit({"api.env": b"A=1\n"}, server.plain({"api.env": {"owner": "nobody"}}))
    server.sync()
    os.chown(server.app / "api.env", 0, -1)

    outcome = server.sync()

    assert outcome["result"] == "corrected"
    assert change(outcome, "api.env")["aspects"] == ["owner"]
    assert (server.app / "api.env").stat().st_uid == pwd.getpwnam("nobody").pw_uid


@pytest.mark.parametrize(
    ("on_drift", "result", "live"),
    [("restore", "applied", b"A=git\n"), ("report", "held", b"A=hand\n")],
    ids=["git wins, the hand edit is in the backup", "held for an operator"],
)
def test_file_that_git_and_a_hand_both_changed(server: Server, on_drift: str, result: str, live: bytes) -> None:
    server.commit({"api.env": b"A=1\n"}, server.plain({"api.env": {"on_drift": on_drift}}))
    server.sync()
    (server.app / "api.env").write_bytes(b"A=hand\n")
    server.commit({"api.env": b"A=git\n"})

    outcome = server.sync()

    assert (outcome["result"], change(outcome, "api.env")["kind"]) == (result, "conflict")
    assert outcome["exit_code"] == (0 if result == "applied" else 2)
    assert server.live("api.env") == live
    if result == "applied":
        assert server.backed_up(outcome["backup"]) == {"api.env": b"A=hand\n"}


# --- first contact, and leaving git ----------------------------------------------------------------------------------


def test_file_that_existed_before_is_held_until_an_operator_takes_it_over(server: Server) -> None:
    (server.app / "api.env").write_bytes(b"A=mine\n")
    server.commit({"api.env": b"A=git\n", "new.env": b"N=1\n"}, server.plain(["api.env", "new.env"]))

    held = server.sync()
    assert (held["result"], held["exit_code"]) == ("held", 2)
    assert "sync --take-over production/api.env" in change(held, "api.env")["reason"]
    assert (server.live("api.env"), server.live("new.env")) == (b"A=mine\n", b"N=1\n")
    again = server.sync()
    assert (again["result"], again["run"]) == ("held", None)

    taken = server.sync("--take-over", "production/api.env")
    assert (taken["result"], taken["exit_code"]) == ("applied", 0)
    assert server.live("api.env") == b"A=git\n"
    assert server.backed_up(taken["backup"]) == {"api.env": b"A=mine\n"}


def test_first_contact_with_an_equal_file_is_in_sync_immediately(server: Server) -> None:
    (server.app / "api.env").write_bytes(b"A=1\n")
    (server.app / "api.env").chmod(0o600)
    server.commit({"api.env": b"A=1\n"}, server.plain(["api.env"]))

    assert server.sync()["result"] == "in_sync"
    (server.app / "api.env").write_bytes(b"A=2\n")
    assert change(server.sync(), "api.env")["kind"] == "drift"


def test_policy_take_over_needs_no_operator(server: Server) -> None:
    (server.app / "api.env").write_bytes(b"A=mine\n")
    server.commit({"api.env": b"A=git\n"}, server.plain({"api.env": {"on_first_contact": "take_over"}}))

    outcome = server.sync()

    assert (outcome["result"], server.live("api.env")) == ("applied", b"A=git\n")
    assert server.backed_up(outcome["backup"]) == {"api.env": b"A=mine\n"}


def test_target_that_leaves_git_is_reported_and_stays(server: Server) -> None:
    server.commit({"api.env": b"A=1\n", "old.env": b"O=1\n"}, server.plain(["api.env", "old.env"]))
    server.sync()
    server.commit({"old.env": None}, server.plain(["api.env"]))

    outcome = server.sync()

    assert (outcome["result"], outcome["exit_code"]) == ("in_sync", 0)
    assert change(outcome, "old.env")["sync"] == "orphan"
    assert server.live("old.env") == b"O=1\n"


def test_target_with_prune_that_leaves_git_is_deleted_after_a_backup(server: Server) -> None:
    targets = {"api.env": None, "old.env": {"prune": True}, "edited.env": {"prune": True}}
    server.commit({"api.env": b"A=1\n", "old.env": b"O=1\n", "edited.env": b"E=1\n"}, server.plain(targets))
    server.sync()
    (server.app / "edited.env").write_bytes(b"E=by hand\n")
    server.commit({"old.env": None, "edited.env": None}, server.plain(["api.env"]))

    outcome = server.sync()

    assert outcome["result"] == "applied"
    assert not (server.app / "old.env").exists()
    assert server.backed_up(outcome["backup"]) == {"old.env": b"O=1\n"}
    assert server.live("edited.env") == b"E=by hand\n"  # no longer as we wrote it, so not ours to delete
    assert server.sync()["result"] == "in_sync"


# --- when it goes wrong ----------------------------------------------------------------------------------------------


@pytest.mark.docker
def test_unhealthy_revision_is_rolled_back_and_quarantined_until_a_correction(start: Start) -> None:
    compose = MAY_CRASH + "  worker: {image: IMAGE, network_mode: host, env_file: [worker.env]}\n"
    good = {"api.env": b"MODE=good\n", "worker.env": b"JOBS=4\n"}
    server, project = start(compose, good)
    healthy = server.remote.head()
    bad = server.commit({"api.env": b"MODE=bad\n", "worker.env": b"JOBS=8\n"})

    outcome = server.sync()
    assert (outcome["result"], outcome["exit_code"]) == ("rolled_back", 3)
    assert "api exited with code 1" in outcome["reason"]
    assert bad[:12] in outcome["reason"]
    assert {name: server.live(name) for name in good} == good
    assert (project.environment("api")["MODE"], project.environment("worker")["JOBS"]) == ("good", "4")
    assert project.container("api")["State"]["Status"] == "running"
    running = ids(project, "api", "worker")

    after = server.sync()
    assert (after["result"], after["exit_code"]) == ("in_sync", 2)  # the branch's head needs an operator
    assert after["revision"]["commit"] == healthy
    assert "quarantined" in after["warning"]
    assert "api exited with code 1" in after["warning"]
    assert ids(project, "api", "worker") == running

    server.commit({"api.env": b"MODE=better\n"})
    corrected = server.sync()
    assert (corrected["result"], corrected["warning"]) == ("applied", "")
    assert (project.environment("api")["MODE"], project.environment("worker")["JOBS"]) == ("better", "8")


@pytest.mark.docker
def test_service_that_was_unhealthy_before_keeps_the_new_files(start: Start) -> None:
    server, project = start(MAY_CRASH, {"api.env": b"MODE=bad1\n"})
    eventually(lambda: project.container("api")["State"]["Status"] == "exited")
    server.commit({"api.env": b"MODE=bad2\n"})

    outcome = server.sync()
    assert (outcome["result"], outcome["exit_code"]) == ("failed", 1)
    assert "as before the change" in outcome["reason"]
    assert server.live("api.env") == b"MODE=bad2\n"

    server.commit({"api.env": b"MODE=good\n"})
    assert server.sync()["result"] == "applied"
    assert project.container("api")["State"]["Status"] == "running"


@pytest.mark.docker
def test_on_failure_hold_keeps_the_new_files_of_an_unhealthy_revision(start: Start) -> None:
    compose = """\
services:
  api:
    image: IMAGE
    network_mode: host
    env_file: [api.env]
    healthcheck: {test: [CMD-SHELL, 'test $$MODE = good'], interval: 1s, retries: 1}
"""
    server, project = start(compose, {"api.env": b"MODE=good\n"}, on_failure="hold")
    eventually(lambda: project.container("api")["State"]["Health"]["Status"] == "healthy")
    server.commit({"api.env": b"MODE=bad\n"})

    outcome = server.sync()

    assert (outcome["result"], outcome["exit_code"]) == ("failed", 1)
    assert "api is unhealthy" in outcome["reason"]
    assert "hold" in outcome["reason"]
    assert server.live("api.env") == b"MODE=bad\n"
    assert project.environment("api")["MODE"] == "bad"
    assert server.sync()["warning"] == ""  # not quarantined


@pytest.mark.docker
def test_http_check_that_stops_answering_is_rolled_back(start: Start) -> None:
    port = free_port()
    compose = f"""\
services:
  api:
    image: IMAGE
    env_file: [api.env]
    ports: ['127.0.0.1:{port}:8000']
    command: [sh, -c, 'mkdir /www; echo ok > /www/health; [ $$MODE = deaf ] || httpd -p 8000 -h /www; exec sleep 1000']
"""
    url = f"http://127.0.0.1:{port}/health"
    health = {"timeout": "5s", "stable_for": "1s", "http": [{"url": url}]}
    server, project = start(compose, {"api.env": b"MODE=good\n"}, health=health)
    server.commit({"api.env": b"MODE=deaf\n"})

    outcome = server.sync()

    assert (outcome["result"], outcome["exit_code"]) == ("rolled_back", 3)
    assert f"{url} does not answer 200" in outcome["reason"]
    assert server.live("api.env") == b"MODE=good\n"
    assert project.environment("api")["MODE"] == "good"


# --- guards ----------------------------------------------------------------------------------------------------------


@pytest.mark.docker
def test_revision_that_compose_would_refuse_is_stalled_with_nothing_written(stack_server: MakeStackServer) -> None:
    compose = "services: {api: {image: IMAGE, network_mode: host, environment: {KEY: '${REQUIRED:?}'}}}"
    server, _ = stack_server(compose)
    sources = {".env": b"REQUIRED=1\nOTHER=1\n", "side.env": b"S=1\n"}
    server.commit(sources, server.manifest(list(sources)))
    assert server.sync()["result"] == "applied"
    server.commit({".env": b"OTHER=1\nMORE=1\n", "side.env": b"S=2\n"})

    outcome = server.sync()

    assert (outcome["result"], outcome["exit_code"]) == ("stalled", 1)
    assert "REQUIRED" in outcome["reason"]
    assert {name: server.live(name) for name in sources} == sources
    assert len(server.json("backups")) == 1

    server.commit({".env": b"REQUIRED=2\nMORE=1\n"})
    assert server.sync()["result"] == "applied"
    assert server.live("side.env") == b"S=2\n"


@pytest.mark.docker
@pytest.mark.parametrize(
    ("source", "content"),
    [
        ("compose.yaml", b"services: {api: {image: IMAGE, network_mode: host, privileged: true}}\n"),
        ("compose.override.yaml", b"services: {api: {privileged: true}}\n"),
        (".env", b"COMPOSE_FILE=compose.yaml:other.yaml\n"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_git_changes_what_compose_runs_only_where_the_server_allows_it(
    stack_server: MakeStackServer, source: str, content: bytes
) -> None:
    override = "services: {other: {image: busybox}}\n"
    server, _ = stack_server("services: {api: {image: IMAGE, network_mode: host}}", {"other.yaml": override})
    target = {"encrypted": source == ".env", "on_first_contact": "take_over"}
    before = (server.app / source).read_bytes() if (server.app / source).exists() else None
    data = server.key.encrypt(source, content) if source == ".env" else content
    server.commit({}, server.manifest({source: target}))
    server.remote.commit({f"envs/{ENVIRONMENT}/{source}": data})

    refused = server.sync()
    assert (refused["result"], refused["exit_code"]) == ("stalled", 1)
    assert "allow_compose_files" in refused["reason"]
    assert ((server.app / source).read_bytes() if (server.app / source).exists() else None) == before

    server.settings["allow_compose_files"] = True
    assert server.sync()["result"] == "applied"
    assert server.live(source) == content


@pytest.mark.docker
def test_a_stack_directory_that_is_a_link_gives_its_compose_file_no_second_name(stack_server: MakeStackServer) -> None:
    server, project = stack_server("services: {api: {image: IMAGE, network_mode: host}}")
    link = project.directory.parent / "current"
    link.symlink_to(project.directory)
    server.settings["allowed_paths"] = [str(project.directory), str(link)]
    before = server.live("compose.yaml")
    target = {"path": str(project.directory / "compose.yaml"), "encrypted": False, "on_first_contact": "take_over"}
    manifest = {"stacks": {"app": {"directory": str(link), "targets": {"compose.yaml": target}}}}
    server.commit({"compose.yaml": b"services: {api: {privileged: true}}\n"}, manifest)

    outcome = server.sync()

    assert (outcome["result"], outcome["exit_code"]) == ("stalled", 1)
    assert "allow_compose_files" in outcome["reason"]
    assert server.live("compose.yaml") == before


def test_guard_that_fails_for_one_file_stops_the_whole_revision(server: Server) -> None:
    server.commit({"api.env": b"A=1\nB=1\nC=1\n", "worker.env": b"W=1\n"}, server.plain(["api.env", "worker.env"]))
    server.sync()
    server.commit({"api.env": b"A=1\n", "worker.env": b"W=2\n"})

    outcome = server.sync()

    assert outcome["result"] == "stalled"
    assert "allow_shrink" in outcome["reason"]
    assert (server.live("api.env"), server.live("worker.env")) == (b"A=1\nB=1\nC=1\n", b"W=1\n")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
