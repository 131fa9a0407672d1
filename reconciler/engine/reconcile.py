"""One pass over one environment: decide, and do it. Errors become outcomes here and in transact.py, nowhere else."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from reconciler.core.decide import health
from reconciler.core.decide.suspension import suspension_of
from reconciler.core.errors import HeldBackError, ManifestError, ReconcilerError, RefusedError, RevisionError
from reconciler.core.model.compose import ServiceHealth
from reconciler.core.model.plans import Aspect
from reconciler.core.model.requests import Order, OrderKind
from reconciler.core.model.revisions import Revision
from reconciler.core.model.runs import Outcome, Phase, Result, Run
from reconciler.core.model.targets import Manifest, OnFailure
from reconciler.core.ports import Ports
from reconciler.engine.leftovers import clear_leftovers
from reconciler.engine.observe import Desired, Plaintexts, Snapshot, load, look
from reconciler.engine.operator_requests import carry_out, named_revision
from reconciler.engine.phases import phase
from reconciler.engine.planning import KeyNames, Prepared, prepare
from reconciler.engine.recover import give_up, recover
from reconciler.engine.revert import revert_in_git
from reconciler.engine.secret_age import tell_ages
from reconciler.engine.stack_health import look_at_stacks
from reconciler.engine.target_revision import HeldBack, accepted_head, for_everybody, target_revision
from reconciler.engine.transaction import held_reason, settle, transact

# A revision that cannot be applied is looked at again this often: the cause may lie on the server (a missing user).
_REMEMBER_FAILURE = 300.0
# Passes that no person has asked for: by the clock, and by what was touched (a live file, a container).
_BY_ITSELF = ("poll", "drift", "watch", "engine")


@dataclass(frozen=True, slots=True)
class Failure:
    """A revision that could not be applied, so that it is not decrypted again in every pass."""

    subtree: str
    error: ReconcilerError
    until: float


class Claims:
    """Which environment writes which live path on this server: two that share one would undo each other for ever."""

    def __init__(self) -> None:
        self._owners: dict[str, str] = {}

    def take(self, manifest: Manifest) -> None:
        """Note the manifest's paths as its environment's own. Raises ManifestError where another has one of them."""
        environment = manifest.environment
        paths = {target.path for target in manifest.targets}
        taken = [path for path in sorted(paths) if self._owners.get(path, environment) != environment]
        if taken:
            what = f"the environment {self._owners[taken[0]]} on this server has a target there too"
            hint = "Give each environment its own path, or take one of them out of the server's file"
            raise ManifestError(what, where=f"environment {environment}: {taken[0]}", hint=hint)
        self._owners = {path: owner for path, owner in self._owners.items() if owner != environment}
        self._owners |= dict.fromkeys(paths, environment)


class Reconciler:
    """The passes of one environment, with what is kept in memory between them.

    ``claims`` is shared by all environments of the server.
    """

    def __init__(self, ports: Ports, environment: str, claims: Claims | None = None) -> None:
        self.environment = environment
        self._ports = ports
        self._claims = claims or Claims()
        self._names = KeyNames()
        self._desired: Desired | None = None
        self._failure: Failure | None = None
        self._trouble: ReconcilerError | None = None
        self._aimed_at: Revision | None = None
        self._containers: Mapping[str, frozenset[str]] = {}
        self._looked_at_stacks = float("-inf")
        self._aged = ""  # the subtree whose secrets' ages were told
        self._look_at_ages_again = float("-inf")
        self._tidy = False  # whether what a killed run left behind is cleared: once is enough while nothing is written

    async def run(
        self,
        trigger: str,
        *,
        poll: bool = True,
        dry_run: bool = False,
        take_over: Collection[str] = (),
        order: Order | None = None,
        held_back: HeldBack = for_everybody,
        revert: bool = True,
    ) -> Outcome:
        """One pass. ``poll`` asks git first; ``dry_run`` changes nothing live; never raises ReconcilerError.

        ``order`` is carried out before it; where that is refused, there is no pass. ``held_back`` tells why a new head
        is not for this host yet; without ``revert``, git is not asked to follow a rollback: see ``revert()``.
        """
        clock, started = self._ports.clock, self._ports.clock.monotonic()
        warnings: list[ReconcilerError] = []
        try:
            outcome = await self._decide(trigger, poll, dry_run, take_over, order, held_back, warnings)
            if revert and not dry_run:
                outcome = await self._revert(outcome, warnings)
        except HeldBackError as error:
            outcome = Outcome(self.environment, Result.HELD, str(error))
        except ReconcilerError as error:
            result = Result.STALLED if error.blames_revision else Result.FAILED
            outcome = Outcome(self.environment, result, str(error), self._aimed_at, retry=error.retryable)
        if not dry_run and not outcome.refused:
            self._ports.metrics.finished(outcome, clock.monotonic() - started, clock.now())
            self._tell_what_is_remembered()
            await self._tell_ages()
        return _with(warnings, outcome)

    async def revert(self, outcome: Outcome) -> Outcome:
        """Have git follow a rollback, after it, where that is owed; return the outcome with what came of it."""
        warnings: list[ReconcilerError] = []
        return _with(warnings, await self._revert(outcome, warnings))

    @property
    def holds_failures(self) -> bool:
        """Whether a stack keeps the new files where they fail, for a person to look."""
        return self._desired is not None and any(
            stack.on_failure is OnFailure.HOLD for stack in self._desired.manifest.stacks
        )

    async def _decide(
        self,
        trigger: str,
        poll: bool,
        dry_run: bool,
        take_over: Collection[str],
        order: Order | None,
        held_back: HeldBack,
        warnings: list[ReconcilerError],
    ) -> Outcome:
        """What should be, and a pass towards it. ``troubles`` gets what a person should know of beside the outcome."""
        ports, self._aimed_at = self._ports, None
        if order is not None and order.kind is not OrderKind.PLAN:
            try:
                await carry_out(ports, self.environment, order)
            except RefusedError as error:
                return Outcome(self.environment, Result.FAILED, str(error), refused=True)
            self._failure = self._desired = None
        head, warning = await accepted_head(ports, self.environment, poll=poll)
        self._trouble = warning if poll else self._trouble  # what the last poll met holds until the next one
        if self._trouble:
            warnings.append(self._trouble)
        if order is not None and order.kind is OrderKind.PLAN:
            return await self._plan_at(order.revision)
        outcome = None if dry_run else await recover(ports, self.environment, head, held_back)
        retried = order is not None and order.kind is OrderKind.RETRY
        if outcome is None or (retried and outcome.result is Result.ROLLED_BACK):
            self._aimed_at, quarantine = target_revision(ports, self.environment, head, held_back)
            if quarantine:
                warnings.append(quarantine)
            outcome = await self._pass(self._aimed_at, trigger, dry_run, take_over)
        return outcome

    async def _tell_ages(self) -> None:
        """Have the metrics tell how old the secrets are, once per revision that is wanted; after the pass, which it
        can neither delay nor fail."""
        desired, now = self._desired, self._ports.clock.monotonic()
        if desired is None or desired.revision.subtree == self._aged or now < self._look_at_ages_again:
            return
        try:
            with phase(self._ports, Phase.AGE, "reading how old the secrets are"):
                await tell_ages(self._ports, desired)
        except ReconcilerError:  # `reconciler age` tells it to whoever asks
            self._look_at_ages_again = now + _REMEMBER_FAILURE
        else:
            self._aged = desired.revision.subtree

    async def _revert(self, outcome: Outcome, warnings: list[ReconcilerError]) -> Outcome:
        """Have git follow a rollback, after it. That git does not let us changes nothing about the outcome."""
        told, warning = await revert_in_git(self._ports, self.environment)
        if warning:
            warnings.append(warning)
        return replace(outcome, reason=f"{outcome.reason}. {told}") if told else outcome

    async def _pass(self, revision: Revision, trigger: str, dry_run: bool, take_over: Collection[str]) -> Outcome:
        """Raises ReconcilerError where nothing was changed, or what was changed is put back."""
        unfinished = None if dry_run else self._ports.store.unfinished(self.environment)
        try:
            prepared, snapshot = await self._prepare(revision, trigger, dry_run, take_over, unfinished)
            if dry_run:
                return _preview(prepared)
            if prepared.plan.empty and not prepared.problems and unfinished is None:
                return settle(self._ports, snapshot, prepared, trigger)
            self._check_guards(prepared)
        except RevisionError as error:
            if unfinished is not None:
                await give_up(self._ports, unfinished, f"its revision cannot be applied any more: {error}")
            raise
        self._looked_at_stacks = float("-inf")
        self._tidy = False  # a write that met somebody else's edit may leave it aside
        try:
            return await transact(self._ports, snapshot, prepared, trigger)
        finally:
            await self._tell_what_became()

    async def _prepare(
        self, revision: Revision, trigger: str, dry_run: bool, take_over: Collection[str], unfinished: Run | None
    ) -> tuple[Prepared, Snapshot]:
        """Look, and plan. What an unfinished run was to take over, it may still take over."""
        ports, plaintexts = self._ports, Plaintexts(self._ports)
        desired = await self._load(revision, plaintexts, trusting_memory=trigger in _BY_ITSELF)
        if trigger == "engine":
            self._looked_at_stacks = float("-inf")
        with phase(ports, Phase.OBSERVE, "comparing the live files"):
            snapshot = await look(ports, desired)
            _check_names(snapshot, take_over)
            if not dry_run and not self._tidy:
                await clear_leftovers(ports, snapshot)
                self._tidy = True
            record = ports.store.environment(self.environment)
            suspension = suspension_of(record, ports.clock.now(), unfinished)
            pending_restarts, _ = suspension.split(ports.store.pending_restarts(self.environment))
            containers = None if dry_run else await self._ask_for_containers(desired)
            moved = containers is not None and containers != self._containers
            begun = unfinished.changes if unfinished else ()
            prepared = await prepare(
                ports,
                snapshot,
                self._names,
                plaintexts,
                take_over={*take_over, *(f"{self.environment}/{change.source}" for change in begun)},
                look_at_stacks=moved or dry_run or bool(pending_restarts or record.degraded),
                pending_restarts=pending_restarts,
                suspension=suspension,
            )
        if containers is not None:
            self._have_looked(containers, prepared)
        ports.metrics.observed(prepared.plan, ports.clock.now())
        return prepared, snapshot

    async def _plan_at(self, name: str) -> Outcome:
        """What a pass would do if git wanted that revision. What is kept of the wanted one, and its metrics, stay."""
        ports, plaintexts = self._ports, Plaintexts(self._ports)
        record = ports.store.environment(self.environment)
        self._aimed_at = await named_revision(ports, record, name)
        snapshot = await look(ports, await load(ports, self.environment, self._aimed_at, plaintexts))
        suspension = suspension_of(record, ports.clock.now())
        prepared = await prepare(ports, snapshot, KeyNames(), plaintexts, look_at_stacks=True, suspension=suspension)
        return _preview(prepared)

    @property
    def live_paths(self) -> frozenset[str]:
        """The live files of the revision that was last wanted."""
        return frozenset(target.path for target in self._desired.manifest.targets) if self._desired else frozenset()

    @property
    def stack_directories(self) -> frozenset[str]:
        """The directories of the stacks of the revision that was last wanted."""
        return frozenset(stack.directory for stack in self._desired.manifest.stacks) if self._desired else frozenset()

    async def reach(self) -> None:
        """Make sure that the host answers. Raises HostUnreachableError."""
        await self._ports.host.reach()

    async def health(self) -> tuple[ServiceHealth, ...]:
        """The services of every stack of the wanted revision, as they are now. Raises EngineUnavailableError."""
        found: list[ServiceHealth] = []
        for stack in self._desired.manifest.stacks if self._desired else ():
            found += health.assess(stack, await self._ports.compose.containers(stack, None))
        return tuple(found)

    async def _load(self, revision: Revision, plaintexts: Plaintexts, *, trusting_memory: bool) -> Desired:
        if self._desired is not None and self._desired.revision == revision:
            return self._desired
        failure, now = self._failure, self._ports.clock.monotonic()
        if failure and trusting_memory and failure.subtree == revision.subtree and now < failure.until:
            raise failure.error.with_traceback(None)  # else every pass would add its frames
        self._failure = None
        try:
            desired = await load(self._ports, self.environment, revision, plaintexts)
            self._claims.take(desired.manifest)
            self._desired = desired
        except ReconcilerError as error:
            if error.blames_revision:
                self._remember(revision, error)
            raise
        self._ports.metrics.revision(self.environment, "wanted", revision)
        return self._desired

    def _check_guards(self, prepared: Prepared) -> None:
        """Raise what the guards found, and remember it for this revision."""
        try:
            prepared.check()
        except ReconcilerError as error:
            self._remember(prepared.plan.revision, error)
            self._desired = None
            raise

    def _remember(self, revision: Revision, error: ReconcilerError) -> None:
        self._failure = Failure(revision.subtree, error, self._ports.clock.monotonic() + _REMEMBER_FAILURE)

    async def _ask_for_containers(self, desired: Desired) -> Mapping[str, frozenset[str]] | None:
        """The ids of each stack's containers; None where the last look is not a drift interval ago."""
        if self._ports.clock.monotonic() - self._looked_at_stacks < self._ports.settings.drift_interval:
            return None
        return await look_at_stacks(self._ports, self.environment, desired.manifest.stacks)

    def _have_looked(self, containers: Mapping[str, frozenset[str]], prepared: Prepared) -> None:
        """Remember the containers that were looked at, unless what was found about them still waits: then the next
        pass must find it again."""
        waits = prepared.problems or any(Aspect.STALE in change.aspects for change in prepared.plan.changes)
        if not waits:
            self._containers, self._looked_at_stacks = containers, self._ports.clock.monotonic()

    async def _tell_what_became(self) -> None:
        """Have the metrics tell how the services and the backups are after a transaction, however it ended."""
        ports, environment = self._ports, self.environment
        with contextlib.suppress(ReconcilerError):  # what is wrong with them is met by those who need them
            ports.metrics.backups(environment, ports.backups.list(environment))
            await look_at_stacks(ports, environment, self._desired.manifest.stacks if self._desired else ())

    def _tell_what_is_remembered(self) -> None:
        with contextlib.suppress(ReconcilerError):
            self._ports.metrics.remembered(self._ports.store.environment(self.environment), self._ports.clock.now())


