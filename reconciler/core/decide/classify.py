"""Decides, from a target's three states, what to do about it. Pure."""

from __future__ import annotations

from dataclasses import replace

from reconciler.core.model.plans import LEFT_GIT, Aspect, Change, Effect, KeyChange, Kind, SyncStatus, TargetState
from reconciler.core.model.targets import OnDrift, OnFirstContact
from reconciler.core.text import instant, listed


def classify(state: TargetState, *, take_over: bool = False, delete: bool = False) -> Change:
    """Given one target's desired, live and last-applied state, return its kind and what to do about it.

    ``take_over``: an operator allows a different file found at first contact to be replaced; ``delete``: the live file
    of a target that left git to be deleted. Has no effects.
    """
    if state.desired is None:
        return _left_git(state, delete)
    change = _desired(state, take_over)
    if not state.restored_from or not change.drifted:
        return change
    return replace(change, restored_from=state.restored_from, aspects=change.aspects | {Aspect.RESTORED})


def _desired(state: TargetState, take_over: bool) -> Change:
    if state.torn:
        reason = "a write in place was interrupted; it is finished"
        return Change(state.target, Kind.UPDATE, Effect.WRITE, reason, _aspects(state))
    if state.live is None:
        return _missing(state)
    if state.live == state.desired:
        return _same_content(state)
    if state.last is None:
        return _first_contact(state, take_over)
    if state.live == state.last:
        return Change(state.target, Kind.UPDATE, Effect.WRITE, "git has new content", _aspects(state))
    if state.desired == state.last:
        return _drift(state, _aspects(state), _changed_by(state))
    if state.restored_from:
        reason = f"git has new content and {_changed_by(state)}"
        return _conflict(state, _aspects(state), reason, "; what was restored is in the backup")
    return _conflict(state, _aspects(state), "git and the live file both changed", "; the hand edit is in the backup")


def sync_status(change: Change) -> SyncStatus:
    """Given what was decided for a target, return its status as one word."""
    if change.effect is Effect.HOLD:
        return SyncStatus.HELD
    if change.drifted or Aspect.STALE in change.aspects:
        return SyncStatus.DRIFTED
    if change.kind in LEFT_GIT:
        return SyncStatus.ORPHAN
    return SyncStatus.IN_SYNC if change.kind is Kind.IN_SYNC else SyncStatus.PENDING


def with_keys(change: Change, keys: KeyChange) -> Change:
    """Given a change of content and the names of the keys it touches, return the change that names them.

    Content that differs only in bytes becomes the aspect ``cosmetic`` instead of ``content``. It is never held: an
    import or `reconciler adopt` brought the variables of the live file into git, and there is nothing to decide.
    """
    if not keys.cosmetic:
        return change if keys == change.keys else replace(change, keys=keys)
    aspects = (change.aspects - {Aspect.CONTENT}) | {Aspect.COSMETIC}
    if change.effect is Effect.HOLD:
        reason = "the live file has the same variables as git; it is rewritten, the old one is in the backup"
        change = replace(change, effect=Effect.WRITE, reason=reason)
    elif change.kind is Kind.CONFLICT:  # such as a hand edit that was adopted
        change = replace(change, reason="git has the variables of the live file in another form")
    return replace(
        change,
        keys=keys,
        aspects=aspects,
        reason=f"{change.reason} (order, quotes or comments only: no service needs it)",
    )


def with_authors(change: Change, by_hand: KeyChange, from_git: KeyChange, edited_at: float | None) -> Change:
    """Given what was changed by hand and in git since the file was last written, return the change that says so."""
    sentences = []
    if by_hand.names:
        when = f" at {instant(edited_at)}" if edited_at else ""
        verb = "were" if len(by_hand.names) > 1 else "was"
        how = f"restored from backup {change.restored_from}" if change.restored_from else "changed by hand"
        sentences.append(f"{listed(by_hand.names)} {verb} {how}{when}")
    if from_git.names:
        verb = "have pending changes" if len(from_git.names) > 1 else "has a pending change"
        sentences.append(f"{listed(from_git.names)} {verb} from git")
    head, _, tail = change.reason.partition("; ")
    reason = "; ".join(filter(None, [", ".join(sentences) or head, tail]))
    by_hand = KeyChange() if change.restored_from else by_hand
    return replace(change, by_hand=by_hand, from_git=from_git, edited_at=edited_at, reason=reason)


