"""Whether all is as it was when a reconciliation found nothing to do: then the next one ends like it.

Live files are compared by what stat says of them, and read where that may not tell the whole truth. That nobody has
reported a change of a file is never taken for a sign: inotify loses events, and knows nothing of other machines.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from reconciler.core.decide.suspension import CONFLICTING_WRITER, suspension_of
from reconciler.core.errors import EngineUnavailableError, GuardError
from reconciler.core.model.revisions import Revision
from reconciler.core.model.runs import Outcome, Phase, Result
from reconciler.core.ports import Ports
from reconciler.engine.memory import Memory, Settled, unresolved
from reconciler.engine.observe import Desired, Snapshot
from reconciler.engine.phases import phase
from reconciler.engine.planning import Prepared

# The clock that stamps files ticks: every few milliseconds on most file systems, every two seconds on some. Two changes
# within a tick may look like one, so a file is known by its stamp only once it was read this long (seconds) after that
# stamp was first seen.
_LONGEST_TICK = 3.0
# After so long (seconds) every file is read again, for what stat does not show: a write through a memory mapping, or
# with the old mtime on a file system without ctime.
_READ_AGAIN = 3600.0


def settled(
    ports: Ports, memory: Memory, snapshot: Snapshot, prepared: Prepared, outcome: Outcome, store: tuple[int, int]
) -> Settled | None:
    """Given a reconciliation that had nothing to do, and the store's version when it began, return what to remember of
    it; None where the next one may end otherwise although nothing changes."""
    plan, before = prepared.plan, memory.settled
    pauses = suspension_of(ports.store.environment(plan.environment), ports.clock.now()).pauses
    backs_off = any(change.error_id == CONFLICTING_WRITER for change in plan.changes)
    if pauses or backs_off or unresolved(prepared) or prepared.away:
        return None
    if outcome.result not in (Result.IN_SYNC, Result.HELD) or snapshot.stamps.keys() != snapshot.live.keys():
        return None
    since = before.since if before and before.stamps == snapshot.stamps else snapshot.stamped_at
    targets = (state.target for state in snapshot.states)
    owners = {(target.owner, target.group): snapshot.ownership[target.path] for target in targets}
    return Settled(snapshot.desired, outcome, snapshot.stamps, owners, store, since, snapshot.stamped_at)


async def outcome_as_before(
    ports: Ports,
    memory: Memory,
    revision: Revision,
    containers_if_due: Callable[[Desired], Awaitable[Mapping[str, frozenset[str]] | None]],
) -> Outcome | None:
    """The outcome of the last reconciliation if it had nothing to do, and revision, store, live files and containers
    are as it left them; else None. Raises HostUnreachableError."""
    known = memory.settled
    if known is None or known.desired is not memory.desired or known.desired.revision != revision:
        return None
    with phase(ports, Phase.OBSERVE, "comparing the live files"):
        if not await _files_are_as_before(ports, known):
            return None
        try:
            containers = await containers_if_due(known.desired)
        except EngineUnavailableError:  # what that means is for a whole reconciliation
            return None
    if containers is not None and containers != memory.containers:
        return None
    if containers is not None:
        memory.stacks_observed_at = ports.clock.monotonic()
    if known.outcome.after is not None:
        ports.metrics.observed(known.outcome.after, ports.clock.now())
    return known.outcome


async def _files_are_as_before(ports: Ports, known: Settled) -> bool:
    age = ports.clock.monotonic() - known.read_at
    if ports.store.version != known.store or known.read_at - known.since < _LONGEST_TICK or age >= _READ_AGAIN:
        return False
    try:
        for names, ids in known.owners.items():
            if await ports.host.ownership(*names) != ids:
                return False
    except GuardError:
        return False
    return await ports.host.stamps(known.stamps) == known.stamps
