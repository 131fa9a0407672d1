"""The loop: triggers set one event, one pass at a time; a trigger during a pass runs one more pass after it."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from reconciler.app.daemon import logs
from reconciler.core.errors import ReconcilerError
from reconciler.core.model.requests import OperatorRequest, ReconcileRequest
from reconciler.core.model.runs import Outcome, Result
from reconciler.core.model.targets import environment_of
from reconciler.core.ports import Clock
from reconciler.engine.reconcile import Reconciler
from reconciler.engine.rollout import Rollout, select_units, without_needless_refusals

_FIRST_RETRY = 5.0
_LAST_RETRY = 300.0
_JITTER = 0.05
# After a pass that a touched file has caused, the next such one waits four times as long as that one took: a flood of
# changes costs a fifth of a core at most. The first change after a quiet time is looked at once.
_REST = 4.0
# The loop turns at least this often (seconds), so that a tick that does not come means that it hangs.
_TURN = 30.0
_WELL = (Result.APPLIED, Result.CORRECTED, Result.IN_SYNC)


class Watch(Protocol):
    """What is told which live files there are, and calls ``Daemon.look_soon`` when one is touched."""

    def follow(self, files: Collection[str]) -> None: ...


class Tick(Protocol):
    """What the daemon tells the metrics about its own loop."""

    def tick(self, at: float) -> None: ...


@dataclass(frozen=True, slots=True)
class Request:
    """What a person asked for through the control socket."""

    trigger: str
    dry_run: bool
    take_over: Collection[str]
    environments: Collection[str]
    order: OperatorRequest | None
    answer: asyncio.Future[tuple[Outcome, ...]]
    progress: Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Errand:
    """Work that a person asked for and that must not meet a pass; ``answer`` gets what it returns, or raises."""

    work: Callable[[], Awaitable[Any]]
    answer: asyncio.Future[Any]
    progress: Callable[[str], None]

    async def carry_out(self) -> None:
        try:
            result = await self.work()
        except Exception as error:  # noqa: BLE001  # it is the asker's, who gets it as it is
            if not self.answer.done():
                self.answer.set_exception(error)
        else:
            if not self.answer.done():
                self.answer.set_result(result)


@dataclass(frozen=True, slots=True)
class Seen:
    """The last outcome of an environment: when it was found, and since when the result has been the same.

    ``targets`` tells for each target how it stands, as one comparable value, and since when.
    """

    outcome: Outcome
    at: float
    since: float
    targets: Mapping[str, tuple[object, float]]


class Daemon:
    """Runs passes until ``stop()``; the running pass is always let to its end.

    ``poll_interval`` and ``drift_interval`` in seconds: how often git is asked, how often live files are looked at.
    """

    def __init__(
        self,
        passes: Mapping[str, Reconciler],
        rollouts: Sequence[Rollout],
        *,
        clock: Clock,
        metrics: Tick,
        poll_interval: float,
        drift_interval: float,
        watch: Watch | None = None,
        on_progress: Callable[[Callable[[str], None] | None], None] = lambda _: None,
    ) -> None:
        self.passes = passes
        self._rollouts = tuple(rollouts)
        self._clock = clock
        self._metrics = metrics
        self._poll_interval = poll_interval
        self._drift_interval = drift_interval
        self._watch = watch
        self._on_progress = on_progress
        self._wake = asyncio.Event()
        self._stopping = False
        self._requests: list[Request | Errand] = []
        self._asked_by = ""
        self._touched_by = ""
        self._rested_at = 0.0
        self._retries: dict[str, tuple[str, float]] = {}
        self.seen: dict[str, Seen] = {}
        self.last_tick = 0.0

    @property
    def environments(self) -> tuple[str, ...]:
        return tuple(self.passes)

    @property
    def ready(self) -> bool:
        """Whether every environment has had a first pass."""
        return self.seen.keys() >= self.passes.keys()

    @property
    def alive(self) -> bool:
        """Whether the loop has turned lately; a pass may take as long as the slowest service needs."""
        return self._clock.monotonic() - self.last_tick < max(600.0, 3 * self._poll_interval)

    def stop(self) -> None:
        self._stopping = True
        self._wake.set()

    def poll_now(self, trigger: str) -> None:
        """Ask git at once."""
        self._asked_by = trigger
        self._wake.set()

    def look_soon(self, trigger: str) -> None:
        """Look at the live side, without asking git: ``trigger`` has told that something there was touched."""
        self._touched_by = trigger
        self._wake.set()

    async def ask(
        self,
        trigger: str,
        *,
        dry_run: bool = False,
        take_over: Collection[str] = (),
        environments: Collection[str] = (),
        order: OperatorRequest | None = None,
        progress: Callable[[str], None] = lambda _: None,
    ) -> tuple[Outcome, ...]:
        """Have a pass run that starts after this call, and return how it ended, per environment.

        ``order`` is carried out before it.
        """
        answer: asyncio.Future[tuple[Outcome, ...]] = asyncio.get_running_loop().create_future()
        self._requests.append(Request(trigger, dry_run, take_over, environments, order, answer, progress))
        self._wake.set()
        return await answer

    async def between_passes(
        self, work: Callable[[], Awaitable[Any]], progress: Callable[[str], None] = lambda _: None
    ) -> Any:
        """Have ``work`` done while no pass runs; return what it returns, and raise what it raises."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._requests.append(Errand(work, answer, progress))
        self._wake.set()
        return await answer

    async def run(self) -> None:
        next_poll, next_look = 0.0, 0.0
        self._asked_by = "start"
        while not self._stopping:
            self.last_tick = self._clock.monotonic()
            self._metrics.tick(self._clock.now())
            await self._serve_requests()
            now = self._clock.monotonic()
            poll = bool(self._asked_by) or now >= next_poll
            touched = bool(self._touched_by) and now >= self._rested_at
            if poll or touched or now >= next_look:
                trigger = (self._asked_by or "poll") if poll else self._touched_by if touched else "drift"
                self._asked_by = self._touched_by = ""
                delay = await self._pass_all(trigger, poll)
                began, now = now, self._clock.monotonic()
                if poll:
                    next_poll = now + min(delay, self._poll_interval * random.uniform(1 - _JITTER, 1 + _JITTER))  # noqa: S311
                next_look = now + min(delay, self._drift_interval)
                self._rested_at = now + _REST * (now - began)
            await self._sleep(min(next_poll, next_look, now + _TURN))
        for request in self._requests:
            request.answer.cancel()

    async def _pass_all(self, trigger: str, poll: bool) -> float:
        """One pass over every environment; returns the seconds until a failed one is to be tried again."""
        request = ReconcileRequest(trigger, poll=poll)
        outcomes = [outcome for rollout in self._rollouts for outcome in await self._roll_out(rollout, request)]
        if self._watch is not None:
            here = [one for name, one in self.passes.items() if environment_of(name) == name]
            self._watch.follow({path for one in here for path in one.live_paths})
        return min([float("inf"), *(self._backoff(outcome) for outcome in outcomes)])

    async def _roll_out(
        self, rollout: Rollout, request: ReconcileRequest, only: Collection[str] | None = None
    ) -> tuple[Outcome, ...]:
        """The rollout's outcomes; what goes wrong between its hosts must not end the daemon."""
        try:
            return await rollout.reconcile(request, self._reconcile, only=only)
        except Exception as error:  # noqa: BLE001
            outcome = _failed(rollout.units[0], error)
            if not request.dry_run:
                self._remember(outcome, request.trigger)
            return (outcome,)

    async def _reconcile(self, host: Reconciler, request: ReconcileRequest) -> Outcome:
        try:
            outcome = await host.reconcile(request)
        except Exception as error:  # noqa: BLE001
            outcome = _failed(host.environment, error)
        if not request.dry_run and not outcome.refused:
            self._remember(outcome, request.trigger)
        return outcome

    def _remember(self, outcome: Outcome, trigger: str) -> None:
        now, before = self._clock.now(), self.seen.get(outcome.environment)
        last = before.outcome if before else None
        same = last is not None and (last.result, last.reason) == (outcome.result, outcome.reason)
        if _is_news(last, outcome):
            logs.outcome(outcome, trigger)
        since = before.since if same and before else now
        self.seen[outcome.environment] = Seen(outcome, now, since, _targets_since(outcome, before, now))

    def _backoff(self, outcome: Outcome) -> float:
        """5 s, then twice as long each time up to 5 min, with jitter; a new revision starts afresh."""
        if not outcome.retry:
            self._retries.pop(outcome.environment, None)
            return float("inf")
        commit = outcome.revision.commit if outcome.revision else ""
        known, last = self._retries.get(outcome.environment, (commit, 0.0))
        delay = min(_LAST_RETRY, last * 2) if last and known == commit else _FIRST_RETRY
        self._retries[outcome.environment] = (commit, delay)
        return delay * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311

    async def _serve_requests(self) -> None:
        while self._requests:
            request = self._requests.pop(0)
            self._on_progress(request.progress)
            if isinstance(request, Errand):
                await request.carry_out()
            else:
                await self._make_passes(request)
            self._on_progress(None)

    async def _make_passes(self, request: Request) -> None:
        wanted = ReconcileRequest(
            request.trigger, dry_run=request.dry_run, take_over=request.take_over, operator=request.order
        )
        only = select_units(self.passes, request.environments)
        outcomes = [outcome for rollout in self._rollouts for outcome in await self._roll_out(rollout, wanted, only)]
        if not request.answer.done():
            request.answer.set_result(without_needless_refusals(outcomes))

    async def _sleep(self, until: float) -> None:
        """Until the monotonic time ``until``, or until there is something to do."""
        while not (self._stopping or self._requests or self._asked_by):
            now = self._clock.monotonic()
            end = min(until, self._rested_at) if self._touched_by else until
            if now >= end:
                return
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(end - now):
                    await self._wake.wait()


