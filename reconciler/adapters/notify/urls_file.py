"""The file that lists who gets notifications: one apprise URL a line. The URLs hold tokens; nothing quotes them."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from urllib.parse import urlsplit

from reconciler.core.decide.private_files import is_exposed
from reconciler.core.errors import ConfigError
from reconciler.core.ports.notifications import Receiver
from reconciler.core.secret import Secret
from reconciler.core.text import printable

_ID = "notification-urls"
_MAX_BYTES = 256 * 1024
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9]{0,19})://")
# Of these the host is that of a server. Elsewhere a token or a topic is in its place.
_WITH_HOST = frozenset({"json", "jsons", "xml", "xmls", "form", "forms", "mailto", "mailtos"})


def read_receivers(path: str, credentials: str = "") -> tuple[Receiver, ...]:
    """Given the file's path, and the directory of systemd's credentials, return the receivers, at least one.

    Raises ConfigError where it cannot be read, others may read it, or a line is no URL.
    """
    try:
        with open(path, "rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        hint = "Create it (docs/notifications.md), readable for the daemon's user, or correct notifications.urls_file"
        raise ConfigError(f"cannot be read ({os.strerror(error.errno or 0)})", where=path, hint=hint, id=_ID) from error
    if is_exposed(path, mode, credentials):
        hint = f"`chmod 0600 {path}`"
        raise ConfigError(f"has mode {mode:04o}: others may read its tokens", where=path, hint=hint, id=_ID)
    if len(data) > _MAX_BYTES:
        raise ConfigError("is larger than 256 KiB", where=path, hint="List one apprise URL a line", id=_ID)
    receivers = tuple(_receivers(path, data))
    if not receivers:
        raise ConfigError("lists no URL", where=path, hint="Write one apprise URL a line", id=_ID)
    return receivers


def _receivers(path: str, data: bytes) -> Iterator[Receiver]:
    seen = set()
    for number, line in enumerate(data.splitlines(), 1):
        url = line.strip()
        if not url or url.startswith(b"#"):
            continue
        try:
            text = url.decode()
        except UnicodeDecodeError:
            text = ""
        scheme = _SCHEME.match(text)
        if not scheme or printable(text) != text:
            hint = "Write one apprise URL a line, such as mailto://… or slack://…"
            raise ConfigError("is not a URL", where=f"{path}:{number}", hint=hint, id=_ID)
        if url not in seen:
            seen.add(url)
            yield Receiver(number, _name(text, scheme[1].lower()), Secret(url))


def _name(url: str, scheme: str) -> str:
    """The scheme, and the host where it cannot be, or hold, anything secret."""
    if scheme not in _WITH_HOST:
        return scheme
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        return scheme
    certain = "@" not in url[url.index("://") + 3 + len(parts.netloc) :] and re.fullmatch(r"[a-z0-9.:-]+", host)
    return f"{scheme}://{host}" if certain else scheme
