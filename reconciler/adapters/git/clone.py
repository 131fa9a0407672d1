"""Reads commits of the clone that a user or a CI job works in, with short git processes. Changes nothing.

Git gets the repository's path and nobody's settings: no hook, filter, textconv or alias can act. A clone that another
user owns (as in a CI container) can be read, because only its objects are.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import posixpath
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from reconciler.adapters import process
from reconciler.adapters.git.command import git_environment, log_command, sanitized
from reconciler.adapters.git.history import blobs_of_log, portions, take_in
from reconciler.adapters.git.objects import LFS_POINTERS, DamagedError, RefusedObject, parse_batch
from reconciler.core.errors import OutsideError, RefusedError
from reconciler.core.model.revisions import Blob
from reconciler.core.tree import IGNORED, MAX_FILES, MAX_TOTAL, Tree

_TIMEOUT = 60.0
_LIST = 64 * process.MIB
_ENTRY = re.compile(rb"([0-7]{6}) (blob|commit|tree) ([0-9a-f]{40})\t(.+)", re.DOTALL)
_REVISION = re.compile(r"(?!-)[^\x00-\x20\x7f~^:?*\[\\]+(?:[~^][0-9]*)*")
_VERSIONS = re.compile(rb"\n?:[0-7]{6} [0-7]{6} ([0-9a-f]{40}) ([0-9a-f]{40}) [A-Z][0-9]*")
_COMMITS = 200  # of the history of a file that may be encrypted twice
_FILES = ("100644", "100755")
_ODD = {"120000": "a symbolic link", "160000": "a submodule"}


class Clone:
    """The repository around ``directory``. Raises RefusedError where there is none."""

    def __init__(self, directory: str) -> None:
        self.top, git_dir = _find(os.path.realpath(directory))
        self.bare = self.top == git_dir
        self._env = git_environment(
            url="", git_dir=git_dir, ssh_command=None, token_file=None, inherited=os.environ
        ) | {"GIT_ALLOW_PROTOCOL": "none", "GIT_OPTIONAL_LOCKS": "0"}

    async def resolve(self, base: str, head: str, *, from_fork_point: bool) -> tuple[str, str]:
        """Given two revisions in git's notation, return their commit ids; ``from_fork_point``: the first is where they
        forked.

        Raises RefusedError for one that does not exist.
        """
        for name in (base, head):
            if not _REVISION.fullmatch(name):
                raise RefusedError(
                    f"{sanitized(name)!r} is not a valid revision", hint="Write BASE..HEAD, such as origin/main..HEAD"
                )
        names = f"{base}^{{commit}}\n{head}^{{commit}}\n".encode()
        lines = (await self._git("cat-file", "--batch-check=%(objectname)", stdin=names)).decode().splitlines()
        commits = []
        for name, line in zip((base, head), lines, strict=True):
            if not re.fullmatch("[0-9a-f]{40}", line):
                hint = "Fetch it; a shallow CI clone needs its history (fetch-depth: 0, or GIT_DEPTH: 0)"
                raise RefusedError(f"the commit {sanitized(name)} does not exist", where=self.top, hint=hint)
            commits.append(line)
        if from_fork_point:
            commits[0] = await self._fork_point(commits[0], commits[1])
        return commits[0], commits[1]

    async def _fork_point(self, base: str, head: str) -> str:
        try:
            return (await self._git("merge-base", base, head)).decode().strip()
        except OutsideError:  # it fails silently where none exists
            hint = (
                "A shallow CI clone needs its history (fetch-depth: 0, or GIT_DEPTH: 0); otherwise compare BASE..HEAD"
            )
            raise RefusedError("the two revisions have no common ancestor", where=self.top, hint=hint) from None

    async def trees(
        self, commits: Sequence[str], path: str, wanted: Callable[[str], bool] = lambda _: True
    ) -> list[Tree]:
        """For each commit, the ``wanted`` files below ``path`` ("" for all); a file that several share is read once.

        Raises RefusedError for more than MAX_FILES or MAX_TOTAL.
        """
        whole = [await self.listing(commit, path) for commit in commits]
        listings = [{name: entry for name, entry in listing.items() if wanted(name)} for listing in whole]
        used = {blob for listing in listings for mode, blob in listing.values() if mode in _FILES}
        blobs = await self._blobs(used)
        return [_tree(listing, blobs) for listing in listings]

    async def unheld(self, directory: str, paths: Iterable[str]) -> dict[str, str]:
        """The files of ``directory`` (``paths`` are relative to it) that no commit can have, with the reason. What is
        added counts as held: a hook runs before the commit."""
        full = self._from_top(directory, paths)
        modes = {}
        for record in (await self._git("ls-files", "-z", "--stage")).split(b"\0"):
            about, _, path = record.partition(b"\t")
            modes[path.decode("utf-8", "backslashreplace")] = about[:6]
        missing = {path for path in full if modes.get(path) is None}
        ignored = await self._ignored(missing)
        return {full[path]: self._reason(path, modes, ignored) for path in missing}

    async def is_unmerged(self, path: str) -> bool:
        """Whether an unfinished merge is about the file at ``path``, which is absolute."""
        (relative,) = self._from_top(os.path.dirname(path), [os.path.basename(path)])
        return bool(await self._git("--literal-pathspecs", "ls-files", "-z", "--unmerged", "--", relative))

    async def unmerged(self) -> dict[str, tuple[bytes | None, bytes | None, bytes | None]]:
        """The files of an unfinished merge by their path from the top: as the common ancestor, our side and the other
        side have them; None where one has none."""
        stages: dict[str, dict[int, str]] = {}
        for record in (await self._git("ls-files", "-z", "--unmerged")).split(b"\0"):
            about, _, path = record.partition(b"\t")
            if path:
                _, blob, stage = about.decode().split(" ")
                stages.setdefault(path.decode("utf-8", "surrogateescape"), {})[int(stage)] = blob
        blobs = await self._blobs({blob for by_stage in stages.values() for blob in by_stage.values()})
        contents = {blob: data for blob, data in blobs.items() if isinstance(data, bytes)}
        return {
            path: (
                contents.get(by_stage.get(1, "")),
                contents.get(by_stage.get(2, "")),
                contents.get(by_stage.get(3, "")),
            )
            for path, by_stage in stages.items()
        }

    async def before(self, directory: str, files: Mapping[str, bytes]) -> dict[str, bytes]:
        """Of the ``files`` in ``directory`` (paths are relative to it), those that HEAD has otherwise, as it has them;
        on a branch, those that differ from where it left the default branch of origin."""
        try:
            base, _ = await self.resolve("origin/HEAD", "HEAD", from_fork_point=True)
        except RefusedError:
            base, _ = await self.resolve("HEAD", "HEAD", from_fork_point=False)
        (prefix,) = self._from_top(directory, ["."])
        listing = await self.listing(base, "" if prefix == "." else prefix)
        differing = {
            path: blob
            for path, (mode, blob) in listing.items()
            if mode in _FILES and path in files and blob != _blob_id(files[path])
        }
        blobs = await self._blobs(set(differing.values()))
        return {path: data for path, blob in differing.items() if isinstance(data := blobs.get(blob), bytes)}

    async def earlier(self, directory: str, lengths: Mapping[str, int]) -> dict[str, list[bytes]]:
        """For files of ``directory`` (relative to it), their versions in the history of HEAD that have this length."""
        if not lengths:
            return {}
        full = self._from_top(directory, lengths)
        arguments = ("--format=", "--raw", "-z", "--no-abbrev", "--no-renames", f"--max-count={_COMMITS}", "HEAD", "--")
        fields = (await self._git("--literal-pathspecs", "log", *arguments, *full)).split(b"\0")
        versions: dict[str, set[str]] = {}
        for about, path in itertools.pairwise(fields):
            if match := _VERSIONS.fullmatch(about):
                versions.setdefault(path.decode("utf-8", "backslashreplace"), set()).update(
                    identity.decode() for identity in match.groups() if identity.strip(b"0")
                )
        names = "".join(f"{identity}\n" for identity in sorted(set().union(*versions.values()))).encode()
        about_blobs = await self._git("cat-file", "--batch-check=%(objectname) %(objectsize)", stdin=names)
        sizes = dict(line.split(" ", 1) for line in about_blobs.decode().splitlines())
        fit = {
            path: [identity for identity in versions.get(path, ()) if sizes.get(identity) == str(lengths[name])]
            for path, name in full.items()
        }
        blobs = await self._blobs({identity for identities in fit.values() for identity in identities})
        return {
            full[path]: [blob for identity in identities if isinstance(blob := blobs.get(identity), bytes)]
            for path, identities in fit.items()
        }

    async def naming(self, directory: str, words: Sequence[str]) -> dict[str, str]:
        """The files of the whole working tree that hold one of the words, in any case, or have it in their path. None
        of those that git ignores. By their path relative to ``directory``."""
        patterns = [argument for word in words for argument in ("-e", word)]
        arguments = ("-I", "--untracked", "--files-with-matches", "-z", "--ignore-case", "--fixed-strings")
        holding = await self._git("grep", *arguments, *patterns, accepted=(0, 1))
        listed = await self._git("ls-files", "-z", "--cached", "--others", "--exclude-standard")
        lower = [word.lower().encode() for word in words]
        called = [name for name in listed.split(b"\0") if any(word in name.lower() for word in lower)]
        (prefix,) = self._from_top(directory, ["."])
        names = [os.fsdecode(name) for name in sorted({*holding.split(b"\0"), *called}) if name]
        return {posixpath.relpath(f"/{name}", f"/{prefix}"): f"{self.top}/{name}" for name in names}

    async def values_of(self, head: str, recipient: str) -> tuple[dict[str, float], frozenset[str]]:
        """When each encrypted value of the history of ``head`` first appeared (epoch seconds, by the beginning of its
        iv), and which of them were ever in a file for the public key ``recipient``. Raises RefusedError for a shallow
        clone, which knows too little."""
        if (await self._git("rev-parse", "--is-shallow-repository")).strip() == b"true":
            hint = "Fetch the rest: `git fetch --unshallow`"
            raise RefusedError("is a shallow clone, without the whole history", where=self.top, hint=hint)
        blobs = blobs_of_log(await self._git(*log_command(head, None, "")[1:]))
        sizes = await self._git("cat-file", "--batch-check", stdin=b"".join(name + b"\n" for name in blobs))
        first_seen: dict[str, float] = {}
        known: dict[str, float] = {}
        for portion in portions(sizes):
            names = b"".join(name + b"\n" for name in portion)
            files = await self._git("cat-file", "--batch", stdin=names, most=MAX_TOTAL)
            take_in(files, blobs, first_seen)
            take_in(files, blobs, known, holding=recipient.encode())
        return first_seen, frozenset(known)

    async def trailers(self, head: str, name: str) -> list[str]:
        """The values of a trailer in the commits up to ``head``, newest first; also where a squash merge has indented
        it, or put other text below it."""
        pattern = f"--grep=^[[:space:]]*{name}: "
        lines = (await self._git("log", "--format=%B", "--extended-regexp", pattern, head)).decode(errors="replace")
        values = (line.strip().partition(f"{name}: ") for line in lines.splitlines())
        return [value for before, separator, value in values if separator and not before]

    def _from_top(self, directory: str, paths: Iterable[str]) -> dict[str, str]:
        prefix = os.path.relpath(os.path.realpath(directory), self.top)
        return {os.path.normpath(os.path.join(prefix, path)): path for path in paths}

    def _reason(self, path: str, modes: Mapping[str, bytes], ignored: Mapping[str, str]) -> str:
        parents = [path[:end] for end, character in enumerate(path) if character == "/"]
        for parent in parents:
            if modes.get(parent) == b"160000" or os.path.exists(os.path.join(self.top, parent, ".git")):
                return f"it is in another repository or a submodule ({parent})"
        if path in ignored:
            return f"{IGNORED} ({ignored[path]})"
        return f"it is not added to git: `git add {path}`"

    async def _ignored(self, paths: Iterable[str]) -> dict[str, str]:
        """Each ignored path → "FILE, line N" of the pattern that hides it."""
        names = "".join(f"{path}\0" for path in paths).encode("utf-8", "surrogateescape")
        if not names:
            return {}
        # -n prints the others as well. It exits 1 where nothing is ignored; -v adds where the pattern is.
        arguments = ("check-ignore", "--no-index", "-z", "-v", "-n", "--stdin")
        fields = (await self._git(*arguments, stdin=names, accepted=(0, 1))).decode("utf-8", "replace").split("\0")
        records = zip(fields[0::4], fields[1::4], fields[2::4], fields[3::4], strict=False)
        return {
            path: f"{source}, line {line}" for source, line, pattern, path in records if source and pattern[0] != "!"
        }

    async def read(self, commit: str, path: str) -> bytes | None:
        """The regular file at ``path``, or None."""
        output = await self._git("--literal-pathspecs", "ls-tree", "-z", "--full-tree", commit, "--", path)
        match = _ENTRY.fullmatch(output.rstrip(b"\0"))
        if match is None or match[1].decode() not in _FILES:
            return None
        blob = (await self._blobs([match[3].decode()])).get(match[3].decode())
        return blob if isinstance(blob, bytes) else None

    async def listing(self, commit: str, path: str) -> dict[str, tuple[str, str]]:
        """Each path relative to ``path`` → (mode, object id). Raises RefusedError for more than MAX_FILES."""
        output = await self._git("ls-tree", "-r", "-z", "--full-tree", commit, "--", *([f"{path}/"] if path else []))
        listing = {}
        for record in output.split(b"\0"):
            if match := _ENTRY.fullmatch(record):
                name = match[4].decode("utf-8", "backslashreplace")
                listing[name.removeprefix(f"{path}/") if path else name] = (match[1].decode(), match[3].decode())
        if len(listing) > MAX_FILES:
            raise RefusedError(f"more than {MAX_FILES} files", where=path, hint="Name a directory: --path")
        return listing

    async def _blobs(self, ids: Iterable[str]) -> dict[str, bytes | str]:
        """Each blob's bytes, or the reason why they are not used."""
        names = "".join(f"{git_object}\n" for git_object in sorted(ids)).encode()
        if not names:
            return {}
        try:
            objects = parse_batch(await self._git("cat-file", "--batch", stdin=names, most=MAX_TOTAL))
        except DamagedError as error:
            raise OutsideError(f"the clone is damaged: {error}", where=self.top, hint="See `git fsck`") from None
        blobs: dict[str, bytes | str] = {}
        for identity, git_object in objects.items():
            if isinstance(git_object, Blob):
                blobs[identity] = "a Git LFS pointer" if git_object.data.startswith(LFS_POINTERS) else git_object.data
            elif isinstance(git_object, RefusedObject):
                blobs[identity] = f"not usable: {git_object.reason}"
        return blobs

    async def _git(
        self, *arguments: str, stdin: bytes | None = None, most: int = _LIST, accepted: Sequence[int] = (0,)
    ) -> bytes:
        limits = process.Limits(timeout=_TIMEOUT, stdout=most)
        try:
            done = await process.run(["git", *arguments], env=self._env, limits=limits, stdin=stdin, cwd=self.top)
        except process.MissingProgramError:
            raise OutsideError("git is not installed", hint="`apt-get install git`") from None
        if done.overflowed:
            raise RefusedError(f"more than {most // process.MIB} MiB", where=self.top, hint="See --path")
        if not done.ok and done.exit_code not in accepted:
            failure = f"`git {arguments[0]}` failed" + (" (timed out)" if done.timed_out else "")
            last_line = (
                sanitized(done.stderr.decode(errors="replace").strip().splitlines()[-1]) if done.stderr.strip() else ""
            )
            raise OutsideError(
                f"{failure}{': ' if last_line else ''}{last_line}", where=self.top, hint="See `git fsck`"
            )
        return done.stdout


def _versions(
    stages: Mapping[int, str], contents: Mapping[str, bytes]
) -> tuple[bytes | None, bytes | None, bytes | None]:
    base, ours, theirs = (contents.get(stages.get(stage, "")) for stage in (1, 2, 3))
    return base, ours, theirs


def _blob_id(data: bytes) -> str:
    """git's name for a file of this content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _find(directory: str) -> tuple[str, str]:
    """The top of the work tree around ``directory``, and its git directory, without running git."""
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
            raise RefusedError("is not in a git repository", where=directory, hint=hint)


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
