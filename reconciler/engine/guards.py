"""Asks the guards about every file that would be written. Reads only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from reconciler.core.decide import guards
from reconciler.core.errors import GitUnreachableError, GuardError, ReconcilerError, SourceError
from reconciler.core.model.plans import Change, Kind
from reconciler.core.model.targets import Target, WriteMode, host_of
from reconciler.core.ports import Ports
from reconciler.core.secret import Secret
from reconciler.engine.contracts import broken_contracts
from reconciler.engine.observe import Plaintexts, Snapshot, git_had
from reconciler.engine.project_files import ProjectFileGuard

_NOT_IN_PLACE = (
    "write: in_place is not possible over SSH, where nobody can be kept from writing to the file meanwhile; set "
    "write: replace, and services that mount the file by itself are restarted"
)


async def file_problems(
    ports: Ports,
    snapshot: Snapshot,
    writes: Sequence[Change],
    staged: Mapping[str, Secret | None],
    real_paths: Mapping[str, str],
    files: ProjectFileGuard,
    plaintexts: Plaintexts,
) -> list[ReconcilerError]:
    """Why files may not be written, in errors that begin with the target; ``real_paths`` by live path."""
    problems: list[ReconcilerError] = []
    allowed = [await ports.host.resolve(path) for path in ports.settings.allowed_paths]
    for change in writes:
        target, data = change.target, staged[change.target.path]
        reasons: list[ReconcilerError] = [*guards.placement(target, real_paths[target.path], allowed)]
        before = await _replaced(ports, snapshot, change, plaintexts)
        project_before = data if change.kind is Kind.DRIFT else None if before is None else Secret(before)
        reasons += await files.unwritable(real_paths[target.path], data, project_before)
        if target.write is WriteMode.IN_PLACE and host_of(target.environment):
            reasons.append(GuardError(_NOT_IN_PLACE, id="not-in-place"))
        if data is not None:
            reasons += guards.content(target, data.reveal(), before)
            reasons += await _failed_check(ports, target, data)
            if change.kind is not Kind.DRIFT:  # what was applied kept its contracts then; a hand edit must go
                reasons += await broken_contracts(ports, snapshot.desired.revision, target, data)
        problems += [GuardError(str(reason), where=target.id, id=reason.id) for reason in reasons]
    return problems


async def _replaced(ports: Ports, snapshot: Snapshot, change: Change, plaintexts: Plaintexts) -> bytes | None:
    """What the guards compare with: the live file, or what git had where a hand edited it; None: nothing to lose."""
    if change.kind is Kind.DRIFT:  # what git already had here is restored whatever a hand has made of the live file
        return None
    if change.kind is not Kind.CONFLICT:
        live = snapshot.live[change.target.path]
        return None if live is None else live.data.reveal()
    try:
        return await git_had(ports, change.target, snapshot.applied[change.target.path], plaintexts)
    except (SourceError, GitUnreachableError):  # no longer known: the live file is no substitute, and is backed up
        return None


async def _failed_check(ports: Ports, target: Target, data: Secret) -> list[GuardError]:
    if target.check is None:
        return []
    try:
        await ports.host.check(target.check, data)
    except GuardError as error:
        return [error]
    return []
