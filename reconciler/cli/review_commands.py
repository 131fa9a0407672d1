"""The commands before a merge: check, diff and compare. None of them needs a server."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import Annotated

import click
from click.exceptions import Exit

from reconciler.cli.declarations import Commands, argument, option
from reconciler.cli.exit_codes import ERROR, IN_SYNC, PENDING
from reconciler.cli.options import (
    DEFAULT_CONFIG,
    ConfigFile,
    Environment,
    EnvironmentsPath,
    Json,
    KeyFile,
    KnownHosts,
    SshKey,
    Verbose,
)
from reconciler.core.errors import RefusedError

commands = Commands()


class CheckForm(StrEnum):
    TEXT = "text"
    JSON = "json"
    GITHUB = "github"
    GITLAB = "gitlab"
    SARIF = "sarif"


@commands.command(short_help="before the merge: find mistakes, without any key")
def check(
    path: Annotated[str, argument(help="The directory of the environments.")] = "envs",
    environment: Environment = None,
    form: Annotated[CheckForm, option("--format", help="Output format.")] = CheckForm.TEXT,
    age_key_file: KeyFile = None,
    server: Annotated[
        list[str] | None, option("--server", help="A server configuration to check as well (may be repeated).")
    ] = None,
    retired: Annotated[
        list[str] | None,
        option("--retired", help="Also find what still names this key, provider or host (may be repeated)."),
    ] = None,
    allow_warnings: Annotated[bool, option("--allow-warnings", help="Exit 0 if there are only warnings.")] = False,
    as_json: Json = False,
) -> None:
    """Find mistakes in a directory of environments before they are merged; docs/checks.md explains each rule.

    Without a key, check everything but values. Exits 0 without findings, 2 with findings, 1 on errors.
    """
    from reconciler.app.checks.command import check_environments
    from reconciler.cli import render, reports
    from reconciler.cli.layout import page_on

    with render.counted("decrypting") as progress:
        report = check_environments(path, environment or [], server or [], age_key_file, progress, retired or [])
    if form is CheckForm.TEXT and not as_json:
        render.write_lines(reports.check_report(report, page_on(sys.stdout)))
    else:
        sys.stdout.write(reports.FORMATS["json" if as_json else form.value](report))
    raise Exit(PENDING if report.errors or (report.warnings and not allow_warnings) else IN_SYNC)


class DiffForm(StrEnum):
    TEXT = "text"
    JSON = "json"
    MARKDOWN = "markdown"


@commands.command(short_help="before the merge: show changes by key, without any key")
def diff(
    span: Annotated[
        str, argument(metavar="BASE..HEAD", help="Two commits; BASE...HEAD starts where they forked.")
    ] = "",
    path: EnvironmentsPath = "envs",
    environment: Environment = None,
    form: Annotated[DiffForm, option("--format", help="Output format.")] = DiffForm.TEXT,
    age_key_file: KeyFile = None,
    exit_code: Annotated[bool, option("--exit-code", help="Exit 2 if something changed.")] = False,
    hook: Annotated[
        bool,
        option("--hook", help="For pre-commit: compare the commits about to be pushed; never blocks a push."),
    ] = False,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Show the changes between two commits of this clone: by environment and file, the keys and who can decrypt them.

    Never shows a value. With a key, also shows which other environments have the same value. Exits 0 (2 with
    --exit-code if something changed), or 1 on errors.
    """
    from reconciler.app.diff.command import diff_commits, pushed_span
    from reconciler.cli import comments, render
    from reconciler.cli.layout import page_on

    if bool(span) == hook:
        raise RefusedError("give two commits or --hook", hint="For example `reconciler diff origin/main...HEAD`")
    if hook and not (span := pushed_span()):
        click.echo("nothing to compare with: origin/HEAD is not set. Set it with `git remote set-head origin --auto`")
        raise Exit(IN_SYNC)
    with render.counted("decrypting") as progress:
        changes = diff_commits(span, path, environment or [], age_key_file, progress)
    if form is DiffForm.TEXT and not as_json:
        render.write_lines(comments.diff_report(changes, page_on(sys.stdout, verbose=verbose)))
    else:
        sys.stdout.write(comments.FORMATS["json" if as_json else form.value](changes))
    raise Exit(PENDING if exit_code and not changes.empty else IN_SYNC)


class CompareForm(StrEnum):
    TABLE = "table"
    JSON = "json"
    MARKDOWN = "markdown"
    HTML = "html"


Different = Annotated[
    bool | None,
    option(
        "--different-environments/--same-environment",
        help="Whether secrets must differ, or nothing may. Default: by the names of the sides.",
    ),
]
Probes = Annotated[
    str | None,
    option("--probes", help="A file of parity probes, in addition to the server configuration; never from git."),
]
Pairs = Annotated[
    list[str] | None,
    option(
        "--pair", metavar="A=B", help="Compare file A of LEFT with file B of RIGHT, whatever their names; repeatable."
    ),
]


@commands.command(short_help="compare environments and servers: keys, files, services")
def compare(
    left: Annotated[
        str,
        argument(
            metavar="LEFT",
            help="git:production[@REV], live:production[@HOST], ssh://…, file:…, or a comparison.",
        ),
    ],
    right: Annotated[
        list[str] | None, argument(metavar="RIGHT…", help="One or more sides, each compared with LEFT.")
    ] = None,
    repository: Annotated[str, option("--repository", help="The clone to read git sides from.")] = ".",
    path: EnvironmentsPath = "envs",
    form: Annotated[CompareForm, option("--format", help="Output format.")] = CompareForm.TABLE,
    everything: Annotated[bool, option("--all", help="Also show what is the same.")] = False,
    expected: Annotated[
        str | None,
        option("--expected", help="The file of expected differences. Default: expected-differences.yaml below --path."),
    ] = None,
    different: Different = None,
    ssh_key: SshKey = None,
    known_hosts: KnownHosts = None,
    probes: Probes = None,
    pair: Pairs = None,
    age_key_file: KeyFile = None,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Compare one side with others: the env files of a git environment, a server, a directory, or a container.

    A side is git:ENVIRONMENT[@REVISION], live:ENVIRONMENT[@HOST] (this server, or one of its hosts, by --config),
    ssh://USER@HOST[:PORT]/PATH, file:PATH or container:SERVICE. The name of one of the server's `comparisons`, without
    RIGHT, compares that pair as the daemon does. Never shows a value; values are compared by fingerprint.
    Exits 0 if every difference is explained, 2 if not, 1 on errors.
    """
    from reconciler.app.compare.command import CompareRequest, run_comparison, run_configured
    from reconciler.cli import compare_page, compare_reports, compare_table, render
    from reconciler.cli.layout import page_on

    files = (age_key_file, expected, ssh_key, known_hosts)
    request = CompareRequest(repository, path, config, *files, different, probes, tuple(pair or ()))
    with render.counted("reading") as progress:
        report = run_comparison(left, right, request, progress) if right else run_configured(left, request, progress)
    form = CompareForm.JSON if as_json else form
    match form:
        case CompareForm.JSON:
            sys.stdout.write(compare_reports.as_json(report))
        case CompareForm.MARKDOWN:
            sys.stdout.write(compare_reports.as_markdown(report))
        case CompareForm.HTML:
            sys.stdout.write(compare_page.as_html(report))
        case CompareForm.TABLE:
            render.write_lines(compare_table.compare_report(report, page_on(sys.stdout), everything=everything))
    raise Exit(ERROR if report.failures else PENDING if report.unexplained else IN_SYNC)
