"""The exit codes of every command."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

IN_SYNC, ERROR, PENDING, ROLLED_BACK = 0, 1, 2, 3

_OF_RESULT = {
    **dict.fromkeys(("applied", "in_sync", "corrected"), IN_SYNC),
    **dict.fromkeys(("pending", "drifted", "held"), PENDING),
    **dict.fromkeys(("rolled_back", "rolling_back"), ROLLED_BACK),
}


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


def worst(codes: Iterable[int]) -> int:
    """An error outweighs a rollback, which outweighs what is pending."""
    order = (IN_SYNC, PENDING, ROLLED_BACK, ERROR)
    return max(codes, key=order.index, default=IN_SYNC)
