"""The commands for a server: what an operator can look at and request."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Annotated, Any, NoReturn

from click.exceptions import Exit

from reconciler.cli import completion
from reconciler.cli.declarations import Commands, argument, option
from reconciler.cli.exit_codes import (
    ERROR,
    IN_SYNC,
    PENDING,
    age_exit_code,
    outcome_exit_code,
    plan_exit_code,
    status_exit_code,
    worst,
)
from reconciler.cli.options import (
    DEFAULT_CONFIG,
    ConfigFile,
    Environment,
    EnvironmentsPath,
    Json,
    OneEnvironment,
    Verbose,
)
from reconciler.core.errors import RefusedError

commands = Commands()


Reason = Annotated[str, option("--reason", help="Why; the history shows it, and status while it lasts.")]


@commands.command(short_help="reconcile now")
def sync(
    config: ConfigFile = DEFAULT_CONFIG,
    environment: Environment = None,
    take_over: Annotated[
        list[str] | None,
        option(
            "--take-over",
            help="ENVIRONMENT/SOURCE whose unknown live file may be replaced (backed up first).",
            complete=completion.targets,
        ),
    ] = None,
    accept_project: Annotated[
        list[str] | None,
        option(
            "--accept-project",
            help="STACK (or ENVIRONMENT/STACK) that is held because its project was edited: take the edit along.",
            complete=completion.stacks,
        ),
    ] = None,
    skip_promotion: Annotated[
        bool,
        option("--skip-promotion", help="Apply now what waits to be promoted; needs --reason."),
    ] = False,
    reason: Reason = "",
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Reconcile now, in the daemon if it runs, else here.

    Exits 0 if in sync or applied, 1 on errors, 2 if something needs an operator, 3 if it was rolled back.
    """
    from reconciler.app.daemon.commands import sync_environments
    from reconciler.cli import plan_reports, render

    if skip_promotion and not reason:
        raise RefusedError("say why with --reason; the history keeps it", where="--skip-promotion")
    with render.progress() as progress:
        outcomes = sync_environments(
            config,
            environment or [],
            take_over or [],
            progress,
            accept_projects=accept_project or [],
            reason=reason,
            skip_promotion=skip_promotion,
        )
    render.answer(outcomes, plan_reports.outcome_report, as_json=as_json, verbose=verbose, list_name="outcomes")
    raise Exit(worst(outcome_exit_code(outcome) for outcome in outcomes))


