"""What only values tell: those of plain files, and with a key those of encrypted ones. No value leaves this module."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from reconciler.app.checks.survey import Source, read_entries
from reconciler.core import dotenv, lint, rules
from reconciler.core.contract import Differs, Notes
from reconciler.core.model import Parser
from reconciler.core.rules import Finding
from reconciler.core.secret import Digester

# What people leave where a value belongs.
_PLACEHOLDER = re.compile(
    r"your[-_ ].{1,60}[-_ ]here|your[-_ ](?:api[-_ ]?key|secret|password|token|key)|<[a-z][a-z0-9 _-]{1,40}>"
    r"|x{3,}|(?:todo|fixme)(?:[: ].{0,200})?|replace[-_ ]?(?:me|this)|placeholder|tbd|insert[-_ ].{1,60}[-_ ]here",
    re.IGNORECASE,
)
_CHANGE_ME = re.compile(r"(?<![a-z0-9])change[-_]?(?:me|this)(?![a-z0-9])", re.IGNORECASE)
# Names under which secrets go, where no contract says so.
_SECRET = re.compile(
    r"(?:^|[_.-])(?:SECRET|PASSWORD|PASSWD|PWD|PASSPHRASE|TOKEN|KEY|APIKEY|CREDENTIALS?|DSN|SALT)(?:$|[_.-])",
    re.IGNORECASE,
)
_SHORTEST_SECRET = 8  # characters; shorter ones are alike by chance ("true", "none")


@dataclass(frozen=True, slots=True)
class Opened:
    """A source whose values are known: the entries as written, and the variables that a container gets."""

    source: Source
    entries: tuple[dotenv.Entry, ...] = field(repr=False)
    variables: Mapping[str, str] = field(repr=False)


def open_source(source: Source, data: bytes) -> tuple[Opened | None, list[Finding]]:
    """Given a source and its plain bytes, return it opened (None where it has no variables), and what is wrong."""
    if source.parser is Parser.OPAQUE:
        return None, []
    entries, findings = read_entries(source.path, data, source.parser)
    variables = {} if findings else dotenv.variables(data, source.parser)
    # Those of a plain file were told by the survey. Of an encrypted one, the lines are not those of its plaintext.
    findings = [_moved(source, finding) for finding in findings] if source.encrypted else []
    return Opened(source, tuple(entries), variables), findings


def _moved(source: Source, finding: Finding) -> Finding:
    return Finding(finding.rule, finding.path, 1, f"{finding.message} (line {finding.line} of the plaintext)")


def check_interpolation(opened: Opened) -> Iterator[Finding]:
    """Values of which Compose would take a piece for a variable."""
    if opened.source.parser is not Parser.COMPOSE:
        return
    defined: set[str] = set()
    for entry in opened.entries:
        if entry.quote is not dotenv.Quote.SINGLE and dotenv.plain_references(entry) - defined:
            message = (
                f"{lint.shown(entry.key)}: Compose takes what follows a $ in it for the name of a variable; "
                "put the value in single quotes, or write $$"
            )
            yield Finding(rules.INTERPOLATION, opened.source.path, _line(opened, entry), message)
        defined.add(entry.key)


def check_placeholders(opened: Opened) -> Iterator[Finding]:
    for entry in opened.entries:
        value = entry.template.strip().strip("\"'")
        if len(value) <= 300 and (_PLACEHOLDER.fullmatch(value) or _CHANGE_ME.search(value)):
            message = f"{lint.shown(entry.key)} still has a placeholder"
            yield Finding(rules.PLACEHOLDER, opened.source.path, _line(opened, entry), message)


def _line(opened: Opened, entry: dotenv.Entry) -> int:
    return opened.source.line(entry.key) if opened.source.encrypted else entry.line


def check_shared_secrets(
    every: list[Opened], notes: Mapping[str, Mapping[str, Notes]], digest: Digester
) -> Iterator[Finding]:
    """The same secret in two environments. ``notes`` are what contracts say, by path and key: they know what is a
    secret better than its name tells, and ``x-differs: may`` or ``never`` allows it."""
    holders: dict[str, tuple[Opened, str]] = {}
    for opened in every:
        for key, value in opened.variables.items():
            said = notes.get(opened.source.path, {}).get(key, Notes())
            secret = said.secret or _SECRET.search(key) is not None
            if not secret or len(value) < _SHORTEST_SECRET or said.differs in (Differs.MAY, Differs.NEVER):
                continue
            other, name = holders.setdefault(digest(value.encode("utf-8", "surrogatepass")), (opened, key))
            if other.source.environment != opened.source.environment:
                message = f"{lint.shown(key)} is the same secret as {lint.shown(name)} of {other.source.path}"
                yield Finding(rules.SHARED_SECRET, opened.source.path, opened.source.line(key), message)


def check_differences(every: list[Opened], notes: Mapping[str, Mapping[str, Notes]]) -> Iterator[Finding]:
    """``x-differs``: of one key in one source, over all environments whose values are known."""
    by_name: dict[tuple[str, str], list[Opened]] = {}
    for opened in every:
        for key in opened.variables:
            by_name.setdefault((opened.source.name, key), []).append(opened)
    for (_, key), several in by_name.items():
        first = several[0]
        for opened in several[1:]:
            said = notes.get(opened.source.path, {}).get(key, Notes())
            same = [one for one in several[: several.index(opened)] if one.variables[key] == opened.variables[key]]
            if said.differs is Differs.MUST and same:
                message = (
                    f"{lint.shown(key)} must differ, and is as in {same[0].source.path} ({said.contract}:{said.line})"
                )
                yield Finding(rules.CONTRACT_DIFFERS, opened.source.path, opened.source.line(key), message)
            elif said.differs is Differs.NEVER and first.variables[key] != opened.variables[key]:
                message = f"{lint.shown(key)} must be as in {first.source.path} ({said.contract}:{said.line})"
                yield Finding(rules.CONTRACT_DIFFERS, opened.source.path, opened.source.line(key), message)
