"""Interpolates the references in an env file: the variables that a container gets from it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from reconciler.core.dotenv.grammar import (
    ESCAPED_BYTE,
    DotenvEntry,
    EnvFileError,
    Quote,
    parse_env_file,
    parse_raw_env_file,
)


def resolve_env_file(data: bytes, environment: Mapping[str, str]) -> dict[str, str]:
    """Given an env file in Compose's grammar, return the variables a container gets from it.

    ``environment`` is what bare keys and references see: the variables of the Compose project (the process, the
    project's ``.env``, COMPOSE_PROJECT_NAME) and, winning over those, the service's earlier env files. To a reference
    it wins over earlier keys of the same file. A byte that is not UTF-8 comes out as U+FFFD, which is what Compose
    sends to the engine.
    Raises EnvFileError where Compose refuses the file.
    """
    return resolve_entries(parse_env_file(data), environment)


def resolve_entries(entries: Iterable[DotenvEntry], environment: Mapping[str, str]) -> dict[str, str]:
    """The same of a file that is parsed already. Raises EnvFileError."""
    scope = Scope(environment)
    for entry in entries:
        scope.define(entry)
    return {key: as_sent(value) for key, value in scope.values.items()}


# Linux starts no process with more than 6 MiB of arguments and environment: execve(2).
_MOST_INTERPOLATED = 8 * 1024 * 1024
_NAME = "[_A-Za-z\u017f\u212a][_A-Za-z0-9\u017f\u212a]*+"  # the two that Go's case folding adds to A-Z
REFERENCE = re.compile(
    rf"\$(?:(?P<dollar>\$)|(?P<plain>{_NAME})|\{{(?P<braced>{_NAME})(?:\}}|(?P<operator>:?[-+?]))|(?P<broken>\{{))"
)


def unbraced_references(entry: DotenvEntry) -> frozenset[str]:
    """The names that an entry refers to as ``$NAME``, without braces: often accidentally a piece of a value."""
    if entry.quote is Quote.SINGLE or "$" not in entry.template:
        return frozenset()
    return frozenset(match["plain"] for match in REFERENCE.finditer(entry.template) if match["plain"])


@dataclass(slots=True)
class _Opened:
    """A ``${NAME:-text}`` whose text is being interpolated.

    ``close`` is its closing brace, ``outer`` the end of the enclosing text, ``mark`` the first piece of its text.
    """

    name: str
    operator: str
    close: int
    outer: int
    mark: int


class Scope:
    """What the references of one file see, and the keys it has defined so far. ``missed``: one was undefined."""

    def __init__(self, environment: Mapping[str, str], unsure: Collection[str] = ()) -> None:
        self.values: dict[str, str] = {}
        self.missed = False
        self._environment = environment
        self._unsure = unsure
        self._interpolated = 0

    def define(self, entry: DotenvEntry) -> None:
        """Give the entry's key its value; an inherited key that the environment lacks stays undefined."""
        if not entry.inherited:
            literal = entry.quote is Quote.SINGLE or "$" not in entry.template
            self.values[entry.key] = entry.template if literal else self._expand(entry.template, entry.line)
        elif (value := self.given(entry.key)) is not None:
            self.values[entry.key] = value

    def given(self, name: str) -> str | None:
        """The environment's value of that name, as far as it is known."""
        return None if name in self._unsure else self._environment.get(name)

    def _expand(self, text: str, line: int) -> str:
        """Return ``text`` with its references replaced.

        A stack instead of recursion, and pieces joined once, keep deep nesting linear.
        """
        pieces: list[str] = []
        opened: list[_Opened] = []
        braces = _Braces(text)
        position, end = 0, len(text)
        while True:
            reference = REFERENCE.search(text, position, end)
            if reference is None:
                pieces.append(text[position:end])
                if not opened:
                    return "".join(pieces)
                inner = opened.pop()
                self._choose(inner, pieces, line)
                position, end = inner.close + 1, inner.outer
                continue
            pieces.append(text[position : reference.start()])
            position = reference.end()
            if reference["dollar"]:
                pieces.append("$")
            elif reference["operator"]:
                close = braces.closing(reference.start() + 1, position, end)
                if close < 0:
                    raise EnvFileError(line, "bad-substitution")
                opened.append(_Opened(reference["braced"], reference["operator"], close, end, len(pieces)))
                end = close
            elif reference["broken"]:
                raise EnvFileError(line, "bad-substitution")
            else:
                pieces.append(self._find(reference["plain"] or reference["braced"], line) or "")

    def _choose(self, inner: _Opened, pieces: list[str], line: int) -> None:
        """Leave in ``pieces`` the result of a reference with an operator: its own text, or the variable's value.

        The text has been interpolated by then, and an error in it refuses the file even where the text is not kept.
        """
        value = self._find(inner.name, line)
        present = bool(value) if inner.operator.startswith(":") else value is not None
        choice = inner.operator[-1]
        if choice == "?" and not present:
            raise EnvFileError(line, "required-variable")
        keeps_text = (choice == "+" and present) or (choice == "-" and not present)
        if not keeps_text:
            pieces[inner.mark :] = [value or ""]

    def _find(self, name: str, line: int) -> str | None:
        value = self.given(name)
        if value is None and name not in self._unsure:
            value = self.values.get(name)
        self.missed = self.missed or value is None
        # Otherwise a few lines that double each other would fill the memory.
        self._interpolated += len(value or "")
        if self._interpolated > _MOST_INTERPOLATED:
            raise EnvFileError(line, "too-large")
        return value


_BRACE = re.compile(r"\{.?|\}")


class _Braces:
    """Finds the end of each ``${NAME:-text}`` in a text, in one pass over it."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._pairs: dict[int, int] | None = None
        self._line_end = -1

    def closing(self, brace: int, start: int, end: int) -> int:
        """Return where the reference closes whose brace is at ``brace`` and whose text begins at ``start``, or -1.

        It closes at its own brace; where that is missing, or is beyond ``end`` or the line, at the last brace before
        those. ``brace`` must not decrease from call to call.
        """
        if self._line_end < brace:
            newline = self._text.find("\n", brace)
            self._line_end = len(self._text) if newline < 0 else newline
        if self._pairs is None:
            self._pairs = _pairs(self._text)
        limit = min(end, self._line_end)
        close = self._pairs.get(brace, limit)
        return close if close < limit else self._text.rfind("}", start, limit)


def _pairs(text: str) -> dict[int, int]:
    """Return the closing brace of each opening one. The character after an opening brace is ignored."""
    pairs: dict[int, int] = {}
    opened: list[int] = []
    for brace in _BRACE.finditer(text):
        if brace[0] != "}":
            opened.append(brace.start())
        elif opened:
            pairs[opened.pop()] = brace.start()
    return pairs


_LONE_SURROGATE = re.compile("[\ud800-\udc7f\udd00-\udfff]")


def as_sent(text: str) -> str:
    """Return ``text`` as JSON carries it: a byte that is not UTF-8 becomes U+FFFD."""
    if text.isascii():
        return text
    # Interpolation can have joined the bytes of one character, so decode again.
    data = _LONE_SURROGATE.sub("\ufffd", text).encode("utf-8", "surrogateescape")
    return ESCAPED_BYTE.sub("\ufffd", data.decode("utf-8", "surrogateescape"))


def resolve_raw_env_file(data: bytes, environment: Mapping[str, str]) -> dict[str, str]:
    """Given an env file in the grammar of ``docker run --env-file``, return the variables a container gets from it.

    A bare key takes its value from ``environment``, or is left out. Raises EnvFileError where docker refuses the file.
    """
    values: dict[str, str] = {}
    for entry in parse_raw_env_file(data):
        if not entry.inherited:
            values[entry.key] = entry.template
        elif entry.key in environment:
            values[entry.key] = as_sent(environment[entry.key])
    return values


def references(entry: DotenvEntry) -> frozenset[str]:
    """Every name that an entry refers to, in any form."""
    if entry.quote is Quote.SINGLE or "$" not in entry.template:
        return frozenset()
    matches = REFERENCE.finditer(entry.template)
    return frozenset(name for match in matches if (name := match["plain"] or match["braced"]))
