"""Finds names that are retired: keys, providers and hosts that nothing should name any more. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

_ENCRYPTED = re.compile(r"ENC\[AES256_GCM,[^\]\n]*\]")
_ARMORED = re.compile(r"-----BEGIN AGE ENCRYPTED FILE-----.*?-----END AGE ENCRYPTED FILE-----", re.DOTALL)


@dataclass(frozen=True, slots=True)
class RetiredName:
    """``reason`` is why, or what replaces it; "" if nobody said."""

    name: str
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.name}, which is retired" + (f": {self.reason}" if self.reason else "")


@dataclass(frozen=True)
class RetiredNames:
    """All of them. Upper and lower case are the same. What joins the parts of a name joins those of a longer one:
    OLD_KEY is not in MY_OLD_KEY, nor web-1 in web-1-b. A single word is found between them: ``gradient`` is in
    GRADIENT_API_KEY and api.gradient.example, not in gradients."""

    names: Sequence[RetiredName]

    def __bool__(self) -> bool:
        return bool(self.names)

    @cached_property
    def _patterns(self) -> tuple[tuple[RetiredName, re.Pattern[str]], ...]:
        return tuple((retired, _pattern(retired.name)) for retired in self.names)

    def in_line(self, line: str) -> Iterator[RetiredName]:
        """Those that a line of text names."""
        return (retired for retired, pattern in self._patterns if pattern.search(line))

    def lines(self, text: str) -> Iterator[tuple[int, RetiredName]]:
        """Each line (from 1) of a text with what it names. What is encrypted names nothing."""
        text = _ENCRYPTED.sub("", _ARMORED.sub(lambda match: "\n" * match[0].count("\n"), text))
        present = [(retired, pattern) for retired, pattern in self._patterns if pattern.search(text)]
        for number, line in enumerate(text.split("\n") if present else (), start=1):
            yield from ((number, retired) for retired, pattern in present if pattern.search(line))


def _pattern(name: str) -> re.Pattern[str]:
    inside = "".join(["A-Za-z0-9", *(character for character in "_-" if character in name)])
    return re.compile(rf"(?<![{inside}]){re.escape(name)}(?![{inside}])", re.IGNORECASE)
