"""The steps of a transaction: back up, begin, write, recreate, verify. Every step leaves a way back."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

from reconciler.core.decide import health
from reconciler.core.decide.next_steps import next_steps
from reconciler.core.errors import ChangedMeanwhileError, ServiceFailedError, StillStartingError, UnhealthyError
from reconciler.core.model.compose import Action, ActionKind, Project, ServiceHealth, Sight
from reconciler.core.model.plans import Change
from reconciler.core.model.runs import BackupEntry, Phase, Run, RunChange
from reconciler.core.model.targets import LiveFile, Ownership, Stack, host_of
from reconciler.core.ports import Ports
from reconciler.core.ports.compose import ChangeNotice
from reconciler.core.secret import Secret
from reconciler.engine.backup import entry_of, take_backup
from reconciler.engine.mounted_files import sights_of
from reconciler.engine.observe import Snapshot, require_unmoved
from reconciler.engine.phases import phase
from reconciler.engine.planning import Prepared
from reconciler.engine.stack_health import begin_restart, stopped_by_somebody
from reconciler.engine.stack_planning import affected
from reconciler.engine.stack_view import StackView

# Seconds between two looks at the containers while waiting for health, where the engine reports nothing; one costs some
# ms.
_HEALTH_INTERVAL = 0.2


class Stage(Enum):
    """Which part of the transaction an error interrupted."""

    BACKUP = "backup"
    WRITE = "write"
    SERVICES = "services"


@dataclass(slots=True)
class Transaction:
    """How far a run has come: what a rollback must undo and a retry must redo.

    ``run`` is as last stored, with its writes and pending actions. ``spared`` are live paths that somebody edited
    during the run; ``touched`` are the (stack, service) pairs that were acted on; ``projects`` are the stacks as
    Compose resolves them after the change; ``startups`` are as in EnvironmentRecord. ``acted``: all of its actions were
    carried out, so a service that is stopped now was stopped by somebody else; ``left_stopped`` are such services,
    which nothing starts.
    """

    run: Run
    resumed: bool = False
    stage: Stage = Stage.BACKUP
    spared: set[str] = field(default_factory=set)
    touched: set[tuple[str, str]] = field(default_factory=set)
    projects: dict[str, Project] = field(default_factory=dict, repr=False)
    services: tuple[ServiceHealth, ...] = ()
    startups: dict[str, float] = field(default_factory=dict)
    acted: bool = False
    left_stopped: set[str] = field(default_factory=set)


def resume(run: Run) -> Transaction:
    """A run that another process began, or something outside stopped: any part of it may have been done."""
    return Transaction(run, resumed=True, touched={(action.stack, action.service) for action in run.actions})


async def execute(ports: Ports, transaction: Transaction, snapshot: Snapshot, prepared: Prepared) -> None:
    """Apply the plan, and keep ``transaction`` up to date, so that the caller can undo it or leave it pending.

    Without the engine only the files are written; an unfinished run stays so. Raises OutsideError (engine, disk),
    ModelRefusedError and UnhealthyError (the revision is to blame), ServiceFailedError (unhealthy, as before the
    change).
    """
    await _back_up(ports, transaction, snapshot, prepared)
    await _begin(ports, transaction, prepared)
    transaction.stage = Stage.WRITE
    await _write_all(ports, transaction, snapshot, prepared)
    transaction.stage = Stage.SERVICES
    if prepared.away is not None:
        if transaction.resumed:
            raise prepared.away
        return
    views = await _store_pending_restarts(ports, transaction, prepared)
    await _require_unmoved(ports, transaction, snapshot, prepared)
    await act(ports, transaction, views)
    transaction.services = await verify(ports, transaction, views)
    await _require_new_files(ports, transaction, views)


async def _back_up(ports: Ports, transaction: Transaction, snapshot: Snapshot, prepared: Prepared) -> None:
    """Back up what the run is about to change, unless its own backup already holds that."""
    plan, run = prepared.plan, transaction.run
    known = ports.backups.list(run.environment) if run.backup else ()
    own = next((backup for backup in known if backup.id == run.backup), None)
    kept = {entry.path: entry for entry in own.entries} if own else {}
    files: list[tuple[BackupEntry, Secret | None]] = []
    for change in plan.writes:
        path = change.target.path
        live = snapshot.live[path]
        if path not in kept or not matches(ports, kept[path], live):
            files.append(entry_of(ports, len(files), change.target.source, path, live))
    backup = own.id if own else ""
    if files:
        with phase(ports, Phase.BACKUP, f"backing up {len(files)} file(s)"):
            to = plan.revision.commit
            taken = await take_backup(ports, beside(ports, run) if own else run, files, run.from_commit, to)
        backup = backup or taken
    changes = {change.target.path: _run_change(ports, prepared, change) for change in plan.writes}
    changes |= {change.path: change for change in run.changes}
    transaction.run = replace(run, backup=backup, actions=plan.actions, changes=tuple(changes.values()))


def beside(ports: Ports, run: Run) -> Run:
    """The run under another id, for a second backup: the first one stays its way back."""
    return replace(run, id=f"{run.id}-{ports.new_run_id()}", started_at=ports.clock.now())


async def _begin(ports: Ports, transaction: Transaction, prepared: Prepared) -> None:
    """Store the run before the first write, with what was unhealthy before: it is not to blame for that."""
    ports.store.remember_written(host_of(transaction.run.environment), prepared.written, prepared.guarded)
    if transaction.resumed:
        ports.store.amend(transaction.run)
        return
    failing: list[str] = []
    silent: list[str] = []
    unplaced: list[str] = []
    for view in prepared.views.values():
        failing += [_service_id(view.stack, name) for name in health.failing(view.stack, view.containers)]
        silent += [url for url, answers in (await ask_http(ports, view.stack)).items() if not answers]
        unplaced += [_service_id(view.stack, name) for name in health.unplaced(view.containers)]
    run = replace(transaction.run, failing=tuple(sorted(failing)), silent=tuple(sorted(silent)))
    transaction.run = replace(run, unplaced=tuple(sorted(unplaced)))
    ports.store.begin(transaction.run)


def _service_id(stack: Stack, service: str) -> str:
    return f"{stack.name}/{service}"


def matches(ports: Ports, entry: BackupEntry, live: LiveFile | None) -> bool:
    """Whether the live file equals the backup's, owner and mode included."""
    if live is None or entry.file is None:
        return live is None and entry.file is None
    same = (live.mode, live.uid, live.gid) == (entry.mode, entry.uid, entry.gid)
    return same and ports.digest(live.data.reveal()) == entry.digest


