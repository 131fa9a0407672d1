"""Machines: the one that holds live files, and ones that are only read."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from reconciler.core.errors import LiveFileError
from reconciler.core.inventory import FoundFile
from reconciler.core.model.commands import CommandResult
from reconciler.core.model.compose import Sight
from reconciler.core.model.targets import Check, FileStamp, LiveFile, Ownership
from reconciler.core.secret import Secret


class Host(Protocol):
    """The file system of the machine that holds live files. Every path is absolute; no link is followed.

    If it is a remote machine that does not answer, everything raises HostUnreachableError.
    """

    async def reach(self) -> None:
        """Make sure that the machine answers. Raises HostUnreachableError."""

    async def read(self, path: str) -> LiveFile | None:
        """The regular file at ``path``; None if it, or a directory on the way, does not exist.

        Raises LiveFileError for a link on the way, a directory, a device, or a file that cannot be read.
        """

    async def read_all(self, paths: Collection[str]) -> Mapping[str, LiveFile | LiveFileError | None]:
        """Each file as ``read`` has it, or the error that it raises: in one go, as there may be a thousand."""

    async def stamps(self, paths: Collection[str]) -> Mapping[str, FileStamp | None]:
        """What stat says of each file, None where there is none. Paths are left out where it says too little, or cannot
        say it: such a file has to be read. Raises nothing but HostUnreachableError."""

    async def editor(self, path: str, live: LiveFile | None) -> str:
        """Who edited the live file, or removed it, since we last wrote it, and how sure that is: a sentence's part such
        as "ada (login uid of the process that wrote it)", "probably ada: ..." or "unknown"."""

    async def write(
        self,
        path: str,
        data: Secret,
        *,
        mode: int,
        ownership: Ownership,
        replaces: LiveFile | None,
        in_place: bool = False,
    ) -> None:
        """Put ``data`` at ``path`` atomically and durably; creates missing parents.

        ``in_place``: write into the file that ``replaces`` is, if there is one. That is not atomic: a kill leaves a
        part of both (see core/decide/torn_writes.py).

        ``replaces`` is what the caller saw and backed up; it gives the owner if ``ownership`` names none. Raises
        ChangedMeanwhileError if something else lies there now, or is still being written; that stays. Raises
        LiveFileError if the file cannot be written.
        """

    async def remove(self, path: str, *, replaces: LiveFile) -> None:
        """Remove the file durably. Raises as ``write`` does."""

    async def ownership(self, owner: str | None, group: str | None) -> Ownership:
        """Numeric ids of the names. Raises GuardError for one that does not exist on this machine."""

    async def new_owner(self, path: str) -> Ownership:
        """Whose a file is that ``write`` creates at ``path`` where ``ownership`` names none: both ids are known."""

    async def resolve(self, path: str) -> str:
        """``path`` with every link resolved, as far as it exists. For comparing with allowed_paths."""

    async def sight(self, path: str, container: str, pid: int, inside: str) -> Sight:
        """What a container, by its id and its first process, has at the path ``inside``, where it mounts the file at
        ``path`` by itself."""

    async def leftovers(self, paths: Collection[str]) -> Mapping[str, tuple[str, ...]]:
        """Absolute paths of our own temporary files that a killed run left beside each of ``paths``; only where there
        are any.

        One may hold an edit that exists nowhere else: ``read`` it, back it up, and only then ``remove`` it.
        """

    async def check(self, check: Check, data: Secret) -> None:
        """Run the named check on the staged bytes. Raises GuardError with the exit code if it fails."""


class Machine(Protocol):
    """A machine that is only read, this one or one over SSH. Every path is absolute, and links are followed.

    Everything raises HostUnreachableError if the machine does not answer.
    """

    @property
    def name(self) -> str:
        """For messages."""

    async def read(self, path: str) -> FoundFile | None:
        """The regular file at ``path``, None if there is none. Raises LiveFileError if it cannot be read."""

    async def list(self, directory: str) -> tuple[str, ...]:
        """Sorted names in the directory, with a trailing / for a directory; nothing if it does not exist.

        Raises LiveFileError if it cannot be read.
        """

    async def run(self, argv: Sequence[str], directory: str, seconds: float) -> CommandResult:
        """Run an operator's command there, for at most ``seconds``. It may print secrets."""

    async def get(self, url: str, seconds: float) -> CommandResult:
        """Request a URL from there without following redirects; ``exit_code`` is the status. May hold secrets."""
