"""The only module that starts processes.

An argument list, never a shell; an explicit environment; its own process group; a timeout that ends the group;
capped output that is drained past the cap (a full pipe would keep asyncio's ``wait()`` from returning).
Nothing here logs: standard error may quote secrets, so each adapter decides what of it may be shown.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from reconciler.core.errors import ExhaustedError
from reconciler.core.exhaustion import exhausted_by

KIB = 1024
MIB = 1024 * KIB
_LINGER = 2.0  # seconds for pipes to close after SIGKILL; a process that left the group may hold them forever


class MissingProgramError(Exception):
    """The program is not installed, or may not be executed. ``args[0]`` is its name."""


@dataclass(frozen=True, slots=True)
class Completed:
    """A finished process. ``exit_code`` is negative for a signal. Output is bytes and never shown by repr.

    ``out_of_memory``: it was killed, and the kernel has killed something on this machine for want of memory meanwhile.
    """

    program: str
    exit_code: int
    stdout: bytes = field(default=b"", repr=False)
    stderr: bytes = field(default=b"", repr=False)
    timed_out: bool = False
    overflowed: bool = False
    out_of_memory: bool = False

    @property
    def killed(self) -> bool:
        """Whether it, or what a docker command or shell has started for it, ended by SIGKILL."""
        return self.exit_code in (-signal.SIGKILL, 128 + signal.SIGKILL, 255)

    @property
    def ok(self) -> bool:
        return self.exit_code == 0 and not self.timed_out and not self.overflowed


@dataclass(frozen=True, slots=True)
class Limits:
    """``timeout`` in seconds; ``stdout`` and ``stderr`` in bytes; ``resources`` maps resource.RLIMIT_* to a value.

    ``grace`` is how long, in seconds, the group may take to end after SIGTERM before SIGKILL; 0 kills immediately.
    """

    timeout: float
    grace: float = 0.0
    stdout: int = 4 * MIB
    stderr: int = 64 * KIB
    resources: Mapping[int, int] = field(default_factory=dict)


async def run(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    limits: Limits,
    stdin: bytes | None = None,
    cwd: str = "/",
    descriptors: Sequence[int] = (),
) -> Completed:
    """Run ``argv`` to its end and return what it printed. It inherits ``descriptors`` under their numbers.

    Raises MissingProgramError where it cannot be started, ExhaustedError where nothing can. Cancelling ends the process
    group first.
    """
    program, kills = os.path.basename(argv[0]), _kills_for_memory()
    try:
        process = await _start(argv, env, cwd, descriptors, piped_input=stdin is not None)
    except (FileNotFoundError, PermissionError, NotADirectoryError) as error:
        raise MissingProgramError(program) from error
    except (OSError, RuntimeError, MemoryError) as error:
        if (
            isinstance(error, OSError) and error.errno == errno.ENOEXEC
        ):  # for another machine, or without its first line
            raise MissingProgramError(program) from error
        if facts := exhausted_by(error):
            raise ExhaustedError(f"{program} cannot be started: {facts[0]}", hint=facts[1]) from error
        raise
    for kind, value in limits.resources.items():
        _limit(process.pid, kind, value)
    done = await _collect(process, program, stdin, limits)
    if not done.killed or done.timed_out or done.overflowed:
        return done
    return replace(done, out_of_memory=_kills_for_memory() > kills)


async def _start(
    argv: Sequence[str], env: Mapping[str, str], cwd: str, descriptors: Sequence[int], *, piped_input: bool
) -> asyncio.subprocess.Process:
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            *argv,
            env=dict(env),
            cwd=cwd,
            stdin=asyncio.subprocess.PIPE if piped_input else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
            pass_fds=tuple(descriptors),
        )
    )
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        # asyncio would end only the program, and then wait for as long as its children hold the pipes.
        await asyncio.wait({starting})
        if starting.exception() is None:
            process = starting.result()
            _signal_group(process, signal.SIGKILL)
            _close(process)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LINGER):
                    await process.wait()
        raise


def _kills_for_memory() -> int:
    """How many processes the kernel has killed since it started, as memory ran out; 0 where it does not say."""
    with contextlib.suppress(OSError, ValueError), open("/proc/vmstat", encoding="ascii") as file:
        return next((int(line.split()[1]) for line in file if line.startswith("oom_kill ")), 0)
    return 0


def _limit(pid: int, kind: int, value: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        _, hard = resource.prlimit(pid, kind)
        # We may run under a lower limit ourselves, which only root may raise.
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.prlimit(pid, kind, (value, value))


def run_in_terminal(argv: Sequence[str], *, env: Mapping[str, str]) -> int:
    """Run a program that the user talks to, with our terminal, and return its exit code (negative for a signal).

    Ctrl-C is the program's: it ends with it, or uses the key otherwise, and we go on. Whatever else ends us ends the
    program first. Raises MissingProgramError where it cannot be started.
    """
    before = signal.signal(signal.SIGINT, lambda number, frame: None)  # unlike SIG_IGN, this is not inherited
    try:
        with subprocess.Popen(argv, env=dict(env)) as program:
            try:
                return program.wait()
            except BaseException:
                program.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    program.wait(_LINGER)
                program.kill()
                raise
    except OSError as error:
        raise MissingProgramError(os.path.basename(argv[0])) from error
    finally:
        signal.signal(signal.SIGINT, before)


async def _collect(process: asyncio.subprocess.Process, program: str, stdin: bytes | None, limits: Limits) -> Completed:
    assert process.stdout is not None
    assert process.stderr is not None
    overflow = asyncio.Event()
    stdout, stderr = bytearray(), bytearray()
    pipes = asyncio.gather(
        _feed(process, stdin),
        _drain(process.stdout, limits.stdout, stdout, overflow),
        _drain(process.stderr, limits.stderr, stderr, overflow),
        process.wait(),
    )
    too_much = asyncio.ensure_future(overflow.wait())
    ends: set[asyncio.Future[Any]] = {pipes, too_much}
    try:
        await asyncio.wait(ends, timeout=limits.timeout, return_when=asyncio.FIRST_COMPLETED)
        timed_out = not pipes.done() and not overflow.is_set()
    finally:  # also when cancelled
        too_much.cancel()
        await _end(process, pipes, limits.grace)
    with contextlib.suppress(asyncio.CancelledError):  # given up by _end
        pipes.result()
    exit_code = -signal.SIGKILL if process.returncode is None else process.returncode
    return Completed(program, exit_code, bytes(stdout), bytes(stderr), timed_out, overflow.is_set())


async def _feed(process: asyncio.subprocess.Process, data: bytes | None) -> None:
    if data is None:
        return
    assert process.stdin is not None
    # A process that ends early closes the pipe: its exit code gives the reason.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        process.stdin.write(data)
        await process.stdin.drain()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        process.stdin.close()
        await process.stdin.wait_closed()


async def _drain(stream: asyncio.StreamReader, limit: int, kept: bytearray, overflow: asyncio.Event) -> None:
    while chunk := await stream.read(64 * KIB):
        if len(kept) + len(chunk) > limit:
            overflow.set()
        kept += chunk[: max(0, limit - len(kept))]


async def _end(process: asyncio.subprocess.Process, pipes: asyncio.Future[Any], grace: float) -> None:
    """End the group if it still runs, and wait for it; but not for processes that have left it."""
    try:
        if grace > 0 and not pipes.done():
            _signal_group(process, signal.SIGTERM)
            await asyncio.wait({pipes}, timeout=grace)
    finally:  # also when cancelled (again)
        if not pipes.done():
            _signal_group(process, signal.SIGKILL)
            await asyncio.wait({pipes}, timeout=_LINGER)
        if not pipes.done():
            _close(process)
            pipes.cancel()
            await asyncio.wait({pipes})


def _close(process: asyncio.subprocess.Process) -> None:
    process._transport.close()  # type: ignore[attr-defined]  # no public API closes the pipes


def _signal_group(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


async def start(
    argv: Sequence[str], *, env: Mapping[str, str], log_path: str, cwd: str = "/"
) -> asyncio.subprocess.Process:
    """Start a background process with its output in ``log_path`` (0600); the caller ends it.

    Raises MissingProgramError where it cannot be started.
    """
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        return await asyncio.create_subprocess_exec(
            *argv,
            env=dict(env),
            cwd=cwd,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    except (FileNotFoundError, PermissionError, NotADirectoryError) as error:
        raise MissingProgramError(os.path.basename(argv[0])) from error
    finally:
        os.close(log)
