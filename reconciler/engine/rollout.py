"""One environment on several hosts: which host gets a new revision when, and which ones roll back if it fails.

Each host has its own reconciliations (reconcile.py), record, backups and rollback. This module holds only what lies
between hosts, and derives it from their records every time, so that a killed process loses nothing.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from dataclasses import replace

from reconciler.core.model.records import EnvironmentRecord, Quarantine
from reconciler.core.model.requests import OperatorRequest, ReconcileRequest, RequestKind
from reconciler.core.model.revisions import RevertState, Revision
from reconciler.core.model.runs import Outcome, Result
from reconciler.core.model.targets import environment_of
from reconciler.core.ports import Ports
from reconciler.engine.observe import path_in_git
from reconciler.engine.reconcile import Reconciler
from reconciler.engine.transaction import newest_good

_SUCCEEDED = frozenset({Result.APPLIED, Result.IN_SYNC, Result.CORRECTED})
_SEARCHED_RUNS = 100

ReconcileHost = Callable[[Reconciler, ReconcileRequest], Awaitable[Outcome]]


class Rollout:
    """The hosts of one environment, in the order in which a new revision reaches them.

    ``max_unavailable``: how many hosts after the first get it at the same time.
    """

    def __init__(self, ports: Ports, hosts: Sequence[Reconciler], max_unavailable: int = 1) -> None:
        self._ports = ports
        self._hosts = tuple(hosts)
        self._max_unavailable = max_unavailable

    @property
    def units(self) -> tuple[str, ...]:
        """The environment's name on each of its hosts."""
        return tuple(host.environment for host in self._hosts)

    @property
    def knows_git(self) -> bool:
        """Whether a head was accepted before, so that there is something to compare the live files with."""
        return any(self._ports.store.environment(unit).head is not None for unit in self.units)

    async def reconcile(
        self,
        request: ReconcileRequest,
        reconcile: ReconcileHost = Reconciler.reconcile,
        *,
        only: Collection[str] | None = None,
    ) -> tuple[Outcome, ...]:
        """Reconcile every host (or ``only`` these units) with ``reconcile``, and act on what that shows.

        ``request`` may name targets and stacks for all hosts. Git is asked once. Raises ReconcilerError if what
        lies between the hosts cannot be read or stored.
        """
        hosts = [host for host in self._hosts if only is None or host.environment in only]
        if len(self._hosts) == 1:
            return tuple([await reconcile(host, _request_for(host, request)) for host in hosts])
        if not hosts:
            return ()
        await asyncio.gather(*(host.reach() for host in hosts), return_exceptions=True)  # each one reports it below
        run = _RolloutRun(self._ports, self._hosts, reconcile, request)
        await run.begin()
        waiting = list(hosts)
        while waiting:  # the first host goes alone; if it refuses the operator's request, it has not asked git either
            first = waiting.pop(0)
            outcome = await run.reconcile(first, poll=request.poll)
            if not outcome.refused:
                run.share_head(first)
                break
        await run.roll_back_others()
        for wave in self._waves(waiting):
            await asyncio.gather(*(run.reconcile(host) for host in wave))
            await run.roll_back_others()
        return tuple(run.outcomes.values())

    def _waves(self, hosts: Sequence[Reconciler]) -> Iterator[Sequence[Reconciler]]:
        for start in range(0, len(hosts), self._max_unavailable):
            yield hosts[start : start + self._max_unavailable]


