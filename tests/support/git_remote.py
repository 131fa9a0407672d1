"""A bare repository to fetch from and push to, changed with the real git and none of the person's own settings."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.support.commands import output

AUTHOR = "Ada Example <ada@example.org>"
COMMIT = re.compile(r"[0-9a-f]{40}")
FILE, EXECUTABLE, LINK, SUBMODULE = "100644", "100755", "120000", "160000"


@dataclass(frozen=True, slots=True)
class GitRemote:
    """``path`` is the bare repository; its branch is main unless a method gets another."""

    path: Path

    @property
    def url(self) -> str:
        """As a server's config names it: an absolute local path."""
        return str(self.path)

    def git(self, *arguments: str, stdin: bytes | None = None, env: Mapping[str, str] | None = None) -> str:
        """Run git in the repository and return what it printed, stripped. Raises CommandFailed."""
        everything = {**_environment(self.path), **(env or {})}
        return output("git", "-C", self.path, *arguments, stdin=stdin, env=everything).decode().strip()

    def head(self, branch: str = "main") -> str:
        """The branch's commit id. Raises CommandFailed if there is no such branch."""
        return self._tip(branch) or self.git("rev-parse", "--verify", f"refs/heads/{branch}")

    def read(self, path: str, revision: str = "main") -> bytes:
        """The file's bytes at the revision. Raises CommandFailed if it is not there."""
        return output("git", "-C", self.path, "cat-file", "blob", f"{revision}:{path}", env=_environment(self.path))

    def commit(
        self,
        files: Mapping[str, bytes | None],
        message: str = "Change",
        *,
        author: str = AUTHOR,
        branch: str = "main",
        modes: Mapping[str, str] | None = None,
        signing_key: Path | None = None,
    ) -> str:
        """Write or (None) delete files on the branch and return the new commit's id.

        ``modes`` makes some of them executable, links (their data is where to) or submodules (a commit id).
        ``signing_key`` is an SSH private key.
        """
        parent = self._tip(branch)
        self.git("fast-import", "--quiet", stdin=_stream(files, message, author, branch, parent, modes or {}))
        return self.head(branch) if signing_key is None else self._sign(branch, parent, message, author, signing_key)

    def revert(self, commit: str, *, branch: str = "main") -> str:
        """``git revert`` on the branch (a merge: against its first parent); return the new commit's id."""
        parents = self.git("rev-list", "--parents", "-1", commit).split()[1:]
        mainline = ("-m", "1") if len(parents) > 1 else ()
        return self._in_worktree(branch, "revert", "--no-edit", *mainline, commit)

    def merge(
        self, merged: str, message: str = "Merge", *, branch: str = "main", signing_key: Path | None = None
    ) -> str:
        """Merge the branch or commit ``other`` into the branch, always with a merge commit; return its id."""
        sign = () if signing_key is None else ("-S",)
        return self._in_worktree(branch, *_signing(signing_key), "merge", "--no-ff", *sign, "-m", message, merged)

    def put(self, commit: str, *, branch: str = "main") -> str:
        """Make an object of the commit's text, as it is, and the branch's head; return its id."""
        made = self.git("hash-object", "-t", "commit", "-w", "--stdin", stdin=commit.encode())
        self.make_branch(branch, made)
        return made

    def hook(self, name: str, script: str) -> None:
        """Have the server run a shell script, in its repository, at git's hook ``name``."""
        hooks = self.path / "hooks"
        hooks.mkdir(exist_ok=True)
        (hooks / name).write_text(f"#!/bin/sh\n{script}\n")
        (hooks / name).chmod(0o755)

    def make_branch(self, name: str, at: str = "main") -> None:
        """Create the branch, or move it there, fast-forward or not."""
        self.git("update-ref", f"refs/heads/{name}", f"{at}^{{commit}}")

    def log(self, branch: str = "main") -> list[str]:
        """Commit ids, newest first."""
        return self.git("rev-list", branch).split()

    def _tip(self, branch: str) -> str | None:
        """The branch's commit id. Looked for where git keeps it, as each git costs a third of a commit."""
        with contextlib.suppress(OSError):
            if COMMIT.fullmatch(tip := (self.path / "refs" / "heads" / branch).read_text().strip()):
                return tip
        if not (self.path / "packed-refs").exists():
            return None
        return self.git("for-each-ref", "--format=%(objectname)", f"refs/heads/{branch}") or None

    def _sign(self, branch: str, parent: str | None, message: str, author: str, key: Path) -> str:
        parents = () if parent is None else ("-p", parent)
        arguments = (*parents, "-m", message, f"refs/heads/{branch}^{{tree}}")
        commit = self.git(*_signing(key), "commit-tree", "-S", *arguments, env=_identity(author))
        self.git("update-ref", f"refs/heads/{branch}", commit)
        return commit

    def _in_worktree(self, branch: str, *command: str) -> str:
        with tempfile.TemporaryDirectory(dir=self.path.parent) as directory:
            self.git("worktree", "add", "--quiet", "--detach", f"{directory}/tree", branch)
            try:
                self.git("-C", f"{directory}/tree", *command)
                self.git("update-ref", f"refs/heads/{branch}", self.git("-C", f"{directory}/tree", "rev-parse", "HEAD"))
            finally:
                self.git("worktree", "remove", "--force", f"{directory}/tree")
        return self.head(branch)


