"""How the sides of a comparison are named on the command line."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import unquote, urlsplit

from reconciler.core.errors import RefusedError
from reconciler.core.text import printable

ACCEPTED = "git:ENVIRONMENT[@REVISION], live:ENVIRONMENT, ssh://USER@HOST[:PORT]/PATH, file:PATH or container:SERVICE"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


class Kind(StrEnum):
    """Where a side is."""

    GIT = "git"
    LIVE = "live"
    SSH = "ssh"
    FILE = "file"
    CONTAINER = "container"


@dataclass(frozen=True, slots=True)
class SideName:
    """``text`` as it was typed. ``what`` is the environment, the service, or the absolute path (None: everything of a
    machine); ``revision`` is git's, ``host``, ``port`` and ``user`` are those of ssh."""

    text: str
    kind: Kind
    what: str | None
    revision: str = "HEAD"
    host: str = ""
    port: int = 22
    user: str = ""


def read_side(text: str) -> SideName:
    """Raises RefusedError for what names no side."""
    if text.startswith("ssh://"):
        return _ssh(text)
    kind, colon, rest = text.partition(":")
    if not colon or not rest or kind not in list(Kind) or kind == Kind.SSH:
        raise _refused(text, "names no side")
    if kind == Kind.FILE:
        return SideName(text, Kind.FILE, os.path.abspath(os.path.expanduser(rest)))
    if kind == Kind.CONTAINER:
        return SideName(text, Kind.CONTAINER, rest)
    name, at, revision = rest.partition("@")
    if not _NAME.fullmatch(name) or (at and (not revision or kind == Kind.LIVE)):
        raise _refused(text, "names no environment")
    return SideName(text, Kind(kind), name, revision or "HEAD")


def _ssh(text: str) -> SideName:
    try:
        parts = urlsplit(text)
        port = parts.port or 22
    except ValueError:
        raise _refused(text, "is no address") from None
    if not parts.hostname or parts.password is not None or parts.query or parts.fragment:
        raise _refused(text, "is no address")
    path = unquote(parts.path)
    if ".." in path.split("/"):
        raise _refused(text, "has '..' in its path")
    return SideName(
        text, Kind.SSH, path if path.strip("/") else None, host=parts.hostname, port=port, user=parts.username or ""
    )


def _refused(text: str, what: str) -> RefusedError:
    return RefusedError(f"{what}; accepted: {ACCEPTED}", where=printable(_without_password(text)))


def _without_password(text: str) -> str:
    return re.sub(r"(://[^/@:]*):[^/@]*@", r"\1:***@", text)
