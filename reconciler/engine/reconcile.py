"""One pass over one environment: decide, and do it. Errors become outcomes here and nowhere else."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from reconciler.core import health
from reconciler.core.errors import (
    GitUnreachableError,
    HistoryRewrittenError,
    ModelRefusedError,
    OutsideError,
    QuarantinedError,
    ReconcilerError,
    ServiceFailedError,
    UnhealthyError,
)
from reconciler.core.model import (
    Applied,
    Effect,
    EnvironmentRecord,
    KeyChange,
    Kind,
    OnFailure,
    Outcome,
    Phase,
    Plan,
    Result,
    Revision,
    Run,
    ServiceHealth,
)
from reconciler.core.ports import Ports
from reconciler.engine.execute import Progress, Stage, execute, phase
from reconciler.engine.observe import Snapshot, Wanted, load, look
from reconciler.engine.prepare import KeyNames, Prepared, prepare
from reconciler.engine.rollback import restore_files, undo

# A revision that cannot be applied is looked at again this often: the cause may lie on the server (a missing user).
_REMEMBER_FAILURE = 300.0


@dataclass(frozen=True, slots=True)
class Failure:
    """A revision that could not be applied, so that it is not decrypted again in every pass."""

    subtree: str
    error: ReconcilerError
    until: float


class Reconciler:
    """The passes of one environment, with what is kept in memory between them."""

    def __init__(self, ports: Ports, environment: str) -> None:
        self.environment = environment
        self._ports = ports
        self._names = KeyNames()
        self._wanted: Wanted | None = None
        self._failure: Failure | None = None
        self._containers: Mapping[str, frozenset[str]] = {}
        self._looked_at_stacks = float("-inf")

    async def run(
        self, trigger: str, *, poll: bool = True, dry_run: bool = False, take_over: Collection[str] = ()
    ) -> Outcome:
        """One pass. ``poll`` asks git first; ``dry_run`` changes nothing; never raises ReconcilerError."""
        started = self._ports.clock.monotonic()
        warning = ""
        try:
            revision, warning = await self._wanted_revision(poll)
            outcome = await self._pass(revision, trigger, dry_run, take_over)
        except ReconcilerError as error:
            outcome = self._ended_by(error)
        outcome = replace(outcome, warning=warning)
        if not dry_run:
            clock = self._ports.clock
            self._ports.metrics.finished(outcome, clock.monotonic() - started, clock.now())
        return outcome

    async def health(self) -> tuple[ServiceHealth, ...]:
        """The services of every stack of the wanted revision, as they are now. Raises EngineUnavailableError."""
        stacks = self._wanted.manifest.stacks if self._wanted else ()
        found: list[ServiceHealth] = []
        for stack in stacks:
            found += health.assess(stack, await self._ports.compose.containers(stack, None))
        return tuple(found)

    async def _pass(self, revision: Revision, trigger: str, dry_run: bool, take_over: Collection[str]) -> Outcome:
        ports = self._ports
        wanted = await self._load(revision, trusting_memory=trigger in ("poll", "drift"))
        with phase(ports, Phase.OBSERVE, "comparing the live files"):
            snapshot = await look(ports, wanted)
            owed = ports.store.owed(self.environment)
            deep = bool(owed) or dry_run or await self._stacks_moved(wanted)
            prepared = await prepare(ports, snapshot, self._names, take_over=take_over, look_at_stacks=deep, owed=owed)
        self._publish(prepared.plan)
        if dry_run:
            return _preview(prepared)
        if prepared.plan.empty and not prepared.problems:
            return self._settle(snapshot, prepared, trigger)
        self._remember_failure_of(prepared)
        return await self._transact(snapshot, prepared, trigger)

    # --- which revision ---

    async def _wanted_revision(self, poll: bool) -> tuple[Revision, str]:
        """The branch head, or what a pin or a quarantine puts in its place; and what a person should know."""
        record = self._ports.store.environment(self.environment)
        head, warning = record.head, ""
        if poll or head is None:
            try:
                head = await self._ask_git(record)
            except (GitUnreachableError, HistoryRewrittenError) as error:
                if record.head is None:
                    raise
                head, warning = record.head, str(error)
        assert head is not None
        self._ports.metrics.revision(self.environment, "head", head)
        if not record.quarantined_subtree or record.quarantined_subtree != head.subtree:
            return head, warning
        if record.healthy is None:
            what = f"revision {head.short} is quarantined ({record.quarantine_reason}); none is known to be good"
            raise QuarantinedError(what, hint="merge a correction")
        return record.healthy, warning or f"revision {head.short} is quarantined: {record.quarantine_reason}"

    async def _ask_git(self, record: EnvironmentRecord) -> Revision:
        ports = self._ports
        try:
            with phase(ports, Phase.FETCH, "asking git"):
                commit = await ports.git.head()
                if record.head is not None and record.head.commit == commit:
                    head = record.head
                else:
                    head = await self._accept(record, commit)
        except GitUnreachableError:
            ports.metrics.fetched(self.environment, False, ports.clock.now())
            raise
        ports.metrics.fetched(self.environment, True, ports.clock.now())
        return head

    async def _accept(self, record: EnvironmentRecord, commit: str) -> Revision:
        ports = self._ports
        await ports.git.fetch(commit)
        base = "/".join(part for part in (ports.settings.repository_path, self.environment) if part)
        head = await ports.git.revision(commit, base)
        known = None if ports.settings.accept_rewrites else record.head
        if known is not None and not await ports.git.descends(commit, known.commit):
            raise HistoryRewrittenError(
                f"the branch was rewritten: {head.short} does not descend from {known.short}",
                where=f"branch {ports.settings.branch}",
                hint=f"{known.short} stays wanted; restore the branch, or set repository.history_rewrites: accept",
            )
        ports.store.save_environment(replace(record, head=head))
        return head

    async def _load(self, revision: Revision, *, trusting_memory: bool) -> Wanted:
        if self._wanted is not None and self._wanted.revision == revision:
            return self._wanted
        failure, now = self._failure, self._ports.clock.monotonic()
        if failure and trusting_memory and failure.subtree == revision.subtree and now < failure.until:
            raise failure.error
        self._failure = None
        try:
            self._wanted = await load(self._ports, self.environment, revision)
        except ReconcilerError as error:
            if error.blames_revision:
                until = self._ports.clock.monotonic() + _REMEMBER_FAILURE
                self._failure = Failure(revision.subtree, error, until)
            raise
        self._ports.metrics.revision(self.environment, "wanted", revision)
        return self._wanted

    async def _stacks_moved(self, wanted: Wanted) -> bool:
        """Whether containers have come or gone since the last look; asked at most once a drift interval."""
        now = self._ports.clock.monotonic()
        if now - self._looked_at_stacks < self._ports.settings.drift_interval:
            return False
        self._looked_at_stacks = now
        seen = {stack.name: await self._ports.compose.container_ids(stack) for stack in wanted.manifest.stacks}
        moved = seen != self._containers
        self._containers = seen
        return moved

    # --- what comes of it ---

    def _publish(self, plan: Plan) -> None:
        self._ports.metrics.observed(plan, self._ports.clock.now())

    def _settle(self, snapshot: Snapshot, prepared: Prepared, trigger: str) -> Outcome:
        """Nothing to do: remember the revision and what is right already, where that is news."""
        plan = prepared.plan
        record = self._ports.store.environment(self.environment)
        held = bool(plan.held or plan.reported)
        result = Result.HELD if held else Result.IN_SYNC
        reason = _held_reason(plan) if held else f"in sync at {plan.revision.short}"
        news = record.applied is None or record.applied.subtree != plan.revision.subtree
        if news or _applied(snapshot, plan, 0.0) or _forgotten(snapshot, plan):
            progress = Progress(self._new_run(plan, trigger, record))
            return self._end(progress, snapshot, plan, result, reason, _healthy(record, plan.revision))
        return Outcome(self.environment, result, reason, plan.revision, plan, plan)

    def _remember_failure_of(self, prepared: Prepared) -> None:
        """Raise what the guards found, and remember it for this revision."""
        try:
            prepared.check()
        except ReconcilerError as error:
            until = self._ports.clock.monotonic() + _REMEMBER_FAILURE
            self._failure = Failure(prepared.plan.revision.subtree, error, until)
            self._wanted = None
            raise

    async def _transact(self, snapshot: Snapshot, prepared: Prepared, trigger: str) -> Outcome:
        ports, plan = self._ports, prepared.plan
        record = ports.store.environment(self.environment)
        progress = Progress(self._new_run(plan, trigger, record))
        self._looked_at_stacks = float("-inf")
        try:
            await execute(ports, progress, snapshot, prepared)
        except (ModelRefusedError, UnhealthyError) as error:
            return await self._failed_revision(progress, snapshot, prepared, record, error)
        except ServiceFailedError as error:
            reason = f"the files are in place, but {error}"
            return self._end(progress, snapshot, plan, Result.FAILED, reason, replace(record, applied=plan.revision))
        except OutsideError as error:
            return await self._interrupted(progress, snapshot, plan, record, error)
        result = Result.CORRECTED if _only_corrects(plan) else Result.APPLIED
        ports.metrics.health(self.environment, progress.services)
        ports.metrics.corrected(self.environment, [change.target.id for change in plan.writes if change.drifted])
        self._publish(_carried_out(plan))
        outcome = self._end(
            progress, snapshot, plan, result, _done_reason(progress, plan), _healthy(record, plan.revision)
        )
        if plan.held or plan.reported:
            return replace(outcome, result=Result.HELD, reason=f"{outcome.reason}; {_held_reason(plan)}")
        return outcome

    async def _failed_revision(
        self,
        progress: Progress,
        snapshot: Snapshot,
        prepared: Prepared,
        record: EnvironmentRecord,
        error: ReconcilerError,
    ) -> Outcome:
        """The revision broke a service: roll back, unless the stack's owner asked to hold or there is no way back."""
        ports, plan = self._ports, prepared.plan
        applied = replace(record, applied=plan.revision)
        if any(view.stack.on_failure is OnFailure.HOLD for view in prepared.views.values()):
            reason = f"{error}. on_failure is hold: the new files stay"
            return self._end(progress, snapshot, plan, Result.FAILED, reason, applied)
        if not progress.written or (record.healthy is not None and record.healthy.subtree == plan.revision.subtree):
            # Git's files were healthy before: restoring what stood here would only bring a hand edit back.
            reason = f"{error}. The files are those of the last good revision, so they stay"
            return self._end(progress, snapshot, plan, Result.FAILED, reason, applied)
        try:
            await undo(ports, progress, prepared.views, str(error))
        except ReconcilerError as failure:
            ports.metrics.rolled_back(self.environment, "local", False)
            reason = f"{error}. The rollback failed too: {failure}. The backup is {progress.run.backup}"
            return self._end(progress, snapshot, plan, Result.ROLLBACK_FAILED, reason, record, wrote=False)
        ports.metrics.rolled_back(self.environment, "local", True)
        quarantined = replace(record, quarantined_subtree=plan.revision.subtree, quarantine_reason=str(error))
        reason = f"{error}. Everything is as it was before; revision {plan.revision.short} is quarantined"
        return self._end(progress, snapshot, plan, Result.ROLLED_BACK, reason, quarantined, wrote=False)

    async def _interrupted(
        self, progress: Progress, snapshot: Snapshot, plan: Plan, record: EnvironmentRecord, error: OutsideError
    ) -> Outcome:
        """Something outside failed: half-written files go back; once they are all in place, the services stay owed."""
        if progress.stage is Stage.SERVICES:
            services = ", ".join(sorted({action.service for action in progress.owed}))
            reason = f"{error}. The files are in place; still owed: {services}; it is tried again"
            applied = replace(record, applied=plan.revision)
            return self._end(progress, snapshot, plan, Result.FAILED, reason, applied, owed=True, retry=True)
        if progress.stage is Stage.BACKUP:
            raise error
        try:
            await restore_files(self._ports, progress)
        except ReconcilerError as failure:
            reason = f"{error}. Restoring failed too: {failure}. The backup is {progress.run.backup}"
            return self._end(progress, snapshot, plan, Result.ROLLBACK_FAILED, reason, record, wrote=False)
        reason = f"{error}. The live files are as they were; it is tried again"
        return self._end(progress, snapshot, plan, Result.FAILED, reason, record, wrote=False, retry=True)

    def _end(
        self,
        progress: Progress,
        snapshot: Snapshot,
        plan: Plan,
        result: Result,
        reason: str,
        record: EnvironmentRecord,
        *,
        wrote: bool = True,
        owed: bool = False,
        retry: bool = False,
    ) -> Outcome:
        ports, run = self._ports, progress.run
        done = _carried_out(plan) if wrote else plan
        ports.store.finish(
            run,
            result,
            reason,
            at=ports.clock.now(),
            record=record,
            applied=_applied(snapshot, done, ports.clock.now()),
            forgotten=_forgotten(snapshot, done),
            owed=progress.owed if owed else (),
        )
        for state, revision in (("applied", record.applied), ("healthy", record.healthy)):
            ports.metrics.revision(self.environment, state, revision)
        return Outcome(self.environment, result, reason, plan.revision, plan, done, run.id, run.backup or None, retry)

    def _new_run(self, plan: Plan, trigger: str, record: EnvironmentRecord) -> Run:
        ports = self._ports
        return Run(
            id=ports.new_run_id(),
            environment=self.environment,
            trigger=trigger,
            started_at=ports.clock.now(),
            revision=plan.revision,
            from_commit=record.applied.commit if record.applied else "",
        )

    def _ended_by(self, error: ReconcilerError) -> Outcome:
        result = Result.STALLED if error.blames_revision else Result.FAILED
        return Outcome(self.environment, result, str(error), retry=error.retryable)


