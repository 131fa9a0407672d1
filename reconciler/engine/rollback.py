"""Put things back: the files first, then the services, then their health. Git comes last, and elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from reconciler.core.errors import ReconcilerError
from reconciler.core.model import Action, ActionKind, Backup, BackupEntry, LiveFile, Ownership, Phase
from reconciler.core.ports import Ports
from reconciler.core.secret import Secret
from reconciler.engine.execute import Progress, act, entry_of, phase, put, take_backup, verify
from reconciler.engine.prepare import StackView


async def undo(ports: Ports, progress: Progress, views: Mapping[str, StackView], reason: str) -> None:
    """Restore every file the run has written, recreate the services it has touched, and see them healthy.

    Raises the ReconcilerError that stopped it; the backup stays, and what could not be done stays owed.
    """
    with phase(ports, Phase.ROLLBACK, f"rolling back: {reason}"):
        await restore_files(ports, progress)
        progress.projects.clear()
        progress.owed = [
            Action(stack, service, ActionKind.RECREATE, "rolled back", force=True)
            for stack, service in sorted(progress.touched)
        ]
        ports.store.owe(progress.run.id, progress.owed)
        progress.run = replace(progress.run, actions=tuple(progress.owed))
        await act(ports, progress, views)
        progress.services = await verify(ports, progress, views)


async def restore_files(ports: Ports, progress: Progress) -> None:
    """Put back from the run's backup every file the run may have written."""
    backup = find_backup(ports, progress.run.backup)
    entries = [entry for entry in backup.entries if entry.path in progress.written]
    current = {entry.path: await ports.host.read(entry.path) for entry in entries}
    foreign = [entry for entry in entries if _is_foreign(ports, progress, entry, current[entry.path])]
    if foreign:
        files = [
            entry_of(ports, number, entry.source, entry.path, current[entry.path])
            for number, entry in enumerate(foreign)
        ]
        own = replace(progress.run, id=f"{progress.run.id}u", started_at=ports.clock.now())
        take_backup(ports, own, files, backup.to_commit, backup.from_commit)
    for entry in entries:
        # A disk that was too full for the new file has no room for a second copy of the old one either.
        if not _is_back(ports, entry, current[entry.path]):
            await restore_entry(ports, backup, entry, current[entry.path])


def _is_back(ports: Ports, entry: BackupEntry, current: LiveFile | None) -> bool:
    """Whether the live file is as the backup has it: the run was cut off before it wrote it."""
    if current is None or entry.file is None:
        return current is None and entry.file is None
    same = (current.mode, current.uid, current.gid) == (entry.mode, entry.uid, entry.gid)
    return same and ports.digest(current.data.reveal()) == entry.digest


def _is_foreign(ports: Ports, progress: Progress, entry: BackupEntry, current: LiveFile | None) -> bool:
    """Whether the file is neither what the run wrote nor what it found: then it is somebody's edit."""
    if current is None:
        return False
    written = progress.written[entry.path]
    return current.data != written and ports.digest(current.data.reveal()) != entry.digest


async def restore_entry(ports: Ports, backup: Backup, entry: BackupEntry, current: LiveFile | None) -> None:
    """Make one live file be what the backup holds, owner and mode included."""
    data: Secret | None = ports.backups.read(backup, entry) if entry.file is not None else None
    ownership = Ownership(entry.uid, entry.gid) if data is not None else Ownership()
    await put(ports, entry.path, data, mode=entry.mode, ownership=ownership, replaces=current)


def find_backup(ports: Ports, identity: str) -> Backup:
    """The backup with this id. Raises ReconcilerError where it is gone."""
    for backup in ports.backups.list():
        if backup.id == identity:
            return backup
    raise ReconcilerError(f"there is no backup {identity}", hint="`reconciler backups` lists those there are")
