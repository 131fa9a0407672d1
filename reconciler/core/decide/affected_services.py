"""Decides which services a change of files concerns, and what each of them needs. Pure: functions of their arguments.

Compose does not help here: `restart` never loads new values, `up` without names starts what was stopped on purpose, and
neither `up` nor `config --hash` notices a changed mounted file or inline config. See docs/architecture.md.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from reconciler.core.fidelity.differences import differing_variables
from reconciler.core.model.compose import Action, ActionKind, Container, ManagedFile, Project, Service, Sight
from reconciler.core.model.plans import Effect, ServiceDrift
from reconciler.core.model.targets import ChangeMode, OnChange, Stack
from reconciler.core.secret import Secret
from reconciler.core.text import listed

# Exit codes of a container that an operator stopped: finished, Ctrl-C, killed, terminated.
_STOPPED_CODES = frozenset({0, 130, 137, 143})
RUNNING = frozenset({"running", "paused", "restarting"})
_WEIGHT = {ActionKind.SIGNAL: 1, ActionKind.RESTART: 2, ActionKind.RECREATE: 3}
_NAMESPACES = {"network_mode": "network", "ipc": "IPC namespace", "pid": "PID namespace"}


@dataclass(frozen=True, slots=True)
class MountedFiles:
    """Live files by path, for services that mount them: ``policies`` say what a change means for those. A file that is
    ``replaced`` is another one under the same name: a container that mounts it by itself keeps the old one until it
    starts again. ``sights`` are by service and path what running containers have of such a file."""

    policies: Mapping[str, OnChange] = field(default_factory=dict)
    replaced: frozenset[str] = frozenset()
    sights: Mapping[str, Mapping[str, Sight]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class KeptServices:
    """Services that the engine itself keeps: ``replicas`` by name as it has them, None where its nodes decide that, and
    the ``drifts`` of those that somebody changed there."""

    replicas: Mapping[str, int | None] = field(default_factory=dict)
    drifts: Sequence[ServiceDrift] = ()


@dataclass(frozen=True, slots=True)
class _Cause:
    """One reason for a service to be touched, and how."""

    kind: ActionKind
    reason: str
    signal: str = ""
    force: bool = False
    stale: tuple[str, ...] = ()
    wave: int = 0
    repairs: bool = False


def affected(
    stack: Stack,
    before: Project | None,
    after: Project,
    containers: Sequence[Container],
    changed: Mapping[str, OnChange],
    pending_restarts: Iterable[Action] = (),
    *,
    managed: Mapping[str, ManagedFile],
    mounts: MountedFiles = MountedFiles(),
    followers: Iterable[Action] = (),
    stopped: Collection[str] = (),
    kept: KeptServices = KeptServices(),
) -> tuple[Action, ...]:
    """Given a stack before and after a change of files, return what its services need, sorted by service.

    ``before`` is None where Compose could not resolve it; ``changed`` maps the live paths whose bytes change to what
    that means for who mounts them; ``managed`` has by path the stack's env files that git manages: of what a container
    has otherwise than the files say, only their keys make it stale; ``pending_restarts`` are actions of an
    earlier or interrupted run: they are due whatever state the interruption left the containers in; ``followers`` are
    what services need as they share something with a container elsewhere. Other services than those of pending restarts
    are touched only if they have a container that was not stopped on purpose, or the engine keeps them with none
    (``kept``). Nothing is due to the services that somebody ``stopped``. Of a service that somebody changed on the
    engine itself (see ``kept``), that decides, and not what its containers have. Has no effects.
    """
    drifts = {drift.service: drift for drift in kept.drifts}
    present = {name: group for name, group in _present(stack, containers).items() if name not in stopped}
    causes: dict[str, list[_Cause]] = {}
    idle = {name for name, replicas in kept.replicas.items() if replicas == 0} - present.keys() - set(stopped)
    for name in sorted((present.keys() | idle) & after.services.keys()):
        service = after.services[name]
        old = before.services.get(name) if before else None
        blame = _Blame(before or after, after, {} if name in drifts else managed)
        mine = present.get(name, ())
        own = [*_own_causes(old, service, mine, blame), *_mount_causes(stack, service, changed, mounts)]
        if own:
            # Without a container there is only the definition that the engine keeps to bring up to date.
            causes[name] = [replace(cause, kind=ActionKind.RECREATE) for cause in own] if name in idle else own
    startable = after.services.keys() - set(stopped)
    for name in drifts.keys() & startable:
        if drifts[name].effect is Effect.WRITE:
            causes.setdefault(name, []).append(_Cause(ActionKind.RECREATE, drifts[name].reason, repairs=True))
    pending = {action.service: action for action in pending_restarts if action.service in startable}
    following = [action for action in followers if action.service in present.keys() & startable]
    for action in (*pending.values(), *following):
        cause = _Cause(action.kind, action.reason, action.signal, action.force, action.stale, action.wave)
        causes.setdefault(action.service, []).append(cause)
    _follow(causes, after, frozenset(present))
    scales = {name: _scale(before, after, name, containers, kept) for name in causes}
    scales |= {name: action.scale for name, action in pending.items()}
    return _alike(_action(stack, name, causes[name], present.get(name, ()), scales[name]) for name in sorted(causes))


def managed_keys(project: Project, service: Service, managed: Mapping[str, ManagedFile]) -> frozenset[str]:
    """Given managed env files by path, return the variables of the service whose value comes from one that Compose
    reads for it: from its own env files, or by interpolation from those of the project."""
    own = {key for path in service.env_files & managed.keys() for key in managed[path].keys}
    keys = own | service.references.keys()
    return frozenset(key for key in keys if explaining_files(project, service, managed, [key]))


def explaining_files(
    project: Project, service: Service, managed: Mapping[str, ManagedFile], keys: Iterable[str]
) -> tuple[str, ...]:
    """Given variables of the service, return the live paths of the managed env files that give it one of them, sorted.

    What `environment` says wins over env files. Of several env files with a key it is the one with the value that
    Compose resolves, where that can be told.
    """
    paths: set[str] = set()
    for key in keys:
        names = service.references.get(key)
        interpolated = [managed[path] for path in project.environments & managed.keys()]
        files = [file for file in interpolated if file.keys & (names or set())]
        if names is None or (not files and names == {key}):
            own = [managed[path] for path in service.env_files & managed.keys() if key in managed[path].keys]
            files = [file for file in own if file.values.get(key, "") == service.environment.get(key)] or own
        paths |= {file.path for file in files}
    return tuple(sorted(paths))


def stale_keys(service: Service, containers: Iterable[Container]) -> tuple[str, ...]:
    """Names of the variables whose value in a running container is not what the service resolves to, sorted.

    A variable that is named without a value, and one that neither the service nor the image gives but the docker
    client's proxy settings do, say nothing.
    """
    keys: set[str] = set()
    for container in containers:
        if container.state in RUNNING:
            keys |= differing_variables(service, container)
    return tuple(sorted(keys))


def reads(project: Project, service: str, path: str) -> bool:
    """Whether the service gets something of the file: as variables, by interpolation, or mounted."""
    known = project.services.get(service)
    if known is None:
        return False
    return path in known.env_files | project.environments or _mounts(known, path)


def missing_mounts(stack: Stack, project: Project | None, gone: Iterable[str]) -> list[str]:
    """Given live paths that would be deleted, return which service mounts one by itself, in sentences: Docker would
    make a directory of that name."""
    services = project.services if project else {}
    users = {path: [name for name in sorted(services) if path in services[name].sources] for path in gone}
    return [
        f"stack {stack.name}: {listed(names)} still mounts {path}, which would go. Remove it from compose.yaml first"
        for path, names in users.items()
        if names
    ]


def needed_by(project: Project, actions: Iterable[Action], services: Collection[str]) -> bool:
    """Whether one of these ``services`` would have to follow what is done to another one."""
    owners = {action.service for action in actions if action.kind is not ActionKind.SIGNAL} - {*services}
    guests = [project.services[name] for name in services if name in project.services]
    return any(owners & (guest.namespace_of | guest.volumes_of | guest.restarts_with) for guest in guests)


def is_stopped_on_purpose(stack: Stack, container: Container) -> bool:
    """Whether an operator, not a failure, keeps this container from running. A one-shot that is done is not stopped."""
    if container.state == "exited":
        if container.exit_code == 0 and container.service in stack.one_shot:
            return False
        return container.exit_code in _STOPPED_CODES and not container.out_of_memory
    return container.state in ("created", "removing")


def _present(stack: Stack, containers: Iterable[Container]) -> dict[str, tuple[Container, ...]]:
    """Containers by service, of the services that are meant to run here."""
    present: dict[str, tuple[Container, ...]] = {}
    for container in containers:
        if not is_stopped_on_purpose(stack, container):
            present[container.service] = (*present.get(container.service, ()), container)
    return present


def _scale(
    before: Project | None, after: Project, name: str, containers: Iterable[Container], kept: KeptServices
) -> int | None:
    """The number of containers that a recreate must keep; None where the project says the right one.

    Those that exited or died count: they are replicas that should run. Numbers count, not containers, as an interrupted
    `up` leaves two of one number. Where one was removed from between (numbers 1 and 3), it is missing, up to the number
    that the project says; where the last one was removed, nobody can tell that from a scale by hand.
    """
    said = after.services[name].replicas
    was = before.services[name].replicas if before and name in before.services else said
    if name in kept.replicas:
        return None if kept.replicas[name] in (was, said) else kept.replicas[name]
    numbers = {container.number for container in containers if container.service == name}
    count = len(numbers)
    if numbers and max(numbers) > count < was:
        count = min(max(numbers), was)
    return None if not numbers or count in (was, said) else count


# --- the service itself: its definition, its values ---


@dataclass(frozen=True, slots=True)
class _Blame:
    """Which managed files give a service its variables, before and after a change."""

    before: Project
    after: Project
    managed: Mapping[str, ManagedFile]

    def stale(self, project: Project, service: Service, containers: Sequence[Container]) -> dict[str, tuple[str, ...]]:
        """The variables that the containers have in an older version, with the files that explain that."""
        keys = stale_keys(service, containers)
        files = {key: explaining_files(project, service, self.managed, [key]) for key in keys}
        return {key: paths for key, paths in files.items() if paths}


def _paths(files: Mapping[str, Iterable[str]]) -> tuple[str, ...]:
    return tuple(sorted({path for paths in files.values() for path in paths}))


def _own_causes(
    before: Service | None, after: Service, containers: Sequence[Container], blame: _Blame
) -> Iterator[_Cause]:
    if before is not None and (difference := _difference(before, after, containers, blame)):
        yield difference
        return
    if files := blame.stale(blame.after, after, containers):
        reason = f"container runs older values of {listed(sorted(files))}"
        yield _Cause(ActionKind.RECREATE, reason, stale=_paths(files))


def _difference(before: Service, after: Service, containers: Sequence[Container], blame: _Blame) -> _Cause | None:
    """What differs between the two definitions, unless it is only values that every container already has.

    (A hand edit that nobody gave to the container, and that is now reverted, needs no recreate.)
    """
    keys = _key_difference(before.environment, after.environment)
    old, new = _parts(before.definition), _parts(after.definition)
    parts = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    if not keys and not parts:
        return None
    if not parts and containers and not any(differing_variables(after, container) for container in containers):
        return None
    reasons = [keys] if keys else []
    if parts:
        reasons.append(f"its {listed(parts)} changed")
    # Compose compares the service's own text only, not the configs and secrets it refers to.
    force = not keys and all(" " in part for part in parts)
    stale = _paths(blame.stale(blame.before, before, containers))
    return _Cause(ActionKind.RECREATE, "; ".join(reasons), force=force, stale=stale)


def _key_difference(before: Mapping[str, str | None], after: Mapping[str, str | None]) -> str:
    """Names of the variables by which the two differ, in words; "" where they are equal."""
    groups = {
        "changed": [key for key in before.keys() & after.keys() if before[key] != after[key]],
        "added": [key for key in after if key not in before],
        "removed": [key for key in before if key not in after],
    }
    return "; ".join(f"{listed(sorted(keys))} {change}" for change, keys in groups.items() if keys)


def _parts(definition: Secret) -> dict[str, Any]:
    """The definition in pieces with a name: a service's own fields ("image"), what it refers to ("config app")."""
    whole = json.loads(definition.reveal())
    own = {key: value for key, value in whole.get("service", {}).items() if key != "environment"}
    references = {
        f"{kind.removesuffix('s')} {name}": value
        for kind, named in whole.items()
        if kind != "service"
        for name, value in named.items()
    }
    return own | references


