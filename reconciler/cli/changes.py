"""How one target's change and one service's action are described, in `plan`, `sync` and `status` alike. Pure.

The state comes first, then what is done about it, then the keys, then what else there is to say.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from enum import Enum
from typing import Any

from reconciler.cli.layout import Detail, Item, Page, by_name, counted
from reconciler.core.errors import with_id

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
_VERBS = ("create", "update", "restore", "take over", "delete", "recreate", "restart", "signal")
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


_GOES = {
    Tense.FUTURE: "will be deleted",
    Tense.DONE: "was deleted",
    Tense.ROLLED_BACK: "was restored",
    Tense.BROKEN_OFF: "was to be deleted",
}


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


def headline(page: Page, environment: str, state: str, revision: Data | None) -> str:
    """Such as ``production: applied at 1f0c2b7d9a3e "Move the mail server" (Ada, 2 min ago)``."""
    at = f" at {revision_text(page, revision)}" if revision else ""
    return f"{page.style('bold', environment)}{f': {page.state(state)}' if state else ''}{at}"


def revision_text(page: Page, revision: Data) -> str:
    about = ", ".join(filter(None, (by_name(revision["author"]), page.ago(revision["committed_at"]))))
    return f'{revision["commit"][:12]} "{revision["subject"]}" ({about})'


def reason_lines(page: Page, outcome: Data, said: Said) -> Iterator[str]:
    """The reason of an outcome, with its id, but for what the lines about its targets say."""
    lines = [waiting_removed(line) for line in outcome["reason"].split("\n") if not _IN_SYNC.fullmatch(line)]
    if text := said.unsaid("\n".join(lines)):
        yield from page.text(with_id(text, outcome["error_id"]), 2, 2)


def files_removed(reason: str) -> str:
    """The reason of a run without the files that it wrote, for where they are listed."""
    return _WROTE.sub("", reason)


def waiting_removed(reason: str) -> str:
    """The reason without what waits for an operator: the lines about the targets say it."""
    return _WAITING.sub("", reason)


def change_item(page: Page, change: Data, tense: Tense, said: Said, paused: bool = False) -> Item:
    """One target that is not in sync. ``paused``: the pauses are shown above."""
    because_paused = paused and "; paused until " in change["reason"]
    cells = (change["target"], _state(page, change, tense), "paused" if because_paused else _effect(change, tense))
    details: list[Detail] = page.keys(change["keys"])
    if change["restored_from"]:
        details.append(with_id(f"backup {change['restored_from']}", "restored-from-backup"))
    if change["edited_by"]:
        details.append(f"edited by: {change['edited_by']}")
    if text := said.unsaid(_rest(change, because_paused), remember=False):
        details.append(with_id(text, change["error_id"]))
    return Item(tuple(filter(None, cells)), tuple(details))


def _state(page: Page, change: Data, tense: Tense) -> str:
    """Such as ``drifted 08:19Z (edited on the server)``; of what was pending before a run only ``changed in git``."""
    status, cause = change["sync"], _with_origin(change, _cause(change["kind"], change["aspects"]))
    if change["reason"].partition("; ")[0].endswith(_COSMETIC):
        cause += ", cosmetic: no service needs it"
    if status == "pending" and tense is not Tense.FUTURE:
        return cause
    at = (change["edited_at"] if status == "drifted" else change.get("left_at")) or change.get("since")
    when = f" {page.clock(at)}" if at and status == "drifted" else f" {page.since(at)}" if at else ""
    return f"{page.state(status)}{when}{f' ({cause})' if cause else ''}"


def _with_origin(change: Data, cause: str) -> str:
    """The cause, with what the target was called before."""
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


def is_orphan(change: Data) -> bool:
    """Whether the live file stays although its target left git."""
    return bool(change["sync"] == "orphan" and change["effect"] == "report")


def change_items(page: Page, changes: Sequence[Data], tense: Tense, said: Said, paused: bool = False) -> Iterator[Item]:
    """An item for each change; what becomes of the old live file of a renamed target is said in its own."""
    orphans = {change["moved_to"]: change for change in changes if change["moved_to"]}
    for change in changes:
        if change["moved_to"]:
            continue
        item = change_item(page, change, tense, said, paused)
        if orphan := orphans.get(change["target"]):
            rest = said.unsaid(_rest(orphan, False), remember=False)
            gone = f"the old live file {orphan['path']} {_GOES[tense]}, after a backup"
            fate = gone if verb_of(orphan) else f"the old live file {rest}"
            item = Item(item.cells, (*item.details, fate))
        yield item


def verb_of(change: Data) -> str:
    """What is done about a target, as in ``will restore``; "" where nothing is."""
    if change["effect"] == "delete":
        return "delete"
    verbs = {"create": "create", "drift": "restore", "first_contact": "take over"}
    return verbs.get(change["kind"], "update") if change["effect"] == "write" else ""


def _effect(change: Data, tense: Tense) -> str:
    if verb := verb_of(change):
        return _verb(verb, tense)
    if change["effect"] == "hold":
        return "" if change["sync"] == "held" else "held"
    return "stays" if change["effect"] == "report" else ""


def _verb(verb: str, tense: Tense) -> str:
    past = {"take over": "taken over"}.get(verb, f"{verb}d" if verb.endswith("e") else f"{verb}ed")
    words = {Tense.FUTURE: f"will {verb}", Tense.DONE: past, Tense.ROLLED_BACK: "rolled back", Tense.BROKEN_OFF: ""}
    return words[tense]


def _rest(change: Data, paused: bool) -> str:
    """What of the reason neither the state nor the keys say. Who changed which key matters where both sides did."""
    first, *parts = change["reason"].split("; ")
    if change["kind"] == "conflict" or not _SAID.fullmatch(first.removesuffix(_COSMETIC)):
        parts.insert(0, first)
    if paused:
        parts = [part for part in parts if not part.startswith("paused until ")]
    return "; ".join(parts)


def action_items(page: Page, plan: Data, tense: Tense) -> list[Item]:
    """The services that are touched; and the stacks whose files change without that."""
    actions = plan["actions"]
    stacks = {action["stack"] for action in actions} | {change["stack"] for change in plan["changes"]}
    items = [_action_item(action, tense, several=len(stacks - {None}) > 1) for action in actions]
    if tense in (Tense.ROLLED_BACK, Tense.BROKEN_OFF):
        return items
    written: dict[str, list[Data]] = {}
    for change in plan["changes"]:
        if change["stack"] and verb_of(change):
            written.setdefault(change["stack"], []).append(change)
    for stack in written.keys() - {action["stack"] for action in actions}:
        only_drift = all(change["kind"] == "drift" for change in written[stack])
        reason = "its containers already run git's values" if only_drift else "no service needs one"
        items.append(Item((f"stack {stack}", f"no restart: {reason}")))
    return items


def _action_item(action: Data, tense: Tense, *, several: bool) -> Item:
    name = f"{action['stack']}/{action['service']}" if several else action["service"]
    verb = _verb(action["action"], tense)
    return Item((name, f"{verb}: {action['reason']}" if verb else f"{action['action']}: {action['reason']}"))


def count_sentence(plan: Data, tense: Tense) -> str:
    """Such as ``1 file to restore, 0 services to restart``."""
    files, services = [verb_of(change) for change in plan["changes"]], [action["action"] for action in plan["actions"]]
    parts = [*_counts(files, "file", "write", tense), *_counts(services, "service", "restart", tense)]
    orphans = sum(is_orphan(change) for change in plan["changes"])
    if waiting := sum(change["effect"] in ("hold", "report") for change in plan["changes"]) - orphans:
        parts.append(f"{waiting} waiting for an operator")
    if orphans:
        parts.append(f"{counted(orphans, 'orphan')} staying")
    return ", ".join(parts)


def _counts(verbs: Sequence[str], noun: str, usual: str, tense: Tense) -> Iterator[str]:
    """Each verb with its number; of nothing the ``usual`` verb."""
    for verb in sorted(set(filter(None, verbs)), key=_VERBS.index) or [usual]:
        words = f"to {verb}" if tense is Tense.FUTURE else "written" if verb == "write" else _verb(verb, tense)
        yield f"{counted(verbs.count(verb), noun)} {words}"
