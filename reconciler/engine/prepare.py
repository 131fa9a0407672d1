"""Snapshot → plan, with every guard asked and every stack resolved, before anything is written. Reads only."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from reconciler.core import dotenv, guards, services
from reconciler.core.errors import GuardError, ModelRefusedError
from reconciler.core.model import (
    Action,
    Aspect,
    Change,
    Container,
    Effect,
    KeyChange,
    Kind,
    OnChange,
    Parser,
    Plan,
    Project,
    Stack,
    Target,
)
from reconciler.core.plan import classify, with_keys
from reconciler.core.ports import Ports
from reconciler.core.secret import Secret
from reconciler.engine.contracts import broken_contracts
from reconciler.engine.observe import Plaintexts, Snapshot, key_change


@dataclass(frozen=True, slots=True)
class StackView:
    """A stack before the change: its resolved project (None where Compose cannot yet), its containers, and the names
    of the keys in its env files."""

    stack: Stack
    before: Project | None
    containers: tuple[Container, ...]
    managed: frozenset[str]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A plan, the bytes it would write by live path (None: delete), what the guards say, and the stacks as they are."""

    plan: Plan
    staged: Mapping[str, Secret | None] = field(repr=False)
    problems: tuple[str, ...]
    views: Mapping[str, StackView]

    def check(self) -> None:
        """Raise GuardError, with every problem in it, where a guard failed."""
        if self.problems:
            raise GuardError("\n".join(self.problems), hint="Nothing was written")


class KeyNames:
    """Remembers, by the two digests, which keys differ: a held or reported file is not decrypted in every pass."""

    def __init__(self) -> None:
        self._known: dict[tuple[str | None, str | None], KeyChange] = {}

    async def of(self, ports: Ports, snapshot: Snapshot, change: Change, plaintexts: Plaintexts) -> KeyChange:
        if change.target.parser is Parser.OPAQUE or Aspect.CONTENT not in change.aspects | _creates(change):
            return KeyChange()
        wanted = snapshot.wanted
        live = snapshot.live[change.target.path]
        pair = (wanted.digests[change.target.source], None if live is None else ports.digest(live.data.reveal()))
        if pair not in self._known:
            desired = await plaintexts.of(change.target, wanted.blobs[change.target.source])
            self._known[pair] = key_change(
                change.target, desired.reveal(), None if live is None else live.data.reveal()
            )
        return self._known[pair]

    def keep(self, snapshot: Snapshot) -> None:
        """Forget pairs that no longer occur."""
        pairs = {(state.desired, state.live) for state in snapshot.states}
        self._known = {pair: keys for pair, keys in self._known.items() if pair in pairs}


def _creates(change: Change) -> frozenset[Aspect]:
    return frozenset({Aspect.CONTENT}) if Aspect.MISSING in change.aspects else frozenset()


async def prepare(
    ports: Ports,
    snapshot: Snapshot,
    names: KeyNames,
    plaintexts: Plaintexts,
    *,
    take_over: Collection[str] = (),
    look_at_stacks: bool = False,
    owed: tuple[Action, ...] = (),
    stopped: Mapping[str, str] | None = None,
) -> Prepared:
    """Decide what this pass would do.

    ``take_over`` names targets whose unknown live file may be replaced; ``look_at_stacks`` asks every stack for stale
    containers even where no file changes; ``owed`` are actions an earlier run could not finish; ``stopped`` tells by
    stack why nothing may be done about it.
    Raises EngineUnavailableError, LiveFileError, KeyUnavailableError. Guards do not raise: see ``Prepared.check``.
    """
    changes = []
    stopped = stopped or {}
    for state in snapshot.states:
        change = _unless_stopped(classify(state, take_over=state.target.id in take_over), stopped)
        changes.append(with_keys(change, await names.of(ports, snapshot, change, plaintexts)))
    names.keep(snapshot)
    writes = [change for change in changes if change.writes]
    staged = {change.target.path: await _bytes(snapshot, change, plaintexts) for change in writes}
    problems = await _ask_guards(ports, snapshot, writes, staged)
    views: dict[str, StackView] = {}
    actions: list[Action] = []
    for stack in snapshot.wanted.manifest.stacks:
        if stack.name in stopped:
            continue
        touched = [change for change in writes if change.target.stack == stack.name]
        if touched or look_at_stacks or any(action.stack == stack.name for action in owed):
            managed = _managed_keys(snapshot, stack, staged)
            view = views[stack.name] = await _look_at_stack(ports, stack, managed)
            try:
                after = await ports.compose.project(stack, _of_stack(staged, touched)) if touched else view.before
            except ModelRefusedError as error:
                problems.append(str(error))
                continue
            due = affected(view, after, touched, owed)
            # What is owed passed this guard before its run began; the values it removes are in no file any more.
            owed_here = {action.service for action in owed if action.stack == stack.name}
            new = [action for action in due if action.service not in owed_here]
            problems += services.foreign(view.before, view.containers, new, view.managed)
            actions += due
    plan = Plan(
        snapshot.wanted.manifest.environment, snapshot.wanted.revision, _mark_stale(changes, actions), tuple(actions)
    )
    return Prepared(plan, staged, tuple(problems), views)


