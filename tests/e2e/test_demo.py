"""`reconciler demo` runs its whole story on real components, and removes everything again."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from docs import outputs
from tests.support.commands import lines, output, run
from tests.support.components import NEWEST_PYTHON
from tests.support.compose import ComposeProject, left_behind
from tests.support.distribution import built_wheel, installed_by_pipx, installed_by_uv
from tests.support.forks import COMMAND
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

PATIENCE = 400  # seconds
SUMMARY = "keeps the env files of Docker Compose servers equal to SOPS-encrypted files in git"
VERSION = "import platform; print(platform.python_version(), end='')"
CHAPTERS = [
    "A server with an empty stack directory, and its configuration in git",
    "The daemon starts",
    "Somebody merges a change: WORKER_CONCURRENCY in worker.env",
    "What the operator sees afterwards",
    "Somebody edits config/worker.env on the server: LOG_LEVEL by hand",
    "Somebody reverts the merge in git",
    "Somebody merges a bad value: DATABASE_URL in api.env",
    "What the demo created",
]


@dataclass(slots=True)
class Demo:
    """A demo that runs, and later what it has left: ``scratch`` is its directory for temporary files."""

    scratch: Path
    process: subprocess.Popen[bytes]

    @classmethod
    def start(cls, scratch: Path, *arguments: str, command: Path = COMMAND) -> Demo:
        scratch.mkdir()
        kept = {name: value for name, value in os.environ.items() if name == "PATH" or name.startswith("DOCKER_")}
        env = {**kept, "HOME": str(scratch), "TMPDIR": str(scratch)}
        with (scratch.parent / f"{scratch.name}.txt").open("wb") as output:
            argv = [str(command), "demo", *arguments]
            return cls(scratch, subprocess.Popen(argv, env=env, stdout=output, stderr=output, start_new_session=True))

    @property
    def text(self) -> str:
        """What it has printed so far."""
        return (self.scratch.parent / f"{self.scratch.name}.txt").read_text()

    def finished(self) -> str:
        """Wait for its end and return what it printed. It must exit with 0."""
        code = self.process.wait(PATIENCE)
        assert code == 0, self.text
        return self.text

    @property
    def kept(self) -> Path | None:
        """The directory that it has left."""
        return next(self.scratch.glob("reconciler-demo-*"), None)

    @property
    def project(self) -> ComposeProject:
        """Its stack; what it printed says where that was."""
        match = re.search(rf"{self.scratch}/reconciler-(demo-\w+)/demo-", self.text)
        assert match is not None
        return ComposeProject(match[1], self.scratch / f"reconciler-{match[1]}" / match[1])

    @property
    def running_project(self) -> str:
        """The name of its project, which is that of its stack directory, once it has containers; until then ""."""
        stacks = [path.name for path in self.scratch.glob("reconciler-demo-*/demo-*")]
        return next((name for name in stacks if left_behind(name)), "")

    def processes(self) -> dict[int, str]:
        """Commands that still run for it, by process: all that it starts have its home directory."""
        commands = {}
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it has ended, or belongs to someone else
                if f"HOME={self.scratch}".encode() in (process / "environ").read_bytes().split(b"\0"):
                    commands[int(process.name)] = (process / "cmdline").read_text()
        return commands

    def wait_for_the_daemon(self) -> None:
        eventually(lambda: list(self.scratch.glob("*/daemon.log")), timeout=60)

    def end(self) -> None:
        """Remove what it has left, however it ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.send_signal(signal.SIGINT)
            self.process.wait(120)
        for process in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.process.wait()
        if name := self.running_project:
            ComposeProject(name, self.scratch).remove()
        shutil.rmtree(self.scratch)


@pytest.fixture
def start() -> Iterator[Callable[..., Demo]]:
    """``start("--keep")`` runs a demo with these options in the background."""
    started: list[Demo] = []
    # Not pytest's directory: its path is too long for that of a socket.
    with tempfile.TemporaryDirectory(prefix="rct-") as place:

        def begin(*arguments: str, command: Path = COMMAND) -> Demo:
            started.append(Demo.start(Path(place) / str(len(started)), *arguments, command=command))
            return started[-1]

        yield begin
        for demo in started:
            demo.end()


