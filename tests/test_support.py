"""The fixtures bring up the real thing, and leave nothing of it behind."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from reconciler.core.errors import EngineUnavailableError
from reconciler.demo import dockerd
from tests.support import swarm_nodes
from tests.support.age_key import AgeKey
from tests.support.cases import each
from tests.support.commands import CommandFailed, output, run
from tests.support.compose import ComposeProject, left_behind
from tests.support.engine import SharedEngine, private_place
from tests.support.forks import forked_command
from tests.support.git_remote import EXECUTABLE, GitRemote
from tests.support.server import Server
from tests.support.sshd import Sshd
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

COMPOSE = """\
services:
  app:
    image: IMAGE
    env_file: app.env
    volumes: [data:/data]
volumes:
  data:
"""


@pytest.fixture
def short_directory() -> Iterator[Path]:
    """A directory whose path leaves room for a socket's; pytest's are too long."""
    path = Path(tempfile.mkdtemp(prefix="rct-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


# --- an engine and its image -----------------------------------------------------------------------------------------


@pytest.mark.docker
def test_image_runs_and_sees_only_the_environment_it_is_given(docker_engine: str) -> None:
    printed = output("docker", "run", "--rm", "--network", "none", "--env", "COLOUR=blue", docker_engine, "env")

    names = {line.split("=")[0] for line in printed.decode().splitlines()}
    assert b"COLOUR=blue\n" in printed
    assert names == {"PATH", "HOSTNAME", "HOME", "COLOUR"}


@pytest.mark.docker
def test_same_busybox_gives_the_same_image(docker_engine: str) -> None:
    def image_id() -> bytes:
        return output("docker", "image", "inspect", "--format", "{{.Id}}", docker_engine)

    before = image_id()
    dockerd.ensure_image(docker_engine)

    assert image_id() == before


@pytest.mark.docker
def test_container_that_ignores_sigterm_stops_immediately(docker_engine: str) -> None:
    container = output("docker", "run", "--detach", "--network", "none", docker_engine, "sleep", "600").decode().strip()
    try:
        output("docker", "stop", "--time", "600", container)
    finally:
        output("docker", "rm", "--force", container)


@pytest.mark.docker
@pytest.mark.root
def test_engine_is_started_where_none_answers_and_ended_after(short_directory: Path) -> None:
    place = private_place(str(short_directory))

    with dockerd.engine(str(short_directory / "log"), place) as started:
        assert started
        dockerd.ensure_image("inside:1", place.docker_host)
        run_inside = ("docker", "--host", place.docker_host or "", "run")
        assert b"A=1\n" in output(*run_inside, "--rm", "--env", "A=1", "inside:1", "env")
        output(*run_inside, "--detach", "inside:1")
        with dockerd.engine(str(short_directory / "unused"), place) as started_again:
            assert not started_again

    assert not dockerd.answers(place.docker_host)
    assert _processes_that_name(short_directory) == []
    assert str(short_directory) not in Path("/proc/self/mounts").read_text()


@pytest.mark.docker
@pytest.mark.root
def test_engine_of_one_worker_serves_the_others_and_is_ended_by_the_session(short_directory: Path) -> None:
    """The pid file of a killed one is no obstacle."""
    place = private_place(str(short_directory))
    Path(place.pid_file).write_text(str(os.getpid()))  # its number belongs to another process by now
    first, second = SharedEngine(short_directory, place), SharedEngine(short_directory, place)
    try:
        assert first.ensure()
        assert not second.ensure()
    finally:
        second.end()

    assert not dockerd.answers(place.docker_host)
    first.end()  # ended already: nothing to do


@pytest.mark.docker
@pytest.mark.root
def test_engine_that_does_not_start_is_an_error_with_the_end_of_its_log(short_directory: Path) -> None:
    usual = private_place(str(short_directory))
    broken = dockerd.EnginePlace(usual.docker_host, usual.pid_file, ("dockerd", "--no-such-option"))

    with (
        pytest.raises(EngineUnavailableError, match="unknown flag: --no-such-option"),
        dockerd.engine(str(short_directory / "log"), broken),
    ):
        pass


# --- Compose ---------------------------------------------------------------------------------------------------------


@pytest.mark.docker
def test_compose_project_starts_with_its_env_file(compose_project: Callable[..., ComposeProject]) -> None:
    project = compose_project(COMPOSE, {"app.env": "COLOUR=green\n"})
    project.up()

    assert project.environment("app")["COLOUR"] == "green"
    assert project.container("app")["State"]["Status"] == "running"


@pytest.mark.docker
def test_compose_project_leaves_nothing_behind_even_with_a_broken_file(
    compose_project: Callable[..., ComposeProject],
) -> None:
    project = compose_project(COMPOSE, {"app.env": "COLOUR=green\n"})
    project.up()
    assert len(left_behind(project.name)) == 3  # container, network, volume

    project.write("compose.yaml", "services: [broken")
    assert project.compose("down").returncode != 0
    project.remove()

    assert left_behind(project.name) == []


@pytest.mark.swarm
def test_what_a_killed_run_left_of_its_swarm_is_removed_and_nothing_of_one_that_runs() -> None:
    left, running = (swarm_nodes.DIRECTORY / f"{swarm_nodes.PREFIX}{secrets.token_hex(4)}" for _ in range(2))
    with contextlib.ExitStack() as ending:
        for directory in (left, running):
            directory.mkdir()
            output("ip", "netns", "add", directory.name)
        held = ending.enter_context((running / "lock").open("w"))
        fcntl.flock(held, fcntl.LOCK_EX)

        swarm_nodes.remove_leftovers()

        names = {path.name for path in swarm_nodes.NAMESPACES.iterdir()}
        assert (left.exists(), left.name in names) == (False, False)
        assert (running.exists(), running.name in names) == (True, True)
    swarm_nodes.remove_leftovers()
    assert not running.exists()


# --- sshd and git ----------------------------------------------------------------------------------------------------


def _ask_over_ssh(sshd: Sshd, remote: GitRemote) -> subprocess.CompletedProcess[bytes]:
    settings = {"PATH": os.environ["PATH"], "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull}
    env = {**settings, "GIT_SSH_COMMAND": sshd.git_ssh_command}
    return run("git", "ls-remote", sshd.url(remote.path), "refs/heads/main", env=env)


@pytest.mark.sshd
def test_sshd_serves_git_to_a_client_that_knows_its_host_key(sshd: Sshd, git_remote: Callable[..., GitRemote]) -> None:
    remote = git_remote()
    head = remote.commit({"a.env": b"A=1\n"})

    assert _ask_over_ssh(sshd, remote).stdout.decode().split() == [head, "refs/heads/main"]


@pytest.mark.sshd
def test_rotated_host_key_is_refused_until_clients_know_it(sshd: Sshd, git_remote: Callable[..., GitRemote]) -> None:
    remote = git_remote()
    remote.commit({"a.env": b"A=1\n"})

    sshd.rotate_host_key()
    assert b"REMOTE HOST IDENTIFICATION HAS CHANGED" in _ask_over_ssh(sshd, remote).stderr
    sshd.rotate_host_key(tell_clients=True)
    assert _ask_over_ssh(sshd, remote).returncode == 0


@pytest.mark.sshd
def test_stopped_sshd_answers_nobody_and_comes_back_on_the_same_port(
    sshd: Sshd, git_remote: Callable[..., GitRemote]
) -> None:
    remote = git_remote()
    remote.commit({"a.env": b"A=1\n"})
    port = sshd.port

    sshd.stop()
    assert b"Connection refused" in _ask_over_ssh(sshd, remote).stderr
    sshd.start()

    assert sshd.port == port
    assert _ask_over_ssh(sshd, remote).returncode == 0


@pytest.mark.sshd
def test_stopping_sshd_ends_open_connections(sshd: Sshd) -> None:
    words = sshd.git_ssh_command.split()
    login = [*words, "-p", str(sshd.port), f"{sshd.user}@{sshd.host}"]
    with subprocess.Popen(
        [*login, "echo here; exec cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"here\n"
        sshd.stop()
        assert client.wait(120) == 255


def test_git_remote_commits_reverts_and_merges(git_remote: Callable[..., GitRemote]) -> None:
    remote = git_remote()
    first = remote.commit({"a.env": b"A=1\n", "run.sh": b"#!/bin/sh\n"}, modes={"run.sh": EXECUTABLE})
    second = remote.commit({"a.env": b"A=2\n", "run.sh": None}, "Second", author="Bob <bob@example.org>")
    assert remote.git("ls-tree", "--name-only", second) == "a.env"
    assert remote.git("show", "-s", "--format=%an <%ae> %s", second) == "Bob <bob@example.org> Second"

    reverted = remote.revert(second)
    assert remote.log() == [reverted, second, first]
    assert remote.read("a.env") == b"A=1\n"

    remote.make_branch("feature", at=first)
    remote.commit({"b.env": b"B=1\n"}, branch="feature")
    merged = remote.merge("feature")
    assert remote.read("b.env", merged) == b"B=1\n"
    remote.revert(merged)
    with pytest.raises(CommandFailed, match=r"b\.env"):
        remote.read("b.env")


@pytest.mark.sshd
def test_git_remote_signs_commits_with_an_ssh_key(git_remote: Callable[..., GitRemote], tmp_path: Path) -> None:
    key, signers = tmp_path / "signing_key", tmp_path / "allowed_signers"
    output("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
    signers.write_text(f"ada@example.org {key.with_suffix('.pub').read_text()}")
    remote = git_remote()
    unsigned = remote.commit({"a.env": b"A=1\n"})
    signed = remote.commit({"a.env": b"A=2\n"}, signing_key=key)

    remote.git("-c", f"gpg.ssh.allowedSignersFile={signers}", "verify-commit", signed)
    assert remote.log() == [signed, unsigned]
    with pytest.raises(CommandFailed):
        remote.git("-c", f"gpg.ssh.allowedSignersFile={signers}", "verify-commit", unsigned)


# --- sops and the command line ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["dotenv", "binary"])
def test_sops_round_trip_keeps_every_byte(age_key: AgeKey, kind: str) -> None:
    plaintext = b"# note\nPASSWORD='$ecret #1'\nEMPTY=\n"

    ciphertext = age_key.encrypt("api.env", plaintext, kind)

    assert b"ecret" not in ciphertext
    assert age_key.public.encode() in ciphertext
    assert age_key.decrypt("api.env", ciphertext, kind) == plaintext


def test_age_key_file_is_private(age_key: AgeKey) -> None:
    assert age_key.path.stat().st_mode & 0o777 == 0o600


def test_run_cli_runs_the_installed_command(run_cli: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    completed = run_cli("--help")

    assert completed.returncode == 0
    assert "sync" in completed.stdout


def test_command_that_takes_too_long_is_ended_with_all_it_started(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    with pytest.raises(subprocess.TimeoutExpired):
        run("sh", "-c", f"sleep 60 & echo $! > {pid_file}; wait", timeout=1)

    child = Path("/proc", pid_file.read_text().strip(), "stat")
    eventually(lambda: not child.exists() or " Z " in child.read_text())


@pytest.mark.parametrize("arguments", [["--help"], ["sideways"], ["history"], ["check", "--path", "nowhere"]], ids=str)
def test_a_forked_command_does_what_the_installed_one_does(server: Server, arguments: list[str]) -> None:
    answers = [[], []]
    for server.forked in (True, False):
        done = server.cli(*arguments)
        answers[server.forked] = [done.returncode, done.stdout, done.stderr]
    assert answers[True] == answers[False]
    done = run(forked_command(), *arguments, env=server.variables())
    assert [done.returncode, done.stdout.decode(), done.stderr.decode()] == answers[False]


def test_a_forked_command_that_takes_too_long_is_ended(server: Server) -> None:
    server.commit({"api.env": b"A=1\n"}, server.plain(["api.env"]))
    with pytest.raises(subprocess.TimeoutExpired):
        server.cli("run", timeout=5)
    with server.daemon():  # or another would hold the state directory
        pass


# --- groups ----------------------------------------------------------------------------------------------------------


@pytest.mark.xdist_group("grouped")
def test_a_group_is_handed_out_to_one_worker(request: pytest.FixtureRequest) -> None:
    """xdist keeps together whose ids end alike; it would say nothing if they did not."""
    handed_out_by_group = request.config.getoption("loadgroup", False)
    assert request.node.nodeid.endswith("@grouped") == handed_out_by_group


# --- missing components ----------------------------------------------------------------------------------------------


INNER = """\
import pytest

