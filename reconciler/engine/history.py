"""What of a reconciliation goes into the history beside its run: what an operator decided, what was held, stalled or
refused, and that services have recovered."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from reconciler.core.errors import ReconcilerError
from reconciler.core.history.entries import Facts, run_facts_of
from reconciler.core.history.report import counts_as_change
from reconciler.core.model.plans import Change
from reconciler.core.model.records import EnvironmentRecord
from reconciler.core.model.requests import OperatorRequest
from reconciler.core.model.revisions import Revision
from reconciler.core.model.runs import Outcome, Result, Run, RunChange, RunOrigin
from reconciler.core.ports import Ports
from reconciler.core.text import listed

_RECENT = 50
_RECORDED = (Result.HELD, Result.STALLED, Result.REFUSED)
_WELL = (Result.IN_SYNC, Result.APPLIED, Result.CORRECTED)
_INSTANT = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ")

_Decision = tuple[str, str, str]


@dataclass(slots=True)
class RecordedDecisions:
    """Which revisions are in the history as held, stalled or refused since all was well, each with its reason: one that
    stays so is not added with every reconciliation. ``known`` is None until the history was read after a start."""

    known: set[_Decision] | None = None
    counted: int = 0


def decided(
    ports: Ports,
    record: EnvironmentRecord,
    request: OperatorRequest,
    sentence: str,
    *,
    revision: Revision | None = None,
    changes: tuple[RunChange, ...] = (),
) -> Run:
    """What an operator has decided, for ``Store.decide``. The ``sentence`` has no subject: who and why is added."""
    origin = RunOrigin(request.kind, request.requested_by, request.reason)
    return decision(ports, record, origin, sentence, revision=revision, changes=changes)


def decision(
    ports: Ports,
    record: EnvironmentRecord,
    origin: RunOrigin,
    sentence: str,
    *,
    revision: Revision | None = None,
    changes: tuple[RunChange, ...] = (),
    backup: str = "",
) -> Run:
    """The same for what is no OperatorRequest."""
    now, who = ports.clock.now(), origin.requested_by or "an operator"
    return Run(
        id=ports.new_run_id(),
        environment=record.name,
        trigger=origin.trigger,
        started_at=now,
        revision=revision or record.applied or record.head or Revision("", ""),
        backup=backup,
        changes=changes,
        finished_at=now,
        result=Result.DONE,
        reason=f"{who} {sentence}{f': {origin.reason}' if origin.reason else ''}",
        requested_by=origin.requested_by,
        request_reason=origin.reason,
    )


def take_over_sentence(by: str, targets: Sequence[str]) -> str:
    """For a run: who had the unknown live files of these targets replaced."""
    return f"{by or 'an operator'} took over {listed(sorted(targets))}"


def begin_recording(ports: Ports, environment: str, decisions: RecordedDecisions) -> None:
    """Before a reconciliation: after a start, read what is in the history already. Raises ReconcilerError."""
    if decisions.known is None:
        decisions.counted = ports.store.history_head().last
        recent = (entry.facts for entry in ports.store.history([environment], _RECENT))
        decisions.known = {_key_of(facts) for facts in recent if facts["result"] in _RECORDED}


def record_outcome(ports: Ports, outcome: Outcome, origin: RunOrigin, decisions: RecordedDecisions) -> None:
    """After a reconciliation: add to the history that it is held or stalled, and count the changes that it made.

    Raises ReconcilerError.
    """
    if outcome.result in _WELL:
        decisions.known = {known for known in decisions.known or () if known[1] == Result.REFUSED}
    if outcome.result in (Result.HELD, Result.STALLED):
        record = ports.store.environment(outcome.environment)
        revision = outcome.revision or record.head or Revision("", "")
        waiting = (*outcome.plan.held, *outcome.plan.reported) if outcome.plan else ()
        changes = tuple(_waiting_change(change) for change in waiting)
        run = decision(ports, record, origin, "", revision=revision, changes=changes)
        waits = replace(run, result=outcome.result, reason=outcome.reason, error_id=outcome.error_id)
        _record(ports, waits, decisions)
    _count_changes(ports, outcome.environment, decisions)
    ports.metrics.recorded(ports.store.history_head())


def record_refusal(
    ports: Ports, environment: str, revision: Revision, error: ReconcilerError, decisions: RecordedDecisions
) -> None:
    """Add to the history that a revision was not accepted. Raises ReconcilerError."""
    record = ports.store.environment(environment)
    run = decision(ports, record, RunOrigin("poll"), "", revision=revision)
    refused = replace(run, result=Result.REFUSED, reason=str(error), error_id=error.id)
    _record(ports, refused, decisions)


def record_recovery(ports: Ports, environment: str, failed_at: float) -> None:
    """Add to the history that all services are healthy again. Raises ReconcilerError."""
    record, now = ports.store.environment(environment), ports.clock.now()
    run = decision(ports, record, RunOrigin("health"), "")
    reason = f"every service is healthy again, {max(0.0, now - failed_at):.0f} s after one was found failing"
    ports.store.decide(replace(run, started_at=failed_at, result=Result.RECOVERED, reason=reason))


def _record(ports: Ports, run: Run, decisions: RecordedDecisions) -> None:
    known = decisions.known if decisions.known is not None else set()
    if (key := _key_of(run_facts_of(run))) not in known:
        ports.store.decide(run)
        decisions.known = known | {key}


def _waiting_change(change: Change) -> RunChange:
    keys, facts = change.keys, (change.target.source, change.kind.value)
    return RunChange(*facts, keys.added, keys.removed, keys.changed, edited_by=change.edited_by)


def _key_of(facts: Facts) -> _Decision:
    """What makes a decision another one: not when a pause ends, or a file was edited."""
    return facts["revision"]["commit"], facts["result"], _INSTANT.sub("", facts["reason"])


def _count_changes(ports: Ports, environment: str, decisions: RecordedDecisions) -> None:
    for entry in ports.store.entries(decisions.counted):
        decisions.counted = entry.number
        facts = entry.facts
        if facts["environment"] == environment and facts["supersedes"] is None and counts_as_change(facts):
            ports.metrics.changed(environment, Result(facts["result"]))
