"""The composition root of the commands that work on a clone or another machine: no server, no state, maybe no key."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from reconciler.adapters.compose import containers, inventory
from reconciler.adapters.git.clone import Clone
from reconciler.adapters.git.clone_writer import CloneWriter
from reconciler.adapters.git.work_tree import read_tree
from reconciler.adapters.json_schema.client import JsonSchemaContracts
from reconciler.adapters.local.machine import LocalMachine, SshMachine
from reconciler.adapters.sops.sops import Sops, parse_yaml
from reconciler.adapters.ssh.connection import SshConnection
from reconciler.core.errors import KeyUnavailableError, RefusedError, SourceError
from reconciler.core.inventory import Inventory
from reconciler.core.model.hosts import SshAddress
from reconciler.core.model.targets import Format
from reconciler.core.ports import Contracts, Machine
from reconciler.core.secret import Secret
from reconciler.core.sops.ciphertext import YamlParser
from reconciler.core.tree import Tree

__all__ = ["Clone", "CloneWriter"]  # the types of what `clone` and `clone_writer` return

CountProgress = Callable[[int, int], None]
"""Takes how many items are done, and of how many."""

_KEY_TYPES = frozenset({"age", "pgp"})


class Opener(Protocol):
    """What decrypts: the Decryptor port, and whose keys it has."""

    def opens(self, recipients: Sequence[str]) -> bool:
        """Whether a file for these public keys may be for us. Raises KeyUnavailableError."""
        ...

    async def decrypt(self, name: str, data: bytes) -> Secret:
        """As the Decryptor port says."""
        ...


@dataclass(frozen=True, slots=True)
class Tools:
    """What check, diff and compare need from outside. ``opener`` is None without a key; ``now`` in seconds since the
    epoch."""

    parse_yaml: YamlParser
    contracts: Contracts
    now: float
    opener: Opener | None = None
    progress: CountProgress = lambda done, of: None


class Keys:
    """Decrypts with the age key in a file, and encrypts for others."""

    def __init__(self, key_file: str) -> None:
        self._sops = Sops(key_file, key_types=_KEY_TYPES)

    def opens(self, recipients: Sequence[str]) -> bool:
        ours = self._sops.identities()
        return bool(ours.others) or not set(ours.recipients).isdisjoint(recipients)

    async def decrypt(self, name: str, data: bytes) -> Secret:
        return await self._sops.decrypt(name, data)

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


def tools(key_file: str | None, progress: CountProgress) -> Tools:
    """The tools of a command; ``key_file`` is None to leave values encrypted."""
    return Tools(
        parse_yaml=parse_yaml,
        contracts=JsonSchemaContracts(),
        now=time.time(),
        opener=Keys(key_file) if key_file else None,
        progress=progress,
    )


def working_directory(path: str) -> Tree:
    """The files below ``path`` as they are now. Raises RefusedError."""
    return read_tree(path)


def clone(directory: str) -> Clone:
    """The repository around ``directory``. Raises RefusedError."""
    return Clone(directory)


async def take_inventory(machine: Machine, path: str | None) -> Inventory:
    """The files and Compose projects at ``path`` of a machine; None: all of its Compose projects.

    Raises LiveFileError, HostUnreachableError.
    """
    return await inventory.take_inventory(machine, path)


async def list_containers(machine: Machine) -> tuple[containers.Labelled, ...] | None:
    """Every container of a Compose project on the machine; None where docker does not answer."""
    return await containers.labelled(machine)


def is_here(machine: Machine) -> bool:
    """Whether it is this machine."""
    return isinstance(machine, LocalMachine)


@contextlib.asynccontextmanager
async def machine(address: SshAddress | None, name: str = "") -> AsyncIterator[Machine]:
    """The machine at ``address``, or this one. The connection is made on first use."""
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


def clone_writer(top: str) -> CloneWriter:
    """The writer of commits for the clone whose working tree is at ``top``."""
    return CloneWriter(top)


def make_key_file(path: str) -> str:
    """Make an age key and return its public half. Raises RefusedError."""
    from reconciler.adapters.sops import age_key

    return age_key.make_key_file(path)


def keys(path: str) -> Keys:
    """The decryption keys in a file."""
    return Keys(path)


def public_keys(path: str) -> tuple[str, ...]:
    """The public halves of the age keys in a file. Raises KeyUnavailableError."""
    return Sops(path).identities().recipients
