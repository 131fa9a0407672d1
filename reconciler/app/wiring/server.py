"""The composition root: the only module that knows both the server configuration and the adapters."""

from __future__ import annotations

import contextlib
import hashlib
import os
import posixpath
import secrets
import shutil
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING

from reconciler import DISTRIBUTION
from reconciler.adapters.clock import SystemClock
from reconciler.adapters.compose.context import LocalComposeContext
from reconciler.adapters.disk import disk_state
from reconciler.adapters.git.mirror import GitMirror
from reconciler.adapters.git.writer import GitPusher
from reconciler.adapters.json_schema.client import JsonSchemaContracts
from reconciler.adapters.local.backups import BackupDirectory
from reconciler.adapters.local.file_writers import FileWriters
from reconciler.adapters.local.files import LocalHost
from reconciler.adapters.local.http_probe import HttpHealth, TunnelledHealth
from reconciler.adapters.local.watch import FileWatch
from reconciler.adapters.metrics import PrometheusMetrics
from reconciler.adapters.sops.age_keys import KeySources
from reconciler.adapters.sops.program import Sops
from reconciler.adapters.store import SqliteStore
from reconciler.adapters.store_copy import copy_database
from reconciler.app.config.contract import read_contract
from reconciler.app.config.credentials import require_credentials
from reconciler.app.config.manifest import read_manifest
from reconciler.app.config.sections import HistoryRewrites, HostSettings, SshServer
from reconciler.app.config.server import ServerConfig
from reconciler.app.wiring.digest_key import digest_key_file, open_digester, read_digester
from reconciler.app.wiring.engines import StackEngines, stack_engines
from reconciler.app.wiring.promotion import promotion_gates, promotion_observers
from reconciler.core.decide.suspension import HOUR, RUNS_LOOKED_AT, corrections
from reconciler.core.errors import ConfigError, ManifestError, RefusedError
from reconciler.core.model.hosts import SshAddress
from reconciler.core.model.revisions import Verify
from reconciler.core.model.runs import Result
from reconciler.core.model.settings import Settings
from reconciler.core.model.targets import Manifest, environment_of
from reconciler.core.ports import Ports
from reconciler.core.ports.observer import Observer
from reconciler.engine.memory import Claims
from reconciler.engine.reconcile import Reconciler
from reconciler.engine.rollout import Rollout

if TYPE_CHECKING:
    from reconciler.app.wiring.forge import ForgeParts
    from reconciler.engine.merge_plans import MergePlans


@dataclass(slots=True)
class Relay:
    """Carries a reconciliation's progress to its current listeners."""

    listener: Callable[[str], None] | None = None

    def __call__(self, text: str) -> None:
        if self.listener is not None:
            self.listener(text)

    def listen(self, listener: Callable[[str], None] | None) -> None:
        self.listener = listener


@dataclass(frozen=True, slots=True)
class Runtime:
    """Everything built from one server configuration. ``reconcilers`` are by unit: the
    name of an environment, with its host (production@web-2) where that is another machine."""

    ports: Ports
    on_hosts: Mapping[str, Ports]
    reconcilers: dict[str, Reconciler]
    rollouts: tuple[Rollout, ...]
    metrics: PrometheusMetrics
    relay: Relay
    engines: Mapping[str, StackEngines]
    forge: ForgeParts | None = None
    merge_plans: MergePlans | None = None
    observers: tuple[Observer, ...] = ()

    def ports_of(self, unit: str) -> Ports:
        """The ports of the unit's host. Raises RefusedError for a host that this server no longer has: its files are
        nowhere else."""
        if unit in self.on_hosts:
            return self.on_hosts[unit]
        if environment_of(unit) == unit:
            return self.ports
        hint = "Add the host to hosts in the server configuration again, or restore the files there by hand"
        raise RefusedError("its host is no longer one of this server's hosts", where=unit, hint=hint)


def prepare_state_dir(path: str) -> None:
    """Create the state directory, 0700. Raises ConfigError if that fails or if others may write to it."""
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
    except OSError as error:
        hint = "Correct state_dir in the server configuration, or run as root"
        raise ConfigError(
            f"cannot create the state directory ({os.strerror(error.errno or 0)})", where=path, hint=hint
        ) from error
    _check_private(path)