def _left_git(state: TargetState, delete: bool) -> Change:
    if state.owner:
        reason = f"the target left git; {state.owner} has its live path now"
        return Change(state.target, Kind.IN_SYNC, Effect.NONE, reason)
    if state.unreadable:
        return _stays(state, Kind.NOT_OURS, f"; what is there cannot be read ({state.unreadable})")
    if state.live is None:
        return Change(state.target, Kind.IN_SYNC, Effect.NONE, "gone from git and from the server")
    kind = Kind.ORPHAN if state.live == state.last else Kind.NOT_OURS
    if delete:
        return Change(state.target, kind, Effect.DELETE, "the target left git, and an operator has the file deleted")
    if kind is Kind.NOT_OURS:
        return _stays(state, kind, ", and the live file is not as we wrote it")
    if state.target.prune:
        return Change(state.target, kind, Effect.DELETE, "the target left git and prune is set")
    return _stays(state, kind)


def _stays(state: TargetState, kind: Kind, more: str = "") -> Change:
    command = f"`reconciler forget {state.target.id}`"
    reason = f"{state.target.path} stays. {command} ends this; with --delete the file goes, after a backup"
    return Change(state.target, kind, Effect.REPORT, f"the target left git{more}; {reason}", error_id="orphan")


def _missing(state: TargetState) -> Change:
    if state.last is None:
        return Change(state.target, Kind.CREATE, Effect.WRITE, "new target", frozenset({Aspect.MISSING}))
    if state.desired == state.last:
        return _drift(state, frozenset({Aspect.MISSING}), _gone_by(state))
    return _conflict(state, frozenset({Aspect.MISSING}), f"git has new content and {_gone_by(state)}")


def _changed_by(state: TargetState, subject: str = "the live file") -> str:
    if state.restored_from:
        return f"{subject} was restored from backup {state.restored_from}"
    return f"{subject} was changed by hand"


def _gone_by(state: TargetState) -> str:
    if state.restored_from:
        return f"the live file was removed, as backup {state.restored_from} has none"
    return "the live file is gone"


def _same_content(state: TargetState) -> Change:
    aspects = _aspects(state)
    if not aspects:
        return Change(state.target, Kind.IN_SYNC, Effect.NONE, "in sync")
    names = " and ".join(sorted(aspects))
    if state.last_mode != state.target.mode:
        # Git has another mode than we last set, or we have not written it yet: this is not a hand edit.
        return Change(state.target, Kind.UPDATE, Effect.WRITE, f"git has another {names}", aspects)
    return _drift(state, aspects, _changed_by(state, f"the {names} of the live file"))


def _first_contact(state: TargetState, take_over: bool) -> Change:
    if take_over or state.target.on_first_contact is OnFirstContact.TAKE_OVER:
        reason = "a different file is already there; taken over, the old one is in the backup"
        return Change(state.target, Kind.FIRST_CONTACT, Effect.WRITE, reason, _aspects(state))
    reason = (
        "a different file is already there and was never ours; compare the keys, then run "
        f"`reconciler sync --take-over {state.target.id}` or set on_first_contact: take_over"
    )
    return Change(state.target, Kind.FIRST_CONTACT, Effect.HOLD, reason, _aspects(state), error_id="different-file")


def _drift(state: TargetState, aspects: frozenset[Aspect], reason: str) -> Change:
    if state.target.on_drift is OnDrift.RESTORE:
        return Change(state.target, Kind.DRIFT, Effect.WRITE, reason, aspects)
    reason = f"{reason}; on_drift is report"
    return Change(state.target, Kind.DRIFT, Effect.REPORT, reason, aspects, error_id="drift-reported")


def _conflict(state: TargetState, aspects: frozenset[Aspect], reason: str, kept: str = "") -> Change:
    if state.target.on_drift is OnDrift.RESTORE:
        return Change(state.target, Kind.CONFLICT, Effect.WRITE, f"{reason}; git wins{kept}", aspects)
    reason = f"{reason}; on_drift is report: an operator decides"
    return Change(state.target, Kind.CONFLICT, Effect.HOLD, reason, aspects, alone=True, error_id="drift-reported")


def _aspects(state: TargetState) -> frozenset[Aspect]:
    aspects = set()
    if state.live != state.desired:
        aspects.add(Aspect.CONTENT)
    if state.live_mode is not None and state.live_mode != state.target.mode:
        aspects.add(Aspect.MODE)
    if not state.ownership_ok:
        aspects.add(Aspect.OWNER)
    return frozenset(aspects)