@pytest.mark.sshd
def test_without_component(): ...

def test_that_skips(): pytest.skip("no right to")

@pytest.mark.skipif(True, reason="no right at all")
def test_that_is_skipped(): ...
"""


def _run_without_components(directory: Path, *options: str) -> tuple[int, str]:
    """Run a test session in which every test has a reason to be skipped, on a search path that has no sshd."""
    (directory / "test_inner.py").write_text(INNER)
    here = Path(__file__).parent
    code = (
        "import sys, pytest; import tests.support.components as components;"
        "components.SEARCH_PATH = '/nonexistent'; sys.exit(pytest.main(sys.argv[1:]))"
    )
    settings = ("-c", str(here.parent / "pyproject.toml"), "-p", "tests.conftest", "-p", "no:cacheprovider")
    completed = run(
        sys.executable, "-c", code, *settings, *options, directory / "test_inner.py", cwd=here.parent, env=os.environ
    )
    return completed.returncode, completed.stdout.decode()


def test_missing_component_skips_and_says_what_brings_it(tmp_path: Path) -> None:
    code, text = _run_without_components(tmp_path)

    assert code == 0
    assert "3 skipped" in text
    assert "sshd: 1 skipped, because not installed: sshd, ssh, ssh-keygen. To run them: make provision" in text


def test_no_reason_to_skip_is_good_enough_where_the_real_components_are_required(tmp_path: Path) -> None:
    code, text = _run_without_components(tmp_path, "--require-real")

    assert code == 1
    assert "sshd: not installed: sshd, ssh, ssh-keygen. To run it: make provision" in text
    assert "no right to" in text
    assert "no right at all" in text
    assert "1 failed, 2 errors" in text
    assert "skipped in" not in text


# --- cases -----------------------------------------------------------------------------------------------------------


def test_each_reports_every_case_that_fails_by_its_id() -> None:
    @each("value, limit", [pytest.param(1, 2, id="small"), (5, 2), pytest.param(9, 2, id="large")])
    def goes_through(base: int, value: int, limit: int) -> None:
        assert base + value < limit

    with pytest.raises(BaseExceptionGroup, match="2 of 3 cases") as caught:
        goes_through(base=0)
    notes = [failure.__notes__ for failure in caught.value.exceptions]
    assert notes == [["case: (5, 2) (1)"], ["case: large (2)"]]
    goes_through(base=-9)

    @each("reason", ["no right"])
    def does_not_begin(reason: str) -> None:
        pytest.fail(reason)

    with pytest.raises(pytest.fail.Exception, match="no right"):
        does_not_begin()


def _processes_that_name(directory: Path) -> list[str]:
    processes = run("pgrep", "--full", "--list-full", str(directory)).stdout.decode().splitlines()
    return [line for line in processes if "pgrep" not in line]