def _preview(prepared: Prepared) -> Outcome:
    plan = prepared.plan
    if prepared.problems:
        return Outcome(plan.environment, Result.STALLED, "\n".join(prepared.problems), plan.revision, plan, plan)
    if plan.held or plan.reported:
        return Outcome(plan.environment, Result.HELD, _held_reason(plan), plan.revision, plan, plan)
    pending = f"{len(plan.writes)} file(s) would be written, {len(plan.actions)} service(s) touched"
    reason = f"in sync at {plan.revision.short}" if plan.empty else pending
    return Outcome(plan.environment, Result.IN_SYNC, reason, plan.revision, plan, plan)


def _carried_out(plan: Plan) -> Plan:
    """The plan as it stands once its writes are done."""
    changes = tuple(
        replace(change, kind=Kind.IN_SYNC, effect=Effect.NONE, aspects=frozenset(), keys=KeyChange(), reason="in sync")
        if change.writes
        else change
        for change in plan.changes
    )
    return replace(plan, changes=changes, actions=())


def _applied(snapshot: Snapshot, plan: Plan, at: float) -> list[Applied]:
    """What the store does not know yet of the targets that are in sync."""
    news = []
    for change in plan.changes:
        target, digest = change.target, snapshot.wanted.digests.get(change.target.source)
        if change.kind is not Kind.IN_SYNC or digest is None or target not in snapshot.wanted.manifest.targets:
            continue
        known = snapshot.applied.get(target.path)
        fact = Applied(
            target.source, target.path, digest, target.mode, plan.revision.commit, at, target.stack, target.prune
        )
        if known is None or fact != replace(known, commit=fact.commit, at=fact.at):
            news.append(fact)
    return news


def _forgotten(snapshot: Snapshot, plan: Plan) -> list[str]:
    """Live paths that left git and are gone, or were never as we wrote them."""
    left = {state.target.path for state in snapshot.states if state.desired is None}
    gone = {change.target.path for change in plan.changes if change.kind in (Kind.IN_SYNC, Kind.NOT_OURS)}
    return sorted(left & gone)


def _healthy(record: EnvironmentRecord, revision: Revision) -> EnvironmentRecord:
    return replace(record, applied=revision, healthy=revision)


def _only_corrects(plan: Plan) -> bool:
    return all(change.kind is Kind.DRIFT for change in plan.writes)


def _done_reason(progress: Progress, plan: Plan) -> str:
    files = ", ".join(change.target.source for change in plan.writes)
    services = ", ".join(sorted({action.service for action in progress.run.actions}))
    parts = [f"wrote {files}" if files else "", f"{services} healthy on the new values" if services else ""]
    return "; ".join(part for part in parts if part)


def _held_reason(plan: Plan) -> str:
    waiting = [f"{change.target.source}: {change.reason}" for change in (*plan.held, *plan.reported)]
    return f"{len(waiting)} left for a person: {'; '.join(waiting)}"
