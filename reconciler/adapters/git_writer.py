"""Reverts commits on the remote's branch: fast-forward only, never forced, never anything that was not asked for.

The revert is made in a throw-away repository below the state directory, which reads the mirror's objects and writes
its own. So the mirror goes on holding packs only and no worktree is registered in it; what a killed daemon leaves
behind is one directory. It is git's own ``git revert``, with three differences, all measured with git 2.39:

- The work tree is sparse and stays empty: no file of the repository is checked out, so no link, submodule or LFS
  pointer of it can act. In a conflict git writes the files concerned, ciphertext, and they go with the directory.
- ``info/attributes`` overrules the repository's .gitattributes: no filter, merge driver or conversion. Without it a
  ``text=auto`` over a file with CRLF makes git see local changes, and refuse.
- Renames are not followed. Env files resemble each other, and a change would go into another environment's file.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace

from reconciler.adapters import process
from reconciler.adapters.git import GitMirror
from reconciler.adapters.git_command import (
    LARGEST_OBJECT,
    OWN_REVERT,
    ROLLBACK_HOST,
    ROLLBACK_RUN,
    check_branch,
    check_commit,
    check_path,
    identity,
    plain,
    push,
    revert_message,
    rollback_branch,
)
from reconciler.adapters.git_runner import QUICK, GitRunner
from reconciler.adapters.git_trouble import means_refused, refusing_line, telling_line
from reconciler.core.errors import ConfigError, RevertRefusedError, SignaturesUnavailableError
from reconciler.core.model import GitRevert, Reverted, RevertOrder, RevertState

ATTEMPTS = 5  # how often the branch may move while the revert is made
MOST_COMMITS = 50  # in one revert; more than that a person should look at
SUBJECT = 150  # characters of one in a message
MOST_PATHS = 5  # of a conflict, in a message
PREFIX = "revert-"  # of the throw-away directory
ATTRIBUTES = "* -text -ident !eol !filter !merge !diff !working-tree-encoding !conflict-marker-size\n"
SETTINGS = {
    "core.sparseCheckout": "true",
    "core.sparseCheckoutCone": "false",
    "merge.renames": "false",
    "merge.directoryRenames": "false",
    "rerere.enabled": "false",
    "commit.gpgSign": "false",
    "advice.detachedHead": "false",
}
_BY_HAND = "Revert it by hand (git revert), or push a corrected revision."


@dataclass(frozen=True, slots=True)
class Described:
    """A commit: its id, its subject fit for a message, and what asked for it if it is a revert of ours."""

    id: str
    subject: str
    host: str
    run: str

    @property
    def named(self) -> str:
        return f"{self.id[:12]} ({self.subject})"

    def is_of(self, order: RevertOrder) -> bool:
        return (self.host, self.run) == (order.host, order.run)


class GitPusher:
    """The ``GitWriter`` port, for the branch of ``mirror``.

    ``author`` ("Name <mail>") makes the commits. ``push_key_file`` is used instead of the mirror's key to push over
    ssh. With ``signing_key_file``, an SSH key without a passphrase, the commits are signed. ``push_timeout`` in
    seconds. Raises ConfigError for an author who is none.
    """

    def __init__(
        self,
        mirror: GitMirror,
        *,
        author: str,
        push_key_file: str | None = None,
        signing_key_file: str | None = None,
        push_timeout: float = 120.0,
    ) -> None:
        self.mirror = mirror
        self._identity = identity(author)
        self._signing_key = signing_key_file
        self._push_timeout = push_timeout
        self._pushing = mirror.git
        if push_key_file and mirror.git.key_file:
            self._pushing = replace(mirror.git, key_file=push_key_file, key_field="rollback.ssh_key_file")

    async def revert(self, order: RevertOrder, mode: GitRevert) -> Reverted:
        _check(order, mode)
        self._pushing.require_files()
        for _ in range(ATTEMPTS):
            async with self.mirror.latest() as head:
                with self._scratch() as directory:
                    attempt = _Attempt(self, await self._repository(directory), order, head)
                    if done := await attempt.run(mode):
                        return done
        raise self.mirror.git.unreachable(
            f"the branch moved {ATTEMPTS} times while the revert was made", "Nothing was pushed."
        )

    @contextlib.contextmanager
    def _scratch(self) -> Iterator[str]:
        """An empty directory for us only. The mirror's lock is held, so any other was left by a killed daemon."""
        state_dir = self.mirror.git.state_dir
        for name in os.listdir(state_dir):
            if name.startswith(PREFIX):
                shutil.rmtree(os.path.join(state_dir, name), ignore_errors=True)
        directory = tempfile.mkdtemp(prefix=PREFIX, dir=state_dir)
        try:
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    async def _repository(self, directory: str) -> _Repository:
        git_dir, tree = os.path.join(directory, "git"), os.path.join(directory, "tree")
        runner = replace(self.mirror.git, git_dir=git_dir)
        made = await runner.run(["git", "init", "--quiet", "--bare", "--template=", "--object-format=sha1", git_dir])
        if not made.ok:
            runner.raise_failure(made, QUICK)
        _furnish(git_dir, os.path.join(self.mirror.git.git_dir, "objects"))
        os.mkdir(tree)
        return _Repository(runner, tree, self._identity, self._signing_key)

    async def push(self, repository: _Repository, commit: str, ref: str, expected: str | None) -> bool:
        """Push ``commit`` to ``ref``, which was at ``expected`` (None: was not there). False if it has moved.

        Raises RevertRefusedError, GitUnreachableError.
        """
        runner = replace(self._pushing, git_dir=repository.runner.git_dir)
        completed = await runner.run(push(runner.url, commit, ref), seconds=self._push_timeout, stderr=process.MIB)
        if completed.ok:
            return True
        stderr = completed.stderr.decode(errors="replace")
        rejected = any(line.startswith(b"!") for line in completed.stdout.splitlines())
        if completed.timed_out or not (rejected or means_refused(stderr)):
            runner.raise_failure(completed, self._push_timeout)
        if (await self.mirror.refs(ref)).get(ref) != expected:
            return False
        line = refusing_line(completed.stdout.decode(errors="replace"), stderr, runner.token())
        key = f"the key {runner.key_file}" if runner.key_file else "this server"
        raise RevertRefusedError(
            f"the remote does not let us push to {ref.removeprefix('refs/heads/')}: {line}",
            where=runner.where,
            hint=f"Allow {key} to push there, or set rollback.git: branch. Until then revert by hand.",
        )


