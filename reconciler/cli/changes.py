"""How one target's change and one service's action are described, in `plan`, `sync` and `status` alike. Pure.

The state comes first, then what is done about it, then the keys, then what else there is to say.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from reconciler.cli.layout import Detail, Item, Page, counted
from reconciler.core.change_words import (
    Data,
    Said,
    Tense,
    cause_of,
    cause_of_drift,
    conjugated,
    effect_of,
    effect_of_drift,
    is_orphan,
    reason_of,
    rest_of_reason,
    verb_of,
)
from reconciler.core.errors import with_id
from reconciler.core.text import author_name

_VERBS = ("create", "update", "restore", "take over", "delete", "recreate", "restart", "signal")


_GOES = {
    Tense.FUTURE: "will be deleted",
    Tense.DONE: "was deleted",
    Tense.ROLLED_BACK: "was restored",
    Tense.BROKEN_OFF: "was to be deleted",
}


def headline(page: Page, environment: str, state: str, revision: Data | None) -> str:
    """Such as ``production: applied at 1f0c2b7d9a3e "Move the mail server" (Ada, 2 min ago)``."""
    at = f" at {revision_text(page, revision)}" if revision else ""
    return f"{page.style('bold', environment)}{f': {page.state(state)}' if state else ''}{at}"


def revision_text(page: Page, revision: Data) -> str:
    about = ", ".join(filter(None, (author_name(revision["author"]), page.ago(revision["committed_at"]))))
    return f'{revision["commit"][:12]} "{revision["subject"]}" ({about})'


def reason_lines(page: Page, outcome: Data, said: Said) -> Iterator[str]:
    """The reason of an outcome, with its id, but for what the lines about its targets say."""
    if text := said.unsaid(reason_of(outcome)):
        yield from page.text(with_id(text, outcome["error_id"]), 2, 2)


def change_item(page: Page, change: Data, tense: Tense, said: Said, paused: bool = False) -> Item:
    """One target that is not in sync. ``paused``: the pauses are shown above."""
    because_paused = paused and "; paused until " in change["reason"]
    cells = (change["target"], _state(page, change, tense), "paused" if because_paused else effect_of(change, tense))
    details: list[Detail] = page.keys(change["keys"])
    if change["restored_from"]:
        details.append(with_id(f"backup {change['restored_from']}", "restored-from-backup"))
    if change["edited_by"]:
        details.append(f"edited by: {change['edited_by']}")
    if text := said.unsaid(rest_of_reason(change, because_paused), remember=False):
        details.append(with_id(text, change["error_id"]))
    return Item(tuple(filter(None, cells)), tuple(details))


def _state(page: Page, change: Data, tense: Tense) -> str:
    """Such as ``drifted 08:19Z (edited on the server)``; of what was pending before a run only ``changed in git``."""
    status, cause = change["sync"], cause_of(change)
    if status == "pending" and tense is not Tense.FUTURE:
        return cause
    at = (change["edited_at"] if status == "drifted" else change.get("left_at")) or change.get("since")
    when = f" {page.clock(at)}" if at and status == "drifted" else f" {page.since(at)}" if at else ""
    return f"{page.state(status)}{when}{f' ({cause})' if cause else ''}"


def change_items(page: Page, changes: Sequence[Data], tense: Tense, said: Said, paused: bool = False) -> Iterator[Item]:
    """An item for each change; what becomes of the old live file of a renamed target is said in its own."""
    orphans = {change["moved_to"]: change for change in changes if change["moved_to"]}
    for change in changes:
        if change["moved_to"]:
            continue
        item = change_item(page, change, tense, said, paused)
        if orphan := orphans.get(change["target"]):
            rest = said.unsaid(rest_of_reason(orphan), remember=False)
            gone = f"the old live file {orphan['path']} {_GOES[tense]}, after a backup"
            fate = gone if verb_of(orphan) else f"the old live file {rest}"
            item = Item(item.cells, (*item.details, fate))
        yield item


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
    verb = conjugated(action["action"], tense)
    return Item((name, f"{verb}: {action['reason']}" if verb else f"{action['action']}: {action['reason']}"))


def drift_items(page: Page, plan: Data, tense: Tense) -> list[Item]:
    """The services that somebody changed on the engine itself."""
    return [_drift_item(page, drift, tense) for drift in plan.get("drifts", ())]


def _drift_item(page: Page, drift: Data, tense: Tense) -> Item:
    cells = [f"{drift['stack']}/{drift['service']}", f"{page.state('drifted')} ({cause_of_drift(drift)})"]
    cells.append(effect_of_drift(drift, tense))
    rest = drift["reason"].partition("; ")[2]
    details = [*page.keys(drift["keys"]), *drift["details"]]
    return Item(tuple(filter(None, cells)), (*details, *([with_id(rest, drift["error_id"])] if rest else ())))


def count_sentence(plan: Data, tense: Tense) -> str:
    """Such as ``1 file to restore, 0 services to restart``."""
    files, services = [verb_of(change) for change in plan["changes"]], [action["action"] for action in plan["actions"]]
    parts = [*_counts(files, "file", "write", tense), *_counts(services, "service", "restart", tense)]
    orphans = sum(is_orphan(change) for change in plan["changes"])
    if (
        waiting := sum(it["effect"] in ("hold", "report") for it in (*plan["changes"], *plan.get("drifts", ())))
        - orphans
    ):
        parts.append(f"{waiting} waiting for an operator")
    if orphans:
        parts.append(f"{counted(orphans, 'orphan')} staying")
    return ", ".join(parts)


def _counts(verbs: Sequence[str], noun: str, usual: str, tense: Tense) -> Iterator[str]:
    """Each verb with its number; of nothing the ``usual`` verb."""
    for verb in sorted(set(filter(None, verbs)), key=_VERBS.index) or [usual]:
        words = f"to {verb}" if tense is Tense.FUTURE else "written" if verb == "write" else conjugated(verb, tense)
        yield f"{counted(verbs.count(verb), noun)} {words}"
