"""environment.yaml: the desired state of one environment, resolved for this server (docs/configuration.md)."""

from __future__ import annotations

import ipaddress
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, ConfigDict, Field, ValidatorFunctionWrapHandler, WrapValidator, model_validator
from pydantic_core import PydanticCustomError
from pydantic_core.core_schema import ValidationInfo

from reconciler.app.config.conflicts import MAX_HOSTS, conflicts
from reconciler.app.config.models import Items, OneOrMany, Section, Short, read_sections
from reconciler.app.config.scalars import (
    ABSOLUTE_FILE,
    ABSOLUTE_PATH,
    COMPOSE_FILE,
    CONTRACT,
    DURATION,
    LIVE_FILE,
    MODE,
    NAME,
    ON_CHANGE,
    PROJECT,
    PROJECT_DIRECTORY,
    SOURCE,
    Choice,
    Duration,
    Form,
    Mode,
    Name,
    Person,
    Whole,
    decided_elsewhere,
    http_url,
    mistake,
    written,
)
from reconciler.app.config.server import ServerConfig
from reconciler.app.config.strict_yaml import FieldPath, shown
from reconciler.app.config.swarm import require_swarm
from reconciler.core.decide.guards import is_below
from reconciler.core.errors import ManifestError
from reconciler.core.model.targets import (
    ChangeMode,
    HealthPolicy,
    HttpCheck,
    Manifest,
    MountedTarget,
    OnChange,
    OnDrift,
    OnFailure,
    OnFirstContact,
    Parser,
    Stack,
    StackKind,
    Target,
    WriteMode,
    environment_of,
)

_ENV_FILES = ("*.env", ".env*", "*.env.*")


# --- what depends on the server: the validators' context is its configuration, or None where that is unknown ---


def _allowed(path: str, info: ValidationInfo) -> str:
    """A live file lies below allowed_paths; a relative one does if its stack's directory does."""
    server: ServerConfig | None = info.context
    if server and path.startswith("/") and not any(is_below(path, root) for root in server.allowed_paths):
        raise _outside(server)
    return path


def _allowed_directory(path: str, info: ValidationInfo) -> str:
    server: ServerConfig | None = info.context
    if server and path not in server.allowed_paths:
        return _allowed(path, info)
    return path


def _outside(server: ServerConfig) -> PydanticCustomError:
    listed = ", ".join(shown(path) for path in server.allowed_paths[:5])
    problem, accepted = f"lies outside allowed_paths ({listed})", "a path below one of them"
    return mistake(problem, accepted, quote=True, id="outside-allowed-paths")


def _known_check(name: str, info: ValidationInfo) -> str:
    server: ServerConfig | None = info.context
    if server and name not in server.checks:
        known = ", ".join(server.checks) or "none, the server configuration has no checks"
        raise mistake("is not a check of the server", known, quote=True)
    return name


def _near(url: str, info: ValidationInfo) -> str:
    server: ServerConfig | None = info.context
    host = urlsplit(url).hostname or ""
    allowed = [name.lower() for name in server.health_hosts] if server else [host]
    if not _is_loopback(host) and host not in allowed:
        raise mistake("asks a host that is not in the server's health_hosts", "localhost, 127.0.0.1, [::1]")
    return url


def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    return address.is_loopback


KEY_PATTERN = Form(
    "a key", "a key's name, with * and ? for parts of it, such as FEATURE_*", r"^[A-Za-z0-9_.*?-]{1,200}$"
)
HEALTH_URL = Form(
    "an address to ask",
    "http:// or https:// with a host, without user and password",
    r"^https?://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(:[0-9]{1,5})?(/[!-\[\]-~]*)?$",
    http_url,
    quote=False,
)


# --- the file's shape ---


