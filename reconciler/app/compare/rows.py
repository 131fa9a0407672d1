"""What `compare` says to people, the same in every form: names of sides, rows by file, states of services. Pure."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from urllib.parse import unquote, urlsplit

from reconciler.core.compare.risk import Risk
from reconciler.core.compare.services import MISSING
from reconciler.core.compare.types import (
    Comparison,
    Fact,
    FileResult,
    KeyResult,
    PairedBy,
    ProbeResult,
    Remark,
    ServiceResult,
    Side,
    Status,
)

_RISKS = {Risk.HIGH: 0, Risk.MEDIUM: 1, Risk.LOW: 2}
_KINDS = {"problem": 0, "key": 1, "file": 2, "service": 3, "definition": 4, "probe": 5}
_STATED = (PairedBy.CHOSEN, PairedBy.ONLY, PairedBy.ENVIRONMENT, PairedBy.NAME, PairedBy.KEYS)
_STATES = ("container", "state", "health", "exit code", "restarts", "since")
_WORDS: Mapping[str, str] = {
    Status.SAME: "same",
    Status.EXPECTED: "differs as expected",
    Status.DIFFERS: "differs, unexplained",
    Status.SAME_SECRET: "same secret, must differ",
    Status.FAILED: "in a bad state",
    Status.UNKNOWN: "values not compared",
}
_PRESENCE = {Status.MISSING_LEFT: ("missing", "present"), Status.MISSING_RIGHT: ("present", "missing")}
PROBLEM, ONE_SIDED, INFORMATION = "problem", "one-sided", "information"
"""Classes of rows beside the statuses: what could not be compared, and facts that never count."""


# --- names of sides ---


@dataclass(frozen=True, slots=True)
class SideWords:
    """What the two sides are called, as short as they can be told apart; machines are ``on``, others ``in``."""

    left: str
    right: str
    left_is_machine: bool = False
    right_is_machine: bool = False

    @property
    def in_left(self) -> str:
        return f"{'on' if self.left_is_machine else 'in'} {self.left}"

    @property
    def in_right(self) -> str:
        return f"{'on' if self.right_is_machine else 'in'} {self.right}"

    def status(self, row: Row) -> str:
        """The class of a row in words."""
        if row.status is Status.FAILED and row.kind == "probe":
            return "fails on both sides"
        if row.classes[0] == ONE_SIDED:
            return f"only {self.in_left if row.status is Status.MISSING_RIGHT else self.in_right}"
        return self.classes[row.classes[0]]

    @property
    def classes(self) -> Mapping[str, str]:
        """Every class in words."""
        return {
            PROBLEM: "could not be compared",
            **_WORDS,
            Status.MISSING_LEFT: f"missing {self.in_left}",
            Status.MISSING_RIGHT: f"missing {self.in_right}",
            ONE_SIDED: "only on one side",
            INFORMATION: "for information",
        }


def side_words(comparison: Comparison) -> SideWords:
    """The shortest names that tell the sides apart: environments, machines, ends of paths; else the sides as typed."""
    left, right = comparison.left, comparison.right
    machines = [side.name.startswith("ssh://") for side in (left, right)]
    if left.environment and right.environment and left.environment != right.environment:
        return SideWords(left.environment, right.environment)
    ours, theirs = list(_names(left)), list(_names(right))
    for number in range(max(len(ours), len(theirs))):
        names = ours[min(number, len(ours) - 1)], theirs[min(number, len(theirs) - 1)]
        if names[0] != names[1]:
            return SideWords(*names, *machines)
    return SideWords(f"{left.name} (left)", f"{right.name} (right)", *machines)


def _names(side: Side) -> Iterator[str]:
    """From the shortest name to the one that was typed."""
    kind, _, rest = side.name.partition(":")
    if kind == "ssh":
        host = urlsplit(side.name).hostname or ""
        yield from (host, f"{host}{unquote(urlsplit(side.name).path)}")
    elif kind == "file":
        words = posixpath.normpath(rest).strip("/").split("/")
        yield from (
            "/".join(words[-number:]) for number in range(1, len(words) + 1) if words[-number] not in (".", "..")
        )
    yield side.name


# --- rows ---


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a report. ``classes`` are the status, or what the row is instead, and the remarks; the HTML page
    filters by them. ``left`` and ``right`` say what is on each side, "" where nothing tells; never a value."""

    kind: str  # key, file, service, probe or problem
    name: str
    risk: Risk
    status: Status
    note: str
    unexplained: bool
    remarks: tuple[Remark, ...] = ()
    informational: bool = False
    left: str = ""
    right: str = ""

    @property
    def classes(self) -> tuple[str, ...]:
        kind = PROBLEM if self.kind == "problem" else str(self.status)
        if self.informational:
            kind = ONE_SIDED if self.status in (Status.MISSING_LEFT, Status.MISSING_RIGHT) else INFORMATION
        return (kind, *map(str, self.remarks))

    @property
    def is_same(self) -> bool:
        """Whether a short report leaves it out."""
        return self.classes in ((str(Status.SAME),), (INFORMATION,))


@dataclass(frozen=True, slots=True)
class Group:
    """The rows of one file, one service, all probes or all problems, the most important first. ``remark`` says why two
    files are a pair."""

    title: str
    rows: tuple[Row, ...]
    remark: str = ""

    @property
    def kind(self) -> str:
        return self.rows[0].kind


