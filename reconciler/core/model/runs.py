"""What a reconciliation did: its run, outcome and backup."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from reconciler.core.model.compose import Action
from reconciler.core.model.plans import Plan
from reconciler.core.model.revisions import Revision
from reconciler.core.model.targets import Parser


class Result(StrEnum):
    """How a pass ended, for one environment."""

    APPLIED = "applied"
    IN_SYNC = "in_sync"
    CORRECTED = "corrected"
    HELD = "held"
    STALLED = "stalled"
    ROLLED_BACK = "rolled_back"
    ROLLBACK_FAILED = "rollback_failed"
    FAILED = "failed"


class Phase(StrEnum):
    """The parts of a pass that are timed."""

    FETCH = "fetch"
    OBSERVE = "observe"
    BACKUP = "backup"
    WRITE = "write"
    RECREATE = "recreate"
    VERIFY = "verify"
    ROLLBACK = "rollback"
    AGE = "age"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a pass ended for one environment; ``reason`` is one sentence a person can read.

    ``plan`` is what was to be done, ``after`` how things stand now. ``retry`` says that the same pass is worth
    repeating without a new revision; ``refused`` that it is the answer to an order that makes no sense: there was no
    pass.
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


@dataclass(frozen=True, slots=True)
class RunChange:
    """One target's part of a run; ``stack`` is "" for a target of none.

    ``digest`` is the keyed digest of what the run writes to ``path``; None: it deletes the file. ``parser`` and
    ``ignore_keys`` are the target's: keys that are left to the server keep their value when the file is put back, too.
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


@dataclass(frozen=True, slots=True)
class Run:
    """One transaction, from ``begin`` to ``finish``; ``result`` is None while it is unfinished.

    What follows is what a process that takes up another's unfinished run must know. ``failing`` names the services
    (stack/service) that were not healthy before it, ``silent`` the URLs of health checks that did not answer then:
    for those it is not to blame. ``rolling_back`` is why it is being undone; "" while it is not.
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
    rolling_back: str = ""
    finished_at: float | None = None
    result: Result | None = None
    reason: str = ""

    @property
    def stacks(self) -> frozenset[str]:
        """The stacks it has to do with; "" for targets of none."""
        return frozenset({change.stack for change in self.changes} | {action.stack for action in self.actions})


@dataclass(frozen=True, slots=True)
class BackupEntry:
    """One file in a backup. ``file`` is its name in the backup's directory, None where nothing was there."""

    source: str
    path: str
    file: str | None
    mode: int = 0
    uid: int = 0
    gid: int = 0
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Backup:
    """Everything a run was about to change, as it was. ``id`` is the directory's name."""

    id: str
    environment: str
    run: str
    at: float
    from_commit: str
    to_commit: str
    entries: tuple[BackupEntry, ...]
