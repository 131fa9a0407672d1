"""The command that takes keys from one environment to another: promote."""

from __future__ import annotations

import re
from typing import Annotated

from click.exceptions import Exit

from reconciler.cli import completion
from reconciler.cli.declarations import Commands, argument, option
from reconciler.cli.edit_commands import DecryptionKey, ask_value, generated_value
from reconciler.cli.exit_codes import IN_SYNC, PENDING
from reconciler.cli.options import EnvironmentsPath, Json
from reconciler.core.errors import RefusedError
from reconciler.core.text import printable

commands = Commands()

_LENGTHS = range(8, 1025)
Target = Annotated[str, option("--target", metavar="FILE", help="Only this file, where several have the key.")]
Generate = Annotated[
    list[str] | None,
    option(
        "--generate",
        metavar="[NAME=]N",
        help="Make secrets of N random letters and digits, or of as many as the contract asks; with NAME only its.",
    ),
]


@commands.command(short_help="take keys from one environment of this clone to another, as one commit")
def promote(
    left: Annotated[str, argument(metavar="LEFT", help="Where the keys are.", complete=completion.environments)],
    right: Annotated[str, argument(metavar="RIGHT", help="Where they go.", complete=completion.environments)],
    key: Annotated[list[str] | None, option("--key", metavar="NAME", help="This key (may be repeated).")] = None,
    all_missing: Annotated[bool, option("--all-missing", help="Every key that RIGHT lacks.")] = False,
    target: Target = "",
    generate: Generate = None,
    copy_secrets: Annotated[
        bool, option("--copy-secrets", help="Let both environments have the same secrets.")
    ] = False,
    branch: Annotated[str | None, option("--branch", help="The branch to commit to. Default: promote/RIGHT-…")] = None,
    dry_run: Annotated[bool, option("--dry-run", help="Show what would be done, by key.")] = False,
    path: EnvironmentsPath = "envs",
    age_key_file: DecryptionKey = None,
    as_json: Json = False,
) -> None:
    """Take keys from the files of one environment to the same files of another, encrypted for its recipients.

    A secret is not copied: it is asked for at the terminal, or generated. The contracts and all other rules of `check`
    are applied to the new values before anything is committed. Keys that are expected to differ, or left to the server,
    stay out. The result is one commit on a new branch, which starts from HEAD; nothing is checked out. Exits 0, 2 if a
    dry run has found keys to promote, or 1 on errors.
    """
    import asyncio

    from reconciler.app.promotion.promote import PromotionRequest, promote
    from reconciler.cli import promotion_reports, render

    if bool(key) == all_missing:
        raise RefusedError("name keys with --key, or say --all-missing", where=f"promote {printable(left)}")
    request = PromotionRequest(
        left,
        right,
        tuple(dict.fromkeys(key or ())),
        target=target,
        lengths=dict(_length(given) for given in generate or ()),
        copy_secrets=copy_secrets,
        branch=branch,
        dry_run=dry_run,
        path=path,
        key_file=age_key_file,
    )
    ask = ask_value if render.can_ask() else None
    promotion = asyncio.run(promote(request, ask, generated_value, lambda done, of: None))
    data = promotion_reports.promotion_data(promotion)
    render.answer(data, promotion_reports.promotion_report, as_json=as_json)
    raise Exit(PENDING if dry_run and promotion.plan.keys else IN_SYNC)


def _length(given: str) -> tuple[str, int]:
    """A key and the length of its value. Raises RefusedError."""
    match = re.fullmatch(r"(?:([^=\s]+)=)?([0-9]{1,4})", given)
    if match is None or int(match[2]) not in _LENGTHS:
        hint = f"Such as --generate 32 or --generate API_TOKEN=32; from {_LENGTHS.start} to {_LENGTHS.stop - 1}"
        raise RefusedError(f"{printable(given)} is not a length", where="--generate", hint=hint)
    return match[1] or "", int(match[2])
