"""Decides which services ran when they were last healthy and run no more, and whether somebody stopped them. Pure.

The engine forgets: a container that was removed has no state, and of one that was stopped only the events say by whom.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from reconciler.core.decide import health
from reconciler.core.decide.next_steps import NextSteps, next_steps
from reconciler.core.model.compose import (
    Container,
    DeployedService,
    Ending,
    HealthStatus,
    Project,
    RanService,
    ServiceHealth,
    StackHealth,
)
from reconciler.core.model.targets import Stack
from reconciler.core.text import instant

_UP = frozenset({"running", "paused", "restarting"})
_BY_SOMEBODY = (Ending.STOPPED, Ending.KILLED)
_TERMINATED = {130, 143}
_KILLED = 137
_ALWAYS = ("always", "unless-stopped")
_SERVICE_REMOVED = "its service was removed"
_SCALED_TO_NONE = "scaled to 0 by hand"
_WORST_FIRST = ("replaced", "dead", "exited", "killed", "missing", "created", "pending", "stopped")


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known beyond the list of containers: ``endings`` by container id, which ``names`` of containers that are
    gone somebody else's containers have now, the resolved ``project`` (None: Compose cannot resolve it), of which
    services a restart is ``pending``, and which the engine itself keeps (None: it keeps only containers)."""

    endings: Mapping[str, Ending] = field(default_factory=dict)
    names: Collection[str] = ()
    project: Project | None = None
    pending: Collection[str] = ()
    deployed: Mapping[str, DeployedService] | None = None


@dataclass(frozen=True, slots=True)
class _End:
    """How one container ended; ``by_hand``: somebody had the engine stop it."""

    state: str
    reason: str
    by_hand: bool = False
    removed: bool = False


@dataclass(frozen=True, slots=True)
class _Gone:
    """A service that runs no more, or not with all of its containers."""

    ran: RanService
    ends: tuple[_End, ...]
    running: int
    restarts: int

    @property
    def by_hand(self) -> bool:
        return all(end.by_hand for end in self.ends)


@dataclass(frozen=True, slots=True)
class GoneServices:
    """What a look found: the ``services`` that run no more, sorted, and what to remember for the next look.

    ``taken_down``: somebody stopped the whole project.
    """

    services: tuple[ServiceHealth, ...]
    ran: tuple[RanService, ...]
    taken_down: bool = False


def is_up(container: Container) -> bool:
    """Whether its process exists, or the engine is about to start it again."""
    return container.state in _UP


def lacks_containers(ran: RanService, containers: Iterable[Container]) -> bool:
    """Whether fewer containers of the service run than when it was last healthy."""
    up = [container for container in containers if container.service == ran.service and is_up(container)]
    # All of them made again: somebody has recreated the service, perhaps with another scale.
    recreated = up and not any(container.id in ran.containers for container in up)
    return len(up) < len(ran.containers) and not recreated


def find_gone(
    stack: Stack,
    ran: Sequence[RanService],
    containers: Sequence[Container],
    evidence: Evidence,
    now: float,
    *,
    paused: bool = False,
) -> GoneServices:
    """Given the stack's services as they ran when last healthy, and its containers now, return those that run no more.

    A service that has left the project, and one that has done its work, is forgotten. ``paused``: an operator paused
    the stack. ``now`` is in epoch seconds.
    """
    gone: list[_Gone] = []
    known: list[RanService] = []
    for before in ran:
        if not lacks_containers(before, containers):
            seen_pending = before.service in evidence.pending
            known.append(replace(before, endings={}, gone_since=None, seen_pending=seen_pending))
        elif not _has_left(before.service, evidence.project):
            service = _with_evidence(before, containers, evidence, now)
            ends = _ends(stack, service, containers, evidence)
            mine = [container for container in containers if container.service == service.service]
            running = sum(map(is_up, mine))
            if ends:
                gone.append(_Gone(service, ends, running, sum(container.restarts for container in mine)))
                known.append(service)
            elif running:
                known.append(_scaled(service, containers))
    taken_down = _is_taken_down(gone, containers)
    services = tuple(_health(stack, it, evidence.project, taken_down=taken_down, paused=paused) for it in gone)
    return GoneServices(services, tuple(known), taken_down)


def stack_health(stack: Stack, containers: Sequence[Container], gone: Sequence[ServiceHealth]) -> StackHealth:
    """Given the containers at one moment, and the services that run no more, return the health of the stack: that of
    its worst service. What an operator acknowledges does not count."""
    counted = {service.service for service in gone if not service.acknowledged}
    gone_names = {service.service for service in gone}
    rest = [it for it in containers if it.service not in gone_names or (it.service not in counted and is_up(it))]
    summary = health.summarise_health(stack, rest)
    services = {service.service: service for service in (*summary.services, *gone)}
    status = HealthStatus.UNHEALTHY if counted else summary.status
    return StackHealth(stack.name, status, tuple(services[name] for name in sorted(services)))


