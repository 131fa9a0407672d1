"""What a manifest names: targets, their live files, and stacks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from reconciler.core.secret import Secret


class Format(StrEnum):
    """How sops reads a source (its --input-type); ``plain`` sources are not encrypted."""

    DOTENV = "dotenv"
    JSON = "json"
    YAML = "yaml"
    INI = "ini"
    BINARY = "binary"
    PLAIN = "plain"


class Parser(StrEnum):
    """How a live file is read for its keys."""

    COMPOSE = "compose"
    RAW = "raw"
    OPAQUE = "opaque"


class OnDrift(StrEnum):
    RESTORE = "restore"
    REPORT = "report"


class OnFirstContact(StrEnum):
    HOLD = "hold"
    TAKE_OVER = "take_over"


class OnFailure(StrEnum):
    ROLLBACK = "rollback"
    HOLD = "hold"


class ChangeMode(StrEnum):
    """What the services that mount a changed file need."""

    RECREATE = "recreate"
    RESTART = "restart"
    SIGNAL = "signal"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class OnChange:
    """What a change of a mounted file does to the services that mount it; ``signal`` is a name such as HUP."""

    mode: ChangeMode = ChangeMode.RECREATE
    signal: str = ""


class WriteMode(StrEnum):
    """How a live file gets new content: ``replace`` puts a new file in its place, ``in_place`` writes into the one that
    is there, which a container may mount by itself."""

    REPLACE = "replace"
    IN_PLACE = "in_place"


@dataclass(frozen=True, slots=True)
class Check:
    """A command of the server configuration that must succeed on the staged file; ``{file}`` stands for its path."""

    name: str
    argv: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Target:
    """One live file and its source in git. ``path`` is absolute, ``source`` is relative to the environment.

    ``contracts`` are the JSON Schemas that its variables must satisfy, relative to the directory of environments.
    """

    environment: str
    source: str
    path: str
    stack: str | None = None
    encrypted: bool = True
    mode: int = 0o600
    owner: str | None = None
    group: str | None = None
    on_drift: OnDrift = OnDrift.RESTORE
    on_change: OnChange = OnChange()
    write: WriteMode = WriteMode.REPLACE
    on_first_contact: OnFirstContact = OnFirstContact.HOLD
    parser: Parser = Parser.COMPOSE
    check: Check | None = None
    contracts: tuple[str, ...] = ()
    allow_shrink: bool = False
    prune: bool = False
    ignore_keys: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        return f"{self.environment}/{self.source}"


@dataclass(frozen=True, slots=True)
class HttpCheck:
    url: str
    status: int = 200


@dataclass(frozen=True, slots=True)
class HealthPolicy:
    """``timeout`` and ``stable_for`` in seconds: how long to wait for health, how long running must last."""

    timeout: float = 90.0
    stable_for: float = 15.0
    http: tuple[HttpCheck, ...] = ()


class StackKind(StrEnum):
    """What runs a stack: Docker Compose on its host, or the Swarm whose manager the host is."""

    COMPOSE = "compose"
    SWARM = "swarm"


DEFAULT_KIND = StackKind.COMPOSE
"""What runs a stack whose manifest does not say."""


@dataclass(frozen=True, slots=True)
class MountedTarget:
    """A live file of a stack, for services that mount it by itself: if its source is encrypted, its mode and owner.

    ``owner`` and ``group`` are names or numbers of its host; ``None`` is whatever the live file has.
    """

    encrypted: bool = True
    mode: int = 0o600
    owner: str | None = None
    group: str | None = None


@dataclass(frozen=True, slots=True)
class Stack:
    """One Compose project on this host. ``directory`` is absolute.

    ``files`` (-f), ``env_files`` (--env-file) and ``project_directory`` are absolute or relative to it; ``project`` is
    the project's name (-p). Empty means: as its containers were started, else as Compose does by itself.
    ``on_drift`` is about services that the engine itself keeps, where somebody changes one there.
    ``managed`` has the live files of a Swarm's stack by their absolute path.
    """

    environment: str
    name: str
    directory: str
    files: tuple[str, ...] = ()
    profiles: tuple[str, ...] = ()
    env_files: tuple[str, ...] = ()
    project: str = ""
    project_directory: str = ""
    hosts: tuple[str, ...] = ()
    health: HealthPolicy = HealthPolicy()
    on_failure: OnFailure = OnFailure.ROLLBACK
    one_shot: frozenset[str] = frozenset()
    on_drift: OnDrift = OnDrift.RESTORE
    kind: StackKind = DEFAULT_KIND
    managed: Mapping[str, MountedTarget] = field(default_factory=dict, hash=False)

    @property
    def id(self) -> str:
        return f"{self.environment}/{self.name}"


def environment_of(unit: str) -> str:
    """The environment's name in git: "production", also for its part on another host, whose name is "production@web-2"
    everywhere else."""
    return unit.partition("@")[0]


def host_of(unit: str) -> str:
    """The other host that a part of an environment is on; "" for this machine."""
    return unit.partition("@")[2]


def on_host(environment: str, host: str) -> str:
    """The name of an environment's part on another host."""
    return f"{environment}@{host}"


@dataclass(frozen=True, slots=True)
class Manifest:
    """environment.yaml at one revision, resolved against the server configuration."""

    environment: str
    stacks: tuple[Stack, ...]
    targets: tuple[Target, ...]


@dataclass(frozen=True, slots=True)
class LiveFile:
    """A regular file as it was read. ``modified_at`` in epoch seconds."""

    data: Secret
    mode: int
    uid: int
    gid: int
    modified_at: float = 0.0


FileStamp = tuple[int | str, ...]
"""What stat says of a file, only to be compared: inode, size, mode, owner, mtime, ctime. A file that was changed has
another one, unless its clock has not ticked since the change before."""


@dataclass(frozen=True, slots=True)
class Ownership:
    """Numeric ids to set; ``None`` leaves what is there (a new file gets the daemon's own)."""

    uid: int | None = None
    gid: int | None = None
