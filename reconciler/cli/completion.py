"""What the shell completes beside options: names of environments, targets, stacks and backups."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import click

from reconciler.cli.declarations import Completer

if TYPE_CHECKING:
    from reconciler.app.wiring.names import KnownNames

# Names come from git, and shells evaluate what they get: what a shell could take for more than a name is left out.
_HARMLESS = re.compile(r"[A-Za-z0-9][A-Za-z0-9@._/+-]*")


def _completer(choose: Callable[[KnownNames], Iterable[str]]) -> Completer:
    def complete(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
        from reconciler.app.wiring.names import clone_names, server_names

        config = context.params.get("config")
        known = server_names(config) if config else clone_names(context.params.get("path") or "envs")
        return [name for name in choose(known) if name.startswith(incomplete) and _HARMLESS.fullmatch(name)]

    return complete


environments = _completer(lambda names: names.environments)
targets = _completer(lambda names: names.targets)
stacks = _completer(lambda names: names.stacks)
scopes = _completer(lambda names: (*names.stacks, *names.targets))
backups = _completer(lambda names: names.backups)
