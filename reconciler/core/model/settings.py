"""The part of the server configuration that the engine decides by."""

from __future__ import annotations

from dataclasses import dataclass

from reconciler.core.model.revisions import GitRevert, Verify


@dataclass(frozen=True, slots=True)
class Settings:
    """Durations in seconds."""

    repository_path: str = "envs"
    branch: str = "main"
    allowed_paths: tuple[str, ...] = ()
    allow_compose_files: bool = False
    accept_rewrites: bool = False
    verify: Verify = Verify.NONE
    host: str = ""
    git_revert: GitRevert = GitRevert.OFF
    max_reverts_per_day: int = 3
    keep_backups: int = 50
    backup_max_age: float = 90 * 86400.0
    drift_interval: float = 60.0