def _check_names(snapshot: Snapshot, take_over: Collection[str]) -> None:
    environment = snapshot.desired.manifest.environment
    known = {state.target.id for state in snapshot.states}
    mine = {name for name in take_over if name.startswith(f"{environment}/")}
    if unknown := sorted(mine - known):
        hint = f"The targets are: {', '.join(sorted(known))}"
        raise RefusedError(f"there is no target {', '.join(unknown)}", where=f"environment {environment}", hint=hint)


def _preview(prepared: Prepared) -> Outcome:
    plan = prepared.plan
    if prepared.problems:
        return Outcome(plan.environment, Result.STALLED, "\n".join(prepared.problems), plan.revision, plan, plan)
    if plan.held or plan.reported:
        return Outcome(plan.environment, Result.HELD, held_reason(plan), plan.revision, plan, plan)
    pending = f"{len(plan.writes)} file(s) would be written, {len(plan.actions)} service(s) touched"
    reason = f"in sync at {plan.revision.short}" if plan.empty else pending
    return Outcome(plan.environment, Result.IN_SYNC, reason, plan.revision, plan, plan)


def _with(warnings: list[ReconcilerError], outcome: Outcome) -> Outcome:
    if not warnings:
        return outcome
    text = "\n".join(filter(None, [outcome.warning, *map(str, warnings)]))
    return replace(outcome, warning=text, retry=outcome.retry or any(warning.retryable for warning in warnings))