def remember_running(
    stack: Stack, ran: Iterable[RanService], containers: Iterable[Container], health: Iterable[ServiceHealth]
) -> tuple[RanService, ...]:
    """Given what was remembered, and the services' health now, return what to remember: the containers of those that
    are healthy now, the rest as before. One-shot services are not meant to run on."""
    healthy = {service.service for service in health if service.healthy} - stack.one_shot
    running: dict[str, dict[str, str]] = {}
    for container in containers:
        if container.service in healthy and container.state == "running":
            running.setdefault(container.service, {})[container.id] = container.name
    kept = {service.service: service for service in ran if service.stack == stack.name}
    now = {
        name: replace(kept.get(name, RanService(stack.name, name, {})), containers=names, endings={}, gone_since=None)
        for name, names in running.items()
    }
    return tuple(service for _, service in sorted({**kept, **now}.items()))


def about_to_restart(ran: RanService) -> RanService:
    """Given a service that is about to be restarted by us, return what is known of it until it is seen to run."""
    return replace(ran, seen_pending=False)


def stopped_by_somebody(
    ran: Iterable[RanService], containers: Sequence[Container], endings: Mapping[str, Ending], pending: Collection[str]
) -> frozenset[str]:
    """The services of which nothing runs because somebody had the engine stop, kill or remove it: only they start it
    again. A recreate that was interrupted stops a container too: then a new one was made, and never started, or its
    restart is ``pending`` and nobody has seen it run since.
    """
    remembered = {service.service: service for service in ran}
    stopped = set()
    for name in {container.service for container in containers} | remembered.keys():
        mine = [container for container in containers if container.service == name]
        before = remembered.get(name)
        if any(map(is_up, mine)):
            continue
        known = {**(before.endings if before else {}), **(endings if _is_trusted(name, before, pending) else {})}
        ids = [container.id for container in mine] or list(before.containers if before else ())
        if ids and all(known.get(identity) in _BY_SOMEBODY for identity in ids):
            stopped.add(name)
    return frozenset(stopped)


def ids_of(ran: RanService, containers: Iterable[Container]) -> frozenset[str]:
    """The ids of the containers that the service had when it was last healthy, and of those that it has now."""
    return frozenset(ran.containers) | {it.id for it in containers if it.service == ran.service}


def _is_trusted(service: str, ran: RanService | None, pending: Collection[str]) -> bool:
    """Whether the engine's events say what somebody did, not what a restart of ours did that was interrupted."""
    return service not in pending or (ran is not None and ran.seen_pending)


def _has_left(service: str, project: Project | None) -> bool:
    """Whether the project no longer has the service, or wants none of it."""
    if project is None or service in project.unresolved:
        return False
    return service not in project.services or project.services[service].replicas == 0


def _with_evidence(ran: RanService, containers: Iterable[Container], evidence: Evidence, now: float) -> RanService:
    """The service with how its containers ended; what was known before stays where the engine has forgotten it."""
    ids = ids_of(ran, containers) if _is_trusted(ran.service, ran, evidence.pending) else frozenset()
    endings = dict(ran.endings)
    for identity in ids & evidence.endings.keys():
        ending = evidence.endings[identity]
        if ending is not Ending.DIED or identity not in endings:
            endings[identity] = ending
    return replace(ran, endings=endings, gone_since=now if ran.gone_since is None else ran.gone_since)


def _ends(stack: Stack, ran: RanService, containers: Sequence[Container], evidence: Evidence) -> tuple[_End, ...]:
    """How the containers ended that the service lacks; nothing where it has done its work, or was scaled down."""
    mine = [it for it in containers if it.service == ran.service and it.state != "removing"]
    up = sum(map(is_up, mine))
    deployed = (evidence.deployed or {}).get(ran.service)
    if evidence.deployed is not None and deployed is None:
        # A stack of which nothing is left was taken down.
        return (_End("missing", _SERVICE_REMOVED, by_hand=not evidence.deployed, removed=True),)
    if deployed is not None and deployed.replicas == 0:
        return (_End("stopped", _SCALED_TO_NONE, by_hand=True),)
    present = [container for container in mine if not is_up(container)]
    ends = [_end_of(it, ran.endings.get(it.id)) for it in present if not _is_done(stack, ran, it)]
    if present and not up:
        return tuple(ends)  # the newest containers say it: those that they replaced are rightly gone
    service = evidence.project.services.get(ran.service) if evidence.project else None
    wanted = service.replicas if service else None
    if deployed is not None and deployed.replicas is not None:
        wanted = deployed.replicas
    if up and wanted is not None and up >= wanted:
        return tuple(ends)  # as many as the project wants: a scale by hand is over
    for identity in sorted(ran.containers.keys() - {container.id for container in mine}):
        ending = ran.endings.get(identity)
        if ending is Ending.FINISHED or (up and ending is Ending.STOPPED):
            continue
        ends.append(_end_of_removed(ran.containers[identity], ending, evidence.names))
    return tuple(ends)


