"""Renders the result of `compare` for people: a block per file, the most important first. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from reconciler.app.compare.run import ComparisonReport
from reconciler.cli import compare_reports
from reconciler.cli.compare_reports import Row
from reconciler.cli.layout import Item, Page, foreign
from reconciler.core.compare.types import Comparison, Status

_RISKS = {"high": "red", "medium": "yellow", "low": "dim"}
_TITLES = {"key": "", "file": "", "service": "service ", "probe": "probes"}


def compare_report(report: ComparisonReport, page: Page, *, everything: bool) -> Iterator[str]:
    """The comparisons; with ``everything``, also what is the same on both sides."""
    for number, comparison in enumerate(report.comparisons):
        if number:
            yield ""
        yield from _comparison(comparison, page, everything=everything, with_key=report.with_key)
    for side, error in report.failures:
        yield from page.text(f"{page.style('red', 'error')}: {foreign(side)} could not be read: {foreign(error)}", 0, 2)


def _comparison(comparison: Comparison, page: Page, *, everything: bool, with_key: bool) -> Iterator[str]:
    names = [page.style("bold", foreign(side.name)) for side in (comparison.left, comparison.right)]
    yield from page.text(" and ".join(names), 0, 2)
    summary = foreign(compare_reports.summarize_comparison(comparison))
    yield from page.text(page.style("red" if comparison.unexplained else "green", summary), 2, 2)
    groups: dict[str, list[Item]] = {}
    for row in compare_reports.rows(comparison):
        if everything or row.kind == "probe" or row.classes != (str(Status.SAME),):
            groups.setdefault(foreign(f"{_TITLES[row.kind]}{row.file}"), []).append(_item(row, page))
    for title, items in groups.items():
        yield ""
        yield from page.text(title, 2)
        yield from page.items(items, indent=4)
    yield ""
    for problem in comparison.problems:
        yield from page.text(f"{page.style('red', 'could not be compared')}: {foreign(problem)}", 0, 2)
    for remark in compare_reports.limits(comparison, with_key=with_key):
        yield from page.text(page.style("dim", foreign(remark)), 0, 2)


def _item(row: Row, page: Page) -> Item:
    colour = "red" if row.unexplained else "green" if "expected" in row.classes else "dim"
    cells = (foreign(row.name), page.style(colour, row.status), page.style(_RISKS[row.risk], f"{row.risk} risk"))
    return Item(cells, (foreign(row.note),) if row.note else ())
