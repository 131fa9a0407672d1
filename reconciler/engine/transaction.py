"""How a planned change is carried out to an honest end: applied, rolled back, or left with what is owed."""

from __future__ import annotations

from dataclasses import dataclass, replace

from reconciler.core.decide import health
from reconciler.core.decide.suspension import suspension_of
from reconciler.core.errors import ModelRefusedError, OutsideError, ReconcilerError, ServiceFailedError, UnhealthyError
from reconciler.core.model.compose import Action
from reconciler.core.model.plans import Aspect, Change, Effect, KeyChange, Kind, Plan
from reconciler.core.model.records import Applied, EnvironmentRecord, Quarantine
from reconciler.core.model.revisions import GitRevert, RevertState, Revision
from reconciler.core.model.runs import Outcome, Result, Run
from reconciler.core.model.targets import OnFailure
from reconciler.core.ports import Ports
from reconciler.engine.backup import expire_backups
from reconciler.engine.execute import Progress, Stage, execute, resume
from reconciler.engine.observe import Snapshot
from reconciler.engine.planning import Prepared
from reconciler.engine.rollback import restore_files, roll_back

_WELL = (Result.APPLIED, Result.CORRECTED, Result.IN_SYNC)
_FAR_BACK = 50  # runs


@dataclass(slots=True)
class Transaction:
    """One run of one environment: the plan with what it was made from, and how far it has come."""

    ports: Ports
    snapshot: Snapshot
    prepared: Prepared
    record: EnvironmentRecord
    progress: Progress

    @property
    def plan(self) -> Plan:
        return self.prepared.plan


def open_transaction(ports: Ports, snapshot: Snapshot, prepared: Prepared, trigger: str) -> Transaction:
    """A transaction that has not begun, nothing is stored yet; or the one that was begun and not finished."""
    plan = prepared.plan
    record = ports.store.environment(plan.environment)
    if unfinished := ports.store.unfinished(plan.environment):
        return Transaction(ports, snapshot, prepared, record, resume(unfinished))
    run = Run(
        id=ports.new_run_id(),
        environment=plan.environment,
        trigger=trigger,
        started_at=ports.clock.now(),
        revision=plan.revision,
        from_commit=record.applied.commit if record.applied else "",
    )
    return Transaction(ports, snapshot, prepared, record, Progress(run))


def finish_in_sync(ports: Ports, snapshot: Snapshot, prepared: Prepared, trigger: str) -> Outcome:
    """End a pass that has nothing to do; the revision, and what is right already, are stored where that is news."""
    plan = prepared.plan
    record = ports.store.environment(plan.environment)
    if record.stopped:
        reason = "; ".join(dict.fromkeys(record.stopped.values()))
        return Outcome(plan.environment, Result.ROLLBACK_FAILED, reason, plan.revision, plan, plan)
    if record.degraded and _still_failing(prepared):
        return Outcome(plan.environment, Result.FAILED, record.degraded, plan.revision, plan, plan)
    held = bool(plan.held or plan.reported)
    result = Result.HELD if held else Result.IN_SYNC
    pinned = ", where it is pinned" if record.pin else ""
    reason = held_reason(plan) if held else f"in sync at {plan.revision.short}{pinned}"
    arrived = _is_whole(plan) and (record.applied is None or record.applied.subtree != plan.revision.subtree)
    news = _applied(snapshot, plan, 0.0) or _forgotten(snapshot, plan) or _obsolete(ports, prepared)
    if record.degraded or arrived or news:
        return _end(open_transaction(ports, snapshot, prepared, trigger), result, reason, healthy=True)
    if _is_whole(plan):
        _advance(ports, record, plan.revision)
    return Outcome(plan.environment, result, reason, plan.revision, plan, plan)


def _is_whole(plan: Plan) -> bool:
    """Whether all that the revision wants is in place, or is about to be: nothing of it is held back."""
    return not any(change.kind in (Kind.CREATE, Kind.UPDATE, Kind.CONFLICT, Kind.FIRST_CONTACT) for change in plan.held)


