"""The transaction: back up, begin, write, recreate, verify. Every step leaves a way back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

from reconciler.core import health
from reconciler.core.errors import ChangedMeanwhileError, ReconcilerError, ServiceFailedError, UnhealthyError
from reconciler.core.model import (
    Action,
    ActionKind,
    BackupEntry,
    Change,
    LiveFile,
    Ownership,
    Phase,
    Project,
    Run,
    RunChange,
    ServiceHealth,
    Stack,
)
from reconciler.core.ports import Ports
from reconciler.core.secret import Secret
from reconciler.engine.observe import Snapshot
from reconciler.engine.prepare import Prepared, StackView, affected

_LOOK_AGAIN = 0.5  # seconds between two looks at the containers while waiting for health


class Stage(Enum):
    """Which part of the transaction an error interrupted."""

    BACKUP = "backup"
    WRITE = "write"
    SERVICES = "services"


@dataclass(slots=True)
class Progress:
    """How far a transaction has come: what a rollback must undo and a retry must redo.

    ``owed`` is what the services are to be given, ``touched`` names those, by stack, that were given something;
    ``projects`` are the stacks as Compose resolves them after the change, ``answers`` what the HTTP health checks
    said before it, by URL.
    """

    run: Run
    stage: Stage = Stage.BACKUP
    written: dict[str, Secret | None] = field(default_factory=dict, repr=False)
    owed: list[Action] = field(default_factory=list)
    touched: set[tuple[str, str]] = field(default_factory=set)
    projects: dict[str, Project] = field(default_factory=dict, repr=False)
    answers: dict[str, bool] = field(default_factory=dict)
    services: tuple[ServiceHealth, ...] = ()


@contextlib.contextmanager
def phase(ports: Ports, which: Phase, saying: str) -> Iterator[None]:
    """Time a part of the pass and tell the person who waits what is being done."""
    ports.progress(saying)
    started = ports.clock.monotonic()
    try:
        yield
    finally:
        ports.metrics.phase(which, ports.clock.monotonic() - started)


async def execute(ports: Ports, progress: Progress, snapshot: Snapshot, prepared: Prepared) -> None:
    """Carry the plan out. ``progress`` is kept up to date, so that the caller can undo or owe.

    Raises OutsideError (engine, disk), ModelRefusedError and UnhealthyError (the revision is to blame),
    ServiceFailedError (unhealthy, but it was so before).
    """
    _back_up(ports, progress, snapshot, prepared)
    for view in prepared.views.values():
        progress.answers.update(await ask_http(ports, view.stack))
    ports.store.begin(progress.run)
    progress.stage = Stage.WRITE
    await _write_all(ports, progress, snapshot, prepared)
    progress.stage = Stage.SERVICES
    views = await _owe(ports, progress, prepared)
    await act(ports, progress, views)
    progress.services = await verify(ports, progress, views)


def _back_up(ports: Ports, progress: Progress, snapshot: Snapshot, prepared: Prepared) -> None:
    plan, run = prepared.plan, progress.run
    files = [
        entry_of(ports, number, change.target.source, change.target.path, snapshot.live[change.target.path])
        for number, change in enumerate(plan.writes)
    ]
    with phase(ports, Phase.BACKUP, f"backing up {len(files)} file(s)"):
        backup = take_backup(ports, run, files, run.from_commit, plan.revision.commit) if files else ""
    progress.run = replace(run, backup=backup, actions=plan.actions, changes=tuple(map(_run_change, plan.writes)))
    progress.owed = list(plan.actions)


def take_backup(
    ports: Ports, run: Run, files: Sequence[tuple[BackupEntry, Secret | None]], from_commit: str, to_commit: str
) -> str:
    """Store the files and return the backup's id. Nothing old goes for it: see ``expire_backups``."""
    environment = run.environment
    try:
        backup = ports.backups.take(run, files, from_commit, to_commit)
    except ReconcilerError:
        ports.metrics.backed_up(environment, False, ports.clock.now(), len(ports.backups.list(environment)))
        raise
    ports.metrics.backed_up(environment, True, ports.clock.now(), len(ports.backups.list(environment)))
    return backup.id


def expire_backups(ports: Ports, environment: str) -> None:
    """Drop backups that are too many or too old. Only at the end of what went well: until then each may be needed."""
    settings = ports.settings
    ports.backups.expire(
        environment, keep=settings.keep_backups, max_age=settings.backup_max_age, now=ports.clock.now()
    )


def entry_of(
    ports: Ports, number: int, source: str, path: str, live: LiveFile | None
) -> tuple[BackupEntry, Secret | None]:
    """What a backup keeps of one live file; a file that is not there is kept as that."""
    if live is None:
        return BackupEntry(source, path, None), None
    name = f"{number:04}-{path.rsplit('/', 1)[-1]}"
    digest = ports.digest(live.data.reveal())
    return BackupEntry(source, path, name, live.mode, live.uid, live.gid, digest), live.data


async def _write_all(ports: Ports, progress: Progress, snapshot: Snapshot, prepared: Prepared) -> None:
    writes = prepared.plan.writes
    with phase(ports, Phase.WRITE, f"writing {len(writes)} file(s)"):
        for change in writes:
            path = change.target.path
            live, data = snapshot.live[path], prepared.staged[path]
            # Noted first: where the write itself is cut off, undoing finds the old file and leaves it.
            progress.written[path] = data
            try:
                await put(ports, path, data, mode=change.target.mode, ownership=snapshot.ownership[path], replaces=live)
            except ChangedMeanwhileError:
                del progress.written[path]  # what lies there is somebody's edit: undoing must not touch it
                raise


