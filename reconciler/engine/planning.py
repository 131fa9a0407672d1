"""Snapshot → plan, with every guard asked and every stack resolved, before anything is written. Reads only."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from reconciler.core.decide import affected_services, guards
from reconciler.core.decide.classify import classify, with_authors, with_keys
from reconciler.core.decide.suspension import Suspension, conflicting_writer, suspended
from reconciler.core.dotenv.grammar import EnvFileError, read_entries
from reconciler.core.dotenv.ignored_keys import with_server_keys
from reconciler.core.errors import GuardError, ModelRefusedError, ReconcilerError, StartedOtherwiseError
from reconciler.core.model.compose import Action, Container, Project
from reconciler.core.model.plans import Aspect, Change, Effect, KeyChange, Kind, Plan
from reconciler.core.model.runs import Result
from reconciler.core.model.targets import OnChange, OnDrift, Parser, Stack, Target
from reconciler.core.ports import Ports
from reconciler.core.secret import Secret
from reconciler.engine.contracts import broken_contracts
from reconciler.engine.observe import Plaintexts, Snapshot, key_change, last_written, named_keys

_RUNS_LOOKED_AT = 100  # more than an hour can have, as corrections that follow each other wait


@dataclass(frozen=True, slots=True)
class StackView:
    """A stack before the change: its resolved project (None where Compose cannot yet), its containers, and the names
    of the keys in its managed env files, by path."""

    stack: Stack
    before: Project | None
    containers: tuple[Container, ...]
    managed: Mapping[str, frozenset[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A plan, the bytes it would write by live path (None: delete), what the guards say, and the stacks as they are,
    with what is to be noted about each."""

    plan: Plan
    staged: Mapping[str, Secret | None] = field(repr=False)
    problems: tuple[str, ...]
    views: Mapping[str, StackView]
    notes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def check(self) -> None:
        """Raise GuardError, with every problem in it, where a guard failed."""
        if self.problems:
            raise GuardError("\n".join(self.problems), hint="Nothing was written")


