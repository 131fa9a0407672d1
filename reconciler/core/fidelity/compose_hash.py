"""Computes the hash by which Compose knows whether a container was made from a service's definition. Pure.

Compose hashes the service as Go prints it: the order of `docker compose config`, no spaces, no build, no scale.
Two definitions of one hash are the same; two of different hashes may still be, where two versions of Compose made them.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping
from typing import Any

from reconciler.core.model.compose import Project
from reconciler.core.secret import Secret

HASH_LABEL = "com.docker.compose.config-hash"

_NOT_HASHED = frozenset({"build", "pull_policy", "scale"})
# What versions of Compose treat differently.
_HASHED_BY_SOME = ("depends_on", "profiles")
# Go escapes these in every JSON text.
_ESCAPES = str.maketrans({character: f"\\u{ord(character):04x}" for character in "&<>\u2028\u2029"})

# Compose reads JSON as YAML, to which these end a line, or are no text.
_YAML_BREAKS = {code: f"\\u{code:04x}" for code in (*range(0x7F, 0xA0), 0x2028, 0x2029, 0xFEFF)}


def compose_hashes(text: Secret, environment: Mapping[str, str | None] | None = None) -> frozenset[str]:
    """Given a service in JSON as Compose prints it, return the hashes that versions of Compose give it.

    ``environment`` replaces the service's own.
    """
    service = {name: value for name, value in json.loads(text.reveal()).items() if name not in _NOT_HASHED}
    if deploy := service.get("deploy"):
        service["deploy"] = {name: value for name, value in deploy.items() if name != "replicas"}
    if environment is not None and "environment" in service:
        service["environment"] = dict(sorted(environment.items()))
        if not environment:
            del service["environment"]
    optional = [name for name in _HASHED_BY_SOME if name in service]
    dropped = [names for count in range(len(optional) + 1) for names in itertools.combinations(optional, count)]
    return frozenset(_hash({key: service[key] for key in service if key not in names}) for names in dropped)


def resolved_model(project: Project) -> Secret:
    """Given a project, return it as a compose file that Compose can be asked about: it hashes that as what it makes
    containers from."""
    model: dict[str, Any] = {"name": project.name, "services": {}}
    for name, service in project.services.items():
        model["services"][name] = json.loads(service.text.reveal())
        for kind, definitions in json.loads(service.definition.reveal()).items():
            if kind != "service":
                model.setdefault(kind, {}).update(definitions)
    for kind in ("configs", "secrets"):
        for definition in model.get(kind, {}).values():
            definition.pop("value", None)  # added where it names a variable
    text = json.dumps(model, ensure_ascii=False).replace("$", "$$")  # or Compose would interpolate it
    text = text.translate(_YAML_BREAKS)
    return Secret(text.encode("utf-8", "surrogatepass"))


def _hash(service: Mapping[str, Any]) -> str:
    text = json.dumps(service, ensure_ascii=False, separators=(",", ":")).translate(_ESCAPES)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
