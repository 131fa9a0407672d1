"""Reads a service of a resolved project into the fields that are compared with what runs. Pure.

What Compose leaves to the image or the engine is taken from the image, or not compared: an engine's own defaults
(its log driver, its limits) are nobody's edit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from reconciler.core.fidelity.fields import (
    Json,
    capability,
    host_entry,
    number,
    security_options,
    several,
    signal,
    single,
)
from reconciler.core.fidelity.running import device_request, health_of, labels_of, mounted, port
from reconciler.core.model.compose import Fields, Service

_DURATION = re.compile(r"([0-9.]+)(h|ms|us|µs|ns|m|s)")
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_SIZE = re.compile(r"([0-9.]+)\s*([kmgtp]?)i?b?", re.IGNORECASE)
_UNITS = {unit: 1024**power for power, unit in enumerate(("", "k", "m", "g", "t", "p"))}
_RESTART = {"none": "no", "any": "always", "": "always"}


def defined_fields(service: Service, project: str, image: Json) -> Fields:
    """Given a service of the ``project`` and the configuration of its image, return the fields that its container has.

    Where the service says nothing and no default is known, the field is left out.
    """
    whole = json.loads(service.definition.reveal())
    own = whole["service"]
    fields: dict[str, Mapping[str, str]] = {
        **_process(own, image),
        **_isolation(own),
        **_resources(own),
        **_network(service.name, own, whole),
        "image": single(own.get("image") or f"{project}-{service.name}"),
        "labels": {**labels_of(image), **{name: str(value) for name, value in (own.get("labels") or {}).items()}},
        "tmpfs": dict(_tmpfs(own.get("tmpfs"))),
        "restart": single(_restart(own)),
    }
    if not own.get("volumes_from"):  # which mounts another container has is not known here
        fields["mounts"] = {**_image_volumes(image), **dict(_mounts(own, whole))}
    if name := own.get("container_name"):
        fields["container_name"] = single(name)
    if logging := own.get("logging"):
        fields |= {"logging": single(logging.get("driver")), "logging options": _strings(logging.get("options"))}
    return {name: field for name, field in fields.items() if field is not None}


def _process(own: Json, image: Json) -> dict[str, Mapping[str, str]]:
    entrypoint = [word for word in own.get("entrypoint") or () if word]
    # An entrypoint of its own takes the image's command away.
    command = own.get("command") or (() if entrypoint else image.get("Cmd"))
    fields: dict[str, Mapping[str, str]] = {
        "command": single(list(command or ())),
        "user": single(own.get("user") or image.get("User")),
        "working_dir": single(own.get("working_dir") or image.get("WorkingDir")),
        "domainname": single(own.get("domainname")),
        "stop_signal": single(signal(own.get("stop_signal") or image.get("StopSignal"))),
        "tty": single(own.get("tty")),
        "stdin_open": single(own.get("stdin_open")),
        "healthcheck": _health(own.get("healthcheck"), image.get("Healthcheck") or {}),
    }
    if entrypoint or own.get("entrypoint") is None:
        fields["entrypoint"] = single(entrypoint or [word for word in image.get("Entrypoint") or () if word])
    if hostname := own.get("hostname"):
        fields["hostname"] = single(hostname)
    if (grace := own.get("stop_grace_period")) is not None:
        fields["stop_grace_period"] = number(int(seconds_of(grace)))
    return fields


def _health(own: Json | None, image: Json) -> dict[str, str]:
    if own and own.get("disable"):
        return health_of({"Test": ["NONE"]})
    inherited = health_of(image)
    if not own:
        return inherited
    times = {name: number(seconds_of(own[name])) for name in ("interval", "timeout", "start_period") if name in own}
    parts = {"test": single(own.get("test")), "retries": number(own.get("retries")), **times}
    return inherited | {name: part[""] for name, part in parts.items() if part}


def _isolation(own: Json) -> dict[str, Mapping[str, str]]:
    fields: dict[str, Mapping[str, str]] = {
        "privileged": single(own.get("privileged")),
        "read_only": single(own.get("read_only")),
        "init": single(own.get("init")),
        "cap_add": several(map(capability, own.get("cap_add") or ())),
        "cap_drop": several(map(capability, own.get("cap_drop") or ())),
        "security_opt": several(security_options(own.get("security_opt") or ())),
        "group_add": several(map(str, own.get("group_add") or ())),
        "pid": single(own.get("pid")),
        "ipc": single(own.get("ipc")),
        "uts": single(own.get("uts")),
        "userns_mode": single(own.get("userns_mode")),
        "device_cgroup_rules": several(own.get("device_cgroup_rules") or ()),
        "devices": dict(map(_device, own.get("devices") or ())),
        "device requests": several(_device_requests(own)),
        "sysctls": _strings(own.get("sysctls")),
        "ulimits": {name: _ulimit(limit) for name, limit in (own.get("ulimits") or {}).items()},
    }
    for name in ("cgroup", "cgroup_parent", "runtime"):
        if own.get(name):
            fields[name] = single(own[name])
    return fields


def _device(device: Any) -> tuple[str, str]:
    if isinstance(device, str):
        source, _, rest = device.partition(":")
        target, _, permissions = rest.partition(":")
        device = {"source": source, "target": target, "permissions": permissions}
    return device.get("target") or device["source"], f"{device['source']} {device.get('permissions') or 'rwm'}"


def _device_requests(own: Json) -> Iterator[str]:
    reserved = ((own.get("deploy") or {}).get("resources") or {}).get("reservations") or {}
    for device in [*(reserved.get("devices") or ()), *(own.get("gpus") or ())]:
        count = device.get("count")
        ids = device.get("device_ids")
        yield device_request(
            {
                "Driver": device.get("driver"),
                "DeviceIDs": ids,
                "Count": -1 if count in (None, "all", 0) and not ids else count,
                "Capabilities": [device.get("capabilities") or ["gpu"]],
            }
        )


def _ulimit(limit: Any) -> str:
    if isinstance(limit, dict):
        single_limit = limit.get("single", 0)
        return f"{limit.get('soft', single_limit)}:{limit.get('hard', single_limit)}"
    return f"{limit}:{limit}"


def _resources(own: Json) -> dict[str, Mapping[str, str]]:
    deployed = (own.get("deploy") or {}).get("resources") or {}
    limits, reserved = deployed.get("limits") or {}, deployed.get("reservations") or {}
    fields: dict[str, Mapping[str, str]] = {
        "memory": number(size_of(limits.get("memory") or own.get("mem_limit"))),
        "memory reservation": number(size_of(reserved.get("memory") or own.get("mem_reservation"))),
        "cpus": number(float(limits.get("cpus") or own.get("cpus") or 0)),
        "cpu shares": number(size_of(own.get("cpu_shares"))),
        "cpu quota": number(size_of(own.get("cpu_quota"))),
        "cpu period": number(size_of(own.get("cpu_period"))),
        "cpuset": single(own.get("cpuset")),
        "pids": number(max(size_of(limits.get("pids") or own.get("pids_limit")), 0)),
        "oom_score_adj": number(size_of(own.get("oom_score_adj"))),
        "oom_kill_disable": single(own.get("oom_kill_disable")),
    }
    # The engine has defaults of its own for these.
    for name, key in (("memory and swap", "memswap_limit"), ("shm_size", "shm_size"), ("swappiness", "mem_swappiness")):
        if own.get(key):
            fields[name] = number(size_of(own[key]))
    return fields


def _network(name: str, own: Json, whole: Json) -> dict[str, Mapping[str, str]]:
    fields: dict[str, Mapping[str, str]] = {
        "ports": several(
            port(entry.get("host_ip"), str(entry.get("published") or ""), f"{entry['target']}/{entry['protocol']}")
            for entry in own.get("ports") or ()
        ),
        "extra_hosts": several(_extra_hosts(own.get("extra_hosts"))),
        "dns": single(own.get("dns")),
        "dns_search": single(own.get("dns_search")),
        "dns_opt": single(own.get("dns_opt")),
    }
    if mode := own.get("network_mode"):
        fields["network_mode"] = single(mode)
        return fields
    used, defined = own.get("networks") or {"default": None}, whole.get("networks") or {}
    names = {key: (defined.get(key) or {}).get("name") or key for key in used}
    fields["networks"] = {names[key]: _addresses(how or {}) for key, how in used.items()}
    fields["aliases"] = several(
        f"{alias} in {names[key]}" for key, how in used.items() for alias in [name, *((how or {}).get("aliases") or ())]
    )
    return fields


def _extra_hosts(hosts: Any) -> Iterator[str]:
    if isinstance(hosts, dict):
        hosts = [f"{name}={address}" for name, given in hosts.items() for address in _as_list(given)]
    yield from map(host_entry, hosts or ())


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _addresses(how: Json) -> str:
    return " ".join(filter(None, [how.get("ipv4_address"), how.get("ipv6_address")]))


def _tmpfs(entries: Any) -> Iterator[tuple[str, str]]:
    for entry in _as_list(entries) if entries else ():
        path, _, options = entry.partition(":")
        yield path, options


def _image_volumes(image: Json) -> dict[str, str]:
    return dict.fromkeys(image.get("Volumes") or (), mounted("volume", None, read_only=False))


def _mounts(own: Json, whole: Json) -> Iterator[tuple[str, str]]:
    volumes = whole.get("volumes") or {}
    for mount in own.get("volumes") or ():
        source, kind = mount.get("source"), mount["type"]
        if kind == "volume" and source:
            source = (volumes.get(source) or {}).get("name") or source
        target = mount["target"].rstrip("/") or "/"
        yield target, mounted(kind, source, read_only=bool(mount.get("read_only")))
    for kind, root in (("configs", "/"), ("secrets", "/run/secrets/")):
        for entry in own.get(kind) or ():
            definition = (whole.get(kind) or {}).get(entry["source"]) or {}
            if path := definition.get("file"):
                target = entry.get("target") or entry["source"]
                target = target if target.startswith("/") else root + target
                yield target, mounted("bind", path, read_only=True)


def _restart(own: Json) -> str:
    policy = (own.get("deploy") or {}).get("restart_policy")
    if policy is not None:
        condition = str(policy.get("condition") or "")
        name, attempts = _RESTART.get(condition, condition), policy.get("max_attempts")
        return "" if name == "no" else f"{name}:{attempts}" if attempts else name
    name = str(own.get("restart") or "no")
    return "" if name == "no" else name


def _strings(values: Any) -> dict[str, str]:
    return {name: str(value) for name, value in (values or {}).items()}


def seconds_of(duration: Any) -> float:
    """Given a duration as Compose writes it ("1m30s"), return seconds; 0 where it is none."""
    return sum(float(amount) * _SECONDS[unit] for amount, unit in _DURATION.findall(str(duration)))


def size_of(size: Any) -> int:
    """Given a size as Compose writes it ("64M"), return bytes, or the plain number; 0 where nothing is said."""
    match = _SIZE.fullmatch(str(size or "").strip())
    if match is None:
        return int(size) if str(size or "").lstrip("-").isdigit() else 0
    return int(float(match[1]) * _UNITS[match[2].lower()])
