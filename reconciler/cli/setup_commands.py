"""The commands that set a repository or a server up: init, import, schema, deploy-files and demo."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import click
from click.exceptions import Exit

from reconciler.cli.declarations import Commands, argument, option
from reconciler.cli.exit_codes import ERROR, IN_SYNC
from reconciler.cli.options import EnvironmentsPath, Json, KnownHosts, SshKey
from reconciler.core.errors import RefusedError

commands = Commands()

ImportSides = Annotated[
    list[str],
    argument(
        metavar="SIDE…",
        help="ssh://user@host[:port]/path, or without a path for all of its Compose projects; file:PATH and here: "
        "for this machine.",
    ),
]
PlainGlobs = Annotated[
    list[str] | None,
    option("--plain", metavar="GLOB", help="Leave matching mounted files unencrypted in git (repeatable)."),
]
VerificationKey = Annotated[
    str | None,
    option(
        "--age-key-file",
        envvar="SOPS_AGE_KEY_FILE",
        help="A private key to verify the result with. Default: ~/.config/sops/age/keys.txt.",
    ),
]


@commands.command(short_help="set up a configuration repository")
def init(
    environment: Annotated[str, argument(help="The first environment.")] = "production",
    path: EnvironmentsPath = "envs",
    age_key_file: Annotated[
        str | None,
        option(
            "--age-key-file",
            envvar="SOPS_AGE_KEY_FILE",
            help="The private key file, created if missing. Default: that of sops, ~/.config/sops/age/keys.txt.",
        ),
    ] = None,
    recipient: Annotated[
        list[str] | None,
        option(
            "--recipient", metavar="age1…", help="Encrypt for this public key instead of creating one (repeatable)."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Create what this git repository lacks: an age key, .sops.yaml, envs/ and a first server configuration.

    Existing files do not change, and nothing is committed. Exits 0, or 1 on errors.
    """
    from reconciler.app.onboarding.init import initialize_repository
    from reconciler.cli import setup_reports

    result = initialize_repository(environment, path, None if recipient else age_key_file, recipient or [])
    setup_reports.print_init_result(result, as_json=as_json)


@commands.command("import", short_help="import the files of servers into git, encrypted, on a branch")
def import_(
    environment: Annotated[str, argument(help="The name of the environment.")],
    side: ImportSides,
    yes: Annotated[bool, option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    dry_run: Annotated[bool, option("--dry-run", help="Show the files, and write nothing.")] = False,
    update: Annotated[
        bool, option("--update", help="Bring what the servers changed into an existing environment.")
    ] = False,
    exclude: Annotated[
        list[str] | None, option("--exclude", metavar="GLOB", help="Leave out matching live paths (repeatable).")
    ] = None,
    plain: PlainGlobs = None,
    exact: Annotated[
        bool, option("--exact", help="Keep every byte: what sops' dotenv cannot hold is encrypted as a whole.")
    ] = False,
    recipient: Annotated[
        list[str] | None,
        option("--recipient", metavar="age1…", help="Encrypt for this key, if .sops.yaml has no rule yet."),
    ] = None,
    age_key_file: VerificationKey = None,
    ssh_key: SshKey = None,
    known_hosts: KnownHosts = None,
    path: EnvironmentsPath = "envs",
    as_json: Json = False,
) -> None:
    """Import the files of Compose projects into this repository, on the branch reconciler/import-ENVIRONMENT.

    Shows the env files and mounted files and asks; encrypts; commits without touching the working directory; pushes
    nothing. Then verifies that a server that follows the commit would change no variable and no other file, else
    removes the branch.
    Exits 0, or 1 if the verification fails or nobody agrees, and on errors.
    """
    from reconciler.app.onboarding.import_repository import ImportRequest
    from reconciler.app.onboarding.import_run import import_environment
    from reconciler.cli import render, setup_reports

    if not (yes or dry_run) and (as_json or not render.can_ask()):
        hint = "Give --yes, or --dry-run to look first"
        raise RefusedError("there is no terminal to ask for confirmation", hint=hint)
    request = ImportRequest(
        environment,
        tuple(side),
        path,
        age_key_file,
        tuple(recipient or ()),
        tuple(exclude or ()),
        tuple(plain or ()),
        update,
        ssh_key,
        known_hosts,
        exact,
    )
    with render.phases() as (progress, pause):
        result = import_environment(
            request, lambda draft: setup_reports.confirm_import(draft, pause, yes, dry_run, as_json), progress
        )
    setup_reports.print_import_result(result, as_json=as_json)
    raise Exit(IN_SYNC if result.commit or dry_run or not result.draft.changes else ERROR)


def _schema_names(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    from reconciler.cli.schemas import NAMES

    return [name for name in NAMES if name.startswith(incomplete)]


@commands.command(short_help="print the JSON Schema of a file or of an answer")
def schema(
    name: Annotated[
        str,
        argument(
            metavar="NAME",
            help="A file: server, manifest, check.yaml, contract or expected; a command, for its --json; or openapi.",
            complete=_schema_names,
        ),
    ],
) -> None:
    """Print the JSON Schema (2020-12) of a configuration file, for editors, or of what a command prints with --json;
    for openapi, the description of the daemon's API (OpenAPI 3.1).

    Exits 0, or 1 for an unknown name.
    """
    from reconciler.cli.render import write_json
    from reconciler.cli.schemas import schema_of

    write_json(schema_of(name))


class Shell(StrEnum):
    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


@commands.command("completion", short_help="print the completion script of a shell")
def completion_(shell: Annotated[Shell, argument(help="The shell.")]) -> None:
    """Print what makes a shell complete commands, options, environments, targets and backups.

    bash: `eval "$(reconciler completion bash)"` in ~/.bashrc; zsh: the same with zsh, below compinit, in ~/.zshrc;
    fish: `reconciler completion fish > ~/.config/fish/completions/reconciler.fish`. Exits 0.
    """
    from click.shell_completion import get_completion_class

    script = get_completion_class(shell.value)
    assert script is not None
    program = click.get_current_context().find_root().command
    click.echo(script(program, {}, "reconciler", "_RECONCILER_COMPLETE").source())


@commands.command("deploy-files", short_help="write the unit, the alerts, the dashboard and the compose file")
def deploy_files(
    directory: Annotated[str, argument(metavar="DIR", help="Where to write them; created if missing.")],
) -> None:
    """Write the systemd unit, the alerts, the dashboard, the CI jobs, the Dockerfile and the compose file below DIR.

    An existing file never changes; if one differs, nothing is written. Exits 0, or 1 on errors.
    """
    from reconciler.app.onboarding.deploy_files import write_deploy_files
    from reconciler.cli import setup_reports

    setup_reports.print_deploy_files(write_deploy_files(directory))


@commands.command(short_help="show everything in a scratch directory, in about a minute")
def demo(
    keep: Annotated[bool, option("--keep", help="Keep the directory afterwards.")] = False,
    files_only: Annotated[bool, option("--files-only", help="Skip the services.")] = False,
) -> None:
    """Show the whole story in a scratch directory, in about a minute. Exits 0, or 1 if a component fails."""
    from reconciler.demo import story

    story.run_demo(keep=keep, files_only=files_only)