def _check_private(path: str) -> None:
    if os.stat(path).st_mode & 0o022:
        raise ConfigError("others may write to the state directory", where=path, hint=f"`chmod 0700 {path}`")


def open_store(config: ServerConfig) -> SqliteStore:
    """The database of the state directory. Raises StoreError."""
    return SqliteStore(_database(config.state_dir))


def _database(state_dir: str) -> str:
    return os.path.join(state_dir, "state.db")


def open_backups(config: ServerConfig) -> BackupDirectory:
    """The backups of the state directory. The digest key is read only to compare a file: StoreError without one."""
    return BackupDirectory(_backups_dir(config), lambda data: read_digester(config.state_dir)(data))


def open_watch(config: ServerConfig, warn: Callable[[str], None]) -> FileWatch:
    """What notices changes of live files; ``warn`` takes what keeps it from watching."""
    return FileWatch(config.allowed_paths, warn)


def _backups_dir(config: ServerConfig) -> str:
    return os.path.join(config.state_dir, "backups")


async def manifest_at_head(config: ServerConfig, environment: str, host: str = "") -> Manifest:
    """The manifest of an environment as the remote has it now, resolved for this server, or for one of its hosts.

    Raises RefusedError where this server follows no such environment, GitUnreachableError, ManifestError.
    """
    if environment not in config.environment:
        known = f"It follows: {', '.join(config.environment)}"
        raise RefusedError(f"this server does not follow an environment {environment}", hint=known)
    commit, mirror = await fetch_head(config), _mirror(config)
    path = posixpath.normpath(posixpath.join(config.repository.path, environment, "environment.yaml"))
    blob = await mirror.read(commit, path)
    if blob is None:
        raise ManifestError("does not exist", where=path, hint="Name another environment")
    return read_manifest(blob.data, environment=environment, file=path, server=config.on(host))


async def fetch_head(config: ServerConfig) -> str:
    """Bring the branch's head into the mirror; return its commit id. Raises ConfigError, GitUnreachableError."""
    prepare_state_dir(config.state_dir)
    mirror = _mirror(config)
    commit = await mirror.head()
    await mirror.fetch(commit)
    return commit


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


@contextlib.contextmanager
def scratch_state(config: ServerConfig) -> Iterator[ServerConfig]:
    """The same server with a copy of its state in a temporary directory, to examine it without a trace.

    Raises ConfigError where the state directory or a file in it cannot be read, or others may write to it.
    """
    with tempfile.TemporaryDirectory(prefix="reconciler-") as scratch:
        try:
            if os.path.exists(config.state_dir):
                _check_private(config.state_dir)
            copy_database(_database(config.state_dir), _database(scratch))
            if os.path.exists(key := digest_key_file(config.state_dir)):
                shutil.copyfile(key, digest_key_file(scratch))
        except OSError as error:
            hint = "Run as root, or as the daemon's user"
            problem = f"cannot be read ({os.strerror(error.errno or 0)})"
            raise ConfigError(problem, where=error.filename or config.state_dir, hint=hint) from error
        yield config.model_copy(update={"state_dir": scratch})


@contextlib.asynccontextmanager
async def runtime(
    config: ServerConfig, keys: KeySources | None = None, *, daemon: bool = False
) -> AsyncIterator[Runtime]:
    """Build every port for ``config``, and close them at the end. The caller holds the lock. ``keys`` take the place of
    the server's own. ``daemon``: who writes to live files is noticed while it lives, and there are observers, whose
    part it is to run."""
    require_credentials(config.model_dump())
    prepare_state_dir(config.state_dir)
    with contextlib.closing(open_store(config)) as store:
        async with contextlib.AsyncExitStack() as stack:
            version_file = os.path.join(config.state_dir, "sops-version.json")
            sops = Sops(keys or key_sources(config), binary=config.decryption.sops_binary, version_file=version_file)
            host = LocalHost(config.allowed_paths)
            if daemon:
                host = LocalHost(config.allowed_paths, stack.enter_context(contextlib.closing(FileWriters())))
            built = await _built(config, sops, store, host, stack)
            yield replace(built, observers=tuple(_observers(config, store, built))) if daemon else built


