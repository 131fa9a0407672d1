"""Makes of a service of a project the ServiceSpec that `docker stack deploy` gives to the manager. Pure.

After docker/cli, cli/compose/convert. What that ignores (`tmpfs`, `devices`, `privileged` …) is ignored here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from reconciler.core.fidelity.definition import seconds_of, size_of
from reconciler.core.fidelity.fields import Json, capability
from reconciler.core.model.compose import Service

_NANO = 1_000_000_000
_ALL = "ALL"
_CONDITIONS = {"always": "any", "unless-stopped": "any", "on-failure": "on-failure"}
# Without effect in a Swarm, by docker/cli's own list; what else it ignores would change what is reachable or allowed.
_IGNORED = (
    *("cgroup_parent", "container_name", "domainname", "external_links", "ipc", "links", "mac_address"),
    *("network_mode", "pid", "security_opt", "shm_size", "tmpfs", "userns_mode"),
)
_ALL_ADDRESSES = ("", "0.0.0.0", "::")  # noqa: S104  # compared only


def ignored_fields(service: Service) -> list[str]:
    """The fields of the service that have no effect in a Swarm, and harm nobody, sorted."""
    own = own_definition(service)
    fields = {name for name in _IGNORED if own.get(name)}
    modes = ((mount.get("tmpfs") or {}).get("mode") for mount in _mappings(own.get("volumes")))
    return sorted(fields | ({"volumes.tmpfs.mode"} if any(mode is not None for mode in modes) else set()))


def widening_fields(service: Service) -> list[str]:
    """The fields of the service that a Swarm drops although they say what is reachable or allowed, sorted."""
    own = own_definition(service)
    dropped = {name for name in ("devices", "privileged") if own.get(name)}
    if any((port.get("host_ip") or "") not in _ALL_ADDRESSES for port in _mappings(own.get("ports"))):
        dropped.add("ports.host_ip")
    if any((mount.get("volume") or {}).get("subpath") for mount in _mappings(own.get("volumes"))):
        dropped.add("volumes.volume.subpath")
    return sorted(dropped)


def own_definition(service: Service) -> dict[str, Any]:
    """A copy of the service's own part of its definition; the rest is what it refers to."""
    own: dict[str, Any] = json.loads(service.definition.reveal())["service"]
    return own


def _mappings(entries: Any) -> list[Json]:
    return [entry for entry in entries or () if isinstance(entry, dict)]


def expected_spec(stack: str, service: Service) -> dict[str, Any]:
    """Given a service of the project ``stack``, return its ServiceSpec. Networks are named in it, where the manager has
    their ids."""
    model, name = json.loads(service.definition.reveal()), service.name
    own = model["service"]
    deploy = own.get("deploy") or {}
    replicas = deploy.get("replicas")
    return {
        "Name": f"{stack}_{name}",
        "Labels": {**_strings(deploy.get("labels")), "com.docker.stack.image": str(own.get("image"))},
        "TaskTemplate": {
            "ContainerSpec": _container(stack, own, model),
            "LogDriver": _logging(own.get("logging")),
            "Resources": _resources(deploy.get("resources") or {}),
            "RestartPolicy": _restart(own.get("restart"), deploy.get("restart_policy")),
            "Placement": _placement(deploy.get("placement") or {}),
            "Networks": list(_networks(stack, name, own, model)),
        },
        "Mode": _mode(deploy.get("mode") or "replicated", own.get("scale") if replicas is None else replicas),
        "UpdateConfig": _update(deploy.get("update_config")),
        "RollbackConfig": _update(deploy.get("rollback_config")),
        "EndpointSpec": {
            "Mode": deploy.get("endpoint_mode"),
            "Ports": [_port(port) for port in own.get("ports") or ()],
        },
    }


