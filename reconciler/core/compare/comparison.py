"""Two sides compared: files paired, each key classified, services and probes side by side. Pure; never a value.

What is equal is told by fingerprints, keyed anew for every run. See docs/compare.md.
"""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from fnmatch import fnmatchcase
from itertools import zip_longest

from reconciler.core.compare.risk import Risk, RiskOverride, must_differ, risk_of
from reconciler.core.contract import Differs, Notes
from reconciler.core.dotenv.dotenv import left_to_server
from reconciler.core.inventory import FoundContainer
from reconciler.core.ports import Ran
from reconciler.core.text import printable

_BAD_REQUEST = 400  # from this status on an address has no answer for us
_LONGEST_SHOWN = 500  # characters of what a probe printed
_LIKE_ENOUGH = 0.5  # of all keys of two files, those that both have


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


# --- what is compared ---


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
    None: it cannot have any. ``directory`` is where probes are run. ``hosts`` are names that a manifest may have for
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


# --- what comes of it ---


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


def compare(
    left: Side, right: Side, expected: Expectations, *, different: bool, probes: Sequence[ProbeResult] = ()
) -> Comparison:
    """Given two sides, return how each file, key and service stands on them."""
    left, right = for_machine(left, right), for_machine(right, left)
    judge = _Judge(left, right, expected, different)
    files = tuple(judge.file(one, other) for one, other in pair(left.files, right.files))
    return Comparison(left, right, different, files, tuple(judge.services()), tuple(probes))


def compare_answers(probe: Probe, left: Ran, right: Ran) -> ProbeResult:
    """Given what a probe gave on two sides, return how that stands. White space makes no difference by itself."""
    lines, others = (_answer(one, probe.ignore) for one in (left, right))
    line = _first_difference(lines, others)
    answered = [_answered(one, probe) for one in (left, right)]
    same = line == 0 and (left.exit_code, left.problem) == (right.exit_code, right.problem)
    if not any(answered):
        status = Status.FAILED
    elif same:
        status = Status.SAME
    else:  # a reason for other answers is none for no answer
        status = Status.EXPECTED if probe.expected and all(answered) else Status.DIFFERS
    reason = probe.expected if status is Status.EXPECTED else ""
    line = 0 if status is Status.SAME else line
    return ProbeResult(probe.name, status, _told(left, probe, lines), _told(right, probe, others), line, reason)


def _answered(ran: Ran, probe: Probe) -> bool:
    """Whether the command ran and ended with 0, or the address answered with a status below 400."""
    if ran.exit_code is None:
        return False
    return ran.exit_code < _BAD_REQUEST if probe.url else ran.exit_code == 0


def _answer(ran: Ran, ignore: str) -> list[str]:
    text = ran.output.reveal().decode("utf-8", "surrogateescape")  # other bytes are another answer
    if ignore:
        text = re.sub(ignore, "", text)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _first_difference(one: Sequence[str], other: Sequence[str]) -> int:
    """The number of the first line that differs, from 1; 0 where none does."""
    for number, (left, right) in enumerate(zip_longest(one, other), start=1):
        if left != right:
            return number
    return 0


def _told(ran: Ran, probe: Probe, lines: Sequence[str]) -> str:
    if ran.exit_code is None:
        return ran.problem
    ended = f"status {ran.exit_code}" if probe.url else f"exit {ran.exit_code}"
    shown = printable(" / ".join(lines)[:_LONGEST_SHOWN]) if probe.show else f"{len(lines)} lines"
    return f"{ended}: {shown}" if shown else ended


def are_different(left: Side, right: Side) -> bool:
    """Whether two sides are two environments, where nobody says: those that are named so; and those of which neither
    is named, since a server is held against its own environment in git, or against another server."""
    if left.environment and right.environment:
        return left.environment != right.environment
    return not (left.environment or right.environment)


# --- hosts ---


def for_machine(side: Side, machine: Side) -> Side:
    """Given a side of git and one that is a machine, return what git has for that machine; any other side as it is.

    Where none of the machine's names is a host of git's, it is taken for the host whose files are most like its own.
    """
    hosts = {host.casefold(): host for file in side.files for host in file.hosts}
    if not hosts or not machine.hosts:
        return side
    known = next((name.casefold() for name in machine.hosts if name.casefold() in hosts), "")
    host = known or max(sorted(hosts), key=lambda one: _found_again(_for_host(side.files, one), machine.files))
    kept = _for_host(side.files, host)
    if len(kept) == len(side.files):
        return side
    why = "" if known else ", which the files there are most like"
    return replace(side, files=kept, left_out=(*side.left_out, f"what is for other hosts than {hosts[host]}{why}"))


