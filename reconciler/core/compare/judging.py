"""The status of each key and attribute of two paired files, and the reason for it. Pure."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from fnmatch import fnmatchcase

from reconciler.core.compare.risk import must_differ, risk_of
from reconciler.core.compare.types import (
    SEALED,
    UNEXPLAINED,
    Allows,
    Attribute,
    Expectation,
    Expectations,
    Fact,
    FileResult,
    KeyResult,
    Remark,
    SideFile,
    Status,
    Value,
)
from reconciler.core.contract import Differs, Notes
from reconciler.core.dotenv.ignored_keys import is_left_to_server


class _Relation(Enum):
    """How the values of a key on the two sides relate."""

    SEALED = auto()  # at least one cannot be read without a key
    SAME = auto()
    SAME_EMPTY = auto()
    SAME_PLACEHOLDER = auto()
    SAME_UNRESOLVED = auto()  # written alike, with a reference whose value is not known
    DIFFERENT = auto()
    DIFFERENT_UNRESOLVED = auto()


class _Rule(Enum):
    """What is required of the two values."""

    NONE = auto()
    SECRET = auto()  # by its name, or because a contract calls it secret: it differs between environments
    MUST = auto()  # x-differs: must
    MAY = auto()  # x-differs: may
    NEVER = auto()  # x-differs: never


_REFERS = "refers to a variable whose value is not known"
_REFERS_TO_OTHERS = "written alike; a variable that it refers to differs"
_UNKNOWN = (Status.UNKNOWN, _REFERS)
_SAME = (Status.SAME, "")
_BY_CONTRACT = (Status.EXPECTED, "{place}")
_FORBIDDEN = (Status.DIFFERS, "must not differ: {place}")
_SECRET_DIFFERS = (Status.EXPECTED, "a secret differs between environments")
_SECRET_SHARED = (Status.SAME_SECRET, "two environments share a secret")
_MUST_DIFFER = (Status.SAME_SECRET, "must differ: {place}")

_VERDICTS: Mapping[_Relation, Mapping[_Rule, tuple[Status, str]]] = {
    relation: dict(zip((_Rule.NONE, _Rule.SECRET, _Rule.MUST, _Rule.MAY, _Rule.NEVER), verdicts, strict=True))
    for relation, verdicts in {
        # relation                       no rule               a secret         must differ   may differ    must not
        _Relation.SEALED: ((Status.UNKNOWN, ""),) * 5,
        _Relation.SAME: (_SAME, _SECRET_SHARED, _MUST_DIFFER, _SAME, _SAME),
        _Relation.SAME_EMPTY: (_SAME,) * 5,
        _Relation.SAME_PLACEHOLDER: (_SAME, _SAME, _MUST_DIFFER, _SAME, _SAME),
        _Relation.SAME_UNRESOLVED: (_SAME, _UNKNOWN, _UNKNOWN, _SAME, _SAME),
        _Relation.DIFFERENT: ((Status.DIFFERS, ""), _SECRET_DIFFERS, _BY_CONTRACT, _BY_CONTRACT, _FORBIDDEN),
        _Relation.DIFFERENT_UNRESOLVED: ((Status.DIFFERS, _REFERS), _UNKNOWN, _UNKNOWN, _BY_CONTRACT, _FORBIDDEN),
    }.items()
}
"""Status and reason before expected differences count. ``{place}`` is where the contract says so."""

_ALLOWS = {
    Status.DIFFERS: Allows.DIFFERS,
    Status.MISSING_LEFT: Allows.MISSING,
    Status.MISSING_RIGHT: Allows.MISSING,
    Status.SAME_SECRET: Allows.SAME_SECRET,
}


@dataclass(frozen=True, slots=True)
class Judge:
    """``environments`` are those of the two sides, "" for an unknown one; ``different`` says whether the sides count as
    two environments, so that secrets must differ."""

    environments: frozenset[str]
    expected: Expectations
    different: bool

    def file(self, left: SideFile | None, right: SideFile | None) -> FileResult:
        """The result for one pair of files; None stands for the side that has no such file."""
        present = [file for file in (left, right) if file]
        names = [file.name for file in present]
        problem = next((file.problem for file in present if file.problem), "")
        services = tuple(sorted({service for file in present for service in file.services}))
        keys = () if problem else tuple(self._keys(names, left, right))
        facts = () if problem else tuple(self._facts(names, left, right))
        whole = next((fact for fact in facts if fact.name == Attribute.FILE), None)
        if whole and whole.status is Status.EXPECTED:  # then so are its keys
            keys = tuple(replace(key, status=Status.EXPECTED, reason=whole.reason) for key in keys)
        return FileResult(left.name if left else "", right.name if right else "", keys, facts, services, problem)

    # --- keys ---

    def _keys(self, names: Sequence[str], left: SideFile | None, right: SideFile | None) -> Iterator[KeyResult]:
        ours, theirs = (file.keys if file else {} for file in (left, right))
        if ours is None or theirs is None:
            return
        present = [file for file in (left, right) if file]
        idle = (left.defaults - theirs.keys() if left else set()) | (right.defaults - ours.keys() if right else set())
        for key in sorted((ours.keys() | theirs.keys()) - idle):
            notes = [file.notes[key] for file in present if key in file.notes]
            result = self._key(names, key, (ours.get(key), theirs.get(key)), notes, _remarks(key, present, notes))
            if result.status in _ALLOWS and any(is_left_to_server(key, file.ignored) for file in present):
                result = replace(result, status=Status.EXPECTED, reason="left to the server (ignore_keys)")
            sides = (("left", left), ("right", right))
            yield replace(result, unused_on=tuple(name for name, file in sides if file and key in file.unused))

    def _key(
        self,
        names: Sequence[str],
        key: str,
        values: tuple[Value | None, Value | None],
        notes: Sequence[Notes],
        remarks: tuple[Remark, ...],
    ) -> KeyResult:
        secret = any(note.secret for note in notes)
        risk = risk_of(key, secret=secret, overrides=self.expected.risks)
        status, reason = self._verdict(*values, notes, is_secret=secret or must_differ(key))
        if (allows := _ALLOWS.get(status)) and (explanation := self.explanation(names, key, allows)):
            reason = explanation
            status = Status.SAME if status is Status.SAME_SECRET else Status.EXPECTED
        placeholder = self.explanation(names, key, Allows.PLACEHOLDER) if Remark.PLACEHOLDER in remarks else ""
        return KeyResult(key, status, risk, remarks, reason or placeholder, allowed=bool(placeholder))

    def _verdict(
        self, left: Value | None, right: Value | None, notes: Sequence[Notes], *, is_secret: bool
    ) -> tuple[Status, str]:
        """The status of a key before expected differences count, and the reason."""
        if left is None or right is None:
            return Status.MISSING_LEFT if left is None else Status.MISSING_RIGHT, ""
        note = next((note for note in notes if note.differs), None)
        rule = self._rule(note.differs if note else None, is_secret=is_secret)
        status, reason = _VERDICTS[_relation(left, right)][rule]
        if status is Status.DIFFERS and not reason and left.written and left.written == right.written:
            reason = _REFERS_TO_OTHERS
        place = f"x-differs of {note.contract}:{note.line}" if note else ""
        return status, reason.replace("{place}", place)

    def _rule(self, differs: Differs | None, *, is_secret: bool) -> _Rule:
        if differs is Differs.NEVER:
            return _Rule.NEVER
        if not self.different:
            return _Rule.NONE
        if differs is not None:
            return _Rule.MUST if differs is Differs.MUST else _Rule.MAY
        return _Rule.SECRET if is_secret else _Rule.NONE

    def explanation(self, names: Sequence[str], key: str, allows: Allows) -> str:
        """The reason listed for this key's difference, "" for none."""
        return next(
            (
                listed.reason
                for listed in self._listed(names)
                if allows in listed.allows and any(fnmatchcase(key, pattern) for pattern in listed.keys)
            ),
            "",
        )

    def expects_file(self, names: Sequence[str]) -> str:
        """The reason why one side may lack the whole file, "" for none."""
        return next((listed.reason for listed in self._listed(names) if Attribute.FILE in listed.attributes), "")

    def _listed(self, names: Sequence[str]) -> Iterator[Expectation]:
        """The expected differences listed for a file between these environments."""
        for listed in self.expected.differences:
            if set(listed.between or self.environments) >= self.environments and _matches(listed, names):
                yield listed

    # --- attributes ---

    def _facts(self, names: Sequence[str], left: SideFile | None, right: SideFile | None) -> Iterator[Fact]:
        if left is None or right is None:
            status = Status.MISSING_LEFT if left is None else Status.MISSING_RIGHT
            ours, theirs = ("present" if file else "missing" for file in (left, right))
            yield self._fact(names, Attribute.FILE, ours, theirs, status)
            return
        if left.mode is not None and right.mode is not None:
            ours, theirs = f"{left.mode:04o}", f"{right.mode:04o}"
            yield self._fact(names, Attribute.MODE, ours, theirs, _equality(left.mode == right.mode))
        for attribute, owner, other_owner in (
            (Attribute.OWNER, left.owner, right.owner),
            (Attribute.GROUP, left.group, right.group),
        ):
            if owner and other_owner:
                status = _equality(owner.is_like(other_owner))
                yield self._fact(names, attribute, str(owner), str(other_owner), status)
        if left.keys is None or right.keys is None:
            readable = left.content is not None and right.content is not None
            status = _equality(left.content == right.content) if readable else Status.UNKNOWN
            yield self._fact(names, Attribute.CONTENT, "", "", status)

    def _fact(self, names: Sequence[str], attribute: Attribute, left: str, right: str, status: Status) -> Fact:
        reason = ""
        if status in UNEXPLAINED:
            reason = next((listed.reason for listed in self._listed(names) if attribute in listed.attributes), "")
        return Fact(attribute, left, right, Status.EXPECTED if reason else status, reason=reason)


