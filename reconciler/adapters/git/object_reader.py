"""Finds files and directories in commits of the mirror, and remembers the objects read last."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Mapping, Sequence

from reconciler.adapters import process
from reconciler.adapters.git.command import LARGEST_OBJECT, check_commit, check_path, sanitized
from reconciler.adapters.git.objects import (
    FILE_MODES,
    KEPT_OBJECTS,
    LFS_POINTERS,
    TREE_MODE,
    CommitObject,
    DamagedError,
    GitObject,
    KeptObjects,
    MissingCommitError,
    RefusedObject,
    TreeEntry,
    TreeListing,
    TreePlace,
    parse_batch,
)
from reconciler.adapters.git.runner import QUICK, GitRunner
from reconciler.adapters.imports import import_gitpython
from reconciler.core.errors import SourceError
from reconciler.core.model.revisions import Blob, Revision


class ObjectReader:
    """Reads objects of the repository in which ``git`` works.

    Everything raises SourceError for what may not be used, MissingCommitError for a commit that is not in the mirror,
    DamagedError for any other missing object, GitUnreachableError where git does not answer in time.
    """

    def __init__(self, git: GitRunner) -> None:
        self._git = git
        self._kept = KeptObjects(KEPT_OBJECTS)

    async def open(self, commit: str, path: str) -> tuple[TreeEntry | None, GitObject | None]:
        """The entry at ``path`` with its file or directory; (None, None) where nothing exists."""
        place = await self.find(commit, path)
        entry = place.entry
        if entry is None or entry.mode not in (TREE_MODE, *FILE_MODES):
            return entry, None
        git_object = (
            place.read.get(entry.id) or self._kept.get(entry.id) or (await self._load([entry.id])).get(entry.id)
        )
        if git_object is None:
            raise DamagedError(f"the object {entry.id[:12]} is missing")
        return entry, git_object

    async def preload(self, commit: str, paths: Collection[str]) -> None:
        """Remember the files at these paths with one call, as far as there is room. What cannot be read is left out:
        whoever opens it gets the reason."""
        ids = set()
        for path in paths:
            with contextlib.suppress(SourceError, DamagedError):
                entry = (await self.find(commit, path)).entry
                if entry is not None and entry.mode in FILE_MODES and self._kept.get(entry.id) is None:
                    ids.add(entry.id)
        if len(ids) > 1:
            with contextlib.suppress(SourceError, DamagedError):
                await self._load(sorted(ids), stdout=KEPT_OBJECTS)

    async def find(self, commit: str, path: str) -> TreePlace:
        """Walk from the commit to ``path`` through remembered objects, or else read every step in one call."""
        check_commit(commit)
        elements = check_path(path)
        with contextlib.suppress(KeyError):
            return self._walk(commit, elements, {})
        steps = ["/".join(elements[:length]) for length in range(len(elements) + 1)]
        read = await self._load([commit, *(f"{commit}:{step}" for step in steps)])
        try:
            return self._walk(commit, elements, read)
        except KeyError as missing:
            if missing.args[0] == commit:
                raise MissingCommitError(commit) from missing
            raise DamagedError(f"the object {missing.args[0][:12]} is missing") from missing

    def _walk(self, commit: str, elements: Sequence[str], read: Mapping[str, GitObject]) -> TreePlace:
        """Raises KeyError with the id of an object that is neither in ``read`` nor remembered."""

        def recall(object_id: str) -> GitObject:
            return read[object_id] if object_id in read else self._kept.recall(object_id)

        top = recall(commit)
        if not isinstance(top, CommitObject):
            raise refusal(commit, "the commit", top.reason if isinstance(top, RefusedObject) else "it is not a commit")
        entry = TreeEntry(TREE_MODE, top.tree)
        for position, element in enumerate(elements):
            walked = "/".join(elements[:position])
            if entry.mode in FILE_MODES:
                return TreePlace(top, None, read)
            if entry.mode != TREE_MODE:
                raise refusal(commit, walked, f"it is {entry.kind}, which is never followed")
            tree = recall(entry.id)
            if not isinstance(tree, TreeListing):
                raise refusal(
                    commit, walked or "/", tree.reason if isinstance(tree, RefusedObject) else "it is not a directory"
                )
            if element not in tree.entries:
                return TreePlace(top, None, read)
            entry = tree.entries[element]
        return TreePlace(top, entry, read)

    async def _load(self, names: Sequence[str], stdout: int | None = None) -> Mapping[str, GitObject]:
        """Read and remember the objects of these names. git is stopped where one exceeds the limit, or all of them
        exceed ``stdout`` bytes."""
        import_gitpython()
        completed = await self._git.run(
            ["git", "cat-file", "--batch"],
            stdin="".join(f"{name}\n" for name in names).encode(),
            stdout=stdout or len(names) * (LARGEST_OBJECT + process.KIB),
        )
        if completed.timed_out:
            self._git.raise_failure(completed, QUICK)
        if not completed.ok and not completed.overflowed:
            raise DamagedError("it cannot be read")
        read = await asyncio.to_thread(parse_batch, completed.stdout)
        for object_id, value in read.items():
            self._kept.put(object_id, value)
        return read


def revision_at(commit: str, directory: str, place: TreePlace) -> Revision:
    """The revision whose environment is the directory at that place. Raises SourceError where it is none."""
    if place.entry is not None and place.entry.mode != TREE_MODE:
        raise refusal(commit, directory, f"it is {place.entry.kind}, not a directory")
    subtree = place.entry.id if place.entry else ""
    return Revision(commit, subtree, place.commit.author, place.commit.committed_at, place.commit.subject)


def blob_at(commit: str, path: str, entry: TreeEntry | None, git_object: GitObject | None) -> Blob | None:
    """The regular file of what ``ObjectReader.open`` has returned; None where nothing exists. Raises SourceError."""
    if entry is None:
        return None
    if entry.mode not in FILE_MODES:
        raise refusal(commit, path, f"it is {entry.kind}, not a regular file")
    if not isinstance(git_object, Blob):
        reason = git_object.reason if isinstance(git_object, RefusedObject) else "it is not a file"
        raise refusal(commit, path, reason)
    if git_object.data.startswith(LFS_POINTERS):
        raise refusal(commit, path, "it is a Git LFS pointer, not the file; take it out of LFS in .gitattributes")
    return git_object


def refusal(commit: str, path: str, reason: str) -> SourceError:
    hint = "Commit a regular file or directory there, or correct environment.yaml."
    return SourceError(f"{sanitized(path)} cannot be used: {reason}", where=f"commit {commit[:12]}", hint=hint)
