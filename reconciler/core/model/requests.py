"""What an operator asks for, and what comes of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from reconciler.core.model.plans import KeyChange
from reconciler.core.model.revisions import Revision
from reconciler.core.model.targets import Target


class OrderKind(StrEnum):
    """What a person may order an environment to do before its next pass; ``plan``: to look at another revision."""

    ROLLBACK = "rollback"
    UNPIN = "unpin"
    PAUSE = "pause"
    RESUME = "resume"
    RETRY = "retry"
    ACCEPT_REWRITE = "accept-rewrite"
    PLAN = "plan"


@dataclass(frozen=True, slots=True)
class Order:
    """A person's order; ``revision`` (a commit's id; for a rollback, "" for the one before) and ``reason`` as typed.

    ``scope`` is what a pause is about: a target, a stack, or "" for the whole environment; it lasts ``seconds``.
    """

    kind: OrderKind
    revision: str = ""
    reason: str = ""
    scope: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Adopted:
    """A live file, or ``keys`` of it (names), proposed for git: ``commit`` on ``branch``, on top of ``base``.

    ``whole``: the file has no keys to sops.
    """

    target: Target
    branch: str
    commit: str
    base: Revision
    keys: KeyChange
    whole: bool


@dataclass(frozen=True, slots=True)
class KeyAge:
    """Since when (epoch seconds) a secret has had the value it has; None: it is empty, and no secret.

    ``key`` is "" for a source that is one secret as a whole.
    """

    key: str
    at: float | None


@dataclass(frozen=True, slots=True)
class TargetAge:
    """How old the secrets of an encrypted target are, in the order of the file."""

    target: Target
    keys: tuple[KeyAge, ...]

    @property
    def oldest(self) -> float | None:
        return min((key.at for key in self.keys if key.at is not None), default=None)
