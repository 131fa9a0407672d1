"""Renders the result of `compare` as JSON and as Markdown. Pure; never shows a value."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from reconciler.app.compare.rows import Group, Row, ServiceStates, SideWords, State, groups, service_states, side_words
from reconciler.app.compare.run import ComparisonReport
from reconciler.cli import compare_sentences
from reconciler.cli.layout import Page
from reconciler.core.compare.types import Comparison, Fact, FileResult
from reconciler.core.markdown import code, plain_text
from reconciler.core.model.answers import versioned

_MARK = "⚠️"

# --- data ---


def as_json(report: ComparisonReport) -> str:
    return json.dumps(versioned(report_data(report)), indent=2) + "\n"


def report_data(report: ComparisonReport) -> dict[str, Any]:
    """The report as data, without values or fingerprints."""
    return {
        "unexplained": report.unexplained,
        "comparisons": [_comparison(comparison, with_key=report.with_key) for comparison in report.comparisons],
        "failures": [{"side": side, "error": error} for side, error in report.failures],
    }


def _comparison(comparison: Comparison, *, with_key: bool) -> dict[str, Any]:
    words = side_words(comparison)
    return {
        "left": comparison.left.name,
        "right": comparison.right.name,
        "left_label": words.left,
        "right_label": words.right,
        "different_environments": comparison.different,
        "summary": compare_sentences.headline(comparison),
        "sentences": compare_sentences.sentences(comparison),
        "unexplained": comparison.unexplained,
        "remarks": compare_sentences.limits(comparison, with_key=with_key),
        "problems": list(comparison.problems),
        "files": [_file(file) for file in comparison.files],
        "services": [
            {"service": service.service, "facts": [_fact(fact) for fact in service.facts]}
            for service in comparison.services
        ],
        "definitions": [
            {"service": result.service, "facts": [_fact(fact) for fact in result.facts]}
            for result in comparison.definitions
        ],
        "probes": [
            {
                "probe": probe.probe,
                "class": str(probe.status),
                "left": probe.left,
                "right": probe.right,
                "first_different_line": probe.line or None,
                "reason": probe.reason,
            }
            for probe in comparison.probes
        ],
    }


def _file(file: FileResult) -> dict[str, Any]:
    return {
        "left": file.left or None,
        "right": file.right or None,
        "paired_by": str(file.paired_by) if file.paired_by else None,
        "services": list(file.services),
        "problem": file.problem,
        "keys": [
            {
                "key": key.key,
                "class": str(key.status),
                "remarks": [str(remark) for remark in key.remarks],
                "risk": str(key.risk),
                "unexplained": key.unexplained,
                "unused_on": list(key.unused_on),
                "reason": key.reason,
            }
            for key in file.keys
        ],
        "facts": [_fact(fact) for fact in file.facts],
    }


def _fact(fact: Fact) -> dict[str, Any]:
    return {
        "name": str(fact.name),
        "left": fact.left,
        "right": fact.right,
        "class": str(fact.status),
        "risk": str(fact.risk),
        "unexplained": fact.unexplained,
        "informational": fact.informational,
        "reason": fact.reason,
    }


# --- markdown ---


def as_markdown(report: ComparisonReport) -> str:
    parts = [part for comparison in report.comparisons for part in _section(comparison, with_key=report.with_key)]
    parts += [f"**{plain_text(side)} could not be read:** {plain_text(error)}" for side, error in report.failures]
    return "\n\n".join(parts) + "\n"


def _section(comparison: Comparison, *, with_key: bool) -> Iterator[str]:
    words = side_words(comparison)
    yield f"## {plain_text(compare_sentences.headline(comparison))}"
    if sentences := compare_sentences.sentences(comparison):
        yield "\n".join(f"- {plain_text(sentence)}" for sentence in sentences)
    if lines := service_states(comparison):
        yield "### Services"
        head = [f"| | service | {plain_text(words.left)} | {plain_text(words.right)} |", "|---|---|---|---|"]
        yield "\n".join([*head, *map(_service, lines)])
    for group in groups(comparison):
        yield from _group(group, words)
    yield "### Limits"
    yield "\n".join(f"- {plain_text(remark)}" for remark in compare_sentences.limits(comparison, with_key=with_key))


def _service(line: ServiceStates) -> str:
    mark = _MARK if line.bad else ""
    return f"| {mark} | {code(line.service)} | {_state(line.left)} | {_state(line.right)} |"


def _state(state: State) -> str:
    return plain_text(state.written(Page().since))


def _group(group: Group, words: SideWords) -> Iterator[str]:
    rows = [row for row in group.rows if not row.is_same]
    if group.kind == "problem" or not rows:
        return  # the sentences name every problem
    if group.kind == "probe":
        yield "### Probes"
    elif group.kind == "service":
        yield f"### Service {code(group.title.removeprefix('service '))}"
    elif group.kind == "definition":
        yield f"### Compose definition of {code(group.title.removeprefix('compose '))}"
    else:
        yield f"### {code(group.title)}"
    if group.remark:
        yield plain_text(group.remark)
    yield "\n".join(
        ["| | name | class | risk | notes |", "|---|---|---|---|---|", *(_line(row, words) for row in rows)]
    )


def _line(row: Row, words: SideWords) -> str:
    mark = _MARK if row.unexplained else ""
    cells = [mark, code(row.name), plain_text(words.status(row)), str(row.risk), plain_text(row.note)]
    return f"| {' | '.join(cells)} |"
