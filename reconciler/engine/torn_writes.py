"""Finds live files that an interrupted run has left half written, where it wrote into them in place. Reads only."""

from __future__ import annotations

import contextlib
from dataclasses import replace

from reconciler.core.decide.torn_writes import is_torn
from reconciler.core.errors import BackupUnusableError, ReconcilerError
from reconciler.core.model.plans import TargetState
from reconciler.core.model.runs import Backup, Run
from reconciler.core.ports import Ports
from reconciler.engine.backup import find_backup
from reconciler.engine.observe import Plaintexts, Snapshot


async def with_torn_writes(ports: Ports, snapshot: Snapshot, unfinished: Run, plaintexts: Plaintexts) -> Snapshot:
    """The snapshot, in which the files that the run has left half written are no hand edits."""
    in_place = {change.path for change in unfinished.changes if change.in_place}
    try:
        backup = find_backup(ports, unfinished.backup, unfinished.environment) if in_place else None
    except BackupUnusableError:
        backup = None
    if backup is None:
        return snapshot
    states = [
        replace(state, torn=True)
        if state.target.path in in_place and await _is_torn(ports, snapshot, backup, state, plaintexts)
        else state
        for state in snapshot.states
    ]
    return replace(snapshot, states=tuple(states))


async def _is_torn(
    ports: Ports, snapshot: Snapshot, backup: Backup, state: TargetState, plaintexts: Plaintexts
) -> bool:
    target, live = state.target, snapshot.live[state.target.path]
    blob = snapshot.desired.blobs.get(target.source)
    entry = next((entry for entry in backup.entries if entry.path == target.path), None)
    if live is None or blob is None or entry is None or state.live in (state.desired, None):
        return False
    with contextlib.suppress(ReconcilerError):
        old, new = ports.backups.read(backup, entry), await plaintexts.of(target, blob)
        return old is not None and is_torn(live.data.reveal(), old.reveal(), new.reveal())
    return False
