"""Snapshot → plan, with every guard asked and every stack resolved, before anything is written. Reads only."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from reconciler.core.decide import affected_services
from reconciler.core.decide.classify import classify
from reconciler.core.decide.one_shots import with_one_shots
from reconciler.core.decide.suspension import RUNS_LOOKED_AT, Suspension, conflicting_writer, corrections, suspended
from reconciler.core.dotenv.grammar import EnvFileError, read_entries
from reconciler.core.errors import (
    EngineUnavailableError,
    GuardError,
    ModelRefusedError,
    NameTakenError,
    StartedOtherwiseError,
)
from reconciler.core.model.compose import Action, ActionKind, Container, Project
from reconciler.core.model.plans import Aspect, Change, Effect, Kind, Plan
from reconciler.core.model.targets import OnChange, OnDrift, Parser, Stack, Target
from reconciler.core.ports import Ports
from reconciler.core.secret import Secret
from reconciler.engine.engine_away import without_engine
from reconciler.engine.guards import file_problems
from reconciler.engine.guests import follow_guests
from reconciler.engine.key_names import KeyNames, desired_bytes
from reconciler.engine.observe import Plaintexts, Snapshot
from reconciler.engine.project_files import ProjectFileGuard
from reconciler.engine.project_guard import ProjectVerdict, StackSides, hidden_values, judge_project
from reconciler.engine.stack_health import stopped_by_somebody


@dataclass(frozen=True, slots=True)
class StackView:
    """A stack before the change: its resolved project (None where Compose cannot yet), its containers, the names of the
    keys in its managed env files, by path, and the services that somebody ``stopped``."""

    stack: Stack
    before: Project | None
    containers: tuple[Container, ...]
    managed: Mapping[str, frozenset[str]] = field(default_factory=dict)
    stopped: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Prepared:
    """A plan, the bytes it would write by live path (None: delete), what the guards say, and the stacks as they are.

    ``written`` are the paths that the plan writes, with their links resolved; ``accepted`` says by stack what an
    operator has accepted, ``notes`` what is to be noted about it; ``broken`` are containers (ids) of no managed stack
    that the plan breaks. ``away``: the engine does not answer, so no service can be touched; ``decided`` are the stacks
    of which it is known what their services need.
    """

    plan: Plan
    staged: Mapping[str, Secret | None] = field(repr=False)
    problems: tuple[str, ...]
    views: Mapping[str, StackView]
    written: tuple[str, ...] = ()
    accepted: tuple[str, ...] = ()
    notes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    broken: frozenset[str] = frozenset()
    away: EngineUnavailableError | None = None
    decided: frozenset[str] = frozenset()

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
    unsettled: Collection[str] = (),
    away: EngineUnavailableError | None = None,
) -> Prepared:
    """Decide what this reconciliation would do.

    ``look_at_stacks`` asks every stack for stale containers even where no file changes; ``pending_restarts`` are
    actions an earlier run could not finish; ``suspension`` says what nothing may be done about, and why;
    ``unsettled`` are live paths that were written without asking what services need; ``away`` is why the engine cannot
    be asked, where that is known. Guards do not raise: see ``Prepared.check``. Raises LiveFileError,
    KeyUnavailableError, StackGoneError, HostUnreachableError.
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
        ports, snapshot, changes, staged, pending_restarts, suspension, permissions, files, unsettled
    )
    away = away or await _plan_stacks(planning, stacks, look_at_all=look_at_stacks)
    if away is not None:
        changes = [without_engine(change, away, suspension.begun) for change in changes]
        planning = planning.without_engine()
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
    return Prepared(
        plan=plan,
        staged=staged,
        problems=tuple(problems),
        views=planning.views,
        written=written,
        accepted=tuple(planning.accepted),
        notes=planning.notes,
        broken=frozenset(planning.broken),
        away=away,
        decided=frozenset(planning.decided),
    )


async def _plan_stacks(
    planning: _StackPlanning, stacks: Sequence[Stack], *, look_at_all: bool
) -> EngineUnavailableError | None:
    """Plan for the stacks that something concerns; returns why the engine cannot be asked, or None."""
    try:
        for stack in stacks:
            if look_at_all or planning.concerns(stack):
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
        change = classify(state, take_over=state.target.id in permissions.take_over)
        change = await names.name_keys(ports, snapshot, change, plaintexts)
        change = suspended(change, suspension.of_target(state.target))
        changes.append(suspended(change, earlier.conflicting_writer(change)))
    names.keep(ports, snapshot)
    return changes


def _held(change: Change, held: Collection[str]) -> Change:
    """A change waits with its stack."""
    return suspended(change, f"its stack {change.target.stack} is held") if change.target.stack in held else change