class TargetFields(Section):
    """The fields of every target, which `defaults` can set too."""

    encrypted: bool = Field(default=True, description="Whether the source is SOPS-encrypted; plaintext is refused.")
    mode: Mode = written("0600", MODE, "The live file's mode, in octal and in quotes.")
    owner: Person | None = Field(default=None, description="Its owner. Default: as it is; the daemon's for a new file.")
    group: Person | None = Field(default=None, description="Its group. Default: as the owner's.")
    on_drift: Annotated[OnDrift, Choice()] = decided_elsewhere(
        OnDrift.RESTORE, "What happens to a hand edit. Default: drift.on_drift of the server configuration."
    )
    on_change: Annotated[OnChange, ON_CHANGE] = written(
        "recreate", ON_CHANGE, "For a file that services mount: what a change does to them."
    )
    write: Annotated[WriteMode, Choice()] = Field(
        default=WriteMode.REPLACE,
        description="How it gets new content: replace puts a new file in its place, atomically; in_place writes into "
        "the file that is there, for services that mount it by itself and shall not be restarted. Not over SSH.",
    )
    on_first_contact: Annotated[OnFirstContact, Choice()] = Field(
        default=OnFirstContact.HOLD,
        description="A different file already exists: hold for an operator, or take it over with a backup.",
    )
    parser: Annotated[Parser, Choice()] = decided_elsewhere(
        Parser.COMPOSE,
        "How its keys are read: as Compose does, raw (docker run --env-file), or not at all (opaque). "
        "Default: compose for a source named *.env, .env* or *.env.*, else opaque.",
    )
    check: Annotated[str, NAME, AfterValidator(_known_check)] | None = Field(
        default=None, description="A check of the server configuration; the staged file must pass it to be written."
    )
    # By another name inside, since pydantic's models have a method called schema.
    contracts: Annotated[tuple[Annotated[str, CONTRACT], ...], Items(), OneOrMany(CONTRACT)] = Field(
        default=(),
        alias="schema",
        description="The JSON Schema that its variables must satisfy: a file below repository.path, or several.",
    )
    allow_shrink: bool = Field(default=False, description="Whether a change may remove more than half of the keys.")
    prune: bool = Field(
        default=False,
        description="Whether the live file is deleted when its target leaves git; set it before that.",
    )
    ignore_keys: Annotated[tuple[Annotated[str, KEY_PATTERN], ...], Items()] = Field(
        default=(),
        description="Keys that are left to the server, as names or globs: they keep their live value when the file is "
        "written, and never count as drift. Not for an opaque file.",
    )


class StackTarget(TargetFields):
    """A live file of a stack."""

    path: Annotated[str, LIVE_FILE, AfterValidator(_allowed)] | None = decided_elsewhere(
        None, "Where it goes: below the stack's directory, or absolute. Default: the source's own path."
    )


class LoneTarget(TargetFields):
    """A live file that belongs to no stack."""

    path: Annotated[str, ABSOLUTE_FILE, AfterValidator(_allowed)] = Field(
        description="Where it goes; absolute, as there is no stack directory."
    )


class HealthUrl(Section):
    """An address that must answer before a change counts as healthy. Redirects are not followed."""

    url: Annotated[str, HEALTH_URL, AfterValidator(_near)] = Field(
        description="http:// or https://, on loopback or a host of the server's health_hosts."
    )
    status: Annotated[int, Whole(100, 599)] = Field(default=200, description="The HTTP status that it must give.")


class Health(Section):
    """When a stack counts as healthy after a change."""

    timeout: Duration = written(
        "90s", DURATION, "How long services may take to become healthy, or as long as their health checks allow."
    )
    stable_for: Duration = written(
        "15s", DURATION, "How long a service without a health check must run without a restart."
    )
    http: Annotated[tuple[HealthUrl, ...], Items()] = Field(default=(), description="Addresses that must answer too.")

    @model_validator(mode="after")
    def _can_be_met(self) -> Health:
        if self.stable_for > self.timeout:
            raise mistake("can never succeed: timeout is shorter than stable_for", "a timeout above stable_for")
        return self


_AS_STARTED = "Default: as its containers were started, else as Compose does by itself."


