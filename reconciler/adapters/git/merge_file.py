"""Merges three versions of a plain text file line by line, as git itself does."""

from __future__ import annotations

import os

from reconciler.adapters import process
from reconciler.core.errors import OutsideError

_LIMITS = process.Limits(timeout=60.0, stdout=64 * process.MIB)
_MOST_CONFLICTS = 127  # git merge-file exits with their number; above, it failed


async def merge_text_files(ours: str, base: str, theirs: str) -> tuple[bytes, bool]:
    """Given the paths of three files, return the merged text, and whether it is free of conflicts. Raises
    OutsideError."""
    labels = [argument for label in ("ours", "base", "theirs") for argument in ("-L", label)]
    env = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "HOME": "/nonexistent"}
    argv = ["git", "merge-file", "-p", *labels, "--", ours, base, theirs]
    try:
        done = await process.run(argv, env=env, limits=_LIMITS)
    except process.MissingProgramError:
        raise OutsideError("git is not installed", hint="`apt-get install git`") from None
    if not 0 <= done.exit_code <= _MOST_CONFLICTS or done.timed_out or done.overflowed:
        raise OutsideError("`git merge-file` failed", hint="Is it a text file?")
    return done.stdout, done.exit_code == 0
