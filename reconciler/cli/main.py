"""The command line. Commands are thin: they read the configuration, call the app, and hand the answer to a renderer.

Heavy modules are imported inside the commands, and the commands when they are asked for: `status` costs no more than
it needs.
"""

from __future__ import annotations

import sys

import click

from reconciler.cli import exit_codes, global_options
from reconciler.cli.declarations import CommandsOfModules
from reconciler.cli.exit_codes import ERROR, INTERRUPTED
from reconciler.core.errors import ReconcilerError, with_id

MODULES = {
    "daemon_commands": ("run", "reload", "notify", "version"),
    "operator_commands": (
        *("sync", "plan", "status", "backups", "restore", "rollback", "unpin", "pause", "resume", "retry"),
        *("accept-rewrite", "forget", "adopt", "age", "doctor"),
    ),
    "history_commands": ("report", "history"),
    "server_review": ("review",),
    "review_commands": ("check", "diff", "compare"),
    "edit_commands": ("set", "edit"),
    "merge_commands": ("merge-driver", "merge"),
    "recipient_commands": ("recipients",),
    "promotion_commands": ("promote",),
    "setup_commands": ("init", "import", "schema", "completion", "deploy-files", "demo"),
}
"""The module of each command, in the order of --help."""

app = global_options.CommandGroup(
    "reconciler",
    commands=CommandsOfModules(MODULES),  # type: ignore[arg-type]  # a group that nothing is added to
    params=global_options.options(),
    help=global_options.ABOUT,
    epilog=exit_codes.described(),
    no_args_is_help=True,
)


def main() -> None:
    """The console script: one place turns errors into exit codes."""
    try:
        sys.exit(app(standalone_mode=False))
    except click.ClickException as error:  # arguments that cannot be read; click's code for them means something else
        error.show()
        sys.exit(ERROR)
    except ReconcilerError as error:
        from reconciler.cli.layout import foreign, page_on

        lines = page_on(sys.stderr).text(f"reconciler: {foreign(with_id(str(error), error.id))}", 0, 2)
        click.echo("\n".join(lines), err=True)
        sys.exit(ERROR)
    except BrokenPipeError:
        sys.exit(ERROR)
    except (KeyboardInterrupt, click.Abort):
        sys.exit(INTERRUPTED)
