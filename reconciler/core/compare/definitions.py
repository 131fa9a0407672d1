"""The services of two sides as `docker compose config` resolves them, field by field; no variable's value. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from reconciler.core.compare.pairing import Pair
from reconciler.core.compare.risk import Risk, must_differ, risk_of
from reconciler.core.compare.services import (
    ServiceName,
    explanations_for,
    service_pairs,
    text_of_field,
    whole_health_checks,
)
from reconciler.core.compare.spellings import in_common_names, in_one_spelling
from reconciler.core.compare.types import (
    Definition,
    Expectations,
    Fact,
    FileResult,
    ServiceResult,
    Side,
    SideProject,
    Status,
)
from reconciler.core.compose_names import without_project
from reconciler.core.text import listed

PROJECT = "(project)"
"""Stands for a service where networks, volumes, configs and secrets of the whole project are compared."""

_ENVIRONMENT = "environment."
# What may hold a secret that nothing marks as one: only whether it differs is shown.
_NEVER_SHOWN = (_ENVIRONMENT, "labels.", "build.args.", "logging.options.", "configs.", "secrets.")
_DEFINED = ("networks", "volumes", "configs", "secrets")
_UNSET = "not set"  # a variable without a value, which takes the image's away
_USUAL_DRIVERS = {"networks": "bridge", "volumes": "local"}
_WHOLE = ("command", "entrypoint", "test")
_SIZES = ("mem_limit", "mem_reservation", "memswap_limit", "memory", "shm_size", "size")
_MEBIBYTE = 1024 * 1024
_LACKS = (Status.MISSING_LEFT, Status.MISSING_RIGHT, Status.EXPECTED)
# Where names begin with the project's, and paths with its directory, without anybody having written so.
_OF_PROJECT = ("networks", "volumes", "configs", "secrets", "container_name", "build", "devices")
_DEFAULTS: tuple[object, ...] = (None, {}, "", "ingress", {"create_host_path": True})
_DEFINED_BY: Mapping[str, tuple[str, ...]] = {
    "image": ("image", "build", "base_images"),
    "digest": ("image", "build", "base_images"),
    "memory": ("mem_limit", "deploy"),
    "cpus": ("cpus", "deploy"),
    "containers": ("scale", "deploy"),
    "restart": ("restart", "deploy"),
    "container": ("profiles", "scale"),
    "mounts": ("volumes", "configs", "secrets", "tmpfs"),
    "aliases": ("networks",),
}


def read_definitions(resolved: bytes, project: SideProject) -> tuple[Definition, ...]:
    """Given what `docker compose config --format json` prints of a project, return its services. Raises ValueError,
    TypeError or AttributeError if it is something else."""
    document = json.loads(resolved)
    services = [_service(name, fields, project) for name, fields in (document.get("services") or {}).items()]
    own = _joined(_fields({kind: document.get(kind) or {} for kind in _DEFINED}, project))
    return (*services, Definition(project.name, PROJECT, dict(item for item in own.items() if not _usual(*item))))


def _usual(name: str, text: str) -> bool:
    """Whether a network or volume is called as Compose calls it by itself, or has the usual driver."""
    kind, field = name.partition(".")[0], name.rpartition(".")[2]
    return name.endswith(f".{text}.name") or (field == "driver" and text == _USUAL_DRIVERS.get(kind))


def _service(name: str, fields: Mapping[str, Any], project: SideProject) -> Definition:
    build, fields = fields.get("build") or {}, in_one_spelling(fields)
    networks = {
        network: _words(options or {}, "networks", project) or "attached"
        for network, options in (fields.get("networks") or {}).items()
    }
    texts = _joined(_fields({**fields, "networks": networks}, project))
    return Definition(project.name, name, texts, build)


def _joined(fields: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Texts by name; of several with one name, such as a port that is published twice, all of them."""
    texts: dict[str, list[str]] = {}
    for name, text in fields:
        texts.setdefault(name, []).append(text)
    return {name: ", ".join(sorted(several)) for name, several in texts.items()}


def _fields(value: Any, project: SideProject, name: str = "") -> Iterator[tuple[str, str]]:
    """Names with dots, and texts in which neither the project's name nor its directory makes a difference."""
    last = name.rpartition(".")[2]
    if value in (None, {}, [], ""):
        if name in ("command", "entrypoint") and value is not None:
            yield name, "empty"  # which takes the image's away
        elif name.startswith((_ENVIRONMENT, "labels.")):
            yield name, _UNSET if value is None else ""
    elif isinstance(value, dict):
        for key, inside in value.items():
            yield from _fields(inside, project, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list) and last not in _WHOLE and all(map(_is_entry, value)):
        for entry in value:
            protocol = f"/{entry['protocol']}" if "protocol" in entry else ""
            yield f"{name}.{entry['target']}{protocol}", _entry(name, entry, project)
    elif last in _SIZES and str(value).isdecimal() and int(value) % _MEBIBYTE == 0:
        yield name, f"{int(value) // _MEBIBYTE} MiB"
    else:
        yield name, _text(name, value, project)


