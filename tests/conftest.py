"""Fixtures that bring up real components, and the rule for tests whose component is missing.

Such a test is skipped, and the end of the run says what brings it; with --require-real it fails, as does any other that
would be skipped.
"""

from __future__ import annotations

import gc
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from reconciler.core.errors import EngineUnavailableError
from reconciler.demo.dockerd import ensure_image
from tests.support.age_key import AgeKey, make_age_key
from tests.support.commands import run
from tests.support.components import CHECKS, REMEDIES, Missing, missing
from tests.support.compose import ComposeProject, make_project
from tests.support.engine import IMAGE, SharedEngine
from tests.support.forks import COMMAND, forking_popen
from tests.support.git_remote import GitRemote, make_git_remote
from tests.support.server import Server
from tests.support.site import ENVIRONMENTS, Site, fill
from tests.support.sshd import Sshd, make_sshd
from tests.support.swarm_nodes import SwarmNodes, make_swarm

gc.disable()  # until everything is collected: nearly all that is made until then stays

SHARED_DIRECTORY = pytest.StashKey[str]()
ENGINE_TROUBLE = pytest.StashKey[Missing | None]()
# One test of these, or their group, takes as long as hundreds of others.
LONGEST = {f"test_{name}.py" for name in ("hosts", "image", "structure", "swarm_nodes", "systemd", "tutorial")}
# Settings of the person, or of a git hook, that would change what the tests' own git, sops and Compose do.
FOREIGN_SETTINGS = ("GIT_", "SOPS_", "COMPOSE_", "RECONCILER_CONFIG")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require-real",
        action="store_true",
        help="fail, rather than skip, tests whose real component (Docker, sshd, Prometheus, chromium, root) is missing",
    )


# --- the session: one directory, and at most one engine, for all xdist workers ---------------------------------------


