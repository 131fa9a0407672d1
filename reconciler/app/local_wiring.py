"""The composition root of the commands that work on a clone (check, diff): no server, no state, perhaps no key."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

from reconciler.adapters.compose_containers import labelled as containers
from reconciler.adapters.compose_inventory import take_inventory
from reconciler.adapters.contracts import JsonSchemaContracts
from reconciler.adapters.machine import LocalMachine, SshMachine
from reconciler.adapters.sops import Sops, parse_yaml
from reconciler.adapters.ssh import SshAddress, SshConnection
from reconciler.adapters.work_tree import read_tree
from reconciler.app.checks.run import Progress, Tools
from reconciler.core.ports import Machine
from reconciler.core.secret import Secret
from reconciler.core.tree import Tree

if TYPE_CHECKING:
    from reconciler.adapters.clone import Clone

__all__ = ["SshAddress", "clone", "containers", "machine", "take_inventory", "tools", "working_directory"]

_KEY_TYPES = frozenset({"age", "pgp"})


class _Keys:
    """Decrypts with the age key in a file."""

    def __init__(self, key_file: str) -> None:
        self._sops = Sops(key_file, key_types=_KEY_TYPES)

    def opens(self, recipients: Sequence[str]) -> bool:
        ours = self._sops.identities()
        return bool(ours.others) or not set(ours.recipients).isdisjoint(recipients)

    async def decrypt(self, name: str, data: bytes) -> Secret:
        return await self._sops.decrypt(name, data)


def tools(key_file: str | None, progress: Progress) -> Tools:
    """What check and diff need; ``key_file`` is None where values are not to be looked at."""
    return Tools(
        parse_yaml=parse_yaml,
        contracts=JsonSchemaContracts(),
        now=time.time(),
        opener=_Keys(key_file) if key_file else None,
        progress=progress,
    )


def working_directory(path: str) -> Tree:
    """The files below ``path`` as they are now. Raises RefusedError."""
    return read_tree(path)


def clone(directory: str) -> Clone:
    """The repository around ``directory``. Raises RefusedError."""
    from reconciler.adapters.clone import Clone

    return Clone(directory)


@contextlib.asynccontextmanager
async def machine(address: SshAddress | None, name: str = "") -> AsyncIterator[Machine]:
    """The machine at ``address``, or this one. It is connected to when it is first asked for something."""
    if address is None:
        yield LocalMachine()
        return
    remote = SshMachine(SshConnection(address, name))
    try:
        yield remote
    finally:
        await remote.close()
