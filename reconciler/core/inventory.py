"""The inventory of a machine: files, Compose projects, containers."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from reconciler.core.model.targets import DEFAULT_KIND, StackKind
from reconciler.core.secret import Secret


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A regular file. ``owner`` and ``group`` are names, "" if the machine has none."""

    path: str
    data: Secret
    mode: int
    uid: int
    gid: int
    owner: str = ""
    group: str = ""


class Use(enum.StrEnum):
    """How a Compose project uses a file."""

    ENV_FILE = "env_file"  # of a service
    INTERPOLATION = ".env"  # values for ${…}
    MOUNT = "mount"  # bind-mounted into a container, or a config or secret with `file:`


@dataclass(frozen=True, slots=True)
class UsedFile:
    """A file with the services that use it; none for a ``.env`` that only interpolates. ``raw``: it has the grammar of
    ``docker run --env-file``. ``mounted``: a container can read it too, whatever ``use`` is."""

    file: FoundFile
    use: Use
    services: tuple[str, ...] = ()
    raw: bool = False
    mounted: bool = False


@dataclass(frozen=True, slots=True)
class FoundContainer:
    """A container of a service. ``image_digest`` is "" if the image has none; ``project`` is "" if there is only one.

    ``since`` is when it got into its state, in ISO 8601, "" if unknown; ``ended``: it ended with 0 and was meant to.
    ``ports`` look like "127.0.0.1:8000->80/tcp"; ``memory`` (bytes) and ``cpus`` are limits, 0 for none. ``fields`` are
    the rest of what the engine says, without what the image gives, with every value; ``values`` are those of its
    variables.
    """

    service: str
    state: str
    health: str = ""
    restarts: int = 0
    image: str = ""
    image_digest: str = ""
    ports: tuple[str, ...] = ()
    memory: int = 0
    cpus: float = 0.0
    project: str = ""
    since: str = ""
    exit_code: int = 0
    ended: bool = False
    fields: Mapping[str, str] = field(default_factory=dict, repr=False)
    values: frozenset[str] = field(default=frozenset(), repr=False)


@dataclass(frozen=True, slots=True)
class FoundProject:
    """A Compose project: its name, its directory, the files it uses, sorted by path, and its containers.

    ``active`` are the services that are to have a container: of no inactive profile, and not scaled to 0.
    ``main_files`` are the compose files that Compose starts with; they include or extend the others. ``interpolated``
    are the variables that it takes from its ``.env``, as ``${NAME}`` or as a name without a value. ``env_files``,
    ``project_directory`` and ``named`` (its name) are what it was started with (--env-file, --project-directory, -p),
    empty for Compose's defaults; ``options`` are the options of `docker compose` before its subcommand. ``problem``
    says why the inventory is incomplete (a file that is missing or cannot be read); "" otherwise. ``notes`` name what
    is missing for a service that does not run, which hides nothing. ``kind`` is what runs it.
    """

    name: str
    directory: str
    compose_files: tuple[str, ...] = ()
    files: tuple[UsedFile, ...] = ()
    services: tuple[str, ...] = ()
    active: tuple[str, ...] = ()
    containers: tuple[FoundContainer, ...] = ()
    interpolated: tuple[str, ...] = ()
    main_files: tuple[str, ...] = ()
    env_files: tuple[str, ...] = ()
    named: str = ""
    project_directory: str = ""
    options: tuple[str, ...] = ()
    problem: str = ""
    notes: tuple[str, ...] = ()
    kind: StackKind = DEFAULT_KIND


@dataclass(frozen=True, slots=True)
class Inventory:
    """Everything at one path of a machine, or on the whole machine. ``loose`` are env files that no project uses;
    ``left_out`` says what was skipped because of its amount, ``unread`` what could not be read. ``engine``: Docker
    answered, so a service without a container really has none."""

    place: str
    projects: tuple[FoundProject, ...] = ()
    loose: tuple[FoundFile, ...] = field(default=())
    left_out: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    engine: bool = False

    @property
    def empty(self) -> bool:
        return not (self.loose or any(project.files or project.containers for project in self.projects))
