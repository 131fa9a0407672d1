"""What the commands `init` and `import` print: for people, or JSON for programs. Never a value of a variable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer
from rich.table import Table

from reconciler.cli.render import console, foreign_text, new_table, print_json
from reconciler.core.text import listed

if TYPE_CHECKING:
    from reconciler.app.onboarding.import_run import Imported
    from reconciler.app.onboarding.init import Beginning
    from reconciler.core.onboarding.draft import Draft, Taken

_NAMES_SHOWN = 5


def agrees(found: Draft, pause: Callable[[], None], yes: bool, dry_run: bool, as_json: bool) -> bool:
    """Show what was found, and ask whether to go on unless that is said already."""
    pause()
    if not as_json:
        drafted(found)
    if yes or dry_run:
        return yes and not dry_run
    try:
        return typer.confirm(f"Encrypt and commit this as {found.environment}?")
    except typer.Abort:  # Ctrl-C, or the end of the input
        console.print()
        return False


def drafted(found: Draft) -> None:
    """What was found and what becomes of it; names of keys, never a value."""
    for stack in (*found.stacks, None):
        files = [one for one in found.files if one.stack == (stack.name if stack else None)]
        if not files:
            continue
        on = f" on {', '.join(stack.hosts)}" if stack and stack.hosts else ""
        title = f"{stack.name} in {stack.directory}{on}" if stack else "files of no project"
        console.print(f"[bold]{foreign_text(title)}[/bold]", soft_wrap=True)
        console.print(_found_files(files, stack.directory if stack else ""))
    for one in found.files:
        if one.why:
            loss = ", so that git shows no diff by key" if one.keys else ""
            said = f"{one.file.path} is encrypted as a whole{loss}: {one.why}"
            console.print(f"[yellow]binary[/yellow] {foreign_text(said)}", soft_wrap=True)
    for left in found.left_out:
        console.print(f"[yellow]left out[/yellow] {foreign_text(left.path)}: {foreign_text(left.why)}", soft_wrap=True)
    for note in found.notes:
        console.print(f"[yellow]note[/yellow] {foreign_text(note)}", soft_wrap=True)


def _found_files(files: Sequence[Taken], directory: str) -> Table:
    table = new_table("file", "used", "mode", "owner", "as", "keys")
    for one in files:
        inside = one.file.path.removeprefix(f"{directory}/") if directory else one.file.path
        count = len(one.keys) + one.unshown
        names = ", ".join((*one.keys[:_NAMES_SHOWN], *(["…"] if count > len(one.keys[:_NAMES_SHOWN]) else [])))
        used = ", ".join(f"{use} {' '.join(one.services)}".strip() for use in one.uses)
        owner = one.owner if one.owner == one.group else f"{one.owner}:{one.group}"
        keys = f"{count}: {names}" if count else ""
        table.add_row(*map(foreign_text, (inside, used, f"{one.mode:04o}", owner, str(one.format), keys)))
    return table


def imported(done: Imported, *, as_json: bool) -> None:
    if as_json:
        print_json(_imported_data(done))
        return
    proof = done.proof
    if proof is None:
        console.print("nothing was written")
        return
    for problem in proof.problems:
        console.print(f"[red]not proven[/red] {foreign_text(problem)}", soft_wrap=True)
    if proof.problems:
        console.print("nothing was kept: there is no branch and no commit of this import")
        return
    for note in proof.notes:
        console.print(f"[yellow]note[/yellow] {foreign_text(note)}", soft_wrap=True)
    said = f"{proof.compared} live files are byte for byte what the commit gives"
    if proof.empty:
        said += f"; an empty plan on {listed(proof.empty)}"
    if touched := [host for host in proof.planned if host not in proof.empty]:
        said += f"; the plan on {listed(touched)} changes no file, and touches the services above"
    console.print(f"[green]proven[/green] {foreign_text(said)}", soft_wrap=True)
    console.print(
        f"[green]committed[/green] {done.commit[:12]} on [bold]{foreign_text(done.branch)}[/bold]", soft_wrap=True
    )
    branch, base = foreign_text(done.branch), foreign_text(done.base_branch or "HEAD")
    console.print(f"look at it: `git show {branch}`, `reconciler diff {base}..{branch}`", soft_wrap=True)
    console.print(f"then `git push origin {branch}` and open a pull request; nothing was pushed", soft_wrap=True)


def _imported_data(done: Imported) -> dict[str, Any]:
    found = done.draft
    files = [
        {
            "path": one.file.path,
            "source": one.source,
            "stack": one.stack,
            "hosts": list(one.hosts),
            "uses": [str(use) for use in one.uses],
            "services": list(one.services),
            "keys": list(one.keys),
            "keys_not_shown": one.unshown,
            "mode": f"{one.mode:04o}",
            "owner": one.owner,
            "group": one.group,
            "format": str(one.format),
            "why": one.why,
        }
        for one in found.files
    ]
    return {
        "environment": found.environment,
        "stacks": [asdict(stack) for stack in found.stacks],
        "files": files,
        "left_out": [asdict(one) for one in found.left_out],
        "notes": list(found.notes),
        "branch": done.branch,
        "commit": done.commit,
        "written": list(done.written),
        "proof": asdict(done.proof) if done.proof else None,
    }


def begun(made: Beginning, *, as_json: bool) -> None:
    if as_json:
        print_json(asdict(made))
        return
    for step in made.steps:
        word = "[green]made[/green]" if step.what == "made" else f"[cyan]{step.what}[/cyan]"
        console.print(
            f"{word} {foreign_text(step.path)}" + (f"  [dim]{foreign_text(step.note)}[/dim]" if step.note else ""),
            soft_wrap=True,
        )
    for note in made.notes:
        lines = "\n".join(map(foreign_text, note.split("\n")))
        console.print(f"[yellow]note[/yellow] {lines}", soft_wrap=True)
    console.print(f"files are encrypted for {foreign_text(', '.join(made.recipients))}", soft_wrap=True)
    console.print("\n[bold]next[/bold]")
    steps = []
    if made.uncommitted:
        steps.append(f"git add {' '.join(made.uncommitted)} && git commit -m 'Begin with reconciler'")
    steps.append(
        f"reconciler import {made.environment} ssh://user@host/opt/app    # what a server has now; or file:/opt/app"
    )
    if made.key_file:
        steps.append(f"copy {made.key_file} to the server as /etc/reconciler/age.key (0600), and keep a backup of it")
    steps.append(
        "copy reconciler.yaml to the server as /etc/reconciler/reconciler.yaml; `reconciler doctor` checks it there"
    )
    for number, text in enumerate(steps, start=1):
        console.print(f"{number}. {foreign_text(text)}", soft_wrap=True)