@pytest.mark.docker
def test_demo_recreates_one_service_keeps_what_it_lists_and_leaves_nothing_when_interrupted(
    docker_engine: str, start: Callable[..., Demo]
) -> None:
    interrupted, kept = start(), start("--keep")  # at the same time: neither is in the other's way

    eventually(lambda: interrupted.running_project, timeout=120)
    project = interrupted.running_project
    interrupted.process.send_signal(signal.SIGINT)
    assert interrupted.process.wait(PATIENCE) == 130
    assert list(interrupted.scratch.iterdir()) == []
    assert interrupted.processes() == {}
    assert left_behind(project) == []

    text = kept.finished()
    assert_story(text, CHAPTERS)
    fates = re.findall(r"^ +(\w+) +(recreated|untouched)", text, re.MULTILINE)
    once = {"api": "untouched", "nginx": "untouched", "scheduler": "untouched", "worker": "recreated"}
    broken = {**once, "api": "recreated", "worker": "untouched"}
    assert fates == [*once.items(), *once.items(), *broken.items()]  # after the merge; its revert; the bad value
    assert_rolled_back(text.partition(CHAPTERS[-2])[2])
    assert outputs.transcript(outputs.scenes_of(text)) == outputs.TRANSCRIPT.read_text()  # else: make outputs
    assert_kept(kept)


@pytest.mark.docker
@pytest.mark.python
def test_demo_on_files_alone_runs_where_pipx_and_uv_have_installed_the_wheel(
    start: Callable[..., Demo], tmp_path: Path
) -> None:
    wheel = built_wheel(tmp_path)
    commands = [installed_by_pipx(wheel, tmp_path / "pipx"), installed_by_uv(wheel, tmp_path / "uv")]
    demos = [start("--files-only", command=command) for command in commands]  # at the same time

    for demo in demos:
        text = demo.finished()
        assert_story(text, [chapter for chapter in CHAPTERS if "a bad value" not in chapter])
        assert "docker compose" not in text
        assert_nothing_left(demo)
    program, python = zip(*(lines(command, "version") for command in commands), strict=True)
    assert set(program) == {f"reconcilerd {wheel.name.split('-')[1]}: {SUMMARY}"}
    assert python[0].startswith("Python 3.11.")
    assert python[1].startswith(f"Python {output(NEWEST_PYTHON, '-c', VERSION).decode()}")


def test_demo_that_is_ended_removes_what_it_created(start: Callable[..., Demo]) -> None:
    demo = start("--files-only")
    demo.wait_for_the_daemon()
    demo.process.send_signal(signal.SIGTERM)
    assert demo.process.wait(120) == 130
    assert "the same story on files alone, without services.\n" in demo.text  # a file gets no wrapped lines
    assert list(demo.scratch.iterdir()) == []
    assert demo.processes() == {}


def assert_rolled_back(chapter: str) -> None:
    """The history, git and the metrics all show it, and the last status finds everything well."""
    history, _, later = chapter.partition("git pull && git log -1")
    assert "rolled back" in history
    assert "api is unhealthy" in history
    assert 'Revert "Move the database to the new server"' in later
    assert "Reconciler-Rollback-Environment: production" in later
    for kind in ("local", "git"):
        assert re.search(
            rf'rollback_total{{environment="production",host="\S+",kind="{kind}",result="ok"}} 1\.0', later
        )
    assert "rollback_last_timestamp_seconds{" in later
    assert re.search(r"\$ reconciler status\n +production: in sync", later)


def assert_story(text: str, expected: list[str]) -> None:
    assert chapters(text) == expected
    values = re.findall(r"^ +WORKER_CONCURRENCY=(\d+)$", text, re.MULTILINE)
    assert values == ["12", "8"]  # after the merge; after the revert
    assert "MADE_BY_HAND is gone from the live file" in text
    assert "Traceback" not in text


def assert_nothing_left(demo: Demo) -> None:
    assert list(demo.scratch.iterdir()) == []
    assert demo.processes() == {}
    assert left_behind(demo.project.name) == []


def assert_kept(demo: Demo) -> None:
    """Everything it lists is there and can be used, and the commands it prints remove all of it."""
    text, root, project = demo.finished(), demo.kept, demo.project
    assert root is not None
    listed = re.findall(rf"^ +({root}/\S+)  ", text.partition(CHAPTERS[-1])[2], re.MULTILINE)
    assert len(listed) == 6
    assert all(Path(path).exists() for path in listed)
    assert project.container("worker")["State"]["Status"] == "running"
    assert demo.processes() == {}  # the daemon ends with the demo
    config = re.search(r"^\$ export RECONCILER_CONFIG=(\S+)$", text, re.MULTILINE)
    assert config is not None
    assert run(COMMAND, "status", "--config", config[1]).returncode == 0

    for command in (f"docker compose --project-directory {project.directory} down --volumes", f"rm -r {root}"):
        assert f"$ {command}\n" in text
        assert run(*command.split()).returncode == 0
    assert_nothing_left(demo)


def chapters(text: str) -> list[str]:
    """The headings, in order: a title and a line to the right edge."""
    return re.findall(r"^(\S.*?) ─+$", text, re.MULTILINE)
