"""What a reconciliation did: its outcome, run and backup."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from reconciler.core.model.compose import Action, StackHealth
from reconciler.core.model.plans import Plan
from reconciler.core.model.revisions import Revision
from reconciler.core.model.targets import Parser

# The id of a reason that no error class has.
ROLLBACK_FAILED = "rollback-failed"


class Result(StrEnum):
    """How a reconciliation of one environment ended. Only in the history: an operator request was carried out without
    one (``done``), a revision was refused before it became the target (``refused``), failing services are healthy
    again (``recovered``)."""

    APPLIED = "applied"
    IN_SYNC = "in_sync"
    CORRECTED = "corrected"
    HELD = "held"
    STALLED = "stalled"
    ROLLING_BACK = "rolling_back"
    ROLLED_BACK = "rolled_back"
    ROLLBACK_FAILED = "rollback_failed"
    FAILED = "failed"
    DONE = "done"
    REFUSED = "refused"
    RECOVERED = "recovered"


ENDS_NO_RECONCILIATION = (Result.DONE, Result.REFUSED, Result.RECOVERED)
"""The results that only the history has."""


class Phase(StrEnum):
    """The parts of a reconciliation that are timed."""

    FETCH = "fetch"
    LOAD = "load"
    OBSERVE = "observe"
    BACKUP = "backup"
    WRITE = "write"
    RECREATE = "recreate"
    VERIFY = "verify"
    ROLLBACK = "rollback"
    AGE = "age"


@dataclass(slots=True)
class Activity:
    """What a reconciliation is doing: since when (epoch seconds; None: nothing runs), in which phase, and in words.

    ``step_at``: when it last began or ended a phase, or looked at a service it waits for (monotonic seconds).
    ``health`` is that of its stacks when they were last looked at; None before that.
    """

    since: float | None = None
    phase: Phase | None = None
    words: str = ""
    step_at: float = 0.0
    health: tuple[StackHealth, ...] | None = None

    @contextlib.contextmanager
    def during(self, phase: Phase, words: str) -> Iterator[None]:
        """The phase while inside; a phase may be part of another one."""
        before = self.phase, self.words
        self.phase, self.words = phase, words
        try:
            yield
        finally:
            self.phase, self.words = before


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a reconciliation of one environment ended, and why, as a sentence (``reason``).

    ``plan`` is what had to be done, ``after`` the state now. ``retry``: it is worth repeating without a new revision.
    ``refused``: an operator request made no sense, so nothing was reconciled. ``error_id``: what docs/errors.md calls
    the reason, where it explains it; each line of ``warning`` ends with its own.
    """

    environment: str
    result: Result
    reason: str
    revision: Revision | None = None
    plan: Plan | None = None
    after: Plan | None = None
    run: str | None = None
    backup: str | None = None
    retry: bool = False
    warning: str = ""
    refused: bool = False
    error_id: str = ""


@dataclass(frozen=True, slots=True)
class RunChange:
    """One target's part of a run; ``stack`` is "" for a target of none.

    ``digest`` is the keyed digest of what the run writes to ``path``; None: it deletes the file. ``parser`` and
    ``ignore_keys`` are the target's: keys that are left to the server keep their value also in a rollback.
    ``in_place``: it writes into the file that is there. ``restored_from``, ``renamed_from`` and ``edited_by`` are as in
    Change.
    """

    source: str
    kind: str
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    stack: str = ""
    path: str = ""
    digest: str | None = None
    parser: Parser = Parser.OPAQUE
    ignore_keys: tuple[str, ...] = ()
    in_place: bool = False
    restored_from: str = ""
    renamed_from: str = ""
    edited_by: str = ""


@dataclass(frozen=True, slots=True)
class RunOrigin:
    """Why there is a run: the ``trigger`` of its reconciliation, or the kind of the request. Where an operator is
    behind it, who they are by the kernel's word, and their ``reason`` as typed."""

    trigger: str
    requested_by: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """One transaction, from ``begin`` to ``finish``; ``result`` is None while it is unfinished. Or a decision that is
    only in the history.

    Another process can resume it from this. ``failing`` names the services (stack/service) that were unhealthy before
    it, ``silent`` the URLs of health checks that did not answer then, ``unplaced`` the services with tasks that no node
    ran, once for every such task: it is not to blame for those. ``rolling_back``
    is why it is being rolled back; "" if it is not; ``restored_at`` when its services were recreated on the restored
    files (epoch seconds), 0 if they were not. ``accepted`` says who has accepted which project as it stood, or
    had a live file deleted. ``error_id`` is the id of the ``reason``, or of why it is being rolled back. The rest is as
    in RunOrigin.
    """

    id: str
    environment: str
    trigger: str
    started_at: float
    revision: Revision
    from_commit: str = ""
    backup: str = ""
    changes: tuple[RunChange, ...] = ()
    actions: tuple[Action, ...] = ()
    failing: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()
    unplaced: tuple[str, ...] = ()
    rolling_back: str = ""
    restored_at: float = 0.0
    accepted: tuple[str, ...] = ()
    finished_at: float | None = None
    result: Result | None = None
    reason: str = ""
    error_id: str = ""
    requested_by: str = ""
    request_reason: str = ""

    @property
    def reason_id(self) -> str:
        """The id of the ``reason``; of a rollback that failed and is retried, ``error_id`` stays that of its cause."""
        return ROLLBACK_FAILED if self.result is Result.ROLLBACK_FAILED else self.error_id

    @property
    def stacks(self) -> frozenset[str]:
        """The stacks it changes; "" for targets of none."""
        return frozenset({change.stack for change in self.changes} | {action.stack for action in self.actions})


@dataclass(frozen=True, slots=True)
class BackupEntry:
    """One file in a backup. ``file`` is its name in the backup's directory, None if there was no file."""

    source: str
    path: str
    file: str | None
    mode: int = 0
    uid: int = 0
    gid: int = 0
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Backup:
    """The files a run was about to change, as they were. ``id`` is the directory's name."""

    id: str
    environment: str
    run: str
    at: float
    from_commit: str
    to_commit: str
    entries: tuple[BackupEntry, ...]
