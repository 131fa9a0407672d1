"""Durations as files and options have them, such as 30m. Without pydantic: commands read them too."""

from __future__ import annotations

import re

from reconciler.core.errors import RefusedError

PATTERN = "^[1-9][0-9]{0,8}[smhd]$"
ACCEPTED = "10s, 5m, 2h or 90d"
_LONGEST = 3650 * 86400
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(text: str) -> float:
    seconds = int(text[:-1]) * _SECONDS[text[-1]]
    if seconds > _LONGEST:
        raise ValueError("is longer than ten years")
    return float(seconds)


def parse_duration(text: str, *, where: str) -> float:
    """Given a duration, return it in seconds. Raises RefusedError, which names ``where``."""
    try:
        if re.fullmatch(PATTERN, text):
            return float(seconds(text))
    except ValueError:
        pass
    raise RefusedError(f"{text!r} is not a duration", where=where, hint=f"Write it as {ACCEPTED}")
