"""Backups of live files: ``state_dir/backups/<environment>/<UTC time>-<run>/``, 0700 and 0600.

A directory is written, and deleted, under a name that begins with a dot, so that the leftovers of a kill are never
mistaken for a backup; the next backup removes them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import stat
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from reconciler.adapters.disk import disk_reason, state_id
from reconciler.core.errors import BackupUnusableError, LiveFileError
from reconciler.core.model.runs import Backup, BackupEntry, Run
from reconciler.core.secret import Secret

MANIFEST = "manifest.json"
_HIDDEN = "."


class BackupDirectory:
    """The ``Backups`` port on a local directory, which is created 0700 and must be private to the daemon.

    Each backup has a number, one above the highest so far: a clock that jumps back must not make the newest look old,
    and thus expire first.
    """

    def __init__(self, directory: str, digest: Callable[[bytes], str]) -> None:
        self._directory = directory
        self._digest = digest
        self._numbers: dict[tuple[str, str], int] = {}  # by environment and id

    async def take(
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
        parent = os.path.join(self._directory, run.environment)
        try:
            for directory in (self._directory, parent):
                _make_private(directory)
            _clear(parent)
            number = 1 + self._highest()
            _store(parent, backup, number, files)
        except OSError as error:
            hint = "Nothing was changed. Free some space (`df`, `df -i`) or make the directory writable"
            raise LiveFileError(
                f"cannot store the backup ({disk_reason(error, parent)})",
                where=parent,
                hint=hint,
                id=state_id(error, parent),
            ) from error
        return backup

    def list(self, environment: str | None = None) -> tuple[Backup, ...]:
        try:
            return tuple(backup for _, backup in self._numbered(environment))
        except OSError as error:
            hint = "Run it as the daemon's user"
            raise LiveFileError(
                f"cannot list the backups ({os.strerror(error.errno or 0)})", where=self._directory, hint=hint
            ) from error

    def check(self) -> None:
        """Raise LiveFileError where others could have changed a backup."""
        directories = [os.path.join(self._directory, name) for name in _names(self._directory)]
        for directory in (self._directory, *filter(os.path.isdir, directories)):
            if os.path.lexists(directory):
                _check_private(directory)

    def unreadable(self, environment: str | None = None) -> tuple[tuple[str, str], ...]:
        """Environment and name of each entry whose manifest cannot be read, sorted."""
        known = {(backup.environment, backup.id) for backup in self.list(environment)}
        names = [environment] if environment else _names(self._directory)
        present = {(name, identity) for name in names for identity in _names(os.path.join(self._directory, name))}
        return tuple(sorted(present - known))

    def problems(self, backup: Backup) -> tuple[str, ...]:
        """Read all of the backup's files; return what is wrong with them."""
        errors = []
        for entry in backup.entries:
            try:
                self.read(backup, entry)
            except LiveFileError as error:
                errors.append(str(error))
        return tuple(dict.fromkeys(errors))

    def read(self, backup: Backup, entry: BackupEntry) -> Secret | None:
        parent = os.path.join(self._directory, backup.environment)
        for directory in (self._directory, parent, os.path.join(parent, backup.id)):
            _check_private(directory)
        if entry.file is None:
            return None
        path = os.path.join(parent, backup.id, entry.file)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                with open(descriptor, "rb", closefd=False) as file:
                    data = file.read()
            finally:
                os.close(descriptor)
        except OSError as error:
            hint = "Choose another one: `reconciler backups`"
            raise BackupUnusableError(
                f"the backup cannot be read ({os.strerror(error.errno or 0)})", where=path, hint=hint
            ) from error
        if self._digest(data) != entry.digest:
            hint = "Inspect the file yourself, or choose another one: `reconciler backups`"
            problem = "the backup is damaged, or was made with another digest.key: its digest differs"
            raise BackupUnusableError(problem, where=path, hint=hint, id="backup-damaged")
        return Secret(data)

    async def discard(self, environment: str, identity: str) -> None:
        if identity:
            with contextlib.suppress(OSError):
                _remove(os.path.join(self._directory, environment), identity)

    async def expire(self, environment: str, *, keep: int, max_age: float, now: float) -> None:
        """A backup expires when, for every path in it, it is not the newest and is too old or one too many.

        One that cannot be removed stays: a surplus copy must not keep new files from being written.
        """
        seen: dict[str, int] = {}
        for backup in self.list(environment):
            counts = [seen.get(entry.path, 0) for entry in backup.entries]
            for entry in backup.entries:
                seen[entry.path] = seen.get(entry.path, 0) + 1
            too_old = now - backup.at > max_age
            if counts and min(counts) > 0 and (too_old or min(counts) >= keep):
                with contextlib.suppress(OSError):
                    _remove(os.path.join(self._directory, environment), backup.id)

    def _highest(self) -> int:
        """The highest number of a backup. Manifests do not change, so each is read for that once."""
        names = [(name, identity) for name in _names(self._directory) for identity in _names(self._path(name))]
        self._numbers = {name: self._numbers[name] for name in names if name in self._numbers}
        for name in names:
            if name not in self._numbers and (numbered := self._read_manifest(*name)):
                self._numbers[name] = numbered[0]
        return max(self._numbers.values(), default=0)

    def _numbered(self, environment: str | None = None) -> tuple[tuple[int, Backup], ...]:
        """Newest first, without those whose manifest cannot be read."""
        names = [environment] if environment else _names(self._directory)
        manifests = (self._read_manifest(name, identity) for name in names for identity in _names(self._path(name)))
        return tuple(sorted(filter(None, manifests), key=lambda item: item[0], reverse=True))

    def _read_manifest(self, environment: str, identity: str) -> tuple[int, Backup] | None:
        """The backup and its number; None where its manifest cannot be read."""
        with (
            contextlib.suppress(OSError, ValueError, KeyError, TypeError),
            open(self._path(environment, identity, MANIFEST), "rb") as file,
        ):
            return _from_json(json.load(file), environment, identity)
        return None

    def _path(self, *names: str) -> str:
        return os.path.join(self._directory, *names)


