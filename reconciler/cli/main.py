"""The command line. Commands are thin: they read the configuration, call the app, and hand the answer to a renderer.

Heavy modules are imported inside the commands, so that --help answers immediately.
"""

from __future__ import annotations

import os
import sys
from typing import cast

import typer

from reconciler.cli import (
    completion,
    daemon_commands,
    edit_commands,
    exit_codes,
    global_options,
    history_commands,
    merge_commands,
    operator_commands,
    promotion_commands,
    recipient_commands,
    review_commands,
    server_review,
    setup_commands,
)
from reconciler.cli.exit_codes import ERROR, INTERRUPTED
from reconciler.cli.layout import foreign, page_on
from reconciler.core.errors import ReconcilerError, with_id

app = typer.Typer(
    name="reconciler",
    cls=global_options.CommandGroup,
    epilog=exit_codes.described(),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.callback()(global_options.options)
app.add_typer(daemon_commands.commands)
app.add_typer(operator_commands.commands)
app.add_typer(history_commands.commands)
app.add_typer(server_review.commands)
app.add_typer(review_commands.commands)
app.add_typer(edit_commands.commands)
app.add_typer(merge_commands.commands)
app.add_typer(recipient_commands.commands)
app.add_typer(promotion_commands.commands)
app.add_typer(setup_commands.commands)

# What typer raises for arguments it cannot read; by itself it would exit with 2, which here means something else.
_UsageError = cast("type[typer.BadParameter]", typer.BadParameter.__bases__[0])


def main() -> None:
    """The console script: one place turns errors into exit codes."""
    if completion.VARIABLE in os.environ:  # a shell wants to know what comes next
        from typer.completion import completion_init  # type: ignore[attr-defined]

        completion_init()
    try:
        sys.exit(app(standalone_mode=False))
    except _UsageError as error:
        error.show()
        sys.exit(ERROR)
    except ReconcilerError as error:
        lines = page_on(sys.stderr).text(f"reconciler: {foreign(with_id(str(error), error.id))}", 0, 2)
        typer.echo("\n".join(lines), err=True)
        sys.exit(ERROR)
    except BrokenPipeError:
        sys.exit(ERROR)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
