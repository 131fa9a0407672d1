"""What is found on a machine that is only looked at: files, Compose projects, containers."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from reconciler.core.secret import Secret


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A regular file as it lies there. ``owner`` and ``group`` are names, where the machine knows them."""

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
    INTERPOLATION = ".env"  # what Compose fills in ${…} with
    MOUNT = "mount"  # bind-mounted into a container, or a config or secret with `file:`


@dataclass(frozen=True, slots=True)
class UsedFile:
    """A file with those who use it: services of the project; none for a ``.env`` that only interpolates. ``raw``: its
    grammar is that of ``docker run --env-file``."""

    file: FoundFile
    use: Use
    services: tuple[str, ...] = ()
    raw: bool = False


@dataclass(frozen=True, slots=True)
class FoundContainer:
    """A container of a service, for comparing two machines. ``image_digest`` "" where the image has none; ``project``
    "" where only one can be meant.

    ``ports`` are like "127.0.0.1:8000->80/tcp"; ``memory`` in bytes and ``cpus`` are its limits, 0 for none.
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


@dataclass(frozen=True, slots=True)
class FoundProject:
    """A Compose project: its name, its directory, the files it uses, sorted by path, and its containers.

    ``main_files`` are those of the compose files that Compose begins with; the others are included or extended by them.
    ``interpolated`` are the variables that it takes from its ``.env``, as ``${NAME}`` or as a name without a value.
    ``problem`` says why some of it could not be found out (a compose file that cannot be read, a file that may not be
    read or is missing); "" otherwise.
    """

    name: str
    directory: str
    compose_files: tuple[str, ...] = ()
    files: tuple[UsedFile, ...] = ()
    services: tuple[str, ...] = ()
    containers: tuple[FoundContainer, ...] = ()
    interpolated: tuple[str, ...] = ()
    main_files: tuple[str, ...] = ()
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Inventory:
    """Everything found at one place; ``loose`` are env files that no project found there uses; ``left_out`` says what
    was not looked at for its amount, ``unread`` what could not be read. ``engine``: docker answered, so that
    a service without a container has none."""

    place: str
    projects: tuple[FoundProject, ...] = ()
    loose: tuple[FoundFile, ...] = field(default=())
    left_out: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    engine: bool = False

    @property
    def empty(self) -> bool:
        return not (self.loose or any(project.files or project.containers for project in self.projects))