@dataclass(frozen=True, slots=True)
class _Repository:
    """The throw-away repository: its own objects and HEAD, the mirror's objects below, and an empty work tree."""

    runner: GitRunner
    tree: str
    identity: dict[str, str]
    signing_key: str | None

    async def ask(self, *arguments: str, stdin: bytes | None = None) -> process.Completed:
        variables = {"GIT_WORK_TREE": self.tree, **self.identity}
        return await self.runner.run(
            ["git", "--literal-pathspecs", *arguments],
            stdin=stdin,
            stdout=LARGEST_OBJECT,
            settings=SETTINGS,
            variables=variables,
        )

    async def git(self, *arguments: str, stdin: bytes | None = None) -> str:
        """What git printed, stripped. Raises GitUnreachableError where it failed."""
        completed = await self.ask(*arguments, stdin=stdin)
        if not completed.ok:
            self.runner.raise_failure(completed, QUICK)
        return completed.stdout.decode(errors="replace").strip()

    async def subtree(self, commit: str, directory: str) -> str:
        """The id of the directory's tree in the commit, "" where it is not there."""
        completed = await self.ask("rev-parse", "--verify", "--quiet", f"{commit}:{directory}")
        return completed.stdout.decode().strip() if completed.ok else ""

    async def descends(self, commit: str, ancestor: str) -> bool:
        """Whether ``commit`` descends from ``ancestor``; not if one of the two is unknown."""
        return (await self.ask("merge-base", "--is-ancestor", ancestor, commit)).ok

    async def describe(self, commit: str) -> Described:
        trailers = (f"%(trailers:key={key},valueonly,separator=%x20)" for key in (ROLLBACK_HOST, ROLLBACK_RUN))
        form = "%x00".join(("%<(400,trunc)%s", *trailers))  # a subject may have megabytes
        subject, host, run = (await self.git("log", "-1", "--no-notes", f"--format={form}", commit)).split("\0")[:3]
        return Described(commit, plain(subject.strip(), SUBJECT), host.strip(), run.strip())

    async def parents(self, commit: str) -> list[str]:
        return (await self.git("rev-list", "--parents", "--max-count=1", commit)).split()[1:]

    async def commit(self, parent: str, tree: str, message: str) -> str:
        """The id of a new commit. Raises SignaturesUnavailableError where it cannot be signed."""
        sign = []
        settings = dict(SETTINGS)
        if self.signing_key:
            sign = ["-S"]
            settings |= {"gpg.format": "ssh", "user.signingKey": self.signing_key}
        argv = ["git", "commit-tree", *sign, "-p", parent, "-F", "-", tree]
        completed = await self.runner.run(argv, stdin=message.encode(), settings=settings, variables=self.identity)
        if not completed.ok and self.signing_key:
            said = telling_line(completed.stderr.decode(errors="replace")) or "no reason given"
            raise SignaturesUnavailableError(
                f"the revert cannot be signed with {self.signing_key} ({said})",
                where=self.runner.where,
                hint="Check that rollback.signing_key_file is an SSH key without a passphrase that the daemon's user "
                "alone may read, and that ssh-keygen is installed. It is tried again.",
            )
        if not completed.ok:
            self.runner.raise_failure(completed, QUICK)
        return completed.stdout.decode().strip()


