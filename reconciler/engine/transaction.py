"""Applies a plan and ends its run: applied, rolled back, or left unfinished with pending restarts."""

from __future__ import annotations

from dataclasses import dataclass, replace

from reconciler.core.decide import health
from reconciler.core.decide.next_steps import next_steps
from reconciler.core.decide.suspension import HOUR, restored_stacks, suspension_of
from reconciler.core.errors import ModelRefusedError, OutsideError, ReconcilerError, ServiceFailedError, UnhealthyError
from reconciler.core.model.compose import Action
from reconciler.core.model.plans import LEFT_GIT, Aspect, Change, Effect, KeyChange, Kind, Plan
from reconciler.core.model.records import Applied, EnvironmentRecord, Quarantine
from reconciler.core.model.revisions import GitRevert, RevertState, Revision
from reconciler.core.model.runs import ROLLBACK_FAILED, Outcome, Result, Run, RunOrigin
from reconciler.core.model.targets import OnFailure
from reconciler.core.ports import Ports
from reconciler.engine.backup import expire_backups
from reconciler.engine.engine_away import held_for_engine, idle_reason, note_written, waiting
from reconciler.engine.execute import Stage, Transaction, execute, resume
from reconciler.engine.observe import Snapshot
from reconciler.engine.orphans import with_orphans
from reconciler.engine.planning import Prepared
from reconciler.engine.reasons import held_reason, orphans_reason
from reconciler.engine.rollback import restore_files, roll_back
from reconciler.engine.service_drift import mixed_state

_SUCCEEDED = (Result.APPLIED, Result.CORRECTED, Result.IN_SYNC)
_SEARCHED_RUNS = 50
_MOST_CUT_OFF = 50  # containers that are remembered as cut off: those that were removed since cost nothing


@dataclass(slots=True)
class _PlannedRun:
    """A plan with what it was made from, and the transaction that applies it."""

    ports: Ports
    snapshot: Snapshot
    prepared: Prepared
    record: EnvironmentRecord
    transaction: Transaction

    @property
    def plan(self) -> Plan:
        return self.prepared.plan


def _open(ports: Ports, snapshot: Snapshot, prepared: Prepared, origin: RunOrigin) -> _PlannedRun:
    """A new transaction, of which nothing is stored yet; or the unfinished one."""
    plan = prepared.plan
    record = ports.store.environment(plan.environment)
    if unfinished := ports.store.unfinished(plan.environment):
        return _PlannedRun(ports, snapshot, prepared, record, resume(unfinished))
    run = Run(
        id=ports.new_run_id(),
        environment=plan.environment,
        trigger=origin.trigger,
        started_at=ports.clock.now(),
        revision=plan.revision,
        from_commit=record.applied.commit if record.applied else "",
        accepted=prepared.accepted,
        requested_by=origin.requested_by,
        request_reason=origin.reason,
    )
    return _PlannedRun(ports, snapshot, prepared, record, Transaction(run))


def _settled(record: EnvironmentRecord, snapshot: Snapshot, prepared: Prepared) -> EnvironmentRecord:
    """The record without the files of which the plan knows now what services need for them."""
    stacks = {target.path: target.stack for target in snapshot.desired.manifest.targets}
    if prepared.away is not None:
        return record
    left = [path for path in record.written_without_engine if stacks.get(path) not in (None, *prepared.decided)]
    return replace(record, written_without_engine=tuple(left))


def finish_in_sync(ports: Ports, snapshot: Snapshot, prepared: Prepared, origin: RunOrigin) -> Outcome:
    """End a reconciliation that has nothing to do. Stores the revision, and what is in place, if that is new."""
    plan = prepared.plan
    record = ports.store.environment(plan.environment)
    if (noted := _noted(record, snapshot, plan, ports.clock.now())) != record:
        ports.store.save_environment(record := noted)
    if record.stopped:
        reason = "; ".join(dict.fromkeys(record.stopped.values()))
        outcome = Outcome(plan.environment, Result.ROLLBACK_FAILED, reason, plan.revision, plan, plan)
        return replace(outcome, error_id=ROLLBACK_FAILED)
    if prepared.away is not None:
        return _wait_for_engine(ports, snapshot, prepared, origin)
    if record.degraded and _still_failing(prepared):
        outcome = Outcome(plan.environment, Result.FAILED, record.degraded, plan.revision, plan, plan)
        return replace(outcome, error_id=ServiceFailedError.id)
    held = plan.waits
    result = Result.HELD if held else Result.IN_SYNC
    pinned = ", where it is pinned" if record.pin else ""
    reason = held_reason(plan) if held else f"in sync at {plan.revision.short}{pinned}{orphans_reason(plan)}"
    arrived = plan.applied and (record.applied is None or record.applied.subtree != plan.revision.subtree)
    new = _applied(snapshot, prepared, plan, 0.0) or _forgotten(snapshot, plan) or _obsolete(ports, prepared)
    if record.degraded or arrived or new or _settled(record, snapshot, prepared) != record:
        return _end(_open(ports, snapshot, prepared, origin), result, reason, healthy=True, id=plan.waiting_id)
    if plan.applied:
        _advance(ports, record, plan)
    _advance_targets(ports, snapshot, plan)
    return Outcome(plan.environment, result, reason, plan.revision, plan, plan, error_id=plan.waiting_id)


