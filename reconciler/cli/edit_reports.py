"""Shows what set and edit have changed, by key name, and what the check says about it."""

from __future__ import annotations

import json
import shlex
import sys
from typing import Any

from reconciler.app.editing.command import EditResult
from reconciler.cli import render, reports
from reconciler.core.text import listed, printable

_LISTED = 20  # names


def print_edit(result: EditResult, *, as_json: bool) -> None:
    if as_json:
        render.print_json(_edit_data(result))
        return
    sys.stdout.write(f"{printable(_summary(result))}\n")
    if result.report is None:
        return
    if result.blank_lines:
        sys.stdout.write(f"blank lines became comment lines ({result.blank_lines}): an encrypted env file has none\n")
    sys.stdout.write(reports.FORMATS["text"](result.report))
    file = shlex.quote(result.path)
    if result.report.errors:
        sys.stdout.write(
            f"The change is in {file}, not committed. Correct it with `reconciler edit {shlex.quote(result.target)}`, "
            f"or undo all that is not committed with `git restore {file}`\n"
        )
    else:
        sys.stdout.write(f"Not committed yet: `git diff {file}`, `git commit {file}`\n")


def _summary(result: EditResult) -> str:
    if result.report is None:
        return f"{result.target}: nothing to change; nothing was written"
    keys = result.keys
    parts = [
        f"{verb} {listed(names, _LISTED)}"
        for verb, names in (("changed", keys.changed), ("added", keys.added), ("removed", keys.removed))
        if names
    ]
    words = "; ".join(parts) or ("the file was changed" if result.whole else "only comments or order changed")
    return f"{result.target}: {words}"


def _edit_data(result: EditResult) -> dict[str, Any]:
    return {
        "target": result.target,
        "path": result.path,
        "written": result.report is not None,
        "added": list(result.keys.added),
        "removed": list(result.keys.removed),
        "changed": list(result.keys.changed),
        "check": None if result.report is None else json.loads(reports.FORMATS["json"](result.report)),
    }