async def _write_all(ports: Ports, transaction: Transaction, snapshot: Snapshot, prepared: Prepared) -> None:
    writes = prepared.plan.writes
    with phase(ports, Phase.WRITE, f"writing {len(writes)} file(s)"):
        for change in writes:
            path = change.target.path
            live, data = snapshot.live[path], prepared.staged[path]
            try:
                owner, mode = snapshot.ownership[path], change.target.mode
                await put(ports, path, data, mode=mode, ownership=owner, replaces=live, in_place=change.in_place)
            except ChangedMeanwhileError:
                transaction.spared.add(path)  # somebody's edit lies there: undoing must not touch it
                raise


async def put(
    ports: Ports,
    path: str,
    data: Secret | None,
    *,
    mode: int,
    ownership: Ownership,
    replaces: LiveFile | None,
    in_place: bool = False,
) -> None:
    """Make ``data`` the content of the live file (None: remove it)."""
    if data is not None:
        await ports.host.write(path, data, mode=mode, ownership=ownership, replaces=replaces, in_place=in_place)
    elif replaces is not None:
        await ports.host.remove(path, replaces=replaces)


async def _store_pending_restarts(
    ports: Ports, transaction: Transaction, prepared: Prepared
) -> Mapping[str, StackView]:
    """Have the stacks as Compose resolves them from the real files, and store the pending restarts."""
    actions: list[Action] = []
    for name, view in prepared.views.items():
        touched = [change for change in prepared.plan.writes if change.target.stack == name]
        planned = tuple(action for action in prepared.plan.actions if action.stack == name)
        if not touched and not planned:
            continue
        after = prepared.projects.get(name) if touched else view.before
        if touched and not (after and await ports.compose.is_current(view.stack, after)):
            after = await ports.compose.project(view.stack)
        if after is not None:
            transaction.projects[name] = after
        actions += affected(view, after, touched, planned)
    transaction.run = replace(transaction.run, actions=tuple(actions))
    ports.store.amend(transaction.run)
    return prepared.views