def _wait_for_engine(ports: Ports, snapshot: Snapshot, prepared: Prepared, origin: RunOrigin) -> Outcome:
    """End a reconciliation that can do nothing before the engine answers."""
    plan = prepared.plan
    id = prepared.away.id if prepared.away else ""
    reason = f"{prepared.away}. {idle_reason(ports.store.environment(plan.environment), plan)}"
    if _applied(snapshot, prepared, plan, 0.0) or _forgotten(snapshot, plan):
        planned = _open(ports, snapshot, prepared, origin)
        return _end(planned, Result.FAILED, reason, pending=True, retry=True, id=id)
    return Outcome(plan.environment, Result.FAILED, reason, plan.revision, plan, plan, retry=True, error_id=id)


def _obsolete(ports: Ports, prepared: Prepared) -> list[Action]:
    """Pending restarts of services that no longer exist."""
    plan = prepared.plan
    record = ports.store.environment(plan.environment)
    pending_restarts, _ = suspension_of(record, ports.clock.now()).split(ports.store.pending_restarts(plan.environment))
    due = {(action.stack, action.service) for action in plan.actions}
    held = {name for name, _ in plan.held_stacks}
    return [
        action for action in pending_restarts if (action.stack, action.service) not in due and action.stack not in held
    ]


def _advance(ports: Ports, record: EnvironmentRecord, plan: Plan) -> None:
    """Store the newest commit of an unchanged subtree: a later revert in git begins after it."""
    revision = plan.revision
    healthy = revision if record.healthy and record.healthy.subtree == revision.subtree else record.healthy
    whole = revision if plan.whole else record.whole
    advanced = replace(record, applied=revision, healthy=healthy, whole=whole)
    if advanced != record:
        ports.store.save_environment(advanced)


def _advance_targets(ports: Ports, snapshot: Snapshot, plan: Plan) -> None:
    """Store that the revision's content of a target is in place, also where it is the same as an earlier one's."""
    digests, commit = snapshot.desired.digests, plan.revision.commit
    known = snapshot.applied
    paths = [
        change.target.path
        for change in plan.changes
        if (last := known.get(change.target.path)) is not None
        and change.kind is Kind.IN_SYNC
        and last.commit != commit
        and last.digest == digests.get(change.target.source)
    ]
    if paths:
        ports.store.advance(plan.environment, paths, commit)


def _still_failing(prepared: Prepared) -> bool:
    return any(health.failing(view.stack, view.containers) or view.put_back for view in prepared.views.values())


async def transact(ports: Ports, snapshot: Snapshot, prepared: Prepared, origin: RunOrigin) -> Outcome:
    """Back up, begin, write, recreate and verify; if that fails, roll back or hold; and end the run.

    Raises ReconcilerError only if nothing was changed.
    """
    planned = _open(ports, snapshot, prepared, origin)
    if new := prepared.broken.difference(planned.record.cut_off):
        planned.record = replace(planned.record, cut_off=(*planned.record.cut_off, *sorted(new))[-_MOST_CUT_OFF:])
        ports.store.save_environment(planned.record)
    if prepared.away is not None:
        planned.record = note_written(planned.record, prepared.plan)
        ports.store.save_environment(planned.record)
    try:
        await execute(ports, planned.transaction, snapshot, prepared)
    except (ModelRefusedError, UnhealthyError) as error:
        return await _failed_revision(planned, error)
    except ServiceFailedError as error:
        return _degraded(planned, f"the files are in place, but {error}", error.id)
    except OutsideError as error:
        return await _interrupted(planned, error)
    return await _succeeded(planned)


