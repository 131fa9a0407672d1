"""The data of an import: the contents of machines, and the environment drafted from them."""

from __future__ import annotations

import enum
import posixpath
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from reconciler.core.errors import RefusedError
from reconciler.core.inventory import FoundFile, Inventory, Use
from reconciler.core.model.plans import KeyChange
from reconciler.core.model.targets import DEFAULT_KIND, Format, Parser, StackKind
from reconciler.core.secret import Secret
from reconciler.core.secrets.plaintext import is_env_file, reason_for_secrecy
from reconciler.core.sops.normal_form import Rewriting

DEFAULT_MODE = 0o600
_ACCOUNT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,31}\$?")


@dataclass(frozen=True, slots=True)
class ImportSource:
    """The inventory of one machine; ``host`` is its name in the manifest; ``left_out`` has the reason for each file
    that cannot be imported, by path."""

    host: str
    inventory: Inventory
    left_out: Mapping[str, str] = field(default_factory=dict)


class SourceEdit(enum.StrEnum):
    """How an update writes a source that git has."""

    KEEP = "keep"  # nothing changed
    KEYS = "keys"  # sops sets and removes single values
    TEXT = "text"  # sops edits the whole text, and keeps the ciphertext of what stays
    WHOLE = "whole"  # it is written again


@dataclass(frozen=True, slots=True)
class SourceChange:
    """What an update does to the source that git has for a file, which it calls ``source``. ``keys`` are none for a
    file that changes as a whole; ``values`` are those that sops sets (None: removes) by label. ``pending`` are patterns
    of the keys that git has changed and the server does not have yet: git's value stays."""

    source: str
    edit: SourceEdit
    keys: KeyChange = field(default_factory=KeyChange)
    values: Mapping[str, Secret | None] = field(default_factory=dict)
    pending: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DraftFile:
    """One live file and the source it becomes.

    ``hosts`` are the machines where the file is identical; ``stack`` is None for a file of no project. ``reason``
    explains an unexpected format, "" otherwise. ``keys`` are the names of its variables that can be shown, ``unshown``
    counts the others. ``normal`` is what git gets instead of the live bytes, with the ``rewritings`` that lead to it.
    ``change`` is None for a file that is new to git.
    """

    source: str
    stack: str | None
    hosts: tuple[str, ...]
    file: FoundFile
    uses: tuple[Use, ...]
    services: tuple[str, ...]
    format: Format
    reason: str = ""
    parser: Parser = Parser.OPAQUE
    keys: tuple[str, ...] = ()
    unshown: int = 0
    normal: Secret | None = None
    rewritings: tuple[Rewriting, ...] = ()
    change: SourceChange | None = None

    @property
    def content(self) -> Secret:
        """What git gets, decrypted."""
        return self.file.data if self.normal is None else self.normal

    @property
    def mounted(self) -> bool:
        return Use.MOUNT in self.uses

    @property
    def looks_harmless(self) -> bool:
        """Whether it is a mounted file in which nothing looks like a secret."""
        return self.format is Format.BINARY and not self.reason

    @property
    def owner(self) -> str:
        return account_name(self.file.owner, self.file.uid)

    @property
    def group(self) -> str:
        return account_name(self.file.group, self.file.gid)

    @property
    def mode(self) -> int:
        """The mode without special bits, which a manifest cannot have."""
        return self.file.mode & 0o777


@dataclass(frozen=True, slots=True)
class DraftStack:
    """A Compose project; ``hosts`` is empty if it is the same on every machine. The other fields are those of a stack
    in the manifest, empty for Compose's defaults; paths below the directory are relative to it."""

    name: str
    directory: str
    hosts: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    env_files: tuple[str, ...] = ()
    project: str = ""
    project_directory: str = ""
    kind: StackKind = DEFAULT_KIND


@dataclass(frozen=True, slots=True)
class LeftOut:
    host: str
    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class RemovedTarget:
    """A target whose live file is gone."""

    source: str
    path: str


@dataclass(frozen=True, slots=True)
class Draft:
    """The environment to import. ``notes`` are sentences for the user; ``removed`` are targets that an ``update``
    takes out of git."""

    environment: str
    stacks: tuple[DraftStack, ...]
    files: tuple[DraftFile, ...]
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]
    update: bool = False
    removed: tuple[RemovedTarget, ...] = ()

    @property
    def changes(self) -> bool:
        """Whether git gets anything new."""
        written = any(file.change is None or file.change.edit is not SourceEdit.KEEP for file in self.files)
        return written or bool(self.removed)


@dataclass(frozen=True, slots=True)
class PlainFiles:
    """Which mounted files stay readable in git: ``globs`` of live paths, as typed, and the live paths ``kept`` that an
    earlier import left plain."""

    globs: Collection[str] = ()
    kept: Collection[str] = ()

    def includes(self, file: FoundFile) -> bool:
        """Whether the file stays plain. Raises RefusedError if it may hold a secret and only a pattern matches it."""
        if file.path in self.globs:
            return True
        reason = secret_reason(file)
        if named := next((glob for glob in self.globs if fnmatchcase(file.path, glob)), ""):
            if reason:
                problem = f"it may hold a secret ({reason}), and --plain {named} would leave it readable"
                hint = f"If it holds none, name the file: --plain {file.path}. Otherwise use a narrower pattern"
                raise RefusedError(problem, where=file.path, hint=hint)
            return True
        return file.path in self.kept and not reason


def secret_reason(file: FoundFile) -> str:
    """Why a file may hold a secret; "" if nothing in it looks like one."""
    return reason_for_secrecy(posixpath.basename(file.path), file.data.reveal())


def account_name(name: str, number: int) -> str:
    """A user or group as a manifest gives it: by name, or by number if the name is unusual."""
    return name if _ACCOUNT.fullmatch(name) else str(number)


def holds_variables(path: str, uses: Collection[Use]) -> bool:
    """Whether a file is an env file, by its use or its name."""
    return not uses or set(uses) != {Use.MOUNT} or is_env_file(posixpath.basename(path))
