"""Since when the encrypted values of a directory have been in git, from its whole history and without a key.

A value keeps its iv until it is written anew, also when ``sops rotate`` makes new ciphertext of all of them. So the age
of a value is that of the oldest commit whose files hold its iv, in whichever file: renaming a file, merging a branch,
removing a value and putting it back, or reverting to an older one makes no secret any younger.

Three processes, whatever the length of the history: ``git log`` tells which files every commit made, ``git cat-file``
how large they are, and then what is in them.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping, Sequence

from reconciler.adapters import process
from reconciler.adapters.git.command import LARGEST_OBJECT, log_command
from reconciler.adapters.git.objects import DamagedError
from reconciler.adapters.git.runner import GitRunner
from reconciler.core.errors import RefusedError
from reconciler.core.sops.ciphertext import ivs

LOG = 64 * process.MIB  # 400,000 changed files or so
AT_ONCE = 8 * process.MIB  # of files in memory
SECONDS = 120.0  # for each process

_MOMENT = re.compile(rb"\x01(\d+)")
_MADE = re.compile(rb":+(?:[0-7]{6} )+(?:[0-9a-f]{40} )*([0-9a-f]{40}) [A-Z]+")
_NOTHING = b"0" * 40


async def first_appearances(git: GitRunner, commit: str, since: str | None, directory: str) -> Mapping[str, float]:
    """See the ``Git`` port's ``first_seen``; ``since`` is an ancestor or None.

    Raises DamagedError for a mirror that cannot be read, GitUnreachableError where git does not end in time,
    RefusedError for a history that is too long.
    """
    log = await _ask(git, log_command(commit, since, directory), LOG)
    blobs = await asyncio.to_thread(_blobs, log)
    sizes = await _ask(git, ["git", "cat-file", "--batch-check"], LOG, blobs)
    found: dict[str, float] = {}
    for portion in _portions(sizes):
        room = AT_ONCE + LARGEST_OBJECT + len(portion) * process.KIB
        files = await _ask(git, ["git", "cat-file", "--batch"], room, portion)
        await asyncio.to_thread(_take_in, files, blobs, found)
    return found


async def _ask(
    git: GitRunner, argv: Sequence[str], stdout: int, names: Sequence[bytes] | Mapping[bytes, float] = ()
) -> bytes:
    stdin = b"".join(name + b"\n" for name in names)
    completed = await git.run(argv, stdin=stdin, stdout=stdout, seconds=SECONDS)
    if completed.timed_out:
        git.raise_failure(completed, SECONDS)
    if completed.overflowed:
        what = f"the history of the environments is too long to be read ({stdout // process.MIB} MiB of it)"
        raise RefusedError(what, where=git.where, hint="Give the environments a repository of their own.")
    if not completed.ok:
        raise DamagedError("its history cannot be read")
    return completed.stdout


def _blobs(log: bytes) -> dict[bytes, float]:
    """Given the log, return the earliest date at which each file's content was made, by its object id."""
    found: dict[bytes, float] = {}
    at = 0.0
    for field in log.split(b"\0"):
        text = field.lstrip(b"\n")
        if moment := _MOMENT.fullmatch(text):
            at = float(moment[1])
        elif (made := _MADE.fullmatch(text)) and made[1] != _NOTHING:
            found[made[1]] = min(at, found.get(made[1], at))
    return found


def _portions(sizes: bytes) -> Iterator[list[bytes]]:
    """The files to read at a time; none that is too large to be a source of ours, and no submodule."""
    portion: list[bytes] = []
    total = 0
    for line in sizes.splitlines():
        name, kind, size = [*line.split(), b"", b""][:3]
        if kind != b"blob" or int(size) > LARGEST_OBJECT:
            continue
        portion.append(name)
        total += int(size)
        if total > AT_ONCE:
            yield portion
            portion, total = [], 0
    if portion:
        yield portion


def _take_in(files: bytes, blobs: Mapping[bytes, float], found: dict[str, float]) -> None:
    """Note for every iv in the files, as ``git cat-file --batch`` printed them, when it was first there."""
    position = 0
    while (end := files.find(b"\n", position)) >= 0:
        name, _, size = files[position:end].split()
        at, start = blobs[name], end + 1
        position = start + int(size) + 1
        for iv in ivs(files[start : position - 1]):
            if at < found.get(iv, float("inf")):
                found[iv] = at
