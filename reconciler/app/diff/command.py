"""`reconciler diff`: from its arguments to the difference between two commits, without any server."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from reconciler.app.checks.run import Progress
from reconciler.app.wiring import clone as local_wiring
from reconciler.app.wiring.arguments import inside_repository, must_exist
from reconciler.core.errors import OutsideError, RefusedError

if TYPE_CHECKING:
    from reconciler.app.diff.diff import Difference


def diff_commits(
    span: str, path: str, environments: Sequence[str], key_file: str | None, progress: Progress
) -> Difference:
    """What changed below the directory ``path`` of the repository around the working directory, in ``span``:
    BASE..HEAD, BASE...HEAD (since they forked), or BASE alone for BASE..HEAD.

    Raises RefusedError, OutsideError, KeyUnavailableError, DecryptFailedError.
    """
    return asyncio.run(_diff(span, path, environments, key_file, progress))


async def _diff(
    span: str, path: str, environments: Sequence[str], key_file: str | None, progress: Progress
) -> Difference:
    from reconciler.app.diff.diff import difference

    must_exist("--age-key-file", key_file)
    clone = local_wiring.clone(os.getcwd())
    base, dots, head = span.partition("...") if "..." in span else span.partition("..")
    directory = inside_repository(path)
    commits = await clone.resolve(base or "HEAD", head or "HEAD", from_fork_point=dots == "...")
    before, after = await clone.trees(commits, directory)
    if not before.files and not after.files:
        hint = "Name the directory that holds the environments: --path"
        raise RefusedError("there is nothing in either commit", where=path, hint=hint)
    tools = local_wiring.tools(key_file, progress)
    return await difference(*commits, (before, after), directory, tools, environments)


def pushed_span() -> str:
    """The commits about to be pushed as BASE...HEAD: as pre-commit tells, else all that origin's default branch lacks;
    "" where there is nothing to compare with, as at the first push."""
    base, head = os.environ.get("PRE_COMMIT_FROM_REF", ""), os.environ.get("PRE_COMMIT_TO_REF", "")
    base = base if base.strip("0") else "origin/HEAD"  # zeros stand for a branch that is not there yet
    span = f"{base}...{head if head.strip('0') else 'HEAD'}"
    first, _, last = span.partition("...")
    try:
        asyncio.run(local_wiring.clone(os.getcwd()).resolve(first, last, from_fork_point=True))
    except (RefusedError, OutsideError):
        return ""
    return span
