"""What the engine needs from the world, as protocols. Adapters implement them; tests put fakes behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from reconciler.core.model import (
    Blob,
    Check,
    Container,
    Format,
    HttpCheck,
    LiveFile,
    Ownership,
    Project,
    Revision,
    Stack,
)
from reconciler.core.secret import Secret


class Git(Protocol):
    """Reads one branch of one remote through a bare mirror; nothing from it is ever checked out."""

    async def head(self) -> str:
        """Ask the remote for the branch's commit id (ls-remote).

        Raises GitUnreachableError (no answer, refused, branch gone, empty repository).
        """
        ...

    async def fetch(self, commit: str) -> None:
        """Bring the commit into the mirror; a commit already there costs nothing. Raises GitUnreachableError."""
        ...

    async def revision(self, commit: str, directory: str) -> Revision:
        """The commit with the id of ``directory``'s tree ("" where it does not exist)."""
        ...

    async def read(self, commit: str, path: str) -> Blob | None:
        """The blob at ``path``, or None where there is none.

        Raises SourceError for anything but a regular file (link, submodule, directory), for one over the size
        limit and for an LFS pointer.
        """
        ...

    async def descends(self, commit: str, ancestor: str) -> bool:
        """Whether ``commit`` is ``ancestor`` or descends from it. An unknown ancestor gives False."""
        ...


class Decryptor(Protocol):
    async def identity(self) -> str:
        """What a remembered result depends on beside the blob: sops' version and a fingerprint of our key.

        Raises KeyUnavailableError, DecryptFailedError.
        """
        ...

    def format_of(self, name: str, data: bytes) -> Format:
        """Given an encrypted source's name and bytes, return the format sops must be told."""
        ...

    async def decrypt(self, name: str, data: bytes) -> Secret:
        """Pre-check and decrypt ``data``; ``name`` is used for the format and in messages.

        Raises NotEncryptedError, BadCiphertextError, KeyUnavailableError, DecryptFailedError.
        """
        ...


class Host(Protocol):
    """The file system of the machine that holds live files. Every path is absolute; no link is followed."""

    async def read(self, path: str) -> LiveFile | None:
        """The regular file at ``path``; None where it, or a directory on the way, does not exist.

        Raises LiveFileError for a link on the way, a directory, a device, or one that cannot be read.
        """
        ...

    async def write(
        self, path: str, data: Secret, *, mode: int, ownership: Ownership, replaces: LiveFile | None
    ) -> None:
        """Put ``data`` at ``path`` atomically and durably; missing parents are made.

        ``replaces`` is what the caller saw and backed up. Raises ChangedMeanwhileError, with the other's file left
        in place, where something else lies there now; LiveFileError where it cannot be written.
        """
        ...

    async def remove(self, path: str, *, replaces: LiveFile) -> None:
        """Remove the file durably. Raises as ``write`` does."""
        ...

    async def ownership(self, owner: str | None, group: str | None) -> Ownership:
        """Numeric ids of the names. Raises GuardError for one that does not exist on this machine."""
        ...

    async def resolve(self, path: str) -> str:
        """``path`` with every link resolved, as far as it exists. For comparing with allowed_paths."""
        ...

    async def check(self, check: Check, data: Secret) -> None:
        """Run the named check on the staged bytes. Raises GuardError with the exit code when it fails."""
        ...


class Compose(Protocol):
    async def project(self, stack: Stack, staged: Mapping[str, Secret | None] | None = None) -> Project:
        """The project as Compose resolves it, all profiles; with ``staged`` as if those files (absolute path →
        bytes, None for removed) were in place, which needs no write: files outside the stack's directory are not
        staged.

        Raises ModelRefusedError (Compose refuses; says why without quoting a value), EngineUnavailableError (no
        docker, no compose file).
        """
        ...

    async def project_files(self, stack: Stack) -> frozenset[str]:
        """Absolute paths of the files Compose reads as project configuration, whether they exist or not."""
        ...

    async def containers(self, stack: Stack, project: str | None) -> tuple[Container, ...]:
        """Containers of the project, found by their labels (by the stack's directory where the name is unknown).

        Raises EngineUnavailableError.
        """
        ...

    async def container_ids(self, stack: Stack) -> frozenset[str]:
        """Ids of the stack's containers from one cheap call, to see whether anything was recreated."""
        ...

    async def recreate(self, stack: Stack, project: str, services: Sequence[str]) -> None:
        """``up -d --no-deps`` for these services. Raises ModelRefusedError, EngineUnavailableError."""
        ...

    async def restart(self, stack: Stack, project: str, services: Sequence[str]) -> None: ...

    async def signal(self, stack: Stack, project: str, service: str, signal: str) -> None: ...


class HttpProbe(Protocol):
    async def ok(self, check: HttpCheck) -> bool:
        """Whether the URL answers with the wanted status."""
        ...


class Clock(Protocol):
    def now(self) -> float:
        """Seconds since the epoch, UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds that never jump."""
        ...

    async def sleep(self, seconds: float) -> None: ...
