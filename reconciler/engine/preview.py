"""The outcome of a reconciliation that only plans, or that ends because of what it has planned."""

from __future__ import annotations

from reconciler.core.decide.suspension import suspension_of
from reconciler.core.errors import all_of
from reconciler.core.model.records import EnvironmentRecord
from reconciler.core.model.revisions import Revision
from reconciler.core.model.runs import Outcome, Result
from reconciler.core.ports import Ports
from reconciler.engine.engine_away import idle_reason
from reconciler.engine.key_names import KeyNames
from reconciler.engine.observe import Plaintexts, load_desired, observe
from reconciler.engine.planning import Prepared, prepare
from reconciler.engine.reasons import held_reason, orphans_reason


async def prepare_at(ports: Ports, record: EnvironmentRecord, revision: Revision) -> Prepared:
    """What a reconciliation would do if git had that revision. Raises as ``load_desired`` and ``prepare`` do."""
    plaintexts = Plaintexts(ports)
    desired = await load_desired(ports, record.name, revision, plaintexts)
    stacks = frozenset(stack.name for stack in desired.manifest.stacks)
    suspension = suspension_of(record, ports.clock.now())
    snapshot = await observe(ports, desired)
    return await prepare(ports, snapshot, KeyNames(), plaintexts, look_at=stacks, suspension=suspension)


def preview_of(prepared: Prepared) -> Outcome:
    """What would be done, or why nothing may be."""
    plan, result, retry, id = prepared.plan, Result.IN_SYNC, False, ""
    if prepared.problems:
        result, (reason, id) = Result.STALLED, all_of(prepared.problems)
    elif prepared.away is not None and not plan.writes:
        result, retry, id = Result.FAILED, True, prepared.away.id
        reason = f"{prepared.away}. {idle_reason(EnvironmentRecord(plan.environment), plan)}"
    elif plan.waits:
        result, reason, id = Result.HELD, held_reason(plan), plan.waiting_id
    elif plan.empty:
        reason = f"in sync at {plan.revision.short}{orphans_reason(plan)}"
    else:
        reason = f"{len(plan.writes)} file(s) would be written, {len(plan.actions)} service(s) touched"
    return Outcome(plan.environment, result, reason, plan.revision, plan, plan, retry=retry, error_id=id)
