"""Env files as Docker reads them: ordered entries, the mapping a container gets, and the difference between two files.

Two grammars: Docker Compose's for a service's ``env_file`` (compose-go, packages dotenv and template), and the raw one
of ``docker run --env-file`` (docker/cli, package opts). Neither is a shell's, and no Python library reads either of
them the same way. The oracle for both is tests/data/env-corpus.jsonl.

Values are secrets: no error, repr or difference that leaves this module shows one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from fnmatch import fnmatchcase

from reconciler.core.model.plans import KeyChange
from reconciler.core.model.targets import Parser


class Quote(Enum):
    """The quotes around a value; Compose knows no others (a backtick is an ordinary character)."""

    SINGLE = "'"
    DOUBLE = '"'


@dataclass(frozen=True, slots=True)
class DotenvEntry:
    """One assignment of an env file, before the environment has been looked at.

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
    "bad-key": "a name holds a character other than letters, digits, '_', '.', '-', '[' and ']'; "
    "write NAME=value, and put a value of several lines in quotes",
    "bad-substitution": "a '${' is not followed by a reference such as NAME} or NAME:-default} on the same line; "
    "write '$$' for a literal '$', or put the value in single quotes",
    "line-too-long": "the line is longer than 65535 bytes, the most that docker reads; "
    "shorten it, or mount the value as a file",
    "missing-key": "no name stands before the value; write NAME=value",
    "not-utf8": "the line holds bytes that are not UTF-8; save the file as UTF-8",
    "required-variable": "a '${NAME:?message}' names a variable that is unset or empty; define it before this line",
    "space-in-key": "a name holds a space; write NAME=value, and put a value of several lines in quotes",
    "too-large": "references make the values larger than any process can be given; "
    "look for a value that repeats another one",
    "unterminated-quote": "a quote is opened and never closed; close it, or write \\ before a quote inside the value",
}


class EnvFileError(ValueError):
    """A file that its reader would refuse.

    ``line`` counts from 1; ``code`` is one of a short stable list. The message says what to do and holds nothing of the
    file's text, not even a key: when a file is broken, a piece of a value can look like one.
    """

    def __init__(self, line: int, code: str) -> None:
        super().__init__(f"line {line}: {code}: {_ADVICE[code]}")
        self.line = line
        self.code = code


# Go's unicode.IsSpace. Python's own idea of white space has U+001C to U+001F as well.
_BLANK = "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a" + (
    "\u2028\u2029\u202f\u205f\u3000"
)
# The blanks that the grammar skips beside a key or before a value.
_SPACE = "\t\v\f\r \x85\xa0"

_GAP = re.compile(rf"(?:[{_BLANK}]++|\#[^\n]*+)*+")
_REST_OF_LINE = re.compile(r"(?:[^\S\n]*+(?:\#[^\n]*+)?\n)?")
_SPACES = re.compile(rf"[{_SPACE}]*+")
_EXPORT = re.compile(r"export(?=[\t\n\f\r ])")
# \w is '_' and what Go calls a letter or a number (but for letters newer than Python's Unicode tables). Blanks belong
# to the key: those at its end are cut off, a tab within stays, a space within is refused.
_KEY = re.compile(rf"[\w.\-\[\]{_SPACE}]*+")
_QUOTED = {
    Quote.SINGLE: re.compile(r"'((?:[^'\\]++|\\.)*+)'", re.DOTALL),
    Quote.DOUBLE: re.compile(r'"((?:[^"\\]++|\\.)*+)"', re.DOTALL),
}
_QUOTES = {quote.value: quote for quote in Quote}


def parse_env_file(data: bytes) -> tuple[DotenvEntry, ...]:
    """Given an env file in Compose's grammar, return its entries in the order of the file.

    References are not looked at, so a file that parses may still be refused by ``resolve``.
    Raises EnvFileError where Compose refuses the file.
    """
    return tuple(_entries(data.decode("utf-8", "surrogateescape").removeprefix("\ufeff")))


def _entries(text: str) -> Iterator[DotenvEntry]:
    return (entry for entry, _, _ in _statements(text))


def _statements(text: str) -> Iterator[tuple[DotenvEntry, int, int]]:
    """The entries, each with where its text begins and ends."""
    position, line = 0, 1
    while True:
        start = _skip(_GAP, text, position)
        line += text.count("\n", position, start)
        if start == len(text):
            return
        entry, position = _entry(text, start, line)
        line += text.count("\n", start, position)
        # ``export`` alone on a line is accepted and names nothing.
        if entry.key or not entry.inherited:
            yield entry, start, position


