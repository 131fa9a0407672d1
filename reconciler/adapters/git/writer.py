"""Reverts commits on the remote's branch, and proposes others: fast-forward only, never forced.

A commit is made in a temporary repository below the state directory, which reads the mirror's objects and writes
its own. So the mirror still holds packs only, no worktree is registered in it, and a killed daemon leaves behind just
one directory.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from reconciler.adapters import process
from reconciler.adapters.git.command import (
    OWN_REVERT,
    author_environment,
    check_branch,
    check_commit,
    check_path,
    publish_command,
    push_command,
    revert_message,
    rollback_branch,
    sanitized,
)
from reconciler.adapters.git.errors import means_refused, refusal_line
from reconciler.adapters.git.mirror import GitMirror
from reconciler.adapters.git.objects import DamagedError
from reconciler.adapters.git.runner import QUICK, GitRunner
from reconciler.adapters.git.scratch_repository import ScratchRepository, make_scratch
from reconciler.core.errors import ConfigError, RefusedError, RevertRefusedError, UnverifiedError
from reconciler.core.model.revisions import GitRevert, Reverted, RevertRequest, RevertState

ATTEMPTS = 5  # how often the branch may move while the revert is made
MOST_COMMITS = 50  # in one revert; more than that need an operator
MOST_NAMED = 5  # paths or commits in a message
PREFIX = "revert-"  # of the temporary directory
_BY_HAND = "Revert it manually (git revert), or push a corrected revision."


class GitPusher:
    """The ``GitWriter`` port, for the branch of ``mirror``.

    ``author`` ("Name <mail>") makes the commits. ``push_key_file`` replaces the mirror's key to push over ssh.
    ``signing_key_file``, an SSH key without a passphrase, signs the commits. ``verifies``: the branch requires
    signatures, so nothing is committed on top of a head without a good one. ``push_timeout`` in seconds. Raises
    ConfigError for an invalid author.
    """

    def __init__(
        self,
        mirror: GitMirror,
        *,
        author: str,
        push_key_file: str | None = None,
        signing_key_file: str | None = None,
        verifies: bool = False,
        push_timeout: float = 120.0,
    ) -> None:
        self.mirror = mirror
        self._identity = author_environment(author)
        self._signing_key = signing_key_file
        self._verifies = verifies
        self._push_timeout = push_timeout
        self._pushing = mirror.git
        if push_key_file and mirror.git.key_file:
            self._pushing = replace(mirror.git, key_file=push_key_file, key_field="rollback.ssh_key_file")

    async def revert(self, request: RevertRequest, mode: GitRevert) -> Reverted:
        _check(request, mode)
        self._pushing.require_files()
        repaired = False
        for _ in range(ATTEMPTS):
            try:
                if done := await self._try(request, mode):
                    return done
            except DamagedError as error:
                if repaired:
                    raise self.mirror.git.unreachable(
                        f"the revert failed, even after the mirror was rebuilt: {error}", "Check the disk."
                    ) from error
                repaired = True
                self.mirror.mark_damaged()
        raise self.mirror.git.unreachable(
            f"the branch moved {ATTEMPTS} times while the revert was made", "Nothing was pushed."
        )

    async def _try(self, request: RevertRequest, mode: GitRevert) -> Reverted | None:
        """None where the branch moved meanwhile."""
        async with self.mirror.latest() as head:
            with self._scratch() as directory:
                repository = await make_scratch(self.mirror.git, directory, self._identity, self._signing_key)
                return await _Attempt(self, repository, request, head).run(mode)

    async def may_push(self, commit: str) -> None:
        self._pushing.require_files()
        async with self.mirror.held(commit):
            runner = self._pushing
            command = push_command(runner.url, commit, f"refs/heads/{runner.branch}", dry_run=True)
            completed = await runner.run(command, seconds=self._push_timeout, stderr=process.MIB)
        # A server that reports that the branch has moved has let us in.
        if not (completed.ok or _rejected(completed)):
            self._require_refused(runner, completed)
            raise self._refused(runner, completed, "")

    async def publish(self, refs: Mapping[str, str | None]) -> None:
        await self._publish(refs)

    async def may_publish(self, ref: str, commit: str) -> None:
        await self._publish({ref: commit}, dry_run=True)

    async def _publish(self, refs: Mapping[str, str | None], *, dry_run: bool = False) -> None:
        runner = self._pushing
        runner.require_files()
        async with contextlib.AsyncExitStack() as stack:
            if commit := next(filter(None, refs.values()), None):
                await stack.enter_async_context(self.mirror.held(commit))
            command = publish_command(runner.url, refs, dry_run=dry_run)
            completed = await runner.run(command, seconds=self._push_timeout, stderr=process.MIB)
        if completed.ok:
            return
        if not _rejected(completed):
            self._require_refused(runner, completed)
        stdout, stderr = (text.decode(errors="replace") for text in (completed.stdout, completed.stderr))
        raise RefusedError(
            f"the remote refuses refs below refs/reconciler: {refusal_line(stdout, stderr, runner.token())}",
            where=runner.where,
            hint=f"Allow {_who_pushes(runner)} to push them, or set promotion.publish: false",
            id="health-report-refused",
        )

    async def propose(self, branch: str, base: str, files: Mapping[str, bytes], message: str) -> str:
        check_branch(branch)
        for path in files:
            check_path(path)
        self._pushing.require_files()
        try:
            return await self._propose(branch, base, files, message)
        except DamagedError:
            self.mirror.mark_damaged()
        try:
            return await self._propose(branch, base, files, message)
        except DamagedError as error:
            raise self.mirror.git.unreachable(
                f"the commit failed, even after the mirror was rebuilt: {error}", "Check the disk."
            ) from error

    async def _propose(self, branch: str, base: str, files: Mapping[str, bytes], message: str) -> str:
        async with self.mirror.held(base):
            with self._scratch() as directory:
                repository = await make_scratch(self.mirror.git, directory, self._identity, self._signing_key)
                commit = await repository.commit(base, await repository.with_files(base, files), message)
                try:
                    await self.require_signed(base)
                    pushed = await self.push(repository, commit, f"refs/heads/{branch}", None)
                except RevertRefusedError as error:
                    hint = f"Allow {_who_pushes(self._pushing)} to push branches named reconciler/*."
                    raise RefusedError(error.what, where=error.where, hint=hint, id="proposal-refused") from error
        if not pushed:
            raise RefusedError(f"the branch {branch} exists already", where=self.mirror.git.where, hint="Try again.")
        return commit

    @contextlib.contextmanager
    def _scratch(self) -> Iterator[str]:
        """An empty private directory. We hold the mirror's lock, so any other one was left by a killed daemon."""
        state_dir = self.mirror.git.state_dir
        for name in os.listdir(state_dir):
            if name.startswith(PREFIX):
                shutil.rmtree(os.path.join(state_dir, name), ignore_errors=True)
        directory = tempfile.mkdtemp(prefix=PREFIX, dir=state_dir)
        try:
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    async def require_signed(self, head: str) -> None:
        """Require a good signature of the head: a server that checks only the tip would take ours for all below it.

        Raises RevertRefusedError.
        """
        if not self._verifies:
            return
        try:
            await self.mirror.require_signed(head)
        except UnverifiedError as error:
            raise RevertRefusedError(
                f"{error.what}, and a signed commit on top of it would vouch for it", where=error.where, hint=error.hint
            ) from error

    async def push(self, repository: ScratchRepository, commit: str, ref: str, expected: str | None) -> bool:
        """Push ``commit`` to ``ref``, which was at ``expected`` (None: did not exist). False if it has moved.

        Raises RevertRefusedError, GitUnreachableError.
        """
        runner = replace(self._pushing, git_dir=repository.runner.git_dir)
        completed = await runner.run(
            push_command(runner.url, commit, ref), seconds=self._push_timeout, stderr=process.MIB
        )
        if completed.ok:
            return True
        if not _rejected(completed):
            self._require_refused(runner, completed)
        if (await self.mirror.refs(ref)).get(ref) != expected:
            return False
        raise self._refused(runner, completed, ref.removeprefix("refs/heads/"))

    def _require_refused(self, runner: GitRunner, completed: process.Completed) -> None:
        """Raises GitUnreachableError where the server did not refuse: a retry may succeed."""
        if completed.timed_out or not means_refused(completed.stderr.decode(errors="replace")):
            runner.raise_failure(completed, self._push_timeout)

    def _refused(self, runner: GitRunner, completed: process.Completed, branch: str) -> RevertRefusedError:
        """``branch`` is "" where no particular one is concerned."""
        stdout, stderr = (text.decode(errors="replace") for text in (completed.stdout, completed.stderr))
        line = refusal_line(stdout, stderr, runner.token())
        alternative = {"": ", or set rollback.git: off", runner.branch: ", or set rollback.git: branch"}.get(branch, "")
        return RevertRefusedError(
            f"the remote refuses the push{f' to {branch}' if branch else ''}: {line}",
            where=runner.where,
            hint=f"Allow {_who_pushes(runner)} to push there{alternative}. Until then revert manually.",
        )


