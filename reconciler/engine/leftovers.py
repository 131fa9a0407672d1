"""What a killed run leaves beside live files: temporary files of ours, one of which may hold somebody's edit."""

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
class _Place:
    """A live path, and the digests of what is known to be elsewhere too: left beside it, that may go."""

    source: str
    path: str
    known: frozenset[str | None]


async def clear_leftovers(ports: Ports, snapshot: Snapshot) -> None:
    """Remove them from beside all targets; what is neither git's content nor the live file's is in a backup first.

    Raises LiveFileError where one cannot be read, backed up or removed.
    """
    places = [
        _Place(state.target.source, state.target.path, frozenset({state.desired, state.live}))
        for state in snapshot.states
    ]
    desired = snapshot.desired
    await _clear(ports, desired.manifest.environment, desired.revision, places)


async def clear_leftovers_of(ports: Ports, run: Run) -> None:
    """The same for the paths of a run that is undone: some of them may be no targets of any revision to come."""
    backup = next((one for one in ports.backups.list(run.environment) if one.id == run.backup), None)
    kept = {entry.path: entry.digest for entry in backup.entries if entry.file} if backup else {}
    places = [
        _Place(change.source, change.path, frozenset({change.digest, kept.get(change.path)})) for change in run.changes
    ]
    await _clear(ports, run.environment, run.revision, places)


async def clear_leftovers_of_restore(ports: Ports, backup: Backup, entries: Sequence[BackupEntry]) -> None:
    """The same for the paths of a backup that is put back: a restore that was killed may have left something there."""
    places = [_Place(entry.source, entry.path, frozenset({entry.digest})) for entry in entries]
    await _clear(ports, backup.environment, Revision(backup.to_commit, ""), places)


async def _clear(ports: Ports, environment: str, revision: Revision, places: Iterable[_Place]) -> None:
    found: list[tuple[str, LiveFile]] = []
    unknown: list[tuple[BackupEntry, Secret | None]] = []
    for place in places:
        for path in await ports.host.leftovers(place.path):
            file = await ports.host.read(path)
            if file is None:
                continue
            found.append((path, file))
            if ports.digest(file.data.reveal()) not in place.known:
                unknown.append(entry_of(ports, len(unknown), place.source, place.path, file))
    if unknown:
        run = Run(ports.new_run_id(), environment, "recovery", ports.clock.now(), revision)
        await take_backup(ports, run, unknown, revision.commit, revision.commit)
    for path, file in found:
        await ports.host.remove(path, replaces=file)
