"""What merge and merge-driver say: names of keys and reasons, never a value. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from reconciler.app.merging.command import MergedFile
from reconciler.app.merging.merge import WHOLE
from reconciler.cli.layout import Item, Page, counted
from reconciler.core.change_words import Data
from reconciler.core.sops.key_mismatch import brief_keys
from reconciler.core.text import listed, printable


def problem(file: MergedFile) -> str:
    """One line for git's output."""
    path = printable(file.path)
    if file.left:
        return f"{path}: {file.left}"
    if file.problem:
        return f"{path}: not merged: {file.problem}. Then: `reconciler merge`"
    readers = [name for name in file.conflicts if is_recipient(name)]
    keys = ["the whole file" if name == WHOLE else name for name in file.conflicts if name not in readers]
    says = [f"both sides changed {listed(keys)}"] if keys else []
    says += [f"only one side lets in {brief_keys(readers)}"] if readers else []
    name = shlex.quote(file.conflicts[0]) if len(file.conflicts) == 1 else "KEY"
    decide = f"Decide with `reconciler merge --resolve {name}=ours` or `=theirs`"
    return printable(f"{path}: {', and '.join(says)}. {decide}")


def is_recipient(name: str) -> bool:
    """Whether a conflict is about a public key instead of a variable or a path."""
    return name.startswith(("age1", "ssh-"))


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
        return Item((name, page.style("red", "conflict")), tuple(map(_conflict, file["conflicts"])))
    return Item((name, page.style("yellow", "not merged")), (file["problem"],))


def _conflict(name: str) -> str:
    if is_recipient(name):
        return f"{brief_keys([name])}: only one side lets them in"
    return f"{'the whole file' if name == WHOLE else name}: changed on both sides"
