"""What the outcome of a reconciliation says about a commit, as a forge shows it beside the commit. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from reconciler.core.model.compose import ActionKind
from reconciler.core.model.plans import Plan
from reconciler.core.model.records import EnvironmentRecord
from reconciler.core.model.runs import Outcome, Result
from reconciler.core.model.targets import host_of, on_host
from reconciler.core.ports.forge import CommitState, CommitStatus
from reconciler.core.text import listed, printable

RECONCILING = "reconciling"
_APPLIED = "applied and healthy"
_IN_PLACE = (Result.APPLIED, Result.CORRECTED, Result.IN_SYNC)
_ROLLING_BACK = (Result.ROLLING_BACK, Result.ROLLED_BACK)
# The ids of what keeps a head of the branch from being accepted at all.
_REFUSED = ("unsigned-commit", "history-rewritten")
_ID = re.compile(r" \[([a-z-]+)\]$")  # at the end of a line of a warning
_DONE = {ActionKind.RECREATE: "recreated", ActionKind.RESTART: "restarted", ActionKind.SIGNAL: "signalled"}
_NUMBERS = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class CommitVerdict:
    """What to show beside ``commit``. ``final``: it replaces a success too, as the commit is no longer in place."""

    commit: str
    state: CommitState
    summary: str
    final: bool = False

    def status(self, context: str, url: str) -> CommitStatus:
        return CommitStatus(self.commit, context, self.state, self.summary, url)


def named_with_host(unit: str, host: str) -> str:
    """The unit with its host, which is ``host`` for those of this machine: several servers report to one forge."""
    return unit if host_of(unit) or not host else on_host(unit, host)


def context_of(unit: str, host: str) -> str:
    """The name under which the statuses of an environment on a host are shown."""
    return f"reconciler/{named_with_host(unit, host)}"


def verdict_on(outcome: Outcome, record: EnvironmentRecord, seen: str) -> CommitVerdict | None:
    """Given how a reconciliation ended, the record after it, and the branch's head as git last gave it ("": it has not
    answered yet), return what that says about the head, or about the commit that is rolled back; None for nothing."""
    accepted = record.head.commit if record.head else ""
    head = seen or accepted
    if outcome.revision is not None and outcome.result in _ROLLING_BACK:
        head = outcome.revision.commit  # the branch may have gone on since
    if not head:
        return None
    if head == seen != accepted and (refusal := _refusal(outcome)):
        return CommitVerdict(head, CommitState.FAILURE, f"not accepted: {refusal}")
    if record.pin is not None and record.pin.revision.commit != head:
        return CommitVerdict(head, CommitState.PENDING, f"held: pinned at {record.pin.revision.short}", final=True)
    concerns_head = outcome.revision is not None and outcome.revision.commit == head
    quarantine = record.quarantine_of(record.head) if record.head and head == accepted else None
    if quarantine is not None:
        return _quarantined(head, outcome, quarantine.reason, concerns_head=concerns_head)
    if outcome.result in _IN_PLACE:
        if concerns_head:
            return CommitVerdict(head, CommitState.SUCCESS, _applied(outcome.plan))
        waits = _line(outcome.warning)  # it is at an earlier revision, because another host failed on this one
        return CommitVerdict(head, CommitState.PENDING, f"held: {waits}") if waits else None
    reason = _line(outcome.reason)
    match outcome.result:
        case Result.HELD:
            return CommitVerdict(head, CommitState.PENDING, f"held: {reason}")
        case Result.STALLED:
            return CommitVerdict(head, CommitState.FAILURE, f"stalled: {reason}")
        case Result.ROLLING_BACK:
            return CommitVerdict(head, CommitState.PENDING, f"rolling back: {reason}", final=True)
        case Result.ROLLED_BACK:
            return CommitVerdict(head, CommitState.FAILURE, f"rolled back: {reason}", final=True)
        case Result.ROLLBACK_FAILED:
            return CommitVerdict(head, CommitState.FAILURE, f"rollback failed: {reason}", final=True)
        case _ if outcome.retry:
            return CommitVerdict(head, CommitState.PENDING, f"failed, will retry: {reason}")
        case _:
            return CommitVerdict(head, CommitState.FAILURE, f"failed: {reason}")


def _quarantined(head: str, outcome: Outcome, reason: str, *, concerns_head: bool) -> CommitVerdict | None:
    """It says rolled back only where the former revision is in place again."""
    if outcome.result is Result.ROLLBACK_FAILED:
        return CommitVerdict(head, CommitState.FAILURE, f"rollback failed: {_line(outcome.reason)}", final=True)
    if outcome.result is Result.ROLLED_BACK or (outcome.result in _IN_PLACE and not concerns_head):
        return CommitVerdict(head, CommitState.FAILURE, f"rolled back: {_line(reason)}", final=True)
    if concerns_head:
        return CommitVerdict(head, CommitState.PENDING, f"rolling back: {_line(outcome.reason)}", final=True)
    return None


def is_news(verdict: CommitVerdict, last: CommitStatus | None) -> bool:
    """Whether the forge does not show it yet, given what it shows in this context. Another number of seconds or files
    is no news; a success ends only where the commit is no longer in place."""
    if last is None or last.commit != verdict.commit:
        return True
    if last.state is CommitState.SUCCESS:
        return verdict.final and verdict.state is not CommitState.SUCCESS
    return (last.state, _NUMBERS.sub("", last.summary)) != (verdict.state, _NUMBERS.sub("", verdict.summary))


def overtaken(last: CommitStatus, head: str, record: EnvironmentRecord) -> CommitVerdict | None:
    """What becomes of a commit that still waited when the branch went on to ``head``; None if it did not wait."""
    if last.state is not CommitState.PENDING or last.commit == head or last.summary.startswith(_SUPERSEDED):
        return None
    quarantine = next((known for known in record.quarantines if known.revision.commit == last.commit), None)
    if quarantine is not None:
        word = "rollback failed" if record.stopped else "rolled back"
        return CommitVerdict(last.commit, CommitState.FAILURE, f"{word}: {_line(quarantine.reason)}", final=True)
    return CommitVerdict(last.commit, CommitState.PENDING, f"{_SUPERSEDED} {head[:12]}")


_SUPERSEDED = "superseded by"


def _refusal(outcome: Outcome) -> str:
    """Why the head is not accepted; "" if that is not what was met."""
    if outcome.error_id in _REFUSED:
        return _line(outcome.reason)
    refusals = (line for line in outcome.warning.splitlines() if (id := _ID.search(line)) and id[1] in _REFUSED)
    return _line(next(refusals, ""))


def _applied(plan: Plan | None) -> str:
    changes = list(_changes(plan)) if plan else []
    return f"{_APPLIED}: {listed(changes)}" if changes else _APPLIED


def _changes(plan: Plan) -> Iterator[str]:
    for action in plan.actions:
        yield f"{printable(action.service)} {_DONE[action.kind]}"


def _line(text: str) -> str:
    """The first line, without the id at its end."""
    return printable(_ID.sub("", text.partition("\n")[0]))
