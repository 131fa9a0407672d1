"""Backups of live files: taken before a change, expired after a successful one."""

from __future__ import annotations

from collections.abc import Sequence

from reconciler.core.errors import BackupUnusableError, ReconcilerError
from reconciler.core.model.runs import Backup, BackupEntry, Run
from reconciler.core.model.targets import LiveFile
from reconciler.core.ports import Ports
from reconciler.core.secret import Secret


async def take_backup(
    ports: Ports, run: Run, files: Sequence[tuple[BackupEntry, Secret | None]], from_commit: str, to_commit: str
) -> str:
    """Store the files and return the backup's id. Removes no older backup: see ``expire_backups``."""
    environment = run.environment
    try:
        backup = await ports.backups.take(run, files, from_commit, to_commit)
    except ReconcilerError:
        ports.metrics.backed_up(environment, False)
        raise
    ports.metrics.backed_up(environment, True)
    return backup.id


def find_backup(ports: Ports, backup_id: str, environment: str | None = None) -> Backup:
    """The backup with this id, of any environment if none is given. Raises BackupUnusableError."""
    for backup in ports.backups.list(environment):
        if backup.id == backup_id:
            return backup
    raise BackupUnusableError(f"there is no backup {backup_id}", hint="`reconciler backups` lists them")


async def expire_backups(ports: Ports, environment: str) -> None:
    """Drop backups that are too many or too old. Only after a success: until then each may be needed."""
    settings = ports.settings
    await ports.backups.expire(
        environment, keep=settings.keep_backups, max_age=settings.backup_max_age, now=ports.clock.now()
    )


def entry_of(
    ports: Ports, number: int, source: str, path: str, live: LiveFile | None
) -> tuple[BackupEntry, Secret | None]:
    """A backup's entry for one live file, and its content; a missing file is recorded as missing."""
    if live is None:
        return BackupEntry(source, path, None), None
    name = f"{number:04}-{path.rsplit('/', 1)[-1]}"
    digest = ports.digest(live.data.reveal())
    return BackupEntry(source, path, name, live.mode, live.uid, live.gid, digest), live.data
