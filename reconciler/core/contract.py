"""Contracts: JSON Schemas (2020-12) for the variables of an env file, a mapping of names to strings.

This is the part that needs no JSON Schema engine: what a contract may contain, our annotations (``writeOnly``,
``x-max-age``, ``x-differs``, ``deprecated``), and the part that can be checked without values.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from reconciler.core import contract_references
from reconciler.core.text import key_name

Field = tuple[str | int, ...]
"""A path in a contract: keys and indexes."""

FORMATS = frozenset({"date", "email", "hostname", "ipv4", "ipv6", "regex", "uri", "uuid"})
MAX_VALUE = 256 * 1024
"""Characters of a value that rules are tried on; no process can get a longer one (MAX_ARG_STRLEN is 128 KiB)."""

FORBIDDING = frozenset({"additionalProperties", "false", "not/required", "propertyNames", "maxProperties"})
"""The keywords whose breach is a key too many."""

_STRUCTURE = frozenset({"required", "minProperties", "maxProperties", "propertyNames", "dependentRequired"})
_NAMED_PLACES = frozenset({"$anchor", "$dynamicAnchor", *contract_references.KEYWORDS})
_DEFINITIONS = ("$defs", "definitions")  # the latter is the name before 2019, still common
KEYWORDS = sorted(
    {
        *_STRUCTURE,
        *_NAMED_PLACES,
        *_DEFINITIONS,
        *("$schema", "$id", "$comment", "$vocabulary", "title", "description", "default", "examples"),
        *("type", "const", "enum", "pattern", "format", "minLength", "maxLength"),
        *("properties", "patternProperties", "additionalProperties", "unevaluatedProperties", "dependentSchemas"),
        *("allOf", "anyOf", "oneOf", "not", "if", "then", "else"),
        *("readOnly", "writeOnly", "deprecated", "x-max-age", "x-differs"),
        *("contentEncoding", "contentMediaType", "contentSchema"),
    }
)
_TYPES = frozenset({"string", "object"})
MAX_AGE = re.compile("[1-9][0-9]{0,4}[smhd]")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DEEPEST = 20


class Differs(StrEnum):
    """Whether a key's values must, may or must never differ between environments."""

    MUST = "must"
    MAY = "may"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class Contract:
    """``path`` is relative to the directory of environments; ``schema`` the content; ``lines`` a line for each
    field."""

    path: str
    schema: Mapping[str, Any]
    lines: Mapping[Field, int]

    def line(self, field: Field) -> int:
        """The line of ``field``, or of the nearest field around it."""
        while field and field not in self.lines:
            field = field[:-1]
        return self.lines.get(field, 1)


@dataclass(frozen=True, slots=True)
class Breach:
    """A broken rule. ``key`` is "" where several are concerned; ``keyword`` is the rule's, such as ``required`` or
    ``pattern``; ``expectation`` is what the contract asks, "must be …" or ""; never a value."""

    key: str
    keyword: str
    contract: str
    line: int
    expectation: str = ""

    def __str__(self) -> str:
        place, key = f"{self.contract}:{self.line}", key_name(self.key) if self.key else "the file"
        if self.key and self.keyword in ("required", "dependentRequired"):
            return f"{key} is missing; {place} requires it"
        if self.key and self.keyword in FORBIDDING:
            return f"{key} is not allowed (`{self.keyword}` of {place})"
        if self.expectation:
            return f"{key} {self.expectation} (`{self.keyword}` of {place})"
        return f"{key} breaks `{self.keyword}` of {place}"


@dataclass(frozen=True, slots=True)
class Mistake:
    """An error in a contract, and where."""

    field: Field
    message: str


@dataclass(frozen=True, slots=True)
class Question:
    """Contracts, all of which must hold, and the variables of one file. ``values`` is None without a key: then only the
    names are checked."""

    contracts: tuple[Contract, ...]
    names: tuple[str, ...]
    values: Mapping[str, str] | None = None

    def __repr__(self) -> str:
        return f"Question({[contract.path for contract in self.contracts]}, {self.names})"


@dataclass(frozen=True, slots=True)
class Answer:
    """``faults`` has by path the error of each contract that is not a valid JSON Schema; ``breaches`` has per question
    every broken rule, each once. A contract with a fault breaks nothing."""

    faults: Mapping[str, Mistake]
    breaches: tuple[tuple[Breach, ...], ...]


# --- what a contract may contain ---


def mistakes(schema: Mapping[str, Any]) -> list[Mistake]:
    """Given a contract, return what cannot mean what its author intended. The metaschema is checked separately."""
    collected = []
    for field, node in _nodes(schema, ()):
        collected += [*_keyword_mistakes(field, node), *_reference_mistakes(field, node, schema)]
        collected += _node_mistakes(field, node)
    return collected


