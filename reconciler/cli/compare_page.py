"""Renders the result of `compare` as one HTML file that loads nothing. Pure.

The page's content security policy allows only its own style and script, by hash; all other content is escaped text.
"""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from html import escape

from reconciler.app.compare.run import ComparisonReport
from reconciler.cli import compare_reports
from reconciler.cli.compare_reports import WORDS, Row
from reconciler.core.compare.risk import Risk
from reconciler.core.compare.types import Comparison, Remark, Status
from reconciler.core.text import printable

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; --bad: #c62828; --good: #2e7d32; --mid: #b26a00; }
@media (prefers-color-scheme: dark) { :root { --bad: #ff8a80; --good: #81c784; --mid: #ffb74d; } }
* { box-sizing: border-box; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 0 auto; max-width: 1200px; padding: 1.5rem; }
h1 { font-size: 1.4rem; margin: 0 0 .3rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .3rem; }
code { font: 13px ui-monospace, monospace; overflow-wrap: anywhere; }
.verdict { font-weight: 600; } .bad { color: var(--bad); } .good { color: var(--good); } .mid { color: var(--mid); }
.cards { display: flex; flex-wrap: wrap; gap: .5rem; margin: 1rem 0; }
.card { border: 1px solid var(--line); border-radius: 6px; padding: .4rem .8rem; }
.card b { display: block; font-size: 1.3rem; }
form { position: sticky; top: 0; display: flex; flex-wrap: wrap; gap: .6rem; padding: .6rem 0; background: Canvas;
  border-bottom: 1px solid var(--line); }
label { font-size: .8rem; }
select, input, output { display: block; font: inherit; padding: .2rem .4rem; max-width: 16rem; }
table { border-collapse: collapse; width: 100%; margin: .6rem 0; }
th, td { text-align: left; vertical-align: top; padding: .3rem .6rem .3rem 0; border-bottom: 1px solid var(--soft); }
td:nth-child(5) { color: GrayText; } ul { margin: .3rem 0; padding-left: 1.2rem; color: GrayText; }
"""

_SCRIPT = """
'use strict';
const form = document.querySelector('form');
const rows = [...document.querySelectorAll('tbody tr')];
const count_shown = document.querySelector('#shown');
function apply() {
  const chosen = Object.fromEntries(new FormData(form));
  const words = chosen.search.toLowerCase().split(/\\s+/).filter(Boolean);
  let count = 0;
  for (const row of rows) {
    const data = row.dataset;
    const classes = data.classes.split(' ');
    const fits = (chosen.class === 'all'
        || (chosen.class === 'unexplained' ? data.unexplained === 'yes' : classes.includes(chosen.class))
        || (chosen.class === 'not-same' && data.classes !== 'same'))
      && (!chosen.risk || data.risk === chosen.risk)
      && (!chosen.file || data.file === chosen.file)
      && (!chosen.side || data.side === chosen.side)
      && words.every(word => row.textContent.toLowerCase().includes(word));
    row.hidden = !fits;
    count += fits;
  }
  for (const table of document.querySelectorAll('table')) {
    table.hidden = !table.querySelector('tbody tr:not([hidden])');
  }
  count_shown.textContent = `${count} of ${rows.length} lines`;
}
form.addEventListener('input', apply);
form.addEventListener('submit', event => event.preventDefault());
form.hidden = false;
apply();
"""

_COLOURS = {"high": "bad", "medium": "mid", "low": ""}


def as_html(report: ComparisonReport) -> str:
    """Return the whole page. Without its script, it shows every line."""
    every = [(comparison, compare_reports.rows(comparison)) for comparison in report.comparisons]
    return "".join(
        [
            "<!doctype html>\n<html lang=en>\n<head>\n<meta charset=utf-8>\n",
            f'<meta http-equiv="Content-Security-Policy" content="{_policy()}">\n',
            '<meta name=viewport content="width=device-width, initial-scale=1">\n',
            f"<title>{_text(_title(report))}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n",
            f"<h1>{_text(_title(report))}</h1>\n",
            *_head(report, [row for _, rows in every for row in rows]),
            *_form(every),
            *(
                part
                for number, (comparison, rows) in enumerate(every)
                for part in _section(report, number, comparison, rows)
            ),
            f"<script>{_SCRIPT}</script>\n</body>\n</html>\n",
        ]
    )


def _policy() -> str:
    script, style = (_hash(text) for text in (_SCRIPT, _STYLE))
    return f"default-src 'none'; script-src '{script}'; style-src '{style}'; base-uri 'none'; form-action 'none'"


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _title(report: ComparisonReport) -> str:
    if not report.comparisons:
        return "Nothing could be compared"
    first, *more = report.comparisons
    others = f"{len(more) + 1} others" if more else first.right.name
    return f"{first.left.name} and {others}"


def _head(report: ComparisonReport, rows: list[Row]) -> Iterator[str]:
    count = report.unexplained
    colour, verdict = ("bad", f"{count} unexplained") if count else ("good", "nothing unexplained")
    yield f'<p class="verdict {colour}">{verdict}</p>\n'
    for side, error in report.failures:
        yield f'<p class="bad">{_text(side)} could not be read: {_text(error)}</p>\n'
    classes = Counter(name for row in rows for name in row.classes)
    cards = [(WORDS[Status(name)] if name in list(Status) else name, number) for name, number in classes.most_common()]
    high = sum(row.unexplained and row.risk == Risk.HIGH for row in rows)
    yield "<div class=cards id=summary>\n"
    for name, number in [("unexplained, high risk", high), *cards]:
        yield f"<div class=card><b>{number}</b>{_text(name)}</div>\n"
    yield "</div>\n"


def _form(every: Iterable[tuple[Comparison, list[Row]]]) -> Iterator[str]:
    """The filters, hidden until the script runs."""
    pairs = list(every)
    rows = [row for _, group in pairs for row in group]
    present = {name for row in rows for name in row.classes}
    classes = [("all", "everything"), ("not-same", "all but the same"), ("unexplained", "unexplained")]
    classes += [(str(status), WORDS[status]) for status in Status if status in present]
    classes += [(str(remark), str(remark)) for remark in Remark if remark in present]
    files = sorted({row.file for row in rows if row.file})
    yield "<form hidden autocomplete=off>\n"
    yield _select("class", "class", classes, "not-same")
    yield _select("risk", "risk", [("", "any"), *((str(risk), str(risk)) for risk in Risk)], "")
    yield _select("file", "file or service", [("", "any"), *((name, name) for name in files)], "")
    sides = [(str(number), comparison.right.name) for number, (comparison, _) in enumerate(pairs)]
    yield _select("side", "compared with", [("", "any"), *sides], "")
    yield "<label>search<input type=search name=search></label>\n"
    yield "<label>shown<output id=shown></output></label>\n</form>\n"


def _select(name: str, label: str, choices: Iterable[tuple[str, str]], chosen: str) -> str:
    options = "".join(
        f'<option value="{_text(value)}"{" selected" if value == chosen else ""}>{_text(word)}</option>'
        for value, word in choices
    )
    return f"<label>{label}<select name={name}>{options}</select></label>\n"


def _section(report: ComparisonReport, number: int, comparison: Comparison, rows: list[Row]) -> Iterator[str]:
    colour = "bad" if comparison.unexplained else "good"
    yield f"<h2>{_text(comparison.left.name)} and {_text(comparison.right.name)}</h2>\n"
    yield f'<p class="{colour}">{_text(compare_reports.summarize_comparison(comparison))}</p>\n<ul>\n'
    for problem in comparison.problems:
        yield f'<li class="bad">could not be compared: {_text(problem)}</li>\n'
    for remark in compare_reports.limits(comparison, with_key=report.with_key):
        yield f"<li>{_text(remark)}</li>\n"
    yield "</ul>\n<table>\n<thead><tr><th>file or service</th><th>key</th><th>class</th><th>risk</th><th>notes</th>"
    yield "</tr></thead>\n<tbody>\n"
    yield from (_line(number, row) for row in rows)
    yield "</tbody>\n</table>\n"


def _line(number: int, row: Row) -> str:
    mark = "bad" if row.unexplained else "good" if Status.EXPECTED in row.classes else ""
    cells = [
        f"<td><code>{_text(row.file)}</code></td><td><code>{_text(row.name)}</code></td>",
        f'<td class="{mark}">{_text(row.status)}</td><td class="{_COLOURS[row.risk]}">{row.risk}</td>',
        f"<td>{_text(row.note)}</td>",
    ]
    unexplained = "yes" if row.unexplained else "no"
    data = {"classes": " ".join(row.classes), "risk": row.risk, "file": row.file, "side": str(number)}
    attributes = "".join(f' data-{name}="{_text(value)}"' for name, value in data.items())
    return f'<tr data-unexplained="{unexplained}"{attributes}>{"".join(cells)}</tr>\n'


def _text(text: str) -> str:
    return escape(printable(text), quote=True)
