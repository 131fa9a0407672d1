"""The values of an env file as far as they are known, and which keys differ between two versions of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from reconciler.core.dotenv.grammar import DotenvEntry, EnvFileError, Quote, read_entries
from reconciler.core.dotenv.interpolation import (
    REFERENCE,
    Scope,
    as_sent,
    references,
    resolve_env_file,
    resolve_raw_env_file,
)
from reconciler.core.model.plans import KeyChange
from reconciler.core.model.targets import Parser


def key_diff(
    old: bytes | None, new: bytes | None, environment: Mapping[str, str] = {}, parser: Parser = Parser.COMPOSE
) -> KeyChange:
    """Given two versions of a file (None where it is absent), return the names of the keys that change for a container.

    Order, quotes and comments alone make no difference. A value that refers to what neither the file nor
    ``environment`` defines is compared as written. Raises EnvFileError if either version is refused.
    """
    before, after = (_comparable(data, environment, parser) for data in (old, new))
    return KeyChange.between(before, after)


def _comparable(data: bytes | None, environment: Mapping[str, str], parser: Parser) -> dict[str, tuple[bool, str]]:
    """By key the value, or where that is unknown, a digest of how it is written."""
    keys = read_keys(data or b"", parser, lambda text: hashlib.sha256(text).hexdigest(), environment or None)
    return {
        key: (reading.value is not None, reading.written if reading.value is None else reading.value)
        for key, reading in keys.items()
    }


def known_variables(data: bytes, parser: Parser) -> dict[str, str]:
    """The variables that a container gets, as far as the file alone defines them; an opaque file has none.

    Where it requires a variable that is defined elsewhere (``${NAME:?}``), references stay as written.
    Raises EnvFileError.
    """
    if parser is Parser.OPAQUE:
        return {}
    try:
        return resolve_raw_env_file(data, {}) if parser is Parser.RAW else resolve_env_file(data, {})
    except EnvFileError as error:
        if error.code != "required-variable":
            raise
        return {entry.key: entry.template for entry in read_entries(data, parser)}


RENAMED = 0.5
"""At least so much of a renamed file is as it was before, as git has it too."""


def likeness(before: Mapping[str, object], after: Mapping[str, object]) -> float:
    """How much of two versions of a file, key → value, is the same: from 0 to 1."""
    same = sum(after.get(key, _ABSENT) == value for key, value in before.items())
    return same / max(len(before), len(after), 1)


_ABSENT = object()


@dataclass(frozen=True, slots=True)
class KeyReading:
    """What is known of a key's value. ``value`` is what a container gets, None where that depends on a name which
    neither the file nor the known environment defines. ``template`` is how the file writes it.

    ``written`` is a digest of how the file writes it, regardless of quotes, together with the keys of the file that it
    refers to; ``given`` is a digest of what it takes from the known environment, None where that is unknown.
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
    """Given an env file, return what is known of each key; of several entries the last one counts.

    ``environment`` has the known variables of the Compose project, None for nothing. The value of a name in ``unsure``
    is unknown, even where the file defines it. An opaque file has no keys. Raises EnvFileError.
    """
    reader = _Reader(digest, environment, unsure)
    for entry in read_entries(data, parser):
        reader.read(replace(entry, quote=Quote.SINGLE) if parser is Parser.RAW else entry)
    return reader.readings


class _Reader:
    """Reads the entries of one file in their order."""

    def __init__(
        self, digest: Callable[[bytes], str], environment: Mapping[str, str] | None, unsure: Collection[str]
    ) -> None:
        self.readings: dict[str, KeyReading] = {}
        self._digest = digest
        self._unsure = unsure
        self._scope = Scope(environment or {}, unsure)
        self._knows_environment = environment is not None

    def read(self, entry: DotenvEntry) -> None:
        names = sorted({entry.key} if entry.inherited else references(entry))
        value = self._value(entry)
        written = self._written(entry, value, names)
        given = self._given(entry, names) if self._knows_environment else None
        self.readings[entry.key] = KeyReading(None if value is None else as_sent(value), entry.template, written, given)

    def _value(self, entry: DotenvEntry) -> str | None:
        """What a container gets; None where that is unknown, which it then is to later references too."""
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
        template = REFERENCE.sub(lambda match: f"${{{match['plain']}}}" if match["plain"] else match[0], entry.template)
        inner = (f"{name}={self.readings[name].written}" for name in names if name in self.readings)
        return self._digest_of("template", template, *inner)

    def _given(self, entry: DotenvEntry, names: Sequence[str]) -> str | None:
        """A digest of what the entry takes from the environment; None where that is unknown."""
        parts = []
        for name in names:
            if (value := self._scope.given(name)) is not None:
                parts.append(f"{name}={value}")
            elif name in self._unsure:
                return None
            elif name in self.readings and not entry.inherited:
                if (inner := self.readings[name].given) is None:
                    return None
                parts.append(f"{name}:{inner}")
            else:
                parts.append(name)
        return self._digest_of("given", *parts)

    def _digest_of(self, *parts: str) -> str:
        return self._digest("\0".join(parts).encode("utf-8", "surrogatepass"))