# --- files that a service mounts ---


def _mount_causes(
    stack: Stack, service: Service, changed: Mapping[str, OnChange], mounts: MountedFiles
) -> Iterator[_Cause]:
    sights = mounts.sights.get(service.name, {})
    by_effect: dict[OnChange, list[str]] = {}
    for path in sorted(changed.keys() | mounts.replaced):
        effect = changed.get(path, mounts.policies.get(path, OnChange()))
        alone = path in service.sources and (path in mounts.replaced or sights.get(path) in (Sight.EQUAL, Sight.OTHER))
        if alone and effect.mode in (ChangeMode.SIGNAL, ChangeMode.NONE):
            said = "none" if effect.mode is ChangeMode.NONE else f"signal:{effect.signal}"
            reason = f"mounts {path_in(stack, path)} by itself, and sees the new file only once it restarts"
            reason += f" (on_change: {said} is not enough)"
            yield _Cause(ActionKind.RESTART, reason)
        elif effect.mode is not ChangeMode.NONE and (alone or (path in changed and _mounts(service, path))):
            by_effect.setdefault(effect, []).append(path_in(stack, path))
    for path in sorted(sights.keys() - changed.keys() - mounts.replaced):
        if sights[path] is Sight.OTHER:
            recreate = mounts.policies.get(path, OnChange()).mode is ChangeMode.RECREATE
            kind = ActionKind.RECREATE if recreate else ActionKind.RESTART
            reason = f"mounts {path_in(stack, path)} by itself, and still has the file that was there before"
            yield _Cause(kind, reason, force=recreate, stale=(path,))
    for effect, paths in by_effect.items():
        kind = ActionKind(effect.mode.value)
        # Neither the mount's path nor the service's text changes, so Compose would see no need.
        force = kind is ActionKind.RECREATE
        yield _Cause(kind, f"mounts {listed(paths)}", signal=effect.signal, force=force)