@dataclass(frozen=True, slots=True)
class _Attempt:
    """One attempt, on the branch's head as it was a moment ago."""

    pusher: GitPusher
    repository: ScratchRepository
    request: RevertRequest
    head: str

    async def run(self, mode: GitRevert) -> Reverted | None:
        """None where the branch moved meanwhile."""
        request, repository = self.request, self.repository
        if not await repository.descends(request.failed, request.good, self.head):
            raise self._refused(
                f"{request.good[:12]}, the last good revision, is not part of the failed one's history", _BY_HAND
            )
        failed = await repository.subtree(request.failed, request.directory)
        if await repository.subtree(self.head, request.directory) != failed:
            return await self._overtaken()
        if mode is GitRevert.BRANCH and (earlier := await self._earlier()):
            return earlier
        await self.pusher.require_signed(self.head)
        commits = await self._commits()
        tip = await self._undo(commits)
        if await repository.subtree(tip, request.directory) != await repository.subtree(
            request.good, request.directory
        ):
            raise self._refused(
                f"undoing the commits between {request.good[:12]} and {request.failed[:12]} does not restore the "
                "environment: merges combined them in another order",
                _BY_HAND,
            )
        branch = self.repository.runner.branch if mode is GitRevert.PUSH else self._branch
        expected = self.head if mode is GitRevert.PUSH else None
        if not await self.pusher.push(repository, tip, f"refs/heads/{branch}", expected):
            return None
        undone = _some([commit[:12] for commit in commits])
        return Reverted(RevertState.PUSHED, branch, tip, f"pushed {tip[:12]} to {branch}, which undoes {undone}")

    @property
    def _branch(self) -> str:
        return rollback_branch(self.request.environment, self.request.failed)

    async def _overtaken(self) -> Reverted:
        """The head no longer has the failed revision's content: find out which commit replaced it."""
        repository, request = self.repository, self.request
        newest = await repository.git(
            "rev-list", "--max-count=1", "--first-parent", self.head, f"^{request.failed}", "--", *self._paths
        )
        change = await repository.describe(newest or self.head)
        branch = repository.runner.branch
        if await repository.subtree(self.head, request.directory) != await repository.subtree(
            request.good, request.directory
        ):
            reason = f"the branch has a newer change of the environment, {change.named}; it is judged on its own"
            return Reverted(RevertState.OVERTAKEN, branch, change.id, reason)
        if change.is_of(request):  # the answer to our push was lost
            return Reverted(RevertState.PUSHED, branch, change.id, f"pushed {change.id[:12]} to {branch} before")
        return Reverted(RevertState.OVERTAKEN, branch, change.id, f"already reverted by {change.named}")

    async def _earlier(self) -> Reverted | None:
        """What an earlier attempt has pushed for review."""
        ref = f"refs/heads/{self._branch}"
        tip = (await self.pusher.mirror.refs(ref)).get(ref)
        if tip is None:
            return None
        url = self.repository.runner.url
        await self.repository.git("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--", url, f"+{ref}:{ref}")
        change = await self.repository.describe(tip)
        if change.is_of(self.request):
            return Reverted(RevertState.PUSHED, self._branch, tip, f"pushed {tip[:12]} to {self._branch} before")
        reason = f"another server, or an earlier run, has pushed {self._branch} ({change.named})"
        return Reverted(RevertState.OVERTAKEN, self._branch, tip, reason)

    @property
    def _paths(self) -> tuple[str, ...]:
        return (self.request.directory,) if self.request.directory else ()

    async def _commits(self) -> list[str]:
        """The commits to undo, newest first."""
        between = (self.request.failed, f"^{self.request.good}", "--", *self._paths)
        chain = await self.repository.git("rev-list", "--first-parent", f"--max-count={MOST_COMMITS + 1}", *between)
        commits = chain.split()
        if not commits:
            raise self._refused("none of the new commits touches the environment's directory", _BY_HAND)
        if len(commits) > MOST_COMMITS:
            raise self._refused(f"more than {MOST_COMMITS} commits would need to be undone", _BY_HAND)
        await self._require_foreign(commits)
        return commits

    async def _require_foreign(self, commits: list[str]) -> None:
        """Raises RevertRefusedError where one of the commits is our own revert, or a merge of one."""
        for commit in commits:
            brought = (f"{commit}^1..{commit}", "--", *self._paths)
            search = ("--max-count=1", "--regexp-ignore-case", f"--grep={OWN_REVERT}")
            if own := await self.repository.git("rev-list", *search, *brought):
                change = await self.repository.describe(own)
                raise self._refused(
                    f"it would undo our own revert {change.named}",
                    "The older revision of the environment is broken too: push a corrected one.",
                )

    async def _undo(self, commits: list[str]) -> str:
        """The commit that undoes ``commits`` on top of the head; the head itself where nothing needs undoing."""
        repository, tip = self.repository, self.head
        await repository.git("update-ref", "--no-deref", "HEAD", tip)
        await repository.git("read-tree", "-m", "-u", tip)
        for commit in commits:
            tree = await self._undo_commit(commit)
            if tree != await repository.subtree(tip, ""):
                tip = await repository.commit(tip, tree, await self._message(commit))
                await repository.git("update-ref", "--no-deref", "HEAD", tip)
        return tip

    async def _undo_commit(self, commit: str) -> str:
        """Undo the commit in the index, on top of HEAD, and return the resulting tree."""
        mainline = ("-m", "1") if len(await self.repository.parents(commit)) > 1 else ()
        completed = await self.repository.ask(
            "revert", "--no-commit", "--strategy=recursive", "--strategy-option=no-renames", *mainline, commit
        )
        if completed.ok:
            return await self.repository.git("write-tree")
        conflicts = await self.repository.git("ls-files", "--unmerged", "-z")
        if completed.timed_out or not conflicts:
            self.repository.runner.raise_failure(completed, QUICK)
        paths = _some(sorted({sanitized(entry.partition("\t")[2], 100) for entry in conflicts.split("\0") if entry}))
        change = await self.repository.describe(commit)
        raise self._refused(f"reverting {change.named} conflicts with later commits in {paths}", _BY_HAND)

    async def _message(self, commit: str) -> str:
        parents = await self.repository.parents(commit)
        subject = (await self.repository.describe(commit)).subject
        return revert_message(self.request, commit, subject, parents[0] if len(parents) > 1 else "")

    def _refused(self, problem: str, hint: str) -> RevertRefusedError:
        return RevertRefusedError(problem, where=self.repository.runner.where, hint=hint)


def _rejected(completed: process.Completed) -> bool:
    """Whether the server answered about the ref, and refused it."""
    return not completed.timed_out and any(line.startswith(b"!") for line in completed.stdout.splitlines())


def _who_pushes(runner: GitRunner) -> str:
    if runner.key_file:
        return f"the key {runner.key_file}"
    return f"the token in {runner.token_file}" if runner.token_file else "this daemon's user"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:MOST_NAMED]) + (", …" if names[MOST_NAMED:] else "")


def _check(request: RevertRequest, mode: GitRevert) -> None:
    """Raises RefusedError, SourceError or ConfigError for arguments that git must not get."""
    check_commit(request.failed)
    check_commit(request.good)
    check_path(request.directory)
    check_branch(rollback_branch(request.environment, request.failed))
    if mode is GitRevert.OFF:
        raise ConfigError("reverting in git is switched off", where="rollback.git", hint="Set it to push or branch.")
