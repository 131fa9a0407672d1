"""Reads a work tree into a Tree: regular files only, links not followed, within limits."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator

from reconciler.core.errors import RefusedError
from reconciler.core.sops.creation_rules import NAME as SOPS_CONFIG
from reconciler.core.sops.patterns import MAX_BYTES
from reconciler.core.tree import MAX_FILES, MAX_TOTAL, Tree

_DEEPEST = 32
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_SKIPPED = frozenset({".git"})
_KINDS = (
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISCHR, "a device"),
)


def read_tree(directory: str) -> Tree:
    """Everything below ``directory``, which may itself be a link: the user named it.

    Raises RefusedError where it is not a directory, cannot be read, or holds more than MAX_FILES or MAX_TOTAL.
    """
    try:
        top = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        hint = "Name the directory that holds the environments: `reconciler check PATH`"
        raise RefusedError(f"cannot be read ({_why(error)})", where=directory, hint=hint) from None
    reader = _Reader()
    try:
        reader.read(top, "", 0)
    finally:
        os.close(top)
    return Tree(reader.files, reader.odd, dict(_above(os.path.realpath(directory))))


def read_text_file(path: str) -> str | None:
    """The text of a regular file of at most MAX_BYTES, "" for binary data; None for anything else, and for what cannot
    be read."""
    try:
        with open(os.open(path, _FLAGS), "rb") as file:
            data = file.read(MAX_BYTES + 1) if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else None
    except OSError:
        return None
    if data is None or len(data) > MAX_BYTES:
        return None
    return "" if b"\0" in data else data.decode("utf-8", "replace")


class _Reader:
    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.odd: dict[str, str] = {}
        self._total = 0

    def read(self, directory: int, prefix: str, depth: int) -> None:
        with os.scandir(directory) as entries:
            names = sorted(entry.name for entry in entries)
        for name in names:
            path = prefix + os.fsencode(name).decode("utf-8", "backslashreplace")
            if len(self.files) + len(self.odd) >= MAX_FILES:
                hint = "Name the directory that holds the environments, and nothing else"
                raise RefusedError(f"more than {MAX_FILES} files", where=path, hint=hint)
            if name not in _SKIPPED:
                self._take(directory, name, path, depth)

    def _take(self, directory: int, name: str, path: str, depth: int) -> None:
        """Examine the entry, then open just that: a link or pipe that replaces it meanwhile is not followed."""
        try:
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                if depth >= _DEEPEST:
                    self.odd[path] = f"deeper than {_DEEPEST} directories"
                    return
                inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
                try:
                    self.read(inner, f"{path}/", depth + 1)
                finally:
                    os.close(inner)
            elif stat.S_ISREG(status.st_mode):
                self._read_file(directory, name, path)
            else:
                self.odd[path] = next((kind for is_kind, kind in _KINDS if is_kind(status.st_mode)), "not a file")
        except OSError as error:
            self.odd[path] = f"not readable ({_why(error)})"

    def _read_file(self, directory: int, name: str, path: str) -> None:
        with open(os.open(name, _FLAGS, dir_fd=directory), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise OSError(errno.EINVAL, "it was replaced")
            data = file.read(MAX_BYTES + 1)
        self._total += len(data)
        if self._total > MAX_TOTAL:
            hint = "Name the directory that holds the environments, and nothing else"
            raise RefusedError(f"the files have more than {MAX_TOTAL} bytes in total", where=path, hint=hint)
        if len(data) > MAX_BYTES:
            self.odd[path] = f"larger than {MAX_BYTES} bytes"
        else:
            self.files[path] = data


def _above(directory: str) -> Iterator[tuple[str, bytes]]:
    """The .sops.yaml files above, up to the top of the repository (or, outside of one, of the next directory)."""
    path, up = directory, ""
    while not os.path.exists(os.path.join(path, ".git")):
        path, child = os.path.dirname(path), path
        if path == child:
            return
        up += "../"
        candidate = os.path.join(path, SOPS_CONFIG)
        if os.path.isfile(candidate) and not os.path.islink(candidate):
            with open(candidate, "rb") as file:
                yield up + SOPS_CONFIG, file.read(MAX_BYTES)


def _why(error: OSError) -> str:
    return (error.strerror or "unknown reason").lower()