def _for_host(files: Sequence[SideFile], host: str) -> tuple[SideFile, ...]:
    return tuple(one for one in files if not one.hosts or host in map(str.casefold, one.hosts))


def _found_again(files: Sequence[SideFile], there: Sequence[SideFile]) -> float:
    """How much of the files is there: one that is not counts against it."""
    pairs = [(one, other) for one, other in pair(files, there) if one]
    return sum(_resemblance(_marks(one), _marks(other)) if other else -1 for one, other in pairs)


# --- pairing ---

Pair = tuple[SideFile | None, SideFile | None]


def pair(left: Sequence[SideFile], right: Sequence[SideFile]) -> list[Pair]:
    """Which file belongs to which: by path, else by name, else by the keys they share; one against one always."""
    if len(left) == len(right) == 1:
        return [(left[0], right[0])]
    rest_left, rest_right = list(left), list(right)
    pairs: list[Pair] = []
    for match in (_by_alias, _by_base, _by_keys):
        for one, other in list(match(rest_left, rest_right)):
            rest_left.remove(one)
            rest_right.remove(other)
            pairs.append((one, other))
    pairs += [(one, None) for one in rest_left]
    pairs += [(None, other) for other in rest_right]
    return sorted(pairs, key=lambda both: (both[0] or both[1] or left[0]).name)


def _by_alias(left: Sequence[SideFile], right: Sequence[SideFile]) -> Iterator[tuple[SideFile, SideFile]]:
    """The surest names first; of several files with one name those for the same host, then those most alike."""
    done: tuple[set[int], set[int]] = (set(), set())
    marks = [_marks(one) for one in left], [_marks(other) for other in right]

    def order(both: tuple[int, int]) -> tuple[bool, float, bool, tuple[int, int]]:
        one, other = left[both[0]], right[both[1]]
        strangers = bool(one.hosts and other.hosts) and set(one.hosts).isdisjoint(other.hosts)
        return strangers, -_resemblance(marks[0][both[0]], marks[1][both[1]]), one.name != other.name, both

    for _, pairs in sorted(_candidates(left, right).items()):
        free = [(here, there) for here, there in pairs if here not in done[0] and there not in done[1]]
        for here, there in sorted(free, key=order):
            if here not in done[0] and there not in done[1]:
                done[0].add(here)
                done[1].add(there)
                yield left[here], right[there]


def _candidates(left: Sequence[SideFile], right: Sequence[SideFile]) -> dict[int, set[tuple[int, int]]]:
    """The files, by their places, that have a name in common: the lower the key, the surer the names."""
    known: dict[str, list[tuple[int, int]]] = {}
    for there, other in enumerate(right):
        for rank, alias in enumerate(other.aliases):
            known.setdefault(alias, []).append((rank, there))
    found: dict[int, set[tuple[int, int]]] = {}
    for here, one in enumerate(left):
        for rank, alias in enumerate(one.aliases):
            for other_rank, there in known.get(alias, ()):
                found.setdefault(rank + other_rank, set()).add((here, there))
    return found


def _marks(one: SideFile) -> frozenset[tuple[str, str]]:
    """What makes a file like another: its keys, and these with their values, or else its content."""
    if one.keys is None:
        return frozenset({("", one.content or one.name)})
    known = ((key, value.fingerprint or value.written) for key, value in one.keys.items())
    return frozenset((*((key, "") for key in one.keys), *known))


def _resemblance(one: frozenset[tuple[str, str]], other: frozenset[tuple[str, str]]) -> float:
    """From 0 for nothing in common to 1."""
    return len(one & other) / max(len(one | other), 1)


def _by_base(left: Sequence[SideFile], right: Sequence[SideFile]) -> Iterator[tuple[SideFile, SideFile]]:
    """Files whose name, without directories, each side has once."""
    here, there = _once_by_base(left), _once_by_base(right)
    for base in sorted(here.keys() & there.keys()):
        yield here[base], there[base]


