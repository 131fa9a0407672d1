"""A machine, or a place on it, as a person names it: ssh://user@host[:port][/path], file:PATH, here:."""

from __future__ import annotations

import os
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from reconciler.app.local_wiring import SshAddress
from reconciler.core.errors import RefusedError
from reconciler.core.words import printable

_FORMS = "Write ssh://user@host[:port]/path, ssh://user@host for all of its Compose projects, file:PATH, or here:"


@dataclass(frozen=True, slots=True)
class Side:
    """``text`` as it was typed; ``address`` None is this machine; ``path`` None is every Compose project there."""

    text: str
    address: SshAddress | None
    path: str | None


def parse(text: str) -> Side:
    """Raises RefusedError for what is none of the forms."""
    if text == "here:":
        return Side(text, None, None)
    if text.startswith("file:") and len(text) > len("file:"):
        return Side(text, None, os.path.abspath(os.path.expanduser(text.removeprefix("file:"))))
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port or 22
    except ValueError:
        raise _wrong(text) from None
    if parts.scheme != "ssh" or not host or host.startswith("-") or parts.query or parts.fragment:
        raise _wrong(text)
    if parts.password is not None:
        raise RefusedError("an address holds no password", hint="ssh logs in with a key, or with the agent")
    path = unquote(parts.path).rstrip("/")
    return Side(text, SshAddress(host, port, parts.username or "", personal=True), path or None)


def _wrong(text: str) -> RefusedError:
    return RefusedError(f"{printable(text)!r} is no place to import from", hint=_FORMS)
