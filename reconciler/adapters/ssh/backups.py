"""Backups of another machine's live files: here, like all others, with a copy on that machine.

A rollback reads the local one. The copy is for an operator on that machine when this one is gone:
<backup_dir>/<environment>/<backup>/, with the same files and the same manifest.json.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence

from reconciler.adapters import process
from reconciler.adapters.local.backups import MANIFEST, BackupDirectory, manifest_of
from reconciler.adapters.ssh.compose_context import flush_directory
from reconciler.adapters.ssh.connection import SshConnection
from reconciler.core.errors import HostUnreachableError, LiveFileError
from reconciler.core.model.runs import Backup, BackupEntry, Run
from reconciler.core.model.targets import environment_of
from reconciler.core.secret import Secret

_QUICK = process.Limits(timeout=60.0)


class SshBackups:
    """The ``Backups`` port for a machine over SSH. ``directory`` there may be relative to the login's home; several
    servers may share it, each with its own ``mark`` for unfinished backups."""

    def __init__(self, here: BackupDirectory, connection: SshConnection, directory: str, mark: str) -> None:
        self._here = here
        self._mark = mark
        self._connection = connection
        self._directory = directory

    async def take(
        self, run: Run, files: Sequence[tuple[BackupEntry, Secret | None]], from_commit: str, to_commit: str
    ) -> Backup:
        backup = await self._here.take(run, files, from_commit, to_commit)
        try:
            await self._copy(backup, files)
        except BaseException:
            await self._here.discard(backup.environment, backup.id)
            raise
        return backup

    def list(self, environment: str | None = None) -> tuple[Backup, ...]:
        return self._here.list(environment)

    def read(self, backup: Backup, entry: BackupEntry) -> Secret | None:
        return self._here.read(backup, entry)

    async def discard(self, environment: str, identity: str) -> None:
        await self._here.discard(environment, identity)
        if identity:
            await self._remove_copies(environment, [identity])

    async def expire(self, environment: str, *, keep: int, max_age: float, now: float) -> None:
        before = {backup.id for backup in self._here.list(environment)}
        await self._here.expire(environment, keep=keep, max_age=max_age, now=now)
        # Only these: others there may belong to another server.
        await self._remove_copies(environment, sorted(before - {backup.id for backup in self._here.list(environment)}))

    def _directory_of(self, environment: str) -> str:
        return f"{self._directory}/{environment_of(environment)}"

    async def _copy(self, backup: Backup, files: Sequence[tuple[BackupEntry, Secret | None]]) -> None:
        """Copy the backup atomically; it is on disk when this returns."""
        import asyncssh

        sftp, parent = await self._connection.sftp(), self._directory_of(backup.environment)
        making, name = f"{parent}/.{self._mark}-{backup.id}", f"{parent}/{backup.id}"
        private = asyncssh.SFTPAttrs(permissions=0o600)
        contents = {entry.file: data.reveal() for entry, data in files if entry.file is not None and data is not None}
        contents[MANIFEST] = json.dumps(manifest_of(backup), indent=1).encode()
        try:
            async with self._connection.answering():
                for directory in (self._directory, parent):
                    await sftp.makedirs(directory, asyncssh.SFTPAttrs(permissions=0o700), exist_ok=True)
                await self._require_private(parent)
            await self._clear(parent)
            async with self._connection.answering():
                await sftp.mkdir(making, asyncssh.SFTPAttrs(permissions=0o700))
            for file, data in contents.items():
                async with self._connection.answering(), sftp.open(f"{making}/{file}", "xb", attrs=private) as out:
                    await out.write(data)
                    await out.fsync()
            async with self._connection.answering():
                await sftp.posix_rename(making, name)
            await flush_directory(self._connection, parent, _QUICK)
        except asyncssh.SFTPError as error:
            await self._clear(parent)
            hint = f"Nothing was changed. Free space there, or correct hosts.{self._connection.name}.backup_dir"
            where = f"{self._connection.name}: {parent}"
            raise LiveFileError(f"cannot store the backup ({error.reason})", where=where, hint=hint) from None

    async def _require_private(self, directory: str) -> None:
        sftp = await self._connection.sftp()
        status = await sftp.lstat(directory)
        if (status.permissions or 0) & 0o077:
            where = f"{self._connection.name}: {directory}"
            hint = f"`chmod 0700 {directory}` there"
            problem = "other users may enter the backup directory"
            raise LiveFileError(problem, where=where, hint=hint, id="backups-exposed")

    async def _clear(self, parent: str) -> None:
        """Remove what our interrupted reconciliation left unfinished."""
        script = 'rm -rf -- "$1"/."$2"-*'
        await self._connection.run(["sh", "-c", script, "sh", parent, self._mark], limits=_QUICK)

    async def _remove_copies(self, environment: str, names: Sequence[str]) -> None:
        if names:
            paths = [f"{self._directory_of(environment)}/{name}" for name in names]
            with contextlib.suppress(HostUnreachableError):
                await self._connection.run(["rm", "-rf", "--", *paths], limits=_QUICK)
