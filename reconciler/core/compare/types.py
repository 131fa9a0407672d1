"""The data of a comparison: sides, files, and results by key, fact, service and probe. Names, never values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from reconciler.core.compare.risk import Risk, RiskOverride
from reconciler.core.contract import Notes
from reconciler.core.inventory import FoundContainer


class Status(StrEnum):
    """The result for one key, fact or probe."""

    SAME = "same"
    EXPECTED = "expected"  # differs, for a known reason
    DIFFERS = "differs"
    MISSING_LEFT = "missing-left"
    MISSING_RIGHT = "missing-right"
    SAME_SECRET = "same-secret"  # noqa: S105  # a class of keys
    FAILED = "failed"  # a probe that answers on neither side, a service that is in a bad state
    UNKNOWN = "unknown"  # present on both sides, with values that cannot be compared


UNEXPLAINED = frozenset({Status.DIFFERS, Status.MISSING_LEFT, Status.MISSING_RIGHT, Status.SAME_SECRET, Status.FAILED})


class Remark(StrEnum):
    """What else is notable about a key. A placeholder counts as unexplained, too."""

    PLACEHOLDER = "placeholder"
    DEPRECATED = "deprecated"
    UNUSED = "unused"


class Allows(StrEnum):
    DIFFERS = "differs"
    MISSING = "missing"
    SAME_SECRET = "same-secret"  # noqa: S105
    PLACEHOLDER = "placeholder"


class Attribute(StrEnum):
    """An attribute of a file that may be expected to differ, like its keys."""

    MODE = "mode"
    OWNER = "owner"
    GROUP = "group"
    CONTENT = "content"
    FILE = "file"


@dataclass(frozen=True, slots=True)
class Value:
    """Fingerprints of a value. ``fingerprint`` is that of the value itself, None if unknown. ``written`` is that of the
    text in the file, with its references, "" if it was not read from a file; ``given`` is that of the values which the
    references take from outside the file, None if none of them is known. An ``empty`` value is not a secret."""

    fingerprint: str | None
    empty: bool = False
    placeholder: bool = False
    written: str = ""
    given: str | None = None


SEALED = Value(None)
"""Present, but not readable without a key."""


@dataclass(frozen=True, slots=True)
class Holder:
    """An owner or a group: its name, "" if the machine has none for it, and its number, None if only the name is
    known."""

    name: str = ""
    number: int | None = None

    def __bool__(self) -> bool:
        return bool(self.name) or self.number is not None

    def __str__(self) -> str:
        return self.name or str(self.number)

    def is_like(self, holder: Holder) -> bool:
        """Compare by name if both have one, since numbers differ between machines; else by number."""
        if self.name and holder.name:
            return self.name == holder.name
        return self.number is not None and self.number == holder.number


NOBODY = Holder()
"""An unknown owner or group."""


@dataclass(frozen=True, slots=True)
class SideFile:
    """A file of one side. ``aliases`` are names that the same file may have on the other side, the most reliable first.
    ``keys`` is None for a file without variables; it is compared by ``content``, a fingerprint (None: not readable
    without a key). ``mode`` is None, ``owner`` and ``group`` are NOBODY if unknown. ``unused`` are keys that no service
    gets, ``ignored`` the patterns of keys that git leaves to the server, ``defaults`` the keys that only count if the
    other side has them too. ``hosts`` are those that a source is for, () for all. ``problem`` says why the file cannot
    be compared."""

    name: str
    aliases: tuple[str, ...]
    keys: Mapping[str, Value] | None
    content: str | None
    mode: int | None = None
    owner: Holder = NOBODY
    group: Holder = NOBODY
    services: tuple[str, ...] = ()
    unused: frozenset[str] = frozenset()
    notes: Mapping[str, Notes] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    defaults: frozenset[str] = frozenset()
    hosts: tuple[str, ...] = ()
    problem: str = ""


@dataclass(frozen=True, slots=True)
class SideProject:
    """A Compose project of a side: ``options`` of `docker compose` in its directory, the services that are to have a
    container there, and the ``variables`` of its .env, with every secret."""

    name: str
    directory: str
    options: tuple[str, ...] = ()
    services: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Definition:
    """A service as Compose resolves it: texts by the name of the field, with every secret. ``build`` is its section."""

    project: str
    service: str
    fields: Mapping[str, str] = field(repr=False)
    build: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Side:
    """One side. ``name`` as typed; ``environment`` is "" if unknown; ``left_out`` says what was skipped, ``problems``
    what could not be read; ``sealed`` counts the files that no key opened. ``services`` is None if the side cannot have
    containers. Probes run in ``directory``, or in one of the ``projects``. ``hosts`` are names that a manifest may have
    for the machine, the most reliable first; () if the side is not a machine. ``definitions`` are None if unknown;
    ``unresolved`` says why Compose cannot resolve the projects."""

    name: str
    files: tuple[SideFile, ...]
    environment: str = ""
    services: tuple[FoundContainer, ...] | None = None
    left_out: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    sealed: int = 0
    directory: str = ""
    hosts: tuple[str, ...] = ()
    projects: tuple[SideProject, ...] = ()
    definitions: tuple[Definition, ...] | None = None
    unresolved: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Expectation:
    """An expected difference: its files, its keys (all glob patterns) or attributes, and the reason. ``between`` are
    the environments it applies between; () for any sides."""

    file: str
    reason: str
    keys: tuple[str, ...] = ()
    attributes: frozenset[Attribute] = frozenset()
    allows: frozenset[Allows] = frozenset({Allows.DIFFERS, Allows.MISSING})
    between: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ServiceExpectation:
    """Facts of services (both glob patterns) that may differ, and the reason."""

    service: str
    facts: tuple[str, ...]
    reason: str
    between: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Expectations:
    """The content of `envs/expected-differences.yaml`."""

    differences: tuple[Expectation, ...] = ()
    services: tuple[ServiceExpectation, ...] = ()
    risks: tuple[RiskOverride, ...] = ()


@dataclass(frozen=True, slots=True)
class KeyResult:
    """``reason`` explains the status: why a difference is expected, or why it is a mistake; "" if there is none.
    ``unused_on`` are the sides, "left" and "right", whose project has no use for the key."""

    key: str
    status: Status
    risk: Risk
    remarks: tuple[Remark, ...] = ()
    reason: str = ""
    allowed: bool = False
    unused_on: tuple[str, ...] = ()

    @property
    def unexplained(self) -> bool:
        return self.status in UNEXPLAINED or (Remark.PLACEHOLDER in self.remarks and not self.allowed)


@dataclass(frozen=True, slots=True)
class Fact:
    """An attribute of a file or a service: a mode, an owner, an image. One that is ``informational`` never counts: it
    belongs to something that only one side has, or differs between any two machines."""

    name: str
    left: str
    right: str
    status: Status
    risk: Risk = Risk.MEDIUM
    reason: str = ""
    informational: bool = False

    @property
    def unexplained(self) -> bool:
        return self.status in UNEXPLAINED and not self.informational


class PairedBy(StrEnum):
    """Why two files are compared with each other."""

    CHOSEN = "--pair"
    PATH = "their path"
    ONLY = "being the only files"
    ENVIRONMENT = "the environment names in their paths"
    NAME = "their name"
    KEYS = "the keys they share"


@dataclass(frozen=True, slots=True)
class FileResult:
    """Two paired files, or a file of one side only ("" on the other)."""

    left: str
    right: str
    keys: tuple[KeyResult, ...]
    facts: tuple[Fact, ...]
    services: tuple[str, ...] = ()
    problem: str = ""
    paired_by: PairedBy | None = None

    @property
    def name(self) -> str:
        return self.left or self.right


@dataclass(frozen=True, slots=True)
class ServiceResult:
    """The facts of a service on both sides."""

    service: str
    facts: tuple[Fact, ...]

    def texts(self, name: str) -> tuple[str, str]:
        """A fact on the left and on the right; "" where there is none."""
        return next(((fact.left, fact.right) for fact in self.facts if fact.name == name), ("", ""))


@dataclass(frozen=True, slots=True)
class Probe:
    """A question for both sides: a command to ``run`` (in ``service``'s container, or in ``directory``, "" for the
    side's own) or a ``url``. ``ignore`` is a regular expression, "" for none; ``seconds`` is the time limit;
    ``expected`` is the reason for a difference."""

    name: str
    run: tuple[str, ...] = ()
    url: str = ""
    service: str = ""
    directory: str = ""
    ignore: str = ""
    seconds: float = 30.0
    show: bool = False
    expected: str = ""


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """``line`` is the first that differs, 0 for none; ``left`` and ``right`` say how the probe ended on each side, with
    its output only if the probe has ``show: true``."""

    probe: str
    status: Status
    left: str
    right: str
    line: int = 0
    reason: str = ""

    @property
    def unexplained(self) -> bool:
        return self.status in UNEXPLAINED


@dataclass(frozen=True, slots=True)
class Comparison:
    """``different`` says whether the sides count as two environments: then secrets must differ, and contracts say
    what else may."""

    left: Side
    right: Side
    different: bool
    files: tuple[FileResult, ...]
    services: tuple[ServiceResult, ...] = ()
    probes: tuple[ProbeResult, ...] = ()
    definitions: tuple[ServiceResult, ...] = ()

    @property
    def everything(self) -> Iterator[KeyResult | Fact | ProbeResult]:
        for file in self.files:
            yield from file.keys
            yield from file.facts
        for service in (*self.services, *self.definitions):
            yield from service.facts
        yield from self.probes

    @property
    def problems(self) -> tuple[str, ...]:
        """What could not be compared, so that nobody mistakes silence for equality."""
        files = tuple(f"{file.name}: {file.problem}" for file in self.files if file.problem)
        return (*self.left.problems, *self.right.problems, *files)

    @property
    def unexplained(self) -> int:
        return sum(item.unexplained for item in self.everything) + len(self.problems)
