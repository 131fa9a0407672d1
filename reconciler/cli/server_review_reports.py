"""Renders a review as text, as JSON, as Markdown and as one HTML page. Pure; never a value of a variable."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from reconciler.app.pages.attention import BAD, KNOWN, Attention
from reconciler.app.pages.html import render_html
from reconciler.app.review.review import Review
from reconciler.cli.layout import Detail, Item, Page, counted, foreign
from reconciler.cli.reports import check_data, summarize_check
from reconciler.core.change_words import Data
from reconciler.core.markdown import code, plain_text
from reconciler.core.model.answers import versioned
from reconciler.core.text import absolute, epoch_seconds

_COLOURS = {"bad": "red", "mid": "yellow", "info": "cyan"}
_MOST_LINES = 12  # of a notification
_MARKS = {"bad": "🔴", "mid": "🟡", "info": "🔵"}


# --- what there is to say ---


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of a table: a name, its state, and what else there is to know."""

    name: str
    state: str
    kind: str
    more: Sequence[str] = ()


def headline(review: Review) -> str:
    """Such as ``web-1: 2 things need you``."""
    urgent = [entry for entry in review.attention() if entry.kind != KNOWN]
    broken = sum(entry.kind == BAD for entry in urgent)
    if not urgent:
        return f"{review.host}: nothing needs you"
    kinds = f", {broken} broken" if broken else ""
    return f"{review.host}: {counted(len(urgent), 'thing needs', 'things need')} you{kinds}"


def _tables(review: Review, page: Page) -> Iterator[tuple[str, Sequence[_Line]]]:
    """Title and lines of what was looked at, whether it needs somebody or not."""
    yield "Environments", [_environment(environment, page) for environment in review.environments]
    yield "Comparisons", [_comparison(pair, page) for pair in review.comparisons or ()]
    if review.check:
        kind = "mid" if review.check.findings else "good"
        yield "Check", [_Line("check", summarize_check(review.check), kind)]
    yield "Secrets", [_ages(ages, review.max_age, page) for ages in review.ages or ()]


def _environment(environment: Data, page: Page) -> _Line:
    revision = environment["revision"] or environment["applied"] or environment["head"]
    changes = environment["after"]["changes"] if environment["after"] else ()
    in_sync = sum(change["sync"] == "in_sync" and change["kind"] == "in_sync" for change in changes)
    drifted = sum(change["sync"] == "drifted" for change in changes)
    services = environment.get("services", ())
    well = sum(service["healthy"] for service in services)
    more = [
        revision["commit"][:12] if revision else "",
        f"{in_sync} of {counted(len(changes), 'target')} in sync" if changes else "",
        f"{drifted} drifted" if drifted else "",
        f"{well} of {counted(len(services), 'service')} healthy" if services else "",
        f"checked {page.ago(environment['checked_at'])}" if environment["checked_at"] else "",
    ]
    return _Line(
        environment["environment"], environment["result"] or "not reconciled yet", "", tuple(filter(None, more))
    )


def _comparison(pair: Data, page: Page) -> _Line:
    kind = "bad" if pair["error"] else "off" if pair["at"] is None else "mid" if pair["unexplained"] else "good"
    state = "not compared" if pair["error"] else pair["verdict"]
    when = (f"compared {page.ago(pair['at'])}",) if pair["at"] else ()
    return _Line(pair["name"], state, kind, (f"{pair['left']} and {pair['right']}", *when))


def _ages(ages: Data, max_age: str, page: Page) -> _Line:
    keys = [(key, target["target"]) for target in ages["targets"] for key in target["keys"] if key["last_rotated"]]
    if not keys:
        return _Line(ages["environment"], "no encrypted secrets", "off")
    old = sum(key["too_old"] for key, _ in keys)
    oldest, target = min(keys, key=lambda each: str(each[0]["last_rotated"]))
    name = f"{target}: {oldest['key']}".rstrip(": ")
    state = f"{old} of {counted(len(keys), 'secret')} older than {max_age}"
    return _Line(
        ages["environment"], state, "mid" if old else "good", (f"oldest {page.ago(oldest['last_rotated'])}: {name}",)
    )


# --- text ---


def review_report(review: Review, page: Page) -> Iterator[str]:
    """The headline, what needs an operator, then all that was looked at."""
    yield from page.text(page.style("bold", foreign(headline(review))), 0, 2)
    yield from page.text(page.style("dim", f"as of {page.exact(review.at)}"), 0, 2)
    if attention := review.attention():
        yield ""
        yield from page.items([_item(entry, page) for entry in attention], indent=0, apart=True)
    for title, lines in _tables(review, page):
        if lines:
            yield ""
            yield page.style("bold", title)
            yield from page.items([_row(line, page) for line in lines])


