"""Drift: seen immediately, attributed, corrected or left, with the real daemon, real inotify and a real engine."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.compose import ComposeProject
from tests.support.faults import make_faults
from tests.support.server import ENVIRONMENT, Daemon, Server
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

GIT = b"DEBUG=false\nLOG_LEVEL=info\n"
LONG = 60.0  # seconds: far below the ten minutes after which the daemon looks by itself


@pytest.fixture
def quiet(server: Server) -> Server:
    """In sync; only a touched file makes the daemon look: it polls and looks every ten minutes."""
    server.commit({"api.env": GIT, "conf/worker.env": b"W=1\n"}, server.plain(["api.env", "conf/worker.env"]))
    assert server.sync()["result"] == "applied"
    return server


def runs(server: Server) -> list[dict[str, Any]]:
    return list(server.json("history"))


def is_back(server: Server, name: str = "api.env", content: bytes = GIT) -> Callable[[], bool]:
    path = server.app / name
    return lambda: path.is_file() and path.read_bytes() == content


def corrected(daemon: Daemon, target: str = "api.env") -> float:
    """How often the target was corrected."""
    labels = f'environment="{ENVIRONMENT}",target="{ENVIRONMENT}/{target}"'
    return daemon.metrics().get(f"reconciler_drift_corrected_total{{{labels}}}", 0)


# --- immediately------------------------------------------------------------------------------------------------------


def test_a_hand_edit_is_corrected_immediately_and_is_in_a_backup_that_the_log_names(quiet: Server) -> None:
    with quiet.daemon() as daemon:
        (quiet.app / "api.env").write_bytes(b"DEBUG=true\nLOG_LEVEL=info\n")
        eventually(is_back(quiet), timeout=LONG)
        eventually(lambda: corrected(daemon) == 1)
        (event,) = [line for line in daemon.events() if line.get("result") == "corrected"]
    assert event["trigger"] in ("watch", "engine")  # the daemon's start may have seen the engine in the same moment
    assert event["files"] == {f"{ENVIRONMENT}/api.env": ["DEBUG"]}
    assert quiet.backed_up(event["backup"])["api.env"] == b"DEBUG=true\nLOG_LEVEL=info\n"


def test_an_editors_save_is_one_drift(quiet: Server) -> None:
    """As vim saves: move the old file away, write a new one in its place, set its mode, remove the old one."""
    live = quiet.app / "api.env"
    with quiet.daemon() as daemon:
        backup = live.with_name("api.env~")
        live.rename(backup)
        live.write_bytes(b"DEBUG=true\nLOG_LEVEL=info\n")
        live.chmod(0o600)
        backup.unlink()
        eventually(is_back(quiet), timeout=LONG)
        eventually(lambda: corrected(daemon) == 1)
        labels = f'environment="{ENVIRONMENT}",target="{ENVIRONMENT}/api.env"'
        assert daemon.metrics()[f"reconciler_drift_detected_total{{{labels}}}"] == 1
    assert [run["result"] for run in runs(quiet)] == ["corrected", "applied"]


def test_our_own_write_is_not_drift(quiet: Server) -> None:
    with quiet.daemon() as daemon:
        quiet.commit({"api.env": b"DEBUG=false\nLOG_LEVEL=warning\n"})
        assert quiet.sync()["result"] == "applied"
        (quiet.app / "conf" / "worker.env").write_bytes(
            b"W=2\n"
        )  # and its repair comes after whatever the write caused
        eventually(is_back(quiet, "conf/worker.env", b"W=1\n"), timeout=LONG)
        eventually(lambda: corrected(daemon, "conf/worker.env") == 1)
        labels = f'environment="{ENVIRONMENT}",target="{ENVIRONMENT}/api.env"'
        assert f"reconciler_drift_detected_total{{{labels}}}" not in daemon.metrics()
        assert corrected(daemon) == 0


@pytest.mark.root
def test_a_changed_mode_and_a_changed_owner_are_corrected_immediately(server: Server) -> None:
    live = server.app / "api.env"
    server.commit({"api.env": GIT}, server.plain({"api.env": {"owner": "root", "group": "root"}}))
    with server.daemon() as daemon:
        live.chmod(0o666)
        eventually(lambda: live.stat().st_mode & 0o777 == 0o600, timeout=LONG)
        eventually(lambda: corrected(daemon) == 1)
        os.chown(live, 65534, 65534)
        eventually(lambda: (live.stat().st_uid, live.stat().st_gid) == (0, 0), timeout=LONG)
        eventually(lambda: corrected(daemon) == 2)


@pytest.mark.parametrize(
    "harm",
    [
        pytest.param(lambda directory: shutil.rmtree(directory), id="removed"),
        pytest.param(lambda directory: directory.rename(directory.with_name("elsewhere")), id="moved-away"),
        pytest.param(lambda directory: (shutil.rmtree(directory), directory.mkdir()), id="replaced"),
    ],
)
def test_a_removed_directory_is_recreated_and_watched_again(quiet: Server, harm: Callable[[Path], Any]) -> None:
    directory = quiet.app / "conf"
    with quiet.daemon():
        harm(directory)
        eventually(is_back(quiet, "conf/worker.env", b"W=1\n"), timeout=LONG)
        (directory / "worker.env").write_bytes(b"W=hand\n")
        eventually(is_back(quiet, "conf/worker.env", b"W=1\n"), timeout=LONG)


def test_a_directory_that_does_not_exist_yet_is_watched_once_it_does(quiet: Server) -> None:
    quiet.commit({"new/deep/motd": b"one\n"}, quiet.plain({"new/deep/motd": {"encrypted": False}}))
    with quiet.daemon():
        eventually(is_back(quiet, "new/deep/motd", b"one\n"), timeout=LONG)
        (quiet.app / "new" / "deep" / "motd").write_bytes(b"hand\n")
        eventually(is_back(quiet, "new/deep/motd", b"one\n"), timeout=LONG)


def test_ten_thousand_changes_beside_a_live_file_cost_little(quiet: Server) -> None:
    """A fifth of a core and 100 MB at most, while a hand edit among them is still corrected."""
    with quiet.daemon() as daemon:
        pid = daemon.process.pid
        before, began = _cpu(pid), time.monotonic()
        for number in range(10_000):
            (quiet.app / f"log.{number % 100}").write_bytes(b"%d" % number)
            time.sleep(max(0.0, began + number / 2_000 - time.monotonic()))  # the pace of a busy log
        (quiet.app / "api.env").write_bytes(b"DEBUG=true\n")
        eventually(is_back(quiet), timeout=LONG)
        wall = time.monotonic() - began
        assert _cpu(pid) - before <= 0.2 * wall + 0.2  # the repair itself costs some
        assert _resident(pid) < 100 * 1024 * 1024


def _cpu(pid: int) -> float:
    """Seconds of CPU that the process and its ended children used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.docker
