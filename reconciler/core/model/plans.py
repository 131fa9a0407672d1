"""What is decided for one environment: the state of each target, its change, and the plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from reconciler.core.errors import common_id
from reconciler.core.model.compose import Action
from reconciler.core.model.revisions import Revision
from reconciler.core.model.targets import Target, WriteMode


class Kind(StrEnum):
    """How one target's three states relate (the table in docs/architecture.md)."""

    IN_SYNC = "in_sync"
    CREATE = "create"
    FIRST_CONTACT = "first_contact"
    UPDATE = "update"
    DRIFT = "drift"
    CONFLICT = "conflict"
    ORPHAN = "orphan"
    NOT_OURS = "not_ours"


LEFT_GIT = (Kind.ORPHAN, Kind.NOT_OURS)
"""The kinds of a target that git no longer names."""


class Aspect(StrEnum):
    """In what way a live file (or, for stale, a container) differs from git; restored: `restore` brought it there."""

    CONTENT = "content"
    MODE = "mode"
    OWNER = "owner"
    MISSING = "missing"
    COSMETIC = "cosmetic"
    STALE = "stale"
    RESTORED = "restored"


class SyncStatus(StrEnum):
    """How a target's live file relates to git, as one word."""

    IN_SYNC = "in_sync"
    PENDING = "pending"
    DRIFTED = "drifted"
    HELD = "held"
    ORPHAN = "orphan"


class Effect(StrEnum):
    """What the reconciliation does about a target."""

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

    @classmethod
    def between(cls, before: Mapping[str, object], after: Mapping[str, object]) -> KeyChange:
        """The keys that differ between two versions: key → value."""
        return cls(
            added=tuple(sorted(after.keys() - before.keys())),
            removed=tuple(sorted(before.keys() - after.keys())),
            changed=tuple(sorted(key for key in before.keys() & after.keys() if before[key] != after[key])),
        )

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted({*self.added, *self.removed, *self.changed}))

    @property
    def empty(self) -> bool:
        """Whether a container sees no difference between the two files."""
        return not (self.added or self.removed or self.changed)


