"""The server configuration: where live files may go and what may run (docs/configuration.md)."""

from __future__ import annotations

import os
import posixpath
import socket
from collections.abc import Collection, Iterator, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from reconciler.app.config.comparisons import ComparisonSettings, comparisons_make_sense
from reconciler.app.config.forge import ForgeAddress, ForgeSettings, forge_address, forge_problems
from reconciler.app.config.listening import LISTEN, UNIX
from reconciler.app.config.models import Items, OneOrMany, Section, read_sections
from reconciler.app.config.notifications import Notifications
from reconciler.app.config.probes import ProbeFields
from reconciler.app.config.promotion import PromotionSettings, gates_make_sense
from reconciler.app.config.scalars import (
    ABSOLUTE_PATH,
    ARGUMENT,
    NAME,
    STACK,
    AbsolutePath,
    Host,
    Name,
    mistake,
    written,
)
from reconciler.app.config.sections import (
    BackupSettings,
    Decryption,
    Drift,
    HostSettings,
    Http,
    Repository,
    Rollback,
    RolloutSettings,
    StackSettings,
    Webhook,
)
from reconciler.app.config.state_dir import DEFAULT_STATE_DIR
from reconciler.app.config.strict_yaml import MAX_BYTES, Document, FieldPath, Problem, shown
from reconciler.core.decide.guards import is_below
from reconciler.core.errors import ConfigError
from reconciler.core.model.revisions import GitRevert, Verify
from reconciler.core.model.targets import Check, on_host

FILE_ARGUMENT = "{file}"
_OWN_PATHS: tuple[FieldPath, ...] = (("state_dir",), ("decryption", "sops_binary"))


def _not_everything(paths: tuple[str, ...]) -> tuple[str, ...]:
    if "/" in paths:
        raise mistake("must not hold /", "directories that hold live files and nothing that runs")
    return paths


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    if len({name.casefold() for name in names}) != len(names):
        raise mistake("names an environment twice", "each name once, ignoring case")
    return names


def _runs_on_a_file(argv: tuple[str, ...]) -> tuple[str, ...]:
    accepted = f"a list such as [nginx, -t, -c, '{FILE_ARGUMENT}']"
    if not any(FILE_ARGUMENT in argument for argument in argv):
        raise mistake(f"does not say where the staged file goes ({FILE_ARGUMENT})", accepted)
    if FILE_ARGUMENT in argv[0]:
        raise mistake("would run the staged file itself", accepted)
    return argv


Argv = Annotated[tuple[Annotated[str, ARGUMENT], ...], Items(1), AfterValidator(_runs_on_a_file)]


