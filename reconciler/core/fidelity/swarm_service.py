"""Reads a ServiceSpec, a Swarm manager's or the one that a deploy would make, into the fields that are compared. Pure.

What is a default of the engine is left out: saying it changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from reconciler.core.fidelity.deployed import REPLICAS
from reconciler.core.fidelity.differences import ENVIRONMENT
from reconciler.core.fidelity.fields import Json, capability, host_entry, several, signal, single
from reconciler.core.fidelity.running import health_of, mounted
from reconciler.core.fidelity.swarm_spec import expected_spec
from reconciler.core.model.compose import DeployedService, Fields, Service

STACK_LABELS = "com.docker.stack."
IMAGE_LABEL = f"{STACK_LABELS}image"  # the image as the project names it
OUR_LABELS = "io.reconciler."
DEFINITION_LABEL = f"{OUR_LABELS}definition"
"""On a service, not on its containers: the digest of the definition that it was last deployed from."""
REFERENCE_LABEL = f"{OUR_LABELS}image"
"""On a service that is deployed by an image's digest: the image as the project names it."""

_NANO = 1_000_000_000
_DEFAULT_RESTART = {"condition": "any", "delay": "5"}
_DEFAULT_UPDATE = {"parallelism": "1", "failure_action": "pause", "monitor": "5", "order": "stop-first"}
# Our names of configs and secrets end in the digest of what these hold.
_WITH_DIGEST = re.compile(r"(.+)_([0-9a-f]{12})")
_TAGGED = re.compile(r":[^/]+$")


def expected_fields(stack: str, service: Service) -> Fields:
    """Given a service of the project ``stack``, return the fields that a deploy gives it. Its configs and secrets have
    the names that they get in the Swarm."""
    return spec_fields(expected_spec(stack, service), {})


def deployed_service(stack: str, facts: Json, networks: Mapping[str, str]) -> DeployedService:
    """Given a service as the engine's API shows it, and the names of networks by id, return it."""
    spec = facts["Spec"]
    mode, replicas = _mode(spec.get("Mode") or {})
    return DeployedService(
        name=str(spec["Name"]).removeprefix(f"{stack}_"),
        fields=spec_fields(spec, networks),
        version=str((facts.get("Version") or {}).get("Index", "")),
        deployed_as=str((spec.get("Labels") or {}).get(DEFINITION_LABEL, "")),
        replicas=replicas if mode.startswith("replicated") else None,
    )


def image_reference(labels: Mapping[str, str]) -> str:
    """Given the labels of a service, return its image as the project named it."""
    deployed, ours = labels.get(IMAGE_LABEL, ""), labels.get(REFERENCE_LABEL, "")
    return ours if ours and deployed.startswith(f"{ours}@") else deployed


def network_ids(services: Iterable[Json]) -> frozenset[str]:
    """Given services as the engine's API shows them, return the ids of the networks that they are in."""
    return frozenset(attachment["Target"] for facts in services for attachment in _attachments(facts["Spec"]))


def _attachments(spec: Json) -> Any:
    return (spec.get("TaskTemplate") or {}).get("Networks") or spec.get("Networks") or ()


def spec_fields(spec: Json, networks: Mapping[str, str]) -> Fields:
    """Given a ServiceSpec, and the names of networks by id, return its fields."""
    task = spec.get("TaskTemplate") or {}
    container = task.get("ContainerSpec") or {}
    endpoint = spec.get("EndpointSpec") or {}
    mode, replicas = _mode(spec.get("Mode") or {})
    logging, labels = task.get("LogDriver") or {}, spec.get("Labels") or {}
    return {
        "image": single(_image(str(container.get("Image") or ""), with_digest="@" in image_reference(labels))),
        **_process(container),
        **_isolation(container),
        **_files(container),
        **_resources(task.get("Resources") or {}),
        **_networks(_attachments(spec), networks, str(spec.get("Name"))),
        "service labels": _labels(labels),
        "logging": single(logging.get("Name")),
        "logging options": dict(logging.get("Options") or {}),
        "restart": _restart(task.get("RestartPolicy") or {}),
        **_placement(task.get("Placement") or {}),
        "mode": single("" if mode == "replicated" else mode),
        REPLICAS: {} if replicas is None else {"": str(replicas)},
        "update": _update(spec.get("UpdateConfig") or {}),
        "rollback": _update(spec.get("RollbackConfig") or {}),
        "endpoint_mode": single(_unless(endpoint.get("Mode"), "vip")),
        "ports": several(map(_port, endpoint.get("Ports") or ())),
    }


