"""Restores live files from a backup: those an operator chooses, or those a rollback undoes (rollback.py)."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from reconciler.core.dotenv.ignored_keys import with_server_keys
from reconciler.core.errors import ReconcilerError, RefusedError
from reconciler.core.model.records import RestoredFile
from reconciler.core.model.requests import Restored
from reconciler.core.model.revisions import Revision
from reconciler.core.model.runs import Backup, BackupEntry, Run, RunChange, RunOrigin
from reconciler.core.model.targets import LiveFile, Ownership, Stack, host_of
from reconciler.core.ports import Ports
from reconciler.core.secret import Secret
from reconciler.core.text import listed
from reconciler.engine.backup import entry_of, find_backup, take_backup
from reconciler.engine.execute import put
from reconciler.engine.history import decision
from reconciler.engine.leftovers import clear_leftovers_of_restore
from reconciler.engine.observe import read_manifest
from reconciler.engine.project_files import ProjectFileGuard


async def restore_backup(
    ports: Ports,
    environment: str,
    backup_id: str,
    names: Collection[str] = (),
    *,
    requested_by: str = "",
    reason: str = "",
) -> Restored:
    """Restore the files of a backup, or only those with these ``names`` (sources or live paths): all of them or none.

    What they replace is backed up first, and the history says who ``requested_by`` it, and the ``reason`` they gave.
    ``ports`` are those of the environment's host; no reconciliation may run.
    Raises BackupUnusableError, RefusedError if no file has that name, LiveFileError, ChangedMeanwhileError.
    """
    backup = find_backup(ports, backup_id, environment)
    entries = [entry for entry in backup.entries if not names or entry.source in names or entry.path in names]
    if not entries:
        hint = f"It holds: {', '.join(entry.source for entry in backup.entries)}"
        raise RefusedError("no file of the backup has that name", where=backup_id, hint=hint)
    files = ProjectFileGuard(ports, host_of(environment), await _stacks(ports, environment))
    for entry in entries:
        data = ports.backups.read(backup, entry)  # find damage before anything changes
        live = await ports.host.read(entry.path)
        before = live.data if live else None
        if problems := await files.unwritable(await ports.host.resolve(entry.path), data, before):
            raise RefusedError(str(problems[0]), where=entry.path, hint="Nothing was restored", id=problems[0].id)
    await clear_leftovers_of_restore(ports, backup, entries)
    ports.progress(f"restoring {len(entries)} file(s)")
    real = [await ports.host.resolve(entry.path) for entry in entries]
    ports.store.remember_written(host_of(environment), real, files.guarded)
    current = {entry.path: await ports.host.read(entry.path) for entry in entries}
    replaced = await _back_up_current(ports, backup, entries, current)
    _note_restored(ports, backup, entries)
    await _restore_all(ports, backup, entries, current, replaced)
    _note_run(ports, backup, entries, replaced, RunOrigin("restore", requested_by, reason))
    return Restored(backup.id, tuple(entry.path for entry in entries), replaced)


async def _stacks(ports: Ports, environment: str) -> tuple[Stack, ...]:
    """The stacks of the accepted revision; none where it has no manifest that can be read."""
    head = ports.store.environment(environment).head
    with contextlib.suppress(ReconcilerError):
        return (await read_manifest(ports, environment, head)).stacks if head else ()
    return ()


def _note_restored(ports: Ports, backup: Backup, entries: Sequence[BackupEntry]) -> None:
    """Remember what the live files are about to be, before they are: such a file was not changed by hand."""
    record, now = ports.store.environment(backup.environment), ports.clock.now()
    restored = {file.path: file for file in record.restored}
    restored |= {entry.path: RestoredFile(entry.path, entry.digest, backup.id, now) for entry in entries}
    ports.store.save_environment(replace(record, restored=tuple(restored.values())))


def _note_run(ports: Ports, backup: Backup, entries: Sequence[BackupEntry], replaced: str, origin: RunOrigin) -> None:
    record = ports.store.environment(backup.environment)
    changes = tuple(RunChange(entry.source, "restored", path=entry.path, restored_from=backup.id) for entry in entries)
    revision = record.applied or Revision(backup.to_commit, "")
    sentence = f"restored {listed([entry.source for entry in entries])} from backup {backup.id}"
    run = decision(ports, record, origin, sentence, revision=revision, changes=changes, backup=replaced)
    ports.store.decide(run)


async def _back_up_current(
    ports: Ports, backup: Backup, entries: Sequence[BackupEntry], current: Mapping[str, LiveFile | None]
) -> str:
    """Back up the live files as they are now; returns the id of that backup."""
    applied = ports.store.environment(backup.environment).applied or Revision(backup.to_commit, "")
    run = Run(ports.new_run_id(), backup.environment, "restore", ports.clock.now(), applied)
    files = [
        entry_of(ports, number, entry.source, entry.path, current[entry.path]) for number, entry in enumerate(entries)
    ]
    return await take_backup(ports, run, files, backup.to_commit, backup.from_commit)


async def _restore_all(
    ports: Ports, backup: Backup, entries: Sequence[BackupEntry], current: Mapping[str, LiveFile | None], replaced: str
) -> None:
    """Restore all entries; if one cannot be written, undo those before it from the backup ``replaced``."""
    done: list[str] = []
    try:
        for entry in entries:
            await restore_entry(ports, backup, entry, current[entry.path])
            done.append(entry.path)
    except ReconcilerError:
        before = find_backup(ports, replaced)
        for entry in before.entries:
            if entry.path in done:
                await restore_entry(ports, before, entry, await ports.host.read(entry.path))
        raise


async def restore_entry(
    ports: Ports, backup: Backup, entry: BackupEntry, current: LiveFile | None, change: RunChange | None = None
) -> None:
    """Make one live file what the backup holds, owner and mode included.

    ``change`` names the keys that are left to the server: they keep their current value.
    """
    data: Secret | None = ports.backups.read(backup, entry) if entry.file is not None else None
    if data is not None and current is not None and change is not None and change.ignore_keys:
        live = current.data.reveal()
        data = Secret(with_server_keys(data.reveal(), live, change.parser, change.ignore_keys))
    ownership = Ownership(entry.uid, entry.gid) if data is not None else Ownership()
    in_place = change is not None and change.in_place
    await put(ports, entry.path, data, mode=entry.mode, ownership=ownership, replaces=current, in_place=in_place)