def _obsolete(ports: Ports, prepared: Prepared) -> list[Action]:
    """What is owed to services that there are no more: nobody can be given it."""
    plan = prepared.plan
    record = ports.store.environment(plan.environment)
    pending_restarts, _ = suspension_of(record, ports.clock.now()).split(ports.store.pending_restarts(plan.environment))
    due = {(action.stack, action.service) for action in plan.actions}
    return [action for action in pending_restarts if (action.stack, action.service) not in due]


def _advance(ports: Ports, record: EnvironmentRecord, revision: Revision) -> None:
    """Remember the newest commit of an unchanged subtree: a later revert in git begins after it."""
    healthy = revision if record.healthy and record.healthy.subtree == revision.subtree else record.healthy
    advanced = replace(record, applied=revision, healthy=healthy)
    if advanced != record:
        ports.store.save_environment(advanced)


def _still_failing(prepared: Prepared) -> bool:
    return any(health.failing(view.stack, view.containers) for view in prepared.views.values())


async def transact(ports: Ports, snapshot: Snapshot, prepared: Prepared, trigger: str) -> Outcome:
    """Carry the plan out. Raises ReconcilerError only where nothing was changed."""
    transaction = open_transaction(ports, snapshot, prepared, trigger)
    try:
        await execute(ports, transaction.progress, snapshot, prepared)
    except (ModelRefusedError, UnhealthyError) as error:
        return await _failed_revision(transaction, error)
    except ServiceFailedError as error:
        return _degraded(transaction, f"the files are in place, but {error}")
    except OutsideError as error:
        return await _interrupted(transaction, error)
    return await _succeeded(transaction)


async def _succeeded(transaction: Transaction) -> Outcome:
    ports, plan, progress = transaction.ports, transaction.plan, transaction.progress
    changes = progress.run.changes
    corrected = [f"{plan.environment}/{one.source}" for one in changes if one.kind in (Kind.DRIFT, Kind.CONFLICT)]
    stale = [change.target.id for change in plan.changes if _is_renewed(plan, change)]
    only_corrects = all(change.kind == Kind.DRIFT for change in changes)
    ports.metrics.corrected(plan.environment, [*corrected, *stale])
    ports.metrics.observed(_carried_out(plan), ports.clock.now())
    result = Result.CORRECTED if only_corrects else Result.APPLIED
    outcome = _end(transaction, result, _done_reason(progress), healthy=True)
    await expire_backups(ports, plan.environment)
    if plan.held or plan.reported:
        return replace(outcome, result=Result.HELD, reason=f"{outcome.reason}; {held_reason(plan)}")
    return outcome


async def _failed_revision(transaction: Transaction, error: ReconcilerError) -> Outcome:
    """The revision broke a service: roll back, unless the stack's owner asked to hold or there is no way back."""
    ports, plan, record = transaction.ports, transaction.plan, transaction.record
    ports.metrics.failed(plan.environment, ports.clock.now())
    run, views = transaction.progress.run, transaction.prepared.views
    projects = [transaction.progress.projects.get(name) or view.before for name, view in views.items()]
    logs = [f"`{project.invocation.command('logs')}`" for project in projects if project]
    look = f"Look at the service ({', '.join(logs) or '`docker compose logs`'}), or merge a correction"
    if any(view.stack.on_failure is OnFailure.HOLD for name, view in views.items() if name in run.stacks):
        return _degraded(transaction, f"{error}. on_failure is hold: the new files stay. {look}")
    good = all(known and known.subtree == plan.revision.subtree for known in (record.healthy, record.applied))
    if good or not run.changes:
        # Git's files were healthy before: restoring what stood here would only bring a hand edit back.
        return _degraded(transaction, f"{error}. The files are those of the last good revision, so they stay. {look}")
    quarantined = record.quarantined(await _quarantine(transaction, str(error)))
    outcome = await roll_back(ports, transaction.progress, transaction.prepared.views, quarantined, str(error))
    return replace(outcome, plan=plan, after=plan)


