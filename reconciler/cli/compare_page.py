"""Renders the result of `compare` as one HTML file that loads nothing. Pure.

The page's content security policy allows only its own style and script, by hash; all other content is escaped text.
"""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

from reconciler.app.compare.rows import Group, Row, SideWords, State, groups, service_states, side_words
from reconciler.app.compare.run import ComparisonReport
from reconciler.cli import compare_sentences
from reconciler.cli.layout import Page, counted
from reconciler.core.compare.risk import Risk
from reconciler.core.compare.types import Comparison, Remark, Status
from reconciler.core.text import printable

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; --bad: #c62828; --good: #2e7d32; --mid: #b26a00; }
@media (prefers-color-scheme: dark) { :root { --bad: #ff8a80; --good: #81c784; --mid: #ffb74d; } }
* { box-sizing: border-box; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 0 auto; max-width: 1200px; padding: 1.5rem;
  overflow-wrap: anywhere; }
h1 { font-size: 1.4rem; margin: 0 0 .3rem; } h2 { font-size: 1.2rem; margin: 2.5rem 0 .3rem; }
h3 { font-size: 1rem; margin: 1.6rem 0 .2rem; }
code { font: 13px ui-monospace, monospace; } h3 code { font-size: 15px; }
.verdict { font-weight: 600; } .bad { color: var(--bad); } .good { color: var(--good); } .mid { color: var(--mid); }
.soft { color: GrayText; margin: 0; }
.cards { display: flex; flex-wrap: wrap; gap: .5rem; margin: 1rem 0; }
.card { border: 1px solid var(--line); border-radius: 6px; padding: .4rem .8rem; }
.card b { display: block; font-size: 1.3rem; }
form { position: sticky; top: 0; display: flex; flex-wrap: wrap; gap: .6rem; padding: .6rem 0; background: Canvas;
  border-bottom: 1px solid var(--line); }
form[hidden], section[hidden] { display: none; }
@media screen { .long .group { content-visibility: auto; contain-intrinsic-size: auto 20rem; } }
label { font-size: .8rem; }
select, input, output { display: block; font: inherit; padding: .2rem .4rem; width: 16rem; max-width: 100%; }
table { border-collapse: collapse; width: 100%; margin: .4rem 0; table-layout: fixed; }
th, td { text-align: left; vertical-align: top; padding: .3rem .6rem .3rem 0; border-bottom: 1px solid var(--soft); }
th { font-weight: 600; font-size: .8rem; }
.rows th:nth-child(1) { width: 32%; } .rows th:nth-child(2) { width: 22%; } .rows th:nth-child(3) { width: 6rem; }
.rows td:nth-child(4) { color: GrayText; } ul { margin: .3rem 0; padding-left: 1.2rem; }
@media (max-width: 640px) {
  body { padding: 1rem; } form { position: static; } select, input, output { width: 100%; } label { flex: 1 1 9rem; }
  thead { display: none; } table, tbody, tr, td { display: block; } tr[hidden] { display: none; }
  tr { padding: .4rem 0; border-bottom: 1px solid var(--soft); } td { border: 0; padding: 0; }
  .rows td:nth-child(2), .rows td:nth-child(3) { display: inline-block; margin-right: 1rem; }
  .services td[data-label]::before { content: attr(data-label) ": "; color: GrayText; }
}
"""

_SCRIPT = """
'use strict';
const form = document.querySelector('form');
const groups = [...document.querySelectorAll('section.group')].map(part => ({
  part, file: part.dataset.file, side: part.dataset.side,
  rows: [...part.querySelectorAll('tbody tr')].map(row => ({
    row, data: row.dataset, classes: row.dataset.classes.split(' '),
    text: (part.dataset.file + ' ' + row.textContent).toLowerCase() })) }));
const total = groups.reduce((sum, group) => sum + group.rows.length, 0);
const count_shown = document.querySelector('#shown');
function apply() {
  const chosen = Object.fromEntries(new FormData(form));
  const words = chosen.search.toLowerCase().split(/\\s+/).filter(Boolean);
  let count = 0;
  for (const { part, file, side, rows } of groups) {
    const here = (!chosen.file || file === chosen.file) && (!chosen.side || side === chosen.side);
    let visible = 0;
    for (const { row, data, classes, text } of rows) {
      const fits = here && (chosen.class === 'all'
          || (chosen.class === 'unexplained' ? data.unexplained === 'yes' : classes.includes(chosen.class))
          || (chosen.class === 'not-same' && data.same === 'no'))
        && (!chosen.risk || data.risk === chosen.risk)
        && words.every(word => text.includes(word));
      if (row.hidden === fits) row.hidden = !fits;
      visible += fits;
    }
    part.hidden = !visible;
    count += visible;
  }
  count_shown.textContent = `${count} of ${total} lines`;
}
form.addEventListener('input', apply);
form.addEventListener('submit', event => event.preventDefault());
form.hidden = false;
apply();
"""

_LONG = 1000  # lines; of more, the browser lays out only those in view
_COLOURS = {Risk.HIGH: "bad", Risk.MEDIUM: "mid", Risk.LOW: ""}


@dataclass(frozen=True, slots=True)
class _Section:
    """A comparison as the page shows it; ``number`` counts them."""

    number: int
    comparison: Comparison
    words: SideWords
    groups: Sequence[Group]

    @property
    def rows(self) -> list[Row]:
        return [row for group in self.groups for row in group.rows]


def as_html(report: ComparisonReport) -> str:
    """Return the whole page. Without its script, it shows every line."""
    sections = [
        _Section(number, comparison, side_words(comparison), groups(comparison))
        for number, comparison in enumerate(report.comparisons)
    ]
    title = _text(compare_sentences.report_headline(report))
    long = sum(len(section.rows) for section in sections) > _LONG
    return "".join(
        [
            "<!doctype html>\n<html lang=en>\n<head>\n<meta charset=utf-8>\n",
            f'<meta http-equiv="Content-Security-Policy" content="{_policy()}">\n',
            '<meta name=viewport content="width=device-width, initial-scale=1">\n',
            f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body{' class=long' if long else ''}>\n",
            f"<h1>{title}</h1>\n",
            *_head(report, sections),
            *(part for section in sections for part in _overview(section, alone=len(sections) == 1)),
            *_cards(sections),
            *_form(sections),
            *(part for section in sections for part in _details(report, section)),
            f"<script>{_SCRIPT}</script>\n</body>\n</html>\n",
        ]
    )


def _policy() -> str:
    script, style = (_hash(text) for text in (_SCRIPT, _STYLE))
    return f"default-src 'none'; script-src '{script}'; style-src '{style}'; base-uri 'none'; form-action 'none'"


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _head(report: ComparisonReport, sections: Sequence[_Section]) -> Iterator[str]:
    rows = [row for section in sections for row in section.rows]
    unexplained = [row for row in rows if row.unexplained]
    high = sum(row.risk is Risk.HIGH for row in unexplained)
    colour = "bad" if unexplained else "good"
    verdict = f"{len(unexplained)} of {counted(len(rows), 'line')} unexplained" + (
        f", {high} of high risk" if high else ""
    )
    yield f'<p class="verdict {colour}">{verdict}</p>\n'
    for side, error in report.failures:
        yield f'<p class="bad">{_text(side)} could not be read: {_text(error)}</p>\n'


def _cards(sections: Sequence[_Section]) -> Iterator[str]:
    rows = [row for section in sections for row in section.rows]
    counts, words = Counter(row.classes[0] for row in rows), _words(sections)
    yield "<div class=cards id=summary>\n"
    for name, number in counts.most_common():
        yield f"<div class=card><b>{number}</b>{_text(words.classes[name])}</div>\n"
    yield "</div>\n"


def _words(sections: Sequence[_Section]) -> SideWords:
    """Names of the sides for the whole page."""
    if len(sections) == 1:
        return sections[0].words
    return SideWords(sections[0].comparison.left.name if sections else "", "the side compared with it")


def _form(sections: Sequence[_Section]) -> Iterator[str]:
    """The filters, hidden until the script runs; each says how many lines it shows."""
    rows = [row for section in sections for row in section.rows]
    counts = Counter(name for row in rows for name in row.classes)
    words = _words(sections).classes
    classes = [
        ("all", "everything", len(rows)),
        ("not-same", "all but the same", sum(not row.is_same for row in rows)),
        ("unexplained", "unexplained", sum(row.unexplained for row in rows)),
        *((name, word, counts[name]) for name, word in words.items() if counts[name]),
        *((str(remark), str(remark), counts[remark]) for remark in Remark if counts[remark]),
    ]
    risks = Counter(row.risk for row in rows)
    titles = sorted({group.title for section in sections for group in section.groups})
    sides = [(str(section.number), section.comparison.right.name) for section in sections]
    yield "<form hidden autocomplete=off>\n"
    yield _select("class", "class", [(value, f"{word} ({number})") for value, word, number in classes], "not-same")
    yield _select("risk", "risk", [("", "any"), *((str(risk), f"{risk} ({risks[risk]})") for risk in Risk)], "")
    yield _select("file", "file or service", [("", "any"), *((name, name) for name in titles)], "")
    yield _select("side", "compared with", [("", "any"), *sides], "") if len(sides) > 1 else ""
    yield "<label>search<input type=search name=search></label>\n"
    yield "<label>shown<output id=shown></output></label>\n</form>\n"


def _select(name: str, label: str, choices: Iterable[tuple[str, str]], chosen: str) -> str:
    options = "".join(
        f'<option value="{_text(value)}"{" selected" if value == chosen else ""}>{_text(word)}</option>'
        for value, word in choices
    )
    return f"<label>{label}<select name={name}>{options}</select></label>\n"


def _overview(section: _Section, *, alone: bool) -> Iterator[str]:
    yield "" if alone else f"<h2>{_text(compare_sentences.headline(section.comparison))}</h2>\n"
    yield "<ul class=sentences>\n"
    for sentence in compare_sentences.sentences(section.comparison):
        yield f"<li>{_text(sentence)}</li>\n"
    yield "</ul>\n"
    yield from _services(section)


def _details(report: ComparisonReport, section: _Section) -> Iterator[str]:
    if len(report.comparisons) > 1:
        yield f"<h2>{_text(section.words.left)} and {_text(section.words.right)} in detail</h2>\n"
    for group in section.groups:
        yield f'<section class=group data-file="{_text(group.title)}" data-side="{section.number}">\n'
        yield f"<h3><code>{_text(group.title)}</code></h3>\n"
        yield f"<p class=soft>{_text(group.remark)}</p>\n" if group.remark else ""
        yield "<table class=rows>\n<thead><tr><th>name</th><th>class</th><th>risk</th><th>notes</th></tr></thead>\n"
        yield "<tbody>\n"
        yield from (_line(row, section.words) for row in group.rows)
        yield "</tbody>\n</table>\n</section>\n"
    yield "<ul class=soft>\n"
    for remark in compare_sentences.limits(section.comparison, with_key=report.with_key):
        yield f"<li>{_text(remark)}</li>\n"
    yield "</ul>\n"


def _services(section: _Section) -> Iterator[str]:
    lines = service_states(section.comparison)
    if not lines:
        return
    left, right = _text(section.words.left), _text(section.words.right)
    yield "<h3>Services</h3>\n<table class=services>\n"
    yield f"<thead><tr><th>service</th><th>{left}</th><th>{right}</th></tr></thead>\n<tbody>\n"
    for line in lines:
        mark = " class=bad" if line.bad else ""
        cells = f'<td data-label="{left}">{_state(line.left)}</td><td data-label="{right}">{_state(line.right)}</td>'
        yield f"<tr{mark}><td><code>{_text(line.service)}</code></td>{cells}</tr>\n"
    yield "</tbody>\n</table>\n"


def _state(state: State) -> str:
    return _text(state.written(Page().since))


def _line(row: Row, words: SideWords) -> str:
    mark = "bad" if row.unexplained else "good" if row.status is Status.EXPECTED else ""
    cells = [
        f"<td><code>{_text(row.name)}</code></td>",
        f'<td class="{mark}">{_text(words.status(row))}</td><td class="{_COLOURS[row.risk]}">{row.risk}</td>',
        f"<td>{_text(row.note)}</td>",
    ]
    flags = {"unexplained": row.unexplained, "same": row.is_same}
    data = {name: "yes" if flag else "no" for name, flag in flags.items()}
    data |= {"classes": " ".join(row.classes), "risk": str(row.risk)}
    attributes = "".join(f' data-{name}="{_text(value)}"' for name, value in data.items())
    return f"<tr{attributes}>{''.join(cells)}</tr>\n"


def _text(text: str) -> str:
    return escape(printable(text), quote=True)
