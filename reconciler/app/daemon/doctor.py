"""`reconciler doctor`: every real component and permission, asked the way a pass would ask it. Changes nothing live."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import stat
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Literal

from reconciler.app.config.server import ServerConfig, SshHost, load_server_config
from reconciler.app.daemon.commands import control_socket
from reconciler.app.wiring.server import Runtime, open_backups, runtime
from reconciler.core.errors import ConfigError, ReconcilerError
from reconciler.core.model.revisions import GitRevert, Verify
from reconciler.core.model.targets import Manifest
from reconciler.core.ports import Ports
from reconciler.engine.observe import Plaintexts, Snapshot, load_desired, observe, path_in_git

_LOW_SPACE = 64 * 1024 * 1024  # bytes: room for some backups and a fetch


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was examined; ``advice`` is empty where nothing is to be done."""

    what: str
    level: Literal["ok", "warning", "error"]
    found: str
    advice: str = ""

    @property
    def bad(self) -> bool:
        return self.level == "error"


def examine(config_file: str) -> list[Finding]:
    """Examine everything that the server's file names. Never raises ReconcilerError: what fails is a finding."""
    try:
        config = load_server_config(config_file)
    except ReconcilerError as error:
        return [_failed("server's file", error)]
    own = _permissions("server's file", config_file, config_file, secret=False)
    return [finding for finding in (own, *asyncio.run(_examine(config))) if finding is not None]


async def _examine(config: ServerConfig) -> list[Finding]:
    findings = [finding for finding in _files(config) if finding is not None]
    try:
        async with runtime(config) as built:
            findings += [_space(config), _backups(config), _daemon(config)]
            findings += [finding async for finding in _components(built, config)]
    except ReconcilerError as error:
        findings.append(_failed("server's file" if isinstance(error, ConfigError) else "state directory", error))
    return findings


def _files(config: ServerConfig) -> list[Finding | None]:
    webhook = config.webhook.secret_file if config.webhook else None
    repository = config.repository
    return [
        _permissions("age key", "decryption.age_key_file", config.decryption.age_key_file, secret=True),
        _permissions("git read key", "repository.ssh_key_file", repository.ssh_key_file, secret=True),
        _permissions("git token", "repository.token_file", repository.token_file, secret=True),
        _permissions("webhook secret", "webhook.secret_file", webhook, secret=True),
        _permissions("known hosts", "repository.known_hosts_file", repository.known_hosts_file, secret=False),
        _permissions("signers", "repository.allowed_signers_file", repository.allowed_signers_file, secret=False),
        _permissions("git push key", "rollback.ssh_key_file", config.rollback.ssh_key_file, secret=True),
        _permissions("signing key", "rollback.signing_key_file", config.rollback.signing_key_file, secret=True),
        *(found for name, host in config.hosts.items() for found in _keys_of(name, host)),
        # What is on other hosts is found out by looking at their live files and stacks.
        *(_directory(path) for path in config.allowed_paths if config.local),
        *(_program(name, argv[0]) for name, argv in config.checks.items() if config.local),
    ]


def _keys_of(name: str, host: SshHost) -> list[Finding | None]:
    ways = [(f"hosts.{name}", host), *([(f"hosts.{name}.jump", host.jump)] if host.jump else [])]
    return [
        found
        for field, way in ways
        for found in (
            _permissions(f"key of {name}", f"{field}.key_file", way.key_file, secret=True),
            _permissions(f"host key of {name}", f"{field}.known_hosts_file", way.known_hosts_file, secret=False),
        )
    ]


def _permissions(what: str, setting: str, path: str | None, *, secret: bool) -> Finding | None:
    if path is None:
        return None
    try:
        mode = stat.S_IMODE(os.stat(path).st_mode)
        with open(path, "rb"):
            pass
    except OSError as error:
        why = os.strerror(error.errno or 0)
        do = "put it there" if isinstance(error, FileNotFoundError) else "make it readable for the daemon's user"
        return Finding(what, "error", f"{path}: {why}", f"{do}, or correct {setting}")
    if secret and mode & 0o077:
        return Finding(what, "error", f"{path} has mode {mode:04o}: others may read it", f"`chmod 0600 {path}`")
    if mode & 0o022:
        return Finding(what, "error", f"{path} has mode {mode:04o}: others may change it", f"`chmod go-w {path}`")
    return Finding(what, "ok", path)


def _directory(path: str) -> Finding:
    what = "allowed path"
    if not os.path.isdir(path):
        return Finding(what, "error", f"{path} is not there", f"`mkdir -p {path}`, or correct allowed_paths")
    if not os.access(path, os.W_OK | os.X_OK):
        return Finding(
            what, "error", f"{path} cannot be written", "run the daemon as root or give its user the directory"
        )
    return Finding(what, "ok", path)


