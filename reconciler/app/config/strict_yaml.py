"""Strict YAML: bytes to plain data and a line number for every value, within limits that make hostile files cheap.

PyYAML (libyaml where it is there) reads the events; the values are built here because its loaders let duplicate keys,
aliases, tags and dates pass, and lose the lines.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from reconciler.core.errors import ConfigError

MAX_BYTES = 1024 * 1024
MAX_DEPTH = 20
MAX_VALUES = 100_000
MAX_PROBLEMS = 100
"""How many problems a message lists; it counts the rest."""

FieldPath = tuple[str | int, ...]

_Parser: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Problem:
    """A mistake at one field. ``line`` is for what has no line of its own, such as a duplicate key, ``id`` for what
    docs/errors.md explains by itself."""

    path: FieldPath
    message: str
    accepted: str = ""
    line: int | None = None
    id: str = ""


class UnreadableError(Exception):
    """The bytes are not a YAML mapping within the limits; the message names file and line."""


@dataclass(frozen=True, slots=True)
class Document:
    """A YAML mapping: text keys; lists, mappings, text, numbers, booleans and None below. ``problems`` has what
    PyYAML would accept; the rest of the data is kept, so that it can be checked too."""

    file: str
    data: Mapping[str, Any]
    lines: Mapping[FieldPath, int]
    problems: tuple[Problem, ...] = ()

    def line(self, path: FieldPath) -> int:
        """The line of the value at ``path``, or of the nearest value around it."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)

    def report(self, problems: Iterable[Problem]) -> str:
        """All problems in the order of the file, one a line: ``FILE:LINE: field.path: what; accepted: …``."""
        lines = self.sentences(problems)
        messages = [f"{self.file}:{line}: {text}" for line, text in lines[:MAX_PROBLEMS]]
        if len(lines) > MAX_PROBLEMS:
            messages.append(f"{self.file}: and {len(lines) - MAX_PROBLEMS} more problems")
        return "\n".join(messages)

    def sentences(self, problems: Iterable[Problem]) -> list[tuple[int, str]]:
        """Each problem once, as (line, ``field.path: what; accepted: …``), in the order of the file."""
        return sorted({self._sentence(problem) for problem in problems})

    def _sentence(self, problem: Problem) -> tuple[int, str]:
        path = problem.path
        if path and isinstance(path[-1], int) and path not in self.lines:
            path = path[:-1]  # a single value in place of a list
        field = f"{dotted(path)}: " if path else ""
        accepted = f"; accepted: {problem.accepted}" if problem.accepted else ""
        return problem.line or self.line(path), f"{field}{problem.message}{accepted}"