def _failed(environment: str, error: Exception) -> Outcome:
    """A defect of ours must not end the daemon, nor stop the other environments."""
    if isinstance(error, ReconcilerError):
        return Outcome(environment, Result.FAILED, str(error), retry=True)
    logs.get_logger().error("pass failed unexpectedly", environment=environment, exc_info=error)
    return Outcome(environment, Result.FAILED, "internal error; the log has the traceback", retry=True)


def _is_news(last: Outcome | None, outcome: Outcome) -> bool:
    """Whether the log should tell of it: something was done, or it stands otherwise than before; not that all is well
    still."""
    if last is None or outcome.run is not None:
        return True
    if all(one.result in _WELL and not one.warning for one in (last, outcome)):
        return False
    return (last.result, last.reason, last.warning) != (outcome.result, outcome.reason, outcome.warning)


def _targets_since(outcome: Outcome, before: Seen | None, now: float) -> dict[str, tuple[object, float]]:
    known = before.targets if before else {}
    found: dict[str, tuple[object, float]] = {}
    for change in outcome.after.changes if outcome.after else ():
        state = (change.kind, change.effect, change.aspects, change.keys)
        last, since = known.get(change.target.id, (state, now))
        found[change.target.id] = (state, since if last == state else now)
    return found or dict(known)
