"""What a comparison holds: two sides, their files, the results by key, fact, service and probe. Names, never values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from reconciler.core.compare.risk import Risk, RiskOverride
from reconciler.core.contract import Notes
from reconciler.core.inventory import FoundContainer


class Status(StrEnum):
    """How one thing stands on the two sides."""

    SAME = "same"
    EXPECTED = "expected"  # differs, and somebody said why
    DIFFERS = "differs"
    MISSING_LEFT = "missing-left"
    MISSING_RIGHT = "missing-right"
    SAME_SECRET = "same-secret"  # noqa: S105  # a class of keys
    FAILED = "failed"  # a probe that gives no answer on either side
    UNKNOWN = "unknown"  # there on both sides, and the values are not known well enough to be held against each other


UNEXPLAINED = frozenset({Status.DIFFERS, Status.MISSING_LEFT, Status.MISSING_RIGHT, Status.SAME_SECRET, Status.FAILED})


class Remark(StrEnum):
    """What else there is to say of a key. A placeholder counts as unexplained, too."""

    PLACEHOLDER = "placeholder"
    DEPRECATED = "deprecated"
    UNUSED = "unused"


class Allows(StrEnum):
    """What an expected difference allows."""

    DIFFERS = "differs"
    MISSING = "missing"
    SAME_SECRET = "same-secret"  # noqa: S105
    PLACEHOLDER = "placeholder"


class Attribute(StrEnum):
    """What of a file, beside its keys, may be expected to differ."""

    MODE = "mode"
    OWNER = "owner"
    GROUP = "group"
    CONTENT = "content"
    FILE = "file"


@dataclass(frozen=True, slots=True)
class Value:
    """``fingerprint`` is that of the value, None where it is not known. ``written`` is one of how a file writes it,
    with its references, "" where it was not read from a file; ``given`` is one of what the references take from
    around the file, None where nothing is known of that. An ``empty`` one is no secret."""

    fingerprint: str | None
    empty: bool = False
    placeholder: bool = False
    written: str = ""
    given: str | None = None


SEALED = Value(None)
"""There, and not readable without a key."""


@dataclass(frozen=True, slots=True)
class Holder:
    """An owner or a group: its name, "" for one that has none there, and its number, None where only the name is
    told."""

    name: str = ""
    number: int | None = None

    def __bool__(self) -> bool:
        return bool(self.name) or self.number is not None

    def __str__(self) -> str:
        return self.name or str(self.number)

    def is_like(self, other: Holder) -> bool:
        """By name where both have one, which may have another number elsewhere; else by number."""
        if self.name and other.name:
            return self.name == other.name
        return self.number is not None and self.number == other.number


NOBODY = Holder()
"""Not known."""


@dataclass(frozen=True, slots=True)
class SideFile:
    """A file of one side. ``aliases`` are names by which the same file may be known on the other side, the surest
    first. ``keys`` is None for a file without variables, which is compared by ``content``, a fingerprint (None: not
    readable without a key). ``mode`` None, ``owner`` and ``group`` NOBODY: not known. ``unused`` are keys that no
    service gets, ``ignored`` patterns of those that git leaves to the server, ``defaults`` those that count only where
    the other side has them, too. ``hosts`` are those that a source is for, () for every one. ``problem`` says why it
    cannot be compared."""

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
class Side:
    """``name`` as it was asked for; ``environment`` "" where it is not known which one it is; ``left_out`` says what
    was not looked at, ``problems`` what could not be; ``sealed`` counts the files that no key opened. ``services``
    None: it cannot have any. ``directory`` is where probes are run, ``compose_options`` what
    `docker compose` is given there, by the project's directory. ``hosts`` are names that a manifest may have for
    the machine, the surest first; () where it is none."""

    name: str
    files: tuple[SideFile, ...]
    environment: str = ""
    services: tuple[FoundContainer, ...] | None = None
    left_out: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    sealed: int = 0
    directory: str = ""
    hosts: tuple[str, ...] = ()
    compose_options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Expectation:
    """An expected difference: of which files and keys (glob patterns), or of which attributes, and why. ``between``
    are the environments that it holds between; () for any sides."""

    file: str
    reason: str
    keys: tuple[str, ...] = ()
    attributes: frozenset[Attribute] = frozenset()
    allows: frozenset[Allows] = frozenset({Allows.DIFFERS, Allows.MISSING})
    between: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ServiceExpectation:
    """Facts of services (both glob patterns) that may differ, and why."""

    service: str
    facts: tuple[str, ...]
    reason: str
    between: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Expectations:
    """What `envs/expected-differences.yaml` says."""

    differences: tuple[Expectation, ...] = ()
    services: tuple[ServiceExpectation, ...] = ()
    risks: tuple[RiskOverride, ...] = ()


@dataclass(frozen=True, slots=True)
class KeyResult:
    """``reason`` is why it is expected, or what makes it a mistake; "" where the status says all."""

    key: str
    status: Status
    risk: Risk
    remarks: tuple[Remark, ...] = ()
    reason: str = ""
    allowed: bool = False

    @property
    def unexplained(self) -> bool:
        return self.status in UNEXPLAINED or (Remark.PLACEHOLDER in self.remarks and not self.allowed)


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that can be shown of both sides: a mode, an owner, an image."""

    what: str
    left: str
    right: str
    status: Status
    risk: Risk = Risk.MEDIUM
    reason: str = ""

    @property
    def unexplained(self) -> bool:
        return self.status in UNEXPLAINED


@dataclass(frozen=True, slots=True)
class FileResult:
    """Two paired files, or one that has no other ("" on the side where there is none)."""

    left: str
    right: str
    keys: tuple[KeyResult, ...]
    facts: tuple[Fact, ...]
    services: tuple[str, ...] = ()
    problem: str = ""

    @property
    def name(self) -> str:
        return self.left or self.right


@dataclass(frozen=True, slots=True)
class ServiceResult:
    service: str
    facts: tuple[Fact, ...]


@dataclass(frozen=True, slots=True)
class Probe:
    """What an operator wants asked of both sides: ``run`` (in ``service``'s container, or in ``directory``, "" for the
    side's own) or ``url``. ``ignore`` is a regular expression, "" for none; ``expected`` why they differ."""

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
    """``line`` is the first that differs, 0 for none; ``left`` and ``right`` say how it ended on each side, and what it
    printed only where the probe says ``show: true``."""

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
    """``different`` says whether the sides were taken for two environments: then a secret must differ, and contracts
    say what may."""

    left: Side
    right: Side
    different: bool
    files: tuple[FileResult, ...]
    services: tuple[ServiceResult, ...] = ()
    probes: tuple[ProbeResult, ...] = ()

    @property
    def everything(self) -> Iterator[KeyResult | Fact | ProbeResult]:
        for file in self.files:
            yield from file.keys
            yield from file.facts
        for service in self.services:
            yield from service.facts
        yield from self.probes

    @property
    def problems(self) -> tuple[str, ...]:
        """What could not be compared, so that nobody takes silence for equality."""
        files = tuple(f"{one.name}: {one.problem}" for one in self.files if one.problem)
        return (*self.left.problems, *self.right.problems, *files)

    @property
    def unexplained(self) -> int:
        return sum(one.unexplained for one in self.everything) + len(self.problems)
