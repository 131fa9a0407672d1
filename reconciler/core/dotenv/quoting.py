"""Writes a value into an env file so that a container gets exactly that value. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from reconciler.core.dotenv.grammar import EnvFileError, Quote
from reconciler.core.dotenv.readings import known_variables
from reconciler.core.model.targets import Parser

# What every reader of env files takes as it is.
_NEEDS_NO_QUOTES = re.compile(r"[A-Za-z0-9_./:@%+,=~^&*()!?;<>|{}\[\]-]*")
_DOUBLE_ESCAPES = {"\\": r"\\", '"': r"\"", "$": r"\$", "\n": r"\n", "\r": r"\r"}


class UnwritableValueError(ValueError):
    """A value that no line of the env file can give to a container. The message contains none of it."""


def write_value(value: bytes, parser: Parser, quote: Quote | None = None) -> str:
    """Given a value, return how one line of an env file writes it: in ``quote`` if it fits, else the simplest form that
    ``parser`` reads back as the same value.

    Raises UnwritableValueError.
    """
    try:
        text = value.decode()
    except UnicodeDecodeError:  # it contains the value
        text = None
    if text is None:
        raise UnwritableValueError("the value is not UTF-8 text")
    if "\0" in text:
        raise UnwritableValueError("the value contains a NUL, which no environment variable can")
    for form in _forms(text, parser, quote):
        if "\n" not in form and _reads_back(form, text, parser):
            return form
    raise UnwritableValueError("a line of `docker run --env-file` cannot hold the value (a line break?)")


def _forms(text: str, parser: Parser, quote: Quote | None) -> Iterator[str]:
    if parser is Parser.RAW:
        yield text
        return
    if quote is not None:
        yield _quoted(text, quote)
    if _NEEDS_NO_QUOTES.fullmatch(text):
        yield text
    yield _quoted(text, Quote.SINGLE)
    yield _quoted(text, Quote.DOUBLE)


def _quoted(text: str, quote: Quote) -> str:
    """In single quotes a quote inside ends the value; such a form does not read back."""
    if quote is Quote.SINGLE:
        return f"'{text}'"
    return '"' + "".join(_DOUBLE_ESCAPES.get(character, character) for character in text) + '"'


def _reads_back(form: str, text: str, parser: Parser) -> bool:
    try:
        return known_variables(f"KEY={form}\n".encode(), parser) == {"KEY": text}
    except EnvFileError:
        return False
