"""Renders the result of `compare` as one HTML file that loads nothing. Pure: the template is app/pages/templates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from reconciler.app.compare.rows import Group, Row, SideWords, groups, service_states, side_words
from reconciler.app.compare.run import ComparisonReport
from reconciler.app.pages.html import render_html
from reconciler.cli import compare_sentences
from reconciler.cli.layout import Page, counted
from reconciler.core.compare.risk import Risk
from reconciler.core.compare.types import Comparison, Remark, Status

_LONG = 1000  # lines; of more, the browser lays out only those in view


@dataclass(frozen=True, slots=True)
class _Service:
    """A service with its state on both sides, in words."""

    name: str
    left: str
    right: str
    bad: bool


@dataclass(frozen=True, slots=True)
class _Section:
    """A comparison as the page shows it; ``number`` counts them."""

    number: int
    comparison: Comparison
    words: SideWords
    groups: Sequence[Group]
    limits: Sequence[str]

    @property
    def headline(self) -> str:
        return compare_sentences.headline(self.comparison)

    @property
    def sentences(self) -> list[str]:
        return list(compare_sentences.sentences(self.comparison))

    @property
    def services(self) -> list[_Service]:
        since = Page().since
        return [
            _Service(line.service, line.left.written(since), line.right.written(since), line.bad)
            for line in service_states(self.comparison)
        ]

    @property
    def rows(self) -> list[Row]:
        return [row for group in self.groups for row in group.rows]


def as_html(report: ComparisonReport) -> str:
    """Return the whole page. Without its script, it shows every line."""
    sections = [
        _Section(
            number,
            comparison,
            side_words(comparison),
            groups(comparison),
            list(compare_sentences.limits(comparison, with_key=report.with_key)),
        )
        for number, comparison in enumerate(report.comparisons)
    ]
    rows = [row for section in sections for row in section.rows]
    unexplained = [row for row in rows if row.unexplained]
    high = sum(row.risk is Risk.HIGH for row in unexplained)
    words, counts = _words(sections), Counter(row.classes[0] for row in rows)
    titles = sorted({group.title for section in sections for group in section.groups})
    risks = Counter(row.risk for row in rows)
    return render_html(
        "compare.html",
        script="compare.js",
        title=compare_sentences.report_headline(report),
        long=len(rows) > _LONG,
        verdict=f"{len(unexplained)} of {counted(len(rows), 'line')} unexplained"
        + (f", {high} of high risk" if high else ""),
        verdict_kind="bad" if unexplained else "good",
        failures=[(str(side), str(error)) for side, error in report.failures],
        sections=sections,
        cards=[(number, words.classes[name]) for name, number in counts.most_common()],
        classes=_classes(rows, words),
        risks=[("", "any"), *((str(risk), f"{risk} ({risks[risk]})") for risk in Risk)],
        files=[("", "any"), *((name, name) for name in titles)],
        sides=[("", "any"), *((str(section.number), section.comparison.right.name) for section in sections)],
        kinds=_kind,
    )


def _words(sections: Sequence[_Section]) -> SideWords:
    """Names of the sides for the whole page."""
    if len(sections) == 1:
        return sections[0].words
    return SideWords(sections[0].comparison.left.name if sections else "", "the side compared with it")


def _classes(rows: Sequence[Row], words: SideWords) -> list[tuple[str, str]]:
    """The choices of the filter; each says how many lines it shows."""
    counts = Counter(name for row in rows for name in row.classes)
    choices = [
        ("all", "everything", len(rows)),
        ("not-same", "all but the same", sum(not row.is_same for row in rows)),
        ("unexplained", "unexplained", sum(row.unexplained for row in rows)),
        *((name, word, counts[name]) for name, word in words.classes.items() if counts[name]),
        *((str(remark), str(remark), counts[remark]) for remark in Remark if counts[remark]),
    ]
    return [(value, f"{word} ({number})") for value, word, number in choices]


def _kind(row: Row) -> str:
    """The shape and colour of a row's class."""
    if row.unexplained:
        return "bad" if row.risk is Risk.HIGH else "mid"
    return "good" if row.status in (Status.EXPECTED, Status.SAME) else "off"