def _process(container: Json) -> dict[str, Mapping[str, str]]:
    health = dict(container.get("Healthcheck") or {})
    dns = container.get("DNSConfig") or {}
    init = container.get("Init")
    return {
        "entrypoint": single(container.get("Command")),
        "command": single(container.get("Args")),
        ENVIRONMENT: dict(_variables(container.get("Env") or ())),
        "labels": _labels(container.get("Labels")),
        "hostname": single(container.get("Hostname")),
        "working_dir": single(container.get("Dir")),
        "user": single(container.get("User")),
        "group_add": several(map(str, container.get("Groups") or ())),
        "tty": single(container.get("TTY")),
        "stdin_open": single(container.get("OpenStdin")),
        "init": {} if init is None else {"": "yes" if init else "no"},
        "stop_signal": single(signal(container.get("StopSignal"))),
        "stop_grace_period": single(_unless(_seconds(container.get("StopGracePeriod"), zero="0"), "10")),
        "healthcheck": health_of(health),
        "healthcheck start_interval": single(_seconds(health.get("StartInterval"))),
        "extra_hosts": several(_hosts(container.get("Hosts") or ())),
        "dns": single(dns.get("Nameservers")),
        "dns_search": single(dns.get("Search")),
        "dns_opt": single(dns.get("Options")),
    }


def _isolation(container: Json) -> dict[str, Mapping[str, str]]:
    privileges = {name: value for name, value in (container.get("Privileges") or {}).items() if value}
    privileges.pop("CredentialSpec", None)  # of Windows
    limits = container.get("Ulimits") or ()
    return {
        "read_only": single(container.get("ReadOnly")),
        "isolation": single(_unless(container.get("Isolation"), "default")),
        "privileges": {name: str(single(value).get("", "")) for name, value in privileges.items()},
        "cap_add": several(map(capability, container.get("CapabilityAdd") or ())),
        "cap_drop": several(map(capability, container.get("CapabilityDrop") or ())),
        "sysctls": {name: str(value) for name, value in (container.get("Sysctls") or {}).items()},
        "ulimits": {limit["Name"]: f"{limit.get('Soft') or 0}:{limit.get('Hard') or 0}" for limit in limits},
        "oom_score_adj": single(_exact(container.get("OomScoreAdj"))),
    }


def _files(container: Json) -> dict[str, Mapping[str, str]]:
    mounts = container.get("Mounts") or ()
    fields: dict[str, Mapping[str, str]] = {"mounts": {_clean(mount["Target"]): _mount(mount) for mount in mounts}}
    for kind, root in (("config", "/"), ("secret", "/run/secrets/")):
        words: dict[str, str] = {}
        contents: dict[str, str] = {}
        for reference in container.get(f"{kind.capitalize()}s") or ():
            if file := reference.get("File"):  # else it is mounted nowhere
                target = file["Name"] if file["Name"].startswith("/") else root + file["Name"]
                name = reference[f"{kind.capitalize()}Name"]
                match = _WITH_DIGEST.fullmatch(name)
                if match and reference.get("Content", match[2]) != match[2]:
                    match = None  # somebody else's name looks like that too
                owner = f"{file.get('UID') or 0}:{file.get('GID') or 0}"
                words[target] = f"{match[1] if match else name} {owner} {file.get('Mode') or 0:04o}"
                contents |= {target: match[2]} if match else {}
        fields |= {f"{kind}s": words, f"{kind} content": contents}
    return fields


def _resources(resources: Json) -> dict[str, Mapping[str, str]]:
    limits, reserved = resources.get("Limits") or {}, resources.get("Reservations") or {}
    generic = reserved.get("GenericResources") or ()
    return {
        "cpus": single(_exact((limits.get("NanoCPUs") or 0) / _NANO)),
        "cpus reservation": single(_exact((reserved.get("NanoCPUs") or 0) / _NANO)),
        "memory": single(_exact(limits.get("MemoryBytes"))),
        "memory reservation": single(_exact(reserved.get("MemoryBytes"))),
        "pids": single(_exact(max(limits.get("Pids") or 0, 0))),
        "generic resources": dict(map(_generic, generic)),
    }


def _generic(resource: Json) -> tuple[str, str]:
    spec = resource.get("DiscreteResourceSpec") or resource.get("NamedResourceSpec") or {}
    return str(spec.get("Kind") or ""), str(spec.get("Value") or 0)


def _networks(attached: Any, names: Mapping[str, str], service: str) -> dict[str, Mapping[str, str]]:
    networks: dict[str, str] = {}
    aliases: list[str] = []
    for attachment in attached:
        network = names.get(attachment["Target"], attachment["Target"])
        networks[network] = _options(attachment.get("DriverOpts"))
        # Without its own name, which it has in every network.
        given = [alias for alias in attachment.get("Aliases") or () if not service.endswith(f"_{alias}")]
        aliases += [f"{alias} in {network}" for alias in given]
    return {"networks": networks, "aliases": several(aliases)}


