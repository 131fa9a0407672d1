"""How names and instants are written in sentences for people. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

_NAMES_SHOWN = 5
_LONGEST_NAME = 80


def listed(names: Sequence[str]) -> str:
    """Given names, return the first few of them as words."""
    first = ", ".join(names[:_NAMES_SHOWN])
    return first if len(names) <= _NAMES_SHOWN else f"{first} and {len(names) - _NAMES_SHOWN} more"


def printable(text: str) -> str:
    """Given somebody else's text, return one line of it that is fit for a terminal, a log and a comment: no control or
    direction characters."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def key_name(text: str) -> str:
    """Given the name of a key, return it for a message: one that is printable and not too long, else said so."""
    return text if text.isprintable() and len(text) <= _LONGEST_NAME else "a key with an unusual name"


def instant(seconds: float) -> str:
    """Given seconds since the epoch, return them in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(sep=" ", timespec="seconds").replace("+00:00", "Z")
