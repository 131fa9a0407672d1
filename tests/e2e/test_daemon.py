"""The daemon as it really runs: its triggers, its two interfaces, its end, and what it does when idle."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from reconciler.app.daemon.client import REQUEST_PATH
from reconciler.core.model.requests import ReconcileRequest
from reconciler.core.model.runs import Activity, Outcome, Result
from tests.support.compose import ComposeProject
from tests.support.json_answers import read_answer
from tests.support.loop import make_loop
from tests.support.server import Daemon, Server
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

MakeStackServer = Callable[..., tuple[Server, ComposeProject]]
WEBHOOK_SECRET = b"a secret of the webhook"
PUSH = b'{"ref": "refs/heads/main"}'
# What a daemon of a few files in no stack would pay for in memory without ever using it.
NEVER_IMPORTED = {
    *("aiodocker", "apprise", "asyncssh", "cryptography", "jinja2", "jsonschema", "pygments", "rich.console"),
    *(f"reconciler.adapters.{name}" for name in ("forge", "notify", "ssh", "swarm")),
    *(f"reconciler.app.{name}" for name in ("checks", "compare", "onboarding", "pages")),
    *("reconciler.cli.layout", "reconciler.cli.reports", "reconciler.core.sops.adoption", "reconciler.demo"),
    *("reconciler.engine.adopt", "reconciler.engine.forge_reports", "reconciler.engine.merge_preview"),
}


@pytest.fixture
def settled(server: Server) -> Server:
    """A server whose file is in git; nothing has run yet."""
    server.commit({"api.env": b"A=1\n"}, server.plain(["api.env"]))
    return server


def lives(server: Server, data: bytes, name: str = "api.env") -> None:
    """Wait until the live file holds ``data``."""
    eventually(lambda: (server.app / name).exists() and server.live(name) == data, timeout=30)


def gated(server: Server) -> Path:
    """Give the server a check that waits until the file that this returns is there."""
    gate = server.root / "gate"
    waiting = 'while ! test -e "$1"; do sleep 0.05; done'
    server.settings["checks"] = {"gate": ["sh", "-c", waiting, "{file}", str(gate)]}
    return gate


# --- what it serves --------------------------------------------------------------------------------------------------


def test_it_is_alive_immediately_and_ready_after_the_first_reconciliation(server: Server) -> None:
    gate = gated(server)
    server.commit({"api.env": b"A=1\n"}, server.plain({"api.env": {"check": "gate"}}))
    with server.daemon(ready=False) as daemon:
        assert daemon.get("/healthz") == (200, "alive\n")
        assert daemon.get("/readyz")[0] == 503
        (environment,) = json.loads(daemon.get("/api/v1/status")[1])["environments"]
        assert (environment["result"], environment["reason"]) == (None, "not reconciled yet")

        gate.touch()
        daemon.wait_until_ready()

        (environment,) = json.loads(daemon.get("/api/v1/status")[1])["environments"]
        assert [run["result"] for run in daemon.history()] == ["applied"]  # its own write has it look again by now
        assert [change["sync"] for change in environment["after"]["changes"]] == ["in_sync"]
        assert daemon.get("/elsewhere")[0] == 404
        metrics = daemon.metrics()
        assert metrics['reconciler_reconcile_total{environment="production",result="applied"}'] == 1
        assert metrics['reconciler_reconcile_total{environment="production",result="rolled_back"}'] == 0
        assert metrics["reconciler_loop_last_tick_timestamp_seconds"] > 0


def test_it_imports_nothing_that_its_configuration_does_not_ask_for(settled: Server) -> None:
    assert settled.sync()["result"] == "applied"  # a write asks an engine which files are its projects'
    with settled.daemon(installed=True, PYTHONPROFILEIMPORTTIME="1") as daemon:
        daemon.metrics()
    lines = daemon.log.read_text().splitlines()
    imported = {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}
    assert {"aiohttp.web", "reconciler.engine.reconcile"} < imported
    assert imported & NEVER_IMPORTED == set()


def test_pushed_commit_is_applied_by_polling_and_drift_is_restored_by_looking(settled: Server) -> None:
    settled.settings["repository"]["poll_interval"] = "1s"
    settled.settings["drift"]["interval"] = "1s"
    with settled.daemon() as daemon:
        settled.commit({"api.env": b"A=2\n"})
        lives(settled, b"A=2\n")
        (settled.app / "api.env").write_bytes(b"A=by hand\n")
        lives(settled, b"A=2\n")
        eventually(lambda: corrected(daemon) == 1)
    runs = settled.json("history")
    assert [(run["trigger"], run["result"]) for run in reversed(runs)][:2] == [
        ("start", "applied"),
        ("poll", "applied"),
    ]
    assert (runs[0]["result"], runs[0]["changes"][0]["changed"]) == ("corrected", ["A"])


def corrected(daemon: Daemon) -> float:
    labels = 'environment="production",target="production/api.env"'
    return daemon.metrics().get(f"reconciler_drift_corrected_total{{{labels}}}", 0)


def test_webhook_starts_a_reconciliation_for_a_good_signature_or_token_only(settled: Server) -> None:
    secret = settled.root / "webhook"
    secret.write_bytes(WEBHOOK_SECRET + b"\n")
    settled.settings["webhook"] = {"secret_file": str(secret)}
    signature = hmac.new(WEBHOOK_SECRET, PUSH, hashlib.sha256).hexdigest()
    with settled.daemon() as daemon:
        settled.commit({"api.env": b"A=2\n"})
        for bad in (
            {},
            {"X-Hub-Signature-256": f"sha256={'0' * 64}"},
            {"X-Gitlab-Token": "guess"},
            {"X-Gitlab-Token": "\xff"},
        ):
            assert daemon.post("/webhook", PUSH, bad)[0] == 403
        assert daemon.post("/webhook", PUSH + b" ", {"X-Hub-Signature-256": f"sha256={signature}"})[0] == 403
        assert settled.live("api.env") == b"A=1\n"

        assert daemon.post("/webhook", PUSH, {"X-Hub-Signature-256": f"sha256={signature}"})[0] == 202
        lives(settled, b"A=2\n")

        # The secret is replaced without a restart; for as long as it cannot be read, nobody gets in.
        secret.unlink()
        token = {"X-Gitlab-Token": "another secret", "X-Gitlab-Event": "Push Hook", "X-Gitlab-Event-UUID": "d-1"}
        assert daemon.post("/webhook", PUSH, token)[0] == 503
        secret.write_bytes(b"another secret\n")
        assert daemon.post("/webhook", PUSH, {"X-Hub-Signature-256": f"sha256={signature}"})[0] == 403
        settled.commit({"api.env": b"A=3\n"})
        assert daemon.post("/webhook", b'{"ref": "refs/heads/feature"}', token)[0] == 200
        assert settled.live("api.env") == b"A=2\n"
        assert daemon.post("/webhook", PUSH, token)[0] == 202
        lives(settled, b"A=3\n")
        assert [line["delivery"] for line in daemon.events() if "answer" in line] == ["", "d-1", "d-1"]
    assert [run["trigger"] for run in settled.json("history", "--limit", "2")] == ["webhook", "webhook"]


def test_without_a_webhook_secret_there_is_no_webhook(settled: Server) -> None:
    with settled.daemon() as daemon:
        empty = hmac.new(b"", PUSH, hashlib.sha256).hexdigest()
        for headers in ({"X-Hub-Signature-256": f"sha256={empty}"}, {"X-Gitlab-Token": ""}):
            assert daemon.post("/webhook", PUSH, headers) == daemon.post("/nowhere", PUSH, headers)
            assert daemon.post("/webhook", PUSH, headers)[0] == 404


def test_commands_go_through_the_daemon_by_a_private_socket(settled: Server) -> None:
    with settled.daemon() as daemon:
        socket = (settled.state / "control.sock").stat()
        assert stat.S_ISSOCK(socket.st_mode)
        assert (stat.S_IMODE(socket.st_mode), socket.st_uid) == (0o600, os.geteuid())

        settled.commit({"api.env": b"A=2\n"})
        planned = settled.cli("plan", "--json")
        assert (planned.returncode, read_answer("plan", planned.stdout)[0]["pending"]) == (2, True)
        # The daemon knows of the revision now, so a look of its own may come first.
        assert settled.sync()["result"] in ("applied", "in_sync")
        assert settled.live("api.env") == b"A=2\n"
        status = settled.json("status")
        assert status["daemon"] == {"running": True, "pid": daemon.process.pid, "http": f"127.0.0.1:{daemon.port}"}
        assert status["environments"][0]["applied"]["commit"] == settled.remote.head()
        # The public interface takes no requests: it only serves reads and the webhook.
        assert daemon.post(REQUEST_PATH, b"{}", {})[0] == 404
    assert not (settled.state / "control.sock").exists()
    assert settled.json("status")["daemon"] == {"running": False, "pid": None, "http": ""}


def test_restore_goes_through_the_daemon_and_holds_for_as_long_as_the_pause(settled: Server) -> None:
    with settled.daemon():
        settled.commit({"api.env": b"A=2\n"})
        settled.sync()
        backup = settled.json("backups")[0]["backup"]
        assert settled.cli("pause", "--all").returncode == 0

        restored = settled.json("restore", backup)

        assert (restored["restored"], restored["from"]) == ([str(settled.app / "api.env")], backup)
        assert settled.live("api.env") == b"A=1\n"
        assert settled.backed_up(restored["backup"]) == {"api.env": b"A=2\n"}
        settled.cli("sync")
        (environment,) = settled.json("status")["environments"]
        assert [change["sync"] for change in environment["after"]["changes"]] == ["held"]
        assert settled.live("api.env") == b"A=1\n"

        assert settled.cli("resume", "--all").returncode == 0
        assert settled.live("api.env") == b"A=2\n"


def test_restore_without_a_pause_is_drift_that_the_daemon_corrects(settled: Server) -> None:
    with settled.daemon() as daemon:
        settled.commit({"api.env": b"A=2\n"})
        settled.sync()
        (newest, *_) = settled.json("backups")

        done = settled.cli("restore", newest["backup"])

        assert done.returncode == 0
        assert "Unless paused" in " ".join(done.stdout.split())
        lives(settled, b"A=2\n")  # the touched file wakes the daemon
        eventually(lambda: daemon.history()[0]["result"] == "corrected", timeout=30)


def test_what_the_daemon_refuses_is_an_error_of_the_command(settled: Server) -> None:
    with settled.daemon() as daemon:
        for arguments in (["restore", "20200101T000000Z-nothing"], ["adopt", "production/other.env"]):
            done = settled.cli(*arguments)
            assert (done.returncode, done.stdout) == (1, ""), arguments
            assert done.stderr.startswith("reconciler: "), arguments
        assert daemon.get("/healthz")[0] == 200


def test_second_daemon_on_the_same_state_is_refused_and_learns_who_holds_it(settled: Server) -> None:
    with settled.daemon() as daemon:
        second = settled.cli("run")

        assert second.returncode == 1
        assert f"in use by process {daemon.process.pid} (reconciler run) since " in second.stderr
        assert daemon.get("/healthz")[0] == 200
        assert (settled.state / "control.sock").exists()
        assert settled.sync()["result"] == "in_sync"


def test_log_is_one_json_object_a_line_without_values(settled: Server) -> None:
    secret = b"hunter2-correct-horse"
    with settled.daemon() as daemon:
        settled.commit({"api.env": b"A=" + secret + b"\n"})
        settled.sync()
        settled.commit({"api.env": None})
        settled.sync()
        log, served = daemon.log.read_bytes(), daemon.get("/api/v1/status")[1] + daemon.get("/metrics")[1]
    events = [json.loads(line) for line in log.splitlines()]
    assert [(event["result"], event["level"]) for event in events if event["event"] == "reconciled"] == [
        ("applied", "info"),
        ("applied", "info"),
        ("stalled", "error"),
    ]
    assert events[2]["files"] == {"production/api.env": ["A"]}
    assert secret not in log
    assert secret.decode() not in served


def test_unusable_address_and_socket_are_named_with_the_setting(settled: Server) -> None:
    with settled.daemon() as daemon:
        settled.settings |= {"http": {"listen": f"127.0.0.1:{daemon.port}"}, "state_dir": str(settled.root / "other")}
        taken = settled.cli("run")
    settled.settings |= {"http": {"listen": "127.0.0.1:0"}, "state_dir": str(settled.root / ("long" * 25))}
    too_long = settled.cli("run")

    assert (taken.returncode, too_long.returncode) == (1, 1)
    assert f"127.0.0.1:{daemon.port}: cannot listen (Address already in use)" in taken.stderr
    assert "http.listen" in taken.stderr
    assert "cannot listen (AF_UNIX path too long)" in too_long.stderr
    assert "state_dir" in too_long.stderr


# --- its end ---------------------------------------------------------------------------------------------------------

GATED_HEALTH = """\
services:
  api:
    image: IMAGE
    network_mode: host
    env_file: [api.env]
    volumes: ['./gate:/gate:ro']
    healthcheck: {test: [CMD, test, -e, /gate/open], interval: 1s, retries: 60}
