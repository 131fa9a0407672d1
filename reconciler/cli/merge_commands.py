"""The commands that merge encrypted files: merge-driver, which git calls, and merge."""

from __future__ import annotations

from typing import Annotated

import click
from click.exceptions import Exit

from reconciler.cli.declarations import Commands, argument, option
from reconciler.cli.edit_commands import DecryptionKey
from reconciler.cli.exit_codes import ERROR, IN_SYNC, PENDING
from reconciler.cli.options import Json

commands = Commands()


@commands.command("merge-driver", short_help="for git: merge three versions of an encrypted file by key")
def merge_driver(
    base: Annotated[str, argument(metavar="BASE", help="The common ancestor's version: %O.")],
    ours: Annotated[str, argument(metavar="OURS", help="Our version, which becomes the result: %A.")],
    theirs: Annotated[str, argument(metavar="THEIRS", help="The other side's version: %B.")],
    path: Annotated[str, argument(metavar="PATH", help="What the file is called: %P.")],
) -> None:
    """Merge an encrypted file by key, as git's merge driver: `git config merge.reconciler.driver
    "reconciler merge-driver %O %A %B %P"`, and `merge=reconciler` in .gitattributes (`reconciler init` writes it).

    Plaintext is in memory only. A file that is not encrypted is merged as git does it. Exits 0 if the file is merged, 1
    with conflicts, which `reconciler merge` resolves.
    """
    import asyncio

    from reconciler.app.merging.command import run_driver
    from reconciler.cli import merge_reports

    merged = asyncio.run(run_driver(base, ours, theirs, path))
    if not merged.done:
        click.echo(merge_reports.problem(merged), err=True)
    raise Exit(IN_SYNC if merged.done else ERROR)


@commands.command(short_help="merge what git left unmerged in encrypted files, by key")
def merge(
    paths: Annotated[list[str] | None, argument(metavar="[PATH…]", help="Default: all of them.")] = None,
    resolve: Annotated[
        list[str] | None,
        option("--resolve", metavar="KEY=SIDE", help="Take `ours` or `theirs` for a key, or for all: '*=ours'."),
    ] = None,
    age_key_file: DecryptionKey = None,
    as_json: Json = False,
) -> None:
    """Merge the encrypted files of an unfinished merge, rebase or cherry-pick: with a key, or with a decision for each
    key that both sides have changed. Writes the working tree; you add and commit.

    Exits 0 if all are merged, 2 if conflicts remain, 1 on errors.
    """
    import asyncio

    from reconciler.app.merging.command import merge_unmerged, parse_decisions
    from reconciler.cli import merge_reports, render

    merged = asyncio.run(merge_unmerged(paths or [], parse_decisions(resolve or []), age_key_file))
    render.answer(merge_reports.merge_data(merged), merge_reports.merge_report, as_json=as_json)
    raise Exit(IN_SYNC if all(file.done for file in merged) else PENDING)
