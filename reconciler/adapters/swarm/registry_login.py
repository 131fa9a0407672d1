"""Whether the docker command has credentials for an image's registry, by its own configuration. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

_HUB = "index.docker.io"
_HUB_NAMES = frozenset({_HUB, "docker.io", "registry-1.docker.io"})


def has_login(config: bytes | None, image: str) -> bool:
    """Given the command's config.json (None where there is none), return whether it has a login for the registry of the
    image, or asks a helper for one.

    Without one, `--with-registry-auth` would replace the credentials that the Swarm keeps by empty ones.
    """
    try:
        settings = json.loads(config or b"{}")
    except ValueError:
        return False
    if not isinstance(settings, dict):
        return False
    return bool(settings.get("credsStore")) or _registry(image) in _known(settings)


def _known(settings: Mapping[str, Any]) -> Iterator[str]:
    """The hosts with a login, or with a helper of their own."""
    for name in ("auths", "credHelpers"):
        entries = settings.get(name)
        if isinstance(entries, dict):
            yield from (_host(key) for key, entry in entries.items() if entry)


def _host(key: str) -> str:
    """Of a key, which may be an address: https://index.docker.io/v1/ for Docker Hub."""
    host = re.sub(r"^https?://", "", key).partition("/")[0]
    return _HUB if host in _HUB_NAMES else host


def _registry(image: str) -> str:
    first, slash, _ = image.partition("/")
    if not slash or not (re.search("[.:]", first) or first == "localhost"):
        return _HUB
    return _host(first)
