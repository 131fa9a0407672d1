"""Puts other values in place of those that are current, for a plan that must not tell whether they are. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection

from reconciler.core.dotenv.grammar import EnvFileError, read_entries
from reconciler.core.dotenv.readings import known_variables
from reconciler.core.model.targets import Parser

_SIMPLE_VALUE = re.compile(r"[A-Za-z0-9._:/@+-]+")


def with_unlike_values(
    data: bytes, current: Collection[bytes], rewritten: Collection[str] | None, parser: Parser
) -> bytes:
    """The file with another value for each ``rewritten`` key (None: all of them) that has the value of a ``current``
    version of it. An opaque file may be an env file to a service; if it is none, it differs as a whole."""
    if parser is Parser.OPAQUE:
        data = with_unlike_values(data, current, None, Parser.COMPOSE)
        return data + b"\n" if data in current else data
    try:
        entries = list(read_entries(data, parser))
        values = known_variables(data, parser)
        known = [known_variables(version, parser) for version in current]
    except EnvFileError:
        return data
    lines = data.splitlines(keepends=True)
    starts = [entry.line - 1 for entry in entries]
    for entry, start, end in reversed(list(zip(entries, starts, [*starts[1:], len(lines)], strict=True))):
        same = any(entry.key in version and version[entry.key] == values.get(entry.key) for version in known)
        # A reference is resolved by more than this file: it may be the same, or have Compose judge the server's values.
        unsure = "$" in entry.template
        if (rewritten is None or entry.key in rewritten) and (same or unsure):
            lines[start:end] = [f"{entry.key}={_another(values.get(entry.key, ''))}\n".encode()]
    return b"".join(lines)


def _another(value: str) -> str:
    """A value that differs, and is of the same kind as far as that is simple."""
    if not _SIMPLE_VALUE.fullmatch(value):
        return "another-value"
    last = max((place for place, character in enumerate(value) if character.isalnum()), default=None)
    if last is None:
        return f"{value}x"
    character = value[last]
    unlike = str((int(character) + 1) % 10) if character.isdecimal() else ("b" if character in "aA" else "a")
    return value[:last] + unlike + value[last + 1 :]
