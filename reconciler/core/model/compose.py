"""Compose projects, containers, their health, and actions on services."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from reconciler.core.secret import Secret


class HealthStatus(StrEnum):
    """The health of a stack's services as one word. ``unknown``: the engine does not answer."""

    HEALTHY = "healthy"
    STARTING = "starting"
    UNHEALTHY = "unhealthy"
    STOPPED = "stopped"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Service:
    """A service of a resolved project.

    ``definition`` is canonical JSON of everything that shapes its container (secret: it holds the environment), the
    service itself under "service", the configs, secrets, networks and volumes it refers to beside it;
    ``environment`` the resolved variables (None: named without a value and unset); ``sources`` the absolute host
    paths of its binds, configs and secrets; ``namespace_of`` the services whose network, IPC or PID namespace it
    lives in, ``volumes_of`` those whose volumes it mounts, ``restarts_with`` those whose restart it follows.
    """

    name: str
    definition: Secret
    environment: Mapping[str, str | None] = field(repr=False)
    sources: frozenset[str] = frozenset()
    namespace_of: frozenset[str] = frozenset()
    volumes_of: frozenset[str] = frozenset()
    restarts_with: frozenset[str] = frozenset()
    replicas: int = 1


@dataclass(frozen=True, slots=True)
class Project:
    """`docker compose config`, read: the project's name and its services by name."""

    name: str
    services: Mapping[str, Service] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Container:
    """A container as the engine's inspect shows it.

    ``state`` is created, running, paused, restarting, removing, exited or dead; ``health`` is "", starting, healthy
    or unhealthy; ``image`` is the reference it was made from; ``out_of_memory`` says that the kernel killed it;
    ``started_at`` and ``finished_at`` are RFC 3339 times of its latest run, in the engine's clock.
    """

    id: str
    service: str
    state: str
    health: str = ""
    exit_code: int = 0
    restarts: int = 0
    started_at: str = ""
    finished_at: str = ""
    image: str = ""
    out_of_memory: bool = False
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    image_environment: Mapping[str, str] = field(default_factory=dict, repr=False)


class ActionKind(StrEnum):
    RECREATE = "recreate"
    RESTART = "restart"
    SIGNAL = "signal"


@dataclass(frozen=True, slots=True)
class Action:
    """What one service needs, and the reason in words.

    ``force``: recreate it although Compose itself would see no difference (``up --force-recreate``). ``stale``: its
    containers run older values than the files held before this change.
    """

    stack: str
    service: str
    kind: ActionKind
    reason: str
    signal: str = ""
    force: bool = False
    stale: bool = False


@dataclass(frozen=True, slots=True)
class ServiceHealth:
    """A service as last seen: ``state`` is the engine's word, ``healthy`` our verdict on it."""

    stack: str
    service: str
    state: str
    healthy: bool
    restarts: int = 0


@dataclass(frozen=True, slots=True)
class StackHealth:
    """The health of a stack at one moment; no services if the engine does not answer."""

    stack: str
    status: HealthStatus
    services: tuple[ServiceHealth, ...] = ()
