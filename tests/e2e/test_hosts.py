"""One server that keeps the files of several machines: real sshd processes, each with keys and a port of its own.

They share this machine's file system and engine, so each host's stack has a directory of its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import output
from tests.support.compose import ComposeProject
from tests.support.json_answers import read_answer
from tests.support.server import Server
from tests.support.sshd import Sshd, make_sshd
from tests.support.waiting import eventually

pytestmark = pytest.mark.sshd

# Is healthy only where MODE does not begin with bad, or with this host's name.
COMPOSE = """\
services:
  api:
    image: IMAGE
    network_mode: host
    stop_grace_period: 0s
    env_file: [api.env]
    command: [sh, -c, 'case $$MODE in bad|bad-NAME) exit 1;; esac; exec sleep infinity']
"""


@dataclass(slots=True)
class Fleet:
    """A server that reaches ``hosts`` by name; ``app`` of each is its stack's directory."""

    server: Server
    hosts: dict[str, Sshd]
    projects: dict[str, ComposeProject] = field(default_factory=dict)

    def app(self, name: str) -> Path:
        return self.projects[name].directory if self.projects else self.server.app / name

    def live(self, name: str) -> bytes:
        return (self.app(name) / "api.env").read_bytes()

    def commit(self, content: bytes, **target: Any) -> str:
        return self.server.commit({"api.env": content}, self.manifest(**target))

    def manifest(self, **target: Any) -> dict[str, Any]:
        health = {"timeout": "20s", "stable_for": "1s"}
        if not self.projects:
            # Without an engine: a directory for each host's file, and nothing in it to recreate.
            return {"targets": {"api.env": {"path": str(self.server.app / "shared" / "api.env"), **target}}}
        return {
            "stacks": {
                f"app-{name}": {
                    "directory": str(self.app(name)),
                    "hosts": [name],
                    "health": dict(health),
                    "targets": {"api.env": target or None},
                }
                for name in self.projects
            }
        }

    def sync(self, *arguments: str) -> dict[str, dict[str, Any]]:
        return {outcome["environment"].partition("@")[2]: outcome for outcome in self.server.json("sync", *arguments)}

    def results(self, *arguments: str) -> dict[str, str]:
        return {name: outcome["result"] for name, outcome in self.sync(*arguments).items()}

    def runs(self, name: str) -> str:
        return self.projects[name].environment("api")["MODE"]


@pytest.fixture
def start_hosts(tmp_path: Path) -> Iterator[Callable[..., dict[str, Sshd]]]:
    with contextlib.ExitStack() as stack:

        def make(*names: str) -> dict[str, Sshd]:
            made = {}
            for name in names:
                directory = tmp_path / f"sshd-{name}"
                directory.mkdir()
                made[name] = make_sshd(directory)
                stack.callback(made[name].stop)
            return made

        yield make


@pytest.fixture
def single(server: Server, start_hosts: Callable[..., dict[str, Sshd]]) -> Fleet:
    """A control machine that reaches one host, without an engine."""
    hosts = start_hosts("web-1")
    (server.app / "shared").mkdir()
    server.settings |= {"local": False, "hosts": {"web-1": hosts["web-1"].as_host()}}
    return Fleet(server, hosts)


@pytest.fixture
def fleet(
    server: Server, start_hosts: Callable[..., dict[str, Sshd]], compose_project: Callable[..., ComposeProject]
) -> Callable[..., Fleet]:
    """``fleet("web-1", "web-2")``: hosts with a running stack each, in sync at MODE=0."""

    def make(*names: str, **settings: Any) -> Fleet:
        hosts = start_hosts(*names)
        projects = {name: compose_project(COMPOSE.replace("NAME", name)) for name in names}
        server.settings |= {
            "local": False,
            "hosts": {name: hosts[name].as_host() for name in names},
            "allowed_paths": [str(project.directory) for project in projects.values()],
            **settings,
        }
        made = Fleet(server, hosts, projects)
        made.commit(b"MODE=0\n")
        done = made.sync()
        assert [outcome["result"] for outcome in done.values()] == ["applied"] * len(names), done
        for project in projects.values():
            project.up()
        return made

    return make


# --- what runs there --------------------------------------------------------------------------------------------------