def _is_done(stack: Stack, ran: RanService, container: Container) -> bool:
    """Whether it ended by itself with success, and nothing says that it should run on: an init or one-shot service."""
    if container.state != "exited" or container.exit_code != 0:
        return False
    if container.service in stack.one_shot:
        return True
    policy = (container.facts.get("HostConfig") or {}).get("RestartPolicy") or {}
    return ran.endings.get(container.id) is not Ending.STOPPED and policy.get("Name") not in _ALWAYS


def _end_of(container: Container, ending: Ending | None) -> _End:
    """How a container ended that is still there."""
    code = container.exit_code
    if container.state != "exited":
        sentence = "was made, and never started" if container.state == "created" else f"is {container.state}"
        return _End(container.state, sentence)
    if ending is Ending.STOPPED:
        return _End("stopped", "stopped by hand", by_hand=True)
    if container.out_of_memory:
        return _End("killed", "killed by the kernel: out of memory")
    if ending is Ending.KILLED:
        return _End("killed", "killed through the engine (docker kill)")
    if code == _KILLED:
        return _End("killed", f"killed (exit code {code})")
    if code in _TERMINATED or code == 0:
        return _End("stopped", f"stopped (exit code {code})")
    return _End("exited", f"exited with code {code}")


def _end_of_removed(name: str, ending: Ending | None, names: Collection[str]) -> _End:
    """How a container ended that is gone."""
    if name and name in names:
        return _End("replaced", f"the container {name} is another one now, not of this project", removed=True)
    if ending is Ending.STOPPED:
        return _End("stopped", "stopped by hand, and its container removed", by_hand=True, removed=True)
    if ending is Ending.KILLED:
        return _End("missing", "killed and removed (docker rm -f)", removed=True)
    return _End("missing", "its container is gone", removed=True)


def _scaled(ran: RanService, containers: Iterable[Container]) -> RanService:
    """The service with the containers that are left of it: somebody has removed the others."""
    up = {container.id for container in containers if container.service == ran.service and is_up(container)}
    names = {identity: name for identity, name in ran.containers.items() if identity in up}
    return RanService(ran.stack, ran.service, names)


def _is_taken_down(gone: Sequence[_Gone], containers: Iterable[Container]) -> bool:
    """Whether somebody stopped the whole project: removed it (`docker compose down`), or stopped every service of it
    (`docker compose stop`). Where only one has run, that looks like a stop of the service alone, and is no such thing.
    """
    present = list(containers)
    if not gone or any(is_up(container) for container in present):
        return False
    ends = [end for service in gone for end in service.ends]
    if any(end.state == "replaced" for end in ends):
        return False
    removed = not present and any(end.by_hand for end in ends)
    return removed or (len(gone) > 1 and all(service.by_hand for service in gone))


def _way_on(steps: NextSteps, service: str, end: _End) -> str:
    """How an operator has the service run again."""
    if end.reason == _SCALED_TO_NONE:
        return steps.scale_up(service)
    return steps.create(service) if end.reason == _SERVICE_REMOVED else steps.start(service)


def _health(stack: Stack, gone: _Gone, project: Project | None, *, taken_down: bool, paused: bool) -> ServiceHealth:
    ran, worst = gone.ran, min(gone.ends, key=lambda end: _WORST_FIRST.index(end.state))
    number = f"{len(gone.ends)} of {len(gone.ends) + gone.running} containers: " if gone.running else ""
    since = f", noticed at {instant(ran.gone_since)}" if ran.gone_since is not None else ""
    steps = next_steps(stack, project)
    step = "" if taken_down else f". {_way_on(steps, ran.service, worst)}"
    with_project = " with its project" if taken_down else ""
    return ServiceHealth(
        stack.name,
        ran.service,
        worst.state,
        healthy=False,
        restarts=gone.restarts,
        reason=f"{number}{worst.reason}{with_project}{since}{step}",
        acknowledged=taken_down or paused,
        logs=steps.logs(ran.service),
    )
