"""What becomes of a run that was begun and not finished: its process was killed, or something outside stopped it.

It is resumed by the next pass where its revision is still wanted; else what it did is undone here.
"""

from __future__ import annotations

import contextlib

from reconciler.core.errors import BackupUnusableError, HeldBackError, QuarantinedError, ReconcilerError
from reconciler.core.model.requests import HeldBack, not_held_back
from reconciler.core.model.revisions import Revision
from reconciler.core.model.runs import Outcome, Result, Run
from reconciler.core.model.targets import Stack
from reconciler.core.ports import Ports
from reconciler.engine.execute import resume
from reconciler.engine.leftovers import clear_leftovers_of
from reconciler.engine.observe import read_manifest
from reconciler.engine.planning import StackView
from reconciler.engine.rollback import restore_files, roll_back
from reconciler.engine.target_revision import target_revision


async def recover(
    ports: Ports, environment: str, head: Revision, held_back: HeldBack = not_held_back
) -> Outcome | None:
    """Go on with a rollback, or put back the files of a run whose revision is not wanted any more.

    Returns the outcome of a rollback, with which the pass ends; else None. Raises ReconcilerError where nothing could
    be put back yet: it is tried again.
    """
    run = ports.store.unfinished(environment)
    if run is None:
        return None
    if run.rolling_back:
        return await _go_on_rolling_back(ports, run)
    if not _is_wanted(ports, head, run, held_back):
        await give_up(ports, run, f"revision {run.revision.short} was not wanted any more")
    return None


def _is_wanted(ports: Ports, head: Revision, run: Run, held_back: HeldBack) -> bool:
    try:
        desired, _ = target_revision(ports, run.environment, head, held_back)
    except (QuarantinedError, HeldBackError):
        return False
    return desired.subtree == run.revision.subtree


async def give_up(ports: Ports, run: Run, why: str) -> None:
    """Put the run's files back. What its services are owed stays owed: the pass that follows gives it to them."""
    try:
        await restore_files(ports, resume(run))
        await clear_leftovers_of(ports, run)
        end = "The files it had written were put back"
    except BackupUnusableError as error:
        end = f"The files it had written stay: {error}"
    record = ports.store.environment(run.environment)
    reason = f"interrupted; {why}. {end}"
    ports.store.finish(run, Result.FAILED, reason, at=ports.clock.now(), record=record, pending_restarts=run.actions)


async def _go_on_rolling_back(ports: Ports, run: Run) -> Outcome:
    progress = resume(run)
    with contextlib.suppress(ReconcilerError):  # the files wait for nothing else; what is wrong is met again below
        await restore_files(ports, progress)
        await clear_leftovers_of(ports, run)
    stacks: tuple[Stack, ...] = ()
    with contextlib.suppress(ReconcilerError):  # else the rollback says which stack it does not know
        stacks = (await read_manifest(ports, run.environment, run.revision)).stacks
    views = {stack.name: StackView(stack, None, ()) for stack in stacks}
    return await roll_back(ports, progress, views, ports.store.environment(run.environment), run.rolling_back)