def _once_by_base(files: Sequence[SideFile]) -> dict[str, SideFile]:
    found: dict[str, list[SideFile]] = {}
    for one in files:
        found.setdefault(posixpath.basename(one.name), []).append(one)
    return {base: several[0] for base, several in found.items() if len(several) == 1}


def _by_keys(left: Sequence[SideFile], right: Sequence[SideFile]) -> Iterator[tuple[SideFile, SideFile]]:
    """The most alike first."""
    scored = [
        (likeness, one, other)
        for one in left
        for other in right
        if (likeness := _likeness(one.keys, other.keys)) >= _LIKE_ENOUGH
    ]
    scored.sort(key=lambda found: (-found[0], found[1].name, found[2].name))
    done: set[tuple[int, str]] = set()
    for _, one, other in scored:
        if (0, one.name) not in done and (1, other.name) not in done:
            done |= {(0, one.name), (1, other.name)}
            yield one, other


def _likeness(one: Mapping[str, Value] | None, other: Mapping[str, Value] | None) -> float:
    if not one or not other:
        return 0.0
    return len(one.keys() & other.keys()) / len(one.keys() | other.keys())


def alike(one: Value, other: Value) -> bool | None:
    """Whether two values are the same: files write them alike, and nothing around them that both sides know says
    otherwise; or else both are known. None where one is sealed."""
    if SEALED in (one, other):
        return None
    if one.written and one.written == other.written and None in (one.given, other.given):
        return True
    if one.fingerprint is not None and other.fingerprint is not None:
        return one.fingerprint == other.fingerprint
    return one.written == other.written and one.given == other.given


# --- classification ---


