"""Names for the sources of an import."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection, Iterable
from dataclasses import replace

from reconciler.core.model.targets import Format
from reconciler.core.onboarding.types import DraftFile, holds_variables

BINARY_SUFFIX = ".bin"
"""Ends the name of a source if sops would otherwise choose a format by suffix that does not keep every byte."""

_SUFFIXES = (".env", ".yaml", ".yml", ".json", ".ini")  # for which sops chooses another format
_MANIFEST = re.compile(r"(?i)environments?\.ya?ml")
_EXAMPLE = re.compile(r"(?i)\.(example|template)$")  # which `reconciler check` takes for an example file
_UNUSUAL = re.compile(r"[^A-Za-z0-9._-]+")


def name_sources(files: Iterable[DraftFile], *, prefixed: bool) -> list[DraftFile]:
    """Give each file a unique source name: its own name, below the stack's if there are several stacks."""
    named: list[DraftFile] = []
    for file in files:
        name = _source_name(file)
        directory = clean_name(posixpath.basename(posixpath.dirname(file.file.path)))
        desired = f"{file.stack}/{name}" if prefixed and file.stack else name
        others = [earlier.source for earlier in named]
        if _is_taken(desired, others) and directory:
            desired = posixpath.join(posixpath.dirname(desired), f"{directory}-{name}")
        named.append(replace(file, source=free_name(desired, others)))
    return named


def _source_name(file: DraftFile) -> str:
    base = posixpath.basename(file.file.path)
    stem = file.stack or clean_name(posixpath.basename(posixpath.dirname(file.file.path))) or "files"
    name = f"{stem}.{clean_name(base)}" if base.startswith(".") or _MANIFEST.fullmatch(base) else clean_name(base)
    name = _EXAMPLE.sub(r"-\1", name) or stem
    env = holds_variables(file.file.path, file.uses)
    if env and not name.endswith(".env") and file.format is Format.DOTENV:
        head, dot_env, tail = name.partition(".env.")  # sops goes by the suffix: api.env.old → api.old.env
        name = f"{head}.{tail}.env" if dot_env else f"{name}.env"
    if env and file.format is Format.BINARY and ".env." not in f"{name}.":
        name = f"{name}.env"
    if file.format is Format.BINARY and name.endswith(_SUFFIXES):
        name += BINARY_SUFFIX
    return name


def clean_name(text: str) -> str:
    """Reduce ``text`` to letters, digits, dots and dashes, without a leading dot or dash and without two dots in a
    row."""
    return re.sub(r"\.\.+", ".", _UNUSUAL.sub("-", text)).strip(".-_")[:80]


def host_name(text: str) -> str:
    """Given the address of a machine, return its name in a manifest."""
    return clean_name(text)[:60] or "host"


def _is_taken(name: str, others: Iterable[str]) -> bool:
    return name.casefold() in {taken.casefold() for taken in others}


def free_name(name: str, others: Collection[str]) -> str:
    """``name``, with a number if it is taken."""
    stem, dot, suffix = name.partition(".")
    number, free = 2, name
    while _is_taken(free, others):
        free, number = f"{stem}-{number}{dot}{suffix}", number + 1
    return free


def as_binary(file: DraftFile, reason: str, others: Collection[str]) -> DraftFile:
    """The same file in the format that keeps every byte, with a unique name that shows it."""
    name = file.source.removesuffix(BINARY_SUFFIX)
    return replace(file, format=Format.BINARY, reason=reason, source=free_name(f"{name}{BINARY_SUFFIX}", others))
