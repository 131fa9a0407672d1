"""The part of the server configuration that the engine decides by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from reconciler.core.model.revisions import GitRevert, Verify


@dataclass(frozen=True, slots=True)
class PromotionGate:
    """An environment gets a revision once these ``units`` (staging@web-1) have been healthy with it for ``seconds``."""

    units: tuple[str, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Settings:
    """Durations in seconds.

    ``promotion`` gives the gate of an environment by its name.
    ``git_may_change`` gives by stack (NAME or ENVIRONMENT/NAME) what of its project git may change through variables.
    """

    repository_path: str = "envs"
    branch: str = "main"
    allowed_paths: tuple[str, ...] = ()
    allow_compose_files: bool = False
    git_may_change: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    accept_rewrites: bool = False
    verify: Verify = Verify.NONE
    host: str = ""
    git_revert: GitRevert = GitRevert.OFF
    max_reverts_per_day: int = 3
    keep_backups: int = 50
    backup_max_age: float = 90 * 86400.0
    drift_interval: float = 60.0
    promotion: Mapping[str, PromotionGate] = field(default_factory=dict)
