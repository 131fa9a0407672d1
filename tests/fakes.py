"""Fakes of the ports, for tests of the engine's decisions. Each implements its port; none is used where the real
component can be: see tests/adapters, tests/docker and tests/e2e for those."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import json
import tempfile
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from reconciler.adapters.store import SqliteStore
from reconciler.core.contract import Answer, Breach, Contract, Question
from reconciler.core.errors import (
    ChangedMeanwhileError,
    EngineUnavailableError,
    GitUnreachableError,
    LiveFileError,
    NameTakenError,
    ReconcilerError,
    RefusedError,
    UnverifiedError,
)
from reconciler.core.history.chain import HistoryHead
from reconciler.core.model.compose import (
    Action,
    Container,
    DeployedService,
    Ending,
    Guest,
    HealthStatus,
    Project,
    ProjectFiles,
    Service,
    Sight,
    StackHealth,
)
from reconciler.core.model.plans import Plan
from reconciler.core.model.records import Applied, EnvironmentRecord
from reconciler.core.model.requests import OperatorRequest, ReconcileRequest
from reconciler.core.model.revisions import Blob, GitRevert, Reverted, RevertRequest, RevertState, Revision
from reconciler.core.model.runs import Backup, BackupEntry, Outcome, Phase, Result, Run
from reconciler.core.model.settings import Settings
from reconciler.core.model.targets import (
    Check,
    FileStamp,
    Format,
    HttpCheck,
    LiveFile,
    Manifest,
    OnDrift,
    Ownership,
    Parser,
    Stack,
    Target,
)
from reconciler.core.ports import Ports
from reconciler.core.secret import Digester, Secret
from reconciler.core.sops.ciphertext import IV_CHARACTERS, Ciphertext, EncryptedEntry
from reconciler.core.sops.key_mismatch import KeyMismatch, NotForUsError, OwnKeys
from reconciler.core.sops.metadata import SopsMetadata
from reconciler.engine.reconcile import Reconciler

APP = "/opt/app"
API = f"{APP}/api.env"
WORKER = f"{APP}/worker.env"


class Killed(BaseException):
    """The death of the process: no code of ours may catch it."""


@dataclass(slots=True)
class Journal:
    """What happened, in order, across all fakes; ``fail`` raises an error at the nth time a step comes."""

    steps: list[str] = field(default_factory=list)
    failures: dict[str, list[BaseException | None]] = field(default_factory=dict)
    hooks: dict[str, Callable[[], None]] = field(default_factory=dict)

    def note(self, step: str) -> None:
        self.steps.append(step)
        self.hooks.get(step.partition(" ")[0], lambda: None)()
        queue = self.failures.get(step.partition(" ")[0], [])
        if queue and (error := queue.pop(0)) is not None:
            raise error

    def fail(self, step: str, error: BaseException, *, after: int = 0) -> None:
        self.failures[step] = [*[None] * after, error]


@dataclass(slots=True)
class FakeGit:
    journal: Journal
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    tip: str = ""
    reachable: bool = True
    rewritten: bool = False
    unsigned: set[str] = field(default_factory=set)
    refs: dict[str, str] = field(default_factory=dict)
    forgotten: set[str] = field(default_factory=set)

    def commit(self, name: str, files: Mapping[str, bytes]) -> None:
        """Make a commit with the environment's files its tip; ``name`` is padded to an id."""
        self.tip = name.ljust(40, "0")
        self.commits[self.tip] = {f"envs/production/{path}": data for path, data in files.items()}

    async def head(self) -> str:
        self.journal.note("ls-remote")
        if not self.reachable:
            raise GitUnreachableError("the remote does not answer")
        return self.tip

    async def refs_below(self, *prefixes: str) -> Mapping[str, str]:
        return {ref: commit for ref, commit in self.refs.items() if ref.startswith(prefixes)}

    async def fetch(self, commit: str) -> None:
        self.journal.note("fetch")

    async def fetch_head(self) -> str:
        self.journal.note("fetch-head")
        return self.tip

    async def revision(self, commit: str, directory: str) -> Revision:
        content = sorted((path, data) for path, data in self.commits[commit].items() if path.startswith(directory))
        return Revision(commit, f"{hash(tuple(content)):x}", "Ada <ada@example.org>", 1.0, "Change")

    async def read(self, commit: str, path: str) -> Blob | None:
        data = self.commits[commit].get(path)
        return None if data is None else Blob(f"{hash(data):x}", data)

    async def preload(self, commit: str, paths: Collection[str]) -> None: ...

    async def descends(self, commit: str, ancestor: str) -> bool:
        history = list(self.commits)
        return not self.rewritten and ancestor in history[: history.index(commit) + 1]

    async def resolve(self, name: str) -> str:
        matches = [commit for commit in self.commits if commit.startswith(name)]
        if len(matches) != 1:
            raise RefusedError(f"no commit {name}")
        return matches[0]

    async def first_seen(self, commit: str, since: str | None, directory: str) -> Mapping[str, float]:
        self.journal.note(f"first-seen {since[:1] if since else ''}..{commit[:1]}")
        return {}

    async def verify(self, commit: str, since: str | None) -> None:
        self.journal.note(f"verify {since}..{commit}" if since else f"verify {commit}")
        if commit in self.unsigned or since in self.forgotten:
            raise UnverifiedError("not signed", where=commit)