def _make_private(directory: str) -> None:
    """Create the directory if it is missing. Raises LiveFileError for a link, and for one that others may enter."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(directory, 0o700)
        _sync_directory(os.path.dirname(directory))
    _check_private(directory)


def _check_private(directory: str) -> None:
    """Raises LiveFileError unless it is a private directory: others could have written anything there."""
    try:
        status = os.lstat(directory)
    except OSError as error:
        problem = f"the backup directory cannot be examined ({os.strerror(error.errno or 0)})"
        raise LiveFileError(problem, where=directory, hint="Restore it from a backup of the machine") from error
    if not stat.S_ISDIR(status.st_mode):
        raise LiveFileError(
            "is a link or a file, not a directory", where=directory, hint="Backups are never stored through a link"
        )
    if status.st_mode & 0o077 or status.st_uid != os.geteuid():
        hint = f"`chown {os.geteuid()} {directory} && chmod 0700 {directory}`"
        problem = "other users may enter the backup directory"
        raise LiveFileError(problem, where=directory, hint=hint, id="backups-exposed")


def _store(parent: str, backup: Backup, number: int, files: Sequence[tuple[BackupEntry, Secret | None]]) -> None:
    making = os.path.join(parent, _HIDDEN + backup.id)
    manifest = json.dumps({"number": number, **manifest_of(backup)}, indent=1)
    os.mkdir(making, 0o700)
    try:
        for entry, data in files:
            if entry.file is not None and data is not None:
                _write(os.path.join(making, entry.file), data.reveal())
        _write(os.path.join(making, MANIFEST), manifest.encode())
        _sync_directory(making)
        os.rename(making, os.path.join(parent, backup.id))
    except BaseException:
        shutil.rmtree(making, ignore_errors=True)
        raise
    _sync_directory(parent)


def _write(path: str, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(descriptor)


def _remove(parent: str, identity: str) -> None:
    os.rename(os.path.join(parent, identity), os.path.join(parent, _HIDDEN + identity))
    shutil.rmtree(os.path.join(parent, _HIDDEN + identity))


def _clear(parent: str) -> None:
    """Delete what a kill left half written or half deleted."""
    for name in os.listdir(parent):
        if name.startswith(_HIDDEN):
            shutil.rmtree(os.path.join(parent, name), ignore_errors=True)


def _sync_directory(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _names(directory: str) -> list[str]:
    try:
        return [name for name in os.listdir(directory) if not name.startswith(_HIDDEN)]
    except (FileNotFoundError, NotADirectoryError):
        return []


def manifest_of(backup: Backup) -> dict[str, Any]:
    """The content of manifest.json."""
    return dataclasses.asdict(backup)


def _from_json(data: Mapping[str, Any], environment: str, identity: str) -> tuple[int, Backup]:
    """A manifest's number and backup. Its directory decides the environment and id: directories get copied.

    Raises KeyError, TypeError and ValueError for an invalid manifest.
    """
    backup = Backup(
        id=identity,
        environment=environment,
        run=str(data["run"]),
        at=float(data["at"]),
        from_commit=str(data["from_commit"]),
        to_commit=str(data["to_commit"]),
        entries=tuple(_entry_from_json(entry) for entry in data["entries"]),
    )
    return int(data["number"]), backup


def _entry_from_json(data: Mapping[str, Any]) -> BackupEntry:
    return BackupEntry(
        source=str(data["source"]),
        path=str(data["path"]),
        file=None if data["file"] is None else str(data["file"]),
        mode=int(data["mode"]),
        uid=int(data["uid"]),
        gid=int(data["gid"]),
        digest=str(data["digest"]),
    )
