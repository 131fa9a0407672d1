"""What the operator commands print: rich tables for people, JSON for programs. Never a value of a variable."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from reconciler.cli.render import coloured, console, new_table, print_json

if TYPE_CHECKING:
    from reconciler.app.daemon.doctor import DoctorFinding


def show_outcomes(outcomes: Sequence[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        print_json(outcomes)
        return
    for outcome in outcomes:
        _headline(outcome, outcome["result"])
        if outcome["run"] and outcome["plan"]:
            _plan(outcome["plan"])
        if outcome["backup"]:
            console.print(f"[dim]backup {escape(outcome['backup'])}[/dim]")


def show_plans(outcomes: Sequence[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        print_json(outcomes)
        return
    for outcome in outcomes:
        _headline(outcome, outcome["result"])
        if outcome["plan"]:
            _plan(outcome["plan"])


def _headline(outcome: dict[str, Any], word: str) -> None:
    """How a reconciliation ended, at which revision, why, and what happens next without an operator."""
    revision = outcome["revision"]
    by = f" ({revision['subject']}, {revision['author'].partition(' <')[0]})" if revision else ""
    at = f" at {revision['commit'][:12]}{by}" if revision else ""
    name, reason = escape(outcome["environment"]), escape(outcome["reason"])
    console.print(f"{coloured(word)} [bold]{name}[/bold]{escape(at)}: {reason}")
    _warning_and_next(outcome)


def _warning_and_next(outcome: dict[str, Any]) -> None:
    if outcome["warning"]:
        console.print(f"[yellow]warning[/yellow] {escape(outcome['warning'])}")
    if outcome["result"] == "stalled":
        console.print("[dim]nothing was written; waits for a new revision or `reconciler sync`[/dim]")
    elif outcome.get("retry"):
        console.print("[dim]the daemon will retry within 5 minutes[/dim]")


def _plan(plan: dict[str, Any]) -> None:
    changes = [change for change in plan["changes"] if change["kind"] != "in_sync"]
    if changes:
        table = new_table("target", "kind", "effect", "keys", "why")
        for change in changes:
            kind = ", ".join([change["kind"], *change["aspects"]])
            table.add_row(
                escape(change["target"]), kind, change["effect"], _keys(change["keys"]), escape(change["reason"])
            )
        console.print(table)
    if plan["actions"]:
        table = new_table("stack", "service", "action", "why")
        for action in plan["actions"]:
            table.add_row(*(escape(action[name]) for name in ("stack", "service", "action", "reason")))
        console.print(table)
    _notes(plan)


def _notes(plan: dict[str, Any]) -> None:
    for note in plan["notes"]:
        console.print(f"[yellow]note[/yellow] {escape(note)}", soft_wrap=True)


def show_status(status: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(status)
        return
    if not status["daemon"]["running"]:
        console.print("[yellow]the daemon is not running[/yellow]; this is how the live files are now")
    for environment in status["environments"]:
        _environment(environment)


def _environment(environment: dict[str, Any]) -> None:
    name, reason = escape(environment["environment"]), escape(environment["reason"])
    console.print(f"[bold]{name}[/bold] {coloured(environment['result'] or 'unknown')} {reason}")
    if activity := environment["reconciling"]:
        phase = f" ({activity['phase']}: {activity['doing']})" if activity["phase"] else ""
        console.print(f"[cyan]reconciling[/cyan] since {_instant(activity['since'])}{escape(phase)}")
    _warning_and_next(environment)
    for names, commit in _revisions(environment):
        author = commit["author"].partition(" <")[0]
        line = f"{names}  {commit['commit'][:12]} {commit['subject']} ({author}, {_instant(commit['committed_at'])})"
        console.print(f"[dim]{escape(line)}[/dim]")
    _held_back(environment)
    since = f", unchanged since {_instant(environment['since'])}" if environment["since"] else ""
    console.print(f"[dim]checked {_instant(environment['checked_at'])}{since}[/dim]")
    if environment["after"]:
        _targets(environment)
        _notes(environment["after"])
    _services(environment)


def _held_back(environment: dict[str, Any]) -> None:
    """What keeps the branch's head from being the target revision, or anything from being done."""
    if pin := environment["pin"]:
        reason = f": {pin['reason']}" if pin["reason"] else ""
        text = f"at {pin['revision']['commit'][:12]} since {_instant(pin['since'])}{reason}"
        console.print(f"[cyan]pinned[/cyan] {escape(text)}; `reconciler unpin` ends it")
    for pause in environment["pauses"]:
        reason = f": {pause['reason']}" if pause["reason"] else ""
        text = f"{pause['scope'] or 'everything'} until {_instant(pause['until'])}{reason}"
        console.print(f"[cyan]paused[/cyan] {escape(text)}")
    if quarantine := environment["quarantine"]:
        text = f"{quarantine['revision']['commit'][:12]} since {_instant(quarantine['since'])}: {quarantine['reason']}"
        console.print(f"[magenta]quarantined[/magenta] {escape(text)}")
        if revert := quarantine["revert"]:
            console.print(f"[dim]revert in git: {revert['state']} {escape(revert['reason'])}[/dim]")
    for stack, reason in environment["suspended"].items():
        console.print(f"[red]suspended[/red] {escape(stack or 'files of no stack')}: {escape(reason)}")


