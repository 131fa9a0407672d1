"""Which files Compose looks for in a directory by itself."""

from __future__ import annotations

BASE_NAMES = ("compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml")
OVERRIDE_NAMES = tuple(
    f"{stem}.override.{suffix}" for stem in ("compose", "docker-compose") for suffix in ("yml", "yaml")
)
DEFAULT_NAMES = (*BASE_NAMES, *OVERRIDE_NAMES)
ENVIRONMENT_NAME = ".env"