async def _succeeded(planned: _PlannedRun) -> Outcome:
    """The run has ended well; without the engine, for the files."""
    ports, plan, transaction = planned.ports, planned.plan, planned.transaction
    changes = transaction.run.changes
    by_hand = [change for change in changes if change.kind in (Kind.DRIFT, Kind.CONFLICT) and not change.restored_from]
    drifted = [change.source for change in by_hand]
    now = ports.clock.now()
    stale = _renewed_by_correction(ports, transaction.run, plan, now)
    only_corrects = all(change.kind == Kind.DRIFT for change in changes)
    corrected = [*(f"{plan.environment}/{source}" for source in drifted), *stale]
    ports.metrics.corrected(plan.environment, corrected, now)
    repaired = [(action.stack, action.service) for action in transaction.run.actions if action.repairs]
    ports.metrics.services_corrected(plan.environment, repaired)
    ports.metrics.observed(_carried_out(plan), now)
    result = Result.CORRECTED if only_corrects else Result.APPLIED
    away = planned.prepared.away
    reason = "; ".join([_done_reason(transaction, services=away is None), *transaction.run.accepted])
    if away is not None:
        left = waiting(planned.record, plan)
        reason = f"{reason}. {away}{f'. Waiting for it: {left}' if left else ''}"
        outcome = _end(planned, result, reason, pending=True, retry=True, id=away.id)
        return replace(outcome, result=Result.FAILED) if held_for_engine(plan) else outcome
    outcome = _end(planned, result, reason, healthy=True)
    await expire_backups(ports, plan.environment)
    if plan.waits:
        reason = f"{outcome.reason}; {held_reason(plan)}"
        return replace(outcome, result=Result.HELD, reason=reason, error_id=plan.waiting_id)
    return outcome


def _renewed_by_correction(ports: Ports, run: Run, plan: Plan, now: float) -> list[str]:
    """The targets (ids) of which the plan renews containers, where no correction that is counted has caused that."""
    renewed = [change.target for change in _renewed(plan)]
    if not renewed:
        return []
    restored = restored_stacks(ports.store.runs(plan.environment, _SEARCHED_RUNS, since=now - HOUR), run, now)
    return [target.id for target in renewed if target.stack not in restored]


async def _failed_revision(planned: _PlannedRun, error: ReconcilerError) -> Outcome:
    """The revision broke a service: roll back, unless on_failure is hold or there is no way back."""
    ports, plan, record = planned.ports, planned.plan, planned.record
    ports.metrics.failed(plan.environment, ports.clock.now())
    run, views = planned.transaction.run, planned.prepared.views
    projects = [planned.transaction.projects.get(name) or view.before for name, view in views.items()]
    sides = list(zip(views.values(), projects, strict=True))
    looks = dict.fromkeys(f"`{next_steps(view.stack, project).look}`" for view, project in sides)
    look = f"Look at the service ({', '.join(looks)}), or fix it with a new commit"
    if any(view.stack.on_failure is OnFailure.HOLD for name, view in views.items() if name in run.stacks):
        mixed = [await mixed_state(ports, view.stack, project, run) for view, project in sides]
        stays = "on_failure is hold: the new files stay"
        return _degraded(planned, ". ".join(filter(None, [str(error), stays, *mixed, look])))
    known = (record.healthy, record.applied, record.whole)
    good = all(revision and revision.subtree == plan.revision.subtree for revision in known)
    if good or not run.changes:
        # Git's files were healthy before: rolling back would only restore a hand edit.
        return _degraded(planned, f"{error}. The files are those of the last good revision, so they stay. {look}")
    quarantined = record.quarantined(await _quarantine(planned, str(error)))
    planned.transaction.run = replace(run, error_id=error.id)
    outcome = await roll_back(ports, planned.transaction, planned.prepared.views, quarantined, str(error))
    return replace(outcome, plan=plan, after=plan)


async def _quarantine(planned: _PlannedRun, reason: str) -> Quarantine:
    """The failed revision, and whether to revert it in git: only if it is the branch's head."""
    ports, record, revision = planned.ports, planned.record, planned.plan.revision
    now, run = ports.clock.now(), planned.transaction.run.id
    is_head = record.head is not None and record.head.subtree == revision.subtree and record.pin is None
    if not is_head or ports.settings.git_revert is GitRevert.OFF:
        return Quarantine(revision, reason, now, run)
    good = await newest_good(ports, record, revision)
    if good is None:
        return Quarantine(revision, reason, now, run)
    return Quarantine(revision, reason, now, run, good=good.commit, revert=RevertState.PENDING)