def _program(name: str, program: str) -> Finding:
    found = shutil.which(program)
    if found is None:
        return Finding(f"check {name}", "error", f"{program} is not installed", "install it, or remove the check")
    return Finding(f"check {name}", "ok", found)


def _space(config: ServerConfig) -> Finding:
    free = shutil.disk_usage(config.state_dir).free
    text = f"{config.state_dir}: {free // (1024 * 1024)} MiB free"
    if free < _LOW_SPACE:
        return Finding("state directory", "warning", text, "free some space: without a backup nothing is written")
    return Finding("state directory", "ok", text)


def _backups(config: ServerConfig) -> Finding:
    backups = open_backups(config)
    try:
        backups.check()
        return Finding("backups", "ok", f"{len(backups.list())} there; `reconciler backups --verify` reads them all")
    except ReconcilerError as error:
        return _failed("backups", error)


def _daemon(config: ServerConfig) -> Finding:
    path = control_socket(config)
    with socket.socket(socket.AF_UNIX) as client, contextlib.suppress(OSError):
        client.connect(path)  # a killed daemon leaves its socket behind, and nobody answers there
        return Finding("daemon", "ok", f"listens on {path}")
    return Finding("daemon", "warning", "is not running", "start it: `reconciler run`, or the systemd unit")


async def _components(built: Runtime, config: ServerConfig) -> AsyncIterator[Finding]:
    ports = built.ports
    try:
        yield Finding("sops and age key", "ok", await ports.decryptor.identity())
    except ReconcilerError as error:
        yield _failed("sops and age key", error)
    try:
        commit = await ports.git.head()
        await ports.git.fetch(commit)
    except ReconcilerError as error:
        yield _failed("git remote", error)
        return
    yield Finding("git remote", "ok", f"{config.repository.branch} is at {commit[:12]}")
    async for finding in _trust(ports, config, commit):
        yield finding
    for name in config.units:
        async for finding in _environment(built, name, commit):
            yield finding


async def _trust(ports: Ports, config: ServerConfig, commit: str) -> AsyncIterator[Finding]:
    """Whether we believe the remote, and it us, as far as the server's file asks for it."""
    if config.repository.verify is not Verify.NONE:
        try:
            await ports.git.verify(commit, None)
            yield Finding("signatures", "ok", f"{commit[:12]} is signed by an allowed signer")
        except ReconcilerError as error:
            yield _failed("signatures", error)
    if config.rollback.git is not GitRevert.OFF:
        try:
            await ports.git_writer.may_push(commit)
            yield Finding("git push", "ok", "the remote lets us push; a rule of a branch shows only when we do")
        except ReconcilerError as error:
            yield _failed("git push", error)


async def _environment(built: Runtime, name: str, commit: str) -> AsyncIterator[Finding]:
    ports, what = built.ports_of(name), f"environment {name}"
    try:
        revision = await ports.git.revision(commit, path_in_git(ports, name))
        wanted = await load_desired(ports, name, revision, Plaintexts(ports))
        yield Finding(what, "ok", f"{len(wanted.manifest.targets)} source(s) read and decrypted")
        snapshot = await observe(ports, wanted)
        yield Finding(f"{what}: live files", "ok", _present(snapshot))
    except ReconcilerError as error:
        yield _failed(what, error)
        return
    async for finding in _stacks(ports, wanted.manifest):
        yield finding


def _present(snapshot: Snapshot) -> str:
    targets = snapshot.desired.manifest.targets
    there = sum(snapshot.live[target.path] is not None for target in targets)
    return f"{there} of {len(targets)} are there; no link on the way"


async def _stacks(ports: Ports, manifest: Manifest) -> AsyncIterator[Finding]:
    for stack in manifest.stacks:
        what = f"stack {stack.id}"
        try:
            project = await ports.compose.project(stack)
            containers = await ports.compose.containers(stack, project.name)
        except ReconcilerError as error:
            yield _failed(what, error)
            continue
        text = f"project {project.name}: {len(project.services)} service(s), {len(containers)} container(s)"
        advice = "" if containers else f"`docker compose up -d` in {stack.directory}: services are only ever recreated"
        yield Finding(what, "ok" if containers else "warning", text, advice)


def _failed(what: str, error: ReconcilerError) -> Finding:
    found = f"{error.where}: {error.what}" if error.where else error.what
    return Finding(what, "error", found, error.hint)
