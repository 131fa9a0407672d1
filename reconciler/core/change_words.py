"""How a change of a target is described, wherever it is shown: its cause, what is done, what else there is to say.

A change is what the daemon's serialize.py makes of one: names and reasons, never a value. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from enum import Enum
from typing import Any

Data = Mapping[str, Any]

# What the state and the keys of a change say already (see core/decide/classify.py).
_SAID = re.compile(
    r"in sync|new target|git has (new content|another .*|the variables of the live file in another form)|"
    r"a different file is already there.*|the target left git.*|"
    r"the live file (was changed by hand|is gone)|the .* of the live file was changed by hand|"
    r"git (and the live file both changed|has new content and the live file is gone)|"
    r".* (was|were) changed by hand( at \S+ \S+)?|.* (has a pending change|have pending changes) from git|"
    r"(.* (was|were) restored from|the live file was removed, as) backup \S+( has none| at \S+ \S+)?"
)
_COSMETIC = " (order, quotes or comments only: no service needs it)"
_WAITING = re.compile(r"(; )?\d+ waiting for an operator: .*")
_LEAST_QUOTED = 40  # characters
_ID = re.compile(r" \[[a-z]+(-[a-z]+)*\]$")  # at the end of a message: see core/errors.py
_WROTE = re.compile(r"(wrote|deleted) [^;]*(; |$)")
_IN_SYNC = re.compile(r"in sync at [0-9a-f]+(; .* left git, .*)?")


class Tense(Enum):
    """Whether something will be done, is done, was rolled back, or was broken off."""

    FUTURE = 0
    DONE = 1
    ROLLED_BACK = 2
    BROKEN_OFF = 3


class Said:
    """What an answer has said, so that it says no reason twice."""

    def __init__(self) -> None:
        self._lines: set[str] = set()
        self._pieces: dict[str, str] = {}  # of the least length that counts as a quotation → the line

    def unsaid(self, text: str, *, remember: bool = True) -> str:
        """The lines of the text that are new; a reason that is quoted again is only referred to."""
        lines = list(filter(None, text.split("\n")))
        new = "\n".join(filter(None, map(self._referring, lines)))
        for line in lines if remember else ():
            self._lines.add(_ID.sub("", line).rstrip("."))
            for piece in _pieces(line):
                self._pieces.setdefault(piece, line)
        return new

    def _referring(self, line: str) -> str:
        id = _ID.search(line)
        text = self._new(line[: id.start()] if id else line)
        return f"{text}{id[0]}" if text and id else text

    def _new(self, line: str) -> str:
        if line.rstrip(".") in self._lines:
            return ""
        known = next((self._pieces[piece] for piece in _pieces(line) if piece in self._pieces), "")
        match = SequenceMatcher(None, line, known, autojunk=False).find_longest_match() if known else None
        if match is None or 2 * match.size <= len(known):
            return line
        quoted = line[match.a : match.a + match.size].strip()
        if quoted == line.rstrip("."):
            return ""
        return line.replace(quoted, f"see above{'.' if quoted.endswith('.') else ''}")


def _pieces(line: str) -> Iterator[str]:
    return (line[start : start + _LEAST_QUOTED] for start in range(len(line) - _LEAST_QUOTED + 1))


def files_removed(reason: str) -> str:
    """The reason of a run without the files that it wrote, for where they are listed."""
    return _WROTE.sub("", reason)


def waiting_removed(reason: str) -> str:
    """The reason without what waits for an operator: the lines about the targets say it."""
    return _WAITING.sub("", reason)


def cause_of(change: Data) -> str:
    """Why the target is as it is, such as ``edited on the server``, with what it was called before."""
    cause = _with_origin(change, _cause(change["kind"], change["aspects"]))
    cosmetic = change["reason"].partition("; ")[0].endswith(_COSMETIC)
    return f"{cause}, cosmetic: no service needs it" if cosmetic else cause


def _with_origin(change: Data, cause: str) -> str:
    if not change["renamed_from"]:
        return cause
    same = change["renamed_from"] == change["target"].partition("/")[2]
    origin = "moved to another path" if same else f"renamed from {change['renamed_from']}"
    return origin if change["kind"] in ("create", "in_sync") else f"{cause}, {origin}"


def _cause(kind: str, aspects: Sequence[str]) -> str:
    edited = "deleted on the server" if "missing" in aspects else "edited on the server"
    edited = "restored from a backup" if "restored" in aspects else edited
    if kind == "conflict" and "cosmetic" in aspects:
        return "in another form in git"
    metadata = " and ".join(aspect for aspect in aspects if aspect in ("mode", "owner"))
    if metadata and not {"content", "cosmetic", "missing"} & set(aspects):
        by = edited if "restored" in aspects else "changed on the server"
        return f"{metadata} {'changed in git' if kind == 'update' else by}"
    causes = {
        "create": "new in git",
        "update": "changed in git",
        "first_contact": "a different file is there",
        "drift": edited,
        "conflict": f"changed in git and {edited}",
        "orphan": "left git",
        "not_ours": "left git, and is not as we wrote it",
        "in_sync": "containers run older values" if "stale" in aspects else "",
    }
    return causes.get(kind, kind)


def reason_of(outcome: Data) -> str:
    """The reason of an outcome, but for what its state and the lines about its targets say."""
    lines = outcome["reason"].split("\n")
    return "\n".join(filter(None, (waiting_removed(line) for line in lines if not _IN_SYNC.fullmatch(line))))


def is_orphan(change: Data) -> bool:
    """Whether the live file stays although its target left git."""
    return bool(change["sync"] == "orphan" and change["effect"] == "report")


def verb_of(change: Data) -> str:
    """What is done about a target, as in ``will restore``; "" where nothing is."""
    if change["effect"] == "delete":
        return "delete"
    verbs = {"create": "create", "drift": "restore", "first_contact": "take over"}
    return verbs.get(change["kind"], "update") if change["effect"] == "write" else ""


def rest_of_reason(change: Data, paused: bool = False) -> str:
    """What of the reason neither the state nor the keys say. Who changed which key matters where both sides did."""
    first, *parts = change["reason"].split("; ")
    if change["kind"] == "conflict" or not _SAID.fullmatch(first.removesuffix(_COSMETIC)):
        parts.insert(0, first)
    if paused:
        parts = [part for part in parts if not part.startswith("paused until ")]
    return "; ".join(parts)


def effect_of(change: Data, tense: Tense) -> str:
    """What becomes of a target, such as ``will restore``, ``held`` or ``stays``; "" where the state says it."""
    if verb := verb_of(change):
        return conjugated(verb, tense)
    if change["effect"] == "hold":
        return "" if change["sync"] == "held" else "held"
    return "stays" if change["effect"] == "report" else ""


def cause_of_drift(drift: Data) -> str:
    """What somebody did to a service that the engine itself keeps."""
    return "removed by hand" if drift["missing"] else "changed by hand on the engine"


def effect_of_drift(drift: Data, tense: Tense) -> str:
    """What becomes of such a service: it is deployed again, as its project says, or stays."""
    if drift["effect"] == "write":
        return conjugated("redeploy", tense)
    return "held" if drift["effect"] == "hold" else "stays"


def conjugated(verb: str, tense: Tense) -> str:
    """Such as ``will update`` and ``updated``."""
    past = {"take over": "taken over"}.get(verb, f"{verb}d" if verb.endswith("e") else f"{verb}ed")
    words = {Tense.FUTURE: f"will {verb}", Tense.DONE: past, Tense.ROLLED_BACK: "rolled back", Tense.BROKEN_OFF: ""}
    return words[tense]


def done_to_file(change: Data) -> str:
    """What a run did to a file, or why; of a restored one that nobody edited it."""
    if change["kind"] in ("drift", "conflict") and change["restored_from"]:
        return f"was restored from backup {change['restored_from']}"
    if change["kind"] in ("orphan", "not_ours"):
        return "deleted"
    renamed = f", renamed from {change['renamed_from']}" if change["renamed_from"] else ""
    return f"{change['kind'].replace('_', ' ')}{renamed}"
