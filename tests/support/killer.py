"""Runs the installed commands and kills them with SIGKILL at a chosen step.

A step is a moment just before a call that changes something outside the process: each file system call on live files,
backups and the digest key, each commit of the store, each call of Compose and of the engine, each `git fetch`. What
lies between two steps changes nothing, so a kill at each step is a kill at every instant that differs from another.

A command can also stop (SIGSTOP) at steps, while the test copies what lies on disk: what a kill there would leave, as a
kill changes nothing itself; only a process that the command has started would go on. So one run serves many steps.

It wraps what the package calls, in the command's process only.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.forks import COMMAND, ForkedProcess, reconciler
from tests.support.server import Server
from tests.support.waiting import eventually

# --- for the tests ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended: the steps it came to (the last one is where it was killed), exit code, what it printed.

    ``exit_code`` is negative for a signal.
    """

    exit_code: int
    steps: tuple[str, ...]
    printed: str

    @property
    def killed(self) -> bool:
        return self.exit_code == -signal.SIGKILL

    @property
    def where(self) -> str:
        return f"killed before step {len(self.steps)}: {self.steps[-1]}"

    @property
    def outcome(self) -> dict[str, Any]:
        """The only environment's, of a command with --json."""
        assert self.printed, f"exit code {self.exit_code} and nothing printed, after {self.steps[-3:]}"
        (report,) = json.loads(self.printed)["outcomes"]
        return dict(report)


def run(
    server: Server, *arguments: str, die_at: int = 0, die_before: tuple[str, int] = ("", 0), on_paper: bool = True
) -> Ended:
    """Run a command with this server's configuration; SIGKILL it before step ``die_at`` (the first is 1; 0: never), or
    before a step that matches a regular expression, the so many-th.

    ``on_paper`` replaces the engine, see ``PaperEngine``.
    """
    options = {"die_at": die_at, "die_before": die_before, "on_paper": on_paper}
    done = reconciler(*arguments, env=server.variables(), hook=_hook(server, options))
    return Ended(done.returncode, _steps_so_far(server), done.stdout)


def stop(server: Server, *arguments: str, at: Collection[int], stopped: Callable[[Ended], None]) -> int:
    """Run a command, on paper, to its end; return its exit code.

    At each of these steps it stops until ``stopped`` returns, which is told what it would be if it was killed there.
    """
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    hook = _hook(server, {"stop_at": sorted(at)})
    process = ForkedProcess([str(COMMAND), *arguments], env=server.variables(), hook=hook, **streams)
    try:
        for _ in at:
            # Asked for often, as the command waits meanwhile; where it has ended, it stops no more.
            eventually(lambda: process.poll() is not None or _is_stopped(process.pid), timeout=60, interval=0.002)
            if process.returncode is None:
                stopped(Ended(-signal.SIGKILL, _steps_so_far(server), ""))
                os.kill(process.pid, signal.SIGCONT)
        return process.wait(60)
    finally:
        process.kill()
        process.wait()


def _hook(server: Server, options: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    watched = [str(server.app), str(server.state / "backups"), str(server.state / "digest.key")]
    common = {"directory": str(server.root), "watched": watched, "steps_file": str(server.root / _STEPS)}
    return __name__, {**common, **options}


def _steps_so_far(server: Server) -> tuple[str, ...]:
    return tuple((server.root / _STEPS).read_text().splitlines())


def _is_stopped(pid: int) -> bool:
    """Whether all its threads are."""
    with contextlib.suppress(OSError):  # one has ended meanwhile
        stats = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/stat")]
        return {stat.rpartition(")")[2].split()[0] for stat in stats} == {"T"}
    return False


_STEPS = "killer.steps"


# --- in the command's process ----------------------------------------------------------------------------------------


def prepare(
    directory: str,
    watched: Sequence[str],
    steps_file: str,
    die_at: int = 0,
    die_before: tuple[str, int] = ("", 0),
    stop_at: Collection[int] = (),
    on_paper: bool = True,
) -> None:
    steps = Steps(steps_file, die_at, *die_before, stop_at)
    if on_paper:
        _put_on_paper(directory, steps)
    _watch_files(steps, watched)
    _watch_store(steps)
    _watch_processes(steps)
    _watch_engine(steps)


class Steps:
    """Notes each step in a file and, at the chosen one, kills the process, or stops it at chosen ones."""

    def __init__(self, path: str, die_at: int, pattern: str, matches: int, stop_at: Collection[int]) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        self._write = os.write  # not the watched one
        self._die_at = die_at
        self._pattern = re.compile(pattern)
        self._matches = matches
        self._stop_at = frozenset(stop_at)
        self._number = 0

    def step(self, call: str) -> None:
        self._number += 1
        self._write(self._file, f"{call}\n".encode())
        if self._pattern.match(call):
            self._matches -= 1
        if self._number == self._die_at or (self._pattern.pattern and self._matches == 0):
            os.kill(os.getpid(), signal.SIGKILL)
        if self._number in self._stop_at:
            signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)  # this thread, so that it goes no further


