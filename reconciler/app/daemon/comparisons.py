"""Keeps comparing the pairs of the server configuration, beside the loop: one at a time, within a time limit."""

from __future__ import annotations

import asyncio
import contextlib
import os
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from reconciler.app.compare.configured import ConfiguredPair, PairComparer
from reconciler.app.compare.differences import count_differences, limits_of, serialize_differences
from reconciler.app.compare.run import ComparisonReport
from reconciler.app.config.server import ServerConfig
from reconciler.app.daemon import logs
from reconciler.app.wiring.comparisons import ComparisonMetrics
from reconciler.app.wiring.server import Runtime
from reconciler.core.errors import OutsideError, ReconcilerError, StoreError
from reconciler.core.history.entries import iso_instant
from reconciler.core.ports import Clock
from reconciler.core.ports.observer import Reconciled

# How often (seconds) the accepted head is looked at: a reconciliation may run for minutes after it was accepted.
_TURN = 5.0
_LIMIT = 300.0  # seconds for one comparison
_RETRY = 60.0  # seconds until a comparison that failed is made again, if its interval is longer


class ComparesPairs(Protocol):
    """What makes a comparison: PairComparer, or a fake."""

    async def inputs(self, pair: ConfiguredPair, commit: str) -> str: ...

    async def compare(self, pair: ConfiguredPair, commit: str) -> ComparisonReport: ...


class PairMetrics(Protocol):
    """Takes how a comparison went; ``pair`` is its name and its two sides."""

    def compared(self, pair: tuple[str, str, str], counts: Mapping[str, int], at: float) -> None: ...

    def failing(self, pair: tuple[str, str, str], since: float) -> None: ...


@dataclass(slots=True)
class PairResult:
    """The last result of a pair, names and numbers alone. ``at`` is when it was last compared, ``failing_since`` since
    when that fails with ``error`` (epoch seconds; None: never, it does not)."""

    pair: ConfiguredPair
    at: float | None = None
    commit: str = ""
    unexplained: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)
    differences: Sequence[Mapping[str, Any]] = ()
    limits: Sequence[str] = ()
    error: str = ""
    failing_since: float | None = None


@dataclass(slots=True)
class _Progress:
    """What is known of a pair since the start of this daemon: ``commit`` and ``inputs`` of the last attempt, and when
    the next one is due (monotonic seconds). ``inputs`` is "" while only another attempt can tell."""

    commit: str = ""
    inputs: str = ""
    due_at: float = 0.0


