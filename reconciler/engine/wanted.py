"""Which revision an environment should be at: git's answer, weighed against what is remembered."""

from __future__ import annotations

from dataclasses import replace

from reconciler.core.errors import GitUnreachableError, HistoryRewrittenError, QuarantinedError
from reconciler.core.model import EnvironmentRecord, Phase, Revision
from reconciler.core.ports import Ports
from reconciler.engine.execute import phase


async def wanted_revision(ports: Ports, environment: str, *, poll: bool) -> tuple[Revision, str]:
    """The branch head, or what a quarantine puts in its place; and what a person should know about it.

    ``poll`` asks git. Where it does not answer, or its branch was rewritten, the last accepted head stays wanted.
    Raises GitUnreachableError and HistoryRewrittenError where there is none, QuarantinedError.
    """
    record = ports.store.environment(environment)
    head, warning = record.head, ""
    if poll or head is None:
        try:
            head = await _ask_git(ports, record)
        except (GitUnreachableError, HistoryRewrittenError) as error:
            if head is None:
                raise
            warning = str(error)
    quarantined = record.quarantined_subtree != "" and record.quarantined_subtree == head.subtree
    ports.metrics.quarantined(environment, quarantined)
    for state, revision in (("head", head), ("applied", record.applied), ("healthy", record.healthy)):
        ports.metrics.revision(environment, state, revision)
    if not quarantined:
        return head, warning
    if record.healthy is None:
        what = f"revision {head.short} is quarantined ({record.quarantine_reason}); none is known to be good"
        raise QuarantinedError(what, hint="merge a correction")
    return record.healthy, warning or f"revision {head.short} is quarantined: {record.quarantine_reason}"


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
    base = "/".join(part for part in (ports.settings.repository_path, record.name) if part)
    head = await ports.git.revision(commit, base)
    known = None if ports.settings.accept_rewrites else record.head
    if known is not None and not await ports.git.descends(commit, known.commit):
        raise HistoryRewrittenError(
            f"the branch was rewritten: {head.short} does not descend from {known.short}",
            where=f"branch {ports.settings.branch}",
            hint=f"{known.short} stays wanted; restore the branch, or set repository.history_rewrites: accept",
        )
    ports.store.save_environment(replace(record, head=head))
    return head
