"""Env files as Docker parses them, into ordered entries.

Two grammars: Docker Compose's for a service's ``env_file`` (compose-go, packages dotenv and template), and the raw one
of ``docker run --env-file`` (docker/cli, package opts). Neither is a shell's, and no Python library parses either of
them the same way. The oracle for both is tests/data/env-corpus.jsonl.

Values are secrets: no error or repr of this package shows one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum

from reconciler.core.model.targets import Parser


class Quote(Enum):
    """The quotes around a value; Compose knows no others (a backtick is an ordinary character)."""

    SINGLE = "'"
    DOUBLE = '"'


@dataclass(frozen=True, slots=True)
class DotenvEntry:
    """One assignment of an env file, before interpolation.

    ``line`` counts from 1. ``template`` is the value without its quotes, escapes and comment, but with its references
    (``$NAME``) unresolved; a byte that is not UTF-8 is kept as a surrogate escape. ``inherited`` marks a bare ``KEY``,
    whose value comes from the environment or nowhere. A file that ends in a bare ``KEY`` without a newline gives the
    empty key the value ``KEY``, as Compose has it; no container starts with an empty key.
    """

    key: str
    line: int
    template: str = field(repr=False)
    inherited: bool = False
    quote: Quote | None = None


_ADVICE = {
    "bad-key": "a name contains a character other than letters, digits, '_', '.', '-', '[' and ']'; "
    "write NAME=value, begin a comment with #, and quote a value of several lines",
    "bad-substitution": "a '${' is not followed by a reference such as NAME} or NAME:-default} on the same line; "
    "write '$$' for a literal '$', or put the value in single quotes",
    "line-too-long": "the line is longer than 65535 bytes, the most that docker reads; "
    "shorten it, or mount the value as a file",
    "missing-key": "the name before the value is missing; write NAME=value",
    "not-utf8": "the line contains bytes that are not UTF-8; save the file as UTF-8",
    "required-variable": "a '${NAME:?message}' names a variable that is unset or empty; define it before this line",
    "space-in-key": "a name contains a space; write NAME=value, and quote a value of several lines",
    "too-large": "references make the values larger than any process can get; "
    "look for a value that repeats another one",
    "unterminated-quote": "a quote is opened and never closed; close it, or write \\ before a quote inside the value",
}


class EnvFileError(ValueError):
    """A file that Docker would refuse.

    ``line`` counts from 1; ``code`` is one of a short stable list. The message says what to do and quotes nothing of
    the file, not even a key: in a broken file, a piece of a value can look like one.
    """

    def __init__(self, line: int, code: str) -> None:
        super().__init__(f"line {line}: {code}: {_ADVICE[code]}")
        self.line = line
        self.code = code


# Go's unicode.IsSpace. Python's white space also includes U+001C to U+001F.
BLANK = "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a" + (
    "\u2028\u2029\u202f\u205f\u3000"
)
# The blanks that the grammar skips beside a key or before a value.
_SPACE = "\t\v\f\r \x85\xa0"
_GAP = re.compile(rf"(?:[{BLANK}]++|\#[^\n]*+)*+")
_SPACES = re.compile(rf"[{_SPACE}]*+")
_EXPORT = re.compile(r"export(?=[\t\n\f\r ])")
# \w is '_' and what Go calls a letter or a number (except letters newer than Python's Unicode tables). Blanks belong
# to the key: those at its end are stripped, a tab inside stays, a space inside is refused.
_KEY = re.compile(rf"[\w.\-\[\]{_SPACE}]*+")
_QUOTED = {
    Quote.SINGLE: re.compile(r"'((?:[^'\\]++|\\.)*+)'", re.DOTALL),
    Quote.DOUBLE: re.compile(r'"((?:[^"\\]++|\\.)*+)"', re.DOTALL),
}
_QUOTES = {quote.value: quote for quote in Quote}


def parse_env_file(data: bytes) -> tuple[DotenvEntry, ...]:
    """Given an env file in Compose's grammar, return its entries in the order of the file.

    References are not interpolated, so ``resolve_env_file`` may still refuse a file that parses.
    Raises EnvFileError where Compose refuses the file.
    """
    text = data.decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    return tuple(entry for entry, _, _ in statements(text))


def statements(text: str) -> Iterator[tuple[DotenvEntry, int, int]]:
    """The entries of a file, each with where its text begins and ends."""
    position, line = 0, 1
    while True:
        start = skip(_GAP, text, position)
        line += text.count("\n", position, start)
        if start == len(text):
            return
        entry, position = _entry(text, start, line)
        line += text.count("\n", start, position)
        # ``export`` alone on a line is accepted and names nothing.
        if entry.key or not entry.inherited:
            yield entry, start, position


def _entry(text: str, start: int, line: int) -> tuple[DotenvEntry, int]:
    """Parse the statement at ``start``; return it and where the next one may begin."""
    if _EXPORT.match(text, start):
        start = skip(_SPACES, text, start + len("export"))
    stop = skip(_KEY, text, start)
    if stop == len(text):
        if start == stop:
            raise EnvFileError(line, "missing-key")
        # The file ends before any delimiter: Compose takes the rest for the value of a nameless key.
        template, quote, stop = _value(text, start, line)
        return DotenvEntry("", line, template, quote=quote), stop
    if text[stop] not in "=:\n":
        raise EnvFileError(line, "bad-key")
    key = text[start:stop].rstrip(BLANK)
    if " " in key:
        raise EnvFileError(line, "space-in-key")
    if text[stop] == "\n":
        return DotenvEntry(key, line, "", inherited=True), stop
    template, quote, stop = _value(text, skip(_SPACES, text, stop + 1), line)
    return DotenvEntry(key, line, template, quote=quote), stop


def _value(text: str, start: int, line: int) -> tuple[str, Quote | None, int]:
    """Parse the value at ``start``; return its template, its quotes and where it ends."""
    quote = _QUOTES.get(text[start : start + 1])
    if quote is None:
        newline = text.find("\n", start)
        stop = len(text) if newline < 0 else newline
        # Only a space makes '#' a comment, so ``https://host/#part`` is a whole value.
        return text[start:stop].partition(" #")[0].rstrip(BLANK), None, stop
    match = _QUOTED[quote].match(text, start)
    if match is None:
        raise EnvFileError(line, "unterminated-quote")
    return _unescape(match[1], quote), quote, match.end()


def skip(pattern: re.Pattern[str], text: str, start: int) -> int:
    match = pattern.match(text, start)
    return match.end() if match else start


_DOUBLE_ESCAPE = re.compile(r'\\(?:0[0-9]{0,3}|[\\"$abfnrtv])')
_ESCAPES = {
    r"\a": "\a",
    r"\b": "\b",
    r"\f": "\f",
    r"\n": "\n",
    r"\r": "\r",
    r"\t": "\t",
    r"\v": "\v",
    r"\\": "\\",
    r"\"": '"',
    r"\$": "$$",  # interpolation comes next and makes one '$' of it
}


def _unescape(text: str, quote: Quote) -> str:
    """Given the text between two quotes, return it with its escapes replaced."""
    if "\\" not in text:
        return text
    if quote is Quote.SINGLE:
        return text.replace(r"\'", "'")
    return _DOUBLE_ESCAPE.sub(lambda match: _ESCAPES.get(match[0]) or _octal(match[0][2:]), text)


def _octal(digits: str) -> str:
    """Given what follows ``\\0``, return the character; anything but three octal digits up to 377 loses only the 0."""
    if len(digits) == 3 and digits <= "377" and not {"8", "9"} & set(digits):
        return chr(int(digits, 8))
    return "\\" + digits


ESCAPED_BYTE = re.compile("[\udc80-\udcff]")
_LONGEST_RAW_LINE = 65535  # Go's bufio.Scanner holds 64 KiB, the line's end included


def parse_raw_env_file(data: bytes) -> tuple[DotenvEntry, ...]:
    """Given an env file in the grammar of ``docker run --env-file``, return its entries in the order of the file.

    A line is a comment, ``KEY=value`` or a bare ``KEY``; a value is everything up to the end of its line.
    Raises EnvFileError where docker refuses the file.
    """
    entries = (_raw_entry(content, line) for line, content in enumerate(data.split(b"\n"), start=1))
    return tuple(entry for entry in entries if entry is not None)


def _raw_entry(content: bytes, line: int) -> DotenvEntry | None:
    if len(content) > _LONGEST_RAW_LINE:
        raise EnvFileError(line, "line-too-long")
    text = content.removesuffix(b"\r").decode("utf-8", "surrogateescape")
    if ESCAPED_BYTE.search(text):
        raise EnvFileError(line, "not-utf8")
    if line == 1:
        text = text.removeprefix("\ufeff")
    text = text.lstrip(BLANK)
    if not text or text.startswith("#"):
        return None
    key, equals, value = text.partition("=")
    if not key:
        raise EnvFileError(line, "missing-key")
    if " " in key or "\t" in key:
        raise EnvFileError(line, "space-in-key")
    return DotenvEntry(key, line, value, inherited=not equals)


def read_entries(data: bytes, parser: Parser) -> tuple[DotenvEntry, ...]:
    """The entries of an env file as ``parser`` reads it; an opaque file has none. Raises EnvFileError."""
    if parser is Parser.OPAQUE:
        return ()
    return parse_raw_env_file(data) if parser is Parser.RAW else parse_env_file(data)


def duplicate_keys(entries: Iterable[DotenvEntry]) -> tuple[str, ...]:
    """Return the keys that occur more than once, sorted; the last one counts, which is rarely intended."""
    seen: set[str] = set()
    again: set[str] = set()
    for entry in entries:
        (again if entry.key in seen else seen).add(entry.key)
    return tuple(sorted(again))
