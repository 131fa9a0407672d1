"""What a server's polls and fetches cost the machine that serves the git repository: docs/scaling.md.

The remote's side alone: sshd, git daemon or git http-backend with all they start, not the client.
"""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import subprocess
from collections.abc import Iterator, Mapping
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
# What git sends to ask for one branch: https://git-scm.com/docs/protocol-v2
ASK = b"0014command=ls-refs\n0001001eref-prefix refs/heads/main0000"


def measure(root: Path) -> Iterator[Figure]:
    """CPU of one poll and one fetch, for each way to reach the repository."""
    remote = make_git_remote(root / "config.git")
    remote.commit({name: content(name) for name in SOURCES})
    for number in range(COMMITS):
        _change(remote, number)
    with _git_daemon(root) as (port, process):
        yield from _served("git daemon", remote, f"git://127.0.0.1:{port}/config.git", process.pid, {})
    yield from _figures("HTTP, without TLS", [_http_poll(root) for _ in range(POLLS)], [])
    if (lack := missing("sshd")) is not None:
        yield skipped("polls over SSH", str(lack))
        return
    room = root / "sshd"
    room.mkdir()
    sshd = make_sshd(room)
    try:
        listener = int(output("pgrep", "-f", f"sshd.*{room}/sshd_config").decode().split()[0])
        yield from _served("SSH", remote, sshd.url(remote.path), listener, {"GIT_SSH_COMMAND": sshd.git_ssh_command})
    finally:
        sshd.stop()


def _change(remote: GitRemote, number: int) -> None:
    name = SOURCES[number % len(SOURCES)]
    remote.commit({name: content(name, f"commit {number}")})


def _served(way: str, remote: GitRemote, url: str, listener: int, variables: Mapping[str, str]) -> Iterator[Figure]:
    """``listener`` is the process that serves, with its children."""
    env = {**os.environ, **variables, "GIT_CONFIG_GLOBAL": os.devnull}
    clone = remote.path.parent / f"clone-{way.replace(' ', '-')}"
    output("git", "clone", "--quiet", "--bare", url, clone, env=env)
    polls, fetches = [], []
    for _ in range(POLLS):
        before = _cpu(listener)
        output("git", "ls-remote", url, BRANCH, env=env)
        polls.append(_cpu(listener) - before)
    for number in range(FETCHES):
        _change(remote, number + COMMITS)
        before = _cpu(listener)
        output("git", "-C", clone, "fetch", "--quiet", "--no-tags", url, BRANCH, env=env)
        fetches.append(_cpu(listener) - before)
    yield from _figures(way, polls, fetches)


def _figures(way: str, polls: list[float], fetches: list[float]) -> Iterator[Figure]:
    """The clock counts in hundredths of a second: only the mean of many is worth something."""
    poll = sum(polls) / len(polls)
    yield Figure(f"one poll, {way}, the remote's side: CPU", "ms", (poll * 1000,), note=f"mean of {len(polls)}")
    if fetches:
        fetch = sum(fetches) / len(fetches) * 1000
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


def _http_poll(root: Path) -> float:
    """Both requests of `git ls-remote`, as a web server hands them to git http-backend."""
    common = {
        "PATH": os.environ["PATH"],
        "GIT_PROJECT_ROOT": str(root),
        "GIT_HTTP_EXPORT_ALL": "1",
        "GIT_PROTOCOL": "version=2",
        "REMOTE_USER": "x",
        "GIT_CONFIG_GLOBAL": os.devnull,
    }
    get = {"REQUEST_METHOD": "GET", "PATH_INFO": "/config.git/info/refs", "QUERY_STRING": "service=git-upload-pack"}
    post = {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": "/config.git/git-upload-pack",
        "CONTENT_TYPE": "application/x-git-upload-pack-request",
    }
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    output("git", "http-backend", env={**common, **get})
    answer = output("git", "http-backend", stdin=ASK, env={**common, **post})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if BRANCH.encode() not in answer:
        raise RuntimeError(f"git http-backend answered {answer!r}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _cpu(pid: int) -> float:
    """Seconds of CPU of the process and its children, once all of them have ended."""
    eventually(lambda: not children(pid), timeout=60)
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