async def newest_good(ports: Ports, record: EnvironmentRecord, before: Revision) -> Revision | None:
    """The last ancestor of ``before`` that succeeded here, whatever was applied in between."""
    best: Revision | None = None
    known = [
        record.healthy,
        *(run.revision for run in ports.store.runs(record.name, _SEARCHED_RUNS) if run.result in _SUCCEEDED),
    ]
    for revision in dict.fromkeys(filter(None, known)):
        if revision.subtree == before.subtree or not await ports.git.descends(before.commit, revision.commit):
            continue
        if best is None or await ports.git.descends(revision.commit, best.commit):
            best = revision
    return best


def _degraded(planned: _PlannedRun, reason: str, id: str = ServiceFailedError.id) -> Outcome:
    """The files stay although a service is unhealthy; the record says so until it is healthy, or the next change."""
    planned.ports.metrics.failed(planned.plan.environment, planned.ports.clock.now())
    planned.record = replace(planned.record, degraded=reason)
    return _end(planned, Result.FAILED, reason, id=id)


async def _interrupted(planned: _PlannedRun, error: OutsideError) -> Outcome:
    """Something outside failed: restore files if not all are written; else leave the run unfinished for the next
    reconciliation to resume."""
    ports, plan, transaction = planned.ports, planned.plan, planned.transaction
    # Otherwise every retry adds a copy of the same files, and in the end pushes out the older ones.
    backup = transaction.run.backup
    if transaction.stage is Stage.BACKUP:
        if not transaction.resumed:
            await ports.backups.discard(plan.environment, backup)
        raise error
    if transaction.stage is Stage.SERVICES:
        services = ", ".join(sorted({action.service for action in transaction.run.actions}))
        return _unfinished(planned, f"{error}. The files are in place; pending restarts: {services}", error.id)
    try:
        await restore_files(ports, transaction)
    except ReconcilerError as failure:
        return _unfinished(planned, f"{error}. Restoring the files failed too: {failure}", error.id)
    transaction.run = replace(transaction.run, backup="")
    reason = f"{error}. The live files are as before"
    pending = transaction.resumed
    outcome = _end(planned, Result.FAILED, reason, wrote=False, pending=pending, retry=True, id=error.id)
    await ports.backups.discard(plan.environment, backup)  # not earlier: a run that could not be ended still names it
    return outcome


def _unfinished(planned: _PlannedRun, reason: str, id: str) -> Outcome:
    """Leave the run to the next reconciliation, with its backup and its pending restarts."""
    plan = planned.plan
    run = replace(planned.transaction.run, reason=f"{reason}. The next reconciliation continues", error_id=id)
    planned.ports.store.amend(run)
    backup = run.backup or None
    outcome = Outcome(plan.environment, Result.FAILED, run.reason, plan.revision, plan, plan, run.id, backup)
    return replace(outcome, retry=True, error_id=id)


def _end(
    planned: _PlannedRun,
    result: Result,
    reason: str,
    *,
    wrote: bool = True,
    healthy: bool = False,
    pending: bool = False,
    retry: bool = False,
    id: str = "",
) -> Outcome:
    """Store the end of the run in one transaction, and return the outcome.

    ``wrote``: git's files are in place now; ``pending``: the run's actions stay pending restarts; ``id`` is that of the
    reason.
    """
    ports, plan, transaction = planned.ports, planned.plan, planned.transaction
    run = transaction.run = replace(transaction.run, error_id=id)
    record, now = planned.record, ports.clock.now()
    if wrote:
        record = _settled(record, planned.snapshot, planned.prepared)
    if wrote and plan.applied:
        record = replace(record, applied=plan.revision, whole=plan.revision if plan.whole else record.whole)
    if healthy and not record.stopped:
        _publish_delivery(ports, planned.record, plan, now)
        record = replace(record, healthy=plan.revision, degraded="")
    record = replace(record, startups={**record.startups, **transaction.startups})
    after = _carried_out(plan) if wrote else plan
    record = _noted(record, planned.snapshot, after, now) if wrote else record
    ports.store.finish(
        run,
        result,
        reason,
        at=now,
        record=record,
        applied=_applied(planned.snapshot, planned.prepared, after, now),
        forgotten=_forgotten(planned.snapshot, after),
        pending_restarts=transaction.run.actions if pending else (),
        settled=(*transaction.run.actions, *_obsolete(ports, planned.prepared)) if wrote and not pending else (),
    )
    if wrote:
        _advance_targets(ports, planned.snapshot, after)
    outcome = Outcome(plan.environment, result, reason, plan.revision, plan, after, run.id, run.backup or None)
    return replace(outcome, retry=retry, error_id=id)


