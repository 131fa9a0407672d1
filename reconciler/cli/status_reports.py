"""What `status` answers: what is so, and the command that changes it. Pure; never a value of a variable."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from reconciler.cli.changes import change_item, count_sentence, drift_items, headline, reason_lines, revision_text
from reconciler.cli.layout import Item, Page, counted
from reconciler.cli.plan_reports import closing_lines, note_lines, pause_sentence, separated, warning_lines
from reconciler.core.change_words import Data, Said, Tense
from reconciler.core.text import listed

_NO_DAEMON = "The daemon is not running; this is how the live files are now."


def status_report(status: Data, page: Page) -> Iterator[str]:
    """Each environment, with what keeps it from the branch's head, its targets and its services."""
    daemon = status["daemon"]
    if not daemon["running"]:
        yield from page.text(page.style("yellow", _NO_DAEMON))
    elif page.verbose:
        yield from page.text(page.style("dim", f"daemon {daemon['pid']}, HTTP at {daemon['http']}"))
    for number, environment in enumerate(status["environments"]):
        if number or not daemon["running"] or page.verbose:
            yield ""
        yield from _environment(environment, page, daemon["running"])
    if page.verbose:
        head = status["history"]
        yield from ("", *page.text(f"history: {head['last']} entries, head {head['sha256']}"))


def _environment(environment: Data, page: Page, by_daemon: bool) -> Iterator[str]:
    said, after, name = Said(), environment["after"], environment["environment"]
    revision = environment.get("revision") or environment["applied"] or environment["head"]
    yield from page.text(headline(page, name, environment["result"] or "unknown", revision), 0, 2)
    yield from page.text(page.style("dim", _checked(environment, page)), 2)
    if activity := environment.get("reconciling"):
        doing = f" ({activity['phase']}: {activity['doing']})" if activity["phase"] else ""
        yield from page.text(f"{page.style('cyan', 'reconciling')} {page.since(activity['since'])}{doing}", 2, 2)
    yield from page.items(list(_revisions(environment, revision, page)))
    if environment["result"] not in (None, "in_sync", "pending", "drifted", "applied", "corrected"):
        yield from reason_lines(page, environment, said)
    yield from _held_back(environment, page, said)
    yield from warning_lines(page, environment, said)
    if away := said.unsaid(environment.get("engine_away") or ""):
        yield from page.text(f"{page.style('red', 'engine away')}: {away}", 2, 2)
    if after:
        targets = [_target(page, environment, change, said) for change in after["changes"]]
        yield from separated(page.items([*targets, *drift_items(page, after, Tense.FUTURE)]))
    yield from _services(environment, page, said)
    if after:
        yield from separated(list(note_lines(page, after)))
    yield from _next(environment, page, by_daemon)


def _checked(environment: Data, page: Page) -> str:
    if not environment["checked_at"]:
        return "not reconciled yet"
    same = f", unchanged {page.since(environment['since'])}" if environment["since"] else ""
    return f"checked {page.ago(environment['checked_at'])}{same}"


def _revisions(environment: Data, selected: Data | None, page: Page) -> Iterator[Item]:
    """Head, applied and healthy, where they are not the revision of the headline; equal ones together."""
    by_commit: dict[str, list[str]] = {}
    for name in ("head", "applied", "healthy"):
        if environment[name]:
            by_commit.setdefault(environment[name]["commit"], []).append(name)
    for commit, names in by_commit.items():
        if selected is None or commit != selected["commit"]:
            yield Item((page.style("dim", " and ".join(names)), revision_text(page, environment[names[0]])))
    if not environment["applied"]:
        yield Item((page.style("dim", "applied"), "none yet"))


def _held_back(environment: Data, page: Page, said: Said) -> Iterator[str]:
    """What keeps the branch's head from being the target revision, or anything from being done."""
    name = environment["environment"]
    if pin := environment["pin"]:
        reason = f": {pin['reason']}" if pin["reason"] else ""
        at = f"{pin['revision']['commit'][:12]} since {page.exact(pin['since'])}{reason}"
        yield from _standing(page, "cyan", "pinned", f"at {at}", f"`reconciler unpin -e {name}` ends it")
    for pause in environment["pauses"]:
        yield from page.text(pause_sentence(page, name, pause), 2, 2)
    if quarantine := environment["quarantine"]:
        reason = said.unsaid(quarantine["reason"]) or "see above"
        text = f"{quarantine['revision']['commit'][:12]} since {page.exact(quarantine['since'])}: {reason}"
        command = f"`reconciler retry -e {name}` lifts it, or fix it with a new commit"
        yield from _standing(page, "magenta", "quarantined", text, command)
        if revert := quarantine["revert"]:
            yield from page.text(f"revert in git ({revert['state']}): {revert['reason'] or 'no more is known'}", 4, 2)
    for stack, reason in environment["suspended"].items():
        text = f"{stack or 'files of no stack'}: {said.unsaid(reason) or 'see above'}"
        yield from _standing(page, "red", "suspended", text, f"`reconciler retry -e {name}` continues")


def _standing(page: Page, colour: str, word: str, text: str, command: str) -> list[str]:
    return page.text(f"{page.style(colour, word)} {text.rstrip('.')}. {command}.", 2, 2)


def _target(page: Page, environment: Data, change: Data, said: Said) -> Item:
    """A target; one that is not in sync with the revision it has, where that is not the environment's."""
    if change["sync"] == "in_sync" and change["kind"] == "in_sync":
        since = (page.style("dim", page.since(change["since"])),) if change.get("since") else ()
        return Item((change["target"], page.state("in_sync"), *since))
    item = change_item(page, change, Tense.FUTURE, said, paused=bool(environment["pauses"]))
    applied, whole = change.get("applied"), environment["applied"]
    if not applied or not whole or change["sync"] == "orphan" or applied["commit"] == whole["commit"]:
        return item
    return Item(item.cells, (*item.details, f"applied revision: {applied['commit'][:12]}"))


def _services(environment: Mapping[str, Any], page: Page, said: Said) -> Iterator[str]:
    if unknown := said.unsaid(environment.get("services_unknown", "")):
        yield from page.text(f"{page.style('yellow', 'services unknown')}: {unknown}", 2, 2)
    services: Sequence[Data] = environment.get("services", ())
    yield from separated(page.items([_service(page, service) for service in services]))


def _service(page: Page, service: Data) -> Item:
    bad = "yellow" if service.get("acknowledged") else "red"
    state = page.style("green" if service["healthy"] else bad, service["state"])
    restarts = f", {counted(service['restarts'], 'restart')}" if service["restarts"] else ""
    count, nodes = service["containers"], service["nodes"]
    running = f", {service['running']} of {count} running" if count > 1 or (nodes and not service["running"]) else ""
    where = f" on {listed(nodes)}" if nodes else ""
    reason = (service["reason"],) if service.get("reason") else ()
    return Item((f"{service['stack']}/{service['service']}", f"{state}{running}{where}{restarts}", *reason))


def _next(environment: Data, page: Page, by_daemon: bool) -> Iterator[str]:
    """What is still to be done, and the command that does it."""
    name, after = environment["environment"], environment["after"]
    closing = list(closing_lines(page, environment, by_daemon=by_daemon))
    if after and environment["pending"] and not closing:
        text = f"To do: {count_sentence(after, Tense.FUTURE)}. `reconciler sync -e {name}` does it now."
        closing = page.text(text)
    yield from separated(closing)
