"""The composition root: the only module that knows both the server's file and the adapters."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from importlib.metadata import version

from reconciler.adapters.backups import BackupDirectory
from reconciler.adapters.clock import SystemClock
from reconciler.adapters.compose import DockerCompose
from reconciler.adapters.git import GitMirror
from reconciler.adapters.git_writer import GitPusher
from reconciler.adapters.local_host import LocalHost
from reconciler.adapters.metrics import PrometheusMetrics
from reconciler.adapters.probe import HttpHealth
from reconciler.adapters.sops import Sops
from reconciler.adapters.store import SqliteStore
from reconciler.app.config import ServerConfig, read_manifest
from reconciler.app.server_file import HistoryRewrites
from reconciler.core.errors import ConfigError, StoreError
from reconciler.core.model import Settings, Verify
from reconciler.core.ports import Ports
from reconciler.core.secret import DIGEST_KEY_BYTES, Digester
from reconciler.engine.reconcile import Claims, Reconciler


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
    return BackupDirectory(os.path.join(config.state_dir, "backups"), _digester(config.state_dir))


@contextlib.asynccontextmanager
async def runtime(config: ServerConfig) -> AsyncIterator[Runtime]:
    """Build every port for ``config``; what was opened is closed at the end. The caller holds the lock."""
    _refuse_what_is_to_come(config)
    prepare_state_dir(config.state_dir)
    relay = Relay()
    environments = config.environment
    metrics = PrometheusMetrics(version("reconciler"), environments)
    compose = DockerCompose(os.path.join(config.state_dir, "stage"), os.environ)
    store = open_store(config)
    mirror = GitMirror(
        url=config.repository.url,
        branch=config.repository.branch,
        state_dir=config.state_dir,
        ssh_key_file=config.repository.ssh_key_file,
        known_hosts_file=config.repository.known_hosts_file,
        token_file=config.repository.token_file,
        allowed_signers_file=config.repository.allowed_signers_file,
    )
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
        backups=open_backups(config),
        store=store,
        probe=HttpHealth(),
        clock=SystemClock(),
        metrics=metrics,
        digest=_digester(config.state_dir),
        settings=_settings(config),
        read_manifest=lambda text, environment, file: read_manifest(
            text, environment=environment, file=file, server=config
        ),
        new_run_id=lambda: secrets.token_hex(4),
        progress=relay,
    )
    for name in environments:
        found = ports.backups.list(name)
        metrics.backups_found(name, len(found), found[0].at if found else 0.0)
    claims = Claims()
    try:
        yield Runtime(ports, {name: Reconciler(ports, name, claims) for name in environments}, metrics, relay)
    finally:
        await compose.close()
        store.close()


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


def _digester(state_dir: str) -> Digester:
    """The server's own digest key, made at first start (0600).

    Raises StoreError for one of the wrong size, or that cannot be made or read.
    """
    path = os.path.join(state_dir, "digest.key")
    try:
        if not os.path.exists(path):
            _make_digest_key(path)
        with open(path, "rb") as file:
            key = file.read(DIGEST_KEY_BYTES + 1)
    except OSError as error:
        hint = "Make the state directory writable for the daemon's user, with room in it"
        what = f"the digest key cannot be made or read ({os.strerror(error.errno or 0)})"
        raise StoreError(what, where=path, hint=hint) from error
    if len(key) != DIGEST_KEY_BYTES:
        hint = "Move it away together with state.db; live files that differ from git are then held as first contact"
        raise StoreError(f"the digest key does not have {DIGEST_KEY_BYTES} bytes", where=path, hint=hint)
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