@dataclass(slots=True)
class _StackPlanning:
    """Plans stack by stack. ``held`` says by stack why it is not touched; ``unresolved`` why older values stay in its
    containers, "" where they do not; ``followers`` are what services need by ``follow``, ``broken`` the ids of
    containers of no managed stack that the plan breaks."""

    ports: Ports
    snapshot: Snapshot
    changes: Sequence[Change]
    staged: Mapping[str, Secret | None]
    pending_restarts: tuple[Action, ...]
    suspension: Suspension
    permissions: Permissions
    files: ProjectFileGuard
    unsettled: Collection[str]
    decided: set[str] = field(default_factory=set)
    views: dict[str, StackView] = field(default_factory=dict)
    projects: dict[str, Project | None] = field(default_factory=dict)
    actions: list[Action] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    held: list[tuple[str, str]] = field(default_factory=list)
    accepted: list[str] = field(default_factory=list)
    unresolved: dict[str, str] = field(default_factory=dict)
    notes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    followers: dict[str, list[Action]] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)

    def without_engine(self) -> _StackPlanning:
        """A plan that touches no service: the pending restarts stay."""
        return replace(
            self,
            decided=set(),
            views={},
            projects={},
            followers={},
            broken=set(),
            actions=list(self.pending_restarts),
            problems=[],
            held=[],
            accepted=[],
            unresolved={},
            notes={},
        )

    def concerns(self, stack: Stack) -> bool:
        """Whether a file of the stack is written, or one of its services waits for a restart, or may need one."""
        return bool(self._touched(stack) or self._pending(stack) or self._unsettled(stack))

    async def plan(self, stack: Stack) -> None:
        """Decide what the stack's services need, and whether they may get it."""
        touched, pending = self._touched(stack), self._pending(stack)
        staged = {change.target.path: self.staged[change.target.path] for change in touched}
        try:
            managed = await _managed_keys(self.ports, self.snapshot, stack, self.staged)
            view, after = await _look_at_stack(self.ports, stack, managed, staged)
        except StartedOtherwiseError as error:
            self.held.append((stack.name, str(error)))
            return
        except ModelRefusedError as error:
            self.problems.append(str(error))
            return
        self.views[stack.name], self.projects[stack.name] = view, after
        due = affected(view, after, touched, self.pending_restarts, unsettled=self._unsettled(stack))
        reason = self.suspension.of_stack(stack.name) or _reported(self.snapshot, stack)
        if not touched and not pending and reason:
            self.unresolved[stack.name] = _due_sentence(due, reason) if not _edited(self.changes, stack) else ""
            return
        if due or touched:
            self.problems += await self.files.refusals(stack, staged)
        verdict = await self._judge(stack, due)
        if verdict.accepted:
            by = self.permissions.accepted_by or "an operator"
            self.accepted.append(f"{by} accepted the project of {stack.id} as it stands ({verdict.accepted})")
        taken = await self._name_taken(view.before, due) if verdict.hold or not touched else ""
        if verdict.hold or taken:
            # Without a new revision nothing is to blame for a name, and a try could only end the same way.
            self.held.append((stack.name, ". ".join(filter(None, [verdict.hold, taken]))))
            self.unresolved[stack.name] = "its stack is held" if any(action.stale for action in due) else ""
        else:
            self.actions += due
            self.decided.add(stack.name)
        env_files = await _env_files(self.ports, self.snapshot, stack)
        self.notes[stack.name] = tuple(affected_services.notes(stack, after, view.containers, env_files))

    async def follow(self, stack: Stack, followers: Sequence[Action]) -> str:
        """Plan what services of the stack need as they share something with one that the plan touches; returns why they
        may not get it, or ""."""
        if reason := self.suspension.of_stack(stack.name):
            return f"its stack {stack.name} is suspended ({reason})"
        if stack.name not in self.views and stack.name not in dict(self.held):
            await self.plan(stack)
        if stack.name in dict(self.held):
            return f"its stack {stack.name} is held"
        view, after = self.views.get(stack.name), self.projects.get(stack.name)
        if view is None or after is None:
            return f"Compose cannot resolve its stack {stack.name}"
        planned = {action.service for action in self.actions if action.stack == stack.name}
        followers = [*self.followers.get(stack.name, ()), *followers]
        touched, unsettled = self._touched(stack), self._unsettled(stack)
        due = affected(view, after, touched, self.pending_restarts, followers, unsettled)
        due = tuple(action for action in due if action.wave or action.service in planned)
        verdict = await self._judge(stack, due)
        if not verdict.hold:
            self.followers[stack.name] = followers
            self.actions = [*(action for action in self.actions if action.stack != stack.name), *due]
        return f"its stack {stack.name} may not be touched ({verdict.hold})" if verdict.hold else ""

    async def _judge(self, stack: Stack, due: Sequence[Action]) -> ProjectVerdict:
        view, pending = self.views[stack.name], frozenset(self._pending(stack))
        hidden = hidden_values(self.snapshot, self.staged, stack)
        after = self.projects[stack.name]
        sides = StackSides(view.stack, view.before, after, view.containers, view.managed, pending, hidden)
        return await judge_project(self.ports, sides, due, accepted=stack.id in self.permissions.accepted)

    async def _name_taken(self, project: Project | None, due: Sequence[Action]) -> str:
        """Who has a name that the recreated containers need; "" if nobody has."""
        recreated = [action for action in due if action.kind is ActionKind.RECREATE]
        if project is None or not recreated:
            return ""
        scale = {action.service: action.scale for action in recreated if action.scale is not None}
        try:
            await self.ports.compose.require_names(project, [action.service for action in recreated], scale)
        except NameTakenError as error:
            return str(error)
        return ""

    def _touched(self, stack: Stack) -> list[Change]:
        return [change for change in self.changes if change.writes and change.target.stack == stack.name]

    def _unsettled(self, stack: Stack) -> list[Target]:
        targets = self.snapshot.desired.manifest.targets
        return [target for target in targets if target.stack == stack.name and target.path in self.unsettled]

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
            for corrected, at in corrections(self._ports.store.runs(self._environment, RUNS_LOOKED_AT)):
                self._times.setdefault(corrected.path, []).append(at)
        return conflicting_writer(change, self._times.get(change.target.path, ()), self._ports.clock.now())


