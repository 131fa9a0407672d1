"""What merge and merge-driver say: names of keys and reasons, never a value. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from reconciler.app.merging.command import MergedFile
from reconciler.cli.layout import Item, Page, counted
from reconciler.core.change_words import Data
from reconciler.core.text import listed, printable


def problem(file: MergedFile) -> str:
    """One line for git's output."""
    if file.problem:
        return f"{printable(file.path)}: not merged: {file.problem}. Then: `reconciler merge`"
    keys = printable(listed(file.conflicts))
    return f"{printable(file.path)}: both sides changed {keys}. Decide with `reconciler merge --resolve KEY=ours`"


def merge_data(files: Sequence[MergedFile]) -> dict[str, Any]:
    return {
        "files": [
            {
                "path": file.path,
                "merged": file.done,
                "conflicts": list(file.conflicts),
                "problem": file.problem or file.left,
                "taken": file.taken,
            }
            for file in files
        ]
    }


def merge_report(data: Data, page: Page) -> Iterator[str]:
    """Each file, and the next step."""
    if not data["files"]:
        yield "Nothing is unmerged."
        return
    yield from page.items([_file(file, page) for file in data["files"]])
    yield ""
    done = [file["path"] for file in data["files"] if file["merged"]]
    open_keys = [key for file in data["files"] for key in file["conflicts"]]
    if open_keys:
        text = f"Decide with `reconciler merge --resolve {shlex.quote(open_keys[0])}=ours` or `=theirs`"
        yield from page.text(f"{text}, once for each key, all in one command.", 0, 2)
    if done:
        yield from page.text(f"Merged: `git add {' '.join(map(shlex.quote, done))}`, then commit or continue.", 0, 2)


def _file(file: Data, page: Page) -> Item:
    name = page.style("bold", file["path"])
    if file["merged"]:
        taken = f"{counted(file['taken'], 'change')} from the other side"
        return Item((name, page.style("green", "merged"), taken))
    if file["conflicts"]:
        keys = tuple(f"{key}: changed on both sides" for key in file["conflicts"])
        return Item((name, page.style("red", "conflict")), keys)
    return Item((name, page.style("yellow", "not merged")), (file["problem"],))
