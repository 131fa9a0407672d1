"""The target revision: which commit an environment should be at, given git and the stored record."""

from __future__ import annotations

from collections.abc import Collection
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
from reconciler.core.model.requests import GitAnswer, HeldBack, not_held_back
from reconciler.core.model.revisions import Revision, Verify
from reconciler.core.model.runs import Phase
from reconciler.core.ports import Ports
from reconciler.engine.observe import path_in_git
from reconciler.engine.phases import phase
from reconciler.engine.promotion import ask_for_reports, keep_reports, promotion_error


async def ask_git(ports: Ports, environments: Collection[str], trigger: str = "") -> GitAnswer:
    """Ask git for the branch's head, and fetch it unless all the environments have accepted it before; what a webhook
    has announced is fetched without asking.

    Changes nothing but the mirror, so it may run beside a reconciliation.
    """
    try:
        with phase(ports, Phase.FETCH, "asking git"):
            commit = await (ports.git.fetch_head() if trigger == "webhook" else ports.git.head())
            heads = [ports.store.environment(environment).head for environment in environments]
            if any(head is None or head.commit != commit for head in heads):
                await ports.git.fetch(commit)
            reports = await ask_for_reports(ports, commit, environments)
    except ReconcilerError as error:
        return GitAnswer(error=error)
    return GitAnswer(commit, reports=reports)


async def accepted_head(
    ports: Ports, environment: str, *, poll: bool, answer: GitAnswer | None = None
) -> tuple[Revision, ReconcilerError | None]:
    """The last accepted head of the branch, and the error that keeps a newer one from being accepted.

    ``poll`` asks git, unless it has given an ``answer`` before. If it does not answer, its branch was rewritten, or the
    head's signature does not count or cannot be checked, the last accepted head stays; if there is none, raises that
    error.
    """
    if not poll and (head := ports.store.environment(environment).head) is not None:
        return head, None
    answer = answer or await ask_git(ports, [environment])
    keep_reports(ports, environment, answer)
    record = ports.store.environment(environment)
    head = record.head
    try:
        return await _take(ports, record, answer), None
    except (GitUnreachableError, HistoryRewrittenError, UnverifiedError, SignaturesUnavailableError) as error:
        if head is None:
            raise
        hint = f"{error.hint} Until then the target revision stays {head.short}".lstrip()
        return head, type(error)(error.what, where=error.where, hint=hint, id=error.id)


def target_revision(
    ports: Ports, environment: str, head: Revision, held_back: HeldBack = not_held_back
) -> tuple[Revision, ReconcilerError | None]:
    """The pin if there is one, else the head; if that is quarantined, the last good revision; and a warning.

    If the head is ``held_back``, or waits to be promoted, the host stays at the revision it has, with a warning. Raises
    QuarantinedError if no revision is known to be good, HeldBackError if there was none before the head.
    """
    record = ports.store.environment(environment)
    desired = record.pin.revision if record.pin else head
    quarantine = record.quarantine_of(desired)
    if quarantine is None:
        if record.pin is not None or (record.applied is not None and record.applied.subtree == desired.subtree):
            return desired, None
        reason = held_back(head)
        error = _not_rolled_out(desired, reason) if reason else promotion_error(ports, record, head)
        return _held_back(record, desired, error) if error else (desired, None)
    note = quarantine.revert_note
    problem = f"revision {desired.short} is quarantined: {quarantine.reason}{f'. {note}' if note else ''}"
    hint = "Fix it with a new commit, or lift the quarantine with `reconciler retry`"
    # A revision that was healthy while part of it was held back may have turned out bad as a whole.
    known_good = (record.healthy, record.applied, record.whole)
    good = next((known for known in known_good if _is_good(record, known)), None)
    if good is None:
        raise QuarantinedError(f"{problem}; no revision is known to be good", hint=hint)
    return good, QuarantinedError(problem, hint=f"{hint}. Until then the target revision is {good.short}")


def _is_good(record: EnvironmentRecord, revision: Revision | None) -> bool:
    return revision is not None and record.quarantine_of(revision) is None


def _not_rolled_out(desired: Revision, reason: str) -> HeldBackError:
    hint = "Fix that, or merge a new commit; the next reconciliation continues the rollout"
    return HeldBackError(f"revision {desired.short} is not rolled out to this host: {reason}", hint=hint)


def _held_back(
    record: EnvironmentRecord, desired: Revision, error: HeldBackError
) -> tuple[Revision, ReconcilerError | None]:
    # What is in place stays, also if it fails and is held for an operator to look at.
    current = next((known for known in (record.applied, record.healthy) if _is_good(record, known)), None)
    if current is not None and current.subtree == desired.subtree:
        return desired, None
    if current is None:
        raise error
    return current, error


async def _take(ports: Ports, record: EnvironmentRecord, answer: GitAnswer) -> Revision:
    """The head that git has answered with, accepted. Raises what git failed with, HistoryRewrittenError and as
    ``verified_head`` does."""
    ports.metrics.fetched(record.name, not isinstance(answer.error, GitUnreachableError), ports.clock.now())
    if answer.error is not None:
        raise answer.error.with_traceback(None)
    if record.head is not None and record.head.commit == answer.commit:
        return record.head
    return await _accept(ports, record, answer.commit)


async def _accept(ports: Ports, record: EnvironmentRecord, commit: str) -> Revision:
    """Store a new head, which is fetched. Raises HistoryRewrittenError, UnverifiedError."""
    known = None if ports.settings.accept_rewrites else record.head
    if known is not None and not await ports.git.descends(commit, known.commit):
        raise HistoryRewrittenError(
            f"the branch was rewritten: {commit[:12]} does not descend from {known.short}",
            where=f"branch {ports.settings.branch}",
            hint="Restore the branch, or accept it with `reconciler accept-rewrite`.",
        )
    head = await verified_head(ports, record, commit)
    ports.store.save_environment(replace(record, head=head))
    return head


async def verified_head(ports: Ports, record: EnvironmentRecord, commit: str, *, tip_only: bool = False) -> Revision:
    """Check the signatures of a fetched head as the server configuration asks, and return it.

    ``tip_only``: only its own, as an operator has looked at the commits below it. Raises UnverifiedError,
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
    return await ports.git.revision(commit, path_in_git(ports, record.name))