class Comparisons:
    """Compares each pair every interval, when git brings a change of it, and when one of its live sides was changed.

    ``head`` returns the commit that the branch is accepted at, "" for none yet. An observer of the loop: it never
    delays or fails a reconciliation. ``known`` are results from before a reload, which stay until they are remade.
    """

    def __init__(
        self,
        pairs: Sequence[ConfiguredPair],
        comparer: ComparesPairs,
        *,
        head: Callable[[], str],
        clock: Clock,
        metrics: PairMetrics,
        limit: float = _LIMIT,
        known: Sequence[PairResult] = (),
    ) -> None:
        self._comparer = comparer
        self._head = head
        self._clock = clock
        self._metrics = metrics
        self._limit = limit
        former = {result.pair: result for result in known}
        self.results = tuple(former.get(pair) or PairResult(pair) for pair in pairs)
        self._progress = {pair.name: _Progress() for pair in pairs}
        self._wake = asyncio.Event()
        for result in self.results:
            self._report(result)

    def serialize(self) -> list[dict[str, Any]]:
        """Every pair with its last result, in the order of the configuration, for JSON and the page; never a value.

        ``at``, when it was last compared, ``failing_since``, and ``commit`` are None, and ``verdict`` is "not compared
        yet", before the first result. While ``error`` is not "", the rest is the last result before it. ``counts`` are
        the numbers of differences by class, ``limits`` sentences about what was not compared;
        ``differences``: see ``serialize_differences``.
        """
        return [_serialize(result) for result in self.results]

    def reconciled(self, event: Reconciled) -> None:
        if event.outcome.run is not None:
            for result in self.results:
                if event.outcome.environment in result.pair.units:
                    self._progress[result.pair.name].due_at = 0.0
        self._wake.set()

    async def run(self) -> None:
        while True:
            await self.compare_due()
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_TURN):
                    await self._wake.wait()

    async def compare_due(self) -> None:
        """Compare, one after the other, what is due now."""
        for result in self.results:
            try:
                head = self._head()
            except StoreError:  # the loop meets it as well, and reports it
                return
            progress = self._progress[result.pair.name]
            due = self._clock.monotonic() >= progress.due_at
            if head and (due or head != progress.commit):
                await self._attempt(result, progress, head, due=due)

    async def _attempt(self, result: PairResult, progress: _Progress, commit: str, *, due: bool) -> None:
        """Compare the pair, unless it would read the same again; keep what comes of it."""
        pair, failed = result.pair, ""
        progress.commit = commit
        try:
            async with asyncio.timeout(self._limit):
                inputs = await self._comparer.inputs(pair, commit)
                unchanged = inputs == progress.inputs
                if unchanged and not due:
                    return
                if not (unchanged and pair.in_git):
                    progress.inputs = ""
                    if self._keep(result, await self._comparer.compare(pair, commit), commit):
                        progress.inputs = inputs
        except TimeoutError:
            failed = f"{pair.name}: took longer than {self._limit:g} s. Will retry"
        except ReconcilerError as error:
            failed = str(error)
        except Exception as error:  # noqa: BLE001  # a defect of ours must not end the daemon
            failed = _defect(error)
        now, interval = self._clock.now(), pair.settings.interval
        progress.due_at = self._clock.monotonic() + (min(_RETRY, interval) if failed else interval)
        self._ended(result, failed, now)
        self._report(result)

    def _keep(self, result: PairResult, report: ComparisonReport, commit: str) -> bool:
        """Keep the comparison; return whether it can only change with what it has read. Raises OutsideError."""
        if report.failures:
            raise OutsideError(report.failures[0][1])
        (comparison,) = report.comparisons
        result.commit, result.unexplained = commit, comparison.unexplained
        result.counts = count_differences(comparison)
        result.differences = serialize_differences(comparison)
        result.limits = limits_of(comparison)
        return not (comparison.left.sealed or comparison.right.sealed)  # a key may come

    def _ended(self, result: PairResult, failed: str, now: float) -> None:
        logger, pair = logs.get_logger(), result.pair
        sides = {"comparison": pair.name, "left": pair.settings.left, "right": pair.settings.right}
        if failed and failed != result.error:
            logger.warning("comparison failed", **sides, reason=failed, error_id="comparison-failed")
        elif not failed and (result.error or result.at is None):
            logger.info("compared", **sides, unexplained=result.unexplained)
        result.error = failed
        result.failing_since = (result.failing_since or now) if failed else None
        result.at = result.at if failed else now

    def _report(self, result: PairResult) -> None:
        labels = result.pair.labels
        self._metrics.failing(labels, result.failing_since or 0.0)
        if result.at is not None:
            self._metrics.compared(labels, result.counts, result.at)


def comparisons_of(config: ServerConfig, built: Runtime, former: Comparisons | None) -> Comparisons:
    """The comparisons of a daemon, with the results of the ``former`` one."""

    def head() -> str:
        heads = [built.ports.store.environment(unit).head for unit in built.reconcilers]
        known = [revision for revision in heads if revision is not None]
        return max(known, key=lambda revision: revision.committed_at).commit if known else ""

    return Comparisons(
        [ConfiguredPair(name, settings) for name, settings in config.comparisons.items()],
        PairComparer(config),
        head=head,
        clock=built.ports.clock,
        metrics=ComparisonMetrics(built.metrics),
        known=former.results if former else (),
    )


def _serialize(result: PairResult) -> dict[str, Any]:
    pair = result.pair
    findings = f"{result.unexplained} unexplained finding{'' if result.unexplained == 1 else 's'}"
    verdict = findings if result.unexplained else "nothing unexplained"
    return {
        "name": pair.name,
        "left": pair.settings.left,
        "right": pair.settings.right,
        "interval": pair.settings.interval,
        "at": iso_instant(result.at),
        "commit": result.commit or None,
        "error": result.error,
        "error_id": "comparison-failed" if result.error else "",
        "failing_since": iso_instant(result.failing_since),
        "verdict": verdict if result.at is not None else "not compared yet",
        "unexplained": result.unexplained,
        "counts": dict(result.counts),
        "limits": list(result.limits),
        "differences": [dict(difference) for difference in result.differences],
    }


def _defect(error: Exception) -> str:
    """An unforeseen error, without its message, which may quote values."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{type(error).__name__} in {os.path.basename(where.filename)}, line {where.lineno}"
    return f"internal error ({place}). This is a bug in reconciler: please report it"
