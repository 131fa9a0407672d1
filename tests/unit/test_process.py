"""Starting processes: they always end, and nothing of them is left behind."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reconciler.adapters import process
from reconciler.adapters.process import MIB, Completed, Limits, MissingProgramError
from reconciler.core.errors import ExhaustedError
from tests.support.processes import children
from tests.support.waiting import until

ENV = {"PATH": "/usr/bin:/bin"}
FOR_EVER = "600"  # seconds
LONG = 300.0  # seconds: shorter than that, and long enough for a busy machine


async def shell(script: str, *, stdin: bytes | None = None, **limits: Any) -> Completed:
    return await process.run(
        ["/bin/sh", "-c", script], env=ENV, limits=Limits(**{"timeout": 10.0, **limits}), stdin=stdin
    )


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def pids_in(file: Path, count: int) -> Callable[[], bool]:
    return lambda: file.exists() and len(file.read_text().split()) == count


async def none_alive(file: Path) -> bool:
    """Whether the processes are gone; the last steps of dying come after the pipes are closed."""
    return await until(lambda: not any(alive(int(pid)) for pid in file.read_text().split()))


# --- what comes back ---


async def test_output_and_exit_code_come_back() -> None:
    done = await shell("cat; echo problem >&2; exit 3", stdin=b"given")
    assert (done.stdout, done.stderr, done.exit_code, done.ok) == (b"given", b"problem\n", 3, False)
    assert done.program == "sh"


async def test_without_input_the_program_reads_nothing() -> None:
    assert (await shell("cat; echo end")).stdout == b"end\n"


async def test_a_signal_is_a_negative_exit_code() -> None:
    assert (await shell("kill -KILL $$")).exit_code == -signal.SIGKILL


async def test_the_environment_is_what_was_given_and_no_more() -> None:
    done = await process.run(["/usr/bin/env"], env={"ONLY": "this"}, limits=Limits(timeout=10))
    assert done.stdout == b"ONLY=this\n"


async def test_the_program_runs_in_the_directory_that_was_given(tmp_path: Path) -> None:
    done = await process.run(["/bin/pwd"], env=ENV, limits=Limits(timeout=10), cwd=str(tmp_path))
    assert done.stdout.decode().strip() == str(tmp_path)


async def test_repr_shows_no_output() -> None:
    assert "canary" not in repr(await shell("echo canary; echo canary >&2"))


async def test_large_output_below_the_cap_is_whole() -> None:
    done = await shell("head -c 3000000 /dev/zero")
    assert done.ok
    assert len(done.stdout) == 3_000_000


# --- programs that cannot be started ---


def not_there(directory: Path) -> Path:
    return directory / "missing"


def not_executable(directory: Path) -> Path:
    (directory / "program").write_text("#!/bin/sh\n")
    return directory / "program"


def below_a_file(directory: Path) -> Path:
    return not_executable(directory) / "program"


def for_no_machine(directory: Path) -> Path:
    program = directory / "program"
    program.write_bytes(b"\x7fELF of another machine")
    program.chmod(0o755)
    return program


@pytest.mark.parametrize("make", [not_there, not_executable, below_a_file, for_no_machine])
async def test_a_program_that_cannot_be_executed_is_missing(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    program = make(tmp_path)
    with pytest.raises(MissingProgramError) as raised:
        await process.run([str(program)], env=ENV, limits=Limits(timeout=10))
    assert raised.value.args == (program.name,)


# --- programs that do not end ---


async def test_a_timeout_ends_the_program_and_its_grandchildren(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    started = time.monotonic()
    done = await shell(f"sleep {FOR_EVER} & echo $! $$ > {pids}; wait", timeout=1.0)
    assert (done.timed_out, done.ok, done.exit_code) == (True, False, -signal.SIGKILL)
    assert time.monotonic() - started < LONG
    assert await none_alive(pids)


async def test_within_the_grace_a_program_may_end_by_itself() -> None:
    done = await shell("trap 'echo tidied; exit 0' TERM; while :; do sleep 0.01; done", timeout=0.3, grace=5.0)
    assert (done.stdout, done.exit_code, done.timed_out, done.ok) == (b"tidied\n", 0, True, False)


async def test_after_the_grace_it_is_killed() -> None:
    started = time.monotonic()
    done = await shell("trap '' TERM; while :; do sleep 0.01; done", timeout=0.2, grace=0.3)
    assert (done.exit_code, done.timed_out) == (-signal.SIGKILL, True)
    assert 0.5 <= time.monotonic() - started < LONG


async def test_a_child_that_leaves_the_group_cannot_keep_us_waiting(tmp_path: Path) -> None:
    """An SSH master connection, for one, stays and holds standard error open."""
    pids = tmp_path / "pids"
    started = time.monotonic()
    done = await shell(f"echo before; setsid sh -c 'echo $$ > {pids}; exec sleep {FOR_EVER}' & wait", timeout=1.0)
    try:
        assert done.timed_out
        assert done.stdout == b"before\n"
        assert time.monotonic() - started < LONG
    finally:
        os.kill(int(pids.read_text()), signal.SIGKILL)


@pytest.mark.parametrize("script", [pytest.param("exit 5", id="ends"), pytest.param(f"sleep {FOR_EVER}", id="stays")])
async def test_input_that_nobody_reads_does_not_block(script: str) -> None:
    done = await shell(script, stdin=b"x" * 8 * MIB, timeout=0.5)
    assert (done.exit_code, done.timed_out) == ((5, False) if "exit" in script else (-signal.SIGKILL, True))


# --- programs that print too much ---


@pytest.mark.parametrize(
    ("redirect", "stream", "kept"), [("", "stdout", 4 * MIB), (">&2", "stderr", 64 * 1024)], ids=["stdout", "stderr"]
)
async def test_a_flood_ends_the_program_and_keeps_the_beginning(redirect: str, stream: str, kept: int) -> None:
    done = await shell(f"yes {redirect}")
    assert (done.overflowed, done.timed_out, done.ok) == (True, False, False)
    assert len(getattr(done, stream)) == kept


async def test_output_past_the_cap_is_drained_while_the_program_ends() -> None:
    """It ignores SIGTERM until its output is out: with a full pipe it would never get there."""
    script = "trap '' TERM; head -c 2000000 /dev/zero; exit 0"
    done = await shell(script, stdout=1000, grace=5.0)
    assert (done.overflowed, done.exit_code, len(done.stdout)) == (True, 0, 1000)


# --- cancelling ---

# The program gets its input once ``run`` waits for it. Before that, it may be at work while ``run`` still starts it.
STARTED = "read -r go"


@pytest.mark.parametrize("grace", [0.0, 0.2])
async def test_cancelling_ends_the_whole_group_before_it_returns(tmp_path: Path, grace: float) -> None:
    pids = tmp_path / "pids"
    script = f"{STARTED}; trap '' TERM; (trap '' TERM; sleep {FOR_EVER}) & echo $! $$ > {pids}; wait; sleep {FOR_EVER}"
    task = asyncio.create_task(shell(script, stdin=b"go\n", grace=grace))
    assert await until(pids_in(pids, 2))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, LONG)
    assert await none_alive(pids)


async def test_cancelling_while_it_starts_ends_the_whole_group(tmp_path: Path) -> None:
    pids, before = tmp_path / "pids", children()
    task = asyncio.create_task(shell(f"sleep {FOR_EVER} & echo $! $$ > {pids}; wait"))
    while not pids_in(pids, 2)():
        await asyncio.sleep(0)  # starts it, and hardly more
        time.sleep(0.1)  # noqa: ASYNC251 - the point: it is under way before the loop hears of it
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, LONG)
    assert children() <= before
    assert await none_alive(pids)


async def test_cancelling_twice_kills_without_waiting_for_the_grace(tmp_path: Path) -> None:
    pids, request = tmp_path / "pids", tmp_path / "asked"
    script = f"{STARTED}; trap 'touch {request}' TERM; echo $$ > {pids}; while :; do sleep 0.01; done"
    task = asyncio.create_task(shell(script, stdin=b"go\n", grace=float(FOR_EVER)))
    assert await until(pids_in(pids, 1))
    task.cancel()
    assert await until(request.exists)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, LONG)
    assert await none_alive(pids)


# --- what is left ---


async def test_no_descriptor_and_no_task_is_left() -> None:
    await shell("exit 0")
    before = len(os.listdir("/proc/self/fd"))
    for script in ("exit 0", f"sleep {FOR_EVER}", "yes"):
        await shell(script, timeout=0.2, stdin=b"x" * MIB)
    assert await until(lambda: len(os.listdir("/proc/self/fd")) <= before)
    assert asyncio.all_tasks() == {asyncio.current_task()}


# --- limits ---


async def test_limits_hold_before_the_program_gets_its_input() -> None:
    done = await shell(
        "read -r line; ulimit -c; ulimit -t; ulimit -v",
        stdin=b"go\n",
        resources={resource.RLIMIT_CORE: 0, resource.RLIMIT_CPU: 10, resource.RLIMIT_AS: 2048 * MIB},
    )
    assert done.stdout.split() == [b"0", b"10", b"2097152"]


def test_a_lower_limit_of_our_own_stays_in_force() -> None:
    """In a process of its own: whoever is not root could not lift the limit again, and raising it would fail."""
    program = """