class ServerConfig(Section):
    """The server configuration. Its author decides where live files may go and what may run; git cannot."""

    model_config = ConfigDict(title="reconciler.yaml")

    environment: Annotated[tuple[Name, ...], Items(1), AfterValidator(_distinct), OneOrMany(NAME)] = Field(
        description="The environment this server follows, a directory below repository.path; or several."
    )
    host: Name = Field(
        default_factory=socket.gethostname,
        description="This machine's name in a stack's hosts, in metrics and alerts. Default: its hostname.",
    )
    repository: Repository = Field(description="The config repository.")
    decryption: Decryption = Field(default_factory=Decryption, description="The key and the program for decryption.")
    allowed_paths: Annotated[tuple[AbsolutePath, ...], Items(1), AfterValidator(_not_everything)] = Field(
        description="Live files and stack directories must be below these, after links are resolved."
    )
    allow_compose_files: bool = Field(
        default=False,
        description="Whether git may change what Compose runs (compose files, and keys of a project's .env such "
        "as COMPOSE_*, DOCKER_* and LD_PRELOAD). Whoever merges can then run anything on this server.",
    )
    health_hosts: Annotated[tuple[Host, ...], Items()] = Field(
        default=(), description="Hosts other than loopback that a manifest's health.http may use."
    )
    state_dir: AbsolutePath = written(
        DEFAULT_STATE_DIR, ABSOLUTE_PATH, "The daemon's state: mirror, database, digest key, backups."
    )
    backups: BackupSettings = Field(default_factory=BackupSettings, description="How many backups are kept.")
    drift: Drift = Field(default_factory=Drift, description="How drift is handled.")
    http: Http = Field(default_factory=Http, description="The daemon's HTTP server.")
    webhook: Webhook | None = Field(default=None, description="Lets the git server announce a push.")
    forge: ForgeSettings | None = Field(default=None, description="Where results are reported beside the commits.")
    notifications: Notifications | None = Field(default=None, description="Who is notified of what.")
    rollback: Rollback = Field(default_factory=Rollback, description="What a rollback does in git.")
    checks: dict[Name, Argv] = Field(
        default_factory=dict, description="Commands that a manifest may name, not define; they run on the staged file."
    )
    probes: dict[Name, ProbeFields] = Field(
        default_factory=dict, description="What `reconciler compare` asks both sides besides files and containers."
    )
    comparisons: dict[Name, ComparisonSettings] = Field(
        default_factory=dict, description="Which sides the daemon keeps comparing, by a name of your own."
    )
    local: bool = Field(
        default=True,
        description="Whether this machine is itself a host of its environments; false if it only manages others.",
    )
    swarm_manager: bool = Field(
        default=False,
        description="Whether this machine is a manager of a Docker Swarm: only then stacks may have kind: swarm here.",
    )
    hosts: dict[Name, HostSettings] = Field(
        default_factory=dict, description="More hosts of the environments, reached over SSH, by name."
    )
    rollout: RolloutSettings = Field(
        default_factory=RolloutSettings, description="How a new revision reaches several hosts."
    )
    promotion: PromotionSettings = Field(
        default_factory=PromotionSettings, description="Which environments wait for others before they get a revision."
    )
    stacks: dict[Annotated[str, STACK], StackSettings] = Field(
        default_factory=dict, description="What git may do with a stack, by NAME or ENVIRONMENT/NAME."
    )

    def hosts_of(self, environment: str) -> Mapping[str, HostSettings]:
        """The other machines of the environment, in the order of the file."""
        return {
            name: host for name, host in self.hosts.items() if environment in (host.environment or self.environment)
        }

    def on(self, host: str) -> ServerConfig:
        """The configuration as it is for another one of the hosts, by name; "" is this machine."""
        if not host or host == self.host:
            return self
        manager = host in self.hosts and self.hosts[host].swarm_manager
        return self.model_copy(update={"host": host, "swarm_manager": manager})

    @property
    def units(self) -> Mapping[str, HostSettings | None]:
        """Every environment on each of its hosts, by unit name; None is this machine."""
        units: dict[str, HostSettings | None] = {}
        for environment in self.environment:
            if self.local:
                units[environment] = None
            units |= {on_host(environment, name): host for name, host in self.hosts_of(environment).items()}
        return units

    @property
    def author(self) -> str:
        """The author of a rollback's commits."""
        return self.rollback.author or f"reconciler <reconciler@{self.host}>"

    @property
    def git_may_change(self) -> Mapping[str, tuple[str, ...]]:
        """By stack, as it is named in the file, what of its project git may change."""
        return {name: tuple(map(str, settings.git_may_change)) for name, settings in self.stacks.items()}

    @property
    def forge_address(self) -> ForgeAddress | None:
        """The repository at its forge; None without one."""
        return forge_address(self.forge, self.repository.url) if self.forge else None

    def check(self, name: str) -> Check:
        return Check(name, self.checks[name])


def load_server_config(path: str) -> ServerConfig:
    """Read the server configuration. Raises ConfigError with every problem in it, one a line."""
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        problem, hint = f"cannot be read ({reason})", "Name the file with --config or RECONCILER_CONFIG."
        raise ConfigError(problem, where=path, hint=hint, id="server-configuration-missing") from None
    except ValueError:
        raise ConfigError("is not a valid file name", where=shown(path)) from None

    def rules(document: Document) -> Iterator[Problem]:
        yield from _hosts_make_sense(document)
        yield from _within_reach_of_git(document.data, os.path.abspath(path))
        yield from _reverts_are_signed(document)
        yield from forge_problems(document.data)
        yield from _strangers_need_a_token(document.data)
        yield from comparisons_make_sense(_section(document.data, "comparisons"), _units(document.data))
        gates = _section(_section(document.data, "promotion"), "gates")
        yield from gates_make_sense(gates, [str(name) for name in _environments_of(document.data, ())])

    return read_sections(ServerConfig, content, file=path, error=ConfigError, rules=rules)


def _within_reach_of_git(data: Mapping[str, Any], config_file: str) -> Iterator[Problem]:
    """Our own files below allowed_paths: anyone who merges could replace a key, a program or this file."""
    paths = data.get("allowed_paths")
    allowed = [_clean(path) for path in paths if _is_path(path)] if isinstance(paths, list) else []
    ours: dict[FieldPath, str] = {("state_dir",): DEFAULT_STATE_DIR, **dict(_own_files(data))}
    for field, path in ours.items():
        if any(_holds(root, path) for root in allowed):
            yield Problem(field, "lies below allowed_paths, where git may write", "a path outside of allowed_paths")
    if any(_holds(root, config_file) for root in allowed):
        yield Problem(("allowed_paths",), "holds this file, which git could then write", "directories of live files")
    if any(_holds(ours["state_dir",], root) for root in allowed):
        yield Problem(("allowed_paths",), "reaches into state_dir", "directories of live files")