def pytest_configure(config: pytest.Config) -> None:
    for name in [name for name in os.environ if name.startswith(FOREIGN_SETTINGS)]:
        del os.environ[name]
    # What a shell starts in the background ignores Ctrl-C, and so would all that the tests start.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    worker = getattr(config, "workerinput", None)
    shared = tempfile.mkdtemp(prefix="reconciler-tests-") if worker is None else worker["shared_directory"]
    config.stash[SHARED_DIRECTORY] = shared


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(config: pytest.Config) -> None:
    """In a new clone, have the test modules compiled once rather than by every worker."""
    here = Path(__file__).parent
    if sys.dont_write_bytecode or (here / "unit" / "__pycache__").exists():
        return
    directories = sorted(str(path) for path in here.iterdir() if any(path.glob("test_*.py")) and path.name != "unit")
    command = [sys.executable, "-m", "pytest", "--collect-only", "-qq"]
    halves = [
        subprocess.Popen([*command, *half], cwd=config.rootpath, stdout=subprocess.DEVNULL)
        for half in ([str(here / "unit")], directories)
    ]
    for half in halves:
        half.wait()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What takes longest begins first, so that no worker has it alone at the end; each group is on one worker."""
    items.sort(key=lambda item: item.path.name not in LONGEST)
    if config.getoption("loadgroup", False):
        for item in items:
            if group := item.get_closest_marker("xdist_group"):
                # As xdist 3.8 does, but in a field that pytest 9.2 does not read: pytest-dev/pytest-xdist#1386.
                item._id = type(item._id).parse(f"{item.nodeid}@{group.args[0]}")


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    node.workerinput["shared_directory"] = node.config.stash[SHARED_DIRECTORY]


def pytest_unconfigure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput") or SHARED_DIRECTORY not in config.stash:
        return
    shared = Path(config.stash[SHARED_DIRECTORY])
    SharedEngine(shared).end()
    for file in shared.iterdir():
        file.unlink()
    shared.rmdir()


# --- missing components ----------------------------------------------------------------------------------------------


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in CHECKS:
        if item.get_closest_marker(marker):
            lack = missing(marker)
            if lack is None and marker == "docker":
                lack = _engine_problem(item.config)
            if lack is not None:
                _do_without(item, lack)


def _do_without(item: pytest.Item, lack: Missing) -> None:
    if item.config.getoption("--require-real"):
        pytest.fail(str(lack), pytrace=False)
    item.user_properties.append(("missing", [lack.marker, lack.reason, lack.remedy]))
    pytest.skip(str(lack))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With --require-real no other reason is good enough to skip a test either: no strace, no right to mount."""
    report = yield
    if item.config.getoption("--require-real") and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
    return report


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say once per component what was skipped for want of it, and the command that brings it."""
    skipped: dict[tuple[str, ...], int] = {}
    for report in terminalreporter.stats.get("skipped", []):
        for name, value in report.user_properties:
            if name == "missing":
                skipped[tuple(value)] = skipped.get(tuple(value), 0) + 1
    if skipped:
        terminalreporter.section("skipped for want of a real component")
        for (marker, reason, remedy), count in sorted(skipped.items()):
            terminalreporter.line(f"{marker}: {count} skipped, because {reason}. To run them: {remedy}")


# --- Docker ----------------------------------------------------------------------------------------------------------


def _engine_problem(config: pytest.Config) -> Missing | None:
    """Bring the engine and the test image up, once per process; say why if that fails."""
    if ENGINE_TROUBLE not in config.stash:
        config.stash[ENGINE_TROUBLE] = None
        try:
            SharedEngine(Path(config.stash[SHARED_DIRECTORY])).ensure()
            ensure_image(IMAGE)
        except EngineUnavailableError as error:
            config.stash[ENGINE_TROUBLE] = Missing("docker", str(error), REMEDIES["docker"])
    return config.stash[ENGINE_TROUBLE]


@pytest.fixture(scope="session")
def docker_engine(request: pytest.FixtureRequest) -> str:
    """A Docker engine answers, started if need be; the name of the image that containers are made of."""
    if warning := _engine_problem(request.config):
        pytest.fail(f"{warning} (mark the test with docker)", pytrace=False)
    return IMAGE


@pytest.fixture
def compose_project(docker_engine: str, tmp_path: Path) -> Iterator[Callable[..., ComposeProject]]:
    """``compose_project(compose, files={})`` makes a stack directory; whatever comes of it is removed at the end.

    In the text of compose.yaml, ``IMAGE`` stands for the test image.
    """
    projects: list[ComposeProject] = []

    def make(compose: str, files: Mapping[str, str | bytes] | None = None) -> ComposeProject:
        directory = tmp_path / f"rct-{secrets.token_hex(4)}"
        projects.append(make_project(directory, compose.replace("IMAGE", docker_engine), files or {}))
        return projects[-1]

    yield make
    for project in projects:
        project.remove()


@pytest.fixture(scope="module")
def swarm_nodes() -> Iterator[SwarmNodes]:
    """Three managers of one swarm. Tests mark themselves with ``xdist_group("swarm")``, so that one worker has it.

    It ends with the module: idle, it would take a tenth of two cores until the end of the session.
    """
    nodes = make_swarm()
    yield nodes
    nodes.end()


# --- the other real components ---------------------------------------------------------------------------------------


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Sshd]:
    """A running sshd that logs in the user who runs the tests."""
    directory = tmp_path / "sshd"
    directory.mkdir()
    server = make_sshd(directory)
    yield server
    server.stop()


@pytest.fixture
def git_remote(tmp_path: Path) -> Callable[..., GitRemote]:
    """``git_remote(name="remote")`` makes an empty bare repository."""

    def make(name: str = "remote") -> GitRemote:
        return make_git_remote(tmp_path / "git" / f"{name}.git")

    return make


@pytest.fixture(scope="session")
def age_key(tmp_path_factory: pytest.TempPathFactory) -> AgeKey:
    """An age key that encrypts and decrypts with the real sops."""
    return make_age_key(tmp_path_factory.mktemp("age"))


@pytest.fixture(scope="session")
def site_keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[AgeKey, AgeKey, Path]:
    """Keys of production and staging, and a file with both."""
    directory = tmp_path_factory.mktemp("site-keys")
    made = []
    for name in ENVIRONMENTS:
        (directory / name).mkdir()
        made.append(make_age_key(directory / name))
    together = directory / "both"
    together.touch(mode=0o600)
    together.write_text("".join(key.path.read_text() for key in made))
    return made[0], made[1], together


@pytest.fixture
def site(tmp_path: Path, site_keys: tuple[AgeKey, AgeKey, Path]) -> Site:
    """A configuration repository in which nothing is wrong, not committed yet."""
    root = tmp_path / "clone"
    root.mkdir()
    return fill(Site(root, *site_keys))


@pytest.fixture
def in_clone(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rules are applied in this process, in the site's directory; contracts are evaluated in forks of it."""
    monkeypatch.chdir(site.root)
    monkeypatch.setattr(subprocess.Popen, "_execute_child", forking_popen())


@pytest.fixture
def run_cli(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """``run_cli("plan", "--json", env={…}, timeout=60)`` runs the installed command; output as text.

    Its environment is PATH, an empty HOME and ``env``.
    """
    home = tmp_path / "home"
    home.mkdir()

    def call(
        *arguments: str, env: Mapping[str, str] | None = None, stdin: str | None = None, timeout: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        completed = run(
            COMMAND,
            *arguments,
            stdin=None if stdin is None else stdin.encode(),
            env={"PATH": os.environ.get("PATH", os.defpath), "HOME": str(home), **(env or {})},
            cwd=tmp_path,
            timeout=timeout,
        )
        stdout, stderr = (data.decode(errors="replace") for data in (completed.stdout, completed.stderr))
        return subprocess.CompletedProcess(completed.args, completed.returncode, stdout, stderr)

    return call


@pytest.fixture
def server(tmp_path: Path, git_remote: Callable[..., GitRemote], age_key: AgeKey) -> Server:
    """A server without an engine: an empty stack directory and a git remote without commits."""
    app = tmp_path / "app"
    app.mkdir()
    return Server(tmp_path, app, git_remote(), age_key, forked=True)


@pytest.fixture
def stack_server(
    tmp_path: Path,
    git_remote: Callable[..., GitRemote],
    age_key: AgeKey,
    compose_project: Callable[..., ComposeProject],
) -> Callable[..., tuple[Server, ComposeProject]]:
    """``stack_server(compose, files={})`` is a server whose stack directory is a real Compose project."""

    def make(compose: str, files: Mapping[str, str | bytes] | None = None) -> tuple[Server, ComposeProject]:
        project = compose_project(compose, files)
        return Server(tmp_path, project.directory, git_remote(), age_key, forked=True), project

    return make