async def put(
    ports: Ports, path: str, data: Secret | None, *, mode: int, ownership: Ownership, replaces: LiveFile | None
) -> None:
    """Make the live file be ``data`` (None: gone)."""
    if data is not None:
        await ports.host.write(path, data, mode=mode, ownership=ownership, replaces=replaces)
    elif replaces is not None:
        await ports.host.remove(path, replaces=replaces)


async def _owe(ports: Ports, progress: Progress, prepared: Prepared) -> Mapping[str, StackView]:
    """Resolve the stacks again, now from the real files, and store what the services are owed."""
    actions: list[Action] = []
    for name, view in prepared.views.items():
        touched = [change for change in prepared.plan.writes if change.target.stack == name]
        after = await ports.compose.project(view.stack) if touched else view.before
        if after is not None:
            progress.projects[name] = after
        planned = tuple(action for action in prepared.plan.actions if action.stack == name)
        actions += affected(view, after, touched, planned)
    progress.owed = actions
    progress.run = replace(progress.run, actions=tuple(actions))
    ports.store.owe(progress.run.id, actions)
    return prepared.views


async def act(ports: Ports, progress: Progress, views: Mapping[str, StackView]) -> None:
    """Give each stack's services what they are owed. It stays owed until they are seen healthy (``finish``)."""
    for name, view in views.items():
        actions = [action for action in progress.owed if action.stack == name]
        if not actions:
            continue
        project = (await _project(ports, progress, view)).name
        for kind, signal, force in _in_order(actions):
            chosen = [
                action for action in actions if (action.kind, action.signal, action.force) == (kind, signal, force)
            ]
            await _act(ports, progress, view, project, chosen)


def _in_order(actions: Sequence[Action]) -> list[tuple[ActionKind, str, bool]]:
    """The kinds of actions, each once: recreate before restart, as a service may restart with a recreated one."""
    kinds = dict.fromkeys((action.kind, action.signal, action.force) for action in actions)
    return sorted(kinds, key=lambda one: list(ActionKind).index(one[0]))


async def _project(ports: Ports, progress: Progress, view: StackView) -> Project:
    """The stack's project as it is after the change, or was before it; asked of Compose only where neither is known."""
    return progress.projects.get(view.stack.name) or view.before or await ports.compose.project(view.stack)


async def _act(ports: Ports, progress: Progress, view: StackView, project: str, actions: Sequence[Action]) -> None:
    """Carry out actions of one kind, on one stack."""
    first, names = actions[0], [action.service for action in actions]
    progress.touched |= {(view.stack.name, name) for name in names}
    result = "failed"
    try:
        with phase(ports, Phase.RECREATE, f"{view.stack.name}: {first.kind} {', '.join(names)}"):
            match first.kind:
                case ActionKind.RECREATE:
                    await ports.compose.recreate(view.stack, project, names, force=first.force)
                case ActionKind.RESTART:
                    await ports.compose.restart(view.stack, project, names)
                case ActionKind.SIGNAL:
                    for name in names:
                        await ports.compose.signal(view.stack, project, name, first.signal)
        result = "ok"
    finally:
        for name in names:
            ports.metrics.recreated(progress.run.environment, view.stack.name, name, result)


async def verify(ports: Ports, progress: Progress, views: Mapping[str, StackView]) -> tuple[ServiceHealth, ...]:
    """Watch the services that were touched until every one is healthy, or one is not.

    Raises UnhealthyError, or ServiceFailedError where what fails was not healthy before either.
    """
    found: list[ServiceHealth] = []
    for name, view in views.items():
        services = sorted({action.service for action in progress.run.actions if action.stack == name})
        if services:
            with phase(ports, Phase.VERIFY, f"{name}: waiting for {', '.join(services)} to be healthy"):
                found += await _watch(ports, progress, view, services)
    return tuple(found)


async def _watch(
    ports: Ports, progress: Progress, view: StackView, services: Sequence[str]
) -> tuple[ServiceHealth, ...]:
    stack, project = view.stack, await _project(ports, progress, view)
    watch = health.watch(stack, services, view.containers, ports.clock.monotonic(), project)
    while True:
        containers = await ports.compose.containers(stack, project.name)
        watch, report = watch.look(containers, ports.clock.monotonic(), await ask_http(ports, stack))
        if report.verdict is health.Verdict.HEALTHY:
            return report.services
        if report.verdict is health.Verdict.FAILED:
            raise _blame(progress, view, report)
        await ports.clock.sleep(_LOOK_AGAIN)


async def ask_http(ports: Ports, stack: Stack) -> dict[str, bool]:
    """Per URL of the stack's health policy: whether it answers as wanted."""
    return {check.url: await ports.probe.ok(check) for check in stack.health.http}


def _blame(progress: Progress, view: StackView, report: health.Report) -> ReconcilerError:
    """Whether the revision did it: only where something fails that did not fail before."""
    where = f"stack {view.stack.name}"
    broken = report.failed - health.failing(view.stack, view.containers)
    if broken or (not report.failed and all(progress.answers.values())):
        return UnhealthyError(report.reason, where=where)
    hint = "See the service's own log: `docker compose logs`"
    return ServiceFailedError(f"{report.reason}, as before the change", where=where, hint=hint)


def _run_change(change: Change) -> RunChange:
    return RunChange(
        change.target.source, change.kind.value, change.keys.added, change.keys.removed, change.keys.changed
    )