@dataclass(frozen=True, slots=True)
class _Judge:
    left: Side
    right: Side
    expected: Expectations
    different: bool

    def file(self, one: SideFile | None, other: SideFile | None) -> FileResult:
        names = [each.name for each in (one, other) if each]
        problem = next((each.problem for each in (one, other) if each and each.problem), "")
        services = tuple(sorted({service for each in (one, other) if each for service in each.services}))
        if problem:
            return FileResult(one.name if one else "", other.name if other else "", (), (), services, problem)
        keys, facts = tuple(self._keys(names, one, other)), tuple(self._facts(names, one, other))
        whole = next((fact for fact in facts if fact.what == Attribute.FILE), None)
        if whole and whole.status is Status.EXPECTED:  # then so are its keys
            keys = tuple(replace(key, status=Status.EXPECTED, reason=whole.reason) for key in keys)
        return FileResult(one.name if one else "", other.name if other else "", keys, facts, services)

    # --- keys ---

    def _keys(self, names: Sequence[str], one: SideFile | None, other: SideFile | None) -> Iterator[KeyResult]:
        here, there = (each.keys if each else {} for each in (one, other))
        if here is None or there is None:
            return
        idle = (one.defaults - there.keys() if one else set()) | (other.defaults - here.keys() if other else set())
        for key in sorted((here.keys() | there.keys()) - idle):
            notes = [each.notes[key] for each in (one, other) if each and key in each.notes]
            result = self._key(names, key, here.get(key), there.get(key), notes, _remarks(key, one, other, notes))
            if result.status in _ALLOWS and any(each and left_to_server(key, each.ignored) for each in (one, other)):
                result = replace(result, status=Status.EXPECTED, reason="left to the server (ignore_keys)")
            yield result

    def _key(
        self,
        names: Sequence[str],
        key: str,
        one: Value | None,
        other: Value | None,
        notes: Sequence[Notes],
        remarks: tuple[Remark, ...],
    ) -> KeyResult:
        secret = any(said.secret for said in notes)
        risk = risk_of(key, secret=secret, overrides=self.expected.risks)
        status, reason = self._status(one, other, notes, is_secret=secret or must_differ(key))
        allowed = self._allowing(names, key)
        if (allows := _ALLOWS.get(status)) and (said := allowed(allows)):
            status, reason = Status.SAME if status is Status.SAME_SECRET else Status.EXPECTED, said
        placeholder = allowed(Allows.PLACEHOLDER) if Remark.PLACEHOLDER in remarks else ""
        return KeyResult(key, status, risk, remarks, reason or placeholder, allowed=bool(placeholder))

    def _status(
        self, one: Value | None, other: Value | None, notes: Sequence[Notes], *, is_secret: bool
    ) -> tuple[Status, str]:
        """How a key stands, before what is listed as expected is asked, and what says so."""
        if one is None or other is None:
            return Status.MISSING_LEFT if one is None else Status.MISSING_RIGHT, ""
        ruled = next((said for said in notes if said.differs), None)
        place = f"x-differs of {ruled.contract}:{ruled.line}" if ruled else ""
        must = self.different and (ruled.differs is Differs.MUST if ruled else is_secret)
        known = one.fingerprint is not None and other.fingerprint is not None
        same = alike(one, other)
        if same is None or (must and not known):
            return Status.UNKNOWN, "" if same is None else _REFERS
        if not same:
            if must:
                return Status.EXPECTED, place or "a secret differs between environments"
            if self.different and ruled and ruled.differs is Differs.MAY:
                return Status.EXPECTED, place
            never = f"must not differ: {place}" if ruled and ruled.differs is Differs.NEVER else ""
            return Status.DIFFERS, never or ("" if known else _REFERS)
        if must and not one.empty and (ruled or not one.placeholder):
            return Status.SAME_SECRET, f"must differ: {place}" if ruled else "two environments share a secret"
        return Status.SAME, ""

    def _allowing(self, names: Sequence[str], key: str) -> Callable[[Allows], str]:
        """What is listed for this key: a function from what is to be allowed to the reason, "" for none."""
        listed = [
            one
            for one in self.expected.differences
            if self._holds(one.between) and _names(one, names) and any(fnmatchcase(key, glob) for glob in one.keys)
        ]
        return lambda what: next((one.reason for one in listed if what in one.allows), "")

    def _holds(self, between: Sequence[str]) -> bool:
        return not between or {self.left.environment, self.right.environment} <= set(between)

    # --- files ---

    def _facts(self, names: Sequence[str], one: SideFile | None, other: SideFile | None) -> Iterator[Fact]:
        if one is None or other is None:
            status = Status.MISSING_LEFT if one is None else Status.MISSING_RIGHT
            there, absent = "there", "not there"
            left, right = (absent, there) if one is None else (there, absent)
            yield self._fact(names, Attribute.FILE, left, right, status)
            return
        if one.mode is not None and other.mode is not None:
            yield self._fact(names, Attribute.MODE, f"{one.mode:04o}", f"{other.mode:04o}")
        for what, ours, theirs in (
            (Attribute.OWNER, one.owner, other.owner),
            (Attribute.GROUP, one.group, other.group),
        ):
            if ours and theirs:
                status = Status.SAME if ours.is_like(theirs) else Status.DIFFERS
                yield self._fact(names, what, str(ours), str(theirs), status)
        if one.keys is None or other.keys is None:
            known = one.content is not None and other.content is not None
            status = (Status.SAME if one.content == other.content else Status.DIFFERS) if known else Status.UNKNOWN
            yield self._fact(names, Attribute.CONTENT, "", "", status)

    def _fact(self, names: Sequence[str], what: Attribute, left: str, right: str, status: Status | None = None) -> Fact:
        status = status or (Status.SAME if left == right else Status.DIFFERS)
        reason = ""
        if status in UNEXPLAINED:
            reason = next(
                (
                    one.reason
                    for one in self.expected.differences
                    if what in one.attributes and self._holds(one.between) and _names(one, names)
                ),
                "",
            )
        return Fact(what, left, right, Status.EXPECTED if reason else status, reason=reason)

    # --- services ---

    def services(self) -> Iterator[ServiceResult]:
        """Both sides' containers side by side; none where one of the sides cannot have any."""
        if self.left.services is None or self.right.services is None:
            return
        left, right = _by_service(self.left.services), _by_service(self.right.services)
        several = any(len({project for project, _ in side}) > 1 for side in (left, right))
        results = []
        for one, other in _service_pairs(left.keys(), right.keys()):
            project, service = one or other or ("", "")
            names = {service, *("/".join(each) for each in (one, other) if each)}
            facts = self._service(names, left.get(one) if one else None, right.get(other) if other else None)
            results.append(ServiceResult(f"{project}/{service}" if several else service, tuple(facts)))
        yield from sorted(results, key=lambda result: result.service)

    def _service(
        self, names: Collection[str], one: Sequence[FoundContainer] | None, other: Sequence[FoundContainer] | None
    ) -> Iterator[Fact]:
        if one is None or other is None:
            status = Status.MISSING_LEFT if one is None else Status.MISSING_RIGHT
            yield self._service_fact(names, "container", "yes" if one else "", "yes" if other else "", status)
            return
        for what, tell in _FACTS.items():
            left, right = (_together([tell(container) for container in each]) for each in (one, other))
            yield from self._compared(names, what, left, right)
        yield from self._compared(names, "containers", str(len(one)), str(len(other)))

    def _compared(self, names: Collection[str], what: str, left: str, right: str) -> Iterator[Fact]:
        if left or right:
            # How often it was restarted says much to a person, and is never the same on two machines.
            ignored = what == "restarts" or left == right
            yield self._service_fact(names, what, left, right, Status.SAME if ignored else Status.DIFFERS)

    def _service_fact(self, names: Collection[str], what: str, left: str, right: str, status: Status) -> Fact:
        reason = ""
        if status in UNEXPLAINED:
            reason = next(
                (
                    one.reason
                    for one in self.expected.services
                    if any(fnmatchcase(name, one.service) for name in names)
                    and any(fnmatchcase(what, fact) for fact in one.facts)
                    and self._holds(one.between)
                ),
                "",
            )
        risk = Risk.HIGH if what in ("state", "health", "container") else Risk.MEDIUM
        return Fact(what, left, right, Status.EXPECTED if reason else status, risk, reason)