def _keyword_mistakes(field: Field, node: Mapping[str, Any]) -> Iterator[Mistake]:
    """Unknown keywords: the standard ignores them, so the intended rule would never apply."""
    for keyword in node:
        if keyword in KEYWORDS:
            continue
        own = str(keyword).startswith("x-")
        like = [known for known in KEYWORDS if known.startswith("x-") == own]
        same = [known for known in like if known.lower() == str(keyword).lower()]
        same = same or difflib.get_close_matches(str(keyword), like, n=1, cutoff=0.8 if own else 0.6)
        if same or not own:
            advice = f"; did you mean {same[0]}?" if same else "; custom annotations begin with x-"
            yield Mistake((*field, keyword), f"is not a keyword of a contract{advice}")


def _reference_mistakes(field: Field, node: Mapping[str, Any], root: Mapping[str, Any]) -> Iterator[Mistake]:
    for keyword in contract_references.KEYWORDS:
        reference = node.get(keyword)
        if not isinstance(reference, str):
            continue
        if not reference.startswith("#"):
            yield Mistake(
                (*field, keyword), "points out of the file; only '#…' is followed. List several contracts instead"
            )
        elif contract_references.resolved(root, reference) is None:
            yield Mistake((*field, keyword), "points to nothing in this file")
        elif contract_references.points_to_itself(root, node):
            yield Mistake((*field, keyword), "points to itself")


def _node_mistakes(field: Field, node: Mapping[str, Any]) -> Iterator[Mistake]:
    if "$id" in node and field:
        yield Mistake((*field, "$id"), "moves the base of '#…' references; leave it out")
    if "$schema" in node and "2020-12" not in str(node["$schema"]):
        yield Mistake((*field, "$schema"), "is another dialect; contracts are JSON Schema 2020-12")
    form = node.get("format")
    if isinstance(form, str) and form not in FORMATS:
        yield Mistake((*field, "format"), f"is not checked here; accepted: {', '.join(sorted(FORMATS))}")
    yield from _text_mistakes(field, node)
    differs, age = node.get("x-differs"), node.get("x-max-age")
    if "x-differs" in node and differs not in list(Differs):
        yield Mistake((*field, "x-differs"), f"must be one of {', '.join(Differs)}")
    if "x-max-age" in node and not (isinstance(age, str) and MAX_AGE.fullmatch(age)):
        yield Mistake((*field, "x-max-age"), "must be a duration such as 90d")
    for keyword in ("writeOnly", "deprecated"):
        if not isinstance(node.get(keyword, False), bool):
            yield Mistake((*field, keyword), "must be true or false")


def _text_mistakes(field: Field, node: Mapping[str, Any]) -> Iterator[Mistake]:
    """Values are strings, so ``const: false`` would never hold."""
    const = [((*field, "const"), node["const"])] if "const" in node else []
    values = node.get("enum")
    choices = (
        [((*field, "enum", index), value) for index, value in enumerate(values)] if isinstance(values, list) else []
    )
    for place, value in [*const, *choices]:
        if not isinstance(value, str):
            yield Mistake(place, "every value is a string: put it in quotes")
    types = node.get("type", "string")
    for value in types if isinstance(types, list) else [types]:
        if value not in _TYPES:
            yield Mistake((*field, "type"), "every value is a string: use type string (and pattern for its form)")


def _nodes(node: Any, field: Field) -> Iterator[tuple[Field, Mapping[str, Any]]]:
    """The schema and every schema in it, with their paths."""
    if not isinstance(node, Mapping) or len(field) > _DEEPEST:
        return
    yield field, node
    for keyword in ("properties", "patternProperties", *_DEFINITIONS, "dependentSchemas"):
        inner = node.get(keyword)
        for name, part in inner.items() if isinstance(inner, Mapping) else ():
            yield from _nodes(part, (*field, keyword, name))
    for keyword in ("allOf", "anyOf", "oneOf"):
        inner = node.get(keyword)
        for index, part in enumerate(inner) if isinstance(inner, list) else ():
            yield from _nodes(part, (*field, keyword, index))
    for keyword in ("not", "if", "then", "else", "additionalProperties", "propertyNames"):
        yield from _nodes(node.get(keyword), (*field, keyword))


# --- annotations ---


@dataclass(frozen=True, slots=True)
class Notes:
    """What the contracts of a file say about one key."""

    secret: bool = False
    deprecated: bool = False
    differs: Differs | None = None
    max_age: float | None = None
    contract: str = ""
    line: int = 1


