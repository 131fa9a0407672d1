"""Reports in the config repository with which commit this server's environments are healthy, for promotion gates of
other servers. Beside the loop: whether it works changes nothing here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from reconciler.core.decide.promotion import REPORTS, HealthyTime, changed_reports, healthy_time
from reconciler.core.errors import ReconcilerError, RefusedError
from reconciler.core.forge.statuses import named_with_host
from reconciler.core.ports import Clock
from reconciler.core.ports.git import Git, GitWriter
from reconciler.core.ports.observer import Reconciled

_REFUSED_AGAIN = 300.0  # seconds until what the remote has refused is tried again
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ReportSide:
    """Where to report, as which ``host``; ``count`` takes what became of each report: ok, refused, failed."""

    git: Git
    writer: GitWriter
    clock: Clock
    host: str
    count: Callable[[str], None]


class HealthReports:
    """An ``Observer``."""

    def __init__(self, side: ReportSide) -> None:
        self._side = side
        self._times: dict[str, HealthyTime | None] = {}
        self._published: dict[str, dict[str, str]] = {}
        self._not_before = 0.0
        self._failing = ""
        self._news = asyncio.Event()

    def reconciled(self, event: Reconciled) -> None:
        unit = named_with_host(event.outcome.environment, self._side.host)
        before = self._times.get(unit)
        time = healthy_time(before, event.outcome, event.health, event.at)
        if time is before is None and event.health is None:
            return  # nothing is known of its services yet
        self._times[unit] = time
        self._news.set()

    async def run(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            await self.report_news()

    async def report_news(self) -> None:
        """Report what the remote does not have yet."""
        for unit, time in list(self._times.items()):
            if self._side.clock.monotonic() >= self._not_before:
                await self._report(unit, time)

    async def _report(self, unit: str, time: HealthyTime | None) -> None:
        try:
            if unit not in self._published:
                self._published[unit] = dict(await self._side.git.refs_below(f"{REPORTS}/{unit}"))
            known = self._published[unit]
            changes = changed_reports(unit, time, known)
            if not changes:
                return
            if replaced := {ref: None for ref in changes if ref in known and changes[ref]}:
                await self._side.writer.publish(replaced)  # nothing is pushed by force
            await self._side.writer.publish(changes)
        except ReconcilerError as error:
            self._published.pop(unit, None)  # who knows what has arrived
            self._note_failure(error)
        except Exception:  # a defect of ours must not end it
            self._published.pop(unit, None)
            _logger.exception("reporting the health failed unexpectedly [internal-error]")
        else:
            self._published[unit] = {ref: commit for ref, commit in {**known, **changes}.items() if commit}
            self._failing = ""
            self._side.count("ok")

    def _note_failure(self, error: ReconcilerError) -> None:
        """Log what keeps it from reporting, once; what the remote refuses waits longer."""
        refused = isinstance(error, RefusedError)
        self._side.count("refused" if refused else "failed")
        if refused:
            self._not_before = self._side.clock.monotonic() + _REFUSED_AGAIN
        if error.id != self._failing:
            self._failing = error.id
            _logger.warning("the health is not reported to promotion gates: %s [%s]", error, error.id)
