"""Clears temporary files that a killed run left beside live files. One of them may hold somebody's edit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from reconciler.core.model.revisions import Revision
from reconciler.core.model.runs import Backup, BackupEntry, Run
from reconciler.core.model.targets import LiveFile
from reconciler.core.ports import Ports
from reconciler.core.secret import Secret
from reconciler.engine.backup import entry_of, take_backup
from reconciler.engine.observe import Snapshot


@dataclass(frozen=True, slots=True)
class _LivePath:
    """A live path, and the digests of content that exists elsewhere too, so that a leftover with it can go."""

    source: str
    path: str
    known: frozenset[str | None]


async def clear_leftovers(ports: Ports, snapshot: Snapshot) -> None:
    """Remove the leftovers beside all targets; back up first what is neither git's content nor the live file's.

    Raises LiveFileError if one cannot be read, backed up or removed.
    """
    paths = [
        _LivePath(state.target.source, state.target.path, frozenset({state.desired, state.live}))
        for state in snapshot.states
        if not state.unreadable
    ]
    desired = snapshot.desired
    await _clear(ports, desired.manifest.environment, desired.revision, paths)


async def clear_leftovers_of(ports: Ports, run: Run) -> None:
    """The same for the paths of a run that is undone: they may not be targets of any later revision."""
    backups = ports.backups.list(run.environment)
    backup = next((backup for backup in backups if backup.id == run.backup), None)
    kept = {entry.path: entry.digest for entry in backup.entries if entry.file} if backup else {}
    paths = [
        _LivePath(change.source, change.path, frozenset({change.digest, kept.get(change.path)}))
        for change in run.changes
    ]
    await _clear(ports, run.environment, run.revision, paths)


async def clear_leftovers_of_restore(ports: Ports, backup: Backup, entries: Sequence[BackupEntry]) -> None:
    """The same for the paths of a backup to restore: a killed restore may have left something there."""
    paths = [_LivePath(entry.source, entry.path, frozenset({entry.digest})) for entry in entries]
    await _clear(ports, backup.environment, Revision(backup.to_commit, ""), paths)


async def _clear(ports: Ports, environment: str, revision: Revision, paths: Iterable[_LivePath]) -> None:
    leftovers: list[tuple[str, LiveFile]] = []
    unknown: list[tuple[BackupEntry, Secret | None]] = []
    by_path = {live.path: live for live in paths}
    for live_path, temporary in (await ports.host.leftovers(by_path)).items():
        live = by_path[live_path]
        for path in temporary:
            file = await ports.host.read(path)
            if file is None:
                continue
            leftovers.append((path, file))
            if ports.digest(file.data.reveal()) not in live.known:
                unknown.append(entry_of(ports, len(unknown), live.source, live.path, file))
    if unknown:
        run = Run(ports.new_run_id(), environment, "recovery", ports.clock.now(), revision)
        await take_backup(ports, run, unknown, revision.commit, revision.commit)
    for path, file in leftovers:
        await ports.host.remove(path, replaces=file)
