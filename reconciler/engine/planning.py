"""Snapshot → plan, with every guard asked and every stack resolved, before anything is written. Reads only."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from reconciler.core.decide import affected_services
from reconciler.core.decide.classify import classify
from reconciler.core.decide.suspension import Suspension, conflicting_writer, suspended
from reconciler.core.dotenv.grammar import EnvFileError, read_entries
from reconciler.core.dotenv.readings import known_variables
from reconciler.core.errors import GuardError, ModelRefusedError, ReconcilerError, StartedOtherwiseError
from reconciler.core.model.compose import Action, Container, ManagedFile, Project
from reconciler.core.model.plans import Aspect, Change, Effect, Kind, Plan
from reconciler.core.model.runs import Result
from reconciler.core.model.targets import OnChange, OnDrift, Parser, Stack, Target
from reconciler.core.ports import Ports
from reconciler.core.secret import Secret
from reconciler.engine.guards import file_problems
from reconciler.engine.key_names import KeyNames, desired_bytes
from reconciler.engine.observe import Plaintexts, Snapshot, last_written
from reconciler.engine.project_files import ProjectFileGuard
from reconciler.engine.project_guard import StackSides, hidden_values, judge_project

_RUNS_LOOKED_AT = 100  # more than an hour can have, as corrections that follow each other wait


@dataclass(frozen=True, slots=True)
class StackView:
    """A stack before the change: its resolved project (None where Compose cannot yet), its containers, and its env
    files that git manages, by path."""

    stack: Stack
    before: Project | None
    containers: tuple[Container, ...]
    managed: Mapping[str, ManagedFile] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A plan, the bytes it would write by live path (None: delete), what the guards say, and the stacks as they are.

    ``written`` are the paths that the plan writes, with their links resolved; ``accepted`` says by stack what an
    operator has accepted, ``notes`` what is to be noted about it.
    """

    plan: Plan
    staged: Mapping[str, Secret | None] = field(repr=False)
    problems: tuple[str, ...]
    views: Mapping[str, StackView]
    written: tuple[str, ...] = ()
    accepted: tuple[str, ...] = ()
    notes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def check(self) -> None:
        """Raise GuardError, with every problem in it, where a guard failed."""
        if self.problems:
            raise GuardError("\n".join(self.problems), hint="Nothing was written")


@dataclass(frozen=True, slots=True)
class Permissions:
    """What a reconciliation may do beyond the usual. ``take_over`` names targets whose unknown live file may be
    replaced; ``accepted`` the stacks (ENVIRONMENT/NAME) whose project ``accepted_by`` accepts as it stands;
    ``neighbours`` are the stacks of the server's other environments on this host."""

    take_over: Collection[str] = ()
    accepted: Collection[str] = ()
    accepted_by: str = ""
    neighbours: Sequence[Stack] = ()


async def prepare(
    ports: Ports,
    snapshot: Snapshot,
    names: KeyNames,
    plaintexts: Plaintexts,
    *,
    permissions: Permissions | None = None,
    look_at_stacks: bool = False,
    pending_restarts: tuple[Action, ...] = (),
    suspension: Suspension | None = None,
) -> Prepared:
    """Decide what this reconciliation would do.

    ``look_at_stacks`` asks every stack for stale containers even where no file changes; ``pending_restarts`` are
    actions an earlier run could not finish; ``suspension`` says what nothing may be done about, and why.
    Raises EngineUnavailableError, LiveFileError, KeyUnavailableError. Guards do not raise: see ``Prepared.check``.
    """
    permissions, suspension = permissions or Permissions(), suspension or Suspension()
    changes = await _classified(ports, snapshot, names, plaintexts, permissions, suspension)
    writes = [change for change in changes if change.writes]
    staged = {change.target.path: await desired_bytes(snapshot, change, plaintexts) for change in writes}
    stacks = [stack for stack in snapshot.desired.manifest.stacks if stack.name not in suspension.stopped]
    files = ProjectFileGuard(ports, [*snapshot.desired.manifest.stacks, *permissions.neighbours])
    real_paths = {change.target.path: await ports.host.resolve(change.target.path) for change in writes}
    problems = await file_problems(ports, snapshot, writes, staged, real_paths, files, plaintexts)
    planning = _StackPlanning(
        ports, snapshot, changes, staged, pending_restarts, suspension, permissions, files, plaintexts
    )
    for stack in stacks:
        if look_at_stacks or planning.concerns(stack):
            await planning.plan(stack)
    held = {name for name, _ in planning.held}
    plan = Plan(
        snapshot.desired.manifest.environment,
        snapshot.desired.revision,
        _mark_stale([_held(change, held) for change in changes], planning.actions, planning.unresolved),
        tuple(planning.actions),
        tuple(note for sentences in planning.notes.values() for note in sentences),
        tuple(planning.held),
    )
    problems += planning.problems
    written = tuple(real_paths[change.target.path] for change in plan.writes)
    return Prepared(plan, staged, tuple(problems), planning.views, written, tuple(planning.accepted), planning.notes)


