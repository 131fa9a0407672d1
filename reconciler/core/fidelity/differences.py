"""What a recreate would change in a running container, field by field. Pure.

Compose's own hash answers first: where it is the container's, the two definitions are one, and only what a hand can
change in a container that is there is compared.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from reconciler.core.fidelity.compose_hash import HASH_LABEL, compose_hashes
from reconciler.core.fidelity.definition import defined_fields
from reconciler.core.fidelity.running import running_fields
from reconciler.core.model.compose import Container, Fields, Service

ENVIRONMENT = "environment"
# `docker update`, `docker network connect`, `docker rename`; a volume that is called otherwise by now.
_CHANGED_BY_HAND = frozenset(
    {
        *("restart", "memory", "memory reservation", "cpus", "cpu shares", "cpu quota", "cpu period", "cpuset", "pids"),
        *("networks", "container_name", "mounts"),
    }
)
# The engine adds its own to these.
_AT_LEAST = frozenset({"ulimits", "logging options"})
_NAMESPACES = frozenset({"network_mode", "pid", "ipc", "uts"})
_USUAL_IPC = frozenset({"private", "shareable"})
# Compose puts the proxies of the docker client's own settings into containers; no file names them.
_PROXY_KEYS = frozenset({"HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"})


@dataclass(frozen=True, slots=True)
class FieldDifference:
    """One item of one field: what the container has, and what the project says; "" for nothing.

    Of a variable only the name is here, as ``item``.
    """

    name: str
    item: str = ""
    runs: str = field(default="", repr=False)
    says: str = field(default="", repr=False)


def differences(
    service: Service, project: str, container: Container, owners: Mapping[str, str]
) -> tuple[FieldDifference, ...]:
    """Given a service and one of its containers, return what the container has otherwise than the service says.

    ``owners`` maps ids of containers to services, for namespaces that are shared. A container that nothing is known of
    but its environment is compared by that.
    """
    keys = differing_variables(service, container)
    fields = [FieldDifference(ENVIRONMENT, key) for key in sorted(keys)]
    if not container.facts:
        image = json.loads(service.definition.reveal()).get("service", {}).get("image")
        differs = image and container.image and image != container.image
        return (*fields, FieldDifference("image", "", container.image, image)) if differs else tuple(fields)
    label = (container.facts["Config"].get("Labels") or {}).get(HASH_LABEL)
    same = label in compose_hashes(service.text, _as_it_runs(service, container, keys) if keys else None)
    said = defined_fields(service, project, container.image_facts)
    runs = running_fields(container.facts)
    said, runs = _comparable(said, runs, service, project, container, owners)
    for name in said:
        if not same or name in _CHANGED_BY_HAND:
            items = item_differences(name, runs.get(name, {}), said[name])
            fields += [it for it in items if name not in _AT_LEAST or it.item in said[name]]
    return tuple(fields)


def differing_variables(service: Service, container: Container) -> frozenset[str]:
    """Names of the variables whose value in the container is not what the service resolves to.

    A variable that is named without a value, and one that neither the service nor the image gives but the docker
    client's proxy settings do, say nothing.
    """
    resolved = service.environment
    unset = {key for key, value in resolved.items() if value is None}
    given = {key: value for key, value in resolved.items() if value is not None}
    expected, actual = {**container.image_environment, **given}, container.environment
    keys = {key for key in expected.keys() | actual.keys() if expected.get(key) != actual.get(key)} - unset
    return frozenset(key for key in keys if key in expected or key.upper() not in _PROXY_KEYS)


def _as_it_runs(
    service: Service, container: Container, keys: Collection[str], *, image_values: bool = False
) -> dict[str, str | None]:
    """The service's variables with the values that the container has: what is left of the hash is the other fields.

    ``image_values``: also those that are the image's, which the service may have said once more.
    """
    environment = {key: value for key, value in service.environment.items() if key not in keys}
    for key in keys & container.environment.keys():
        if image_values or container.image_environment.get(key) != container.environment[key]:
            environment[key] = container.environment[key]
    return environment


def has_unnamed_difference(service: Service, container: Container) -> bool:
    """Whether the hash on the container is none that the service can have with the variables that the container has:
    also a field that is not compared may differ. False where the hash says nothing."""
    if not container.facts or service.namespace_of or _mounts_volumes_of_others(service):
        return False  # Compose hashes the id of a container that something is shared with
    label = (container.facts["Config"].get("Labels") or {}).get(HASH_LABEL)
    keys = differing_variables(service, container)
    # A shell may have set them.
    unset = {key for key, value in service.environment.items() if value is None and key in container.environment}
    if label in compose_hashes(service.text):
        return False
    return not any(
        label in compose_hashes(service.text, _as_it_runs(service, container, names, image_values=image_values))
        for names in (keys, keys | unset)
        for image_values in (False, True)
    )


def _mounts_volumes_of_others(service: Service) -> bool:
    """Whether it has `volumes_from`, of a service or of any container."""
    return bool(json.loads(service.definition.reveal()).get("service", {}).get("volumes_from"))


def item_differences(name: str, runs: Mapping[str, str], said: Mapping[str, str]) -> Iterator[FieldDifference]:
    """The items of one field that differ between what runs and what the project says."""
    for item in sorted(runs.keys() | said.keys()):
        if runs.get(item) != said.get(item):
            yield FieldDifference(name, item, _text(runs, item), _text(said, item))


def _text(values: Mapping[str, str], item: str) -> str:
    """The text of the item; one of a set is its own text."""
    return values[item] or item if item in values else ""


def _comparable(
    said: Fields, runs: Fields, service: Service, project: str, container: Container, owners: Mapping[str, str]
) -> tuple[dict[str, Mapping[str, str]], dict[str, Mapping[str, str]]]:
    """Both, without what the engine and Compose say in other words than the project."""
    says, has = dict(said), dict(runs)
    for name in _NAMESPACES & says.keys():
        has[name], says[name] = _namespace(has[name], says[name], container, owners)
    if has["ipc"].get("") in _USUAL_IPC and not says["ipc"]:
        has["ipc"] = {}
    name = has["container_name"].get("", "")
    if "container_name" not in says and not _is_usual_name(name, project, service.name):
        says["container_name"] = {"": f"{project}-{service.name}-{container.number}"}
    if "hostname" not in says and "network_mode" not in says and not says["uts"]:
        says["hostname"] = {"": container.id[:12]}
    if "aliases" in says:
        own = {name, container.id[:12], service.name, has["hostname"].get("", "")}
        has["aliases"], says["aliases"] = _foreign(has["aliases"], own), _foreign(says["aliases"], own)
    return says, has


def _namespace(
    runs: Mapping[str, str], says: Mapping[str, str], container: Container, owners: Mapping[str, str]
) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """A shared namespace is shown as the name of the other service; that of a container that is gone, as nothing."""
    kind, _, identity = runs.get("", "").partition(":")
    word, _, owner = says.get("", "").partition(":")
    if kind != "container" or word not in ("service", "container"):
        return runs, says
    if word == "container" or identity not in owners or owners[identity] == owner:
        return says, says
    return {"": f"service:{owners[identity]}"}, says


def _is_usual_name(name: str, project: str, service: str) -> bool:
    """As Compose makes them: by both versions, by several replicas, and by an `up` that was cut off."""
    pattern = rf"(?:[0-9a-f]{{12}}_)?{re.escape(project)}[-_]{re.escape(service)}[-_][0-9]+"
    return re.fullmatch(pattern, name) is not None


def _foreign(aliases: Mapping[str, str], own: Collection[str]) -> dict[str, str]:
    return {alias: text for alias, text in aliases.items() if alias.partition(" in ")[0] not in own}


# --- what git changes in the project itself ---


@dataclass(frozen=True, slots=True)
class DefinitionChange:
    """One field of a service that new files change; ``grant`` is the word of git_may_change that allows it, None where
    only allow_compose_files does."""

    name: str
    grant: str | None
    before: str = field(default="", repr=False)
    after: str = field(default="", repr=False)


GRANTS = ("image_tag", "labels", "logging", "ports", "replicas", "resources", "restart")
"""The words that git_may_change takes."""

_GRANT = {
    "labels": "labels",
    "logging": "logging",
    "ports": "ports",
    "expose": "ports",
    "scale": "replicas",
    "restart": "restart",
    "deploy.replicas": "replicas",
    "deploy.labels": "labels",
    "deploy.restart_policy": "restart",
    "deploy.resources.limits": "resources",
    **dict.fromkeys(("mem_limit", "mem_reservation", "memswap_limit", "mem_swappiness", "shm_size"), "resources"),
    **dict.fromkeys(("cpus", "cpu_count", "cpu_percent", "cpu_period", "cpu_quota", "cpu_shares"), "resources"),
    **dict.fromkeys(("cpuset", "cpu_rt_period", "cpu_rt_runtime", "pids_limit"), "resources"),
    "deploy.resources.reservations.memory": "resources",
    "deploy.resources.reservations.cpus": "resources",
    "deploy.resources.reservations.pids": "resources",
}
_OPENED = frozenset({"deploy", "deploy.resources", "deploy.resources.reservations"})
# What a config or secret holds is the content of a file; a new file for it is not.
_CONTENT = frozenset({"content", "value", "digest"})
_REFERENCES = ("configs", "secrets", "networks", "volumes")


def definition_changes(now: Service, after: Service) -> tuple[DefinitionChange, ...]:
    """Given a service before and after, return what changes in it beside its variables and the content of files."""
    old, new = _flat(now), _flat(after)
    changes = []
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            before, later = _json(old.get(name)), _json(new.get(name))
            changes.append(DefinitionChange(name, _grant(name, old.get(name), new.get(name)), before, later))
    return tuple(changes)


def _flat(service: Service) -> dict[str, object]:
    whole = json.loads(service.definition.reveal())
    flat = dict(_opened("", {key: value for key, value in whole["service"].items() if key != ENVIRONMENT}))
    for kind in _REFERENCES:
        for name, definition in (whole.get(kind) or {}).items():
            kept = {key: value for key, value in (definition or {}).items() if key not in _CONTENT}
            if digest := (definition or {}).get("digest"):  # its name in a Swarm ends in that
                kept["name"] = str(kept.get("name", "")).removesuffix(f"_{digest}")
            flat[f"{kind.removesuffix('s')} {name}"] = kept
    return flat


def _opened(prefix: str, fields: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    for key, value in fields.items():
        name = f"{prefix}{key}"
        if name in _OPENED and isinstance(value, dict):
            yield from _opened(f"{name}.", value)
        elif value not in ({}, None):
            yield name, value


def _grant(name: str, before: object, after: object) -> str | None:
    if name == "image":
        same = isinstance(before, str) and isinstance(after, str) and _repository(before) == _repository(after)
        return "image_tag" if same else None
    return _GRANT.get(name)


def _repository(image: str) -> str:
    """Without the tag and the digest; a colon before a slash is a port's."""
    image = image.partition("@")[0]
    head, slash, last = image.rpartition("/")
    return f"{head}{slash}{last.partition(':')[0]}"


def _json(value: object) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value, sort_keys=True)


# What a field of a container is called in git_may_change, where it has been changed by git and not recreated yet.
_FIELD_GRANTS = {
    "labels": "labels",
    "logging": "logging",
    "logging options": "logging",
    "ports": "ports",
    "restart": "restart",
    **dict.fromkeys(("memory", "memory reservation", "memory and swap", "swappiness", "cpus"), "resources"),
    **dict.fromkeys(("cpu shares", "cpu quota", "cpu period", "cpuset", "pids", "shm_size"), "resources"),
}


def grant_of(difference: FieldDifference) -> str | None:
    """The word of git_may_change that covers a difference; None where there is none."""
    if difference.name == "image":
        return "image_tag" if _repository(difference.runs) == _repository(difference.says) else None
    return _FIELD_GRANTS.get(difference.name)


def unexplained(
    fields: Iterable[FieldDifference], keys: Collection[str], grants: Collection[str]
) -> tuple[FieldDifference, ...]:
    """Those that no managed file explains: it holds ``keys`` that the service reads, or may change the ``grants``."""
    return tuple(
        difference
        for difference in fields
        if not (difference.item in keys if difference.name == ENVIRONMENT else grant_of(difference) in grants)
    )
