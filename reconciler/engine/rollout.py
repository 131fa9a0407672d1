"""One environment on several hosts: who is given a new revision when, and who goes back where it fails.

Each host makes its own passes (reconcile.py), with its own record, backups and rollback. Here is only what lies between
them, and it is derived anew from their records at every turn, so that a process that was killed loses nothing.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from reconciler.core.model.records import EnvironmentRecord, Quarantine
from reconciler.core.model.requests import Order, OrderKind
from reconciler.core.model.revisions import RevertState, Revision
from reconciler.core.model.runs import Outcome, Result
from reconciler.core.model.targets import environment_of
from reconciler.core.ports import Ports
from reconciler.engine.observe import path_in_git
from reconciler.engine.reconcile import Reconciler
from reconciler.engine.target_revision import HeldBack, for_everybody
from reconciler.engine.transaction import newest_good

_WELL = frozenset({Result.APPLIED, Result.IN_SYNC, Result.CORRECTED})
_FAR_BACK = 100  # runs


@dataclass(frozen=True, slots=True)
class Turn:
    """What a host's pass is to be like.

    ``order`` is a person's, as it concerns this host; ``back``: it takes back what has failed on another host;
    ``revert``: git may be asked to follow a rollback at once.
    """

    poll: bool
    held_back: HeldBack = for_everybody
    order: Order | None = None
    back: bool = False
    revert: bool = True


Make = Callable[[Reconciler, Turn], Awaitable[Outcome]]


class Rollout:
    """The hosts of one environment, in the order in which they are given a new revision, so many at a time."""

    def __init__(self, ports: Ports, hosts: Sequence[Reconciler], max_unavailable: int = 1) -> None:
        self._ports = ports
        self._hosts = tuple(hosts)
        self._at_a_time = max_unavailable

    @property
    def units(self) -> tuple[str, ...]:
        """What the environment is called on each of its hosts."""
        return tuple(host.environment for host in self._hosts)

    async def run(
        self,
        make: Make,
        *,
        poll: bool = True,
        dry_run: bool = False,
        only: Collection[str] | None = None,
        order: Order | None = None,
    ) -> tuple[Outcome, ...]:
        """A pass on every host, made by ``make``, and what follows from how it went; on ``only`` some, if given.

        Git is asked once. Raises ReconcilerError where what lies between the hosts cannot be read or stored.
        """
        hosts = [host for host in self._hosts if only is None or host.environment in only]
        if len(self._hosts) == 1:
            return tuple([await make(host, Turn(poll, order=order)) for host in hosts])
        if not hosts:
            return ()
        await asyncio.gather(*(host.reach() for host in hosts), return_exceptions=True)  # each tells of itself below
        rollout = _Run(self._ports, self._hosts, make, dry_run, order)
        await rollout.begin()
        waiting = list(hosts)
        while waiting:  # the first one alone; where its order makes no sense, it has not asked git either
            first = waiting.pop(0)
            outcome = await rollout.turn(first, poll=poll)
            if not outcome.refused:
                rollout.pass_on_the_head(first)
                break
        await rollout.go_back()
        for wave in self._waves(waiting):
            await asyncio.gather(*(rollout.turn(host) for host in wave))
            await rollout.go_back()
        return tuple(rollout.outcomes.values())

    def _waves(self, hosts: Sequence[Reconciler]) -> Iterator[Sequence[Reconciler]]:
        for start in range(0, len(hosts), self._at_a_time):
            yield hosts[start : start + self._at_a_time]


class _Run:
    """One turn of all hosts. ``outcomes`` are by what the environment is called on each."""

    def __init__(
        self, ports: Ports, hosts: Sequence[Reconciler], make: Make, dry_run: bool, order: Order | None
    ) -> None:
        self._ports = ports
        self._hosts = hosts
        self._make = make
        self._dry_run = dry_run
        self._order = order
        self.outcomes: dict[str, Outcome] = {}

    async def begin(self) -> None:
        """Give a new host the head that is known, have all of them try again if that is the order, and finish what a
        killed process has left between the hosts."""
        for host in self._hosts:
            if self._record(host).head is not None:
                self.pass_on_the_head(host, only_new=True)
                break
        if self._order is not None and self._order.kind is OrderKind.RETRY and not self._going_back():
            for host in self._hosts:  # else the others' quarantine would take it back at once
                record = self._record(host)
                if desired := record.pin.revision if record.pin else record.head:
                    self._ports.store.save_environment(record.trusting(desired))
        else:
            await self.go_back()

    async def turn(self, host: Reconciler, *, poll: bool = False) -> Outcome:
        """The host's pass, and its revert in git, where other hosts are no reason against it."""
        outcome = await self._make(
            host, Turn(poll, functools.partial(self._why_not, host), self._order_for(host), revert=False)
        )
        if not self._dry_run and not outcome.refused:
            await self._weigh_revert(host)
            outcome = await host.revert(outcome)
        earlier = self.outcomes.get(host.environment)  # it has just gone back
        self.outcomes[host.environment] = earlier if earlier and outcome.result is Result.IN_SYNC else outcome
        return outcome

    def pass_on_the_head(self, source: Reconciler, *, only_new: bool = False) -> None:
        """What one has accepted from git, all have accepted: it is one branch, asked once."""
        head = self._record(source).head
        for host in self._hosts:
            record = self._record(host)
            if head is not None and record.head != head and (record.head is None or not only_new):
                self._ports.store.save_environment(replace(record, head=head))

    async def go_back(self) -> None:
        """What one host has in quarantine is no other's either: those that have it already go back, the last first."""
        if self._dry_run:
            return
        for failed in self._hosts:
            record = self._record(failed)
            quarantine = record.quarantine_of(record.head) if record.head else None
            for host in reversed(self._hosts) if quarantine else ():
                assert quarantine is not None
                if host is not failed and self._record(host).quarantine_of(quarantine.revision) is None:
                    await self._share(host, failed, quarantine)

    # --- who may have a new revision ---

    def _why_not(self, host: Reconciler, head: Revision) -> str:
        """Why the host is not to be given the head yet; "" where it may have it, or is in the middle of it."""
        unfinished = self._ports.store.unfinished(host.environment)
        if unfinished is not None and unfinished.revision.subtree == head.subtree:
            return ""
        for other in self._hosts:
            if other is not host and (why := self._trouble_with(head, other)):
                return f"on {other.environment}: {why}"
        return ""

    def _trouble_with(self, head: Revision, other: Reconciler) -> str:
        record, outcome = self._record(other), self.outcomes.get(other.environment)
        if quarantine := record.quarantine_of(head):
            return quarantine.reason
        if outcome is None or outcome.revision is None or outcome.revision.subtree != head.subtree:
            return ""
        if outcome.result in (Result.STALLED, Result.ROLLED_BACK):
            return outcome.reason
        degraded = outcome.result is Result.FAILED and not outcome.retry and record.degraded
        return record.degraded if degraded and other.holds_failures else ""

    def _order_for(self, host: Reconciler) -> Order | None:
        """A retry where a rollback has failed is for that host; a rollback leads all hosts to one revision, and ends
        with the first host that does not take it."""
        if self._order is None:
            return None
        if self._order.kind is OrderKind.RETRY and (stuck := self._going_back()):
            return self._order if host.environment in stuck else None
        if self._order.kind is OrderKind.ROLLBACK and self.outcomes:
            pins = [pin for name in self.outcomes if (pin := self._ports.store.environment(name).pin)]
            bad = any(one.result in (Result.ROLLED_BACK, Result.STALLED) for one in self.outcomes.values())
            return replace(self._order, revision=pins[0].revision.commit) if pins and not bad else None
        return self._order

    def _going_back(self) -> frozenset[str]:
        """Hosts on which a rollback has failed, or is under way."""
        runs = {host.environment: self._ports.store.unfinished(host.environment) for host in self._hosts}
        under_way = {unit for unit, run in runs.items() if run is not None and run.rolling_back}
        return frozenset(under_way | {unit for unit in runs if self._ports.store.environment(unit).stopped})

    # --- who goes back ---

    async def _share(self, host: Reconciler, failed: Reconciler, quarantine: Quarantine) -> None:
        record, revision = self._record(host), quarantine.revision
        reason = f"on {failed.environment}: {quarantine.reason}"
        shared = replace(quarantine, reason=reason, good="", revert=None, revert_note="")
        if not _has(record, revision):
            return  # it is held back for as long as the quarantine lasts
        back = await newest_good(self._ports, record, revision)
        if back is None or record.pin is not None:  # there is nothing to go back to, or a person has decided
            return
        if not await self._in_step(failed, quarantine, back):
            return
        # As if it had never gone further: should the old values fail now, it is not them that are rolled back.
        behind = replace(record.quarantined(shared), healthy=back, applied=back)
        self._ports.store.save_environment(behind)
        outcome = await self._make(host, Turn(poll=False, back=True))
        if outcome.result in _WELL:
            told = f"{reason}. Back at {back.short}: {outcome.reason}"
            outcome = replace(outcome, result=Result.ROLLED_BACK, reason=told)
        self.outcomes[host.environment] = outcome

    async def _in_step(self, failed: Reconciler, quarantine: Quarantine, back: Revision) -> bool:
        """Whether the failed host came from where the others would go back to. One that is new, or was away for a
        while, tells nothing of what has been well on the others since."""
        run = next(
            (run for run in self._ports.store.runs(failed.environment, _FAR_BACK) if run.id == quarantine.run), None
        )
        if run is None or not run.from_commit:
            return False
        directory = path_in_git(self._ports, failed.environment)
        return (await self._ports.git.revision(run.from_commit, directory)).subtree == back.subtree

    async def _weigh_revert(self, host: Reconciler) -> None:
        """Ask git for no revert of what is well on other hosts."""
        record = self._record(host)
        quarantine = next((one for one in record.quarantines if one.revert is RevertState.PENDING), None)
        if quarantine is None:
            return
        for other in self._hosts:
            known = self._record(other)
            back = await newest_good(self._ports, known, quarantine.revision) if other is not host else None
            if back is not None and not await self._in_step(host, quarantine, back):
                note = f"In git: not reverted, as {other.environment} went well with {back.short} meanwhile"
                settled = replace(quarantine, revert=RevertState.REFUSED, revert_note=note)
                self._ports.store.save_environment(record.quarantined(settled))
                return

    def _record(self, host: Reconciler) -> EnvironmentRecord:
        return self._ports.store.environment(host.environment)