@pytest.mark.docker
def test_a_project_of_another_host_is_guarded_and_asked_for_its_health_from_there(fleet: Callable[..., Fleet]) -> None:
    made = fleet("web-1")
    it_is_guarded(made)
    its_health_url_is_asked_from_the_host_itself(made)


def it_is_guarded(made: Fleet) -> None:
    project = made.projects["web-1"]
    compose = project.directory / "compose.yaml"
    text = compose.read_text()
    compose.write_text(text.replace("    env_file", "    privileged: true\n    env_file"))
    made.commit(b"MODE=1\n")
    (held,) = made.sync().values()
    assert held["result"] == "held", held["reason"]
    assert "api: privileged: the container has nothing, the project now says yes" in held["reason"]
    compose.write_text(text.replace("    env_file", "    expose: ['9000']\n    env_file"))
    (held,) = made.sync().values()
    assert "in a field that reconciler cannot name" in held["reason"]
    compose.write_text(text)
    (applied,) = made.sync().values()
    assert applied["result"] == "applied", applied["reason"]

    target = {"compose.override.yaml": {"path": str(project.directory / "compose.override.yaml"), "encrypted": False}}
    made.server.commit({"compose.override.yaml": b"services: {api: {privileged: true}}\n"}, {"targets": target})
    (refused,) = made.sync().values()
    assert refused["result"] == "stalled"
    assert "allow_compose_files" in refused["reason"]
    assert not (project.directory / "compose.override.yaml").exists()


def its_health_url_is_asked_from_the_host_itself(made: Fleet) -> None:
    """Through the connection: a firewall between is no matter."""
    manifest = made.manifest()
    manifest["stacks"]["app-web-1"]["health"] |= {
        "http": [{"url": "http://127.0.0.1:9/health"}],
        "timeout": "5s",  # it is asked all the time until then
    }
    made.server.commit({"api.env": b"MODE=2\n", "compose.override.yaml": None}, manifest)
    done = made.sync()["web-1"]
    assert (done["result"], "127.0.0.1:9" in done["reason"]) == ("failed", True), done


# --- a single host ----------------------------------------------------------------------------------------------------


def staging(made: Fleet, host: str) -> Path:
    """Where files are staged on a host, in memory."""
    name = f"{made.server.settings.get('host') or socket.gethostname()} {made.server.state} {host}"
    return Path(f"/dev/shm/reconciler-{hashlib.sha256(name.encode()).hexdigest()[:12]}")


def shared(single: Fleet) -> Path:
    return single.server.app / "shared" / "api.env"


def test_a_file_on_another_host_is_written_with_its_mode_backed_up_there_and_here_and_restored(single: Fleet) -> None:
    single.commit(b"A=1\n", mode="0640")
    assert single.results() == {"web-1": "applied"}
    assert shared(single).read_bytes() == b"A=1\n"
    assert stat.S_IMODE(shared(single).stat().st_mode) == 0o640

    shared(single).write_bytes(b"A=hand\n")
    done = single.sync()["web-1"]
    assert (done["result"], shared(single).read_bytes()) == ("corrected", b"A=1\n")
    copies = list((single.hosts["web-1"].directory / "backups" / "production").glob(f"{done['backup']}/*api.env"))
    here = list((single.server.state / "backups" / "production@web-1").glob(f"{done['backup']}/*api.env"))
    assert [path.read_bytes() for path in (*copies, *here)] == [b"A=hand\n"] * 2
    assert {stat.S_IMODE(path.stat().st_mode) for path in copies} == {0o600}
    assert stat.S_IMODE(copies[0].parent.stat().st_mode) == 0o700
    assert single.results() == {"web-1": "in_sync"}
    assert [path.name for path in shared(single).parent.iterdir()] == ["api.env"]


def test_a_missing_directory_is_made_and_a_pruned_file_goes(single: Fleet) -> None:
    path = str(single.server.app / "new" / "deep" / "api.env")
    single.server.commit({"api.env": b"A=1\n"}, {"targets": {"api.env": {"path": path, "prune": True}}})
    assert single.results() == {"web-1": "applied"}
    assert Path(path).read_bytes() == b"A=1\n"
    single.server.commit({"api.env": None}, {"targets": {}})
    assert single.results() == {"web-1": "applied"}
    assert not Path(path).exists()