async def _require_unmoved(ports: Ports, transaction: Transaction, snapshot: Snapshot, prepared: Prepared) -> None:
    """Raise ChangedMeanwhileError if somebody has changed a file of a stack whose services are touched: they would get
    values that are neither git's nor those the plan was made for."""
    stacks = {action.stack for action in transaction.run.actions}
    staged = {change.target.path: prepared.staged[change.target.path] for change in prepared.plan.writes}
    mine = [state.target.path for state in snapshot.states if state.target.stack in stacks]
    expected: dict[str, Secret | None] = {}
    for path in mine:
        live = snapshot.live[path]
        expected[path] = staged.get(path, live.data if live else None)
    await require_unmoved(ports, expected)


async def _require_new_files(ports: Ports, transaction: Transaction, views: Mapping[str, StackView]) -> None:
    """Raise ServiceFailedError if a container still has the file that the run has replaced, mounted by itself."""
    for name, view in views.items():
        written = {change.path: change for change in transaction.run.changes if change.stack == name and change.digest}
        if not written or not view.policies:
            continue
        project = await _project(ports, transaction, view)
        sights = await sights_of(ports, written, await ports.compose.containers(view.stack, project.name))
        for service, files in sights.items():
            for path in (path for path, sight in files.items() if sight is Sight.OTHER):
                live = await ports.host.read(path)
                if live is None or ports.digest(live.data.reveal()) != written[path].digest:
                    continue  # somebody has put another one there meanwhile
                problem = f"{service} still has the file that was at {path} before; only a restart shows it the new one"
                raise ServiceFailedError(problem, where=f"stack {name}", id="old-file-in-container")


async def act(ports: Ports, transaction: Transaction, views: Mapping[str, StackView]) -> None:
    """Recreate, restart or signal each stack's services. That stays pending until they are healthy (``finish``).

    A service that somebody stopped meanwhile is left out: see ``leave_stopped``.
    """
    await leave_stopped(ports, transaction, views)
    transaction.acted = False
    for wave in waves(transaction.run.actions):
        for view in views.values():
            await act_on_stack(ports, transaction, view, wave)
    transaction.acted = True


def waves(actions: Sequence[Action]) -> list[int]:
    """The waves of these actions, in order."""
    return sorted({action.wave for action in actions})


async def act_on_stack(ports: Ports, transaction: Transaction, view: StackView, wave: int) -> None:
    """The actions of one stack in one wave, each kind after the one-shots that come before it have ended."""
    name, mine = view.stack.name, [action for action in transaction.run.actions if action.stack == view.stack.name]
    actions = [action for action in mine if action.wave == wave]
    if not actions:
        return
    project = await _project(ports, transaction, view)
    one_shots = [action.service for action in mine if action.one_shot and action.wave < wave]
    for kind, signal, force in _in_order(actions):
        if one_shots:
            with phase(ports, Phase.RECREATE, f"{name}: waiting for {', '.join(one_shots)} to end"):
                await _watch(ports, transaction, view, one_shots, http=False)
        chosen = [action for action in actions if (action.kind, action.signal, action.force) == (kind, signal, force)]
        await _act(ports, transaction, view, project, chosen)
        one_shots = [action.service for action in chosen if action.one_shot]


