"""Names for the sources of an import."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from reconciler.core.model.targets import Format
from reconciler.core.onboarding.types import DraftFile, holds_variables

BINARY_SUFFIX = ".bin"
"""Ends the name of a source if sops would otherwise choose a format by suffix that does not keep every byte."""

_SUFFIXES = (".env", ".yaml", ".yml", ".json", ".ini")  # for which sops chooses another format
_MANIFEST = re.compile(r"(?i)environments?\.ya?ml")
_EXAMPLE = re.compile(r"(?i)\.(example|template|sample|dist)$")  # which `reconciler check` takes for an example file
_UNUSUAL = re.compile(r"[^A-Za-z0-9._-]+")


def name_sources(files: Iterable[DraftFile], directories: Mapping[str, str], *, prefixed: bool) -> list[DraftFile]:
    """Give each file a unique source name by which a reader recognizes the live file: its own name, below the stack's
    if there are several stacks. ``directories`` are those of the stacks by name."""
    named: list[DraftFile] = []
    for file in files:
        name = _source_name(file, directories.get(file.stack or "", ""))
        desired = f"{file.stack}/{name}" if prefixed and file.stack else name
        others = [earlier.source for earlier in named]
        above = _directories_above(file, skip=name.startswith(_own_directory(file)))
        while _is_taken(desired, others) and above:
            name = f"{above.pop()}-{name}"
            desired = posixpath.join(posixpath.dirname(desired), name)
        named.append(replace(file, source=free_name(desired, others)))
    return named


def _own_directory(file: DraftFile) -> str:
    return f"{clean_name(posixpath.basename(posixpath.dirname(file.file.path)))}."


def _directories_above(file: DraftFile, *, skip: bool) -> list[str]:
    """The names of the directories that contain the file, the nearest last; ``skip`` that one."""
    names = [name for part in posixpath.dirname(file.file.path).split("/") if (name := clean_name(part))]
    return names[:-1] if skip else names


def _source_name(file: DraftFile, directory: str) -> str:
    """Name a file of a stack in ``directory``. A name that begins with a dot follows that of the stack, or of the
    file's own directory if that is another one: .env.prod → shop.prod.env, docker/.env.prod → docker.prod.env."""
    base = posixpath.basename(file.file.path)
    parent = posixpath.dirname(file.file.path)
    own = clean_name(posixpath.basename(parent))
    stem = (file.stack if parent == directory else own) or file.stack or own or "files"
    name = f"{stem}.{clean_name(base)}" if base.startswith(".") or _MANIFEST.fullmatch(base) else clean_name(base)
    name = _EXAMPLE.sub(r"-\1", name) or stem
    if holds_variables(file.file.path, file.uses) and not name.endswith(".env"):
        head, dot_env, tail = name.partition(".env.")  # sops goes by the suffix: api.env.old → api.old.env
        name = f"{head}.{tail}.env" if dot_env else f"{name}.env"
    return binary_name(name) if file.format is Format.BINARY else name


def binary_name(name: str) -> str:
    """The name for a source that is encrypted as a whole."""
    return f"{name}{BINARY_SUFFIX}" if name.endswith(_SUFFIXES) else name


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
    source = free_name(f"{name}{BINARY_SUFFIX}", others)
    return replace(file, format=Format.BINARY, reason=reason, source=source, normal=None, rewritings=())