def _container(stack: str, own: Json, model: Json) -> dict[str, Any]:
    adds, drops = _capabilities(own)
    grace = own.get("stop_grace_period")
    return {
        "Image": own.get("image"),
        "Labels": _strings(own.get("labels")),
        "Command": own.get("entrypoint"),
        "Args": own.get("command"),
        "Hostname": own.get("hostname"),
        "Env": [key if value is None else f"{key}={value}" for key, value in (own.get("environment") or {}).items()],
        "Dir": own.get("working_dir"),
        "User": own.get("user"),
        "Init": own.get("init"),
        "StopSignal": own.get("stop_signal"),
        "TTY": own.get("tty"),
        "OpenStdin": own.get("stdin_open"),
        "ReadOnly": own.get("read_only"),
        "Mounts": [_mount(stack, mount, model) for mount in own.get("volumes") or ()],
        "StopGracePeriod": None if grace is None else _nanoseconds(grace),
        "Healthcheck": _health(own.get("healthcheck")),
        "Hosts": list(_hosts(own.get("extra_hosts"))),
        "DNSConfig": {"Nameservers": _listed(own.get("dns")), "Search": _listed(own.get("dns_search"))},
        "Secrets": [_object("Secret", stack, entry, model) for entry in own.get("secrets") or ()],
        "Configs": [_object("Config", stack, entry, model) for entry in own.get("configs") or ()],
        "Isolation": own.get("isolation"),
        "Sysctls": _strings(own.get("sysctls")),
        "CapabilityAdd": sorted(adds),
        "CapabilityDrop": sorted(drops),
        "Ulimits": [_ulimit(name, limit) for name, limit in (own.get("ulimits") or {}).items()],
        "OomScoreAdj": own.get("oom_score_adj"),
    }


def _capabilities(own: Json) -> tuple[set[str], set[str]]:
    """What is added and dropped in effect: all is all, and to add wins."""
    adds, drops = (set(map(capability, own.get(name) or ())) for name in ("cap_add", "cap_drop"))
    adds = {_ALL} if _ALL in adds else adds
    drops = {_ALL} if _ALL in drops else drops
    return adds, drops - adds


def _strings(values: Any) -> dict[str, str]:
    return {name: "" if value is None else str(value) for name, value in (values or {}).items()}


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value] if value else []


def _nanoseconds(duration: Any) -> int:
    return round(seconds_of(duration) * _NANO)


def _hosts(hosts: Any) -> Iterator[str]:
    """ "ADDRESS NAME", from a list of NAME=ADDRESS or NAME:ADDRESS, or a mapping."""
    if isinstance(hosts, dict):
        hosts = [f"{name}={address}" for name, given in hosts.items() for address in _listed(given)]
    for entry in hosts or ():
        name, _, address = re.sub("[=:]", "=", entry, count=1).partition("=")
        yield f"{address} {name}"


def _health(check: Json | None) -> Json | None:
    if not check:
        return None
    if check.get("disable"):
        return {"Test": ["NONE"]}
    times = {"Interval": "interval", "Timeout": "timeout", "StartPeriod": "start_period"}
    times["StartInterval"] = "start_interval"
    said = {key: _nanoseconds(check.get(name) or "0s") for key, name in times.items()}
    return {"Test": check.get("test"), "Retries": check.get("retries"), **said}


def _ulimit(name: str, limit: Any) -> Json:
    limit = limit if isinstance(limit, dict) else {"single": limit}
    both = limit.get("single") or 0
    return {"Name": name, "Soft": both or limit.get("soft") or 0, "Hard": both or limit.get("hard") or 0}


def _name_of(kind: str, stack: str, source: str, model: Json) -> str:
    definition = (model.get(kind) or {}).get(source) or {}
    return str(definition.get("name") or f"{stack}_{source}")


def _object(kind: str, stack: str, entry: Any, model: Json) -> Json:
    """A reference to a config or secret. Its own name is the file's, unless another one is said. ``Content`` is no
    field of the engine's: the digits of a content of ours."""
    entry = {"source": entry} if isinstance(entry, str) else entry
    source = entry["source"]
    mode = entry.get("mode")
    definition = (model.get(f"{kind.lower()}s") or {}).get(source) or {}
    return {
        "Content": definition.get("digest") or "",
        f"{kind}Name": _name_of(f"{kind.lower()}s", stack, source, model),
        "File": {
            "Name": entry.get("target") or source,
            "UID": str(entry.get("uid") or "0"),
            "GID": str(entry.get("gid") or "0"),
            "Mode": 0o444 if mode is None else mode if isinstance(mode, int) else int(mode, 8),
        },
    }