"""


@pytest.fixture
def waiting(stack_server: MakeStackServer) -> Iterator[tuple[Server, ComposeProject, Daemon]]:
    """A daemon in the middle of a reconciliation: the service has been recreated with A=2 and is not healthy yet."""
    server, project = stack_server(GATED_HEALTH, {"gate/open": ""})
    server.commit({"api.env": b"A=1\n"}, server.manifest(["api.env"], health={"timeout": "60s", "stable_for": "1s"}))
    server.sync()
    project.up()
    (server.app / "gate/open").unlink()
    server.settings["repository"]["poll_interval"] = "1s"
    with server.daemon() as daemon:
        server.commit({"api.env": b"A=2\n"})
        eventually(lambda: project.environment("api")["A"] == "2", timeout=30)
        yield server, project, daemon


@pytest.mark.docker
def test_sigterm_lets_the_running_reconciliation_end(waiting: tuple[Server, ComposeProject, Daemon]) -> None:
    server, _, daemon = waiting
    assert server.json("history")[0]["result"] == "unfinished"
    daemon.process.terminate()
    daemon.process.terminate()
    with pytest.raises(subprocess.TimeoutExpired):
        daemon.process.wait(0.5)

    (server.app / "gate/open").touch()

    assert daemon.process.wait(120) == 0
    latest = server.json("history")[0]
    assert (latest["result"], latest["changes"][0]["changed"]) == ("applied", ["A"])
    assert daemon.events()[-1]["event"] == "stopped"
    assert not (server.state / "control.sock").exists()


def test_reconciliation_that_kill_9_cut_off_is_finished_by_the_next_daemon(
    waiting: tuple[Server, ComposeProject, Daemon],
) -> None:
    server, project, daemon = waiting
    daemon.kill()
    assert (server.state / "control.sock").exists()  # left behind
    (server.app / "gate/open").touch()

    with server.daemon() as again:
        (environment,) = json.loads(again.get("/api/v1/status")[1])["environments"]
        assert environment["healthy"]["commit"] == server.remote.head()
        assert server.sync()["result"] == "in_sync"  # the socket is its own again
    assert project.environment("api")["A"] == "2"
    assert "unfinished" not in {run["result"] for run in server.json("history")}


def test_kill_9_leaves_no_lock(settled: Server) -> None:
    with settled.daemon() as daemon:
        daemon.kill()
    settled.commit({"api.env": b"A=2\n"})

    assert settled.sync()["result"] == "applied"  # nobody listens on the socket that is left
    assert settled.json("status")["daemon"]["running"] is False


# --- when something fails --------------------------------------------------------------------------------------------


def test_without_git_drift_is_still_restored_and_new_commits_arrive_once_it_is_back(settled: Server) -> None:
    settled.settings["repository"]["poll_interval"] = "1s"
    settled.settings["drift"]["interval"] = "1s"
    away = settled.root / "away"
    with settled.daemon() as daemon:
        settled.remote.path.rename(away)
        eventually(lambda: fetches(daemon, "failed") > 0)
        (settled.app / "api.env").write_bytes(b"A=by hand\n")
        lives(settled, b"A=1\n")
        eventually(lambda: "remote" in warning(daemon))

        away.rename(settled.remote.path)
        settled.commit({"api.env": b"A=2\n"})
        lives(settled, b"A=2\n")
        eventually(lambda: warning(daemon) == "")


def fetches(daemon: Daemon, result: str) -> float:
    return daemon.metrics()[f'reconciler_git_fetch_total{{environment="production",result="{result}"}}']


def warning(daemon: Daemon) -> str:
    (environment,) = json.loads(daemon.get("/api/v1/status")[1])["environments"]
    return str(environment["warning"])


def test_start_without_git_is_retried_long_before_the_next_poll(settled: Server) -> None:
    away = settled.root / "away"
    settled.remote.path.rename(away)
    with settled.daemon() as daemon:
        (environment,) = json.loads(daemon.get("/api/v1/status")[1])["environments"]
        assert (environment["result"], environment["retry"]) == ("failed", True)
        away.rename(settled.remote.path)
        lives(settled, b"A=1\n")  # poll_interval is 10 minutes


async def test_defect_of_ours_in_one_environment_stops_neither_the_others_nor_the_daemon(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Broken:
        environment = "broken"
        activity = Activity()

        async def reconcile(self, *_: object) -> Outcome:
            raise ZeroDivisionError("never seen before")

    class Sound:
        environment = "sound"
        activity = Activity()

        async def reconcile(self, *_: object) -> Outcome:
            return Outcome("sound", Result.IN_SYNC, "in sync")

    class Ticks:
        def tick(self, at: float) -> None: ...

    loop = make_loop(tmp_path, {"broken": Broken(), "sound": Sound()}, Ticks())
    running = asyncio.create_task(loop.run())
    reconciled = await loop.between_reconciliations(lambda: loop.reconcile(ReconcileRequest("manual")))
    outcomes = {outcome.environment: outcome for outcome in reconciled}
    loop.stop()
    await running

    assert (outcomes["sound"].result, outcomes["broken"].result) == (Result.IN_SYNC, Result.FAILED)
    assert outcomes["broken"].retry
    assert "ZeroDivisionError" in capsys.readouterr().out


# --- an idle daemon --------------------------------------------------------------------------------------------------

# Notes every process that Python starts and every file that it opens for writing, from inside.
WATCHER = """\
import os, sys

