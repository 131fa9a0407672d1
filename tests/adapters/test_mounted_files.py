"""What a container has of a file that it mounts by itself, and who listens on a port: seen with the rights that the
shipped unit leaves the daemon."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="takes root, as the unit does")

UNIT = Path(__file__).parents[2] / "deploy/systemd/reconciler.service"
IDENTITY = "c0ffee0123456789"
SIGHT = (
    "from reconciler.adapters.local.mounted_files import sight_of; print(sight_of(*argv[:2], int(argv[2]), argv[3]))"
)
PORT = "from reconciler.adapters.compose.port_owner import process_words; print(process_words(int(argv[0])))"


def with_rights_of_the_unit(program: str, *arguments: object) -> str:
    (line,) = [line for line in UNIT.read_text().splitlines() if line.startswith("CapabilityBoundingSet=")]
    names = line.partition("=")[2].lower().split()
    rights = ",".join(["-all", *(f"+{name.removeprefix('cap_')}" for name in names)])
    python = [sys.executable, "-c", f"from sys import argv; argv = argv[1:]; {program}", *map(str, arguments)]
    argv = ["setpriv", f"--bounding-set={rights}", "--inh-caps=-all", *python]
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60).stdout.strip()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / IDENTITY / "app.conf"
    path.parent.mkdir()
    path.write_text("old\n")
    return path


@pytest.fixture
def mounting(file: Path, tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """A process with the rights of a container, and where it mounts the file."""
    inside = tmp_path / "inside.conf"
    inside.touch()
    script = f"mount --bind {file} {inside} && echo mounted && exec sleep 600"
    with subprocess.Popen(["unshare", "--mount", "sh", "-c", script], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "mounted\n"
            yield process.pid, inside
        finally:
            process.kill()


@pytest.mark.parametrize(("new", "sight"), [(None, "same"), ("old\n", "equal"), ("new\n", "other")])
def test_the_file_that_a_container_has_is_compared_with_the_one_that_lies_there(
    file: Path, mounting: tuple[int, Path], new: str | None, sight: str
) -> None:
    if new is not None:
        replacement = file.with_name("new")
        replacement.write_text(new)
        replacement.rename(file)
    pid, inside = mounting
    assert with_rights_of_the_unit(SIGHT, file, IDENTITY, pid, inside) == sight


def test_the_process_that_has_a_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        words = with_rights_of_the_unit(PORT, listening.getsockname()[1])
    assert words.endswith(f"(pid {os.getpid()})")
