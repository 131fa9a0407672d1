"""What `check` found, in the shapes that people and the pages of git servers read. Pure: from a report to text."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable
from importlib.metadata import version
from typing import Any
from urllib.parse import quote

from reconciler.app.checks.run import Report
from reconciler.core.checks import rules
from reconciler.core.checks.rules import Finding, Severity
from reconciler.core.text import printable

FORMATS: dict[str, Callable[[Report], str]] = {
    "text": lambda report: _text(report),
    "json": lambda report: _json(_data(report)),
    "github": lambda report: _github(report),
    "gitlab": lambda report: _json(_gitlab(report.findings)),
    "sarif": lambda report: _json(_sarif(report.findings)),
}
"""How a report is written, by the name of the format; each with a newline at its end."""


def summary(report: Report) -> str:
    """One sentence: what was looked at and how it stands."""
    looked = f"{_counted(report.files, 'file')} of {printable(', '.join(report.environments))}"
    values = f"values of {report.values}" if report.values else "no values, for want of a key"
    if report.key_opens_nothing:
        values += "; the key opens none of these files"
    if not report.findings:
        return f"nothing found in {looked} ({values})"
    found = f"{_counted(report.errors, 'error')}, {_counted(report.warnings, 'warning')}"
    return f"{found} in {looked} ({values}); docs/checks.md explains each rule"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _text(report: Report) -> str:
    lines = [
        f"{printable(one.path)}:{one.line}: {one.rule.severity} [{one.rule.id}] {one.message}"
        for one in report.findings
    ]
    return "\n".join([*lines, summary(report), ""])


def _json(data: Any) -> str:
    return json.dumps(data, indent=2) + "\n"


def _data(report: Report) -> dict[str, Any]:
    return {
        "environments": list(report.environments),
        "files": report.files,
        "files_with_values": report.values,
        "errors": report.errors,
        "warnings": report.warnings,
        "findings": [
            {
                "rule": one.rule.id,
                "severity": str(one.rule.severity),
                "path": one.path,
                "line": one.line,
                "message": one.message,
            }
            for one in report.findings
        ],
    }


# --- GitHub: workflow commands on standard output, which become annotations ---


def _github(report: Report) -> str:
    return "".join(f"{_command(one)}\n" for one in report.findings) + f"{_escaped(summary(report))}\n"


def _command(one: Finding) -> str:
    place = f"file={_property(printable(one.path))},line={one.line},title={_property(one.rule.id)}"
    return f"::{one.rule.severity} {place}::{_escaped(one.message)}"


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _escaped(text).replace(":", "%3A").replace(",", "%2C")


# --- GitLab: a Code Quality report ---


def _gitlab(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    levels = {Severity.ERROR: "critical", Severity.WARNING: "minor"}
    return [
        {
            "description": one.message,
            "check_name": one.rule.id,
            "fingerprint": fingerprint,
            "severity": levels[one.rule.severity],
            "location": {"path": one.path, "lines": {"begin": one.line}},
        }
        for one, fingerprint in _fingerprinted(findings)
    ]


def _fingerprinted(findings: Iterable[Finding]) -> Iterable[tuple[Finding, str]]:
    """Each finding with what recognises it in the next run: not its line, which moves; unique nevertheless."""
    times: Counter[tuple[str, str, str]] = Counter()
    for one in findings:
        what = (one.rule.id, one.path, one.message)
        times[what] += 1
        yield one, hashlib.sha256("\0".join([*what, str(times[what])]).encode()).hexdigest()


# --- SARIF 2.1.0 (OASIS), for code scanning ---


def _sarif(findings: Iterable[Finding]) -> dict[str, Any]:
    driver = {"name": "reconciler", "version": version("reconciler"), "rules": [_sarif_rule(one) for one in rules.ALL]}
    results = [_sarif_result(one, fingerprint) for one, fingerprint in _fingerprinted(findings)]
    return {
        "$schema": "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json",
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "results": results, "columnKind": "unicodeCodePoints"}],
    }


def _sarif_rule(rule: rules.Rule) -> dict[str, Any]:
    return {
        "id": rule.id,
        "shortDescription": {"text": rule.summary},
        "defaultConfiguration": {"level": str(rule.severity)},
    }


def _sarif_result(one: Finding, fingerprint: str) -> dict[str, Any]:
    where = {"artifactLocation": {"uri": quote(one.path), "uriBaseId": "%SRCROOT%"}, "region": {"startLine": one.line}}
    return {
        "ruleId": one.rule.id,
        "ruleIndex": rules.ALL.index(one.rule),
        "level": str(one.rule.severity),
        "message": {"text": one.message},
        "locations": [{"physicalLocation": where}],
        "partialFingerprints": {"reconciler/v1": fingerprint},
    }
