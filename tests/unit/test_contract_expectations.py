"""A broken contract says what it expects, and never what it forbids: that would be the value."""

from __future__ import annotations

from typing import Any

from reconciler.core.contract_expectations import expectation
from tests.support.cases import each

FORBIDDEN = "f0rbidden"
SCHEMA: dict[str, Any] = {
    "properties": {
        "PROVIDER": {"enum": ["openrouter", "openai"]},
        "ONLY": {"enum": ["a"]},
        "MANY": {"enum": [f"v{number}" for number in range(20)]},
        "EMPTY": {"const": ""},
        "PORT": {"pattern": "^[0-9]+$", "minLength": 1, "maxLength": 5},
        "LONG": {"pattern": "x" * 500},
        "CONTROL": {"const": "a\x1b[31m"},
        "URL": {"$ref": "#/$defs/url"},
        "MODEL": {"not": {"const": FORBIDDEN}},
    },
    "allOf": [{"properties": {"MODE": {"enum": ["safe"]}}}],
    "if": {"properties": {"MODE": {"const": FORBIDDEN}}},
    "$defs": {"url": {"format": "uri"}},
}


@each(
    ("field", "words"),
    [
        (("properties", "PROVIDER", "enum"), "must be one of openrouter, openai"),
        (("properties", "ONLY", "enum"), "must be a"),
        (("properties", "EMPTY", "const"), 'must be ""'),
        (("properties", "PORT", "pattern"), "must match ^[0-9]+$"),
        (("properties", "PORT", "minLength"), "must have at least 1 character"),
        (("properties", "PORT", "maxLength"), "must have at most 5 characters"),
        (("properties", "URL", "$ref", "format"), "must be a URI such as https://example.org"),
        (("properties", "MODEL", "not"), ""),
        (("allOf", 0, "properties", "MODE", "enum"), "must be safe"),
        (("if", "properties", "MODE", "const"), ""),
        (("properties", "NOWHERE", "enum"), ""),
        ((), ""),
    ],
)
def test_a_contract_says_what_it_expects(field: tuple[str | int, ...], words: str) -> None:
    assert expectation(SCHEMA, field) == words


def test_long_and_hostile_contracts_stay_in_their_line() -> None:
    assert expectation(SCHEMA, ("properties", "MANY", "enum")).endswith("v11 and 8 more")
    assert len(expectation(SCHEMA, ("properties", "LONG", "pattern"))) < 150
    assert "\x1b" not in expectation(SCHEMA, ("properties", "CONTROL", "const"))
