"""Live files whose targets left git: since when they are noticed, and how an operator ends that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from reconciler.core.errors import RefusedError
from reconciler.core.model.plans import LEFT_GIT, Plan
from reconciler.core.model.records import EnvironmentRecord, Orphan
from reconciler.core.model.requests import GitAnswer, OperatorRequest
from reconciler.core.model.revisions import Revision
from reconciler.core.model.runs import RunChange
from reconciler.core.model.targets import Target
from reconciler.core.ports import Ports
from reconciler.engine.history import decided
from reconciler.engine.observe import orphans_of, read_manifest
from reconciler.engine.target_revision import accepted_head, target_revision

_ID = "target-not-forgotten"


def with_orphans(record: EnvironmentRecord, plan: Plan, now: float) -> EnvironmentRecord:
    """The record with the orphans of the plan; ``now`` is when new ones are noticed (epoch seconds)."""
    since = {orphan.path: orphan.at for orphan in record.orphans}
    targets = [change.target for change in plan.changes if change.kind in LEFT_GIT]
    orphans = tuple(Orphan(target.source, target.path, since.get(target.path, now)) for target in targets)
    return record if orphans == record.orphans else replace(record, orphans=orphans)


async def forget(ports: Ports, environment: str, request: OperatorRequest, answer: GitAnswer | None) -> None:
    """Forget a target that left git: its live file stays, and nothing is known of it any more. It is in the history.

    Deleting the file is left to the reconciliation that follows (``Permissions.delete``). ``answer`` is git's, where it
    was asked. Raises RefusedError where nothing is left of the target, and as ``accepted_head`` does.
    """
    head, _ = await accepted_head(ports, environment, poll=answer is not None, answer=answer)
    revision, _ = target_revision(ports, environment, head)
    targets = await _orphans(ports, environment, revision, request.scope)
    if request.delete:
        return
    record = ports.store.environment(environment)
    paths = [target.path for target in targets]
    changes = tuple(RunChange(target.source, "forgotten", path=target.path) for target in targets)
    orphans = tuple(orphan for orphan in record.orphans if orphan.path not in paths)
    reason = f"{sentence_of(request)}; {', '.join(paths)} stays on the server"
    decision = replace(decided(ports, record, request, "", revision=revision, changes=changes), reason=reason)
    ports.store.decide(decision, replace(record, orphans=orphans), forgotten=paths)


async def _orphans(ports: Ports, environment: str, revision: Revision, name: str) -> Sequence[Target]:
    manifest = await read_manifest(ports, environment, revision)
    orphans = orphans_of(manifest, ports.store.applied(environment))
    targets = [target for target in orphans if target.id == name]
    if targets:
        return targets
    if name in {target.id for target in manifest.targets}:
        hint = "Remove it from environment.yaml first: set prune there before, to have the live file deleted with it"
        raise RefusedError(f"it is still a target at revision {revision.short}", where=name, hint=hint, id=_ID)
    known = ", ".join(sorted(target.id for target in orphans)) or "nothing"
    hint = f"Left on the server: {known}"
    raise RefusedError("nothing is left of a target of that name", where=name, hint=hint, id=_ID)


def require_deletable(plan: Plan, request: OperatorRequest | None) -> None:
    """Raise RefusedError where the request is to delete what cannot be now (paused, unreadable): it is not kept for
    later."""
    if request is None or not request.delete:
        return
    for change in plan.orphans:
        if change.target.id == request.scope:
            reason = change.reason.partition("; ")[2].partition(f"; {change.target.path} stays.")[0]
            hint = "Nothing was changed. Run it again once nothing is in the way"
            raise RefusedError(f"not deleted: {reason}", where=change.target.id, hint=hint, id=_ID)


def sentence_of(request: OperatorRequest) -> str:
    """Who has a target forgotten, and why, for the history."""
    reason = f": {request.reason}" if request.reason else ""
    deleted = " and deleted its live file" if request.delete else ""
    return f"{request.requested_by or 'an operator'} forgot {request.scope}{deleted}{reason}"