import asyncio, resource
from reconciler.adapters.process import Limits, run
resource.setrlimit(resource.RLIMIT_CPU, (7, 7))
limits = Limits(timeout=10, resources={resource.RLIMIT_CPU: 10})
done = asyncio.run(run(["/bin/sh", "-c", "read -r line; ulimit -t"], env={}, limits=limits, stdin=b"go\\n"))
print(done.stdout.decode().strip())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.strip() == "7"


# --- what the machine has run out of ---


NO_PROCESS = """
import asyncio, os, resource
from reconciler.adapters import process
run = lambda: asyncio.run(process.run(["/bin/true"], env={}, limits=process.Limits(timeout=10.0)))
run()  # everything is imported now
os.setuid(65534)  # root has no limit
resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
try:
    run()
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.root
def test_the_limit_of_processes_is_named() -> None:
    done = subprocess.run([sys.executable, "-c", NO_PROCESS], stdout=subprocess.PIPE, check=True, text=True)
    assert done.stdout.startswith("ExhaustedError true cannot be started: the limit of processes is reached. ")


async def test_the_limit_of_open_files_is_named() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")), hard))
    try:
        with pytest.raises(ExhaustedError, match="sh cannot be started: the limit of open files is reached"):
            await shell("true")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize(("kills", "expected"), [([4, 5], True), ([4, 4], False)])
async def test_a_kill_for_want_of_memory_is_told_from_another(
    kills: list[int], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = iter(kills)
    monkeypatch.setattr(process, "_kills_for_memory", lambda: next(counted))
    done = await shell("kill -9 $$")
    assert (done.exit_code, done.out_of_memory) == (-9, expected)
