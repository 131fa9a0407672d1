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
    status = server.cli("status")
    assert status.returncode == 0
    assert f"{ORPHAN}   orphan" in status.stdout
    assert f"{path} stays. `reconciler forget {ORPHAN}` ends this" in status.stdout

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
    left.cli("pause", "--all", "--reason", "an incident")
    refused = left.cli("forget", ORPHAN, "--delete")
    assert refused.returncode == 1
    assert f"{ORPHAN}: not deleted: paused until" in refused.stdout
    assert left.live("old.env") == b"O=by hand\n"
    assert left.json("status")["environments"][0]["result"] == "in_sync"  # a request that is refused changes nothing
    left.cli("resume", "--all")

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
    refused = left.cli("forget", ORPHAN, "--delete")
    assert (refused.returncode, f"{ORPHAN}: not deleted: what is there cannot be read" in refused.stdout) == (1, True)
    assert "--delete the file goes" not in refused.stdout
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


# --- renamed ---

NINE = b"".join(b"KEY_%d=value\n" % number for number in range(9))


def plan(server: Server) -> tuple[str, dict[str, dict[str, Any]]]:
    """The plan as text, and its changes by live path."""
    (outcome,) = server.json("plan")
    return server.cli("plan").stdout, {change["path"]: change for change in outcome["plan"]["changes"]}


@pytest.mark.parametrize("more", [b"", b"KEY_3=other\n"], ids=["as it was", "with one key changed"])
def test_a_renamed_target_is_one_block_with_what_becomes_of_its_old_live_file(server: Server, more: bytes) -> None:
    server.commit({"main.env": NINE}, server.plain(["main.env"]))
    server.sync()
    new = NINE.replace(b"KEY_3=value\n", more) if more else NINE
    server.commit({"main.env": None, "mail.env": new}, server.plain(["mail.env"]))

    text, changes = plan(server)
    assert "production/mail.env   pending (renamed from main.env)   will create" in text
    assert f"the old live file {server.app}/main.env stays. `reconciler forget production/main.env` ends this" in text
    assert "production/main.env   " not in text
    assert "KEY_1" not in text
    keys = changes[str(server.app / "mail.env")]["keys"]
    assert keys == {"added": [], "removed": [], "changed": ["KEY_3"] if more else []}
    assert changes[str(server.app / "main.env")]["moved_to"] == "production/mail.env"

    assert server.sync()["result"] == "applied"
    assert server.json("history")[0]["changes"][0]["renamed_from"] == "main.env"
    assert server.live("mail.env") == new
    assert server.json("forget", "production/main.env", "--delete")[0]["result"] == "applied"
    assert not (server.app / "main.env").exists()


def test_a_renamed_target_with_prune_says_that_its_old_live_file_goes(server: Server) -> None:
    server.commit({"main.env": NINE}, server.plain({"main.env": {"prune": True}}))
    server.sync()
    server.commit({"main.env": None, "mail.env": NINE}, server.plain(["mail.env"]))
    text, _ = plan(server)
    assert f"the old live file {server.app}/main.env will be deleted, after a backup" in text


def test_a_renamed_source_touches_nothing_and_is_one_line(server: Server) -> None:
    server.commit({"main.env": NINE}, server.plain({"main.env": "live.env"}))
    server.sync()
    server.commit({"main.env": None, "mail.env": NINE}, server.plain({"mail.env": "live.env"}))
    text, _ = plan(server)
    assert "production/mail.env   in sync (renamed from main.env)\n" in text
    assert "KEY" not in text
    assert server.sync()["result"] == "in_sync"
    assert "renamed" not in plan(server)[0]
    assert orphans(server) == {}

    server.commit({"mail.env": None, "post.env": NINE + b"ONE=1\n"}, server.plain({"post.env": "live.env"}))
    text, _ = plan(server)
    assert "production/post.env   pending (changed in git, renamed from mail.env)   will update\n    + ONE\n" in text


def test_a_new_target_that_shares_little_with_an_orphan_is_no_rename(server: Server) -> None:
    server.commit({"main.env": NINE}, server.plain(["main.env"]))
    server.sync()
    server.commit({"main.env": None, "mail.env": b"A=1\nB=2\n"}, server.plain(["mail.env"]))
    text, changes = plan(server)
    assert "renamed" not in text
    assert changes[str(server.app / "mail.env")]["keys"]["added"] == ["A", "B"]


# --- with services ---


@pytest.mark.docker
def test_a_file_that_a_service_still_uses_is_not_deleted(
    stack_server: Callable[..., tuple[Server, ComposeProject]],
) -> None:
    server, project = stack_server(
        "services:\n  api: {image: IMAGE, network_mode: host, stop_grace_period: 0s, env_file: [api.env, old.env], "
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