def test_a_container_started_by_hand_with_other_values_is_seen_immediately(
    stack_server: Callable[..., tuple[Server, ComposeProject]],
) -> None:
    compose = "services: {api: {image: IMAGE, network_mode: host, environment: [MODE], stop_grace_period: 0s}}"
    server, project = stack_server(compose.replace("[MODE]", '{MODE: "${MODE}"}'))
    server.commit({".env": b"MODE=git\n"}, server.manifest([".env"]))
    assert server.sync()["result"] == "applied"
    project.up()
    with server.daemon() as daemon:
        done = project.compose("up", "-d", "--pull", "never", MODE="by-hand")
        assert done.returncode == 0, done.stderr
        eventually(lambda: project.environment("api")["MODE"] == "git", timeout=LONG)
        eventually(lambda: [line for line in daemon.events() if line.get("services") == ["app/api"]], timeout=LONG)
        (event,) = [line for line in daemon.events() if line.get("services") == ["app/api"]]
    assert event["trigger"] == "engine"
    assert runs(server)[0]["actions"][0]["reason"] == "container runs older values of MODE"


# --- attributed -----------------------------------------------------------------------------------------------------


def status_of(server: Server) -> dict[str, Any]:
    """The only environment of `status`."""
    (environment,) = server.json("status")["environments"]
    return dict(environment)


