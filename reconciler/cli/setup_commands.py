"""The commands that set a repository up: init, import, schema and demo."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from reconciler.cli.exit_codes import ERROR, IN_SYNC
from reconciler.cli.options import EnvironmentsPath, Json, KnownHosts, SshKey
from reconciler.core.errors import RefusedError

commands = typer.Typer()


@commands.command(short_help="what a configuration repository begins with")
def init(
    environment: Annotated[str, typer.Argument(help="The first environment.")] = "production",
    path: EnvironmentsPath = "envs",
    age_key_file: Annotated[
        str | None,
        typer.Option(
            "--age-key-file",
            envvar="SOPS_AGE_KEY_FILE",
            help="Where the private key is, or is made. Default: where sops looks for it, ~/.config/sops/age/keys.txt.",
        ),
    ] = None,
    recipient: Annotated[
        list[str] | None,
        typer.Option("--recipient", metavar="age1…", help="Encrypt for this public key, and make none (repeatable)."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make what is missing in this git repository: an age key, .sops.yaml, envs/ and a server's first file.

    What is there is left as it is, and told; nothing is committed. Exits 0, or 1 on errors.
    """
    from reconciler.app.onboarding import init as beginning
    from reconciler.cli import render

    made = beginning.begin(environment, path, None if recipient else age_key_file, recipient or [])
    render.begun(made, as_json=as_json)


@commands.command("import", short_help="take what servers have into git, encrypted, on a branch")
def import_(
    environment: Annotated[str, typer.Argument(help="What the environment is to be called.")],
    side: Annotated[
        list[str],
        typer.Argument(
            metavar="SIDE…",
            help="ssh://user@host[:port]/path, or without a path for all of its Compose projects; file:PATH and here: "
            "for this machine.",
        ),
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what was found, and write nothing.")] = False,
    update: Annotated[bool, typer.Option("--update", help="Write an environment anew that is there already.")] = False,
    exclude: Annotated[
        list[str] | None, typer.Option("--exclude", metavar="GLOB", help="Leave out such live paths (repeatable).")
    ] = None,
    plain: Annotated[
        list[str] | None,
        typer.Option("--plain", metavar="GLOB", help="Leave such mounted files unencrypted in git (repeatable)."),
    ] = None,
    recipient: Annotated[
        list[str] | None,
        typer.Option("--recipient", metavar="age1…", help="Encrypt for this key, where .sops.yaml has no rule yet."),
    ] = None,
    age_key_file: Annotated[
        str | None,
        typer.Option(
            "--age-key-file",
            envvar="SOPS_AGE_KEY_FILE",
            help="A private key to prove the result with. Default: ~/.config/sops/age/keys.txt.",
        ),
    ] = None,
    ssh_key: SshKey = None,
    known_hosts: KnownHosts = None,
    path: EnvironmentsPath = "envs",
    as_json: Json = False,
) -> None:
    """Take the env files and mounted files of Compose projects into this repository, on reconciler/import-ENVIRONMENT.

    Shows what it found and asks; encrypts; commits without touching the working directory, and pushes nothing. Then it
    proves that a server which follows the commit would change nothing, else there is no branch. Exits 0, or 1 where
    the proof fails, nobody agreed, and on errors.
    """
    from reconciler.app.onboarding import import_run
    from reconciler.cli import render

    if not (yes or dry_run) and (as_json or not render.can_ask()):
        hint = "Give --yes, or look first with --dry-run"
        raise RefusedError("there is no terminal to ask at whether this is right", hint=hint)
    request = import_run.ImportRequest(
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
    )
    with render.phases() as (progress, pause):
        done = import_run.import_environment(
            request, lambda draft: render.agrees(draft, pause, yes, dry_run, as_json), progress
        )
    render.imported(done, as_json=as_json)
    raise typer.Exit(IN_SYNC if done.commit or dry_run else ERROR)


class Which(StrEnum):
    """Which of the files."""

    SERVER = "server"
    MANIFEST = "manifest"
    EXPECTED = "expected"


@commands.command(short_help="the JSON Schema of one of the files")
def schema(which: Annotated[Which, typer.Argument(help="Which of the files.")]) -> None:
    """Print the JSON Schema (2020-12) of one of the files, for editors. Exits 0."""
    import json

    from reconciler.app.config.schema import json_schema

    typer.echo(json.dumps(json_schema(which.value), indent=2))


@commands.command(short_help="the whole story on a scratch directory, in about a minute")
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything in place to look at.")] = False,
    files_only: Annotated[bool, typer.Option("--files-only", help="Without services.")] = False,
) -> None:
    """Tell the whole story on a scratch directory in about a minute. Exits 0, or 1 where a component fails."""
    from reconciler.demo import story

    story.tell(keep=keep, files_only=files_only)
