"""Asks, before a service is touched, whether its project is still what its containers were made from. Reads only.

The decision is pure: see core/fidelity/guard.py.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from reconciler.core.decide.affected_services import is_stopped_on_purpose, managed_keys
from reconciler.core.decide.next_steps import next_steps
from reconciler.core.decide.service_drift import DRIFT_ID
from reconciler.core.dotenv.grammar import EnvFileError
from reconciler.core.dotenv.interpolation import resolve_env_file
from reconciler.core.errors import ReconcilerError
from reconciler.core.fidelity.compose_hash import compose_hashes
from reconciler.core.fidelity.guard import (
    Grants,
    ProjectSides,
    bound_files,
    changed_modes,
    definitions,
    edits,
    is_edited_by_hand,
    made_by_same_compose,
    unnamed_edits,
)
from reconciler.core.model.compose import (
    Action,
    ActionKind,
    Container,
    DeployedService,
    ManagedFile,
    Project,
)
from reconciler.core.model.settings import Settings
from reconciler.core.model.targets import OnDrift, Parser, Stack, environment_of
from reconciler.core.ports import Ports
from reconciler.core.secret import Secret
from reconciler.core.text import listed
from reconciler.engine.observe import Snapshot

_UNNAMED = "the project now defines it otherwise than its container, in a field that reconciler cannot name"
_ALLOW = "the server configuration must set allow_compose_files: true for that"


@dataclass(frozen=True, slots=True)
class StackSides:
    """A stack before (None where Compose cannot resolve it) and after a change, with its containers and what the engine
    itself keeps of its services; ``managed`` are its env files in git, by path, ``pending`` the services whose change
    passed the guard before; ``images`` are known ids of the containers' images, by name."""

    stack: Stack
    before: Project | None
    after: Project | None
    containers: Sequence[Container]
    managed: Mapping[str, ManagedFile]
    pending: frozenset[str] = frozenset()
    hidden: frozenset[str] = field(default=frozenset(), repr=False)
    deployed: Sequence[DeployedService] | None = None
    images: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ProjectVerdict:
    """``hold``: why the ``services``, or where none is named the whole stack, may not be touched, and the ways on; ""
    where they may be. ``id`` is that of the reason. ``accepted``: what would be held and an operator has accepted."""

    hold: str = ""
    id: str = ""
    accepted: str = ""
    services: frozenset[str] = frozenset()


async def judge_project(
    ports: Ports, sides: StackSides, due: Sequence[Action], *, accepted: bool = False
) -> ProjectVerdict:
    """Whether the services that are due may be touched. Raises EngineUnavailableError."""
    if sides.after is None:
        return ProjectVerdict()
    touched = {action.service for action in due if action.kind is not ActionKind.SIGNAL}
    allowed = grants(ports.settings, sides.stack)
    containers = [container for container in sides.containers if not is_stopped_on_purpose(sides.stack, container)]
    wanted = {container.image for container in containers if container.service in touched} - sides.images.keys()
    images = {**sides.images, **(await ports.compose.images(wanted) if wanted else {})}
    project = project_sides(sides, containers, images)
    any_field = ports.settings.allow_compose_files
    changed, words = definitions(project, Grants(fields=allowed, any_field=any_field), sides.hidden)
    if changed:
        return ProjectVerdict(_git_may_not(sides.stack, changed, words), "project-change-refused")
    if modes := changed_modes(project, touched):
        return ProjectVerdict(_other_mode(sides, modes), "project-edited", services=frozenset(modes))
    fresh = touched - sides.pending
    keys = {name: _explained_keys(project, name, sides.managed) for name in fresh}
    blamed = {name: edits(project, [name], Grants(keys), sides.hidden) for name in sorted(fresh)}
    # What is pending passed the guard before its run began; the values it removes are in no file any more.
    known = {name: _all_keys(project, name) for name in touched & sides.pending}
    if not any_field:
        blamed |= {name: edits(project, [name], Grants(known, allowed), sides.hidden) for name in sorted(known)}
    if not any(blamed.values()):
        blamed = await _unnamed(ports, project, fresh)
    sentences = [sentence for reasons in blamed.values() for sentence in reasons]
    if not sentences:
        return ProjectVerdict()
    if accepted:
        return ProjectVerdict(accepted=". ".join(sentences))
    services = frozenset(name for name, reasons in blamed.items() if reasons)
    by_hand = {name for name in services if is_edited_by_hand(project, name)}
    conflicts = [sentence for name in sorted(by_hand) for sentence in blamed[name]]
    edited = [sentence for name in sorted(services - by_hand) for sentence in blamed[name]]
    holds = [_conflict(sides.stack, conflicts)] if conflicts else []
    bound = {name: bound_files(project, name, sides.stack.managed) for name in sorted(services - by_hand)}
    holds += [_edited_since(sides, edited, bound)] if edited else []
    return ProjectVerdict(". ".join(holds), "project-edited" if edited else DRIFT_ID, services=services)


def project_sides(
    sides: StackSides, containers: Sequence[Container], images: Mapping[str, str] | None = None
) -> ProjectSides:
    """The stack as it is compared; its project with the new files has to be known."""
    assert sides.after is not None
    return ProjectSides(
        now=sides.before,
        after=sides.after,
        containers=containers,
        images=images or {},
        deployed={service.name: service for service in sides.deployed or ()},
        keeps_hand_edits=sides.stack.on_drift is OnDrift.REPORT,
    )


