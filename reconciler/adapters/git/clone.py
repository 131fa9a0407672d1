"""Reads commits of the clone that a person or a CI job works in. Four short git processes, nothing is changed.

Git is told where the repository is, with nobody's settings: no hook, filter, textconv or alias can act, and a clone
that another user owns (as in a CI container) can be read, since only objects are.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence

from reconciler.adapters import process
from reconciler.adapters.git.command import git_environment, sanitized
from reconciler.adapters.git.objects import LFS_POINTERS, DamagedError, RefusedObject, parse_batch
from reconciler.core.errors import OutsideError, RefusedError
from reconciler.core.model.revisions import Blob
from reconciler.core.tree import MAX_FILES, MAX_TOTAL, Tree

_TIMEOUT = 60.0
_LIST = 64 * process.MIB
_ENTRY = re.compile(rb"([0-7]{6}) (blob|commit|tree) ([0-9a-f]{40})\t(.+)", re.DOTALL)
_REVISION = re.compile(r"(?!-)[^\x00-\x20\x7f~^:?*\[\\]+(?:[~^][0-9]*)*")
_FILES = ("100644", "100755")
_ODD = {"120000": "a symbolic link", "160000": "a submodule"}


class Clone:
    """The repository around ``directory``. Raises RefusedError where there is none."""

    def __init__(self, directory: str) -> None:
        self.top, git_dir = _find(os.path.realpath(directory))
        self.bare = self.top == git_dir
        self._env = git_environment(
            url="", git_dir=git_dir, ssh_command=None, token_file=None, inherited=os.environ
        ) | {
            "GIT_ALLOW_PROTOCOL": "none",
            "GIT_OPTIONAL_LOCKS": "0",
        }

    async def resolve(self, base: str, head: str, *, from_fork_point: bool) -> tuple[str, str]:
        """The commit ids of two revisions as git names them; ``from_fork_point`` takes the first where they forked.

        Raises RefusedError for one that is not there.
        """
        for name in (base, head):
            if not _REVISION.fullmatch(name):
                raise RefusedError(
                    f"{sanitized(name)!r} is no revision", hint="Write BASE..HEAD, such as origin/main..HEAD"
                )
        asked = f"{base}^{{commit}}\n{head}^{{commit}}\n".encode()
        lines = (await self._git("cat-file", "--batch-check=%(objectname)", stdin=asked)).decode().splitlines()
        found = []
        for name, line in zip((base, head), lines, strict=True):
            if not re.fullmatch("[0-9a-f]{40}", line):
                hint = "Fetch it; a shallow clone of CI needs its history (fetch-depth: 0, or GIT_DEPTH: 0)"
                raise RefusedError(f"there is no commit {sanitized(name)}", where=self.top, hint=hint)
            found.append(line)
        if from_fork_point:
            found[0] = await self._fork_point(found[0], found[1])
        return found[0], found[1]

    async def _fork_point(self, base: str, head: str) -> str:
        try:
            return (await self._git("merge-base", base, head)).decode().strip()
        except OutsideError:  # it fails without a word where there is none
            hint = "A shallow clone of CI needs its history (fetch-depth: 0, or GIT_DEPTH: 0); else compare BASE..HEAD"
            raise RefusedError("the two have no common ancestor", where=self.top, hint=hint) from None

    async def trees(self, commits: Sequence[str], path: str) -> list[Tree]:
        """Per commit what lies below ``path`` ("" for all of it); a file that several have is read once.

        Raises RefusedError for more than MAX_FILES or MAX_TOTAL.
        """
        listings = [await self._list(commit, path) for commit in commits]
        wanted = {blob for listing in listings for mode, blob in listing.values() if mode in _FILES}
        blobs = await self._blobs(wanted)
        return [_tree(listing, blobs) for listing in listings]

    async def read(self, commit: str, path: str) -> bytes | None:
        """The regular file at ``path``, None where there is none."""
        output = await self._git("--literal-pathspecs", "ls-tree", "-z", "--full-tree", commit, "--", path)
        match = _ENTRY.fullmatch(output.rstrip(b"\0"))
        if match is None or match[1].decode() not in _FILES:
            return None
        blob = (await self._blobs([match[3].decode()])).get(match[3].decode())
        return blob if isinstance(blob, bytes) else None

    async def _list(self, commit: str, path: str) -> dict[str, tuple[str, str]]:
        """Each path relative to ``path`` → (mode, object id)."""
        output = await self._git("ls-tree", "-r", "-z", "--full-tree", commit, "--", *([f"{path}/"] if path else []))
        found = {}
        for record in output.split(b"\0"):
            if match := _ENTRY.fullmatch(record):
                name = match[4].decode("utf-8", "backslashreplace")
                found[name.removeprefix(f"{path}/") if path else name] = (match[1].decode(), match[3].decode())
        if len(found) > MAX_FILES:
            raise RefusedError(f"there are more than {MAX_FILES} files", where=path, hint="Name a directory: --path")
        return found

    async def _blobs(self, ids: Iterable[str]) -> dict[str, bytes | str]:
        """Each blob's bytes, or why they are not used."""
        asked = "".join(f"{one}\n" for one in sorted(ids)).encode()
        if not asked:
            return {}
        try:
            objects = parse_batch(await self._git("cat-file", "--batch", stdin=asked, most=MAX_TOTAL))
        except DamagedError as error:
            raise OutsideError(f"the clone is damaged: {error}", where=self.top, hint="`git fsck` tells more") from None
        found: dict[str, bytes | str] = {}
        for identity, one in objects.items():
            if isinstance(one, Blob):
                found[identity] = "a Git LFS pointer" if one.data.startswith(LFS_POINTERS) else one.data
            elif isinstance(one, RefusedObject):
                found[identity] = f"not usable: {one.reason}"
        return found

    async def _git(self, *arguments: str, stdin: bytes | None = None, most: int = _LIST) -> bytes:
        limits = process.Limits(timeout=_TIMEOUT, stdout=most)
        try:
            done = await process.run(["git", *arguments], env=self._env, limits=limits, stdin=stdin, cwd=self.top)
        except process.MissingProgramError:
            raise OutsideError("git is not installed", hint="`apt-get install git`") from None
        if done.overflowed:
            raise RefusedError(f"there is more than {most // process.MIB} MiB", where=self.top, hint="See --path")
        if not done.ok:
            what = f"`git {arguments[0]}` failed" + (" (it did not end in time)" if done.timed_out else "")
            told = (
                sanitized(done.stderr.decode(errors="replace").strip().splitlines()[-1]) if done.stderr.strip() else ""
            )
            raise OutsideError(f"{what}{': ' if told else ''}{told}", where=self.top, hint="`git fsck` may tell more")
        return done.stdout