@dataclass(slots=True)
class FakeGitWriter:
    """Pushes every revert, unless the test sets another result."""

    journal: Journal
    requests: list[tuple[RevertRequest, GitRevert]] = field(default_factory=list)
    ends: list[Reverted | ReconcilerError] = field(default_factory=list)
    proposed: list[tuple[str, dict[str, bytes], str]] = field(default_factory=list)
    published: list[dict[str, str | None]] = field(default_factory=list)
    refuses: ReconcilerError | None = None

    async def revert(self, request: RevertRequest, mode: GitRevert) -> Reverted:
        self.journal.note(f"revert {request.good[:1]}..{request.failed[:1]}")
        self.requests.append((request, mode))
        end = self.ends.pop(0) if self.ends else Reverted(RevertState.PUSHED, "main", "r" * 40, "reverted in git")
        if isinstance(end, ReconcilerError):
            raise end
        return end

    async def may_push(self, commit: str) -> None:
        self.journal.note(f"may push {commit}")

    async def publish(self, refs: Mapping[str, str | None]) -> None:
        if self.refuses:
            raise self.refuses
        self.published.append(dict(refs))

    async def may_publish(self, ref: str, commit: str) -> None:
        self.journal.note(f"may publish {ref}")

    async def propose(self, branch: str, base: str, files: Mapping[str, bytes], message: str) -> str:
        self.journal.note(f"propose {branch}")
        self.proposed.append((base, dict(files), message))
        return "p" * 40


