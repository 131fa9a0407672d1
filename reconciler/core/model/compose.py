"""Compose projects, containers, their health, and actions on services."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from reconciler.core.model.targets import DEFAULT_KIND, StackKind
from reconciler.core.secret import Secret

Fields = Mapping[str, Mapping[str, str]]
"""Field → item → text. A field that is one value has the one item ""; a field that is not there is not compared."""


class HealthStatus(StrEnum):
    """The health of a stack's services as one word. ``unknown``: the engine does not answer."""

    HEALTHY = "healthy"
    STARTING = "starting"
    UNHEALTHY = "unhealthy"
    STOPPED = "stopped"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Invocation:
    """How `docker compose` is run for a project: in ``directory``, with these options before its subcommand.

    Paths are absolute. What is empty is not given: Compose then does what it does by itself.
    """

    directory: str
    files: tuple[str, ...] = ()
    project: str = ""
    env_files: tuple[str, ...] = ()
    profiles: tuple[str, ...] = ()
    project_directory: str = ""

    def options(self, profiles: Iterable[str] | None = None, root: str = "") -> list[str]:
        """Words for a command line; with other profiles, and with every path below ``root``, where those are given."""
        given = {
            "--project-directory": [root + self.project_directory] if self.project_directory else [],
            "-p": [self.project] if self.project else [],
            "-f": [root + path for path in self.files],
            "--env-file": [root + path for path in self.env_files],
            "--profile": self.profiles if profiles is None else profiles,
        }
        return [word for option, values in given.items() for value in values for word in (option, value)]

    def command(self, subcommand: str) -> str:
        """The command line that an operator types in ``directory``; paths in it are as short as they can be."""
        inside = f"{self.directory.rstrip('/')}/"
        options = [word.removeprefix(inside) for word in self.options()]
        return " ".join(["docker compose", *map(shlex.quote, options), subcommand])


@dataclass(frozen=True, slots=True)
class StartedAs:
    """What Compose noted on a container about the command that made it. ``directory`` is the project's; paths are
    absolute; ``created`` in seconds, to tell which is newer."""

    project: str
    directory: str
    files: tuple[str, ...] = ()
    env_files: tuple[str, ...] = ()
    running: bool = True
    created: float = 0.0


@dataclass(frozen=True, slots=True)
class ProjectFiles:
    """What Compose reads as a project, as absolute paths, whether they exist or not: its compose ``files``, with what
    they include and extend, and the ``environments`` it interpolates with (`.env`, --env-file, those of includes)."""

    files: frozenset[str]
    environments: frozenset[str]


@dataclass(frozen=True, slots=True)
class Service:
    """A service of a resolved project.

    ``definition`` is canonical JSON of everything that shapes its container (secret: it holds the environment), the
    service itself under "service", the configs, secrets, networks and volumes it refers to beside it;
    ``environment`` the resolved variables (None: named without a value and unset); ``sources`` the absolute host
    paths of its binds, configs and secrets; ``namespace_of`` the services whose network, IPC or PID namespace it
    lives in, ``volumes_of`` those whose volumes it mounts, ``restarts_with`` those whose restart it follows,
    ``depends_on`` gives the condition of each on which its start depends;
    ``env_files`` the absolute paths of its env files, ``references`` per variable those that its value is made of;
    ``text`` is the service in JSON as Compose prints it, in its order: for the hash that Compose makes of it.
    Where the engine itself keeps services (see DeployedService), ``deploys_as`` is what a deploy makes of this one
    there, and ``digest`` the keyed digest of its definition. ``notes`` are sentences on what of it is otherwise
    there than the project says.
    """

    name: str
    definition: Secret
    environment: Mapping[str, str | None] = field(repr=False)
    sources: frozenset[str] = frozenset()
    namespace_of: frozenset[str] = frozenset()
    volumes_of: frozenset[str] = frozenset()
    restarts_with: frozenset[str] = frozenset()
    depends_on: Mapping[str, str] = field(default_factory=dict)
    replicas: int = 1
    text: Secret = field(default_factory=lambda: Secret(b"{}"))
    env_files: frozenset[str] = frozenset()
    references: Mapping[str, frozenset[str]] = field(default_factory=dict)
    deploys_as: Fields = field(default_factory=dict, repr=False)
    digest: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DeployedService:
    """A service as the engine itself keeps it, where it does so apart from its containers: that can be changed by hand
    too.

    ``fields`` is its definition, with the environment, whose values are secret; ``version`` is another one after each
    change of it, whoever made that. ``deployed_as`` is the digest of the definition that we last gave it (see
    Service.digest), "" where we never did. ``replicas`` is how many containers it shall have, None where the engine's
    nodes decide that.
    """

    name: str
    fields: Fields = field(repr=False)
    version: str = ""
    deployed_as: str = ""
    replicas: int | None = None


