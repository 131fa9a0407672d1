"""The composition root of the commands that work on a clone (check, diff): no server, no state, perhaps no key."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace

from reconciler.adapters.git.clone import Clone
from reconciler.adapters.git.clone_writer import CloneWriter
from reconciler.adapters.git.merge_file import merge_text_files
from reconciler.adapters.git.work_tree import read_text_file, read_tree
from reconciler.adapters.json_schema.client import JsonSchemaContracts
from reconciler.adapters.local.files import LocalHost
from reconciler.adapters.local.machine import LocalMachine, SshMachine
from reconciler.adapters.local.private_text import edit_text, private_directory
from reconciler.adapters.sops.age_keys import KeySources
from reconciler.adapters.sops.program import Sops
from reconciler.adapters.sops.yaml_reader import parse_yaml
from reconciler.adapters.ssh.connection import SshConnection
from reconciler.app.wiring.inventories import containers, take_inventory
from reconciler.app.wiring.tools import CountProgress, Tools
from reconciler.core.errors import (
    ChangedMeanwhileError,
    LiveFileError,
    OutsideError,
    RefusedError,
)
from reconciler.core.model.hosts import SshAddress
from reconciler.core.model.targets import Format, LiveFile, Ownership, Parser
from reconciler.core.ports.host import Machine
from reconciler.core.secret import Secret
from reconciler.core.sops.ciphertext import Ciphertext, read_ciphertext
from reconciler.core.sops.encrypted_twice import length_of_whole
from reconciler.core.sops.key_mismatch import OwnKeys
from reconciler.core.tree import Tree

__all__ = [
    "Clone",
    "CloneWriter",
    "KeySources",
    "Keys",
    "RememberingKeys",
    "containers",
    "default_key_file",
    "edit_text",
    "files_around",
    "is_here",
    "key_sources",
    "machine",
    "make_key_file",
    "merge_text_files",
    "private_directory",
    "public_keys",
    "read_encrypted",
    "read_tree_of_clone",
    "read_work_file",
    "replace_work_file",
    "require_keys",
    "take_inventory",
    "tools",
    "work_tree_top",
]


def key_sources(key_file: str | None) -> KeySources:
    """Where a user's identities are: the given file or, without one, what the variables of sops name. False if that is
    nothing. Raises RefusedError."""
    if key_file:
        return KeySources(files=(os.path.expanduser(key_file),))
    variables = os.environ
    files = [path for name in ("SOPS_AGE_KEY_FILE", "SOPS_AGE_SSH_PRIVATE_KEY_FILE") if (path := variables.get(name))]
    text = variables.get("SOPS_AGE_KEY")
    texts = (("SOPS_AGE_KEY", Secret(text.encode())),) if text else ()
    try:
        command = tuple(shlex.split(variables.get("SOPS_AGE_KEY_CMD", "")))
    except ValueError:
        hint = "Write the command as a shell would read it"
        raise RefusedError("a quote is not closed", where="SOPS_AGE_KEY_CMD", hint=hint) from None
    return KeySources(tuple(files), texts, command)


def require_keys(key_file: str | None, hint: str) -> KeySources:
    """The same, or the key file of sops. Raises RefusedError with the hint where there is none of that."""
    sources = key_sources(key_file) or KeySources(files=(default_key_file(),))
    if sources.texts or sources.command or any(map(os.path.isfile, sources.files)):
        return sources
    raise RefusedError("there is no age key", where=os.path.abspath(sources.files[0]), hint=hint)


class Keys:
    """Decrypts with our identities, and encrypts for others."""

    def __init__(self, sources: KeySources, binary: str = "sops") -> None:
        self._sops = Sops(sources, binary=binary)

    async def own(self) -> OwnKeys:
        """Our public keys. Raises KeyUnavailableError."""
        return await self._sops.own_keys()

    async def opens(self, recipients: Sequence[str]) -> bool:
        return (await self.own()).may_open(recipients)

    def read(self, name: str, data: bytes, parser: Parser) -> Ciphertext:
        """What a source says without a key. Raises SourceError."""
        return self._sops.read(name, data, parser)

    async def amend(self, name: str, data: bytes, values: Mapping[str, Secret | None]) -> bytes:
        """As the Encryptor port says."""
        return await self._sops.amend(name, data, values)

    async def amend_places(
        self, name: str, data: bytes, values: Mapping[tuple[str, ...], Secret | None], *, ignore_mac: bool = False
    ) -> bytes:
        """Set values, as JSON, by the keys that lead to them (None: remove); see ``Sops.amend_places``."""
        return await self._sops.amend_places(name, data, values, ignore_mac=ignore_mac)

    async def edit(self, name: str, data: bytes, content: Secret, directory: str) -> bytes:
        """Give a source other content; ``directory`` is private and in memory. Raises RefusedError, as ``amend``."""
        return await self._sops.edit(name, data, content, directory)

    async def rekey(self, name: str, data: bytes, recipients: Sequence[str], *, rotate: bool) -> bytes:
        """Change for whom a source is encrypted; ``rotate``: by a new data key. Raises RefusedError, as ``amend``."""
        return await self._sops.rekey(name, data, recipients, rotate=rotate)

    async def decrypt(
        self, name: str, data: bytes, parser: Parser = Parser.OPAQUE, output: Format | None = None
    ) -> Secret:
        return await self._sops.decrypt(name, data, parser, output)

    async def encrypt(self, name: str, data: Secret, recipients: Sequence[str], file_format: Format) -> bytes:
        """Raises RefusedError where sops cannot write it so, DecryptFailedError."""
        return await self._sops.encrypt(name, data, recipients, file_format=file_format)


class RememberingKeys(Keys):
    """For a command that reads the same sources several times: sops decrypts the same bytes once."""

    def __init__(self, sources: KeySources) -> None:
        super().__init__(sources)
        self._plaintexts: dict[tuple[bytes, Format, Format], Secret] = {}

    async def decrypt(
        self, name: str, data: bytes, parser: Parser = Parser.OPAQUE, output: Format | None = None
    ) -> Secret:
        checked = self.read(name, data, parser)
        content = (data, checked.format, output or checked.output)
        if content not in self._plaintexts:
            self._plaintexts[content] = await super().decrypt(name, data, parser, output)
        return self._plaintexts[content]


async def read_tree_of_clone(directory: str, *, with_before: bool = False) -> Tree:
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
        if with_before:
            tree = replace(tree, before=await clone.before(directory, held))
    return tree


async def files_around(directory: str, words: Sequence[str]) -> dict[str, str]:
    """The text of the repository's files outside of ``directory`` (paths are relative to it) that hold one of the
    words, in any case. None without a repository."""
    try:
        clone = Clone(directory)
    except RefusedError:
        return {}
    paths = await clone.naming(directory, words) if words and not clone.bare else {}
    outside = {name: path for name, path in paths.items() if name.startswith("../")}
    return {name: text for name, path in outside.items() if (text := read_text_file(path)) is not None}


def tools(keys: KeySources | None, progress: CountProgress) -> Tools:
    """What check and diff need; without ``keys`` values are not looked at."""
    return Tools(
        parse_yaml=parse_yaml,
        contracts=JsonSchemaContracts(),
        now=time.time(),
        opener=Keys(keys) if keys else None,
        progress=progress,
    )


def read_encrypted(name: str, data: bytes) -> Ciphertext:
    """What an encrypted file says without a key. Raises SourceError."""
    return read_ciphertext(name, data, parse_yaml=parse_yaml)


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


async def read_work_file(path: str) -> LiveFile:
    """A regular file of the working tree. Raises RefusedError."""
    try:
        file = await LocalHost([os.path.dirname(path)]).read(path)
    except LiveFileError as error:
        raise RefusedError(error.what, where=path, id=error.id) from None
    if file is None:
        raise RefusedError("there is no such file", where=path)
    return file


async def replace_work_file(path: str, data: bytes, replaces: LiveFile) -> None:
    """Replace a file atomically, with its mode and owner. Raises RefusedError where somebody has changed it meanwhile,
    or it cannot be written."""
    host = LocalHost([os.path.dirname(path)])
    try:
        await host.write(path, Secret(data), mode=replaces.mode, ownership=Ownership(), replaces=replaces)
    except ChangedMeanwhileError:
        hint = "Nothing was overwritten: run the command again"
        raise RefusedError("somebody has changed the file meanwhile", where=path, hint=hint) from None
    except LiveFileError as error:
        reason = error.__cause__.strerror if isinstance(error.__cause__, OSError) else error.what
        hint = "Run the command as the user who owns the clone"
        raise RefusedError(f"cannot be written ({reason})", where=path, hint=hint) from None


def work_tree_top(directory: str) -> str:
    """The top of the working tree around ``directory``. Raises RefusedError where there is none."""
    clone = Clone(directory)
    if clone.bare:
        raise RefusedError("is a bare repository", where=clone.top, hint="Run it in a clone of it")
    return clone.top


def default_key_file() -> str:
    """Where sops itself looks for age keys."""
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
    return os.path.join(home, "sops", "age", "keys.txt")


def make_key_file(path: str) -> str:
    """Make an age key and return its public half. Raises RefusedError."""
    from reconciler.adapters.sops.age_key_file import make_age_key_file as make

    return make(path)


def public_keys(path: str) -> tuple[str, ...]:
    """The public halves of the age keys in a file. Raises KeyUnavailableError."""
    return asyncio.run(Sops(path).own_keys()).recipients
