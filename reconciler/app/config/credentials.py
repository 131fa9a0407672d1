"""Credentials that systemd gives the service (LoadCredential=), as the server configuration names them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from reconciler.core.errors import ConfigError
from reconciler.core.text import listed

CREDENTIALS = "${CREDENTIALS_DIRECTORY}"


def expand_credentials(path: str) -> str:
    """The path with the directory of the credentials in place of its name; as it is where that is unknown."""
    directory = os.environ.get("CREDENTIALS_DIRECTORY", "")
    return path.replace(CREDENTIALS, directory, 1) if directory.startswith("/") else path


def require_credentials(settings: Mapping[str, Any]) -> None:
    """Raises ConfigError where one of the settings names a credential, and nothing says where those are."""
    if unknown := list(_unexpanded(settings)):
        hint = (
            "Let the unit load it (LoadCredential=, docs/systemd.md). A command needs `export "
            "CREDENTIALS_DIRECTORY=/run/credentials/reconciler.service`, while the service runs"
        )
        raise ConfigError(
            f"{CREDENTIALS} is used, but not set", where=listed(unknown), hint=hint, id="credentials-not-set"
        )


def _unexpanded(settings: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _unexpanded(value, f"{prefix}{name}.")
        elif name.endswith("_file") and isinstance(value, str) and value.startswith(CREDENTIALS):
            yield prefix + name