async def leave_stopped(ports: Ports, transaction: Transaction, views: Mapping[str, StackView]) -> None:
    """Take from the run the actions of services that somebody stopped since the plan was made: those of a rollback may
    have run with the new values for a while. Services that an interrupted `up` of ours may have stopped keep theirs."""
    environment = transaction.run.environment
    for name, view in views.items():
        services = {action.service for action in transaction.run.actions if action.stack == name}
        if services and (transaction.acted or transaction.resumed):
            containers = await ports.compose.glance(view.stack)
            pending = frozenset[str]() if transaction.acted else None
            stopped = await stopped_by_somebody(ports, environment, view.stack, containers, pending) & services
            transaction.left_stopped |= stopped
            left = [
                action for action in transaction.run.actions if action.stack != name or action.service not in stopped
            ]
            transaction.run = replace(transaction.run, actions=tuple(left))
        begin_restart(ports, environment, view.stack, services)


def _in_order(actions: Sequence[Action]) -> list[tuple[ActionKind, str, bool]]:
    """The distinct kinds of actions: recreate before restart, as a service may restart with a recreated one."""
    kinds = dict.fromkeys((action.kind, action.signal, action.force) for action in actions)
    return sorted(kinds, key=lambda kind: list(ActionKind).index(kind[0]))


async def _project(ports: Ports, transaction: Transaction, view: StackView) -> Project:
    """The stack's project after the change, or before it; asks Compose only if neither is known.

    What a resumed run has seen as the project before may be the change, which was written before it was interrupted.
    """
    before = None if transaction.resumed else view.before
    return transaction.projects.get(view.stack.name) or before or await ports.compose.project(view.stack)


async def _act(
    ports: Ports, transaction: Transaction, view: StackView, project: Project, actions: Sequence[Action]
) -> None:
    first, names = actions[0], [action.service for action in actions]
    scale = {action.service: action.scale for action in actions if action.scale is not None}
    if first.kind is ActionKind.RECREATE:
        await ports.compose.require_names(project, names, scale)
    transaction.touched |= {(view.stack.name, name) for name in names}
    result = "failed"
    try:
        with phase(ports, Phase.RECREATE, f"{view.stack.name}: {first.kind} {', '.join(names)}"):
            match first.kind:
                case ActionKind.RECREATE:
                    await ports.compose.recreate(project, names, scale=scale, force=first.force)
                case ActionKind.RESTART:
                    await ports.compose.restart(project, names)
                case ActionKind.SIGNAL:
                    for name in names:
                        await ports.compose.signal(project, name, first.signal)
        result = "ok"
    finally:
        for name in names:
            ports.metrics.recreated(transaction.run.environment, view.stack.name, name, result)


async def verify(ports: Ports, transaction: Transaction, views: Mapping[str, StackView]) -> tuple[ServiceHealth, ...]:
    """Watch the touched services until all are healthy, or one fails.

    Raises UnhealthyError, or ServiceFailedError if what fails was unhealthy before too.
    """
    healthy: list[ServiceHealth] = []
    excused: list[ServiceFailedError] = []
    for name, view in views.items():
        services = sorted({action.service for action in transaction.run.actions if action.stack == name})
        if services:
            with phase(ports, Phase.VERIFY, f"{name}: waiting for {', '.join(services)} to be healthy"):
                try:
                    healthy += await _watch(ports, transaction, view, services)
                except ServiceFailedError as error:
                    excused.append(error)  # it must not hide what the change does to another stack
    if excused:
        raise excused[0] if len(excused) == 1 else ServiceFailedError("\n".join(map(str, excused)))
    return tuple(healthy)


