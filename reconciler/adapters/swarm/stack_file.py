"""Turns services of a resolved project into what `docker stack deploy -c -` accepts. Pure; its input holds secrets.

That command has a loader of its own, older than Compose's: it wants a version, numbers where Compose writes texts and
the other way round, and refuses fields that it does not know.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from reconciler.core.fidelity.swarm_spec import own_definition
from reconciler.core.model.compose import Service

Json = dict[str, Any]

# What the loader knows of a service. It says itself which of them Swarm ignores.
_FIELDS = frozenset(
    {
        *("cap_add", "cap_drop", "cgroup_parent", "command", "configs", "container_name", "credential_spec", "deploy"),
        *("devices", "dns", "dns_search", "domainname", "entrypoint", "environment", "expose", "external_links"),
        *("extra_hosts", "group_add", "healthcheck", "hostname", "image", "init", "ipc", "isolation", "labels"),
        *("links", "logging", "mac_address", "network_mode", "networks", "oom_score_adj", "pid", "ports"),
        *("privileged", "read_only", "restart", "secrets", "security_opt", "shm_size", "stdin_open"),
        *("stop_grace_period", "stop_signal", "sysctls", "tmpfs", "tty", "ulimits", "user", "userns_mode"),
        *("volumes", "working_dir"),
    }
)
# What says how a service is started by Compose, and nothing about its container.
_OF_COMPOSE = frozenset({"attach", "scale", "restart_policy"})
_MOUNT = ("type", "source", "target", "read_only", "consistency")
_REFERENCE = ("source", "target", "uid", "gid", "mode")
_NETWORK = ("name", "driver", "driver_opts", "external", "internal", "attachable", "labels")
_VOLUME = ("name", "driver", "driver_opts", "external", "labels")
# The oldest version of the format that has the field: older clients know no newer version.
_VERSIONS = (("oom_score_adj", 13), ("start_interval", 12), ("driver_opts", 13), ("pids", 9))
_BASE = 8
_NOT_ASCII = re.compile(r"[^ -~]")
_NO_TEXT = re.compile("[\ud800-\udfff]")
_REPLACED = "\ufffd"  # what Compose writes for a byte that is not UTF-8


def unknown_fields(service: Service) -> list[str]:
    """The fields of the service that `docker stack deploy` refuses, sorted."""
    own = own_definition(service)
    given = {name for name, value in own.items() if value not in (None, [], {}, "")}
    return sorted(name for name in given - _FIELDS - _OF_COMPOSE if not name.startswith("x-"))


def keys_without_text(service: Service) -> list[str]:
    """The variables, else fields, of the service whose value is not UTF-8, sorted: the Swarm would get another one."""
    own = own_definition(service)
    environment = own.pop("environment", None) or {}
    damaged = {name for name, value in environment.items() if _REPLACED in str(value)}
    parts = (*environment.items(), *own.items())
    return sorted(damaged | {name for name, value in parts if any(map(_NO_TEXT.search, (name, *_texts(value))))})


def _texts(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from value
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from _texts(inner)


def stack_file(
    services: Iterable[Service],
    labels: Mapping[str, Mapping[str, str]],
    scale: Mapping[str, int] | None = None,
    images: Mapping[str, str] | None = None,
) -> bytes:
    """Given services, return the file that deploys these and what they refer to, as JSON.

    ``labels`` are by service those to put on it beside its own; ``scale`` is the number of tasks, and ``images`` the
    image, where that is not the project's. Configs and secrets with content are those of the Swarm that have the name:
    they must be there.
    """
    document: Json = {"services": {}}
    for service in services:
        whole = json.loads(service.definition.reveal())
        fields = _service(whole["service"])
        deploy = fields.setdefault("deploy", {})
        deploy["labels"] = {**(deploy.get("labels") or {}), **labels.get(service.name, {})}
        if scale and service.name in scale:
            deploy["replicas"] = scale[service.name]
        if images and service.name in images:
            fields["image"] = images[service.name]
        document["services"][service.name] = fields
        for kind, convert in _KINDS.items():
            for name, definition in (whole.get(kind) or {}).items():
                document.setdefault(kind, {})[name] = convert(definition or {})
    document["version"] = f"3.{_version(document)}"
    text = json.dumps(_escaped(document), ensure_ascii=False, separators=(",", ":"))
    return _NOT_ASCII.sub(_yaml_escape, text).encode()


def _yaml_escape(character: re.Match[str]) -> str:
    """The loader reads YAML: it knows no surrogate pairs, by which JSON writes characters beyond U+FFFF."""
    code = ord(character[0])
    return f"\\U{code:08x}" if code > 0xFFFF else f"\\u{code:04x}"


def _version(document: Json) -> int:
    used = set(_keys(document["services"]))
    return max([_BASE, *(version for name, version in _VERSIONS if name in used)])


def _keys(value: Any) -> Iterable[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            if key not in ("environment", "labels", "sysctls"):
                yield from _keys(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _keys(inner)


def _escaped(value: Any) -> Any:
    """The loader interpolates every value once more."""
    if isinstance(value, str):
        return value.replace("$", "$$")
    if isinstance(value, list):
        return [_escaped(item) for item in value]
    if isinstance(value, dict):
        return {key: _escaped(item) for key, item in value.items()}
    return value


def _service(own: Json) -> Json:
    fields = {name: value for name, value in own.items() if name in _FIELDS and value is not None}
    for name, convert in _CONVERTERS.items():
        if name in fields:
            fields[name] = convert(fields[name])
    if "scale" in own and "replicas" not in (own.get("deploy") or {}):
        fields.setdefault("deploy", {})["replicas"] = int(own["scale"])
    return fields


def _environment(values: Mapping[str, str | None]) -> Json:
    """Without variables that have no value: the command would take those of its own environment."""
    return {name: value for name, value in values.items() if value is not None}


def _ports(ports: Iterable[Any]) -> list[Any]:
    return [_port(port) if isinstance(port, dict) else port for port in ports]


def _port(port: Json) -> Json:
    fields: Json = {name: port[name] for name in ("mode", "target", "protocol") if name in port}
    published = str(port.get("published") or "")
    if published:
        fields["published"] = int(published) if published.isdecimal() else published
    return fields


def _mounts(mounts: Iterable[Any]) -> list[Any]:
    return [_mount(mount) if isinstance(mount, dict) else mount for mount in mounts]


def _mount(mount: Json) -> Json:
    fields = {name: mount[name] for name in _MOUNT if name in mount}
    for kind, names in (("bind", ("propagation",)), ("volume", ("nocopy",)), ("tmpfs", ("size",))):
        options = {name: (mount.get(kind) or {}).get(name) for name in names}
        if given := {name: value for name, value in options.items() if value is not None}:
            fields[kind] = {name: int(value) if name == "size" else value for name, value in given.items()}
    return fields


def _references(entries: Iterable[Any]) -> list[Any]:
    references = []
    for entry in entries:
        fields = {name: entry[name] for name in _REFERENCE if name in entry} if isinstance(entry, dict) else entry
        if isinstance(fields, dict) and isinstance(fields.get("mode"), str):
            fields["mode"] = int(fields["mode"], 8)
        references.append(fields)
    return references


def _networks(networks: Any) -> Any:
    if not isinstance(networks, dict):
        return networks
    names = ("aliases", "driver_opts", "ipv4_address", "ipv6_address")
    return {
        name: {field: how[field] for field in names if field in how} if how else None for name, how in networks.items()
    }


def _hosts(hosts: Any) -> list[str]:
    if isinstance(hosts, dict):
        pairs = [(name, given if isinstance(given, list) else [given]) for name, given in hosts.items()]
        return [f"{name}:{address}" for name, addresses in pairs for address in addresses]
    return [entry.replace("=", ":", 1) for entry in hosts]


def _deploy(deploy: Json) -> Json:
    fields = {name: value for name, value in deploy.items() if value is not None}
    resources = fields.get("resources")
    if resources:
        fields["resources"] = {name: _amounts(amounts or {}) for name, amounts in resources.items()}
    return fields


def _amounts(amounts: Json) -> Json:
    texts = {name: str(amounts[name]) for name in ("cpus", "memory") if amounts.get(name) is not None}
    return {**amounts, **texts}


def _content(definition: Json) -> Json:
    """A config or secret that is in the Swarm already, by its name there."""
    return {"name": definition["name"], "external": True}


def _network(definition: Json) -> Json:
    fields = {name: definition[name] for name in _NETWORK if name in definition}
    ipam = definition.get("ipam") or {}
    subnets = [{"subnet": entry["subnet"]} for entry in ipam.get("config") or () if entry.get("subnet")]
    kept = {"driver": ipam.get("driver"), "config": subnets}
    if any(kept.values()):
        fields["ipam"] = {name: value for name, value in kept.items() if value}
    return fields


def _volume(definition: Json) -> Json:
    return {name: definition[name] for name in _VOLUME if name in definition}


_CONVERTERS: Mapping[str, Callable[[Any], Any]] = {
    "environment": _environment,
    "ports": _ports,
    "volumes": _mounts,
    "configs": _references,
    "secrets": _references,
    "networks": _networks,
    "extra_hosts": _hosts,
    "deploy": _deploy,
}
_KINDS: Mapping[str, Callable[[Json], Json]] = {
    "configs": _content,
    "secrets": _content,
    "networks": _network,
    "volumes": _volume,
}
