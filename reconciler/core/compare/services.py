"""The containers of two sides, service by service. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from reconciler.core.compare.risk import Risk
from reconciler.core.compare.spellings import whole_reference
from reconciler.core.compare.types import (
    Expectations,
    Fact,
    ServiceExpectation,
    ServiceResult,
    Side,
    Status,
)
from reconciler.core.inventory import FoundContainer
from reconciler.core.secrets.masking import masked

ServiceName = tuple[str, str]
"""A project and a service of it."""

MISSING = "missing"
"""Of a service that the side's project defines: it has no container."""

_STATES: Mapping[str, Callable[[FoundContainer], str]] = {
    "state": lambda container: container.state,
    "health": lambda container: container.health,
}
_PLAIN = frozenset(
    {
        *(
            "image",
            "digest",
            "ports",
            "restart",
            "user",
            "container_name",
            "networks",
            "aliases",
            "depends_on",
            "deploy",
        ),
        *(
            "memory",
            "mem_limit",
            "cpus",
            "scale",
            "logging",
            "profiles",
            "network_mode",
            "stop_grace_period",
            "base_images",
        ),
    }
)
# What a field of a definition is called of a container; a reason for one explains the other.
_SYNONYMS = {"definition": "container", "mem_limit": "memory", "scale": "containers", "volumes": "mounts"}
_BAD: Mapping[str, Callable[[FoundContainer], bool]] = {
    "state": lambda container: container.state != "running" and not container.ended,
    "health": lambda container: container.state == "running" and container.health == "unhealthy",
}
_FACTS: Mapping[str, Callable[[FoundContainer], str]] = {
    "image": lambda container: _image(container),
    "digest": lambda container: container.image_digest.removeprefix("sha256:")[:12],
    "ports": lambda container: " ".join(container.ports),
    "memory": lambda container: f"{container.memory // (1024 * 1024)} MiB" if container.memory else "no limit",
    "cpus": lambda container: f"{container.cpus:g}" if container.cpus else "no limit",
}
# Worth reading, but never the same on two machines.
_OWN: Mapping[str, Callable[[FoundContainer], str]] = {
    "restarts": lambda container: str(container.restarts),
    "exit code": lambda container: str(container.exit_code) if container.state == "exited" else "",
}


def _image(container: FoundContainer) -> str:
    """The image; of one that Compose has built and named after the project, only that."""
    built = container.image in (f"{container.project}{sign}{container.service}" for sign in "-_")
    return "built there" if built and container.project else whole_reference(container.image)


@dataclass(frozen=True, slots=True)
class _Service:
    """A service on one side. ``defined``: its project says that it is to have a container; ``started``: the project has
    at least one."""

    containers: Sequence[FoundContainer] = ()
    defined: bool = False
    started: bool = False

    @property
    def presence(self) -> str:
        return "yes" if self.containers else MISSING if self.defined else ""

    @property
    def since(self) -> str:
        return max((container.since for container in self.containers), default="")

    def text(self, read: Callable[[FoundContainer], str]) -> str:
        return _together([read(container) for container in self.containers])

    def is_bad(self, state: str) -> bool:
        """Whether the state, or the health, of a container is a bad one."""
        return any(_BAD[state](container) for container in self.containers)


_ABSENT = _Service()
_NO_CHECK = '["NONE"]'


def compare_services(
    left: Side, right: Side, expected: Expectations, known: Collection[str] = ()
) -> tuple[ServiceResult, ...]:
    """The facts of each service on both sides; () if one of the sides cannot have containers. ``known`` are values that
    must not be shown."""
    if left.services is None or right.services is None:
        return ()
    ours, theirs = _services(left), _services(right)
    several = any(len({project for project, _ in side}) > 1 for side in (ours, theirs))
    results = []
    for pair in service_pairs(ours.keys(), theirs.keys()):
        left_name, right_name = pair
        project, service = left_name or right_name or ("", "")
        explain = explanations_for(left, right, expected, {service, *("/".join(name) for name in pair if name)})
        facts = _facts(ours.get(left_name or ("", ""), _ABSENT), theirs.get(right_name or ("", ""), _ABSENT), known)
        results.append(ServiceResult(f"{project}/{service}" if several else service, tuple(map(explain, facts))))
    return tuple(sorted(results, key=lambda result: result.service))


def _facts(left: _Service, right: _Service, known: Collection[str]) -> Iterator[Fact]:
    """The facts of a service. If one side has no container, those of the other are shown; only a bad state counts."""
    ours, theirs = left.presence, right.presence
    if left.containers and right.containers:
        yield _fact("containers", str(len(left.containers)), str(len(right.containers)))
    elif left.containers or right.containers:
        yield Fact("container", ours, theirs, _only_in(left, right), Risk.HIGH)
    else:
        idle = not left.started and not right.started  # two directories in which nobody has started anything
        yield Fact("container", ours, theirs, Status.SAME if idle else Status.FAILED, Risk.HIGH)
        return
    yield from _states(left, right)
    facts = [_fact(name, left.text(read), right.text(read)) for name, read in _FACTS.items()]
    alone = not (left.containers and right.containers)
    for fact in (*facts, *(() if alone else _more_facts(left, right, known))):
        if fact.left or fact.right or fact.status is Status.DIFFERS:
            yield replace(fact, status=_only_in(left, right), informational=True) if alone else fact
    for name, read in _OWN.items():
        if (ours := left.text(read)) + (theirs := right.text(read)):
            yield Fact(name, ours, theirs, Status.SAME, informational=True)
    if left.since or right.since:
        yield Fact("since", left.since, right.since, Status.SAME, informational=True)


