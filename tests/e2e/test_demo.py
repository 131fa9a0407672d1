"""`reconciler demo` tells its whole story on real components, and takes everything away again.

The three ways to run it are started at the same time: each mostly waits.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

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
            argv = [COMMAND, "demo", *arguments]
            return cls(scratch, subprocess.Popen(argv, env=env, stdout=output, stderr=output, start_new_session=True))

    def told(self) -> str:
        """Wait for its end and return what it printed. It must exit with 0."""
        code = self.process.wait(PATIENCE)
        text = (self.scratch.parent / f"{self.scratch.name}.txt").read_text()
        assert code == 0, text
        return text

    def root(self) -> Path:
        """What it made, if it has left it."""
        (root,) = self.scratch.glob("reconciler-demo-*")
        return root

    def processes(self) -> list[str]:
        """Commands of processes that name the scratch directory."""
        found = []
        for file in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                command = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:  # it has ended meanwhile
                continue
            if str(self.scratch) in command:
                found.append(command)
        return found

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        for root in self.scratch.glob("reconciler-demo-*"):
            project(root).remove()
        shutil.rmtree(self.scratch)


def project(root: Path) -> ComposeProject:
    """The demo's stack: it is named like the scratch directory."""
    return ComposeProject(root.name.lower().replace("_", "-"), root / "app")


@pytest.fixture(scope="module")
def demos(docker_engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Demo]]:
    place = tmp_path_factory.mktemp("demo")
    running = {
        "with services": Demo.start(place / "d"),
        "kept": Demo.start(place / "k", "--keep"),
        "files only": Demo.start(place / "f", "--files-only"),
    }
    yield running
    for demo in running.values():
        demo.end()