@dataclass(slots=True)
class FakeDecryptor:
    """Encrypts by putting a mark before the content; a value's iv is the value itself, made longer."""

    journal: Journal
    error: ReconcilerError | None = None
    key_error: ReconcilerError | None = None
    foreign: set[bytes] = field(default_factory=set)  # sources for other keys

    async def identity(self) -> str:
        if self.key_error is not None:
            raise self.key_error
        return "fake"

    async def own_keys(self) -> OwnKeys:
        if self.key_error is not None:
            raise self.key_error
        return OwnKeys(("age1fake",), place="/etc/age.key")

    def read(self, name: str, data: bytes, parser: Parser = Parser.OPAQUE) -> Ciphertext:
        pairs = (line.partition("=") for line in data.decode().splitlines())
        entries = tuple(EncryptedEntry(key, 1, value, iv(value)) for key, _, value in pairs)
        return Ciphertext(Format.DOTENV, Format.DOTENV, entries, SopsMetadata((), (), ""))

    async def amend(self, name: str, data: bytes, values: Mapping[str, Secret | None]) -> bytes:
        self.journal.note(f"amend {name}")
        lines = {line.partition("=")[0]: line for line in data.decode().splitlines()}
        for label, value in values.items():
            lines.pop(label, None) if value is None else lines.update({label: f"{label}={value.reveal().decode()}"})
        return "".join(f"{line}\n" for line in lines.values()).encode()

    async def reencrypt(self, name: str, data: bytes, content: Secret) -> bytes:
        return content.reveal()

    async def decrypt(self, name: str, data: bytes, parser: Parser = Parser.OPAQUE) -> Secret:
        self.journal.note(f"decrypt {name}")
        if self.error is not None:
            raise self.error
        if data in self.foreign:
            raise NotForUsError([KeyMismatch(name, ("age1other",), await self.own_keys())])
        return Secret(data)


def iv(value: str) -> str:
    """As long as a real iv; "" for an empty value."""
    return value.ljust(IV_CHARACTERS, "_")[:IV_CHARACTERS] if value else ""


@dataclass(slots=True)
class FakeHost:
    journal: Journal
    files: dict[str, LiveFile] = field(default_factory=dict)
    sights: dict[str, Sight] = field(default_factory=dict)
    editors: dict[str, str] = field(default_factory=dict)

    def put(self, path: str, data: bytes, mode: int = 0o600) -> None:
        self.files[path] = LiveFile(Secret(data), mode, 0, 0)

    def data(self, path: str) -> bytes | None:
        return self.files[path].data.reveal() if path in self.files else None

    async def reach(self) -> None: ...

    async def read(self, path: str) -> LiveFile | None:
        return self.files.get(path)

    async def read_all(self, paths: Collection[str]) -> Mapping[str, LiveFile | LiveFileError | None]:
        files: dict[str, LiveFile | LiveFileError | None] = {}
        for path in paths:
            try:
                files[path] = await self.read(path)
            except LiveFileError as error:
                files[path] = error
        return files

    async def stamps(self, paths: Collection[str]) -> Mapping[str, FileStamp | None]:
        """As a clock would give them that never stands still."""
        files = {path: self.files.get(path) for path in paths}
        return {
            path: (file.data.reveal().hex(), file.mode, file.uid, file.gid, int(file.modified_at)) if file else None
            for path, file in files.items()
        }

    async def editor(self, path: str, live: LiveFile | None) -> str:
        return self.editors.get(path, "unknown")

    async def write(
        self,
        path: str,
        data: Secret,
        *,
        mode: int,
        ownership: Ownership,
        replaces: LiveFile | None,
        in_place: bool = False,
    ) -> None:
        self.journal.note(f"{'overwrite' if in_place else 'write'} {path}")
        if self.files.get(path) != replaces:
            raise ChangedMeanwhileError("changed", where=path)
        self.files[path] = LiveFile(data, mode, ownership.uid or 0, ownership.gid or 0)

    async def remove(self, path: str, *, replaces: LiveFile) -> None:
        self.journal.note(f"remove {path}")
        del self.files[path]

    async def ownership(self, owner: str | None, group: str | None) -> Ownership:
        return Ownership()

    async def new_owner(self, path: str) -> Ownership:
        return Ownership(0, 0)

    async def sight(self, path: str, container: str, pid: int, inside: str) -> Sight:
        return self.sights.get(path, Sight.UNKNOWN)

    async def resolve(self, path: str) -> str:
        return path

    async def leftovers(self, paths: Collection[str]) -> Mapping[str, tuple[str, ...]]:
        leftovers = {}
        for path in paths:
            directory, _, name = path.rpartition("/")
            mine = sorted(file for file in self.files if file.startswith(f"{directory}/.{name}.reconciler-"))
            leftovers |= {path: tuple(mine)} if mine else {}
        return leftovers

    async def check(self, check: Check, data: Secret) -> None:
        self.journal.note(f"check {check.name}")


