"""The containers of Compose projects on a read-only machine, by the docker command there."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from reconciler.adapters.compose.docker_api import DIRECTORY_LABEL, PROJECT_LABEL, SERVICE_LABEL, started_as, variables
from reconciler.core.compose_names import without_project
from reconciler.core.decide.guards import is_below
from reconciler.core.decide.one_shots import ended_by_itself
from reconciler.core.fidelity.running import running_fields
from reconciler.core.inventory import FoundContainer
from reconciler.core.model.compose import StartedAs
from reconciler.core.ports.host import Machine
from reconciler.core.secret import Secret

# Facts of their own, and what the engine makes up.
_APART = frozenset({"image", "memory", "memory and swap", "cpus", "cpu period", "cpu quota", "ports", "domainname"})
_FROM_IMAGE = frozenset({"command", "entrypoint", "user", "working_dir", "healthcheck", "stop_signal", "labels"})
# Where names begin with the project's, and paths with its directory, without anybody having written so.
_OF_PROJECT = frozenset({"container_name", "networks", "aliases", "network_mode", "mounts"})
_DEFAULTS = {"stop_grace_period": "10"}
_SIZES = frozenset({"memory reservation", "shm_size"})
_MEBIBYTE = 1024 * 1024
_ONE_OFF_LABEL = "com.docker.compose.oneoff"
_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Labelled:
    """A container with what Compose has noted on it; ``defaults`` are the variables that are as its image has them."""

    started: StartedAs
    container: FoundContainer
    environment: Mapping[str, Secret] = field(repr=False)
    defaults: frozenset[str] = frozenset()

    @property
    def project(self) -> str:
        return self.started.project

    @property
    def directory(self) -> str:
        return self.started.directory


async def labelled(machine: Machine, below: str = "/") -> tuple[Labelled, ...] | None:
    """Every container of a Compose project there whose directory is ``below`` or lies below it, sorted; None where
    docker is missing, does not answer, or gives an answer that is not docker's."""
    form = f'{{{{.ID}}}}\t{{{{.Label "{DIRECTORY_LABEL}"}}}}'
    listing = ["docker", "ps", "--all", "--no-trunc", "--filter", f"label={PROJECT_LABEL}", "--format", form]
    listed = await machine.run(listing, "", _SECONDS)
    if listed.exit_code != 0:
        return None
    lines = [line.partition("\t") for line in listed.output.reveal().decode("utf-8", "replace").splitlines()]
    ids = [identity for identity, _, directory in lines if directory == below or is_below(directory, below)]
    try:
        facts = await _inspected(machine, "container", ids)
        images = await _inspected(machine, "image", sorted({container["Image"] for container in facts}))
        by_id = {image["Id"]: image for image in images}
        containers = [
            _labelled(container, by_id)
            for container in facts
            if (_labels(container).get(_ONE_OFF_LABEL) or "").lower() != "true"
        ]
        return tuple(sorted(containers, key=lambda it: (it.directory, *_order(it.container))))
    except (AttributeError, ArithmeticError, KeyError, TypeError, ValueError):
        return None


async def _inspected(machine: Machine, kind: str, ids: list[str]) -> list[dict[str, Any]]:
    """What docker knows of them; one that has gone meanwhile is left out."""
    if not ids:
        return []
    ran = await machine.run(["docker", kind, "inspect", *ids], "", _SECONDS)
    inspected: list[dict[str, Any]] = json.loads(ran.output.reveal() or b"[]")
    return inspected


def _labels(facts: Mapping[str, Any]) -> Mapping[str, str]:
    return facts["Config"].get("Labels") or {}


def _digest(image: Mapping[str, Any]) -> str:
    """By what a registry knows the image; of one that was built there, its own id."""
    known = image.get("RepoDigests") or []
    return str(known[0]).rpartition("@")[2] if known else str(image.get("Id", ""))


