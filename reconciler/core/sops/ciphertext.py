"""Reads SOPS files without a key, and refuses what sops must not be given.

A SOPS file keeps its keys readable and encrypts its values, so a diff by key needs no key. The same reader is the gate
in front of sops, because sops itself is too trusting: its metadata names network endpoints to call, a list index in it
can exhaust memory, and lines that nobody with a key ever wrote (``KEY=``, ``KEY: value=``, junk after a value) pass
with exit 0. Hence allow-lists, never deny-lists, in the exact spelling that sops writes: sops matches the names in its
metadata case-insensitively.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NoReturn

from reconciler.core.errors import BadCiphertextError, NotEncryptedError, SourceError
from reconciler.core.model.targets import Format, Parser
from reconciler.core.sops.file_format import any_number, formats
from reconciler.core.sops.metadata import Fields, SopsMetadata, check_keys, flat_metadata, read_metadata
from reconciler.core.sops.patterns import (
    ENCRYPTED,
    MAX_BYTES,
    MAX_DEPTH,
    MAX_NODES,
    UNPRINTABLE,
    first_names,
    line_at,
    place_in,
    restore_hint,
)
from reconciler.core.text import key_name

_VALUE_TYPES = {
    Format.DOTENV: ("str", "int", "float", "bool"),  # `sops set` makes the other three
    Format.JSON: ("str", "int", "float", "bool"),
    Format.YAML: ("str", "int", "float", "bool", "time"),
    Format.BINARY: ("str",),
}
# Only what Compose takes for a name: it also splits at a colon, so `A: x=`, empty to sops, would set A to `x=`.
_VARIABLE = re.compile(r"[ \t]*(?:export[ \t]+)?([\w.\-]+)[ \t]*")
_CERTAINLY_A_NAME = re.compile(r"[A-Z_][A-Z0-9_.\-]{0,63}|[a-z_][a-z0-9_.\-]{0,63}")
_CONFLICT_MARKER = re.compile(r"^(?:<{7}|\|{7}|>{7})(?: .*)?$", re.MULTILINE)
_CONFLICT_SIGNS = ("<<<<<<<", "|||||||", ">>>>>>>")  # searched first: much faster
_YAML_COMMENT = re.compile(r"(?:^|(?<=[ \t]))#(.*)$", re.MULTILINE)
_TOP_LEVEL_KEY = re.compile(r"^(?:  |\t)?[\"']?([A-Za-z_][\w.\-]*)[\"']?:", re.MULTILINE)
_IV = re.compile(rb",iv:([A-Za-z0-9+/]{16})")
IV_CHARACTERS = 16  # enough of an iv to be unique: 96 random bits
_AS_BINARY = "`sops encrypt --input-type binary --output-type binary` takes a file as it is"


# --- results ---


@dataclass(frozen=True, slots=True)
class EncryptedEntry:
    """One value or comment, still encrypted.

    ``key`` is the variable's name, or a path such as ``db.users[0]`` (YAML, JSON); "" for a comment. ``line`` counts
    from 1, and is 0 where unknown (JSON). ``encrypted`` is the ``ENC[…]`` text, "" for an empty value. ``iv`` stays
    the same until the value is rewritten, even when the file's data key is rotated.
    """

    key: str
    line: int
    encrypted: str = ""
    iv: str = ""
    comment: bool = False

    @property
    def type(self) -> str:
        """The type that sops gives the value: "str", "int" …; "" for an empty one. Anyone can change it unnoticed."""
        return self.encrypted.rpartition("type:")[2].rstrip("]")


@dataclass(frozen=True, slots=True)
class Ciphertext:
    """A file that may be passed to sops: a store of the ``format``, to be decrypted to the format ``output``."""

    format: Format
    output: Format
    entries: tuple[EncryptedEntry, ...]
    metadata: SopsMetadata


YamlParser = Callable[[str, str], object]
"""Given a file's name and text, return the document; raises SourceError. Passed in: core does not use PyYAML."""


# --- entry points ---


