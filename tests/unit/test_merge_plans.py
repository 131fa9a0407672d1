"""Which pull requests are planned, and what the forge gets to see of that: a forge and a git without a network."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from reconciler.core.errors import ForgeError, GitUnreachableError, HostUnreachableError, SourceError, UnverifiedError
from reconciler.core.model.requests import ReconcileRequest
from reconciler.core.ports.forge import CommitState, CommitStatus, PullRequest
from reconciler.core.ports.git import MergedBranch
from reconciler.core.ports.observer import Reconciled
from reconciler.engine import merge_plans
from reconciler.engine.forge_reports import ForgeLinks, ForgeSide
from reconciler.engine.memory import Claims
from reconciler.engine.merge_plans import MergePlans
from reconciler.engine.merge_preview import MergePreview
from reconciler.engine.reconcile import Reconciler
from tests.fakes import API, WORKER, FakeHost, World, reconcile_once
from tests.support.waiting import until


@dataclass
class Board:
    """A forge: the open pull requests, and what was said of them. ``errors`` are raised first, in order."""

    open: list[PullRequest] = field(default_factory=list)
    statuses: list[CommitStatus] = field(default_factory=list)
    comments: dict[int, dict[str, str]] = field(default_factory=dict)
    errors: list[Exception] = field(default_factory=list)
    remembered: dict[str, str] = field(default_factory=dict)
    asked: int = 0
    before_comment: Callable[[], None] = lambda: None

    async def open_pull_requests(self, target: str) -> tuple[PullRequest, ...]:
        self.asked += 1
        if self.errors:
            raise self.errors.pop(0)
        return tuple(pull for pull in self.open if pull.target == target)

    async def set_status(self, status: CommitStatus) -> None:
        self.statuses.append(status)
        self.before_comment()

    async def put_comment(self, number: int, marker: str, text: str) -> None:
        self.comments.setdefault(number, {})[marker] = text

    def comment(self, subject: str) -> str:
        return self.remembered.get(subject, "")

    def remember_comment(self, subject: str, digest: str) -> None:
        self.remembered[subject] = digest


@dataclass
class Branches:
    """What merging a branch gives: a commit of the world's git, conflicts, or an error."""

    world: World
    results: dict[str, str | tuple[str, ...] | Exception] = field(default_factory=dict)
    merged_branches: list[str] = field(default_factory=list)

    @contextlib.asynccontextmanager
    async def merged(self, branch: str, target: str) -> AsyncIterator[MergedBranch]:
        self.merged_branches.append(branch)
        result = self.results.get(branch, "b")
        if isinstance(result, Exception):
            raise result
        conflicts = result if isinstance(result, tuple) else ()
        commit = "" if conflicts else str(result).ljust(40, "0")
        yield MergedBranch(f"head-of-{branch}", target, commit, conflicts, self.world.git)