def _more_facts(left: _Service, right: _Service, known: Collection[str]) -> Iterator[Fact]:
    """The rest of what the engine says of the first container of each side, without values."""
    ours, theirs = whole_health_checks(
        *(side.containers[0].fields if side.containers else {} for side in (left, right))
    )
    for name in sorted(ours.keys() | theirs.keys()):
        status = Status.SAME if ours.get(name) == theirs.get(name) else Status.DIFFERS
        yield Fact(name, _shown(name, ours, theirs, known), _shown(name, theirs, ours, known), status)


def whole_health_checks(
    left: Mapping[str, str], right: Mapping[str, str]
) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """Given the fields of two sides, return them with the health check as one field if only one side has any."""

    def of(fields: Mapping[str, str]) -> set[str]:
        names = {name for name in fields if name.startswith("healthcheck")}
        return {name for name in names if not name.endswith("disable") and fields[name] != _NO_CHECK}

    def whole(fields: Mapping[str, str]) -> dict[str, str]:
        rest = {name: text for name, text in fields.items() if not name.startswith("healthcheck")}
        test = next((fields[name] for name in of(fields) if name.endswith("test")), "")
        return {**rest, "healthcheck": test} if of(fields) else rest

    return (left, right) if bool(of(left)) == bool(of(right)) else (whole(left), whole(right))


def _shown(name: str, fields: Mapping[str, str], counterpart: Mapping[str, str], known: Collection[str]) -> str:
    """The text of a field; of one that may hold any secret, only whether one side lacks it."""
    if name not in fields:
        return ""
    if name.startswith(("labels ", "logging options ")):
        return "" if name in counterpart else "set"
    return text_of_field(name, fields[name], known) or "set"


def text_of_field(name: str, text: str, known: Collection[str]) -> str:
    """Given the text of a field, return what may be shown of it. Fields that hold no secret do not hide a tag or a
    port, which is the value of some variable more often than not."""
    words = re.split(r"[ .]", name)
    plain = words[0] in _PLAIN or (words[0] == "healthcheck" and words[-1] not in ("healthcheck", "test"))
    return masked(text, () if plain else known, words[-1])


def _states(left: _Service, right: _Service) -> Iterator[Fact]:
    """State and health. A cause counts once: a container that does not run has no health to compare."""
    other_state = left.text(_STATES["state"]) != right.text(_STATES["state"])
    for name, read in _STATES.items():
        ours, theirs = left.text(read), right.text(read)
        bad = left.is_bad(name) or right.is_bad(name)
        if not left.containers or not right.containers:
            status = Status.FAILED if bad else _only_in(left, right)
        elif ours != theirs:
            status = Status.DIFFERS
        else:
            status = Status.FAILED if bad else Status.SAME
        unchecked = "" in (ours, theirs)  # one side has no health check, which counts
        alone = not (left.containers and right.containers) or (name == "health" and (other_state or unchecked))
        if ours or theirs:
            yield Fact(name, ours, theirs, status, Risk.HIGH, informational=alone and not bad)


def _only_in(left: _Service, right: _Service) -> Status:
    return Status.MISSING_RIGHT if left.containers and not right.containers else Status.MISSING_LEFT


def _fact(name: str, ours: str, theirs: str) -> Fact:
    return Fact(name, ours, theirs, Status.SAME if ours == theirs else Status.DIFFERS)


def explanations_for(left: Side, right: Side, expected: Expectations, names: Collection[str]) -> Callable[[Fact], Fact]:
    """What turns a fact of a service with these names into an expected one, if the operator has listed it."""
    environments = {left.environment, right.environment}
    listed = [entry for entry in expected.services if set(entry.between or environments) >= environments]

    def explain(fact: Fact) -> Fact:
        reasons = (entry.reason for entry in listed if fact.unexplained and _explains(entry, names, fact.name))
        reason = next(reasons, "")
        return replace(fact, status=Status.EXPECTED, reason=reason) if reason else fact

    return explain


def _explains(listed: ServiceExpectation, names: Collection[str], fact: str) -> bool:
    whole = re.split(r"[ .]", fact)[0]  # `ports` explains `ports.80/tcp`
    facts = {fact, whole, _SYNONYMS.get(whole, fact)}
    return any(fnmatchcase(name, listed.service) for name in names) and any(
        fnmatchcase(each, pattern) for each in facts for pattern in listed.facts
    )


def _services(side: Side) -> dict[ServiceName, _Service]:
    """The services with a container, and those that are to have one."""
    containers: dict[ServiceName, list[FoundContainer]] = {}
    for container in side.services or ():
        containers.setdefault((container.project, container.service), []).append(container)
    defined = {(project.name, service) for project in side.projects for service in project.services}
    started = {project for project, _ in containers}
    return {
        name: _Service(containers.get(name, ()), name in defined, name[0] in started)
        for name in (*containers, *sorted(defined - containers.keys()))
    }


def service_pairs(
    left: Collection[ServiceName], right: Collection[ServiceName]
) -> Iterator[tuple[ServiceName | None, ServiceName | None]]:
    """Pair services by project and name, else by a name that each side has left once."""
    yield from ((name, name) for name in left if name in right)
    left_rest = [name for name in left if name not in right]
    right_rest = [name for name in right if name not in left]
    for service in sorted({name[1] for name in (*left_rest, *right_rest)}):
        ours, theirs = ([name for name in rest if name[1] == service] for rest in (left_rest, right_rest))
        if len(ours) == len(theirs) == 1:
            yield ours[0], theirs[0]
        else:
            yield from ((name, None) for name in ours)
            yield from ((None, name) for name in theirs)


def _together(values: Sequence[str]) -> str:
    """One text for the values of several containers, with how many have each if they are not all the same."""
    counted = Counter(values)
    if len(counted) <= 1:
        return next(iter(counted), "")
    return ", ".join(f"{number} {value or 'none'}" for value, number in sorted(counted.items()))
