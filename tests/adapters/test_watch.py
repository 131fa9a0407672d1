"""The watch on live files, by the kernel's inotify."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from reconciler.adapters.local.watch import FileWatch
from tests.support.commands import output
from tests.support.waiting import until


class Watching:
    """A watch that runs, and how often it has called."""

    def __init__(self, watch: FileWatch) -> None:
        self.watch = watch
        self.calls = 0

    def touched(self) -> None:
        self.calls += 1


@contextlib.asynccontextmanager
async def watching(root: Path, *names: str) -> AsyncIterator[Watching]:
    """A watch that has begun, for these files below the allowed path."""
    watched = Watching(FileWatch([str(root)]))
    watched.watch.follow([str(root / name) for name in names])
    task = asyncio.create_task(watched.watch.run(watched.touched))
    assert await until(lambda: watched.calls == 1)  # nobody saw what happened before
    yield watched
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_a_change_to_a_followed_file_is_reported_and_to_another_one_is_not(tmp_path: Path) -> None:
    async with watching(tmp_path, "api.env") as watched, watching(tmp_path, "log") as other:
        (tmp_path / "log").write_text("line\n")
        assert await until(lambda: other.calls == 2)
        (tmp_path / "api.env.new").write_text("A=1\n")
        os.replace(tmp_path / "api.env.new", tmp_path / "api.env")
        assert await until(lambda: watched.calls == 2)
        for calls in (3, 4):  # after the second one, what the first one caused has been reported to both
            (tmp_path / "log").write_text("line\n")
            assert await until(lambda: other.calls == calls)  # noqa: B023
        assert watched.calls == 2


async def test_other_files_are_followed_from_now_on(tmp_path: Path) -> None:
    (tmp_path / "web").mkdir()
    async with watching(tmp_path, "api.env") as watched:
        watched.watch.follow([str(tmp_path / "web/web.env")])
        assert await until(lambda: watched.calls == 2)
        (tmp_path / "web/web.env").write_text("A=1\n")
        assert await until(lambda: watched.calls == 3)


async def test_a_cancelled_watch_leaves_no_thread_waiting(tmp_path: Path) -> None:
    async with asyncio.timeout(60), watching(tmp_path, "api.env"):
        assert waiting_threads()
    assert not waiting_threads()


def waiting_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("watch")]


@pytest.mark.parametrize("first", ["import_notifier()", "import watchfiles"])
def test_the_notifier_is_imported_without_what_the_daemon_does_not_need(first: str) -> None:
    program = (
        "import sys\nfrom reconciler.adapters.imports import import_notifier\n"
        f"{first}\nprint('anyio' in sys.modules)\n"
        "import watchfiles.main\nassert import_notifier() is watchfiles.main.RustNotify\n"
    )
    printed = output(sys.executable, "-c", program, env={"PATH": os.environ["PATH"]})
    assert printed == (b"False\n" if first == "import_notifier()" else b"True\n")