@dataclass(frozen=True, slots=True)
class _Attempt:
    """One try, on the branch's head as it was a moment ago."""

    pusher: GitPusher
    repository: _Repository
    order: RevertOrder
    head: str

    async def run(self, mode: GitRevert) -> Reverted | None:
        """None where the branch moved meanwhile."""
        order, repository = self.order, self.repository
        if not await repository.descends(order.failed, order.good):
            raise self._refused(
                f"{order.good[:12]}, the last good revision, is not part of the failed one's history", _BY_HAND
            )
        failed = await repository.subtree(order.failed, order.directory)
        if await repository.subtree(self.head, order.directory) != failed:
            return await self._overtaken()
        if mode is GitRevert.BRANCH and (earlier := await self._earlier()):
            return earlier
        commits = await self._commits()
        tip = await self._undo(commits)
        if await repository.subtree(tip, order.directory) != await repository.subtree(order.good, order.directory):
            raise self._refused(
                f"undoing what lies between {order.good[:12]} and {order.failed[:12]} does not give the environment "
                "as it was: history came together there in another order",
                _BY_HAND,
            )
        branch = self.repository.runner.branch if mode is GitRevert.PUSH else self._branch
        expected = self.head if mode is GitRevert.PUSH else None
        if not await self.pusher.push(repository, tip, f"refs/heads/{branch}", expected):
            return None
        undone = ", ".join(commit[:12] for commit in commits)
        return Reverted(RevertState.PUSHED, branch, tip, f"pushed {tip[:12]} to {branch}, which undoes {undone}")

    @property
    def _branch(self) -> str:
        return rollback_branch(self.order.environment, self.order.failed)

    async def _overtaken(self) -> Reverted:
        """The head no longer wants the failed revision: who has seen to that?"""
        repository, order = self.repository, self.order
        newest = await repository.git(
            "rev-list", "--max-count=1", "--first-parent", self.head, f"^{order.failed}", "--", *self._paths
        )
        change = await repository.describe(newest or self.head)
        branch = repository.runner.branch
        if await repository.subtree(self.head, order.directory) != await repository.subtree(
            order.good, order.directory
        ):
            reason = f"the branch has a newer change of the environment, {change.named}; it will be judged by itself"
            return Reverted(RevertState.OVERTAKEN, branch, change.id, reason)
        if change.is_of(order):  # and the answer to our push was lost
            return Reverted(RevertState.PUSHED, branch, change.id, f"pushed {change.id[:12]} to {branch} before")
        return Reverted(RevertState.OVERTAKEN, branch, change.id, f"already reverted by {change.named}")

    async def _earlier(self) -> Reverted | None:
        """What stands on the branch for review already."""
        ref = f"refs/heads/{self._branch}"
        tip = (await self.pusher.mirror.refs(ref)).get(ref)
        if tip is None:
            return None
        url = self.repository.runner.url
        await self.repository.git("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--", url, f"+{ref}:{ref}")
        change = await self.repository.describe(tip)
        if change.is_of(self.order):
            return Reverted(RevertState.PUSHED, self._branch, tip, f"pushed {tip[:12]} to {self._branch} before")
        reason = f"another server, or an earlier run, has pushed {self._branch} ({change.named})"
        return Reverted(RevertState.OVERTAKEN, self._branch, tip, reason)

    @property
    def _paths(self) -> tuple[str, ...]:
        return (self.order.directory,) if self.order.directory else ()

    async def _commits(self) -> list[str]:
        """What is to be undone, newest first."""
        between = (self.order.failed, f"^{self.order.good}", "--", *self._paths)
        chain = await self.repository.git("rev-list", "--first-parent", f"--max-count={MOST_COMMITS + 1}", *between)
        commits = chain.split()
        if not commits:
            raise self._refused("none of the new commits touches the environment's directory", _BY_HAND)
        if len(commits) > MOST_COMMITS:
            raise self._refused(f"more than {MOST_COMMITS} commits would have to be undone", _BY_HAND)
        # Also in what a merge brought: the revert may have come through a branch for review.
        own = await self.repository.git(
            "rev-list", "--full-history", "--max-count=1", "-i", "--basic-regexp", f"--grep={OWN_REVERT}", *between
        )
        if own:
            change = await self.repository.describe(own)
            raise self._refused(
                f"it would undo our own revert {change.named}",
                "Two revisions of the environment are broken, the older one too: push a corrected one.",
            )
        return commits

    async def _undo(self, commits: list[str]) -> str:
        """The commit that undoes these on top of the head; the head itself where there is nothing to undo."""
        repository, tip = self.repository, self.head
        await repository.git("update-ref", "--no-deref", "HEAD", tip)
        await repository.git("read-tree", "-m", "-u", tip)
        for commit in commits:
            tree = await self._undo_one(commit)
            if tree != await repository.subtree(tip, ""):
                tip = await repository.commit(tip, tree, await self._message(commit))
                await repository.git("update-ref", "--no-deref", "HEAD", tip)
        return tip

    async def _undo_one(self, commit: str) -> str:
        """Undo the commit in the index, on top of HEAD, and return the tree that comes of it."""
        mainline = ("-m", "1") if len(await self.repository.parents(commit)) > 1 else ()
        completed = await self.repository.ask("revert", "--no-commit", *mainline, commit)
        if completed.ok:
            return await self.repository.git("write-tree")
        conflicts = await self.repository.git("ls-files", "--unmerged", "-z")
        if completed.timed_out or not conflicts:
            self.repository.runner.raise_failure(completed, QUICK)
        paths = sorted({entry.partition("\t")[2] for entry in conflicts.split("\0") if entry})
        shown = ", ".join(plain(path, 100) for path in paths[:MOST_PATHS]) + (", …" if paths[MOST_PATHS:] else "")
        change = await self.repository.describe(commit)
        raise self._refused(f"reverting {change.named} conflicts with later commits in {shown}", _BY_HAND)

    async def _message(self, commit: str) -> str:
        parents = await self.repository.parents(commit)
        subject = (await self.repository.describe(commit)).subject
        return revert_message(self.order, commit, subject, parents[0] if len(parents) > 1 else "")

    def _refused(self, what: str, hint: str) -> RevertRefusedError:
        return RevertRefusedError(what, where=self.repository.runner.where, hint=hint)


def _furnish(git_dir: str, objects: str) -> None:
    """Have a new repository read the objects of another too, check nothing out, and heed no .gitattributes."""
    os.makedirs(os.path.join(git_dir, "info"), exist_ok=True)
    files = {"objects/info/alternates": f"{objects}\n", "info/sparse-checkout": "", "info/attributes": ATTRIBUTES}
    for name, content in files.items():
        with open(os.path.join(git_dir, name), "w", encoding="utf-8") as file:
            file.write(content)


def _check(order: RevertOrder, mode: GitRevert) -> None:
    """Raises RefusedError, SourceError or ConfigError for what git must not be given."""
    check_commit(order.failed)
    check_commit(order.good)
    check_path(order.directory)
    check_branch(rollback_branch(order.environment, order.failed))
    if mode is GitRevert.OFF:
        raise ConfigError("git is to be left alone", where="rollback.git", hint="Set it to push or branch.")
