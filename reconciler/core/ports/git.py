"""The branch in git: read through a mirror, written by fast-forward only."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from reconciler.core.model.revisions import Blob, GitRevert, Reverted, RevertRequest, Revision


class Git(Protocol):
    """Reads one branch of one remote through a bare mirror; nothing from it is ever checked out."""

    async def head(self) -> str:
        """Ask the remote for the branch's commit id (ls-remote).

        Raises GitUnreachableError (no answer, refused, branch gone, empty repository).
        """

    async def refs_below(self, *prefixes: str) -> Mapping[str, str]:
        """Ask the remote for every ref below the prefixes (refs/…): its commit id by the whole name.

        Raises GitUnreachableError.
        """

    async def fetch(self, commit: str) -> None:
        """Fetch the commit into the mirror; a commit already there costs nothing.

        Raises GitUnreachableError, and SourceError for an object that git itself refuses. So do the methods below.
        """

    async def fetch_head(self) -> str:
        """Fetch the branch, and return its commit id: one question less where it is known to have moved.

        Raises as ``head`` and ``fetch`` do.
        """

    async def revision(self, commit: str, directory: str) -> Revision:
        """The commit with the id of ``directory``'s tree ("" if it does not exist)."""

    async def read(self, commit: str, path: str) -> Blob | None:
        """The blob at ``path``, or None if there is none.

        Raises SourceError for anything but a regular file (link, submodule, directory), for one over the size
        limit and for an LFS pointer.
        """

    async def preload(self, commit: str, paths: Collection[str]) -> None:
        """Get what ``read`` needs for these paths with few calls; what that cannot get, ``read`` gets and reports."""

    async def descends(self, commit: str, ancestor: str) -> bool:
        """Whether ``commit`` is ``ancestor`` or descends from it. An unknown ancestor gives False."""

    async def resolve(self, name: str) -> str:
        """The id of a commit on the branch, given its whole or abbreviated id.

        Raises RefusedError if there is none, or more than one.
        """

    async def first_seen(self, commit: str, since: str | None, directory: str) -> Mapping[str, float]:
        """When each encrypted value that the directory's files ever held came into the commit's history.

        By the beginning of its iv (``ciphertext.ivs``), in epoch seconds: the date of the oldest commit that has it.
        With ``since``, only what the commits after ``since`` bring; if that is not an ancestor, it counts as None.
        Raises RefusedError for a history that is too long.
        """

    async def verify(self, commit: str, since: str | None) -> None:
        """Check the signatures of the commit and of every commit between ``since`` and it.

        Raises UnverifiedError, which names the first commit without a good signature of an allowed signer.
        """


class GitWriter(Protocol):
    """Adds commits to the remote: fast-forward only, never forced, from a throw-away worktree of the mirror."""

    async def revert(self, request: RevertRequest, mode: GitRevert) -> Reverted:
        """Undo the requested commits on top of the branch's head, and push that to the branch (``push``) or to
        reconciler/rollback-<environment>-<commit> (``branch``).

        Raises RevertRefusedError if an operator must act (conflict, the commits are a revert of ours, the remote
        rejects the push), GitUnreachableError if retrying is worthwhile.
        """

    async def may_push(self, commit: str) -> None:
        """Ask the remote whether it lets us push at all, with a ``commit`` it already has. Pushes nothing.

        A rule about content, like a protected branch, shows only in a real push. Raises RevertRefusedError,
        GitUnreachableError.
        """

    async def publish(self, refs: Mapping[str, str | None]) -> None:
        """Create refs of the remote that lead to these commits, which it has; None: remove them.

        Only below refs/reconciler/, and never by force: one that leads elsewhere has to be removed first. Raises
        RefusedError if the remote rejects that, GitUnreachableError.
        """

    async def may_publish(self, ref: str, commit: str) -> None:
        """Ask the remote whether ``publish`` could work. Changes nothing. Raises as ``publish``."""

    async def propose(self, branch: str, base: str, files: Mapping[str, bytes], message: str) -> str:
        """Commit the files (path → content) on top of ``base``, push that as a new branch, and return its commit id.

        Raises RefusedError if the branch exists or the remote rejects the push, GitUnreachableError.
        """


@dataclass(frozen=True, slots=True)
class MergedBranch:
    """What merging the ``head`` of a branch into ``target`` gives: a ``commit`` that only ``git`` can read, or "" and
    the first of the paths in conflict."""

    head: str
    target: str
    commit: str
    conflicts: tuple[str, ...]
    git: Git


class BranchMerges(Protocol):
    """Merges branches of the remote without a trace: nothing is checked out, pushed, or kept."""

    def merged(self, branch: str, target: str) -> AbstractAsyncContextManager[MergedBranch]:
        """Fetch the branch and merge it into the commit ``target``, which is fetched; gone at the end.

        Raises GitUnreachableError (also where the branch is gone), SourceError for an object that git refuses or a
        branch that is too large, UnverifiedError for a head without the signature that is required, ConfigError where
        the installed git cannot merge like this.
        """