def make_git_remote(path: Path) -> GitRemote:
    """An empty bare repository at ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(_empty_repository().name, path)
    return GitRemote(path)


@functools.cache
def _empty_repository() -> tempfile.TemporaryDirectory[str]:
    """What git makes of an empty directory, once for all."""
    directory = tempfile.TemporaryDirectory(prefix="rct-git-")
    GitRemote(Path(directory.name)).git("init", "--quiet", "--bare", "--initial-branch=main", "--template=", ".")
    return directory


def make_ssh_key(path: Path) -> Path:
    """A new key pair without a passphrase: ``path`` and ``path``.pub."""
    output("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", path.name, "-f", path)
    return path


def _signing(key: Path | None) -> tuple[str, ...]:
    return () if key is None else ("-c", "gpg.format=ssh", "-c", f"user.signingKey={key}")


def _environment(path: Path) -> dict[str, str]:
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(path.parent),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_TERMINAL_PROMPT": "0",
        **_identity(AUTHOR),
    }


def _identity(author: str) -> dict[str, str]:
    """Given "Name <mail>", the variables that make git author and commit as that person."""
    name, _, mail = author.removesuffix(">").partition(" <")
    return {"GIT_AUTHOR_NAME": name, "GIT_AUTHOR_EMAIL": mail, "GIT_COMMITTER_NAME": name, "GIT_COMMITTER_EMAIL": mail}


def _stream(
    files: Mapping[str, bytes | None],
    message: str,
    author: str,
    branch: str,
    parent: str | None,
    modes: Mapping[str, str],
) -> bytes:
    """One commit in git fast-import's language: a single process for any number of files."""
    parts = [f"commit refs/heads/{branch}\ncommitter {author} {int(time.time())} +0000\n".encode()]
    parts.append(_data(message.encode()))
    if parent is not None:
        parts.append(f"from {parent}\n".encode())
    for path, data in files.items():
        mode = modes.get(path, FILE)
        if data is None:
            parts.append(f"D {_quoted(path)}\n".encode())
        elif mode == SUBMODULE:
            parts.append(f"M {mode} {data.decode()} {_quoted(path)}\n".encode())
        else:
            parts.append(f"M {mode} inline {_quoted(path)}\n".encode() + _data(data))
    return b"".join(parts)


def _data(data: bytes) -> bytes:
    return b"data %d\n%s\n" % (len(data), data)


def _quoted(path: str) -> str:
    escaped = path.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
