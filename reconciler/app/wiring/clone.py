"""The composition root of the commands that work on a clone (check, diff): no server, no state, perhaps no key."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from reconciler.adapters.compose.containers import labelled as containers
from reconciler.adapters.compose.inventory import take_inventory
from reconciler.adapters.git.clone import Clone
from reconciler.adapters.git.clone_writer import CloneWriter
from reconciler.adapters.git.work_tree import read_tree
from reconciler.adapters.json_schema.client import JsonSchemaContracts
from reconciler.adapters.local.machine import LocalMachine, SshMachine
from reconciler.adapters.sops.program import Sops
from reconciler.adapters.sops.yaml_reader import parse_yaml
from reconciler.adapters.ssh.connection import SshConnection
from reconciler.app.wiring.tools import CountProgress, Tools
from reconciler.core.errors import KeyUnavailableError, OutsideError, RefusedError, SourceError
from reconciler.core.model.hosts import SshAddress
from reconciler.core.model.targets import Format, Parser
from reconciler.core.ports.host import Machine
from reconciler.core.secret import Secret
from reconciler.core.sops.encrypted_twice import length_of_whole
from reconciler.core.tree import Tree

__all__ = [
    "Clone",
    "CloneWriter",
    "Keys",
    "containers",
    "is_here",
    "machine",
    "make_key_file",
    "public_keys",
    "read_tree_of_clone",
    "take_inventory",
    "tools",
    "work_tree_top",
]


class Keys:
    """Decrypts with the age key in a file, and encrypts for others."""

    def __init__(self, key_file: str) -> None:
        self._sops = Sops(key_file)

    def opens(self, recipients: Sequence[str]) -> bool:
        ours = self._sops.identities()
        return bool(ours.others) or not set(ours.recipients).isdisjoint(recipients)

    async def decrypt(self, name: str, data: bytes, parser: Parser = Parser.OPAQUE) -> Secret:
        return await self._sops.decrypt(name, data, parser)

    async def encrypt(self, name: str, data: Secret, recipients: Sequence[str], file_format: Format) -> bytes:
        """Raises RefusedError where sops cannot write it so, DecryptFailedError."""
        return await self._sops.encrypt(name, data, recipients, file_format=file_format)

    async def holds(self, name: str, data: bytes, content: Secret, recipients: Sequence[str]) -> bool:
        """Whether a source is encrypted for exactly these public keys and decrypts to ``content``."""
        try:
            if set(self._sops.read(name, data).metadata.age) != set(recipients):
                return False
            return await self._sops.decrypt(name, data) == content
        except (KeyUnavailableError, SourceError):
            return False


async def read_tree_of_clone(directory: str) -> Tree:
    """The files below ``directory``, which of them git does not hold, and earlier versions of those that may be
    encrypted twice: nothing is known of that where there is no repository, or git does not work. Raises RefusedError.
    """
    tree = read_tree(directory)
    with contextlib.suppress(RefusedError, OutsideError):
        clone = Clone(directory)
        tree = replace(tree, unheld=await clone.unheld(directory, tree.files))
        held = {path: data for path, data in tree.files.items() if path not in tree.unheld}
        lengths = {path: length for path, data in held.items() if (length := length_of_whole(data)) is not None}
        tree = replace(tree, earlier=await clone.earlier(directory, lengths))
    return tree


def tools(key_file: str | None, progress: CountProgress) -> Tools:
    """What check and diff need; ``key_file`` is None where values are not to be looked at."""
    return Tools(
        parse_yaml=parse_yaml,
        contracts=JsonSchemaContracts(),
        now=time.time(),
        opener=Keys(key_file) if key_file else None,
        progress=progress,
    )


def is_here(machine: Machine) -> bool:
    return isinstance(machine, LocalMachine)


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


def work_tree_top(directory: str) -> str:
    """The top of the working tree around ``directory``. Raises RefusedError where there is none."""
    clone = Clone(directory)
    if clone.bare:
        raise RefusedError("is a bare repository", where=clone.top, hint="Run it in a clone of it")
    return clone.top


def make_key_file(path: str) -> str:
    """Make an age key and return its public half. Raises RefusedError."""
    from reconciler.adapters.sops.age_key_file import make_age_key_file as make

    return make(path)


def public_keys(path: str) -> tuple[str, ...]:
    """The public halves of the age keys in a file. Raises KeyUnavailableError."""
    return Sops(path).identities().recipients