def _observers(config: ServerConfig, store: SqliteStore, built: Runtime) -> Iterator[Observer]:
    """Raises ConfigError."""
    if built.forge:
        yield built.forge.reports
    if built.merge_plans:
        yield built.merge_plans
    yield from promotion_observers(config, built.ports, built.reconcilers, built.metrics)
    if config.notifications:
        from reconciler.app.wiring.notifications import notification_observers

        yield from notification_observers(config, store, built.ports.clock, built.metrics)


def key_sources(config: ServerConfig) -> KeySources:
    """Where the server's own identities are."""
    decryption = config.decryption
    files = (decryption.age_key_file,) if decryption.age_key_file else ()
    return KeySources(files, command=decryption.age_key_command or (), strict=True)


async def _built(
    config: ServerConfig, sops: Sops, store: SqliteStore, host: LocalHost, stack: contextlib.AsyncExitStack
) -> Runtime:
    relay = Relay()
    digest = open_digester(config.state_dir, store)
    units = config.units
    interval = min(config.repository.poll_interval, config.drift.interval)
    metrics = PrometheusMetrics(version(DISTRIBUTION), tuple(units), interval, host=config.host)
    metrics.watch_disk(lambda: disk_state(config.state_dir))
    context = LocalComposeContext(os.path.join(config.state_dir, "stage"), os.environ, in_memory=True)
    compose = stack_engines(context, host, digest, partial(store.ever_written, ""), swarm=config.swarm_manager)
    stack.push_async_callback(compose.close)
    mirror = _mirror(config)
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
        host=host,
        compose=compose,
        backups=BackupDirectory(_backups_dir(config), digest),
        store=store,
        probe=HttpHealth(),
        clock=SystemClock(),
        metrics=metrics,
        digest=digest,
        settings=_settings(config),
        read_manifest=_manifest_reader(config),
        contracts=JsonSchemaContracts(),
        read_contract=read_contract,
        new_run_id=lambda: secrets.token_hex(4),
        progress=relay,
    )
    for name in units:
        _publish_past(ports, metrics, name)
    hosts = HostPorts(config, ports, stack)
    on_hosts = {unit: hosts.of(unit, host) for unit, host in units.items() if host is not None}
    claims: defaultdict[str, Claims] = defaultdict(Claims)
    reconcilers = {
        unit: Reconciler(on_hosts.get(unit, ports), unit, claims[on_hosts.get(unit, ports).settings.host])
        for unit in units
    }
    rollouts = _rollouts(config, ports, reconcilers)
    forge, plans = None, None
    if config.forge:  # imported here, as is whatever few servers use: the others do not pay for its memory
        from reconciler.app.wiring.forge import forge_parts
        from reconciler.app.wiring.merge_plans import merge_plans

        forge = forge_parts(config, ports, tuple(units), _database(config.state_dir), metrics.forge_requested, stack)
        plans = merge_plans(config, forge, mirror, {unit: on_hosts.get(unit, ports) for unit in units}, claims)
    engines = {unit: compose for unit, host in units.items() if host is None} | hosts.engines
    return Runtime(ports, on_hosts, reconcilers, rollouts, metrics, relay, engines, forge, plans)


def _publish_past(ports: Ports, metrics: PrometheusMetrics, environment: str) -> None:
    """What an earlier process has left that counts in the metrics."""
    metrics.backups(environment, ports.backups.list(environment))
    since = ports.clock.now() - HOUR
    runs = ports.store.runs(environment, RUNS_LOOKED_AT, since=since, result=Result.CORRECTED)
    for corrected, at in corrections(runs):
        metrics.was_corrected(environment, f"{environment}/{corrected.source}", at)


