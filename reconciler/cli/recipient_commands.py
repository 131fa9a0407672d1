"""The command that lets people in and out: recipients."""

from __future__ import annotations

from typing import Annotated

from click.exceptions import Exit

from reconciler.app.recipients.actions import RecipientAction
from reconciler.cli.declarations import Commands, argument, option
from reconciler.cli.edit_commands import DecryptionKey
from reconciler.cli.exit_codes import IN_SYNC
from reconciler.cli.options import Environment, EnvironmentsPath, Json, Verbose

commands = Commands()


@commands.command(short_help="who can read which files; let somebody in or out, as one commit")
def recipients(
    action: Annotated[RecipientAction, argument(help="What to do.")] = RecipientAction.LIST,
    name: Annotated[
        str, argument(metavar="[NAME]", help="Who, as .sops.yaml calls them; to remove, the public key too.")
    ] = "",
    key: Annotated[str, argument(metavar="[KEY]", help="The public key to add: age1…, or an SSH key.")] = "",
    environment: Environment = None,
    branch: Annotated[
        str | None, option("--branch", help="The branch to commit to. Default: recipients/ACTION-NAME.")
    ] = None,
    path: EnvironmentsPath = "envs",
    age_key_file: DecryptionKey = None,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """List who can read the encrypted files of this clone; or add somebody to the rules of .sops.yaml, or remove them.

    Every file below those rules is encrypted for its new recipients, and gets a new data key when somebody is removed:
    one commit on a new branch, which starts from HEAD. Then prints which secrets the leaver knows; `reconciler age
    --known-to NAME` shows which of them have not been replaced yet. An interrupted run continues. Exits 0, or 1 on
    errors.
    """
    import asyncio

    from reconciler.app.recipients import change
    from reconciler.cli import recipient_reports, render

    if action is RecipientAction.LIST:
        members = asyncio.run(change.list_recipients(path))
        data = recipient_reports.recipients_data(members)
        render.answer(data, recipient_reports.recipients_report, as_json=as_json, verbose=verbose)
        raise Exit(IN_SYNC)
    request = change.RecipientRequest(action, name, key, tuple(environment or ()), branch, path, age_key_file)
    with render.counted("encrypting") as progress:
        changed = asyncio.run(change.change_recipients(request, progress))
    data = recipient_reports.change_data(changed)
    render.answer(data, recipient_reports.change_report, as_json=as_json, verbose=verbose)