def read_ciphertext(name: str, data: bytes, *, parse_yaml: YamlParser, parser: Parser = Parser.OPAQUE) -> Ciphertext:
    """Given a source, return what is readable without a key; nothing is decrypted or verified.

    ``parser`` is its target's: a file whose keys are read is an env file, whatever the store.
    Raises NotEncryptedError for plaintext (naming the keys, never a value), BadCiphertextError for what sops never
    writes, SourceError for what sops may write but we refuse. No error quotes the file.
    """
    if len(data) > MAX_BYTES:
        raise SourceError(f"is too large: {len(data)} bytes, the limit is {MAX_BYTES}", where=name, hint="Split it")
    file_format, output = formats(name, data, parser)
    if file_format is Format.INI:
        raise SourceError("INI files are not supported", where=name, hint=_AS_BINARY)
    text = _decoded(data)
    if text is None:
        _refuse_undecodable(name, data)
    if any(sign in text for sign in _CONFLICT_SIGNS) and (marker := _CONFLICT_MARKER.search(text)):
        raise BadCiphertextError(
            "has an unresolved merge conflict",
            where=place_in(name, line_at(text, marker.start())),
            hint="Take one side completely (git checkout --ours or --theirs), "
            "make the other's change with `reconciler set`",
            id="conflict-markers",
        )
    if text.count("\n") > MAX_NODES:
        raise SourceError(f"has more than {MAX_NODES} lines", where=name, hint="Split it")
    entries = _Entries(name, file_format)
    if file_format is Format.DOTENV:
        flat = _read_dotenv(entries, text)
    else:
        flat = _read_tree(entries, text, parse_yaml if file_format is Format.YAML else _parse_json)
    metadata = read_metadata(name, flat)
    entries.refuse_plaintext(metadata.rule)
    if output is not file_format:
        _require_convertible(name, file_format, output, entries)
    return Ciphertext(file_format, output, tuple(sorted(entries.entries, key=lambda entry: entry.line)), metadata)


def _require_convertible(name: str, store: Format, output: Format, entries: _Entries) -> None:
    """Raises SourceError for values that sops writes otherwise into a file of another format: a number of a JSON store
    as 1.0, null as <nil>. It refuses nested ones."""
    if output is not Format.DOTENV:
        return
    problem = f"is a {store.upper()} store, and an env file cannot hold"
    if entries.nested:
        hint = f"Rename it to end in .{store}, or write it as KEY=value lines and encrypt those"
        raise SourceError(f"{problem} nested values ({first_names(entries.nested)})", where=name, hint=hint)
    if odd := [key_name(entry.key) for entry in entries.entries if entry.type in ("float", "time")] + entries.nulls:
        hint = f"Make them strings: `sops edit --input-type {store} --output-type {store} {name}`"
        problem += f" the numbers, dates or nulls at {first_names(odd)} as written"
        raise SourceError(problem, where=name, hint=hint)


def ivs(data: bytes) -> frozenset[str]:
    """The beginnings (IV_CHARACTERS) of all ivs in a file, including those of comments and metadata.

    For old versions of files: nothing is checked, and a file that is not encrypted has none.
    """
    return frozenset(iv.decode() for iv in _IV.findall(data))


# --- collecting ---


class _Entries:
    """The entries of a file, and the names of those that are not encrypted, are null, or hold others."""

    def __init__(self, name: str, file_format: Format) -> None:
        self.name = name
        self.format = file_format
        self.entries: list[EncryptedEntry] = []
        self.nested: list[str] = []
        self.nulls: list[str] = []
        self._plain: list[str] = []

    def add_value(self, key: str, line: int, value: object, label: str) -> None:
        """Add a value; errors call it ``label``. Raises BadCiphertextError for a damaged one."""
        match = ENCRYPTED.fullmatch(value) if isinstance(value, str) else None
        if match is not None and match["type"] in _VALUE_TYPES[self.format]:
            self.entries.append(EncryptedEntry(key, line, match[0], match["iv"]))
        elif value is None or value == "":
            self.nulls += [label] if value is None else []
            self.entries.append(EncryptedEntry(key, line))
        elif isinstance(value, str) and value.startswith("ENC["):
            raise BadCiphertextError(
                f"the encrypted value of {label} is damaged",
                where=place_in(self.name, line),
                hint=restore_hint(self.name),
            )
        else:
            self._plain.append(label)

    def add_comment(self, text: str, line: int) -> None:
        """Add what follows a ``#``. Plain comments count as plaintext: inside a quoted value of several lines, which
        nobody can see without the key, the line would be part of the value.
        """
        match = ENCRYPTED.fullmatch(text)
        if match is not None and match["type"] == "comment":
            self.entries.append(EncryptedEntry("", line, text, match["iv"], comment=True))
        elif text:
            self._plain.append(f"the comment in line {line}")

    def refuse_plaintext(self, rule: str) -> None:
        if not self._plain:
            return
        hint = (
            f"Its rule {rule} leaves them in plain text: remove it from .sops.yaml and encrypt the file again"
            if rule
            else f"Remove them, add them again with `sops edit {self.name}`, and replace the values: git keeps them"
        )
        raise NotEncryptedError(f"is not encrypted at {first_names(self._plain)}", where=self.name, hint=hint)


