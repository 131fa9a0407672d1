"""Computes the hash by which Compose tells whether a container was made from a service's definition. Pure.

Compose hashes the service as Go prints it: the order of `docker compose config`, no spaces, no build, no scale.
Two definitions of one hash are the same; two of different hashes may still be, where two versions of Compose made them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from reconciler.core.secret import Secret

HASH_LABEL = "com.docker.compose.config-hash"

_NOT_HASHED = frozenset({"build", "pull_policy", "scale", "profiles"})
# Go escapes these in every JSON text.
_ESCAPES = str.maketrans({character: f"\\u{ord(character):04x}" for character in "&<>\u2028\u2029"})


def compose_hashes(text: Secret, environment: Mapping[str, str | None] | None = None) -> frozenset[str]:
    """Given a service in JSON as Compose prints it, return the hashes that versions of Compose give it.

    ``environment`` replaces the service's own. Compose 2.26 hashes what the service depends on, later ones do not.
    """
    service = {name: value for name, value in json.loads(text.reveal()).items() if name not in _NOT_HASHED}
    if deploy := service.get("deploy"):
        service["deploy"] = {name: value for name, value in deploy.items() if name != "replicas"}
    if environment is not None and "environment" in service:
        service["environment"] = dict(sorted(environment.items()))
    later = {name: value for name, value in service.items() if name != "depends_on"}
    return frozenset({_hash(service), _hash(later)})


def _hash(service: Mapping[str, Any]) -> str:
    text = json.dumps(service, ensure_ascii=False, separators=(",", ":")).translate(_ESCAPES)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