@commands.command(short_help="what a reconciliation would change; writes nothing")
def plan(
    config: ConfigFile = DEFAULT_CONFIG,
    environment: Environment = None,
    revision: Annotated[
        str, option("--revision", help="Plan for this commit of the branch, not the target revision.")
    ] = "",
    summary: Annotated[bool, option("--summary", help="Only how much would change.")] = False,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Show which keys a reconciliation would change, and which services it would touch and why; writes nothing.

    Exits 0 if in sync, 2 if something would change or needs an operator, 1 on errors.
    """
    from reconciler.app.daemon.commands import plan_environments
    from reconciler.cli import plan_reports, render

    with render.progress() as progress:
        outcomes = plan_environments(config, environment or [], revision, progress)
    report = partial(plan_reports.plan_report, summary=summary)
    render.answer(outcomes, report, as_json=as_json, verbose=verbose, list_name="outcomes")
    raise Exit(worst(plan_exit_code(outcome) for outcome in outcomes))


@commands.command(short_help="each target and stack: in sync or not, since when, why")
def status(
    config: ConfigFile = DEFAULT_CONFIG,
    watch: Annotated[
        bool, option("--watch", "-w", help="Refresh until Ctrl-C; in a pipe, print again what has changed.")
    ] = False,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Show each target and stack: in sync or not, the revision, since when and why.

    With a daemon, this is its last reconciliation; without one, the live files are checked now.
    Exits 0 if in sync, 1 on errors, 2 if something would change or needs an operator, 3 if it was rolled back; with
    --watch 130 after Ctrl-C.
    """
    from reconciler.app.daemon.commands import read_status
    from reconciler.cli import render, status_reports

    if watch:
        from reconciler.cli import watching

        watching.watch_status(
            lambda here: read_status(config, lambda _: None, here=here), as_json=as_json, verbose=verbose
        )
    with render.progress() as progress:
        answer = read_status(config, progress)
    render.answer(answer, status_reports.status_report, as_json=as_json, verbose=verbose)
    raise Exit(worst(status_exit_code(environment) for environment in answer["environments"]))


@commands.command(short_help="list the backups, or verify them")
def backups(
    config: ConfigFile = DEFAULT_CONFIG,
    environment: OneEnvironment = None,
    verify: Annotated[
        bool, option("--verify", help="Read every file and compare it with its recorded digest.")
    ] = False,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """List the backups, newest first. Exits 0, or 1 on errors and if --verify finds a damaged one."""
    from reconciler.app.daemon.commands import list_backups
    from reconciler.cli import record_reports, render

    listed = list_backups(config, environment, verify=verify)
    render.answer(listed, record_reports.backups_report, as_json=as_json, verbose=verbose, list_name="backups")
    raise Exit(ERROR if any(backup.get("problems") for backup in listed) else IN_SYNC)


@commands.command(short_help="restore the files of a backup")
def restore(
    backup: Annotated[
        str,
        argument(help="The backup's id, as `reconciler backups` lists it.", complete=completion.backups),
    ],
    config: ConfigFile = DEFAULT_CONFIG,
    target: Annotated[
        list[str] | None, option("--target", "-t", help="Only this source or live path (may be repeated).")
    ] = None,
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """Restore the files of a backup, in the daemon if it runs, else here. What they replace is backed up first.

    Services are not touched. To git the restored files are drift: pause first, or the next reconciliation writes the
    target revision again. Exits 0, or 1 on errors.
    """
    from reconciler.app.daemon.commands import restore_files
    from reconciler.cli import record_reports, render

    with render.progress() as progress:
        restored = restore_files(config, backup, target or [], progress, reason=reason)
    render.answer(restored, record_reports.restore_report, as_json=as_json)


@commands.command(short_help="pin an environment to an earlier revision")
def rollback(
    config: ConfigFile = DEFAULT_CONFIG,
    to: Annotated[
        str, option("--to", help="The commit id. Default: the last good revision before the applied one.")
    ] = "",
    reason: Reason = "",
    environment: OneEnvironment = None,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Pin an environment to an earlier revision and apply it now; it stays there until `reconciler unpin`.

    Exits 0 if in sync or applied, 1 on errors, 2 if something needs an operator, 3 if that was rolled back.
    """
    _change_environment(config, environment, (as_json, verbose), kind="rollback", revision=to, reason=reason)


@commands.command(short_help="follow the branch again")
def unpin(
    config: ConfigFile = DEFAULT_CONFIG,
    reason: Reason = "",
    environment: OneEnvironment = None,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """End a pin, and apply the branch's head now.

    Exits 0 if in sync or applied, 1 on errors, 2 if something needs an operator, 3 if it was rolled back.
    """
    _change_environment(config, environment, (as_json, verbose), kind="unpin", reason=reason)


@commands.command(short_help="write nothing for a while; drift is still measured")
def pause(
    scope: Annotated[
        str,
        argument(
            metavar="TARGET|STACK",
            help="As `reconciler status` lists it, ENVIRONMENT/NAME.",
            complete=completion.scopes,
        ),
    ] = "",
    everything: Annotated[bool, option("--all", help="The whole environment.")] = False,
    how_long: Annotated[str, option("--for", metavar="DURATION", help="Such as 30m or 2h.")] = "1h",
    reason: Reason = "",
    config: ConfigFile = DEFAULT_CONFIG,
    environment: OneEnvironment = None,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Write nothing to a target, a stack or a whole environment until the pause ends; drift is still measured.

    Exits 0 if nothing is pending meanwhile, 2 if something is, 1 on errors, 3 if a change was rolled back.
    """
    from reconciler.app.config.durations import parse_duration

    name = _environment_of_scope(scope, everything, environment)
    seconds = parse_duration(how_long, where="--for")
    _change_environment(config, name, (as_json, verbose), kind="pause", scope=scope, reason=reason, seconds=seconds)


@commands.command(short_help="end a pause")
def resume(
    scope: Annotated[
        str,
        argument(metavar="TARGET|STACK", help="As it was paused; --all ends every pause.", complete=completion.scopes),
    ] = "",
    everything: Annotated[bool, option("--all", help="Every pause of the environment.")] = False,
    reason: Reason = "",
    config: ConfigFile = DEFAULT_CONFIG,
    environment: OneEnvironment = None,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """End a pause early, and reconcile now.

    Exits 0 if in sync or applied, 1 on errors, 2 if something needs an operator, 3 if it was rolled back.
    """
    name = _environment_of_scope(scope, everything, environment)
    _change_environment(config, name, (as_json, verbose), kind="resume", scope=scope, reason=reason)


def _environment_of_scope(scope: str, everything: bool, environment: str | None) -> str | None:
    """The environment that a target or stack names; with --all, the one that --environment does."""
    if bool(scope) == everything:
        raise RefusedError("name one target or stack, or give --all", hint="`reconciler status` lists them")
    return scope.partition("/")[0] if scope else environment


@commands.command(short_help="retry what was quarantined or suspended")
def retry(
    config: ConfigFile = DEFAULT_CONFIG,
    reason: Reason = "",
    environment: OneEnvironment = None,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Continue a rollback that failed, or else lift a quarantine, and reconcile now.

    Exits 0 if in sync or applied, 1 on errors, 2 if something needs an operator, 3 if it was rolled back again.
    """
    _change_environment(config, environment, (as_json, verbose), kind="retry", reason=reason)


@commands.command(short_help="accept a rewritten branch")
def accept_rewrite(
    config: ConfigFile = DEFAULT_CONFIG,
    reason: Reason = "",
    environment: OneEnvironment = None,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Accept that the branch does not descend from the last accepted commit, and reconcile now.

    Signatures are still verified.
    Exits 0 if in sync or applied, 1 on errors, 2 if something needs an operator, 3 if it was rolled back.
    """
    _change_environment(config, environment, (as_json, verbose), kind="accept-rewrite", reason=reason)


def _change_environment(config: str, environment: str | None, form: tuple[bool, bool], **request: Any) -> None:
    from reconciler.app.daemon.commands import change_environment
    from reconciler.cli import plan_reports, render

    as_json, verbose = form
    with render.progress() as progress:
        outcomes = change_environment(config, environment, request, progress)
    render.answer(outcomes, plan_reports.outcome_report, as_json=as_json, verbose=verbose, list_name="outcomes")
    raise Exit(worst(outcome_exit_code(outcome) for outcome in outcomes))


@commands.command(short_help="forget a target that left git")
def forget(
    target: Annotated[str, argument(help="ENVIRONMENT/SOURCE, as `reconciler status` lists it.")],
    delete: Annotated[
        bool, option("--delete", help="Delete its live file too, after a backup. Default: the file stays.")
    ] = False,
    reason: Reason = "",
    config: ConfigFile = DEFAULT_CONFIG,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Forget a target that was removed from git, and reconcile now. Its live file stays, or is deleted after a backup.

    Exits 0 if in sync or applied, 1 if it is refused and on errors, 2 if something needs an operator, 3 if a change was
    rolled back.
    """
    environment, _, source = target.partition("/")
    if not source:
        raise RefusedError(f"{target} names no target", hint="A target is ENVIRONMENT/SOURCE: `reconciler status`")
    request = {"kind": "forget", "scope": target, "delete": delete, "reason": reason}
    _change_environment(config, environment, (as_json, verbose), **request)


@commands.command(short_help="propose a hand edit for git, encrypted, on a branch")
def adopt(
    target: Annotated[
        str,
        argument(help="ENVIRONMENT/SOURCE, as `reconciler status` lists it.", complete=completion.targets),
    ],
    key: Annotated[
        list[str] | None,
        option("--key", "-k", metavar="NAME", help="Only this variable (may be repeated). Default: the file."),
    ] = None,
    reason: Reason = "",
    config: ConfigFile = DEFAULT_CONFIG,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Turn a live file, or some of its variables, into an encrypted commit on the branch reconciler/adopt-….

    The commit is based on the accepted head, changes only the ciphertexts of what differs, and is pushed once it
    decrypts to the intended content. Nothing changes on this server: open a pull request, and set on_drift: report
    meanwhile, or the hand edit is reverted. Exits 0 if it is pushed, 1 if it is refused and on errors.
    """
    from reconciler.app.daemon.commands import adopt_target
    from reconciler.cli import record_reports, render

    with render.progress() as progress:
        adopted = adopt_target(config, target, key or [], progress, reason=reason)
    render.answer(adopted, record_reports.adopt_report, as_json=as_json, verbose=verbose)


@commands.command(short_help="how old the secrets are")
def age(
    config: ConfigFile = DEFAULT_CONFIG,
    environment: OneEnvironment = None,
    max_age: Annotated[
        str | None, option("--max-age", metavar="90d", help="Older secrets are too old: 12h, 90d.")
    ] = None,
    known_to: Annotated[
        str | None,
        option("--known-to", metavar="NAME", help="In this clone: what a recipient, or a former one, knows."),
    ] = None,
    path: EnvironmentsPath = "envs",
    as_json: Json = False,
) -> None:
    """Show since when each secret has had its value, by git's history; needs no key and reads no value.

    With --known-to, in a clone: the secrets that somebody could once read and that were not replaced since. Exits 0, 2
    if --max-age finds older ones (it names them) or somebody still knows one, 1 on errors.
    """
    from reconciler.app.config.durations import parse_duration
    from reconciler.app.daemon.commands import read_secret_ages
    from reconciler.cli import record_reports, render

    if known_to is not None:
        _known_to(known_to, path, as_json=as_json)
    limit = None if max_age is None else parse_duration(max_age, where="--max-age")
    with render.progress() as progress:
        ages = read_secret_ages(config, environment, limit, progress)
    render.answer(ages, lambda ages, page: record_reports.age_report(ages, max_age or "", page), as_json=as_json)
    raise Exit(age_exit_code(ages))


def _known_to(name: str, path: str, *, as_json: bool) -> NoReturn:
    import asyncio

    from reconciler.app.recipients.known_secrets import known_secrets
    from reconciler.cli import recipient_reports, render

    known = asyncio.run(known_secrets(path, name))
    data = {"known": recipient_reports.known_data(known), "environments": []}
    render.answer(data, lambda data, page: recipient_reports.known_report(data["known"], page), as_json=as_json)
    raise Exit(PENDING if known.secrets else IN_SYNC)


@commands.command(short_help="check every component and say what to do")
def doctor(config: ConfigFile = DEFAULT_CONFIG, as_json: Json = False) -> None:
    """Check every component and permission, and say what to do. Exits 0 if all is well, 1 otherwise."""
    from reconciler.app.daemon.doctor import examine_server
    from reconciler.cli import record_reports, render

    findings = examine_server(config)
    report = record_reports.doctor_report
    render.answer([asdict(finding) for finding in findings], report, as_json=as_json, list_name="findings")
    raise Exit(ERROR if any(finding.bad for finding in findings) else IN_SYNC)
