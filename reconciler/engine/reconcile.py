"""One reconciliation of one environment. Errors become outcomes here and in transaction.py, nowhere else."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from reconciler.core.decide.suspension import suspension_of
from reconciler.core.errors import (
    ChangedMeanwhileError,
    EngineUnavailableError,
    HeldBackError,
    HistoryRewrittenError,
    HostUnreachableError,
    ReconcilerError,
    RefusedError,
    RevisionError,
    UnverifiedError,
    all_of,
    with_id,
)
from reconciler.core.model.compose import ServiceHealth
from reconciler.core.model.requests import ReconcileRequest, RequestKind, SecretAges
from reconciler.core.model.revisions import Revision
from reconciler.core.model.runs import Activity, Outcome, Phase, Result, Run
from reconciler.core.model.targets import OnFailure, Stack
from reconciler.core.ports import Ports
from reconciler.engine.ahead import Ahead
from reconciler.engine.history import begin_recording, record_outcome, record_refusal
from reconciler.engine.leftovers import clear_leftovers
from reconciler.engine.memory import NEVER, Claims, Memory
from reconciler.engine.observe import (
    Desired,
    Plaintexts,
    Snapshot,
    fingerprints,
    load_desired,
    observe,
    path_in_git,
    read_manifest,
    require_unmoved,
)
from reconciler.engine.operator_requests import carry_out, named_revision, require_known
from reconciler.engine.orphans import require_deletable
from reconciler.engine.phases import phase
from reconciler.engine.planning import Prepared, prepare
from reconciler.engine.preview import prepare_at, preview_of
from reconciler.engine.promotion import as_held, let_pass
from reconciler.engine.recover import give_up, recover
from reconciler.engine.revert import revert_in_git
from reconciler.engine.secret_age import keep_ages_published
from reconciler.engine.stack_health import health_now, observe_stacks
from reconciler.engine.stack_planning import permissions_of
from reconciler.engine.target_revision import accepted_head, target_revision
from reconciler.engine.torn_writes import with_torn_writes
from reconciler.engine.transaction import finish_in_sync, transact
from reconciler.engine.unchanged import outcome_as_before, settled

# Triggers that no operator is behind: the clock, or something that was touched (a live file, a container).
_AUTOMATIC = ("poll", "drift", "watch", "engine")


class Reconciler:
    """The reconciliations of one environment. ``claims`` are shared by all environments of the server."""

    def __init__(self, ports: Ports, environment: str, claims: Claims | None = None) -> None:
        self.environment = environment
        self.activity = Activity()
        self._ports = replace(ports, activity=self.activity)
        self._memory = Memory(claims or Claims())

    async def reconcile(self, request: ReconcileRequest) -> Outcome:
        """Reconcile once. Never raises ReconcilerError."""
        clock, started = self._ports.clock, self._ports.clock.monotonic()
        ahead = Ahead(self._ports, self._memory.resolved_in_vain)
        reconciliation = _Reconciliation(self._ports, self.environment, self._memory, request, ahead)
        with contextlib.suppress(ReconcilerError):
            begin_recording(self._ports, self.environment, self._memory.decisions)
        self.activity.since = clock.now()
        try:
            outcome = await reconciliation.run()
        finally:
            self.activity.since = None
            await ahead.close()
        if not request.dry_run and not outcome.refused:
            await reconciliation.look_at_services()
            self._ports.metrics.finished(outcome, clock.monotonic() - started, clock.now())
            if not reconciliation.as_before:
                self._publish_record(outcome, request)
        return _with_warnings(outcome, reconciliation.warnings)

    async def revert(self, outcome: Outcome) -> Outcome:
        """Have git follow a rollback where that is pending; return the outcome with what came of it."""
        outcome, warning = await _revert(self._ports, outcome)
        return _with_warnings(outcome, [warning] if warning else [])

    async def publish_ages(self) -> None:
        """Publish how old the secrets are, once per revision. It takes as long as a reconciliation does."""
        await keep_ages_published(self._ports, self._memory)

    async def reach(self) -> None:
        """Make sure that the host answers. Raises HostUnreachableError."""
        await self._ports.host.reach()

    async def health(self) -> tuple[ServiceHealth, ...]:
        """The services of every stack of the desired revision, as they are now. Raises EngineUnavailableError."""
        stacks = self._memory.desired.manifest.stacks if self._memory.desired else ()
        summaries = await health_now(self._ports, self.environment, stacks)
        return tuple(service for summary in summaries for service in summary.services)

    @property
    def engine_away(self) -> str:
        """Why the Docker engine of its stacks cannot be asked; "" if it answered the last time."""
        return with_id(str(away), away.id) if (away := self._memory.engine_away) else ""

    @property
    def holds_failures(self) -> bool:
        """Whether a stack keeps new files that fail, for an operator to look at."""
        desired = self._memory.desired
        return desired is not None and any(stack.on_failure is OnFailure.HOLD for stack in desired.manifest.stacks)

    @property
    def live_paths(self) -> frozenset[str]:
        """The live files of the last desired revision."""
        desired = self._memory.desired
        return frozenset(target.path for target in desired.manifest.targets) if desired else frozenset()

    @property
    def secret_ages(self) -> SecretAges | None:
        """How old the secrets are, as last read; None before that."""
        return self._memory.ages

    @property
    def stack_directories(self) -> frozenset[str]:
        """The directories of the stacks of the last desired revision."""
        desired = self._memory.desired
        return frozenset(stack.directory for stack in desired.manifest.stacks) if desired else frozenset()

    def _publish_record(self, outcome: Outcome, request: ReconcileRequest) -> None:
        with contextlib.suppress(ReconcilerError):  # it is reported where the state is needed
            record_outcome(self._ports, outcome, request.origin, self._memory.decisions)
        with contextlib.suppress(ReconcilerError):
            ports = self._ports
            ports.metrics.remembered(ports.store.environment(self.environment), ports.clock.now())
            ports.metrics.applied(self.environment, ports.store.applied(self.environment).values())


@dataclass(slots=True)
class _Reconciliation:
    """One reconciliation: what it was asked, the ``revision`` it works towards, and ``warnings`` beside its outcome.

    ``looked``: it came to where services are looked at, if that is due; or their host cannot be reached. ``as_before``:
    it has found everything as the one before it left it.
    """

    ports: Ports
    environment: str
    memory: Memory
    request: ReconcileRequest
    ahead: Ahead
    revision: Revision | None = None
    warnings: list[ReconcilerError] = field(default_factory=list)
    looked: bool = False
    as_before: bool = False

    async def run(self) -> Outcome:
        """Reconcile, and turn errors into the outcome."""
        try:
            outcome = as_held(await self._reconcile(), self.warnings)
            if self.request.revert and not self.request.dry_run:
                outcome, warning = await _revert(self.ports, outcome)
                self.warnings += [warning] if warning else []
        except HeldBackError as error:
            return Outcome(self.environment, Result.HELD, str(error), error_id=error.id)
        except ReconcilerError as error:
            self.looked |= isinstance(error, HostUnreachableError)
            result = Result.STALLED if error.blames_revision else Result.FAILED
            refused = isinstance(error, RefusedError) and self.request.asks(RequestKind.FORGET)
            outcome = Outcome(self.environment, result, str(error), self.revision, error_id=error.id)
            return replace(outcome, refused=refused, retry=error.retryable)
        return outcome

    async def look_at_services(self) -> None:
        """Look at the services, if that is due, where the reconciliation has ended before it came to that: what happens
        to them, and to the engine, is also seen while a revision stalls or a rollback waits."""
        memory, now = self.memory, self.ports.clock.monotonic()
        due = now - memory.services_seen_at >= self.ports.settings.drift_interval
        if self.looked or not (due or memory.engine_away or self.request.trigger == "engine"):
            return
        try:
            stacks = memory.claims.stacks_of(self.environment)
            if stacks is None and (applied := self.ports.store.environment(self.environment).applied):
                stacks = (await read_manifest(self.ports, self.environment, applied)).stacks
            if stacks is not None:
                await self._observe_stacks(stacks)
                memory.engine_away = None
        except EngineUnavailableError as error:
            memory.engine_away = error if error.files_stay_ours else None
        except ReconcilerError:  # it is the reconciliation that reports errors
            pass

    async def _observe_stacks(self, stacks: Sequence[Stack]) -> Mapping[str, frozenset[str]]:
        self.looked, self.memory.services_seen_at = True, self.ports.clock.monotonic()
        return await observe_stacks(self.ports, self.environment, stacks)

    async def _reconcile(self) -> Outcome:
        """Raises ReconcilerError if nothing was changed, or everything that was changed is restored."""
        ports, request, version = self.ports, self.request, self.ports.store.version
        if refused := await self._carry_out_operator_request():
            return refused
        head = await self._accepted_head()
        if request.operator is not None and request.asks(RequestKind.PLAN):
            return await self._plan_for(request.operator.revision)
        if request.skip_promotion and (needless := let_pass(ports, self.environment, head, request)):
            self.warnings.append(needless)
        if rolled_back := await self._recover(head):
            return rolled_back
        revision = self.revision = self._target_revision(head)
        if outcome := await self._outcome_as_before(revision):
            return outcome
        unfinished = None if request.dry_run else ports.store.unfinished(self.environment)
        plaintexts = Plaintexts(ports)
        try:
            with phase(ports, Phase.LOAD, "reading the revision"):
                desired = await self._load_desired(revision, plaintexts)
            with phase(ports, Phase.OBSERVE, "comparing the live files"):
                snapshot, prepared = await self._observe_and_plan(desired, plaintexts, unfinished)
            require_deletable(prepared.plan, request.operator)
            ports.metrics.observed(prepared.plan, ports.clock.now())
            if request.dry_run:
                return preview_of(prepared)
            if unfinished is not None and prepared.plan.held_stacks and not prepared.problems:
                return preview_of(prepared)  # neither its services nor its end may pass over what is held
            idle = prepared.plan.empty or (prepared.away is not None and not prepared.plan.writes)
            if idle and not prepared.problems and unfinished is None:
                outcome = finish_in_sync(ports, snapshot, prepared, request.origin)
                self.memory.settled = settled(ports, self.memory, snapshot, prepared, outcome, version)
                return outcome
            self._check_guards(prepared)
        except RevisionError as error:
            if unfinished is not None:
                await give_up(ports, unfinished, f"its revision can no longer be applied: {error}")
            raise
        finally:
            ports.metrics.undecryptable(self.environment, plaintexts.failing)
        self.memory.forget_server()
        try:
            return await transact(ports, snapshot, prepared, request.origin)
        finally:
            await self._publish_result(desired)

    async def _outcome_as_before(self, revision: Revision) -> Outcome | None:
        """The outcome of the last reconciliation, where the request may have that and nothing has changed since."""
        if self.request.trigger not in _AUTOMATIC or self.request.trigger == "engine" or self.request.dry_run:
            return None
        outcome = await outcome_as_before(self.ports, self.memory, revision, self._containers_if_due)
        self.as_before = outcome is not None
        return outcome

    async def _carry_out_operator_request(self) -> Outcome | None:
        """Do what the operator asks before reconciling; returns the outcome if it is refused."""
        request = self.request.operator
        if request is None or request.kind is RequestKind.PLAN:
            return None
        try:
            await carry_out(self.ports, self.environment, request, self.request.answer)
        except RefusedError as error:
            return Outcome(self.environment, Result.FAILED, str(error), refused=True, error_id=error.id)
        self.memory.forget_revision()
        self.memory.stacks_observed_at = NEVER  # a pause acknowledges services that do not run
        return None

    async def _accepted_head(self) -> Revision:
        poll, answer = self.request.poll, self.request.answer
        head, warning = await accepted_head(self.ports, self.environment, poll=poll, answer=answer)
        if poll:
            self.memory.git_warning = warning
            await self._record_refusal(warning)
        if self.memory.git_warning:
            self.warnings.append(self.memory.git_warning)
        return head

    async def _record_refusal(self, error: ReconcilerError | None) -> None:
        answer = self.request.answer
        if isinstance(error, UnverifiedError | HistoryRewrittenError) and answer and not self.request.dry_run:
            ports, name = self.ports, self.environment
            revision = await ports.git.revision(answer.commit, path_in_git(ports, name))
            record_refusal(ports, name, revision, error, self.memory.decisions)

    async def _recover(self, head: Revision) -> Outcome | None:
        """Deal with an unfinished run; returns the outcome if the reconciliation ends with that."""
        if self.request.dry_run:
            return None
        outcome = await recover(self.ports, self.environment, head, self.request.held_back)
        retried = self.request.asks(RequestKind.RETRY)
        return None if outcome and retried and outcome.result is Result.ROLLED_BACK else outcome

    def _target_revision(self, head: Revision) -> Revision:
        revision, quarantine = target_revision(self.ports, self.environment, head, self.request.held_back)
        if quarantine:
            self.warnings.append(quarantine)
        return revision

    async def _load_desired(self, revision: Revision, plaintexts: Plaintexts) -> Desired:
        """The environment at the revision, from memory if it is there. An operator's trigger retries a failure."""
        ports, memory, now = self.ports, self.memory, self.ports.clock.monotonic()
        if memory.desired is not None and memory.desired.revision == revision:
            return memory.desired
        if self.request.trigger in _AUTOMATIC and (known := memory.failure_of(revision, now)):
            plaintexts.failing.update(known.undecryptable)
            raise known.error.with_traceback(None)  # otherwise every reconciliation adds its frames
        memory.failure = None
        try:
            desired = await load_desired(ports, self.environment, revision, plaintexts, self.ahead)
            memory.claims.claim(desired.manifest)
        except ReconcilerError as error:
            if error.blames_revision:
                memory.fail(revision, error, now, plaintexts.failing)
            raise
        memory.desired = desired
        ports.metrics.revision(self.environment, "desired", revision)
        return desired

    async def _observe_and_plan(
        self, desired: Desired, plaintexts: Plaintexts, unfinished: Run | None
    ) -> tuple[Snapshot, Prepared]:
        """Raises ChangedMeanwhileError if somebody keeps changing a live file: Compose reads the files after us, so the
        plan would be made of two states of them."""
        for last in (False, False, True):
            snapshot = await self._observe(desired, unfinished, plaintexts)
            prepared = await self._plan(snapshot, plaintexts, unfinished)
            mine = [state.target for state in snapshot.states if state.target.stack in prepared.views]
            files = {target.path: snapshot.live[target.path] for target in mine}
            try:
                await require_unmoved(self.ports, {path: file.data if file else None for path, file in files.items()})
            except ChangedMeanwhileError:
                if last:
                    raise
                await self.ahead.close()
            else:
                break
        return snapshot, prepared

    async def _observe(self, desired: Desired, unfinished: Run | None, plaintexts: Plaintexts) -> Snapshot:
        if self.request.trigger == "engine":
            self.memory.stacks_observed_at = NEVER
        snapshot = await observe(self.ports, desired)
        if unfinished is not None:
            snapshot = await with_torn_writes(self.ports, snapshot, unfinished, plaintexts)
        require_known(self.request, snapshot)
        if not self.request.dry_run and not self.memory.leftovers_cleared:
            await clear_leftovers(self.ports, snapshot)
            self.memory.leftovers_cleared = True
        return snapshot

    async def _plan(self, snapshot: Snapshot, plaintexts: Plaintexts, unfinished: Run | None) -> Prepared:
        """Plan, also for containers if there is reason to look at them. What an unfinished run was to take over, it
        may still take over."""
        ports, memory, dry_run = self.ports, self.memory, self.request.dry_run
        record = ports.store.environment(self.environment)
        suspension = suspension_of(record, ports.clock.now(), unfinished)
        pending_restarts, _ = suspension.split(ports.store.pending_restarts(self.environment))
        files = fingerprints(ports, snapshot)
        memory.look_again_if_moved(files)
        containers, away = None, None
        try:
            containers = None if dry_run else await self._containers_if_due(snapshot.desired)
        except EngineUnavailableError as error:
            if not error.files_stay_ours:
                raise
            away = error
        look_at = frozenset() if containers is None else memory.moved_stacks(containers, files, snapshot)
        if dry_run or pending_restarts or record.degraded:
            look_at = _names(snapshot.desired)
        prepared = await prepare(
            ports,
            snapshot,
            memory.names,
            plaintexts,
            permissions=permissions_of(self.request, unfinished, memory.claims.neighbours(self.environment)),
            look_at=look_at,
            pending_restarts=pending_restarts,
            suspension=suspension,
            unsettled=record.written_without_engine,
            away=away,
            ahead=self.ahead,
        )
        self._note_engine(prepared.away)
        if containers is not None and prepared.away is None:
            memory.keep_containers(containers, files, prepared, ports.clock.monotonic())
        if self.request.accept_projects and not prepared.accepted:
            self.warnings.append(RefusedError("no stack is held that could be accepted", where=self.environment))
        return memory.with_notes(prepared, snapshot.desired.manifest.stacks)

    def _note_engine(self, away: EngineUnavailableError | None) -> None:
        if away is not None:
            self.memory.stacks_observed_at = NEVER
            self.warnings.append(away)
        if not self.request.dry_run:
            self.memory.engine_away = away

    async def _containers_if_due(self, desired: Desired) -> Mapping[str, frozenset[str]] | None:
        """The container ids of each stack; None if they were looked at less than a drift interval ago."""
        self.looked = True
        if self.ports.clock.monotonic() - self.memory.stacks_observed_at < self.ports.settings.drift_interval:
            return None
        return await self._observe_stacks(desired.manifest.stacks)

    async def _plan_for(self, name: str) -> Outcome:
        """What a reconciliation would do if git had that revision; memory and metrics of the desired one stay."""
        record = self.ports.store.environment(self.environment)
        self.revision = await named_revision(self.ports, record, name)
        prepared = await prepare_at(self.ports, record, self.revision)
        self.warnings += [prepared.away] if prepared.away else []
        return preview_of(prepared)

    def _check_guards(self, prepared: Prepared) -> None:
        """Raise what the guards found, and remember it for this revision."""
        try:
            prepared.check()
        except ReconcilerError as error:
            if self.request.asks(RequestKind.FORGET):  # it is the request that is refused, not the revision
                text, _ = all_of(prepared.problems, "Nothing was deleted: remove what still needs the file first")
                raise RefusedError(text, id="target-not-forgotten") from None
            self.memory.fail(prepared.plan.revision, error, self.ports.clock.monotonic())
            self.memory.desired = None
            raise

    async def _publish_result(self, desired: Desired) -> None:
        """Publish how services and backups are after a transaction, however it ended."""
        with contextlib.suppress(ReconcilerError):  # the error is reported where they are needed
            self.ports.metrics.backups(self.environment, self.ports.backups.list(self.environment))
            await self._observe_stacks(desired.manifest.stacks)


def _names(desired: Desired) -> frozenset[str]:
    return frozenset(stack.name for stack in desired.manifest.stacks)


async def _revert(ports: Ports, outcome: Outcome) -> tuple[Outcome, ReconcilerError | None]:
    """Have git follow a rollback. If git does not let us, that changes nothing about the outcome."""
    sentence, warning = await revert_in_git(ports, outcome.environment)
    return replace(outcome, reason=f"{outcome.reason}. {sentence}") if sentence else outcome, warning


def _with_warnings(outcome: Outcome, warnings: list[ReconcilerError]) -> Outcome:
    news = [with_id(str(warning), warning.id) for warning in warnings if str(warning) not in outcome.reason]
    text = "\n".join(filter(None, [outcome.warning, *news]))
    return replace(outcome, warning=text, retry=outcome.retry or any(warning.retryable for warning in warnings))
