"""Writing into a live file that is there: the same file afterwards, no edit lost, and a kill that is recognised."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from reconciler.adapters.local import in_place
from reconciler.adapters.local.files import LocalHost
from reconciler.core.decide.torn_writes import is_torn
from reconciler.core.errors import ChangedMeanwhileError, LiveFileError
from reconciler.core.model.targets import LiveFile, Ownership
from reconciler.core.secret import Secret
from tests.support.components import program

OLD, NEW = b"old, and a bit longer\n", b"new\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "app" / "app.conf"
    path.parent.mkdir()
    path.write_bytes(OLD)
    path.chmod(0o600)
    return path


def seen(file: Path) -> LiveFile:
    live = asyncio.run(LocalHost([str(file.parent)]).read(str(file)))
    assert live
    return live


def overwrite(file: Path, replaces: LiveFile, data: bytes = NEW, mode: int = 0o644) -> None:
    host = LocalHost([str(file.parent)])
    writing = host.write(str(file), Secret(data), mode=mode, ownership=Ownership(), replaces=replaces, in_place=True)
    asyncio.run(writing)


@pytest.mark.parametrize("data", [NEW, OLD * 1000, b""], ids=["shorter", "longer", "empty"])
def test_it_stays_the_same_file_also_for_who_has_it_open(file: Path, data: bytes) -> None:
    before = file.stat()
    with file.open("rb") as reader:
        overwrite(file, seen(file), data)
        assert reader.read() == data
    after = file.stat()
    assert (after.st_ino, after.st_mode & 0o777) == (before.st_ino, 0o644)
    assert os.listdir(file.parent) == ["app.conf"]


def test_an_edit_since_the_look_stays(file: Path) -> None:
    look = seen(file)
    file.write_bytes(b"by hand\n")
    with pytest.raises(ChangedMeanwhileError):
        overwrite(file, look)
    assert file.read_bytes() == b"by hand\n"


def test_what_somebody_is_still_writing_is_not_mixed_with_ours(file: Path) -> None:
    look = seen(file)
    with file.open("r+b"), pytest.raises(ChangedMeanwhileError, match="somebody is writing"):
        overwrite(file, look)
    assert file.read_bytes() == OLD


def test_nothing_is_written_through_a_second_name_which_may_lie_anywhere(file: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    os.link(file, outside)
    with pytest.raises(LiveFileError, match="another name"):
        overwrite(file, seen(file))
    assert outside.read_bytes() == OLD


def test_an_error_in_the_middle_restores_what_was_there(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    original = in_place.write_all

    def half(descriptor: int, data: Secret) -> None:
        calls.append(data)
        original(descriptor, data if len(calls) > 1 else Secret(data.reveal()[:2]))
        if len(calls) == 1:
            raise OSError(5, "the disk")

    monkeypatch.setattr(in_place, "write_all", half)
    before = file.stat()
    with pytest.raises(LiveFileError):
        overwrite(file, seen(file))
    after = file.stat()
    assert (file.read_bytes(), after.st_mode, after.st_ino) == (OLD, before.st_mode, before.st_ino)


CHILD = """
import asyncio, sys
from reconciler.adapters.local.files import LocalHost
from reconciler.core.model.targets import Ownership
from reconciler.core.secret import Secret

async def main(path, data):
    host = LocalHost([path.rpartition("/")[0]])
    live = await host.read(path)
    await host.write(path, Secret(data.encode()), mode=0o600, ownership=Ownership(), replaces=live, in_place=True)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.skipif(program("strace") is None, reason="strace is not installed: make provision")
@pytest.mark.parametrize(
    ("call", "left"),
    [("fchmod", OLD), ("ftruncate", NEW + OLD[len(NEW) :]), ("fsync", NEW)],
    ids=lambda value: str(value),
)
def test_what_a_kill_leaves_is_recognised(file: Path, call: str, left: bytes) -> None:
    inject = ["-e", f"trace={call}", "-e", f"inject={call}:signal=SIGKILL:when=1"]
    argv = ["strace", "-f", "-qq", "-o", "/dev/null", *inject, sys.executable, "-c", CHILD, str(file), NEW.decode()]
    subprocess.run(argv, check=False, capture_output=True, timeout=60)
    assert file.read_bytes() == left
    assert is_torn(left, OLD, NEW) is (left not in (OLD, NEW))


BLOCKS = [bytes([letter]) * 512 for letter in b"abcxyz"]
LONG_OLD, LONG_NEW = b"".join(BLOCKS[:3]), b"".join(BLOCKS[3:])


@pytest.mark.parametrize(
    ("live", "torn"),
    [
        pytest.param(LONG_NEW[:700] + LONG_OLD[700:], True, id="a beginning of the new"),
        pytest.param(LONG_NEW[:700], True, id="a beginning of the new in an empty file"),
        pytest.param(BLOCKS[0] + BLOCKS[4] + bytes(512), True, id="blocks of both, and zeros"),
        pytest.param(LONG_OLD, False, id="the old"),
        pytest.param(LONG_NEW, False, id="the new"),
        pytest.param(b"by hand\n", False, id="a hand edit"),
        pytest.param(LONG_OLD + b"appended\n", False, id="a longer hand edit"),
        pytest.param(BLOCKS[0] + b"z" * 10 + LONG_OLD[522:], False, id="a hand edit inside"),
    ],
)
def test_a_mix_of_both_is_torn_and_a_hand_edit_is_not(live: bytes, torn: bool) -> None:
    assert is_torn(live, LONG_OLD, LONG_NEW) is torn
