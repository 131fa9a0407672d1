"""The lines of a dotenv file as sops stores them: one comment or one KEY=value each. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from reconciler.core.dotenv.grammar import EnvFileError, read_entries
from reconciler.core.model.targets import Parser
from reconciler.core.secret import Secret

_LABEL = re.compile(r"[ \t]*(?:export[ \t]+)?([\w.\-]+)[ \t]*")
_SOPS_OWN = "sops_"
_LEFT_PLAIN = "_unencrypted"  # sops leaves the values of such keys in plain text


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a dotenv file as sops sees it; ``number`` counts from 1.

    ``name`` is the variable, "" for a comment; ``label`` is all of the text before the ``=``, by which sops names the
    value; ``text`` is the whole line without its end.
    """

    number: int
    name: str
    label: str
    text: str = field(repr=False)

    @property
    def value(self) -> Secret:
        """The value for sops, which writes a line feed as the two characters ``\\n``."""
        return Secret(self.text[len(self.label) + 1 :].replace("\\n", "\n").encode())


class UnfitError(Exception):
    """A line that sops cannot keep unchanged. ``reason`` continues "line 3: "; it contains no value."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(f"line {line}: {reason}")
        self.line = line
        self.reason = reason


def decoded(data: bytes) -> str:
    """Given a dotenv file, return its text. Raises UnfitError if it is not UTF-8."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        position = error.start  # the error itself contains the file
    raise UnfitError(data.count(b"\n", 0, position) + 1, "it is not UTF-8")


def read_lines(data: bytes, reader: Parser) -> tuple[Line, ...]:
    """Given a dotenv file, return its lines. Raises UnfitError for the first that sops would change or refuse."""
    text = decoded(data)
    lines = tuple(read_line(number, line, reader) for number, line in enumerate(text.split("\n")[:-1], start=1))
    if not text.endswith("\n") and text:
        raise UnfitError(text.count("\n") + 1, "the file does not end with a line feed, and sops would add one")
    seen: dict[str, int] = {}
    for line in lines:
        if line.name and seen.setdefault(line.name, line.number) != line.number:
            raise UnfitError(line.number, f"{line.name} is already set in line {seen[line.name]}")
    return lines


def read_line(number: int, text: str, reader: Parser) -> Line:
    """Given one line without its end, return it. Raises UnfitError if sops would change or refuse it."""
    if text.startswith("#"):
        return Line(number, "", "", text)
    if not text.strip():
        raise UnfitError(number, "it is blank, and sops drops blank lines")
    if text.lstrip().startswith("#"):
        raise UnfitError(number, "it is an indented comment, which sops refuses")
    label, equals, _ = text.partition("=")
    match = _LABEL.fullmatch(label)
    if not equals or match is None or not _stands_alone(text, match[1], reader):
        raise UnfitError(number, "it is not one KEY=value (a value of several lines? KEY: value? a bare KEY?)")
    if match[1].startswith(_SOPS_OWN):
        raise UnfitError(number, f"sops would take {match[1]} for its own metadata")
    if label.endswith(_LEFT_PLAIN):
        raise UnfitError(number, f"sops would leave {match[1]} in plain text, because its name ends in {_LEFT_PLAIN}")
    return Line(number, match[1], label, text)


def _stands_alone(text: str, name: str, reader: Parser) -> bool:
    """Whether the line alone is exactly one assignment of ``name``: not a piece of a value of several lines."""
    try:
        entries = read_entries(f"{text}\n".encode(), reader)
    except EnvFileError:
        return False
    return [entry.key for entry in entries] == [name]
