"""What a contract asks of a value, in words. Contracts are public; the value that breaks one never is. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reconciler.core import contract_references
from reconciler.core.text import listed, printable

_CHOICES_SHOWN = 12
_LONGEST = 120  # characters of a pattern or a choice
_FORMATS = {
    "date": "a date such as 2026-01-31",
    "email": "an email address",
    "hostname": "a host name",
    "ipv4": "an IPv4 address",
    "ipv6": "an IPv6 address",
    "regex": "a regular expression",
    "uri": "a URI such as https://example.org",
    "uuid": "a UUID",
}


def expectation(schema: Mapping[str, Any], field: Sequence[str | int]) -> str:
    """Given a contract and the path of the keyword that a value breaks, return "must be …".

    "" where there are no such words, and for ``not``: naming what is forbidden would name the value.
    """
    if any(part in ("not", "if") for part in field):
        return ""
    keyword, argument = (field[-1], _argument(schema, field)) if field else ("", None)
    match keyword, argument:
        case "enum", list() as choices if choices:
            words = [_shortened(choice) for choice in choices]
            return f"must be {words[0]}" if len(words) == 1 else f"must be one of {listed(words, _CHOICES_SHOWN)}"
        case "const", str() as value:
            return f"must be {_shortened(value)}"
        case "pattern", str() as pattern:
            return f"must match {_shortened(pattern)}"
        case "format", str() as name if name in _FORMATS:
            return f"must be {_FORMATS[name]}"
        case ("minLength" | "maxLength") as bound, int() as length:
            plural = "" if length == 1 else "s"
            return f"must have at {'least' if bound == 'minLength' else 'most'} {length} character{plural}"
    return ""


def _argument(schema: Any, field: Sequence[str | int]) -> Any:
    """What stands at the path, which may lead through references."""
    node = schema
    for part in field:
        if part in contract_references.KEYWORDS and isinstance(node, Mapping) and isinstance(node.get(part), str):
            node = contract_references.resolved(schema, node[part])
        elif isinstance(node, Mapping) and part in node:
            node = node[part]
        elif isinstance(node, list) and isinstance(part, int) and part < len(node):
            node = node[int(part)]
        else:
            return None
    return node


def _shortened(value: Any) -> str:
    text = printable(str(value)) or '""'
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
