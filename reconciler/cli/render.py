"""All that is printed: rich tables for people, JSON for programs. Never a value of a variable."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from reconciler.core.text import listed, printable

if TYPE_CHECKING:
    from reconciler.app.daemon.doctor import Finding
    from reconciler.app.onboarding.import_run import Imported
    from reconciler.app.onboarding.init import InitResult
    from reconciler.core.onboarding.types import Draft, DraftFile

_COLOURS = {
    "in_sync": "green",
    "applied": "green",
    "corrected": "green",
    "ok": "green",
    "pending": "cyan",
    "held": "yellow",
    "orphan": "yellow",
    "warning": "yellow",
    "drifted": "yellow",
    "rolled_back": "magenta",
    "unfinished": "magenta",
}
_WHOLE = (
    "file",
    "target",
    "stack",
    "service",
    "action",
    "sync",
    "health",
    "effect",
    "since",
    "keys",
    "backup",
    "environment",
)
_NAMES_SHOWN = 5
_SHOW_PROGRESS_AFTER = 1.0  # seconds

console = Console(highlight=False, soft_wrap=False)


@contextlib.contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """Gives a function that takes what is being done; from the first second on it is shown, on a terminal only."""
    if not (sys.stdout.isatty() and console.is_interactive):  # FORCE_COLOR makes any console a terminal
        yield lambda _: None
        return
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    line = Progress(*columns, console=console, transient=True)
    task = line.add_task("starting")
    # A timer: what takes long is often a single step, of which nothing more is told.
    timer = threading.Timer(_SHOW_PROGRESS_AFTER, line.start)
    timer.start()
    try:
        yield lambda text: line.update(task, description=text)
    finally:
        timer.cancel()
        timer.join()
        line.stop()


@contextlib.contextmanager
def counted(what: str) -> Iterator[Callable[[int, int], None]]:
    """Gives a function that takes how many are done, of how many; shown as a bar, on a terminal only."""
    # On standard error: what is found goes to standard output, which may be a file.
    target = Console(stderr=True)
    if not (sys.stderr.isatty() and target.is_interactive):
        yield lambda done, of: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=target, transient=True) as bar:
        task = bar.add_task(what, total=None, visible=False)
        yield lambda done, of: bar.update(task, completed=done, total=of, visible=True)


@contextlib.contextmanager
def phases() -> Iterator[tuple[Callable[[str, int, int], None], Callable[[], None]]]:
    """Gives a function that takes what is being done, how much of it is done and of how much, shown as bars; and one
    that takes the bars away. On a terminal only."""
    target = Console(stderr=True)
    if not (sys.stderr.isatty() and target.is_interactive):
        yield lambda what, done, of: None, lambda: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    bars = Progress(*columns, console=target, transient=True)
    tasks: dict[str, Any] = {}

    def tell(what: str, done: int, of: int) -> None:
        bars.start()
        tasks[what] = tasks[what] if what in tasks else bars.add_task(what, total=of)
        bars.update(tasks[what], completed=done, total=of)

    try:
        yield tell, bars.stop
    finally:
        bars.stop()


def can_ask() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


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
        console.print(f"[bold]{_shown(title)}[/bold]", soft_wrap=True)
        console.print(_found_files(files, stack.directory if stack else ""))
    for one in found.files:
        if one.reason:
            loss = ", so that git shows no diff by key" if one.keys else ""
            said = f"{one.file.path} is encrypted as a whole{loss}: {one.reason}"
            console.print(f"[yellow]binary[/yellow] {_shown(said)}", soft_wrap=True)
    for left in found.left_out:
        console.print(f"[yellow]left out[/yellow] {_shown(left.path)}: {_shown(left.reason)}", soft_wrap=True)
    for note in found.notes:
        console.print(f"[yellow]note[/yellow] {_shown(note)}", soft_wrap=True)


def _found_files(files: Sequence[DraftFile], directory: str) -> Table:
    table = _table("file", "used", "mode", "owner", "as", "keys")
    for one in files:
        inside = one.file.path.removeprefix(f"{directory}/") if directory else one.file.path
        count = len(one.keys) + one.unshown
        names = ", ".join((*one.keys[:_NAMES_SHOWN], *(["…"] if count > len(one.keys[:_NAMES_SHOWN]) else [])))
        used = ", ".join(f"{use} {' '.join(one.services)}".strip() for use in one.uses)
        owner = one.owner if one.owner == one.group else f"{one.owner}:{one.group}"
        keys = f"{count}: {names}" if count else ""
        table.add_row(*map(_shown, (inside, used, f"{one.mode:04o}", owner, str(one.format), keys)))
    return table


def imported(done: Imported, *, as_json: bool) -> None:
    if as_json:
        _json(_imported(done))
        return
    verification = done.verification
    if verification is None:
        console.print("nothing was written")
        return
    for problem in verification.problems:
        console.print(f"[red]not verified[/red] {_shown(problem)}", soft_wrap=True)
    if verification.problems:
        console.print("nothing was kept: there is no branch and no commit of this import")
        return
    for note in verification.notes:
        console.print(f"[yellow]note[/yellow] {_shown(note)}", soft_wrap=True)
    said = f"{verification.compared} live files are byte for byte what the commit gives"
    if verification.empty:
        said += f"; an empty plan on {listed(verification.empty)}"
    if touched := [host for host in verification.planned if host not in verification.empty]:
        said += f"; the plan on {listed(touched)} changes no file, and touches the services above"
    console.print(f"[green]verified[/green] {_shown(said)}", soft_wrap=True)
    console.print(f"[green]committed[/green] {done.commit[:12]} on [bold]{_shown(done.branch)}[/bold]", soft_wrap=True)
    branch, base = _shown(done.branch), _shown(done.base_branch or "HEAD")
    console.print(f"look at it: `git show {branch}`, `reconciler diff {base}..{branch}`", soft_wrap=True)
    console.print(f"then `git push origin {branch}` and open a pull request; nothing was pushed", soft_wrap=True)


def _imported(done: Imported) -> dict[str, Any]:
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
            "reason": one.reason,
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
        "verification": asdict(done.verification) if done.verification else None,
    }


def outcomes(found: Sequence[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        _json(found)
        return
    for one in found:
        _headline(one, one["result"])
        if one["run"] and one["plan"]:
            _plan(one["plan"])
        if one["backup"]:
            console.print(f"[dim]backup {escape(one['backup'])}[/dim]")


def plans(found: Sequence[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        _json(found)
        return
    for one in found:
        _headline(one, "pending" if one["pending"] and one["result"] == "in_sync" else one["result"])
        if one["plan"]:
            _plan(one["plan"])


def _headline(one: dict[str, Any], word: str) -> None:
    """How a pass over one environment ended, at which revision, why, and what comes next by itself."""
    revision = one["revision"]
    by = f" ({revision['subject']}, {revision['author'].partition(' <')[0]})" if revision else ""
    at = f" at {revision['commit'][:12]}{by}" if revision else ""
    console.print(f"{_word(word)} [bold]{escape(one['environment'])}[/bold]{escape(at)}: {escape(one['reason'])}")
    if one["warning"]:
        console.print(f"[yellow]warning[/yellow] {escape(one['warning'])}")
    _what_comes(one)


def _what_comes(one: dict[str, Any]) -> None:
    """Whether waiting helps."""
    if one["result"] == "stalled":
        console.print("[dim]nothing was written; it waits for a new revision, or for `reconciler sync`[/dim]")
    elif one.get("retry"):
        console.print("[dim]the daemon tries again by itself, at the latest after 5 minutes[/dim]")


def _plan(plan: dict[str, Any]) -> None:
    changes = [change for change in plan["changes"] if change["kind"] != "in_sync"]
    if changes:
        table = _table("target", "kind", "effect", "keys", "why")
        for change in changes:
            kind = ", ".join([change["kind"], *change["aspects"]])
            table.add_row(
                escape(change["target"]), kind, change["effect"], _keys(change["keys"]), escape(change["reason"])
            )
        console.print(table)
    if plan["actions"]:
        table = _table("stack", "service", "action", "why")
        for action in plan["actions"]:
            table.add_row(*(escape(action[name]) for name in ("stack", "service", "action", "reason")))
        console.print(table)


def status(found: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        _json(found)
        return
    if not found["daemon"]["running"]:
        console.print("[yellow]the daemon is not running[/yellow]; this is a look at the live files now")
    for one in found["environments"]:
        _environment(one)


def _environment(one: dict[str, Any]) -> None:
    console.print(
        f"[bold]{escape(one['environment'])}[/bold] {_word(one['result'] or 'unknown')} {escape(one['reason'])}"
    )
    if one["warning"]:
        console.print(f"[yellow]warning[/yellow] {escape(one['warning'])}")
    _what_comes(one)
    for names, commit in _revisions(one):
        author = commit["author"].partition(" <")[0]
        line = f"{names}  {commit['commit'][:12]} {commit['subject']} ({author}, {_instant(commit['committed_at'])})"
        console.print(f"[dim]{escape(line)}[/dim]")
    _held_back(one)
    since = f", so since {_instant(one['since'])}" if one["since"] else ""
    console.print(f"[dim]checked {_instant(one['checked_at'])}{since}[/dim]")
    if one["after"]:
        _targets(one["after"]["changes"])
    _services(one)


def _held_back(one: dict[str, Any]) -> None:
    """What keeps the branch's head from being wanted, or anything from being done."""
    if pin := one["pin"]:
        why = f": {pin['reason']}" if pin["reason"] else ""
        where = f"at {pin['revision']['commit'][:12]} since {_instant(pin['since'])}{why}"
        console.print(f"[cyan]pinned[/cyan] {escape(where)}; `reconciler unpin` ends it")
    for pause in one["pauses"]:
        what = f"{pause['scope'] or 'everything'} until {_instant(pause['until'])}"
        why = f": {pause['reason']}" if pause["reason"] else ""
        console.print(f"[cyan]paused[/cyan] {escape(what + why)}")
    if quarantine := one["quarantine"]:
        what = f"{quarantine['revision']['commit'][:12]} since {_instant(quarantine['since'])}: {quarantine['reason']}"
        console.print(f"[magenta]quarantined[/magenta] {escape(what)}")
        if revert := quarantine["revert"]:
            console.print(f"[dim]revert in git: {revert['state']} {escape(revert['reason'])}[/dim]")
    for stack, why in one["stopped"].items():
        console.print(f"[red]left alone[/red] {escape(stack or 'files of no stack')}: {escape(why)}")


