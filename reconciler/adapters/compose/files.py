"""Finds the files that Compose reads as project configuration: compose files, what they include and extend, `.env`.

Whoever writes one of these decides what runs on the server. Compose cannot be asked for the list, so the walk is done
here, by Compose's own rules: `include` and `extends` are followed, and variables in their paths are resolved with the
same environment that Compose is given. A file that cannot be parsed is listed and not followed: Compose reports it.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import yaml

from reconciler.core.compose_names import BASE_NAMES, ENVIRONMENT_NAME, OVERRIDE_NAMES
from reconciler.core.dotenv.grammar import EnvFileError
from reconciler.core.dotenv.interpolation import resolve_env_file
from reconciler.core.model.compose import Invocation

Read = Callable[[str], bytes | None]


class _Loader(yaml.CSafeLoader):
    """Also takes tags such as `!reset` and `!override`, as Compose does; here they mean nothing."""


def _untagged(loader: _Loader, _: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return node.value


_Loader.add_multi_constructor("!", _untagged)
# Compose reads YAML 1.2: a service may be called `on`, and a date is text.
_BOOLEAN, _DATE = "tag:yaml.org,2002:bool", "tag:yaml.org,2002:timestamp"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in resolvers if tag not in (_BOOLEAN, _DATE)]
    for first, resolvers in _Loader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_BOOLEAN, re.compile("true|True|TRUE|false|False|FALSE"), list("tTfF"))

_DEEPEST = 100  # levels
_MOST_NODES = 200_000  # with everything that an alias expands to


def read_file(path: str) -> bytes | None:
    """The file's bytes; None where there is none that we may read. A device or pipe, which may never end, is none."""
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            return file.read() if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else None
    except OSError:
        return None


@dataclass(frozen=True, slots=True)
class Written:
    """A document of the compose file at ``path`` as it is written; relative paths in it start at ``base``, and what it
    interpolates with holds secrets. ``extended``: only services that others extend count in it."""

    path: str
    base: str
    document: Mapping[str, Any] = field(repr=False)
    variables: Mapping[str, str] = field(repr=False)
    extended: bool = False


@dataclass(frozen=True, slots=True)
class Configuration:
    """Absolute paths: `directory` is the project's, `main` the files Compose begins with, `project` those it may read
    as configuration, `environments` its `.env` files; existing or not.

    `variables` is what Compose interpolates with; it holds secrets. `usual_name` is the project's name that they give,
    if no -p does; "" for none. `written` are the compose files that were read. `remotes` are names of what is no file
    here, as they are written, each with the file that names it: see remotes.py.
    """

    directory: str
    main: tuple[str, ...]
    project: frozenset[str]
    environments: frozenset[str]
    variables: Mapping[str, str] = field(repr=False)
    usual_name: str = ""
    written: tuple[Written, ...] = ()
    remotes: frozenset[tuple[str, str]] = frozenset()


def choose(invocation: Invocation, environment: Mapping[str, str], read: Read = read_file) -> Configuration:
    """Given how Compose is run and the environment it is started with, return where it begins; nothing is followed.

    Without files, and with no COMPOSE_FILE in its env files, `main` are the usual names that exist: none if none does.
    COMPOSE_ENV_FILES counts in a shell only, never in `.env`.
    """
    top = invocation.project_directory or invocation.directory
    variables = dict(environment)
    environments = list(invocation.env_files)
    if not environments and not invocation.files:
        environments = [os.path.join(top, ENVIRONMENT_NAME)]
    for path in reversed(environments):  # the last of several wins
        _define(variables, read(path))
    chosen = list(invocation.files)
    if not chosen:
        separator = variables.get("COMPOSE_PATH_SEPARATOR") or os.pathsep
        chosen = [name for name in variables.get("COMPOSE_FILE", "").split(separator) if name]
    main = [join(invocation.directory, name) for name in chosen] or _usual(top, read)
    base = invocation.project_directory or (os.path.dirname(main[0]) if main else invocation.directory)
    beside = os.path.join(base, ENVIRONMENT_NAME)
    if not invocation.env_files and beside not in environments:
        environments.append(beside)
        _define(variables, read(beside))
    usual_name = variables.get("COMPOSE_PROJECT_NAME", "")
    if invocation.project:
        variables["COMPOSE_PROJECT_NAME"] = invocation.project
    files = frozenset({*(os.path.join(top, name) for name in (*BASE_NAMES, *OVERRIDE_NAMES)), *main})
    remotes = {(path, name) for name in chosen if is_remote(name) for path in environments}
    return Configuration(
        base, tuple(main), files, frozenset(environments), variables, usual_name, remotes=frozenset(remotes)
    )


def _usual(directory: str, read: Read) -> list[str]:
    """The compose file of the first usual name that exists, and the first override beside it."""
    base, override = (
        [path for path in (os.path.join(directory, name) for name in names) if read(path) is not None][:1]
        for names in (BASE_NAMES, OVERRIDE_NAMES)
    )
    return base + override if base else []


