"""What a server's polls and fetches cost the machine that serves the git repository: docs/scaling.md.

The remote's side alone: sshd, git daemon or git http-backend with all they start, not the client.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from benchmarks.figures import Figure, skipped
from benchmarks.scratch import SOURCES, content
from tests.support.commands import output
from tests.support.components import missing
from tests.support.git_remote import GitRemote, make_git_remote
from tests.support.processes import children
from tests.support.sshd import make_sshd
from tests.support.waiting import eventually

COMMITS = 100  # before the measurement
POLLS = 20
FETCHES = 10
POLL_INTERVAL = 30.0  # seconds, as `repository.poll_interval` is by default
BRANCH = "refs/heads/main"


def measure(root: Path) -> Iterator[Figure]:
    """CPU of one poll and one fetch, for each way to reach the repository."""
    remote = make_git_remote(root / "config.git")
    remote.commit({name: content(name) for name in SOURCES})
    for number in range(COMMITS):
        _change(remote, number)
    with _git_daemon(root) as (port, process):
        url = f"git://127.0.0.1:{port}/config.git"
        yield from _served("git daemon", remote, url, lambda: _cpu(process.pid), {})
    with HttpBackend(root) as backend:
        yield from _served("HTTP, without TLS", remote, f"{backend.url}/config.git", lambda: backend.used, {})
    if (lack := missing("sshd")) is not None:
        yield skipped("polls over SSH", str(lack))
        return
    room = root / "sshd"
    room.mkdir()
    sshd = make_sshd(room)
    try:
        listener = int(output("pgrep", "-f", f"sshd.*{room}/sshd_config").decode().split()[0])
        variables = {"GIT_SSH_COMMAND": sshd.git_ssh_command}
        yield from _served("SSH", remote, sshd.url(remote.path), lambda: _cpu(listener), variables)
    finally:
        sshd.stop()


def _change(remote: GitRemote, number: int) -> None:
    name = SOURCES[number % len(SOURCES)]
    remote.commit({name: content(name, f"commit {number}")})


def _served(
    way: str, remote: GitRemote, url: str, used: Callable[[], float], variables: Mapping[str, str]
) -> Iterator[Figure]:
    """``used`` gives the seconds of CPU that serving has taken so far."""
    env = {**os.environ, **variables, "GIT_CONFIG_GLOBAL": os.devnull}
    clone = remote.path.parent / f"clone-{way.partition(',')[0].replace(' ', '-')}"
    output("git", "clone", "--quiet", "--bare", url, clone, env=env)
    polls, fetches = [], []
    for _ in range(POLLS):
        before = used()
        output("git", "ls-remote", url, BRANCH, env=env)
        polls.append(used() - before)
    for number in range(FETCHES):
        _change(remote, number + COMMITS)
        before = used()
        output("git", "-C", clone, "fetch", "--quiet", "--no-tags", url, BRANCH, env=env)
        fetches.append(used() - before)
    yield from _figures(way, polls, fetches)


def _figures(way: str, polls: list[float], fetches: list[float]) -> Iterator[Figure]:
    """The clock counts in hundredths of a second: only the mean of many is worth something."""
    poll, fetch = sum(polls) / len(polls), sum(fetches) / len(fetches) * 1000
    yield Figure(f"one poll, {way}, the remote's side: CPU", "ms", (poll * 1000,), note=f"mean of {len(polls)}")
    yield Figure(f"one fetch, {way}, the remote's side: CPU", "ms", (fetch,), note=f"mean of {len(fetches)}")
    note = f"that each poll every {POLL_INTERVAL:g} s"
    yield Figure(f"servers on one core of the remote, {way}", "", (POLL_INTERVAL // poll,), note=note)


@contextlib.contextmanager
def _git_daemon(root: Path) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    program = Path(output("git", "--exec-path").decode().strip()) / "git-daemon"
    options = ("--export-all", f"--base-path={root}", "--listen=127.0.0.1", f"--port={port}", "--reuseaddr")
    process = subprocess.Popen([program, *options], stderr=subprocess.DEVNULL)
    try:
        eventually(lambda: _listens(port), timeout=20)
        yield port, process
    finally:
        process.terminate()
        process.wait()


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


class HttpBackend:
    """git http-backend for the repositories below ``root``, as a web server starts it: once for each request. The web
    server's own work, and TLS, do not count."""

    def __init__(self, root: Path) -> None:
        self.used = 0.0
        backend = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.connection.settimeout(20)
                head, _, data = backend.serve(self, root).partition(b"\r\n\r\n")
                self.send_response(200)
                for line in head.decode().splitlines():
                    self.send_header(*line.split(": ", 1))
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_POST = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def serve(self, request: BaseHTTPRequestHandler, root: Path) -> bytes:
        """What git answers to the request: header fields and body."""
        path, _, query = request.path.partition("?")
        variables = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": str(root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_PROTOCOL": request.headers.get("Git-Protocol", ""),
            "HTTP_CONTENT_ENCODING": request.headers.get("Content-Encoding", ""),
            "CONTENT_TYPE": request.headers.get("Content-Type", ""),
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": request.command,
        }
        with tempfile.TemporaryFile() as body, tempfile.TemporaryFile() as answer:
            body.write(request.rfile.read(int(request.headers.get("Content-Length", 0))))
            body.seek(0)
            process = subprocess.Popen(["git", "http-backend"], stdin=body, stdout=answer, env=variables)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            self.used += usage.ru_utime + usage.ru_stime
            answer.seek(0)
            return answer.read()

    def __enter__(self) -> HttpBackend:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def _cpu(pid: int) -> float:
    """Seconds of CPU of the process and its children, once all of them have ended."""
    eventually(lambda: not children(pid), timeout=60)
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