class Planning:
    """The plans of one server that follows ``production``."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.board = Board()
        self.branches = Branches(world)
        self.plans = self.make()

    def make(self, patterns: tuple[str, ...] = ("change/*", "ma*")) -> MergePlans:
        side = ForgeSide(self.board, self.board, "main", ForgeLinks(), lambda subject: f"mark-{subject}")  # type: ignore[arg-type]
        return MergePlans(
            side,
            self.branches,
            self.world.store,
            {"production": lambda merged: MergePreview(self.world.ports(), "production", Claims(), merged)},
            patterns=patterns,
            host="web-1",
            interval=30.0,
        )

    def pull(self, number: int, branch: str = "change/a", *, head: str = "h", fork: bool = False) -> None:
        self.board.open.append(PullRequest(number, branch, head, "main", fork))

    async def look(self) -> float:
        return await self.plans._look()


@pytest.fixture
async def planning(new_world: Callable[[], World]) -> Planning:
    world = new_world()
    world.settings = replace(world.settings, host="web-1")
    world.commit("a", api="A=1", worker="W=1")
    world.host.put(API, b"A=1\n")
    world.host.put(WORKER, b"W=1\n")
    world.compose.start("api", "worker")
    await reconcile_once(world)
    tip = world.git.tip
    world.commit("b", api="A=2", worker="W=1")
    world.git.tip = tip
    return Planning(world)


async def test_only_allowed_branches_are_planned_and_never_a_fork(planning: Planning) -> None:
    planning.pull(1, "change/a")
    planning.pull(2, "change/a", fork=True)
    planning.pull(3, "other")
    planning.pull(4, "main")
    await planning.look()
    assert planning.branches.merged_branches == ["change/a"]
    assert [(status.commit, status.context, status.state) for status in planning.board.statuses] == [
        ("head-of-change/a", "reconciler/plan@web-1", CommitState.SUCCESS)
    ]
    assert planning.board.statuses[0].summary.endswith("api recreated (A changed), worker untouched")
    assert planning.board.comments.keys() == {1}


async def test_the_newest_are_planned_and_each_once(planning: Planning, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merge_plans, "MOST_PLANNED", 3)
    for number in range(1000):
        planning.pull(number, f"change/{number}")
    await planning.look()
    assert planning.branches.merged_branches == ["change/999", "change/998", "change/997"]
    await planning.look()
    assert len(planning.branches.merged_branches) == 3
    planning.board.open[-1] = PullRequest(999, "change/999", "pushed", "main", False)
    await planning.look()
    assert planning.branches.merged_branches[3:] == ["change/999"]
    assert len(planning.board.comments[999]) == 1


async def test_a_restart_repeats_nothing_and_a_merge_replaces_the_plans_of_the_others(planning: Planning) -> None:
    planning.pull(1)
    await planning.look()
    planning.plans = planning.make()
    await planning.look()
    assert len(planning.board.statuses) == 1
    planning.world.commit("c", api="A=1", worker="W=2")
    outcome = await reconcile_once(planning.world)
    planning.world.commit("d", api="A=2", worker="W=2")
    planning.branches.results["change/a"] = "d"
    planning.plans.reconciled(Reconciled(outcome, "poll", 1.0, None))
    assert planning.plans._news.is_set()
    await planning.look()
    assert len(planning.branches.merged_branches) == 3


async def test_a_pull_request_that_was_closed_meanwhile_gets_no_comment(planning: Planning) -> None:
    planning.pull(1)
    planning.board.before_comment = planning.board.open.clear
    await planning.look()
    assert (len(planning.board.statuses), planning.board.comments) == (1, {})


@pytest.mark.parametrize(
    ("result", "state", "summary"),
    [
        pytest.param(("a.env",), "failure", "conflicts with the target branch in a.env", id="conflict"),
        pytest.param(UnverifiedError("x"), "pending", "not planned: its commits are not signed", id="unsigned"),
        pytest.param(SourceError("x"), "pending", "not planned: git refuses the branch", id="refused"),
    ],
)
async def test_what_cannot_be_planned_says_why(planning: Planning, result: Any, state: str, summary: str) -> None:
    planning.pull(1)
    planning.branches.results["change/a"] = result
    await planning.look()
    (status,) = planning.board.statuses
    assert (status.state, status.summary.startswith(summary)) == (state, True)
    assert bool(planning.board.comments) == (state == "failure")


async def test_what_fails_outside_is_warned_of_once_and_tried_again(
    planning: Planning, caplog: pytest.LogCaptureFixture
) -> None:
    planning.pull(1)
    planning.pull(2, "change/b")
    planning.branches.results["change/b"] = GitUnreachableError("no answer")
    assert await planning.look() == 30.0
    planning.board.errors = [ForgeError("limited", retry_after=300.0)]
    assert await planning.look() == 300.0
    assert planning.board.comments.keys() == {1}
    planning.branches.results.clear()
    await planning.look()
    assert planning.board.comments.keys() == {1, 2}
    assert [record.message.partition(": ")[2] for record in caplog.records] == [
        "no answer [git-unreachable]",
        f"limited [{ForgeError.id}]",
    ]


async def test_a_defect_in_one_plan_is_logged_and_leaves_the_others(
    planning: Planning, caplog: pytest.LogCaptureFixture
) -> None:
    planning.pull(1)
    planning.pull(2, "change/b")
    planning.branches.results["change/b"] = RuntimeError("a value perhaps")
    await planning.look()
    await planning.look()
    assert planning.board.comments.keys() == {1}
    assert [record.message.partition(": ")[2] for record in caplog.records] == [
        "internal error in pull request 2 (RuntimeError) [internal-error]"
    ]


async def test_a_host_that_takes_too_long_is_said_and_delays_nothing_more(
    planning: Planning, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge_plans, "_PLAN_TIME", 0.01)

    async def hanging(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(MergePreview, "plan", hanging)
    planning.pull(1)
    await planning.look()
    assert planning.board.statuses[0].summary == "production@web-1: not planned: it takes too long to plan"


async def test_a_host_that_could_not_tell_is_asked_again_and_every_host_is_in_the_one_comment(
    planning: Planning, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = True
    reach = FakeHost.read

    async def read(host: FakeHost, path: str) -> Any:
        if away:
            raise HostUnreachableError("no route")
        return await reach(host, path)

    make = planning.plans._previews["production"]
    planning.plans._previews = {"production": make, "production@web-2": lambda merged: on_web_2(planning.world, merged)}
    planning.plans._interval = 0.0
    monkeypatch.setattr(FakeHost, "read", read)
    planning.pull(1)
    await planning.look()
    assert planning.board.statuses[-1].state is CommitState.PENDING
    away = False
    await planning.look()
    assert planning.board.statuses[-1].state is CommitState.SUCCESS
    (text,) = planning.board.comments[1].values()
    assert "**production@\N{ZERO WIDTH SPACE}web-1**: api recreated" in text
    assert "**production@\N{ZERO WIDTH SPACE}web-2**: " in text
    assert "cannot tell" not in text
    await planning.look()
    assert len(planning.branches.merged_branches) == 2


def on_web_2(world: World, merged: MergedBranch) -> MergePreview:
    ports = replace(world.ports(), settings=replace(world.settings, host="web-2"))
    return MergePreview(ports, "production@web-2", Claims(), merged)


async def test_without_a_webhook_the_interval_finds_it_and_an_announcement_is_taken_immediately(
    planning: Planning,
) -> None:
    planning.plans._interval = 0.01
    task = asyncio.create_task(planning.plans.run())
    try:
        await until(lambda: planning.board.asked > 2)
        planning.plans._interval = 3600.0
        planning.pull(1)
        await until(lambda: bool(planning.board.comments))
        planning.pull(2, "change/b")
        planning.plans.look_soon()
        await until(lambda: planning.board.comments.keys() == {1, 2})
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_plan_takes_its_turn_and_leaves_the_reconciliations_as_they_are(planning: Planning) -> None:
    turns: list[str] = []

    async def turn(work: Callable[[], Any]) -> Any:
        turns.append("taken")
        return await work()

    planning.plans.turn = turn
    planning.pull(1)
    reconciler = Reconciler(planning.world.ports(), "production")
    before = await reconciler.reconcile(ReconcileRequest("poll"))
    await planning.look()
    after = await reconciler.reconcile(ReconcileRequest("poll"))
    assert (turns, after.result, after.revision) == (["taken"], before.result, before.revision)