def _is_entry(value: Any) -> bool:
    """Whether it is a port, a mount, a config or a secret: what a container has at its target."""
    return isinstance(value, dict) and "target" in value


def _entry(name: str, entry: Mapping[str, Any], project: SideProject) -> str:
    usual = ("target", "protocol", "type", "source", "read_only")
    entry = {key: value for key, value in entry.items() if (key, value) != ("published", "0")}  # any free port
    words = [str(entry.get("type") or ""), _text(name, entry.get("source") or "", project)]
    words += ["read-only"] if entry.get("read_only") else []
    rest = {key: value for key, value in entry.items() if key not in usual and value not in _DEFAULTS}
    return " ".join(filter(None, (*words, _words(rest, name, project))))


def _words(fields: Mapping[str, Any], name: str, project: SideProject) -> str:
    return " ".join(f"{key} {_text(name, value, project)}" for key, value in sorted(fields.items()))


def _text(name: str, value: Any, project: SideProject) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return without_project(text, project.name, project.directory) if name.startswith(_OF_PROJECT) else text


def compare_definitions(
    left: Side,
    right: Side,
    expected: Expectations,
    known: Collection[str],
    files: Sequence[tuple[Pair, FileResult]],
    *,
    different: bool,
) -> tuple[ServiceResult, ...]:
    """The differences of each service; () if the definitions of a side are not known. ``known`` are values that must
    not be shown. A variable that an env file of the service has is compared there, in ``files``."""
    if left.definitions is None or right.definitions is None:
        return ()
    ours, theirs = (
        {(each.project, each.service): each.fields for each in side} for side in (left.definitions, right.definitions)
    )
    hidden = {*known, *(text for side in (ours, theirs) for text in _variables(side.values()))}
    several = any(len({project for project, _ in side}) > 1 for side in (ours, theirs))
    results = []
    for pair in service_pairs(ours.keys(), theirs.keys()):
        project, service = pair[0] or pair[1] or ("", "")
        explain = explanations_for(left, right, expected, {service, *("/".join(name) for name in pair if name)})
        left_fields, right_fields = ours.get(pair[0] or ("", "")), theirs.get(pair[1] or ("", ""))
        if service == PROJECT and None in (left_fields, right_fields):
            continue  # its services are reported
        if left_fields and right_fields:
            right_fields = in_common_names(left_fields, right_fields)
        changed = _changed_variables((left, pair[0]), (right, pair[1]))
        facts = _facts(left_fields, right_fields, _given(service, files), hidden, different=different)
        explained = (explain(_consequence_of_variables(fact, left_fields, right_fields, changed)) for fact in facts)
        results.append(ServiceResult(f"{project}/{service}" if several else service, tuple(explained)))
    return tuple(sorted((result for result in results if result.facts), key=lambda result: result.service))


def _variables(services: Collection[Mapping[str, str]]) -> Iterator[str]:
    return (text for fields in services for name, text in fields.items() if name.startswith(_ENVIRONMENT))


@dataclass(frozen=True, slots=True)
class _Given:
    """The variables that env files give a service: all of them, those for which the files explain a difference, and by
    name of a file that only one side's service uses, its own."""

    names: Collection[str]
    different: Collection[str]
    one_sided: Mapping[str, Collection[str]]

    def file_of(self, variable: str) -> str:
        """The file that only one side's service takes the variable from, "" for none."""
        return next((file for file, names in self.one_sided.items() if variable in names), "")


def _given(service: str, files: Sequence[tuple[Pair, FileResult]]) -> _Given:
    names: set[str] = set()
    different: set[str] = set()
    one_sided = {}
    for pair, result in files:
        users = [service in file.services for file in (pair.left, pair.right) if file]
        interpolated = not result.services  # a project's .env
        keys = [key for key in result.keys if not (interpolated and key.unused_on)]
        if interpolated or any(users):
            names |= {key.key for key in keys}
            different |= {key.key for key in keys if key.status is not Status.SAME}
        if users in ([True, False], [False, True]):
            one_sided[result.name] = {key.key for key in keys}
    return _Given(names, different, one_sided)