def _item(entry: Attention, page: Page) -> Item:
    since = (page.style("dim", page.since(entry.since)),) if entry.since else ()
    word = page.style(_COLOURS[entry.kind], entry.word.replace("_", " "))
    details: list[Detail] = [foreign(line) for line in entry.reason.split("\n") if line]
    for item in entry.items:
        text = foreign(f"{item['name']}: {item['text']}" if item["text"] else item["name"])
        details += [text, *(page.keys(item["keys"]) if item["keys"] else [])]
    details += [f"→ {foreign(step)}" for step in entry.next]
    return Item((page.style("bold", foreign(entry.where)), word, *since), tuple(details))


def _row(line: _Line, page: Page) -> Item:
    colour = {"good": "green", "mid": "yellow", "bad": "red", "off": "dim"}.get(line.kind)
    state = page.style(colour, foreign(line.state)) if colour else page.state(line.state)
    return Item((foreign(line.name), state, *map(foreign, line.more)))


# --- data ---


def as_data(review: Review) -> dict[str, Any]:
    """The review for --json."""
    return versioned(
        {
            "host": review.host,
            "at": review.at,
            "summary": headline(review),
            "attention": [asdict(entry) for entry in review.attention()],
            "failures": [{"part": part, "error": error} for part, error in (review.failures or {}).items()],
            "daemon": review.status["daemon"] if review.status else None,
            "environments": list(review.environments),
            "comparisons": list(review.comparisons or ()),
            "check": check_data(review.check) if review.check else None,
            "max_age": review.max_age,
            "ages": list(review.ages or ()),
        }
    )


# --- markdown ---


def as_markdown(review: Review) -> str:
    return "\n\n".join(_sections(review)) + "\n"


def _sections(review: Review) -> Iterator[str]:
    yield f"## {plain_text(headline(review))}"
    yield f"As of {absolute(review.at)}."
    if attention := review.attention():
        yield "\n".join(line for entry in attention for line in _bullet(entry))
    for title, lines in _tables(review, Page()):
        if lines:
            rows = [f"| {code(line.name)} | {plain_text(_words(line))} | {_joined(line.more)} |" for line in lines]
            yield f"### {title}"
            yield "\n".join(["| name | state | |", "|---|---|---|", *rows])


def _bullet(entry: Attention) -> Iterator[str]:
    since = f" (since {absolute(entry.since)})" if entry.since else ""
    yield f"- {_MARKS[entry.kind]} **{plain_text(entry.where)}: {plain_text(entry.word.replace('_', ' '))}**{since}"
    yield from (f"  {_marked(line)}  " for line in entry.reason.split("\n") if line)
    for item in entry.items:
        names = [*((item["keys"] or {}).get(kind, ()) for kind in ("added", "changed", "removed"))]
        keys = ", ".join(code(name) for some in names for name in some)
        yield f"  - {code(item['name'])} {_marked(item['text'])}{f': {keys}' if keys else ''}".rstrip()
    yield from (f"  - → {_marked(step)}" for step in entry.next)


def _marked(text: str) -> str:
    """A sentence, with its commands as code."""
    parts = re.split(r"`([^`]+)`", text)
    return "".join(code(part) if number % 2 else plain_text(part) for number, part in enumerate(parts))


def _words(line: _Line) -> str:
    return line.state.replace("_", " ")


def _joined(texts: Sequence[str]) -> str:
    return ", ".join(map(plain_text, texts))


# --- html ---


def as_html(review: Review) -> str:
    """One file that loads nothing."""
    return render_html(
        "review.html",
        title=headline(review),
        now=epoch_seconds(review.at),
        at=review.at,
        attention=review.attention(),
        tables=[(title, lines) for title, lines in _tables(review, Page(now=epoch_seconds(review.at))) if lines],
    )


def as_mail(review: Review) -> tuple[str, str, str]:
    """Subject, text and HTML of a mail."""
    text = "".join(f"{line}\n" for line in review_report(review, Page(78)))
    return f"reconciler: {headline(review)}", text, as_html(review)


def _first_line(entry: Attention) -> str:
    """The reason in short; without one, the first of what it is about."""
    names = ", ".join(item["name"] for item in entry.items[:3])
    return entry.reason.partition("\n")[0] or names


def as_message(review: Review) -> tuple[str, list[str]]:
    """Title and lines of a notification: what needs an operator, in short."""
    urgent = [entry for entry in review.attention() if entry.kind != KNOWN]
    lines = [f"{entry.where}: {entry.word.replace('_', ' ')}. {_first_line(entry)}".strip(" .") for entry in urgent]
    more = len(lines) - _MOST_LINES
    title = headline(review).partition(": ")[2]
    return title, [*lines[:_MOST_LINES], *([f"And {more} more: `reconciler review` shows them"] if more > 0 else [])]
