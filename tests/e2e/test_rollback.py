"""A bad revision is rolled back: on the server first, then in git; and rollbacks by hand. Real git, real sops, a real
Compose project, the installed command."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.age_key import AgeKey
from tests.support.compose import ComposeProject
from tests.support.git_remote import GitRemote, make_ssh_key
from tests.support.server import ENVIRONMENT, Daemon, Server
from tests.support.sshd import Sshd
from tests.support.waiting import eventually

# Ends immediately where MODE begins with bad.
MAY_CRASH = """\
services:
  SERVICE:
    image: IMAGE
    network_mode: host
    env_file: [SERVICE.env]
    command: [sh, -c, 'case $$MODE in bad*) exit 1;; esac; exec sleep infinity']
"""
CANARY = "c4n4ry-w1th-n0-equal"


@dataclass(slots=True)
class Stack:
    """One server with one service that may crash, in sync and up."""

    server: Server
    project: ComposeProject
    service: str = "api"

    @property
    def mode(self) -> str:
        """The MODE the running container was created with."""
        assert self.project.container(self.service)["State"]["Status"] == "running"
        return self.project.environment(self.service)["MODE"]

    def commit(self, mode: str, message: str = "Change") -> str:
        return self.server.commit({f"{self.service}.env": f"MODE={mode}\nTOKEN={CANARY}\n".encode()}, message=message)


@pytest.fixture
def stack(stack_server: Callable[..., tuple[Server, ComposeProject]]) -> Stack:
    """In sync at a revision whose MODE is good1; a rollback pushes its revert to the branch."""
    server, project = stack_server(MAY_CRASH.replace("SERVICE", "api"))
    server.settings["rollback"] = {"git": "push", "author": "Reconciler <reconciler@example.org>"}
    made = Stack(server, project)
    server.commit({"api.env": f"MODE=good1\nTOKEN={CANARY}\n".encode()}, server.manifest(["api.env"]))
    assert server.sync()["result"] == "applied"
    project.up()
    return made


def rollbacks(daemon: Daemon, kind: str) -> float:
    return daemon.metrics()[f'reconciler_rollback_total{{environment="production",kind="{kind}",result="ok"}}']


def trailers(remote: GitRemote, commit: str) -> dict[str, str]:
    lines = remote.git("log", "-1", "--format=%(trailers:only,unfold)", commit).splitlines()
    return dict(line.split(": ", 1) for line in lines)


# --- the revert in git -----------------------------------------------------------------------------------------------


@pytest.mark.docker
def test_a_bad_revision_ends_with_its_revert_on_the_branch_and_the_history_says_why(stack: Stack) -> None:
    good = stack.server.remote.head()
    bad = stack.commit("bad", message="Switch the provider")

    outcome = stack.server.sync()

    assert (outcome["result"], outcome["exit_code"]) == ("rolled_back", 3)
    assert stack.mode == "good1"
    remote = stack.server.remote
    revert = remote.head()
    assert remote.log()[:3] == [revert, bad, good]
    assert remote.git("log", "-1", "--format=%s|%an", revert) == 'Revert "Switch the provider"|Reconciler'
    assert remote.read(f"envs/{ENVIRONMENT}/api.env") == remote.read(f"envs/{ENVIRONMENT}/api.env", good)
    assert trailers(remote, revert) == {
        "Reconciler-Rollback-Of": bad,
        "Reconciler-Rollback-Environment": ENVIRONMENT,
        "Reconciler-Rollback-Host": "test",
        "Reconciler-Rollback-Run": outcome["run"],
    }
    last = stack.server.json("history")[0]
    assert last["result"] == "rolled_back"
    assert "api exited with code 1" in last["reason"]
    assert revert[:12] in last["reason"]
    assert (outcome["error_id"], last["error_id"]) == ("unhealthy", "unhealthy")
    assert stack.server.cli("history").stdout.count("[unhealthy]") == 1
    assert last["changes"][0]["changed"] == ["MODE"]
    assert CANARY not in remote.git("log", "-p", revert)

    after = stack.server.sync()
    assert (after["result"], after["exit_code"], after["warning"]) == ("in_sync", 0, "")
    assert stack.server.json("status")["environments"][0]["quarantine"] is None
    the_same_content_merged_again_stays_quarantined_until_an_operator_retries(stack, bad)


def the_same_content_merged_again_stays_quarantined_until_an_operator_retries(stack: Stack, bad: str) -> None:
    again = stack.server.remote.revert(stack.server.remote.head())  # somebody reverts the revert

    outcome = stack.server.sync()

    assert (outcome["result"], outcome["exit_code"]) == ("in_sync", 2)
    assert f"revision {again[:12]} is quarantined" in outcome["warning"]
    assert outcome["warning"].endswith(" [quarantined]")
    assert stack.mode == "good1"
    environment = stack.server.json("status")["environments"][0]
    assert environment["quarantine"]["revision"]["commit"] == bad
    assert "api exited" in environment["quarantine"]["reason"]

    retried = stack.server.cli("retry")
    assert retried.returncode == 3, "it is tried, and fails as before"
    assert stack.mode == "good1"


@pytest.mark.docker
def test_the_revert_waits_on_a_branch_is_refused_or_is_left_to_an_operator_as_the_setting_says(stack: Stack) -> None:
    with_branch_it_waits_for_review_on_a_branch_of_its_own(stack)
    with_push_a_protected_branch_is_reported_once_and_the_server_stays_healthy(stack)
    with_off_git_is_not_touched(stack)


def with_branch_it_waits_for_review_on_a_branch_of_its_own(stack: Stack) -> None:
    stack.server.settings["rollback"]["git"] = "branch"
    bad = stack.commit("bad2")
    assert stack.server.sync()["result"] == "rolled_back"
    remote = stack.server.remote
    assert remote.head() == bad
    branch = f"reconciler/rollback-{ENVIRONMENT}-{bad[:12]}"
    assert remote.git("rev-parse", f"{branch}^") == bad
    assert branch in stack.server.sync()["warning"]

    remote.make_branch("main", branch)  # the pull request is merged
    after = stack.server.sync()
    assert (after["result"], after["warning"]) == ("in_sync", "")


def with_push_a_protected_branch_is_reported_once_and_the_server_stays_healthy(stack: Stack) -> None:
    stack.server.settings["rollback"]["git"] = "push"
    hook = stack.server.remote.path / "hooks" / "pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho 'main is protected: open a pull request' >&2\nexit 1\n")
    hook.chmod(0o755)
    bad = stack.commit("bad3")

    outcome = stack.server.sync()

    assert outcome["result"] == "rolled_back"
    assert stack.server.remote.head() == bad
    assert "main is protected: open a pull request" in outcome["reason"]
    later = stack.server.sync()
    assert (later["result"], later["exit_code"]) == ("in_sync", 2)
    assert "main is protected" in later["warning"]
    assert stack.server.json("status")["environments"][0]["quarantine"]["revert"]["state"] == "refused"


def with_off_git_is_not_touched(stack: Stack) -> None:
    stack.server.settings["rollback"]["git"] = "off"
    bad = stack.commit("bad4")
    assert stack.server.sync()["result"] == "rolled_back"
    assert stack.server.remote.head() == bad


@pytest.mark.docker
def test_a_remote_that_is_down_gets_the_revert_when_it_is_back(stack: Stack) -> None:
    """The remote goes away while the services are recreated; the daemon finishes it alone."""
    path = stack.server.remote.path
    away = path.with_name("away.git")
    stack.server.settings["repository"]["poll_interval"] = "1s"
    with stack.server.daemon() as daemon:
        bad = stack.commit("bad")
        eventually(lambda: stack.server.live("api.env").startswith(b"MODE=bad"), timeout=30)
        path.rename(away)
        eventually(lambda: rollbacks(daemon, "local") == 1)
        assert stack.mode == "good1"
        away.rename(path)
        eventually(lambda: stack.server.remote.head() != bad, timeout=60)
        eventually(lambda: rollbacks(daemon, "git") == 1)
    assert trailers(stack.server.remote, "main")["Reconciler-Rollback-Of"] == bad


@pytest.mark.docker
@pytest.mark.sshd
def test_a_revert_is_pushed_over_ssh_with_a_key_of_its_own(stack: Stack, sshd: Sshd, tmp_path: Path) -> None:
    """The key that reads can only fetch."""
    server = stack.server
    reader, writer = make_ssh_key(tmp_path / "reader"), make_ssh_key(tmp_path / "writer")
    sshd.let_in(reader, read_only=True)
    sshd.let_in(writer)
    server.settings["repository"] |= {
        "url": sshd.url(server.remote.path),
        "ssh_key_file": str(reader),
        "known_hosts_file": str(sshd.known_hosts),
    }
    server.settings["rollback"]["ssh_key_file"] = str(writer)
    bad = stack.commit("bad")

    outcome = server.sync()

    assert outcome["result"] == "rolled_back"
    assert trailers(server.remote, "main")["Reconciler-Rollback-Of"] == bad, outcome["reason"]


def _public(key: Path) -> str:
    return key.with_suffix(".pub").read_text()


@pytest.mark.docker
def test_two_daemons_that_roll_back_the_same_revision_end_with_one_revert(
    stack: Stack, compose_project: Callable[..., ComposeProject], tmp_path: Path, age_key: AgeKey
) -> None:
    first = stack
    project = compose_project(MAY_CRASH.replace("SERVICE", "web"))
    root = tmp_path / "second"
    root.mkdir()
    second = Stack(Server(root, project.directory, first.server.remote, age_key, forked=True), project, "web")
    for number, each in enumerate((first, second), 1):
        each.server.settings["host"] = f"web-{number}"
        each.server.settings["rollback"] = {"git": "push"}
        each.server.settings["repository"]["poll_interval"] = "1s"
    manifest = {
        "stacks": {
            f"on-{number}": {
                "directory": str(each.server.app),
                "hosts": [f"web-{number}"],
                "health": {"timeout": "20s", "stable_for": "1s"},
                "targets": {f"{each.service}.env": None},
            }
            for number, each in enumerate((first, second), 1)
        }
    }

    def both(mode: str) -> dict[str, bytes]:
        return {f"{each.service}.env": f"MODE={mode}\nTOKEN={CANARY}\n".encode() for each in (first, second)}

    first.server.commit(both("good2"), manifest)
    for each in (first, second):
        outcome = each.server.sync()
        assert outcome["result"] == "applied", outcome["reason"]
        each.project.up()
    good = first.server.remote.head()

    with first.server.daemon() as daemon, second.server.daemon() as second_daemon:
        bad = first.server.commit(both("bad"), message="Break both")
        eventually(lambda: rollbacks(daemon, "git") == rollbacks(second_daemon, "git") == 1, timeout=90)
        eventually(lambda: first.mode == second.mode == "good2", timeout=30)
        assert daemon.stop() == second_daemon.stop() == 0
    log = first.server.remote.log()
    assert log[1:3] == [bad, good]
    assert trailers(first.server.remote, log[0])["Reconciler-Rollback-Of"] == bad
    for each in (first, second):
        assert each.server.sync()["result"] == "in_sync"


# --- by hand ---------------------------------------------------------------------------------------------------------


@pytest.mark.docker
def test_a_rollback_by_hand_pins_the_revision_before_until_it_is_unpinned(stack: Stack) -> None:
    first = stack.server.remote.head()
    stack.commit("good2")
    stack.server.sync()

    done = stack.server.cli("rollback", "--reason", "slow since noon")

    assert done.returncode == 0, done.stdout
    assert stack.mode == "good1"
    environment = stack.server.json("status")["environments"][0]
    assert environment["pin"]["revision"]["commit"] == first
    assert environment["pin"]["reason"] == "slow since noon"
    assert "pinned" in stack.server.cli("status").stdout
    stack.commit("good3")
    pinned = stack.server.sync()
    assert (pinned["result"], pinned["exit_code"]) == ("in_sync", 0)
    assert "pinned" in pinned["reason"]
    assert stack.mode == "good1"

    assert stack.server.cli("unpin").returncode == 0
    assert stack.mode == "good3"
    assert stack.server.json("status")["environments"][0]["pin"] is None
    assert "is not pinned" in stack.server.cli("unpin").stdout
    a_running_daemon_carries_it_out(stack, first)


def a_running_daemon_carries_it_out(stack: Stack, first: str) -> None:
    with stack.server.daemon() as daemon:
        done = stack.server.cli("rollback", "--to", first[:10])
        assert done.returncode == 0, done.stdout
        assert stack.mode == "good1"
        assert daemon.metrics()['reconciler_pinned{environment="production"}'] == 1
        refused = stack.server.cli("rollback", "--to", "0123456789")
        assert refused.returncode == 1
        assert "0123456789" in refused.stdout
        assert stack.server.cli("unpin").returncode == 0
        assert stack.mode == "good3"


@pytest.mark.docker
def test_a_failed_rollback_stops_the_stack_and_retry_starts_it_again(stack: Stack) -> None:
    """The stack's directory turns read-only between the write and the rollback: nothing can be restored."""
    server = stack.server
    server.settings["rollback"]["git"] = "off"
    backups = server.state / "backups"
    stack.commit("bad")
    with server.daemon() as daemon:
        assert daemon.metrics()['reconciler_rollback_total{environment="production",kind="local",result="ok"}'] == 1
    assert stack.mode == "good1"
    # The backup is damaged: the next rollback cannot restore anything.
    stack.commit("bad2")
    hook = stack.project.directory / "compose.yaml"
    assert hook.exists()
    with server.daemon(ready=False) as daemon:
        eventually(lambda: server.live("api.env").startswith(b"MODE=bad2"), timeout=30)
        for directory in (backups / ENVIRONMENT).iterdir():
            shutil.rmtree(directory)
        eventually(lambda: daemon.history()[0]["result"] != "unfinished", timeout=60)
    assert server.json("history")[0]["result"] == "rollback_failed"
    stopped = server.json("status")["environments"][0]
    assert list(stopped["suspended"]) == ["app"]
    stack.commit("good4")
    left = server.sync()
    assert (left["result"], left["error_id"], left["exit_code"]) == ("rollback_failed", "rollback-failed", 1)
    assert server.live("api.env").startswith(b"MODE=bad2")

    assert server.cli("retry").returncode == 0
    assert stack.mode == "good4"