def change_of(server: Server, target: str = "api.env") -> dict[str, Any]:
    """The target's change, from `status`."""
    changes = status_of(server)["after"]["changes"]
    return dict(next(change for change in changes if change["target"] == f"{ENVIRONMENT}/{target}"))


def test_hand_edits_and_changes_in_git_are_reported_separately(quiet: Server) -> None:
    assert quiet.cli("pause", f"{ENVIRONMENT}/api.env", "--reason", "looking into it").returncode == 0
    live = quiet.app / "api.env"
    live.write_bytes(b"DEBUG=true\nLOG_LEVEL=info\n")
    os.utime(live, (1_790_000_000, 1_790_000_000))
    quiet.commit({"api.env": b"DEBUG=false\nLOG_LEVEL=warning\n"})

    outcome = quiet.sync()

    assert (outcome["result"], outcome["exit_code"]) == ("held", 2)
    change = change_of(quiet)
    assert change["reason"].startswith(
        "DEBUG was changed by hand at 2026-09-21 14:13:20Z, LOG_LEVEL has a pending change from git"
    )
    assert "looking into it" in change["reason"]
    assert (change["by_hand"]["changed"], change["from_git"]["changed"]) == (["DEBUG"], ["LOG_LEVEL"])
    assert "DEBUG was changed by hand" in quiet.cli("status").stdout


def test_a_reported_edit_names_the_keys_changed_by_hand(server: Server) -> None:
    server.commit({"api.env": GIT}, server.plain({"api.env": {"on_drift": "report"}}))
    server.sync()
    (server.app / "api.env").write_bytes(b"DEBUG=true\nEXTRA=1\n")
    assert server.sync()["result"] == "held"
    assert change_of(server)["by_hand"] == {"added": ["EXTRA"], "removed": ["LOG_LEVEL"], "changed": ["DEBUG"]}


# --- policies --------------------------------------------------------------------------------------------------------


def test_a_pause_writes_nothing_outlives_the_daemon_and_ends_by_itself(quiet: Server) -> None:
    quiet.settings["drift"]["interval"] = "1s"
    edit, faults = b"DEBUG=true\nLOG_LEVEL=info\n", make_faults(quiet.root / "faults")
    with quiet.daemon(**faults.variables) as daemon:
        paused = quiet.cli("pause", f"{ENVIRONMENT}/api.env", "--for", "1h", "--reason", "an incident")
        assert paused.returncode == 0, paused.stdout
        (pause,) = status_of(quiet)["pauses"]
        until = pause["until"].replace("T", " ").replace("+00:00", "Z")
        assert f"paused {ENVIRONMENT}/api.env until {until}: an incident" in paused.stdout
        (quiet.app / "api.env").write_bytes(edit)
        eventually(lambda: [change["effect"] for change in daemon.environment()["after"]["changes"]][:1] == ["hold"])
    with quiet.daemon(**faults.variables) as daemon:
        assert quiet.live("api.env") == edit
        assert "an incident" in quiet.cli("status").stdout
        (quiet.app / "conf" / "worker.env").write_bytes(b"W=2\n")  # only api.env is paused
        eventually(is_back(quiet, "conf/worker.env", b"W=1\n"), timeout=LONG)
        assert quiet.live("api.env") == edit
        faults.set_clock(3600)
        eventually(is_back(quiet), timeout=LONG)
        eventually(lambda: corrected(daemon) == 1)
        assert daemon.environment()["pauses"] == []


