"""Runs reconciler commands in processes of their own that are forked from one that has everything imported.

A command, and the start of a daemon, is mostly imports; a forked one begins after them and is the installed command in
all else: its own process, session, environment, directory and standard streams. The process that they are forked from
belongs to the test process and ends with it. Run as a program, this file is that process.

What a command starts of Python itself, the evaluation of contracts, is forked from the command for the same reason.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

COMMAND = Path(sys.executable).parent / "reconciler"
ROOT = Path(__file__).parents[2]
TIMEOUT = 300.0  # seconds; long, so that a busy machine fails no test
LONGEST = 256 * 1024  # bytes of a request
PRELOADED = (
    *("aiodocker", "asyncssh", "concurrent.futures.thread", "encodings.ascii", "git", "pydantic.type_adapter"),
    *("tests.support.killer", "tests.support.paper_engine"),
)
NOT_PRELOADED = ("reconciler.demo.", "reconciler.adapters.notify.worker")  # no forked command imports them
FORKED_MODULES = ("reconciler.adapters.json_schema.worker",)

_STARTING = threading.Lock()

Hook = tuple[str, Mapping[str, Any]]


# --- for the tests ---------------------------------------------------------------------------------------------------


class ForkedProcess(subprocess.Popen[bytes]):
    """A command that runs as its own session; to whoever started it, a process like any other.

    Only the beginning and the end differ from Popen: another process is its parent. Its command line and environment
    in /proc are that process's.
    """

    def __init__(self, command: Sequence[str], *, hook: Hook | None = None, **options: Any) -> None:
        self._hook = hook
        self._answer, self._theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
        super().__init__(command, **options)

    def _execute_child(self, command: list[str], *options: Any) -> None:
        cwd, env, (stdin, _, _, stdout, _, stderr) = options[4], options[5], options[9:15]
        request = json.dumps([command, dict(env), str(Path(cwd or ".").absolute()), self._hook]).encode()
        streams = [number if given == -1 else given for number, given in enumerate((stdin, stdout, stderr))]
        with _STARTING:  # by threads at the same time, one would be started for each, and all but one end
            origin, *_ = _origin()
        with self._theirs:
            socket.send_fds(origin, [request], [*streams, self._theirs.fileno()])
        self.pid = int(self._answer.recv(16))
        self._child_created = True
        self._close_pipe_fds(*options[9:15])  # type: ignore[attr-defined]

    def _wait(self, timeout: float | None) -> int:
        if self.returncode is None:
            self._answer.settimeout(timeout)
            try:
                self._end()
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired(self.args, timeout or 0) from None
        return int(self.returncode)

    def _internal_poll(self, *_: Any, **__: Any) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._wait(0)
        return self.returncode

    def _end(self) -> None:
        self.returncode = int(self._answer.recv(16))
        self._answer.close()


def reconciler(
    *arguments: str | Path,
    stdin: bytes | None = None,
    env: Mapping[str, str],
    cwd: str | Path = ".",
    timeout: float = TIMEOUT,
    hook: Hook | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run the command to the end, whatever the exit code, and return it with its output as text.

    ``hook`` names a module of tests.support whose ``prepare`` is called in the process first, and its arguments. Raises
    subprocess.TimeoutExpired after ending the command and all it started.
    """
    command = [str(COMMAND), *map(str, arguments)]
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        given.write(stdin or b"")
        given.seek(0)
        process = ForkedProcess(command, stdin=given, stdout=out, stderr=err, env=env, cwd=cwd, hook=hook)
        try:
            exit_code = process.wait(timeout)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        stdout, stderr = (os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode() for file in (out, err))
    return subprocess.CompletedProcess(command, exit_code, stdout, stderr)


@functools.cache
def forked_command() -> Path:
    """A program named reconciler for scripts and their PATH: what it is called with is forked here, and so begins after
    the imports. A signal to it reaches nobody else."""
    _, _, directory = _origin()
    program = Path(directory.name) / "reconciler"
    program.write_text(f"#!{sys.executable} -SIE\n" + _PROGRAM.format(address=f"{directory.name}/{_ADDRESS}"))
    program.chmod(0o755)
    return program


# It imports next to nothing, as that is what takes its time.
_PROGRAM = """\
import _socket, json, os, sys

origin = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
origin.connect({address!r})
request = json.dumps([["{command}", *sys.argv[1:]], dict(os.environ), os.getcwd(), None]).encode()
streams = b"".join(number.to_bytes(4, sys.byteorder) for number in range(3))
origin.sendmsg([request], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, streams)])
origin.recv(16)
code = int(origin.recv(16))
os._exit(code if code >= 0 else 128 - code)
""".replace("{command}", str(COMMAND))
_ADDRESS = "origin"