def _mounts(service: Service, path: str) -> bool:
    return any(holds(source, path) for source in service.sources)


def holds(source: str, path: str) -> bool:
    """Whether ``path`` is what is mounted, or lies in the directory that is."""
    return path == source or path.startswith(source.rstrip("/") + "/")


def path_in(stack: Stack, path: str) -> str:
    """The path as it is shown: from the stack's directory."""
    return posixpath.relpath(path, stack.directory) if holds(stack.directory, path) else path


# --- services that live with others ---


def _follow(causes: dict[str, list[_Cause]], project: Project, present: frozenset[str]) -> None:
    """Add to ``causes``, transitively, what follows for the services that share something with an affected one."""
    queue = sorted(causes)
    while queue:
        owner = queue.pop(0)
        kind, wave = _strongest(causes[owner]), _latest(causes[owner])
        for name in sorted(present & project.services.keys()):
            for inherited in _inherited(project.services[name], owner, kind):
                cause = replace(inherited, wave=wave)
                if cause not in causes.get(name, ()):
                    causes.setdefault(name, []).append(cause)
                    queue.append(name)


def _inherited(service: Service, owner: str, kind: ActionKind) -> Iterator[_Cause]:
    if kind is ActionKind.SIGNAL:
        return
    if owner in service.namespace_of:
        # A restart makes a new namespace for the same container; its guests must enter it again.
        yield _Cause(kind, f"shares the {_namespace(service, owner)} of {owner}")
    elif owner in service.volumes_of and kind is ActionKind.RECREATE:
        yield _Cause(kind, f"uses the volumes of {owner}")
    elif owner in service.restarts_with:
        yield _Cause(ActionKind.RESTART, f"restarts with {owner}")


