"""What ``git cat-file`` prints, as objects: verified against their ids, bounded in size, the latest ones cached."""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

from reconciler.adapters import process
from reconciler.adapters.git.command import LARGEST_OBJECT, sanitized
from reconciler.core.model.revisions import Blob

if TYPE_CHECKING:
    import git


KEPT_OBJECTS = 16 * process.MIB  # ciphertext and directories cached between reconciliations
TREE_MODE, LINK_MODE, SUBMODULE_MODE = 0o040000, 0o120000, 0o160000
FILE_MODES = frozenset({0o100644, 0o100755})
LFS_POINTERS = (b"version https://git-lfs.github.com/spec/", b"version https://hawser.github.com/spec/")


@dataclass(frozen=True, slots=True)
class TreeEntry:
    """One name in a directory: git's mode and the object's id."""

    mode: int
    id: str

    @property
    def kind(self) -> str:
        names = {TREE_MODE: "a directory", LINK_MODE: "a symbolic link", SUBMODULE_MODE: "a submodule"}
        names |= dict.fromkeys(FILE_MODES, "a file")
        return names.get(self.mode, f"an entry with mode {self.mode:06o}")


@dataclass(frozen=True, slots=True)
class CommitObject:
    tree: str
    author: str
    committed_at: float
    subject: str


@dataclass(frozen=True, slots=True)
class TreeListing:
    entries: Mapping[str, TreeEntry] = field(repr=False)


@dataclass(frozen=True, slots=True)
class RefusedObject:
    """An object that exists but is not used; ``reason`` continues "cannot be used: "."""

    reason: str


GitObject = CommitObject | TreeListing | Blob | RefusedObject


@dataclass(frozen=True, slots=True)
class TreePlace:
    """The entry at a path in a commit (None: nothing), and the objects that were read on the way."""

    commit: CommitObject
    entry: TreeEntry | None
    read: Mapping[str, GitObject] = field(repr=False)


class DamagedError(Exception):
    """The mirror lacks an object that it should hold, or holds a damaged one."""


class MissingCommitError(DamagedError):
    """A commit is not in the mirror. It may only need fetching."""

    def __init__(self, commit: str) -> None:
        super().__init__(f"commit {commit[:12]} is missing")


_RECORD = re.compile(rb"([0-9a-f]{40}) (commit|tree|blob|tag) ([0-9]+)")
_LAST_DATE = 253402300799  # the end of the year 9999: an author writes any number, and nobody can show a later one
_TREE_ENTRY_COST = 200  # bytes of memory per name in a directory, roughly


def parse_batch(output: bytes) -> dict[str, GitObject]:
    """Given what ``git cat-file --batch`` printed (perhaps cut short), return its objects by id.

    Names that git reports missing are left out. Raises DamagedError for an object whose bytes do not match its id.
    """
    objects: dict[str, GitObject] = {}
    position = 0
    while (end := output.find(b"\n", position)) >= 0:
        header = _RECORD.fullmatch(output, position, end)
        position = end + 1
        if header is None:
            continue
        object_id, kind, size = header[1].decode(), header[2].decode(), int(header[3])
        data = output[position : position + size]
        position += size + 1
        if size > LARGEST_OBJECT:
            limit = LARGEST_OBJECT / process.MIB
            objects[object_id] = RefusedObject(f"it has {size / process.MIB:.1f} MiB, the limit is {limit:g} MiB")
        elif len(data) == size:
            objects[object_id] = parse_object(object_id, kind, data)
    return objects


def parse_object(object_id: str, kind: str, data: bytes) -> GitObject:
    """Raises DamagedError for bytes that do not match the id."""
    if hashlib.sha1(b"%s %d\0" % (kind.encode(), len(data)) + data, usedforsecurity=False).hexdigest() != object_id:
        raise DamagedError(f"{kind} {object_id} does not match its id")
    try:
        if kind == "tree":
            return _parse_tree(data)
        if kind == "commit":
            return _parse_commit(object_id, data)
    except (ValueError, LookupError) as error:
        return RefusedObject(f"it is malformed ({sanitized(str(error))})")
    return Blob(object_id, data) if kind == "blob" else RefusedObject(f"it is a {kind}")


def _parse_tree(data: bytes) -> TreeListing:
    """Raises ValueError for names such as "..", ".git" and "a/b", and for a name that appears twice: readers would
    disagree about which of the two counts."""
    from git.objects.fun import tree_entries_from_data

    entries = tree_entries_from_data(data)
    listing = {name: TreeEntry(mode, object_id.hex()) for object_id, mode, name in entries}
    if len(listing) < len(entries):
        raise ValueError("a name appears twice in a directory")
    return TreeListing(listing)


def _parse_commit(object_id: str, data: bytes) -> CommitObject:
    from git import Commit as GitCommit

    # GitPython's Commit needs nothing of its repository but the stream of its own bytes.
    store = SimpleNamespace(stream=lambda binary_id: (binary_id, b"commit", len(data), BytesIO(data)))
    commit = GitCommit(cast("git.Repo", SimpleNamespace(odb=store)), bytes.fromhex(object_id))
    mail = f" <{commit.author.email}>" if commit.author.email else ""
    lines = str(commit.message).strip().splitlines()
    return CommitObject(
        tree=commit.tree.hexsha,
        author=sanitized(f"{commit.author.name}{mail}"),
        committed_at=float(min(max(commit.committed_date, 0), _LAST_DATE)),
        subject=sanitized(lines[0]) if lines else "",
    )


class KeptObjects:
    """A cache of the most recently used objects. An id identifies the content, so nothing in it is ever stale."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._cost = 0
        self._kept: OrderedDict[str, tuple[int, GitObject]] = OrderedDict()

    def get(self, object_id: str) -> GitObject | None:
        try:
            return self.recall(object_id)
        except KeyError:
            return None

    def recall(self, object_id: str) -> GitObject:
        """Raises KeyError with the id."""
        self._kept.move_to_end(object_id)
        return self._kept[object_id][1]

    def put(self, object_id: str, value: GitObject) -> None:
        self._cost -= self._kept.pop(object_id, (0, None))[0]
        cost = _cost(value)
        self._kept[object_id] = (cost, value)
        self._cost += cost
        while self._cost > self._budget and len(self._kept) > 1:
            _, (freed, _) = self._kept.popitem(last=False)
            self._cost -= freed


def _cost(value: GitObject) -> int:
    if isinstance(value, TreeListing):
        return process.KIB + _TREE_ENTRY_COST * len(value.entries)
    return process.KIB + (len(value.data) if isinstance(value, Blob) else 0)