def _unless_stopped(change: Change, stopped: Mapping[str, str]) -> Change:
    why = stopped.get(change.target.stack or "")
    if why is None or not change.writes:
        return change
    reason = f"{change.reason}, but the stack is left alone until `reconciler retry`: {why}"
    return replace(change, effect=Effect.HOLD, reason=reason)


async def _look_at_stack(ports: Ports, stack: Stack, managed: frozenset[str]) -> StackView:
    """The stack as it is now. Where Compose refuses the project before the change, that blames nobody."""
    try:
        before: Project | None = await ports.compose.project(stack)
    except ModelRefusedError:
        before = None
    return StackView(stack, before, await ports.compose.containers(stack, before.name if before else None), managed)


def _managed_keys(snapshot: Snapshot, stack: Stack, staged: Mapping[str, Secret | None]) -> frozenset[str]:
    """The keys of the stack's env files, those on disk and those about to be."""
    keys: set[str] = set()
    for state in snapshot.states:
        target = state.target
        live = snapshot.live[target.path]
        for data in (live.data if live else None, staged.get(target.path)):
            if target.stack == stack.name and data is not None:
                with contextlib.suppress(dotenv.EnvFileError):  # nobody can read it: it gives no container a key
                    keys |= {entry.key for entry in dotenv.entries(data.reveal(), target.parser)}
    return frozenset(keys)


def affected(
    view: StackView, after: Project | None, touched: list[Change], owed: tuple[Action, ...]
) -> tuple[Action, ...]:
    """What the stack's services need, given the project with the new files; see core/services.py.

    Where Compose cannot resolve it (None), that is what they are owed.
    """
    paths: dict[str, OnChange] = {
        change.target.path: change.target.on_change for change in touched if Aspect.COSMETIC not in change.aspects
    }
    owed_here = tuple(action for action in owed if action.stack == view.stack.name)
    if after is None:
        return owed_here
    return services.affected(view.stack, view.before, after, view.containers, paths, owed_here, managed=view.managed)


async def _bytes(snapshot: Snapshot, change: Change, plaintexts: Plaintexts) -> Secret | None:
    if change.effect is Effect.DELETE:
        return None
    return await plaintexts.of(change.target, snapshot.wanted.blobs[change.target.source])


def _of_stack(staged: Mapping[str, Secret | None], touched: list[Change]) -> dict[str, Secret | None]:
    return {change.target.path: staged[change.target.path] for change in touched}


async def _ask_guards(
    ports: Ports, snapshot: Snapshot, writes: list[Change], staged: Mapping[str, Secret | None]
) -> list[str]:
    problems: list[str] = []
    allowed = [ports.host.resolve(path) for path in ports.settings.allowed_paths]
    forbidden = await _project_files(ports, snapshot, writes)
    for change in writes:
        target, data = change.target, staged[change.target.path]
        resolved = ports.host.resolve(target.path)
        found = guards.placement(target, resolved, allowed)
        if data is not None:
            # What git already had here once is put back whatever a hand has made of the live file.
            live = None if change.kind is Kind.DRIFT else snapshot.live[target.path]
            found += guards.content(target, data.reveal(), None if live is None else live.data.reveal())
            # By resolved paths: a link must not give a compose file a second name.
            found += guards.project_files(replace(target, path=resolved), *forbidden, data.reveal())
            found += await _ask_check(ports, target, data)
            if change.kind is not Kind.DRIFT:  # what was applied kept its contracts then; a hand edit must go
                found += await broken_contracts(ports, snapshot.wanted.revision, target, data)
        problems += [f"{target.id}: {problem}" for problem in found]
    return problems


async def _project_files(
    ports: Ports, snapshot: Snapshot, writes: list[Change]
) -> tuple[frozenset[str], frozenset[str]]:
    """The files Compose reads as configuration, of every stack: one stack's target may be another's compose file."""
    if ports.settings.allow_compose_files or not writes:
        return frozenset(), frozenset()
    projects: frozenset[str] = frozenset()
    environments: frozenset[str] = frozenset()
    for stack in snapshot.wanted.manifest.stacks:
        projects |= await ports.compose.project_files(stack)
        environments |= await ports.compose.environment_files(stack)
    return frozenset(map(ports.host.resolve, projects)), frozenset(map(ports.host.resolve, environments))


async def _ask_check(ports: Ports, target: Target, data: Secret) -> list[str]:
    if target.check is None:
        return []
    try:
        await ports.host.check(target.check, data)
    except GuardError as error:
        return [str(error)]
    return []


def _mark_stale(changes: list[Change], actions: list[Action]) -> tuple[Change, ...]:
    stale = {action.stack for action in actions if action.stale}
    return tuple(
        replace(change, aspects=change.aspects | {Aspect.STALE})
        if change.target.stack in stale and change.target.parser is not Parser.OPAQUE and not change.writes
        else change
        for change in changes
    )
