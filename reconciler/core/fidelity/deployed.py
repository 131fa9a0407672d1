"""Judges a service that the engine itself keeps: as its project says, changed by hand, or older than the project. Pure.

The digest that we leave on a service when we deploy it decides: where it is that of the project, whatever the service
has otherwise was changed by hand. Where it is another one, somebody has edited the project since.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from reconciler.core.fidelity.differences import ENVIRONMENT, FieldDifference, item_differences
from reconciler.core.model.compose import DeployedService, Fields, Service

REPLICAS = "replicas"
CONTENTS = frozenset({"config content", "secret content"})
"""What files hold that a service mounts: git may always change that, and it is no edit of the project."""


# Older engines drop these without a word.
_OF_NEWER_ENGINES = frozenset({"healthcheck start_interval", "oom_score_adj"})


class Standing(StrEnum):
    """How a deployed service relates to its project."""

    IN_SYNC = "in_sync"
    EDITED_BY_HAND = "edited_by_hand"
    PROJECT_EDITED = "project_edited"


@dataclass(frozen=True, slots=True)
class Judgement:
    """``differences`` are those of a service that was edited by hand, from its project; of one whose project was edited
    since, those that a deploy would bring along."""

    standing: Standing
    differences: tuple[FieldDifference, ...] = ()


_IN_SYNC = Judgement(Standing.IN_SYNC)


def deployed_differences(service: Service, deployed: DeployedService) -> tuple[FieldDifference, ...]:
    """What the engine keeps of the service otherwise than its project says. How many containers it has is no part of
    that: a scale by hand stays. Of variables only the names are there."""
    differences: list[FieldDifference] = []
    fields = {**deployed.fields, **_foreign_names(service.deploys_as, deployed.fields)}
    for name in sorted({*service.deploys_as, *fields} - {REPLICAS}):
        runs, says = fields.get(name, {}), service.deploys_as.get(name, {})
        if name in _OF_NEWER_ENGINES and not runs:
            continue
        items = item_differences(name, runs, says)
        if name == ENVIRONMENT:
            items = (FieldDifference(name, difference.item) for difference in items)
        differences += items
    return tuple(differences)


def _foreign_names(expected: Fields, runs: Fields) -> dict[str, Mapping[str, str]]:
    """The configs and secrets that run, with whole names where the project says another thing than content of ours: a
    name that ends like ours may be anybody's."""
    whole: dict[str, Mapping[str, str]] = {}
    for kind in CONTENTS & runs.keys():
        names = f"{kind.removesuffix(' content')}s"
        foreign = runs[kind].keys() & expected.get(names, {}).keys() - expected.get(kind, {}).keys()
        words = {target: runs[names][target].replace(" ", f"_{runs[kind][target]} ", 1) for target in foreign}
        if words:
            whole[names] = {**runs[names], **words}
        whole[kind] = {target: digits for target, digits in runs[kind].items() if target not in foreign}
    return whole


def judge_deployed(deployed: DeployedService, now: Service | None, after: Service) -> Judgement:
    """Given a service as the engine keeps it, as its project says now (None where Compose cannot resolve it) and after
    a change, return how it stands. A service that is as the project says on one side is in sync: what git changes then
    is not an edit."""
    sides = [now, after] if now is not None else [after]
    found = {id(side): deployed_differences(side, deployed) for side in sides}
    if not all(found.values()):
        return _IN_SYNC
    for side in sides:
        if deployed.deployed_as and deployed.deployed_as == side.digest:
            return Judgement(Standing.EDITED_BY_HAND, found[id(side)])
    # What the change brings to the service as it is already is not an edit that comes along.
    places = {(difference.name, difference.item) for difference in found[id(after)]}
    brought = tuple(
        difference
        for difference in found[id(sides[0])]
        if (difference.name, difference.item) in places and difference.name not in CONTENTS
    )
    return Judgement(Standing.PROJECT_EDITED, brought) if brought else _IN_SYNC
