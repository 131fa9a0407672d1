"""Plans the open pull requests before they are merged, and says at the forge what each would do."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from reconciler.core.errors import (
    ForgeError,
    ReconcilerError,
    SignaturesUnavailableError,
    SourceError,
    UnverifiedError,
    with_id,
)
from reconciler.core.forge.merge_plan import PlannedMerge, PlannedUnit, merge_comment, merge_summary
from reconciler.core.ports.forge import CommitStatus, PullRequest
from reconciler.core.ports.git import BranchMerges, MergedBranch
from reconciler.core.ports.observer import Reconciled
from reconciler.core.ports.store import Store
from reconciler.engine.forge_reports import ForgeSide
from reconciler.engine.merge_preview import MergePreview

MOST_PLANNED = 20  # open pull requests that are planned, newest first
_LOAD_TIME = 60.0  # seconds to read and decrypt one environment, beside the reconciliations
_PLAN_TIME = 20.0  # seconds to look at one host, between them
# After a longer look than this (seconds), four times as long passes before the next one: whoever pushes a revision that
# is slow to plan takes a fifth of the loop's time at most.
_QUICK, _REST = 2.0, 4.0
_LAST_RETRY = 3600.0  # seconds
_TOO_LONG = "it takes too long to plan"

Turn = Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]
MakePreview = Callable[[MergedBranch], MergePreview]


@dataclass(frozen=True, slots=True)
class _Done:
    """What was planned of a pull request: its head and the target. ``again_at`` (monotonic seconds) is when to plan it
    again, where a host could not tell; after ``delay`` seconds, then twice as many each time."""

    state: tuple[str, str]
    again_at: float = float("inf")
    delay: float = 0.0


async def immediately(work: Callable[[], Awaitable[Any]]) -> Any:
    """The turn of somebody who is alone."""
    return await work()


class MergePlans:
    """An ``Observer``. ``previews`` are by unit; ``patterns`` say which branches are planned, ``host`` is the name of
    this server, ``interval`` how often the forge is asked by itself (seconds). ``turn`` does work while nothing is
    reconciled."""

    def __init__(
        self,
        side: ForgeSide,
        merges: BranchMerges,
        store: Store,
        previews: Mapping[str, MakePreview],
        *,
        patterns: tuple[str, ...],
        host: str,
        interval: float,
    ) -> None:
        self._side = side
        self._merges = merges
        self._store = store
        self._previews = previews
        self._patterns = patterns
        self._host = host
        self._interval = interval
        self._news = asyncio.Event()
        self._done: dict[int, _Done] = {}
        self._target = ""
        self._failing = ""
        self._took = 0.0
        self.turn: Turn = immediately

    def covers(self, branch: str) -> bool:
        """Whether pull requests from the branch are planned, if it is not a fork's."""
        return branch != self._side.branch and any(fnmatchcase(branch, pattern) for pattern in self._patterns)

    def look_soon(self) -> None:
        """Something about pull requests was announced."""
        self._news.set()

    def reconciled(self, event: Reconciled) -> None:
        if self._accepted_head() != self._target:
            self._news.set()

    async def run(self) -> None:
        while True:
            self._news.clear()
            pause = await self._look()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._news.wait()

    async def _look(self) -> float:
        """Plan what is new; return the seconds until the next look."""
        try:
            self._target = self._accepted_head()
            if self._target:
                await self._plan_open()
        except ReconcilerError as error:
            self._warn(str(error), error.id)
            return max(self._interval, error.retry_after if isinstance(error, ForgeError) else 0.0)
        except Exception as error:  # noqa: BLE001  # a defect of ours must not end the plans
            self._warn(f"internal error ({type(error).__name__})", ReconcilerError.id)
        else:
            self._failing = ""
        return self._interval

    def _accepted_head(self) -> str:
        heads = (self._store.environment(unit).head for unit in self._previews)
        return next((head.commit for head in heads if head is not None), "")

    async def _plan_open(self) -> None:
        """Raises the first error that keeps a pull request from being planned, after the others were."""
        pulls = await self._side.forge.open_pull_requests(self._side.branch)
        mine = [pull for pull in pulls if not pull.fork and self.covers(pull.branch)]
        newest = sorted(mine, key=lambda pull: pull.number, reverse=True)[:MOST_PLANNED]
        numbers = {pull.number for pull in newest}
        self._done = {number: done for number, done in self._done.items() if number in numbers}
        errors = []
        for pull in newest:
            state, now = (pull.head, self._target), time.monotonic()
            done = self._done.get(pull.number, _Done(("", "")))
            if done.state == state and now < done.again_at:
                continue
            try:
                plan = await self._planned(pull)
                await self._report(pull, plan)
            except ReconcilerError as error:
                errors.append(error)
            except Exception as error:  # noqa: BLE001  # a defect that one of them meets must not keep the others waiting
                self._done[pull.number] = _Done(state)
                self._warn(f"internal error in pull request {pull.number} ({type(error).__name__})", ReconcilerError.id)
            else:
                delay = min(_LAST_RETRY, 2 * done.delay if done.state == state else self._interval)
                retry = any(unit.failed for unit in plan.units)
                self._done[pull.number] = _Done(state, now + delay if retry else float("inf"), delay)
        if errors:
            raise errors[0]

    async def _planned(self, pull: PullRequest) -> PlannedMerge:
        """Raises GitUnreachableError, ConfigError, NotServedError."""
        head, target = pull.head, self._target
        try:
            async with self._merges.merged(pull.branch, target) as merged:
                head = merged.head
                if merged.conflicts:
                    return PlannedMerge(self._host, head, target, conflicts=merged.conflicts)
                units = [await self._unit(make(merged)) for make in self._previews.values()]
                return PlannedMerge(self._host, head, target, tuple(units))
        except (UnverifiedError, SignaturesUnavailableError) as error:
            refusal = f"its commits are not signed as required [{error.id}]"
        except SourceError as error:
            refusal = f"git refuses the branch, or it is too large [{error.id}]"
        return PlannedMerge(self._host, head, target, refusal=refusal)

    async def _unit(self, preview: MergePreview) -> PlannedUnit:
        try:
            async with asyncio.timeout(_LOAD_TIME):
                await preview.load()

            unit: PlannedUnit = await self.turn(lambda: self._look_at(preview))
        except TimeoutError:
            unit = PlannedUnit(preview.label, failed=_TOO_LONG)
        if self._took > _QUICK:
            await asyncio.sleep(_REST * self._took)
        return unit

    async def _look_at(self, preview: MergePreview) -> PlannedUnit:
        began = time.monotonic()
        try:
            async with asyncio.timeout(_PLAN_TIME):
                return await preview.plan()
        finally:
            self._took = time.monotonic() - began

    async def _report(self, pull: PullRequest, plan: PlannedMerge) -> None:
        """Set the status and the comment, unless they say so already. A closed pull request gets no comment."""
        summary, text = merge_summary(plan), merge_comment(plan)
        subject = f"plan {pull.number}"
        digest = hashlib.sha256("\0".join([plan.head, summary, text]).encode()).hexdigest()
        if self._side.memory.comment(subject) == digest:
            return
        context = f"reconciler/plan@{self._host}"
        forge, url = self._side.forge, self._side.links.run(None)
        await forge.set_status(CommitStatus(plan.head, context, plan.state, summary, url))
        if not plan.refusal:
            still_open = await forge.open_pull_requests(self._side.branch)
            if any(known.number == pull.number for known in still_open):
                await forge.put_comment(pull.number, self._side.mark(subject), text)
        self._side.memory.remember_comment(subject, digest)

    def _warn(self, text: str, id: str) -> None:
        """Once for a failure, until everything could be planned again."""
        if self._failing != id:
            self._failing = id
            logging.getLogger(__name__).warning("pull requests are not planned: %s", with_id(text, id))
