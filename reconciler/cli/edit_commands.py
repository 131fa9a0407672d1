"""The commands that change an encrypted source in a clone: set and edit."""

from __future__ import annotations

import string
import sys
from typing import Annotated

import click
from click.exceptions import Exit

from reconciler.cli import completion
from reconciler.cli.declarations import Commands, argument, option
from reconciler.cli.exit_codes import ERROR, IN_SYNC
from reconciler.cli.options import EnvironmentsPath, Json, Verbose
from reconciler.core.errors import RefusedError
from reconciler.core.secret import Secret
from reconciler.core.text import printable

commands = Commands()

_LARGEST = 1024 * 1024  # bytes of a value; Linux passes at most 128 KiB to a process
EditedTarget = Annotated[
    str,
    argument(
        metavar="TARGET",
        help="production/api.env, its live path, the path of its source, or api.env where there is one only.",
        complete=completion.targets,
    ),
]
DecryptionKey = Annotated[
    str | None,
    option(
        "--age-key-file",
        envvar="SOPS_AGE_KEY_FILE",
        help="The private key file. Default: that of sops, ~/.config/sops/age/keys.txt.",
    ),
]


@commands.command("set", short_help="set one key of an encrypted file in this clone, then check")
def set_(
    target: EditedTarget,
    key: Annotated[str, argument(metavar="KEY", help="The variable.")],
    value: Annotated[str | None, argument(help=None)] = None,
    from_file: Annotated[
        str | None, option("--from-file", metavar="FILE", help="Read the value from this file; - is stdin.")
    ] = None,
    generate: Annotated[
        int | None,
        option("--generate", metavar="N", limits=(8, 1024), help="Use N random letters and digits."),
    ] = None,
    unset: Annotated[bool, option("--unset", help="Remove the key.")] = False,
    path: EnvironmentsPath = "envs",
    age_key_file: DecryptionKey = None,
    as_json: Json = False,
) -> None:
    """Set one key in the encrypted source of a target. The value is asked for, or read from standard input or a file.

    Writes the value so that a container gets exactly it; one line feed at its end does not count. Nothing else in the
    file changes. Then checks the environment. Commits nothing. Exits 0, or 1 on errors, also those of the check.
    """
    from reconciler.app.editing.command import EditRequest, set_key
    from reconciler.cli import edit_reports

    if value is not None or "=" in key:
        hint = (
            "Leave it out and type it when asked, or pipe it in. If it is a secret, replace it: `ps` and the shell's "
        )
        raise RefusedError("a value is never an argument", where=target, hint=f"{hint}history have it")
    if sum((from_file is not None, generate is not None, unset)) > 1:
        raise RefusedError("give only one of --from-file, --generate and --unset", where=target)

    def ask() -> Secret:
        if generate is not None:
            return generated_value(generate)
        return _read_value(key, from_file)

    result = set_key(EditRequest(target, path, age_key_file), key, None if unset else ask)
    edit_reports.print_edit(result, as_json=as_json)
    raise Exit(ERROR if result.report and result.report.errors else IN_SYNC)


@commands.command(short_help="open an encrypted file of this clone in your editor, then check")
def edit(
    target: EditedTarget,
    path: EnvironmentsPath = "envs",
    age_key_file: DecryptionKey = None,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Open the encrypted source of a target in $VISUAL or $EDITOR, and encrypt what it becomes for the same keys.

    The plaintext is in memory only, in a file that only you can read, until the editor ends; lines that stay the same
    keep their ciphertext. Then checks the environment. Commits nothing. Exits 0, or 1 on errors, also those of the
    check.
    """
    from reconciler.app.editing.command import EditRequest, edit_source
    from reconciler.cli import edit_reports, render

    def ask_again(reason: str) -> bool:
        if not render.can_ask():
            return False
        click.echo(f"{reason}. Nothing was written", err=True)
        return click.confirm("Back to the editor?", default=True, err=True)

    result = edit_source(EditRequest(target, path, age_key_file), ask_again)
    edit_reports.print_edit(result, as_json=as_json, verbose=verbose)
    raise Exit(ERROR if result.report and result.report.errors else IN_SYNC)


def _read_value(key: str, file: str | None) -> Secret:
    """The value from a file, standard input, or the user at the terminal; without one line feed at its end."""
    if file not in (None, "-"):
        try:
            with open(file, "rb") as opened:
                data = opened.read(_LARGEST + 1)
        except OSError as error:
            reason = (error.strerror or "unknown reason").lower()
            raise RefusedError(f"cannot be read ({reason})", where=f"--from-file {file}") from None
    elif sys.stdin.isatty():
        return ask_value(key)
    else:
        data = sys.stdin.buffer.read(_LARGEST + 1)
    if not data:
        raise _nothing_given(key)
    if len(data) > _LARGEST:
        raise RefusedError(f"the value has more than {_LARGEST} bytes", where=key, hint="Mount it as a file")
    return Secret(data.removesuffix(b"\n").removesuffix(b"\r") if data.endswith(b"\n") else data)


def ask_value(key: str) -> Secret:
    """What the user types at the terminal. Raises RefusedError for nothing."""
    from getpass import getpass

    data = getpass(f"Value of {printable(key)} (hidden): ").encode(errors="surrogateescape")
    if not data:
        raise _nothing_given(key)
    return Secret(data)


def _nothing_given(key: str) -> RefusedError:
    """An input that failed must not empty a secret."""
    hint = f"For an empty value: `echo | reconciler set TARGET {key}`. To remove the key: --unset"
    return RefusedError("no value was given", where=key, hint=hint)


def generated_value(length: int) -> Secret:
    """Random letters and digits."""
    import secrets

    alphabet = string.ascii_letters + string.digits
    return Secret("".join(secrets.choice(alphabet) for _ in range(length)).encode())
