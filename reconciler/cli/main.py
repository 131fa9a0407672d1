"""The command line. Commands are thin: they read the configuration, ask the app, and hand the answer to render.py.

Heavy modules are imported inside the commands, so that --help answers at once.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from reconciler.cli import review_commands, setup_commands
from reconciler.cli.exit_codes import ERROR, IN_SYNC, PENDING, ROLLED_BACK
from reconciler.cli.options import DEFAULT_CONFIG, ConfigFile, Environment, Json, OneEnvironment
from reconciler.core.errors import ReconcilerError, RefusedError
from reconciler.core.model.requests import OperatorRequest, RequestKind
from reconciler.core.text import printable

if TYPE_CHECKING:
    from reconciler.app.config.server import ServerConfig

app = typer.Typer(
    name="reconciler",
    help="Keeps the env files of Docker Compose servers equal to SOPS-encrypted files in git.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

# What typer raises for arguments it cannot read; by itself it would exit with 2, which here means something else.
_UsageError = cast("type[typer.BadParameter]", typer.BadParameter.__bases__[0])


def main() -> None:
    """The console script: one place turns errors into exit codes."""
    try:
        sys.exit(app(standalone_mode=False))
    except _UsageError as error:
        error.show()
        sys.exit(ERROR)
    except ReconcilerError as error:
        lines = [printable(line) for line in str(error).split("\n")]  # names in it are somebody else's text
        typer.echo("\n".join([f"reconciler: {lines[0]}", *lines[1:]]), err=True)
        sys.exit(ERROR)
    except BrokenPipeError:
        sys.exit(ERROR)
    except KeyboardInterrupt:
        sys.exit(130)


def _load(path: str) -> ServerConfig:
    from reconciler.app.config.server import load_server_config

    return load_server_config(path)


@app.command(short_help="the daemon")
def run(config: ConfigFile = DEFAULT_CONFIG) -> None:
    """Run the daemon until SIGTERM or SIGINT; a running pass is let to its end. Exits 0, or 1 where it cannot start."""
    from reconciler.app.daemon import commands

    commands.run_daemon(_load(config))


@app.command(short_help="one pass now")
def sync(
    config: ConfigFile = DEFAULT_CONFIG,
    environment: Environment = None,
    take_over: Annotated[
        list[str] | None,
        typer.Option(
            "--take-over", help="ENVIRONMENT/SOURCE whose unknown live file may be replaced (backed up first)."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make one pass now, in the daemon if it runs, else here.

    Exits 0 in sync or applied, 1 on errors, 2 if something waits for a person, 3 rolled back.
    """
    from reconciler.app.daemon import commands
    from reconciler.cli import render

    settings = _load(config)
    with render.progress() as tell:
        outcomes = commands.make_pass(settings, "manual", environment or [], take_over or [], dry_run=False, tell=tell)
    render.outcomes(outcomes, as_json=as_json)
    raise typer.Exit(_worst(_pass_code(outcome) for outcome in outcomes))


@app.command(short_help="what a pass would do; writes nothing")
def plan(
    config: ConfigFile = DEFAULT_CONFIG,
    environment: Environment = None,
    revision: Annotated[str, typer.Option("--revision", help="Another commit of the branch than the wanted one.")] = "",
    as_json: Json = False,
) -> None:
    """Show what a pass would do, by key name, and which services it would touch and why; writes nothing.

    Exits 0 when in sync, 2 when something would change or waits for a person, 1 on errors.
    """
    from reconciler.app.daemon import commands
    from reconciler.cli import render

    settings = _load(config)
    with render.progress() as tell:
        order = OperatorRequest(RequestKind.PLAN, revision) if revision else None
        outcomes = commands.make_pass(settings, "plan", environment or [], [], dry_run=True, tell=tell, order=order)
    render.plans(outcomes, as_json=as_json)
    raise typer.Exit(_worst(_plan_code(outcome) for outcome in outcomes))


