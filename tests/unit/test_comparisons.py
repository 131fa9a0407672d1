"""When the daemon compares the configured pairs, and what stays of it: in virtual time, against a fake comparison."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from reconciler.app.compare.configured import ConfiguredPair
from reconciler.app.compare.differences import CLASSES
from reconciler.app.compare.run import ComparisonReport
from reconciler.app.config.comparisons import ComparisonSettings
from reconciler.app.daemon.comparisons import Comparisons
from reconciler.core.compare.comparison import compare_sides
from reconciler.core.compare.types import (
    SEALED,
    Comparison,
    Expectations,
    Fact,
    FileResult,
    Side,
    SideFile,
    Status,
    Value,
)
from reconciler.core.errors import OutsideError, StoreError
from reconciler.core.model.runs import Outcome, Result
from reconciler.core.ports.observer import Reconciled
from tests.fakes import FakeClock

INTERVAL = 900.0
FIRST, SECOND = "a" * 40, "b" * 40


def configured(left: str, right: str = "git:production", name: str = "pair") -> ConfiguredPair:
    return ConfiguredPair(name, ComparisonSettings(left=left, right=right))


IN_GIT = configured("git:staging")
LIVE = configured("live:production@web-2")


def comparison(left: Mapping[str, Value], right: Mapping[str, Value], sealed: int = 0) -> Comparison:
    sides = [
        Side(f"git:{name}", (SideFile("api.env", ("api.env",), keys, None),), name, sealed=sealed)
        for name, keys in (("staging", left), ("production", right))
    ]
    return compare_sides(*sides, Expectations(), different=True)


SAME = comparison({"MODE": Value("1")}, {"MODE": Value("1")})
LACKS = comparison({"MODE": Value("1"), "NEW": Value("2")}, {"MODE": Value("1")})


@dataclass
class FakeComparer:
    """Compares as ``comes`` says: a comparison, or an error to raise."""

    comes: Comparison | Exception = SAME
    reads: str = "the files"
    made: list[str] = field(default_factory=list)

    async def inputs(self, pair: ConfiguredPair, commit: str) -> str:
        return self.reads

    async def compare(self, pair: ConfiguredPair, commit: str) -> ComparisonReport:
        self.made.append(pair.name)
        if isinstance(self.comes, Exception):
            raise self.comes
        return ComparisonReport((self.comes,))


@dataclass
class FakeMetrics:
    counts: dict[str, Mapping[str, int]] = field(default_factory=dict)
    success: dict[str, float] = field(default_factory=dict)
    since: dict[str, float] = field(default_factory=dict)

    def compared(self, pair: tuple[str, str, str], counts: Mapping[str, int], at: float) -> None:
        self.counts[pair[0]], self.success[pair[0]] = counts, at

    def failing(self, pair: tuple[str, str, str], since: float) -> None:
        self.since[pair[0]] = since


@dataclass
class Stage:
    """The comparisons with everything around them, and the ``head`` of the branch."""

    pairs: Sequence[ConfiguredPair] = (IN_GIT,)
    head: str = FIRST
    comparer: FakeComparer = field(default_factory=FakeComparer)
    clock: FakeClock = field(default_factory=FakeClock)
    metrics: FakeMetrics = field(default_factory=FakeMetrics)
    limit: float = 60.0

    def __post_init__(self) -> None:
        self.comparisons = self.start()

    def start(self, **known: Any) -> Comparisons:
        around = {"head": lambda: self.head, "clock": self.clock, "metrics": self.metrics, "limit": self.limit}
        return Comparisons(self.pairs, self.comparer, **around, **known)

    def turn(self, after: float = 0.0) -> int:
        """Let time pass and compare what is due; return how many comparisons were made."""
        self.clock.time += after
        before = len(self.comparer.made)
        asyncio.run(self.comparisons.compare_due())
        return len(self.comparer.made) - before

    @property
    def only(self) -> dict[str, Any]:
        (data,) = self.comparisons.serialize()
        return data


def test_nothing_is_compared_before_git_has_a_head_and_then_at_once() -> None:
    stage = Stage(head="")
    assert stage.turn() == 0
    assert stage.only["verdict"] == "not compared yet"
    stage.head = FIRST
    assert stage.turn() == 1
    assert (stage.only["verdict"], stage.only["commit"]) == ("nothing unexplained", FIRST)


def test_sides_that_can_only_change_in_git_are_read_again_only_when_they_do() -> None:
    stage = Stage()
    assert stage.turn() == 1
    assert stage.turn(after=INTERVAL) == 0  # it counts as compared all the same
    assert stage.metrics.success["pair"] == stage.clock.time
    stage.head = SECOND
    assert stage.turn(after=1) == 0  # the commit is about something else
    stage.comparer.reads, stage.head, stage.comparer.comes = "other files", FIRST, LACKS
    assert stage.turn(after=1) == 1
    assert stage.only["verdict"] == "1 unexplained finding"


def test_a_live_side_is_read_every_interval_and_after_each_change_of_it() -> None:
    stage = Stage(pairs=(LIVE,))
    assert stage.turn() == 1
    assert stage.turn(after=INTERVAL - 1) == 0
    assert stage.turn(after=1) == 1
    stage.head = SECOND
    assert stage.turn(after=1) == 0  # the commit is about something else
    for outcome, made in (
        (Outcome("production@web-2", Result.IN_SYNC, "in sync"), 0),
        (Outcome("production", Result.APPLIED, "applied", run="run"), 0),
        (Outcome("production@web-2", Result.APPLIED, "applied", run="run"), 1),
    ):
        stage.comparisons.reconciled(Reconciled(outcome, "poll", stage.clock.time, None))
        assert stage.turn(after=1) == made, outcome


def test_files_that_no_key_opened_are_tried_every_interval_as_a_key_may_come() -> None:
    stage = Stage(comparer=FakeComparer(comparison({"TOKEN": SEALED}, {"TOKEN": SEALED}, sealed=2)))
    assert stage.turn() == 1
    assert any("by key names only" in text for text in stage.only["limits"])
    assert stage.turn(after=INTERVAL) == 1


def test_a_side_that_fails_keeps_the_last_result_and_says_since_when_and_why() -> None:
    stage = Stage(pairs=(LIVE,), comparer=FakeComparer(LACKS))
    stage.turn()
    compared_at, stage.comparer.comes = stage.only["at"], OutsideError("no answer", where="web-2")
    stage.turn(after=INTERVAL)
    failing_since = stage.clock.time
    assert (stage.only["error"], stage.only["error_id"], stage.only["at"]) == (
        "web-2: no answer",
        "comparison-failed",
        compared_at,
    )
    assert stage.turn(after=60) == 1  # sooner than every 15 minutes
    assert stage.metrics.since["pair"] == failing_since
    assert stage.only["unexplained"] == 1
    stage.comparer.comes = SAME
    stage.turn(after=60)
    assert (stage.only["error"], stage.only["failing_since"], stage.metrics.since["pair"]) == ("", None, 0.0)


@pytest.mark.parametrize("known", [False, True], ids=["a store that cannot be read", "a defect of ours"])
def test_nothing_that_goes_wrong_stops_the_other_pairs(known: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(pairs=(replace(LIVE, name="first"), replace(LIVE, name="second")))
    if known:
        stage.comparer.comes = ValueError("invented-s3cret")
        assert stage.turn() == 2
        for data in stage.comparisons.serialize():
            assert "ValueError in test_comparisons.py" in data["error"]
            assert "s3cret" not in json.dumps(data)
    else:

        def damaged() -> str:
            raise StoreError("is damaged")

        monkeypatch.setattr(stage.comparisons, "_head", damaged)
        assert stage.turn() == 0


def test_a_comparison_that_takes_too_long_is_given_up() -> None:
    stage = Stage(limit=0.01)

    async def endless(pair: ConfiguredPair, commit: str) -> ComparisonReport:
        await asyncio.Event().wait()
        raise AssertionError

    stage.comparer.compare = endless  # type: ignore[method-assign]
    stage.turn()
    assert stage.only["error"] == "pair: took longer than 0.01 s. Will retry"


def test_a_reload_keeps_the_results_of_pairs_that_stay_and_makes_them_again() -> None:
    stage = Stage(comparer=FakeComparer(LACKS))
    stage.turn()
    former, stage.metrics = stage.comparisons, FakeMetrics()
    stage.pairs = (IN_GIT, replace(LIVE, name="new"))
    stage.comparisons = stage.start(known=former.results)
    kept, new = stage.comparisons.serialize()
    assert (kept["unexplained"], new["verdict"]) == (1, "not compared yet")
    assert stage.metrics.counts["pair"]["missing-right"] == 1
    assert stage.turn() == 2


def test_the_differences_name_what_and_where_and_count_by_class() -> None:
    odd = replace(LACKS, files=(*LACKS.files, FileResult("b.env", "b.env", (), (), problem="is not UTF-8")))
    odd = replace(odd, files=(*odd.files, FileResult("c", "c", (), (Fact("mode", "0600", "0644", Status.DIFFERS),))))
    stage = Stage(comparer=FakeComparer(odd))
    stage.turn()
    assert set(stage.only["counts"]) == set(CLASSES)
    assert {name: number for name, number in stage.only["counts"].items() if number} == {
        "missing-right": 1,
        "differs": 1,
        "problem": 1,
    }
    assert len(stage.only["differences"]) == 3  # not what is the same
    by_class = {difference["class"]: difference for difference in stage.only["differences"]}
    key = {name: by_class["missing-right"][name] for name in ("kind", "name", "where", "left", "right")}
    assert key == {"kind": "key", "name": "NEW", "where": "api.env", "left": "present", "right": "missing"}
    assert (by_class["differs"]["left"], by_class["differs"]["right"]) == ("0600", "0644")
    assert by_class["problem"]["note"] == "b.env: is not UTF-8"
    json.dumps(stage.only)
