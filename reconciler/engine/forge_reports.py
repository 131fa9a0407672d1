"""Reports to a forge, beside the loop: a status for every environment and host, a comment after a rollback.

What a status says is derived from the stored record and the last outcome, and compared with what the forge was last
told in that context; so a restart loses nothing and repeats nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass

from reconciler.core.errors import ForgeError, ReconcilerError, with_id
from reconciler.core.forge.rollback_comment import RolledBack, rollback_comment
from reconciler.core.forge.statuses import (
    RECONCILING,
    CommitVerdict,
    context_of,
    is_news,
    named_with_host,
    overtaken,
    verdict_on,
)
from reconciler.core.model.records import EnvironmentRecord, Quarantine
from reconciler.core.model.runs import Result, Run
from reconciler.core.model.targets import environment_of
from reconciler.core.ports import Clock
from reconciler.core.ports.forge import CommitState, CommitStatus, Forge, ForgeMemory
from reconciler.core.ports.observer import Reconciled
from reconciler.core.ports.store import Store

_AT_THE_SAME_TIME = 4
_MOST_EVENTS = 1000
_MOST_REPORTS = 1000
_FIRST_RETRY = 5.0  # seconds
_LAST_RETRY = 300.0
_SEARCHED_RUNS = 50
# A rollback that is older when a daemon first reports to a forge is nobody's news any more.
_RECENT = 86400.0


@dataclass(frozen=True, slots=True)
class ForgeLinks:
    """Where links lead: the daemon's page, and without one nowhere."""

    page_url: str = ""

    def run(self, run: str | None) -> str:
        """The page of a run; the overview where there is none."""
        base = self.page_url.rstrip("/")
        return f"{base}/runs/{run}" if base and run else f"{base}/" if base else ""


@dataclass(slots=True)
class _Report:
    """Something to send: ``content``. Of two with the same ``thread``, the second is sent after the first."""

    thread: str
    content: object
    send: Callable[[], Awaitable[None]]
    attempts: int = 0
    not_before: float = 0.0


@dataclass(frozen=True, slots=True)
class ForgeSide:
    """The forge, what was reported there, and how texts for it are made. ``branch`` is the one that is followed;
    ``mark`` makes the marker of a comment, which others cannot guess; ``host`` is this machine's name."""

    forge: Forge
    memory: ForgeMemory
    branch: str
    links: ForgeLinks
    mark: Callable[[str], str]
    host: str = ""