def _reverts_are_signed(document: Document) -> Iterator[Problem]:
    """A revert that is pushed to a verified branch would itself be refused by every server that follows it."""
    verify = _section(document.data, "repository").get("verify", Verify.NONE)
    rollback = _section(document.data, "rollback")
    pushes = rollback.get("git", GitRevert.PUSH) == GitRevert.PUSH
    if verify in (Verify.TIP, Verify.RANGE) and pushes and rollback.get("signing_key_file") is None:
        problem = "is missing, and repository.verify with rollback.git: push needs it"
        line = document.line(("rollback",) if rollback else ("repository", "verify"))
        yield Problem(("rollback", "signing_key_file"), problem, "an absolute path", line)


def _strangers_need_a_token(data: Mapping[str, Any]) -> Iterator[Problem]:
    """An address that other machines reach. What a name stands for is only known when the daemon listens."""
    http = _section(data, "http")
    try:
        listen = LISTEN.read(http.get("listen"))
    except PydanticCustomError:  # reported with the mistakes of shape
        return
    if listen.beyond_loopback and http.get("token_file") is None:
        problem = "lets other machines connect, and there is no http.token_file"
        accepted = "a token_file beside it, 127.0.0.1:9464, or unix:/run/reconciler/http.sock for a proxy"
        yield Problem(("http", "listen"), problem, accepted, id="http-token-missing")


def _hosts_make_sense(document: Document) -> Iterator[Problem]:
    """Mistakes about hosts that depend on the rest of the file."""
    data, hosts = document.data, _section(document.data, "hosts")
    known = _environments_of(data, ())
    for name, host in hosts.items():
        if name == data.get("host"):
            yield Problem(("hosts", name), "is this machine itself", "the names of other machines")
        for environment in _environments_of(host, ()):
            if isinstance(environment, str) and environment not in known:
                problem = f"{shown(environment)} is not one of the server's environments"
                yield Problem(("hosts", name, "environment"), problem, ", ".join(map(str, known)))
    covered = [_environments_of(host, known) for host in hosts.values()]
    for environment in known if data.get("local") is False and hosts else ():
        if not any(environment in names for names in covered):
            yield Problem(("local",), f"is false, and {shown(str(environment))} has no hosts", "true, or a host for it")
    if data.get("local") is False and not hosts:
        yield Problem(("local",), "is false, and there are no hosts: nothing would be managed", "true, or some hosts")


def _units(data: Mapping[str, Any]) -> list[str]:
    """As ``ServerConfig.units``, of a file that may have mistakes."""
    known = _environments_of(data, ())
    here = known if data.get("local", True) is not False else ()
    hosts = _section(data, "hosts").items()
    there = [on_host(str(environment), name) for name, host in hosts for environment in _environments_of(host, known)]
    return [*map(str, here), *there]


def _environments_of(host: object, default: Collection[object]) -> Collection[object]:
    environments = host.get("environment", default) if isinstance(host, dict) else default
    if isinstance(environments, str):
        return [environments]
    return environments if isinstance(environments, list | tuple) else default


def _section(data: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = data.get(name)
    return section if isinstance(section, dict) else {}


def _own_files(data: Mapping[str, Any], prefix: FieldPath = ()) -> Iterator[tuple[FieldPath, str]]:
    """Every setting that names a file, directory or program of the daemon's own, as an absolute path."""
    for name, value in data.items():
        field = (*prefix, name)
        if isinstance(value, dict):
            yield from _own_files(value, field)
        elif _is_command(prefix, name) and isinstance(value, list) and value and _is_path(value[0]):
            yield (*field, 0), _clean(value[0])
        elif _is_path(value) and (name.endswith("_file") or field in _OWN_PATHS):
            yield field, _clean(value)
        elif field == ("http", "listen") and isinstance(value, str) and value.startswith(UNIX):
            yield field, _clean(value.removeprefix(UNIX))


def _is_command(prefix: FieldPath, name: str) -> bool:
    own = (*prefix, name) in (("decryption", "age_key_command"), ("forge", "token_command"))
    return own or prefix == ("checks",) or (prefix[:1] == ("probes",) and name == "run")


def _holds(directory: str, path: str) -> bool:
    """Whether ``path`` is ``directory`` or lies in it."""
    return path == directory or is_below(path, directory)


def _is_path(value: object) -> bool:
    return isinstance(value, str) and value.startswith("/")


def _clean(path: str) -> str:
    return posixpath.normpath("/" + path.lstrip("/"))
