"""What a forge is asked for: statuses on commits, and one comment on a pull request."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Protocol


class CommitState(enum.StrEnum):
    PENDING = "pending"
    SUCCESS = "success"
    FAILURE = "failure"


@dataclass(frozen=True, slots=True)
class CommitStatus:
    """What a forge shows beside a commit: ``context`` names who says it ("reconciler/production@web-1"), ``summary`` is
    one line without a value, ``url`` the page with more ("" for none). A forge shortens a summary that is too long for
    it."""

    commit: str
    context: str
    state: CommitState
    summary: str
    url: str = ""


@dataclass(frozen=True, slots=True)
class PullRequest:
    """A pull or merge request. ``fork`` is whether its branch is in another repository than ``target`` is."""

    number: int
    branch: str
    head: str
    target: str
    fork: bool


class Forge(Protocol):
    """One repository at a forge. Every call raises ForgeError where the forge does not answer or refuses; its
    ``retry_after`` says when to ask again."""

    async def set_status(self, status: CommitStatus) -> None:
        """Show the status; one with the same commit and context replaces it."""

    async def open_pull_requests(self, target: str) -> tuple[PullRequest, ...]:
        """Those whose target is the branch ``target``."""

    async def merged_pull_request(self, commit: str, target: str) -> int | None:
        """The number of the pull request that brought the commit into the branch ``target``; None if there is none."""

    async def put_comment(self, number: int, marker: str, text: str) -> None:
        """Write the one comment of ours that holds ``marker`` on the pull request, or replace its text (Markdown).

        ``marker`` is not shown, and cannot be guessed by others: its first comment is ours. It consists of letters,
        digits and dashes.
        """

    async def examine(self) -> str:
        """Say what the credentials may do here, without changing anything. Raises ForgeError where they lack something
        that the other calls need."""


class ForgeMemory(Protocol):
    """What was reported to the forge, so that a restart loses nothing and repeats nothing. Durable when a call
    returns; raises StoreUnavailableError."""

    def status(self, context: str) -> CommitStatus | None:
        """The last status that the forge has taken in this context."""

    def remember_status(self, status: CommitStatus) -> None: ...

    def comment(self, subject: str) -> str:
        """What was last remembered of a comment; "" if nothing was."""

    def remember_comment(self, subject: str, digest: str) -> None: ...
