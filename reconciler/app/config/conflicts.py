"""Conflicts within environment.yaml: sources, live paths and projects that are claimed twice.

The data is read as written, whatever its shape, so that conflicts are reported with mistakes of shape.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic_core import PydanticCustomError

from reconciler.app.config.scalars import ABSOLUTE_FILE, ABSOLUTE_PATH, LIVE_FILE, Form
from reconciler.app.config.strict_yaml import Document, FieldPath, Problem, dotted, shown
from reconciler.core.decide.guards import folded

MAX_TARGETS = 10_000
MAX_HOSTS = 64
"""Of one stack; limits the cost of comparing live paths host by host."""


def conflicts(document: Document) -> Iterator[Problem]:
    """Given a manifest, return what is claimed twice, and files where a directory must be."""
    data = document.data
    if not data.keys() & {"stacks", "targets"}:
        yield Problem((), "has neither stacks nor targets", "at least one of them; `targets: {}` for none at all")
    sources, directories = list(_sources(data)), list(_directories(data))
    if len(sources) > MAX_TARGETS:
        yield Problem((), f"has {len(sources):,} targets", f"up to {MAX_TARGETS:,}; split the environment")
        return
    files = list(_live_files(data))
    yield from _taken_twice(document, sources, "is a source already", "each source once; two live files need two")
    yield from _taken_twice(document, files, "has the live path", "a live path of its own for every target")
    yield from _files_above(files, directories)
    yield from _taken_twice(document, _projects(data), "is the same project", "a directory, or files, of its own")


@dataclass(frozen=True, slots=True)
class _Claim:
    """A name or path that the part at ``field`` needs for itself, on ``hosts`` (empty: on every host)."""

    field: FieldPath
    hosts: tuple[str, ...]
    name: str


class _Claims:
    """The claims host by host; names that differ only in case are the same."""

    def __init__(self) -> None:
        self._taken: dict[str, dict[str, _Claim]] = {}

    def add(self, claim: _Claim) -> _Claim | None:
        """Record the claim; return an earlier one for the same name on one of its hosts."""
        earlier = self.find(claim.name, claim.hosts)
        taken = self._taken.setdefault(folded(claim.name), {})
        for host in claim.hosts or ("",):
            taken.setdefault(host, claim)
        return earlier

    def find(self, name: str, hosts: tuple[str, ...]) -> _Claim | None:
        taken = self._taken.get(folded(name), {})
        if not hosts:
            return next(iter(taken.values()), None)
        return next((taken[host] for host in (*hosts, "") if host in taken), None)


def _taken_twice(document: Document, claims: Iterable[_Claim], conflict: str, accepted: str) -> Iterator[Problem]:
    seen = _Claims()
    for claim in claims:
        if earlier := seen.add(claim):
            first = f"{dotted(earlier.field)} in line {document.line(earlier.field)}"
            yield Problem(claim.field, f"{conflict} of {first}", accepted)


def _files_above(files: list[_Claim], directories: list[_Claim]) -> Iterator[Problem]:
    """Live files where a directory must be: that of a stack, or of another live file."""
    taken = _Claims()
    for file in files:
        taken.add(file)
    needed: dict[tuple[str, tuple[str, ...]], _Claim] = {}
    for claim in [*directories, *files]:
        for path in _parents(claim.name):
            needed.setdefault((path, claim.hosts), claim)
    for claim in directories:
        needed.setdefault((claim.name, claim.hosts), claim)
    for (path, hosts), claim in needed.items():
        if above := taken.find(path, hosts):
            problem = f"has the live path {shown(path)}, which must be a directory for {dotted(claim.field)}"
            yield Problem(above.field, problem, "a path that is not a directory")


def _parents(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:end]) for end in range(2, len(parts))]


def _stacks(data: Mapping[str, Any]) -> Iterator[tuple[FieldPath, Mapping[str, Any], tuple[str, ...]]]:
    """Every stack with a valid shape: its field, content and hosts."""
    for name, stack in _mapping(data.get("stacks")).items():
        hosts = _mapping(stack).get("hosts") or []
        if isinstance(stack, dict) and isinstance(hosts, list) and len(hosts) <= MAX_HOSTS:
            yield ("stacks", name), stack, tuple(host for host in hosts if isinstance(host, str))


def _sources(data: Mapping[str, Any]) -> Iterator[_Claim]:
    for field, stack, hosts in _stacks(data):
        for source in _mapping(stack.get("targets")):
            yield _Claim((*field, "targets", source), hosts, source)
    for source in _mapping(data.get("targets")):
        yield _Claim(("targets", source), (), source)


def _directories(data: Mapping[str, Any]) -> Iterator[_Claim]:
    for field, stack, hosts in _stacks(data):
        if directory := _read(ABSOLUTE_PATH, stack.get("directory")):
            yield _Claim((*field, "directory"), hosts, directory)


def _projects(data: Mapping[str, Any]) -> Iterator[_Claim]:
    """Each stack's directory with its Compose files and its project's name: two stacks with the same ones are one
    project."""
    for claim in _directories(data):
        stack = _mapping(_mapping(data.get("stacks")).get(str(claim.field[1])))
        yield _Claim(claim.field, claim.hosts, f"{claim.name}\0{stack.get('files') or []}\0{stack.get('project')}")


def _live_files(data: Mapping[str, Any]) -> Iterator[_Claim]:
    for field, stack, hosts in _stacks(data):
        directory = _read(ABSOLUTE_PATH, stack.get("directory"))
        for source, target in _mapping(stack.get("targets")).items():
            path = _read(LIVE_FILE, _written_path(target) or source)
            if path and (directory or path.startswith("/")):
                yield _Claim((*field, "targets", source), hosts, posixpath.join(directory or "/", path))
    for source, target in _mapping(data.get("targets")).items():
        if path := _read(ABSOLUTE_FILE, _written_path(target)):
            yield _Claim(("targets", source), (), path)


def _written_path(target: object) -> object:
    return target.get("path") if isinstance(target, dict) else target


def _read(form: Form, value: object) -> str | None:
    """The value as the form reads it, or None where that is a mistake (which the model reports)."""
    try:
        return str(form.read(value))
    except PydanticCustomError:
        return None


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
