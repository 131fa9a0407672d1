"""Decides whether a recreate changes only what git explains, and says in sentences what else it would change. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from reconciler.core.fidelity.definition import defined_fields
from reconciler.core.fidelity.deployed import Standing, deployed_differences, judge_deployed
from reconciler.core.fidelity.differences import (
    ENVIRONMENT,
    DefinitionChange,
    FieldDifference,
    definition_changes,
    differences,
    has_unnamed_difference,
    unexplained,
)
from reconciler.core.model.compose import Container, DeployedService, Project, Service
from reconciler.core.secrets.masking import masked
from reconciler.core.text import key_name, listed

VERSION_LABEL = "com.docker.compose.version"
_MOST_SHOWN = 6  # differences of one service
_NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Grants:
    """What may differ. ``keys`` gives by service the variables that managed files explain; ``fields`` are the words of
    git_may_change; ``any_field``: git may change the project itself."""

    keys: Mapping[str, Collection[str]] = field(default_factory=dict)
    fields: frozenset[str] = frozenset()
    any_field: bool = False


@dataclass(frozen=True, slots=True)
class ProjectSides:
    """A stack as its containers run, as its project says now (None where Compose cannot resolve it), and as it will say
    after the change. ``images`` are ids by reference, as the engine has them now; ``deployed`` are by name the services
    that the engine itself keeps: what it says of one counts, and not what its containers were made from. A hand edit of
    such a service is taken back, or counts as an edit where the stack ``keeps_hand_edits``."""

    now: Project | None
    after: Project
    containers: Sequence[Container] = ()
    images: Mapping[str, str] = field(default_factory=dict)
    deployed: Mapping[str, DeployedService] = field(default_factory=dict)
    keeps_hand_edits: bool = False


def edits(sides: ProjectSides, services: Collection[str], grants: Grants, hidden: Collection[str] = ()) -> list[str]:
    """Given the ``services`` that are about to be touched, return what of the project somebody has changed since their
    containers were made: what git does not explain, and a recreate would bring along.

    ``hidden`` are values that must not be shown, beside those of the services' own variables.
    """
    sentences = []
    for name in sorted(services):
        fields = list(dict.fromkeys(_edits(sides, name, grants)))
        if fields:
            values = {*hidden, *known_values(sides, name)}
            said = _by_hand_sentences if name in sides.deployed else _edit_sentences
            sentences.append(f"{name}: {'; '.join(said(fields, values))}")
    return sentences


def is_edited_by_hand(sides: ProjectSides, name: str) -> bool:
    """Whether somebody changed the service on the engine itself, and not its project."""
    if name not in sides.deployed or name not in sides.after.services:
        return False
    now = sides.now.services.get(name) if sides.now else None
    standing = judge_deployed(sides.deployed[name], now, sides.after.services[name]).standing
    return standing is Standing.EDITED_BY_HAND


def changed_modes(sides: ProjectSides, services: Collection[str]) -> dict[str, tuple[str, str]]:
    """The services that the engine keeps in another mode (global, job …) than the project says, which no update
    changes: both modes, by service."""
    modes = {}
    for name in sorted(sides.deployed.keys() & sides.after.services.keys() & {*services}):
        runs, says = sides.deployed[name].fields, sides.after.services[name].deploys_as
        pair = tuple(fields.get("mode", {}).get("", "replicated") for fields in (runs, says))
        if says and pair[0] != pair[1]:
            modes[name] = (pair[0], pair[1])
    return modes


def bound_files(sides: ProjectSides, name: str, managed: Collection[str]) -> list[str]:
    """The ``managed`` live files that the engine's service binds, and that the project gives it in another way."""
    if name not in sides.deployed or name not in sides.after.services:
        return []
    runs, says = sides.deployed[name].fields.get("mounts", {}), sides.after.services[name].deploys_as.get("mounts", {})
    bound = {text.removesuffix(" read-only") for place, text in runs.items() if place not in says}
    return sorted(path for path in managed if f"bind {path}" in bound)


def _edits(sides: ProjectSides, name: str, grants: Grants) -> Iterator[FieldDifference]:
    after = sides.after.services.get(name)
    now = sides.now.services.get(name) if sides.now else after
    if name in sides.deployed:
        if after is not None:
            judgement = judge_deployed(sides.deployed[name], now, after)
            if judgement.standing is Standing.PROJECT_EDITED:
                yield from unexplained(judgement.differences, grants.keys.get(name, ()), grants.fields)
            elif sides.keeps_hand_edits:
                yield from judgement.differences
        return
    owners = {container.id: container.service for container in sides.containers}
    for container in sides.containers:
        if container.service != name or after is None or now is None:
            continue
        later = set(differences(after, sides.after.name, container, owners))
        if not later and not _moved(after, container, sides.images):
            continue  # it is already as it will be: the change reverts what the files say now
        fields = differences(now, sides.after.name, container, owners) if now is not after else tuple(later)
        # What the change brings to the container as it runs already is not an edit that comes along.
        places = {(difference.name, difference.item) for difference in later}
        effective = [difference for difference in fields if (difference.name, difference.item) in places]
        yield from unexplained(effective, grants.keys.get(name, ()), grants.fields)
        yield from _moved(now, container, sides.images)


def unnamed_edits(sides: ProjectSides, name: str) -> list[Container]:
    """The containers of a service that were made from another definition than the project has now, or will have, by
    their hash: somebody may have changed a field that is not compared."""
    projects = [project for project in (sides.now, sides.after) if project and name in project.services]
    return [
        container
        for container in sides.containers
        if container.service == name
        and all(has_unnamed_difference(project.services[name], container) for project in projects)
    ]


