"""Tells at once when somebody touches a live file, by inotify (watchfiles).

Directories are watched, not files: a file that is replaced is another file, and one that is not there yet cannot be
watched. A directory may not be there yet either, or go, or be replaced: so every directory on the way down from the
allowed path is watched as well, and what is watched is looked up anew when one of them comes or goes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Collection

# An editor's save is several changes within milliseconds: they are told of once, when it has been quiet for QUIET.
QUIET = 20  # milliseconds; the library looks as often as this, which costs 0.2 % of a core
AT_MOST = 200  # milliseconds until changes that do not end are told of all the same
_FOR_EVER = 3_600_000  # milliseconds: a watch that hears nothing needs no waking
_TRY_AGAIN = 5.0  # seconds, where the kernel refuses (too many watches) or what is watched is just going


class FileWatch:
    """``roots`` are the allowed paths: nothing above them is watched but their own parents.

    ``say`` takes a sentence about what keeps it from watching; the periodic look goes on then.
    """

    def __init__(self, roots: Collection[str], say: Callable[[str], None] = lambda _: None) -> None:
        self._roots = tuple(roots)
        self._say = say
        self._said = ""
        self._files: frozenset[str] = frozenset()
        self._anew = asyncio.Event()

    def follow(self, files: Collection[str]) -> None:
        """Watch these live files from now on."""
        if self._files != frozenset(files):
            self._files = frozenset(files)
            self._anew.set()

    async def run(self, touched: Callable[[], None]) -> None:
        """Call ``touched`` whenever one of the files may have changed. Runs until it is cancelled."""
        while True:
            self._anew = asyncio.Event()
            ways = {directory for file in self._files for directory in self._way(file)}
            there = await asyncio.to_thread(_existing, ways)
            try:
                if there:
                    await self._watch(there, ways, touched)
                else:
                    await self._anew.wait()
            except OSError as error:
                self._tell(f"live files cannot be watched ({os.strerror(error.errno or 0)})")
                await self._pause()

    async def _watch(self, directories: list[str], ways: set[str], touched: Callable[[], None]) -> None:
        """Until what has to be watched is something else."""
        from watchfiles import awatch

        changes = awatch(
            *directories,
            watch_filter=None,
            debounce=AT_MOST,
            step=QUIET,
            stop_event=self._anew,
            rust_timeout=_FOR_EVER,
            force_polling=False,
            recursive=False,
        )
        async with contextlib.aclosing(changes):
            touched()  # what happened before the watch began was seen by nobody
            async for batch in changes:
                paths = {path for _, path in batch}
                moved = not paths.isdisjoint(ways)
                if moved or not paths.isdisjoint(self._files):
                    touched()
                if moved:
                    return

    def _way(self, file: str) -> list[str]:
        """The directories from a live file up to its allowed path, and that one's parent."""
        directories = []
        root = next((root for root in self._roots if file.startswith(f"{root}/")), os.path.dirname(file))
        directory = os.path.dirname(file)
        while directory.startswith(root):
            directories.append(directory)
            directory = os.path.dirname(directory)
        return [*directories, os.path.dirname(root)]

    def _tell(self, sentence: str) -> None:
        if sentence != self._said:
            self._said = sentence
            self._say(sentence)

    async def _pause(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_TRY_AGAIN):
                await self._anew.wait()


def _existing(directories: Collection[str]) -> list[str]:
    return [directory for directory in sorted(directories) if os.path.isdir(directory)]
