"""Checks of values: of plain files, and with a key of encrypted ones. No finding contains a value."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from reconciler.app.checks.survey import Source, checked_entries
from reconciler.core.checks import rules
from reconciler.core.checks.rules import Finding
from reconciler.core.contract import Differs, Notes
from reconciler.core.dotenv.grammar import DotenvEntry, Quote
from reconciler.core.dotenv.interpolation import unbraced_references
from reconciler.core.dotenv.readings import known_variables
from reconciler.core.model.targets import Parser
from reconciler.core.secret import Digester
from reconciler.core.secrets.names import names_a_secret
from reconciler.core.text import key_name

# What people leave in place of a value.
_PLACEHOLDER = re.compile(
    r"your[-_ ].{1,60}[-_ ]here|your[-_ ](?:api[-_ ]?key|secret|password|token|key)|<[a-z][a-z0-9 _-]{1,40}>"
    r"|(?:[a-z]{2,8}[-_]){0,3}x{3,}|(?:todo|fixme)(?:[: ].{0,200})?"
    r"|replace[-_ ]?(?:me|this)|placeholder|tbd|insert[-_ ].{1,60}[-_ ]here",
    re.IGNORECASE,
)
_CHANGE_ME = re.compile(r"(?<![a-z0-9])change[-_]?(?:me|this)(?![a-z0-9])", re.IGNORECASE)
_SHORTEST_SECRET = 8  # characters; shorter values are equal by chance ("true", "none")


@dataclass(frozen=True, slots=True)
class Opened:
    """A source with known values: the entries as written, and the variables that a container gets."""

    source: Source
    entries: tuple[DotenvEntry, ...] = field(repr=False)
    variables: Mapping[str, str] = field(repr=False)


def open_source(source: Source, data: bytes) -> tuple[Opened | None, list[Finding]]:
    """Given a source and its plaintext, return it opened (None if it has no readable variables), and findings."""
    if source.parser is Parser.OPAQUE:
        return None, []
    entries, findings = checked_entries(source.path, data, source.parser)
    unreadable = any(finding.rule in (rules.ENV_UNREADABLE, rules.KEY_NAME) for finding in findings)
    variables = {} if unreadable else known_variables(data, source.parser)
    # The survey reports those of plain files. In an encrypted file, the line numbers of the plaintext differ.
    findings = [_moved(source, finding) for finding in findings] if source.encrypted else []
    return None if unreadable else Opened(source, tuple(entries), variables), findings


def _moved(source: Source, finding: Finding) -> Finding:
    return Finding(finding.rule, finding.path, 1, f"{finding.message} (line {finding.line} of the plaintext)")


def check_interpolation(opened: Opened) -> Iterator[Finding]:
    """Find values that Compose would interpolate."""
    if opened.source.parser is not Parser.COMPOSE:
        return
    defined: set[str] = set()
    for entry in opened.entries:
        if entry.quote is not Quote.SINGLE and unbraced_references(entry) - defined:
            message = (
                f"{key_name(entry.key)}: Compose treats the text after a $ in it as a variable name; put the value in "
                "single quotes, or write $$"
            )
            yield Finding(rules.INTERPOLATION, opened.source.path, _line(opened, entry), message)
        defined.add(entry.key)


def check_placeholders(opened: Opened) -> Iterator[Finding]:
    """Find values that were never filled in."""
    for entry in opened.entries:
        if is_placeholder(entry.template):
            message = f"{key_name(entry.key)} still has a placeholder"
            yield Finding(rules.PLACEHOLDER, opened.source.path, _line(opened, entry), message)


def is_placeholder(text: str) -> bool:
    value = text.strip().strip("\"'")
    return len(value) <= 300 and bool(_PLACEHOLDER.fullmatch(value) or _CHANGE_ME.search(value))


def _line(opened: Opened, entry: DotenvEntry) -> int:
    return opened.source.line(entry.key) if opened.source.encrypted else entry.line


def check_shared_secrets(
    sources: list[Opened], notes: Mapping[str, Mapping[str, Notes]], digest: Digester
) -> Iterator[Finding]:
    """Find the same secret in two environments. ``notes`` come from contracts, by path and key: they know secrets
    better than names do, and ``x-differs: may`` or ``never`` allows shared ones."""
    holders: dict[str, tuple[Opened, str]] = {}
    for opened in sources:
        for key, value in opened.variables.items():
            note = notes.get(opened.source.path, {}).get(key, Notes())
            secret = note.secret or names_a_secret(key)
            if not secret or len(value) < _SHORTEST_SECRET or note.differs in (Differs.MAY, Differs.NEVER):
                continue
            holder, name = holders.setdefault(digest(value.encode("utf-8", "surrogatepass")), (opened, key))
            if holder.source.environment != opened.source.environment:
                message = f"{key_name(key)} is the same secret as {key_name(name)} in {holder.source.path}"
                where = (opened.source.path, opened.source.line(key))
                yield Finding(rules.SHARED_SECRET, *where, message, (holder.source.environment,))


def check_differences(sources: list[Opened], notes: Mapping[str, Mapping[str, Notes]]) -> Iterator[Finding]:
    """Check ``x-differs`` for each key of a source, in all environments with known values."""
    by_name: dict[tuple[str, str], list[Opened]] = {}
    for opened in sources:
        for key in opened.variables:
            by_name.setdefault((opened.source.name, key), []).append(opened)
    for (_, key), several in by_name.items():
        for number, opened in enumerate(several):
            broken = (_broken(key, earlier, opened, notes) for earlier in several[:number])
            yield from [finding for finding in broken if finding][:1]


def _broken(key: str, earlier: Opened, later: Opened, notes: Mapping[str, Mapping[str, Notes]]) -> Finding | None:
    """The finding if two environments break an ``x-differs`` of either one's contract."""
    same = earlier.variables[key] == later.variables[key]
    for opened in (later, earlier):
        note = notes.get(opened.source.path, {}).get(key, Notes())
        if note.differs is (Differs.MUST if same else Differs.NEVER):
            verb = "must differ, but is the same as in" if same else "must be the same as in"
            message = f"{key_name(key)} {verb} {earlier.source.path} ({note.contract}:{note.line})"
            where = (later.source.path, later.source.line(key))
            return Finding(rules.CONTRACT_DIFFERS, *where, message, (earlier.source.environment,))
    return None
