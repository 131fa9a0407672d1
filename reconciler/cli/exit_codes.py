"""The exit codes of every command."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reconciler.app.pages.attention import Attention

IN_SYNC, ERROR, PENDING, ROLLED_BACK, INTERRUPTED = 0, 1, 2, 3, 130

MEANINGS = {
    IN_SYNC: "in sync, applied or done: nothing is left to do",
    ERROR: "an error: it says what, where and what to do next; wrong arguments count as one",
    PENDING: "something would change or waits for an operator, a check has findings, a difference is unexplained",
    ROLLED_BACK: "a change was rolled back, or its rollback still takes time",
    INTERRUPTED: "interrupted by Ctrl-C: what was being written is finished or undone by the next reconciliation",
}
"""Every exit code of every command. What each command means by them is in its --help."""

_OF_RESULT = {
    **dict.fromkeys(("applied", "in_sync", "corrected"), IN_SYNC),
    **dict.fromkeys(("pending", "drifted", "held"), PENDING),
    **dict.fromkeys(("rolled_back", "rolling_back"), ROLLED_BACK),
}
_UNDONE = ("rolled_back", "rolling_back", "quarantined")
_OF_KIND = {"bad": ERROR, "mid": PENDING, "info": IN_SYNC}


def outcome_exit_code(outcome: Mapping[str, Any]) -> int:
    """As the result says; but being in sync with an older revision than the branch's head is not being in sync.

    If git or the Docker engine does not answer, that is an error; if an operator must act (quarantine, rewritten
    history), it is pending.
    """
    code = _OF_RESULT.get(outcome["result"], ERROR)
    if code == IN_SYNC and outcome["retry"]:
        return ERROR
    if outcome["warning"] and (code == IN_SYNC or outcome["result"] in ("pending", "drifted")):
        return ERROR if outcome["retry"] else PENDING
    return code


def plan_exit_code(outcome: Mapping[str, Any]) -> int:
    code = outcome_exit_code(outcome)
    return PENDING if code == IN_SYNC and outcome["pending"] else code


def status_exit_code(environment: Mapping[str, Any]) -> int:
    return PENDING if environment["result"] is None else plan_exit_code(environment)


def age_exit_code(ages: Mapping[str, Any]) -> int:
    """Pending where a secret is older than it may be."""
    targets = (target for environment in ages["environments"] for target in environment["targets"])
    return PENDING if any(key["too_old"] for target in targets for key in target["keys"]) else IN_SYNC


def review_exit_code(attention: Iterable[Attention]) -> int:
    """Given what needs an operator, return the worst of it; what one has caused counts for nothing."""
    return worst(ROLLED_BACK if entry.word in _UNDONE else _OF_KIND[entry.kind] for entry in attention)


def worst(codes: Iterable[int]) -> int:
    """An error outweighs a rollback, which outweighs what is pending."""
    order = (IN_SYNC, PENDING, ROLLED_BACK, ERROR)
    return max(codes, key=order.index, default=IN_SYNC)


def described() -> str:
    """The exit codes as a sentence, for --help and the manual."""
    return "Exit codes: " + "; ".join(f"{code} {meaning.partition(':')[0]}" for code, meaning in MEANINGS.items()) + "."