def _placement(placement: Json) -> dict[str, Mapping[str, str]]:
    constraints = placement.get("Constraints") or ()
    spread = [(each.get("Spread") or {}).get("SpreadDescriptor") for each in placement.get("Preferences") or ()]
    return {
        "constraints": several(re.sub(r"\s*([=!]=)\s*", r" \1 ", text.strip()) for text in constraints),
        "placement preferences": single(spread),
        "replicas per node": single(_exact(placement.get("MaxReplicas"))),
    }


def _restart(policy: Json) -> dict[str, str]:
    return _without(
        _DEFAULT_RESTART,
        {
            "condition": str(policy.get("Condition") or ""),
            "delay": _seconds(policy.get("Delay"), zero="0"),
            "max_attempts": _exact(policy.get("MaxAttempts")),
            "window": _seconds(policy.get("Window")),
        },
    )


def _update(config: Json) -> dict[str, str]:
    return _without(
        _DEFAULT_UPDATE,
        {
            "parallelism": str(config.get("Parallelism", 1)),
            "delay": _seconds(config.get("Delay")),
            "failure_action": str(config.get("FailureAction") or ""),
            "monitor": _seconds(config.get("Monitor")),
            "max_failure_ratio": _exact(config.get("MaxFailureRatio")),
            "order": str(config.get("Order") or ""),
        },
    )


def _mode(mode: Json) -> tuple[str, int | None]:
    """How containers are spread, and how many there are; None where the nodes decide that."""
    if (job := mode.get("ReplicatedJob")) is not None:
        total = job.get("TotalCompletions")
        return "replicated-job", 1 if total is None else int(total)
    for name, kind in (("Global", "global"), ("GlobalJob", "global-job")):
        if mode.get(name) is not None:
            return kind, None
    replicas = (mode.get("Replicated") or {}).get("Replicas")
    return "replicated", 1 if replicas is None else int(replicas)


def _port(port: Json) -> str:
    """[host ]PUBLISHED->PORT/PROTOCOL; any free port has no number."""
    host = "host " if port.get("PublishMode") == "host" else ""
    return f"{host}{port.get('PublishedPort') or ''}->{port['TargetPort']}/{port.get('Protocol') or 'tcp'}"


def _mount(mount: Json) -> str:
    text = mounted(mount.get("Type") or "volume", mount.get("Source"), read_only=bool(mount.get("ReadOnly")))
    volume, tmpfs = mount.get("VolumeOptions") or {}, mount.get("TmpfsOptions") or {}
    driver = volume.get("DriverConfig") or {}
    said = {
        "propagation": (mount.get("BindOptions") or {}).get("Propagation"),
        "nocopy": "yes" if volume.get("NoCopy") else "",
        "subpath": volume.get("Subpath"),
        "labels": _options(_labels(volume.get("Labels"))),
        "driver": driver.get("Name"),
        "options": _options(driver.get("Options")),
        "size": _exact(tmpfs.get("SizeBytes")),
        "mode": _exact(tmpfs.get("Mode")),
    }
    return " ".join([text, *(f"{name} {value}" for name, value in said.items() if value)])


def _image(reference: str, *, with_digest: bool) -> str:
    """As people write it: without Docker Hub's own name, and with its tag. With its digest where the project names one;
    any other is what the tag stood for when the service was deployed."""
    name, at, digest = reference.removeprefix("docker.io/").removeprefix("library/").partition("@")
    if with_digest and at:
        return f"{name}@{digest}"
    return f"{name}:latest" if name and not _TAGGED.search(name) else name


def _labels(labels: Mapping[str, Any] | None) -> dict[str, str]:
    """Without those that `docker stack deploy` and we put there."""
    given = (labels or {}).items()
    return {name: str(value) for name, value in given if not name.startswith((STACK_LABELS, OUR_LABELS))}


def _variables(entries: Any) -> Iterator[tuple[str, str]]:
    """A bare name is one that has no value: nothing comes of it."""
    for entry in entries:
        name, equals, value = entry.partition("=")
        if equals:
            yield name, value


def _hosts(entries: Any) -> Iterator[str]:
    for entry in entries:
        address, *names = entry.split()
        yield from (host_entry(f"{name}={address}") for name in names)


def _clean(path: str) -> str:
    return path.rstrip("/") or "/"


def _unless(value: Any, default: str) -> str:
    return "" if value == default else str(value or "")


def _without(defaults: Mapping[str, str], values: Mapping[str, str]) -> dict[str, str]:
    return {name: text for name, text in values.items() if text and text != defaults.get(name)}


def _options(values: Mapping[str, Any] | None) -> str:
    return ",".join(f"{name}={value}" for name, value in sorted((values or {}).items()))


def _exact(value: Any) -> str:
    """A number with all its digits; "" for none."""
    return f"{value:.10g}" if isinstance(value, float) and not value.is_integer() else str(int(value)) if value else ""


def _seconds(nanoseconds: Any, zero: str = "") -> str:
    return zero if nanoseconds == 0 else _exact((nanoseconds or 0) / _NANO)