@dataclass(slots=True)
class FakeCompose:
    """One service per env file of the stack, named after it; its environment is the file's lines.

    ``sick`` maps a line of an env file to the health it gives its service; ``joins`` a service to what it shares with
    which other one; ``unseen`` are files that it finds past the staged ones. ``kept`` are the services that the engine
    itself keeps, None where it keeps only containers.
    """

    journal: Journal
    host: FakeHost
    unseen: set[str] = field(default_factory=set)
    running: dict[str, Container] = field(default_factory=dict)
    sick: dict[str, str] = field(default_factory=dict)
    refuses: Callable[[Mapping[str, bytes]], ReconcilerError | None] = lambda _: None
    reachable: bool = True
    away: EngineUnavailableError = field(default_factory=lambda: EngineUnavailableError("the engine does not answer"))
    after_recreate: Callable[[], None] = lambda: None
    stacks: dict[str, str] = field(default_factory=dict)
    included: set[str] = field(default_factory=set)
    interpolated: set[str] = field(default_factory=set)
    others: set[str] = field(default_factory=set)
    joins: dict[str, tuple[str, str]] = field(default_factory=dict)
    _joined: dict[str, str] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)
    ended: dict[str, Ending] = field(default_factory=dict)
    kept: dict[str, DeployedService] | None = None
    names: set[str] = field(default_factory=set)
    noticed: asyncio.Event = field(default_factory=asyncio.Event)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def stack_of(self, service: str) -> str:
        return self.stacks.get(service, "app")

    def start(self, *services: str) -> None:
        for service in services:
            container = self.running[service] = self._container(service)
            if service in self.joins:
                self._joined[container.id] = self.running[self.joins[service][1]].id

    async def project(self, stack: Stack, staged: Mapping[str, Secret | None] | None = None) -> Project:
        self._reach()
        files = self._files({path: data for path, data in (staged or {}).items() if path not in self.unseen})
        self.journal.note("model" if staged is None else "model-staged")
        if error := self.refuses(files):
            raise error
        return self._resolve(stack, files)

    def _resolve(self, stack: Stack, files: Mapping[str, bytes]) -> Project:
        mine = {path: data for path, data in files.items() if self.stack_of(_service(path)) == stack.name}
        services = [_resolved(path, data) for path, data in mine.items()]
        if self.kept is not None:
            services = [_deployable(service) for service in services]
        return Project(stack.name, {service.name: service for service in services})

    async def is_current(self, stack: Stack, project: Project) -> bool:
        return project == self._resolve(stack, self._files({}))

    async def project_files(self, stack: Stack, staged: Mapping[str, Secret | None] | None = None) -> ProjectFiles:
        return ProjectFiles(
            frozenset({f"{APP}/compose.yaml", *self.included}), frozenset({f"{APP}/.env", *self.interpolated})
        )

    async def other_project_files(self) -> ProjectFiles:
        self._reach()
        return ProjectFiles(frozenset(self.others), frozenset())

    async def images(self, references: Collection[str]) -> Mapping[str, str]:
        return {}

    async def own_hash(self, project: Project, service: str) -> tuple[str, str]:
        return "", ""

    async def containers(self, stack: Stack, project: str | None) -> tuple[Container, ...]:
        self._reach()
        return tuple(container for name, container in self.running.items() if self.stack_of(name) == stack.name)

    async def deployed(self, stack: Stack, project: str | None) -> tuple[DeployedService, ...] | None:
        self._reach()
        if self.kept is None:
            return None
        return tuple(self.kept[name] for name in sorted(self.kept) if self.stack_of(name) == stack.name)

    @contextlib.asynccontextmanager
    async def noticing(self, project: Project) -> AsyncIterator[asyncio.Event]:
        yield self.noticed

    async def guests(self) -> tuple[Guest, ...]:
        self._reach()
        return self.guests_now()

    def guests_now(self) -> tuple[Guest, ...]:
        present = {container.id for container in self.running.values()}
        guests = []
        for name, (word, _) in self.joins.items():
            identity = self.running[name].id
            owner = self._joined[identity]
            gone = owner not in present
            lost = (word,) if gone and word != "volumes" else ()
            guests.append(Guest(identity, name, {word: frozenset({owner})}, lost=lost, gone=gone, service=name))
        return tuple(guests)

    async def glance(self, stack: Stack) -> tuple[Container, ...]:
        self._reach()
        self.journal.note("glance")
        return tuple(container for name, container in self.running.items() if self.stack_of(name) == stack.name)

    async def require_names(
        self, project: Project, services: Sequence[str], scale: Mapping[str, int] | None = None
    ) -> None:
        self._reach()
        if taken := self.taken.intersection(services):
            raise NameTakenError(f"{', '.join(taken)} is taken by the container stranger")

    async def endings(self, containers: Collection[str]) -> Mapping[str, Ending]:
        self._reach()
        return {identity: ending for identity, ending in self.ended.items() if identity in containers}

    async def names_in_use(self, names: Collection[str]) -> frozenset[str]:
        self._reach()
        return frozenset(names) & self.names

    async def recreate(
        self, project: Project, services: Sequence[str], *, scale: Mapping[str, int] | None = None, force: bool = False
    ) -> None:
        self._reach()
        self.journal.note(f"recreate {' '.join(services)}")
        self.start(*(name for name in services if (scale or {}).get(name) != 0))
        if self.kept is not None:
            self.keep(*services, scale=scale)
        self.after_recreate()

    async def restart(self, project: Project, services: Sequence[str]) -> None:
        self.journal.note(f"restart {' '.join(services)}")

    async def signal(self, project: Project, service: str, signal: str) -> None:
        self.journal.note(f"signal {service} {signal}")

    def keep(self, *services: str, scale: Mapping[str, int] | None = None) -> None:
        """Deploy the services as their project says now: from then on the engine keeps them."""
        self.kept = self.kept or {}
        for name in services:
            service = _deployable(_resolved(f"{APP}/{name}.env", self.host.data(f"{APP}/{name}.env") or b""))
            number = (scale or {}).get(name, 1)
            fields = {**service.deploys_as, "replicas": {"": str(number)}}
            version = str(next(self._numbers))
            self.kept[name] = DeployedService(name, fields, version, service.digest, number)

    def change_by_hand(self, name: str, replicas: int | None = None, **fields: Mapping[str, str]) -> None:
        """Change a service on the engine itself."""
        assert self.kept is not None
        service, number = self.kept[name], replicas
        number = service.replicas if number is None else number
        changed = {**service.fields, **fields, "replicas": {"": str(number)}}
        self.kept[name] = replace(service, fields=changed, version=str(next(self._numbers)), replicas=number)

    def _reach(self) -> None:
        if not self.reachable:
            raise self.away

    def _files(self, staged: Mapping[str, Secret | None]) -> dict[str, bytes]:
        files = {path: file.data.reveal() for path, file in self.host.files.items()}
        for path, data in staged.items():
            files.pop(path, None)
            if data is not None:
                files[path] = data.reveal()
        return {path: data for path, data in files.items() if path.endswith(".env")}

    def _container(self, service: str) -> Container:
        data = self.host.data(f"{APP}/{service}.env") or b""
        health = next((state for line, state in self.sick.items() if line.encode() in data), "healthy")
        environment = {key: value or "" for key, value in _environment(data).items()}
        number = next(self._numbers)
        started_at = str(number)
        return Container(
            f"{service}-{number}",
            service,
            "running",
            health,
            started_at=started_at,
            environment=environment,
            name=f"app-{service}-1",
        )