def groups(comparison: Comparison) -> list[Group]:
    """All rows, the most important file or service first."""
    words = side_words(comparison)
    problems = [Row("problem", "", Risk.MEDIUM, Status.UNKNOWN, text, True) for text in comparison.problems]
    probes = [_probe_row(probe, words) for probe in comparison.probes]
    parts = [
        Group("not compared", tuple(problems)),
        *(Group(pair_name(file), tuple(_file_rows(file, words)), _pairing(file)) for file in comparison.files),
        *(
            Group(f"service {service.service}", tuple(_fact_row("service", fact, words) for fact in service.facts))
            for service in comparison.services
        ),
        *(
            Group(f"compose {result.service}", tuple(_fact_row("definition", fact, words) for fact in result.facts))
            for result in comparison.definitions
        ),
        Group("probes", tuple(probes)),
    ]
    ordered = [Group(part.title, tuple(sorted(part.rows, key=_importance)), part.remark) for part in parts if part.rows]
    return sorted(ordered, key=lambda group: (*_importance(group.rows[0])[:3], group.title))


def _importance(row: Row) -> tuple[bool, int, int, str]:
    return not row.unexplained, _KINDS[row.kind], _RISKS[row.risk], row.name if row.kind == "key" else ""


def _file_rows(file: FileResult, words: SideWords) -> Iterator[Row]:
    for key in file.keys:
        note = "; ".join(part for part in (*_remarks(key, words), key.reason) if part)
        left, right = _PRESENCE.get(key.status, ("", ""))
        yield Row("key", key.key, key.risk, key.status, note, key.unexplained, key.remarks, left=left, right=right)
    yield from (_fact_row("file", fact, words) for fact in file.facts)


def _remarks(key: KeyResult, words: SideWords) -> Iterator[str]:
    sides = {"left": words.in_left, "right": words.in_right}
    unused = "on either side" if len(key.unused_on) > 1 else "".join(sides[side] for side in key.unused_on)
    texts = {
        Remark.PLACEHOLDER: "a placeholder",
        Remark.DEPRECATED: "deprecated",
        Remark.UNUSED: f"used by no service {unused}".strip(),
    }
    return (texts[remark] for remark in key.remarks)


def _fact_row(kind: str, fact: Fact, words: SideWords) -> Row:
    note = "; ".join(part for part in (_texts(fact, words), fact.reason) if part)
    row = Row(kind, fact.name, fact.risk, fact.status, note, fact.unexplained, left=fact.left, right=fact.right)
    return replace(row, informational=fact.informational)


def _texts(fact: Fact, words: SideWords) -> str:
    """What a fact is on both sides, as short as that can be said."""
    if fact.name == "container" and fact.status is Status.FAILED:
        return "no container on either side"
    if fact.name in ("file", "container", "definition") or fact.left == fact.right:
        return fact.left if fact.left == fact.right else ""
    if fact.informational and fact.status in (Status.MISSING_LEFT, Status.MISSING_RIGHT):
        return fact.left or fact.right
    if fact.status is Status.FAILED and not (fact.left and fact.right):
        return f"{fact.left} {words.in_left}" if fact.left else f"{fact.right} {words.in_right}"
    return f"{words.left}: {fact.left or 'none'}, {words.right}: {fact.right or 'none'}"


def _probe_row(probe: ProbeResult, words: SideWords) -> Row:
    where = f"first in line {probe.line}" if probe.line else ""
    both = probe.left if probe.left == probe.right else f"{words.left}: {probe.left}; {words.right}: {probe.right}"
    note = "; ".join(part for part in (both, where, probe.reason) if part)
    sides = probe.left, probe.right
    return Row("probe", probe.probe, Risk.MEDIUM, probe.status, note, probe.unexplained, (), False, *sides)


def pair_name(file: FileResult) -> str:
    """``api.env``, or ``api.env ↔ config/api.env`` if the names differ."""
    if not file.left or not file.right:
        return file.name
    return file.left if file.left == file.right else f"{file.left} ↔ {file.right}"


def _pairing(file: FileResult) -> str:
    if file.left == file.right or file.paired_by not in _STATED:
        return ""
    fixed = file.paired_by in (PairedBy.CHOSEN, PairedBy.ONLY)
    override = "" if fixed else "; --pair A=B overrides it"
    return f"paired by {file.paired_by}{override}"


# --- states of services ---


@dataclass(frozen=True, slots=True)
class State:
    """A service on one side: such as ``running, healthy``, the instant since when, "" if unknown, and how often it was
    restarted."""

    text: str
    since: str = ""
    restarts: str = ""

    def written(self, since: Callable[[str], str]) -> str:
        """Given how to write since when, return all of it."""
        state = f"{self.text} {since(self.since)}" if self.since else self.text
        return f"{state}, {self.restarts}" if self.restarts else state


@dataclass(frozen=True, slots=True)
class ServiceStates:
    """A line of the table of services. ``bad``: at least one of the states counts as unexplained."""

    service: str
    left: State
    right: State
    bad: bool


def service_states(comparison: Comparison) -> list[ServiceStates]:
    """The state of every service on both sides, bad ones first."""
    lines = [
        ServiceStates(
            service.service,
            _state(service, 0),
            _state(service, 1),
            any(fact.unexplained for fact in service.facts if fact.name in _STATES),
        )
        for service in comparison.services
    ]
    return sorted(lines, key=lambda line: (not line.bad, line.service))


def _state(service: ServiceResult, side: int) -> State:
    container, state, health, code, restarts, since = (service.texts(name)[side] for name in _STATES)
    if not state:
        return State("no container" if container == MISSING else "no such service")
    ended = f" with {code}" if code else ""
    again = f"{restarts} restart{'' if restarts == '1' else 's'}" if restarts not in ("", "0") else ""
    return State(", ".join(part for part in (f"{state}{ended}", health) if part), since, again)