# --- trust -----------------------------------------------------------------------------------------------------------


def test_a_rewritten_branch_waits_until_an_operator_accepts_it(server: Server) -> None:
    first = server.commit({"api.env": b"A=1\n"}, server.plain(["api.env"]))
    server.commit({"api.env": b"A=2\n"})
    assert server.sync()["result"] == "applied"
    server.remote.make_branch("main", first)
    rewritten = server.commit({"api.env": b"A=3\n"})
    refused = server.sync()
    assert (refused["exit_code"], server.live("api.env")) == (2, b"A=2\n")
    assert "reconciler accept-rewrite" in refused["warning"]

    assert server.cli("accept-rewrite").returncode == 0
    assert server.live("api.env") == b"A=3\n"
    assert server.json("status")["environments"][0]["head"]["commit"] == rewritten
    assert server.sync()["warning"] == ""


def signed(server: Server, tmp_path: Path, verify: str) -> Path:
    """Have the server require commits signed by the returned key."""
    key = make_ssh_key(tmp_path / "signer")
    signers = tmp_path / "allowed_signers"
    signers.write_text(f"ada@example.org {_public(key)}")
    server.settings["repository"] |= {"verify": verify, "allowed_signers_file": str(signers)}
    return key


@pytest.mark.sshd
def test_an_unsigned_commit_is_not_applied_and_a_signed_one_is(server: Server, tmp_path: Path) -> None:
    key = signed(server, tmp_path, "tip")
    files = {f"envs/{ENVIRONMENT}/motd": b"one\n"}
    server.commit({"motd": b"zero\n"}, {"targets": {"motd": {"path": str(server.app / "motd"), "encrypted": False}}})
    first = server.sync()
    assert (first["result"], first["exit_code"]) == ("stalled", 1)
    assert "sign" in first["reason"]
    assert not (server.app / "motd").exists()

    server.remote.commit(files, signing_key=key)
    assert server.sync()["result"] == "applied"
    server.remote.commit({f"envs/{ENVIRONMENT}/motd": b"two\n"})
    refused = server.sync()
    assert (refused["result"], refused["exit_code"]) == ("in_sync", 2)
    assert server.live("motd") == b"one\n"


