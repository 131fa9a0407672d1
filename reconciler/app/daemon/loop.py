"""The loop: triggers set one event and one reconciliation runs at a time; a trigger during one starts the next.

Git is asked beside it (git_poll.py): the reconciliation after its answer uses that.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from reconciler.app.daemon import logs
from reconciler.app.daemon.client import Progress
from reconciler.app.daemon.clock_watch import ClockWatch
from reconciler.app.daemon.git_poll import GitPoll
from reconciler.app.daemon.request_queue import RequestQueue
from reconciler.core.errors import ExhaustedError, ReconcilerError
from reconciler.core.exhaustion import exhausted_by
from reconciler.core.model.requests import GitAnswer, ReconcileRequest
from reconciler.core.model.runs import Activity, Outcome, Phase, Result
from reconciler.core.model.targets import environment_of
from reconciler.core.ports import Clock
from reconciler.core.ports.observer import Observer, Reconciled
from reconciler.engine.reconcile import Reconciler
from reconciler.engine.rollout import Rollout, select_units, without_needless_refusals

_FIRST_RETRY = 5.0
_LAST_RETRY = 300.0
_JITTER = 0.05
# After a reconciliation that a touched file has started, the next such one waits four times as long as the CPU was busy
# with that one: a flood of changes costs a fifth of a core at most. The first change after a quiet time is handled
# immediately, and so is one after a wait for services. No rest takes longer than so many seconds.
_REST = 4.0
_LONGEST_REST = 10.0
# The loop turns at least this often (seconds), so that a missing tick means that it hangs.
_TURN = 30.0
# Longer than any single step of a reconciliation: a `docker compose up` is given up after 11 minutes.
_LONGEST_STEP = 900.0
# A reconciliation in one of these is past its read side.
_CHANGING = (Phase.BACKUP, Phase.WRITE, Phase.RECREATE, Phase.VERIFY, Phase.ROLLBACK)
_WELL = (Result.APPLIED, Result.CORRECTED, Result.IN_SYNC)


def _cpu_seconds() -> float:
    """What this process has used, and the programs that it ran."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


class FileWatching(Protocol):
    """Gets the live files to watch, and calls ``Daemon.look_soon`` when one is touched."""

    def follow(self, files: Collection[str]) -> None: ...

    async def run(self, touched: Callable[[], None]) -> None: ...


class LoopMetrics(Protocol):
    """What the daemon reports about its own loop."""

    def tick(self, at: float) -> None: ...


@dataclass(frozen=True, slots=True)
class LastOutcome:
    """The last outcome of a unit: when it was reached, and since when the result has been the same.

    ``targets`` holds each target's state as one comparable value, and since when it has been so.
    """

    outcome: Outcome
    at: float
    since: float
    targets: Mapping[str, tuple[object, float]]


