"""When each encrypted value of a directory first appeared in git, from its whole history and without a key.

A value keeps its iv until it is rewritten, even when ``sops rotate`` re-encrypts all of them. So the age of a value is
that of the oldest commit whose files contain its iv, in whichever file: renaming a file, merging a branch, removing and
restoring a value, or reverting to an older one makes no secret younger.

Three processes, whatever the length of the history: ``git log`` lists the files each commit wrote, ``git cat-file``
their sizes, and then their contents.
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

    Raises DamagedError for a mirror that cannot be read, GitUnreachableError where git does not finish in time,
    RefusedError for a history that is too long.
    """
    log = await _ask(git, log_command(commit, since, directory), LOG)
    blobs = await asyncio.to_thread(blobs_of_log, log)
    sizes = await _ask(git, ["git", "cat-file", "--batch-check"], LOG, blobs)
    first_seen: dict[str, float] = {}
    for portion in portions(sizes):
        room = AT_ONCE + LARGEST_OBJECT + len(portion) * process.KIB
        files = await _ask(git, ["git", "cat-file", "--batch"], room, portion)
        await asyncio.to_thread(take_in, files, blobs, first_seen)
    return first_seen


async def _ask(
    git: GitRunner, argv: Sequence[str], stdout: int, names: Sequence[bytes] | Mapping[bytes, float] = ()
) -> bytes:
    stdin = b"".join(name + b"\n" for name in names)
    completed = await git.run(argv, stdin=stdin, stdout=stdout, seconds=SECONDS)
    if completed.timed_out:
        git.raise_failure(completed, SECONDS)
    if completed.overflowed:
        problem = f"the history of the environments is too long to read (over {stdout // process.MIB} MiB)"
        raise RefusedError(problem, where=git.where, hint="Give the environments a repository of their own.")
    if not completed.ok:
        raise DamagedError("its history cannot be read")
    return completed.stdout


def blobs_of_log(log: bytes) -> dict[bytes, float]:
    """Given the log, return the earliest date at which each file content was written, by object id."""
    earliest: dict[bytes, float] = {}
    at = 0.0
    for field in log.split(b"\0"):
        text = field.lstrip(b"\n")
        if moment := _MOMENT.fullmatch(text):
            at = float(moment[1])
        elif (made := _MADE.fullmatch(text)) and made[1] != _NOTHING:
            earliest[made[1]] = min(at, earliest.get(made[1], at))
    return earliest


def portions(sizes: bytes) -> Iterator[list[bytes]]:
    """Groups of files to read together, without submodules and files too large to be one of our sources."""
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


def take_in(files: bytes, blobs: Mapping[bytes, float], first_seen: dict[str, float], *, holding: bytes = b"") -> None:
    """Record when each iv in the files, as ``git cat-file --batch`` printed them, first appeared; of those files only
    that hold some bytes."""
    position = 0
    while (end := files.find(b"\n", position)) >= 0:
        name, _, size = files[position:end].split()
        at, start = blobs[name], end + 1
        position = start + int(size) + 1
        data = files[start : position - 1]
        for iv in ivs(data) if holding in data else ():
            if at < first_seen.get(iv, float("inf")):
                first_seen[iv] = at