async def _unnamed(ports: Ports, sides: ProjectSides, services: Collection[str]) -> dict[str, list[str]]:
    """The services with a hash that their definition cannot have: sure only where the Compose of now made the
    containers, and gives the definition the hash that we do."""
    sentences = {}
    for name in sorted(services):
        containers = unnamed_edits(sides, name)
        if sides.now is None or name not in sides.now.services or not containers:
            continue
        version, own = await ports.compose.own_hash(sides.now, name)
        same = any(made_by_same_compose(container, version) for container in containers)
        if same and own in compose_hashes(sides.now.services[name].text):
            sentences[name] = [f"{name}: {_UNNAMED}"]
    return sentences


def grants(settings: Settings, stack: Stack) -> frozenset[str]:
    """What git may change in the stack's project, in the words of git_may_change."""
    environment = environment_of(stack.environment)
    names = (stack.name, f"{environment}/{stack.name}")
    return frozenset(word for name in names for word in settings.git_may_change.get(name, ()))


def _explained_keys(sides: ProjectSides, service: str, managed: Mapping[str, ManagedFile]) -> frozenset[str]:
    """The variables of a service that managed files explain, which Compose reads for it before or after the change. Of
    a service that the engine keeps and that we have not deployed, only those that the change touches."""
    projects = [project for project in (sides.now, sides.after) if project and service in project.services]
    keys = frozenset(key for project in projects for key in managed_keys(project, project.services[service], managed))
    deployed = sides.deployed.get(service)
    # Another loader, as Docker's own, may give other values of the same files: only a change in git explains them.
    return keys if deployed is None or deployed.deployed_as else keys & _changed_keys(sides, service)


def _changed_keys(sides: ProjectSides, service: str) -> frozenset[str]:
    """The variables that the change itself gives another value."""
    now, after = (
        project.services[service].environment if project and service in project.services else {}
        for project in (sides.now, sides.after)
    )
    return frozenset(key for key in now.keys() | after.keys() if now.get(key) != after.get(key))


def _all_keys(sides: ProjectSides, service: str) -> frozenset[str]:
    keys = {key for container in sides.containers if container.service == service for key in container.environment}
    for project in (sides.now, sides.after):
        if project and service in project.services:
            keys |= project.services[service].environment.keys()
    return frozenset(keys)


def _git_may_not(stack: Stack, changed: Sequence[str], words: Sequence[str]) -> str:
    name = f"{environment_of(stack.environment)}/{stack.name}"
    hint = f"Revert it in git; {_ALLOW}"
    if words:
        hint = f"Revert it in git, or add git_may_change: [{', '.join(words)}] for {name} to the server configuration"
    return f"git would change more of the project than it may. {'. '.join(changed)}. {hint}"


def _other_mode(sides: StackSides, modes: Mapping[str, tuple[str, str]]) -> str:
    changes = [f"{name} is {runs}, and the project says {says}" for name, (runs, says) in modes.items()]
    others = {service.name for service in sides.deployed or ()} - modes.keys()
    steps = next_steps(sides.stack, sides.after)
    return (
        f"{'. '.join(changes)}. No update changes a service's mode: {steps.replace(list(modes), others=bool(others))}"
    )


def _conflict(stack: Stack, sentences: Sequence[str]) -> str:
    return (
        f"changed by hand, and git changes it too. {'. '.join(sentences)}. on_drift is report: an operator decides. "
        f"Undo the change by hand, or deploy the project over it with `{next_steps(stack, None).accept}`"
    )


def _edited_since(sides: StackSides, sentences: Sequence[str], bound: Mapping[str, Sequence[str]]) -> str:
    stack = sides.stack
    steps = next_steps(stack, sides.before or sides.after)
    if binds := [f"{name} binds {listed(paths)}" for name, paths in bound.items() if paths]:
        return (
            f"{stack.name} was deployed otherwise. {'; '.join(binds)}, which git manages: a bind exists on one node "
            "only, so it is deployed as a config, or where git encrypts it as a secret, at the same place. "
            f"{'. '.join(sentences)}. A deploy by hand cannot do that: accept it with `{steps.accept}`"
        )
    said = f"the project of {stack.name} is not what runs, and git does not explain it. {'. '.join(sentences)}"
    return f"{said}. {steps.settle_edit()}"


def hidden_values(snapshot: Snapshot, staged: Mapping[str, Secret | None], stack: Stack) -> frozenset[str]:
    """The values in the stack's env files, those on disk and those about to be: no message may show one."""
    values: set[str] = set()
    for state in snapshot.states:
        target, live = state.target, snapshot.live[state.target.path]
        if target.stack == stack.name and target.parser is not Parser.OPAQUE:
            for data in (live.data if live else None, staged.get(target.path)):
                with contextlib.suppress(EnvFileError):
                    values |= set(resolve_env_file(data.reveal() if data else b"", {}).values())
    return frozenset(values)


async def hold_of_rollback(ports: Ports, stack: Stack, services: Collection[str]) -> str:
    """Why the restored files may not be given to the services: somebody has edited the project meanwhile; or ""."""
    with contextlib.suppress(ReconcilerError):  # what is wrong is met by the recreate itself
        project = await ports.compose.project(stack)
        containers = await ports.compose.containers(stack, project.name)
        deployed = await ports.compose.deployed(stack, project.name)
        pending = frozenset(services)
        due = [Action(stack.name, name, ActionKind.RECREATE, "rolled back") for name in services]
        sides = StackSides(stack, project, project, containers, {}, pending, deployed=deployed)
        return (await judge_project(ports, sides, due)).hold
    return ""
