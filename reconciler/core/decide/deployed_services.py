"""Decides what services need that the engine itself keeps, and somebody has changed there by hand or removed. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from reconciler.core.fidelity.deployed import Standing, judge_deployed
from reconciler.core.fidelity.guard import edit_sentences
from reconciler.core.model.compose import Action, ActionKind, DeployedService, Project
from reconciler.core.model.targets import Stack


def removed_services(ran: Iterable[str], deployed: Sequence[DeployedService]) -> frozenset[str]:
    """Given the services that ran when they were last healthy, and those that are deployed, return those that somebody
    removed. Where none is left, somebody took the whole stack down."""
    return frozenset(ran) - {service.name for service in deployed} if deployed else frozenset()


def repairs(
    stack: Stack,
    now: Project | None,
    after: Project,
    deployed: Sequence[DeployedService],
    removed: Collection[str],
    hidden: Collection[str] = (),
) -> tuple[Action, ...]:
    """Given a stack as its project says now (None where that cannot be resolved) and after a change, return what brings
    the engine's services back to it, sorted. How many containers they have stays. ``hidden`` are values that must not
    be shown."""
    reasons = {name: "somebody removed it" for name in removed & after.services.keys() if _is_wanted(after, name)}
    scales: dict[str, int | None] = {}
    for service in deployed:
        if service.name not in after.services:
            continue
        own = now.services.get(service.name) if now else None
        judgement = judge_deployed(service, own, after.services[service.name])
        if judgement.standing is Standing.EDITED_BY_HAND:
            sentence = "; ".join(edit_sentences(judgement.differences, hidden))
            reasons[service.name] = f"somebody changed it by hand: {sentence}"
            scales[service.name] = _scale(service, after)
    return tuple(
        Action(stack.name, name, ActionKind.RECREATE, reasons[name], scale=scales.get(name), by_hand=True)
        for name in sorted(reasons)
    )


def scale_notes(stack: Stack, project: Project | None, deployed: Iterable[DeployedService]) -> list[str]:
    """Sentences about services that somebody has scaled: they stay so."""
    sentences = []
    for service in deployed:
        if project is None or service.name not in project.services or (count := _scale(service, project)) is None:
            continue
        said = project.services[service.name].replicas
        sentences.append(f"stack {stack.name}: {service.name} is scaled to {count} by hand, the project says {said}")
    return sentences


def _is_wanted(project: Project, name: str) -> bool:
    return project.services[name].replicas > 0


def _scale(service: DeployedService, project: Project) -> int | None:
    """The number of containers that somebody gave the service; None where it is the project's."""
    said = project.services[service.name].replicas
    return service.replicas if service.replicas is not None and service.replicas != said else None
