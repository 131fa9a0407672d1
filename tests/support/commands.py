"""Runs a command for a test: an argument list, a timeout, and an error that shows what the command said."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

TIMEOUT = 300.0  # seconds; long, so that a busy machine fails no test


class CommandFailed(AssertionError):  # noqa: N818  # reads as a failed assertion in pytest's report
    """A command that a test or fixture relies on did not exit with 0."""


def run(
    *argv: str | Path,
    stdin: bytes | None = None,
    env: Mapping[str, str] | None = None,
    cwd: str | Path | None = None,
    timeout: float = TIMEOUT,
) -> subprocess.CompletedProcess[bytes]:
    """Run to the end, whatever the exit code, and return it with its output.

    Raises subprocess.TimeoutExpired after ending the command and all it started.
    """
    with subprocess.Popen(
        [str(argument) for argument in argv],
        stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=None if env is None else dict(env),
        cwd=cwd,
        start_new_session=True,
    ) as process:
        try:
            stdout, stderr = process.communicate(stdin, timeout)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def output(
    *argv: str | Path,
    stdin: bytes | None = None,
    env: Mapping[str, str] | None = None,
    cwd: str | Path | None = None,
    timeout: float = TIMEOUT,
) -> bytes:
    """Like ``run``, but return standard output. Raises CommandFailed for another exit code than 0."""
    completed = run(*argv, stdin=stdin, env=env, cwd=cwd, timeout=timeout)
    if completed.returncode != 0:
        words = " ".join(str(argument) for argument in argv)
        said = completed.stderr.decode(errors="replace").strip()
        raise CommandFailed(f"exit {completed.returncode}: {words}\n{said}")
    return completed.stdout


def lines(*argv: str | Path, env: Mapping[str, str] | None = None) -> Sequence[str]:
    """Like ``output``, as its lines of text."""
    return output(*argv, env=env).decode().splitlines()
