"""Rolls back a run: the files first, then the services, then their health. Git follows last, in revert.py."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Mapping
from dataclasses import replace

from reconciler.core.errors import (
    BackupUnusableError,
    EngineUnavailableError,
    ReconcilerError,
    ServiceFailedError,
    StackGoneError,
    StillStartingError,
    StoreUnavailableError,
)
from reconciler.core.model.compose import Action, ActionKind
from reconciler.core.model.records import EnvironmentRecord
from reconciler.core.model.runs import Backup, BackupEntry, Outcome, Phase, Result, Run, RunChange
from reconciler.core.ports import Ports
from reconciler.core.text import listed
from reconciler.engine.backup import entry_of, find_backup, take_backup
from reconciler.engine.execute import Transaction, act_on_stack, beside, leave_stopped, matches, verify, waves
from reconciler.engine.phases import phase
from reconciler.engine.project_guard import hold_of_rollback
from reconciler.engine.restore import restore_entry
from reconciler.engine.stack_view import StackView

# Services that only take long to start are waited for this many times as long as they may take; then it has failed.
_MOST_WAITS = 4


async def roll_back(
    ports: Ports, transaction: Transaction, views: Mapping[str, StackView], record: EnvironmentRecord, error: str
) -> Outcome:
    """Undo a run whose revision broke something (``error``), and store how that ended.

    ``record`` already holds the quarantine. Of a stack without a view only the files are restored, and that counts as
    a failure. The outcome is rolled_back only if every file is restored and every service as healthy as before; failed,
    with retry, if the engine does not answer; rolling_back, with retry, while services only take long to start;
    otherwise rollback_failed.
    """
    run = transaction.run = replace(transaction.run, rolling_back=error)
    _remember(ports, run, record)
    try:
        with phase(ports, Phase.ROLLBACK, f"rolling back: {error}"):
            failures = await _undo(ports, transaction, views)
    except StillStartingError as slow:
        reason = f"{error}. The files are restored; {slow}. The next reconciliation continues to roll back"
        _remember(ports, replace(transaction.run, reason=reason))
        return replace(_pending(run, Result.ROLLING_BACK, reason), error_id=slow.id)
    except EngineUnavailableError as failure:
        reason = (
            f"{error}. The files are restored; the services wait for the engine: {failure}. "
            "The next reconciliation continues"
        )
        _remember(ports, replace(transaction.run, reason=reason, restored_at=0.0))
        return replace(_pending(run, Result.FAILED, reason), error_id=failure.id)
    if failures:
        causes = "; ".join(dict.fromkeys(failures.values()))
        hint = f"The previous files are in backup {run.backup}; retry with `reconciler retry`"
        reason = f"{error}. The rollback failed too: {causes}. {hint}"
        suspended = replace(record, stopped={**record.stopped, **dict.fromkeys(failures, reason)})
        return _ended(ports, transaction, Result.ROLLBACK_FAILED, reason, suspended)
    left = sorted(transaction.left_stopped)
    stopped = f" {listed(left)} was stopped by somebody meanwhile, and is not started." if left else ""
    reason = f"{error}. Rolled back; revision {run.revision.short} is quarantined.{stopped} Fix it with a new commit"
    return _ended(ports, transaction, Result.ROLLED_BACK, reason, record)


def _ended(ports: Ports, transaction: Transaction, result: Result, reason: str, record: EnvironmentRecord) -> Outcome:
    run, rolled_back = transaction.run, result is Result.ROLLED_BACK
    ports.metrics.rolled_back(run.environment, "local", rolled_back)
    now = ports.clock.now()
    record = replace(record, startups={**record.startups, **transaction.startups})
    if rolled_back:
        ports.store.finish(run, result, reason, at=now, record=record, settled=run.actions)
    else:
        run = replace(run, restored_at=0.0)  # a retry recreates them
        ports.store.finish(run, result, reason, at=now, record=record, pending_restarts=run.actions)
    return replace(_outcome(run, result, reason), error_id=replace(run, result=result).reason_id)


def _pending(run: Run, result: Result, reason: str) -> Outcome:
    return replace(_outcome(run, result, reason), retry=True)


def _outcome(run: Run, result: Result, reason: str) -> Outcome:
    return Outcome(run.environment, result, reason, run.revision, run=run.id, backup=run.backup or None)


def _remember(ports: Ports, run: Run, record: EnvironmentRecord | None = None) -> None:
    """Store how far it has come. A full disk must not keep the files from being restored."""
    with contextlib.suppress(StoreUnavailableError):
        ports.store.amend(run, record)


async def _undo(ports: Ports, transaction: Transaction, views: Mapping[str, StackView]) -> dict[str, str]:
    """Restore every file the run has written, recreate the services it has touched, and verify their health.

    Returns by stack ("" for files of none) what failed; the others are undone nevertheless. Raises
    EngineUnavailableError; StillStartingError where nothing failed, and a service takes long to start.
    """
    failures = {stack: str(error) for stack, error in (await _restore_written(ports, transaction)).items()}
    transaction.projects.clear()
    if not transaction.run.restored_at:
        transaction.run = replace(transaction.run, actions=_rollback_actions(transaction))
        _remember(ports, transaction.run)
    ready = {}
    for stack in sorted({action.stack for action in transaction.run.actions} - failures.keys()):
        if stack in views:
            ready[stack] = views[stack]
        else:
            failures[stack] = f"the stack {stack} is no longer known on this server"
    waited_before = bool(transaction.run.restored_at)
    if not waited_before:
        failures |= await _recreate(ports, transaction, ready)
        transaction.run = replace(transaction.run, restored_at=ports.clock.now())
    slow: StillStartingError | None = None
    for stack in sorted(ready.keys() - failures.keys()):
        began = ports.clock.monotonic()
        try:
            failure = await _failure(_verify(ports, transaction, {stack: ready[stack]}))
        except StillStartingError as error:
            waited, total = ports.clock.monotonic() - began, ports.clock.now() - transaction.run.restored_at
            failure, slow = (str(error), slow) if total >= _MOST_WAITS * waited else ("", error)
        else:
            if failure and waited_before:  # the machine was restarted meanwhile, or somebody stopped it
                transaction.run = replace(transaction.run, restored_at=0.0)
                return await _undo(ports, transaction, views)
        failures |= {stack: failure} if failure else {}
    if slow is not None and not failures:
        raise slow
    if waited_before:
        took = ports.clock.now() - transaction.run.restored_at
        transaction.startups = dict.fromkeys(transaction.startups, took)
    return failures


async def _recreate(ports: Ports, transaction: Transaction, views: Mapping[str, StackView]) -> dict[str, str]:
    """Give the services of these stacks their old values; returns by stack what failed."""
    failures: dict[str, str] = {}
    await leave_stopped(ports, transaction, views)
    transaction.acted = False
    for stack, view in views.items():
        services = [action.service for action in transaction.run.actions if action.stack == stack]
        if hold := await hold_of_rollback(ports, view.stack, services):
            failures[stack] = hold
    for wave in waves(transaction.run.actions):
        for stack, view in views.items():
            if stack not in failures and (failure := await _failure(act_on_stack(ports, transaction, view, wave))):
                failures[stack] = failure
    transaction.acted = True
    return failures


def _rollback_actions(transaction: Transaction) -> tuple[Action, ...]:
    """A recreate of every service that was touched, and of those that come after one of them."""
    touched = {key: Action(*key, ActionKind.RECREATE, "rolled back", force=True) for key in transaction.touched}
    planned = {(action.stack, action.service): action for action in transaction.run.actions}
    first = min((planned[key].wave for key in touched.keys() & planned.keys()), default=0)
    for key, action in planned.items():
        if key in touched or (touched and action.wave > first):
            touched[key] = replace(
                action, kind=ActionKind.RECREATE, reason="rolled back", signal="", force=True, stale=()
            )
    return tuple(touched[key] for key in sorted(touched))


async def _verify(ports: Ports, transaction: Transaction, view: Mapping[str, StackView]) -> None:
    transaction.services += await verify(ports, transaction, view)


async def _failure(step: Awaitable[None]) -> str:
    """Do one step of a rollback; returns why its services are not as healthy as before, or "". Raises
    EngineUnavailableError, StillStartingError."""
    try:
        await step
    except ServiceFailedError:
        return ""  # it failed before the change too
    except StackGoneError as error:
        return str(error)
    except (EngineUnavailableError, StillStartingError):
        raise
    except ReconcilerError as error:
        return str(error)
    return ""


async def restore_files(ports: Ports, transaction: Transaction) -> None:
    """Restore from the run's backup every file the run may have written.

    Raises BackupUnusableError; LiveFileError and ChangedMeanwhileError for a file that fails, after restoring the rest.
    """
    for error in (await _restore_written(ports, transaction)).values():
        raise error


async def _restore_written(ports: Ports, transaction: Transaction) -> dict[str, ReconcilerError]:
    """Restore from the run's backup every file the run may have written; returns the first error by stack.

    Backs up somebody's edit first; keys that are left to the server keep their current value.
    """
    written = {change.path: change for change in transaction.run.changes if change.path not in transaction.spared}
    failures: dict[str, ReconcilerError] = {}
    try:
        backup = find_backup(ports, transaction.run.backup) if written else None
    except BackupUnusableError as error:
        return dict.fromkeys(transaction.run.stacks, error)
    for entry in backup.entries if backup else ():
        if change := written.get(entry.path):
            try:
                await _restore_file(ports, transaction, backup, entry, change)
            except ReconcilerError as error:
                failures.setdefault(change.stack, error)
    return failures


async def _restore_file(
    ports: Ports, transaction: Transaction, backup: Backup | None, entry: BackupEntry, change: RunChange
) -> None:
    current = await ports.host.read(entry.path)
    # A disk too full for the new file has no room for a second copy of the old one either.
    if backup is None or matches(ports, entry, current):
        return
    if current is not None and ports.digest(current.data.reveal()) not in (change.digest, entry.digest):
        foreign = entry_of(ports, 0, entry.source, entry.path, current)
        await take_backup(ports, beside(ports, transaction.run), [foreign], backup.to_commit, backup.from_commit)
    transaction.run = replace(transaction.run, restored_at=0.0)  # its services have not seen this
    await restore_entry(ports, backup, entry, current, change)
