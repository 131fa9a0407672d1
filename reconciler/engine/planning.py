"""Snapshot → plan, with every guard asked and every stack resolved, before anything is written. Reads only."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from reconciler.core.decide.classify import classify
from reconciler.core.decide.guards import PROJECT_FILE
from reconciler.core.decide.service_drift import DRIFT_ID
from reconciler.core.decide.suspension import (
    CONFLICTING_WRITER,
    HOUR,
    RUNS_LOOKED_AT,
    Suspension,
    conflicting_writer,
    corrections,
    suspended,
)
from reconciler.core.errors import EngineUnavailableError, GuardError, ReconcilerError, all_of
from reconciler.core.model.compose import Action, Project
from reconciler.core.model.plans import Aspect, Change, Effect, Kind, Plan, ServiceDrift
from reconciler.core.model.runs import Result
from reconciler.core.model.targets import host_of
from reconciler.core.ports import Ports
from reconciler.core.secret import Secret
from reconciler.engine.ahead import Ahead
from reconciler.engine.engine_away import without_engine
from reconciler.engine.guards import file_problems
from reconciler.engine.guests import follow_guests
from reconciler.engine.history import take_over_sentence
from reconciler.engine.key_names import KeyNames, desired_bytes
from reconciler.engine.observe import Plaintexts, Snapshot
from reconciler.engine.project_files import ProjectFileGuard
from reconciler.engine.renames import with_renames
from reconciler.engine.stack_planning import Permissions, StackPlanning
from reconciler.engine.stack_view import StackView


@dataclass(frozen=True, slots=True)
class Prepared:
    """A plan, the bytes it would write by live path (None: delete), what the guards say, and the stacks as they are.

    ``projects`` are the stacks as Compose resolves them with those bytes; ``written`` are the paths that the plan
    writes, with their links resolved, ``guarded`` those of them whose content cannot change what Compose runs;
    ``accepted`` says by stack what an operator has accepted, ``notes`` what is to be noted about it; ``broken`` are
    containers (ids) of no managed stack that the plan breaks. ``away``: the engine does not answer, so no service can
    be touched; ``decided`` are the stacks of which it is known what their services need.
    """

    plan: Plan
    staged: Mapping[str, Secret | None] = field(repr=False)
    problems: tuple[ReconcilerError, ...]
    views: Mapping[str, StackView]
    projects: Mapping[str, Project | None] = field(default_factory=dict, repr=False)
    written: tuple[str, ...] = ()
    guarded: frozenset[str] = frozenset()
    accepted: tuple[str, ...] = ()
    notes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    broken: frozenset[str] = frozenset()
    away: EngineUnavailableError | None = None
    decided: frozenset[str] = frozenset()

    def check(self) -> None:
        """Raise GuardError, with every problem in it, where a guard failed."""
        if self.problems:
            text, id = all_of(self.problems, "Nothing was written")
            raise GuardError(text, id=id)


async def prepare(
    ports: Ports,
    snapshot: Snapshot,
    names: KeyNames,
    plaintexts: Plaintexts,
    *,
    permissions: Permissions | None = None,
    look_at: Collection[str] = (),
    pending_restarts: tuple[Action, ...] = (),
    suspension: Suspension | None = None,
    unsettled: Collection[str] = (),
    away: EngineUnavailableError | None = None,
    ahead: Ahead | None = None,
) -> Prepared:
    """Decide what this reconciliation would do.

    ``look_at`` names the stacks to ask for stale containers even where no file changes; ``pending_restarts`` are
    actions an earlier run could not finish; ``suspension`` says what nothing may be done about, and why;
    ``unsettled`` are live paths that were written without asking what services need; ``away`` is why the engine cannot
    be asked, where that is known; ``ahead`` has what was asked already. Guards do not raise: see ``Prepared.check``.
    Raises LiveFileError, KeyUnavailableError, StackGoneError, HostUnreachableError.
    """
    permissions, suspension = permissions or Permissions(), suspension or Suspension()
    changes = await _classified(ports, snapshot, names, plaintexts, permissions, suspension)
    writes = [change for change in changes if change.writes]
    staged = {change.target.path: await desired_bytes(snapshot, change, plaintexts) for change in writes}
    others = [*snapshot.desired.manifest.stacks, *permissions.neighbours]
    files = ProjectFileGuard(ports, host_of(snapshot.desired.manifest.environment), others)
    real_paths = {change.target.path: await ports.host.resolve(change.target.path) for change in writes}
    ahead = Ahead(ports) if ahead is None or away is not None else ahead
    planning = StackPlanning(
        ports, snapshot, changes, staged, pending_restarts, suspension, permissions, files, plaintexts, unsettled, ahead
    )
    await planning.ask_ahead(real_paths)
    problems = await file_problems(ports, snapshot, writes, staged, real_paths, files, plaintexts)
    away = away or await _plan_stacks(planning, problems, look_at)
    if away is not None:
        changes = [without_engine(change, away, suspension.begun) for change in changes]
        planning = planning.without_engine()
    plan = _plan_of(planning, changes)
    return Prepared(
        plan=plan,
        staged=staged,
        problems=(*problems, *planning.problems),
        views=planning.views,
        projects=planning.projects,
        written=tuple(real_paths[change.target.path] for change in plan.writes),
        guarded=frozenset(files.guarded),
        accepted=(*planning.accepted, *_permitted(plan, permissions)),
        notes=planning.notes,
        broken=frozenset(planning.broken),
        away=away,
        decided=frozenset(planning.decided),
    )


def _plan_of(planning: StackPlanning, changes: Sequence[Change]) -> Plan:
    desired = planning.snapshot.desired
    return Plan(
        desired.manifest.environment,
        desired.revision,
        _mark_stale([_held(change, planning) for change in changes], planning.actions, planning.unresolved),
        tuple(planning.actions),
        tuple(note for sentences in planning.notes.values() for note in sentences),
        tuple((name, "\n".join(reasons)) for name, reasons in planning.held.items()),
        tuple(planning.held_ids.values()),
        tuple(_drift_held(drift, planning) for view in planning.views.values() for drift in view.drifts),
    )


def _permitted(plan: Plan, permissions: Permissions) -> list[str]:
    """Sentences about what an operator permits beyond the usual, for the history."""
    contacts = [change.target.id for change in plan.writes if change.kind is Kind.FIRST_CONTACT]
    taken = [target for target in contacts if target in permissions.taken_over]
    sentences = [take_over_sentence(permissions.requested_by, taken)] if taken else []
    return [*sentences, *([permissions.deleted_by] if permissions.deleted_by else [])]


async def _plan_stacks(
    planning: StackPlanning, problems: Sequence[ReconcilerError], look_at: Collection[str]
) -> EngineUnavailableError | None:
    """Plan for the stacks that something concerns, given the problems of files; returns why the engine cannot be asked,
    or None."""
    planning.refused |= {problem.where for problem in problems if problem.id == PROJECT_FILE}
    try:
        for stack in planning.snapshot.desired.manifest.stacks:
            if stack.name in planning.suspension.stopped:
                continue
            if stack.name in look_at or planning.concerns(stack):
                await planning.plan(stack)
        if planning.views:
            await follow_guests(planning)
    except EngineUnavailableError as error:
        if not error.files_stay_ours:
            raise
        return error
    return None


async def _classified(
    ports: Ports,
    snapshot: Snapshot,
    names: KeyNames,
    plaintexts: Plaintexts,
    permissions: Permissions,
    suspension: Suspension,
) -> list[Change]:
    changes = []
    earlier = _Corrections(ports, snapshot.desired.manifest.environment)
    for state in snapshot.states:
        delete = state.target.id in permissions.delete
        change = classify(state, take_over=state.target.id in permissions.take_over, delete=delete)
        change = await names.name_keys(ports, snapshot, change, plaintexts)
        alone = suspension.is_of_target_alone(state.target)
        id = suspension.id_of(state.target)
        change = suspended(change, suspension.of_target(state.target), id, alone=alone)
        changes.append(suspended(change, earlier.conflicting_writer(change), CONFLICTING_WRITER, alone=True))
    names.keep(ports, snapshot)
    return await with_renames(ports, snapshot, changes, plaintexts)


def _held(change: Change, planning: StackPlanning) -> Change:
    """A change waits with its stack, or with the services that read it."""
    id = planning.held_ids.get(change.target.stack or "", "")
    if change.target.stack in planning.whole:
        return suspended(change, f"its stack {change.target.stack} is held", id)
    return suspended(change, planning.withheld.get(change.target.path, ""), id)


def _drift_held(drift: ServiceDrift, planning: StackPlanning) -> ServiceDrift:
    """The drift of a service that is deployed for any reason goes with that; else it waits, if only with its stack."""
    due = any((action.stack, action.service) == (drift.stack, drift.service) for action in planning.actions)
    if due:  # where that would stay, somebody accepts that it goes
        return replace(drift, effect=Effect.WRITE, reason=drift.reason.partition("; ")[0], error_id="")
    if drift.waits:
        return drift
    id = planning.held_ids.get(drift.stack, DRIFT_ID)
    return replace(drift, effect=Effect.HOLD, reason=f"{drift.reason}; it is held", error_id=id)


class _Corrections:
    """When each live file was restored lately; looked up only where one is to be restored again."""

    def __init__(self, ports: Ports, environment: str) -> None:
        self._ports = ports
        self._environment = environment
        self._times: dict[str, list[float]] | None = None

    def conflicting_writer(self, change: Change) -> str:
        """Why the change has to wait, as something else keeps changing the file; "" where it has not."""
        if change.kind is not Kind.DRIFT or not change.writes:
            return ""
        if self._times is None:
            self._times = {}
            since = self._ports.clock.now() - HOUR
            runs = self._ports.store.runs(self._environment, RUNS_LOOKED_AT, since=since, result=Result.CORRECTED)
            for corrected, at in corrections(runs):
                self._times.setdefault(corrected.path, []).append(at)
        return conflicting_writer(change, self._times.get(change.target.path, ()), self._ports.clock.now())


def _mark_stale(
    changes: Sequence[Change], actions: Sequence[Action], unresolved: Mapping[str, str]
) -> tuple[Change, ...]:
    """Note at each file of which a container has an older version; ``unresolved`` says by path why that stays."""
    stale = {path for action in actions for path in action.stale} | unresolved.keys()
    return tuple(_stale(change, unresolved) if change.target.path in stale else change for change in changes)


def _stale(change: Change, unresolved: Mapping[str, str]) -> Change:
    if change.writes:
        return change
    marked = replace(change, aspects=change.aspects | {Aspect.STALE})
    reason = unresolved.get(change.target.path)
    if not reason or change.effect is not Effect.NONE:
        return marked
    return replace(marked, effect=Effect.REPORT, reason=reason, error_id="older-values")
