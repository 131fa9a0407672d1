"""Carries out operator requests: pin an earlier revision, unpin, pause, resume, retry, forget a target, accept a
rewritten branch."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from reconciler.core.decide.suspension import suspension_of
from reconciler.core.errors import RefusedError
from reconciler.core.model.records import EnvironmentRecord, Pause, Pin
from reconciler.core.model.requests import GitAnswer, OperatorRequest, ReconcileRequest, RequestKind
from reconciler.core.model.revisions import Revision
from reconciler.core.model.runs import Result
from reconciler.core.ports import Ports
from reconciler.core.text import instant
from reconciler.engine.history import decided
from reconciler.engine.observe import Snapshot, path_in_git, read_manifest
from reconciler.engine.orphans import forget
from reconciler.engine.target_revision import ask_git, verified_head
from reconciler.engine.transaction import newest_good

_SEARCHED_RUNS = 100


async def carry_out(ports: Ports, environment: str, request: OperatorRequest, answer: GitAnswer | None = None) -> None:
    """Change the environment's record; the reconciliation that follows acts on it. ``answer`` is git's, where it was
    asked before.

    Raises RefusedError if the request does not apply here, GitUnreachableError, UnverifiedError.
    """
    record = ports.store.environment(environment)
    match request.kind:
        case RequestKind.PAUSE:
            changed = await _paused(ports, record, request)
            until = instant(ports.clock.now() + request.seconds)
            sentence = f"paused {request.scope or environment} until {until}"
        case RequestKind.RESUME:
            changed = _resumed(ports, record, request)
            sentence = f"ended {f'the pause of {request.scope}' if request.scope else f'every pause of {environment}'}"
        case RequestKind.ROLLBACK:
            changed = await _pinned(ports, record, request)
            sentence = f"pinned {environment} to {changed.pin.revision.short if changed.pin else ''}"
        case RequestKind.UNPIN:
            changed, sentence = _unpinned(record), f"ended the pin of {environment}"
        case RequestKind.RETRY:
            await _retry(ports, record, request)
            return
        case RequestKind.ACCEPT_REWRITE:
            await _accept_rewrite(ports, record, request, answer or await ask_git(ports, [environment]))
            return
        case RequestKind.FORGET:
            await forget(ports, environment, request, answer)
            return
        case RequestKind.PLAN:  # changes nothing: see reconcile.py
            return
    revision = changed.pin.revision if changed.pin else None
    ports.store.decide(decided(ports, record, request, sentence, revision=revision), changed)


async def _pinned(ports: Ports, record: EnvironmentRecord, request: OperatorRequest) -> EnvironmentRecord:
    name = request.revision
    revision = await named_revision(ports, record, name) if name else await _previous_good(ports, record)
    # An operator who pins a quarantined revision has read why it is, and wants it nevertheless.
    return replace(record.trusting(revision), pin=Pin(revision, request.reason, ports.clock.now()))


async def named_revision(ports: Ports, record: EnvironmentRecord, name: str) -> Revision:
    """The revision an operator names, if it is in the accepted history. Raises RefusedError."""
    commit = await ports.git.resolve(name)
    where = f"branch {ports.settings.branch}"
    if record.head is None or not await ports.git.descends(record.head.commit, commit):
        problem = f"the commit {commit[:12]} is not part of the accepted history"
        raise RefusedError(problem, where=where, hint="Name a commit that the branch has")
    revision = await ports.git.revision(commit, path_in_git(ports, record.name))
    if not revision.subtree:
        problem = f"the environment {record.name} does not exist at commit {revision.short}"
        raise RefusedError(problem, where=where, hint="Name a later commit")
    return revision


async def _previous_good(ports: Ports, record: EnvironmentRecord) -> Revision:
    """The last revision that succeeded before the applied one."""
    good = None if record.applied is None else await newest_good(ports, record, record.applied)
    if good is not None and record.quarantine_of(good) is None:
        return good
    problem = f"no revision before the applied one is known to be good in {record.name}"
    raise RefusedError(problem, hint="Name one with --to; `git log` lists them")


async def _retry(ports: Ports, record: EnvironmentRecord, request: OperatorRequest) -> None:
    """Continue a failed rollback, if there is one: its backup is still the way back. Otherwise lift the quarantine of
    the desired revision."""
    run = ports.store.unfinished(record.name)
    if run is not None and run.rolling_back:
        hint = "The next reconciliation continues that; `reconciler status` shows what it waits for"
        raise RefusedError(f"revision {run.revision.short} is being rolled back", where=record.name, hint=hint)
    if not record.stopped:
        trusting = record.trusting(record.desired) if record.desired else record
        ports.store.decide(decided(ports, record, request, f"retried {record.name}"), trusting)
        return
    resumed = replace(record, stopped={})
    decision = decided(ports, record, request, f"retried the rollback of {record.name}")
    backups = {backup.id for backup in ports.backups.list(record.name)}
    for run in ports.store.runs(record.name, _SEARCHED_RUNS):
        if run.result is Result.ROLLBACK_FAILED and run.backup in backups:
            ports.store.reopen(run, resumed, decision)
            return
    ports.store.decide(decision, resumed)


async def _paused(ports: Ports, record: EnvironmentRecord, request: OperatorRequest) -> EnvironmentRecord:
    """The new pause replaces one of the same scope."""
    if request.scope:
        await _check_scope(ports, record, request.scope)
    now = ports.clock.now()
    pause = Pause(request.scope, now + request.seconds, request.reason, now)
    kept = tuple(known for known in _pauses(ports, record) if known.scope != pause.scope)
    return replace(record, pauses=(*kept, pause))


async def _check_scope(ports: Ports, record: EnvironmentRecord, scope: str) -> None:
    """Raises RefusedError unless the scope is a target or stack of the accepted head, or an applied target."""
    if record.head is None:
        raise RefusedError("no revision has been accepted yet", where=f"environment {record.name}", hint="Pause --all")
    manifest = await read_manifest(ports, record.name, record.head)
    known = {stack.id for stack in manifest.stacks} | {target.id for target in manifest.targets}
    known |= {f"{record.name}/{applied.source}" for applied in ports.store.applied(record.name).values()}
    if scope not in known:
        hint = f"There are: {', '.join(sorted(known))}"
        raise RefusedError(f"there is no target or stack {scope}", where=f"environment {record.name}", hint=hint)


def _resumed(ports: Ports, record: EnvironmentRecord, request: OperatorRequest) -> EnvironmentRecord:
    pauses = _pauses(ports, record)
    kept = tuple(pause for pause in pauses if request.scope and pause.scope != request.scope)
    if len(kept) == len(pauses):
        scopes = ", ".join(pause.scope or "--all" for pause in pauses) or "nothing"
        raise RefusedError(f"{request.scope or record.name} is not paused", hint=f"Paused: {scopes}")
    return replace(record, pauses=kept)


def _pauses(ports: Ports, record: EnvironmentRecord) -> tuple[Pause, ...]:
    return suspension_of(record, ports.clock.now()).pauses


def _unpinned(record: EnvironmentRecord) -> EnvironmentRecord:
    if record.pin is None:
        raise RefusedError(
            f"{record.name} is not pinned", hint="`reconciler status` shows the target revision, and why"
        )
    return replace(record, pin=None)


async def _accept_rewrite(ports: Ports, record: EnvironmentRecord, request: OperatorRequest, answer: GitAnswer) -> None:
    if answer.error is not None:
        raise answer.error
    if record.head is None or record.head.commit != answer.commit:
        head = await verified_head(ports, record, answer.commit, tip_only=True)
        before = f" instead of {record.head.short}" if record.head else ""
        decision = decided(ports, record, request, f"accepted the branch at {head.short}{before}", revision=head)
        ports.store.decide(decision, replace(record, head=head))


def require_known(request: ReconcileRequest, snapshot: Snapshot) -> None:
    """Raise RefusedError if the request names a target or stack of this environment that is not there."""
    manifest = snapshot.desired.manifest
    _require_among("target", request.take_over, {state.target.id for state in snapshot.states}, manifest.environment)
    _require_among("stack", request.accept_projects, {stack.id for stack in manifest.stacks}, manifest.environment)


def _require_among(kind: str, requested: Collection[str], known: Collection[str], environment: str) -> None:
    mine = {name for name in requested if name.startswith(f"{environment}/")}
    if unknown := sorted(mine - set(known)):
        hint = f"The {kind}s are: {', '.join(sorted(known))}"
        raise RefusedError(f"there is no {kind} {', '.join(unknown)}", where=f"environment {environment}", hint=hint)
