"""One spelling for what Compose files can say in several ways: order, short forms, names, and defaults. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from reconciler.core.fidelity.fields import capability, security_options, signal

_UNORDERED = ("expose", "tmpfs", "profiles", "group_add", "links", "device_cgroup_rules", "aliases", "tags")
_DEFAULTS = {"restart": "no", "stop_grace_period": "10s", "init": False, "scale": 1}
_DEPLOY_DEFAULTS = {"replicas": 1}
_NO_CHECK = ["NONE"]
_REGISTRY = re.compile(r"^(?:(?:index\.)?docker\.io/)?(?:library/)?")
# Fields of `deploy`, and what says the same outside it.
_SYNONYMS = {
    "deploy.replicas": "scale",
    "deploy.resources.limits.memory": "mem_limit",
    "deploy.resources.limits.cpus": "cpus",
    "deploy.resources.limits.pids": "pids_limit",
    "deploy.resources.reservations.memory": "mem_reservation",
    "deploy.restart_policy.condition": "restart",
}
_CONDITIONS = {"any": "always", "none": "no"}


def in_one_spelling(service: Mapping[str, Any]) -> dict[str, Any]:
    """Given a service as `docker compose config` prints it, return it with every field in the same spelling."""
    fields = {name: _field(name, value) for name, value in service.items()}
    for name in ("secrets", "configs"):
        if entries := fields.get(name):
            fields[name] = [_with_target(entry, "/run/secrets" if name == "secrets" else "") for entry in entries]
    if deploy := fields.get("deploy"):
        fields["deploy"] = _without(deploy, _DEPLOY_DEFAULTS)
        if policy := deploy.get("restart_policy"):
            condition = policy.get("condition")
            fields["deploy"]["restart_policy"] = {**policy, "condition": _CONDITIONS.get(condition, condition)}
    return _without(fields, _DEFAULTS)


def _without(fields: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in defaults or value != defaults[name]}


def _field(name: str, value: Any) -> Any:
    if value in (None, [], {}, ""):
        return value
    match name:
        case "image":
            return whole_reference(value)
        case "cap_add" | "cap_drop":
            return sorted(map(capability, value))
        case "security_opt":
            return sorted(security_options(value))
        case "links":
            return sorted(link if ":" in link else f"{link}:{link}" for link in value)
        case "stop_signal":
            return signal(value)
        case "ulimits":
            return {limit: _ulimit(given) for limit, given in value.items()}
        case "networks":
            return {network: _unordered(options) for network, options in value.items()}
        case "build":
            return _unordered(value)
        case "healthcheck" if value.get("test") == _NO_CHECK:
            return {"disable": True}
        case _ if name in _UNORDERED and isinstance(value, list):
            return sorted(value)
        case _:
            return value


def _unordered(options: Any) -> Any:
    if not isinstance(options, Mapping):
        return options
    return {name: sorted(value) if name in _UNORDERED and value else value for name, value in options.items()}


def _ulimit(limit: Any) -> str:
    """SOFT:HARD, as the engine says it."""
    return f"{limit['soft']}:{limit['hard']}" if isinstance(limit, Mapping) else f"{limit}:{limit}"


def _with_target(entry: Any, directory: str) -> Any:
    target = entry.get("target") or entry["source"]
    return {**entry, "target": target if target.startswith("/") else f"{directory}/{target}"}


def whole_reference(image: str) -> str:
    """The image's name with its tag, without the registry and the library that Docker assumes."""
    name = _REGISTRY.sub("", image)
    return name if ":" in name.rpartition("/")[2] or "@" in name else f"{name}:latest"


def in_common_names(left: Mapping[str, str], right: Mapping[str, str]) -> Mapping[str, str]:
    """Given the fields of two sides by name, return the right side's, called as the left side calls them."""
    renamed = dict(right)
    for deployed, plain in _SYNONYMS.items():
        for ours, theirs in ((deployed, plain), (plain, deployed)):
            if ours in left and theirs not in left and theirs in renamed and ours not in renamed:
                renamed[ours] = renamed.pop(theirs)
    return renamed