def notes(contracts: Sequence[Contract]) -> dict[str, Notes]:
    """Given the contracts of one file, return their notes by key; of several, the last one counts."""
    by_key: dict[str, Notes] = {}
    for contract in contracts:
        for field, node in _property_holders(contract.schema, ()):
            properties = node.get("properties")
            for name, definition in properties.items() if isinstance(properties, Mapping) else ():
                if isinstance(definition, Mapping):
                    place = contract.line((*field, "properties", name))
                    by_key[name] = _noted(
                        by_key.get(name, Notes()), _followed(contract.schema, definition), contract, place
                    )
    return by_key


def shortest(contracts: Sequence[Contract], key: str) -> int:
    """How many characters a value of the key must have; 0 where no contract says it."""
    lengths = [0]
    for contract in contracts:
        for _, node in _property_holders(contract.schema, ()):
            properties = node.get("properties")
            definition = properties.get(key) if isinstance(properties, Mapping) else None
            if isinstance(definition, Mapping):
                length = _followed(contract.schema, definition).get("minLength")
                lengths.append(length if isinstance(length, int) else 0)
    return max(lengths)


def _property_holders(schema: Mapping[str, Any], field: Field) -> Iterator[tuple[Field, Mapping[str, Any]]]:
    """The schemas whose properties always hold: the schema itself, and those that allOf adds."""
    yield field, schema
    parts = schema.get("allOf")
    for index, part in enumerate(parts) if isinstance(parts, list) and len(field) < _DEEPEST else ():
        if isinstance(part, Mapping):
            yield from _property_holders(part, (*field, "allOf", index))


def _followed(root: Mapping[str, Any], node: Mapping[str, Any]) -> Mapping[str, Any]:
    """The node merged with what its references point to."""
    merged = dict(node)
    for _ in range(_DEEPEST):
        keyword = next((known for known in contract_references.KEYWORDS if isinstance(merged.get(known), str)), None)
        target = contract_references.resolved(root, merged.pop(keyword)) if keyword else None
        if not isinstance(target, Mapping):
            break
        merged = {**target, **merged}
    return merged


def _noted(before: Notes, node: Mapping[str, Any], contract: Contract, line: int) -> Notes:
    age, differs = node.get("x-max-age"), node.get("x-differs")
    return Notes(
        secret=bool(node.get("writeOnly", before.secret)),
        deprecated=bool(node.get("deprecated", before.deprecated)),
        differs=Differs(differs) if differs in list(Differs) else before.differs,
        max_age=duration_seconds(age) if isinstance(age, str) and MAX_AGE.fullmatch(age) else before.max_age,
        contract=contract.path,
        line=line,
    )


def duration_seconds(duration: str) -> float:
    return float(int(duration[:-1]) * _SECONDS[duration[-1]])


# --- what can be checked without values ---


def without_values(schema: Any) -> Any:
    """Given a contract, return a weaker one, about names only.

    Whatever depends on a value becomes true: silence is better than a false report. So a negation or a choice stays
    only where all of it is about names.
    """
    kept = _of_names_only(schema)
    return _without_dead_references(kept, kept)


def _of_names_only(schema: Any) -> Any:
    if not isinstance(schema, Mapping):
        return schema
    kept: dict[str, Any] = {keyword: schema[keyword] for keyword in (_STRUCTURE | _NAMED_PLACES) & schema.keys()}
    for keyword in ("properties", "patternProperties"):
        if isinstance(schema.get(keyword), Mapping):
            kept[keyword] = {name: part is not False for name, part in schema[keyword].items()}
    if schema.get("additionalProperties") is False:
        kept["additionalProperties"] = False
    if isinstance(schema.get("allOf"), list):
        kept["allOf"] = [_of_names_only(part) for part in schema["allOf"]]
    for keyword in _DEFINITIONS:
        if isinstance(schema.get(keyword), Mapping):
            kept[keyword] = {name: _of_names_only(part) for name, part in schema[keyword].items()}
    for keyword in ("anyOf", "oneOf"):
        if isinstance(schema.get(keyword), list) and all(_of_names(part) for part in schema[keyword]):
            kept[keyword] = schema[keyword]
    if "not" in schema and _of_names(schema["not"]):
        kept["not"] = schema["not"]
    return kept


def _without_dead_references(node: Any, root: Any) -> Any:
    """A reference to a part that is true without values is true as well."""
    if isinstance(node, list):
        return [_without_dead_references(part, root) for part in node]
    if not isinstance(node, Mapping):
        return node
    dead = {
        keyword
        for keyword in contract_references.KEYWORDS
        if isinstance(node.get(keyword), str) and contract_references.resolved(root, node[keyword]) is None
    }
    return {key: _without_dead_references(part, root) for key, part in node.items() if key not in dead}


def _of_names(schema: Any) -> bool:
    """Whether a schema is about names only."""
    return isinstance(schema, Mapping) and bool(schema) and schema.keys() <= _STRUCTURE
