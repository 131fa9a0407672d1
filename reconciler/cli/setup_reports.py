"""The output of `init` and `import`, as text or JSON. Never shows a value of a variable."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer
from rich.table import Table

from reconciler.cli.render import console, foreign_text, new_table, print_json
from reconciler.core.text import line_ranges, listed

if TYPE_CHECKING:
    from reconciler.app.onboarding.import_run import Imported
    from reconciler.app.onboarding.init import InitResult
    from reconciler.app.onboarding.verify import Verification
    from reconciler.core.onboarding.types import Draft, DraftFile

_NAMES_SHOWN = 5


def confirm_import(draft: Draft, pause: Callable[[], None], yes: bool, dry_run: bool, as_json: bool) -> bool:
    """Show the draft and, without --yes or --dry-run, ask whether to continue."""
    pause()
    if not as_json:
        print_draft(draft)
    if yes or dry_run:
        return yes and not dry_run
    try:
        return typer.confirm(f"Encrypt and commit this as {draft.environment}?")
    except typer.Abort:  # Ctrl-C, or the end of the input
        console.print()
        return False


def print_draft(draft: Draft) -> None:
    """Print each file and how git will store it, with names of keys only."""
    for stack in (*draft.stacks, None):
        files = [file for file in draft.files if file.stack == (stack.name if stack else None)]
        if not files:
            continue
        on = f" on {', '.join(stack.hosts)}" if stack and stack.hosts else ""
        title = f"{stack.name} in {stack.directory}{on}" if stack else "files of no project"
        console.print(f"[bold]{foreign_text(title)}[/bold]", soft_wrap=True)
        console.print(_file_table(files, stack.directory if stack else ""))
    for file in draft.files:
        if file.reason:
            loss = ", so that git shows no diff by key" if file.keys else ""
            text = f"{file.file.path} is encrypted as a whole{loss}: {file.reason}"
            console.print(f"[yellow]binary[/yellow] {foreign_text(text)}", soft_wrap=True)
    for file in draft.files:
        for text in _rewritings(file):
            console.print(f"[yellow]rewritten[/yellow] {foreign_text(text)}", soft_wrap=True)
    for left in draft.left_out:
        console.print(
            f"[yellow]left out[/yellow] {foreign_text(left.path)}: {foreign_text(left.reason)}", soft_wrap=True
        )
    for note in draft.notes:
        console.print(f"[yellow]note[/yellow] {foreign_text(note)}", soft_wrap=True)


def _rewritings(file: DraftFile) -> Iterator[str]:
    """One sentence for each reason, with all lines of the file that it concerns."""
    lines: dict[str, list[int]] = {}
    for rewriting in file.rewritings:
        lines.setdefault(rewriting.reason, []).append(rewriting.line)
    for reason, numbers in lines.items():
        word = "lines" if len(numbers) > 1 else "line"
        yield f"{file.file.path}, {word} {line_ranges(numbers)}: {reason}"


def _file_table(files: Sequence[DraftFile], directory: str) -> Table:
    table = new_table("file", "used", "mode", "owner", "as", "keys")
    for file in files:
        inside = file.file.path.removeprefix(f"{directory}/") if directory else file.file.path
        count = len(file.keys) + file.unshown
        names = ", ".join((*file.keys[:_NAMES_SHOWN], *(["…"] if count > len(file.keys[:_NAMES_SHOWN]) else [])))
        used = ", ".join(f"{use} {' '.join(file.services)}".strip() for use in file.uses)
        owner = file.owner if file.owner == file.group else f"{file.owner}:{file.group}"
        keys = f"{count}: {names}" if count else ""
        table.add_row(*map(foreign_text, (inside, used, f"{file.mode:04o}", owner, str(file.format), keys)))
    return table


def print_import_result(result: Imported, *, as_json: bool) -> None:
    if as_json:
        print_json(_imported_data(result))
        return
    verification = result.verification
    if verification is None:
        console.print("nothing was written")
        return
    for problem in verification.problems:
        console.print(f"[red]not verified[/red] {foreign_text(problem)}", soft_wrap=True)
    if verification.problems:
        console.print("nothing was kept: the branch was removed")
        return
    for note in verification.notes:
        console.print(f"[yellow]note[/yellow] {foreign_text(note)}", soft_wrap=True)
    console.print(f"[green]verified[/green] {foreign_text(_verified(verification))}", soft_wrap=True)
    console.print(
        f"[green]committed[/green] {result.commit[:12]} on [bold]{foreign_text(result.branch)}[/bold]", soft_wrap=True
    )
    branch, base = foreign_text(result.branch), foreign_text(result.base_branch or "HEAD")
    console.print(f"review it: `git show {branch}`, `reconciler diff {base}..{branch}`", soft_wrap=True)
    console.print(f"then `git push origin {branch}` and open a pull request; nothing was pushed", soft_wrap=True)


def _verified(verification: Verification) -> str:
    """What the verification proves, in one sentence."""
    rewritten = verification.rewritten
    same = "have the variables of the commit" if rewritten else "are byte for byte as in the commit"
    text = f"{verification.compared} live files {same}"
    if rewritten:
        text += f"; cosmetic: {rewritten} {'lines' if rewritten > 1 else 'line'} rewritten, no service touched"
    if verification.empty:
        text += f"; {'nothing else in the plan' if rewritten else 'an empty plan'} on {listed(verification.empty)}"
    if touched := [host for host in verification.planned if host not in verification.empty]:
        changes = "no other file" if rewritten else "no file"
        text += f"; the plan on {listed(touched)} changes {changes}, but acts on the services above"
    return text


def _imported_data(result: Imported) -> dict[str, Any]:
    draft = result.draft
    files = [
        {
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
        }
        for file in draft.files
    ]
    return {
        "environment": draft.environment,
        "stacks": [asdict(stack) for stack in draft.stacks],
        "files": files,
        "left_out": [asdict(left) for left in draft.left_out],
        "notes": list(draft.notes),
        "branch": result.branch,
        "commit": result.commit,
        "written": list(result.written),
        "verification": asdict(result.verification) if result.verification else None,
    }


def print_init_result(result: InitResult, *, as_json: bool) -> None:
    if as_json:
        print_json(asdict(result))
        return
    for step in result.steps:
        word = "[cyan]exists[/cyan]" if step.action == "exists" else f"[green]{step.action}[/green]"
        console.print(
            f"{word} {foreign_text(step.path)}" + (f"  [dim]{foreign_text(step.note)}[/dim]" if step.note else ""),
            soft_wrap=True,
        )
    for note in result.notes:
        lines = "\n".join(map(foreign_text, note.split("\n")))
        console.print(f"[yellow]note[/yellow] {lines}", soft_wrap=True)
    console.print(f"files are encrypted for {foreign_text(', '.join(result.recipients))}", soft_wrap=True)
    console.print("\n[bold]next[/bold]")
    steps = []
    if result.uncommitted:
        steps.append(f"git add {' '.join(result.uncommitted)} && git commit -m 'Set up reconciler'")
    steps.append(
        f"reconciler import {result.environment} ssh://user@host/opt/app    # the files of a server; or file:/opt/app"
    )
    if result.key_file:
        steps.append(f"copy {result.key_file} to the server as /etc/reconciler/age.key (0600), and keep a backup of it")
    steps.append(
        "copy reconciler.yaml to the server as /etc/reconciler/reconciler.yaml; `reconciler doctor` checks it there"
    )
    for number, text in enumerate(steps, start=1):
        console.print(f"{number}. {foreign_text(text)}", soft_wrap=True)
