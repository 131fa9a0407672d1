"""Put things back: the files first, then the services, then their health. Git comes last, in revert.py."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace

from reconciler.core.errors import (
    BackupUnusableError,
    EngineUnavailableError,
    ReconcilerError,
    ServiceFailedError,
    StackGoneError,
    StoreUnavailableError,
)
from reconciler.core.model.compose import Action, ActionKind
from reconciler.core.model.records import EnvironmentRecord
from reconciler.core.model.runs import Backup, BackupEntry, Outcome, Phase, Result, Run, RunChange
from reconciler.core.ports import Ports
from reconciler.engine.backup import entry_of, find_backup, take_backup
from reconciler.engine.execute import Progress, act, beside, matches, verify
from reconciler.engine.phases import phase
from reconciler.engine.planning import StackView
from reconciler.engine.restore import restore_entry


async def roll_back(
    ports: Ports, progress: Progress, views: Mapping[str, StackView], record: EnvironmentRecord, error: str
) -> Outcome:
    """Undo a run whose revision broke something (``error``) and store how that ended.

    ``record`` already holds the quarantine; of a stack without a view only the files are put back, and that is no
    success. The outcome is rolled_back only where every file is back and every service as healthy as before; failed, to
    be tried again, where the engine does not answer; else rollback_failed.
    """
    run = progress.run = replace(progress.run, rolling_back=error)
    _remember(ports, run, record)
    try:
        with phase(ports, Phase.ROLLBACK, f"rolling back: {error}"):
            failures = await _undo(ports, progress, views)
    except EngineUnavailableError as failure:
        reason = f"{error}. The files are as they were; the services wait for the engine: {failure}; it is tried again"
        _remember(ports, replace(progress.run, reason=reason))
        return Outcome(run.environment, Result.FAILED, reason, run.revision, run=run.id, backup=run.backup, retry=True)
    if failures:
        backup = f"What was there before is in backup {run.backup}"
        why = "; ".join(dict.fromkeys(failures.values()))
        reason = f"{error}. The rollback failed too: {why}. {backup}; `reconciler retry` tries again"
        stopped = replace(record, stopped={**record.stopped, **dict.fromkeys(failures, reason)})
        return _ended(ports, progress, Result.ROLLBACK_FAILED, reason, stopped)
    reason = (
        f"{error}. Everything is as it was before; revision {run.revision.short} is quarantined: merge a correction"
    )
    return _ended(ports, progress, Result.ROLLED_BACK, reason, record)


def _ended(ports: Ports, progress: Progress, result: Result, reason: str, record: EnvironmentRecord) -> Outcome:
    run, well = progress.run, result is Result.ROLLED_BACK
    ports.metrics.rolled_back(run.environment, "local", well)
    now = ports.clock.now()
    if well:
        ports.store.finish(run, result, reason, at=now, record=record, settled=run.actions)
    else:
        ports.store.finish(run, result, reason, at=now, record=record, pending_restarts=run.actions)
    return Outcome(run.environment, result, reason, run.revision, run=run.id, backup=run.backup or None)


def _remember(ports: Ports, run: Run, record: EnvironmentRecord | None = None) -> None:
    """Store how far it has come. A disk without room for that must not keep the files from being put back."""
    with contextlib.suppress(StoreUnavailableError):
        ports.store.amend(run, record)


async def _undo(ports: Ports, progress: Progress, views: Mapping[str, StackView]) -> dict[str, str]:
    """Restore every file the run has written, recreate the services it has touched, and see them healthy.

    Returns by stack ("" for files of none) what could not be done; the others are done all the same. Raises
    EngineUnavailableError.
    """
    failures = {stack: str(error) for stack, error in (await put_back(ports, progress)).items()}
    progress.projects.clear()
    scales = {(action.stack, action.service): action.scale for action in progress.run.actions}
    actions = tuple(
        Action(*touched, ActionKind.RECREATE, "rolled back", force=True, scale=scales.get(touched))
        for touched in sorted(progress.touched)
    )
    progress.run = replace(progress.run, actions=actions)
    _remember(ports, progress.run)
    for stack in sorted({action.stack for action in actions} - failures.keys()):
        if stack not in views:
            failures[stack] = f"the stack {stack} is not known on this server any more"
        elif why := await _recreate(ports, progress, {stack: views[stack]}):
            failures[stack] = why
    return failures


async def _recreate(ports: Ports, progress: Progress, view: Mapping[str, StackView]) -> str:
    """Give the services of one stack their old values; returns why they are not as healthy as before, or ""."""
    try:
        await act(ports, progress, view)
        progress.services += await verify(ports, progress, view)
    except ServiceFailedError:
        return ""  # what failed before is as it was
    except StackGoneError as error:
        return str(error)
    except EngineUnavailableError:
        raise
    except ReconcilerError as error:
        return str(error)
    return ""


async def restore_files(ports: Ports, progress: Progress) -> None:
    """Put back from the run's backup every file the run may have written.

    Raises BackupUnusableError; LiveFileError and ChangedMeanwhileError where a file cannot be put back: the others are.
    """
    for error in (await put_back(ports, progress)).values():
        raise error


async def put_back(ports: Ports, progress: Progress) -> dict[str, ReconcilerError]:
    """Put back from the run's backup every file the run may have written; returns by stack what went wrong.

    Somebody's edit is in a backup first; keys that are left to the server keep the value they have now.
    """
    written = {change.path: change for change in progress.run.changes if change.path not in progress.spared}
    failures: dict[str, ReconcilerError] = {}
    try:
        backup = find_backup(ports, progress.run.backup) if written else None
    except BackupUnusableError as error:
        return dict.fromkeys(progress.run.stacks, error)
    for entry in backup.entries if backup else ():
        if change := written.get(entry.path):
            try:
                await _put_back(ports, progress, backup, entry, change)
            except ReconcilerError as error:
                failures.setdefault(change.stack, error)
    return failures


async def _put_back(
    ports: Ports, progress: Progress, backup: Backup | None, entry: BackupEntry, change: RunChange
) -> None:
    current = await ports.host.read(entry.path)
    # A disk that was too full for the new file has no room for a second copy of the old one either.
    if backup is None or matches(ports, entry, current):
        return
    if current is not None and ports.digest(current.data.reveal()) not in (change.digest, entry.digest):
        foreign = entry_of(ports, 0, entry.source, entry.path, current)
        await take_backup(ports, beside(ports, progress.run), [foreign], backup.to_commit, backup.from_commit)
    await restore_entry(ports, backup, entry, current, change)
