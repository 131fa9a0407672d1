"""What the services of a stack need, and whether they may get it: before anything is written. Reads only."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from reconciler.core.decide import affected_services
from reconciler.core.decide.stack_notes import stack_notes
from reconciler.core.decide.suspension import Suspension
from reconciler.core.errors import (
    GuardError,
    ModelRefusedError,
    NameTakenError,
    ReconcilerError,
    StartedOtherwiseError,
    common_id,
)
from reconciler.core.model.compose import Action, ActionKind, Project
from reconciler.core.model.plans import Aspect, Change, Effect
from reconciler.core.model.requests import ReconcileRequest, RequestKind
from reconciler.core.model.runs import Run
from reconciler.core.model.targets import OnChange, OnDrift, Stack, Target, WriteMode
from reconciler.core.ports import Ports
from reconciler.core.secret import Secret
from reconciler.core.text import listed
from reconciler.engine.ahead import Ahead
from reconciler.engine.observe import Plaintexts, Snapshot
from reconciler.engine.orphans import sentence_of
from reconciler.engine.project_files import ProjectFileGuard
from reconciler.engine.project_guard import ProjectVerdict, StackSides, hidden_values, judge_project
from reconciler.engine.service_drift import find_drifts, services_put_back
from reconciler.engine.stack_view import StackView, env_files, look_at_stack, managed_files


@dataclass(frozen=True, slots=True)
class Permissions:
    """What a reconciliation may do beyond the usual. ``take_over`` names targets whose unknown live file may be
    replaced, ``delete`` those that left git and whose live file goes, ``deleted_by`` says for whom; ``accepted`` names
    the stacks (ENVIRONMENT/NAME) whose project ``requested_by`` accepts as it stands; ``neighbours`` are the stacks of
    the server's other environments on this host. ``taken_over`` are those of ``take_over`` that are requested now.
    ``retry``: an operator wants it deployed again."""

    take_over: Collection[str] = ()
    delete: Collection[str] = ()
    deleted_by: str = ""
    accepted: Collection[str] = ()
    requested_by: str = ""
    taken_over: Collection[str] = ()
    neighbours: Sequence[Stack] = ()
    retry: bool = False


def permissions_of(request: ReconcileRequest, unfinished: Run | None, neighbours: Sequence[Stack]) -> Permissions:
    """What an operator allows with the request. What an unfinished run was to take over, or was asked to delete, it
    still may."""
    forget = request.operator if request.operator is not None and request.operator.delete else None
    begun = {f"{unfinished.environment}/{change.source}": change for change in unfinished.changes} if unfinished else {}
    deletes = unfinished is not None and unfinished.trigger == RequestKind.FORGET
    delete = {target for target, change in begun.items() if deletes and change.digest is None}
    return Permissions(
        take_over={*request.take_over, *begun},
        delete=delete | ({forget.scope} if forget else set()),
        deleted_by=sentence_of(forget) if forget else "",
        accepted=request.accept_projects,
        requested_by=request.requested_by,
        taken_over=request.take_over,
        neighbours=neighbours,
        retry=request.asks(RequestKind.RETRY),
    )


@dataclass(slots=True)
class StackPlanning:
    """Plans stack by stack. ``held`` says by stack why it, or some of its services, are not touched; ``whole`` are the
    stacks of which nothing is, ``withheld`` says by live path why a file waits; ``unresolved`` why containers keep an
    older version of it. ``refused`` are targets (ids) whose content Compose must not even read."""

    ports: Ports
    snapshot: Snapshot
    changes: Sequence[Change]
    staged: Mapping[str, Secret | None]
    pending_restarts: tuple[Action, ...]
    suspension: Suspension
    permissions: Permissions
    files: ProjectFileGuard
    plaintexts: Plaintexts
    unsettled: Collection[str]
    ahead: Ahead
    decided: set[str] = field(default_factory=set)
    views: dict[str, StackView] = field(default_factory=dict)
    projects: dict[str, Project | None] = field(default_factory=dict)
    actions: list[Action] = field(default_factory=list)
    problems: list[ReconcilerError] = field(default_factory=list)
    held: dict[str, list[str]] = field(default_factory=dict)
    held_ids: dict[str, str] = field(default_factory=dict)
    whole: set[str] = field(default_factory=set)
    withheld: dict[str, str] = field(default_factory=dict)
    accepted: list[str] = field(default_factory=list)
    unresolved: dict[str, str] = field(default_factory=dict)
    notes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    followers: dict[str, list[Action]] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)

    def without_engine(self) -> StackPlanning:
        """A plan that touches no service: the pending restarts stay."""
        return StackPlanning(
            self.ports,
            self.snapshot,
            self.changes,
            self.staged,
            self.pending_restarts,
            self.suspension,
            self.permissions,
            self.files,
            self.plaintexts,
            self.unsettled,
            self.ahead,
            actions=list(self.pending_restarts),
        )

    def concerns(self, stack: Stack) -> bool:
        """Whether a file of the stack is written, or one of its services waits for a restart, or may need one."""
        return bool(self._touched(stack) or self._pending(stack) or self._unsettled(stack))

    async def ask_ahead(self, real_paths: Mapping[str, str]) -> None:
        """Begin what takes the longest, before the other guards on files are asked: Compose resolves a touched stack,
        but reads none of git's files that may steer it. ``real_paths`` by live path."""
        stacks = self.snapshot.desired.manifest.stacks
        touched = [stack for stack in stacks if stack.name not in self.suspension.stopped and self._touched(stack)]
        if len(touched) == 1:  # else each has its turn: Compose is started twice at a time, not twice for each stack
            staged = self._staged(touched[0])
            self.ahead.resolve(touched[0])
            with contextlib.suppress(ReconcilerError):  # who needs the answer meets that again
                if not any([await self.files.unwritable(real_paths[path], staged[path], None) for path in staged]):
                    self.ahead.resolve(touched[0], staged)
            self.ahead.ask_for_guests()

    async def plan(self, stack: Stack) -> None:
        """Decide what the stack's services need, and whether they may get it. One that may not is held, with the files
        that it reads; the rest of the stack goes on."""
        held: frozenset[str] = frozenset()
        while more := await self._plan_without(stack, held):
            held |= more

    async def _plan_without(self, stack: Stack, held: frozenset[str]) -> frozenset[str]:
        """Plan the stack without the services that are held. Returns further ones that have to be."""
        touched = self._touched(stack)
        if any(change.target.id in self.refused for change in touched):
            return frozenset()
        staged = self._staged(stack)
        try:
            managed = await managed_files(self.ports, self.snapshot, stack, self.staged, self.plaintexts)
            view, after = await look_at_stack(self.ports, self.snapshot, stack, managed, staged, self.ahead)
        except StartedOtherwiseError as error:
            self._hold(stack, str(error), (), error.id)
            return frozenset()
        except ModelRefusedError as error:
            self.problems.append(error)
            return frozenset()
        view, self.projects[stack.name] = replace(view, left=held), after
        drifts, scaled = find_drifts(self.ports, self._sides(view), self.suspension)
        put_back = services_put_back(self.ports, stack, view.before, view.deployed)
        put_back = frozenset() if self.permissions.retry else put_back
        view = self.views[stack.name] = replace(view, drifts=drifts, put_back=put_back)
        due = affected(view, after, touched, self.pending_restarts, unsettled=self._unsettled(stack))
        readable = await env_files(self.ports, self.snapshot, stack)
        drifted = {drift.service for drift in drifts}
        others = [container for container in view.containers if container.service not in drifted]
        notes = stack_notes(stack, after, others, readable, managed)
        self.notes[stack.name] = (*notes, *scaled)
        renewable = self._renewable(view, due)
        left = {action.service for action in due} - {action.service for action in renewable}
        view, due = replace(view, left=held | left), renewable
        self.views[stack.name] = view
        gone = [change.target.path for change in touched if change.effect is Effect.DELETE]
        mounted = affected_services.missing_mounts(stack, after, gone)
        self.problems += [GuardError(sentence, id="file-still-mounted") for sentence in mounted]
        if due or touched:
            self.problems += await self.files.refusals(stack, staged)
        verdict = await self._judge(stack, due)
        if verdict.accepted:
            by = self.permissions.requested_by or "an operator"
            self.accepted.append(f"{by} accepted the project of {stack.id} as it stands ({verdict.accepted})")
        more = verdict.services
        # Without a new revision nothing is to blame for a name, and a try could only end the same way.
        taken = await self._name_taken(view.before, due) if not touched or verdict.hold else ""
        id = common_id([*filter(None, [verdict.id, NameTakenError.id if taken else ""])])
        verdict = replace(verdict, hold=". ".join(filter(None, [verdict.hold, taken])), id=id)
        if verdict.hold and (not more or (taken and not touched)):
            self._hold(stack, verdict.hold, due, id)
        elif after is not None and affected_services.needed_by(after, due, held | more):
            follow = f"{listed(sorted(held))} would have to follow"
            self._hold(stack, verdict.hold or follow, due, id or self.held_ids.get(stack.name, ""))
        elif more:
            self._hold_services(view, after, touched, due, verdict)
            return more
        else:
            self.actions += due
            self.decided |= set() if held else {stack.name}
        return frozenset()

    async def follow(self, stack: Stack, followers: Sequence[Action]) -> str:
        """Plan what services of the stack need as they share something with one that the plan touches; returns why they
        may not get it, or ""."""
        if reason := self.suspension.of_stack(stack.name):
            return f"its stack {stack.name} is suspended ({reason})"
        if stack.name not in self.views and stack.name not in self.held:
            await self.plan(stack)
        if stack.name in self.whole:
            return f"its stack {stack.name} is held"
        view, after = self.views.get(stack.name), self.projects.get(stack.name)
        if view is None or after is None:
            return f"Compose cannot resolve its stack {stack.name}"
        if left := sorted({action.service for action in followers} & view.left):
            return f"{listed(left)} of its stack {stack.name} is held"
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
        sides = self._sides(self.views[stack.name])
        return await judge_project(self.ports, sides, due, accepted=stack.id in self.permissions.accepted)

    def _sides(self, view: StackView) -> StackSides:
        stack = view.stack
        pending = frozenset(self._pending(stack)) - view.left
        hidden = hidden_values(self.snapshot, self.staged, stack)
        after = self.projects[stack.name]
        return StackSides(
            stack, view.before, after, view.containers, view.managed, pending, hidden, view.deployed, view.images
        )

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

    def _hold(self, stack: Stack, reason: str, due: Sequence[Action], id: str) -> None:
        """Touch nothing of the stack."""
        self.held_ids[stack.name] = id
        self.held.setdefault(stack.name, []).append(reason)
        self.whole.add(stack.name)
        self._leave(due, "its stack is held")

    def _hold_services(
        self,
        view: StackView,
        after: Project | None,
        touched: Sequence[Change],
        due: Sequence[Action],
        verdict: ProjectVerdict,
    ) -> None:
        """Touch neither the services of the verdict nor the files that they read."""
        names = listed(sorted(verdict.services))
        self.held.setdefault(view.stack.name, []).append(verdict.hold)
        self.held_ids[view.stack.name] = verdict.id
        projects = [project for project in (view.before, after) if project]
        for change in touched:
            path = change.target.path
            if any(affected_services.reads(project, name, path) for project in projects for name in verdict.services):
                self.withheld[path] = f"{names} of its stack {view.stack.name} is held"
        self._leave([action for action in due if action.service in verdict.services], "it is held")

    def _renewable(self, view: StackView, due: Sequence[Action]) -> tuple[Action, ...]:
        """The actions without those that are due only because containers have older versions of files, where those may
        stay so."""
        idle = affected(view, view.before, (), ()) if view.before else ()
        only_stale = [action for action in due if action in idle]
        left: list[Action] = []
        for action in only_stale:
            put_back = "the engine rolled it back, and on_failure is hold" if action.service in view.put_back else ""
            if reason := self.suspension.of_stack(view.stack.name) or self._reported(action) or put_back:
                left.append(action)
                self._leave([action], reason)
        if left and not any(action.stale for action in only_stale if action not in left):
            left = only_stale  # what is left follows one that keeps what it has
        return tuple(action for action in due if action not in left)

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
        mine = [change for change in self.changes if change.writes and change.target.stack == stack.name]
        return [change for change in mine if change.target.path not in self.withheld]

    def _staged(self, stack: Stack) -> dict[str, Secret | None]:
        return {change.target.path: self.staged[change.target.path] for change in self._touched(stack)}

    def _unsettled(self, stack: Stack) -> list[Target]:
        targets = self.snapshot.desired.manifest.targets
        return [target for target in targets if target.stack == stack.name and target.path in self.unsettled]

    def _pending(self, stack: Stack) -> set[str]:
        return {action.service for action in self.pending_restarts if action.stack == stack.name}


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
    replaced = frozenset(change.target.path for change in touched if not change.in_place)
    replaced |= {target.path for target in unsettled if target.write is WriteMode.REPLACE}
    mounts = affected_services.MountedFiles(view.policies, replaced, view.sights)
    actions = tuple(action for action in pending_restarts if action.stack == view.stack.name)
    if after is not None:
        actions = affected_services.affected(
            view.stack,
            view.before,
            after,
            view.containers,
            paths,
            actions,
            managed=view.managed,
            mounts=mounts,
            followers=followers,
            stopped=view.stopped,
            kept=affected_services.KeptServices(
                {service.name: service.replicas for service in view.deployed or ()}, view.drifts
            ),
        )
    return tuple(action for action in actions if action.service not in view.left | view.stopped)
