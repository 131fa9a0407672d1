"""What is published: the sdist and the wheel, and the deploy files that the command writes out of it."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import IO
from zipfile import ZipFile

import pytest

from reconciler.app.onboarding import deploy_files
from reconciler.core.errors import RefusedError
from tests.support.distribution import built_wheel, copy_project, make, project_files
from tests.support.forks import ROOT

pytestmark = pytest.mark.slow

RunCli = Callable[..., CompletedProcess[str]]
DEPLOY = sorted(str(path.relative_to("deploy")) for path in project_files() if path.parts[0] == "deploy")
WRITTEN = [path for path in DEPLOY if not path.startswith("example/")]


def test_the_same_files_give_the_same_bytes_and_the_sdist_gives_the_same_wheel(tmp_path: Path) -> None:
    fixed = {"SOURCE_DATE_EPOCH": "1700000000"}
    first = make(copy_project(tmp_path / "first"), "dist", **fixed)
    later = copy_project(tmp_path / "later")
    (later / "reconciler" / "__pycache__").mkdir()
    (later / "reconciler" / "__pycache__" / "junk.pyc").touch()
    (later / "notes.txt").write_text("only here")
    for path in later.rglob("*"):  # another time, another umask
        os.utime(path, (1, 1))
        path.chmod(stat.S_IMODE(path.stat().st_mode) & ~0o077)

    second = make(later, "dist", **fixed)

    assert [path.name.partition("-")[0] for path in first] == ["reconcilerd", "reconcilerd"]
    assert {path.name: path.read_bytes() for path in first} == {path.name: path.read_bytes() for path in second}
    wheel, sdist = first
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    assert built_wheel(tmp_path, project=unpacked, **fixed).read_bytes() == wheel.read_bytes()


def test_the_wheel_holds_the_example_and_every_deploy_file(tmp_path: Path) -> None:
    with ZipFile(built_wheel(tmp_path)) as archive:
        names = set(archive.namelist())
    example = {f"reconciler/shared/{path}" for path in project_files() if path.parts[0] == "envs"}
    assert {f"reconciler/shared/deploy/{path}" for path in DEPLOY} | example <= names


def test_deploy_files_are_written_once_and_never_overwritten(run_cli: RunCli, tmp_path: Path) -> None:
    directory = tmp_path / "new" / "deploy"
    assert {"systemd/reconciler.service", "prometheus/rules.yml", "docker/compose.yaml"} <= set(WRITTEN)

    done = run_cli("deploy-files", str(directory))
    assert done.returncode == 0, done.stderr
    assert [line.split() for line in done.stdout.splitlines()] == [["created", path] for path in WRITTEN]
    assert {path: (directory / path).read_bytes() for path in WRITTEN} == {
        path: (ROOT / "deploy" / path).read_bytes() for path in WRITTEN
    }

    (directory / "systemd/reconciler.service").unlink()
    again = run_cli("deploy-files", str(directory))
    assert [line.split()[0] for line in again.stdout.splitlines()] == ["unchanged"] * (len(WRITTEN) - 1) + ["created"]

    (directory / "prometheus/rules.yml").write_text("mine\n")
    shutil.rmtree(directory / "systemd")
    refused = run_cli("deploy-files", str(directory))
    assert refused.returncode == 1
    assert "already has other versions of prometheus/rules.yml" in refused.stderr
    assert (directory / "prometheus/rules.yml").read_text() == "mine\n"
    assert not (directory / "systemd").exists()  # nothing at all is written


def test_deploy_files_follows_no_surprise_and_reports_the_real_reason(
    run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = tmp_path / "pipe" / "systemd" / "reconciler.service"
    pipe.parent.mkdir(parents=True)
    os.mkfifo(pipe)
    refused = run_cli("deploy-files", str(tmp_path / "pipe"))  # reading it would wait for ever
    assert "already has other versions of systemd/reconciler.service" in refused.stderr

    # A read-only file system, on which the directories exist already.
    def fail(path: str, mode: str = "rb") -> IO[bytes]:
        if mode == "xb":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
        return open(path, mode)

    monkeypatch.setattr(deploy_files, "open", fail, raising=False)
    with pytest.raises(RefusedError, match=r"Read-only file system"):
        deploy_files.write_deploy_files(str(tmp_path / "new"))
