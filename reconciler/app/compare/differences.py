"""The differences of a comparison as plain data and as numbers. Pure; names, never values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from reconciler.app.compare.rows import PROBLEM, Row, groups
from reconciler.core.compare.types import UNEXPLAINED, Comparison, Remark, Status
from reconciler.core.text import printable

CLASSES = (*(str(status) for status in Status if status is not Status.SAME), str(Remark.PLACEHOLDER), PROBLEM)
"""Every class of a difference: those of docs/compare.md, and "problem" for what could not be compared."""


def serialize_differences(comparison: Comparison) -> list[dict[str, Any]]:
    """What is not the same, the most important first.

    ``kind`` is key, file, service, definition, probe or problem; ``where`` the file or the service it is in. ``left``
    and ``right`` say what is on each side ("missing", a mode, an image …), "" where nothing tells; ``note`` is the
    reason, or what else is notable.
    """
    return [
        {
            "class": _class_of(row),
            "kind": row.kind,
            "name": row.name,
            "where": group.title,
            "risk": str(row.risk),
            "left": row.left,
            "right": row.right,
            "note": row.note,
            "unexplained": row.unexplained,
        }
        for group in groups(comparison)
        for row in group.rows
        if _counts(row)
    ]


def count_differences(comparison: Comparison) -> Mapping[str, int]:
    """How many keys, attributes, services and probes there are of each of CLASSES."""
    counts = Counter(_class_of(row) for group in groups(comparison) for row in group.rows if _counts(row))
    return {name: counts[name] for name in CLASSES}


def limits_of(comparison: Comparison) -> list[str]:
    """What was not compared, one sentence each."""
    sides = (comparison.left, comparison.right)
    sealed = [
        f"{side.name}: compared by key names only, without values, where the server's keys cannot decrypt: "
        f"{side.sealed} encrypted file{'' if side.sealed == 1 else 's'}"
        for side in sides
        if side.sealed
    ]
    return [
        printable(text) for text in (*sealed, *(f"{side.name}: {text}" for side in sides for text in side.left_out))
    ]


def _counts(row: Row) -> bool:
    return row.unexplained or not (row.informational or row.status is Status.SAME)


def _class_of(row: Row) -> str:
    if row.kind == "problem":
        return PROBLEM
    return str(row.status if row.status in UNEXPLAINED or not row.unexplained else Remark.PLACEHOLDER)