async def _watch(
    ports: Ports, transaction: Transaction, view: StackView, services: Sequence[str], *, http: bool = True
) -> tuple[ServiceHealth, ...]:
    project = await _project(ports, transaction, view)
    ends = {action.service for action in transaction.run.actions if action.stack == view.stack.name and action.one_shot}
    policy = view.stack.health if http else replace(view.stack.health, http=())
    stack = replace(view.stack, one_shot=view.stack.one_shot | ends, health=policy)
    known = ports.store.environment(transaction.run.environment).startups
    watch = health.watch_health(
        stack, services, view.containers, ports.clock.monotonic(), project, _of_stack(stack, known)
    )
    none = {action.service for action in transaction.run.actions if (action.stack, action.scale) == (stack.name, 0)}
    watch = replace(watch, scaled_to_none=watch.scaled_to_none | none)
    excused: ServiceFailedError | None = None
    async with ports.compose.noticing(project) as noticed:
        while True:
            noticed.clear()
            containers = await ports.compose.containers(stack, project.name)
            ports.activity.step_at = ports.clock.monotonic()
            watch, report = watch.look(containers, ports.clock.monotonic(), await ask_http(ports, stack))
            if report.verdict is health.Verdict.HEALTHY:
                transaction.startups |= {f"{stack.name}/{name}": seconds for name, seconds in watch.startups.items()}
                if excused is not None:
                    raise excused
                return report.services
            if report.verdict is health.Verdict.FAILED:
                excused = _excuse(transaction.run, view, report, project)
                # A service that failed before must not hide what the change does to the others.
                watch = watch.without(report.failed)
                if not report.failed or not watch.services:
                    raise excused
            await _sleep_until(ports, noticed)


async def _sleep_until(ports: Ports, noticed: ChangeNotice) -> None:
    """Until something has happened to a container, or another look is due anyway."""
    ends = {asyncio.ensure_future(ports.clock.sleep(_HEALTH_INTERVAL)), asyncio.ensure_future(noticed.wait())}
    try:
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for end in ends:
            end.cancel()
        await asyncio.gather(*ends, return_exceptions=True)


def _of_stack(stack: Stack, startups: Mapping[str, float]) -> dict[str, float]:
    """The times of the stack's services, by service."""
    prefix = f"{stack.name}/"
    return {key.removeprefix(prefix): seconds for key, seconds in startups.items() if key.startswith(prefix)}


async def ask_http(ports: Ports, stack: Stack) -> dict[str, bool]:
    """Per URL of the stack's health policy: whether it answers as expected."""
    return {check.url: await ports.probe.ok(check) for check in stack.health.http}


def _excuse(run: Run, view: StackView, report: health.HealthReport, project: Project) -> ServiceFailedError:
    """Why the revision is not to blame: what fails now failed before too. Raises UnhealthyError if it is."""
    where = f"stack {view.stack.name}"
    failed = [finding for finding in report.findings if finding.verdict is health.Verdict.FAILED]
    broken = [finding.service for finding in failed if not _was_so_before(run, view.stack, finding)]
    if broken or (not report.failed and set(report.silent) - set(run.silent)):
        raise (StillStartingError if report.late.issuperset(broken) else UnhealthyError)(report.reason, where=where)
    hint = f"See the service's own log: `{next_steps(view.stack, project).look}` in {view.stack.directory}"
    return ServiceFailedError(f"{report.reason}, as before the change", where=where, hint=hint)


def _was_so_before(run: Run, stack: Stack, finding: health.HealthFinding) -> bool:
    """Whether the service had failed before the change, or as many of its tasks ran on no node."""
    service = _service_id(stack, finding.service)
    return service in run.failing or 0 < finding.unplaced <= run.unplaced.count(service)


def _run_change(ports: Ports, prepared: Prepared, change: Change) -> RunChange:
    target, keys, data = change.target, change.keys, prepared.staged[change.target.path]
    return RunChange(
        source=target.source,
        kind=change.kind.value,
        added=keys.added,
        removed=keys.removed,
        changed=keys.changed,
        stack=target.stack or "",
        path=target.path,
        digest=None if data is None else ports.digest(data.reveal()),
        parser=target.parser,
        ignore_keys=target.ignore_keys,
        in_place=change.in_place,
        restored_from=change.restored_from,
        renamed_from=change.renamed_from,
        edited_by=change.edited_by,
    )