class _RolloutRun:
    """One reconciliation of all hosts. ``outcomes`` are by the environment's name on each host."""

    def __init__(
        self, ports: Ports, hosts: Sequence[Reconciler], reconcile: ReconcileHost, request: ReconcileRequest
    ) -> None:
        self._ports = ports
        self._hosts = hosts
        self._reconcile = reconcile
        self._request = request
        self._compared: tuple[int, int] | None = None  # the store's version when all records were last compared
        self.outcomes: dict[str, Outcome] = {}

    async def begin(self) -> None:
        """Give a new host the known head, let all hosts retry if that is the request, and finish what a killed process
        left between the hosts."""
        for host in self._hosts:
            if self._record(host).head is not None:
                self.share_head(host, only_new=True)
                break
        if self._request.asks(RequestKind.RETRY) and not self._rolling_back():
            for host in self._hosts:  # otherwise the other hosts' quarantine would roll it back immediately
                record = self._record(host)
                if record.desired:
                    self._ports.store.save_environment(record.trusting(record.desired))
        else:
            await self.roll_back_others()

    async def reconcile(self, host: Reconciler, *, poll: bool = False) -> Outcome:
        """Reconcile the host, and revert in git unless other hosts are a reason not to."""
        request = replace(
            self._request,
            poll=poll,
            operator=self._operator_request_for(host),
            held_back=functools.partial(self._reason_to_hold_back, host),
            revert=False,
        )
        outcome = await self._reconcile(host, _request_for(host, request))
        if not request.dry_run and not outcome.refused:
            await self._refuse_revert(host)
            outcome = await host.revert(outcome) if self._request.revert else outcome
        earlier = self.outcomes.get(host.environment)  # it was rolled back in this same rollout
        self.outcomes[host.environment] = earlier if earlier and outcome.result is Result.IN_SYNC else outcome
        return outcome

    def share_head(self, source: Reconciler, *, only_new: bool = False) -> None:
        """Record the head one host has accepted for all hosts: it is one branch, asked once."""
        head, promotion = self._record(source).head, self._record(source).promotion
        for host in self._hosts:
            record = self._record(host)
            if head is None or (only_new and record.head is not None):
                continue
            known = promotion if record.promotion.commit != promotion.commit else record.promotion
            shared = replace(record, head=head, promotion=replace(known, reports=promotion.reports))
            if shared != record:
                self._ports.store.save_environment(shared)

    async def roll_back_others(self) -> None:
        """Roll back, last host first, every host that already has a revision which another host has quarantined."""
        version = self._ports.store.version
        if self._request.dry_run or version == self._compared:
            return
        self._compared = version
        for failed in self._hosts:
            record = self._record(failed)
            quarantine = record.quarantine_of(record.head) if record.head else None
            for host in reversed(self._hosts) if quarantine else ():
                assert quarantine is not None
                if host is not failed and self._record(host).quarantine_of(quarantine.revision) is None:
                    await self._roll_back(host, failed, quarantine)

    # --- which host may have a new revision ---

    def _reason_to_hold_back(self, host: Reconciler, head: Revision) -> str:
        """Why the host does not get the head yet; "" if it may have it, or is in the middle of applying it."""
        unfinished = self._ports.store.unfinished(host.environment)
        if unfinished is not None and unfinished.revision.subtree == head.subtree:
            return ""
        for peer in self._hosts:
            if peer is not host and (reason := self._failure_of(head, peer)):
                return f"on {peer.environment}: {reason}"
        return ""

    def _failure_of(self, head: Revision, host: Reconciler) -> str:
        """How the head has failed on this host; "" if it has not."""
        record, outcome = self._record(host), self.outcomes.get(host.environment)
        if quarantine := record.quarantine_of(head):
            return quarantine.reason
        if outcome is None or outcome.revision is None or outcome.revision.subtree != head.subtree:
            return ""
        if outcome.result in (Result.STALLED, Result.ROLLED_BACK):
            return outcome.reason
        degraded = outcome.result is Result.FAILED and not outcome.retry and record.degraded
        return record.degraded if degraded and host.holds_failures else ""

    def _operator_request_for(self, host: Reconciler) -> OperatorRequest | None:
        """A retry after a failed rollback is for the hosts it failed on; a rollback takes all hosts to one revision,
        and ends at the first host that does not take it."""
        request = self._request.operator
        if request is None:
            return None
        if request.kind is RequestKind.RETRY and (stuck := self._rolling_back()):
            return request if host.environment in stuck else None
        if request.kind is RequestKind.ROLLBACK and self.outcomes:
            pins = [pin for name in self.outcomes if (pin := self._ports.store.environment(name).pin)]
            failed = any(outcome.result in (Result.ROLLED_BACK, Result.STALLED) for outcome in self.outcomes.values())
            return replace(request, revision=pins[0].revision.commit) if pins and not failed else None
        return request

    def _rolling_back(self) -> frozenset[str]:
        """The units on which a rollback has failed, or is under way."""
        runs = {host.environment: self._ports.store.unfinished(host.environment) for host in self._hosts}
        under_way = {unit for unit, run in runs.items() if run is not None and run.rolling_back}
        return frozenset(under_way | {unit for unit in runs if self._ports.store.environment(unit).stopped})

    # --- which host rolls back ---

    async def _roll_back(self, host: Reconciler, failed: Reconciler, quarantine: Quarantine) -> None:
        """Roll the host back from the revision that ``failed`` has quarantined, if it has it and there is a way."""
        record, revision = self._record(host), quarantine.revision
        reason = f"on {failed.environment}: {quarantine.reason}"
        shared = replace(quarantine, reason=reason, good="", revert=None, revert_note="")
        if not _has(record, revision):
            return  # the revision is held back as long as the quarantine lasts
        good = await newest_good(self._ports, record, revision)
        if good is None or record.pin is not None:  # nothing to roll back to, or an operator has decided
            return
        if not await self._came_from(failed, quarantine, good):
            return
        # As if it had never gone further: if the old values fail now, they are not what gets rolled back.
        behind = replace(record.quarantined(shared), healthy=good, applied=good, whole=good)
        self._ports.store.save_environment(behind)
        outcome = await self._reconcile(host, ReconcileRequest("rollback", poll=False))
        if outcome.result in _SUCCEEDED:
            reason = f"{reason}. Rolled back to {good.short}: {outcome.reason}"
            outcome = replace(outcome, result=Result.ROLLED_BACK, reason=reason)
        self.outcomes[host.environment] = outcome

    async def _came_from(self, failed: Reconciler, quarantine: Quarantine, good: Revision) -> bool:
        """Whether the failed host had ``good`` before the quarantined revision. A new host, or one that was away for a
        while, says nothing about what has worked on the others since."""
        runs = self._ports.store.runs(failed.environment, _SEARCHED_RUNS)
        run = next((run for run in runs if run.id == quarantine.run), None)
        if run is None or not run.from_commit:
            return False
        directory = path_in_git(self._ports, failed.environment)
        return (await self._ports.git.revision(run.from_commit, directory)).subtree == good.subtree

    async def _refuse_revert(self, host: Reconciler) -> None:
        """Do not ask git to revert what works on other hosts."""
        record = self._record(host)
        quarantine = record.pending_revert
        if quarantine is None:
            return
        for peer in self._hosts:
            if peer is host:
                continue
            good = await newest_good(self._ports, self._record(peer), quarantine.revision)
            if good is not None and not await self._came_from(host, quarantine, good):
                note = f"In git: not reverted, {good.short} works on {peer.environment} meanwhile"
                refused = replace(quarantine, revert=RevertState.REFUSED, revert_note=note)
                self._ports.store.save_environment(record.quarantined(refused))
                return

    def _record(self, host: Reconciler) -> EnvironmentRecord:
        return self._ports.store.environment(host.environment)


