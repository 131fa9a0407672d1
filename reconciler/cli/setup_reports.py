"""What `init` and `import` answer. Pure but for the question; never a value of a variable."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from reconciler.cli import render
from reconciler.cli.layout import Item, Page, counted
from reconciler.core.change_words import Data
from reconciler.core.text import line_ranges, listed

if TYPE_CHECKING:
    from reconciler.app.onboarding.deploy_files import DeployFile
    from reconciler.app.onboarding.import_run import Imported
    from reconciler.app.onboarding.init import InitResult
    from reconciler.core.onboarding.types import Draft, DraftFile

_NAMES_SHOWN = 5


def confirm_import(draft: Draft, pause: Callable[[], None], yes: bool, dry_run: bool, as_json: bool) -> bool:
    """Show the draft and, without --yes or --dry-run, ask whether to continue."""
    pause()
    if not as_json:
        render.answer(_draft_data(draft), draft_report, as_json=False)
    if yes or dry_run or not draft.changes:
        return yes and not dry_run
    try:
        return click.confirm(f"Encrypt and commit this as {draft.environment}?")
    except click.Abort:  # Ctrl-C, or the end of the input
        render.write_lines([""])
        return False


def print_import_result(result: Imported, *, as_json: bool) -> None:
    report = partial(import_report, base=result.base_branch or "HEAD")
    render.answer(_imported_data(result), report, as_json=as_json)


def print_init_result(result: InitResult, *, as_json: bool) -> None:
    render.answer(asdict(result), init_report, as_json=as_json)


def print_deploy_files(files: Sequence[DeployFile]) -> None:
    render.answer([asdict(file) for file in files], deploy_files_report, as_json=False)


def deploy_files_report(files: Sequence[Data], page: Page) -> Iterator[str]:
    """A line per file: created, or unchanged."""
    words = {True: page.style("green", "created"), False: page.style("cyan", "unchanged")}
    yield from page.items([Item((words[file["created"]], file["path"])) for file in files], indent=0)


def draft_report(draft: Data, page: Page) -> Iterator[str]:
    """Each file and how git will store it, with names of keys only; of an update, only what changes."""
    drafted = [file for file in draft["files"] if file["change"] != "unchanged"]
    for stack in (*draft["stacks"], None):
        files = [file for file in drafted if file["stack"] == (stack["name"] if stack else None)]
        if not files:
            continue
        on = f" on {', '.join(stack['hosts'])}" if stack and stack["hosts"] else ""
        title = f"{stack['name']} in {stack['directory']}{on}" if stack else "Files of no project"
        yield from page.text(page.style("bold", title))
        yield from page.items([_draft_item(file, stack["directory"] if stack else "", page) for file in files])
        yield ""
    for target in draft["removed"]:
        text = f"{page.style('yellow', 'removed')} {target['source']}: {target['path']} is gone"
        yield from page.text(text, 0, 2)
    if draft["update"]:
        same = len(draft["files"]) - len(drafted)
        yield f"{counted(same, 'file')} {'is' if same == 1 else 'are'} as git has {'it' if same == 1 else 'them'}."
    for left in draft["left_out"]:
        yield from page.text(f"{page.style('yellow', 'left out')} {left['path']}: {left['reason']}", 0, 2)
    yield from _notes(draft["notes"], page)


def _draft_item(file: Data, directory: str, page: Page) -> Item:
    """A file by its path below the stack's directory."""
    owner = file["owner"] if file["owner"] == file["group"] else f"{file['owner']}:{file['group']}"
    uses = ", ".join(f"{use} of {listed(file['services'])}" if file["services"] else use for use in file["uses"])
    path = file["path"].removeprefix(f"{directory}/") if directory else file["path"]
    if file["change"] == "changed":
        keys = page.keys(file["changed_keys"]) or ["changed as a whole"]
        keys += [f"{page.style('yellow', 'encrypted as a whole')}: {file['reason']}"] if file["reason"] else []
        return Item((path, *([f"in {file['source']}"] if file["source"] != path else [])), tuple(keys))
    cells = (path, file["format"], uses)
    details = [f"mode {file['mode']}, owner {owner}"]
    if count := len(file["keys"]) + file["keys_not_shown"]:
        names = [*file["keys"][:_NAMES_SHOWN], *(["…"] if count > _NAMES_SHOWN else [])]
        details[0] += f"; {counted(count, 'key')}" + (f": {', '.join(names)}" if file["keys"] else "")
    if file["reason"]:
        loss = ", so that git shows no diff by key" if file["keys"] else ""
        details.append(f"{page.style('yellow', 'encrypted as a whole')}{loss}: {file['reason']}")
    details += [f"{page.style('yellow', 'rewritten')}: {text}" for text in _rewritings(file["rewritings"])]
    return Item(tuple(filter(None, cells)), tuple(details))


def _rewritings(rewritings: Sequence[Data]) -> Iterator[str]:
    """One sentence for each reason, with all lines that it concerns."""
    lines: dict[str, list[int]] = {}
    for rewriting in rewritings:
        lines.setdefault(rewriting["reason"], []).append(rewriting["line"])
    for reason, numbers in lines.items():
        yield f"{'lines' if len(numbers) > 1 else 'line'} {line_ranges(numbers)}: {reason}"


