"""`reconciler doctor`: checks every component and permission as a reconciliation uses them. Changes nothing on disk."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import stat
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from reconciler.app.config.credentials import CREDENTIALS
from reconciler.app.config.sections import HostSettings, Http
from reconciler.app.config.server import ServerConfig, load_server_config
from reconciler.app.daemon.client import control_socket
from reconciler.app.daemon.http.access import read_token
from reconciler.app.daemon.http.listening_sockets import check_http
from reconciler.app.wiring.notifications import open_messenger
from reconciler.app.wiring.server import Runtime, open_backups, runtime, scratch_state
from reconciler.app.wiring.surroundings import engine_in_use, git_surroundings
from reconciler.core.decide.next_steps import next_steps
from reconciler.core.decide.private_files import is_exposed
from reconciler.core.decide.promotion import REPORTS
from reconciler.core.decide.startup import allowed_by_container
from reconciler.core.errors import ConfigError, ReconcilerError, with_id
from reconciler.core.forge.statuses import named_with_host
from reconciler.core.model.compose import Container
from reconciler.core.model.revisions import GitRevert, Verify
from reconciler.core.model.targets import Manifest, Stack
from reconciler.core.ports import Ports
from reconciler.core.ports.forge import Forge
from reconciler.core.text import listed
from reconciler.engine.observe import Plaintexts, Snapshot, load_desired, observe, path_in_git

_AGE_KEY = "age key"
_LOW_SPACE = 64 * 1024 * 1024  # bytes: room for some backups and a fetch


@dataclass(frozen=True, slots=True)
class DoctorFinding:
    """The result for one component; ``advice`` is "" where nothing is to be done."""

    component: str
    level: Literal["ok", "warning", "error"]
    result: str
    advice: str = ""

    @property
    def bad(self) -> bool:
        return self.level == "error"


def examine_server(config_file: str) -> list[DoctorFinding]:
    """Check everything the server configuration names. Never raises ReconcilerError: what fails is a finding."""
    try:
        config = load_server_config(config_file)
    except ReconcilerError as error:
        return [_failed("server configuration", error)]
    own = _permissions("server configuration", config_file, config_file, secret=False)
    return [finding for finding in (own, *asyncio.run(_examine(config))) if finding is not None]


async def _examine(config: ServerConfig) -> list[DoctorFinding]:
    findings = [finding for finding in _files(config) if finding is not None]
    findings += [_space(config), _backups(config), _daemon(config), *_http(config.http), *_surroundings(config)]
    findings += [finding async for finding in _notifications(config)]
    try:
        with scratch_state(config) as scratch:
            try:
                async with runtime(scratch) as built:
                    key_is_bad = any(finding.bad and finding.component == _AGE_KEY for finding in findings)
                    findings += [finding async for finding in _components(built, config, key_is_bad=key_is_bad)]
            except ReconcilerError as error:
                component = "server configuration" if isinstance(error, ConfigError) else "state directory"
                findings.append(_failed(component, error))
            finally:
                findings = [_about(finding, config.state_dir, scratch.state_dir) for finding in findings]
    except ReconcilerError as error:
        findings.append(_failed("state directory", error))
    return findings


def _about(finding: DoctorFinding, state_dir: str, scratch: str) -> DoctorFinding:
    """What was found in a copy of the state directory, said of the state directory."""
    result, advice = finding.result.replace(scratch, state_dir), finding.advice.replace(scratch, state_dir)
    return replace(finding, result=result, advice=advice)


def _files(config: ServerConfig) -> list[DoctorFinding | None]:
    webhook = config.webhook.secret_file if config.webhook else None
    repository, forge = config.repository, config.forge
    return [
        _permissions(_AGE_KEY, "decryption.age_key_file", config.decryption.age_key_file, secret=True),
        _permissions("git read key", "repository.ssh_key_file", repository.ssh_key_file, secret=True),
        _permissions("git token", "repository.token_file", repository.token_file, secret=True),
        _permissions("webhook secret", "webhook.secret_file", webhook, secret=True),
        _permissions("forge token", "forge.token_file", forge.token_file if forge else None, secret=True),
        _permissions("App key", "forge.app.key_file", forge.app.key_file if forge and forge.app else None, secret=True),
        _permissions("known hosts", "repository.known_hosts_file", repository.known_hosts_file, secret=False),
        _permissions("signers", "repository.allowed_signers_file", repository.allowed_signers_file, secret=False),
        _permissions("git push key", "rollback.ssh_key_file", config.rollback.ssh_key_file, secret=True),
        _permissions("signing key", "rollback.signing_key_file", config.rollback.signing_key_file, secret=True),
        *(finding for name, host in config.hosts.items() for finding in _keys_of(name, host)),
        # Other hosts are checked by reading their live files and stacks.
        *(_directory(path) for path in config.allowed_paths if config.local),
        *(_program(name, argv[0]) for name, argv in config.checks.items() if config.local),
    ]


def _keys_of(name: str, host: HostSettings) -> list[DoctorFinding | None]:
    servers = [(f"hosts.{name}", host), *([(f"hosts.{name}.jump", host.jump)] if host.jump else [])]
    return [
        finding
        for field, server in servers
        for finding in (
            _permissions(f"key of {name}", f"{field}.key_file", server.key_file, secret=True),
            _permissions(f"host key of {name}", f"{field}.known_hosts_file", server.known_hosts_file, secret=False),
        )
    ]


def _permissions(component: str, setting: str, path: str | None, *, secret: bool) -> DoctorFinding | None:
    if path is None or path.startswith(CREDENTIALS):  # the components report it
        return None
    try:
        mode = stat.S_IMODE(os.stat(path).st_mode)
        with open(path, "rb"):
            pass
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        missing = "restore it from your copy (without one: docs/keys.md)" if component == _AGE_KEY else "create it"
        advice = missing if isinstance(error, FileNotFoundError) else "make it readable for the daemon's user"
        return DoctorFinding(component, "error", f"{path}: {reason}", f"{advice}, or correct {setting}")
    if secret and is_exposed(path, mode, os.environ.get("CREDENTIALS_DIRECTORY", "")):
        return DoctorFinding(
            component, "error", f"{path} has mode {mode:04o}: others may read it", f"`chmod 0600 {path}`"
        )
    if mode & 0o022:
        return DoctorFinding(
            component, "error", f"{path} has mode {mode:04o}: others may change it", f"`chmod go-w {path}`"
        )
    return DoctorFinding(component, "ok", path)


def _directory(path: str) -> DoctorFinding:
    component = "allowed path"
    if not os.path.isdir(path):
        return DoctorFinding(
            component, "error", f"{path} does not exist", f"`mkdir -p {path}`, or correct allowed_paths"
        )
    if not os.access(path, os.W_OK | os.X_OK):
        advice = "run the daemon as root, or let its user write there"
        return DoctorFinding(component, "error", f"{path} is not writable", advice)
    return DoctorFinding(component, "ok", path)


def _program(name: str, program: str) -> DoctorFinding:
    path = shutil.which(program)
    if path is None:
        return DoctorFinding(f"check {name}", "error", f"{program} is not installed", "install it, or remove the check")
    return DoctorFinding(f"check {name}", "ok", path)


def _space(config: ServerConfig) -> DoctorFinding:
    if not os.path.isdir(config.state_dir):
        return DoctorFinding(
            "state directory", "warning", f"{config.state_dir} does not exist", "the daemon creates it"
        )
    free = shutil.disk_usage(config.state_dir).free
    text = f"{config.state_dir}: {free // (1024 * 1024)} MiB free"
    if free < _LOW_SPACE:
        return DoctorFinding("state directory", "warning", text, "free some space: nothing is written without a backup")
    return DoctorFinding("state directory", "ok", text)


def _backups(config: ServerConfig) -> DoctorFinding:
    backups = open_backups(config)
    try:
        backups.check()
        return DoctorFinding(
            "backups", "ok", f"{len(backups.list())} backup(s); `reconciler backups --verify` reads them all"
        )
    except ReconcilerError as error:
        return _failed("backups", error)


def _daemon(config: ServerConfig) -> DoctorFinding:
    path = control_socket(config.state_dir)
    with socket.socket(socket.AF_UNIX) as client, contextlib.suppress(OSError):
        client.connect(path)  # a killed daemon leaves its socket behind, which refuses
        return DoctorFinding("daemon", "ok", f"listens on {path}")
    return DoctorFinding("daemon", "warning", "is not running", "start it: `reconciler run`, or the systemd unit")


async def _notifications(config: ServerConfig) -> AsyncIterator[DoctorFinding]:
    """Whether the file of URLs can be used, and apprise knows what is in it. Sends nothing."""
    if config.notifications is None:
        return
    component = "notifications"
    try:
        messenger = open_messenger(config)
        receivers = messenger.receivers()
    except ReconcilerError as error:
        yield _failed(component, error)
        return
    problems = await asyncio.gather(*(messenger.check(receiver) for receiver in receivers))
    for receiver, problem in zip(receivers, problems, strict=True):
        if problem:
            where = f"{config.notifications.urls_file}:{receiver.line}"
            yield DoctorFinding(component, "error", f"{where}: {problem}", "correct it (docs/notifications.md)")
    if not any(problems):
        names = listed([receiver.name for receiver in receivers])
        advice = "`reconciler notify --test` sends one message to each"
        yield DoctorFinding(component, "ok", f"{len(receivers)} receiver(s): {names}; {advice}")


def _http(http: Http) -> Iterator[DoctorFinding]:
    """Whether HTTP can be served where it shall be, and to whom."""
    if http.token_file is not None and not http.token_file.startswith(CREDENTIALS):
        try:
            read_token(http.token_file)
            yield DoctorFinding("http token", "ok", http.token_file)
        except ReconcilerError as error:
            yield _failed("http token", error)
    try:
        check_http(http)
        yield DoctorFinding("http", "ok", f"{http.listen}, {'with a' if http.token_file else 'without a'} token")
    except ReconcilerError as error:
        yield _failed("http", error)
    except FileNotFoundError:
        advice = "the unit's RuntimeDirectory makes /run/reconciler at its start; create another one yourself"
        yield DoctorFinding("http", "warning", f"{http.listen}: there is no such directory", advice)
    except OSError as error:
        yield DoctorFinding("http", "error", f"{http.listen}: {error.strerror or error}", "correct http.listen")


def _surroundings(config: ServerConfig) -> Iterator[DoctorFinding]:
    """What the environment variables and settings of whoever runs this choose; a unit may have others."""
    if config.local:
        try:
            yield DoctorFinding("engine address", "ok", engine_in_use(os.environ))
        except ReconcilerError as error:
            yield _failed("engine address", error)
    for component, result in git_surroundings(config, os.environ):
        yield DoctorFinding(component, "ok", result)


async def _components(built: Runtime, config: ServerConfig, *, key_is_bad: bool) -> AsyncIterator[DoctorFinding]:
    ports = built.ports
    if built.forge:
        yield await _forge(built.forge.forge)
    causes: dict[str, str] = {}  # where each error was reported first
    async for finding in _keys(ports):
        causes[finding.result] = _AGE_KEY if key_is_bad else finding.component
        if not (finding.bad and key_is_bad):
            yield finding
    try:
        commit = await ports.git.head()
        await ports.git.fetch(commit)
    except ReconcilerError as error:
        yield _failed("git remote", error)
        return
    yield DoctorFinding("git remote", "ok", f"{config.repository.branch} is at {commit[:12]}")
    async for finding in _trust(ports, config, commit):
        yield finding
    async for finding in _promotion(ports, config, commit):
        yield finding
    for name in config.units:
        async for finding in _environment(built, name, commit):
            # An environment has the same sources on each of its hosts.
            first = causes.setdefault(finding.result, finding.component) if finding.bad else finding.component
            yield finding if first == finding.component else replace(finding, result=f"the same as {first}", advice="")


async def _forge(forge: Forge) -> DoctorFinding:
    try:
        return DoctorFinding("forge", "ok", await forge.examine())
    except ReconcilerError as error:
        return _failed("forge", error)


async def _keys(ports: Ports) -> AsyncIterator[DoctorFinding]:
    try:
        sops = (await ports.decryptor.identity()).partition(":")[0]
        keys = await ports.decryptor.own_keys()
    except ReconcilerError as error:
        yield _failed("sops and age key", error)
        return
    yield DoctorFinding("sops and age key", "ok", f"{sops} with {keys.shown}")
    for warning in keys.warnings:
        yield DoctorFinding(_AGE_KEY, "warning", warning, "fix it or remove it; the other identities are used")


async def _trust(ports: Ports, config: ServerConfig, commit: str) -> AsyncIterator[DoctorFinding]:
    """Whether we trust the remote, and it us, as far as the server configuration requires."""
    if config.repository.verify is not Verify.NONE:
        try:
            await ports.git.verify(commit, None)
            yield DoctorFinding("signatures", "ok", f"{commit[:12]} is signed by an allowed signer")
        except ReconcilerError as error:
            yield _failed("signatures", error)
    if config.rollback.git is not GitRevert.OFF:
        try:
            await ports.git_writer.may_push(commit)
            yield DoctorFinding("git push", "ok", "the remote lets us push; branch rules show only on a real push")
        except ReconcilerError as error:
            yield _failed("git push", error)


async def _promotion(ports: Ports, config: ServerConfig, commit: str) -> AsyncIterator[DoctorFinding]:
    """Whether the remote takes our reports of health, and whether those that our gates wait for are there."""
    awaited = {f"promotion to {name}": gate.units for name, gate in ports.settings.promotion.items()}
    if config.promotion.publish:
        awaited["health reports"] = tuple(named_with_host(unit, config.host) for unit in config.units)
    for component, units in awaited.items():
        ours = component == "health reports"
        try:
            if ours:
                await ports.git_writer.may_publish(f"{REPORTS}/doctor@{config.host}/0", commit)
            refs = await ports.git.refs_below(*(f"{REPORTS}/{unit}" for unit in units))
        except ReconcilerError as error:
            yield _failed(component, error)
            continue
        reporting = {ref.removeprefix(f"{REPORTS}/").rpartition("/")[0] for ref in refs}
        if silent := [unit for unit in units if unit not in reporting]:
            advice = "set promotion.publish: true there, or correct promotion.gates"
            advice = "unless it is unhealthy, the daemon's log says what the remote refuses" if ours else advice
            yield DoctorFinding(component, "warning", f"the repository has no report of {', '.join(silent)}", advice)
        else:
            yield DoctorFinding(component, "ok", f"the repository has those of {', '.join(units)}")


async def _environment(built: Runtime, name: str, commit: str) -> AsyncIterator[DoctorFinding]:
    ports, component = built.ports_of(name), f"environment {name}"
    try:
        revision = await ports.git.revision(commit, path_in_git(ports, name))
        desired = await load_desired(ports, name, revision, Plaintexts(ports))
        yield DoctorFinding(component, "ok", f"{len(desired.manifest.targets)} source(s) read and decrypted")
        snapshot = await observe(ports, desired)
        yield DoctorFinding(f"{component}: live files", "ok", _present(snapshot))
    except ReconcilerError as error:
        yield _failed(component, error)
        return
    async for finding in _stacks(ports, desired.manifest):
        yield finding


def _present(snapshot: Snapshot) -> str:
    targets = snapshot.desired.manifest.targets
    present = sum(snapshot.live[target.path] is not None for target in targets)
    return f"{present} of {len(targets)} exist; no symlink in their paths"


async def _stacks(ports: Ports, manifest: Manifest) -> AsyncIterator[DoctorFinding]:
    for stack in manifest.stacks:
        component = f"stack {stack.id}"
        try:
            project = await ports.compose.project(stack)
            containers = await ports.compose.containers(stack, project.name)
        except ReconcilerError as error:
            yield _failed(component, error)
            continue
        text = f"project {project.name}: {len(project.services)} service(s), {len(containers)} container(s)"
        steps = next_steps(stack, project)
        text += f", run as `{steps.up}`" if containers and steps.up else ""
        advice = "" if containers else steps.first_start()
        yield DoctorFinding(component, "ok" if containers else "warning", text, advice)
        if slow := _slow_starters(stack, containers):
            advice = "raise health.timeout, or shorten the health checks: a change waits as long as they allow"
            yield DoctorFinding(f"{component}: health.timeout", "warning", slow, advice)


def _slow_starters(stack: Stack, containers: Sequence[Container]) -> str:
    """The services whose health check allows more time than health.timeout; "" where there are none."""
    allowed = {container.service: allowed_by_container(container) for container in containers}
    slow = [f"{service} {seconds:g} s" for service, seconds in allowed.items() if seconds > stack.health.timeout]
    return f"is {stack.health.timeout:g} s, and health checks allow {listed(slow)}" if slow else ""


def _failed(component: str, error: ReconcilerError) -> DoctorFinding:
    result = f"{error.where}: {error.what}" if error.where else error.what
    hint = with_id(error.hint, error.id)
    return DoctorFinding(component, "error", result if hint else with_id(result, error.id), hint)
