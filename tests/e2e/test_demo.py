"""`reconciler demo` tells its whole story on real components, and takes everything away again.

The three ways to run it are started at the same time: each mostly waits.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.commands import run
from tests.support.compose import ComposeProject, left_behind
from tests.support.waiting import eventually

COMMAND = Path(sys.executable).parent / "reconciler"
PATIENCE = 180  # seconds
CHAPTERS = [
    "A server with an empty stack directory, and its configuration in git",
    "The daemon starts",
    "Somebody merges a change: WORKER_CONCURRENCY in worker.env",
    "What can be seen afterwards",
    "Somebody edits config/worker.env on the server: LOG_LEVEL by hand",
    "A person reverts the merge in git",
    "What was made",
]
pytestmark = pytest.mark.xdist_group("demo")  # one worker, so that the demos are started once


@dataclass(slots=True)
class Demo:
    """A demo that runs, and later what it has left: ``scratch`` is its directory for temporary files."""

    scratch: Path
    process: subprocess.Popen[bytes]

    @classmethod
    def start(cls, scratch: Path, *arguments: str) -> Demo:
        scratch.mkdir()
        kept = {name: value for name, value in os.environ.items() if name == "PATH" or name.startswith("DOCKER_")}
        env = {**kept, "HOME": str(scratch), "TMPDIR": str(scratch), "COLUMNS": "200"}
        with (scratch.parent / f"{scratch.name}.txt").open("wb") as output:
            argv = [str(COMMAND), "demo", *arguments]
            return cls(scratch, subprocess.Popen(argv, env=env, stdout=output, stderr=output, start_new_session=True))

    def told(self) -> str:
        """Wait for its end and return what it printed. It must exit with 0."""
        code = self.process.wait(PATIENCE)
        text = (self.scratch.parent / f"{self.scratch.name}.txt").read_text()
        assert code == 0, text
        return text

    @property
    def kept(self) -> Path | None:
        """The directory that it has left."""
        return next(self.scratch.glob("reconciler-demo-*"), None)

    @property
    def project(self) -> ComposeProject:
        """Its stack; what it printed says where that was."""
        found = re.search(rf"{self.scratch}/reconciler-(demo-\w+)/demo-", self.told())
        assert found is not None
        return ComposeProject(found[1], self.scratch / f"reconciler-{found[1]}" / found[1])

    def processes(self) -> list[str]:
        """Commands that still run for it: all it starts have its home directory."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it has ended meanwhile, or is somebody else's
                if f"HOME={self.scratch}".encode() in (process / "environ").read_bytes().split(b"\0"):
                    found.append((process / "cmdline").read_text())
        return found

    def end(self) -> None:
        """Take away what it has left, however it ended."""
        self.process.kill()
        self.process.wait()
        if self.kept is not None:
            ComposeProject(self.kept.name.removeprefix("reconciler-"), self.kept).remove()
        shutil.rmtree(self.scratch)


@pytest.fixture(scope="module")
def demos(docker_engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Demo]]:
    place = tmp_path_factory.mktemp("demo")
    running = {
        "with services": Demo.start(place / "services"),
        "kept": Demo.start(place / "kept", "--keep"),
        "files only": Demo.start(place / "files", "--files-only"),
    }
    yield running
    for demo in running.values():
        demo.end()


@pytest.mark.docker
def test_demo_shows_that_one_service_is_recreated_with_the_new_value_and_back(demos: dict[str, Demo]) -> None:
    text = demos["with services"].told()

    assert chapters(text) == CHAPTERS
    values = re.findall(r"^ +WORKER_CONCURRENCY=(\d+)$", text, re.MULTILINE)
    assert values == ["12", "8"]  # after the merge; after the revert
    fates = re.findall(r"^ +(\w+) +(recreated|untouched)", text, re.MULTILINE)
    assert fates == 2 * [
        ("api", "untouched"),
        ("nginx", "untouched"),
        ("scheduler", "untouched"),
        ("worker", "recreated"),
    ]
    assert "MADE_BY_HAND is gone from the live file" in text
    assert "Traceback" not in text


@pytest.mark.docker
def test_demo_on_files_alone_tells_the_same_story(demos: dict[str, Demo]) -> None:
    text = demos["files only"].told()

    assert chapters(text) == CHAPTERS
    assert re.findall(r"^ +WORKER_CONCURRENCY=(\d+)$", text, re.MULTILINE) == ["12", "8"]
    assert "MADE_BY_HAND is gone from the live file" in text
    assert "docker compose" not in text


@pytest.mark.docker
@pytest.mark.parametrize("which", ["with services", "files only"])
def test_demo_leaves_nothing_behind(demos: dict[str, Demo], which: str) -> None:
    demo = demos[which]
    demo.told()

    assert list(demo.scratch.iterdir()) == []
    assert demo.processes() == []
    assert left_behind(demo.project.name) == []


@pytest.mark.docker
def test_kept_demo_leaves_what_it_says_and_says_how_to_take_it_away(demos: dict[str, Demo]) -> None:
    demo = demos["kept"]
    text = demo.told()
    root, project = demo.kept, demo.project
    assert root is not None

    listed = re.findall(rf"^ +({root}/\S+)  ", text.partition(CHAPTERS[-1])[2], re.MULTILINE)
    assert len(listed) == 6
    assert all(Path(path).exists() for path in listed)
    assert project.container("worker")["State"]["Status"] == "running"
    assert demo.processes() == []  # the daemon ends with the demo
    config = re.search(r"^\$ export RECONCILER_CONFIG=(\S+)$", text, re.MULTILINE)
    assert config is not None
    assert run(COMMAND, "status", "--config", config[1]).returncode == 0

    for command in (f"docker compose --project-directory {project.directory} down --volumes", f"rm -r {root}"):
        assert f"$ {command}\n" in text
        assert run(*command.split()).returncode == 0
    assert list(demo.scratch.iterdir()) == []
    assert left_behind(project.name) == []


def test_demo_that_is_interrupted_takes_away_what_it_has_made(tmp_path: Path) -> None:
    demo = Demo.start(tmp_path / "interrupted", "--files-only")
    try:
        eventually(lambda: "daemon.log" in {file.name for file in demo.scratch.glob("*/*")}, timeout=60)
        demo.process.send_signal(signal.SIGINT)
        assert demo.process.wait(30) == 130
        assert list(demo.scratch.iterdir()) == []
        assert demo.processes() == []
    finally:
        demo.end()


def chapters(text: str) -> list[str]:
    """The headings, in order: a title and a line to the right edge."""
    return re.findall(r"^(\S.*?) ─+$", text, re.MULTILINE)
