"""Which revision an environment should be at: git's answer, weighed against what is remembered."""

from __future__ import annotations

from dataclasses import replace

from reconciler.core.errors import GitUnreachableError, HistoryRewrittenError, QuarantinedError, ReconcilerError
from reconciler.core.model import EnvironmentRecord, Phase, Revision
from reconciler.core.ports import Ports
from reconciler.engine.execute import phase
from reconciler.engine.observe import path_in_git


async def wanted_revision(ports: Ports, environment: str, *, poll: bool) -> tuple[Revision, ReconcilerError | None]:
    """The branch head, or what a quarantine puts in its place; and the trouble that a person should know of.

    ``poll`` asks git. Where it does not answer, or its branch was rewritten, the last accepted head stays wanted.
    Raises GitUnreachableError and HistoryRewrittenError where there is none, QuarantinedError.
    """
    record = ports.store.environment(environment)
    head = record.head
    trouble: ReconcilerError | None = None
    if poll or head is None:
        try:
            head = await _ask_git(ports, record)
        except (GitUnreachableError, HistoryRewrittenError) as error:
            if head is None:
                raise
            hint = f"{error.hint} Until then revision {head.short} stays wanted".lstrip()
            trouble = type(error)(error.what, where=error.where, hint=hint)
    quarantined = record.quarantined_subtree != "" and record.quarantined_subtree == head.subtree
    ports.metrics.quarantined(environment, quarantined)
    for state, revision in (("head", head), ("applied", record.applied), ("healthy", record.healthy)):
        ports.metrics.revision(environment, state, revision)
    if not quarantined:
        return head, trouble
    if record.healthy is None:
        what = f"revision {head.short} is quarantined ({record.quarantine_reason}); none is known to be good"
        raise QuarantinedError(what, hint="Merge a correction")
    what = f"revision {head.short} is quarantined: {record.quarantine_reason}"
    hint = f"Merge a correction. Until then revision {record.healthy.short} stays wanted"
    return record.healthy, trouble or QuarantinedError(what, hint=hint)


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
    """Fetch a head that was not seen before and remember it. Raises HistoryRewrittenError."""
    await ports.git.fetch(commit)
    head = await ports.git.revision(commit, path_in_git(ports, record.name))
    known = None if ports.settings.accept_rewrites else record.head
    if known is not None and not await ports.git.descends(commit, known.commit):
        raise HistoryRewrittenError(
            f"the branch was rewritten: {head.short} does not descend from {known.short}",
            where=f"branch {ports.settings.branch}",
            hint="Restore the branch, or set repository.history_rewrites: accept.",
        )
    ports.store.save_environment(replace(record, head=head))
    return head
