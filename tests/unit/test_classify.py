"""Desired, live, last applied: how each combination is classified, and what is done about it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import pytest

from reconciler.core.decide.classify import classify, with_authors, with_keys
from reconciler.core.model.plans import Aspect, Change, Effect, KeyChange, Kind, TargetState
from reconciler.core.model.targets import OnDrift, OnFirstContact, Target
from tests.support.cases import each

TARGET = Target("production", "api.env", "/opt/app/api.env", stack="app", mode=0o600)
REPORT = replace(TARGET, on_drift=OnDrift.REPORT)
TAKE_OVER = replace(TARGET, on_first_contact=OnFirstContact.TAKE_OVER)
PRUNE = replace(TARGET, prune=True)
CONTENT, MODE, OWNER, MISSING = Aspect.CONTENT, Aspect.MODE, Aspect.OWNER, Aspect.MISSING
RESTORED = Aspect.RESTORED


def state(
    desired: str | None, live: str | None, last: str | None, target: Target = TARGET, **fields: object
) -> TargetState:
    """Digests as letters; modes as desired unless given."""
    modes = {"live_mode": None if live is None else target.mode, "last_mode": None if last is None else target.mode}
    return TargetState(target, desired, live, last, **{**modes, **fields})  # type: ignore[arg-type]


@dataclass(frozen=True)
class Row:
    """A row of the table, and the change expected for it."""

    id: str
    state: TargetState
    kind: Kind
    effect: Effect
    aspects: frozenset[Aspect]
    reason: str


def row(name: str, state: TargetState, kind: Kind, effect: Effect, *aspects: Aspect, reason: str) -> Row:
    return Row(name, state, kind, effect, frozenset(aspects), reason)


# fmt: off
TABLE = [
    # in sync: desired = live
    row("in sync", state("D", "D", "D"), Kind.IN_SYNC, Effect.NONE, reason="in sync"),
    row("in sync, never ours before", state("D", "D", None), Kind.IN_SYNC, Effect.NONE, reason="in sync"),
    row("in sync by the same edit in both", state("D", "D", "L"), Kind.IN_SYNC, Effect.NONE, reason="in sync"),
    row("in sync, report", state("D", "D", "D", REPORT), Kind.IN_SYNC, Effect.NONE, reason="in sync"),
    # create
    row("create", state("D", None, None), Kind.CREATE, Effect.WRITE, MISSING, reason="new target"),
    row("create, report", state("D", None, None, REPORT), Kind.CREATE, Effect.WRITE, MISSING, reason="new target"),
    # first contact
    row("first contact", state("D", "L", None), Kind.FIRST_CONTACT, Effect.HOLD, CONTENT,
        reason="`reconciler sync --take-over production/api.env` or set on_first_contact: take_over"),
    row("first contact, take_over", state("D", "L", None, TAKE_OVER), Kind.FIRST_CONTACT, Effect.WRITE, CONTENT,
        reason="the old one is in the backup"),
    row("first contact, report, take_over", state("D", "L", None, replace(TAKE_OVER, on_drift=OnDrift.REPORT)),
        Kind.FIRST_CONTACT, Effect.WRITE, CONTENT, reason="taken over, the old one"),
    row("first contact with another mode too", state("D", "L", None, live_mode=0o644), Kind.FIRST_CONTACT, Effect.HOLD,
        CONTENT, MODE, reason="was never ours"),
    # update
    row("update", state("D", "L", "L"), Kind.UPDATE, Effect.WRITE, CONTENT, reason="git has new content"),
    row("update, report", state("D", "L", "L", REPORT), Kind.UPDATE, Effect.WRITE, CONTENT, reason="git has new"),
    row("update of a file whose mode drifted", state("D", "L", "L", live_mode=0o644), Kind.UPDATE, Effect.WRITE,
        CONTENT, MODE, reason="git has new content"),
    # drift
    row("drift", state("D", "L", "D"), Kind.DRIFT, Effect.WRITE, CONTENT, reason="the live file was changed by hand"),
    row("drift, report", state("D", "L", "D", REPORT), Kind.DRIFT, Effect.REPORT, CONTENT,
        reason="changed by hand; on_drift is report"),
    row("missing", state("D", None, "D"), Kind.DRIFT, Effect.WRITE, MISSING, reason="the live file is gone"),
    row("missing, report", state("D", None, "D", REPORT), Kind.DRIFT, Effect.REPORT, MISSING,
        reason="gone; on_drift is report"),
    row("mode", state("D", "D", "D", live_mode=0o644), Kind.DRIFT, Effect.WRITE, MODE,
        reason="the mode of the live file was changed by hand"),
    row("mode, report", state("D", "D", "D", REPORT, live_mode=0o644), Kind.DRIFT, Effect.REPORT, MODE,
        reason="on_drift is report"),
    row("owner", state("D", "D", "D", ownership_ok=False), Kind.DRIFT, Effect.WRITE, OWNER,
        reason="the owner of the live file"),
    row("owner, report", state("D", "D", "D", REPORT, ownership_ok=False), Kind.DRIFT, Effect.REPORT, OWNER,
        reason="on_drift is report"),
    row("content, mode and owner", state("D", "L", "D", live_mode=0o644, ownership_ok=False), Kind.DRIFT, Effect.WRITE,
        CONTENT, MODE, OWNER, reason="changed by hand"),
    # another mode or owner, without a hand edit
    row("git has another mode", state("D", "D", "D", live_mode=0o640, last_mode=0o640), Kind.UPDATE, Effect.WRITE,
        MODE, reason="git has another mode"),
    row("git has another mode, report", state("D", "D", "D", REPORT, live_mode=0o640, last_mode=0o640), Kind.UPDATE,
        Effect.WRITE, MODE, reason="git has another mode"),
    row("the right content, never ours, another mode and owner",
        state("D", "D", None, live_mode=0o644, ownership_ok=False), Kind.UPDATE, Effect.WRITE, MODE, OWNER,
        reason="git has another mode and owner"),
    row("the mode that git has come to want was set by hand", state("D", "D", "D", live_mode=0o600, last_mode=0o640),
        Kind.IN_SYNC, Effect.NONE, reason="in sync"),
    # restored from a backup
    row("restored", state("D", "L", "D", restored_from="b1"), Kind.DRIFT, Effect.WRITE, CONTENT, RESTORED,
        reason="was restored from backup b1"),
    row("restored, and git went on", state("D", "L", "O", restored_from="b1"), Kind.CONFLICT, Effect.WRITE,
        CONTENT, RESTORED, reason="was restored from backup b1; git wins; what was restored is in the backup"),
    row("restored to be absent", state("D", None, "D", restored_from="b1"), Kind.DRIFT, Effect.WRITE,
        MISSING, RESTORED, reason="as backup b1 has none"),
    row("restored mode", state("D", "D", "D", live_mode=0o644, restored_from="b1"), Kind.DRIFT, Effect.WRITE,
        MODE, RESTORED, reason="the mode of the live file was restored from backup b1"),
    # conflict
    row("conflict", state("D", "L", "O"), Kind.CONFLICT, Effect.WRITE, CONTENT,
        reason="git wins; the hand edit is in the backup"),
    row("conflict, report", state("D", "L", "O", REPORT), Kind.CONFLICT, Effect.HOLD, CONTENT,
        reason="an operator decides"),
    row("conflict with a missing file", state("D", None, "O"), Kind.CONFLICT, Effect.WRITE, MISSING,
        reason="git has new content and the live file is gone; git wins"),
    row("conflict with a missing file, report", state("D", None, "O", REPORT), Kind.CONFLICT, Effect.HOLD, MISSING,
        reason="an operator decides"),
    # left git
    row("orphan", state(None, "L", "L"), Kind.ORPHAN, Effect.REPORT, reason="reconciler forget"),
    row("orphan, prune", state(None, "L", "L", PRUNE), Kind.ORPHAN, Effect.DELETE, reason="prune is set"),
    row("not ours", state(None, "L", "O"), Kind.NOT_OURS, Effect.REPORT, reason="not as we wrote it"),
    row("not ours, prune", state(None, "L", "O", PRUNE), Kind.NOT_OURS, Effect.REPORT, reason="not as we wrote it"),
    row("never ours, prune", state(None, "L", None, PRUNE), Kind.NOT_OURS, Effect.REPORT, reason="not as we wrote it"),
    row("another environment's, prune", state(None, "L", "L", PRUNE, owner="staging"), Kind.IN_SYNC, Effect.NONE,
        reason="staging has its live path"),
    row("unreadable, prune", state(None, None, "L", PRUNE, unreadable="it is a directory"), Kind.NOT_OURS,
        Effect.REPORT, reason="it is a directory"),
    row("gone", state(None, None, "O"), Kind.IN_SYNC, Effect.NONE, reason="gone from git and from the server"),
    row("gone, prune", state(None, None, "O", PRUNE), Kind.IN_SYNC, Effect.NONE, reason="gone from git"),
]
# fmt: on


@each("expected", TABLE, ids=lambda expected: expected.id)
def test_the_table(expected: Row) -> None:
    change = classify(expected.state)
    assert (change.kind, change.effect, change.aspects) == (expected.kind, expected.effect, expected.aspects)
    assert expected.reason in change.reason
    assert change.target is expected.state.target
    assert change.keys == KeyChange()


def test_an_operator_may_take_a_file_over_by_name() -> None:
    change = classify(state("D", "L", None), take_over=True)
    assert (change.kind, change.effect) == (Kind.FIRST_CONTACT, Effect.WRITE)


@pytest.mark.parametrize(
    "state",
    [
        pytest.param(state("D", "L", "D", REPORT), id="drift"),
        pytest.param(state("D", "L", "O", REPORT), id="conflict"),
        pytest.param(state(None, "L", None), id="not ours"),
    ],
)
def test_taking_over_is_for_first_contact_only(state: TargetState) -> None:
    assert classify(state, take_over=True) == classify(state)


@pytest.mark.parametrize("last", ["L", "O", None])
def test_an_operator_may_have_what_left_git_deleted_unless_it_is_another_environments(last: str | None) -> None:
    assert classify(state(None, "L", last), delete=True).effect is Effect.DELETE
    assert classify(state(None, "L", last, owner="staging"), delete=True).effect is Effect.NONE
    assert classify(state("D", "L", last), delete=True) == classify(state("D", "L", last))


@pytest.mark.parametrize("given", [state("D", "L", "D"), state("D", "L", "O"), state("D", None, "O")])
def test_nothing_says_that_a_restored_file_was_changed_by_hand(given: TargetState) -> None:
    change = classify(replace(given, restored_from="b1"))
    change = with_authors(change, KeyChange(changed=("A",)), KeyChange(changed=("B",)), 0.0)
    assert "by hand" not in change.reason
    assert change.by_hand == KeyChange()
    assert change.restored_from == "b1"


def everything() -> list[TargetState]:
    """Every combination of three digests, modes, owners and policies."""
    digests = (None, "A", "B", "C")
    targets = [
        replace(TARGET, on_drift=on_drift, on_first_contact=on_contact, prune=prune)
        for on_drift, on_contact, prune in itertools.product(OnDrift, OnFirstContact, (False, True))
    ]
    return [
        state(
            desired,
            live,
            last,
            target,
            live_mode=None if live is None else live_mode,
            last_mode=None if last is None else last_mode,
            ownership_ok=ownership or live is None,
        )
        for desired, live, last, live_mode, last_mode, ownership, target in itertools.product(
            digests, digests, digests, (0o600, 0o644), (0o600, 0o640), (True, False), targets
        )
    ]


def test_in_any_state_an_unknown_file_is_never_overwritten() -> None:
    for state in everything():
        change = classify(state)
        unknown = state.live is not None and state.live not in (state.last, state.desired)
        if unknown and change.writes:
            restores = state.last is not None and state.target.on_drift is OnDrift.RESTORE
            takes_over = state.last is None and state.target.on_first_contact is OnFirstContact.TAKE_OVER
            assert restores or takes_over, state


def test_in_any_state_only_an_untouched_file_of_ours_is_deleted() -> None:
    for state in everything():
        if classify(state).effect is Effect.DELETE:
            assert state.desired is None
            assert state.live == state.last
            assert state.target.prune


def test_in_any_state_report_never_undoes_a_hand_edit() -> None:
    for state in everything():
        change = classify(state)
        if state.target.on_drift is OnDrift.REPORT and change.drifted:
            assert not change.writes, state


def test_in_any_state_no_difference_is_ignored_silently() -> None:
    for state in everything():
        change = classify(state)
        right = state.live == state.desired and not change.aspects
        left = state.desired is None
        assert (change.effect is Effect.NONE) == (right or (left and change.kind is Kind.IN_SYNC)), state
        assert change.reason


def test_in_any_state_writing_ends_in_sync() -> None:
    for state in everything():
        if classify(state).effect is Effect.WRITE:
            assert state.desired is not None
            mode = state.target.mode
            written = replace(
                state, live=state.desired, last=state.desired, live_mode=mode, last_mode=mode, ownership_ok=True
            )
            assert classify(written).kind is Kind.IN_SYNC


# --- names of keys ---------------------------------------------------------------------------------------------------


def test_a_change_names_its_keys() -> None:
    keys = KeyChange(added=("A",), changed=("B",))
    change = with_keys(classify(state("D", "L", "D")), keys)
    assert change.keys == keys
    assert change.aspects == {CONTENT}
    assert change.reason == "the live file was changed by hand"


@pytest.mark.parametrize(
    ("state", "kind", "effect"),
    [
        pytest.param(state("D", "L", "D"), Kind.DRIFT, Effect.WRITE, id="restored"),
        pytest.param(state("D", "L", "D", REPORT), Kind.DRIFT, Effect.REPORT, id="reported"),
        pytest.param(state("D", "L", "L"), Kind.UPDATE, Effect.WRITE, id="new in git"),
        pytest.param(state("D", "L", None), Kind.FIRST_CONTACT, Effect.WRITE, id="first contact"),
        pytest.param(state("D", "L", "O", REPORT), Kind.CONFLICT, Effect.WRITE, id="adopted and reported"),
    ],
)
def test_other_bytes_with_the_same_variables_are_cosmetic(state: TargetState, kind: Kind, effect: Effect) -> None:
    change = with_keys(classify(state), KeyChange(cosmetic=True))
    assert (change.kind, change.effect, change.aspects) == (kind, effect, frozenset({Aspect.COSMETIC}))
    assert "no service needs it" in change.reason


def test_cosmetic_leaves_the_other_aspects() -> None:
    change = with_keys(classify(state("D", "L", "D", live_mode=0o644)), KeyChange(cosmetic=True))
    assert change.aspects == {Aspect.COSMETIC, MODE}


def test_names_are_listed_once_and_sorted() -> None:
    assert KeyChange(("C", "A"), ("B",), ("A", "D")).names == ("A", "B", "C", "D")


@pytest.mark.parametrize(
    ("effect", "writes"),
    [(Effect.WRITE, True), (Effect.DELETE, True), (Effect.HOLD, False), (Effect.REPORT, False), (Effect.NONE, False)],
)
def test_what_touches_the_disk(effect: Effect, writes: bool) -> None:
    assert Change(TARGET, Kind.UPDATE, effect, "because").writes is writes