# --- dotenv ---


def _read_dotenv(entries: _Entries, text: str) -> dict[str, tuple[str, int]]:
    """Collect the entries of a dotenv file and return its metadata: key → (value, line)."""
    lines = text.split("\n")
    if not any(line.startswith("sops_") for line in lines):
        _refuse_plain_dotenv(entries.name, lines)
    _check_characters(entries.name, text)
    metadata: dict[str, tuple[str, int]] = {}
    first: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        key, equals, value = line.partition("=")
        where = place_in(entries.name, number)
        if line.startswith("#"):
            entries.add_comment(line[1:], number)
        elif not equals and line:
            raise BadCiphertextError("is not of the form KEY=ENC[…]", where=where, hint=restore_hint(entries.name))
        elif key.startswith("sops_"):
            if key in metadata:
                raise BadCiphertextError(
                    "repeats a line of the SOPS metadata", where=where, hint=restore_hint(entries.name)
                )
            metadata[key] = (value, number)
        elif line:
            variable = _variable(key, where)
            label = _shown(variable, value, number)
            if first.setdefault(variable, number) != number:
                raise BadCiphertextError(
                    f"{label} is already set in line {first[variable]}",
                    where=where,
                    hint="Remove one: sops accepts an empty duplicate that was added without a key",
                    id="duplicate-key",
                )
            entries.add_value(variable, number, value, label)
    return {key.removeprefix("sops_"): value for key, value in metadata.items()}


def _variable(key: str, where: str) -> str:
    match = _VARIABLE.fullmatch(key)
    if match is None or match[1].startswith("sops_"):
        raise BadCiphertextError(
            "the text before = is not a valid variable name",
            where=where,
            hint=f"A name has letters, digits, _ . and - only. For others, {_AS_BINARY}",
        )
    return match[1]


def _shown(variable: str, value: str, line: int) -> str:
    """The variable where it is certainly a name, otherwise its line.

    In a plain or broken file, a line of a wrapped private key can look like ``name=`` or ``name==``; but names keep to
    one case, and base64 (or base32, which has one case) ends in several equals signs.
    """
    return variable if is_certainly_a_name(variable, value) else f"line {line}"


def is_certainly_a_name(variable: str, value: str) -> bool:
    """Given the text before and after the ``=`` of a line, return whether the former can be shown (see ``_shown``)."""
    return _CERTAINLY_A_NAME.fullmatch(variable) is not None and bool(value.strip("=\r") or not value)


def _refuse_plain_dotenv(name: str, lines: Sequence[str]) -> NoReturn:
    if any("=ENC[AES256_GCM," in line for line in lines):
        raise BadCiphertextError("its sops_… lines are missing (a bad merge?)", where=name, hint=restore_hint(name))
    keys = []
    for number, line in enumerate(lines, start=1):
        key, _, value = line.partition("=")
        if value.strip() and not line.startswith("#"):
            match = _VARIABLE.fullmatch(key)
            keys.append(_shown(match[1], value, number) if match else f"line {number}")
    _refuse_unencrypted(name, keys)


# --- YAML, JSON, and the binary store, which is JSON ---


