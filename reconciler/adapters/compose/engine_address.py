"""Which Docker engine is used from here: the one that the docker command would use, found once for both.

The docker command looks at its settings whenever it runs, and the client of the API finds contexts only in ~/.docker:
with DOCKER_CONFIG, or after `docker context use`, the one would plan for the engine that the other does not touch.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reconciler.core.errors import EngineUnavailableError

_ID = "missing-context"
DEFAULT_URL = "unix:///var/run/docker.sock"


@dataclass(frozen=True, slots=True)
class EngineAddress:
    """``url`` as in DOCKER_HOST, or None for a ``context`` with TLS, which the client reads itself; ``name`` for
    messages, "" for the default; ``source`` is where it comes from, in words; ``chosen`` the name of the context."""

    url: str | None = None
    context: str | None = None
    name: str = ""
    source: str = "the default"
    chosen: str = "default"


def config_path(environment: Mapping[str, str]) -> str:
    """The docker command's config.json, by its environment."""
    return os.path.join(environment.get("DOCKER_CONFIG") or _usual_directory(environment), "config.json")


def _usual_directory(environment: Mapping[str, str]) -> str:
    return os.path.join(environment.get("HOME") or os.path.expanduser("~"), ".docker")


def find_engine(environment: Mapping[str, str]) -> EngineAddress:
    """What DOCKER_HOST, DOCKER_CONTEXT and the configuration of the docker command say, in its order.

    Raises EngineUnavailableError for a context that does not exist or cannot be used.
    """
    if url := environment.get("DOCKER_HOST"):
        return EngineAddress(url, None, url, "DOCKER_HOST")
    settings = config_path(environment)
    name, source = environment.get("DOCKER_CONTEXT"), "DOCKER_CONTEXT"
    if not name:
        name, source = _read(settings).get("currentContext"), settings
    if not name or name == "default":
        return EngineAddress(DEFAULT_URL)
    return _of_context(str(name), os.path.dirname(settings), _usual_directory(environment), source)


def _of_context(name: str, directory: str, usual: str, source: str) -> EngineAddress:
    identity = hashlib.sha256(name.encode()).hexdigest()
    meta = os.path.join(directory, "contexts", "meta", identity, "meta.json")
    url = ""
    with contextlib.suppress(KeyError, TypeError):
        url = str(_read(meta)["Endpoints"]["docker"]["Host"])
    if not url:
        hint = f"`docker context ls` lists what there is; {source} names this one"
        raise EngineUnavailableError(f"there is no Docker context {name}", where=meta, hint=hint, id=_ID)
    described = f"the context {name}, by {source}"
    if not os.path.isdir(tls := os.path.join(directory, "contexts", "tls", identity)):
        return EngineAddress(url, None, url, described, name)
    if os.path.realpath(directory) != os.path.realpath(usual):
        hint = f"Move it to {usual}, or set DOCKER_HOST, DOCKER_TLS_VERIFY and DOCKER_CERT_PATH"
        problem = "a Docker context with certificates must be in ~/.docker"
        raise EngineUnavailableError(problem, where=tls, hint=hint, id=_ID)
    return EngineAddress(None, name, url, described, name)


def _read(path: str) -> dict[str, Any]:
    """The JSON object in the file; an empty one where there is none."""
    with contextlib.suppress(OSError, ValueError), open(path, encoding="utf-8") as file:
        data = json.load(file)
        return data if isinstance(data, dict) else {}
    return {}
