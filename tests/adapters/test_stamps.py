"""What stat says of live files, here and over SSH: another stamp after every change, and none where it may mislead."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from reconciler.adapters.local.files import LocalHost
from reconciler.adapters.ssh import stamps
from reconciler.adapters.ssh.connection import SshConnection
from reconciler.adapters.ssh.files import SshHost
from reconciler.core.model.hosts import SshAddress
from reconciler.core.ports.host import Host
from tests.support.sshd import Sshd


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A live file in a directory below the allowed path, which is reached through a link."""
    path = tmp_path / "real" / "stack" / "a file.env"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"A=1\n")
    (tmp_path / "allowed").symlink_to("real")
    return tmp_path / "allowed" / "stack" / path.name


@pytest.fixture(params=["local", pytest.param("ssh", marks=pytest.mark.sshd)])
async def host(request: pytest.FixtureRequest, file: Path) -> AsyncIterator[Host]:
    allowed = [str(file.parent.parent)]
    if request.param == "local":
        yield LocalHost(allowed)
        return
    sshd: Sshd = request.getfixturevalue("sshd")
    address = SshAddress("127.0.0.1", sshd.port, sshd.user, str(sshd.key_path), str(sshd.known_hosts))
    connection = SshConnection(address, "web-1")
    yield SshHost(connection, allowed, "/dev/shm/reconciler-test")
    await connection.close()


def let_the_clock_tick(file: Path) -> None:
    probe = file.parent.parent / "probe"
    while not probe.exists() or probe.stat().st_ctime_ns <= file.stat().st_ctime_ns:
        probe.write_bytes(b"")


def set_back(file: Path) -> None:
    before = file.stat()
    file.write_bytes(b"A=9\n")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace_file(file: Path) -> None:
    new = file.with_name("new")
    shutil.copy2(file, new)
    new.rename(file)


def replace_directory(file: Path) -> None:
    """By one with hard links to the same files, as backup tools make them."""
    old = file.parent.with_name("old")
    file.parent.rename(old)
    file.parent.mkdir()
    os.link(old / file.name, file)
    shutil.rmtree(old)


def move_behind_link(file: Path) -> None:
    file.parent.rename(file.parent.with_name("moved"))
    file.parent.symlink_to("moved")


def link_file(file: Path) -> None:
    file.rename(file.with_name("moved"))
    file.symlink_to("moved")


CHANGES = [set_back, lambda file: file.chmod(0o640), replace_file, replace_directory, move_behind_link, link_file]
CHANGES += [Path.unlink, lambda file: shutil.rmtree(file.parent)]
NAMES = ["same size, mtime set back", "mode", "file replaced", "directory replaced", "directory behind a link"]
NAMES += ["file behind a link", "removed", "directory removed"]


@pytest.mark.parametrize("change", CHANGES, ids=NAMES)
async def test_a_change_gives_another_stamp(host: Host, file: Path, change: Callable[[Path], object]) -> None:
    before = await host.stamps([str(file)])
    assert before[str(file)] is not None
    assert await host.stamps([str(file)]) == before
    let_the_clock_tick(file)
    change(file)
    assert await host.stamps([str(file)]) != before


@pytest.mark.parametrize("change", [move_behind_link, link_file], ids=["directory", "file"])
async def test_what_must_not_be_followed_has_no_stamp(host: Host, file: Path, change: Callable[[Path], object]) -> None:
    change(file)
    assert await host.stamps([str(file)]) == {}


async def test_what_is_not_allowed_has_no_stamp(host: Host, file: Path, tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"")
    assert await host.stamps([str(tmp_path / "other"), str(file.parent)]) == {}


@pytest.mark.parametrize("host", [pytest.param("ssh", marks=pytest.mark.sshd)], indirect=True)
async def test_a_machine_without_stat_gives_no_stamp(host: Host, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stamps, "_PROGRAM", "no-such-program")
    assert await host.stamps([str(file)]) == {}
    assert await host.read(str(file))