async def _quarantine(transaction: Transaction, reason: str) -> Quarantine:
    """The revision that failed, and whether git is to be asked to take it back: only if that is the branch's wish."""
    ports, record, revision = transaction.ports, transaction.record, transaction.plan.revision
    now, run = ports.clock.now(), transaction.progress.run.id
    is_head = record.head is not None and record.head.subtree == revision.subtree and record.pin is None
    if not is_head or ports.settings.git_revert is GitRevert.OFF:
        return Quarantine(revision, reason, now, run)
    good = await newest_good(ports, record, revision)
    if good is None:
        return Quarantine(revision, reason, now, run)
    return Quarantine(revision, reason, now, run, good=good.commit, revert=RevertState.PENDING)


async def newest_good(ports: Ports, record: EnvironmentRecord, before: Revision) -> Revision | None:
    """The last revision on the way to ``before`` that went well here, whatever was applied in between."""
    best: Revision | None = None
    known = [record.healthy, *(run.revision for run in ports.store.runs(record.name, _FAR_BACK) if run.result in _WELL)]
    for one in dict.fromkeys(filter(None, known)):
        if one.subtree == before.subtree or not await ports.git.descends(before.commit, one.commit):
            continue
        if best is None or await ports.git.descends(one.commit, best.commit):
            best = one
    return best


def _degraded(transaction: Transaction, reason: str) -> Outcome:
    """The files stay although a service is not healthy; that is remembered until it is, or until the next change."""
    transaction.ports.metrics.failed(transaction.plan.environment, transaction.ports.clock.now())
    transaction.record = replace(transaction.record, degraded=reason)
    return _end(transaction, Result.FAILED, reason)


async def _interrupted(transaction: Transaction, error: OutsideError) -> Outcome:
    """Something outside failed: half-written files go back; once they are all in place, the run stays unfinished, and
    the next pass goes on with it.
    """
    ports, plan, progress = transaction.ports, transaction.plan, transaction.progress
    # Every retry would leave another copy of the same files, and in the end push out the older ones.
    backup = progress.run.backup
    if progress.stage is Stage.BACKUP:
        if not progress.resumed:
            await ports.backups.discard(plan.environment, backup)
        raise error
    if progress.stage is Stage.SERVICES:
        services = ", ".join(sorted({action.service for action in progress.run.actions}))
        return _unfinished(transaction, f"{error}. The files are in place; still owed: {services}")
    try:
        await restore_files(ports, progress)
    except ReconcilerError as failure:
        return _unfinished(transaction, f"{error}. Putting the files back failed too: {failure}")
    progress.run = replace(progress.run, backup="")
    reason = f"{error}. The live files are as they were"
    outcome = _end(transaction, Result.FAILED, reason, wrote=False, owing=progress.resumed, retry=True)
    await ports.backups.discard(plan.environment, backup)  # not before: a run that could not be ended still names it
    return outcome


def _unfinished(transaction: Transaction, reason: str) -> Outcome:
    """Leave the run to the next pass: its backup stays the way back, and what it owes stays owed."""
    plan = transaction.plan
    run = replace(transaction.progress.run, reason=f"{reason}; it is tried again")
    transaction.ports.store.amend(run)
    backup = run.backup or None
    return Outcome(plan.environment, Result.FAILED, run.reason, plan.revision, plan, plan, run.id, backup, retry=True)


