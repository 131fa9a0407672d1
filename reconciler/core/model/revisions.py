"""What git says: revisions, their blobs, and how one is reverted."""

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
    """One commit, and the id of the environment's subtree in it (equal subtree: nothing changed for us)."""

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
    """What is to be undone in git, and why: the commits in (``good`` .. ``failed``] that touch ``directory``.

    ``good`` and ``failed`` are commit ids; ``directory`` is the environment's in the repository; ``run`` and ``host``
    say who asks.
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

    ``owed``: git did not answer yet, it is tried again; ``pushed``: by us; ``overtaken``: the branch no longer wants
    the failed revision (another server has reverted it, or a person has changed it); ``refused``: a person must act.
    """

    PENDING = "owed"
    PUSHED = "pushed"
    OVERTAKEN = "overtaken"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Reverted:
    """What became of a revert: pushed (``commit`` is now the head of ``branch``) or overtaken; and why, in words."""

    state: RevertState
    branch: str
    commit: str
    reason: str