def _read_tree(entries: _Entries, text: str, parse: YamlParser) -> dict[str, tuple[str, int]]:
    """Collect the entries of a nested file and return its metadata in dotenv's flat form: key → (value, line)."""
    name = entries.name
    if "sops" not in text:
        _refuse_unencrypted(name, _TOP_LEVEL_KEY.findall(text))
    document = parse(name, text)
    if not isinstance(document, Fields):
        raise BadCiphertextError("its top level is not a mapping", where=name, hint=restore_hint(name))
    check_keys(name, document)
    metadata = next((value for key, _, value in document if key == "sops"), None)
    content = Fields(field for field in document if field[0] != "sops")
    if metadata is None:
        _refuse_unencrypted(name, [key_name(key) for key, _, _ in content])
    _check_characters(name, text)
    if not isinstance(metadata, Fields) or any(key.casefold() == "sops" for key, _, _ in content):
        raise BadCiphertextError(
            "must have exactly one `sops` section, in lower case", where=name, hint=restore_hint(name)
        )
    if entries.format is Format.BINARY and [key for key, _, _ in content] != ["data"]:
        raise BadCiphertextError("a binary store holds `data` and `sops` only", where=name, hint=restore_hint(name))
    if entries.format is Format.YAML:
        for comment, line in _yaml_comments(text):
            entries.add_comment(comment, line)
    entries.nested += [key_name(key) for key, _, value in content if isinstance(value, Fields | list)]
    for path, line, value in _leaves(name, content):
        entries.add_value(path, line, value, key_name(path))
    return flat_metadata(name, metadata)


def _parse_json(name: str, text: str) -> object:
    if sum(map(text.count, ",[{")) > MAX_NODES:
        raise SourceError(f"has more than {MAX_NODES} values", where=name, hint="Split it")
    try:
        return json.loads(text, object_pairs_hook=_fields, parse_int=any_number, parse_float=any_number)
    except ValueError as error:
        line = getattr(error, "lineno", 0)
    except RecursionError:
        line = -1
    if line < 0:
        raise _too_deep(name, 0)
    # Raised out here: as the cause or context, the parser's own error would include the whole file.
    raise BadCiphertextError("is not valid JSON", where=place_in(name, line), hint=restore_hint(name))


def _fields(pairs: Iterable[tuple[str, object]]) -> Fields:
    return Fields((key, 0, value) for key, value in pairs)


def _leaves(
    name: str, node: object, path: str = "", line: int = 0, depth: int = 1
) -> Iterator[tuple[str, int, object]]:
    """Every scalar below ``node``, in the file's order, as (path, line, value)."""
    if depth > MAX_DEPTH:
        raise _too_deep(name, line)
    if isinstance(node, Fields):
        check_keys(name, node)
        for key, at, value in node:
            yield from _leaves(name, value, f"{path}.{key}" if path else key, at, depth + 1)
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _leaves(name, value, f"{path}[{index}]", line, depth + 1)
    else:
        yield path, line, node


def _too_deep(name: str, line: int) -> SourceError:
    return SourceError(f"is nested deeper than {MAX_DEPTH} levels", where=place_in(name, line), hint=_AS_BINARY)


def _yaml_comments(text: str) -> Iterator[tuple[str, int]]:
    """The text after each ``#``, and its line. A parser would drop comments, sops keeps them."""
    line, position = 1, 0
    for match in _YAML_COMMENT.finditer(text):
        line += text.count("\n", position, match.start())
        position = match.start()
        yield match[1], line


# --- text ---


def _decoded(data: bytes) -> str | None:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:  # it contains the data: it must not become a cause or context
        return None


def _refuse_undecodable(name: str, data: bytes) -> NoReturn:
    if b"sops" not in data:
        _refuse_unencrypted(name, ())
    raise BadCiphertextError("is not UTF-8 text", where=name, hint=restore_hint(name))


def _check_characters(name: str, text: str) -> None:
    """Refuse carriage returns and other characters that sops and the readers of its output treat differently."""
    if match := UNPRINTABLE.search(text):
        character = "Windows line endings" if match[0] == "\r" else f"the unprintable character U+{ord(match[0]):04X}"
        raise BadCiphertextError(
            f"has {character}",
            where=place_in(name, line_at(text, match.start())),
            hint="sops writes none of these: check core.autocrlf and .gitattributes",
        )


def _refuse_unencrypted(name: str, keys: Sequence[str]) -> NoReturn:
    values = f": it contains plain values for {first_names(keys)}" if keys else ""
    raise NotEncryptedError(
        f"is not encrypted{values}",
        where=name,
        hint=f"Run `sops encrypt --in-place {name}`, commit it, and replace the values: git keeps the plain ones",
    )
