"""Reports immediately when somebody touches a live file, by inotify (watchfiles).

Directories are watched, not files: a replaced file is another file, and one that does not exist yet cannot be watched.
A directory may also not exist yet, be removed, or be replaced: so every directory from the allowed path down is
watched, and the watches are renewed when one of them appears or disappears.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Collection
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import TYPE_CHECKING

from reconciler.adapters.imports import import_notifier

if TYPE_CHECKING:
    from watchfiles._rust_notify import RustNotify

# An editor's save is several changes within milliseconds: they are reported once, after QUIET without a change.
QUIET = 20  # milliseconds; the library polls at this interval, which costs 0.2 % of a core
AT_MOST = 200  # milliseconds until changes are reported even if they continue
_FOREVER = 0  # an idle watch needs no wake-up
_RETRY = 5.0  # seconds, where the kernel refuses (too many watches) or a watched directory is just being removed


class FileWatch:
    """``roots`` are the allowed paths: above them only their own parents are watched.

    ``report`` takes a sentence about what prevents watching; the periodic comparison continues then.
    """

    def __init__(self, roots: Collection[str], report: Callable[[str], None] = lambda _: None) -> None:
        self._roots = tuple(roots)
        self._report = report
        self._reported = ""
        self._files: frozenset[str] = frozenset()
        self._changed = asyncio.Event()

    def follow(self, files: Collection[str]) -> None:
        """Watch these live files from now on."""
        if self._files != frozenset(files):
            self._files = frozenset(files)
            self._changed.set()

    async def run(self, touched: Callable[[], None]) -> None:
        """Call ``touched`` whenever one of the files may have changed. Runs until it is cancelled."""
        with ThreadPoolExecutor(1, "watch") as waiting:  # nobody else waits for a thread that is busy with waiting
            while True:
                self._changed = asyncio.Event()
                directories = {directory for file in self._files for directory in self._directories(file)}
                existing = await asyncio.to_thread(_existing, directories)
                try:
                    if existing:
                        await self._watch(existing, directories, touched, waiting)
                    else:
                        await self._changed.wait()
                except OSError as error:
                    self._report_once(f"live files cannot be watched ({os.strerror(error.errno or 0)})")
                    await self._pause()

    async def _watch(
        self, existing: list[str], directories: set[str], touched: Callable[[], None], waiting: Executor
    ) -> None:
        """Until other directories need watching."""
        # debug, force_polling, poll_delay_ms, recursive, ignore_permission_denied
        with import_notifier()(existing, False, False, 0, False, False) as notifier:
            touched()  # nobody saw what happened before the watch began
            while not isinstance(batch := await self._next(notifier, waiting), str):
                paths = {path for _, path in batch}
                moved = not paths.isdisjoint(directories)
                if moved or not paths.isdisjoint(self._files):
                    touched()
                if moved:
                    return

    async def _next(self, notifier: RustNotify, waiting: Executor) -> set[tuple[int, str]] | str:
        """The next changes; a word instead where the watch has to begin anew."""
        loop = asyncio.get_running_loop()
        changes = loop.run_in_executor(waiting, notifier.watch, AT_MOST, QUIET, _FOREVER, self._changed)
        try:
            return await asyncio.shield(changes)
        except asyncio.CancelledError:
            self._changed.set()  # the thread looks at it every QUIET
            await asyncio.wait([changes])
            raise

    def _directories(self, file: str) -> list[str]:
        """The directories from a live file up to its allowed path, and that path's parent."""
        directories = []
        root = next((root for root in self._roots if file.startswith(f"{root}/")), os.path.dirname(file))
        directory = os.path.dirname(file)
        while directory.startswith(root):
            directories.append(directory)
            directory = os.path.dirname(directory)
        return [*directories, os.path.dirname(root)]

    def _report_once(self, sentence: str) -> None:
        if sentence != self._reported:
            self._reported = sentence
            self._report(sentence)

    async def _pause(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_RETRY):
                await self._changed.wait()


def _existing(directories: Collection[str]) -> list[str]:
    return [directory for directory in sorted(directories) if os.path.isdir(directory)]