def _find(directory: str) -> tuple[str, str]:
    """The top of the working directory around ``directory``, and its git directory, without asking git."""
    path = directory
    while True:
        git = os.path.join(path, ".git")
        if os.path.isdir(git):
            return path, git
        if os.path.isfile(git):  # a worktree or submodule
            with open(git, "rb") as file:
                line = file.read(4096).decode("utf-8", "surrogateescape")
            if line.startswith("gitdir: "):
                return path, os.path.join(path, line.removeprefix("gitdir: ").rstrip("\r\n"))
        if os.path.isfile(os.path.join(path, "HEAD")) and os.path.isdir(os.path.join(path, "objects")):
            return path, path  # bare
        path, child = os.path.dirname(path), path
        if path == child:
            hint = "Run it in a clone of the configuration repository; `git init` makes a new one"
            raise RefusedError("is in no git repository", where=directory, hint=hint)


def _tree(listing: dict[str, tuple[str, str]], blobs: dict[str, bytes | str]) -> Tree:
    files: dict[str, bytes] = {}
    odd: dict[str, str] = {}
    for path, (mode, blob) in listing.items():
        data = blobs.get(blob, "missing in this clone") if mode in _FILES else _ODD.get(mode, "not a file")
        if isinstance(data, bytes):
            files[path] = data
        else:
            odd[path] = data
    return Tree(files, odd)
