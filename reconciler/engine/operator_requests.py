"""What a person may order by hand: pin an earlier revision, unpin, pause, resume, retry, accept a rewritten branch."""

from __future__ import annotations

from dataclasses import replace

from reconciler.core.decide.suspension import suspension_of
from reconciler.core.errors import RefusedError
from reconciler.core.model.records import EnvironmentRecord, Pause, Pin
from reconciler.core.model.requests import OperatorRequest, RequestKind
from reconciler.core.model.revisions import Revision
from reconciler.core.model.runs import Result
from reconciler.core.ports import Ports
from reconciler.engine.observe import path_in_git, read_manifest
from reconciler.engine.target_revision import accept
from reconciler.engine.transaction import newest_good

_FAR_BACK = 100  # runs


async def carry_out(ports: Ports, environment: str, order: OperatorRequest) -> None:
    """Change what is remembered of the environment; the pass that follows acts on it.

    Raises RefusedError where the order makes no sense here, GitUnreachableError, UnverifiedError.
    """
    record = ports.store.environment(environment)
    match order.kind:
        case RequestKind.PAUSE:
            changed = await _paused(ports, record, order)
        case RequestKind.RESUME:
            changed = _resumed(ports, record, order)
        case RequestKind.ROLLBACK:
            changed = await _pinned(ports, record, order)
        case RequestKind.UNPIN:
            changed = _unpinned(record)
        case RequestKind.RETRY:
            changed = await _retried(ports, record)
        case RequestKind.ACCEPT_REWRITE:
            await _accept_rewrite(ports, record)
            return
        case RequestKind.PLAN:  # only looks: see Reconciler
            return
    if changed != record:
        ports.store.save_environment(changed)


async def _pinned(ports: Ports, record: EnvironmentRecord, order: OperatorRequest) -> EnvironmentRecord:
    revision = await named_revision(ports, record, order.revision) if order.revision else await _before(ports, record)
    # A person who pins a quarantined revision has been told why it was, and wants it nevertheless.
    return replace(record.trusting(revision), pin=Pin(revision, order.reason, ports.clock.now()))


async def named_revision(ports: Ports, record: EnvironmentRecord, name: str) -> Revision:
    """The revision a person names, if it is in the accepted history. Raises RefusedError."""
    commit = await ports.git.resolve(name)
    where = f"branch {ports.settings.branch}"
    if record.head is None or not await ports.git.descends(record.head.commit, commit):
        what = f"the commit {commit[:12]} is not part of the accepted history"
        raise RefusedError(what, where=where, hint="Name a commit that the branch has")
    revision = await ports.git.revision(commit, path_in_git(ports, record.name))
    if not revision.subtree:
        what = f"the environment {record.name} does not exist at commit {revision.short}"
        raise RefusedError(what, where=where, hint="Name a later commit")
    return revision


async def _before(ports: Ports, record: EnvironmentRecord) -> Revision:
    """The last revision that went well before the one that is applied, on the way to it."""
    good = None if record.applied is None else await newest_good(ports, record, record.applied)
    if good is not None and record.quarantine_of(good) is None:
        return good
    what = f"no revision before the one that is applied is known to have gone well in {record.name}"
    raise RefusedError(what, hint="Name one with --to; `git log` lists them")


async def _retried(ports: Ports, record: EnvironmentRecord) -> EnvironmentRecord:
    """Go on with a rollback that failed, if there is one: what it was to put back is still the way. Else lift the
    quarantine of what is wanted.
    """
    run = ports.store.unfinished(record.name)
    if run is not None and run.rolling_back:
        hint = "It goes on by itself; `reconciler status` tells what it waits for"
        raise RefusedError(f"revision {run.revision.short} is being rolled back", where=record.name, hint=hint)
    if not record.stopped:
        desired = record.pin.revision if record.pin else record.head
        return record.trusting(desired) if desired else record
    started = replace(record, stopped={})
    backups = {backup.id for backup in ports.backups.list(record.name)}
    for run in ports.store.runs(record.name, _FAR_BACK):
        if run.result is Result.ROLLBACK_FAILED and run.backup in backups:
            ports.store.reopen(run, started)
            break
    return started


async def _paused(ports: Ports, record: EnvironmentRecord, order: OperatorRequest) -> EnvironmentRecord:
    """A pause of the same scope gives way to the new one."""
    if order.scope:
        await _check_scope(ports, record, order.scope)
    now = ports.clock.now()
    pause = Pause(order.scope, now + order.seconds, order.reason, now)
    others = tuple(one for one in _pauses(ports, record) if one.scope != order.scope)
    return replace(record, pauses=(*others, pause))


async def _check_scope(ports: Ports, record: EnvironmentRecord, scope: str) -> None:
    """Raises RefusedError unless it is a target or a stack of the accepted head, or a target that is still there."""
    if record.head is None:
        raise RefusedError("no revision has been accepted yet", where=f"environment {record.name}", hint="Pause --all")
    manifest = await read_manifest(ports, record.name, record.head)
    known = {stack.id for stack in manifest.stacks} | {target.id for target in manifest.targets}
    known |= {f"{record.name}/{one.source}" for one in ports.store.applied(record.name).values()}
    if scope not in known:
        hint = f"There are: {', '.join(sorted(known))}"
        raise RefusedError(f"there is no target or stack {scope}", where=f"environment {record.name}", hint=hint)


def _resumed(ports: Ports, record: EnvironmentRecord, order: OperatorRequest) -> EnvironmentRecord:
    pauses = _pauses(ports, record)
    left = tuple(one for one in pauses if order.scope and one.scope != order.scope)
    if len(left) == len(pauses):
        listed = ", ".join(one.scope or "--all" for one in pauses) or "nothing"
        raise RefusedError(f"{order.scope or record.name} is not paused", hint=f"Paused is: {listed}")
    return replace(record, pauses=left)


def _pauses(ports: Ports, record: EnvironmentRecord) -> tuple[Pause, ...]:
    """Those that have not ended."""
    return suspension_of(record, ports.clock.now()).pauses


def _unpinned(record: EnvironmentRecord) -> EnvironmentRecord:
    if record.pin is None:
        raise RefusedError(f"{record.name} is not pinned", hint="`reconciler status` tells what is wanted, and why")
    return replace(record, pin=None)


async def _accept_rewrite(ports: Ports, record: EnvironmentRecord) -> None:
    commit = await ports.git.head()
    if record.head is not None and record.head.commit == commit:
        return
    await ports.git.fetch(commit)
    await accept(ports, record, commit, tip_only=True)
