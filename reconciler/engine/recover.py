"""Deals with an unfinished run: its process was killed, or something outside stopped it.

If its revision is still the target revision, the reconciliation resumes it; otherwise it is undone here.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace

from reconciler.core.errors import BackupUnusableError, HeldBackError, QuarantinedError, ReconcilerError
from reconciler.core.model.requests import HeldBack, not_held_back
from reconciler.core.model.revisions import Revision
from reconciler.core.model.runs import Outcome, Result, Run
from reconciler.core.model.targets import Stack
from reconciler.core.ports import Ports
from reconciler.engine.execute import resume
from reconciler.engine.leftovers import clear_leftovers_of
from reconciler.engine.observe import read_manifest
from reconciler.engine.rollback import restore_files, roll_back
from reconciler.engine.stack_view import StackView
from reconciler.engine.target_revision import target_revision


async def recover(
    ports: Ports, environment: str, head: Revision, held_back: HeldBack = not_held_back
) -> Outcome | None:
    """Continue a rollback, or restore the files of a run whose revision is no longer the target revision.

    Returns the outcome of a rollback, with which the reconciliation ends; else None. Raises ReconcilerError if nothing
    could be restored yet; the next reconciliation retries.
    """
    run = ports.store.unfinished(environment)
    if run is None:
        return None
    if run.rolling_back:
        return await _continue_rollback(ports, run)
    if not _is_target(ports, head, run, held_back):
        await give_up(ports, run, f"revision {run.revision.short} is no longer the target revision")
    return None


def _is_target(ports: Ports, head: Revision, run: Run, held_back: HeldBack) -> bool:
    try:
        desired, _ = target_revision(ports, run.environment, head, held_back)
    except (QuarantinedError, HeldBackError):
        return False
    return desired.subtree == run.revision.subtree


async def give_up(ports: Ports, run: Run, cause: str) -> None:
    """Restore the run's files, and end it. Its restarts stay pending: the reconciliation that follows does them."""
    try:
        await restore_files(ports, resume(run))
        await clear_leftovers_of(ports, run)
        end = "The files it wrote are restored"
    except BackupUnusableError as error:
        end = f"The files it wrote stay: {error}"
    record = ports.store.environment(run.environment)
    reason = f"interrupted; {cause}. {end}"
    run = replace(run, error_id="interrupted")
    ports.store.finish(run, Result.FAILED, reason, at=ports.clock.now(), record=record, pending_restarts=run.actions)


async def _continue_rollback(ports: Ports, run: Run) -> Outcome:
    transaction = resume(run)
    with contextlib.suppress(ReconcilerError):  # restore what can be restored now; roll_back meets the error again
        await restore_files(ports, transaction)
        await clear_leftovers_of(ports, run)
    stacks: tuple[Stack, ...] = ()
    with contextlib.suppress(ReconcilerError):  # the rollback then says which stack it does not know
        stacks = (await read_manifest(ports, run.environment, run.revision)).stacks
    views = {stack.name: StackView(stack, None, ()) for stack in stacks}
    return await roll_back(ports, transaction, views, ports.store.environment(run.environment), run.rolling_back)