def _revisions(environment: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Head, applied and healthy; those that are the same commit together."""
    by_commit: dict[str, list[str]] = {}
    for name in ("head", "applied", "healthy"):
        if environment[name]:
            by_commit.setdefault(environment[name]["commit"], []).append(name)
    for names in by_commit.values():
        yield ", ".join(names), environment[names[0]]


def _targets(environment: dict[str, Any]) -> None:
    """The column ``applied`` has the revision of a target that is not at the environment's."""
    table = new_table("target", "stack", "sync", "applied", "since", "keys", "why")
    whole = (environment["applied"] or {}).get("commit")
    for change in environment["after"]["changes"]:
        applied = (change["applied"] or {}).get("commit")
        table.add_row(
            escape(change["target"]),
            escape(change["stack"] or ""),
            coloured(change["sync"]),
            "" if applied in (None, whole) else applied[:12],
            _instant(change.get("since") or ""),
            _keys(change["keys"]),
            escape(change["reason"]) if change["sync"] != "in_sync" else "",
        )
    console.print(table)


def _services(environment: dict[str, Any]) -> None:
    if "services_unknown" in environment:
        console.print(f"[yellow]services unknown[/yellow] {escape(environment['services_unknown'])}")
    if environment.get("services"):
        table = new_table("stack", "service", "health", "restarts")
        for service in environment["services"]:
            state = f"[{_colour(service)}]{service['state']}[/{_colour(service)}]"
            table.add_row(escape(service["stack"]), escape(service["service"]), state, str(service["restarts"]))
        console.print(table)
        for service in environment["services"]:
            if service["reason"]:
                name = f"{service['stack']}/{service['service']}"
                mark = f"[{_colour(service)}]not running[/{_colour(service)}]"
                console.print(f"{mark} {escape(name)}: {escape(service['reason'])}", soft_wrap=True)


def _colour(service: dict[str, Any]) -> str:
    if service["healthy"]:
        return "green"
    return "yellow" if service["acknowledged"] else "red"


def show_history(runs: Sequence[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        print_json(runs)
        return
    for run in runs:
        _run(run)
    if not runs:
        console.print("no runs yet")


def _run(run: dict[str, Any]) -> None:
    """One run: a line with its time, result and revision, then what it did, then the reason of its result."""
    revision, author = run["revision"], run["revision"]["author"].partition(" <")[0]
    head = f"{revision['commit'][:12]} by {author}" if author else revision["commit"][:12]
    console.print(
        f"[bold]{_instant(run['started_at'])}[/bold]  {coloured(run['result'])}  {escape(head)}  "
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


def show_backups(backups: Sequence[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        print_json(backups)
        return
    table = new_table("backup", "environment", "revisions", "files")
    for backup in backups:
        files = [
            escape(file["source"]) + ("" if file["existed"] else " [dim]did not exist[/dim]")
            for file in backup["files"]
        ]
        files += [f"[red]{escape(problem)}[/red]" for problem in backup.get("problems", ())]
        revisions = f"{_short(backup, 'from_commit')} → {_short(backup, 'to_commit')}"
        table.add_row(backup["backup"], escape(backup["environment"] or ""), revisions, "\n".join(files))
    console.print(table if backups else "no backups yet")
    if backups and "problems" in backups[0]:
        damaged = sum(bool(backup["problems"]) for backup in backups)
        console.print(f"{len(backups)} backup(s) read, {damaged} damaged")


def _short(backup: dict[str, Any], field: str) -> str:
    return str(backup.get(field, ""))[:12] or "-"


def show_restored(restored: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(restored)
        return
    for path in restored["restored"]:
        console.print(f"[green]restored[/green] {escape(path)} from {restored['from']}")
    console.print(f"what they replaced is in backup {restored['backup']}")
    console.print(
        "running services keep their values until they are recreated; unless paused (`reconciler pause`), the next "
        "reconciliation writes the target revision again"
    )


def show_adopted(adopted: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(adopted)
        return
    keys = "the whole file" if adopted["whole"] else _keys(adopted["keys"], " ")
    console.print(f"[green]pushed[/green] {adopted['commit'][:12]} to [bold]{escape(adopted['branch'])}[/bold]")
    console.print(f"{escape(adopted['target'])}: {keys}")
    base = escape(adopted["base_branch"])
    console.print(f"open a pull request from it to {base}; nothing has changed on this server")


def show_ages(ages: dict[str, Any], max_age: str, *, as_json: bool) -> None:
    """Secrets oldest first within their target; ``max_age`` as it was typed."""
    if as_json:
        print_json(ages)
        return
    for environment in ages["environments"]:
        table = new_table("target", "key", "last rotated")
        for target in environment["targets"]:
            for key in sorted(target["keys"], key=lambda key: key["last_rotated"] or "~"):
                at = "[dim]empty[/dim]" if key["empty"] else _instant(key["last_rotated"])
                table.add_row(
                    escape(target["target"]),
                    escape(key["key"]) or "[dim]the whole file[/dim]",
                    f"[red]{at}[/red]" if key["too_old"] else at,
                )
        console.print(table if table.row_count else f"{escape(environment['environment'])} has no encrypted targets")
    for environment in ages["environments"]:
        for target in environment["targets"]:
            if old := [key["key"] or "the whole file" for key in target["keys"] if key["too_old"]]:
                names = escape(", ".join(old))
                console.print(f"[red]older than {escape(max_age)}[/red] {escape(target['target'])}: {names}")


def show_findings(findings: Iterable[DoctorFinding], *, as_json: bool) -> None:
    if as_json:
        print_json([asdict(finding) for finding in findings])
        return
    table = new_table("", "component", "result", "what to do")
    for finding in findings:
        table.add_row(
            coloured(finding.level), escape(finding.component), escape(finding.result), escape(finding.advice)
        )
    console.print(table)


def _keys(keys: dict[str, Any], between: str = "\n") -> str:
    parts = [f"[green]+{escape(key)}[/green]" for key in keys["added"]]
    parts += [f"[red]-{escape(key)}[/red]" for key in keys["removed"]]
    parts += [f"[yellow]~{escape(key)}[/yellow]" for key in keys["changed"]]
    return between.join(parts)


def _instant(text: str) -> str:
    """ISO 8601 in UTC, as people read it."""
    return text.replace("T", " ").replace("+00:00", "Z")