class Daemon:
    """Reconciles until ``stop()``; a running reconciliation is always finished.

    ``poll_interval`` and ``drift_interval`` in seconds: how often git is polled, how often live files are checked.
    ``requested`` is the activity of what operators request beside reconciliations, such as a restore.
    ``observers`` take every outcome; running them is the caller's part. ``on_head`` takes the branch's head whenever
    git has answered, before it is reconciled. ``cpu_seconds`` says how much CPU time the process has used.
    Requests that still wait at the end get a NotServedError: after a reload, the next daemon serves them.
    """

    def __init__(
        self,
        reconcilers: Mapping[str, Reconciler],
        rollouts: Sequence[Rollout],
        *,
        ask_git: Callable[[str], Awaitable[GitAnswer]],
        clock: Clock,
        metrics: LoopMetrics,
        poll_interval: float,
        drift_interval: float,
        watch: FileWatching | None = None,
        on_progress: Callable[[Progress | None], None] = lambda _: None,
        requested: Activity | None = None,
        observers: Sequence[Observer] = (),
        on_head: Callable[[str], None] = lambda _: None,
        cpu_seconds: Callable[[], float] = _cpu_seconds,
    ) -> None:
        self.reconcilers = reconcilers
        self._rollouts = tuple(rollouts)
        self._clock = clock
        self._metrics = metrics
        self._poll_interval = poll_interval
        self._drift_interval = drift_interval
        self._watch = watch
        self._on_progress = on_progress
        self._observers = tuple(observers)
        self._on_head = on_head
        self._cpu_seconds = cpu_seconds
        self._activities = [*(host.activity for host in reconcilers.values()), requested or Activity()]
        self._wake = asyncio.Event()
        self._stopping = False
        self._requests = RequestQueue(self._wake.set)
        self._poll = GitPoll(ask_git, self._wake.set)
        self._caught_up = False
        self._clock_watch = ClockWatch(clock)
        self._touched_by = ""
        self._rest_until = 0.0
        self._retries: dict[str, tuple[str, float]] = {}
        self.last_outcomes: dict[str, LastOutcome] = {}
        self.last_tick = 0.0

    @property
    def environments(self) -> tuple[str, ...]:
        return tuple(self.reconcilers)

    @property
    def ready(self) -> bool:
        """Whether every environment has been reconciled once, with what git has answered."""
        return self._caught_up and self.last_outcomes.keys() >= self.reconcilers.keys()

    @property
    def looked(self) -> bool:
        """Whether everything was looked at once with what git has answered, or has been read to change something.

        Unlike ``ready``, also where an error between two hosts leaves one of them without an outcome.
        """
        return self._caught_up or any(host.activity.phase in _CHANGING for host in self.reconcilers.values())

    @property
    def engines_away(self) -> dict[str, str]:
        """Why the Docker engine does not answer, by the environments that have to do without it."""
        return {name: host.engine_away for name, host in self.reconcilers.items() if host.engine_away}

    @property
    def alive(self) -> bool:
        """Whether the loop has turned lately, or what it runs has made a step: a reconciliation may take as long as the
        slowest service needs."""
        last = max(self.last_tick, *(activity.step_at for activity in self._activities))
        return self._clock.monotonic() - last < _LONGEST_STEP

    def now(self) -> float:
        """Seconds since the epoch, by the daemon's clock."""
        return self._clock.now()

    def stop(self) -> None:
        self._stopping = True
        self._wake.set()

    def poll_now(self, trigger: str) -> None:
        self._poll.request(trigger)
        self._wake.set()

    def look_soon(self, trigger: str) -> None:
        """Check the live side without polling git: ``trigger`` has seen that something there was touched.

        Only ``engine`` has containers looked at immediately, so no other one takes its place.
        """
        if self._touched_by != "engine":
            self._touched_by = trigger
        self._wake.set()

    async def between_reconciliations(
        self, work: Callable[[], Awaitable[Any]], progress: Progress = lambda _: None
    ) -> Any:
        """Have ``work`` done while no reconciliation runs; return what it returns, and raise what it raises."""
        self.report_reconciliations(progress)
        return await self._requests.put(work, progress)

    def report_reconciliations(self, progress: Progress) -> None:
        """Report what runs now, to whoever waits for its end."""
        for name, host in self.reconcilers.items():
            if host.activity.since is not None:
                progress(f"waiting for the reconciliation of {name} ({host.activity.words or 'reading git'})")

    async def reconcile(self, request: ReconcileRequest, environments: Collection[str] = ()) -> tuple[Outcome, ...]:
        """Reconcile the environments (all, where none is given); return the outcome of each.

        Only as ``work`` of ``between_reconciliations``. A request that should poll and brings no answer of git's does
        not wait for one: git is asked afterwards.
        """
        if request.poll and request.answer is None:
            request = replace(request, poll=False, revert=False)
            self.poll_now(request.trigger)
        only = select_units(self.reconcilers, environments)
        outcomes = [outcome for rollout in self._rollouts for outcome in await self._roll_out(rollout, request, only)]
        return without_needless_refusals(outcomes)

    async def run(self) -> None:
        next_look = 0.0
        self._poll.request("start")
        try:
            while not self._stopping:
                self.last_tick = self._clock.monotonic()
                self._metrics.tick(self._clock.now())
                self._clock_watch.look()
                await self._serve_requests()
                now = self._clock.monotonic()
                self._poll.begin_if_due(now)
                next_look = await self._turn(now, next_look)
                await self._publish_ages()
                await self._sleep(min(self._poll.next_at, next_look, self._clock.monotonic() + _TURN))
        finally:
            await self._poll.close()
        self._requests.close()

    async def _turn(self, now: float, next_look: float) -> float:
        """Reconcile if git has answered, something was touched, or a look is due; return when the next one is due."""
        polled = self._poll.take()
        touched = bool(self._touched_by) and now >= self._rest_until
        if not (polled or touched or now >= next_look):
            return next_look
        trigger, answer = polled or (self._touched_by if touched else "drift" if self._poll.answer else "start", None)
        self._touched_by = "engine" if polled and self._touched_by == "engine" else ""
        used = self._cpu_seconds()
        delay = await self._reconcile_all(trigger, answer)
        now = self._clock.monotonic()
        if polled:
            self._caught_up = True
            interval = self._poll_interval * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311
            self._poll.next_at = now + min(delay, interval)
        if touched and not polled:
            self._rest_until = now + min(_REST * (self._cpu_seconds() - used), _LONGEST_REST)
        return now + min(delay, self._drift_interval)

    async def _reconcile_all(self, trigger: str, answer: GitAnswer | None) -> float:
        """Reconcile every environment, with git's ``answer`` if there is a new one; return the seconds until the first
        retry of a failed one. What git has never answered for has nothing to be compared with yet."""
        known = answer or self._poll.answer
        reachable = known is not None and known.error is None and not self._poll.pending
        request = ReconcileRequest(trigger, poll=answer is not None, answer=answer, revert=reachable)
        rollouts = [rollout for rollout in self._rollouts if answer or _knows_git(rollout)]
        outcomes = [outcome for rollout in rollouts for outcome in await self._roll_out(rollout, request)]
        if self._watch is not None:
            local = [host for unit, host in self.reconcilers.items() if environment_of(unit) == unit]
            self._watch.follow({path for host in local for path in host.live_paths})
        return min([float("inf"), *(self._backoff(outcome) for outcome in outcomes)])

    async def _publish_ages(self) -> None:
        """Publish how old the secrets are, where that is not known: neither an outcome nor being ready waits for it."""
        if not self._caught_up:  # a known revision has been reconciled; git's first answer comes before
            return
        for host in self.reconcilers.values():
            try:
                await host.publish_ages()
            except Exception:  # noqa: BLE001  # a defect of ours must not end the daemon
                logs.get_logger().exception("reading the ages of secrets failed", environment=host.environment)

    async def _roll_out(
        self, rollout: Rollout, request: ReconcileRequest, only: Collection[str] | None = None
    ) -> tuple[Outcome, ...]:
        """The rollout's outcomes; an error between its hosts must not end the daemon."""
        if request.answer and request.answer.commit and not request.dry_run:
            self._on_head(request.answer.commit)
        try:
            return await rollout.reconcile(request, self._reconcile_host, only=only)
        except Exception as error:  # noqa: BLE001
            outcome = _failed(rollout.units[0], error)
            if not request.dry_run:
                self._remember(outcome, request.trigger)
            return (outcome,)

    async def _reconcile_host(self, host: Reconciler, request: ReconcileRequest) -> Outcome:
        try:
            outcome = await host.reconcile(request)
        except Exception as error:  # noqa: BLE001
            outcome = _failed(host.environment, error)
        if not request.dry_run and not outcome.refused:
            self._remember(outcome, request.trigger)
        return outcome

    def _remember(self, outcome: Outcome, trigger: str) -> None:
        now, before = self._clock.now(), self.last_outcomes.get(outcome.environment)
        last = before.outcome if before else None
        same = last is not None and (last.result, last.reason) == (outcome.result, outcome.reason)
        if _is_news(last, outcome):
            logs.log_outcome(outcome, trigger)
        else:
            facts = {"environment": outcome.environment, "trigger": trigger, "result": outcome.result.value}
            logs.get_logger().debug("reconciled, as before", **facts)
        host = self.reconcilers.get(outcome.environment)
        event = Reconciled(outcome, trigger, now, last, host.activity.health if host else None)
        for observer in self._observers:
            try:
                observer.reconciled(event)
            except Exception:  # noqa: BLE001  # what reports elsewhere must not stop the loop
                logs.get_logger().exception("reporting an outcome failed", environment=outcome.environment)
        since = before.since if same and before else now
        self.last_outcomes[outcome.environment] = LastOutcome(outcome, now, since, _targets_since(outcome, before, now))

    def _backoff(self, outcome: Outcome) -> float:
        """5 s, then twice as long each time up to 5 min, with jitter; a new revision starts again at 5 s."""
        if not outcome.retry:
            self._retries.pop(outcome.environment, None)
            return float("inf")
        commit = outcome.revision.commit if outcome.revision else ""
        known, last = self._retries.get(outcome.environment, (commit, 0.0))
        delay = min(_LAST_RETRY, last * 2) if last and known == commit else _FIRST_RETRY
        self._retries[outcome.environment] = (commit, delay)
        return delay * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311

    async def _serve_requests(self) -> None:
        while not (self._requests.empty or self._stopping):
            await self._requests.serve_next(self._on_progress)

    async def _sleep(self, until: float) -> None:
        """Until the monotonic time ``until``, or until there is something to do."""
        while not (self._stopping or not self._requests.empty or self._poll.wants_a_turn):
            now = self._clock.monotonic()
            end = min(until, self._rest_until) if self._touched_by else until
            if now >= end:
                return
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(end - now):
                    await self._wake.wait()


