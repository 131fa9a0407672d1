"""Put things back: the files first, then the services, then their health. Git comes last, in revert.py."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace

from reconciler.core.errors import (
    BackupGoneError,
    EngineUnavailableError,
    ReconcilerError,
    ServiceFailedError,
    StoreUnavailableError,
)
from reconciler.core.model import (
    Action,
    ActionKind,
    Backup,
    BackupEntry,
    EnvironmentRecord,
    LiveFile,
    Outcome,
    Ownership,
    Phase,
    Result,
    Run,
)
from reconciler.core.ports import Ports
from reconciler.engine.execute import Progress, act, beside, entry_of, matches, phase, put, take_backup, verify
from reconciler.engine.prepare import StackView


async def roll_back(
    ports: Ports, progress: Progress, views: Mapping[str, StackView], record: EnvironmentRecord, error: str
) -> Outcome:
    """Undo a run whose revision broke something (``error``) and store how that ended.

    ``record`` already holds the quarantine. The outcome is rolled_back only where every file is back and every
    service as healthy as before; failed, to be tried again, where the engine does not answer; else rollback_failed.
    """
    run = progress.run = replace(progress.run, rolling_back=error)
    _remember(ports, run, record)
    try:
        with phase(ports, Phase.ROLLBACK, f"rolling back: {error}"):
            await _undo(ports, progress, views)
    except EngineUnavailableError as failure:
        reason = f"{error}. The files are as they were; the services wait for the engine: {failure}; it is tried again"
        _remember(ports, replace(progress.run, reason=reason))
        return Outcome(run.environment, Result.FAILED, reason, run.revision, run=run.id, backup=run.backup, retry=True)
    except ReconcilerError as failure:
        backup = f"What was there before is in backup {run.backup}"
        reason = f"{error}. The rollback failed too: {failure}. {backup}; `reconciler retry` tries again"
        return _ended(ports, progress, Result.ROLLBACK_FAILED, reason, _stop(record, progress, reason))
    reason = f"{error}. Everything is as it was before; revision {run.revision.short} is quarantined"
    return _ended(ports, progress, Result.ROLLED_BACK, reason, record)


def _ended(ports: Ports, progress: Progress, result: Result, reason: str, record: EnvironmentRecord) -> Outcome:
    run, well = progress.run, result is Result.ROLLED_BACK
    ports.metrics.rolled_back(run.environment, "local", well)
    owed = () if well else run.actions
    ports.store.finish(run, result, reason, at=ports.clock.now(), record=record, owed=owed)
    return Outcome(run.environment, result, reason, run.revision, run=run.id, backup=run.backup or None)


def _stop(record: EnvironmentRecord, progress: Progress, reason: str) -> EnvironmentRecord:
    """Nothing more is done by itself about the stacks of a rollback that failed: a person must look first."""
    stacks = {stack for stack, _ in progress.touched} | {change.stack for change in progress.run.changes}
    return replace(record, stopped={**record.stopped, **dict.fromkeys(stacks, reason)})


def _remember(ports: Ports, run: Run, record: EnvironmentRecord | None = None) -> None:
    """Store how far it has come. A disk without room for that must not keep the files from being put back."""
    with contextlib.suppress(StoreUnavailableError):
        ports.store.amend(run, record)


async def _undo(ports: Ports, progress: Progress, views: Mapping[str, StackView]) -> None:
    """Restore every file the run has written, recreate the services it has touched, and see them healthy.

    Raises the ReconcilerError that stopped it; the backup stays, and what could not be done stays owed.
    """
    await restore_files(ports, progress)
    progress.projects.clear()
    actions = tuple(
        Action(stack, service, ActionKind.RECREATE, "rolled back", force=True)
        for stack, service in sorted(progress.touched)
    )
    progress.run = replace(progress.run, actions=actions)
    _remember(ports, progress.run)
    await act(ports, progress, views)
    with contextlib.suppress(ServiceFailedError):  # what failed before is as it was
        progress.services = await verify(ports, progress, views)


async def restore_files(ports: Ports, progress: Progress) -> None:
    """Put back from the run's backup every file the run may have written.

    Raises BackupGoneError; LiveFileError and ChangedMeanwhileError where a file cannot be put back.
    """
    written = {change.path: change.digest for change in progress.run.changes if change.path not in progress.spared}
    if not written:
        return
    backup = find_backup(ports, progress.run.backup)
    entries = [entry for entry in backup.entries if entry.path in written]
    current = {entry.path: await ports.host.read(entry.path) for entry in entries}
    # A disk that was too full for the new file has no room for a second copy of the old one either.
    entries = [entry for entry in entries if not matches(ports, entry, current[entry.path])]
    foreign = [entry for entry in entries if _is_foreign(ports, entry, current[entry.path], written[entry.path])]
    if foreign:
        files = [
            entry_of(ports, number, entry.source, entry.path, current[entry.path])
            for number, entry in enumerate(foreign)
        ]
        take_backup(ports, beside(ports, progress.run), files, backup.to_commit, backup.from_commit)
    for entry in entries:
        await restore_entry(ports, backup, entry, current[entry.path])


def _is_foreign(ports: Ports, entry: BackupEntry, current: LiveFile | None, written: str | None) -> bool:
    """Whether the file is neither what the run wrote nor what it found: then it is somebody's edit."""
    return current is not None and ports.digest(current.data.reveal()) not in (written, entry.digest)


async def restore_entry(ports: Ports, backup: Backup, entry: BackupEntry, current: LiveFile | None) -> None:
    """Make one live file be what the backup holds, owner and mode included."""
    data = ports.backups.read(backup, entry)
    ownership = Ownership(entry.uid, entry.gid) if data is not None else Ownership()
    await put(ports, entry.path, data, mode=entry.mode, ownership=ownership, replaces=current)


def find_backup(ports: Ports, identity: str) -> Backup:
    """The backup with this id. Raises BackupGoneError."""
    for backup in ports.backups.list():
        if backup.id == identity:
            return backup
    raise BackupGoneError(f"there is no backup {identity}", hint="`reconciler backups` lists those there are")