class StackFields(Section):
    """A Compose project."""

    directory: Annotated[str, ABSOLUTE_PATH, AfterValidator(_allowed_directory)] = Field(
        description="Where `docker compose` runs: absolute, below the server's allowed_paths."
    )
    files: Annotated[tuple[Annotated[str, COMPOSE_FILE, AfterValidator(_allowed)], ...], Items()] = Field(
        default=(), description="Compose files, as `-f`: below the directory, or absolute. " + _AS_STARTED
    )
    env_files: Annotated[tuple[Annotated[str, COMPOSE_FILE, AfterValidator(_allowed)], ...], Items()] = Field(
        default=(), description="Env files that Compose interpolates with, as `--env-file`. " + _AS_STARTED
    )
    project: Annotated[str, PROJECT] | None = Field(
        default=None, description="The project's name, as `-p`. " + _AS_STARTED
    )
    project_directory: Annotated[str, PROJECT_DIRECTORY, AfterValidator(_allowed_directory)] | None = Field(
        default=None, description="Where relative paths start, as `--project-directory`. " + _AS_STARTED
    )
    profiles: Annotated[tuple[Name, ...], Items()] = Field(default=(), description="Compose profiles to be active.")
    hosts: Annotated[tuple[Name, ...], Items(1, MAX_HOSTS)] | None = Field(
        default=None, description="The hosts that run the stack. Default: every host of the environment."
    )
    health: Health = Field(default_factory=Health, description="When it counts as healthy after a change.")
    on_failure: Annotated[OnFailure, Choice()] = Field(
        default=OnFailure.ROLLBACK,
        description="A change that is not healthy: roll back, or hold the new files and page an operator.",
    )
    one_shot: Annotated[tuple[Name, ...], Items()] = Field(
        default=(), description="Services that are meant to end, beside those whose completion others wait for."
    )
    on_drift: Annotated[OnDrift, Choice()] | None = decided_elsewhere(
        None, "For kind swarm: what happens to a service that somebody changed by hand. Default: as for targets."
    )
    kind: Annotated[StackKind, Choice()] = Field(
        default=StackKind.COMPOSE,
        description="What runs it: compose, or swarm, whose manager the server configuration says that the host is.",
    )
    targets: dict[Annotated[str, SOURCE], Annotated[StackTarget, Short("path", LIVE_FILE, empty=True)]] = Field(
        default_factory=dict, description="Its live files, by their source: a path beside environment.yaml."
    )

    @model_validator(mode="after")
    def _swarm_can_run_it(self, info: ValidationInfo) -> StackFields:
        if self.kind is StackKind.SWARM:
            signals = any(target.on_change.mode is ChangeMode.SIGNAL for target in self.targets.values())
            require_swarm(info.context, signals=signals)
        return self


def _by_its_host(data: Any, checked: ValidatorFunctionWrapHandler, info: ValidationInfo) -> StackFields:
    """A stack of another host is read for its shape only: this server's paths, checks and hosts are not its own."""
    server: ServerConfig | None = info.context
    hosts = data.get("hosts") if isinstance(data, dict) else None
    if server and isinstance(hosts, list) and hosts and server.host not in hosts:
        return StackFields.model_validate(data)
    stack: StackFields = checked(data)
    return stack


class ManifestFile(Section):
    """The desired state of one environment: live files, and the Compose projects that use them."""

    model_config = ConfigDict(
        title="environment.yaml", json_schema_extra={"anyOf": [{"required": ["stacks"]}, {"required": ["targets"]}]}
    )

    defaults: TargetFields = Field(
        default_factory=TargetFields, description="Fields for every target that does not say otherwise."
    )
    stacks: dict[Name, Annotated[StackFields, WrapValidator(_by_its_host)]] = Field(
        default_factory=dict, description="Compose projects, by name."
    )
    targets: dict[Annotated[str, SOURCE], Annotated[LoneTarget, Short("path", ABSOLUTE_FILE, empty=False)]] = Field(
        default_factory=dict, description="Live files that belong to no stack, by their source."
    )


# --- reading ---


def read_manifest(text: bytes, *, environment: str, file: str, server: ServerConfig) -> Manifest:
    """Given the bytes of environment.yaml, return what concerns this host; stacks of other hosts are left out.

    ``environment`` may be the part of it on another host ("production@web-2"), whose name ``server`` then has.
    ``file`` is what messages call it. Raises ManifestError with every problem, one a line.
    """
    try:
        NAME.read(environment_of(environment))
    except PydanticCustomError:
        raise ManifestError(
            f"{shown(environment)!r} is not a valid environment name; accepted: {NAME.accepted}"
        ) from None
    manifest = read_sections(ManifestFile, text, file=file, error=ManifestError, rules=conflicts, context=server)
    stacks = {name: stack for name, stack in manifest.stacks.items() if _is_here(stack, server.host)}
    resolver = _Resolver(environment, server, manifest.defaults)
    return Manifest(
        environment,
        stacks=tuple(resolver.stack(name, stack) for name, stack in stacks.items()),
        targets=(
            *(
                resolver.target(source, target, name, stack.directory)
                for name, stack in stacks.items()
                for source, target in stack.targets.items()
            ),
            *(resolver.target(source, target) for source, target in manifest.targets.items()),
        ),
    )


