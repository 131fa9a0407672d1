"""Renders the result of `compare` as JSON and as Markdown. Pure; never shows a value."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from reconciler.app.compare.run import ComparisonReport
from reconciler.cli.layout import counted
from reconciler.cli.markdown import code, plain_text
from reconciler.core.compare.risk import Risk
from reconciler.core.compare.types import Comparison, Fact, FileResult, KeyResult, ProbeResult, Side, Status
from reconciler.core.model.answers import versioned
from reconciler.core.text import printable

WORDS = {
    Status.SAME: "same",
    Status.EXPECTED: "differs as expected",
    Status.DIFFERS: "differs, unexplained",
    Status.MISSING_LEFT: "missing left",
    Status.MISSING_RIGHT: "missing right",
    Status.SAME_SECRET: "same secret, must differ",
    Status.FAILED: "no answer on either side",
    Status.UNKNOWN: "on both sides, values not compared",
}
"""The classes in words, the same in every format."""

_ORDER = {Risk.HIGH: 0, Risk.MEDIUM: 1, Risk.LOW: 2}


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a report. ``classes`` are the status and the remarks; the HTML page filters by them."""

    kind: str  # key, file, service or probe
    file: str
    name: str
    status: str
    risk: str
    classes: tuple[str, ...]
    note: str
    unexplained: bool


def rows(comparison: Comparison) -> list[Row]:
    """All lines, the most important first."""
    services = (
        _fact_row("service", service.service, fact) for service in comparison.services for fact in service.facts
    )
    lines = [*_file_rows(comparison), *services, *(_probe_row(probe) for probe in comparison.probes)]
    kinds = {"key": 0, "file": 1, "service": 2, "probe": 3}
    return sorted(lines, key=lambda row: (not row.unexplained, _ORDER[Risk(row.risk)], kinds[row.kind], row.file))


def _file_rows(comparison: Comparison) -> Iterator[Row]:
    for file in comparison.files:
        name = pair_name(file)
        for key in file.keys:
            classes = (str(key.status), *map(str, key.remarks))
            note = "; ".join(part for part in (*_remarks(key), key.reason) if part)
            yield Row("key", name, key.key, WORDS[key.status], key.risk, classes, note, key.unexplained)
        yield from (_fact_row("file", name, fact) for fact in file.facts)


def _remarks(key: KeyResult) -> Iterator[str]:
    words = {"placeholder": "a placeholder", "deprecated": "deprecated", "unused": "used by no service"}
    return (words[remark] for remark in key.remarks)


def _fact_row(kind: str, name: str, fact: Fact) -> Row:
    text = f"{fact.left or 'none'} | {fact.right or 'none'}" if fact.left or fact.right else ""
    note = "; ".join(part for part in (text, fact.reason) if part)
    status = WORDS[fact.status] if fact.name != "file" else "only on one side"
    return Row(kind, name, fact.name, status, fact.risk, (str(fact.status),), note, fact.unexplained)


def _probe_row(probe: ProbeResult) -> Row:
    where = f"first in line {probe.line}" if probe.line else ""
    note = "; ".join(part for part in (f"{probe.left} | {probe.right}", where, probe.reason) if part)
    return Row(
        "probe", "", probe.probe, WORDS[probe.status], Risk.MEDIUM, (str(probe.status),), note, probe.unexplained
    )


def pair_name(file: FileResult) -> str:
    """``api.env``, or ``api.env ↔ config/api.env`` if the names differ."""
    if not file.left or not file.right:
        return file.name
    return file.left if file.left == file.right else f"{file.left} ↔ {file.right}"


def summarize_comparison(comparison: Comparison) -> str:
    count = Counter(key.status for file in comparison.files for key in file.keys)
    counts = ", ".join(f"{count[status]} {word}" for status, word in WORDS.items() if count[status])
    pairs = sum(1 for file in comparison.files if file.left and file.right)
    alone = len(comparison.files) - pairs
    files = f"{counted(pairs, 'file')} paired" + (f", {alone} on one side only" if alone else "")
    verdict = (
        counted(comparison.unexplained, "unexplained difference") if comparison.unexplained else "nothing unexplained"
    )
    return f"{verdict}; {files}; keys: {counts or 'none'}"


def limits(comparison: Comparison, *, with_key: bool) -> list[str]:
    """The limits of the comparison, one sentence each."""
    kind = (
        "two environments: their secrets must differ" if comparison.different else "one environment: nothing may differ"
    )
    sentences = [f"compared as {kind} (change with --different-environments or --same-environment)"]
    sentences += [
        sentence for side in (comparison.left, comparison.right) if (sentence := _sealed(side, with_key=with_key))
    ]
    sentences += [
        f"{side.name}: left out: {text}" for side in (comparison.left, comparison.right) for text in side.left_out
    ]
    return [printable(remark) for remark in sentences]


def _sealed(side: Side, *, with_key: bool) -> str:
    if not side.sealed:
        return ""
    files = counted(side.sealed, "encrypted file")
    reason = "the key cannot decrypt them" if with_key else "no age key was given (--age-key-file or SOPS_AGE_KEY_FILE)"
    return f"{side.name}: compared {files} by key names only, without values: {reason}"


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
    return {
        "left": comparison.left.name,
        "right": comparison.right.name,
        "different_environments": comparison.different,
        "summary": summarize_comparison(comparison),
        "unexplained": comparison.unexplained,
        "remarks": limits(comparison, with_key=with_key),
        "problems": list(comparison.problems),
        "files": [_file(file) for file in comparison.files],
        "services": [
            {"service": service.service, "facts": [_fact(fact) for fact in service.facts]}
            for service in comparison.services
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
        "services": list(file.services),
        "problem": file.problem,
        "keys": [
            {
                "key": key.key,
                "class": str(key.status),
                "remarks": [str(remark) for remark in key.remarks],
                "risk": str(key.risk),
                "unexplained": key.unexplained,
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
        "reason": fact.reason,
    }


# --- markdown ---


def as_markdown(report: ComparisonReport) -> str:
    parts = [part for comparison in report.comparisons for part in _section(comparison, with_key=report.with_key)]
    parts += [f"**{plain_text(side)} could not be read:** {plain_text(error)}" for side, error in report.failures]
    return "\n\n".join(parts) + "\n"


def _section(comparison: Comparison, *, with_key: bool) -> Iterator[str]:
    yield f"## {plain_text(comparison.left.name)} and {plain_text(comparison.right.name)}"
    yield f"**{plain_text(summarize_comparison(comparison))}**"
    notes = [f"- {plain_text(remark)}" for remark in limits(comparison, with_key=with_key)]
    notes += [f"- could not be compared: {plain_text(problem)}" for problem in comparison.problems]
    yield "\n".join(notes)
    visible = [row for row in rows(comparison) if row.classes != (str(Status.SAME),)]
    if visible:
        head = ["| | file or service | key | class | risk | notes |", "|---|---|---|---|---|---|"]
        yield "\n".join([*head, *(_line(row) for row in visible)])


def _line(row: Row) -> str:
    mark = "⚠️" if row.unexplained else ""
    cells = [mark, code(row.file), code(row.name), plain_text(row.status), row.risk, plain_text(row.note)]
    return f"| {' | '.join(cells)} |"
