"""The normal form of an env file: Docker reads the same variables from it, and sops' dotenv keeps its bytes. Pure.

What sops cannot hold is rewritten, and nothing is lost: a blank line becomes an empty comment, a value of several lines
one quoted value with ``\\n``, an assignment that a later one replaces a comment. Blanks at the end of a line, which
Docker ignores, are removed. A file without such a form is refused with its line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from reconciler.core.dotenv.grammar import (
    BLANK,
    DotenvEntry,
    EnvFileError,
    Quote,
    parse_raw_env_file,
    read_entries,
    statements,
)
from reconciler.core.dotenv.interpolation import references, resolve_env_file, resolve_raw_env_file
from reconciler.core.model.targets import Parser
from reconciler.core.sops.dotenv_lines import UnfitError, decoded, read_line, read_lines

_BARE = "a KEY without a value comes from the server's environment, and sops' dotenv has no line for that"
_MARK = "\ufeff"
_BLANK_LINE = "the blank line becomes a comment"
_INDENTED = "the comment begins the line"
_NO_END = "a line feed ends the last line"
_EXPORT = re.compile(r"export[ \t]+")
_DELIMITER = re.compile(r"[^=:]*[=:]")


@dataclass(frozen=True, slots=True)
class Rewriting:
    """A line of the original file, counted from 1, and how the normal form differs there; ``reason`` has no value."""

    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class NormalForm:
    """The file in its normal form; no ``rewritings``: it already was. ``comments`` are its own, without empty ones."""

    data: bytes = field(repr=False)
    rewritings: tuple[Rewriting, ...] = ()
    comments: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class _Piece:
    """One line of the normal form. ``entry`` is None for a comment, ``reason`` "" for an unchanged line."""

    line: int
    text: str = field(repr=False)
    reason: str = ""
    entry: DotenvEntry | None = None


def normal_form(data: bytes, reader: Parser, *, mounted: bool = False) -> NormalForm:
    """Given an env file in the grammar of ``reader``, return its normal form.

    ``mounted``: a program with a parser of its own reads the file too, so only blank lines and comments may change.
    Raises EnvFileError for a file that Docker would refuse, and UnfitError for one without a normal form.
    """
    text = decoded(data)
    mark = text.startswith(_MARK)
    text = text.removeprefix(_MARK)
    pieces = list(_raw_pieces(text, mounted) if reader is Parser.RAW else _pieces(text, mounted))
    if mounted:
        _require_comments_only(pieces, mark)
    comments = tuple(piece.text for piece in pieces if piece.entry is None and piece.text != "#")
    pieces = _without_duplicates(pieces)
    rewritings = [Rewriting(piece.line, piece.reason) for piece in pieces if piece.reason]
    if mark:
        rewritings.insert(0, Rewriting(1, "the byte order mark is removed"))
    if text and not text.endswith("\n"):
        rewritings.append(Rewriting(text.count("\n") + 1, _NO_END))
    normal = "".join(f"{piece.text}\n" for piece in pieces).encode()
    read_lines(normal, reader)
    if not _reads_alike(data, normal, reader):
        raise UnfitError(1, "no other form of it gives a container the same variables")
    return NormalForm(normal, tuple(rewritings), comments)


# --- Compose's grammar ---


def _pieces(text: str, mounted: bool) -> Iterator[_Piece]:
    position, line = 0, 1
    for entry, start, end in statements(text):
        head, _, indent = text[position:start].rpartition("\n")
        follows = position > 0 and text[position - 1] != "\n" and "\n" not in text[position:start]
        if "\n" in text[position:start]:
            yield from _gap(head, line)
        line += text.count("\n", position, start)
        stop = _end_of_line(text, end)
        comment = text[end:stop].strip(BLANK)
        original = ("" if follows else indent) + text[start:stop]
        piece = _assignment(entry, original, text[start:end], comment, line, mounted)
        if follows:
            piece = replace(piece, reason="the second assignment in a line gets its own")
        yield piece
        line += text.count("\n", start, stop)
        position = stop
        if text[stop : stop + 1] == "\n":
            position, line = stop + 1, line + 1
    if position < len(text):
        yield from _gap(text[position:].removesuffix("\n"), line)


def _gap(text: str, line: int) -> Iterator[_Piece]:
    """The comments and blank lines between two assignments."""
    for number, content in enumerate(text.split("\n"), start=line):
        yield _comment(content, number)


def _comment(content: str, line: int) -> _Piece:
    stripped = content.lstrip(BLANK).removesuffix("\r")
    if not stripped:
        return _Piece(line, "#", _BLANK_LINE)
    if not stripped.startswith("#"):  # ``export`` alone
        return _Piece(line, f"# {stripped}", "`export` without a name becomes a comment")
    if content == stripped:
        return _Piece(line, stripped)
    return _Piece(line, stripped, "the Windows line ending is removed" if content.endswith("\r") else _INDENTED)


def _end_of_line(text: str, end: int) -> int:
    """Where the line of a statement ends: with the comment after it, but before another statement."""
    newline = text.find("\n", end)
    stop = len(text) if newline < 0 else newline
    rest = text[end:stop].strip(BLANK)
    return stop if not rest or rest.startswith("#") else end


def _assignment(entry: DotenvEntry, original: str, raw: str, comment: str, line: int, mounted: bool) -> _Piece:
    """``original`` is all of the text, ``raw`` that of the assignment, ``comment`` what follows in the same line."""
    tidy = original if mounted else original.rstrip(BLANK)
    if "\n" not in tidy:
        try:
            read_line(line, tidy, Parser.COMPOSE)
        except UnfitError:
            pass
        else:
            ends = "the Windows line ending is removed" if original.endswith("\r") else "blanks at its end are removed"
            return _Piece(line, tidy, "" if tidy == original else ends, entry)
    if entry.inherited:
        raise UnfitError(line, _BARE)
    rewritten = f"{'export ' if _EXPORT.match(raw) else ''}{entry.key}={_value(entry, raw)}"
    if comment:
        rewritten += f" {comment}"
    read_line(line, rewritten, Parser.COMPOSE)
    several = "\n" in raw
    reason = "a value of several lines becomes one, in double quotes" if several else "it becomes one KEY=value"
    return _Piece(line, rewritten, reason, entry)


def _value(entry: DotenvEntry, raw: str) -> str:
    """The value as one line, quotes included."""
    if "\n" not in raw:
        delimiter = _DELIMITER.match(raw)
        return raw[delimiter.end() :].strip(BLANK) if delimiter else ""
    text = entry.template.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
    if entry.quote is Quote.SINGLE:  # nothing in it is a reference
        text = text.replace("$", "\\$")
    return f'"{text}"'


# --- the grammar of docker run ---


def _raw_pieces(text: str, mounted: bool) -> Iterator[_Piece]:
    entries = {entry.line: entry for entry in parse_raw_env_file(text.encode())}
    for line, content in enumerate(text.removesuffix("\n").split("\n") if text else (), start=1):
        entry = entries.get(line)
        if entry is None:
            yield _comment(content, line)
            continue
        if entry.inherited:
            raise UnfitError(line, _BARE)
        tidy = content if mounted else content.removesuffix("\r")
        read_line(line, tidy, Parser.RAW)
        yield _Piece(line, tidy, "" if tidy == content else "the Windows line ending is removed", entry)


# --- both ---


def _require_comments_only(pieces: list[_Piece], mark: bool) -> None:
    keys = [piece.entry.key for piece in pieces if piece.entry is not None]
    changed = [piece.line for piece in pieces if piece.reason and piece.entry is not None]
    if mark or changed or len(set(keys)) < len(keys):
        raise UnfitError(min(changed, default=1), "a container reads the file itself, perhaps by rules of its own")


def _without_duplicates(pieces: list[_Piece]) -> list[_Piece]:
    """Of a key that stands several times the last one counts; the earlier ones become comments.

    Raises UnfitError if a line in between refers to the key: it sees an earlier value.
    """
    last = {piece.entry.key: number for number, piece in enumerate(pieces) if piece.entry is not None}
    kept = list(pieces)
    for number, piece in enumerate(pieces):
        if piece.entry is None or last[piece.entry.key] == number:
            continue
        key, end = piece.entry.key, last[piece.entry.key]
        between = [later.entry for later in pieces[number + 1 : end + 1] if later.entry is not None]
        if user := next((entry for entry in between if key in references(entry)), None):
            raise UnfitError(piece.line, f"a later line sets it again, and line {user.line} needs this value")
        reason = f"line {pieces[end].line} sets the same key and counts, so it becomes a comment"
        kept[number] = _Piece(piece.line, f"# {piece.text.strip(BLANK)}", reason)
    return kept


def _reads_alike(data: bytes, normal: bytes, reader: Parser) -> bool:
    """Whether a container gets the same variables, whatever the names that the file refers to stand for outside."""
    entries = read_entries(data, reader)
    names = {name for entry in entries for name in (*references(entry), entry.key)}
    outside: tuple[Mapping[str, str], ...] = ({}, {name: f"outside {name}" for name in names})
    return all(_resolved(data, reader, scope) == _resolved(normal, reader, scope) for scope in outside)


def _resolved(data: bytes, reader: Parser, scope: Mapping[str, str]) -> dict[str, str] | str:
    """The variables, or the code of the reason why Docker refuses the file in this scope."""
    try:
        return resolve_raw_env_file(data, scope) if reader is Parser.RAW else resolve_env_file(data, scope)
    except EnvFileError as error:
        return error.code
