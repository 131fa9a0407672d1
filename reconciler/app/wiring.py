"""The composition root: the only module that knows both the server's file and the adapters."""

from __future__ import annotations

import contextlib
import os
import posixpath
import secrets
from collections.abc import AsyncIterator, Callable, Collection, Coroutine
from dataclasses import dataclass
from importlib.metadata import version

from reconciler.adapters.backups import BackupDirectory
from reconciler.adapters.clock import SystemClock
from reconciler.adapters.compose import DockerCompose
from reconciler.adapters.contracts import JsonSchemaContracts
from reconciler.adapters.file_watch import FileWatch
from reconciler.adapters.git import GitMirror
from reconciler.adapters.git_writer import GitPusher
from reconciler.adapters.local_host import LocalHost
from reconciler.adapters.metrics import PrometheusMetrics
from reconciler.adapters.probe import HttpHealth
from reconciler.adapters.sops import Sops
from reconciler.adapters.store import SqliteStore
from reconciler.app import logs
from reconciler.app.config import ServerConfig, read_manifest
from reconciler.app.contract_file import read_contract
from reconciler.app.server_file import HistoryRewrites
from reconciler.core.errors import ConfigError, ManifestError, RefusedError, StoreError
from reconciler.core.model import Manifest, Settings, Verify
from reconciler.core.ports import Ports
from reconciler.core.secret import DIGEST_KEY_BYTES, Digester
from reconciler.engine.reconcile import Claims, Reconciler

_ANOTHER_KEY = (
    "Put the right one back from a backup of the machine. If it is lost, move state.db and digest.key away and start "
    "again: files equal to git are then recorded, one that differs is held as first contact. The backups so far stay, "
    "but can only be put back by hand"
)


@dataclass(slots=True)
class Relay:
    """Carries a pass's progress to whoever listens now."""

    listener: Callable[[str], None] | None = None

    def __call__(self, text: str) -> None:
        if self.listener is not None:
            self.listener(text)

    def listen(self, listener: Callable[[str], None] | None) -> None:
        self.listener = listener


@dataclass(frozen=True, slots=True)
class Runtime:
    """Everything built from one server's file."""

    ports: Ports
    passes: dict[str, Reconciler]
    metrics: PrometheusMetrics
    relay: Relay
    watch: FileWatch
    follow_engine: Callable[[Callable[[], None], Callable[[], Collection[str]]], Coroutine[None, None, None]]


def prepare_state_dir(path: str) -> None:
    """Make the state directory, 0700. Raises ConfigError where it cannot be made or others may write to it."""
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        found = os.stat(path)
    except OSError as error:
        hint = "Correct state_dir in the server's file, or run as root"
        raise ConfigError(
            f"cannot make the state directory ({os.strerror(error.errno or 0)})", where=path, hint=hint
        ) from error
    if found.st_mode & 0o022:
        raise ConfigError("others may write to the state directory", where=path, hint=f"`chmod 0700 {path}`")


def open_store(config: ServerConfig) -> SqliteStore:
    """What history and status read. Raises StoreError."""
    return SqliteStore(os.path.join(config.state_dir, "state.db"))


def open_backups(config: ServerConfig) -> BackupDirectory:
    """What the commands read. The digest key is asked for only where a file is compared: StoreError without one."""
    return BackupDirectory(_backups_dir(config), lambda data: _read_digest_key(config.state_dir)(data))


def _backups_dir(config: ServerConfig) -> str:
    return os.path.join(config.state_dir, "backups")


async def manifest_at_head(config: ServerConfig, environment: str) -> Manifest:
    """The manifest of an environment as the remote has it now, resolved for this server.

    Raises RefusedError where this server follows no such environment, GitUnreachableError, ManifestError.
    """
    if environment not in config.environment:
        known = f"It follows: {', '.join(config.environment)}"
        raise RefusedError(f"this server does not follow an environment {environment}", hint=known)
    prepare_state_dir(config.state_dir)
    mirror = _mirror(config)
    commit = await mirror.head()
    await mirror.fetch(commit)
    path = posixpath.normpath(posixpath.join(config.repository.path, environment, "environment.yaml"))
    blob = await mirror.read(commit, path)
    if blob is None:
        raise ManifestError("is not there", where=path, hint="Name another environment")
    return read_manifest(blob.data, environment=environment, file=path, server=config)


def _mirror(config: ServerConfig) -> GitMirror:
    return GitMirror(
        url=config.repository.url,
        branch=config.repository.branch,
        state_dir=config.state_dir,
        ssh_key_file=config.repository.ssh_key_file,
        known_hosts_file=config.repository.known_hosts_file,
        token_file=config.repository.token_file,
        allowed_signers_file=config.repository.allowed_signers_file,
    )


@contextlib.asynccontextmanager
async def runtime(config: ServerConfig) -> AsyncIterator[Runtime]:
    """Build every port for ``config``; what was opened is closed at the end. The caller holds the lock."""
    _refuse_what_is_to_come(config)
    prepare_state_dir(config.state_dir)
    with contextlib.closing(open_store(config)) as store:
        async with _built(config, store) as built:
            yield built


