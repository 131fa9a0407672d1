"""Reads the output of `docker compose config --format json` into core types. Its input holds every secret."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from reconciler.core.model.compose import Project, Service
from reconciler.core.secret import Secret

# Fields that say how a service is built, ordered or chosen, not what its container is.
_SHAPELESS = frozenset({"build", "depends_on", "develop", "profiles", "pull_policy"})
_NAMESPACE_FIELDS = ("network_mode", "ipc", "pid")
_REFERENCES = ("configs", "secrets", "networks", "volumes")

Model = dict[str, Any]


def read(output: bytes, staged_root: str = "") -> Model:
    """Given what Compose printed, return it as data; `staged_root` is a prefix that no real path has.

    Raises ValueError where it is no JSON object.
    """
    # Compose doubles every "$" of its output, in keys, values and paths alike.
    model = json.loads(output.replace(b"$$", b"$"))
    if not isinstance(model, dict):
        raise ValueError("not an object")  # noqa: TRY004  # for the caller it is one more kind of bad output
    return {key: _replaced(value, staged_root) for key, value in model.items()} if staged_root else model


def _replaced(value: Any, prefix: str) -> Any:
    if isinstance(value, str):
        return value.replace(f"{prefix}/", "/").replace(prefix, "/")
    if isinstance(value, list):
        return [_replaced(item, prefix) for item in value]
    if isinstance(value, dict):
        return {_replaced(key, prefix): _replaced(item, prefix) for key, item in value.items()}
    return value


def names_variables(model: Model) -> bool:
    """Whether a config or secret takes its content from a variable, whose value the output leaves out."""
    return any("environment" in definition for definition in _contents(model))


def add_variables(model: Model, value_of: Callable[[str], str | None]) -> None:
    """Put beside each config and secret that names a variable that variable's value, so that a change of it shows."""
    for definition in _contents(model):
        if "environment" in definition:
            definition["value"] = value_of(definition["environment"])


def _contents(model: Model) -> Iterator[Model]:
    for kind in ("configs", "secrets"):
        yield from (definition for definition in (model.get(kind) or {}).values() if definition)


def project(model: Model) -> Project:
    """Given the whole model, return the project."""
    services = model.get("services") or {}
    return Project(str(model["name"]), {name: _service(name, fields, model) for name, fields in services.items()})


def _service(name: str, fields: Model, model: Model) -> Service:
    references = {kind: _referenced(fields.get(kind), model.get(kind) or {}) for kind in _REFERENCES}
    shape = {key: value for key, value in fields.items() if key not in _SHAPELESS}
    definition = json.dumps({"service": shape, **references}, sort_keys=True, separators=(",", ":"))
    return Service(
        name=name,
        definition=Secret(definition.encode()),
        environment=dict(fields.get("environment") or {}),
        sources=frozenset(_sources(fields, references)),
        namespace_of=frozenset(_namespace_owners(fields)),
        volumes_of=frozenset(_volume_owners(fields)),
        restarts_with=frozenset(
            name for name, how in (fields.get("depends_on") or {}).items() if how and how.get("restart")
        ),
        depends_on={
            name: str((how or {}).get("condition") or "") for name, how in (fields.get("depends_on") or {}).items()
        },
        replicas=_replicas(fields),
        text=Secret(json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")),
    )


def _referenced(used: Any, defined: Mapping[str, Any]) -> Model:
    """The top-level definitions that a service's list (of items with a source) or mapping (by name) refers to."""
    names = used if isinstance(used, dict) else [item.get("source") for item in used or ()]
    return {name: defined[name] for name in names if name in defined}


def _sources(fields: Model, references: Mapping[str, Model]) -> Iterator[str]:
    """Host paths that are mounted; where a link leads elsewhere, that place too."""
    for path in _mounted(fields, references):
        yield os.path.normpath(path)
        yield os.path.realpath(path)


def _mounted(fields: Model, references: Mapping[str, Model]) -> Iterator[str]:
    for mount in fields.get("volumes") or ():
        if mount.get("type") == "bind":
            yield mount["source"]
    for kind in ("configs", "secrets"):
        for definition in references[kind].values():
            if definition and definition.get("file"):
                yield definition["file"]
    for definition in references["volumes"].values():
        options = (definition or {}).get("driver_opts") or {}
        if "bind" in str(options.get("o", "")).split(",") and options.get("device"):
            yield options["device"]


def _namespace_owners(fields: Model) -> Iterator[str]:
    for field in _NAMESPACE_FIELDS:
        kind, _, owner = str(fields.get(field) or "").partition(":")
        if kind == "service":
            yield owner


def _volume_owners(fields: Model) -> Iterator[str]:
    for entry in fields.get("volumes_from") or ():
        owner, *_ = entry.split(":")
        if owner != "container":
            yield owner


def _replicas(fields: Model) -> int:
    deploy = fields.get("deploy") or {}
    for count in (fields.get("scale"), deploy.get("replicas")):
        if count is not None:
            return int(count)
    return 1