def _has(record: EnvironmentRecord, revision: Revision) -> bool:
    return any(known is not None and known.subtree == revision.subtree for known in (record.applied, record.healthy))


def _request_for(host: Reconciler, request: ReconcileRequest) -> ReconcileRequest:
    """The request as it concerns this host: "production/api.env" names the target on every host of production."""
    unit, operator = host.environment, request.operator
    mine = [name for name in request.take_over if name.partition("/")[0] in (unit, environment_of(unit))]
    accepted = [name for name in request.accept_projects if name.partition("/")[0] in (unit, environment_of(unit))]
    return replace(
        request,
        take_over=frozenset(_name_on(unit, name) for name in mine),
        accept_projects=frozenset(_name_on(unit, name) for name in accepted),
        operator=replace(operator, scope=_name_on(unit, operator.scope)) if operator else None,
    )


def _name_on(unit: str, name: str) -> str:
    """The name of a target or stack on one host, given its name there or the one shared by all hosts."""
    environment, slash, rest = name.partition("/")
    return f"{unit}/{rest}" if slash and environment == environment_of(unit) else name


def select_units(units: Collection[str], names: Collection[str]) -> frozenset[str]:
    """The units that ``names`` mean: an environment means all of its hosts; no names mean all units."""
    return frozenset(unit for unit in units if not names or unit in names or environment_of(unit) in names)


def without_needless_refusals(outcomes: Sequence[Outcome]) -> tuple[Outcome, ...]:
    """The outcomes without the hosts that a request does not concern, if another host of the environment took it. One
    that refused it for what it would do there (at a revision) stays."""
    accepted = {environment_of(outcome.environment) for outcome in outcomes if not outcome.refused}
    return tuple(
        outcome
        for outcome in outcomes
        if not outcome.refused or outcome.revision or environment_of(outcome.environment) not in accepted
    )
