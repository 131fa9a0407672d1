"""Shows what set and edit have changed, by key name, and what the check says about it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

from reconciler.app.editing.command import EditResult
from reconciler.cli import render, reports
from reconciler.cli.layout import Item, Page, foreign
from reconciler.core.text import printable


def print_edit(result: EditResult, *, as_json: bool, verbose: bool = False) -> None:
    render.answer(_edit_data(result) if as_json else result, edit_report, as_json=as_json, verbose=verbose)


def edit_report(result: EditResult, page: Page) -> Iterator[str]:
    """What was changed, the findings of the check, and the next step."""
    if result.report is None:
        yield from page.text(printable(f"{result.target}: nothing to change; nothing was written"), 0, 2)
        return
    names = {kind: foreign(getattr(result.keys, kind)) for kind in ("added", "removed", "changed")}
    state = "changed" if result.whole or not result.keys.empty else "only comments or order changed"
    yield from page.items([Item((printable(result.target), state), tuple(page.keys(names)))])
    yield ""
    if result.blank_lines:
        lines = f"blank lines became comment lines ({result.blank_lines}): an encrypted env file has none"
        yield from page.text(lines, 0, 2)
    yield from reports.check_report(result.report, page)
    file, target = shlex.quote(result.path), shlex.quote(result.target)
    if result.report.errors:
        step = f"The change is in {file}, not committed. Correct it with `reconciler edit {target}`, "
        yield from page.text(f"{step}or undo all that is not committed with `git restore {file}`", 0, 2)
    else:
        yield from page.text(f"Not committed yet: `git diff {file}`, `git commit {file}`", 0, 2)


def _edit_data(result: EditResult) -> dict[str, Any]:
    return {
        "target": result.target,
        "path": result.path,
        "written": result.report is not None,
        "added": list(result.keys.added),
        "removed": list(result.keys.removed),
        "changed": list(result.keys.changed),
        "check": None if result.report is None else reports.check_data(result.report),
    }
