"""What is remembered of an environment between reconciliations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from reconciler.core.model.revisions import RevertState, Revision
from reconciler.core.model.targets import Target


@dataclass(frozen=True, slots=True)
class Applied:
    """What we last wrote to a target (or found already in place): the third of the three states.

    ``prune`` and ``stack`` are needed when the target has left git.
    """

    source: str
    path: str
    digest: str
    mode: int
    commit: str
    at: float
    stack: str | None = None
    prune: bool = False


@dataclass(frozen=True, slots=True)
class Orphan:
    """A live file whose target left git, seen so since ``at`` (epoch seconds), until it is gone or forgotten."""

    source: str
    path: str
    at: float


@dataclass(frozen=True, slots=True)
class RestoredFile:
    """What `restore` has last put at a live path: its digest, the id of the backup that had it, and when."""

    path: str
    digest: str
    backup: str
    at: float


@dataclass(frozen=True, slots=True)
class Pin:
    """The revision at which an operator holds an environment, why (in their words) and since when."""

    revision: Revision
    reason: str
    at: float


@dataclass(frozen=True, slots=True)
class Pause:
    """Until then (epoch seconds) nothing is written to a target or stack; ``scope`` as in OperatorRequest."""

    scope: str
    until: float
    reason: str
    at: float

    def covers(self, target: Target) -> bool:
        stack = f"{target.environment}/{target.stack}" if target.stack else None
        return self.scope in ("", target.id, stack)


@dataclass(frozen=True, slots=True)
class Quarantine:
    """A revision that broke a service: no revision with its subtree is applied again.

    ``revert`` is the state of its revert in git (None: there is none), ``revert_note`` that in words; it undoes the
    commits after the revision ``good``.
    """

    revision: Revision
    reason: str
    at: float
    run: str
    good: str = ""
    revert: RevertState | None = None
    revert_note: str = ""


@dataclass(frozen=True, slots=True)
class PromotionState:
    """What the promotion gate knows: ``reports``, by UNIT/SECONDS the commit that the unit has been healthy with for so
    long; since when it knows the head ``commit`` (epoch seconds), and the commit that an operator let pass
    (``skipped``)."""

    reports: Mapping[str, str] = field(default_factory=dict)
    commit: str = ""
    since: float = 0.0
    skipped: str = ""


_MOST_QUARANTINES = 49  # beside the newest


@dataclass(frozen=True, slots=True)
class EnvironmentRecord:
    """What is known of an environment between reconciliations.

    ``degraded`` is why a service is unhealthy on files that stay nevertheless; "" if none is. ``stopped`` gives, by
    stack ("" for targets of none), why it is suspended until an operator retries. ``reverts`` are the times (epoch
    seconds) of the last pushes of reverts. ``applied`` is in place but for targets that are held alone, ``whole`` the
    last one that was in place with every target. ``startups`` are the seconds that services took to become healthy the
    last time, by STACK/SERVICE; by STACK/ until all HTTP checks of a stack answered. ``cut_off`` are containers (ids)
    of no managed stack that shared a namespace with one that was touched. ``written_without_engine`` are live paths
    written while the engine did not answer: which services need a restart for them is not known yet. ``restored`` are
    the live files that `restore` has brought back, and nothing has been written to since.
    """

    name: str
    head: Revision | None = None
    applied: Revision | None = None
    healthy: Revision | None = None
    pin: Pin | None = None
    pauses: tuple[Pause, ...] = ()
    quarantines: tuple[Quarantine, ...] = ()
    degraded: str = ""
    stopped: Mapping[str, str] = field(default_factory=dict)
    reverts: tuple[float, ...] = ()
    whole: Revision | None = None
    startups: Mapping[str, float] = field(default_factory=dict)
    cut_off: tuple[str, ...] = ()
    written_without_engine: tuple[str, ...] = ()
    orphans: tuple[Orphan, ...] = ()
    restored: tuple[RestoredFile, ...] = ()
    promotion: PromotionState = field(default_factory=PromotionState)

    @property
    def desired(self) -> Revision | None:
        """The pinned revision, else the head of the branch."""
        return self.pin.revision if self.pin else self.head

    def quarantine_of(self, revision: Revision) -> Quarantine | None:
        return next((known for known in self.quarantines if known.revision.subtree == revision.subtree), None)

    @property
    def pending_revert(self) -> Quarantine | None:
        """The first quarantine that git has not followed yet."""
        return next((known for known in self.quarantines if known.revert is RevertState.PENDING), None)

    def quarantined(self, quarantine: Quarantine) -> EnvironmentRecord:
        """The record with this quarantine, which replaces an earlier one of the same subtree."""
        others = self.trusting(quarantine.revision).quarantines
        return replace(self, quarantines=(*others[-_MOST_QUARANTINES:], quarantine))

    def trusting(self, revision: Revision) -> EnvironmentRecord:
        """The record without a quarantine of the revision's subtree."""
        others = tuple(known for known in self.quarantines if known.revision.subtree != revision.subtree)
        return replace(self, quarantines=others)