def _resolved(path: str, data: bytes) -> Service:
    environment = _environment(data)
    definition = json.dumps({"service": {"environment": environment}})
    return Service(_service(path), Secret(definition.encode()), environment, env_files=frozenset({path}))


def _deployable(service: Service) -> Service:
    environment = {key: value or "" for key, value in service.environment.items()}
    fields = {"environment": environment, "image": {"": "app:1"}, "replicas": {"": "1"}}
    return replace(service, deploys_as=fields, digest=repr(environment))


def _service(path: str) -> str:
    return path.rsplit("/", 1)[-1].removesuffix(".env")


def _environment(data: bytes) -> dict[str, str | None]:
    pairs = (line.partition("=") for line in data.decode().splitlines() if line)
    return {key: value for key, _, value in pairs}


@dataclass(slots=True)
class FakeBackups:
    journal: Journal
    taken: list[tuple[Backup, dict[str, Secret]]] = field(default_factory=list)

    async def take(
        self, run: Run, files: Sequence[tuple[BackupEntry, Secret | None]], from_commit: str, to_commit: str
    ) -> Backup:
        self.journal.note(f"backup {' '.join(entry.path for entry, _ in files)}")
        entries = tuple(entry for entry, _ in files)
        backup = Backup(f"b-{run.id}", run.environment, run.id, run.started_at, from_commit, to_commit, entries)
        self.taken.append((backup, {entry.path: data for entry, data in files if data is not None}))
        return backup

    def list(self, environment: str | None = None) -> tuple[Backup, ...]:
        return tuple(backup for backup, _ in reversed(self.taken))

    def read(self, backup: Backup, entry: BackupEntry) -> Secret | None:
        self.journal.note(f"read-backup {entry.path}")
        return next(data for known, data in self.taken if known == backup).get(entry.path)

    async def discard(self, environment: str, identity: str) -> None:
        self.taken = [(backup, data) for backup, data in self.taken if backup.id != identity]

    async def expire(self, environment: str, *, keep: int, max_age: float, now: float) -> None:
        pass


