"""The mirror on disk: a bare repository that is fetched into, replaced and repacked, by one process at a time."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import resource
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

from reconciler.adapters import process
from reconciler.adapters.disk import disk_reason
from reconciler.adapters.git.command import COMMIT_ID, fetch_command
from reconciler.adapters.git.runner import QUICK, GitRunner

LARGEST_PACK = 2048 * process.MIB  # a push must not be able to fill the disk that the live files are on
MOST_PACKS = 20  # every fetch adds one; above this they are merged
LOCK_POLL = 0.05  # seconds between two tries for the lock


class MirrorDirectory:
    """The repository in which ``git`` works. ``fetch_timeout`` in seconds.

    ``damaged``: the next fetch must replace it.
    """

    def __init__(self, git: GitRunner, fetch_timeout: float) -> None:
        self.damaged = False
        self._git = git
        self._path = git.git_dir
        self._fetch_timeout = fetch_timeout

    @property
    def usable(self) -> bool:
        return not self.damaged and os.path.isdir(self._path)

    async def holds(self, revision: str) -> bool:
        """Whether the commit and every object of its tree are in the mirror. A damaged mirror gives False."""
        completed = await self._git.run(["git", "rev-list", "--quiet", "--objects", "--max-count=1", revision, "--"])
        return completed.ok

    async def fetch(self, seconds: float | None = None) -> None:
        """Fetch the branch, within ``seconds`` if fewer. Raises GitUnreachableError, SourceError."""
        await asyncio.to_thread(_clear_leftovers, self._path)
        await self._fetch_into(self._path, seconds)

    async def _fetch_into(self, git_dir: str, seconds: float | None = None) -> None:
        seconds = self._fetch_timeout if seconds is None else min(seconds, self._fetch_timeout)
        completed = await self._git.run(
            fetch_command(self._git.url, self._git.branch),
            git_dir=git_dir,
            seconds=seconds,
            resources={resource.RLIMIT_FSIZE: LARGEST_PACK},
        )
        if completed.ok:
            return
        # index-pack dies of SIGXFSZ without a message; the size of what it leaves behind shows it.
        if await asyncio.to_thread(_clear_leftovers, git_dir) >= LARGEST_PACK:
            raise self._git.unreachable(
                f"the repository is larger than {LARGEST_PACK // process.MIB} MiB",
                "Give the environments a repository of their own.",
            )
        self._git.raise_failure(completed, seconds)

    async def fetched_head(self) -> str:
        """The commit that the last fetch has brought, from the file that git has written about it: a process that says
        it takes ten times as long. "" where it says none."""
        try:
            said = await asyncio.to_thread(Path(self._path, "FETCH_HEAD").read_bytes)
        except FileNotFoundError:
            return ""
        commit = said.partition(b"\t")[0].decode(errors="replace")
        return commit if COMMIT_ID.fullmatch(commit) else ""

    async def rebuild(self) -> None:
        """Fetch everything into a new mirror, then replace the old one, which serves until then."""
        new, old = f"{self._path}.new", f"{self._path}.old"
        await asyncio.to_thread(_remove, new, old)
        os.mkdir(new, mode=0o700)
        completed = await self._git.run(
            ["git", "init", "--quiet", "--bare", "--template=", "--object-format=sha1", new]
        )
        if not completed.ok:
            self._git.raise_failure(completed, QUICK)
        await self._fetch_into(new)
        with contextlib.suppress(FileNotFoundError):
            os.rename(self._path, old)
        os.rename(new, self._path)
        self.damaged = False
        await asyncio.to_thread(_remove, old)

    async def merge_packs(self) -> None:
        """Merge packs of similar size now and then, so that their number grows with the logarithm of the fetches.

        ``git gc`` would also drop what no branch holds any more. A failure does no harm: the packs stay as they are,
        and the next fetch retries.
        """
        names = await asyncio.to_thread(os.listdir, os.path.join(self._path, "objects", "pack"))
        if sum(name.endswith(".pack") for name in names) > MOST_PACKS:
            await self._git.run(["git", "repack", "-q", "-d", "-n", "--geometric=2"], seconds=self._fetch_timeout)

    @contextlib.asynccontextmanager
    async def exclusive(self) -> AsyncIterator[None]:
        """Hold the mirror's lock against every other process. Raises GitUnreachableError, also for the caller's own
        OSError."""
        self._git.require_files()
        try:
            os.makedirs(self._git.state_dir, mode=0o700, exist_ok=True)
            lock = os.open(
                os.path.join(self._git.state_dir, "mirror.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
            try:
                await self._wait_for(lock)
                yield
            finally:
                os.close(lock)
        except OSError as error:
            raise self._git.unreachable(
                f"the mirror cannot be written ({disk_reason(error, self._git.state_dir)})",
                f"Check space and permissions of {self._git.state_dir}.",
            ) from error

    async def _wait_for(self, lock: int) -> None:
        try:
            async with asyncio.timeout(self._fetch_timeout):
                while not _try_lock(lock):  # noqa: ASYNC110  # flock has no notification
                    await asyncio.sleep(LOCK_POLL)
        except TimeoutError:
            raise self._git.unreachable(
                f"another process has been fetching for {self._fetch_timeout:g} s",
                f"See who holds it: fuser {self._git.state_dir}/mirror.lock.",
            ) from None


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _clear_leftovers(mirror: str) -> int:
    """Remove what a killed git left behind: locks, which block every later fetch, and half-written packs.

    Return the size of the largest file, in bytes. We hold the mirror's lock, so their owner is gone. A git that
    outlived a killed daemon may still run: it then fails to move its ref, or moves it to where we do; packs are named
    after their content.
    """
    largest = 0
    for directory, _, names in os.walk(mirror):
        for name in names:
            if name.endswith((".lock", ".keep")) or name.startswith(("tmp_", ".tmp-")):
                path = os.path.join(directory, name)
                with contextlib.suppress(FileNotFoundError):
                    largest = max(largest, os.stat(path).st_size)
                    os.remove(path)
    return largest


def _remove(*directories: str) -> None:
    for directory in directories:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(directory)