@pytest.mark.parametrize("link", ["file", "directory"])
def test_a_link_on_the_way_is_not_followed(single: Fleet, tmp_path: Path, link: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "api.env").write_bytes(b"A=0\n")
    if link == "file":
        shared(single).symlink_to(outside / "api.env")
    else:
        shared(single).parent.rmdir()
        shared(single).parent.symlink_to(outside)
    single.commit(b"A=1\n", on_first_contact="take_over")
    done = single.sync()["web-1"]
    assert done["result"] == "failed"
    assert "link" in done["reason"]
    assert (outside / "api.env").read_bytes() == b"A=0\n"


@pytest.mark.root
def test_owner_and_group_are_those_of_the_host(single: Fleet) -> None:
    single.commit(b"A=1\n", owner="nobody", group="nogroup")
    assert single.results() == {"web-1": "applied"}
    assert (shared(single).owner(), shared(single).group()) == ("nobody", "nogroup")
    single.commit(b"A=1\n", owner="nobody-there")
    done = single.sync()["web-1"]
    assert (done["result"], "'nobody-there' does not exist on web-1" in done["reason"]) == ("stalled", True)


def test_a_named_check_runs_there_on_a_file_that_is_in_memory_only(single: Fleet, tmp_path: Path) -> None:
    report = tmp_path / "report"
    script = 'cat "$1" > /dev/null && echo "$1" >> "$2" && ! grep -q WRONG "$1"'
    single.server.settings["checks"] = {"lint": ["/bin/sh", "-c", script, "sh", "{file}", str(report)]}
    single.commit(b"A=WRONG\n", check="lint")
    assert single.results() == {"web-1": "stalled"}
    assert not shared(single).exists()
    single.commit(b"A=1\n", check="lint")
    assert single.results() == {"web-1": "applied"}
    staged = [Path(line) for line in report.read_text().split()]
    assert staged
    assert {path.parent for path in staged} == {Path(f"{staging(single, 'web-1')}-check")}
    assert not any(path.parent.exists() for path in staged)


@pytest.mark.parametrize("warning", ["host key", "login", "gone", "no known hosts"])
def test_an_unreachable_host_blames_no_revision_and_says_why(single: Fleet, warning: str) -> None:
    single.commit(b"A=1\n")
    sshd = single.hosts["web-1"]
    section = single.server.settings["hosts"]["web-1"]
    match warning:
        case "host key":
            sshd.rotate_host_key()
        case "login":
            (sshd.directory / "authorized_keys").write_text("")
        case "gone":
            sshd.stop()
        case "no known hosts":
            section["known_hosts_file"] = "/nonexistent/known_hosts"
    words = {"host key": "host key is unknown", "login": "refuses our login", "gone": "refused"}
    done = single.sync()["web-1"]
    assert (done["result"], done["retry"]) == ("failed", True)
    assert words.get(warning, "cannot be read") in done["reason"]
    assert not shared(single).exists()
    assert single.server.json("status")["environments"][0]["quarantine"] is None


def test_the_connection_may_go_through_another_machine(
    single: Fleet, start_hosts: Callable[..., dict[str, Sshd]]
) -> None:
    jump = start_hosts("bastion")["bastion"]
    fields = jump.as_host()
    del fields["backup_dir"]
    single.server.settings["hosts"]["web-1"]["jump"] = fields
    single.commit(b"A=1\n")
    assert single.results() == {"web-1": "applied"}
    jump.stop()
    assert single.results() == {"web-1": "failed"}


def test_the_agent_may_hold_the_key(single: Fleet, tmp_path: Path) -> None:
    socket = f"/tmp/reconciler-agent-{os.getpid()}"
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", socket], stdout=subprocess.DEVNULL)
    try:
        eventually(lambda: os.path.exists(socket))
        key = single.hosts["web-1"].key_path
        subprocess.run(["ssh-add", "-q", str(key)], env={**os.environ, "SSH_AUTH_SOCK": socket}, check=True)
        del single.server.settings["hosts"]["web-1"]["key_file"]
        single.commit(b"A=1\n")
        done = single.server.cli("sync", environment={"SSH_AUTH_SOCK": socket})
        assert done.returncode == 0, done.stdout
    finally:
        agent.terminate()
        agent.wait()


