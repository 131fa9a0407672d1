"""`reconciler diff`: from its arguments to the difference between two commits, without any server."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from reconciler.app.wiring import clone
from reconciler.app.wiring.arguments import inside_repository, must_exist
from reconciler.app.wiring.tools import CountProgress
from reconciler.core.errors import OutsideError, RefusedError

if TYPE_CHECKING:
    from reconciler.app.diff.diff import CommitDiff


def diff_commits(
    span: str, path: str, environments: Sequence[str], key_file: str | None, progress: CountProgress
) -> CommitDiff:
    """The changes below ``path`` in the repository around the working directory, for ``span``: BASE..HEAD,
    BASE...HEAD (since they forked), or BASE alone for BASE..HEAD.

    Raises RefusedError, OutsideError, KeyUnavailableError, DecryptFailedError.
    """
    return asyncio.run(_diff(span, path, environments, key_file, progress))


async def _diff(
    span: str, path: str, environments: Sequence[str], key_file: str | None, progress: CountProgress
) -> CommitDiff:
    from reconciler.app.diff.diff import compare_commits

    must_exist("--age-key-file", key_file)
    repository = clone.Clone(os.getcwd())
    base, dots, head = span.partition("...") if "..." in span else span.partition("..")
    directory = inside_repository(path)
    commits = await repository.resolve(base or "HEAD", head or "HEAD", from_fork_point=dots == "...")
    before, after = await repository.trees(commits, directory)
    if not before.files and not after.files:
        hint = "Name the directory of the environments with --path"
        raise RefusedError("does not exist in either commit", where=path, hint=hint)
    tools = clone.tools(clone.key_sources(key_file), progress)
    return await compare_commits(*commits, (before, after), directory, tools, environments)


def pushed_span() -> str:
    """The commits about to be pushed as BASE...HEAD: from pre-commit, else all that origin's default branch lacks; ""
    if there is nothing to compare with, as at the first push."""
    base, head = os.environ.get("PRE_COMMIT_FROM_REF", ""), os.environ.get("PRE_COMMIT_TO_REF", "")
    base = base if base.strip("0") else "origin/HEAD"  # zeros stand for a new branch
    span = f"{base}...{head if head.strip('0') else 'HEAD'}"
    first, _, last = span.partition("...")
    try:
        asyncio.run(clone.Clone(os.getcwd()).resolve(first, last, from_fork_point=True))
    except (RefusedError, OutsideError):
        return ""
    return span