def made_by_same_compose(container: Container, version: str) -> bool:
    """Whether Compose of this version made the container; a packager's suffix says nothing."""
    label = (container.facts["Config"].get("Labels") or {}).get(VERSION_LABEL, "")
    releases = [re.match(r"v?([0-9]+\.[0-9]+\.[0-9]+)", text) for text in (label, version)]
    return all(releases) and len({release[1] for release in releases if release}) == 1


def _moved(service: Service, container: Container, images: Mapping[str, str]) -> list[FieldDifference]:
    """A tag that now names another image: a recreate would start that one."""
    reference, runs = container.image, container.facts.get("Image", "")
    image = images.get(reference)
    if not image or not runs or image == runs:
        return []
    return [FieldDifference("image", "id", runs, image)]


def definitions(sides: ProjectSides, grants: Grants, hidden: Collection[str] = ()) -> tuple[list[str], tuple[str, ...]]:
    """What new files change in the project although git may not: sentences, and the words of git_may_change that would
    allow them (none where only allow_compose_files does)."""
    if grants.any_field or sides.now is None:
        return [], ()
    sentences, words = [], set[str | None]()
    for name in sorted(sides.now.services.keys() & sides.after.services.keys()):
        now, after = sides.now.services[name], sides.after.services[name]
        changes = [change for change in definition_changes(now, after) if change.grant not in grants.fields]
        if changes and not _runs_already(sides, now, after):
            values = {*hidden, *known_values(sides, name)}
            sentences.append(f"{name}: {'; '.join(_change_sentences(changes, values))}")
            words |= {change.grant for change in changes}
    return sentences, () if None in words else tuple(sorted(filter(None, words)))


def _runs_already(sides: ProjectSides, now: Service, after: Service) -> bool:
    """Whether every container of the service is as the files will say: then only a hand edit in them is taken back."""
    if (deployed := sides.deployed.get(after.name)) is not None:
        if now.deploys_as == after.deploys_as or now.replicas != after.replicas:
            return False  # what changes is not compared
        return not deployed_differences(after, deployed)
    mine = [container for container in sides.containers if container.service == after.name]
    if not mine or now.replicas != after.replicas != len(mine):
        return False
    if defined_fields(now, sides.after.name, {}) == defined_fields(after, sides.after.name, {}) and any(
        has_unnamed_difference(after, container) for container in mine
    ):
        return False  # what changes is not compared
    owners = {container.id: container.service for container in sides.containers}
    return not any(
        difference.name != ENVIRONMENT
        for container in mine
        for difference in differences(after, sides.after.name, container, owners)
    )


def known_values(sides: ProjectSides, name: str) -> set[str]:
    """The values of the service's variables, on every side; those that its image gives are nobody's secret."""
    projects = [project for project in (sides.now, sides.after) if project]
    services = [project.services[name] for project in projects if name in project.services]
    values = {value for service in services for value in service.environment.values() if value}
    for container in sides.containers:
        if container.service == name:
            values |= {value for value in container.environment.values() if value}
            values -= {value for value in container.image_environment.values() if value}
    if name in sides.deployed:
        values |= set(filter(None, sides.deployed[name].fields.get(ENVIRONMENT, {}).values()))
    return values


def _edit_sentences(fields: Iterable[FieldDifference], values: Collection[str]) -> Iterator[str]:
    fields = list(fields)
    if keys := sorted(difference.item for difference in fields if difference.name == ENVIRONMENT):
        subject = f"{listed([key_name(key) for key in keys])} {'differs' if len(keys) == 1 else 'differ'}"
        yield f"environment: {subject}, and no managed file that it reads explains that"
    yield from field_sentences(fields, values, "the container")


def _by_hand_sentences(fields: Iterable[FieldDifference], values: Collection[str]) -> Iterator[str]:
    fields = list(fields)
    if keys := sorted(difference.item for difference in fields if difference.name == ENVIRONMENT):
        yield f"environment: {listed([key_name(key) for key in keys])} of the service and of the project differ"
    yield from field_sentences(fields, values, "the service")


def field_sentences(fields: Iterable[FieldDifference], values: Collection[str], subject: str) -> Iterator[str]:
    """What ``subject`` has otherwise than its project beside variables, with both sides; ``values`` are not shown."""
    rest = [difference for difference in fields if difference.name != ENVIRONMENT]
    for difference in rest[:_MOST_SHOWN]:
        runs, says = _shown(difference.runs, difference, values), _shown(difference.says, difference, values)
        yield f"{place_of(difference)}: {subject} has {runs}, the project now says {says}"
    if len(rest) > _MOST_SHOWN:
        yield f"and {len(rest) - _MOST_SHOWN} more"


def place_of(difference: FieldDifference) -> str:
    """The field, and which item of it."""
    item = difference.item
    return f"{difference.name} {item}" if item and item not in (difference.runs, difference.says) else difference.name


def _shown(text: str, difference: FieldDifference, values: Collection[str]) -> str:
    return masked(text, values, difference.item) if text else _NOTHING


def _change_sentences(changes: Sequence[DefinitionChange], values: Collection[str]) -> Iterator[str]:
    for change in changes[:_MOST_SHOWN]:
        before, after = (masked(text, values) if text else _NOTHING for text in (change.before, change.after))
        yield f"{change.name} would change from {before} to {after}"
    if len(changes) > _MOST_SHOWN:
        yield f"and {len(changes) - _MOST_SHOWN} more"