def _mount(stack: str, mount: Json, model: Json) -> dict[str, Any]:
    kind, source = mount.get("type") or "volume", mount.get("source")
    spec = {"Type": kind, "Source": source, "Target": mount["target"], "ReadOnly": mount.get("read_only")}
    if kind == "bind":
        spec["BindOptions"] = {"Propagation": (mount.get("bind") or {}).get("propagation")}
    elif kind == "tmpfs":
        spec["TmpfsOptions"] = {"SizeBytes": size_of((mount.get("tmpfs") or {}).get("size"))}
    elif kind == "volume" and source:
        spec["Source"] = _name_of("volumes", stack, source, model)
        definition = (model.get("volumes") or {}).get(source) or {}
        options: dict[str, Any] = {"NoCopy": (mount.get("volume") or {}).get("nocopy")}
        if not definition.get("external"):
            options["Labels"] = _strings(definition.get("labels"))
            options["DriverConfig"] = {"Name": definition.get("driver"), "Options": definition.get("driver_opts")}
        spec["VolumeOptions"] = options
    elif kind == "cluster" and not str(source).startswith("group:"):
        spec["Source"] = _name_of("volumes", stack, str(source), model)
    return spec


def _logging(logging: Json | None) -> Json | None:
    return {"Name": logging.get("driver"), "Options": _strings(logging.get("options"))} if logging else None


def _resources(resources: Json) -> Json:
    limits, reservations = resources.get("limits") or {}, resources.get("reservations") or {}
    generic = [
        {"DiscreteResourceSpec": {"Kind": spec.get("kind"), "Value": spec.get("value")}}
        for entry in reservations.get("generic_resources") or ()
        if (spec := entry.get("discrete_resource_spec"))
    ]
    return {
        "Limits": {**_amounts(limits), "Pids": int(limits.get("pids") or 0)},
        "Reservations": {**_amounts(reservations), "GenericResources": generic},
    }


def _amounts(said: Json) -> dict[str, Any]:
    return {"NanoCPUs": round(float(said.get("cpus") or 0) * _NANO), "MemoryBytes": size_of(said.get("memory"))}


def _restart(restart: str | None, policy: Json | None) -> Json | None:
    if policy is not None:
        times = {"Delay": "delay", "Window": "window"}
        said = {key: _nanoseconds(policy[name]) for key, name in times.items() if policy.get(name) is not None}
        return {"Condition": policy.get("condition"), "MaxAttempts": policy.get("max_attempts"), **said}
    name, _, attempts = (restart or "").partition(":")
    condition = _CONDITIONS.get(name)
    return {"Condition": condition, "MaxAttempts": int(attempts or 0)} if condition else None


def _placement(placement: Json) -> Json:
    spread = [preference.get("spread") for preference in placement.get("preferences") or ()]
    return {
        "Constraints": list(placement.get("constraints") or ()),
        "Preferences": [{"Spread": {"SpreadDescriptor": descriptor}} for descriptor in spread],
        "MaxReplicas": placement.get("max_replicas_per_node"),
    }


def _networks(stack: str, name: str, own: Json, model: Json) -> Iterator[Json]:
    for key, how in (own.get("networks") or {"default": None}).items():
        how = how or {}
        yield {
            "Target": _name_of("networks", stack, key, model),
            "Aliases": [*(how.get("aliases") or ()), name],
            "DriverOpts": how.get("driver_opts"),
        }


def _mode(mode: str, replicas: int | None) -> Json:
    if mode == "replicated-job":
        return {"ReplicatedJob": {"MaxConcurrent": replicas, "TotalCompletions": replicas}}
    if mode == "replicated":
        return {"Replicated": {"Replicas": replicas}}
    return {"GlobalJob" if mode == "global-job" else "Global": {}}


def _update(config: Json | None) -> Json | None:
    if config is None:
        return None
    parallelism = config.get("parallelism")
    return {
        "Parallelism": 1 if parallelism is None else parallelism,
        "Delay": _nanoseconds(config.get("delay") or "0s"),
        "FailureAction": config.get("failure_action"),
        "Monitor": _nanoseconds(config.get("monitor") or "0s"),
        "MaxFailureRatio": config.get("max_failure_ratio"),
        "Order": config.get("order"),
    }


def _port(port: Json) -> Json:
    published = str(port.get("published") or "0")
    return {
        "Protocol": port.get("protocol"),
        "TargetPort": port["target"],
        "PublishedPort": int(published) if published.isdecimal() else published,  # a range is refused by the deploy
        "PublishMode": port.get("mode"),
    }