class KeyNames:
    """Remembers, by the two digests, which keys differ: a held or reported file is not decrypted in every pass."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str | None], KeyChange] = {}
        self._apart: dict[tuple[str, str | None], tuple[KeyChange, KeyChange]] = {}

    async def tell(self, ports: Ports, snapshot: Snapshot, change: Change, plaintexts: Plaintexts) -> Change:
        """The change with the names of its keys, and told apart by whose they are."""
        keys = await self._of(ports, snapshot, change, plaintexts)
        change = with_keys(change, keys)
        live = snapshot.live[change.target.path]
        if live is None or Aspect.CONTENT not in change.aspects:
            return change
        if change.kind is Kind.DRIFT:
            by_hand = KeyChange(added=keys.removed, removed=keys.added, changed=keys.changed)
            return with_authors(change, by_hand, KeyChange(), live.modified_at)
        if change.kind is Kind.CONFLICT:
            by_hand, from_git = await self._of_both(ports, snapshot, change, plaintexts)
            return with_authors(change, by_hand, from_git, live.modified_at)
        return replace(change, from_git=keys) if change.kind is Kind.UPDATE else change

    async def _of(self, ports: Ports, snapshot: Snapshot, change: Change, plaintexts: Plaintexts) -> KeyChange:
        if change.target.parser is Parser.OPAQUE or Aspect.CONTENT not in change.aspects | _creates(change):
            return KeyChange()
        live = snapshot.live[change.target.path]
        pair = _pair(ports, snapshot, change.target)
        if pair not in self._known:
            desired = await _bytes(snapshot, change, plaintexts) or Secret(b"")
            self._known[pair] = key_change(
                change.target, desired.reveal(), None if live is None else live.data.reveal()
            )
        return self._known[pair]

    async def _of_both(
        self, ports: Ports, snapshot: Snapshot, change: Change, plaintexts: Plaintexts
    ) -> tuple[KeyChange, KeyChange]:
        """What a hand, and what git has changed since the file was last written; nothing where that is not known."""
        target, pair = change.target, _pair(ports, snapshot, change.target)
        live, last = snapshot.live[target.path], snapshot.applied[target.path]
        if pair not in self._apart and live is not None:
            self._apart[pair] = KeyChange(), KeyChange()
            with contextlib.suppress(ReconcilerError):  # names are a help, and nothing waits for them
                written = await last_written(ports, target, last, plaintexts)
                desired = (await plaintexts.of(target, snapshot.desired.blobs[target.source])).reveal()
                if written is not None:
                    by_hand = key_change(target, live.data.reveal(), written)
                    told = named_keys(target, by_hand.added, live.data.reveal())
                    self._apart[pair] = replace(by_hand, added=told), key_change(target, desired, written)
        return self._apart[pair]

    def keep(self, ports: Ports, snapshot: Snapshot) -> None:
        """Forget pairs that no longer occur."""
        pairs = {_pair(ports, snapshot, state.target) for state in snapshot.states if state.desired is not None}
        self._known = {pair: keys for pair, keys in self._known.items() if pair in pairs}
        self._apart = {pair: both for pair, both in self._apart.items() if pair in pairs}


def _pair(ports: Ports, snapshot: Snapshot, target: Target) -> tuple[str, str | None]:
    """What the names of a target's keys depend on."""
    live = snapshot.live[target.path]
    return snapshot.desired.digests[target.source], None if live is None else ports.digest(live.data.reveal())


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
    pending_restarts: tuple[Action, ...] = (),
    suspension: Suspension | None = None,
) -> Prepared:
    """Decide what this pass would do.

    ``take_over`` names targets whose unknown live file may be replaced; ``look_at_stacks`` asks every stack for stale
    containers even where no file changes; ``owed`` are actions an earlier run could not finish; ``alone`` tells what
    nothing may be done about, and why.
    Raises EngineUnavailableError, LiveFileError, KeyUnavailableError. Guards do not raise: see ``Prepared.check``.
    """
    changes = []
    suspension = suspension or Suspension()
    corrections = _Corrections(ports, snapshot.desired.manifest.environment)
    for state in snapshot.states:
        change = classify(state, take_over=state.target.id in take_over)
        change = await names.tell(ports, snapshot, change, plaintexts)
        change = suspended(change, suspension.of_target(state.target))
        changes.append(suspended(change, corrections.conflicting_writer(change)))
    names.keep(ports, snapshot)
    writes = [change for change in changes if change.writes]
    staged = {change.target.path: await _bytes(snapshot, change, plaintexts) for change in writes}
    problems = await _ask_guards(ports, snapshot, writes, staged)
    views: dict[str, StackView] = {}
    actions: list[Action] = []
    left: dict[str, str] = {}
    notes: dict[str, tuple[str, ...]] = {}
    for stack in snapshot.desired.manifest.stacks:
        if stack.name in suspension.stopped:
            continue
        touched = [change for change in writes if change.target.stack == stack.name]
        if touched or look_at_stacks or any(action.stack == stack.name for action in pending_restarts):
            managed = await _managed_keys(ports, snapshot, stack, staged)
            try:
                view, after = await _look_at_stack(ports, stack, managed, _of_stack(staged, touched))
            except ModelRefusedError as error:
                problems.append(str(error))
                continue
            views[stack.name] = view
            due = affected(view, after, touched, pending_restarts)
            # What is owed passed this guard before its run began; the values it removes are in no file any more.
            pending_here = {action.service for action in pending_restarts if action.stack == stack.name}
            reason = suspension.of_stack(stack.name) or _reported(snapshot, stack)
            if not touched and not pending_here and reason:
                left[stack.name] = _told(due, reason) if not _edited(changes, stack) else ""
                continue
            new = [action for action in due if action.service not in pending_here]
            problems += affected_services.foreign(view.before, view.containers, new, view.managed)
            actions += due
            env_files = await _env_files(ports, snapshot, stack)
            notes[stack.name] = tuple(affected_services.notes(stack, after, view.containers, env_files))
    plan = Plan(
        snapshot.desired.manifest.environment,
        snapshot.desired.revision,
        _mark_stale(changes, actions, left),
        tuple(actions),
        tuple(note for sentences in notes.values() for note in sentences),
    )
    return Prepared(plan, staged, tuple(problems), views, notes)