@functools.cache
def _empty_database() -> bytes:
    """What a new store's file holds: its tables are created once per process."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "state.db"
        SqliteStore(str(path)).close()
        return path.read_bytes()


class JournaledStore(SqliteStore):
    """The real store, on a file of its own; records its writes, and shows one environment to the test."""

    def __init__(self, path: Path, journal: Journal) -> None:
        if not path.exists():
            path.touch(mode=0o600)
            path.write_bytes(_empty_database())
        super().__init__(str(path))
        self._database.execute("PRAGMA synchronous = OFF")  # nobody pulls the plug
        self.journal = journal

    @property
    def record(self) -> EnvironmentRecord:
        return self.environment("production")

    @record.setter
    def record(self, record: EnvironmentRecord) -> None:
        super().save_environment(record)

    @property
    def debts(self) -> tuple[Action, ...]:
        return self.pending_restarts("production")

    @property
    def open_run(self) -> Run | None:
        return self.unfinished("production")

    @property
    def finished(self) -> list[tuple[Run, Result, str]]:
        """Oldest first."""
        ended = ((run, run.result, run.reason) for run in reversed(self.runs("production", 1000)))
        return [(run, result, reason) for run, result, reason in ended if result is not None]

    def save_environment(self, record: EnvironmentRecord) -> None:
        self.journal.note("save")
        super().save_environment(record)

    def begin(self, run: Run) -> None:
        self.journal.note("begin")
        super().begin(run)

    def amend(self, run: Run, record: EnvironmentRecord | None = None) -> None:
        self.journal.note("amend")
        super().amend(run, record)

    def note(self, run: str, sentence: str, record: EnvironmentRecord, at: float) -> None:
        self.journal.note("note")
        super().note(run, sentence, record, at)

    def remember_first_seen(self, directory: str, commit: str, seen: Mapping[str, float]) -> None:
        self.journal.note("remember-first-seen")
        super().remember_first_seen(directory, commit, seen)

    def finish(self, run: Run, result: Result, reason: str, **facts: Any) -> None:
        self.journal.note("finish")
        super().finish(run, result, reason, **facts)


@dataclass(slots=True)
class FakeClock:
    """Time passes only while somebody sleeps."""

    time: float = 1_000_000.0
    on_sleep: Callable[[], None] = lambda: None

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.time += seconds
        self.on_sleep()


@dataclass(slots=True)
class FakeContracts:
    """Knows one rule: the keys of ``required``."""

    journal: Journal

    async def ask(self, contracts: Sequence[Contract], questions: Sequence[Question]) -> Answer:
        self.journal.note("contract")
        broken = [
            tuple(
                Breach(key, "required", contract.path, 1)
                for contract in question.contracts
                for key in contract.schema["required"]
                if key not in question.names
            )
            for question in questions
        ]
        return Answer({}, tuple(broken))


@dataclass(slots=True)
class FakeProbe:
    """Every URL answers but the ``silent`` ones."""

    silent: set[str] = field(default_factory=set)

    async def ok(self, check: HttpCheck) -> bool:
        return check.url not in self.silent


class SilentMetrics:
    """The Metrics port; keeps the last plan, the outcomes, and what tests need."""

    def __init__(self) -> None:
        self.plan: Plan | None = None
        self.results: list[Result] = []
        self.stacks: tuple[StackHealth, ...] = ()
        self.corrections: list[str] = []
        self.delivery_times: list[float] = []
        self.failures = 0
        self.failing_since = 0.0
        self.changes: list[Result] = []
        self.applied_commits: dict[str, str] = {}
        self.delivered_targets: dict[str, float] = {}
        self.engine_up: bool | None = None
        self.ages: dict[str, float | None] = {}
        self.failing_decryptions: dict[str, str] = {}

    def phase(self, phase: Phase, seconds: float) -> None: ...

    def fetched(self, environment: str, ok: bool, at: float) -> None: ...

    def decrypted(self, environment: str, result: str, reason: str = "") -> None: ...

    def undecryptable(self, environment: str, reasons: Mapping[str, str]) -> None:
        self.failing_decryptions = dict(reasons)

    def backed_up(self, environment: str, ok: bool) -> None: ...

    def backups(self, environment: str, backups: Sequence[Backup]) -> None: ...

    def recreated(self, environment: str, stack: str, service: str, result: str) -> None: ...

    def revision(self, environment: str, state: str, revision: Revision | None) -> None: ...

    def observed(self, plan: Plan, at: float) -> None:
        self.plan = plan

    def corrected(self, environment: str, targets: Sequence[str], at: float) -> None:
        self.corrections += targets

    def services_corrected(self, environment: str, services: Sequence[tuple[str, str]]) -> None:
        self.corrections += [f"{stack}/{service}" for stack, service in services]

    def delivered(self, environment: str, seconds: float) -> None:
        self.delivery_times.append(seconds)

    def applied(self, environment: str, applied: Iterable[Applied]) -> None:
        self.applied_commits = {state.source: state.commit[:1] for state in applied}

    def delivered_target(self, environment: str, target: str, seconds: float) -> None:
        self.delivered_targets[target] = seconds

    def remembered(self, record: EnvironmentRecord, at: float) -> None: ...

    def verified(self, environment: str, result: str, reason: str = "") -> None: ...

    def rolled_back(self, environment: str, kind: str, ok: bool) -> None: ...

    def failed(self, environment: str, at: float) -> None:
        self.failures += 1
        self.failing_since = self.failing_since or at

    def recorded(self, head: HistoryHead) -> None: ...

    def changed(self, environment: str, result: Result) -> None:
        self.changes.append(result)

    def health(self, environment: str, stacks: Sequence[StackHealth], at: float) -> float | None:
        self.stacks = tuple(stacks)
        statuses = {stack.status for stack in stacks}
        if HealthStatus.UNHEALTHY in statuses:
            self.failing_since = self.failing_since or at
        since, healthy = self.failing_since, statuses <= {HealthStatus.HEALTHY, HealthStatus.STOPPED}
        if healthy:
            self.failing_since = 0.0
        return since if healthy and since else None

    def engine(self, environment: str, up: bool | None) -> None:
        self.engine_up = up

    def rotated(self, environment: str, target: str, at: float | None) -> None:
        self.ages[target] = at

    def finished(self, outcome: Outcome, seconds: float, at: float) -> None:
        self.results.append(outcome.result)


class World:
    """All fakes together, with a manifest whose targets are the ``*.env`` files of the commit.

    They belong to the stack ``app``, except those named in ``compose.stacks``. The store's file lies in
    ``directory``.
    """

    def __init__(self, directory: Path) -> None:
        self.journal = Journal()
        self.git = FakeGit(self.journal)
        self.git_writer = FakeGitWriter(self.journal)
        self.decryptor = FakeDecryptor(self.journal)
        self.host = FakeHost(self.journal)
        self.compose = FakeCompose(self.journal, self.host)
        self.backups = FakeBackups(self.journal)
        self.store = JournaledStore(directory / "state.db", self.journal)
        self.clock = FakeClock()
        self.metrics = SilentMetrics()
        self.contracts = FakeContracts(self.journal)
        self.stack = Stack("production", "app", APP)
        self.other_stacks: tuple[Stack, ...] = ()
        self.probe = FakeProbe()
        self.settings = Settings(allowed_paths=(APP,))
        self.target_fields: dict[str, object] = {}
        self.reported: set[str] = set()  # sources whose hand edits are only reported
        self.run_numbers = itertools.count()  # no two processes give the same

    def commit(self, name: str, **files: str) -> None:
        """``commit("a", api="A=1")`` commits api.env, and the manifest that names it."""
        sources = {f"{service}.env": (text.replace(" ", "\n") + "\n").encode() for service, text in files.items()}
        self.git.commit(name, {**sources, "environment.yaml": " ".join(sources).encode()})

    @property
    def steps(self) -> list[str]:
        return self.journal.steps

    def live(self, service: str) -> str | None:
        data = self.host.data(f"{APP}/{service}.env")
        return None if data is None else data.decode().strip().replace("\n", " ")

    def ports(self) -> Ports:
        return Ports(
            git=self.git,
            git_writer=self.git_writer,
            decryptor=self.decryptor,
            encryptor=self.decryptor,
            host=self.host,
            compose=self.compose,
            backups=self.backups,
            store=self.store,
            probe=self.probe,
            clock=self.clock,
            metrics=self.metrics,
            digest=Digester(b"k" * 32),
            settings=self.settings,
            contracts=self.contracts,
            read_manifest=self._manifest,
            read_contract=lambda path, data: Contract(path, {"required": data.decode().split()}, {}),
            new_run_id=lambda: f"run{next(self.run_numbers)}",
        )

    def _manifest(self, text: bytes, environment: str, file: str) -> Manifest:
        def target(source: str) -> Target:
            stack = self.compose.stack_of(_service(source)) or None
            fields = {**self.target_fields, **({"on_drift": OnDrift.REPORT} if source in self.reported else {})}
            return Target(environment, source, f"{APP}/{source}", stack=stack, **fields)  # type: ignore[arg-type]

        return Manifest(environment, (self.stack, *self.other_stacks), tuple(map(target, text.decode().split())))


async def reconcile_once(world: World, trigger: str = "manual", operator: OperatorRequest | None = None) -> Outcome:
    """Reconcile as a daemon does that has just started."""
    return await Reconciler(world.ports(), "production").reconcile(ReconcileRequest(trigger, operator=operator))