async def _classified(
    ports: Ports,
    snapshot: Snapshot,
    names: KeyNames,
    plaintexts: Plaintexts,
    permissions: Permissions,
    suspension: Suspension,
) -> list[Change]:
    changes = []
    corrections = _Corrections(ports, snapshot.desired.manifest.environment)
    for state in snapshot.states:
        change = classify(state, take_over=state.target.id in permissions.take_over)
        change = await names.name_keys(ports, snapshot, change, plaintexts)
        change = suspended(change, suspension.of_target(state.target))
        changes.append(suspended(change, corrections.conflicting_writer(change)))
    names.keep(ports, snapshot)
    return changes


def _held(change: Change, held: Collection[str]) -> Change:
    """A change waits with its stack."""
    return suspended(change, f"its stack {change.target.stack} is held") if change.target.stack in held else change


@dataclass(slots=True)
class _StackPlanning:
    """Plans stack by stack. ``held`` says by stack why it is not touched; ``unresolved`` by live path why containers
    keep an older version of the file."""

    ports: Ports
    snapshot: Snapshot
    changes: Sequence[Change]
    staged: Mapping[str, Secret | None]
    pending_restarts: tuple[Action, ...]
    suspension: Suspension
    permissions: Permissions
    files: ProjectFileGuard
    plaintexts: Plaintexts
    views: dict[str, StackView] = field(default_factory=dict)
    actions: list[Action] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    held: list[tuple[str, str]] = field(default_factory=list)
    accepted: list[str] = field(default_factory=list)
    unresolved: dict[str, str] = field(default_factory=dict)
    notes: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def concerns(self, stack: Stack) -> bool:
        """Whether a file of the stack is written, or one of its services waits for a restart."""
        return bool(self._touched(stack) or self._pending(stack))

    async def plan(self, stack: Stack) -> None:
        """Decide what the stack's services need, and whether they may get it."""
        touched, pending = self._touched(stack), self._pending(stack)
        staged = {change.target.path: self.staged[change.target.path] for change in touched}
        try:
            managed = await _managed_files(self.ports, self.snapshot, stack, self.staged, self.plaintexts)
            view, after = await _look_at_stack(self.ports, stack, managed, staged)
        except StartedOtherwiseError as error:
            self.held.append((stack.name, str(error)))
            return
        except ModelRefusedError as error:
            self.problems.append(str(error))
            return
        self.views[stack.name] = view
        due = affected(view, after, touched, self.pending_restarts)
        env_files = await _env_files(self.ports, self.snapshot, stack)
        notes = affected_services.notes(stack, after, view.containers, env_files, managed)
        self.notes[stack.name] = tuple(notes)
        if not touched and not pending:
            due = self._renewable(stack, due)
        if due or touched:
            self.problems += await self.files.refusals(stack, staged)
        hidden = hidden_values(self.snapshot, self.staged, stack)
        sides = StackSides(stack, view.before, after, view.containers, view.managed, frozenset(pending), hidden)
        accepted = stack.id in self.permissions.accepted
        verdict = await judge_project(self.ports, sides, due, accepted=accepted)
        if verdict.accepted:
            by = self.permissions.accepted_by or "an operator"
            self.accepted.append(f"{by} accepted the project of {stack.id} as it stands ({verdict.accepted})")
        if verdict.hold:
            self.held.append((stack.name, verdict.hold))
            self._leave(due, "its stack is held")
        else:
            self.actions += due

    def _renewable(self, stack: Stack, due: Sequence[Action]) -> tuple[Action, ...]:
        """Of the actions that are due only because containers have older versions of files, those that may happen."""
        reasons = [self.suspension.of_stack(stack.name) or self._reported(action) for action in due]
        left = [action for action, reason in zip(due, reasons, strict=True) if reason]
        for action, reason in zip(due, reasons, strict=True):
            self._leave([action], reason)
        remaining = tuple(action for action in due if action not in left)
        return remaining if any(action.stale for action in remaining) or not left else ()

    def _reported(self, action: Action) -> str:
        """Why a container keeps older versions of files: what is to be done about each of them; "" where one asks for
        more."""
        reasons = []
        for state in self.snapshot.states:
            if state.target.path in action.stale:
                reported = "on_drift is report" if state.target.on_drift is OnDrift.REPORT else ""
                reasons.append(self.suspension.of_target(state.target) or reported)
        return reasons[0] if reasons and all(reasons) else ""

    def _leave(self, due: Sequence[Action], reason: str) -> None:
        """Note at the files why containers keep an older version. Where a hand edit stays in one, it is the file that
        is not right, not the container."""
        edited = {change.target.path for change in self.changes if change.drifted}
        for action in due if reason else ():
            for path in set(action.stale) - edited:
                self.unresolved.setdefault(path, f"{action.service}: {action.reason}; {reason}")

    def _touched(self, stack: Stack) -> list[Change]:
        return [change for change in self.changes if change.writes and change.target.stack == stack.name]

    def _pending(self, stack: Stack) -> set[str]:
        return {action.service for action in self.pending_restarts if action.stack == stack.name}


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
            for run in self._ports.store.runs(self._environment, _RUNS_LOOKED_AT):
                for corrected in run.changes if run.result is Result.CORRECTED else ():
                    if corrected.kind == Kind.DRIFT:
                        self._times.setdefault(corrected.path, []).append(run.started_at)
        return conflicting_writer(change, self._times.get(change.target.path, ()), self._ports.clock.now())