def forking_popen() -> Callable[..., None]:
    """A Popen._execute_child that forks what is started as ``python -I -m`` and one of FORKED_MODULES.

    A new Python would import for 90 ms of CPU. The fork is a child, with the session, environment, directory and
    streams that were asked for, and under the limits that are put on it.
    """
    execute: Callable[..., None] = subprocess.Popen._execute_child  # type: ignore[attr-defined]

    def fork(process: subprocess.Popen[bytes], command: Sequence[str], *options: Any) -> None:
        if list(command[:3]) != [sys.executable, "-I", "-m"] or command[3] not in FORKED_MODULES:
            execute(process, command, *options)
            return
        cwd, env, (stdin, _, _, stdout, _, stderr) = options[4], options[5], options[9:15]
        program = importlib.import_module(command[3])
        if (child := os.fork()) == 0:
            exit_code = 1
            try:
                os.setsid()
                signal.set_wakeup_fd(-1)
                for number in (signal.SIGINT, signal.SIGTERM):
                    signal.signal(number, signal.SIG_DFL)
                _become(list(command[3:]), env, cwd or ".", [os.dup(number) for number in (stdin, stdout, stderr)])
                os.closerange(3, 4096)
                sys.stdin, sys.stdout = (
                    os.fdopen(number, mode, encoding="utf-8") for number, mode in ((0, "r"), (1, "w"))
                )
                program.main()
                sys.stdout.flush()
                exit_code = 0
            finally:
                os._exit(exit_code)
        process.pid, process._child_created = child, True
        process._close_pipe_fds(*options[9:15])  # type: ignore[attr-defined]

    return fork


@functools.cache
def _origin() -> tuple[socket.socket, subprocess.Popen[bytes], tempfile.TemporaryDirectory[str]]:
    """Where the process that forks takes its requests, that process, and the directory with its address for other
    processes; it ends when this one has."""
    ours, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
    directory = tempfile.TemporaryDirectory(prefix="rct-forks-", dir="/tmp")  # the path of a socket is short
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(f"{directory.name}/{_ADDRESS}")
    listener.listen(64)
    with theirs, listener:
        process = subprocess.Popen(
            [sys.executable, "-P", __file__, str(theirs.fileno()), str(listener.fileno())],
            env={"PATH": os.defpath, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[theirs.fileno(), listener.fileno()],
            start_new_session=True,
        )
    return ours, process, directory


# --- the process -----------------------------------------------------------------------------------------------------


def _serve(requests: socket.socket, listener: socket.socket) -> tuple[Any, list[int]]:
    """Fork for each request, and answer with its process id and, once it has ended, its exit code.

    Returns, in the child, what the request is and the descriptors of its streams.
    """
    running: dict[int, tuple[int, int]] = {}
    poll = select.poll()
    poll.register(requests, select.POLLIN)
    poll.register(listener, select.POLLIN)
    while True:
        for descriptor, _ in poll.poll():
            if descriptor in running:
                poll.unregister(descriptor)
                child, answer = running.pop(descriptor)
                _, status = os.waitpid(child, 0)
                os.close(descriptor)
                with contextlib.suppress(BrokenPipeError):  # nobody waits for it any more
                    os.write(answer, b"%d" % os.waitstatus_to_exitcode(status))
                os.close(answer)
                continue
            if descriptor == listener.fileno():
                with listener.accept()[0] as client:
                    request, streams, *_ = socket.recv_fds(client, LONGEST, 3)
                    answer = client.detach()
            else:
                request, descriptors, *_ = socket.recv_fds(requests, LONGEST, 4)
                if not request:
                    os._exit(0)
                *streams, answer = descriptors
            if (child := os.fork()) == 0:
                os.setsid()
                os.write(answer, b"%d" % os.getpid())
                answers = (kept for _, kept in running.values())
                for ours in (requests.fileno(), listener.fileno(), answer, *running, *answers):
                    os.close(ours)
                return json.loads(request), streams
            for stream in streams:
                os.close(stream)
            watched = os.pidfd_open(child)
            running[watched] = (child, answer)
            poll.register(watched, select.POLLIN)


def _become(command: list[str], env: Mapping[str, str], cwd: str, streams: list[int]) -> None:
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    time.tzset()
    tempfile.tempdir = None
    sys.argv = command


def _build(model: Any) -> None:
    """Have the model and those made of it ready to read with, as each command otherwise makes those that it needs."""
    model.model_rebuild()
    for derived in model.__subclasses__():
        _build(derived)


def main() -> None:
    for module in PRELOADED:
        importlib.import_module(module)
    for info in pkgutil.walk_packages([str(ROOT / "reconciler")], "reconciler."):
        if not info.name.startswith(NOT_PRELOADED):
            importlib.import_module(info.name)
    _build(importlib.import_module("reconciler.app.config.models").Section)
    gc.collect()
    gc.freeze()
    (command, env, cwd, hook), streams = _serve(*(socket.socket(fileno=int(number)) for number in sys.argv[1:]))
    _become(command, env, cwd, streams)
    subprocess.Popen._execute_child = forking_popen()  # type: ignore[attr-defined]
    if faults := env.get("PYTHONPATH"):  # as Python itself would, at its start
        runpy.run_path(f"{faults}/sitecustomize.py")
    if hook:
        importlib.import_module(hook[0]).prepare(**hook[1])
    try:
        importlib.import_module("reconciler.cli.main").main()
    except SystemExit as end:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        os._exit(end.code or 0)  # taking down all that was imported would cost more than many a command


if __name__ == "__main__":
    main()