def _entry(text: str, start: int, line: int) -> tuple[DotenvEntry, int]:
    """Read the statement at ``start``; return it and where the next one may begin."""
    if _EXPORT.match(text, start):
        start = _skip(_SPACES, text, start + len("export"))
    stop = _skip(_KEY, text, start)
    if stop == len(text):
        if start == stop:
            raise EnvFileError(line, "missing-key")
        # The file ends before any delimiter: Compose takes what is there for the value of a nameless key.
        template, quote, stop = _value(text, start, line)
        return DotenvEntry("", line, template, quote=quote), stop
    if text[stop] not in "=:\n":
        raise EnvFileError(line, "bad-key")
    key = text[start:stop].rstrip(_BLANK)
    if " " in key:
        raise EnvFileError(line, "space-in-key")
    if text[stop] == "\n":
        return DotenvEntry(key, line, "", inherited=True), stop
    template, quote, stop = _value(text, _skip(_SPACES, text, stop + 1), line)
    return DotenvEntry(key, line, template, quote=quote), stop


def _value(text: str, start: int, line: int) -> tuple[str, Quote | None, int]:
    """Read the value at ``start``; return its template, its quotes and where it ends."""
    quote = _QUOTES.get(text[start : start + 1])
    if quote is None:
        newline = text.find("\n", start)
        stop = len(text) if newline < 0 else newline
        # Only a space makes '#' a comment, so ``https://host/#part`` is a whole value.
        return text[start:stop].partition(" #")[0].rstrip(_BLANK), None, stop
    found = _QUOTED[quote].match(text, start)
    if found is None:
        raise EnvFileError(line, "unterminated-quote")
    return _unescape(found[1], quote), quote, found.end()


def _skip(pattern: re.Pattern[str], text: str, start: int) -> int:
    found = pattern.match(text, start)
    return found.end() if found else start


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
    r"\$": "$$",  # substitution comes next and makes one '$' of it
}


def _unescape(text: str, quote: Quote) -> str:
    """Given the text between two quotes, return it with its escapes replaced."""
    if "\\" not in text:
        return text
    if quote is Quote.SINGLE:
        return text.replace(r"\'", "'")
    return _DOUBLE_ESCAPE.sub(lambda found: _ESCAPES.get(found[0]) or _octal(found[0][2:]), text)


def _octal(digits: str) -> str:
    """Given what follows ``\\0``, return the character; anything but three octal digits up to 377 loses only the 0."""
    if len(digits) == 3 and digits <= "377" and not {"8", "9"} & set(digits):
        return chr(int(digits, 8))
    return "\\" + digits


def resolve_env_file(data: bytes, environment: Mapping[str, str]) -> dict[str, str]:
    """Given an env file in Compose's grammar, return the variables a container gets from it.

    ``environment`` is what bare keys and references see: the variables of the Compose project (the process, the
    project's ``.env``, COMPOSE_PROJECT_NAME) and, winning over those, the service's earlier env files. To a reference
    it wins over earlier keys of the same file. A byte that is not UTF-8 comes out as U+FFFD, which is what Compose
    sends to the engine.
    Raises EnvFileError where Compose refuses the file.
    """
    scope = _Scope(environment)
    for entry in parse_env_file(data):
        scope.define(entry)
    return {key: _as_sent(value) for key, value in scope.values.items()}


# Linux starts no process with more than 6 MiB of arguments and environment: execve(2).
_MOST_SUBSTITUTED = 8 * 1024 * 1024

_NAME = "[_A-Za-z\u017f\u212a][_A-Za-z0-9\u017f\u212a]*+"  # the two that Go's case folding adds to A-Z
_REFERENCE = re.compile(
    rf"\$(?:(?P<dollar>\$)|(?P<plain>{_NAME})|\{{(?P<braced>{_NAME})(?:\}}|(?P<operator>:?[-+?]))|(?P<broken>\{{))"
)


def unbraced_references(entry: DotenvEntry) -> frozenset[str]:
    """The names that an entry refers to as ``$NAME``, without braces: often a piece of a value by accident."""
    if entry.quote is Quote.SINGLE or "$" not in entry.template:
        return frozenset()
    return frozenset(found["plain"] for found in _REFERENCE.finditer(entry.template) if found["plain"])


@dataclass(slots=True)
class _Opened:
    """A ``${NAME:-text}`` whose text is being read.

    ``close`` is its closing brace, ``outer`` the end of what it stands in, ``mark`` the first piece of its text.
    """

    name: str
    operator: str
    close: int
    outer: int
    mark: int