def _labelled(facts: Mapping[str, Any], images: Mapping[str, Mapping[str, Any]]) -> Labelled:
    labels, state, limits = _labels(facts), facts["State"], facts["HostConfig"]
    image = images.get(facts["Image"], {"Id": facts["Image"]})
    health = str((state.get("Health") or {}).get("Status") or "")
    status, exit_code = str(state.get("Status", "")), int(state.get("ExitCode") or 0)
    environment = variables(facts["Config"].get("Env") or ())
    container = FoundContainer(
        service=labels.get(SERVICE_LABEL, ""),
        state=status,
        health="" if health == "none" else health,
        restarts=int(facts.get("RestartCount") or 0),
        image=str(facts["Config"].get("Image", "")),
        image_digest=_digest(image),
        ports=tuple(sorted(_ports(limits.get("PortBindings") or {}))),
        memory=int(limits.get("Memory") or 0),
        cpus=_cpus(limits),
        since=instant(state.get("FinishedAt" if status in ("exited", "dead") else "StartedAt")),
        exit_code=exit_code,
        ended=ended_by_itself(facts, status, exit_code),
        fields=dict(_fields(facts, image)),
        values=frozenset(environment.values()),
    )
    default = variables((image.get("Config") or {}).get("Env") or ())
    return Labelled(
        started=started_as(labels, running=container.state == "running", created=_seconds(facts.get("Created"))),
        container=container,
        environment={name: Secret(value.encode("utf-8", "surrogateescape")) for name, value in environment.items()},
        defaults=frozenset(name for name, value in environment.items() if default.get(name) == value),
    )


def _fields(facts: Mapping[str, Any], image: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """What the engine says beside the facts above, flat. What the image gives, the project's name and its directory
    make no difference."""
    labels, identity = _labels(facts), str(facts.get("Id", "?"))[:12]
    usual = (identity, labels.get(SERVICE_LABEL), str(facts.get("Name", "")).lstrip("/"))  # aliases that Compose gives
    given = running_fields({"Config": image.get("Config") or {}, "HostConfig": {}})
    for field_name, items in running_fields(facts).items():
        if field_name in _APART or (field_name == "hostname" and items.get("") == str(facts.get("Id", ""))[:12]):
            continue
        inherited = given.get(field_name, {}) if field_name in _FROM_IMAGE else {}
        project, directory = labels.get(PROJECT_LABEL, ""), labels.get(DIRECTORY_LABEL, "") or "/"
        own = {
            item: without_project(text, project, directory) if field_name in _OF_PROJECT else text
            for item, text in items.items()
            if text not in (inherited.get(item), _DEFAULTS.get(field_name))
            and not (field_name == "aliases" and item.rpartition(" in ")[0] in usual)
        }
        if own and set(own) != {""} and not any(own.values()):  # a set of names
            names = (without_project(item, project, "/") if field_name in _OF_PROJECT else item for item in own)
            yield field_name, ", ".join(sorted(names))
        else:
            for item, text in own.items():
                size = field_name in _SIZES and float(text) % _MEBIBYTE == 0
                yield f"{field_name} {item}".strip(), f"{float(text) / _MEBIBYTE:g} MiB" if size else text


def _seconds(time: Any) -> float:
    """Given an RFC 3339 time of the engine, return seconds; 0 for none."""
    try:
        return datetime.fromisoformat(str(time)).timestamp()
    except ValueError:
        return 0.0


def instant(time: Any) -> str:
    """Given an RFC 3339 time of the engine, return it in UTC to the second; "" for none."""
    seconds = _seconds(time)
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds") if seconds > 0 else ""


def _ports(bindings: Mapping[str, Any]) -> Iterable[str]:
    for inside, outside in bindings.items():
        for binding in outside or [{}]:
            address, port = (
                binding.get("HostIp") or "",
                "" if binding.get("HostPort") in (None, "0") else binding["HostPort"],
            )
            yield f"{address}:{port}->{inside}" if address else f"{port}->{inside}"


def _cpus(limits: Mapping[str, Any]) -> float:
    if nano := limits.get("NanoCpus"):
        return float(nano) / 1e9
    quota, period = limits.get("CpuQuota") or 0, limits.get("CpuPeriod") or 100_000
    return float(quota) / float(period) if quota > 0 else 0.0


def containers_of(labelled: Iterable[Labelled]) -> tuple[FoundContainer, ...]:
    """The containers alone, sorted by service."""
    return tuple(sorted((each.container for each in labelled), key=_order))


def _order(container: FoundContainer) -> tuple[str, str]:
    """By service, the first of several first."""
    return container.service, container.fields.get("container_name", "")