@pytest.mark.root
def test_a_full_disk_there_damages_nothing(single: Fleet) -> None:
    single.commit(b"A=1\n")
    directory = shared(single).parent
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(directory)], check=True)
    try:
        assert single.results() == {"web-1": "applied"}
        filler = directory / "filler"
        with contextlib.suppress(OSError):
            filler.write_bytes(b"x" * 70_000)
        single.commit(b"A=" + b"2" * 9000 + b"\n")
        done = single.sync()["web-1"]
        assert (done["result"], done["retry"]) == ("failed", True)
        assert shared(single).read_bytes() == b"A=1\n"
        filler.unlink()
        assert single.results() == {"web-1": "applied"}
        assert [path.name for path in directory.iterdir()] == ["api.env"]
    finally:
        subprocess.run(["umount", str(directory)], check=True)


def test_a_backup_is_restored_there(single: Fleet) -> None:
    for content in (b"A=1\n", b"A=2\n"):
        single.commit(content)
        single.sync()
    (backup, *_) = single.server.json("backups")
    assert single.server.cli("restore", backup["backup"]).returncode == 0
    assert shared(single).read_bytes() == b"A=1\n"


def test_a_pause_for_the_environment_holds_on_its_hosts(single: Fleet) -> None:
    single.commit(b"A=1\n")
    single.sync()
    assert single.server.cli("pause", "production/api.env", "--for", "1h", "--reason", "x").returncode in (0, 2)
    single.commit(b"A=2\n")
    assert single.results() == {"web-1": "held"}
    assert single.server.cli("resume", "production/api.env").returncode == 0
    assert shared(single).read_bytes() == b"A=2\n"


def test_a_backup_of_a_removed_host_is_restored_nowhere_else(single: Fleet) -> None:
    for content in (b"A=1\n", b"A=2\n"):
        single.commit(content)
        single.sync()
    (backup, *_) = single.server.json("backups")
    hosts = single.server.settings["hosts"]
    hosts["web-9"] = hosts.pop("web-1")
    done = single.server.cli("restore", backup["backup"])
    assert (done.returncode, "no longer one of this server's hosts" in done.stderr) == (1, True)
    assert shared(single).read_bytes() == b"A=2\n"


def test_commands_take_the_environment_and_its_name_on_a_host(single: Fleet) -> None:
    single.commit(b"A=1\n")
    single.sync()
    shared(single).write_bytes(b"A=hand\n")
    single.sync()
    for name in ("production", "production@web-1"):
        assert [run["result"] for run in single.server.json("history", "--environment", name)] == [
            "corrected",
            "applied",
        ]
        assert len(single.server.json("backups", "--environment", name)) == 2
        assert len(single.server.json("backups", "--verify", "--environment", name)) == 2
        assert single.results("--environment", name) == {"web-1": "in_sync"}
        done = single.server.cli("age", "--environment", name, "--max-age", "1s", "--json")
        assert [target["target"] for target in read_answer("age", done.stdout)["environments"][0]["targets"]] == [
            "production@web-1/api.env"
        ]
    assert "no environment production@web-2" in single.server.cli("sync", "-e", "production@web-2").stderr


