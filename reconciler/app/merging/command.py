"""`reconciler merge-driver`, which git calls for each file that both sides have changed; and `reconciler merge`, which
merges such files once more, with decisions or with a key."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from reconciler.app.merging.merge import WHOLE, Versions, is_encrypted, merge_encrypted
from reconciler.app.wiring import clone
from reconciler.core.errors import KeyUnavailableError, OutsideError, RefusedError, SourceError
from reconciler.core.merging.lines import MergeSide
from reconciler.core.text import listed, printable

_MARKERS = (b"<<<<<<< ", b">>>>>>> ")
ALL = "*"


@dataclass(frozen=True, slots=True)
class MergedFile:
    """A file of the working tree that git had not merged. ``left`` is why it was left as it is; "" if it was merged."""

    path: str
    conflicts: tuple[str, ...] = ()
    problem: str = ""
    left: str = ""
    taken: int = 0

    @property
    def done(self) -> bool:
        return not (self.conflicts or self.problem or self.left)


async def run_driver(base: str, ours: str, theirs: str, path: str) -> MergedFile:
    """Merge the files at ``base``, ``ours`` and ``theirs`` into the one at ``ours``; the file is called ``path``.

    Raises OutsideError.
    """
    base, ours, theirs = map(_absolute, (base, ours, theirs))
    contents = [await asyncio.to_thread(_read, file) for file in (base, ours, theirs)]
    versions = Versions(path, *contents)
    if is_encrypted(versions):
        merged = await merge_encrypted(versions, await _keys(None, versions), {})
        data, result = merged.data, MergedFile(path, merged.conflicts, merged.problem, taken=merged.taken)
    elif any(b"\0" in content for content in contents):
        data = versions.ours
        result = MergedFile(path, left="is binary: take a side with `git checkout --ours` or `--theirs`")
    else:
        data, clean = await clone.merge_text_files(ours, base, theirs)
        result = MergedFile(path, left="" if clean else "both sides changed the same lines: resolve them in an editor")
    await asyncio.to_thread(_write, ours, data)
    return result


async def merge_unmerged(
    paths: Collection[str], decisions: Mapping[str, MergeSide], key_file: str | None
) -> tuple[MergedFile, ...]:
    """Merge the encrypted files that git has left unmerged (of ``paths``, or all) in the working tree.

    Raises RefusedError.
    """
    top = clone.work_tree_top(os.getcwd())
    unmerged = await clone.Clone(top).unmerged()
    named = {_from_top(path, top): path for path in paths}
    if unknown := [path for name, path in named.items() if name not in unmerged]:
        hint = f"Unmerged are: {listed(sorted(unmerged)) or 'none'}"
        raise RefusedError("is not in an unfinished merge", where=printable(unknown[0]), hint=hint)
    results = []
    for name, (base, ours, theirs) in unmerged.items():
        if named and name not in named:
            continue
        path = _from_here(top, name)
        if ours is None or theirs is None:
            results.append(MergedFile(path, left="one side has removed it: `git add` or `git rm` it"))
            continue
        versions = Versions(path, base or b"", ours, theirs)
        results.append(await _merge_in_place(versions, decisions, key_file))
    used = {key for result in results for key in result.conflicts}
    if not any(result.done for result in results) and (lost := sorted(set(decisions) - used - {ALL})):
        if not used:
            return tuple(results)
        hint = f"In conflict are: {listed(sorted(used))}"
        raise RefusedError("is no conflict", where=f"--resolve {lost[0]}", hint=hint)
    return tuple(results)


async def _merge_in_place(versions: Versions, decisions: Mapping[str, MergeSide], key_file: str | None) -> MergedFile:
    if not is_encrypted(versions):
        return MergedFile(versions.path, left="is not encrypted: resolve it with any editor")
    place = _absolute(versions.path)
    file = await clone.read_work_file(place)
    current = file.data.reveal()
    if current != versions.ours and not all(marker in current for marker in _MARKERS):
        return MergedFile(versions.path, left="has no conflict markers: somebody has resolved it")
    keys = await _keys(key_file, versions)
    merged = await merge_encrypted(versions, keys, decisions)
    if ALL in decisions and merged.conflicts:
        every = {**dict.fromkeys(merged.conflicts, decisions[ALL]), **decisions}
        merged = await merge_encrypted(versions, keys, every)
    if merged.data != current:
        await clone.replace_work_file(place, merged.data, file)
    return MergedFile(versions.path, merged.conflicts, merged.problem, taken=merged.taken)


async def _keys(key_file: str | None, versions: Versions) -> clone.Keys | None:
    """Our keys, if they open both sides."""
    sources = clone.key_sources(key_file) or clone.KeySources(files=(clone.default_key_file(),))
    keys = clone.Keys(sources)
    try:
        own = await keys.own()
    except KeyUnavailableError:
        return None
    recipients: list[Sequence[str]] = []
    for data in (versions.base, versions.ours, versions.theirs):
        try:
            recipients += [clone.read_encrypted(versions.path, data).metadata.age] if data else []
        except SourceError:
            return None
    return keys if all(map(own.may_open, recipients)) else None


def _from_top(path: str, top: str) -> str:
    return os.path.relpath(os.path.realpath(path), top)


def _from_here(top: str, name: str) -> str:
    return os.path.relpath(os.path.join(top, name))


def _absolute(path: str) -> str:
    return os.path.abspath(path)


def parse_decisions(texts: Sequence[str]) -> dict[str, MergeSide]:
    """``KEY=ours`` or ``KEY=theirs``, each; KEY may be * for all, and . for a file without keys. Raises
    RefusedError."""
    decisions = {}
    for text in texts:
        key, _, side = text.rpartition("=")
        if not key or side not in list(MergeSide):
            hint = f"Write KEY=ours or KEY=theirs; {ALL} is every key, {WHOLE} a file without keys"
            raise RefusedError("does not name a key and a side", where=f"--resolve {printable(text)}", hint=hint)
        decisions[key] = MergeSide(side)
    return decisions


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise OutsideError(f"cannot be read: {error.strerror}", where=path, hint=_BY_GIT) from None


def _write(path: str, data: bytes) -> None:
    """git's own temporary file, which it moves to its place. It is not created: git may have given up."""
    try:
        with open(path, "r+b") as file:
            file.truncate()
            file.write(data)
    except OSError as error:
        raise OutsideError(f"cannot be written: {error.strerror}", where=path, hint=_BY_GIT) from None


_BY_GIT = "git runs this command; `reconciler merge` merges what git left unmerged"