def _rollouts(config: ServerConfig, ports: Ports, reconcilers: Mapping[str, Reconciler]) -> tuple[Rollout, ...]:
    hosts = {
        environment: [host for unit, host in reconcilers.items() if environment_of(unit) == environment]
        for environment in config.environment
    }
    return tuple(Rollout(ports, mine, config.rollout.max_unavailable) for mine in hosts.values() if mine)


class HostPorts:
    """Builds the ports of other hosts: files, engine, backups and health checks, over one connection each."""

    def __init__(self, config: ServerConfig, ports: Ports, stack: contextlib.AsyncExitStack) -> None:
        self._config = config
        self._ports = ports
        self._stack = stack
        self._built: dict[str, Ports] = {}
        self._sockets = ""
        self.engines: dict[str, StackEngines] = {}

    def of(self, unit: str, host: HostSettings) -> Ports:
        name = unit.partition("@")[2]
        if name not in self._built:
            self._built[name] = self._build(name, host)
        ports = self._built[name]
        assert isinstance(ports.compose, StackEngines)
        self.engines[unit] = ports.compose
        return ports

    def _build(self, name: str, host: HostSettings) -> Ports:
        # Imported here: the daemon of a single machine does not pay for their memory.
        from reconciler.adapters.ssh.backups import SshBackups
        from reconciler.adapters.ssh.compose_context import SshComposeContext
        from reconciler.adapters.ssh.connection import SshConnection
        from reconciler.adapters.ssh.files import SshHost

        connection = SshConnection(ssh_address(host), name)
        self._stack.push_async_callback(connection.close)
        socket = os.path.join(self._socket_directory(), f"{len(self._built)}.sock")
        connection.tunnel(socket, host.docker_socket)
        # Unique there, even if several servers manage the same host.
        mark = hashlib.sha256(f"{self._config.host} {self._config.state_dir} {name}".encode()).hexdigest()[:12]
        memory = f"/dev/shm/reconciler-{mark}"  # noqa: S108  # created 0700 there, or not used
        context = SshComposeContext(connection, socket, memory)
        files = SshHost(connection, self._config.allowed_paths, memory)
        written = partial(self._ports.store.ever_written, name)
        compose = stack_engines(context, files, self._ports.digest, written, swarm=host.swarm_manager)
        self._stack.push_async_callback(compose.close)
        here = self._ports.backups
        assert isinstance(here, BackupDirectory)
        server = self._config.on(name)
        return replace(
            self._ports,
            host=files,
            compose=compose,
            backups=SshBackups(here, connection, host.backup_dir or ".reconciler/backups", mark),
            probe=TunnelledHealth(connection),
            settings=replace(self._ports.settings, host=name),
            read_manifest=_manifest_reader(server),
        )

    def _socket_directory(self) -> str:
        """A private directory with a short name: the path of a socket has at most 107 bytes."""
        if not self._sockets:
            self._sockets = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="reconciler-"))
        return self._sockets


def ssh_address(server: SshServer) -> SshAddress:
    """How a machine of the server configuration is reached."""
    jump = server.jump if isinstance(server, HostSettings) else None
    return SshAddress(
        host=server.address,
        port=server.port,
        user=server.user,
        key_file=server.key_file,
        known_hosts_file=server.known_hosts_file,
        jump=ssh_address(jump) if jump else None,
    )


def _manifest_reader(server: ServerConfig) -> Callable[[bytes, str, str], Manifest]:
    return lambda text, environment, file: read_manifest(text, environment=environment, file=file, server=server)


def _settings(config: ServerConfig) -> Settings:
    return Settings(
        repository_path="" if config.repository.path == "." else config.repository.path,
        branch=config.repository.branch,
        allowed_paths=tuple(config.allowed_paths),
        allow_compose_files=config.allow_compose_files,
        git_may_change=config.git_may_change,
        verify=config.repository.verify,
        host=config.host,
        git_revert=config.rollback.git,
        max_reverts_per_day=config.rollback.max_per_day,
        accept_rewrites=config.repository.history_rewrites is HistoryRewrites.ACCEPT,
        keep_backups=config.backups.keep,
        backup_max_age=config.backups.max_age,
        drift_interval=config.drift.interval,
        promotion=promotion_gates(config),
    )
