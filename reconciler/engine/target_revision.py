"""Which revision an environment should be at: git's answer, weighed against what is remembered."""

from __future__ import annotations

from dataclasses import replace

from reconciler.core.errors import (
    GitUnreachableError,
    HeldBackError,
    HistoryRewrittenError,
    QuarantinedError,
    ReconcilerError,
    SignaturesUnavailableError,
    UnverifiedError,
)
from reconciler.core.model.records import EnvironmentRecord
from reconciler.core.model.requests import HeldBack, not_held_back
from reconciler.core.model.revisions import Revision, Verify
from reconciler.core.model.runs import Phase
from reconciler.core.ports import Ports
from reconciler.engine.observe import path_in_git
from reconciler.engine.phases import phase


async def accepted_head(ports: Ports, environment: str, *, poll: bool) -> tuple[Revision, ReconcilerError | None]:
    """The branch head that was last accepted, and the trouble in the way of a newer one that a person should know of.

    ``poll`` asks git. Where it does not answer, its branch was rewritten, or the head's signature does not count or
    cannot be checked, the last accepted head stays; where there is none, that trouble is raised.
    """
    record = ports.store.environment(environment)
    head = record.head
    if head is not None and not poll:
        return head, None
    try:
        return await _ask_git(ports, record), None
    except (GitUnreachableError, HistoryRewrittenError, UnverifiedError, SignaturesUnavailableError) as error:
        if head is None:
            raise
        hint = f"{error.hint} Until then revision {head.short} stays wanted".lstrip()
        return head, type(error)(error.what, where=error.where, hint=hint)


def target_revision(
    ports: Ports, environment: str, head: Revision, held_back: HeldBack = not_held_back
) -> tuple[Revision, ReconcilerError | None]:
    """The pin if there is one, else the head, else what a quarantine puts in their place; and the quarantine.

    Where the head is ``held_back``, the host stays at the revision it has, and that is told.
    Raises QuarantinedError where no revision is known to be good, HeldBackError where there was none before the head.
    """
    record = ports.store.environment(environment)
    desired = record.pin.revision if record.pin else head
    quarantine = record.quarantine_of(desired)
    if quarantine is None:
        in_place = record.applied is not None and record.applied.subtree == desired.subtree
        why = "" if in_place or record.pin is not None else held_back(head)
        return _held_back(record, desired, why) if why else (desired, None)
    note = quarantine.revert_note
    what = f"revision {desired.short} is quarantined: {quarantine.reason}{f'. {note}' if note else ''}"
    hint = "Merge a correction, or lift the quarantine with `reconciler retry`"
    # What was healthy while a part of it was held back may have turned out bad as a whole.
    good = next((one for one in (record.healthy, record.applied) if one and not record.quarantine_of(one)), None)
    if good is None:
        raise QuarantinedError(f"{what}; no revision is known to be good", hint=hint)
    return good, QuarantinedError(what, hint=f"{hint}. Until then revision {good.short} stays wanted")


def _held_back(record: EnvironmentRecord, desired: Revision, why: str) -> tuple[Revision, ReconcilerError | None]:
    # What is in place stays in place, also what fails and is held for a person to look at.
    known = (record.applied, record.healthy)
    stay = next((one for one in known if one is not None and record.quarantine_of(one) is None), None)
    if stay is not None and stay.subtree == desired.subtree:
        return desired, None
    hint = "It goes on by itself once that is well, or with a corrected revision"
    error = HeldBackError(f"revision {desired.short} is not given to this host: {why}", hint=hint)
    if stay is None:
        raise error
    return stay, error


async def _ask_git(ports: Ports, record: EnvironmentRecord) -> Revision:
    try:
        with phase(ports, Phase.FETCH, "asking git"):
            commit = await ports.git.head()
            known = record.head
            head = known if known is not None and known.commit == commit else await _accept(ports, record, commit)
    except GitUnreachableError:
        ports.metrics.fetched(record.name, False, ports.clock.now())
        raise
    ports.metrics.fetched(record.name, True, ports.clock.now())
    return head


async def _accept(ports: Ports, record: EnvironmentRecord, commit: str) -> Revision:
    """Fetch a head that was not seen before and remember it. Raises HistoryRewrittenError, UnverifiedError."""
    await ports.git.fetch(commit)
    known = None if ports.settings.accept_rewrites else record.head
    if known is not None and not await ports.git.descends(commit, known.commit):
        raise HistoryRewrittenError(
            f"the branch was rewritten: {commit[:12]} does not descend from {known.short}",
            where=f"branch {ports.settings.branch}",
            hint="Restore the branch, or take it as it is with `reconciler accept-rewrite`.",
        )
    return await accept(ports, record, commit)


async def accept(ports: Ports, record: EnvironmentRecord, commit: str, *, tip_only: bool = False) -> Revision:
    """Check the signatures of a fetched head as the server's file asks, and remember it as the accepted one.

    ``tip_only``: only its own, as a person has looked at what lies below it. Raises UnverifiedError,
    SignaturesUnavailableError.
    """
    if ports.settings.verify is not Verify.NONE:
        every = ports.settings.verify is Verify.RANGE and record.head is not None and not tip_only
        try:
            await ports.git.verify(commit, record.head.commit if every and record.head else None)
        except (UnverifiedError, SignaturesUnavailableError) as error:
            reason = "signature" if isinstance(error, UnverifiedError) else "unavailable"
            ports.metrics.verified(record.name, "failed", reason)
            raise
        ports.metrics.verified(record.name, "ok")
    head = await ports.git.revision(commit, path_in_git(ports, record.name))
    ports.store.save_environment(replace(record, head=head))
    return head
