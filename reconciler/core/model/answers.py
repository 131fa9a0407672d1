"""The number that every JSON answer of a command carries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SCHEMA = 1
"""Rises when a field goes, gets another type or another meaning, in any answer. A new field does not raise it."""


def versioned(data: Any, list_name: str = "") -> dict[str, Any]:
    """The answer as a JSON object with its ``schema``; a list is its field ``list_name``."""
    return {"schema": SCHEMA, **(data if isinstance(data, Mapping) else {list_name: data})}