def _revisions(one: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Head, applied and healthy, those that are the same commit in one."""
    by_commit: dict[str, list[str]] = {}
    for name in ("head", "applied", "healthy"):
        if one[name]:
            by_commit.setdefault(one[name]["commit"], []).append(name)
    for names in by_commit.values():
        yield ", ".join(names), one[names[0]]


def _targets(changes: Sequence[dict[str, Any]]) -> None:
    table = _table("target", "stack", "sync", "since", "keys", "why")
    for change in changes:
        table.add_row(
            escape(change["target"]),
            escape(change["stack"] or ""),
            _word(change["sync"]),
            _instant(change.get("since") or ""),
            _keys(change["keys"]),
            escape(change["reason"]) if change["sync"] != "in_sync" else "",
        )
    console.print(table)


def _services(one: dict[str, Any]) -> None:
    if "services_unknown" in one:
        console.print(f"[yellow]services unknown[/yellow] {escape(one['services_unknown'])}")
    if one.get("services"):
        table = _table("stack", "service", "health", "restarts")
        for service in one["services"]:
            state = service["state"]
            word = f"[green]{state}[/green]" if service["healthy"] else f"[red]{state}[/red]"
            table.add_row(escape(service["stack"]), escape(service["service"]), word, str(service["restarts"]))
        console.print(table)


def history(found: Sequence[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        _json(found)
        return
    for run in found:
        _run(run)
    if not found:
        console.print("no runs yet")


def _run(run: dict[str, Any]) -> None:
    """One run: a line that says when, how and what of, then what it did, then why it ended so."""
    revision, author = run["revision"], run["revision"]["author"].partition(" <")[0]
    head = f"{revision['commit'][:12]} by {author}" if author else revision["commit"][:12]
    console.print(
        f"[bold]{_instant(run['started_at'])}[/bold]  {_word(run['result'])}  {escape(head)}  "
        f"[dim]{escape(run['environment'])}, {run['trigger']}, run {run['run']}[/dim]"
    )
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for change in run["changes"]:
        table.add_row(f"  {escape(change['source'])}", f"[dim]{change['kind']}[/dim] {_keys(change, ' ')}")
    for action in run["actions"]:
        table.add_row(f"  {escape(action['service'])}", f"[dim]{action['action']}[/dim] {escape(action['reason'])}")
    table.add_row("  [dim]why[/dim]", escape(run["reason"]))
    console.print(table)


def backups(found: Sequence[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        _json(found)
        return
    table = _table("backup", "environment", "revisions", "files")
    for backup in found:
        files = [
            escape(file["source"]) + ("" if file["was_there"] else " [dim]was not there[/dim]")
            for file in backup["files"]
        ]
        files += [f"[red]{escape(problem)}[/red]" for problem in backup.get("problems", ())]
        revisions = f"{_short(backup, 'from_commit')} → {_short(backup, 'to_commit')}"
        table.add_row(backup["backup"], escape(backup["environment"] or ""), revisions, "\n".join(files))
    console.print(table if found else "no backups yet")
    if found and "problems" in found[0]:
        damaged = sum(bool(backup["problems"]) for backup in found)
        console.print(f"{len(found)} backup(s) read, {damaged} damaged")


def _short(backup: dict[str, Any], which: str) -> str:
    return str(backup.get(which, ""))[:12] or "-"


def restored(found: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        _json(found)
        return
    for path in found["restored"]:
        console.print(f"[green]restored[/green] {escape(path)} from {found['from']}")
    console.print(f"what was there is in backup {found['backup']}")
    console.print("the running services keep their values until they are recreated, and the daemon follows git")


def adopted(done: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        _json(done)
        return
    what = "the whole file" if done["whole"] else _keys(done["keys"], " ")
    console.print(f"[green]pushed[/green] {done['commit'][:12]} to [bold]{escape(done['branch'])}[/bold]")
    console.print(f"{escape(done['target'])}: {what}")
    console.print(f"open a pull request from it to {escape(done['base_branch'])}; nothing has changed on this server")


def ages(found: dict[str, Any], max_age: str, *, as_json: bool) -> None:
    """Secrets oldest first within their target; ``max_age`` as it was typed."""
    if as_json:
        _json(found)
        return
    for environment in found["environments"]:
        table = _table("target", "key", "last rotated")
        for target in environment["targets"]:
            for key in sorted(target["keys"], key=lambda key: key["last_rotated"] or "~"):
                at = "[dim]empty[/dim]" if key["empty"] else _instant(key["last_rotated"])
                table.add_row(
                    escape(target["target"]),
                    escape(key["key"]) or "[dim]the whole file[/dim]",
                    f"[red]{at}[/red]" if key["too_old"] else at,
                )
        console.print(table if table.row_count else f"{escape(environment['environment'])} has no encrypted targets")
    for environment in found["environments"]:
        for target in environment["targets"]:
            if old := [key["key"] or "the whole file" for key in target["keys"] if key["too_old"]]:
                names = escape(", ".join(old))
                console.print(f"[red]older than {escape(max_age)}[/red] {escape(target['target'])}: {names}")


def findings(found: Iterable[Finding], *, as_json: bool) -> None:
    found = list(found)
    if as_json:
        _json([asdict(finding) for finding in found])
        return
    table = _table("", "what", "found", "what to do")
    for finding in found:
        table.add_row(_word(finding.level), escape(finding.what), escape(finding.found), escape(finding.advice))
    console.print(table)


def initialized(made: InitResult, *, as_json: bool) -> None:
    if as_json:
        _json(asdict(made))
        return
    for step in made.steps:
        word = "[cyan]exists[/cyan]" if step.action == "exists" else f"[green]{step.action}[/green]"
        console.print(
            f"{word} {_shown(step.path)}" + (f"  [dim]{_shown(step.note)}[/dim]" if step.note else ""), soft_wrap=True
        )
    for note in made.notes:
        lines = "\n".join(map(_shown, note.split("\n")))
        console.print(f"[yellow]note[/yellow] {lines}", soft_wrap=True)
    console.print(f"files are encrypted for {_shown(', '.join(made.recipients))}", soft_wrap=True)
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
        console.print(f"{number}. {_shown(text)}", soft_wrap=True)


def _shown(text: str) -> str:
    """Text that may be somebody else's, such as a path of a server: nothing in it steers rich or the terminal."""
    return escape(printable(text))


def _table(*columns: str) -> Table:
    """Names and instants stay whole, so that they can be copied; sentences and paths fold."""
    table = Table(box=None, pad_edge=False, header_style="bold dim")
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column in _WHOLE)
    return table


def _keys(keys: dict[str, Any], between: str = "\n") -> str:
    parts = [f"[green]+{escape(key)}[/green]" for key in keys["added"]]
    parts += [f"[red]-{escape(key)}[/red]" for key in keys["removed"]]
    parts += [f"[yellow]~{escape(key)}[/yellow]" for key in keys["changed"]]
    return between.join(parts)


def _instant(text: str) -> str:
    """ISO 8601 in UTC, as people read it."""
    return text.replace("T", " ").replace("+00:00", "Z")


def _word(word: str) -> str:
    return f"[{_COLOURS.get(word, 'red')}]{word}[/]"


def _json(data: Any) -> None:
    json.dump(data, sys.stdout, indent=2)
    sys.stdout.write("\n")
