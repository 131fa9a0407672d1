"""The version of the sops binary, remembered over restarts: starting it only to ask would be most of an idle start."""

from __future__ import annotations

import contextlib
import json
import os
import secrets

_ELF = b"\x7fELF"


class KnownVersion:
    """Remembers in ``path`` ("": nowhere) which version a binary has, for as long as its file stays as it is."""

    def __init__(self, path: str) -> None:
        self._path = path

    def of(self, binary: str) -> str:
        """The version; "" where it is not known."""
        with contextlib.suppress(OSError, ValueError, TypeError), open(self._path, encoding="utf-8") as file:
            mark, version = json.load(file)
            if mark and mark == _mark(binary) and isinstance(version, str):
                return version
        return ""

    def remember(self, binary: str, version: str) -> None:
        """Best effort: where it cannot be written, the binary is asked again. A script is not remembered: what it
        starts may change while it does not."""
        if not self._path or (mark := _mark(binary)) is None:
            return
        new = f"{self._path}.new-{secrets.token_hex(4)}"
        with contextlib.suppress(OSError):
            with open(new, "x", encoding="utf-8") as file:
                json.dump([mark, version], file)
            os.replace(new, self._path)


def _mark(binary: str) -> list[str | int] | None:
    with contextlib.suppress(OSError), open(binary, "rb") as file:
        status = os.fstat(file.fileno())
        if file.read(len(_ELF)) == _ELF:
            path = os.path.realpath(binary)
            return [path, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]
    return None