@dataclass(frozen=True, slots=True)
class Outline:
    """What a manifest says about one target, on any server. ``field`` is where it says so;
    ``owner`` and ``group`` are "" if not given; ``directory`` and ``hosts`` are the stack's, () for every
    host."""

    source: str
    path: str
    stack: str | None
    encrypted: bool
    parser: Parser
    contracts: tuple[str, ...]
    ignore_keys: tuple[str, ...]
    field: FieldPath
    mode: str = "0600"
    owner: str = ""
    group: str = ""
    directory: str = "/"
    hosts: tuple[str, ...] = ()
    prune: bool = False


def outlines(manifest: ManifestFile) -> Iterator[Outline]:
    """Every target of every stack and host, without a server configuration."""
    for name, stack in manifest.stacks.items():
        for source, target in stack.targets.items():
            field = ("stacks", name, "targets", source)
            yield _outline(manifest.defaults, source, target, field, name, stack.directory, stack.hosts or ())
    for source, alone in manifest.targets.items():
        yield _outline(manifest.defaults, source, alone, ("targets", source))


def _outline(
    defaults: TargetFields,
    source: str,
    target: StackTarget | LoneTarget,
    field: FieldPath,
    stack: str | None = None,
    directory: str = "/",
    hosts: tuple[str, ...] = (),
) -> Outline:
    fields = _given(defaults) | _given(target)
    return Outline(
        source=source,
        path=posixpath.join(directory, fields.get("path") or source),
        stack=stack,
        encrypted=fields.get("encrypted", True),
        parser=fields.get("parser", _parser_of(source)),
        contracts=fields.get("contracts", ()),
        ignore_keys=fields.get("ignore_keys", ()),
        field=field,
        mode=f"{fields['mode']:04o}" if isinstance(fields.get("mode"), int) else str(fields.get("mode", "0600")),
        owner=fields.get("owner") or "",
        group=fields.get("group") or "",
        directory=directory,
        hosts=hosts,
        prune=fields.get("prune", False),
    )


def _is_here(stack: StackFields, host: str) -> bool:
    return stack.hosts is None or host in stack.hosts


@dataclass(frozen=True, slots=True)
class _Resolver:
    """Turns the file into core types. Missing fields come from ``defaults``, then the server, then our defaults."""

    environment: str
    server: ServerConfig
    defaults: TargetFields

    def stack(self, name: str, stack: StackFields) -> Stack:
        http = tuple(HttpCheck(check.url, check.status) for check in stack.health.http)
        given = stack.targets.items() if stack.kind is StackKind.SWARM else ()
        targets = [self.target(source, target, name, stack.directory) for source, target in given]
        return Stack(
            environment=self.environment,
            name=name,
            directory=stack.directory,
            files=stack.files,
            env_files=stack.env_files,
            project=stack.project or "",
            project_directory=stack.project_directory or "",
            profiles=stack.profiles,
            hosts=stack.hosts or (),
            health=HealthPolicy(stack.health.timeout, stack.health.stable_for, http),
            on_failure=stack.on_failure,
            one_shot=frozenset(stack.one_shot),
            on_drift=stack.on_drift or _given(self.defaults).get("on_drift", self.server.drift.on_drift),
            kind=stack.kind,
            managed={it.path: MountedTarget(it.encrypted, it.mode, it.owner, it.group) for it in targets},
        )

    def target(
        self, source: str, target: StackTarget | LoneTarget, stack: str | None = None, directory: str = "/"
    ) -> Target:
        fields: dict[str, Any] = {"on_drift": self.server.drift.on_drift, "parser": _parser_of(source)}
        fields |= _given(self.defaults) | _given(target)
        fields["path"] = posixpath.join(directory, fields.get("path") or source)
        if fields.get("check"):
            fields["check"] = self.server.check(fields["check"])
        return Target(environment=self.environment, source=source, stack=stack, **fields)


def _given(section: TargetFields) -> dict[str, Any]:
    """The fields that the file gives, read."""
    return {name: getattr(section, name) for name in section.model_fields_set}


def _parser_of(source: str) -> Parser:
    name = posixpath.basename(source)
    return Parser.COMPOSE if any(fnmatchcase(name, pattern) for pattern in _ENV_FILES) else Parser.OPAQUE
