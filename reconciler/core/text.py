"""How names and instants are written in messages. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

_NAMES_SHOWN = 5
_LONGEST_NAME = 80
_LITTLE = 2.0  # seconds


def listed(names: Sequence[str], most: int = _NAMES_SHOWN) -> str:
    """Given names, return the first ``most`` of them for a sentence, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def line_ranges(numbers: Iterable[int]) -> str:
    """Given ascending line numbers, return them with runs joined: 2, 5-7."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(f"{first}-{last}" if last > first else str(first) for first, last in runs)


def printable(text: str) -> str:
    """Given text from outside, return it as one line fit for a terminal, a log and a comment: without control or
    direction characters."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def key_name(text: str) -> str:
    """Given the name of a key, return it for a message; a placeholder for one that is unprintable or too long."""
    return text if text.isprintable() and len(text) <= _LONGEST_NAME else "a key with an unusual name"


def instant(seconds: float) -> str:
    """Given seconds since the epoch, return them in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(sep=" ", timespec="seconds").replace("+00:00", "Z")


def absolute(instant: str | None) -> str:
    """Given ISO 8601 in UTC, return it as people read it."""
    return instant.replace("T", " ").replace("+00:00", "Z") if instant else "never"


def ago(instant: str | None, now: float | None) -> str:
    """Given ISO 8601 in UTC, and now in seconds since the epoch, return how long ago that was, such as ``2 min ago`` or
    ``in 5 min``; where now is None, the instant."""
    if not instant or now is None:
        return absolute(instant)
    seconds = now - epoch_seconds(instant)
    if seconds < 0:
        return f"in {duration(_LITTLE - seconds)}"
    return f"{duration(seconds)} ago" if seconds >= _LITTLE else "just now"


def duration(seconds: float) -> str:
    """Given a number of seconds, return it in the unit that fits, such as ``3 h``."""
    for limit, unit, name in ((60, 1, "s"), (3600, 60, "min"), (48 * 3600, 3600, "h"), (float("inf"), 86400, "days")):
        if seconds < limit:
            return f"{int(seconds // unit)} {name}"
    raise AssertionError


def epoch_seconds(instant: str) -> float:
    """Given ISO 8601, in UTC where it says nothing else, return seconds since the epoch."""
    moment = datetime.fromisoformat(instant)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def author_name(author: str) -> str:
    """The name of a git author, without the address."""
    return author.partition(" <")[0]
