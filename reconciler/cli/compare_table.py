"""Renders the result of `compare` for people: sentences, states of services, a block per file. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from reconciler.app.compare.rows import Row, SideWords, groups, service_states, side_words
from reconciler.app.compare.run import ComparisonReport
from reconciler.cli import compare_sentences
from reconciler.cli.layout import Item, Page, foreign
from reconciler.core.compare.types import Comparison, Status

_RISKS = {"high": "red", "medium": "yellow", "low": "dim"}


def compare_report(report: ComparisonReport, page: Page, *, everything: bool) -> Iterator[str]:
    """The comparisons; with ``everything``, also what is the same on both sides."""
    for number, comparison in enumerate(report.comparisons):
        if number:
            yield ""
        yield from _comparison(comparison, page, everything=everything, with_key=report.with_key)
    for side, error in report.failures:
        yield from page.text(f"{page.style('red', 'error')}: {foreign(side)} could not be read: {foreign(error)}", 0, 2)


def _comparison(comparison: Comparison, page: Page, *, everything: bool, with_key: bool) -> Iterator[str]:
    yield from page.text(page.style("bold", foreign(compare_sentences.headline(comparison))), 0, 2)
    for sentence in compare_sentences.sentences(comparison):
        yield from page.text(foreign(sentence), 2, 2)
    words = side_words(comparison)
    yield from _services(comparison, words, page)
    for group in groups(comparison):
        rows = [row for row in group.rows if everything or row.kind == "probe" or not row.is_same]
        if group.kind == "problem" or not rows:
            continue  # the sentences name every problem
        yield ""
        yield from page.text(foreign(group.title), 2)
        if group.remark:
            yield from page.text(page.style("dim", group.remark), 4, 2)
        yield from page.items([_item(row, words, page) for row in rows], indent=4)
    yield ""
    for remark in compare_sentences.limits(comparison, with_key=with_key):
        yield from page.text(page.style("dim", foreign(remark)), 0, 2)


def _services(comparison: Comparison, words: SideWords, page: Page) -> Iterator[str]:
    lines = service_states(comparison)
    if not lines:
        return
    yield ""
    yield "  services"
    items = []
    for line in lines:
        states = [
            f"{words.left}: {line.left.written(page.since)}",
            f"{words.right}: {line.right.written(page.since)}",
        ]
        styled = [page.style("red", foreign(text)) if line.bad else foreign(text) for text in states]
        items.append(Item((foreign(line.service), *styled)))
    yield from page.items(items, indent=4)


def _item(row: Row, words: SideWords, page: Page) -> Item:
    colour = "red" if row.unexplained else "green" if row.status is Status.EXPECTED else "dim"
    cells = (
        foreign(row.name),
        page.style(colour, foreign(words.status(row))),
        page.style(_RISKS[row.risk], f"{row.risk} risk"),
    )
    return Item(cells, (foreign(row.note),) if row.note else ())
