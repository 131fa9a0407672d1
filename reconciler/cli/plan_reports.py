"""What `plan`, `sync` and the requests that end in a reconciliation answer. Pure; never a value of a variable."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from reconciler.cli.changes import action_items, change_items, count_sentence, drift_items, headline, reason_lines
from reconciler.cli.layout import Page
from reconciler.core.change_words import Data, Said, Tense, files_removed, is_orphan, waiting_removed
from reconciler.core.errors import with_id

_RETRY = "Run it again once that is fixed; a running daemon retries within 5 minutes."
_NOTHING_WRITTEN = "Nothing was written. "
_STALLED = "It waits for a new revision, or for `reconciler sync`."
_DONE = ("applied", "corrected", "held")
_NOTHING_TO_DO = "Nothing to do: files and services are as in git."


def plan_report(outcomes: Sequence[Data], page: Page, *, summary: bool = False) -> Iterator[str]:
    """What the next reconciliation would do, by environment; with ``summary`` only how much."""
    for number, outcome in enumerate(outcomes):
        if number:
            yield ""
        yield from _planned(outcome, page, summary)


def _planned(outcome: Data, page: Page, summary: bool) -> Iterator[str]:
    plan, result, said = outcome["plan"], outcome["result"], Said()
    ended = result if result not in ("in_sync", "pending", "drifted", "held") else ""
    yield from page.text(headline(page, outcome["environment"], ended, outcome["revision"]), 0, 2)
    if result not in ("in_sync", "pending", "drifted"):
        yield from reason_lines(page, outcome, said)
    yield from warning_lines(page, outcome, said)
    blocks = list(_plan_lines(page, plan, Tense.BROKEN_OFF if ended else Tense.FUTURE, said)) if plan else []
    yield from separated([] if summary else blocks)
    closing = list(closing_lines(page, outcome))
    if plan and not ended:
        something = outcome["pending"] or result == "held"
        sentence = f"Plan: {count_sentence(plan, Tense.FUTURE)}." if something else _NOTHING_TO_DO
        closing = [*page.text(sentence, 0, 2), *closing]
    yield from separated(closing) if blocks and not summary else closing


def outcome_report(outcomes: Sequence[Data], page: Page) -> Iterator[str]:
    """How reconciliations ended, and what they did."""
    for number, outcome in enumerate(outcomes):
        if number:
            yield ""
        yield from _ended(outcome, page)


def _ended(outcome: Data, page: Page) -> Iterator[str]:
    plan, result, said = outcome["plan"], outcome["result"], Said()
    pauses, done = outcome.get("pauses", ()), result in _DONE and outcome["run"]
    yield from page.text(headline(page, outcome["environment"], result, outcome["revision"]), 0, 2)
    for pause in pauses:
        yield from page.text(pause_sentence(page, outcome["environment"], pause), 2, 2)
    if forgotten := outcome.get("forgotten"):
        yield from page.text(f"{page.style('green', 'forgotten')}: {forgotten}", 2, 2)
    if not done:
        yield from reason_lines(page, outcome, said)
    yield from warning_lines(page, outcome, said)
    blocks: list[str] = []
    if plan and (outcome["run"] or result in ("held", "stalled")):
        tense = Tense.DONE if done else Tense.ROLLED_BACK if result == "rolled_back" else Tense.BROKEN_OFF
        blocks += _plan_lines(page, plan, tense, said, paused=bool(pauses))
    elif plan:
        orphans = [change for change in plan["changes"] if is_orphan(change)]
        blocks += _plan_lines(page, {**plan, "changes": orphans, "actions": (), "drifts": ()}, Tense.FUTURE, said)
    yield from separated(blocks)
    closing = page.text(_done_sentence(outcome), 0, 2) if plan and done else []
    if outcome["backup"]:
        closing += page.text(page.style("dim", f"Backup: {outcome['backup']}"))
    closing += closing_lines(page, outcome)
    yield from separated(closing) if blocks else closing


def _done_sentence(outcome: Data) -> str:
    """What was done, in numbers; of the reason what the blocks above do not say."""
    rest = waiting_removed(files_removed(outcome["reason"]))
    done = f"Done: {count_sentence(outcome['plan'], Tense.DONE)}{f'; {rest}' if rest else ''}."
    return with_id(done, outcome["error_id"] if rest else "")


def warning_lines(page: Page, outcome: Data, said: Said) -> Iterator[str]:
    if text := said.unsaid(outcome["warning"] or ""):
        yield from page.text(f"{page.style('yellow', 'warning')}: {text}", 2, 2)


def closing_lines(page: Page, outcome: Data, *, by_daemon: bool | None = None) -> Iterator[str]:
    """What happens next without an operator. ``by_daemon``: whether a daemon runs; None: that is not known."""
    if outcome["result"] == "stalled":
        said = _NOTHING_WRITTEN.strip(". ") in outcome["reason"]
        yield from page.text(page.style("dim", f"{'' if said else _NOTHING_WRITTEN}{_STALLED}"))
    elif outcome.get("retry"):
        text = "The daemon retries within 5 minutes." if by_daemon else _RETRY
        yield from page.text(page.style("dim", text))


def pause_sentence(page: Page, environment: str, pause: dict[str, Any] | Data) -> str:
    """What is paused, until when and why, and how to end it."""
    scope, reason = pause["scope"], f": {pause['reason']}" if pause["reason"] else ""
    command = f"`reconciler resume {scope}`" if scope else f"`reconciler resume --all -e {environment}`"
    scope_words = f"{scope or f'all of {environment}'} until {page.exact(pause['until'])}{reason}"
    return with_id(f"{page.style('cyan', 'paused')} {scope_words.rstrip('.')}. {command} ends it.", "paused")


def note_lines(page: Page, plan: Data) -> Iterator[str]:
    for note in plan["notes"]:
        yield from page.text(f"{page.style('yellow', 'note')}: {with_id(note, 'stack-note')}", 2, 2)


def separated(lines: Sequence[str]) -> Iterator[str]:
    """The lines, if there are any, below an empty one."""
    if lines:
        yield ""
        yield from lines


def _plan_lines(page: Page, plan: Data, tense: Tense, said: Said, *, paused: bool = False) -> Iterator[str]:
    changes = [
        change
        for change in plan["changes"]
        if change["kind"] != "in_sync" or change["sync"] != "in_sync" or change["renamed_from"]
    ]
    items = list(change_items(page, changes, tense, said, paused))
    items += drift_items(page, plan, tense)
    items += action_items(page, plan, tense)
    yield from page.items(items)
    notes = list(note_lines(page, plan))
    yield from separated(notes) if items else notes