_REFERS = "refers to a variable whose value is not known"
_ALLOWS = {
    Status.DIFFERS: Allows.DIFFERS,
    Status.MISSING_LEFT: Allows.MISSING,
    Status.MISSING_RIGHT: Allows.MISSING,
    Status.SAME_SECRET: Allows.SAME_SECRET,
}
_FACTS: Mapping[str, Callable[[FoundContainer], str]] = {
    "state": lambda one: one.state,
    "health": lambda one: one.health,
    "restarts": lambda one: str(one.restarts),
    "image": lambda one: one.image,
    "digest": lambda one: one.image_digest.removeprefix("sha256:")[:12],
    "ports": lambda one: " ".join(one.ports),
    "memory": lambda one: f"{one.memory // (1024 * 1024)} MiB" if one.memory else "no limit",
    "cpus": lambda one: f"{one.cpus:g}" if one.cpus else "no limit",
}


def _remarks(key: str, one: SideFile | None, other: SideFile | None, notes: Sequence[Notes]) -> tuple[Remark, ...]:
    sides = [each for each in (one, other) if each is not None]
    values = [each.keys[key] for each in sides if each.keys and key in each.keys]
    found = []
    if any(value.placeholder for value in values):
        found.append(Remark.PLACEHOLDER)
    if any(said.deprecated for said in notes):
        found.append(Remark.DEPRECATED)
    if any(key in each.unused for each in sides):
        found.append(Remark.UNUSED)
    return tuple(found)


def _names(one: Expectation, names: Sequence[str]) -> bool:
    """Whether the expectation's pattern matches the file's path, or its name, on either side."""
    every = [*names, *(posixpath.basename(name) for name in names)]
    return any(fnmatchcase(name, one.file) for name in every)


ServiceName = tuple[str, str]
"""A project and a service of it."""


def _by_service(containers: Sequence[FoundContainer]) -> dict[ServiceName, list[FoundContainer]]:
    found: dict[ServiceName, list[FoundContainer]] = {}
    for one in containers:
        found.setdefault((one.project, one.service), []).append(one)
    return found


def _service_pairs(
    left: Collection[ServiceName], right: Collection[ServiceName]
) -> Iterator[tuple[ServiceName | None, ServiceName | None]]:
    """Which service belongs to which: by project and name, else by its name, where each side has that left once."""
    yield from ((one, one) for one in left if one in right)
    rest = [[name for name in side if name not in other] for side, other in ((left, right), (right, left))]
    for service in sorted({name[1] for side in rest for name in side}):
        ones, others = ([name for name in side if name[1] == service] for side in rest)
        if len(ones) == len(others) == 1:
            yield ones[0], others[0]
        else:
            yield from ((one, None) for one in ones)
            yield from ((None, other) for other in others)


def _together(values: Sequence[str]) -> str:
    """What several containers have in one word; how many have each, where they are not all alike."""
    counted = Counter(values)
    if len(counted) <= 1:
        return next(iter(counted), "")
    return ", ".join(f"{number} {value or 'none'}" for value, number in sorted(counted.items()))