log = os.open(os.environ["WATCHER_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
STARTS = ("subprocess.Popen", "os.posix_spawn", "os.fork", "os.exec", "os.system")
def note(event, arguments):
    if event in STARTS:
        os.write(log, f"start {arguments[1] if len(arguments) > 1 else event}\\n".encode())
    elif event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR) and arguments[0] != os.devnull:
        os.write(log, f"write {arguments[0]}\\n".encode())
    elif event in ("os.rename", "os.remove", "os.mkdir", "os.chmod", "os.chown", "os.link", "os.truncate"):
        os.write(log, f"write {event} {arguments[0]}\\n".encode())
sys.addaudithook(note)
"""


@pytest.mark.docker
def test_idle_daemon_decrypts_nothing_writes_nothing_and_starts_nothing_but_git_ls_remote(
    stack_server: MakeStackServer,
) -> None:
    server, project = stack_server("services: {api: {image: IMAGE, network_mode: host, env_file: [api.env]}}")
    server.commit({"api.env": b"A=1\n"}, server.manifest(["api.env"]))
    server.sync()
    project.up()
    server.settings["repository"]["poll_interval"] = "1s"
    server.settings["drift"]["interval"] = "1s"
    (server.root / "sitecustomize.py").write_text(WATCHER)
    watched = server.root / "watched.log"
    with server.daemon(PYTHONPATH=str(server.root), WATCHER_LOG=str(watched)) as daemon:
        eventually(lambda: polls(watched.read_text()) >= 3, timeout=30)  # the first ones look at the new containers
        before, start = contents(server.state, server.app), len(watched.read_text())
        assert "write " in watched.read_text()  # the start: so the watcher sees what it must not see from now on
        decrypted, ended = decrypts(daemon), reconciliations(daemon)

        eventually(lambda: polls(watched.read_text()[start:]) >= 3, timeout=30)
        eventually(lambda: reconciliations(daemon) >= ended + 3, timeout=30)

        assert decrypts(daemon) == decrypted
        idle = watched.read_text()[start:].splitlines()
        assert [line for line in idle if "ls-remote" not in line] == []
        assert contents(server.state, server.app) == before
        assert len(server.json("history")) == 1


def polls(log: str) -> int:
    return sum("ls-remote" in line for line in log.splitlines())


def reconciliations(daemon: Daemon) -> float:
    return daemon.metrics()['reconciler_reconcile_total{environment="production",result="in_sync"}']


def decrypts(daemon: Daemon) -> float:
    return daemon.metrics()['reconciler_decrypt_total{environment="production",reason="",result="ok"}']


def contents(*directories: Path) -> dict[str, tuple[int, int, int]]:
    """Inode, size and time of the last change of everything below the directories."""
    states = {}
    for file in (file for directory in directories for file in directory.rglob("*")):
        with contextlib.suppress(FileNotFoundError):
            known = file.lstat()
            states[str(file)] = (known.st_ino, known.st_size, known.st_mtime_ns)
    return states