def test_a_key_that_cannot_be_read_is_a_matter_of_its_host_only(
    single: Fleet, start_hosts: Callable[..., dict[str, Sshd]], tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged"
    damaged.write_text("no key\n")
    damaged.chmod(0o600)
    broken = single.hosts["web-1"].as_host(key_file=str(damaged))
    single.server.settings["hosts"] = {"web-0": broken, **single.server.settings["hosts"]}
    single.commit(b"A=1\n")
    done = single.sync()
    assert {name: outcome["result"] for name, outcome in done.items()} == {"web-0": "failed", "web-1": "applied"}
    assert "not a usable key" in done["web-0"]["reason"]
    assert single.server.cli("status").returncode == 1
    assert "web-0" in single.server.cli("doctor").stdout


# --- several hosts, with services ------------------------------------------------------------------------------------


@pytest.mark.docker
def test_a_revision_goes_from_host_to_host_and_back_from_all_where_one_fails(fleet: Callable[..., Fleet]) -> None:
    made = fleet("web-1", "web-2", "web-3")
    it_recreates_the_services_of_every_host(made)
    a_failure_on_the_first_host_keeps_it_from_the_others(made)
    a_failure_on_a_later_host_rolls_those_back_that_are_done_the_last_first(made)
    hosts_that_are_cut_off_or_without_docker_stop_no_other_and_follow_when_they_are_back(made)
    several_hosts_may_be_given_it_at_a_time(made)


def it_recreates_the_services_of_every_host(made: Fleet) -> None:
    made.commit(b"MODE=1\n")
    assert made.results() == dict.fromkeys(made.hosts, "applied")
    assert [made.runs(name) for name in made.hosts] == ["1"] * 3
    environments = {environment["environment"] for environment in made.server.json("status")["environments"]}
    assert environments == {f"production@{name}" for name in made.hosts}
    assert set(made.results().values()) == {"in_sync"}
    levels = {finding["component"]: finding["level"] for finding in made.server.json("doctor")}
    assert levels["environment production@web-1: live files"] == "ok"
    assert levels["stack production@web-2/app-web-2"] == "ok"


def a_failure_on_the_first_host_keeps_it_from_the_others(made: Fleet) -> None:
    made.commit(b"MODE=bad-web-1\n")
    done = made.sync()
    results = {name: outcome["result"] for name, outcome in done.items()}
    assert results == {"web-1": "rolled_back", "web-2": "in_sync", "web-3": "in_sync"}
    assert "production@web-1" in done["web-2"]["warning"]
    assert [made.runs(name) for name in made.hosts] == ["1"] * 3
    assert made.live("web-2") == b"MODE=1\n"
    runs = [run["result"] for run in made.server.json("history") if run["environment"] == "production@web-2"]
    assert runs == ["applied", "applied"]
    assert set(made.results().values()) == {"in_sync"}


def a_failure_on_a_later_host_rolls_those_back_that_are_done_the_last_first(made: Fleet) -> None:
    """Of a newer revision than the one that the first host had refused: that one holds nothing any more."""
    made.commit(b"MODE=bad-web-3\n")
    assert made.results() == dict.fromkeys(made.hosts, "rolled_back")
    assert [made.runs(name) for name in made.hosts] == ["1"] * 3
    assert {made.live(name) for name in made.hosts} == {b"MODE=1\n"}
    runs = [run["environment"] for run in made.server.json("history") if run["trigger"] == "rollback"]
    assert runs == ["production@web-1", "production@web-2"]  # newest first
    assert set(made.results().values()) == {"in_sync"}
    quarantines = [environment["quarantine"] for environment in made.server.json("status")["environments"]]
    assert all(quarantines)
    assert "production@web-3" in quarantines[0]["reason"]


def hosts_that_are_cut_off_or_without_docker_stop_no_other_and_follow_when_they_are_back(made: Fleet) -> None:
    """Without Docker, a host is reported, and has its files kept as they are."""
    made.server.settings["hosts"]["web-1"]["docker_socket"] = "/nonexistent/docker.sock"
    (made.app("web-1") / "api.env").write_bytes(b"MODE=by-hand\n")
    done = made.sync()["web-1"]
    assert (done["result"], done["retry"], made.live("web-1")) == ("corrected", True, b"MODE=1\n")
    assert "Docker engine does not answer" in done["reason"]

    made.hosts["web-2"].stop()
    made.commit(b"MODE=2\n")
    done = made.sync()
    assert {name: outcome["result"] for name, outcome in done.items()} == {
        "web-1": "failed", "web-2": "failed", "web-3": "applied",
    }  # fmt: skip
    assert done["web-1"]["retry"]
    assert "Docker engine does not answer" in done["web-1"]["reason"]
    assert (made.live("web-1"), made.live("web-2")) == (b"MODE=1\n", b"MODE=1\n")

    made.hosts["web-2"].start()
    del made.server.settings["hosts"]["web-1"]["docker_socket"]
    assert made.results() == {"web-1": "applied", "web-2": "applied", "web-3": "in_sync"}
    assert [made.runs(name) for name in made.hosts] == ["2"] * 3


def several_hosts_may_be_given_it_at_a_time(made: Fleet) -> None:
    """The first host alone, then two of them: web-3 has it although it fails on web-2."""
    made.server.settings["rollout"] = {"max_unavailable": 2}
    made.commit(b"MODE=bad-web-2\n")
    assert made.results() == dict.fromkeys(made.hosts, "rolled_back")
    assert [made.runs(name) for name in made.hosts] == ["2"] * 3


@pytest.mark.docker
def test_cut_off_in_the_middle_the_host_has_whole_files_and_gets_its_pending_restarts(
    fleet: Callable[..., Fleet],
) -> None:
    made = fleet("web-1")
    for mode, lost in (("1", "connection"), ("2", "reconciler")):
        cut_off_in_the_middle(made, mode, lost)
    runs = [run["result"] for run in made.server.json("history")]
    assert runs == ["applied"] * 3


def cut_off_in_the_middle(made: Fleet, mode: str, lost: str) -> None:
    project, sshd = made.projects["web-1"], made.hosts["web-1"]
    made.commit(f"MODE={mode}\n".encode())
    mine = f"label=com.docker.compose.project={project.name}"
    since = f"{time.time():.6f}"
    with subprocess.Popen(
        ("docker", "events", "--since", since, "--format", "{{.Action}}", "--filter", mine),
        stdout=subprocess.PIPE,
        text=True,
    ) as events:
        process = made.server.start("sync", "--json", stdout=subprocess.PIPE)
        assert events.stdout is not None
        assert any(line.strip() in ("create", "destroy", "die") for line in events.stdout), lost
        if lost == "reconciler":
            process.kill()
        else:
            sshd.stop()  # with all that it serves, compose among it
        output, _ = process.communicate(timeout=120)
        events.terminate()
    assert made.live("web-1") == f"MODE={mode}\n".encode(), lost
    if lost == "connection":
        (done,) = read_answer("sync", output)
        assert (done["result"], done["retry"]) == ("failed", True)
        sshd.start()
    eventually(lambda: not sshd.served())  # a compose that lives on has the project to itself until it has ended
    assert made.results()["web-1"] in ("applied", "in_sync"), lost
    assert made.runs("web-1") == mode, lost
    assert sorted(path.name for path in made.app("web-1").iterdir()) == ["api.env", "compose.yaml"], lost


@pytest.mark.docker
def test_no_value_is_printed_or_left_anywhere_but_in_the_file_and_its_backups(fleet: Callable[..., Fleet]) -> None:
    made = fleet("web-1")
    canary = f"c4n4ry-{os.urandom(8).hex()}"
    said = ""
    for content in (f"MODE=1\nTOKEN={canary}\n", f"MODE=bad\nTOKEN={canary}2\n"):
        made.commit(content.encode())
        for command in ("plan", "sync", "status", "history", "backups", "doctor"):
            done = made.server.cli(command)
            said += done.stdout + done.stderr
    assert "rolled back" in said
    assert canary not in said
    files = subprocess.run(["grep", "-rl", canary, str(made.server.root), "/dev/shm"], stdout=subprocess.PIPE).stdout
    places = {Path(line) for line in files.decode().splitlines()}
    assert {path.name for path in places} == {"api.env", "0000-api.env"}
    assert made.app("web-1") / "api.env" in places
    place = staging(made, "web-1")
    assert not list(place.parent.glob(f"{place.name}*"))


@pytest.mark.docker
def test_the_daemon_repairs_and_rolls_out_over_its_kept_connections(fleet: Callable[..., Fleet]) -> None:
    made = fleet("web-1", "web-2", drift={"interval": "1s"})
    made.server.settings["repository"]["poll_interval"] = "10m"
    with made.server.daemon() as daemon:
        (made.app("web-2") / "api.env").write_bytes(b"MODE=hand\n")
        eventually(lambda: made.live("web-2") == b"MODE=0\n", timeout=30)
        made.commit(b"MODE=1\n")
        assert set(made.results().values()) == {"applied"}
        logins = {name: sshd.log.count("Accepted publickey") for name, sshd in made.hosts.items()}
        assert made.results() == {"web-1": "in_sync", "web-2": "in_sync"}
        assert {name: sshd.log.count("Accepted publickey") for name, sshd in made.hosts.items()} == logins
        metrics = daemon.metrics()
        assert metrics['reconciler_reconcile_total{environment="production@web-2",result="corrected"}'] >= 1
        output("docker", "kill", made.projects["web-2"].container("api")["Id"])
        labels = 'environment="production@web-2",service="api",stack="app-web-2",state="killed"'
        eventually(lambda: daemon.metrics().get(f"reconciler_service_healthy{{{labels}}}") == 0, timeout=30)
        made.hosts["web-1"].stop()
        assert made.results() == {"web-1": "failed", "web-2": "in_sync"}
        made.hosts["web-1"].start()
        eventually(lambda: made.results()["web-1"] == "in_sync", timeout=30)
