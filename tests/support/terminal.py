"""Commands in a real terminal of a given width."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
from collections.abc import Callable, Iterator

from tests.support.server import Server

# Anything but a colour: what stood before it is progress, which was erased.
_CURSOR = re.compile(r"\x1b\[[0-9;?]*[A-LN-Za-ln-z]")


@contextlib.contextmanager
def terminal(server: Server, *arguments: str) -> Iterator[Callable[[], str]]:
    """Run the command in a terminal; yields a function that returns its output so far. It must exit with 0."""
    output = bytearray()
    with _started(server, arguments, 200, {}) as (process, ours):

        def read() -> str:
            with contextlib.suppress(OSError):  # the command has closed its side
                while select.select([ours], [], [], 0)[0]:
                    output.extend(os.read(ours, 65536))
            return output.decode(errors="replace")

        yield read
        assert process.wait(120) == 0


def answer_lines(server: Server, *arguments: str, columns: int, exit_code: int, **environment: str) -> list[str]:
    """The lines that the command leaves in a terminal of so many columns, with their colours."""
    output = bytearray()
    with _started(server, arguments, columns, environment) as (process, ours):
        with contextlib.suppress(OSError):  # the command has closed its side
            while data := os.read(ours, 65536):
                output.extend(data)
        assert process.wait(120) == exit_code, output.decode()
    return [_CURSOR.split(line)[-1] for line in output.decode().replace("\r", "").splitlines()]


@contextlib.contextmanager
def _started(
    server: Server, arguments: tuple[str, ...], columns: int, environment: dict[str, str]
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    variables = {"TERM": "xterm", "COLUMNS": "", **environment}
    process = server.start(*arguments, environment=variables, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    try:
        with process:
            yield process, ours
    finally:
        process.kill()
        os.close(ours)