async def _look_at_stack(
    ports: Ports, stack: Stack, managed: Mapping[str, ManagedFile], staged: Mapping[str, Secret | None]
) -> tuple[StackView, Project | None]:
    """The stack as it is now, and its project with what is staged. Raises ModelRefusedError where Compose refuses that;
    where it refuses the project before the change, that blames nobody. Raises StartedOtherwiseError."""
    # Compose takes the longest of all that comes before a write: the two projects are resolved side by side.
    resolving = asyncio.ensure_future(ports.compose.project(stack, staged)) if staged else None
    before: Project | None = None
    try:
        try:
            before = await ports.compose.project(stack)
        except StartedOtherwiseError:
            if resolving is None:
                raise
        except ModelRefusedError:
            pass
        containers = await ports.compose.containers(stack, before.name if before else None)
        view = StackView(stack, before, containers, managed)
        return view, before if resolving is None else await resolving
    finally:
        if resolving is not None:
            resolving.cancel()
            await asyncio.gather(resolving, return_exceptions=True)


async def _env_files(ports: Ports, snapshot: Snapshot, stack: Stack) -> dict[str, str]:
    """The stack's targets that Compose is meant to read, and where their links lead."""
    targets = [state.target for state in snapshot.states if state.target.stack == stack.name and state.desired]
    paths = [target.path for target in targets if target.parser is Parser.COMPOSE]
    return {path: await ports.host.resolve(path) for path in paths}


async def _managed_files(
    ports: Ports, snapshot: Snapshot, stack: Stack, staged: Mapping[str, Secret | None], plaintexts: Plaintexts
) -> dict[str, ManagedFile]:
    """The stack's env files by path: as it is written, and with its links resolved."""
    managed: dict[str, ManagedFile] = {}
    for state in snapshot.states:
        target = state.target
        if target.stack != stack.name or target.parser is Parser.OPAQUE:
            continue
        live = snapshot.live[target.path]
        versions = [live.data if live else None, staged.get(target.path)]
        if state.last not in (None, state.live, state.desired):  # somebody else brought it from there to here
            versions.append(await _last_written(ports, snapshot, target, plaintexts))
        keys: set[str] = set()
        values: dict[str, str] = {}
        for data in versions:
            with contextlib.suppress(EnvFileError):  # nobody can read it: it gives no container a key
                keys |= {entry.key for entry in read_entries(data.reveal() if data else b"", target.parser)}
        with contextlib.suppress(EnvFileError):
            now = staged[target.path] if target.path in staged else versions[0]
            values = known_variables(now.reveal() if now else b"", target.parser)
        for path in (target.path, await ports.host.resolve(target.path)):
            managed[path] = ManagedFile(target.path, frozenset(keys), values)
    return managed


async def _last_written(ports: Ports, snapshot: Snapshot, target: Target, plaintexts: Plaintexts) -> Secret | None:
    """What was last applied to a live file; None where that is no longer known."""
    with contextlib.suppress(ReconcilerError):  # its keys are a help, and nothing waits for them
        data = await last_written(ports, target, snapshot.applied[target.path], plaintexts)
        return None if data is None else Secret(data)
    return None


def affected(
    view: StackView, after: Project | None, touched: Sequence[Change], pending_restarts: tuple[Action, ...]
) -> tuple[Action, ...]:
    """What the stack's services need, given the project with the new files; see core/decide/affected_services.py.

    Where Compose cannot resolve it (None), that is what is pending.
    """
    paths: dict[str, OnChange] = {
        change.target.path: change.target.on_change for change in touched if Aspect.COSMETIC not in change.aspects
    }
    pending_here = tuple(action for action in pending_restarts if action.stack == view.stack.name)
    if after is None:
        return pending_here
    return affected_services.affected(
        view.stack, view.before, after, view.containers, paths, pending_here, managed=view.managed
    )


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
    return replace(marked, effect=Effect.REPORT, reason=reason)
