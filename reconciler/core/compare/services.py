"""The containers of two sides, service by service. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase

from reconciler.core.compare.risk import Risk
from reconciler.core.compare.types import (
    UNEXPLAINED,
    Expectations,
    Fact,
    ServiceExpectation,
    ServiceResult,
    Side,
    Status,
)
from reconciler.core.inventory import FoundContainer

ServiceName = tuple[str, str]
"""A project and a service of it."""

_FACTS: Mapping[str, Callable[[FoundContainer], str]] = {
    "state": lambda container: container.state,
    "health": lambda container: container.health,
    "restarts": lambda container: str(container.restarts),
    "image": lambda container: container.image,
    "digest": lambda container: container.image_digest.removeprefix("sha256:")[:12],
    "ports": lambda container: " ".join(container.ports),
    "memory": lambda container: f"{container.memory // (1024 * 1024)} MiB" if container.memory else "no limit",
    "cpus": lambda container: f"{container.cpus:g}" if container.cpus else "no limit",
}


def compare_services(left: Side, right: Side, expected: Expectations) -> tuple[ServiceResult, ...]:
    """The facts of each service on both sides; () if one of the sides cannot have containers."""
    if left.services is None or right.services is None:
        return ()
    environments = {left.environment, right.environment}
    explanations = [listed for listed in expected.services if set(listed.between or environments) >= environments]
    ours, theirs = _by_service(left.services), _by_service(right.services)
    several = any(len({project for project, _ in side}) > 1 for side in (ours, theirs))
    results = []
    for pair in _service_pairs(ours.keys(), theirs.keys()):
        left_name, right_name = pair
        project, service = left_name or right_name or ("", "")
        names = {service, *("/".join(name) for name in pair if name)}
        facts = _facts(ours.get(left_name) if left_name else None, theirs.get(right_name) if right_name else None)
        name = f"{project}/{service}" if several else service
        results.append(ServiceResult(name, tuple(_fact(names, explanations, *fact) for fact in facts)))
    return tuple(sorted(results, key=lambda result: result.service))


def _facts(
    left: Sequence[FoundContainer] | None, right: Sequence[FoundContainer] | None
) -> Iterator[tuple[str, str, str, Status]]:
    """Name, left, right and status of each fact."""
    if left is None or right is None:
        status = Status.MISSING_LEFT if left is None else Status.MISSING_RIGHT
        yield "container", "yes" if left else "", "yes" if right else "", status
        return
    facts = [
        (name, *(_together([read(container) for container in side]) for side in (left, right)))
        for name, read in _FACTS.items()
    ]
    for name, ours, theirs in [*facts, ("containers", str(len(left)), str(len(right)))]:
        if ours or theirs:
            # The number of restarts is worth reading, but never the same on two machines.
            ignored = name == "restarts" or ours == theirs
            yield name, ours, theirs, Status.SAME if ignored else Status.DIFFERS


def _fact(
    names: Collection[str], explanations: Sequence[ServiceExpectation], fact: str, left: str, right: str, status: Status
) -> Fact:
    reason = ""
    if status in UNEXPLAINED:
        reason = next((listed.reason for listed in explanations if _explains(listed, names, fact)), "")
    risk = Risk.HIGH if fact in ("state", "health", "container") else Risk.MEDIUM
    return Fact(fact, left, right, Status.EXPECTED if reason else status, risk, reason)


def _explains(listed: ServiceExpectation, names: Collection[str], fact: str) -> bool:
    return any(fnmatchcase(name, listed.service) for name in names) and any(
        fnmatchcase(fact, pattern) for pattern in listed.facts
    )


def _by_service(containers: Sequence[FoundContainer]) -> dict[ServiceName, list[FoundContainer]]:
    services: dict[ServiceName, list[FoundContainer]] = {}
    for container in containers:
        services.setdefault((container.project, container.service), []).append(container)
    return services


def _service_pairs(
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
