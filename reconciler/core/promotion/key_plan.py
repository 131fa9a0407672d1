"""Decides which keys `promote` takes from one environment to another, and where each value comes from. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from reconciler.core.contract import Differs, Notes
from reconciler.core.secrets.names import is_no_secret_value, is_secret_name

_PASSWORD = re.compile(r"://[^\s/@:]*:[^\s/@]+@")  # in an address


class ValueFrom(StrEnum):
    """Where the value of a promoted key comes from."""

    COPIED = "copied"
    GENERATED = "generated"
    ASKED = "asked"


@dataclass(frozen=True, slots=True)
class FileKeys:
    """A file of one environment: ``keys`` by name with their values, ``linked`` those that refer to other variables,
    ``notes`` what its contracts say."""

    path: str
    keys: Mapping[str, str] = field(repr=False)
    linked: frozenset[str] = frozenset()
    notes: Mapping[str, Notes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FilePair:
    """The same file in both environments. ``expected`` gives the reason why a key may be missing on one side or may
    differ, "" for none; ``left_to_server`` says whether a server decides the key."""

    left: FileKeys
    right: FileKeys
    expected: Callable[[str], str]
    left_to_server: Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class PromotedKey:
    """``names_left``: its value still names the left environment or one of its hosts. ``new``: the right file lacks
    it."""

    key: str
    left: str
    right: str
    value_from: ValueFrom
    new: bool
    secret: bool
    names_left: bool = False


@dataclass(frozen=True, slots=True)
class LeftOutKey:
    """A key that is not promoted, and why."""

    key: str
    left: str
    right: str
    reason: str


@dataclass(frozen=True, slots=True)
class KeyPlan:
    keys: tuple[PromotedKey, ...]
    left_out: tuple[LeftOutKey, ...]


def plan_keys(
    pairs: Iterable[FilePair],
    requested: Collection[str],
    *,
    generated: Callable[[str], bool],
    copy_secrets: bool,
    left_names: Collection[str],
) -> KeyPlan:
    """Plan for the ``requested`` keys, or without any for all that the right side lacks.

    ``generated`` says for which secrets a value is made; ``left_names`` are the left environment and its hosts.
    """
    keys: list[PromotedKey] = []
    left_out: list[LeftOutKey] = []
    for pair in pairs:
        for key in pair.left.keys:
            if key not in requested if requested else key in pair.right.keys:
                continue
            if reason := _reason_to_leave_out(pair, key, named=bool(requested)):
                left_out.append(LeftOutKey(key, pair.left.path, pair.right.path, reason))
                continue
            promoted = _promoted(pair, key, generated, left_names, copy_secrets=copy_secrets)
            if promoted.value_from is ValueFrom.COPIED and pair.right.keys.get(key) == pair.left.keys[key]:
                left_out.append(LeftOutKey(key, pair.left.path, pair.right.path, "has that value already"))
            else:
                keys.append(promoted)
    return KeyPlan(tuple(keys), tuple(left_out))


def _promoted(
    pair: FilePair, key: str, generated: Callable[[str], bool], left_names: Collection[str], *, copy_secrets: bool
) -> PromotedKey:
    value = pair.left.keys[key]
    note = pair.right.notes.get(key, pair.left.notes.get(key, Notes()))
    secret = is_secret(key, value, note)
    own = note.differs is not Differs.NEVER and (note.differs is Differs.MUST or (secret and not copy_secrets))
    value_from = ValueFrom.COPIED
    if own:
        value_from = ValueFrom.GENERATED if secret and generated(key) else ValueFrom.ASKED
    copied = value_from is ValueFrom.COPIED
    still_named = copied and names_one_of(value, left_names)
    return PromotedKey(
        key, pair.left.path, pair.right.path, value_from, key not in pair.right.keys, secret, names_left=still_named
    )


def _reason_to_leave_out(pair: FilePair, key: str, *, named: bool) -> str:
    """A key that is ``named`` is taken although it is expected to differ: who names it knows."""
    if pair.left_to_server(key):
        return "left to the server (ignore_keys)"
    if key in pair.left.linked:
        return "its value refers to other variables; use `reconciler set` or `reconciler edit`"
    expected = "" if named else pair.expected(key)
    return f"expected to differ: {expected}" if expected else ""


def is_secret(key: str, value: str, note: Notes) -> bool:
    """Whether the two environments must not share the value: by contract, by the name, or as an address with a
    password. An empty value is none."""
    if not value:
        return False
    named = is_secret_name(key) and not is_no_secret_value(value)
    return note.secret or named or _PASSWORD.search(value) is not None


def names_one_of(value: str, names: Collection[str]) -> bool:
    """Whether one of the names is a word of the value, whatever the case."""
    words = (rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])" for name in names if name)
    return any(re.search(word, value, re.IGNORECASE) for word in words)
