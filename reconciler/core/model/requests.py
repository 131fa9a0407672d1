"""What the engine is asked to do, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum

from reconciler.core.errors import ReconcilerError
from reconciler.core.model.plans import KeyChange
from reconciler.core.model.revisions import Revision
from reconciler.core.model.runs import RunOrigin
from reconciler.core.model.targets import Target


class RequestKind(StrEnum):
    """What an operator can ask of an environment before its next reconciliation; ``plan`` only plans for a revision."""

    ROLLBACK = "rollback"
    UNPIN = "unpin"
    PAUSE = "pause"
    RESUME = "resume"
    RETRY = "retry"
    ACCEPT_REWRITE = "accept-rewrite"
    FORGET = "forget"
    PLAN = "plan"


@dataclass(frozen=True, slots=True)
class OperatorRequest:
    """``revision`` (a commit id; for a rollback, "" means the previous one) and ``reason`` are as typed.

    ``scope`` is what a pause covers: a target, a stack, or "" for the whole environment; it lasts ``seconds``. To
    forget is a target that left git, with its live file if ``delete``. ``requested_by`` is who asked, by the kernel's
    word.
    """

    kind: RequestKind
    revision: str = ""
    reason: str = ""
    scope: str = ""
    seconds: float = 0.0
    delete: bool = False
    requested_by: str = ""


HeldBack = Callable[[Revision], str]
"""Given a head, returns why it is not rolled out to this host yet; "" if it may be."""


def not_held_back(_: Revision) -> str:
    return ""


@dataclass(frozen=True, slots=True)
class GitAnswer:
    """What git has answered to a poll: the branch's ``commit``, which the mirror has now, or the ``error``.

    ``reports`` are those that a promotion gate waits for, by UNIT/SECONDS; None: not asked, or not answered.
    """

    commit: str = ""
    error: ReconcilerError | None = None
    reports: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class ReconcileRequest:
    """One reconciliation of one environment.

    ``poll`` asks git for a new head first, or takes the ``answer`` that it gave before; ``dry_run`` changes nothing
    live. ``take_over`` names targets (ENVIRONMENT/SOURCE) whose unknown live file may be replaced, ``accept_projects``
    stacks (ENVIRONMENT/NAME) whose project is accepted as it stands now, both by ``requested_by``, with the ``reason``
    that they gave; ``skip_promotion``: they let the head pass the promotion gate. ``operator`` is carried out first; if
    it is refused, nothing is reconciled. Without ``revert``, git is not asked to follow a rollback: see
    ``Reconciler.revert``.
    """

    trigger: str
    poll: bool = True
    answer: GitAnswer | None = None
    dry_run: bool = False
    take_over: Collection[str] = ()
    accept_projects: Collection[str] = ()
    requested_by: str = ""
    reason: str = ""
    skip_promotion: bool = False
    operator: OperatorRequest | None = None
    held_back: HeldBack = not_held_back
    revert: bool = True

    @property
    def origin(self) -> RunOrigin:
        who = self.operator or self
        return RunOrigin(self.trigger, who.requested_by, who.reason)

    def asks(self, kind: RequestKind) -> bool:
        return self.operator is not None and self.operator.kind is kind


@dataclass(frozen=True, slots=True)
class Adopted:
    """A live file, or ``keys`` of it (names), proposed for git: ``commit`` on ``branch``, on top of ``base``.

    ``whole``: the file has no keys that sops encrypts one by one.
    """

    target: Target
    branch: str
    commit: str
    base: Revision
    keys: KeyChange
    whole: bool


@dataclass(frozen=True, slots=True)
class Restored:
    """The live ``paths`` restored from the backup ``source``; what they replaced is in ``backup`` (both are ids)."""

    source: str
    paths: tuple[str, ...]
    backup: str


@dataclass(frozen=True, slots=True)
class KeyAge:
    """Since when (epoch seconds) a secret has its current value; None: it is empty, so no secret.

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


@dataclass(frozen=True, slots=True)
class SecretAges:
    """How old the secrets of an environment are at a revision."""

    revision: Revision
    targets: tuple[TargetAge, ...]
