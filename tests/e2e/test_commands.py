"""What each command prints for people and for programs, and the exit code it ends with."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from reconciler.core.model.runs import Result
from tests.support.compose import ComposeProject
from tests.support.forks import reconciler
from tests.support.git_remote import make_ssh_key
from tests.support.json_answers import read_answer
from tests.support.server import ENVIRONMENT, Server
from tests.support.sshd import Sshd
from tests.support.terminal import terminal
from tests.support.waiting import eventually

ROOT = Path(__file__).parents[2]
NOTHING = {"PATH": os.defpath, "HOME": "/nonexistent"}
OUTCOME = {
    "environment", "result", "reason", "error_id", "revision", "run", "backup", "retry", "warning", "pending", "plan",
    "after",
}  # fmt: skip
CHANGE = {"target", "path", "stack", "sync", "kind", "effect", "aspects", "keys", "reason"}
CHANGE |= {"by_hand", "from_git", "edited_at", "edited_by", "restored_from", "renamed_from", "moved_to", "error_id"}


@pytest.fixture
def settled(server: Server) -> Server:
    """A server in sync with one file of three keys."""
    server.commit({"api.env": b"A=1\nB=2\nC=3\n"}, server.plain(["api.env"]), message="Start")
    assert server.sync()["result"] == "applied"
    return server


@contextlib.contextmanager
def held_reconciliation(server: Server) -> Iterator[Callable[[], None]]:
    """Reconciliations that write api.env wait, in a check of the server, until the yielded function is called."""
    gate = server.root / "gate"
    waiting = 'while ! test -e "$1"; do sleep 0.05; done'
    server.settings["checks"] = {"gate": ["sh", "-c", waiting, "{file}", str(gate)]}
    server.commit({"api.env": b"A=2\nB=2\nC=3\n"}, server.plain({"api.env": {"check": "gate"}}))
    try:
        yield gate.touch
    finally:
        gate.touch()


# --- exit codes ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_help_of_every_command_says_how_it_exits(run_cli: Callable[..., Any]) -> None:
    listed = run_cli("--help").stdout.partition("Commands:")[2].partition("Exit codes:")[0].splitlines()
    commands = [line.split()[0] for line in listed if line.startswith("  ") and line[2:3].strip()]
    assert {"run", "sync", "plan", "version"} <= set(commands)

    for command in commands:
        done = reconciler(command, "--help", env=NOTHING)
        assert done.returncode == 0
        assert "Exits 0" in " ".join(done.stdout.split()), command


@pytest.mark.parametrize("arguments", [["sync", "--sideways"], ["sideways"], ["restore"], ["demo", "sideways"]])
def test_arguments_that_cannot_be_read_are_an_error_and_not_something_that_waits(arguments: list[str]) -> None:
    done = reconciler(*arguments, env=NOTHING)

    assert done.returncode == 1
    assert "--help" in done.stderr


def test_server_file_that_is_not_there_is_an_error_that_says_how_to_name_another() -> None:
    for command in ("sync", "run"):
        done = reconciler(command, "--config", "/nonexistent/reconciler.yaml", env=NOTHING)
        assert (done.returncode, done.stdout) == (1, ""), command
        assert "RECONCILER_CONFIG" in done.stderr


def test_unknown_environment_and_unknown_target_are_refused_by_name(settled: Server) -> None:
    for command in ("sync", "history", "backups"):
        done = settled.cli(command, "--environment", "prodution")
        assert (done.returncode, done.stdout) == (1, ""), command
        assert "no environment prodution" in done.stderr
        assert ENVIRONMENT in done.stderr
    for name in ("api.env", "production/worker.env"):
        done = settled.cli("sync", "--take-over", name)
        assert done.returncode == 1, name
        assert f"no target {name}" in done.stdout + done.stderr


def test_nothing_to_show_before_the_first_reconciliation_is_an_error(server: Server) -> None:
    for command in ("history", "backups"):
        done = server.cli(command)
        assert (done.returncode, done.stdout) == (1, "")
        assert "nothing has run here yet" in done.stderr


# --- sync, plan, status ----------------------------------------------------------------------------------------------


def test_sync_in_json_has_one_outcome_per_environment_with_the_plan_and_the_state_after_it(settled: Server) -> None:
    commit = settled.commit({"api.env": b"A=1\nB=3\nD=4\nC=3\n"}, message="Change B", author="Bob <bob@example.org>")

    planned = settled.cli("plan", "--json")
    status = settled.cli("status", "--json")
    assert (status.returncode, read_answer("status", status.stdout)["environments"][0]["result"]) == (2, "pending")
    done = settled.cli("sync", "--json")

    assert (planned.returncode, done.returncode) == (2, 0)
    ((before,), (outcome,)) = (read_answer("plan", planned.stdout), read_answer("sync", done.stdout))
    for result in (before, outcome):
        assert result.keys() == OUTCOME
        assert result["environment"] == ENVIRONMENT
        assert (result["revision"]["commit"], result["revision"]["subject"]) == (commit, "Change B")
        assert result["revision"]["author"] == "Bob <bob@example.org>"
        (change,) = result["plan"]["changes"]
        assert change.keys() == CHANGE
        assert change["keys"] == {"added": ["D"], "removed": [], "changed": ["B"]}
        assert (change["kind"], change["effect"], change["sync"]) == ("update", "write", "pending")
        assert result["plan"]["actions"] == []
    assert (before["result"], before["pending"], before["run"], before["backup"]) == ("pending", True, None, None)
    assert (outcome["result"], outcome["pending"]) == ("applied", False)
    assert outcome["run"]
    assert outcome["backup"].endswith(outcome["run"])
    assert [change["sync"] for change in outcome["after"]["changes"]] == ["in_sync"]
    assert Result(outcome["result"]) is Result.APPLIED


def test_plan_exits_2_for_what_would_change_and_changes_nothing(settled: Server) -> None:
    before = settled.live("api.env")
    assert settled.cli("plan").returncode == 0
    settled.commit({"api.env": b"A=2\nB=2\nC=3\n"})

    done = settled.cli("plan")

    assert done.returncode == 2
    assert "~ A" in done.stdout
    assert settled.live("api.env") == before
    assert len(settled.json("history")) == 1


def test_plan_and_sync_exit_1_for_a_revision_that_cannot_be_applied_and_say_why(settled: Server) -> None:
    settled.commit({"api.env": None})

    for command in ("plan", "sync"):
        done = settled.cli(command)
        assert done.returncode == 1, command
        assert "api.env" in done.stdout
        assert "commit the file" in " ".join(done.stdout.lower().split())


def test_status_names_the_revisions_and_how_each_target_stands(settled: Server) -> None:
    done = settled.cli("status", "--json")
    status = read_answer("status", done.stdout)
    assert (done.returncode, status["daemon"]) == (0, {"running": False, "pid": None, "http": ""})
    (environment,) = status["environments"]
    head = settled.remote.head()
    assert [environment[name]["commit"] for name in ("head", "applied", "healthy")] == [head, head, head]
    assert (environment["result"], environment["quarantine"], environment["services"]) == ("in_sync", None, [])
    assert [change["sync"] for change in environment["after"]["changes"]] == ["in_sync"]

    (settled.app / "api.env").write_bytes(b"A=by hand\nB=2\nC=3\n")
    done = settled.cli("status", "--json")
    (environment,) = read_answer("status", done.stdout)["environments"]
    assert done.returncode == 2
    assert [change["sync"] for change in environment["after"]["changes"]] == ["drifted"]
    assert "drifted" in settled.cli("status").stdout
    assert settled.live("api.env").startswith(b"A=by hand")


# --- history, backups, restore ---------------------------------------------------------------------------------------


def test_history_lists_runs_newest_first_as_many_as_asked_for(settled: Server) -> None:
    settled.commit({"api.env": b"A=2\nB=2\nC=3\n"}, message="Second", author="Bob <bob@example.org>")
    settled.sync()

    runs = settled.json("history")
    assert [run["revision"]["subject"] for run in runs] == ["Second", "Start"]
    assert {run["trigger"] for run in runs} == {"manual"}
    assert {run["result"] for run in runs} == {"applied"}
    assert all(run["finished_at"] >= run["started_at"] for run in runs)
    assert runs[0]["from_commit"] == runs[1]["revision"]["commit"]
    assert len(settled.json("history", "--limit", "1")) == 1
    table = settled.cli("history").stdout
    assert "~ A" in table
    assert "Bob" in table


def test_restore_backs_up_what_it_replaces(settled: Server) -> None:
    settled.commit({"api.env": b"A=2\nB=2\nC=3\n"})
    old = settled.sync()["backup"]
    assert settled.json("backups")[0]["backup"] == old

    done = settled.cli("restore", old, "--json")

    assert done.returncode == 0
    restored = read_answer("restore", done.stdout)
    assert restored["restored"] == [str(settled.app / "api.env")]
    assert restored["from"] == old
    assert settled.live("api.env") == b"A=1\nB=2\nC=3\n"
    assert settled.backed_up(restored["backup"]) == {"api.env": b"A=2\nB=2\nC=3\n"}
    assert settled.json("backups")[0]["backup"] == restored["backup"]
    assert settled.cli("plan").returncode == 2  # to git it is drift


def test_restore_of_a_file_that_did_not_exist_removes_it(settled: Server) -> None:
    (first,) = settled.json("backups")
    assert first["files"] == [{"source": "api.env", "path": str(settled.app / "api.env"), "existed": False}]

    assert settled.cli("restore", first["backup"]).returncode == 0

    assert not (settled.app / "api.env").exists()


def test_restore_refuses_an_unknown_backup_and_an_unknown_file(settled: Server) -> None:
    (backup,) = settled.json("backups")
    unknown = settled.cli("restore", "20200101T000000Z-nothing")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert "reconciler backups" in unknown.stderr
    unknown = settled.cli("restore", backup["backup"], "--target", "worker.env")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert "api.env" in unknown.stderr
    assert settled.live("api.env") == b"A=1\nB=2\nC=3\n"


# --- doctor ----------------------------------------------------------------------------------------------------------


def findings(server: Server) -> dict[str, dict[str, str]]:
    """The findings of doctor, by component."""
    return {finding["component"]: finding for finding in server.json("doctor")}


def test_doctor_finds_every_broken_component_and_says_what_to_do(settled: Server, tmp_path: Path) -> None:
    key = tmp_path / "age.key"
    key.write_bytes(settled.key.path.read_bytes())
    key.chmod(0o644)
    settled.settings["decryption"]["age_key_file"] = str(key)
    settled.settings["allowed_paths"].append(str(tmp_path / "missing"))
    settled.settings["repository"]["url"] = str(tmp_path / "gone.git")
    settled.settings["checks"] = {"lint": ["no-such-program", "{file}"]}
    (tmp_path / "token").write_text("short")
    (tmp_path / "token").chmod(0o600)
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    settled.settings["http"] = {"listen": f"unix:{tmp_path}/open/http.sock", "token_file": str(tmp_path / "token")}

    done = settled.cli("doctor", "--json")

    assert done.returncode == 1
    bad = [finding for finding in read_answer("doctor", done.stdout) if finding["level"] == "error"]
    components = {finding["component"] for finding in bad}
    assert components == {"age key", "allowed path", "git remote", "check lint", "http", "http token"}
    advice = {finding["component"]: finding["advice"] for finding in bad}
    assert advice["age key"] == f"`chmod 0600 {key}`"
    assert advice["http"].startswith(f"`chmod go-w {tmp_path}/open`")
    assert advice["http token"] == "Write a new one: `openssl rand -hex 32` [http-token]"
    assert advice["allowed path"].startswith(f"`mkdir -p {tmp_path}/missing`")
    assert all(advice.values())
    table = settled.cli("doctor")
    assert table.returncode == 1
    assert "chmod 0600" in table.stdout


def contents(*directories: Path) -> dict[str, tuple[bytes, int]]:
    """Every file below the directories with its content and when it last changed."""
    files = [path for directory in directories for path in directory.rglob("*") if path.is_file()]
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def test_doctor_changes_nothing_on_disk(settled: Server) -> None:
    settled.commit({"api.env": b"A=1\nB=2\nC=3\nD=4\n"}, settled.plain(["api.env"]))  # not in the mirror yet
    before = contents(settled.state, settled.app)
    assert {finding["level"] for finding in findings(settled).values()} == {"ok", "warning"}
    assert contents(settled.state, settled.app) == before


def test_doctor_creates_no_state_directory(server: Server) -> None:
    server.commit({"api.env": b"A=1\n"}, server.plain(["api.env"]))
    finding = findings(server)["state directory"]
    assert (finding["level"], finding["advice"]) == ("warning", "the daemon creates it")
    assert not server.state.exists()


def test_doctor_names_the_state_directory_that_is_damaged(settled: Server) -> None:
    database = settled.state / "state.db"
    database.write_bytes(b"no database at all")
    finding = findings(settled)["state directory"]
    assert finding["level"] == "error"
    assert str(database) in finding["result"] + finding["advice"]
    assert database.read_bytes() == b"no database at all"


@pytest.mark.sshd
def test_doctor_says_that_the_remote_refuses_a_push_and_that_no_signature_is_good(
    settled: Server, sshd: Sshd, tmp_path: Path
) -> None:
    reader, signers = make_ssh_key(tmp_path / "reader"), tmp_path / "signers"
    sshd.let_in(reader, read_only=True)
    signers.write_text(f"ada@example.org {reader.with_suffix('.pub').read_text()}")
    signing = tmp_path / "no-signing-key"
    settled.settings["repository"] |= {
        "url": sshd.url(settled.remote.path),
        "ssh_key_file": str(reader),
        "known_hosts_file": str(sshd.known_hosts),
        "verify": "tip",
        "allowed_signers_file": str(signers),
    }
    settled.settings["rollback"] = {"git": "push", "signing_key_file": str(signing)}
    bad = {name: finding for name, finding in findings(settled).items() if finding["level"] == "error"}
    assert bad.keys() == {"git push", "signatures", "signing key"}
    assert f"Allow the key {reader} to push there, or set rollback.git: off" in bad["git push"]["advice"]
    assert all(finding["advice"] for finding in bad.values())

    settled.settings["rollback"]["git"] = "off"
    signers.chmod(0o666)
    bad = {name: finding for name, finding in findings(settled).items() if finding["level"] == "error"}
    assert bad.keys() == {"signers", "signatures", "signing key"}


def test_doctor_reports_a_manifest_and_a_server_file_that_cannot_be_read(settled: Server, tmp_path: Path) -> None:
    settled.remote.commit({f"envs/{ENVIRONMENT}/environment.yaml": b"targets: {x: {path: /etc/passwd}}\n"})
    finding = findings(settled)[f"environment {ENVIRONMENT}"]
    assert (finding["level"], "allowed_paths" in finding["result"]) == ("error", True)

    broken = tmp_path / "broken.yaml"
    broken.write_text("environment: [\n")
    done = settled.cli("doctor", "--config", str(broken), "--json")
    assert done.returncode == 1
    assert [finding["component"] for finding in read_answer("doctor", done.stdout)] == ["server configuration"]


@pytest.mark.docker
def test_doctor_is_content_with_a_stack_in_sync_and_warns_of_one_without_containers(
    stack_server: Callable[..., tuple[Server, ComposeProject]],
) -> None:
    server, project = stack_server("services: {api: {image: IMAGE, network_mode: host, env_file: [api.env]}}")
    server.commit({"api.env": b"A=1\n"}, server.manifest(["api.env"]))
    server.sync()

    by_component = findings(server)
    assert by_component["stack production/app"]["level"] == "warning"
    assert f"`docker compose up -d` in {server.app}" in by_component["stack production/app"]["advice"]

    project.up()
    done = server.cli("doctor", "--json")
    levels = {finding["component"]: finding["level"] for finding in read_answer("doctor", done.stdout)}
    assert done.returncode == 0
    assert levels.pop("daemon") == "warning"
    assert set(levels.values()) == {"ok"}
    assert {"age key", "sops and age key", "git remote", "state directory", "stack production/app"} <= levels.keys()


# --- schema ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("which", "files"),
    [
        ("manifest", [*ROOT.glob("envs/*/environment.yaml"), ROOT / "tests/data/manifest-full.yaml"]),
        ("server", [*ROOT.glob("tests/data/server-*.yaml")]),
        ("check.yaml", [ROOT / "envs/check.yaml"]),
        ("contract", [*ROOT.glob("envs/contracts/*.yaml")]),
    ],
    ids=["manifest", "server", "check.yaml", "contract"],
)
def test_schema_is_valid_and_accepts_the_example_files(which: str, files: list[Path]) -> None:
    done = reconciler("schema", which, env=NOTHING)
    assert done.returncode == 0
    schema = json.loads(done.stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)

    assert files
    for file in files:
        assert list(validator.iter_errors(yaml.safe_load(file.read_text()))) == [], file
    assert list(validator.iter_errors({"stakcs": {}}))


# --- two at the same time --------------------------------------------------------------------------------------------


def test_second_command_learns_who_works_on_the_state_directory(settled: Server) -> None:
    with held_reconciliation(settled) as go, settled.start("sync", stdout=subprocess.DEVNULL) as first:
        lock = settled.state / "lock"
        eventually(lambda: f"process {first.pid} " in lock.read_text())
        for command in ("sync", "status"):
            done = settled.cli(command)
            assert (done.returncode, done.stdout) == (1, ""), command
            assert f"in use by process {first.pid} (reconciler sync) since " in done.stderr
        assert settled.cli("history").returncode == 0  # reading is always possible
        go()
        assert first.wait(120) == 0
    assert settled.live("api.env") == b"A=2\nB=2\nC=3\n"
    assert settled.cli("sync").returncode == 0


# --- terminals -------------------------------------------------------------------------------------------------------


def test_no_command_needs_a_terminal_and_what_is_piped_has_no_escape_codes(settled: Server) -> None:
    (settled.app / "api.env").write_bytes(b"A=by hand\nB=2\nC=3\n")
    (backup,) = settled.json("backups")
    for command in ("plan", "status", "sync", "history", "doctor", f"restore {backup['backup']}"):
        done = settled.cli(*command.split())
        assert done.stdout, command
        assert "\x1b" not in done.stdout + done.stderr, command
        assert "Traceback" not in done.stderr


def test_sync_that_takes_longer_than_a_second_shows_its_progress_on_a_terminal(settled: Server) -> None:
    with held_reconciliation(settled) as go, terminal(settled, "sync") as read:
        eventually(lambda: "comparing the live files" in read(), timeout=30)
        go()
        eventually(lambda: "applied" in read(), timeout=30)
        assert "\x1b[" in read()


def test_a_temporary_file_of_a_killed_run_is_removed_and_an_edit_in_it_kept(server: Server) -> None:
    server.commit({"api.env": b"A=1\n"}, server.plain(["api.env"]))
    server.sync()
    left = server.app / ".api.env.reconciler-0123456789ab"
    left.write_bytes(b"A=hand\n")
    assert server.sync()["result"] == "in_sync"
    assert [path.name for path in server.app.iterdir()] == ["api.env"]
    kept = [path.read_bytes() for path in (server.state / "backups").rglob("*") if path.is_file()]
    assert b"A=hand\n" in kept


def test_the_oldest_backup_can_be_restored_however_few_are_kept(server: Server) -> None:
    server.settings["backups"] = {"keep": 1}
    server.commit({"api.env": b"A=0\n"}, server.plain(["api.env"]))
    server.sync()
    for number in (1, 2, 3):
        server.commit({"api.env": b"A=%d\n" % number})
        server.sync()
    oldest = server.json("backups")[-1]["backup"]
    assert server.cli("restore", oldest).returncode == 0
    assert server.live("api.env") == b"A=2\n"


def test_doctor_is_not_fooled_by_a_socket_that_a_killed_daemon_left(server: Server) -> None:
    server.commit({"api.env": b"A=1\n"}, server.plain(["api.env"]))
    server.sync()
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(server.state / "control.sock"))
    (daemon,) = [finding for finding in server.json("doctor") if finding["component"] == "daemon"]
    assert daemon["level"] == "warning"
    assert "is not running" in daemon["result"]
