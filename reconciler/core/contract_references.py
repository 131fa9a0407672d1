"""Resolves ``$ref: '#…'`` in a contract: a pointer such as ``#/$defs/NAME``, or an anchor. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

KEYWORDS = ("$ref", "$dynamicRef")
_ANCHORS = ("$anchor", "$dynamicAnchor")
_DEEPEST = 32


def resolved(root: Any, reference: str) -> Any:
    """Given a contract and a reference in it, return the schema it points to, or None."""
    place = unquote(reference.removeprefix("#"))
    if place and not place.startswith("/"):
        return next((node for node in _mappings(root, 0) if place in (node.get(anchor) for anchor in _ANCHORS)), None)
    node = root
    for part in place.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(node, Mapping) and name in node:
            node = node[name]
        elif isinstance(node, list) and name.isdecimal() and int(name) < len(node):
            node = node[int(name)]
        else:
            return None
    return node


def _mappings(node: Any, depth: int) -> Iterator[Mapping[str, Any]]:
    if depth > _DEEPEST:
        return
    if isinstance(node, Mapping):
        yield node
    for inner in node.values() if isinstance(node, Mapping) else node if isinstance(node, list) else ():
        yield from _mappings(inner, depth + 1)


def points_to_itself(root: Any, node: Mapping[str, Any]) -> bool:
    """Whether evaluating ``node`` for a value requires evaluating it for that same value."""
    waiting, seen = list(_same_value(root, node)), set()
    while waiting:
        schema = waiting.pop()
        if schema is node:
            return True
        if id(schema) not in seen:
            seen.add(id(schema))
            waiting += _same_value(root, schema)
    return False


def _same_value(root: Any, node: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The schemas that are evaluated for the same value as ``node``."""
    inner = [resolved(root, node[keyword]) for keyword in KEYWORDS if isinstance(node.get(keyword), str)]
    inner += [node.get(keyword) for keyword in ("not", "if", "then", "else")]
    for keyword in ("allOf", "anyOf", "oneOf"):
        parts = node.get(keyword)
        inner += parts if isinstance(parts, list) else []
    yield from (schema for schema in inner if isinstance(schema, Mapping))