@app.command(short_help="per target and stack: in sync or not, since when, why")
def status(config: ConfigFile = DEFAULT_CONFIG, as_json: Json = False) -> None:
    """Show each target and stack: in sync or not, the revision, since when and why.

    Asks the daemon how its last pass ended; without one, looks at the live files itself.
    Exits 0 in sync, 1 on errors, 2 if something would change or waits for a person, 3 if it was rolled back.
    """
    from reconciler.app.daemon import commands
    from reconciler.cli import render

    settings = _load(config)
    with render.progress() as tell:
        found = commands.status(settings, tell=tell)
    render.status(found, as_json=as_json)
    raise typer.Exit(_worst(_status_code(one) for one in found["environments"]))


@app.command(short_help="past runs: when, what, by whom, with which result")
def history(
    config: ConfigFile = DEFAULT_CONFIG,
    environment: OneEnvironment = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many runs, newest first.")] = 20,
    as_json: Json = False,
) -> None:
    """List past runs: when, trigger, revision, author, keys, services, result and reason. Exits 0, or 1 on errors."""
    from reconciler.app.daemon import commands
    from reconciler.cli import render

    render.history(commands.history(_load(config), environment, limit), as_json=as_json)


@app.command(short_help="list the backups, or check them")
def backups(
    config: ConfigFile = DEFAULT_CONFIG,
    environment: OneEnvironment = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read every file and compare it with the digest taken then.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List the backups, newest first. Exits 0, or 1 on errors and where --verify finds a damaged one."""
    from reconciler.app.daemon import commands
    from reconciler.cli import render

    listed = commands.verified_backups if verify else commands.backups
    found = listed(_load(config), environment)
    render.backups(found, as_json=as_json)
    raise typer.Exit(ERROR if any(one.get("problems") for one in found) else IN_SYNC)


@app.command(short_help="put the files of a backup back")
def restore(
    backup: Annotated[str, typer.Argument(help="The backup's id, as `reconciler backups` lists it.")],
    config: ConfigFile = DEFAULT_CONFIG,
    target: Annotated[
        list[str] | None, typer.Option("--target", "-t", help="Only this source or live path (may be repeated).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Put the files of a backup back; what they replace is backed up first.

    Stop the daemon first: it holds the state directory. Services are not touched, and while git wants something else
    the next pass writes that again. Exits 0, or 1 on errors.
    """
    from reconciler.app.daemon import commands
    from reconciler.cli import render

    render.restored(commands.restore(_load(config), backup, target or []), as_json=as_json)


@app.command(short_help="pin an environment to an earlier revision")
def rollback(
    config: ConfigFile = DEFAULT_CONFIG,
    to: Annotated[
        str,
        typer.Option("--to", help="The commit, by its id. Default: the last that went well before the applied one."),
    ] = "",
    reason: Annotated[str, typer.Option("--reason", help="Why, for whoever looks at status.")] = "",
    environment: OneEnvironment = None,
    as_json: Json = False,
) -> None:
    """Pin an environment to an earlier revision and go there now; it stays there until `reconciler unpin`.

    Exits 0 in sync or applied, 1 on errors, 2 if something waits for a person, 3 if that was rolled back.
    """
    _order(config, environment, RequestKind.ROLLBACK, to, reason, as_json=as_json)


@app.command(short_help="follow the branch again")
def unpin(config: ConfigFile = DEFAULT_CONFIG, environment: OneEnvironment = None, as_json: Json = False) -> None:
    """End a pin, and go to the branch's head now.

    Exits 0 in sync or applied, 1 on errors, 2 if something waits for a person, 3 if it was rolled back.
    """
    _order(config, environment, RequestKind.UNPIN, as_json=as_json)


@app.command(short_help="measure drift, write nothing, for a while")
def pause(
    scope: Annotated[
        str, typer.Argument(metavar="TARGET|STACK", help="As `reconciler status` lists it, ENVIRONMENT/NAME.")
    ] = "",
    everything: Annotated[bool, typer.Option("--all", help="The whole environment.")] = False,
    how_long: Annotated[str, typer.Option("--for", metavar="DURATION", help="Such as 30m or 2h.")] = "1h",
    reason: Annotated[str, typer.Option("--reason", help="Why, for whoever looks at status.")] = "",
    config: ConfigFile = DEFAULT_CONFIG,
    environment: OneEnvironment = None,
    as_json: Json = False,
) -> None:
    """Measure drift and write nothing to a target, a stack or a whole environment; ends by itself.

    Exits 0 when nothing waits meanwhile, 2 if something does, 1 on errors, 3 if a pass was rolled back.
    """
    from reconciler.app.daemon import commands

    seconds = commands.seconds(how_long, where="--for")
    _order_about(config, scope, everything, environment, as_json, RequestKind.PAUSE, reason, seconds)


@app.command(short_help="end a pause")
def resume(
    scope: Annotated[
        str, typer.Argument(metavar="TARGET|STACK", help="As it was paused; --all ends every pause.")
    ] = "",
    everything: Annotated[bool, typer.Option("--all", help="Every pause of the environment.")] = False,
    config: ConfigFile = DEFAULT_CONFIG,
    environment: OneEnvironment = None,
    as_json: Json = False,
) -> None:
    """End a pause before its time, and make a pass now.

    Exits 0 in sync or applied, 1 on errors, 2 if something waits for a person, 3 if it was rolled back.
    """
    _order_about(config, scope, everything, environment, as_json, RequestKind.RESUME)


def _order_about(
    config: str,
    scope: str,
    everything: bool,
    environment: str | None,
    as_json: bool,
    kind: RequestKind,
    reason: str = "",
    seconds: float = 0.0,
) -> None:
    """An order about a target or stack, whose name tells the environment, or about a whole environment."""
    if bool(scope) == everything:
        raise RefusedError("name one target or stack, or give --all", hint="`reconciler status` lists them")
    wish = OperatorRequest(kind, scope=scope, reason=reason, seconds=seconds)
    _carry_out(config, scope.partition("/")[0] if scope else environment, wish, as_json=as_json)


@app.command(short_help="try again what was quarantined or stopped")
def retry(config: ConfigFile = DEFAULT_CONFIG, environment: OneEnvironment = None, as_json: Json = False) -> None:
    """Go on with a rollback that failed, or lift a quarantine where there is none, and make a pass now.

    Exits 0 in sync or applied, 1 on errors, 2 if something waits for a person, 3 if it was rolled back again.
    """
    _order(config, environment, RequestKind.RETRY, as_json=as_json)


@app.command(short_help="take a rewritten branch as it is now")
def accept_rewrite(
    config: ConfigFile = DEFAULT_CONFIG, environment: OneEnvironment = None, as_json: Json = False
) -> None:
    """Accept that the branch does not descend from the last accepted commit, and make a pass now.

    Signatures are checked all the same.
    Exits 0 in sync or applied, 1 on errors, 2 if something waits for a person, 3 if it was rolled back.
    """
    _order(config, environment, RequestKind.ACCEPT_REWRITE, as_json=as_json)


def _order(
    config: str, environment: str | None, kind: RequestKind, revision: str = "", reason: str = "", *, as_json: bool
) -> None:
    _carry_out(config, environment, OperatorRequest(kind, revision, reason), as_json=as_json)


def _carry_out(config: str, environment: str | None, wish: OperatorRequest, *, as_json: bool) -> None:
    from reconciler.app.daemon import commands
    from reconciler.cli import render

    settings = _load(config)
    with render.progress() as tell:
        outcomes = commands.order(settings, environment, wish, tell=tell)
    render.outcomes(outcomes, as_json=as_json)
    raise typer.Exit(_worst(_pass_code(outcome) for outcome in outcomes))


@app.command(short_help="propose a hand edit for git, encrypted, on a branch")
def adopt(
    target: Annotated[str, typer.Argument(help="ENVIRONMENT/SOURCE, as `reconciler status` lists it.")],
    key: Annotated[
        list[str] | None,
        typer.Option("--key", "-k", metavar="NAME", help="Only this variable (may be repeated). Default: the file."),
    ] = None,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Turn a live file, or some variables of it, into an encrypted commit on the branch reconciler/adopt-….

    It is based on the accepted head, touches only the ciphertexts of what differs, and is pushed when it decrypts to
    what was meant. Nothing changes on this server: open a pull request, and keep the hand edit from being undone
    meanwhile (on_drift: report). Exits 0 when it is pushed, 1 when it is refused and on errors.
    """
    from reconciler.app.daemon import commands
    from reconciler.cli import render

    settings = _load(config)
    with render.progress() as tell:
        done = commands.adopt(settings, target, key or [], tell=tell)
    render.adopted(done, as_json=as_json)


@app.command(short_help="how old the secrets are")
def age(
    config: ConfigFile = DEFAULT_CONFIG,
    environment: OneEnvironment = None,
    max_age: Annotated[
        str | None, typer.Option("--max-age", metavar="90d", help="What is older is too old: 12h, 90d.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show since when each secret has had its value, by git's history; no key is needed, and no value is read.

    Exits 0, 2 where --max-age finds older ones (it names them), 1 on errors.
    """
    from reconciler.app.daemon import commands
    from reconciler.cli import render

    settings = _load(config)
    limit = None if max_age is None else commands.seconds(max_age, where="--max-age")
    with render.progress() as tell:
        found = commands.age(settings, environment, limit, tell=tell)
    render.ages(found, max_age or "", as_json=as_json)
    raise typer.Exit(PENDING if too_old(found) else IN_SYNC)


def too_old(found: dict[str, Any]) -> bool:
    """Whether any secret of what `age` found is older than it may be."""
    targets = (target for environment in found["environments"] for target in environment["targets"])
    return any(key["too_old"] for target in targets for key in target["keys"])


@app.command(short_help="check every component and say what to do")
def doctor(config: ConfigFile = DEFAULT_CONFIG, as_json: Json = False) -> None:
    """Check every real component and permission and say what to do. Exits 0 when all is well, 1 otherwise."""
    from reconciler.app.daemon import doctor as examination
    from reconciler.cli import render

    findings = examination.examine(config)
    render.findings(findings, as_json=as_json)
    raise typer.Exit(ERROR if any(finding.bad for finding in findings) else IN_SYNC)


@app.command(short_help="print the version")
def version() -> None:
    """Print the version. Exits 0."""
    from importlib.metadata import version as installed

    typer.echo(installed("reconciler"))


app.add_typer(review_commands.commands)
app.add_typer(setup_commands.commands)


def exit_code(result: str) -> int:
    """Given a result's name, return the exit code of a command that ended with it."""
    return {
        "applied": IN_SYNC,
        "in_sync": IN_SYNC,
        "corrected": IN_SYNC,
        "held": PENDING,
        "rolled_back": ROLLED_BACK,
    }.get(result, ERROR)


def _pass_code(outcome: dict[str, object]) -> int:
    """As the result says; but being in sync with an older revision than the branch's head is not being in sync.

    Where git is silent, that is an error; where a person must act (quarantine, rewritten history), it waits for one.
    """
    code = exit_code(str(outcome["result"]))
    if code == IN_SYNC and outcome["warning"]:
        return ERROR if outcome["retry"] else PENDING
    return code


def _plan_code(outcome: dict[str, object]) -> int:
    code = _pass_code(outcome)
    return PENDING if code == IN_SYNC and outcome["pending"] else code


def _status_code(environment: dict[str, object]) -> int:
    result = environment["result"]
    return PENDING if result is None else _plan_code(environment)


def _worst(codes: object) -> int:
    """An error outweighs a rollback, which outweighs what waits."""
    order = (IN_SYNC, PENDING, ROLLED_BACK, ERROR)
    return max(codes, key=order.index, default=IN_SYNC)  # type: ignore[call-overload, no-any-return]
