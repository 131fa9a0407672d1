"""What `compare` found, as data and as markdown. Pure: from a report to text; never a value."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from reconciler.app.compare.run import Report
from reconciler.cli.markdown import code, plain
from reconciler.core.compare.risk import Risk
from reconciler.core.compare.types import Comparison, Fact, FileResult, KeyResult, ProbeResult, Side, Status
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
"""The classes in words, the same in every form."""

_ORDER = {Risk.HIGH: 0, Risk.MEDIUM: 1, Risk.LOW: 2}


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a report. ``classes`` are the status and the remarks, by which a page filters."""

    kind: str  # key, file, service or probe
    file: str
    name: str
    status: str
    risk: str
    classes: tuple[str, ...]
    note: str
    unexplained: bool


def rows(found: Comparison) -> list[Row]:
    """Every line, what matters most first."""
    every = [*_file_rows(found), *_service_rows(found), *(_probe_row(one) for one in found.probes)]
    kinds = {"key": 0, "file": 1, "service": 2, "probe": 3}
    return sorted(every, key=lambda row: (not row.unexplained, _ORDER[Risk(row.risk)], kinds[row.kind], row.file))


def _file_rows(found: Comparison) -> Iterator[Row]:
    for file in found.files:
        name = pair_name(file)
        for key in file.keys:
            classes = (str(key.status), *map(str, key.remarks))
            note = "; ".join(part for part in (*_remarks(key), key.reason) if part)
            yield Row("key", name, key.key, WORDS[key.status], key.risk, classes, note, key.unexplained)
        yield from (_fact_row("file", name, fact) for fact in file.facts)


def _remarks(key: KeyResult) -> Iterator[str]:
    said = {"placeholder": "a placeholder", "deprecated": "deprecated", "unused": "named by no service"}
    return (said[remark] for remark in key.remarks)


def _service_rows(found: Comparison) -> Iterator[Row]:
    for service in found.services:
        yield from (_fact_row("service", service.service, fact) for fact in service.facts)


def _fact_row(kind: str, name: str, fact: Fact) -> Row:
    shown = f"{fact.left or 'none'} | {fact.right or 'none'}" if fact.left or fact.right else ""
    note = "; ".join(part for part in (shown, fact.reason) if part)
    status = WORDS[fact.status] if fact.what != "file" else "only on one side"
    return Row(kind, name, fact.what, status, fact.risk, (str(fact.status),), note, fact.unexplained)


def _probe_row(one: ProbeResult) -> Row:
    where = f"first in line {one.line}" if one.line else ""
    note = "; ".join(part for part in (f"{one.left} | {one.right}", where, one.reason) if part)
    return Row("probe", "", one.probe, WORDS[one.status], Risk.MEDIUM, (str(one.status),), note, one.unexplained)


def pair_name(file: FileResult) -> str:
    """``api.env``, or ``api.env ↔ config/api.env`` where the sides call it otherwise."""
    if not file.left or not file.right:
        return file.name
    return file.left if file.left == file.right else f"{file.left} ↔ {file.right}"


def summary(found: Comparison) -> str:
    """One sentence: how the two sides stand."""
    count = Counter(key.status for file in found.files for key in file.keys)
    told = ", ".join(f"{count[status]} {word}" for status, word in WORDS.items() if count[status])
    pairs = sum(1 for file in found.files if file.left and file.right)
    alone = len(found.files) - pairs
    files = f"{_counted(pairs, 'file')} paired" + (f", {alone} on one side only" if alone else "")
    verdict = _counted(found.unexplained, "unexplained difference") if found.unexplained else "nothing unexplained"
    return f"{verdict}; {files}; keys: {told or 'none'}"