@dataclass(frozen=True, slots=True)
class TargetState:
    """The three states of one target, as observed. Digests are keyed; ``None`` means that there is no file.

    ``ownership_ok``: owner and group are as desired, or the target names none. ``torn``: an interrupted run of ours has
    left the live file half written. ``restored_from`` is the id of the backup from which the live file, as it is, was
    restored. Of a target that left git, ``unreadable`` is why the live file cannot be read, and ``owner`` the
    environment that has its path now.
    """

    target: Target
    desired: str | None
    live: str | None
    last: str | None
    live_mode: int | None = None
    last_mode: int | None = None
    ownership_ok: bool = True
    torn: bool = False
    restored_from: str = ""
    unreadable: str = ""
    owner: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """What was decided for one target, and why.

    ``keys`` are the differences from the live file to git; ``by_hand`` what somebody changed in the live file since we
    last wrote it, ``from_git`` what changed in git since then. ``edited_at`` is when the live file was last written,
    ``edited_by`` who did that, as in Host.editor; "" where nobody did.
    ``alone``: it is held for a reason of its own (paused, on_drift is report, a conflicting writer), nothing else is.
    ``restored_from`` is as in TargetState. ``renamed_from`` is the source that the target had before, or that of the
    orphan whose content it takes over; then ``keys`` are the differences from that. ``moved_to`` is of such an orphan:
    the new target's id. ``error_id``: what docs/errors.md calls the reason; "" where nothing is held or reported.
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
    edited_by: str = ""
    alone: bool = False
    restored_from: str = ""
    renamed_from: str = ""
    moved_to: str = ""
    error_id: str = ""

    @property
    def writes(self) -> bool:
        return self.effect in (Effect.WRITE, Effect.DELETE)

    @property
    def in_place(self) -> bool:
        """Whether the file that is there gets the new content, instead of being replaced by a new file."""
        writes = self.effect is Effect.WRITE and Aspect.MISSING not in self.aspects
        return writes and self.target.write is WriteMode.IN_PLACE

    @property
    def drifted(self) -> bool:
        """Whether somebody else changed the live file."""
        return self.kind in (Kind.DRIFT, Kind.CONFLICT)

    @property
    def orphaned(self) -> bool:
        """Whether the live file stays although its target left git."""
        return self.kind in LEFT_GIT and not self.writes


@dataclass(frozen=True, slots=True)
class ServiceDrift:
    """A service that the engine itself keeps, as somebody changed it there by hand; or ``missing``: removed it.

    ``keys`` are the differences of its variables to the project, ``fields`` its other differences by name, ``details``
    the same in sentences with both sides. ``effect``: it is deployed again (write), stays (report), or waits (hold).
    """

    stack: str
    service: str
    effect: Effect
    reason: str
    keys: KeyChange = KeyChange()
    fields: tuple[str, ...] = ()
    details: tuple[str, ...] = ()
    missing: bool = False
    error_id: str = ""

    @property
    def waits(self) -> bool:
        """Whether it is left to an operator."""
        return self.effect in (Effect.HOLD, Effect.REPORT)


_FROM_GIT = (Kind.CREATE, Kind.UPDATE, Kind.CONFLICT, Kind.FIRST_CONTACT)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a reconciliation would do for one environment at one revision.

    ``notes`` are sentences about the stacks that were looked at: what keeps nothing from being done, and should be
    known. ``held_stacks`` are pairs of a stack's name and why nothing of it may be touched,
    ``held_ids`` the ids of these reasons. ``drifts`` are the services that somebody changed on the engine itself.
    """

    environment: str
    revision: Revision
    changes: tuple[Change, ...]
    actions: tuple[Action, ...] = ()
    notes: tuple[str, ...] = ()
    held_stacks: tuple[tuple[str, str], ...] = ()
    held_ids: tuple[str, ...] = ()
    drifts: tuple[ServiceDrift, ...] = ()

    @property
    def writes(self) -> tuple[Change, ...]:
        return tuple(change for change in self.changes if change.writes)

    @property
    def held(self) -> tuple[Change, ...]:
        return tuple(change for change in self.changes if change.effect is Effect.HOLD)

    @property
    def reported(self) -> tuple[Change, ...]:
        return tuple(change for change in self.changes if change.effect is Effect.REPORT and not change.orphaned)

    @property
    def orphans(self) -> tuple[Change, ...]:
        """The live files that stay although their targets left git: nothing waits for them."""
        return tuple(change for change in self.changes if change.orphaned)

    @property
    def waiting_drifts(self) -> tuple[ServiceDrift, ...]:
        """The services that stay as somebody changed them, but for those of stacks that are held anyway."""
        held = dict(self.held_stacks)
        return tuple(drift for drift in self.drifts if drift.waits and drift.stack not in held)

    @property
    def waiting_id(self) -> str:
        """The id of why something of it is left to an operator."""
        stacks = dict(self.held_stacks)
        left = [change.error_id for change in (*self.held, *self.reported) if change.target.stack not in stacks]
        left += [drift.error_id for drift in self.waiting_drifts]
        return common_id([*filter(None, [*self.held_ids, *left])])

    @property
    def waits(self) -> bool:
        """Whether something of it is left to an operator."""
        return bool(self.held or self.reported or self.held_stacks or self.waiting_drifts)

    @property
    def only_targets_wait(self) -> bool:
        """Whether git's revision is in place but for hand edits that stay and targets that are held alone: each has its
        own alert."""
        left = (*self.held, *self.reported)
        mine = all(change.kind is Kind.DRIFT or change.alone for change in left)
        return bool(left or self.waiting_drifts) and not self.held_stacks and mine

    @property
    def whole(self) -> bool:
        """Whether the whole revision is in place, or about to be: nothing of it is held."""
        return not any(change.kind in _FROM_GIT for change in self.held)

    @property
    def applied(self) -> bool:
        """Whether the revision is in place, or about to be, but for targets that are held alone."""
        return not any(change.kind in _FROM_GIT and not change.alone for change in self.held)

    @property
    def empty(self) -> bool:
        return not self.writes and not self.actions
