"""Reads the engine's inspect of a container into the fields that are compared. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
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
from reconciler.core.model.compose import Fields

COMPOSE_LABELS = "com.docker.compose."
_DESKTOP_LABELS = "desktop.docker.io/"
ANONYMOUS = "anonymous volume"
_ANONYMOUS_NAME = re.compile(r"[0-9a-f]{64}")
HEALTH_TIMES = {"interval": "Interval", "timeout": "Timeout", "start_period": "StartPeriod"}


def running_fields(facts: Json) -> Fields:
    """Given what inspect says of a container, return its fields."""
    config, host = facts["Config"], facts["HostConfig"]
    return {
        **_process(config),
        **_isolation(host),
        **_resources(host),
        **_network(facts),
        "image": single(config.get("Image")),
        "labels": labels_of(config),
        "mounts": dict(_mounts(facts.get("Mounts") or ())),
        "tmpfs": dict(host.get("Tmpfs") or {}),
        "container_name": single(str(facts.get("Name", "")).lstrip("/")),
        "restart": single(_restart(host.get("RestartPolicy") or {})),
        "logging": single((host.get("LogConfig") or {}).get("Type")),
        "logging options": dict((host.get("LogConfig") or {}).get("Config") or {}),
    }


def _process(config: Json) -> dict[str, dict[str, str]]:
    return {
        "command": single(config.get("Cmd")),
        "entrypoint": single(_stripped(config.get("Entrypoint"))),
        "user": single(config.get("User")),
        "working_dir": single(config.get("WorkingDir")),
        "hostname": single(config.get("Hostname")),
        "domainname": single(config.get("Domainname")),
        "stop_signal": single(signal(config.get("StopSignal"))),
        "stop_grace_period": number(config.get("StopTimeout")),
        "tty": single(config.get("Tty")),
        "stdin_open": single(config.get("OpenStdin")),
        "healthcheck": health_of(config.get("Healthcheck") or {}),
    }


def _stripped(words: list[str] | None) -> list[str]:
    return [] if words in (None, [""]) else list(words or ())


def _isolation(host: Json) -> dict[str, dict[str, str]]:
    return {
        "privileged": single(host.get("Privileged")),
        "read_only": single(host.get("ReadonlyRootfs")),
        "init": single(host.get("Init")),
        "cap_add": several(map(capability, host.get("CapAdd") or ())),
        "cap_drop": several(map(capability, host.get("CapDrop") or ())),
        "security_opt": several(security_options(host.get("SecurityOpt") or ())),
        "group_add": several(map(str, host.get("GroupAdd") or ())),
        "pid": single(host.get("PidMode")),
        "ipc": single(host.get("IpcMode")),
        "uts": single(host.get("UTSMode")),
        "userns_mode": single(host.get("UsernsMode")),
        "cgroup": single(host.get("CgroupnsMode")),
        "cgroup_parent": single(host.get("CgroupParent")),
        "runtime": single(host.get("Runtime")),
        "devices": {device["PathInContainer"]: _device(device) for device in host.get("Devices") or ()},
        "device_cgroup_rules": several(host.get("DeviceCgroupRules") or ()),
        "device requests": several(device_request(request) for request in host.get("DeviceRequests") or ()),
        "sysctls": {name: str(value) for name, value in (host.get("Sysctls") or {}).items()},
        "ulimits": {limit["Name"]: f"{limit['Soft']}:{limit['Hard']}" for limit in host.get("Ulimits") or ()},
    }


def _device(device: Json) -> str:
    return f"{device['PathOnHost']} {device.get('CgroupPermissions') or 'rwm'}"


def device_request(request: Json) -> str:
    """A GPU, say. Compose, like docker, asks for all (-1) where nobody says how many."""
    capabilities = ",".join(sorted(name for names in request.get("Capabilities") or () for name in names))
    ids = ",".join(request.get("DeviceIDs") or ())
    return f"{request.get('Driver') or ''} {ids or request.get('Count') or 0} {capabilities}".strip()


def _resources(host: Json) -> dict[str, dict[str, str]]:
    return {
        "memory": number(host.get("Memory")),
        "memory reservation": number(host.get("MemoryReservation")),
        "memory and swap": number(host.get("MemorySwap")),
        "swappiness": number(host.get("MemorySwappiness")),
        "cpus": number((host.get("NanoCpus") or 0) / 1e9),
        "cpu shares": number(host.get("CpuShares")),
        "cpu quota": number(host.get("CpuQuota")),
        "cpu period": number(host.get("CpuPeriod")),
        "cpuset": single(host.get("CpusetCpus")),
        "pids": number(max(host.get("PidsLimit") or 0, 0)),
        "shm_size": number(host.get("ShmSize")),
        "oom_score_adj": number(host.get("OomScoreAdj")),
        "oom_kill_disable": single(host.get("OomKillDisable")),
    }


def _network(facts: Json) -> dict[str, dict[str, str]]:
    host, networks = facts["HostConfig"], (facts.get("NetworkSettings") or {}).get("Networks") or {}
    return {
        "ports": several(_ports(host.get("PortBindings") or {})),
        "network_mode": single(host.get("NetworkMode")),
        "networks": {name: _addresses((facts or {}).get("IPAMConfig") or {}) for name, facts in networks.items()},
        "aliases": several(
            f"{alias} in {name}" for name, facts in networks.items() for alias in facts.get("Aliases") or ()
        ),
        "extra_hosts": several(map(host_entry, host.get("ExtraHosts") or ())),
        "dns": single(host.get("Dns")),
        "dns_search": single(host.get("DnsSearch")),
        "dns_opt": single(host.get("DnsOptions")),
    }


def _addresses(ipam: Json) -> str:
    return " ".join(filter(None, [ipam.get("IPv4Address"), ipam.get("IPv6Address")]))


def _ports(bindings: Json) -> Iterator[str]:
    for inside, outside in bindings.items():
        for binding in outside or [{}]:
            yield port(binding.get("HostIp"), binding.get("HostPort"), inside)


def port(address: str | None, published: str | None, inside: str) -> str:
    """ADDRESS:PUBLISHED->PORT/PROTOCOL; what is not said is left out, and port 0 is any free one."""
    outside = "" if published in (None, "0") else published
    return (
        f"{f'[{address}]' if ':' in (address or '') else address}:{outside}->{inside}"
        if address
        else (f"{outside}->{inside}")
    )


def _mounts(mounts: Any) -> Iterator[tuple[str, str]]:
    for mount in mounts:
        source = mount.get("Name") if mount["Type"] == "volume" else mount.get("Source")
        yield mount["Destination"], mounted(mount["Type"], source, read_only=not mount.get("RW", True))


def mounted(kind: str, source: str | None, *, read_only: bool) -> str:
    """What is mounted, in words. A volume without a name of its own is like any other such."""
    if kind == "volume" and (not source or _ANONYMOUS_NAME.fullmatch(source)):
        return ANONYMOUS
    if kind == "bind" and source:
        source = source.rstrip("/") or "/"  # engines differ in whether they keep it
    return f"{kind} {source or ''}".strip() + (" read-only" if read_only and kind != "tmpfs" else "")


def _restart(policy: Json) -> str:
    name = policy.get("Name") or "no"
    attempts = policy.get("MaximumRetryCount") or 0
    return f"{name}:{attempts}" if attempts else ("" if name == "no" else name)


def labels_of(config: Json) -> dict[str, str]:
    """Those that Compose, or Docker Desktop, has not put there by itself."""
    labels = config.get("Labels") or {}
    return {
        name: str(value) for name, value in labels.items() if not name.startswith((COMPOSE_LABELS, _DESKTOP_LABELS))
    }


def health_of(check: Json) -> dict[str, str]:
    """A health check, its times in seconds."""
    parts = {"test": single(check.get("Test")), "retries": number(check.get("Retries"))}
    parts |= {name: number((check.get(key) or 0) / 1e9) for name, key in HEALTH_TIMES.items()}
    return {name: part[""] for name, part in parts.items() if part}