def _namespace(service: Service, owner: str) -> str:
    parts = _parts(service.definition)
    shared = [words for field, words in _NAMESPACES.items() if parts.get(field) == f"service:{owner}"]
    return " and ".join(shared) or "namespace"


# --- all causes of one service together ---


def _strongest(causes: Iterable[_Cause]) -> ActionKind:
    return max((cause.kind for cause in causes), key=_WEIGHT.__getitem__)


def _latest(causes: Iterable[_Cause]) -> int:
    """The wave in which all causes are met."""
    return max(cause.wave for cause in causes)


def _action(
    stack: Stack, service: str, causes: Sequence[_Cause], containers: Iterable[Container], scale: int | None
) -> Action:
    kind = _strongest(causes)
    signals = {cause.signal for cause in causes if cause.kind is ActionKind.SIGNAL}
    if kind is ActionKind.SIGNAL:
        listening = any(container.state == "running" for container in containers)
        # Nobody there to hear it, or two different signals: a restart does what they are for.
        kind = kind if listening and len(signals) == 1 else ActionKind.RESTART
    return Action(
        stack=stack.name,
        service=service,
        kind=kind,
        reason="; ".join(dict.fromkeys(cause.reason for cause in causes)),
        signal=signals.pop() if kind is ActionKind.SIGNAL else "",
        force=kind is ActionKind.RECREATE and any(cause.force for cause in causes),
        stale=tuple(sorted({path for cause in causes for path in cause.stale})),
        scale=scale if kind is ActionKind.RECREATE else None,
        one_shot=service in stack.one_shot,
        wave=_latest(causes),
        repairs=any(cause.repairs for cause in causes),
    )


def _alike(actions: Iterable[Action]) -> tuple[Action, ...]:
    """Force all recreates of the stack if one must be forced: Compose then does them in one go, owners of namespaces
    before their guests. One go after the other could leave a guest with a namespace that is gone."""
    decided = tuple(actions)
    if not any(action.force for action in decided):
        return decided
    return tuple(replace(action, force=action.kind is ActionKind.RECREATE) for action in decided)