def _facts(
    left: Mapping[str, str] | None,
    right: Mapping[str, str] | None,
    given: _Given,
    hidden: Collection[str],
    *,
    different: bool,
) -> Iterator[Fact]:
    if left is None or right is None:
        yield _one_sided("definition", "yes", Status.MISSING_LEFT if left is None else Status.MISSING_RIGHT)
        return
    left, right = whole_health_checks(left, right)
    one_sided_files: dict[str, Status] = {}
    for name in sorted(left.keys() | right.keys()):
        variable = name.removeprefix(_ENVIRONMENT) if name.startswith(_ENVIRONMENT) else ""
        ours, theirs = left.get(name), right.get(name)
        if variable in given.different or (variable in given.names and ours == theirs):
            continue
        if None in (ours, theirs) and (file := given.file_of(variable)):
            one_sided_files[file] = _only_in(ours)
            continue
        status, reason = (_only_in(ours) if None in (ours, theirs) else _equality(ours, theirs)), ""
        if (
            variable
            and different
            and must_differ(variable)
            and None not in (ours, theirs)
            and {ours, theirs} - {"", _UNSET}
        ):
            reason = "a secret differs between environments" if ours != theirs else "two environments share a secret"
            status = Status.EXPECTED if ours != theirs else Status.SAME_SECRET
        risk = risk_of(variable) if variable else Risk.MEDIUM
        yield Fact(name, _shown(name, ours, theirs, hidden), _shown(name, theirs, ours, hidden), status, risk, reason)
    for file, status in one_sided_files.items():
        yield _one_sided(f"env_file {file}", "used", status)


def _one_sided(name: str, text: str, status: Status) -> Fact:
    left, right = ("", text) if status is Status.MISSING_LEFT else (text, "")
    return Fact(name, left, right, status)


def _only_in(left: str | None) -> Status:
    return Status.MISSING_LEFT if left is None else Status.MISSING_RIGHT


def _equality(left: str | None, right: str | None) -> Status:
    return Status.SAME if left == right else Status.DIFFERS


def _shown(name: str, text: str | None, counterpart: str | None, hidden: Collection[str]) -> str:
    if text is None:
        return ""
    if name.startswith(_NEVER_SHOWN):
        return "set" if counterpart is None else ""
    return text_of_field(name, text, hidden)


def _changed_variables(*sides: tuple[Side, ServiceName | None]) -> dict[str, tuple[str, str]]:
    """The variables to which the .env of the project of a service gives other values on the other side."""
    ours, theirs = (
        next((project.variables for project in side.projects if name and project.name == name[0]), {})
        for side, name in sides
    )
    return {name: (ours[name], theirs[name]) for name in ours.keys() & theirs.keys() if ours[name] != theirs[name]}


def _consequence_of_variables(
    fact: Fact, left: Mapping[str, str] | None, right: Mapping[str, str] | None, changed: Mapping[str, tuple[str, str]]
) -> Fact:
    """The fact, for information only if nothing but the values of these variables makes the difference."""
    if fact.status is not Status.DIFFERS or not left or not right:
        return fact
    text, names = left[fact.name], []
    for name, (ours, theirs) in sorted(changed.items(), key=lambda item: -len(item[1][0])):
        if ours and ours in text:
            text = text.replace(ours, theirs)
            names.append(name)
    if text != right[fact.name]:
        return fact
    return replace(fact, informational=True, reason=f"{listed(sorted(names))} of .env differs")


def without_consequences(
    services: Sequence[ServiceResult], definitions: Sequence[ServiceResult]
) -> tuple[tuple[ServiceResult, ...], tuple[ServiceResult, ...]]:
    """Services and definitions in which a cause counts once: what differs between containers because their definitions
    differ is explained, and so is a missing definition of a service that has no container there."""
    explained = []
    for service in services:
        definition = _counterpart(service, definitions)
        explained.append(replace(service, facts=tuple(_consequence(fact, definition) for fact in service.facts)))
    lacking = [
        service
        for service in services
        if any(fact.name == "container" and fact.status in _LACKS for fact in service.facts)
    ]
    return tuple(explained), tuple(
        replace(result, facts=tuple(replace(fact, informational=True) for fact in result.facts))
        if result.facts[0].name == "definition" and _counterpart(result, lacking)
        else result
        for result in definitions
    )


def _counterpart(result: ServiceResult, others: Sequence[ServiceResult]) -> ServiceResult | None:
    """The other result of the same service; one of them may name the project, too."""
    exact = [each for each in others if each.service == result.service]
    bare = result.service.rpartition("/")[2]
    same = exact or [each for each in others if each.service.rpartition("/")[2] == bare]
    return same[0] if len(same) == 1 else None


def _consequence(fact: Fact, definition: ServiceResult | None) -> Fact:
    field = re.split(r"[ .]", fact.name)[0]
    if definition is None or not _may_follow(fact):
        return fact
    changed = {re.split(r"[ .]", each.name)[0] for each in definition.facts if each.status is not Status.SAME}
    if changed.isdisjoint(_DEFINED_BY.get(field, (field,))):
        return fact
    return replace(fact, informational=True, reason="its Compose definition differs")


def _may_follow(fact: Fact) -> bool:
    """Whether the fact of a container may follow from a definition: not from one that wants the same on both sides."""
    if fact.name == "container":
        return fact.status in _LACKS and "" in (fact.left, fact.right)  # one side is to have none
    return fact.status is Status.DIFFERS and fact.name not in ("state", "health")