def _end(
    transaction: Transaction,
    result: Result,
    reason: str,
    *,
    wrote: bool = True,
    healthy: bool = False,
    owing: bool = False,
    retry: bool = False,
) -> Outcome:
    """Store the end of the run, all at once, and return it.

    ``wrote``: git's files are in place now; ``owing``: the services still need what the run owed them.
    """
    ports, plan, progress = transaction.ports, transaction.plan, transaction.progress
    record, now = transaction.record, ports.clock.now()
    if wrote and _is_whole(plan):
        record = replace(record, applied=plan.revision)
    if healthy and not record.stopped:
        if _is_whole(plan):
            _tell_delivery(ports, transaction.record, plan.revision, now)
        record = replace(record, healthy=plan.revision, degraded="")
    after = _carried_out(plan) if wrote else plan
    ports.store.finish(
        progress.run,
        result,
        reason,
        at=now,
        record=record,
        applied=_applied(transaction.snapshot, after, now),
        forgotten=_forgotten(transaction.snapshot, after),
        pending_restarts=progress.run.actions if owing else (),
        settled=(*progress.run.actions, *_obsolete(ports, transaction.prepared)) if wrote else (),
    )
    run = progress.run
    return Outcome(plan.environment, result, reason, plan.revision, plan, after, run.id, run.backup or None, retry)


def _tell_delivery(ports: Ports, record: EnvironmentRecord, revision: Revision, now: float) -> None:
    """How long the commit took from its making to healthy services; ``record`` is from before the run.

    Only for what git has newly brought: not for the first revision of a new server, which may be months old, nor for
    an earlier one that a person or a quarantine has put in its place.
    """
    is_head = record.head is not None and record.head.subtree == revision.subtree and record.pin is None
    before = {known.subtree for known in (record.applied, record.healthy) if known is not None}
    if is_head and before - {revision.subtree}:
        ports.metrics.delivered(record.name, max(0.0, now - revision.committed_at))


def _is_renewed(plan: Plan, change: Change) -> bool:
    """Whether the plan gives the containers that run older values of the file its new ones."""
    renewed = {action.stack for action in plan.actions if action.stale}
    return Aspect.STALE in change.aspects and change.target.stack in renewed


def _carried_out(plan: Plan) -> Plan:
    """The plan as it stands once its writes and actions are done; what was deleted is no target any more."""
    changes = tuple(
        replace(change, kind=Kind.IN_SYNC, effect=Effect.NONE, aspects=frozenset(), keys=KeyChange(), reason="in sync")
        if change.writes
        else replace(change, aspects=change.aspects - {Aspect.STALE})
        if _is_renewed(plan, change)
        else change
        for change in plan.changes
        if change.effect is not Effect.DELETE
    )
    return replace(plan, changes=changes, actions=())


def _applied(snapshot: Snapshot, plan: Plan, at: float) -> list[Applied]:
    """What the store does not know yet of the targets that are in sync."""
    news = []
    desired = set(snapshot.desired.manifest.targets)
    for change in plan.changes:
        target, digest = change.target, snapshot.desired.digests.get(change.target.source)
        if change.kind is not Kind.IN_SYNC or digest is None or target not in desired:
            continue
        known = snapshot.applied.get(target.path)
        fact = Applied(
            target.source, target.path, digest, target.mode, plan.revision.commit, at, target.stack, target.prune
        )
        if known is None or fact != replace(known, commit=fact.commit, at=fact.at):
            news.append(fact)
    return news


def _forgotten(snapshot: Snapshot, plan: Plan) -> list[str]:
    """Live paths that left git and are gone, or are not as we wrote them: what is left are orphans."""
    left = {state.target.path for state in snapshot.states if state.desired is None}
    return sorted(left - {change.target.path for change in plan.changes if change.kind is Kind.ORPHAN})


def _done_reason(progress: Progress) -> str:
    files = ", ".join(change.source for change in progress.run.changes)
    services = ", ".join(sorted({action.service for action in progress.run.actions}))
    parts = [f"wrote {files}" if files else "", f"{services} healthy on the new values" if services else ""]
    return "; ".join(part for part in parts if part)


def held_reason(plan: Plan) -> str:
    """What waits for a person, and why."""
    waiting = [f"{change.target.source}: {change.reason}" for change in (*plan.held, *plan.reported)]
    return f"{len(waiting)} left for a person: {'; '.join(waiting)}"