def read_configuration(invocation: Invocation, environment: Mapping[str, str], read: Read = read_file) -> Configuration:
    """Given how Compose is run and the environment it is started with, return all that it reads."""
    begin = choose(invocation, environment, read)
    walk = _Walk(read, set(begin.project), set(begin.environments), set(begin.remotes))
    for path in begin.main:
        walk.follow(path, begin.directory, begin.variables)
    return replace(
        begin,
        project=frozenset(walk.project),
        environments=frozenset(walk.environments),
        written=tuple(walk.written),
        remotes=frozenset(walk.remotes),
    )


@dataclass(slots=True)
class _Walk:
    read: Read
    project: set[str]
    environments: set[str]
    remotes: set[tuple[str, str]]
    seen: set[tuple[str, str, bool]] = field(default_factory=set)
    written: list[Written] = field(default_factory=list)

    def follow(self, path: str, base: str, variables: Mapping[str, str], *, extended: bool = False) -> None:
        """Note what the compose file at `path` names; relative paths in it start at `base`."""
        self.project.add(path)
        if (path, base, extended) in self.seen:
            return
        self.seen.add((path, base, extended))
        for document in _documents(self.read(path)):
            self.written.append(Written(path, base, document, variables, extended))
            for entry in as_list(document.get("include")):
                fields = entry if isinstance(entry, dict) else {"path": entry}
                self._note_remotes(path, as_list(fields.get("path")), variables)
                self._include(fields, base, variables)
            services = document.get("services")
            for service in services.values() if isinstance(services, dict) else ():
                extends = service.get("extends") if isinstance(service, dict) else None
                if isinstance(extends, dict) and isinstance(name := extends.get("file"), str):
                    self._note_remotes(path, [name], variables)
                    base_file = join(base, expand(name, variables))
                    self.follow(base_file, os.path.dirname(base_file), variables, extended=True)

    def _note_remotes(self, path: str, names: Iterable[Any], variables: Mapping[str, str]) -> None:
        for name in names:
            if isinstance(name, str) and is_remote(expand(name, variables)):
                self.remotes.add((path, name))

    def _include(self, fields: Mapping[str, Any], base: str, variables: Mapping[str, str]) -> None:
        paths = [join(base, name) for name in _names(fields.get("path"), variables)]
        if not paths:
            return
        directories = [join(base, name) for name in _names(fields.get("project_directory"), variables)]
        inside = directories[0] if directories else os.path.dirname(paths[0])
        given = [join(base, name) for name in _names(fields.get("env_file"), variables)]
        merged = dict(variables)
        for environment in given or [os.path.join(inside, ENVIRONMENT_NAME)]:
            self.environments.add(environment)
        # Of an include's files the last one wins, and the project's own variables win over all of them.
        for environment in reversed(given or [os.path.join(inside, ENVIRONMENT_NAME)]):
            _define(merged, self.read(environment))
        for path in paths:
            self.follow(path, inside, merged)


def _documents(data: bytes | None) -> Iterator[dict[str, Any]]:
    try:
        _require_reasonable(data or b"")
        for document in yaml.load_all(data or b"", _Loader):
            if isinstance(document, dict):
                yield document
    except (yaml.YAMLError, ValueError, TypeError, RecursionError):
        return


def _require_reasonable(data: bytes) -> None:
    """Raises ValueError for what no real file has and would crash or stall the process: too many levels, which libyaml
    composes on the C stack; anchors that expand to very much, or to themselves."""
    sizes: dict[str, int] = {}
    open_nodes: list[tuple[str | None, int]] = [(None, 0)]
    for event in yaml.parse(data, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((event.anchor, 0))
            continue
        if isinstance(event, yaml.DocumentStartEvent):
            sizes.clear()  # an anchor ends with its document
        anchor, size = None, 0
        if isinstance(event, yaml.AliasEvent):
            size = sizes.get(event.anchor or "", _MOST_NODES)
        elif isinstance(event, yaml.ScalarEvent):
            anchor, size = event.anchor, 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, inside = open_nodes.pop()
            size = inside + 1
        if anchor is not None:
            sizes[anchor] = size
        around, total = open_nodes[-1]
        open_nodes[-1] = around, total + size
        if len(open_nodes) > _DEEPEST or total + size >= _MOST_NODES:
            raise ValueError("no compose file is that deep or large")


def _define(variables: dict[str, str], data: bytes | None) -> None:
    """Add what an env file defines; what is already defined stays."""
    if data is None:
        return
    try:
        defined = resolve_env_file(data, variables)
    except EnvFileError:
        return
    for key, value in defined.items():
        variables.setdefault(key, value)


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _names(value: Any, variables: Mapping[str, str]) -> list[str]:
    return [expand(name, variables) for name in as_list(value) if isinstance(name, str)]


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Resolve the variables in a path: the same grammar as in a double-quoted value of an env file."""
    if "$" not in text:
        return text
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    try:
        return resolve_env_file(f'_="{quoted}"'.encode(), variables)["_"]
    except EnvFileError:
        return text


def is_remote(name: str) -> bool:
    """Whether Compose may fetch what is named so, rather than read a file of that name."""
    return "://" in name or name.startswith("github.com/") or re.match(r"[\w.-]+@[\w.-]+:", name) is not None


def join(base: str, name: str) -> str:
    return os.path.normpath(os.path.join(base, os.path.expanduser(name)))