async def _look_at_stack(
    ports: Ports, stack: Stack, managed: Mapping[str, frozenset[str]], staged: Mapping[str, Secret | None]
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
        stopped = await stopped_by_somebody(ports, stack.environment, stack, containers)
        ran = ports.store.ran_services(stack.environment)
        long_running = stopped | {service.service for service in ran if service.stack == stack.name}
        ended = with_one_shots(stack, before, containers, long_running)
        view = StackView(ended, before, containers, managed, stopped)
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


async def _managed_keys(
    ports: Ports, snapshot: Snapshot, stack: Stack, staged: Mapping[str, Secret | None]
) -> dict[str, frozenset[str]]:
    """The keys of the stack's env files, those on disk and those about to be, by path: as it is written, and with its
    links resolved."""
    managed: dict[str, frozenset[str]] = {}
    targets = [state.target for state in snapshot.states if state.target.stack == stack.name]
    for target in targets:
        if target.parser is Parser.OPAQUE:
            continue
        live = snapshot.live[target.path]
        keys: set[str] = set()
        for data in (live.data if live else None, staged.get(target.path)):
            with contextlib.suppress(EnvFileError):  # nobody can read it: it gives no container a key
                keys |= {entry.key for entry in read_entries(data.reveal() if data else b"", target.parser)}
        for path in (target.path, await ports.host.resolve(target.path)):
            managed[path] = frozenset(keys)
    return managed


def affected(
    view: StackView,
    after: Project | None,
    touched: Sequence[Change],
    pending_restarts: tuple[Action, ...],
    followers: Sequence[Action] = (),
    unsettled: Sequence[Target] = (),
) -> tuple[Action, ...]:
    """What the stack's services need, given the project with the new files; see core/decide/affected_services.py.
    ``unsettled`` are targets that were written before, without that question.

    Where Compose cannot resolve it (None), that is what is pending.
    """
    paths: dict[str, OnChange] = {target.path: target.on_change for target in unsettled}
    paths |= {
        change.target.path: change.target.on_change for change in touched if Aspect.COSMETIC not in change.aspects
    }
    pending_here = tuple(action for action in pending_restarts if action.stack == view.stack.name)
    if after is None:
        return tuple(action for action in pending_here if action.service not in view.stopped)
    return affected_services.affected(
        view.stack,
        view.before,
        after,
        view.containers,
        paths,
        pending_here,
        managed=view.managed,
        followers=followers,
        stopped=view.stopped,
    )


def _reported(snapshot: Snapshot, stack: Stack) -> str:
    """Why older values in a stack's containers are only reported: all of its env files say so. Else ""."""
    policies = {
        target.on_drift
        for target in snapshot.desired.manifest.targets
        if target.stack == stack.name and target.parser is not Parser.OPAQUE
    }
    return "on_drift is report" if policies == {OnDrift.REPORT} else ""


def _edited(changes: Sequence[Change], stack: Stack) -> bool:
    """Whether a hand edit stays in one of its files: then it is the file that is not right, not the container."""
    return any(change.drifted for change in changes if change.target.stack == stack.name)


def _due_sentence(due: Sequence[Action], reason: str) -> str:
    """What the services would need, and why they do not get it; "" where they need nothing."""
    return "; ".join([*(f"{action.service}: {action.reason}" for action in due), reason]) if due else ""


def _mark_stale(
    changes: Sequence[Change], actions: Sequence[Action], unresolved: Mapping[str, str]
) -> tuple[Change, ...]:
    """Note at the env files of a stack that its containers run older values; ``unresolved`` says why that stays."""
    stale = {action.stack for action in actions if action.stale} | {
        name for name, reason in unresolved.items() if reason
    }
    return tuple(_stale(change, unresolved) if change.target.stack in stale else change for change in changes)


def _stale(change: Change, unresolved: Mapping[str, str]) -> Change:
    if change.target.parser is Parser.OPAQUE or change.writes:
        return change
    marked = replace(change, aspects=change.aspects | {Aspect.STALE})
    reason = unresolved.get(change.target.stack or "")
    if not reason or change.effect is not Effect.NONE:
        return marked
    return replace(marked, effect=Effect.REPORT, reason=reason)