def dotted(path: FieldPath) -> str:
    """``("health", "http", 0, "url")`` as ``health.http[0].url``."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{shown(part)}" for part in path).lstrip(".")


def shown(text: str) -> str:
    """``text`` for a message: cut at 60 characters, anything invisible escaped."""
    visible = text if text.isprintable() else ascii(text)[1:-1]
    return visible if len(visible) <= _SHOWN else f"{visible[:_SHOWN]}…"


def read_config_file(path: str, hint: str) -> bytes:
    """Return the content, cut off where it is too large. Raises ConfigError with the hint."""
    try:
        with open(path, "rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        reason = (error.strerror or "unknown reason").lower()
        raise ConfigError(f"cannot be read ({reason})", where=path, hint=hint) from None


def read_document(content: bytes, file: str) -> Document:
    """Given the content of ``file``, return its data. Raises UnreadableError."""
    if len(content) > MAX_BYTES:
        raise UnreadableError(f"{file}: is larger than {MAX_BYTES // 1024} KiB")
    composer = _Composer(file, _text(content, file))
    data = composer.document()
    return Document(file, data, composer.lines, tuple(composer.problems))


def _text(content: bytes, file: str) -> str:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UnreadableError(f"{file}:{line}: is not UTF-8 text") from None
    unprintable = yaml.reader.Reader.NON_PRINTABLE.search(text)
    if unprintable:
        line = text.count("\n", 0, unprintable.start()) + 1
        raise UnreadableError(f"{file}:{line}: holds a control character")
    return text


class _Composer:
    """Builds the values of one document from its events."""

    def __init__(self, file: str, text: str) -> None:
        self.lines: dict[FieldPath, int] = {}
        self.problems: list[Problem] = []
        self._file = file
        self._text = text
        self._events = self._parse()
        self._resolver: Any = yaml.resolver.Resolver()
        self._scalars: Any = yaml.constructor.SafeConstructor()

    def document(self) -> dict[str, Any]:
        events = (event for event in self._events if not isinstance(event, yaml.StreamStartEvent))
        if isinstance(next(events), yaml.StreamEndEvent):
            raise UnreadableError(f"{self._file}:1: is empty")
        data = self._value(next(events), ())
        if data is None and not self.problems:
            raise UnreadableError(f"{self._file}:1: is empty")
        if not isinstance(data, dict):
            raise UnreadableError(f"{self._file}:{self.lines[()]}: must be a mapping of fields")
        next(events)
        following = next(events)
        if not isinstance(following, yaml.StreamEndEvent):
            raise UnreadableError(f"{self._file}:{_line(following)}: holds a second document")
        return data

    def _parse(self) -> Iterator[yaml.Event]:
        try:
            yield from yaml.parse(self._text, Loader=_Parser)
        except yaml.MarkedYAMLError as error:
            raise UnreadableError(self._syntax_error(error)) from None
        except yaml.YAMLError:
            raise UnreadableError(f"{self._file}: cannot be read as YAML") from None

    def _syntax_error(self, error: yaml.MarkedYAMLError) -> str:
        """The position, and the parser's message, which quotes at most one character of the file."""
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line, mark.column) if mark else (0, 0)
        begun = error.context_mark
        since = f" (begun in line {begun.line + 1})" if begun and begun.line != line else ""
        lines = self._text.splitlines()
        indent = lines[line][: column + 1] if line < len(lines) else ""
        tab = "; indent with spaces, not with tabs" if "\t" in indent else ""
        where = f"{self._file}:{line + 1}:{column + 1}"
        return f"{where}: cannot be read as YAML: {error.problem or error.context}{since}{tab}"

    def _value(self, event: yaml.Event, path: FieldPath) -> Any:
        line = _line(event)
        self.lines.setdefault(path, line)
        if len(self.lines) > MAX_VALUES:
            raise UnreadableError(f"{self._file}:{line}: holds more than {MAX_VALUES:,} values")
        if len(path) > MAX_DEPTH:
            raise UnreadableError(f"{self._file}:{line}: is nested deeper than {MAX_DEPTH} levels")
        if isinstance(event, yaml.AliasEvent):
            self._problem(path, line, "aliases (*name) are not read", "the value written out")
            return None
        if getattr(event, "tag", None) is not None:
            self._problem(path, line, "tags (!name) are not read", "plain values, text in quotes")
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(path)
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(path)
        assert isinstance(event, yaml.ScalarEvent)
        return self._scalar(event)

    def _sequence(self, path: FieldPath) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._value(event, (*path, len(items))))
        return items

    def _mapping(self, path: FieldPath) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            line = _line(event)
            key = self._key(event, path)
            if key in fields:
                here = (*path, key)
                problem = f"appears twice, first in line {self.lines[here]}"
                self._problem(here, line, problem, "each name once", "duplicate-field")
                key = None
            if key is None:
                self._value(next(self._events), (*path, f"(line {line})"))
                continue
            self.lines[*path, key] = line
            fields[key] = self._value(next(self._events), (*path, key))
        return fields

    def _key(self, event: yaml.Event, path: FieldPath) -> str | None:
        """The key as text; None, with a problem recorded, if it cannot be used."""
        line = _line(event)
        key = self._value(event, (*path, f"(key in line {line})"))
        if isinstance(key, str):
            return key
        self._problem(path, line, "a key that is not text", "text; numbers, on, off, yes and no in quotes")
        return None

    def _scalar(self, event: yaml.ScalarEvent) -> Any:
        """The value by the rules of YAML 1.1; whatever is not empty, boolean or a number is text (also dates)."""
        if not event.implicit[0]:
            return event.value
        tag = self._resolver.resolve(yaml.ScalarNode, event.value, (True, False))
        node = yaml.ScalarNode(tag, event.value)
        try:
            match tag.rpartition(":")[2]:
                case "null":
                    return None
                case "bool":
                    return self._scalars.construct_yaml_bool(node)
                case "int":
                    return self._scalars.construct_yaml_int(node)
                case "float":
                    return self._scalars.construct_yaml_float(node)
        except ValueError:  # "0x_" looks like a number to PyYAML's pattern only
            pass
        return event.value

    def _problem(self, path: FieldPath, line: int, problem: str, accepted: str, id: str = "") -> None:
        self.problems.append(Problem(path, problem, accepted, line, id))


def _line(event: yaml.Event) -> int:
    assert event.start_mark is not None
    return int(event.start_mark.line) + 1
