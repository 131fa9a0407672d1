"""Builds the sdist and the wheel of a copy of the project, and installs a wheel as its users do: without a compiler."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.support.commands import lines, output
from tests.support.components import NEWEST_PYTHON, program
from tests.support.forks import ROOT

BIN = Path(sys.executable).parent
NO_COMPILER = {"CC": "/bin/false", "CXX": "/bin/false"}


def project_files() -> Iterator[Path]:
    """What git has, or would take: the paths of the files, relative to the project."""
    for name in lines("git", "-C", ROOT, "ls-files", "--cached", "--others", "--exclude-standard"):
        if (ROOT / name).is_file():
            yield Path(name)


def copy_project(directory: Path) -> Path:
    """A copy of the project, without git and with times of its own."""
    for name in project_files():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, directory / name)
    return directory


def make(project: Path, *arguments: str, **variables: str) -> list[Path]:
    """`make` in a copy of the project, with this environment's tools; returns what is in dist then, by name."""
    tools = ("--old-file", BIN.parent / ".installed", f"VENV={BIN.parent}")
    output("make", "--directory", project, *tools, *arguments, env={**os.environ, **variables})
    return sorted((project / "dist").iterdir())


def built_wheel(directory: Path, *, project: Path = ROOT, **variables: str) -> Path:
    """The wheel that hatchling builds of the project as it is."""
    build = ("-m", "hatchling", "build", "--directory", directory, "--target", "wheel")
    output(BIN / "python", *build, cwd=project, env={**os.environ, **variables})
    (wheel,) = directory.glob("*.whl")
    return wheel


def installed_by_pipx(wheel: Path, directory: Path) -> Path:
    """Install with Python 3.11 and return the command."""
    places = {"PIPX_HOME": str(directory / "home"), "PIPX_BIN_DIR": str(directory / "bin")}
    python = ("--python", program("python3.11") or "", "--pip-args=--only-binary :all:")
    output(BIN / "pipx", "install", *python, wheel, env={**os.environ, **NO_COMPILER, **places})
    return directory / "bin" / "reconciler"


def installed_by_uv(wheel: Path, directory: Path) -> Path:
    """Install with the newest Python and return the command."""
    places = {"UV_TOOL_DIR": str(directory / "tools"), "UV_TOOL_BIN_DIR": str(directory / "bin")}
    python = ("--no-build", "--python", NEWEST_PYTHON)
    output(BIN / "uv", "tool", "install", *python, wheel, env={**os.environ, **NO_COMPILER, **places})
    return directory / "bin" / "reconciler"