def _knows_git(rollout: Rollout) -> bool:
    try:
        return rollout.knows_git
    except Exception:  # noqa: BLE001  # the reconciliation meets it again, and reports it
        return True


def _failed(environment: str, error: Exception) -> Outcome:
    """A defect of ours must neither end the daemon nor stop the other environments."""
    if isinstance(error, ReconcilerError):
        return Outcome(environment, Result.FAILED, str(error), retry=True, error_id=error.id)
    if facts := exhausted_by(error):
        reason = f"it could not run to its end: {facts[0]}. {facts[1]}"
        return Outcome(environment, Result.FAILED, reason, retry=True, error_id=ExhaustedError.id)
    logs.get_logger().error("reconciliation failed unexpectedly", environment=environment, exc_info=error)
    reason = "internal error; the log has the traceback"
    return Outcome(environment, Result.FAILED, reason, retry=True, error_id=ReconcilerError.id)


def _is_news(last: Outcome | None, outcome: Outcome) -> bool:
    """Whether to log it: something was done, or the state has changed; not that all is still well."""
    if last is None or outcome.run is not None:
        return True
    if all(known.result in _WELL and not known.warning for known in (last, outcome)):
        return False
    return (last.result, last.reason, last.warning) != (outcome.result, outcome.reason, outcome.warning)


def _targets_since(outcome: Outcome, before: LastOutcome | None, now: float) -> dict[str, tuple[object, float]]:
    known = before.targets if before else {}
    targets: dict[str, tuple[object, float]] = {}
    for change in outcome.after.changes if outcome.after else ():
        state = (change.kind, change.effect, change.aspects, change.keys)
        last, since = known.get(change.target.id, (state, now))
        targets[change.target.id] = (state, since if last == state else now)
    return targets or dict(known)