def _notes(notes: Sequence[str], page: Page) -> Iterator[str]:
    for note in notes:
        yield from page.text(f"{page.style('yellow', 'note')}: {note}", 0, 2)


def import_report(result: Data, page: Page, *, base: str) -> Iterator[str]:
    """What was verified and committed on top of the branch ``base``, or why nothing was kept."""
    verification = result["verification"]
    if verification is None:
        same = result["update"] and not result["removed"]
        same = same and all(file["change"] == "unchanged" for file in result["files"])
        yield "Nothing has changed, so nothing was written." if same else "Nothing was written."
        return
    for problem in verification["problems"]:
        yield from page.text(f"{page.style('red', 'not verified')}: {problem}", 0, 2)
    if verification["problems"]:
        yield "Nothing was kept: the branch was removed."
        return
    yield from _notes(verification["notes"], page)
    text = _verified(verification)
    yield from page.text(f"{page.style('green', 'Verified')}: {text}.", 0, 2)
    branch = result["branch"]
    yield from page.text(f"{page.style('green', 'Committed')} {result['commit'][:12]} on {branch}; nothing was pushed.")
    yield ""
    yield from page.text(f"Review it: `git show {branch}`, `reconciler diff {base}..{branch}`.", 0, 2)
    yield from page.text(f"Then `git push origin {branch}` and open a pull request.", 0, 2)


def _verified(verification: Data) -> str:
    """What the verification proves, in one sentence."""
    empty, rewritten = verification["empty"], verification["rewritten"]
    same = "with the variables of the commit" if rewritten else "byte for byte as in the commit"
    text = f"{counted(verification['compared'], 'live file')} {same}"
    if rewritten:
        text += f"; cosmetic: {counted(rewritten, 'line')} rewritten, no service touched"
    if empty:
        text += f"; {'nothing else in the plan' if rewritten else 'an empty plan'} on {listed(empty)}"
    if touched := [host for host in verification["planned"] if host not in empty]:
        text += f"; the plan on {listed(touched)} does {'otherwise ' if rewritten else ''}only what the notes say"
    return text


def _draft_data(draft: Draft) -> dict[str, Any]:
    return {
        "stacks": [asdict(stack) for stack in draft.stacks],
        "files": [_draft_file_data(file) for file in draft.files],
        "left_out": [asdict(left) for left in draft.left_out],
        "removed": [asdict(target) for target in draft.removed],
        "update": draft.update,
        "notes": list(draft.notes),
    }


def _draft_file_data(file: DraftFile) -> dict[str, Any]:
    return {
        "path": file.file.path,
        "source": file.source,
        "stack": file.stack,
        "hosts": list(file.hosts),
        "uses": [str(use) for use in file.uses],
        "services": list(file.services),
        "keys": list(file.keys),
        "keys_not_shown": file.unshown,
        "mode": f"{file.mode:04o}",
        "owner": file.owner,
        "group": file.group,
        "format": str(file.format),
        "reason": file.reason,
        "rewritings": [asdict(rewriting) for rewriting in file.rewritings],
        "change": _change(file),
        "changed_keys": asdict(file.change.keys) if file.change else None,
    }


def _change(file: DraftFile) -> str:
    if file.change is None:
        return "added"
    return "unchanged" if file.change.edit == "keep" else "changed"


def _imported_data(result: Imported) -> dict[str, Any]:
    return {
        "environment": result.draft.environment,
        **_draft_data(result.draft),
        "branch": result.branch,
        "commit": result.commit,
        "written": list(result.written),
        "verification": asdict(result.verification) if result.verification else None,
    }


def init_report(result: Data, page: Page) -> Iterator[str]:
    """What was created, and what to do next."""
    yield from page.items([_step(step, page) for step in result["steps"]], indent=0)
    yield from _notes(result["notes"], page)
    yield from page.text(f"Files are encrypted for {', '.join(result['recipients'])}.", 0, 2)
    yield ""
    yield page.style("bold", "Next")
    steps = []
    if result["uncommitted"]:
        steps.append(f"`git add {' '.join(result['uncommitted'])}`, then `git commit -m 'Set up reconciler'`")
    steps.append(
        f"`reconciler import {result['environment']} ssh://user@host/opt/app` imports the files of a server; "
        "`file:/opt/app` those of this machine."
    )
    if result["key_file"]:
        steps.append(
            f"Copy {result['key_file']} to the server as /etc/reconciler/age.key (0600), and keep a backup of it."
        )
    steps.append(
        "Copy reconciler.yaml to the server as /etc/reconciler/reconciler.yaml; `reconciler doctor` checks it there."
    )
    for number, text in enumerate(steps, start=1):
        yield from page.text(f"{number}. {text}", 0, 3)


def _step(step: Data, page: Page) -> Item:
    action = page.style("cyan" if step["action"] == "exists" else "green", step["action"])
    return Item(tuple(filter(None, (action, step["path"], step["note"]))))
