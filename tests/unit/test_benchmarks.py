"""The benchmarks' own parts: which groups run, and what becomes of one that fails."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.figures import Figure, Point, ResultFile
from benchmarks.groups import GROUPS, Bench, Group, measure, select_groups


def test_only_the_named_groups_are_measured_in_the_usual_order() -> None:
    assert [group.name for group in select_groups("pages, help")] == ["help", "pages"]
    assert select_groups(None) == list(GROUPS)
    assert len({group.name for group in GROUPS}) == len(GROUPS)
    with pytest.raises(ValueError, match="no group nope; there are: help, "):
        select_groups("help,nope")


def test_a_group_that_fails_keeps_its_first_figures_and_the_next_group_runs(tmp_path: Path) -> None:
    good = Figure("good", "ms", (1.0,))

    def broken(_: Bench) -> Iterator[Figure]:
        yield good
        raise RuntimeError("no daemon")

    groups = [Group("broken", "", broken), Group("next", "", lambda _: [good])]
    with ExitStack() as cleanup:
        (_, first, error), (_, second, none) = measure(groups, Bench(tmp_path, cleanup, kills=0))
    assert (first, str(error), second, none) == ([good], "no daemon", [good], None)


def test_what_is_measured_again_takes_its_own_place_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"

    def write(*parts: tuple[str, str, str], keep: bool) -> tuple[list[str], list[str]]:
        file = ResultFile(path, {"load": "0"}, lambda row: str(row["group"]), keep=keep)
        for group, name, failure in parts:
            file.write("figures", group, [{"group": group, "name": name}] if name else [], failure)
        data = json.loads(path.read_text())
        return [row["name"] for row in data["figures"]], data["failed"]

    first = write(("help", "a", ""), ("kills", "", "RuntimeError: x"), ("pages", "b", ""), keep=False)
    assert first == (["a", "b"], ["kills (RuntimeError: x)"])
    assert write(("help", "c", ""), ("kills", "d", ""), keep=True) == (["c", "b", "d"], [])
    assert write(("help", "e", ""), keep=False) == (["e"], [])


@pytest.mark.parametrize("page", report.PAGES, ids=lambda page: page.name)
def test_the_tables_of_a_page_are_made_from_the_measured_figures(page: Path) -> None:
    assert page.read_text() == report.refresh(page.read_text())  # else: make bench-report


def test_a_table_says_what_missed_its_target_and_what_was_skipped() -> None:
    figures = [
        Figure("slow", "ms", (3.0, 5.0, 4.0), target=3.5),
        Figure("small", "", (1.0,), target=1.0, note="of two"),
        Figure("other", "", (), note="no engine"),
    ]
    assert report.figures_table({"figures": [figure.data() for figure in figures]}).splitlines()[2:] == [
        "| slow | 4 ms | 3 – 5 | 3 | ≤ 3.5 **missed** | |",
        "| small | 1 | | 1 | ≤ 1 met | of two |",
        "| other | – | | | skipped | no engine |",
    ]


def test_a_table_says_what_grows_with_what() -> None:
    def curve(name: str, first: float, last: float) -> list[Figure]:
        return [Figure(name, "ms", (cost,), point=Point(name, "files", x)) for x, cost in ((10, first), (1000, last))]

    figures = [*curve("idle", 4.0, 8.0), *curve("changed", 4.0, 400.0), *curve("bad", 4.0, 450.0)]
    assert report.growth_table({"figures": [figure.data() for figure in figures]}).splitlines()[2:] == [
        "| idle | 10 → 1,000 files (× 100) | 4 → 8 ms (× 2) | flat |",
        "| changed | 10 → 1,000 files (× 100) | 4 → 400 ms (× 100) | at most linear |",
        "| bad | 10 → 1,000 files (× 100) | 4 → 450 ms (× 112) | **more than linear** |",
    ]
