"""Recognises a target that git has renamed: its source has another name, or its live file another path. Reads only."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace

from reconciler.core.dotenv.grammar import EnvFileError
from reconciler.core.dotenv.readings import RENAMED, known_variables, likeness
from reconciler.core.errors import ReconcilerError
from reconciler.core.model.plans import LEFT_GIT, Change, KeyChange, Kind
from reconciler.core.model.targets import Parser
from reconciler.core.ports import Ports
from reconciler.engine.observe import Plaintexts, Snapshot, git_had, key_change


async def with_renames(
    ports: Ports, snapshot: Snapshot, changes: Sequence[Change], plaintexts: Plaintexts
) -> list[Change]:
    """The changes, with what each target was called before; a new one and the orphan whose content it has belong
    together, and the new one's keys are the differences from that."""
    renamed = [_with_former_source(snapshot, change) for change in changes]
    orphans = {change.target.path: change for change in renamed if change.kind in LEFT_GIT}
    for number, change in enumerate(renamed):
        if not orphans or change.kind is not Kind.CREATE:
            continue
        likely = {path: await _difference(ports, snapshot, change, path, plaintexts) for path in orphans}
        path = max(likely, key=lambda path: likely[path][0])
        score, keys = likely[path]
        if score >= RENAMED:
            orphan = orphans.pop(path)
            renamed[number] = replace(change, renamed_from=orphan.target.source, keys=keys)
            renamed[renamed.index(orphan)] = replace(orphan, moved_to=change.target.id)
    return renamed


def _with_former_source(snapshot: Snapshot, change: Change) -> Change:
    last = snapshot.applied.get(change.target.path)
    if last is None or change.kind in LEFT_GIT or last.source == change.target.source:
        return change
    return replace(change, renamed_from=last.source)


async def _difference(
    ports: Ports, snapshot: Snapshot, change: Change, path: str, plaintexts: Plaintexts
) -> tuple[float, KeyChange]:
    """How much of what git had for the orphan at ``path`` the new target has, from 0 to 1, and which keys differ."""
    target, last = change.target, snapshot.applied[path]
    if last.digest == snapshot.desired.digests[target.source]:
        return 2.0 if last.source == target.source else 1.0, KeyChange()
    with contextlib.suppress(ReconcilerError, EnvFileError):  # names are a help, and nothing waits for them
        old = await git_had(ports, target, last, plaintexts)
        new = (await plaintexts.of(target, snapshot.desired.blobs[target.source])).reveal()
        if old is not None and target.parser is not Parser.OPAQUE:
            alike = likeness(known_variables(old, target.parser), known_variables(new, target.parser))
            return max(alike, float(last.source == target.source)), key_change(target, new, old)
    return float(last.source == target.source), change.keys
