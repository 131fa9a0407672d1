"""Merges a branch into the target in a temporary repository, so that its result can be planned before the merge.

Nothing of the branch reaches the mirror: its objects are fetched into the temporary repository, which reads the
mirror's objects beside its own and is deleted afterwards. ``git merge-tree --write-tree`` (git 2.38) merges without a
work tree: no hook, filter or merge driver of the repository can act, and renames are followed as in ``git merge``.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

from reconciler.adapters import process
from reconciler.adapters.git.command import check_branch, check_commit, fetch_command, sanitized
from reconciler.adapters.git.errors import failure_line, known_failure
from reconciler.adapters.git.mirror import GitMirror
from reconciler.adapters.git.object_reader import ObjectReader, blob_at, revision_at
from reconciler.adapters.git.objects import DamagedError
from reconciler.adapters.git.scratch_repository import ScratchRepository, make_scratch
from reconciler.adapters.git.signatures import Signatures
from reconciler.core.errors import ConfigError, SourceError, UnverifiedError
from reconciler.core.model.revisions import Blob, Revision, Verify
from reconciler.core.ports.git import MergedBranch

PREFIX = "merge-"  # of the temporary directory
LARGEST_BRANCH = 64 * process.MIB  # what the objects of one branch may take
MOST_COMMITS = 1000  # of a branch whose signatures are checked
MOST_CONFLICTS = 5  # that are named
_BRANCH_REF = "refs/reconciler/branch"
_TARGET_REF = "refs/reconciler/target"
_FETCH_TIME = 60.0
_MERGE_TIME = 20.0
_IDENTITY = {
    f"GIT_{role}_{part}": value
    for role in ("AUTHOR", "COMMITTER")
    for part, value in (("NAME", "merge preview"), ("EMAIL", "none@invalid"))
}


class GitBranchMerges:
    """The ``BranchMerges`` port, for branches of ``mirror``'s remote. ``verify`` is as in the server configuration:
    the head, or every new commit, needs a good signature before anything is merged."""

    def __init__(self, mirror: GitMirror, verify: Verify) -> None:
        self._mirror = mirror
        self._verify = verify

    @contextlib.asynccontextmanager
    async def merged(self, branch: str, target: str) -> AsyncIterator[MergedBranch]:
        check_branch(branch)
        check_commit(target)
        await self._mirror.fetch(target)  # it is a cache, and may be gone
        with self._directory() as directory:
            scratch = await make_scratch(self._mirror.git, directory, _IDENTITY, None)
            try:
                head = await self._fetch(scratch, branch, target)
                await self._check_signatures(scratch, head, target)
                yield await self._merge(scratch, head, target)
            except DamagedError as error:
                problem = f"the branch cannot be merged ({sanitized(str(error))})"
                raise self._mirror.git.unreachable(problem, "Will retry with the next poll.") from error

    @contextlib.contextmanager
    def _directory(self) -> Iterator[str]:
        state_dir = self._mirror.git.state_dir
        for name in os.listdir(state_dir):  # of a daemon that was killed
            if name.startswith(PREFIX):
                shutil.rmtree(os.path.join(state_dir, name), ignore_errors=True)
        directory = tempfile.mkdtemp(prefix=PREFIX, dir=state_dir)
        try:
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    async def _fetch(self, scratch: ScratchRepository, branch: str, target: str) -> str:
        """Fetch the branch; return its head. What the mirror has of it is not fetched again."""
        await scratch.git("update-ref", _TARGET_REF, target)
        runner = replace(scratch.runner, branch=branch)
        runner.require_files()
        completed = await runner.run(
            fetch_command(runner.url, branch, _BRANCH_REF),
            seconds=_FETCH_TIME,
            resources={resource.RLIMIT_FSIZE: LARGEST_BRANCH},
        )
        if not completed.ok:
            if not completed.timed_out and not known_failure(completed.stderr.decode(errors="replace")):
                _require_size(scratch)
            runner.raise_failure(completed, _FETCH_TIME)
        return await scratch.git("rev-parse", "--verify", f"{_BRANCH_REF}^{{commit}}")

    async def _check_signatures(self, scratch: ScratchRepository, head: str, target: str) -> None:
        if self._verify is Verify.NONE:
            return
        commits = [head]
        if self._verify is Verify.RANGE:
            most = f"--max-count={MOST_COMMITS + 1}"
            listed = await scratch.git("rev-list", most, "--reverse", "--topo-order", head, f"^{target}", "--")
            commits = listed.split()
        if len(commits) > MOST_COMMITS:
            problem = f"the branch has more than {MOST_COMMITS} new commits"
            raise UnverifiedError(problem, where=scratch.runner.where, hint="It is not planned before the merge")
        await Signatures(scratch.runner, self._mirror.allowed_signers_file).check(commits)

    async def _merge(self, scratch: ScratchRepository, head: str, target: str) -> MergedBranch:
        git = _MergedGit(self._mirror, ObjectReader(scratch.runner))
        argv = ["git", "merge-tree", "--write-tree", "--name-only", "--no-messages", "-z", target, head]
        completed = await scratch.runner.run(argv, seconds=_MERGE_TIME, variables=_IDENTITY)
        if completed.timed_out:
            scratch.runner.raise_failure(completed, _MERGE_TIME)
        tree, *paths = completed.stdout.decode(errors="replace").split("\0")
        if completed.exit_code == 1:
            names = tuple(sanitized(path) for path in paths if path)
            return MergedBranch(head, target, "", names[:MOST_CONFLICTS], git)
        if not completed.ok:
            self._require_merge_tree(completed)
            raise DamagedError(failure_line(completed.stderr.decode(errors="replace")) or "git merge-tree failed")
        commit = await scratch.git("commit-tree", "-p", target, "-p", head, "-m", "merge preview", tree)
        return MergedBranch(head, target, commit, (), git)

    def _require_merge_tree(self, completed: process.Completed) -> None:
        """Raises ConfigError where git is older than 2.38."""
        if completed.exit_code == 129:
            raise ConfigError(
                "the installed git cannot merge without a work tree",
                where="forge.plan_pull_requests",
                hint="Install git 2.38 or newer, or leave the setting out",
                id="merge-needs-git",
            )


def _require_size(scratch: ScratchRepository) -> None:
    """Raises SourceError where the fetch left a file of the largest size: index-pack dies without a message."""
    packs = os.path.join(scratch.runner.git_dir, "objects", "pack")
    sizes = [entry.stat().st_size for entry in os.scandir(packs)] if os.path.isdir(packs) else []
    if sizes and max(sizes) >= LARGEST_BRANCH:
        limit = f"the branch has more than {LARGEST_BRANCH // process.MIB} MiB"
        raise SourceError(limit, where=scratch.runner.where, hint="It is not planned before the merge")


class _MergedGit:
    """The ``Git`` port on the merge result: what it has beside the mirror's commits can be read, everything else is the
    mirror's."""

    def __init__(self, mirror: GitMirror, objects: ObjectReader) -> None:
        self._mirror = mirror
        self._objects = objects
        self.preload = objects.preload
        self.head = mirror.head
        self.fetch = mirror.fetch
        self.fetch_head = mirror.fetch_head
        self.refs_below = mirror.refs_below
        self.descends = mirror.descends
        self.resolve = mirror.resolve
        self.first_seen = mirror.first_seen
        self.verify = mirror.verify

    async def revision(self, commit: str, directory: str) -> Revision:
        return revision_at(commit, directory, await self._objects.find(commit, directory))

    async def read(self, commit: str, path: str) -> Blob | None:
        entry, git_object = await self._objects.open(commit, path)
        return blob_at(commit, path, entry, git_object)
