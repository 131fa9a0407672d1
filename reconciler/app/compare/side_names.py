"""The names of a comparison's sides on the command line."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import unquote, urlsplit

from reconciler.core.errors import RefusedError
from reconciler.core.text import printable

ACCEPTED = (
    "git:ENVIRONMENT[@REVISION], live:ENVIRONMENT[@HOST], ssh://USER@HOST[:PORT]/PATH, file:PATH or container:SERVICE"
)
_SSH_PORT = 22
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


class SideKind(StrEnum):
    """Where a side is read from."""

    GIT = "git"
    LIVE = "live"
    SSH = "ssh"
    FILE = "file"
    CONTAINER = "container"


@dataclass(frozen=True, slots=True)
class SideName:
    """``text`` as typed. ``subject`` is the environment, the service, or the absolute path (None: the whole machine);
    ``revision`` is for git; ``host``, ``port`` and ``user`` are for ssh. Of a live side, ``host`` is the name of one of
    the server's hosts, "" for this machine."""

    text: str
    kind: SideKind
    subject: str | None
    revision: str = "HEAD"
    host: str = ""
    port: int = _SSH_PORT
    user: str = ""

    @property
    def label(self) -> str:
        """What a metric calls it: as typed, or the machine alone, without a path."""
        if self.kind is not SideKind.SSH:
            return self.text
        return self.host if self.port == _SSH_PORT else f"{self.host}:{self.port}"


def read_side(text: str) -> SideName:
    """Parse the name of a side. Raises RefusedError if it is not one."""
    if text.startswith("ssh://"):
        return _ssh(text)
    kind, colon, rest = text.partition(":")
    if not colon or not rest or kind not in list(SideKind) or kind == SideKind.SSH:
        raise _refused(text, "is not a valid side")
    if kind == SideKind.FILE:
        return SideName(text, SideKind.FILE, os.path.abspath(os.path.expanduser(rest)))
    if kind == SideKind.CONTAINER:
        return SideName(text, SideKind.CONTAINER, rest)
    name, at, after = rest.partition("@")
    if not _NAME.fullmatch(name) or (at and not after):
        raise _refused(text, "is not a valid environment name")
    if kind == SideKind.LIVE:
        if at and not _NAME.fullmatch(after):
            raise _refused(text, "does not name a host after the @")
        return SideName(text, SideKind.LIVE, name, host=after)
    return SideName(text, SideKind.GIT, name, after or "HEAD")


def _ssh(text: str) -> SideName:
    try:
        parts = urlsplit(text)
        port = parts.port or _SSH_PORT
    except ValueError:
        raise _refused(text, "is not a valid address") from None
    if not parts.hostname or parts.password is not None or parts.query or parts.fragment:
        raise _refused(text, "is not a valid address")
    path = unquote(parts.path)
    if ".." in path.split("/"):
        raise _refused(text, "has '..' in its path")
    return SideName(
        text, SideKind.SSH, path if path.strip("/") else None, host=parts.hostname, port=port, user=parts.username or ""
    )


def _refused(text: str, problem: str) -> RefusedError:
    return RefusedError(f"{problem}; accepted: {ACCEPTED}", where=printable(_without_password(text)))


def _without_password(text: str) -> str:
    return re.sub(r"(://[^/@:]*):[^/@]*@", r"\1:***@", text)
