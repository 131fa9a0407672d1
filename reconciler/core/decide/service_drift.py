"""Decides which services somebody changed on the engine itself, and what is done about each. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace

from reconciler.core.fidelity.deployed import Standing, judge_deployed
from reconciler.core.fidelity.differences import ENVIRONMENT
from reconciler.core.fidelity.guard import ProjectSides, field_sentences, known_values, place_of
from reconciler.core.model.compose import Service
from reconciler.core.model.plans import Effect, KeyChange, ServiceDrift
from reconciler.core.model.targets import OnDrift, Stack
from reconciler.core.text import key_name, listed

DRIFT_ID = "service-drift"


@dataclass(frozen=True, slots=True)
class DriftPolicy:
    """What keeps a service from being deployed again: ``paused`` says why nothing of the stack may be touched, and
    ``backing_off`` why one service waits; both "" where nothing does. ``ran`` are the services that ran when they were
    last healthy; ``hidden`` values are not shown."""

    paused: str = ""
    backing_off: Callable[[str], str] = lambda _: ""
    ran: Collection[str] = ()
    hidden: Collection[str] = field(default=(), repr=False)


def service_drifts(stack: Stack, sides: ProjectSides, policy: DriftPolicy) -> tuple[ServiceDrift, ...]:
    """Given a stack before and after a change of files, and its services as the engine keeps them, return those that
    somebody changed there, or removed. How many containers a service has is left to the hand that scaled it.

    A stack of which nothing is there any more was taken down.
    """
    return tuple(_drifts(stack, sides, policy))


def scale_notes(stack: Stack, sides: ProjectSides) -> list[str]:
    """What was scaled by hand, in sentences: it stays so."""
    sentences = []
    for name, deployed in sorted(sides.deployed.items()):
        project = sides.now or sides.after
        said = project.services[name].replicas if name in project.services else None
        if said is not None and deployed.replicas not in (None, said):
            sentences.append(
                f"stack {stack.name}: {name} is scaled to {deployed.replicas} by hand, the project says {said}. "
                "It stays so"
            )
    return sentences


def _drifts(stack: Stack, sides: ProjectSides, policy: DriftPolicy) -> Iterator[ServiceDrift]:
    ours = any(service.deployed_as for service in sides.deployed.values())
    for name, after in sorted(sides.after.services.items()):
        if name in sides.deployed:
            drift = _edited(stack, sides, after, policy.hidden)
        else:
            there = sides.now is not None and name in sides.now.services and after.replicas > 0
            removed = ServiceDrift(stack.name, name, Effect.WRITE, "somebody removed it", missing=True)
            drift = removed if ours and there and name in policy.ran else None
        if drift is not None:
            yield _with_effect(drift, stack, policy)


def _edited(stack: Stack, sides: ProjectSides, after: Service, hidden: Collection[str]) -> ServiceDrift | None:
    """What somebody changed of a service that is there."""
    deployed, now = sides.deployed[after.name], sides.now.services.get(after.name) if sides.now else None
    judgement = judge_deployed(deployed, now, after)
    if judgement.standing is not Standing.EDITED_BY_HAND:
        return None
    deployed_from = now if now is not None and now.digest == deployed.deployed_as else after
    said = deployed_from.deploys_as.get(ENVIRONMENT, {})
    keys = KeyChange.between(deployed.fields.get(ENVIRONMENT, {}), said)
    fields = [difference for difference in judgement.differences if difference.name != ENVIRONMENT]
    names = [*map(key_name, keys.names), *map(place_of, fields)]
    return ServiceDrift(
        stack=stack.name,
        service=after.name,
        effect=Effect.WRITE,
        reason=f"{listed(names)} {'was' if len(names) == 1 else 'were'} changed by hand",
        keys=keys,
        fields=tuple(map(place_of, fields)),
        details=tuple(field_sentences(fields, {*hidden, *known_values(sides, after.name)}, "the service")),
    )


def _with_effect(drift: ServiceDrift, stack: Stack, policy: DriftPolicy) -> ServiceDrift:
    """The drift that is taken back, or why it is not."""
    if stack.on_drift is OnDrift.REPORT:
        effect, waits, id = Effect.REPORT, "on_drift is report", DRIFT_ID
    elif policy.paused:
        effect, waits, id = Effect.HOLD, policy.paused, "paused"
    elif waits := policy.backing_off(drift.service):
        effect, id = Effect.HOLD, "conflicting-writer"
    else:
        return drift
    return replace(drift, effect=effect, reason=f"{drift.reason}; {waits}", error_id=id)
