"""The options that may also stand before the command: `reconciler --config F sync` is `reconciler sync --config F`."""

from __future__ import annotations

from typing import Annotated

import typer
from typer.core import TyperGroup

# As in options.py, where each is defined for the commands that take it.
_FLAGS = ("--json", "--verbose", "-v")
_CONFIG = "--config"


class CommandGroup(TyperGroup):
    """The commands; what stands before the name of one is read as if it stood behind it.

    So it means the same, takes precedence over the environment in the same way, and is refused by a command that does
    not take it.
    """

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        moved = _leading(args)
        command = args[len(moved) :][:1]
        if moved and command and not command[0].startswith("-"):
            args = [*command, *moved, *args[len(moved) + 1 :]]
        return super().parse_args(ctx, args)


def _leading(arguments: list[str]) -> list[str]:
    """The global options at the beginning, with their values."""
    end = 0
    while end < len(arguments):
        if arguments[end] in _FLAGS or arguments[end].startswith(f"{_CONFIG}="):
            end += 1
        elif arguments[end] == _CONFIG:
            end += 2
        else:
            break
    return arguments[:end]


def _print_version(wanted: bool) -> None:
    if wanted:
        from reconciler.cli.daemon_commands import version

        version()
        raise typer.Exit


def options(
    config: Annotated[str | None, typer.Option(_CONFIG, metavar="FILE", help="The server configuration.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="List every key, however many there are.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Keeps the env files of Docker Compose servers equal to SOPS-encrypted files in git.

    Every command prints its own help: `reconciler COMMAND --help`. The first three options may stand before the command
    or behind it, with the commands that take them.
    """
