"""What `check`, `diff` and `compare` do: functions from the command's arguments to plain data, without any server."""

from __future__ import annotations

import os

from reconciler.core.errors import RefusedError


def must_exist(option: str, file: str | None) -> None:
    if file is not None and not os.path.isfile(file):
        more = " or SOPS_AGE_KEY_FILE" if option == "--age-key-file" else ""
        raise RefusedError("there is no such file", where=f"{option} {file}", hint=f"Correct {option}{more}")


def inside_repository(path: str) -> str:
    """A path of the repository, "" for its top. Raises RefusedError for one that leads out of it."""
    clean = os.path.normpath(path)
    if os.path.isabs(clean) or clean.split(os.sep)[0] == "..":
        raise RefusedError("is not a path inside the repository", where=path, hint="Such as --path envs")
    return "" if clean == "." else clean
