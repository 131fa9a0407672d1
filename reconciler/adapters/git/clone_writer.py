"""Commits to a user's clone, as that user, on a new branch. The work tree and the index stay unchanged.

Everything goes through a separate index in a private directory, standard input and files in memory: nothing is checked
out, no filter of .gitattributes changes a byte, and no commit hook runs.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Mapping, Sequence

from reconciler.adapters import process
from reconciler.adapters.git.command import check_url, sanitized
from reconciler.adapters.memory_file import in_memory
from reconciler.core.errors import ConfigError, OutsideError, RefusedError
from reconciler.core.text import listed

_LIMITS = process.Limits(timeout=60.0, stdout=64 * process.MIB)
_REGULAR = "100644"
_EXECUTABLE = "100755"
# Of the user's environment: where git finds their settings, and the agents that sign.
_KEPT = frozenset(
    (
        "PATH",
        "HOME",
        "XDG_CONFIG_HOME",
        "XDG_RUNTIME_DIR",
        "USER",
        "LOGNAME",
        "EMAIL",
        "SSH_AUTH_SOCK",
        "GNUPGHOME",
        "GPG_TTY",
    )
)
_PERSONAL = ("GIT_AUTHOR_", "GIT_COMMITTER_", "GIT_CONFIG_")
_NOTHING = "0" * 40
_BLOBS = 200  # descriptors at a time
_UNFINISHED = "refs/reconciler/unfinished"
_SHORTHAND = re.compile(r"([\w.-]+@[\w.-]+):(?!//)(.+)")  # git@host:path


class CloneWriter:
    """The repository whose working tree begins at ``top``."""

    def __init__(self, top: str) -> None:
        self.top = top
        # The user's settings decide who commits and how that is signed; we decide where the repository is.
        self._environment = {
            name: value for name, value in os.environ.items() if name in _KEPT or name.startswith(_PERSONAL)
        } | {"LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0"}

    async def head(self) -> str | None:
        """The commit that is checked out; None before the first one."""
        done = await self._ask("rev-parse", "--verify", "--quiet", "HEAD^{commit}")
        return done.stdout.decode().strip() or None

    async def latest_with(self, line: str, head: str | None) -> str | None:
        """The latest commit up to ``head`` with this line in its message."""
        if head is None:
            return None
        pattern = f"--grep=^{re.escape(line)}$"
        done = await self._ask("log", "-1", "--format=%H", "--extended-regexp", pattern, head)
        return done.stdout.decode().strip() or None

    async def origin(self) -> str:
        """The URL of the remote ``origin`` in the form of the server configuration, "" where none fits."""
        url = (await self._ask("config", "--get", "remote.origin.url")).stdout.decode(errors="replace").strip()
        if shorthand := _SHORTHAND.fullmatch(url):
            url = f"ssh://{shorthand[1]}/{shorthand[2].lstrip('/')}"
        try:
            check_url(url)
        except ConfigError:  # it may contain a token
            return ""
        return url

    async def current_branch(self) -> str:
        """The branch that is checked out; "" where none is."""
        return (await self._ask("symbolic-ref", "--quiet", "--short", "HEAD")).stdout.decode(errors="replace").strip()

    async def setting(self, name: str) -> str:
        """A setting of git's for this clone, "" where there is none."""
        return (await self._ask("config", "--get", name)).stdout.decode(errors="replace").strip()

    async def has_branch(self, branch: str) -> bool:
        return (await self._ask("show-ref", "--verify", "--quiet", f"refs/heads/{branch}")).ok

    async def uncommitted(self, paths: Sequence[str]) -> tuple[str, ...]:
        """What is changed, staged or untracked at and below these paths of the repository."""
        status = await self._git(
            "--literal-pathspecs",
            "status",
            "--porcelain=v1",
            "-z",
            "--untracked-files=all",
            "--no-renames",
            "--",
            *paths,
        )
        return tuple(sorted(record[3:].decode("utf-8", "replace") for record in status.split(b"\0") if record))

    async def require_room(self, branch: str, paths: Sequence[str]) -> None:
        """Raises RefusedError where one of the paths is not committed as it is, or the branch exists."""
        if changed := await self.uncommitted(paths):
            hint = "Commit or undo that first: the change starts from the last commit"
            raise RefusedError(f"not committed: {listed(changed)}", where="working tree", hint=hint)
        if await self.has_branch(branch):
            hint = "Merge it, or remove it with `git branch -D`"
            raise RefusedError(f"the branch {branch} exists", where=self.top, hint=hint)

    async def commit(
        self, base: str | None, files: Mapping[str, bytes | None], message: str, *, signed: bool = True
    ) -> str:
        """The id of a new commit on top of ``base`` with these files (path → content, None to delete it).

        Nothing refers to it yet. It is ``signed`` where the user signs commits. Raises RefusedError where the user has
        no name set, or cannot sign.
        """
        with tempfile.TemporaryDirectory(prefix="reconciler-") as directory:
            index = {"GIT_INDEX_FILE": os.path.join(directory, "index")}
            await self._git("read-tree", *([base] if base else ["--empty"]), more=index)
            listing = await self._git("ls-files", "--stage", "-z", more=index)
            executable = {
                row.partition(b"\t")[2] for row in listing.split(b"\0") if row.startswith(_EXECUTABLE.encode())
            }
            contents = {path: data for path, data in files.items() if data is not None}
            blobs = dict(zip(contents, await self._blobs([*contents.values()]), strict=True))
            lines = b""
            for path in files:
                mode = "0" if path not in blobs else _EXECUTABLE if os.fsencode(path) in executable else _REGULAR
                lines += f"{mode} {blobs.get(path, _NOTHING)}\t{path}\0".encode()
            await self._git("update-index", "-z", "--index-info", stdin=lines, more=index)
            tree = (await self._git("write-tree", more=index)).decode().strip()
        return await self._commit_tree(tree, base, message, signed=signed)

    async def _blobs(self, contents: Sequence[bytes]) -> list[str]:
        """The ids of new blobs, in order; a process makes many of them."""
        ids: list[str] = []
        for start in range(0, len(contents), _BLOBS):
            with contextlib.ExitStack() as stack:
                files = [stack.enter_context(in_memory(data)) for data in contents[start : start + _BLOBS]]
                names = "".join(f"{file.path}\n" for file in files).encode()
                arguments = ("hash-object", "-w", "--no-filters", "--stdin-paths")
                ids += (await self._git(*arguments, stdin=names)).decode().split()
        return ids

    async def _commit_tree(self, tree: str, base: str | None, message: str, *, signed: bool) -> str:
        signs = (
            signed and (await self._ask("config", "--type=bool", "--get", "commit.gpgSign")).stdout.strip() == b"true"
        )
        arguments = [*(["-S"] if signs else []), *(["-p", base] if base else []), "-F", "-", tree]
        done = await self._ask("commit-tree", *arguments, stdin=message.encode())
        if not done.ok:
            hint = 'Tell git who you are: `git config --global user.name "…"` and user.email'
            hint += ", or see why signing fails: `git commit --allow-empty`" if signs else ""
            raise RefusedError(f"git cannot commit{_said(done)}", where=self.top, hint=hint)
        return done.stdout.decode().strip()

    async def is_replaceable(self, branch: str, commit: str | None) -> bool:
        """Whether ``commit`` contains everything of the branch, and no working tree has it checked out."""
        reference = f"refs/heads/{branch}"
        if commit is None or not (await self._ask("merge-base", "--is-ancestor", reference, commit)).ok:
            return False
        return not (await self._git("for-each-ref", "--format=%(worktreepath)", reference)).strip()

    async def make_branch(self, branch: str, commit: str, merged_into: str | None) -> None:
        """Raises RefusedError where the branch exists, unless it ``is_replaceable``."""
        before = _NOTHING
        if await self.is_replaceable(branch, merged_into):
            before = (await self._git("rev-parse", "--verify", f"refs/heads/{branch}")).decode().strip()
        done = await self._ask("update-ref", f"refs/heads/{branch}", commit, before)
        if not done.ok:
            hint = "Merge it, or remove it with `git branch -D`"
            raise RefusedError(f"the branch {branch} cannot be created{_said(done)}", where=self.top, hint=hint)

    async def remove_branch(self, branch: str, commit: str) -> None:
        """Remove the branch if it still is at the commit."""
        await self._git("update-ref", "-d", f"refs/heads/{branch}", commit)

    async def unfinished(self, name: str) -> str | None:
        """The commit of unfinished work that ``keep_unfinished`` has kept."""
        done = await self._ask("rev-parse", "--verify", "--quiet", f"{_UNFINISHED}/{name}^{{commit}}")
        return done.stdout.decode().strip() or None

    async def keep_unfinished(self, name: str, commit: str | None) -> None:
        """Keep a commit on no branch, to continue from it after an interruption; None: forget it."""
        reference = f"{_UNFINISHED}/{name}"
        await self._git("update-ref", *([reference, commit] if commit else ["-d", reference]))

    async def _git(self, *arguments: str, stdin: bytes | None = None, more: Mapping[str, str] | None = None) -> bytes:
        done = await self._ask(*arguments, stdin=stdin, more=more)
        if not done.ok:
            raise OutsideError(f"`git {arguments[0]}` failed{_said(done)}", where=self.top, hint="See `git status`")
        return done.stdout

    async def _ask(
        self, *arguments: str, stdin: bytes | None = None, more: Mapping[str, str] | None = None
    ) -> process.Completed:
        env = {**self._environment, **(more or {})}
        try:
            return await process.run(["git", *arguments], env=env, limits=_LIMITS, stdin=stdin, cwd=self.top)
        except process.MissingProgramError:
            raise OutsideError("git is not installed", hint="`apt-get install git`") from None


def _said(done: process.Completed) -> str:
    """git's own last line. What it is given is ciphertext, or plain for everybody."""
    if done.timed_out:
        return " (it did not end in time)"
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    return f" ({sanitized(lines[-1])})" if lines else ""