def _publish_delivery(ports: Ports, record: EnvironmentRecord, plan: Plan, now: float) -> None:
    """Publish how long the commit took to healthy services; ``record`` is from before the run.

    Only for a new head: not for the first revision of a new server, which may be months old, nor for an earlier one
    that a pin or a quarantine selects.
    """
    revision, seconds = plan.revision, max(0.0, now - plan.revision.committed_at)
    is_head = record.head is not None and record.head.subtree == revision.subtree and record.pin is None
    before = {known.subtree for known in (record.applied, record.healthy) if known is not None}
    if not is_head or not before:
        return
    if plan.applied and before - {revision.subtree}:
        ports.metrics.delivered(record.name, seconds)
    for change in plan.writes:
        if change.kind in (Kind.CREATE, Kind.UPDATE, Kind.CONFLICT):
            ports.metrics.delivered_target(record.name, change.target.id, seconds)


def _renewed(plan: Plan) -> list[Change]:
    """The files of which the plan renews the containers that run older values."""
    paths = {path for action in plan.actions for path in action.stale}
    return [change for change in plan.changes if Aspect.STALE in change.aspects and change.target.path in paths]


def _carried_out(plan: Plan) -> Plan:
    """The plan after its writes and actions; what was deleted is no longer a target."""
    renewed = {change.target.path for change in _renewed(plan)}
    changes = tuple(
        replace(change, kind=Kind.IN_SYNC, effect=Effect.NONE, aspects=frozenset(), keys=KeyChange(), reason="in sync")
        if change.writes
        else replace(change, aspects=change.aspects - {Aspect.STALE})
        if change.target.path in renewed
        else change
        for change in plan.changes
        if change.effect is not Effect.DELETE
    )
    return replace(plan, changes=changes, actions=(), drifts=tuple(drift for drift in plan.drifts if drift.waits))


def _applied(snapshot: Snapshot, prepared: Prepared, plan: Plan, at: float) -> list[Applied]:
    """The targets in sync, after the ``plan``, of which the store does not know that yet.

    Where somebody else has brought a file to what git has now, that counts once no container has an older version: what
    was last applied says what such a container may have.
    """
    new = []
    written = {change.target.path for change in prepared.plan.writes}
    desired = set(snapshot.desired.manifest.targets)
    for change in plan.changes:
        target, digest = change.target, snapshot.desired.digests.get(change.target.source)
        if change.kind is not Kind.IN_SYNC or digest is None or target not in desired:
            continue
        known = snapshot.applied.get(target.path)
        seen = target.stack is None or (target.stack in prepared.views and Aspect.STALE not in change.aspects)
        if known is not None and known.digest != digest and target.path not in written and not seen:
            continue
        facts = (target.source, digest, target.mode, target.stack, target.prune)
        if known is None or facts != (known.source, known.digest, known.mode, known.stack, known.prune):
            place, commit = (target.source, target.path), plan.revision.commit
            new.append(Applied(*place, digest, target.mode, commit, at, target.stack, target.prune))
    return new


def _forgotten(snapshot: Snapshot, plan: Plan) -> list[str]:
    """Live paths that left git and are gone, or another environment's; the remaining ones are orphans."""
    left = {state.target.path for state in snapshot.states if state.desired is None}
    return sorted(left - {change.target.path for change in plan.changes if change.kind in LEFT_GIT})


def _noted(record: EnvironmentRecord, snapshot: Snapshot, plan: Plan, now: float) -> EnvironmentRecord:
    """The record with the orphans of the plan, and without restored files that are no longer as they were restored."""
    backups = {state.target.path: state.restored_from for state in snapshot.states}
    differ = {change.target.path for change in plan.changes if change.kind is not Kind.IN_SYNC}
    restored = tuple(file for file in record.restored if file.path in differ and backups[file.path] == file.backup)
    return with_orphans(replace(record, restored=restored), plan, now)


def _done_reason(transaction: Transaction, *, services: bool) -> str:
    """What was written and deleted, and, if the ``services`` were touched, that they are healthy."""
    files = ", ".join(change.source for change in transaction.run.changes if change.digest is not None)
    deleted = ", ".join(change.source for change in transaction.run.changes if change.digest is None)
    healthy = ", ".join(sorted({action.service for action in transaction.run.actions})) if services else ""
    parts = [f"wrote {files}" if files else "", f"deleted {deleted}" if deleted else ""]
    parts += [f"redeployed {action.service} ({action.reason})" for action in transaction.run.actions if action.repairs]
    parts.append(f"{healthy} healthy on the new values" if healthy else "")
    return "; ".join(filter(None, parts)) or ("nothing was left to do" if services else "nothing was written")
