"""What is reported to a forge, and when: statuses, and the comment after a rollback."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from reconciler.adapters.clock import SystemClock
from reconciler.adapters.forge.memory import SqliteForgeMemory
from reconciler.adapters.store import SqliteStore
from reconciler.core.errors import ForgeError
from reconciler.core.forge.rollback_comment import RolledBack, rollback_comment
from reconciler.core.forge.statuses import CommitVerdict, is_news, verdict_on
from reconciler.core.model.compose import Action, ActionKind
from reconciler.core.model.plans import Plan
from reconciler.core.model.records import EnvironmentRecord, Pin, Quarantine
from reconciler.core.model.revisions import RevertState, Revision
from reconciler.core.model.runs import Outcome, Result, Run, RunChange
from reconciler.core.ports.forge import CommitState, CommitStatus, PullRequest
from reconciler.core.ports.observer import Reconciled
from reconciler.engine import forge_reports
from reconciler.engine.forge_reports import ForgeLinks, ForgeReports, ForgeSide
from tests.support.cases import each
from tests.support.waiting import until

A, B, C = (Revision(letter * 40, f"tree-{letter}", "Ada", 1.0, "Change") for letter in "abc")
RUN = Run("run-b", "production", "poll", 1.0, B, from_commit=A.commit, backup="backup-1", result=Result.ROLLED_BACK)
REASON = "stack app: api exited with code 1"


def outcome(result: Result, revision: Revision | None = B, **facts: object) -> Outcome:
    return replace(Outcome("production", result, f"because {REASON}", revision), **facts)


def record(head: Revision | None = B, **facts: object) -> EnvironmentRecord:
    return replace(EnvironmentRecord("production", head=head, applied=A, healthy=A), **facts)


def quarantine(revision: Revision = B, at: float = 0.0, **facts: object) -> Quarantine:
    return replace(Quarantine(revision, REASON, at, "run-b", good=A.commit, revert=RevertState.PENDING), **facts)


QUARANTINED = record(quarantines=(quarantine(),))
PINNED = record(pin=Pin(A, "incident", 1.0))
UNSIGNED = outcome(Result.IN_SYNC, A, warning="b is not signed. Sign it [unsigned-commit]")


@each(
    ("ended", "stored", "state", "summary"),
    [
        pytest.param(outcome(Result.APPLIED), record(), "success", "applied and healthy", id="applied"),
        pytest.param(outcome(Result.IN_SYNC), record(), "success", "applied and healthy", id="in-sync"),
        pytest.param(outcome(Result.CORRECTED), record(), "success", "applied and healthy", id="corrected"),
        pytest.param(outcome(Result.HELD), record(), "pending", f"held: because {REASON}", id="held"),
        pytest.param(outcome(Result.STALLED), record(), "failure", f"stalled: because {REASON}", id="stalled"),
        pytest.param(
            outcome(Result.FAILED, retry=True), record(), "pending", "failed, will retry: because", id="failed-retry"
        ),
        pytest.param(outcome(Result.FAILED), record(), "failure", "failed: because", id="failed"),
        pytest.param(outcome(Result.ROLLED_BACK), QUARANTINED, "failure", f"rolled back: {REASON}", id="rolled-back"),
        pytest.param(
            outcome(Result.ROLLING_BACK, retry=True), QUARANTINED, "pending", "rolling back: because", id="rolling-back"
        ),
        pytest.param(
            outcome(Result.ROLLBACK_FAILED), QUARANTINED, "failure", "rollback failed: because", id="rollback-failed"
        ),
        pytest.param(
            outcome(Result.FAILED, retry=True), QUARANTINED, "pending", "rolling back: because", id="engine-gone"
        ),
        pytest.param(outcome(Result.IN_SYNC, A), QUARANTINED, "failure", f"rolled back: {REASON}", id="back-at-former"),
        pytest.param(outcome(Result.IN_SYNC, A), PINNED, "pending", f"held: pinned at {A.short}", id="pinned"),
        pytest.param(
            outcome(Result.IN_SYNC, A, warning="on production@web-1: api failed [held-back]"),
            record(),
            "pending",
            "held: on production@web-1: api failed",
            id="held-back",
        ),
        pytest.param(UNSIGNED, record(A), "failure", "not accepted: b is not signed. Sign it", id="unsigned"),
        pytest.param(
            outcome(Result.STALLED, None, error_id="unsigned-commit"),
            record(None),
            "failure",
            "not accepted: because",
            id="first-unsigned",
        ),
    ],
)
def test_every_result_says_something_about_the_head(
    ended: Outcome, stored: EnvironmentRecord, state: str, summary: str
) -> None:
    verdict = verdict_on(ended, stored, B.commit)
    assert verdict is not None
    assert (verdict.commit, verdict.state) == (B.commit, state)
    assert verdict.summary.startswith(summary)
    assert "[" not in verdict.summary


@pytest.mark.parametrize(
    ("ended", "stored"),
    [
        pytest.param(outcome(Result.STALLED, A), QUARANTINED, id="after-a-rollback"),
        pytest.param(outcome(Result.FAILED, A, retry=True), QUARANTINED, id="engine-gone-after-a-rollback"),
        pytest.param(outcome(Result.IN_SYNC, A), record(), id="another-revision"),
    ],
)
def test_no_rollback_is_claimed_that_did_not_happen(ended: Outcome, stored: EnvironmentRecord) -> None:
    assert verdict_on(ended, stored, "") is None


@pytest.mark.parametrize("result", [Result.ROLLED_BACK, Result.ROLLING_BACK])
def test_a_rollback_is_of_its_own_commit_though_the_branch_went_on(result: Result) -> None:
    verdict = verdict_on(outcome(result), record(C, quarantines=(quarantine(),)), C.commit)
    assert verdict
    assert (verdict.commit, verdict.state is CommitState.SUCCESS) == (B.commit, False)


def test_a_success_says_which_services_were_touched() -> None:
    actions = (Action("app", "api", ActionKind.RECREATE, "why"), Action("app", "web", ActionKind.RESTART, "why"))
    verdict = verdict_on(outcome(Result.APPLIED, plan=Plan("production", B, (), actions)), record(), "")
    assert verdict
    assert verdict.summary == "applied and healthy: api recreated, web restarted"


def status(state: CommitState, summary: str, commit: str = B.commit) -> CommitStatus:
    return CommitStatus(commit, "reconciler/production", state, summary)


@pytest.mark.parametrize(
    ("verdict", "last", "news"),
    [
        pytest.param(CommitVerdict(B.commit, CommitState.SUCCESS, "b"), None, True, id="first"),
        pytest.param(
            CommitVerdict(B.commit, CommitState.PENDING, "waits 9 s"),
            status(CommitState.PENDING, "waits 31 s"),
            False,
            id="another-number",
        ),
        pytest.param(
            CommitVerdict(B.commit, CommitState.SUCCESS, "applied"),
            status(CommitState.SUCCESS, "applied: api recreated"),
            False,
            id="success-again",
        ),
        pytest.param(
            CommitVerdict(B.commit, CommitState.PENDING, "failed, will retry"),
            status(CommitState.SUCCESS, "applied"),
            False,
            id="trouble-later",
        ),
        pytest.param(
            CommitVerdict(B.commit, CommitState.FAILURE, "rolled back", final=True),
            status(CommitState.SUCCESS, "applied"),
            True,
            id="rolled-back-later",
        ),
        pytest.param(
            CommitVerdict(C.commit, CommitState.SUCCESS, "applied"),
            status(CommitState.SUCCESS, "applied"),
            True,
            id="new",
        ),
    ],
)
def test_only_news_is_reported(verdict: CommitVerdict, last: CommitStatus | None, news: bool) -> None:
    assert is_news(verdict, last) is news


# --- sending ---


@dataclass(slots=True)
class RecordingForge:
    """Takes everything, unless there are ``errors`` to raise first; with a ``gate``, once that is open."""

    statuses: list[CommitStatus] = field(default_factory=list)
    comments: list[tuple[int, str, str]] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)
    asked: int = 0
    at_once: int = 0
    most_at_once: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    merged: int | None = 7

    async def set_status(self, status: CommitStatus) -> None:
        await self._pass()
        self.statuses.append(status)

    async def open_pull_requests(self, target: str) -> tuple[PullRequest, ...]:
        return ()

    async def merged_pull_request(self, commit: str, target: str) -> int | None:
        await self._pass()
        return self.merged

    async def put_comment(self, number: int, marker: str, text: str) -> None:
        self.comments.append((number, marker, text))

    async def examine(self) -> str:
        return ""

    async def _pass(self) -> None:
        self.asked += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await self.gate.wait()
            if self.errors:
                raise self.errors.pop(0)
        finally:
            self.at_once -= 1

    @property
    def shown(self) -> list[tuple[str, str]]:
        return [(status.commit[:1], status.summary) for status in self.statuses]


class Bench:
    """Reports from a store to a recording forge."""

    def __init__(self, directory: Path, units: tuple[str, ...] = ("production",)) -> None:
        self.units = units
        self.store = SqliteStore(str(directory / "state.db"))
        self.memory = SqliteForgeMemory(str(directory / "state.db"))
        self.forge = RecordingForge()
        self.forge.gate.set()
        self.clock = SystemClock()
        self.reports = self.again()

    def again(self) -> ForgeReports:
        """As after a restart."""
        links = ForgeLinks("https://ops.example.org")
        side = ForgeSide(self.forge, self.memory, "main", links, lambda subject: f"m-{subject}", "web-0")
        self.reports = ForgeReports(side, self.store, self.clock, self.units)
        return self.reports

    def ended(self, outcome: Outcome, stored: EnvironmentRecord) -> None:
        self.store.save_environment(stored)
        self.reports.reconciled(Reconciled(outcome, "poll", self.clock.now(), None))

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.reports.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(forge_reports, "_FIRST_RETRY", 0.01)
    made = Bench(tmp_path)
    yield made
    made.memory.close()
    made.store.close()


async def test_a_new_head_is_pending_until_it_is_applied_and_a_restart_repeats_nothing(bench: Bench) -> None:
    bench.store.save_environment(record(A))
    async with bench.running():
        bench.reports.head_seen(B.commit)
        assert await until(lambda: bench.forge.shown == [("b", "reconciling")])
        bench.ended(outcome(Result.APPLIED, run="r1"), record())
        assert await until(lambda: len(bench.forge.statuses) == 2)
        bench.ended(outcome(Result.IN_SYNC), record())
    assert bench.forge.shown == [("b", "reconciling"), ("b", "applied and healthy")]
    assert {status.context for status in bench.forge.statuses} == {"reconciler/production@web-0"}
    assert bench.forge.statuses[1].url == "https://ops.example.org/runs/r1"
    asked = bench.forge.asked
    bench.again()
    bench.reports.head_seen(B.commit)
    bench.ended(outcome(Result.IN_SYNC), record())
    bench.reports.head_seen(C.commit)
    bench.ended(outcome(Result.IN_SYNC, C), record(C))
    async with bench.running():
        assert await until(lambda: bench.forge.shown[-1] == ("c", "applied and healthy"))
    assert bench.forge.asked == asked + 1


async def test_what_a_killed_daemon_did_not_report_is_reported_by_the_next(bench: Bench) -> None:
    bench.store.save_environment(record(A))
    async with bench.running():
        bench.reports.head_seen(B.commit)
        assert await until(lambda: bench.forge.shown == [("b", "reconciling")])
    bench.store.begin(replace(RUN, result=None))
    back = record(C, quarantines=(quarantine(at=bench.clock.now(), revert=RevertState.PUSHED),))
    bench.store.finish(RUN, Result.ROLLED_BACK, REASON, at=2.0, record=back)
    bench.again()
    bench.reports.head_seen(C.commit)  # the revert
    bench.ended(outcome(Result.IN_SYNC, C), back)
    async with bench.running():
        assert await until(lambda: bool(bench.forge.comments) and len(bench.forge.statuses) == 3)
    assert bench.forge.shown[1:] == [("b", f"rolled back: {REASON}"), ("c", "applied and healthy")]
    assert bench.forge.statuses[1].state is CommitState.FAILURE


async def test_a_commit_that_was_overtaken_does_not_stay_reconciling(bench: Bench) -> None:
    bench.store.save_environment(record(A))
    async with bench.running():
        bench.reports.head_seen(B.commit)
        assert await until(lambda: len(bench.forge.statuses) == 1)
        bench.reports.head_seen(C.commit)
        assert await until(lambda: len(bench.forge.statuses) == 3)
    assert bench.forge.shown[1:] == [("b", f"superseded by {C.short}"), ("c", "reconciling")]


async def test_a_rollback_that_a_restart_continues_is_reported_before_the_next_head(bench: Bench) -> None:
    bench.store.save_environment(record(A))
    async with bench.running():
        bench.reports.head_seen(B.commit)
        assert await until(lambda: len(bench.forge.statuses) == 1)
    bench.store.begin(replace(RUN, result=None, rolling_back=REASON))
    bench.store.save_environment(record(quarantines=(quarantine(),)))
    bench.again()
    async with bench.running():
        bench.reports.head_seen(C.commit)
        bench.ended(outcome(Result.ROLLED_BACK), record(C, quarantines=(quarantine(),)))
        assert await until(lambda: len(bench.forge.statuses) == 2)
        bench.ended(outcome(Result.APPLIED, C), record(C, quarantines=(quarantine(),)))
        assert await until(lambda: len(bench.forge.statuses) == 3)
    assert bench.forge.shown[1:] == [("b", f"rolled back: because {REASON}"), ("c", "applied and healthy")]


async def test_an_unreachable_forge_never_learns_what_is_no_longer_true(bench: Bench) -> None:
    bench.store.save_environment(record(A))
    bench.forge.errors += [ForgeError("does not answer") for _ in range(3)]
    bench.forge.gate.clear()
    async with bench.running():
        bench.reports.head_seen(B.commit)
        assert await until(lambda: bench.forge.asked > 0)
        bench.reports.head_seen(C.commit)
        bench.ended(outcome(Result.APPLIED, C), record(C))
        bench.forge.gate.set()
        assert await until(lambda: len(bench.forge.statuses) > 0)
    assert bench.forge.shown == [("c", "applied and healthy")]


async def test_a_slow_forge_delays_nothing_and_gets_only_the_newest(bench: Bench) -> None:
    bench.store.save_environment(record(A))
    bench.forge.gate.clear()
    async with bench.running():
        bench.reports.head_seen(B.commit)
        assert await until(lambda: bench.forge.asked > 0)
        for number in range(50):
            bench.ended(outcome(Result.FAILED, reason=f"reason {number}", retry=True), record())
        bench.ended(outcome(Result.APPLIED), record())
        await asyncio.sleep(0)
        bench.forge.gate.set()
        assert await until(lambda: len(bench.forge.statuses) == 2)
    assert bench.forge.most_at_once == 1
    assert bench.forge.shown == [("b", "reconciling"), ("b", "applied and healthy")]


async def test_a_success_on_its_way_is_not_followed_by_a_poorer_one(bench: Bench) -> None:
    bench.store.save_environment(record(A))
    bench.forge.gate.clear()
    async with bench.running():
        action = Action("app", "api", ActionKind.RECREATE, "why")
        bench.ended(outcome(Result.APPLIED, plan=Plan("production", B, (), (action,))), record())
        assert await until(lambda: bench.forge.asked > 0)
        bench.ended(outcome(Result.IN_SYNC), record())
        await asyncio.sleep(0)
        bench.forge.gate.set()
        assert await until(lambda: bool(bench.forge.statuses))
        bench.ended(outcome(Result.IN_SYNC), record())
        bench.reports.head_seen(C.commit)
        assert await until(lambda: bench.forge.shown[-1] == ("c", "reconciling"))
    assert bench.forge.shown[:-1] == [("b", "applied and healthy: api recreated")]


async def test_many_hosts_are_reported_a_few_at_a_time(tmp_path: Path) -> None:
    units = tuple(f"production@web-{number}" for number in range(40))
    bench = Bench(tmp_path, units)
    bench.forge.gate.clear()
    async with bench.running():
        bench.reports.head_seen(B.commit)
        assert await until(lambda: bench.forge.at_once == 4)
        bench.forge.gate.set()
        assert await until(lambda: len(bench.forge.statuses) == 40)
    assert bench.forge.most_at_once == 4
    assert {status.context for status in bench.forge.statuses} == {f"reconciler/{unit}" for unit in units}
    bench.memory.close()
    bench.store.close()


async def test_a_failure_is_logged_once_and_retried(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.forge.errors += [ForgeError("does not answer", where="forge", id="forge-unreachable") for _ in range(5)]
    bench.ended(outcome(Result.APPLIED), record())
    async with bench.running():
        assert await until(lambda: bool(bench.forge.statuses))
    assert bench.forge.asked == 6
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == "not reported to the forge: forge: does not answer [forge-unreachable]"


async def test_a_rate_limit_is_waited_for(bench: Bench) -> None:
    bench.forge.errors.append(ForgeError("wait", retry_after=0.3))
    bench.ended(outcome(Result.APPLIED), record())
    before = bench.clock.monotonic()
    async with bench.running():
        assert await until(lambda: bool(bench.forge.statuses))
    assert bench.clock.monotonic() - before >= 0.3


async def test_a_defect_of_an_adapter_ends_nothing(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.forge.errors.append(ZeroDivisionError())
    bench.ended(outcome(Result.APPLIED), record())
    async with bench.running():
        assert await until(lambda: bool(caplog.records))
        bench.ended(outcome(Result.APPLIED, C), record(C))
        assert await until(lambda: bool(bench.forge.statuses))
    assert bench.forge.shown == [("c", "applied and healthy")]


# --- the comment ---


async def test_a_rollback_is_commented_once_and_updated_when_git_has_followed(bench: Bench) -> None:
    changes = (RunChange("api.env", "update", added=("NEW",), changed=("TOKEN",), path="/opt/app/api.env", digest="d"),)
    run = replace(RUN, changes=changes, actions=(Action("app", "api", ActionKind.RECREATE, "why"),))
    rolled_back = record(quarantines=(quarantine(at=bench.clock.now()),))
    bench.store.begin(replace(run, result=None, rolling_back=REASON))
    bench.ended(outcome(Result.ROLLING_BACK, retry=True), rolled_back)
    async with bench.running():
        assert await until(lambda: bool(bench.forge.statuses))
        assert bench.forge.comments == []
        bench.store.finish(run, Result.ROLLED_BACK, REASON, at=2.0, record=rolled_back)
        bench.ended(outcome(Result.ROLLED_BACK, run="run-b"), rolled_back)
        assert await until(lambda: len(bench.forge.comments) == 1)
        bench.ended(outcome(Result.IN_SYNC, A), rolled_back)
        followed = quarantine(
            at=rolled_back.quarantines[0].at, revert=RevertState.PUSHED, revert_note="In git: pushed c to main"
        )
        bench.ended(outcome(Result.IN_SYNC, A), record(quarantines=(followed,)))
        assert await until(lambda: len(bench.forge.comments) == 2)
    (number, marker, first), (_, again, second) = bench.forge.comments
    assert (number, marker) == (7, again)
    assert "`NEW` added, `TOKEN` changed" in first
    assert "services: `api`" in first
    assert "backup `backup-1`" in first
    assert "the revert is not pushed yet" in first
    assert "in git: pushed c to main" in second
    assert "https://ops.example.org/runs/run-b" in second
    bench.again()
    bench.ended(outcome(Result.IN_SYNC, A), record(quarantines=(followed,)))
    bench.ended(outcome(Result.APPLIED, C), record(C, quarantines=(followed,)))
    async with bench.running():
        assert await until(lambda: bench.forge.shown[-1] == ("c", "applied and healthy"))
    assert len(bench.forge.comments) == 2


async def test_an_old_rollback_is_not_dug_up(bench: Bench) -> None:
    bench.ended(outcome(Result.IN_SYNC, A), record(quarantines=(quarantine(at=bench.clock.now() - 90000),)))
    async with bench.running():
        assert await until(lambda: bool(bench.forge.statuses))
    assert bench.forge.comments == []


def test_a_failed_rollback_is_not_called_one() -> None:
    text = rollback_comment(B.commit, [RolledBack("production", quarantine(), RUN, failed=True)])
    assert "The rollback failed" in text
    assert "could not be restored" in text
    assert "reconciler retry" in text
    assert "restored: the former files" not in text


def test_hostile_names_stay_text() -> None:
    hostile = "@everyone `x` <img src=x onerror=alert(1)> [a](https://evil.example) #1\n# heading"
    change = RunChange(hostile, "update", added=(hostile,), digest="d")
    run = replace(RUN, changes=(change,), actions=(Action("app", hostile, ActionKind.RECREATE, ""),), backup=hostile)
    held = quarantine(reason=hostile, revert=RevertState.REFUSED, revert_note=hostile)
    text = rollback_comment(B.commit, [RolledBack("production", held, run)])
    outside = "".join(part for number, part in enumerate(text.split("`")) if number % 2 == 0)
    assert text.count("`") % 2 == 0
    assert "<img" not in outside
    assert "@everyone" not in outside
    assert "](https://evil" not in outside
    assert "\n# heading" not in text
