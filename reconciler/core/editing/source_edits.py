"""Edits of a decrypted SOPS dotenv source: of one key, or of the whole text as it comes out of an editor. Pure.

sops' dotenv holds comments and one assignment per line. No error contains a value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from reconciler.core.dotenv.grammar import EnvFileError, Quote, read_entries
from reconciler.core.dotenv.interpolation import references
from reconciler.core.dotenv.quoting import UnwritableValueError, write_value
from reconciler.core.dotenv.readings import known_variables
from reconciler.core.errors import RefusedError
from reconciler.core.model.plans import KeyChange
from reconciler.core.model.targets import Parser
from reconciler.core.secret import Secret
from reconciler.core.sops.dotenv_lines import Line, UnfitError, read_lines

_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]*")


@dataclass(frozen=True, slots=True)
class KeyEdit:
    """What sops sets (None: removes) at a ``label``, the text before the ``=``, and the content that this makes."""

    label: str
    value: Secret | None
    content: Secret


@dataclass(frozen=True, slots=True)
class TextEdit:
    """The content for the source; ``blank_lines`` counts those that became comment lines."""

    content: Secret
    keys: KeyChange
    blank_lines: int = 0


def set_value(target: str, git: bytes, key: str, value: Secret, parser: Parser) -> KeyEdit | None:
    """Give a key of the source ``git`` a value, in its line or in a new last one; None if it has that value already.

    Raises RefusedError for what is not a key, and for a value that no line can hold.
    """
    lines = _lines_of_source(target, git, parser)
    line = next((line for line in lines if line.name == key), None)
    quote = None
    if line is None and not _KEY.fullmatch(key):
        hint = "A key has letters, digits, _ . and -; the value is read from a prompt, standard input or a file"
        raise RefusedError("that is not the name of a key", where=target, hint=hint)
    if line is not None:
        entry = read_entries(f"{line.text}\n".encode(), parser)[0]
        quote = entry.quote
        same = known_variables(git, parser).get(key) == value.reveal().decode(errors="surrogateescape")
        if same and not references(entry):
            return None
    label = line.label if line else key
    text = f"{label}={_written(target, key, value, parser, quote)}"
    made = [text if old is line else old.text for old in lines] if line else [*(old.text for old in lines), text]
    content = "".join(f"{each}\n" for each in made).encode()
    try:
        new = next(line for line in read_lines(content, parser) if line.name == key)
    except UnfitError as unfit:
        raise RefusedError(f"{key} cannot be a key of it: {unfit.reason}", where=target) from None
    return KeyEdit(label, new.value, Secret(content))


def unset_value(target: str, git: bytes, key: str, parser: Parser) -> KeyEdit:
    """Remove a key from the source ``git``. Raises RefusedError where it is not there."""
    lines = _lines_of_source(target, git, parser)
    line = next((line for line in lines if line.name == key), None)
    if line is None:
        names = ", ".join(line.name for line in lines if line.name)
        raise RefusedError("there is no such key", where=target, hint=f"Its keys are: {names or 'none'}")
    content = "".join(f"{old.text}\n" for old in lines if old is not line).encode()
    return KeyEdit(line.label, None, Secret(content))


def edited_text(git: bytes, edited: bytes, parser: Parser) -> TextEdit:
    """Given the source's text before and after an editor, return what goes into the source: a blank line becomes a
    comment line, blank lines at the end go, and the last line ends with a line feed.

    Raises RefusedError, with the line, for text that sops' dotenv cannot hold.
    """
    lines = edited.rstrip(b" \t\n").split(b"\n")
    blank = [not line.strip(b" \t") for line in lines]
    content = b"".join((b"#" if empty else line) + b"\n" for line, empty in zip(lines, blank, strict=True))
    try:
        after = _by_name(read_lines(content, parser))
    except UnfitError as unfit:
        hint = "A line is KEY=value or a comment; quote a value with line breaks and write each as \\n"
        raise RefusedError(unfit.reason, where=f"line {unfit.line}", hint=hint) from None
    try:
        before = _by_name(read_lines(git, parser))
    except UnfitError:  # written by hand once; it becomes readable now
        before = {}
    return TextEdit(Secret(content), KeyChange.between(before, after), sum(blank))


def _by_name(lines: tuple[Line, ...]) -> Mapping[str, str]:
    return {line.name: line.text for line in lines if line.name}


def _lines_of_source(target: str, git: bytes, parser: Parser) -> tuple[Line, ...]:
    try:
        return read_lines(git, parser)
    except UnfitError as unfit:
        hint = f"Correct it with `reconciler edit {target}` first"
        raise RefusedError(f"its content cannot be changed by key: {unfit}", where=target, hint=hint) from None


def _written(target: str, key: str, value: Secret, parser: Parser, quote: Quote | None) -> str:
    try:
        return write_value(value.reveal(), parser, quote)
    except UnwritableValueError as error:
        problem = str(error)
    except EnvFileError as error:
        problem = str(error)
    raise RefusedError(f"{key}: {problem}", where=target, hint="Mount such a value as a file of its own")