class _Scope:
    """What the references of one file see, and the keys it has defined so far. ``missed`` tells whether one of them
    has found nothing."""

    def __init__(self, environment: Mapping[str, str], unsure: Collection[str] = ()) -> None:
        self.values: dict[str, str] = {}
        self.missed = False
        self._environment = environment
        self._unsure = unsure
        self._substituted = 0

    def define(self, entry: DotenvEntry) -> None:
        """Give the entry's key its value; an inherited key that the environment lacks stays undefined."""
        if not entry.inherited:
            literal = entry.quote is Quote.SINGLE or "$" not in entry.template
            self.values[entry.key] = entry.template if literal else self._expand(entry.template, entry.line)
        elif (value := self.given(entry.key)) is not None:
            self.values[entry.key] = value

    def given(self, name: str) -> str | None:
        """What the environment has under that name, as far as it is known."""
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
            found = _REFERENCE.search(text, position, end)
            if found is None:
                pieces.append(text[position:end])
                if not opened:
                    return "".join(pieces)
                inner = opened.pop()
                self._choose(inner, pieces, line)
                position, end = inner.close + 1, inner.outer
                continue
            pieces.append(text[position : found.start()])
            position = found.end()
            if found["dollar"]:
                pieces.append("$")
            elif found["operator"]:
                close = braces.closing(found.start() + 1, position, end)
                if close < 0:
                    raise EnvFileError(line, "bad-substitution")
                opened.append(_Opened(found["braced"], found["operator"], close, end, len(pieces)))
                end = close
            elif found["broken"]:
                raise EnvFileError(line, "bad-substitution")
            else:
                pieces.append(self._find(found["plain"] or found["braced"], line) or "")

    def _choose(self, inner: _Opened, pieces: list[str], line: int) -> None:
        """Leave in ``pieces`` what a reference with an operator stands for: its own text, or the variable's value.

        The text has been substituted by then, and an error in it refuses the file even where the text is not kept.
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
        # A few lines that double each other would otherwise fill the memory.
        self._substituted += len(value or "")
        if self._substituted > _MOST_SUBSTITUTED:
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

        It closes at its own brace; where that one is missing, or lies beyond ``end`` or the line, at the last brace
        before those. ``brace`` must not fall from call to call.
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
    """Return the closing brace of each opening one. The character after an opening brace is not looked at."""
    pairs: dict[int, int] = {}
    opened: list[int] = []
    for found in _BRACE.finditer(text):
        if found[0] != "}":
            opened.append(found.start())
        elif opened:
            pairs[opened.pop()] = found.start()
    return pairs


_ESCAPED_BYTE = re.compile("[\udc80-\udcff]")
_LONE_SURROGATE = re.compile("[\ud800-\udc7f\udd00-\udfff]")


def _as_sent(text: str) -> str:
    """Return ``text`` as JSON carries it: a byte that is not UTF-8 becomes U+FFFD."""
    if text.isascii():
        return text
    # Substitution can have joined the bytes of one character, so decode anew.
    data = _LONE_SURROGATE.sub("\ufffd", text).encode("utf-8", "surrogateescape")
    return _ESCAPED_BYTE.sub("\ufffd", data.decode("utf-8", "surrogateescape"))


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
    if _ESCAPED_BYTE.search(text):
        raise EnvFileError(line, "not-utf8")
    if line == 1:
        text = text.removeprefix("\ufeff")
    text = text.lstrip(_BLANK)
    if not text or text.startswith("#"):
        return None
    key, equals, value = text.partition("=")
    if not key:
        raise EnvFileError(line, "missing-key")
    if " " in key or "\t" in key:
        raise EnvFileError(line, "space-in-key")
    return DotenvEntry(key, line, value, inherited=not equals)


def resolve_raw_env_file(data: bytes, environment: Mapping[str, str]) -> dict[str, str]:
    """Given an env file in the grammar of ``docker run --env-file``, return the variables a container gets from it.

    A bare key takes its value from ``environment``, or is left out. Raises EnvFileError where docker refuses the file.
    """
    values: dict[str, str] = {}
    for entry in parse_raw_env_file(data):
        if not entry.inherited:
            values[entry.key] = entry.template
        elif entry.key in environment:
            values[entry.key] = _as_sent(environment[entry.key])
    return values


def key_diff(
    old: bytes | None,
    new: bytes | None,
    environment: Mapping[str, str] = {},
    parser: Parser = Parser.COMPOSE,
) -> KeyChange:
    """Given two versions of a file (None where it is absent), return the names of the keys a container sees change.

    Order, quotes and comments make no difference by themselves. A value that refers to what neither the file nor
    ``environment`` defines is compared as it is written. Raises EnvFileError if either version is refused.
    """
    before, after = (_comparable(data, environment, parser) for data in (old, new))
    return KeyChange(
        added=tuple(sorted(after.keys() - before.keys())),
        removed=tuple(sorted(before.keys() - after.keys())),
        changed=tuple(sorted(key for key in before.keys() & after.keys() if before[key] != after[key])),
    )


def _comparable(data: bytes | None, environment: Mapping[str, str], parser: Parser) -> dict[str, tuple[bool, str]]:
    """By key what the value is, or where that is not known, a digest of how it is written."""
    found = read_keys(data or b"", parser, lambda text: hashlib.sha256(text).hexdigest(), environment or None)
    return {key: (one.value is not None, one.written if one.value is None else one.value) for key, one in found.items()}


def _variables(data: bytes | None, environment: Mapping[str, str], parser: Parser) -> dict[str, str]:
    if data is None or parser is Parser.OPAQUE:
        return {}
    return resolve_raw_env_file(data, environment) if parser is Parser.RAW else resolve_env_file(data, environment)


def known_variables(data: bytes, parser: Parser) -> dict[str, str]:
    """The variables that a container gets, as far as the file alone tells; an opaque file has none.

    Where it asks for a variable that must be defined elsewhere (``${NAME:?}``), references stay as they are written.
    Raises EnvFileError.
    """
    try:
        return _variables(data, {}, parser)
    except EnvFileError as error:
        if error.code != "required-variable":
            raise
        return {entry.key: entry.template for entry in read_entries(data, parser)}


@dataclass(frozen=True, slots=True)
class KeyReading:
    """What can be told of a key's value. ``value`` is what a container gets, None where that hangs on a name which
    neither the file nor the known environment defines. ``template`` is how the file writes it.

    ``written`` is a digest of how the file writes it, whatever its quotes, together with the keys of the file that it
    refers to; ``given`` one of what it takes from the known environment, None where that is not known.
    """

    value: str | None = field(repr=False)
    template: str = field(repr=False)
    written: str
    given: str | None = None


def read_keys(
    data: bytes,
    parser: Parser,
    digest: Callable[[bytes], str],
    environment: Mapping[str, str] | None = None,
    unsure: Collection[str] = (),
) -> dict[str, KeyReading]:
    """Given an env file, return what can be told of each key; of several entries the last counts.

    ``environment`` is what is known of the variables of the Compose project, None for nothing. What a name of
    ``unsure`` stands for is not known, even where the file defines it. An opaque file has no keys. Raises EnvFileError.
    """
    reader = _Reader(digest, environment, unsure)
    for entry in read_entries(data, parser):
        reader.read(replace(entry, quote=Quote.SINGLE) if parser is Parser.RAW else entry)
    return reader.found


class _Reader:
    """Reads the entries of one file in their order."""

    def __init__(
        self, digest: Callable[[bytes], str], environment: Mapping[str, str] | None, unsure: Collection[str]
    ) -> None:
        self.found: dict[str, KeyReading] = {}
        self._digest = digest
        self._unsure = unsure
        self._scope = _Scope(environment or {}, unsure)
        self._knows_environment = environment is not None

    def read(self, entry: DotenvEntry) -> None:
        names = sorted({entry.key} if entry.inherited else _references(entry))
        value = self._value(entry)
        written = self._written(entry, value, names)
        given = self._given(entry, names) if self._knows_environment else None
        self.found[entry.key] = KeyReading(None if value is None else _as_sent(value), entry.template, written, given)

    def _value(self, entry: DotenvEntry) -> str | None:
        """What a container gets, None where that is not known, as it then is not to later references either."""
        scope = self._scope
        scope.missed = entry.inherited and scope.given(entry.key) is None
        try:
            scope.define(entry)
        except EnvFileError as error:
            if error.code != "required-variable":
                raise
            scope.missed = True
        if scope.missed:
            scope.values.pop(entry.key, None)
        return scope.values.get(entry.key)

    def _written(self, entry: DotenvEntry, value: str | None, names: Sequence[str]) -> str:
        if entry.inherited:
            return self._digest(b"inherited")
        if not names:
            return self._digest_of("value", value or "")
        template = _REFERENCE.sub(lambda one: f"${{{one['plain']}}}" if one["plain"] else one[0], entry.template)
        inner = (f"{name}={self.found[name].written}" for name in names if name in self.found)
        return self._digest_of("template", template, *inner)

    def _given(self, entry: DotenvEntry, names: Sequence[str]) -> str | None:
        """None also where one of the names is unsure."""
        parts = []
        for name in names:
            if (value := self._scope.given(name)) is not None:
                parts.append(f"{name}={value}")
            elif name in self._unsure:
                return None
            elif name in self.found and not entry.inherited:
                if (inner := self.found[name].given) is None:
                    return None
                parts.append(f"{name}:{inner}")
            else:
                parts.append(name)
        return self._digest_of("given", *parts)

    def _digest_of(self, *parts: str) -> str:
        return self._digest("\0".join(parts).encode("utf-8", "surrogatepass"))


def _references(entry: DotenvEntry) -> frozenset[str]:
    """Every name that an entry refers to, in whatever way."""
    if entry.quote is Quote.SINGLE or "$" not in entry.template:
        return frozenset()
    found = _REFERENCE.finditer(entry.template)
    return frozenset(name for one in found if (name := one["plain"] or one["braced"]))


def read_entries(data: bytes, parser: Parser) -> tuple[DotenvEntry, ...]:
    """The entries of an env file as ``parser`` reads it; an opaque file has none. Raises EnvFileError."""
    if parser is Parser.OPAQUE:
        return ()
    return parse_raw_env_file(data) if parser is Parser.RAW else parse_env_file(data)


def without_keys(data: bytes, parser: Parser, patterns: Collection[str]) -> bytes:
    """Given an env file, return it without the statements whose key matches one of the glob ``patterns``.

    A file that its reader would refuse comes back as it is.
    """
    try:
        pieces = _pieces(data, parser)
    except EnvFileError:
        return data
    return b"".join(text for key, text in pieces if not _matches(key, patterns))


def with_server_keys(data: bytes, live: bytes, parser: Parser, patterns: Collection[str]) -> bytes:
    """Given two versions of an env file, return ``data`` with the statements of ``live`` for matching keys.

    A key that only ``live`` has comes at the end, one that only ``data`` has stays. Where either would be refused by
    its reader, ``data`` comes back as it is.
    """
    try:
        ours, theirs = _pieces(data, parser), _pieces(live, parser)
    except EnvFileError:
        return data
    kept = {key: text for key, text in theirs if _matches(key, patterns)}
    merged = b""
    for position, (key, text) in enumerate(ours, start=1):
        if _matches(key, patterns) and key in kept:
            text = _with_end(kept.pop(key)) if position < len(ours) else kept.pop(key)
        merged += text
    for text in kept.values():
        merged = (_with_end(merged) if merged else b"") + text
    return merged


def _with_end(text: bytes) -> bytes:
    return text if text.endswith(b"\n") else text + b"\n"


def is_left_to_server(key: str, patterns: Collection[str]) -> bool:
    """Whether a key is one of those that ``ignore_keys`` names."""
    return _matches(key, patterns)


def _matches(key: str, patterns: Collection[str]) -> bool:
    return bool(key) and any(fnmatchcase(key, pattern) for pattern in patterns)


def _pieces(data: bytes, parser: Parser) -> list[tuple[str, bytes]]:
    """The file cut into statements, each with its key and its newline, and what lies between them, with the key "".

    Together they are the file. Raises EnvFileError.
    """
    if parser is Parser.OPAQUE:
        return [("", data)]
    if parser is Parser.RAW:
        lines = data.split(b"\n")
        whole = [line + b"\n" for line in lines[:-1]] + [lines[-1]]
        keys = {entry.line: entry.key for entry in parse_raw_env_file(data)}
        return [(keys.get(number, ""), line) for number, line in enumerate(whole, start=1)]
    text = data.decode("utf-8", "surrogateescape")
    mark = len(text) - len(text.removeprefix("\ufeff"))
    pieces, done = [], 0
    for entry, start, end in _statements(text[mark:]):
        start, end = start + mark, end + mark
        end = _skip(_REST_OF_LINE, text, end)
        pieces += [("", text[done:start]), (entry.key, text[start:end])]
        done = end
    pieces.append(("", text[done:]))
    return [(key, piece.encode("utf-8", "surrogateescape")) for key, piece in pieces if piece]


def duplicate_keys(entries: Iterable[DotenvEntry]) -> tuple[str, ...]:
    """Return the keys that occur more than once, sorted; of these the last one counts, which is seldom meant."""
    seen: set[str] = set()
    again: set[str] = set()
    for entry in entries:
        (again if entry.key in seen else seen).add(entry.key)
    return tuple(sorted(again))
