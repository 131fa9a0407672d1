"""How long it takes to learn the age of every secret from a long history, and from one more commit."""

from __future__ import annotations

import asyncio
import base64
import os
import time

from benchmarks.figures import Figure, Point
from reconciler.adapters.git.mirror import GitMirror
from reconciler.adapters.store import SqliteStore
from tests.support.git_remote import GitRemote

COMMITS = 5_000
FILES = 10
KEYS = 20  # in each file
WHOLE_TARGET = 5000.0  # ms
RUNS = 5
LENGTHS = (500, 1_000, 2_500, COMMITS)
DIRECTORY = "envs"


def ages(remote: GitRemote, state_dir: str) -> list[Figure]:
    """Every commit changes one value of one file, in what sops writes; the mirror has the history already."""
    _write(remote)
    return asyncio.run(_ages(remote, state_dir))


async def _ages(remote: GitRemote, state_dir: str) -> list[Figure]:
    mirror = GitMirror(url=remote.url, branch="main", state_dir=state_dir)
    head = await mirror.head()
    await mirror.fetch(head)
    return [figure for commits in LENGTHS for figure in await _of_first(mirror, remote, commits, state_dir)]


async def _of_first(mirror: GitMirror, remote: GitRemote, commits: int, state_dir: str) -> list[Figure]:
    """Of as many commits from the beginning: all of them, and the last one alone."""
    head, before = (remote.git("rev-parse", f"main~{COMMITS - commits + more}") for more in (0, 1))
    whole, last = [], []
    for run in range(RUNS):
        store = SqliteStore(os.path.join(state_dir, f"{commits}-{run}.db"))
        for since, samples in ((None, whole), (before, last)):
            began = time.perf_counter()
            seen = await mirror.first_seen(head, since, DIRECTORY)
            store.remember_first_seen(DIRECTORY, head, seen)
            samples.append((time.perf_counter() - began) * 1000)
        store.close()
    target, note = (WHOLE_TARGET if commits == COMMITS else None), f"{len(seen)} values read"
    name = f"age of secrets, {commits:,} commits"
    whole_point = Point("ages of all secrets, read once: wall", "commits", commits)
    last_point = Point("ages after one more commit: wall", "commits", commits)
    return [
        Figure(f"{name}: wall", "ms", tuple(whole), target, point=whole_point),
        Figure(f"{name} and one more: wall", "ms", tuple(last), note=note, point=last_point),
    ]


def _write(remote: GitRemote) -> None:
    values = [[_value() for _ in range(KEYS)] for _ in range(FILES)]
    stream = []
    for number in range(COMMITS):
        file = number % FILES
        values[file][number // FILES % KEYS] = _value()
        text = "".join(f"KEY_{key}={value}\n" for key, value in enumerate(values[file]))
        data = f"{text}sops_age__list_0__map_enc={'x' * 380}\nsops_mac={_value()}\n".encode()
        head = f"commit refs/heads/main\ncommitter A <a@example.org> {1_700_000_000 + number} +0000\ndata 1\nx\n"
        stream.append(f"{head}M 644 inline {DIRECTORY}/{file}.env\ndata {len(data)}\n".encode() + data + b"\n")
    remote.git("fast-import", "--quiet", stdin=b"".join(stream))


def _value() -> str:
    data, iv, tag = (base64.b64encode(os.urandom(length)).decode() for length in (24, 32, 16))
    return f"ENC[AES256_GCM,data:{data},iv:{iv},tag:{tag},type:str]"
