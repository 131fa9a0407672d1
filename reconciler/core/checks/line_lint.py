"""Checks the lines of an env file without a key, and reports all findings with their lines.

core/sops/ciphertext.py stops at the first error. This module removes faulty lines, so that it can parse the rest.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from reconciler.core.checks import rules
from reconciler.core.checks.rules import Finding, Rule
from reconciler.core.dotenv.grammar import DotenvEntry, EnvFileError, parse_env_file
from reconciler.core.sops import ciphertext
from reconciler.core.sops.metadata import is_metadata_key
from reconciler.core.text import key_name

_CERTAIN_MARKER = re.compile(r"^(?:<{7}|>{7})(?: .*)?\r?$", re.MULTILINE)
_LEFT_OVER = re.compile(r"={7}|\|{7}(?: .*)?")  # in an encrypted file, after <<<<<<< and >>>>>>> are gone
_PRIVATE_KEY = re.compile(
    r"AGE-SECRET-KEY-1[0-9A-Z]{10,}|-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----", re.ASCII
)
# Sixteen letters and digits in a row, at least three of them digits.
_RANDOM = re.compile(r"(?=[A-Za-z]*[0-9][A-Za-z]*[0-9][A-Za-z]*[0-9])[A-Za-z0-9]{16}", re.ASCII)
_ALONE = "may be a bare secret, so it is not shown: add the name before it, or remove the line and replace the secret"


@dataclass(slots=True)
class Linted:
    """``rest`` is the text with the lines of findings emptied."""

    rest: str
    findings: list[Finding] = field(default_factory=list)
    conflict: bool = False


def conflict_markers(path: str, text: str) -> list[Finding]:
    """One finding for the first line of each conflict; a line of equals signs alone is not a conflict."""
    if "<<<<<<<" not in text and ">>>>>>>" not in text:  # the usual case, ten times faster
        return []
    certain = [_line(text, match.start()) for match in _CERTAIN_MARKER.finditer(text)]
    starts = [_line(text, match.start()) for match in re.finditer(r"^<{7}", text, re.MULTILINE)]
    how = "`reconciler merge` merges by key; docs/merging.md"
    message = f"a merge conflict is not resolved: {how if 'ENC[' in text else 'resolve it and remove the markers'}"
    return [Finding(rules.CONFLICT_MARKER, path, line, message) for line in (starts or certain[:1]) if certain]


def private_keys(path: str, text: str) -> list[Finding]:
    message = "contains a private key in plain text: replace the key, since git keeps this one forever"
    lines = [_line(text, match.start()) for match in _PRIVATE_KEY.finditer(text)]
    return [Finding(rules.PRIVATE_KEY, path, line, message) for line in lines[:1]]


def lint_text(path: str, text: str, *, encrypted: bool) -> Linted:
    """Given the text of an env file, return the findings by line. ``encrypted``: it has sops' own lines."""
    linted = Linted(text, conflict_markers(path, text))
    if linted.findings:
        linted.conflict = True
        return linted
    if "\r" in text:
        message = "has Windows line endings, and a carriage return becomes part of a value: use .gitattributes (eol=lf)"
        linted.findings.append(Finding(rules.LINE_ENDING, path, _line(text, text.index("\r")), message))
        text = text.replace("\r\n", "\n").replace("\r", "")
    if encrypted and text.startswith("\ufeff"):
        message = (
            "begins with a byte order mark (BOM): if an editor added it, save the file as UTF-8 without one; if the "
            "plain file had it, which sops takes for part of the first name, remove it there and encrypt again"
        )
        linted.findings.append(Finding(rules.BAD_CIPHERTEXT, path, 1, message))
        text = text.removeprefix("\ufeff")
    linted.rest = _lint_lines(path, text, linted.findings) if encrypted else text
    return linted


def _lint_lines(path: str, text: str, findings: list[Finding]) -> str:
    """Check each ``KEY=…`` line of an encrypted file; return the text with faulty lines emptied."""
    lines = text.split("\n")
    first: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if _LEFT_OVER.fullmatch(line):
            message = "is left from a merge conflict: check whether both sides are still in the file, then remove it"
            findings.append(Finding(rules.CONFLICT_MARKER, path, number, message))
            lines[number - 1] = ""
            continue
        key, equals, value = line.partition("=")
        if not equals or line.startswith("#"):
            continue
        if fault := _fault(key, value, number, first):
            findings.append(Finding(fault[0], path, number, fault[1]))
            lines[number - 1] = ""
    return "\n".join(lines)


def _fault(key: str, value: str, number: int, first: dict[str, int]) -> tuple[Rule, str] | None:
    if key.startswith("sops_"):
        if is_metadata_key(key):
            return None
        return rules.SOPS_KEY, "a variable's name cannot begin with sops_: sops uses such names for its own data"
    name = key.strip(" \t").removeprefix("export ").strip(" \t")
    if problem := name_problem(name):
        return rules.KEY_NAME, problem
    if may_be_a_value(name, value):
        return rules.KEY_NAME, _ALONE
    if first.setdefault(name, number) != number:
        return rules.DUPLICATE_KEY, f"{name} is already set in line {first[name]}; keep one"
    return None


def may_be_a_value(name: str, value: str) -> bool:
    """Whether a line without ``=``, or with nothing after it, may be a bare secret, so that its name must not be
    shown."""
    if value.strip("= \t\r"):
        return False
    return not ciphertext.is_certainly_a_name(name, value) or _RANDOM.search(name) is not None


def name_problem(name: str) -> str:
    """Why Compose or reconciler would refuse the name of a variable; "" if neither does."""
    if re.fullmatch(r"[\w.\-]+", name):
        return ""
    try:
        parse_env_file(f"{name}=x\n".encode("utf-8", "surrogatepass"))
    except EnvFileError:
        return "the text before = is not a name that Compose accepts: letters, digits, _ . and - only"
    return "the text before = is not a name that reconciler can manage: letters, digits, _ . and - only"


def lint_entries(path: str, entries: tuple[DotenvEntry, ...]) -> list[Finding]:
    """Check the entries of a plain or decrypted env file: duplicates, sops' own names, bare secrets."""
    findings = []
    first: dict[str, int] = {}
    for entry in entries:
        if may_be_a_value(entry.key, entry.template):
            findings.append(Finding(rules.KEY_NAME, path, entry.line, _ALONE))
        elif entry.key.startswith("sops_"):
            message = f"{key_name(entry.key)} belongs to sops: the file was encrypted twice, or merged by hand"
            findings.append(Finding(rules.SOPS_KEY, path, entry.line, message))
        elif first.setdefault(entry.key, entry.line) != entry.line:
            message = f"{key_name(entry.key)} is already set in line {first[entry.key]}; keep one"
            findings.append(Finding(rules.DUPLICATE_KEY, path, entry.line, message))
    return findings


def _line(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1
