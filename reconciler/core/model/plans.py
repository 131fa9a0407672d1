"""What is decided for one environment: the state of each target, its change, and the plan."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from reconciler.core.model.compose import Action
from reconciler.core.model.revisions import Revision
from reconciler.core.model.targets import Target


class Kind(StrEnum):
    """What one target's three states amount to (the table in docs/architecture.md)."""

    IN_SYNC = "in_sync"
    CREATE = "create"
    FIRST_CONTACT = "first_contact"
    UPDATE = "update"
    DRIFT = "drift"
    CONFLICT = "conflict"
    ORPHAN = "orphan"
    NOT_OURS = "not_ours"


class Aspect(StrEnum):
    """In what way a live file (or, for stale, a container) differs from what git wants."""

    CONTENT = "content"
    MODE = "mode"
    OWNER = "owner"
    MISSING = "missing"
    COSMETIC = "cosmetic"
    STALE = "stale"


class SyncStatus(StrEnum):
    """One word for a target: how its live file stands to what git wants."""

    IN_SYNC = "in_sync"
    PENDING = "pending"
    DRIFTED = "drifted"
    HELD = "held"
    ORPHAN = "orphan"


class Effect(StrEnum):
    """What the pass does about a target."""

    NONE = "none"
    WRITE = "write"
    DELETE = "delete"
    HOLD = "hold"
    REPORT = "report"


@dataclass(frozen=True, slots=True)
class KeyChange:
    """Names of keys, sorted; never values. ``cosmetic``: other bytes, the same variables."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    cosmetic: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted({*self.added, *self.removed, *self.changed}))

    @property
    def empty(self) -> bool:
        """Whether a container could not tell the two files apart."""
        return not (self.added or self.removed or self.changed)


@dataclass(frozen=True, slots=True)
class TargetState:
    """The three states of one target, as observed. Digests are keyed; ``None`` means the thing is not there.

    ``last_path`` is where we last wrote; ``ownership_ok`` whether owner and group are as wanted (True where
    nothing is wanted).
    """

    target: Target
    desired: str | None
    live: str | None
    last: str | None
    live_mode: int | None = None
    last_mode: int | None = None
    ownership_ok: bool = True


@dataclass(frozen=True, slots=True)
class Change:
    """What was decided for one target, and why.

    ``keys`` are what the live file lacks of git's; ``by_hand`` what somebody has changed in it since we last wrote it,
    ``from_git`` what git has changed since then and waits. ``edited_at`` is when the live file was last written to.
    """

    target: Target
    kind: Kind
    effect: Effect
    reason: str
    aspects: frozenset[Aspect] = frozenset()
    keys: KeyChange = KeyChange()
    by_hand: KeyChange = KeyChange()
    from_git: KeyChange = KeyChange()
    edited_at: float | None = None

    @property
    def writes(self) -> bool:
        return self.effect in (Effect.WRITE, Effect.DELETE)

    @property
    def drifted(self) -> bool:
        """Whether somebody other than us moved the live file."""
        return self.kind in (Kind.DRIFT, Kind.CONFLICT)


@dataclass(frozen=True, slots=True)
class Plan:
    """Data only: what a reconciliation would do for one environment at one revision.

    ``notes`` are sentences about the stacks that were looked at: what keeps nothing from being done, and should be
    known.
    """

    environment: str
    revision: Revision
    changes: tuple[Change, ...]
    actions: tuple[Action, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def writes(self) -> tuple[Change, ...]:
        return tuple(change for change in self.changes if change.writes)

    @property
    def held(self) -> tuple[Change, ...]:
        return tuple(change for change in self.changes if change.effect is Effect.HOLD)

    @property
    def reported(self) -> tuple[Change, ...]:
        return tuple(change for change in self.changes if change.effect is Effect.REPORT)

    @property
    def empty(self) -> bool:
        return not self.writes and not self.actions
