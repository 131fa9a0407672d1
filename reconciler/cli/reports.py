"""Renders the result of `check` for people and for CI servers. Pure."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable
from importlib.metadata import version
from typing import Any
from urllib.parse import quote

from reconciler.app.checks.run import CheckReport
from reconciler.core.checks import rules
from reconciler.core.checks.rules import Finding, Severity
from reconciler.core.text import printable

FORMATS: dict[str, Callable[[CheckReport], str]] = {
    "text": lambda report: _text(report),
    "json": lambda report: _json(_data(report)),
    "github": lambda report: _github(report),
    "gitlab": lambda report: _json(_gitlab(report.findings)),
    "sarif": lambda report: _json(_sarif(report.findings)),
}
"""The renderer of each format; each text ends with a newline."""


def summarize_check(report: CheckReport) -> str:
    scope = f"{_counted(report.files, 'file')} of {printable(', '.join(report.environments))}"
    values = f"values of {report.values}" if report.values else "no values, because there is no key"
    if report.key_opens_nothing:
        values += "; the key cannot decrypt any of these files"
    if not report.findings:
        return f"nothing found in {scope} ({values})"
    counts = f"{_counted(report.errors, 'error')}, {_counted(report.warnings, 'warning')}"
    return f"{counts} in {scope} ({values}); docs/checks.md explains each rule"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _text(report: CheckReport) -> str:
    lines = [
        f"{printable(finding.path)}:{finding.line}: {finding.rule.severity} [{finding.rule.id}] {finding.message}"
        for finding in report.findings
    ]
    return "\n".join([*lines, summarize_check(report), ""])


def _json(data: Any) -> str:
    return json.dumps(data, indent=2) + "\n"


def _data(report: CheckReport) -> dict[str, Any]:
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
        "version": version("reconciler"),
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
