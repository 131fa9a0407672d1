"""The options that may also stand before the command: `reconciler --config F sync` is `reconciler sync --config F`."""

from __future__ import annotations

import click

from reconciler.cli.declarations import Declared
from reconciler.cli.exit_codes import IN_SYNC

# As in options.py, where each is defined for the commands that take it.
_FLAGS = ("--json", "--verbose", "-v")
_CONFIG = "--config"

ABOUT = """Keeps the env files of Docker Compose servers equal to SOPS-encrypted files in git.

Every command prints its own help: `reconciler COMMAND --help`. The first three options may stand before the command
or behind it, with the commands that take them.
"""


class CommandGroup(Declared, click.Group):
    """The commands; what stands before the name of one is read as if it stood behind it.

    So it means the same, takes precedence over the environment in the same way, and is refused by a command that does
    not take it.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        moved = _leading(args)
        command = args[len(moved) :][:1]
        if moved and command and not command[0].startswith("-"):
            args = [*command, *moved, *args[len(moved) + 1 :]]
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)  # by topic, where click sorts them by name


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


def _print_version(context: click.Context, _: click.Parameter, asked_for: bool) -> None:
    if asked_for:
        from reconciler.cli.daemon_commands import version

        version()
        context.exit(IN_SYNC)


def options() -> list[click.Parameter]:
    """What --help lists; those before a command never get here."""
    return [
        click.Option([_CONFIG], metavar="FILE", help="The server configuration."),
        click.Option(["--json"], is_flag=True, help="Print JSON instead of text."),
        click.Option(["--verbose", "-v"], is_flag=True, help="List every key, however many there are."),
        click.Option(["--version"], is_flag=True, is_eager=True, callback=_print_version, help="Print the version."),
    ]
