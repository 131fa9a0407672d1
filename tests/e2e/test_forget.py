"""A target leaves the manifest: what stays on the server, what is said about it, and how `forget` ends that."""

from __future__ import annotations

import getpass
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.compose import ComposeProject
from tests.support.server import Daemon, Server
from tests.support.waiting import eventually

ORPHAN = "production/old.env"
SINCE = 'reconciler_orphan_since_timestamp_seconds{environment="production",target="production/old.env"}'


def orphans(server: Server) -> dict[str, dict[str, Any]]:
    (environment,) = server.json("status")["environments"]
    return {change["path"]: change for change in environment["after"]["changes"] if change["sync"] == "orphan"}


@pytest.fixture
def left(server: Server) -> Server:
    """old.env was a target, and a merge has removed it."""
    server.commit({"api.env": b"A=1\n", "old.env": b"O=1\n"}, server.plain(["api.env", "old.env"]))
    server.sync()
    server.commit({"old.env": None}, server.plain(["api.env"]))
    return server


@pytest.fixture
def daemon(left: Server) -> Iterator[Daemon]:
    with left.daemon() as daemon:
        yield daemon


def test_an_orphan_is_shown_and_holds_nothing_until_it_is_forgotten(left: Server, daemon: Daemon) -> None:
    server, path = left, str(left.app / "old.env")
    eventually(lambda: orphans(server))
    assert daemon.metrics()[SINCE] > 1e9
    assert orphans(server)[path]["left_at"]
    shown = server.cli("status")
    assert shown.returncode == 0
    assert f"{ORPHAN}   orphan" in shown.stdout
    assert f"{path} stays. `reconciler forget {ORPHAN}` ends this" in shown.stdout

    # The other targets go on.
    success = 'reconciler_last_success_timestamp_seconds{environment="production"}'
    before = daemon.metrics()[success]
    server.commit({"api.env": b"A=2\n"})
    assert server.sync()["result"] == "applied"
    assert server.live("api.env") == b"A=2\n"
    assert daemon.metrics()[success] > before

    (answer,) = server.json("forget", ORPHAN, "--reason", "read by a script of ours")
    assert answer["result"] == "in_sync"
    assert f"{path} stays on the server" in answer["forgotten"]
    assert server.live("old.env") == b"O=1\n"
    assert orphans(server) == {}
    assert SINCE not in daemon.metrics()
    run = server.json("history")[0]
    assert (run["trigger"], run["result"]) == ("forget", "done")
    assert getpass.getuser() in run["reason"]
    assert "read by a script of ours" in run["reason"]


def test_forget_with_delete_takes_a_backup_first(left: Server, daemon: Daemon) -> None:
    eventually(lambda: orphans(left))
    (left.app / "old.env").write_bytes(b"O=by hand\n")

    (answer,) = left.json("forget", ORPHAN, "--delete", "--reason", "the worker is gone")

    assert answer["result"] == "applied"
    assert left.backed_up(answer["backup"]) == {"old.env": b"O=by hand\n"}
    assert not (left.app / "old.env").exists()
    assert SINCE not in daemon.metrics()
    run = left.json("history")[0]
    assert run["trigger"] == "forget"
    assert "the worker is gone" in run["reason"]
    assert left.sync()["result"] == "in_sync"


@pytest.mark.parametrize(
    ("target", "says"),
    [
        pytest.param("production/api.env", "it is still a target", id="still-a-target"),
        pytest.param("production/typo.env", "nothing is left of a target of that name", id="unknown"),
    ],
)
def test_forget_refuses_what_did_not_leave_git(left: Server, target: str, says: str) -> None:
    left.sync()
    done = left.cli("forget", target, "--delete")
    assert done.returncode == 1
    assert says in done.stdout
    assert left.live("api.env") == b"A=1\n"
    assert left.live("old.env") == b"O=1\n"


def test_forget_follows_a_merge_that_the_server_has_not_seen_yet(left: Server) -> None:
    (answer,) = left.json("forget", ORPHAN, "--delete")
    assert (answer["result"], (left.app / "old.env").exists()) == ("applied", False)


def test_what_lies_outside_the_allowed_paths_stays_and_holds_nothing(left: Server) -> None:
    elsewhere = left.root / "elsewhere"
    elsewhere.mkdir()
    left.sync()
    left.settings["allowed_paths"] = [str(elsewhere)]
    left.commit({"api.env": None, "new.env": b"N=1\n"}, {"targets": {"new.env": {"path": str(elsewhere / "new.env")}}})

    assert left.sync()["result"] == "applied"
    assert "outside allowed_paths" in orphans(left)[str(left.app / "old.env")]["reason"]
    left.cli("forget", ORPHAN, "--delete")
    assert left.live("old.env") == b"O=1\n"
    assert left.json("forget", ORPHAN)[0]["result"] == "in_sync"
    assert str(left.app / "old.env") not in orphans(left)


def test_a_path_that_another_environment_has_now_is_no_orphan(left: Server) -> None:
    left.settings["environment"] = ["production", "staging"]
    left.commit({"old.env": b"O=1\n"}, left.plain(["old.env"]), environment="staging")

    left.outcomes()
    left.outcomes()

    (production, staging) = left.json("status")["environments"]
    assert [change["target"] for change in production["after"]["changes"]] == ["production/api.env"]
    assert [change["sync"] for change in staging["after"]["changes"]] == ["in_sync"]


@pytest.mark.docker
def test_a_file_that_a_service_still_uses_is_not_deleted(
    stack_server: Callable[..., tuple[Server, ComposeProject]],
) -> None:
    server, project = stack_server(
        "services:\n  api: {image: IMAGE, network_mode: none, stop_grace_period: 0s, env_file: [api.env, old.env], "
        "command: [sleep, '600'], volumes: ['./app.conf:/app.conf:ro']}\n",
        {"api.env": b"A=1\n", "old.env": b"O=1\n", "app.conf": b"x\n"},
    )
    conf: Mapping[str, Any] = {"encrypted": False}
    sources = {"api.env": b"A=1\n", "old.env": b"O=1\n", "app.conf": b"x\n"}
    server.commit(sources, server.manifest({"api.env": None, "old.env": None, "app.conf": conf}))
    project.compose("up", "-d")
    server.sync()
    server.commit({"old.env": None, "app.conf": None}, server.manifest(["api.env"]))
    assert server.sync()["result"] == "in_sync"

    for target, says in ((ORPHAN, "old.env"), ("production/app.conf", "api still mounts")):
        done = server.cli("forget", target, "--delete")
        assert done.returncode == 1
        assert says in done.stdout
    assert (server.live("old.env"), server.live("app.conf")) == (b"O=1\n", b"x\n")
    assert server.sync()["result"] == "in_sync"  # the refused request holds up nothing

    compose = Path(project.directory, "compose.yaml")
    compose.write_text(compose.read_text().replace(", old.env", ""))
    project.compose("up", "-d")
    (answer,) = server.json("forget", ORPHAN, "--delete")
    assert (answer["result"], answer["plan"]["actions"]) == ("applied", [])
    assert answer["backup"]