def _equality(same: bool) -> Status:
    return Status.SAME if same else Status.DIFFERS


def _relation(left: Value, right: Value) -> _Relation:
    if SEALED in (left, right):
        return _Relation.SEALED
    resolved = left.fingerprint is not None and right.fingerprint is not None
    if not _are_equal(left, right):
        return _Relation.DIFFERENT if resolved else _Relation.DIFFERENT_UNRESOLVED
    if not resolved:
        return _Relation.SAME_UNRESOLVED
    if left.empty:
        return _Relation.SAME_EMPTY
    return _Relation.SAME_PLACEHOLDER if left.placeholder else _Relation.SAME


def _are_equal(left: Value, right: Value) -> bool:
    """Whether two values are equal: by how the files write them, if one side does not know its surroundings; else by
    the values, if both are known."""
    if left.written and left.written == right.written and None in (left.given, right.given):
        return True
    if left.fingerprint is not None and right.fingerprint is not None:
        return left.fingerprint == right.fingerprint
    return left.written == right.written and left.given == right.given


def _remarks(key: str, files: Sequence[SideFile], notes: Sequence[Notes]) -> tuple[Remark, ...]:
    values = [file.keys[key] for file in files if file.keys and key in file.keys]
    holds = {
        Remark.PLACEHOLDER: any(value.placeholder for value in values),
        Remark.DEPRECATED: any(note.deprecated for note in notes),
        Remark.UNUSED: any(key in file.unused for file in files),
    }
    return tuple(remark for remark, is_so in holds.items() if is_so)


def _matches(listed: Expectation, names: Sequence[str]) -> bool:
    """Whether the pattern matches the file's path or name on either side."""
    return any(fnmatchcase(name, listed.file) for name in (*names, *map(posixpath.basename, names)))
