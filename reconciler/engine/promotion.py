"""The promotion gate of an environment: what other hosts report, whether a revision waits, and who let it pass."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from reconciler.core.decide.promotion import PROMOTION_WAITS, REPORTS, reason_to_wait, with_reports
from reconciler.core.errors import GitUnreachableError, HeldBackError, ReconcilerError, RefusedError
from reconciler.core.model.records import EnvironmentRecord
from reconciler.core.model.requests import GitAnswer, ReconcileRequest
from reconciler.core.model.revisions import Revision
from reconciler.core.model.runs import Outcome, Result
from reconciler.core.model.settings import PromotionGate
from reconciler.core.model.targets import environment_of
from reconciler.core.ports import Ports
from reconciler.engine.history import decision

_SEARCHED_RUNS = 100
_SUCCEEDED = (Result.APPLIED, Result.CORRECTED, Result.IN_SYNC)


def gate_of(ports: Ports, unit: str) -> PromotionGate | None:
    return ports.settings.promotion.get(environment_of(unit))


async def ask_for_reports(ports: Ports, commit: str, units: Collection[str]) -> Mapping[str, str] | None:
    """What hosts report, by UNIT/SECONDS, if one of our ``units`` does not have the ``commit`` and has a gate.

    None where that is not so, or git does not answer: what was known before stays.
    """
    waiting = [unit for unit in units if _lacks(ports.store.environment(unit), commit)]
    gates = [gate for unit in waiting if (gate := gate_of(ports, unit))]
    awaited = dict.fromkeys(f"{REPORTS}/{name}" for gate in gates for name in gate.units)
    if not awaited:
        return None
    try:
        refs = await ports.git.refs_below(*awaited)
    except GitUnreachableError:
        return None
    return {ref.removeprefix(f"{REPORTS}/"): commit for ref, commit in refs.items()}


def _lacks(record: EnvironmentRecord, commit: str) -> bool:
    return record.applied is None or record.applied.commit != commit


def keep_reports(ports: Ports, environment: str, answer: GitAnswer) -> None:
    """Remember what git's answer says about the hosts that the environment waits for."""
    gate = gate_of(ports, environment)
    if gate is None or answer.error is not None:
        return
    record = ports.store.environment(environment)
    reports = record.promotion.reports if answer.reports is None else answer.reports
    state = with_reports(record.promotion, gate, answer.commit, reports, ports.clock.now())
    if state != record.promotion:
        ports.store.save_environment(replace(record, promotion=state))


def promotion_error(ports: Ports, record: EnvironmentRecord, head: Revision) -> HeldBackError | None:
    """Why the environment does not get the head yet; None if it may have it, or is in the middle of applying it."""
    gate = gate_of(ports, record.name)
    if gate is None:
        return None
    unfinished = ports.store.unfinished(record.name)
    if unfinished is not None and unfinished.revision.subtree == head.subtree:
        return None
    runs = ports.store.runs(record.name, _SEARCHED_RUNS)
    known = [record.healthy, record.whole, *(run.revision for run in runs if run.result in _SUCCEEDED)]
    reason = reason_to_wait(gate, record, head, list(filter(None, known)))
    if not reason:
        return None
    hint = "It is applied once they are; `reconciler sync --skip-promotion --reason …` applies it now"
    return HeldBackError(f"revision {head.short} waits to be promoted: {reason}", hint=hint, id=PROMOTION_WAITS)


def let_pass(ports: Ports, environment: str, head: Revision, request: ReconcileRequest) -> ReconcilerError | None:
    """Have the head pass the gate, as an operator requests; the history says who and why. Returns a warning where
    nothing waits."""
    record = ports.store.environment(environment)
    in_place = record.applied is not None and record.applied.subtree == head.subtree
    if in_place or promotion_error(ports, record, head) is None:
        return RefusedError("no revision waits to be promoted", where=environment)
    passed = replace(record, promotion=replace(record.promotion, commit=head.commit, skipped=head.commit))
    sentence = f"let revision {head.short} pass the promotion gate"
    ports.store.decide(decision(ports, record, request.origin, sentence, revision=head), record=passed)
    return None


def as_held(outcome: Outcome, warnings: Sequence[ReconcilerError]) -> Outcome:
    """An environment that has nothing to do but to wait at the gate is held."""
    waits = next((warning for warning in warnings if warning.id == PROMOTION_WAITS), None)
    if waits is None or outcome.result is not Result.IN_SYNC:
        return outcome
    return replace(outcome, result=Result.HELD, reason=str(waits), error_id=PROMOTION_WAITS)
