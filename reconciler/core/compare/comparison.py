"""Two sides compared: files paired, each key classified, services and probes side by side. Pure; never a value.

What is equal is told by fingerprints, keyed anew for every run. See docs/compare.md.
"""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from reconciler.core.compare.pairing import for_machine, pair
from reconciler.core.compare.risk import Risk, must_differ, risk_of
from reconciler.core.compare.types import (
    SEALED,
    UNEXPLAINED,
    Allows,
    Attribute,
    Comparison,
    Expectation,
    Expectations,
    Fact,
    FileResult,
    KeyResult,
    ProbeResult,
    Remark,
    ServiceResult,
    Side,
    SideFile,
    Status,
    Value,
)
from reconciler.core.contract import Differs, Notes
from reconciler.core.dotenv.ignored_keys import is_left_to_server
from reconciler.core.inventory import FoundContainer

# --- what is compared ---


# --- what comes of it ---


def compare(
    left: Side, right: Side, expected: Expectations, *, different: bool, probes: Sequence[ProbeResult] = ()
) -> Comparison:
    """Given two sides, return how each file, key and service stands on them."""
    left, right = for_machine(left, right), for_machine(right, left)
    judge = _Judge(left, right, expected, different)
    files = tuple(judge.file(one, other) for one, other in pair(left.files, right.files))
    return Comparison(left, right, different, files, tuple(judge.services()), tuple(probes))


def are_different(left: Side, right: Side) -> bool:
    """Whether two sides are two environments, where nobody says: those that are named so; and those of which neither
    is named, since a server is held against its own environment in git, or against another server."""
    if left.environment and right.environment:
        return left.environment != right.environment
    return not (left.environment or right.environment)


# --- hosts ---


# --- pairing ---


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
            if result.status in _ALLOWS and any(each and is_left_to_server(key, each.ignored) for each in (one, other)):
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
