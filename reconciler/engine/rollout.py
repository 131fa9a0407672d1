"""One environment on several hosts: who is given a new revision when, and who goes back where it fails.

Each host makes its own passes (reconcile.py), with its own record, backups and rollback. Here is only what lies between
them, and it is derived anew from their records at every turn, so that a process that was killed loses nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from reconciler.core.errors import HostUnreachableError
from reconciler.core.model import EnvironmentRecord, Order, Outcome, Quarantine, Result, Revision, environment_of
from reconciler.core.ports import Ports
from reconciler.engine.reconcile import Reconciler
from reconciler.engine.transact import newest_good

# After these a revision has not gone well on a host; one that merely does not answer stops nobody.
_STOPS = frozenset({Result.ROLLED_BACK, Result.ROLLBACK_FAILED, Result.STALLED})


@dataclass(frozen=True, slots=True)
class Turn:
    """What a host's pass is to be like. ``back``: it takes back what went well on it, and not on another host."""

    poll: bool
    held_back: str = ""
    back: str = ""


Make = Callable[[Reconciler, Turn], Awaitable[Outcome]]


class Rollout:
    """The hosts of one environment, in the order in which they are given a new revision, so many at a time."""

    def __init__(self, ports: Ports, hosts: Sequence[Reconciler], max_unavailable: int = 1) -> None:
        self._ports = ports
        self._hosts = tuple(hosts)
        self._at_a_time = max_unavailable

    async def run(
        self,
        make: Make,
        *,
        poll: bool = True,
        dry_run: bool = False,
        only: Collection[str] = (),
        retry: bool = False,
    ) -> tuple[Outcome, ...]:
        """A pass on every host, made by ``make``, and what follows from how it went; on ``only`` some, if any.

        Git is asked once, by the first. ``retry``: a person has ordered to try again what is in quarantine, which is
        for all hosts, or the others' quarantine would take it back.
        """
        hosts = [host for host in self._hosts if not only or host.environment in only]
        if len(self._hosts) == 1:
            return tuple([await make(host, Turn(poll)) for host in hosts])
        with contextlib.suppress(HostUnreachableError):  # each host tells of itself
            await asyncio.gather(*(host.reach() for host in hosts), return_exceptions=True)
        if retry:
            self._trust_what_is_wanted()
        outcomes: dict[str, Outcome] = {}
        asked = not poll
        for wave in self._waves(hosts):
            if not asked:
                first, *wave = wave
                outcomes[first.environment] = await make(first, Turn(True, self._why_not(first, outcomes)))
                asked = True
            self._pass_on_the_head(hosts)
            turns = [(host, Turn(False, self._why_not(host, outcomes))) for host in wave]
            found = await asyncio.gather(*(make(host, turn) for host, turn in turns))
            outcomes |= {host.environment: outcome for host, outcome in zip(wave, found, strict=True)}
            if not dry_run:
                outcomes |= {one.environment: one for one in await self._go_back(make)}
        return tuple(outcomes.values())

    def _waves(self, hosts: Sequence[Reconciler]) -> Iterator[list[Reconciler]]:
        for start in range(0, len(hosts), self._at_a_time):
            yield list(hosts[start : start + self._at_a_time])

    def _record(self, host: Reconciler) -> EnvironmentRecord:
        return self._ports.store.environment(host.environment)

    def _why_not(self, host: Reconciler, outcomes: dict[str, Outcome]) -> str:
        """Why the host is not to be given a new revision yet; "" where it may have it, or is in the middle of it."""
        unfinished, head = self._ports.store.unfinished(host.environment), self._record(host).head
        if unfinished is not None and head is not None and unfinished.revision.subtree == head.subtree:
            return ""
        for name, outcome in outcomes.items():
            degraded = outcome.result is Result.FAILED and self._ports.store.environment(name).degraded
            if outcome.result in _STOPS or degraded:
                return f"on {name} it ended as {outcome.result}: {outcome.reason}"
        return ""

    def _trust_what_is_wanted(self) -> None:
        for host in self._hosts:
            record = self._record(host)
            if wanted := record.pin.revision if record.pin else record.head:
                self._ports.store.save_environment(record.trusting(wanted))

    def _pass_on_the_head(self, hosts: Sequence[Reconciler]) -> None:
        """What one has accepted from git, all have accepted: it is one branch, asked once."""
        head = self._record(hosts[0]).head
        for host in hosts[1:]:
            record = self._record(host)
            if head is not None and record.head != head:
                self._ports.store.save_environment(replace(record, head=head))

    async def _go_back(self, make: Make) -> list[Outcome]:
        """What one host has in quarantine is no other's either: those that have it already go back, the last first."""
        outcomes = []
        for failed in self._hosts:
            record = self._record(failed)
            quarantine = record.quarantine_of(record.head) if record.head else None
            for host in reversed(self._hosts) if quarantine else ():
                assert quarantine is not None
                if host is not failed and self._record(host).quarantine_of(quarantine.revision) is None:
                    outcomes += await self._share(make, host, failed, quarantine)
        return outcomes

    async def _share(self, make: Make, host: Reconciler, failed: Reconciler, quarantine: Quarantine) -> list[Outcome]:
        record, revision = self._record(host), quarantine.revision
        reason = f"on {failed.environment}: {quarantine.reason}"
        shared = replace(quarantine, reason=reason, good="", revert=None, revert_note="")
        if not _has(record, revision):
            self._ports.store.save_environment(record.quarantined(shared))
            return []
        back = await newest_good(self._ports, record, revision)
        if back is None or record.pin is not None:  # there is nothing to go back to, or a person has decided
            return []
        self._ports.store.save_environment(replace(record.quarantined(shared), healthy=back))
        outcome = await make(host, Turn(poll=False, back=reason))
        if outcome.result not in (Result.APPLIED, Result.IN_SYNC, Result.CORRECTED):
            return [outcome]
        return [replace(outcome, result=Result.ROLLED_BACK, reason=f"{reason}. Back at {back.short}: {outcome.reason}")]


def _has(record: EnvironmentRecord, revision: Revision) -> bool:
    return any(known is not None and known.subtree == revision.subtree for known in (record.applied, record.healthy))


async def take_turn(
    host: Reconciler,
    trigger: str,
    turn: Turn,
    *,
    dry_run: bool = False,
    take_over: Collection[str] = (),
    order: Order | None = None,
) -> Outcome:
    """One pass of a host, as its turn says. An order, and names of targets, may be for all hosts of the environment."""
    if turn.back:
        return await host.run("rollback", poll=False)
    here = host.environment
    mine = [name for name in take_over if name.partition("/")[0] in (here, environment_of(here))]
    return await host.run(
        trigger,
        poll=turn.poll,
        dry_run=dry_run,
        take_over=frozenset(_here(name, here) for name in mine),
        order=replace(order, scope=_here(order.scope, here)) if order else None,
        held_back=turn.held_back,
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
