"""Backups of another machine's live files: here, as all are, and a copy on that machine.

The one here is what a rollback reads. The copy is for whoever stands before that machine when this one is gone:
<backup_dir>/<environment>/<backup>/, with the same files and the same manifest.json.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Sequence

from reconciler.adapters import process
from reconciler.adapters.backups import MANIFEST, BackupDirectory, manifest_of
from reconciler.adapters.ssh import SshConnection
from reconciler.core.errors import HostUnreachableError, LiveFileError
from reconciler.core.model import Backup, BackupEntry, Run, environment_of
from reconciler.core.secret import Secret

_QUICK = process.Limits(timeout=60.0)
_BACKUP = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9a-f-]+")


class SshBackups:
    """The ``Backups`` port for a machine over SSH. ``directory`` there may begin with the login's home (relative)."""

    def __init__(self, here: BackupDirectory, connection: SshConnection, directory: str) -> None:
        self._here = here
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
            await self._drop(environment, [identity])

    async def expire(self, environment: str, *, keep: int, max_age: float, now: float) -> int:
        gone = await self._here.expire(environment, keep=keep, max_age=max_age, now=now)
        if gone:
            kept = {backup.id for backup in self._here.list(environment)}
            with contextlib.suppress(HostUnreachableError):
                await self._drop(environment, [name for name in await self._names(environment) if name not in kept])
        return gone

    def _place(self, environment: str) -> str:
        return f"{self._directory}/{environment_of(environment)}"

    async def _copy(self, backup: Backup, files: Sequence[tuple[BackupEntry, Secret | None]]) -> None:
        """Whole under its name, or not at all; on disk when this returns."""
        import asyncssh

        sftp, parent = await self._connection.sftp(), self._place(backup.environment)
        making, name = f"{parent}/.{backup.id}", f"{parent}/{backup.id}"
        private = asyncssh.SFTPAttrs(permissions=0o600)
        contents = {entry.file: data.reveal() for entry, data in files if entry.file is not None and data is not None}
        contents[MANIFEST] = json.dumps(manifest_of(backup), indent=1).encode()
        try:
            async with self._connection.answering():
                for directory in (self._directory, parent):
                    await sftp.makedirs(directory, asyncssh.SFTPAttrs(permissions=0o700), exist_ok=True)
                await self._require_private(parent)
                await sftp.mkdir(making, asyncssh.SFTPAttrs(permissions=0o700))
                for file, data in contents.items():
                    async with sftp.open(f"{making}/{file}", "xb", attrs=private) as out:
                        await out.write(data)
                        await out.fsync()
                await sftp.posix_rename(making, name)
            await self._connection.run(["sh", "-c", 'sync -- "$1" 2>/dev/null || sync', "sh", parent], limits=_QUICK)
        except asyncssh.SFTPError as error:
            await self._drop(backup.environment, [f".{backup.id}"])
            hint = f"Nothing was changed; make room there, or correct hosts.{self._connection.name}.backup_dir"
            what = f"cannot store the backup ({error.reason})"
            raise LiveFileError(what, where=f"{self._connection.name}: {parent}", hint=hint) from None

    async def _require_private(self, directory: str) -> None:
        sftp = await self._connection.sftp()
        found = await sftp.lstat(directory)
        if (found.permissions or 0) & 0o077:
            where = f"{self._connection.name}: {directory}"
            hint = f"`chmod 0700 {directory}` there"
            raise LiveFileError("others may enter the backup directory", where=where, hint=hint)

    async def _names(self, environment: str) -> Sequence[str]:
        done = await self._connection.run(["ls", "-1", "--", self._place(environment)], limits=_QUICK)
        return [name for name in done.stdout.decode(errors="replace").splitlines() if _BACKUP.fullmatch(name)]

    async def _drop(self, environment: str, names: Sequence[str]) -> None:
        if names:
            paths = [f"{self._place(environment)}/{name}" for name in names]
            with contextlib.suppress(HostUnreachableError):
                await self._connection.run(["rm", "-rf", "--", *paths], limits=_QUICK)
