"""Renders the result of `check` for people and for CI servers. Pure."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from typing import Any
from urllib.parse import quote

from reconciler import DISTRIBUTION
from reconciler.app.checks.run import CheckReport
from reconciler.cli.layout import Page, counted
from reconciler.core.checks import rules
from reconciler.core.checks.rules import Finding, Severity
from reconciler.core.model.answers import versioned
from reconciler.core.text import printable

FORMATS: dict[str, Callable[[CheckReport], str]] = {
    "json": lambda report: _json(versioned(check_data(report))),
    "github": lambda report: _github(report),
    "gitlab": lambda report: _json(_gitlab(report.findings)),
    "sarif": lambda report: _json(_sarif(report.findings)),
}
"""The renderer of each format for programs; each text ends with a newline."""


def check_report(report: CheckReport, page: Page) -> Iterator[str]:
    """A line per finding, as compilers write them, and the summary."""
    for finding in report.findings:
        severity = page.style("red" if finding.rule.severity is Severity.ERROR else "yellow", finding.rule.severity)
        place = f"{printable(finding.path)}:{finding.line}"
        yield from page.text(f"{place}: {severity} [{finding.rule.id}] {finding.message}", 0, 2)
    yield from page.text(summarize_check(report), 0, 2)


def summarize_check(report: CheckReport) -> str:
    scope = f"{counted(report.files, 'file')} of {printable(', '.join(report.environments))}"
    values = f"values of {report.values}" if report.values else "no values, because there is no key"
    if report.key_opens_nothing:
        known = f"values of {report.values}" if report.values else "no values"
        values = f"{known}; the key cannot decrypt any of these files"
    if not report.findings:
        return f"nothing found in {scope} ({values})"
    counts = f"{counted(report.errors, 'error')}, {counted(report.warnings, 'warning')}"
    return f"{counts} in {scope} ({values}); docs/checks.md explains each rule"


def _json(data: Any) -> str:
    return json.dumps(data, indent=2) + "\n"


def check_data(report: CheckReport) -> dict[str, Any]:
    """The report as data, without values."""
    return {
        "environments": list(report.environments),
        "files": report.files,
        "files_with_values": report.values,
        "errors": report.errors,
        "warnings": report.warnings,
        "findings": [
            {
                "rule": finding.rule.id,
                "severity": str(finding.rule.severity),
                "path": finding.path,
                "line": finding.line,
                "message": finding.message,
            }
            for finding in report.findings
        ],
    }


# --- GitHub: workflow commands on standard output, which become annotations ---


def _github(report: CheckReport) -> str:
    return "".join(f"{_command(finding)}\n" for finding in report.findings) + f"{_escaped(summarize_check(report))}\n"


def _command(finding: Finding) -> str:
    place = f"file={_property(printable(finding.path))},line={finding.line},title={_property(finding.rule.id)}"
    return f"::{finding.rule.severity} {place}::{_escaped(finding.message)}"


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _escaped(text).replace(":", "%3A").replace(",", "%2C")


# --- GitLab: a Code Quality report ---


def _gitlab(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    levels = {Severity.ERROR: "critical", Severity.WARNING: "minor"}
    return [
        {
            "description": finding.message,
            "check_name": finding.rule.id,
            "fingerprint": fingerprint,
            "severity": levels[finding.rule.severity],
            "location": {"path": finding.path, "lines": {"begin": finding.line}},
        }
        for finding, fingerprint in _fingerprinted(findings)
    ]


def _fingerprinted(findings: Iterable[Finding]) -> Iterable[tuple[Finding, str]]:
    """Each finding with a unique fingerprint that identifies it in the next run, even if its line moves."""
    times: Counter[tuple[str, str, str]] = Counter()
    for finding in findings:
        identity = (finding.rule.id, finding.path, finding.message)
        times[identity] += 1
        yield finding, hashlib.sha256("\0".join([*identity, str(times[identity])]).encode()).hexdigest()


# --- SARIF 2.1.0 (OASIS), for code scanning ---


def _sarif(findings: Iterable[Finding]) -> dict[str, Any]:
    driver = {
        "name": "reconciler",
        "version": version(DISTRIBUTION),
        "rules": [_sarif_rule(rule) for rule in rules.ALL],
    }
    results = [_sarif_result(finding, fingerprint) for finding, fingerprint in _fingerprinted(findings)]
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


def _sarif_result(finding: Finding, fingerprint: str) -> dict[str, Any]:
    where = {
        "artifactLocation": {"uri": quote(finding.path), "uriBaseId": "%SRCROOT%"},
        "region": {"startLine": finding.line},
    }
    return {
        "ruleId": finding.rule.id,
        "ruleIndex": rules.ALL.index(finding.rule),
        "level": str(finding.rule.severity),
        "message": {"text": finding.message},
        "locations": [{"physicalLocation": where}],
        "partialFingerprints": {"reconciler/v1": fingerprint},
    }