def _has(record: EnvironmentRecord, revision: Revision) -> bool:
    return any(known is not None and known.subtree == revision.subtree for known in (record.applied, record.healthy))


async def take_turn(
    host: Reconciler, trigger: str, turn: Turn, *, dry_run: bool = False, take_over: Collection[str] = ()
) -> Outcome:
    """One pass of a host, as its turn says. An order, and names of targets, may be for all hosts of the environment."""
    if turn.back:
        return await host.run("rollback", poll=False)
    here, order = host.environment, turn.order
    mine = [name for name in take_over if name.partition("/")[0] in (here, environment_of(here))]
    return await host.run(
        trigger,
        poll=turn.poll,
        dry_run=dry_run,
        take_over=frozenset(_here(name, here) for name in mine),
        order=replace(order, scope=_here(order.scope, here)) if order else None,
        held_back=turn.held_back,
        revert=turn.revert,
    )


def _here(name: str, unit: str) -> str:
    """A target or stack as this host calls it: "production/api.env" names it on all of them."""
    environment, slash, rest = name.partition("/")
    return f"{unit}/{rest}" if slash and environment == environment_of(unit) else name


def chosen_units(units: Collection[str], asked: Collection[str]) -> frozenset[str]:
    """Those that are meant: an environment means all of its hosts; nothing means all there are."""
    return frozenset(unit for unit in units if not asked or unit in asked or environment_of(unit) in asked)


def obeyed(outcomes: Sequence[Outcome]) -> tuple[Outcome, ...]:
    """Without the hosts to which an order made no sense, if it did to another of the same environment."""
    sensible = {environment_of(one.environment) for one in outcomes if not one.refused}
    return tuple(one for one in outcomes if not one.refused or environment_of(one.environment) not in sensible)