def remarks(found: Comparison, *, with_key: bool) -> list[str]:
    """What limits the comparison, a sentence each."""
    kind = "two environments: their secrets must differ" if found.different else "one environment: nothing may differ"
    said = [f"taken for {kind} (--different-environments or --same-environment says otherwise)"]
    said += [sentence for side in (found.left, found.right) if (sentence := _sealed(side, with_key=with_key))]
    said += [f"{side.name}: left out: {what}" for side in (found.left, found.right) for what in side.left_out]
    return [printable(one) for one in said]


def _sealed(side: Side, *, with_key: bool) -> str:
    if not side.sealed:
        return ""
    files = _counted(side.sealed, "encrypted file")
    why = "the key opens none of them" if with_key else "no age key was given (--age-key-file or SOPS_AGE_KEY_FILE)"
    return f"{side.name}: of {files} only the names of keys are compared, not the values: {why}"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


# --- data ---


def as_json(report: Report) -> str:
    return json.dumps(data(report), indent=2) + "\n"


def data(report: Report) -> dict[str, Any]:
    """The report as data; no value of a variable, and no fingerprint of one."""
    return {
        "unexplained": report.unexplained,
        "comparisons": [_comparison(one, with_key=report.with_key) for one in report.comparisons],
        "failures": [{"side": side, "error": error} for side, error in report.failures],
    }


def _comparison(found: Comparison, *, with_key: bool) -> dict[str, Any]:
    return {
        "left": found.left.name,
        "right": found.right.name,
        "different_environments": found.different,
        "summary": summary(found),
        "unexplained": found.unexplained,
        "remarks": remarks(found, with_key=with_key),
        "problems": list(found.problems),
        "files": [_file(one) for one in found.files],
        "services": [{"service": one.service, "facts": [_fact(fact) for fact in one.facts]} for one in found.services],
        "probes": [
            {
                "probe": one.probe,
                "class": str(one.status),
                "left": one.left,
                "right": one.right,
                "first_different_line": one.line or None,
                "reason": one.reason,
            }
            for one in found.probes
        ],
    }


def _file(one: FileResult) -> dict[str, Any]:
    return {
        "left": one.left or None,
        "right": one.right or None,
        "services": list(one.services),
        "problem": one.problem,
        "keys": [
            {
                "key": key.key,
                "class": str(key.status),
                "remarks": [str(remark) for remark in key.remarks],
                "risk": str(key.risk),
                "unexplained": key.unexplained,
                "reason": key.reason,
            }
            for key in one.keys
        ],
        "facts": [_fact(fact) for fact in one.facts],
    }


def _fact(fact: Fact) -> dict[str, Any]:
    return {
        "what": str(fact.what),
        "left": fact.left,
        "right": fact.right,
        "class": str(fact.status),
        "risk": str(fact.risk),
        "unexplained": fact.unexplained,
        "reason": fact.reason,
    }


# --- markdown ---


def as_markdown(report: Report) -> str:
    parts = [part for one in report.comparisons for part in _section(one, with_key=report.with_key)]
    parts += [f"**{plain(side)} could not be looked at:** {plain(error)}" for side, error in report.failures]
    return "\n\n".join(parts) + "\n"


def _section(found: Comparison, *, with_key: bool) -> Iterator[str]:
    yield f"## {plain(found.left.name)} and {plain(found.right.name)}"
    yield f"**{plain(summary(found))}**"
    notes = [f"- {plain(one)}" for one in remarks(found, with_key=with_key)]
    notes += [f"- could not be compared: {plain(one)}" for one in found.problems]
    yield "\n".join(notes)
    shown = [row for row in rows(found) if row.classes != (str(Status.SAME),)]
    if shown:
        head = ["| | file or service | key | class | risk | notes |", "|---|---|---|---|---|---|"]
        yield "\n".join([*head, *(_line(row) for row in shown)])


def _line(row: Row) -> str:
    mark = "⚠️" if row.unexplained else ""
    cells = [mark, code(row.file), code(row.name), plain(row.status), row.risk, plain(row.note)]
    return f"| {' | '.join(cells)} |"