@dataclass(frozen=True, slots=True)
class Project:
    """`docker compose config`, read: the project's name and its services by name.

    ``kind`` is that of its stack; ``invocation`` is how Compose was run, ``profiles`` those that were active for it,
    ``environments`` the files it interpolates with; ``unresolved`` has the services that were left out, as Compose
    cannot resolve them and none of them runs, with the reason. ``inputs`` is a digest of all that Compose has read for
    it, "" where that is not known.
    """

    name: str
    services: Mapping[str, Service] = field(repr=False)
    invocation: Invocation = Invocation("/")
    kind: StackKind = DEFAULT_KIND
    profiles: tuple[str, ...] = ("*",)
    environments: frozenset[str] = frozenset()
    unresolved: Mapping[str, str] = field(default_factory=dict)
    unresolved_env_files: frozenset[str] = frozenset()
    inputs: str = field(default="", compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Container:
    """A container as the engine's inspect shows it, or a task of a Swarm: its place in the service (slot).

    ``state`` is created, pending, running, paused, restarting, removing, exited or dead; pending is a task that no node
    runs yet. ``health`` is "", starting (also of one that an update has yet to replace), healthy or unhealthy;
    ``error`` is the engine's own reason for what is wrong with it, ``node`` the machine that it is on, "" for the
    engine's own; ``allowed`` the seconds that the engine itself gives it, and those that are updated with it, to become
    healthy; ``logs`` is the command that shows what it printed; ``number`` distinguishes the replicas of a service;
    ``image`` is the reference it was made from; ``out_of_memory`` says that the kernel killed it; ``started_at`` and
    ``finished_at`` are RFC 3339 times of its latest run, in the engine's clock; ``depends_on`` gives the condition of
    each service on which its start depended; ``facts`` is all that inspect says of it (nothing where only the list was
    asked), ``image_facts`` what its image gives.
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
    number: int = 1
    name: str = ""
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    image_environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    depends_on: Mapping[str, str] = field(default_factory=dict)
    error: str = ""
    node: str = ""
    allowed: float = 0.0
    logs: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    image_facts: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def pid(self) -> int:
        """The id of its first process, as the engine's machine counts; 0 where it is not known."""
        return int((self.facts.get("State") or {}).get("Pid") or 0)

    @property
    def binds(self) -> tuple[tuple[str, str], ...]:
        """What it mounts of its machine, each with the place inside."""
        mounts = self.facts.get("Mounts") or ()
        return tuple((mount["Source"], mount["Destination"]) for mount in mounts if mount["Type"] == "bind")


@dataclass(frozen=True, slots=True)
class ManagedFile:
    """An env file that git manages, at its live ``path``. ``keys`` are those that it has, is about to have, or had when
    it was last applied; ``values`` are what it gives now, as far as it alone says that."""

    path: str
    keys: frozenset[str]
    values: Mapping[str, str] = field(default_factory=dict, repr=False)


class Sight(StrEnum):
    """What a container has of a file that it mounts by itself: the ``same`` file as lies there now, another one of
    ``equal`` content, or an ``other`` one; ``unknown`` where that cannot be told."""

    SAME = "same"
    EQUAL = "equal"
    OTHER = "other"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Guest:
    """A container that lives with others, whoever made it: in their network, IPC or PID namespace, with their volumes.

    ``shares`` gives the ids of those others by what is shared: "network", "IPC namespace", "PID namespace", "volumes".
    ``lost`` is what of it does not exist any more: the other container was removed, or restarted since. ``gone`` says
    that it was removed, so that a restart cannot join it again. ``project``, ``service`` and ``directory`` are
    Compose's, "" for a container that Compose has not made.
    """

    id: str
    name: str
    shares: Mapping[str, frozenset[str]]
    running: bool = True
    lost: tuple[str, ...] = ()
    gone: bool = False
    project: str = ""
    service: str = ""
    directory: str = ""


class Ending(StrEnum):
    """How a container's latest run ended, by the engine's events: somebody had the engine stop it (`docker stop`,
    `docker compose stop` or `down`) or kill it (`docker kill`, `docker rm -f`), its work was finished (exit code 0), or
    it died without the engine being asked for that."""

    STOPPED = "stopped"
    KILLED = "killed"
    FINISHED = "finished"
    DIED = "died"


@dataclass(frozen=True, slots=True)
class RanService:
    """A service as it ran when it was last healthy: the names of its ``containers`` by their ids.

    Since ``gone_since`` (epoch seconds) fewer of them run; ``endings`` says by id how containers of it ended, as far as
    that is known. ``seen_pending``: it ran while a restart of it was pending, so what stopped it since is not that
    restart, begun and interrupted.
    """

    stack: str
    service: str
    containers: Mapping[str, str]
    endings: Mapping[str, Ending] = field(default_factory=dict)
    gone_since: float | None = None
    seen_pending: bool = False


class ActionKind(StrEnum):
    RECREATE = "recreate"
    RESTART = "restart"
    SIGNAL = "signal"


@dataclass(frozen=True, slots=True)
class Action:
    """What one service needs, and the reason in words.

    ``force``: recreate it although Compose itself would see no difference (``up --force-recreate``). ``stale`` are the
    live paths of the files of which its containers have an older version than the one before this change. ``scale`` is
    the number of containers to keep, None for the number that the project says. ``one_shot``: the service is meant to
    end. ``wave``: it comes after the actions of all lower waves, in every stack. ``repairs``: it takes back what
    somebody changed on the engine itself.
    """

    stack: str
    service: str
    kind: ActionKind
    reason: str
    signal: str = ""
    force: bool = False
    stale: tuple[str, ...] = ()
    scale: int | None = None
    one_shot: bool = False
    wave: int = 0
    repairs: bool = False


@dataclass(frozen=True, slots=True)
class ServiceHealth:
    """A service as last seen: ``healthy`` is our verdict on it, ``state`` the engine's word.

    Of one that ran and runs no more the state is stopped, killed, missing, replaced or created; ``reason`` says more.
    ``running`` of its ``containers`` run, those that it shall have included; ``nodes`` are the machines they are on,
    none where that is the engine's own; ``logs`` is the command that shows what it printed, "" for Compose's.

    ``acknowledged``: an operator knows that it does not run, as they paused it or took it down with its project.
    """

    stack: str
    service: str
    state: str
    healthy: bool
    restarts: int = 0
    reason: str = ""
    acknowledged: bool = False
    containers: int = 0
    running: int = 0
    nodes: tuple[str, ...] = ()
    logs: str = ""


@dataclass(frozen=True, slots=True)
class StackHealth:
    """The health of a stack at one moment; no services if the engine does not answer."""

    stack: str
    status: HealthStatus
    services: tuple[ServiceHealth, ...] = ()