@contextlib.asynccontextmanager
async def _built(config: ServerConfig, store: SqliteStore) -> AsyncIterator[Runtime]:
    relay = Relay()
    digest = _digester(config.state_dir, store)
    environments = config.environment
    interval = min(config.repository.poll_interval, config.drift.interval)
    metrics = PrometheusMetrics(version("reconciler"), environments, interval)
    compose = DockerCompose(os.path.join(config.state_dir, "stage"), os.environ)
    mirror = _mirror(config)
    sops = Sops(config.decryption.age_key_file or "", binary=config.decryption.sops_binary)
    ports = Ports(
        git=mirror,
        git_writer=GitPusher(
            mirror,
            author=config.author,
            push_key_file=config.rollback.ssh_key_file,
            signing_key_file=config.rollback.signing_key_file,
            verifies=config.repository.verify is not Verify.NONE,
        ),
        decryptor=sops,
        encryptor=sops,
        host=LocalHost(config.allowed_paths),
        compose=compose,
        backups=BackupDirectory(_backups_dir(config), digest),
        store=store,
        probe=HttpHealth(),
        clock=SystemClock(),
        metrics=metrics,
        digest=digest,
        settings=_settings(config),
        read_manifest=lambda text, environment, file: read_manifest(
            text, environment=environment, file=file, server=config
        ),
        contracts=JsonSchemaContracts(),
        read_contract=read_contract,
        new_run_id=lambda: secrets.token_hex(4),
        progress=relay,
    )
    for name in environments:
        metrics.backups(name, ports.backups.list(name))
    claims = Claims()
    try:
        passes = {name: Reconciler(ports, name, claims) for name in environments}
        watch = FileWatch(config.allowed_paths, lambda text: logs.get_logger().warning(text))
        yield Runtime(ports, passes, metrics, relay, watch, compose.follow)
    finally:
        await compose.close()


def _refuse_what_is_to_come(config: ServerConfig) -> None:
    """Settings that this version reads and does not act on yet must not be taken for protection. Raises ConfigError."""
    if config.hosts:
        raise ConfigError(
            "hosts over SSH are not supported by this version", where="hosts", hint="Run a daemon on each host"
        )


def _settings(config: ServerConfig) -> Settings:
    return Settings(
        repository_path="" if config.repository.path == "." else config.repository.path,
        branch=config.repository.branch,
        allowed_paths=tuple(config.allowed_paths),
        allow_compose_files=config.allow_compose_files,
        verify=config.repository.verify,
        host=config.host,
        git_revert=config.rollback.git,
        max_reverts_per_day=config.rollback.max_per_day,
        accept_rewrites=config.repository.history_rewrites is HistoryRewrites.ACCEPT,
        keep_backups=config.backups.keep,
        backup_max_age=config.backups.max_age,
        drift_interval=config.drift.interval,
    )


def _digester(state_dir: str, store: SqliteStore) -> Digester:
    """The server's own digest key, made at first start (0600).

    Raises StoreError for one of the wrong size, that cannot be made or read, or that is not the one by which the
    store's digests were made: with another, every file would look changed, in every pass.
    """
    path, known = _digest_key_file(state_dir), store.digest_key()
    try:
        if known is None and not os.path.exists(path):
            _make_digest_key(path)
    except OSError as error:
        hint = "Make the state directory writable for the daemon's user, with room in it"
        what = f"the digest key cannot be made ({os.strerror(error.errno or 0)})"
        raise StoreError(what, where=path, hint=hint) from error
    digester = _read_digest_key(state_dir)
    mark = digester(b"the digest key")
    if known is None:
        store.note_digest_key(mark)
    elif known != mark:
        raise StoreError("this is not the digest key that state.db was made with", where=path, hint=_ANOTHER_KEY)
    return digester


def _digest_key_file(state_dir: str) -> str:
    return os.path.join(state_dir, "digest.key")


def _read_digest_key(state_dir: str) -> Digester:
    """Raises StoreError."""
    path = _digest_key_file(state_dir)
    try:
        with open(path, "rb") as file:
            key = file.read(DIGEST_KEY_BYTES + 1)
    except FileNotFoundError as error:
        raise StoreError("the digest key is gone", where=path, hint=_ANOTHER_KEY) from error
    except OSError as error:
        hint = "Make it readable for the daemon's user"
        what = f"the digest key cannot be read ({os.strerror(error.errno or 0)})"
        raise StoreError(what, where=path, hint=hint) from error
    if len(key) != DIGEST_KEY_BYTES:
        raise StoreError(f"the digest key does not have {DIGEST_KEY_BYTES} bytes", where=path, hint=_ANOTHER_KEY)
    return Digester(key)


def _make_digest_key(path: str) -> None:
    """Whole, or not at all; where another process is faster, its key stays."""
    new = f"{path}.new"
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(DIGEST_KEY_BYTES))
            file.flush()
            os.fsync(descriptor)
        with contextlib.suppress(FileExistsError):
            os.link(new, path)
    finally:
        os.unlink(new)