class _Corrections:
    """When each live file was put back lately; looked up only where one is to be put back again."""

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
                for one in run.changes:
                    if one.kind == Kind.DRIFT and run.result is Result.CORRECTED:
                        self._times.setdefault(one.path, []).append(run.started_at)
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
    view: StackView, after: Project | None, touched: list[Change], pending_restarts: tuple[Action, ...]
) -> tuple[Action, ...]:
    """What the stack's services need, given the project with the new files; see core/decide/affected_services.py.

    Where Compose cannot resolve it (None), that is what they are owed.
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


async def _bytes(snapshot: Snapshot, change: Change, plaintexts: Plaintexts) -> Secret | None:
    """What would be written; None: the file would be deleted. Keys that are not git's to say keep their live value."""
    target, live = change.target, snapshot.live[change.target.path]
    if change.effect is Effect.DELETE:
        return None
    data = await plaintexts.of(target, snapshot.desired.blobs[target.source])
    if not target.ignore_keys or live is None:
        return data
    return Secret(with_server_keys(data.reveal(), live.data.reveal(), target.parser, target.ignore_keys))


def _of_stack(staged: Mapping[str, Secret | None], touched: list[Change]) -> dict[str, Secret | None]:
    return {change.target.path: staged[change.target.path] for change in touched}


async def _ask_guards(
    ports: Ports, snapshot: Snapshot, writes: list[Change], staged: Mapping[str, Secret | None]
) -> list[str]:
    problems: list[str] = []
    allowed = [await ports.host.resolve(path) for path in ports.settings.allowed_paths]
    forbidden = await _project_files(ports, snapshot, writes)
    for change in writes:
        target, data = change.target, staged[change.target.path]
        resolved = await ports.host.resolve(target.path)
        found = guards.placement(target, resolved, allowed)
        if data is not None:
            # What git already had here once is put back whatever a hand has made of the live file.
            live = None if change.kind is Kind.DRIFT else snapshot.live[target.path]
            found += guards.content(target, data.reveal(), None if live is None else live.data.reveal())
            # By resolved paths: a link must not give a compose file a second name.
            found += guards.project_files(replace(target, path=resolved), *forbidden, data.reveal())
            found += await _ask_check(ports, target, data)
            if change.kind is not Kind.DRIFT:  # what was applied kept its contracts then; a hand edit must go
                found += await broken_contracts(ports, snapshot.desired.revision, target, data)
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
    for stack in snapshot.desired.manifest.stacks:
        read = await ports.compose.project_files(stack)
        projects |= read.files
        environments |= read.environments
    return await _resolved(ports, projects), await _resolved(ports, environments)


async def _resolved(ports: Ports, paths: Collection[str]) -> frozenset[str]:
    return frozenset([await ports.host.resolve(path) for path in paths])


async def _ask_check(ports: Ports, target: Target, data: Secret) -> list[str]:
    if target.check is None:
        return []
    try:
        await ports.host.check(target.check, data)
    except GuardError as error:
        return [str(error)]
    return []


def _reported(snapshot: Snapshot, stack: Stack) -> str:
    """Why older values in a stack's containers are only told of: all of its env files say so. Else ""."""
    policies = {
        target.on_drift
        for target in snapshot.desired.manifest.targets
        if target.stack == stack.name and target.parser is not Parser.OPAQUE
    }
    return "on_drift is report" if policies == {OnDrift.REPORT} else ""


def _edited(changes: list[Change], stack: Stack) -> bool:
    """Whether a hand edit stays in one of its files: then it is the file that is not right, not the container."""
    return any(change.drifted for change in changes if change.target.stack == stack.name)


def _told(due: Sequence[Action], why: str) -> str:
    """What the services would need, and why they do not get it; "" where they need nothing."""
    return "; ".join([*(f"{one.service}: {one.reason}" for one in due), why]) if due else ""


def _mark_stale(changes: list[Change], actions: list[Action], left: Mapping[str, str]) -> tuple[Change, ...]:
    """Note at the env files of a stack that its containers run older values; ``left`` says by stack why that stays."""
    stale = {action.stack for action in actions if action.stale} | {stack for stack, why in left.items() if why}
    return tuple(_stale(change, left) if change.target.stack in stale else change for change in changes)


def _stale(change: Change, left: Mapping[str, str]) -> Change:
    if change.target.parser is Parser.OPAQUE or change.writes:
        return change
    marked = replace(change, aspects=change.aspects | {Aspect.STALE})
    why = left.get(change.target.stack or "")
    if not why or change.effect is not Effect.NONE:
        return marked
    return replace(marked, effect=Effect.REPORT, reason=why)
