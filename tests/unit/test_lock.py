"""One process at a time works on a state directory, and the next one learns which."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.app.daemon.lock import exclusive
from reconciler.core.errors import LockedError, StoreError

HOLDER = """
import sys
from reconciler.app.daemon.lock import exclusive

with exclusive(sys.argv[1], "reconciler run"):
    print("holds", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def holder(state_dir: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock until its input ends."""
    command = [sys.executable, "-c", HOLDER, str(state_dir)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "holds\n"
        yield process


def free(state_dir: Path) -> bool:
    try:
        with exclusive(str(state_dir), "test"):
            return True
    except LockedError:
        return False


def test_the_second_learns_who_holds_it_for_what_and_since_when(tmp_path: Path) -> None:
    with holder(tmp_path) as first:
        with pytest.raises(LockedError) as error, exclusive(str(tmp_path), "reconciler sync"):
            pass
        who = rf"in use by process {first.pid} \(reconciler run\) since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\dZ"
        assert re.search(who, str(error.value))
        assert error.value.where == str(tmp_path)
        assert "Wait for it to end" in error.value.hint
        assert not error.value.retryable


def test_it_is_free_again_after_the_end(tmp_path: Path) -> None:
    with exclusive(str(tmp_path), "first"):
        assert not free(tmp_path)
    assert free(tmp_path)


def test_it_is_free_again_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), exclusive(str(tmp_path), "first"):
        raise ZeroDivisionError
    assert free(tmp_path)


def test_it_is_free_again_after_a_kill(tmp_path: Path) -> None:
    with holder(tmp_path) as first:
        assert not free(tmp_path)
        first.send_signal(signal.SIGKILL)
        first.wait()
        assert free(tmp_path)


def test_a_program_that_the_holder_started_does_not_hold_it(tmp_path: Path) -> None:
    with exclusive(str(tmp_path), "first"):
        child = subprocess.Popen(["sleep", "60"], close_fds=False)
    try:
        assert free(tmp_path)
    finally:
        child.kill()
        child.wait()


def test_two_state_directories_do_not_mind_each_other(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with exclusive(str(tmp_path), "first"):
        assert free(tmp_path / "other")


def test_a_shorter_note_leaves_nothing_of_a_longer_one(tmp_path: Path) -> None:
    for purpose in ("a long purpose " * 5, "short"):
        with exclusive(str(tmp_path), purpose):
            text = (tmp_path / "lock").read_text()
    assert text.count("\n") == 1
    assert "(short)" in text


def test_the_file_is_for_the_daemon_alone_and_no_descriptor_is_left(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with exclusive(str(tmp_path), "first"):
        assert not free(tmp_path)
    assert len(os.listdir("/proc/self/fd")) == before
    assert stat.S_IMODE((tmp_path / "lock").stat().st_mode) == 0o600


def test_where_there_is_no_directory_it_says_what_to_do(tmp_path: Path) -> None:
    with (
        pytest.raises(StoreError, match=r"cannot open the lock \(No such file or directory\).*ake the state directory"),
        exclusive(str(tmp_path / "missing"), "first"),
    ):
        pass


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "lock").symlink_to("precious")
    with pytest.raises(StoreError, match="cannot open the lock"), exclusive(str(tmp_path), "first"):
        pass
    assert (tmp_path / "precious").read_text() == "precious"


@pytest.mark.root
def test_a_full_disk_is_not_a_reason_not_to_lock(tmp_path: Path) -> None:
    options = ["-t", "tmpfs", "-o", "size=64k", "tmpfs"]
    if subprocess.run(["mount", *options, str(tmp_path)], check=False, capture_output=True).returncode != 0:
        pytest.skip("cannot mount a tmpfs")
    try:
        with contextlib.suppress(OSError), (tmp_path / "filler").open("wb", buffering=0) as file:
            while file.write(b"x" * 4096):
                pass
        with (
            exclusive(str(tmp_path), "first"),
            pytest.raises(LockedError, match="in use by another process"),
            exclusive(str(tmp_path), "second"),
        ):
            pass
    finally:
        subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)
