"""Revisions, their blobs, and reverts in git."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class GitRevert(StrEnum):
    """What a rollback does in git."""

    PUSH = "push"
    BRANCH = "branch"
    OFF = "off"


class Verify(StrEnum):
    """Which commits must carry a good signature before their revision is accepted."""

    NONE = "none"
    TIP = "tip"
    RANGE = "range"


@dataclass(frozen=True, slots=True)
class Revision:
    """One commit, and the id of the environment's subtree in it (equal subtree: nothing changed here)."""

    commit: str
    subtree: str
    author: str = ""
    committed_at: float = 0.0
    subject: str = ""

    @property
    def short(self) -> str:
        return self.commit[:12]


@dataclass(frozen=True, slots=True)
class Blob:
    """A file in git: its object id and its bytes (ciphertext, or plain)."""

    id: str
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class RevertRequest:
    """What to undo in git, and why: the commits in (``good`` .. ``failed``] that touch ``directory``.

    ``good`` and ``failed`` are commit ids; ``directory`` is the environment's in the repository; ``run`` and ``host``
    are where it failed.
    """

    environment: str
    directory: str
    failed: str
    good: str
    host: str
    run: str
    reason: str


class RevertState(StrEnum):
    """How far a revert in git has come.

    ``pending``: git has not answered yet, will retry; ``pushed``: by us; ``overtaken``: the branch no longer has
    the failed revision (another server reverted it, or somebody changed it); ``refused``: an operator must act.
    """

    PENDING = "pending"
    PUSHED = "pushed"
    OVERTAKEN = "overtaken"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Reverted:
    """The result of a revert: pushed (``commit`` is now the head of ``branch``), overtaken or refused; and why."""

    state: RevertState
    branch: str
    commit: str
    reason: str
