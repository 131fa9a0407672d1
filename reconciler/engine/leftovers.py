"""What a killed run leaves beside live files: temporary files of ours, one of which may hold somebody's edit."""

from __future__ import annotations

from reconciler.core.model import BackupEntry, LiveFile, Run
from reconciler.core.ports import Ports
from reconciler.core.secret import Secret
from reconciler.engine.execute import entry_of, take_backup
from reconciler.engine.observe import Snapshot


async def clear_leftovers(ports: Ports, snapshot: Snapshot) -> None:
    """Remove them; what is neither git's content nor the live file's is in a backup first.

    Raises LiveFileError where one cannot be read, backed up or removed.
    """
    found: list[tuple[str, LiveFile]] = []
    unknown: list[tuple[BackupEntry, Secret | None]] = []
    for state in snapshot.states:
        for path in await ports.host.leftovers(state.target.path):
            file = await ports.host.read(path)
            if file is None:
                continue
            found.append((path, file))
            if ports.digest(file.data.reveal()) not in (state.desired, state.live):
                unknown.append(entry_of(ports, len(unknown), state.target.source, state.target.path, file))
    if unknown:
        wanted = snapshot.wanted
        run = Run(ports.new_run_id(), wanted.manifest.environment, "recovery", ports.clock.now(), wanted.revision)
        take_backup(ports, run, unknown, wanted.revision.commit, wanted.revision.commit)
    for path, file in found:
        await ports.host.remove(path, replaces=file)
