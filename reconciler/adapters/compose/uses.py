"""What the services of compose files use, read from the files as they are written: env files, mounted files, and the
variables that a value is made of. Compose's resolved project no longer shows where a value came from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reconciler.adapters.compose.files import Written, as_list, expand, join
from reconciler.core.inventory import Use

VARIABLE = re.compile(r"\$(?:\{([_A-Za-z]\w*)|([_A-Za-z]\w*))", re.ASCII)
_MOST_EXTENDS = 10  # a chain of services that extend each other; it could be a circle
# Mounted from the machine into nearly every container, and nobody's configuration.
_SYSTEM = ("/usr/", "/lib/", "/lib64/", "/bin/", "/sbin/", "/boot/", "/run/", "/var/run/", "/dev/", "/proc/", "/sys/")
_SYSTEM_FILES = frozenset(
    f"/etc/{name}" for name in ("localtime", "timezone", "hosts", "passwd", "group", "resolv.conf", "machine-id")
)
# PATH:TARGET, where PATH may hold ${NAME:-default}; a name alone is a volume's.
_SHORT_MOUNT = re.compile(r"((?=[./~$])(?:\$\{[^}]*\}|[^:])+):")


@dataclass(frozen=True, slots=True)
class NamedFile:
    """A path that a compose file names, with the service that gets it."""

    path: str
    use: Use
    service: str
    required: bool = False
    raw: bool = False


@dataclass(frozen=True, slots=True)
class _Layer:
    """A service as one compose file writes it: its own text, or that of one which it extends."""

    name: str
    fields: Mapping[str, Any]
    here: Written


def files_used(written: Sequence[Written]) -> Iterator[NamedFile]:
    """The files that the services use, once for each service."""
    definitions: dict[str, dict[str, str]] = {"configs": {}, "secrets": {}}
    for document in written:
        for kind, files in definitions.items():
            for name, definition in mapping(document.document.get(kind)).items():
                if isinstance(file := mapping(definition).get("file"), str):
                    files[name] = _path(file, document)
    for layer in _layers(written):
        yield from _of_service(layer, definitions)


def env_files(written: Sequence[Written]) -> dict[str, frozenset[str]]:
    """Paths of the env files of each service that has any."""
    named: dict[str, set[str]] = {}
    for file in files_used(written):
        if file.use is Use.ENV_FILE:
            named.setdefault(file.service, set()).add(file.path)
    return {service: frozenset(paths) for service, paths in named.items()}


def env_files_of(written: Sequence[Written], services: Iterable[str]) -> frozenset[str]:
    """Paths of the env files of these services together."""
    by_service = env_files(written)
    return frozenset[str]().union(*(by_service.get(service, frozenset()) for service in services))


def references(written: Sequence[Written]) -> dict[str, dict[str, frozenset[str]]]:
    """Per service and variable of its `environment`: the variables its value is interpolated from."""
    known: dict[str, dict[str, frozenset[str]]] = {}
    for layer in _layers(written):
        for name, value in variables_given(layer.fields.get("environment")):
            names = {name} if value is None else names_in(value)
            service = known.setdefault(layer.name, {})
            service[name] = service.get(name, frozenset()) | names
    return known


def profiles(written: Sequence[Written]) -> dict[str, frozenset[str]]:
    """Per service the profiles that activate it; none for one that is always active."""
    known: dict[str, frozenset[str]] = {}
    for layer in _layers(written):
        own = frozenset(expand(str(name), layer.here.variables) for name in as_list(layer.fields.get("profiles")))
        known[layer.name] = known.get(layer.name, frozenset()) | own
    return known


def scaled_to_zero(written: Sequence[Written]) -> frozenset[str]:
    """The services that are to have no container: the last word on their scale is 0."""
    scales: dict[str, str] = {}
    for here in written:
        for name, service in mapping(here.document.get("services")).items():
            fields = mapping(service)
            scale = fields.get("scale", mapping(fields.get("deploy")).get("replicas"))
            if scale is not None and not here.extended:
                scales[name] = expand(str(scale), here.variables)
    return frozenset(name for name, scale in scales.items() if scale == "0")


def names_in(text: str) -> frozenset[str]:
    """The variables that a text is interpolated with."""
    return frozenset(match[1] or match[2] for match in VARIABLE.finditer(text.replace("$$", " ")))


def variables_given(environment: Any) -> Iterator[tuple[str, str | None]]:
    """Name and value of each entry of an `environment` or `args`, whichever way it is written; None: no value."""
    if isinstance(environment, dict):
        for name, value in environment.items():
            yield str(name), None if value is None else str(value)
        return
    for entry in as_list(environment):
        name, equals, value = str(entry).partition("=")
        yield name, value if equals else None


def mapping(value: Any) -> Mapping[str, Any]:
    """The value with names as keys; empty for anything but a mapping."""
    return {str(name): inside for name, inside in value.items()} if isinstance(value, dict) else {}


def _layers(written: Sequence[Written]) -> Iterator[_Layer]:
    """Every service of the project, then what it extends, and what that extends."""
    for here in written:
        if here.extended:
            continue
        for name, service in mapping(here.document.get("services")).items():
            layer = _Layer(name, mapping(service), here)
            for _ in range(_MOST_EXTENDS):
                yield layer
                extends = layer.fields.get("extends")
                extends = {"service": extends} if isinstance(extends, str) else extends
                if not isinstance(extends, dict):
                    break
                path = _path(str(extends["file"]), layer.here) if extends.get("file") else layer.here.path
                there = next((document for document in written if document.path == path), layer.here)
                base = mapping(mapping(there.document.get("services")).get(str(extends.get("service"))))
                layer = _Layer(name, base, there)


def _of_service(layer: _Layer, definitions: Mapping[str, Mapping[str, str]]) -> Iterator[NamedFile]:
    name, service, here = layer.name, layer.fields, layer.here
    for entry in as_list(service.get("env_file")):
        path = entry.get("path") if isinstance(entry, dict) else entry
        required = not isinstance(entry, dict) or entry.get("required", True) is not False
        raw = isinstance(entry, dict) and entry.get("format") == "raw"
        if isinstance(path, str):
            yield NamedFile(_path(path, here), Use.ENV_FILE, name, required, raw)
    for mount in as_list(service.get("volumes")):
        if source := _bound(mount):
            path = _path(source, here)
            if not path.startswith(_SYSTEM) and path not in _SYSTEM_FILES:
                yield NamedFile(path, Use.MOUNT, name)
    for kind, defined in definitions.items():
        for entry in as_list(service.get(kind)):
            source = str(entry.get("source") if isinstance(entry, dict) else entry)
            if source in defined:
                yield NamedFile(defined[source], Use.MOUNT, name)


def _bound(mount: Any) -> str:
    """What of the machine is mounted: a path, or "" for a named volume."""
    if isinstance(mount, dict):
        source = mount.get("source")
        return source if mount.get("type") == "bind" and isinstance(source, str) else ""
    source = _SHORT_MOUNT.match(str(mount))
    return source[1] if source else ""


def _path(name: str, here: Written) -> str:
    return join(here.base, expand(name, here.variables))


def interpolated(written: Iterable[Written]) -> Iterator[str]:
    """The variables that the project takes from its `.env`: as ${NAME}, or as a name without a value of
    `environment`, of build arguments, of configs and secrets."""
    for here in written:
        for text in _texts(here.document):
            yield from names_in(text)
        for service in mapping(here.document.get("services")).values():
            build = mapping(mapping(service).get("build"))
            for given in (mapping(service).get("environment"), build.get("args")):
                yield from (name for name, value in variables_given(given) if value is None)
        for kind in ("configs", "secrets"):
            for definition in mapping(here.document.get(kind)).values():
                yield str(mapping(definition).get("environment") or "")


def _texts(value: object) -> Iterator[str]:
    """Every text in a document, keys as well."""
    if isinstance(value, dict):
        for name, inside in value.items():
            yield from (*_texts(name), *_texts(inside))
    elif isinstance(value, list):
        for inside in value:
            yield from _texts(inside)
    elif isinstance(value, str):
        yield value
