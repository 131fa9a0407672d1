"""`history`, its export and its verification, and `report`."""

from __future__ import annotations

from enum import StrEnum
from functools import partial
from typing import Annotated

import click
from click.exceptions import Exit

from reconciler.cli.declarations import Commands, argument, option
from reconciler.cli.exit_codes import ERROR, IN_SYNC
from reconciler.cli.global_options import CommandGroup
from reconciler.cli.options import DEFAULT_CONFIG, ConfigFile, Json, OneEnvironment, Verbose
from reconciler.core.errors import RefusedError

commands = Commands()
_of_history = Commands()


class ReportFormat(StrEnum):
    """How `report` is written."""

    TEXT = "text"
    MARKDOWN = "markdown"
    HTML = "html"


def history(
    config: ConfigFile = DEFAULT_CONFIG,
    environment: OneEnvironment = None,
    limit: Annotated[int, option("--limit", "-n", limits=(1, None), help="How many runs, newest first.")] = 20,
    follow: Annotated[
        bool, option("--follow", "-f", help="Oldest first, then each run as it ends, until Ctrl-C.")
    ] = False,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """List past runs and decisions: when, trigger, revision, author, keys, services, result and reason, who asked.

    Exits 0, or 1 on errors; with --follow 130 after Ctrl-C.
    """
    if click.get_current_context().invoked_subcommand:
        return
    from reconciler.app.daemon.commands import list_runs
    from reconciler.cli import record_reports, render

    if follow:
        from reconciler.cli import watching

        watching.follow_history(
            lambda most: list_runs(config, environment, most), limit, as_json=as_json, verbose=verbose
        )
    runs = list_runs(config, environment, limit)
    render.answer(runs, record_reports.history_report, as_json=as_json, verbose=verbose, list_name="runs")


@_of_history.command(short_help="every entry as JSON lines, oldest first")
def export(
    config: ConfigFile = DEFAULT_CONFIG,
    since: Annotated[str, option("--since", metavar="DURATION", help="Only the last 30d, say.")] = "",
) -> None:
    """Print every entry of the history, one JSON object a line, oldest first; the last line is the head of the chain.

    Keep it elsewhere: `reconciler history verify FILE` checks it, and --head checks the server against it. Exits 0, or
    1 on errors.
    """
    from reconciler.app.config.durations import parse_duration
    from reconciler.app.daemon.history import export_history
    from reconciler.cli import render

    seconds = parse_duration(since, where="--since") if since else None
    render.write_lines(export_history(config, seconds))


@_of_history.command(short_help="whether an entry was changed or is lost")
def verify(
    file: Annotated[str, argument(metavar="FILE", help="An export. Default: this server's history.")] = "",
    head: Annotated[
        list[str] | None,
        option("--head", metavar="SHA256", help="A head noted earlier, which must be in it (may be repeated)."),
    ] = None,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Check that no entry of the history was changed, and none is lost; name the first bad one.

    Exits 0 if it is whole, 1 if not and on errors.
    """
    from reconciler.app.daemon.history import verify_export, verify_history
    from reconciler.cli import history_reports, render

    heads = [sha256.lower() for sha256 in head or []]
    verification = verify_export(file, heads) if file else verify_history(config, heads)
    render.answer(verification, history_reports.verification_report, as_json=as_json)
    raise Exit(IN_SYNC if verification["whole"] else ERROR)


@commands.command(short_help="what changed and failed, recovery times, what is overdue")
def report(
    since: Annotated[str, option("--since", metavar="DURATION", help="Such as 7d or 12h.")] = "7d",
    max_age: Annotated[str, option("--max-age", metavar="DURATION", help="Older secrets are overdue.")] = "90d",
    written: Annotated[ReportFormat, option("--format", help="text, markdown or html.")] = ReportFormat.TEXT,
    config: ConfigFile = DEFAULT_CONFIG,
    environment: OneEnvironment = None,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Report what changed and what failed, how fast services recovered, and what is overdue.

    Reconciliations that had nothing to do do not count. Exits 0, or 1 on errors.
    """
    from reconciler.app.config.durations import parse_duration
    from reconciler.app.daemon.history import report_history
    from reconciler.cli import history_reports, render

    if as_json and written is not ReportFormat.TEXT:
        raise RefusedError("--json and --format exclude each other", hint="Leave one of them out")
    seconds, oldest = parse_duration(since, where="--since"), parse_duration(max_age, where="--max-age")
    with render.progress() as progress:
        answer = report_history(config, seconds, environment, oldest, progress)
    if written is ReportFormat.HTML:
        from reconciler.app.pages.html import render_html

        render.write_lines([render_html("report.html", **history_reports.page_facts(answer)).rstrip("\n")])
        return
    lines = history_reports.markdown_report if written is ReportFormat.MARKDOWN else history_reports.history_report
    render.answer(answer, partial(lines), as_json=as_json, verbose=verbose)


commands.by_name["history"] = CommandGroup(
    "history",
    commands=_of_history.by_name,
    callback=history,
    help=history.__doc__,
    short_help="runs and decisions: when, what, by whom, and the result",
    invoke_without_command=True,
    subcommand_metavar="[COMMAND]",
)