def test_resume_ends_a_pause_before_its_time(quiet: Server) -> None:
    assert quiet.cli("pause", "--all").returncode == 0
    (quiet.app / "api.env").write_bytes(b"DEBUG=true\nLOG_LEVEL=info\n")
    assert quiet.sync()["result"] == "held"
    refused = quiet.cli("resume", f"{ENVIRONMENT}/api.env")
    assert refused.returncode == 1
    assert "is not paused" in refused.stdout
    assert quiet.cli("resume", "--all").returncode == 0
    assert quiet.live("api.env") == GIT


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([f"{ENVIRONMENT}/no.env"], "there is no target or stack production/no.env"),
        (["staging/api.env"], "no environment staging here"),
        ([], "name one target or stack, or give --all"),
        ([f"{ENVIRONMENT}/api.env", "--all"], "name one target or stack, or give --all"),
        ([f"{ENVIRONMENT}/api.env", "--for", "soon"], "'soon' is not a duration"),
    ],
)
def test_a_pause_of_nothing_is_refused(quiet: Server, arguments: list[str], says: str) -> None:
    done = quiet.cli("pause", *arguments)
    assert done.returncode == 1
    assert says in done.stdout + done.stderr
    assert status_of(quiet)["pauses"] == []


def test_a_new_revision_waits_for_the_end_of_a_pause_and_is_not_called_applied(quiet: Server) -> None:
    quiet.cli("pause", "--all")
    before = quiet.remote.head()
    quiet.commit({"api.env": b"DEBUG=false\nLOG_LEVEL=warning\n"})
    assert quiet.sync()["result"] == "held"
    environment = quiet.json("status")["environments"][0]
    assert (environment["applied"]["commit"], environment["healthy"]["commit"]) == (before, before)
    assert [run["result"] for run in runs(quiet)] == ["held", "done", "applied"]
    assert quiet.cli("resume", "--all").returncode == 0
    assert quiet.live("api.env") == b"DEBUG=false\nLOG_LEVEL=warning\n"


def test_keys_left_to_the_server_keep_their_value_and_are_no_drift(server: Server) -> None:
    server.commit(
        {"api.env": b"MODE=1\nFEATURE_X=off\n"}, server.plain({"api.env": {"ignore_keys": ["FEATURE_*", "LOG_LEVEL"]}})
    )
    server.sync()
    (server.app / "api.env").write_bytes(b"MODE=1\nFEATURE_X=on\nLOG_LEVEL=debug\n")
    assert server.sync()["result"] == "in_sync"

    server.commit({"api.env": b"MODE=2\nFEATURE_X=off\n"})
    outcome = server.sync()
    assert outcome["result"] == "applied"
    assert server.live("api.env") == b"MODE=2\nFEATURE_X=on\nLOG_LEVEL=debug\n"
    assert [change["keys"]["changed"] for change in outcome["plan"]["changes"]] == [["MODE"]]

    (server.app / "api.env").write_bytes(b"MODE=hand\nFEATURE_X=maybe\n")
    assert server.sync()["result"] == "corrected"
    assert server.live("api.env") == b"MODE=2\nFEATURE_X=maybe\n"
    server.commit({"api.env": b"MODE=2\nFEATURE_X=other\n"})
    assert server.sync()["result"] == "in_sync"


def test_a_correction_that_is_undone_again_backs_off_and_says_so(quiet: Server) -> None:
    for number in range(3):
        (quiet.app / "api.env").write_bytes(b"DEBUG=%d\nLOG_LEVEL=info\n" % number)
        assert quiet.sync()["result"] == "corrected"
    (quiet.app / "api.env").write_bytes(b"DEBUG=again\nLOG_LEVEL=info\n")
    outcome = quiet.sync()
    assert (outcome["result"], outcome["exit_code"]) == ("held", 2)
    assert "conflicting writer: restored 3 times within an hour" in outcome["reason"]
    assert quiet.live("api.env") == b"DEBUG=again\nLOG_LEVEL=info\n"
    # A change in git meanwhile is no correction: it is written.
    quiet.commit({"api.env": b"DEBUG=false\nLOG_LEVEL=warning\n"})
    assert quiet.sync()["result"] == "applied"


def test_keys_added_by_hand_do_not_stall_a_commit_that_removes_none(quiet: Server) -> None:
    edited = GIT + b"A=1\nB=1\nC=1\nD=1\nE=1\n"
    (quiet.app / "api.env").write_bytes(edited)
    quiet.commit({"api.env": b"DEBUG=true\nLOG_LEVEL=info\n"})
    outcome = quiet.sync()
    assert outcome["result"] == "applied", outcome["reason"]
    assert quiet.backed_up(outcome["backup"])["api.env"] == edited
