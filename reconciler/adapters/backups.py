"""Copies of live files, as they were: ``state_dir/backups/<environment>/<UTC time>-<run>/``, 0700 and 0600."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from reconciler.core.errors import LiveFileError
from reconciler.core.model import Backup, BackupEntry, Run
from reconciler.core.secret import Digester, Secret

_MANIFEST = "manifest.json"


class BackupDirectory:
    """The ``Backups`` port on a local directory, which is made 0700 and must belong to the daemon alone."""

    def __init__(self, directory: str, digest: Digester) -> None:
        self._directory = directory
        self._digest = digest

    def take(
        self, run: Run, files: Sequence[tuple[BackupEntry, Secret | None]], from_commit: str, to_commit: str
    ) -> Backup:
        stamp = datetime.fromtimestamp(run.started_at, UTC).strftime("%Y%m%dT%H%M%SZ")
        backup = Backup(
            id=f"{stamp}-{run.id}",
            environment=run.environment,
            run=run.id,
            at=run.started_at,
            from_commit=from_commit,
            to_commit=to_commit,
            entries=tuple(entry for entry, _ in files),
        )
        directory = self._path(backup)
        try:
            self._make_private(os.path.dirname(directory))
            with _complete_or_gone(directory):
                _fill(directory, backup, files)
        except OSError as error:
            hint = "nothing was changed; free space or make the directory writable, it is tried again"
            raise LiveFileError(
                f"cannot store the backup ({os.strerror(error.errno or 0)})", where=directory, hint=hint
            ) from error
        return backup

    def list(self, environment: str | None = None) -> tuple[Backup, ...]:
        found = []
        for name in [environment] if environment else _names(self._directory):
            for identity in _names(os.path.join(self._directory, name)):
                manifest = os.path.join(self._directory, name, identity, _MANIFEST)
                # One that cannot be read is half made: its run was killed before it changed anything.
                with contextlib.suppress(OSError, ValueError, KeyError, TypeError), open(manifest, "rb") as file:
                    found.append(_from_json(json.load(file)))
        return tuple(sorted(found, key=lambda backup: (backup.at, backup.id), reverse=True))

    def read(self, backup: Backup, entry: BackupEntry) -> Secret:
        path = os.path.join(self._path(backup), entry.file or "")
        try:
            with open(path, "rb") as file:
                data = file.read()
        except OSError as error:
            hint = "choose another one: `reconciler backups`"
            raise LiveFileError(
                f"the backup cannot be read ({os.strerror(error.errno or 0)})", where=path, hint=hint
            ) from error
        if self._digest(data) != entry.digest:
            raise LiveFileError("the backup is damaged: its digest differs", where=path, hint="choose another one")
        return Secret(data)

    def expire(self, environment: str, *, keep: int, max_age: float, now: float) -> int:
        """A backup goes when, for every path in it, it is not the newest and is too old or one too many."""
        seen: dict[str, int] = {}
        removed = 0
        for backup in self.list(environment):
            counts = [seen.get(entry.path, 0) for entry in backup.entries]
            for entry in backup.entries:
                seen[entry.path] = seen.get(entry.path, 0) + 1
            too_old = now - backup.at > max_age
            if counts and min(counts) > 0 and (too_old or min(counts) >= keep):
                shutil.rmtree(self._path(backup))
                removed += 1
        return removed

    def _path(self, backup: Backup) -> str:
        return os.path.join(self._directory, backup.environment, backup.id)

    def _make_private(self, directory: str) -> None:
        os.makedirs(os.path.dirname(self._directory), mode=0o700, exist_ok=True)
        for path in (self._directory, directory):
            with contextlib.suppress(FileExistsError):
                os.mkdir(path, 0o700)
            found = os.lstat(path)
            if not stat.S_ISDIR(found.st_mode):
                raise LiveFileError(
                    "is a link or a file, not a directory", where=path, hint="backups are never stored through a link"
                )
            if found.st_mode & 0o022 or found.st_uid != os.geteuid():
                hint = f"`chown {os.geteuid()} {path} && chmod 0700 {path}`"
                raise LiveFileError("others may write to the backup directory", where=path, hint=hint)


def _fill(directory: str, backup: Backup, files: Sequence[tuple[BackupEntry, Secret | None]]) -> None:
    for entry, data in files:
        if entry.file is not None and data is not None:
            _write(os.path.join(directory, entry.file), data.reveal())
    _write(os.path.join(directory, _MANIFEST), json.dumps(dataclasses.asdict(backup), indent=1).encode())


@contextlib.contextmanager
def _complete_or_gone(directory: str) -> Iterator[None]:
    os.mkdir(directory, 0o700)
    try:
        yield
        _sync_directory(directory)
        _sync_directory(os.path.dirname(directory))
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise


def _write(path: str, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(descriptor)


def _sync_directory(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _names(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _from_json(data: dict[str, object]) -> Backup:
    entries = data.pop("entries")
    assert isinstance(entries, list)
    return Backup(**data, entries=tuple(BackupEntry(**entry) for entry in entries))  # type: ignore[arg-type]