def _put_on_paper(directory: str, steps: Steps) -> None:
    from reconciler.app.wiring import server as wiring
    from tests.support.paper_engine import PaperEngine, QuickClock

    wiring.stack_engines = lambda *_, **__: PaperEngine(f"{directory}/engine.json", steps.step)  # type: ignore[assignment,misc]
    wiring.SystemClock = QuickClock  # type: ignore[misc]


# Of each call: which of its arguments is the path or descriptor that it changes.
_FILE_CALLS = ("write", "ftruncate", "fsync", "fchown", "fchmod", "rename", "link", "unlink", "mkdir", "rmdir")


def _watch_files(steps: Steps, watched: Sequence[str]) -> None:
    from reconciler.adapters.local import renames

    def concerns(path: str | int, directory: int | None) -> str:
        """The watched path that a call is about; "" where it is about none."""
        base = "" if directory is None else os.readlink(f"/proc/self/fd/{directory}")
        full = os.readlink(f"/proc/self/fd/{path}") if isinstance(path, int) else os.path.join(base, os.fspath(path))
        return full if full.startswith(tuple(watched)) else ""

    def watching(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def watch(path: Any, *arguments: Any, **options: Any) -> Any:
            if concerned := concerns(path, options.get("dir_fd", options.get("src_dir_fd"))):
                steps.step(f"{name} {concerned}")
            return call(path, *arguments, **options)

        return watch

    for name in _FILE_CALLS:
        setattr(os, name, watching(name, getattr(os, name)))
    opening, renaming = os.open, renames._rename

    def open_(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
        if flags & os.O_CREAT and (concerned := concerns(path, options.get("dir_fd"))):
            steps.step(f"create {concerned}")
        return opening(path, flags, *arguments, **options)

    def rename(parent: int, old: str, new: str, flags: int) -> None:
        steps.step(f"{'exchange' if flags == 2 else 'appear'} {concerns(new, parent)}")
        renaming(parent, old, new, flags)

    os.open = open_
    renames._rename = rename


def _watch_store(steps: Steps) -> None:
    connect = sqlite3.connect

    class Connection(sqlite3.Connection):
        changes = ""

        def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
            first, _, rest = statement.partition(" ")
            if first == "COMMIT":
                steps.step(f"commit{self.changes}")
            if first in ("BEGIN", "COMMIT"):
                self.changes = ""
            elif first in ("INSERT", "UPDATE", "DELETE"):
                table = rest.removeprefix("OR REPLACE ").removeprefix("INTO ").removeprefix("FROM ").split()[0]
                self.changes += f" {first.lower()}-{table}"
            return super().execute(statement, *values)

    sqlite3.connect = lambda *arguments, **options: connect(*arguments, factory=Connection, **options)  # type: ignore[assignment]


def _watch_processes(steps: Steps) -> None:
    from reconciler.adapters import process

    run, start = process.run, process._start

    def named(argv: Sequence[str]) -> str:
        """What a command that changes something outside is called; "" for one that only looks."""
        words = [word for word in argv if not word.startswith("-")]
        program = os.path.basename(words[0]).removesuffix("-compose")  # Compose is started without the docker command
        verbs = {"git": ("fetch", "push"), "docker": ("up", "config", "deploy")}.get(program, ())
        return next((f"{program} {verb}" for verb in verbs if verb in words), "")

    async def watched_start(argv: Sequence[str], *arguments: Any, **options: Any) -> Any:
        started = await start(argv, *arguments, **options)
        if name := named(argv):
            steps.step(f"{name}, begun")
        return started

    async def watched_run(argv: Sequence[str], **options: Any) -> process.Completed:
        if name := named(argv):
            steps.step(name)
        completed = await run(argv, **options)
        if name:
            steps.step(f"{name}, ended")
        return completed

    process._start, process.run = watched_start, watched_run


def _watch_engine(steps: Steps) -> None:
    from reconciler.adapters.compose.docker_api import Engine
    from reconciler.adapters.swarm.api import SwarmEngine

    def watching(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        async def watch(self: Any, *arguments: Any, **options: Any) -> Any:
            steps.step(f"engine {name}")
            return await call(self, *arguments, **options)

        return watch

    for name in ("find", "inspect", "restart", "kill", "rename"):
        setattr(Engine, name, watching(name, getattr(Engine, name)))
    for name in ("create", "remove", "force_update"):
        setattr(SwarmEngine, name, watching(name, getattr(SwarmEngine, name)))