@pytest.mark.sshd
def test_range_refuses_a_signed_head_with_an_unsigned_commit_below_it(server: Server, tmp_path: Path) -> None:
    key = signed(server, tmp_path, "range")
    motd = f"envs/{ENVIRONMENT}/motd"
    server.commit({}, {"targets": {"motd": {"path": str(server.app / "motd"), "encrypted": False}}})
    server.remote.commit({motd: b"one\n"}, signing_key=key)
    assert server.sync()["result"] == "applied"
    unsigned = server.remote.commit({motd: b"two\n"})
    server.remote.commit({"README": b"signed\n"}, signing_key=key)
    refused = server.sync()
    assert refused["exit_code"] == 2
    assert unsigned[:12] in refused["warning"]
    assert server.live("motd") == b"one\n"


@pytest.mark.docker
@pytest.mark.sshd
def test_a_server_that_requires_signatures_accepts_its_own_revert(stack: Stack, tmp_path: Path) -> None:
    server = stack.server
    key = signed(server, tmp_path, "range")
    server.settings["rollback"]["signing_key_file"] = str(key)
    good = server.remote.commit({"README": b"1\n"}, signing_key=key)
    assert server.sync()["result"] == "in_sync"
    bad_file = server.key.encrypt("api.env", b"MODE=bad\n")
    server.remote.commit({f"envs/{ENVIRONMENT}/api.env": bad_file}, signing_key=key)
    assert server.sync()["result"] == "rolled_back"
    after = server.sync()
    assert (after["result"], after["exit_code"], after["warning"]) == ("in_sync", 0, "")
    assert server.remote.log()[2] == good