class ForgeReports:
    """An ``Observer``; ``head_seen`` also takes each new head of the branch. ``units`` are all that are reconciled."""

    def __init__(self, side: ForgeSide, store: Store, clock: Clock, units: Collection[str]) -> None:
        self._side = side
        self._store = store
        self._clock = clock
        self._units = tuple(units)
        self._head = ""
        self._events: deque[str | Reconciled] = deque(maxlen=_MOST_EVENTS)
        self._reports: dict[str, _Report] = {}
        self._sending: dict[str, asyncio.Task[None]] = {}
        self._news = asyncio.Event()
        self._failing = ""
        # By unit, what the comment follows from: composing it reads the history, and most outcomes change nothing.
        self._commented_on: dict[str, object] = {}

    def head_seen(self, commit: str) -> None:
        """Git has answered with this head of the branch; its reconciliations begin now."""
        if commit != self._head:
            self._events.append(commit)
            self._news.set()

    def reconciled(self, event: Reconciled) -> None:
        self._events.append(event)
        self._news.set()

    async def run(self) -> None:
        try:
            while True:
                self._news.clear()
                self._derive()
                pause = self._send_due()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._news.wait()
        finally:
            for task in self._sending.values():
                task.cancel()
            await asyncio.gather(*self._sending.values(), return_exceptions=True)

    # --- what there is to say ---

    def _derive(self) -> None:
        """Turn the events into reports."""
        while self._events:
            event = self._events.popleft()
            try:
                if isinstance(event, str):
                    self._take_head(event)
                else:
                    self._take_outcome(event)
            except ReconcilerError as error:  # the next outcome says it again
                self._warn(str(error), error.id)
            except Exception as error:  # noqa: BLE001  # a defect of ours must not end the reports
                self._warn(f"internal error ({type(error).__name__})", ReconcilerError.id)

    def _take_head(self, commit: str) -> None:
        self._head = commit
        for unit in self._units:
            record, unfinished = self._store.environment(unit), self._store.unfinished(unit)
            if unfinished is not None and unfinished.rolling_back:
                continue  # how that ends comes first
            if record.head is None or record.head.commit != commit:
                self._report_status(record, CommitVerdict(commit, CommitState.PENDING, RECONCILING), None)

    def _take_outcome(self, event: Reconciled) -> None:
        outcome, unit = event.outcome, event.outcome.environment
        record = self._store.environment(unit)
        if verdict := verdict_on(outcome, record, self._head):
            self._report_status(record, verdict, outcome.run)
        facts = (record.quarantines, record.stopped, record.applied, outcome.result)
        if self._commented_on.get(unit) != facts:
            self._report_rollback(unit, record)
            self._commented_on[unit] = facts

    def _report_status(self, record: EnvironmentRecord, verdict: CommitVerdict, run: str | None) -> None:
        context = context_of(record.name, self._side.host)
        last = self._side.memory.status(context)
        self._drop_overtaken(context, verdict.commit)
        if last and (end := overtaken(last, verdict.commit, record)):
            self._add_status(end.status(context, self._side.links.run(None)))
        on_its_way = self._reports.get(f"{context} {verdict.commit}")
        if on_its_way and isinstance(on_its_way.content, CommitStatus) and not is_news(verdict, on_its_way.content):
            return
        if is_news(verdict, last):
            self._add_status(verdict.status(context, self._side.links.run(run)))
        else:  # what was to be said in between is no longer true
            self._reports.pop(f"{context} {verdict.commit}", None)

    def _drop_overtaken(self, context: str, commit: str) -> None:
        """What waits to be shown as pending beside another commit is no longer true."""
        for key, report in list(self._reports.items()):
            status = report.content if report.thread == context else None
            if isinstance(status, CommitStatus) and status.commit != commit and status.state is CommitState.PENDING:
                del self._reports[key]

    def _add_status(self, status: CommitStatus) -> None:
        async def send() -> None:
            await self._side.forge.set_status(status)
            self._side.memory.remember_status(status)

        self._add(f"{status.context} {status.commit}", _Report(status.context, status, send))

    def _add(self, key: str, report: _Report) -> None:
        """A newer report replaces an older one of the same key, and comes after all others."""
        before = self._reports.get(key)
        if before is not None and before.content == report.content:
            return
        if before is not None:
            del self._reports[key]
            report.attempts, report.not_before = before.attempts, before.not_before
        self._reports[key] = report
        if len(self._reports) > _MOST_REPORTS:
            del self._reports[next(iter(self._reports))]

    # --- rollbacks ---

    def _report_rollback(self, unit: str, record: EnvironmentRecord) -> None:
        """Comment on the newest rollback of the environment, unless the comment says it all already."""
        if not record.quarantines:
            return
        newest = record.quarantines[-1]
        environment, commit = environment_of(unit), newest.revision.commit
        if self._clock.now() - newest.at > _RECENT:
            return
        cases = self._cases(environment, commit)
        if not cases:
            return
        text = rollback_comment(commit, cases)
        digest = f"{commit} {hashlib.sha256(text.encode()).hexdigest()}"
        subject = f"rollback {environment}"
        if self._side.memory.comment(subject) == digest:
            return

        async def send() -> None:
            number = await self._side.forge.merged_pull_request(commit, self._side.branch)
            if number is not None:
                await self._side.forge.put_comment(number, self._side.mark(f"{subject} {commit}"), text)
            self._side.memory.remember_comment(subject, digest)

        self._add(f"{subject} {commit}", _Report(subject, digest, send))

    def _cases(self, environment: str, commit: str) -> list[RolledBack]:
        """How the commit was rolled back on each host of the environment, as far as that has ended."""
        cases = []
        for unit in self._units:
            if environment_of(unit) == environment:
                record = self._store.environment(unit)
                quarantine = next((known for known in record.quarantines if known.revision.commit == commit), None)
                if quarantine and (case := self._case(record, quarantine)):
                    cases.append(case)
        return cases

    def _case(self, record: EnvironmentRecord, quarantine: Quarantine) -> RolledBack | None:
        unfinished = self._store.unfinished(record.name)
        if unfinished is not None and unfinished.rolling_back:
            return None
        run = self._run(record.name, quarantine.run)
        in_place = record.applied is not None and record.applied.subtree == quarantine.revision.subtree
        failed = bool(record.stopped) or (run is not None and run.result is Result.ROLLBACK_FAILED)
        if in_place and not failed:
            return None  # another host's failure is about to take it back here
        url = self._side.links.run(run.id) if run else ""
        return RolledBack(named_with_host(record.name, self._side.host), quarantine, run, failed=failed, url=url)

    def _run(self, unit: str, identity: str) -> Run | None:
        runs = self._store.runs(unit, _SEARCHED_RUNS)
        return next((run for run in runs if run.id == identity), None)

    # --- sending ---

    def _send_due(self) -> float | None:
        """Begin to send what may be sent now; return the seconds until the next retry, None if something else comes
        before."""
        now = self._clock.monotonic()
        for key, report in self._reports.items():
            if (
                len(self._sending) < _AT_THE_SAME_TIME
                and report.thread not in self._sending
                and report.not_before <= now
            ):
                self._sending[report.thread] = asyncio.create_task(self._send(key, report))
        waits = [report.not_before - now for report in self._reports.values()]
        return max(0.0, min(waits)) if waits and not self._sending else None

    async def _send(self, key: str, report: _Report) -> None:
        try:
            await report.send()
        except ReconcilerError as error:
            report.attempts += 1
            wait = error.retry_after if isinstance(error, ForgeError) else 0.0
            delay = max(wait, min(_LAST_RETRY, _FIRST_RETRY * 2 ** (report.attempts - 1)))
            report.not_before = self._clock.monotonic() + delay
            newer = self._reports.get(key)
            if newer is not None and newer is not report:
                newer.attempts, newer.not_before = report.attempts, report.not_before
            self._warn(str(error), error.id)
        except Exception as error:  # noqa: BLE001  # a defect of ours must not end the reports
            self._done(key, report)
            self._warn(f"internal error ({type(error).__name__})", ReconcilerError.id)
        else:
            self._done(key, report)
            self._failing = ""
        finally:
            self._sending.pop(report.thread, None)
            self._news.set()

    def _done(self, key: str, report: _Report) -> None:
        if self._reports.get(key) is report:
            del self._reports[key]

    def _warn(self, text: str, id: str) -> None:
        """Once for a failure, until something could be reported again."""
        if self._failing != id:
            self._failing = id
            logging.getLogger(__name__).warning("not reported to the forge: %s", with_id(text, id))
