"""The keys that ``ignore_keys`` leaves to the server: removed from a file, or taken from the live one."""

from __future__ import annotations

import re
from collections.abc import Collection
from fnmatch import fnmatchcase

from reconciler.core.dotenv.grammar import EnvFileError, parse_raw_env_file, skip, statements
from reconciler.core.model.targets import Parser

_GLOB_CHARACTER = re.compile(r"[*?\[]")
_REST_OF_LINE = re.compile(r"(?:[^\S\n]*+(?:\#[^\n]*+)?\n)?")


def without_keys(data: bytes, parser: Parser, patterns: Collection[str]) -> bytes:
    """Given an env file, return it without the statements whose key matches one of the glob ``patterns``.

    A file that Docker would refuse is returned unchanged.
    """
    try:
        pieces = _pieces(data, parser)
    except EnvFileError:
        return data
    return b"".join(text for key, text in pieces if not is_left_to_server(key, patterns))


def with_server_keys(data: bytes, live: bytes, parser: Parser, patterns: Collection[str]) -> bytes:
    """Given two versions of an env file, return ``data`` with the statements of ``live`` for matching keys.

    A key that only ``live`` has is appended, one that only ``data`` has stays. Where Docker would refuse either file,
    ``data`` is returned unchanged.
    """
    try:
        ours, theirs = _pieces(data, parser), _pieces(live, parser)
    except EnvFileError:
        return data
    kept = {key: text for key, text in theirs if is_left_to_server(key, patterns)}
    merged = b""
    for position, (key, text) in enumerate(ours, start=1):
        if is_left_to_server(key, patterns) and key in kept:
            text = _with_end(kept.pop(key)) if position < len(ours) else kept.pop(key)
        merged += text
    for text in kept.values():
        merged = (_with_end(merged) if merged else b"") + text
    return merged


def _with_end(text: bytes) -> bytes:
    return text if text.endswith(b"\n") else text + b"\n"


def is_left_to_server(key: str, patterns: Collection[str]) -> bool:
    """Whether ``key`` matches one of the glob ``patterns`` of ``ignore_keys``."""
    return bool(key) and any(fnmatchcase(key, pattern) for pattern in patterns)


def exactly(key: str) -> str:
    """The glob pattern that matches the key alone."""
    return _GLOB_CHARACTER.sub(r"[\g<0>]", key)


def _pieces(data: bytes, parser: Parser) -> list[tuple[str, bytes]]:
    """The file split into statements, each with its key and newline, and the text between them, with the key "".

    Joined they are the file. Raises EnvFileError.
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
    for entry, start, end in statements(text[mark:]):
        start, end = start + mark, end + mark
        end = skip(_REST_OF_LINE, text, end)
        pieces += [("", text[done:start]), (entry.key, text[start:end])]
        done = end
    pieces.append(("", text[done:]))
    return [(key, piece.encode("utf-8", "surrogateescape")) for key, piece in pieces if piece]
