"""Which files Compose looks for in a directory by itself, and what names are without its project."""

from __future__ import annotations

import re

BASE_NAMES = ("compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml")
OVERRIDE_NAMES = tuple(
    f"{stem}.override.{suffix}" for stem in ("compose", "docker-compose") for suffix in ("yml", "yaml")
)
DEFAULT_NAMES = (*BASE_NAMES, *OVERRIDE_NAMES)
ENVIRONMENT_NAME = ".env"
# With these in its environment, Compose fetches nothing that a compose file includes, whatever its `.env` says.
OFFLINE = {"COMPOSE_EXPERIMENTAL_GIT_REMOTE": "false", "COMPOSE_EXPERIMENTAL_OCI_REMOTE": "false"}


def without_project(text: str, project: str, directory: str) -> str:
    """Given a text, return it without the project's name before other names, and with paths relative to its
    directory."""
    if directory != "/":
        text = re.sub(rf"{re.escape(directory)}(?=[/:\s\"]|$)", ".", text)
    return re.sub(rf"(?<![\w./-]){re.escape(project)}[_-](?=\w)", "", text) if project else text
