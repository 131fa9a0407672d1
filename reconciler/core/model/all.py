"""The nouns of the project as frozen values. No behaviour beyond what follows from the fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from reconciler.core.secret import Secret

# --- choices ---


class Format(StrEnum):
    """How sops reads a source (its --input-type); ``plain`` sources are not encrypted."""

    DOTENV = "dotenv"
    JSON = "json"
    YAML = "yaml"
    INI = "ini"
    BINARY = "binary"
    PLAIN = "plain"


class Parser(StrEnum):
    """How a live file is read for its keys."""

    COMPOSE = "compose"
    RAW = "raw"
    OPAQUE = "opaque"


class OnDrift(StrEnum):
    RESTORE = "restore"
    REPORT = "report"


class OnFirstContact(StrEnum):
    HOLD = "hold"
    TAKE_OVER = "take_over"


class OnFailure(StrEnum):
    ROLLBACK = "rollback"
    HOLD = "hold"


class GitRevert(StrEnum):
    """What a rollback does in git."""

    PUSH = "push"
    BRANCH = "branch"
    OFF = "off"


class Verify(StrEnum):
    """Which commits must carry a good signature before their revision is accepted."""

    NONE = "none"
    TIP = "tip"
    RANGE = "range"


class ChangeMode(StrEnum):
    """What the services that mount a changed file need."""

    RECREATE = "recreate"
    RESTART = "restart"
    SIGNAL = "signal"
    NONE = "none"


class Kind(StrEnum):
    """What one target's three states amount to (the table in docs/architecture.md)."""

    IN_SYNC = "in_sync"
    CREATE = "create"
    FIRST_CONTACT = "first_contact"
    UPDATE = "update"
    DRIFT = "drift"
    CONFLICT = "conflict"
    ORPHAN = "orphan"
    NOT_OURS = "not_ours"


class Aspect(StrEnum):
    """In what way a live file (or, for stale, a container) differs from what git wants."""

    CONTENT = "content"
    MODE = "mode"
    OWNER = "owner"
    MISSING = "missing"
    COSMETIC = "cosmetic"
    STALE = "stale"


class SyncStatus(StrEnum):
    """One word for a target: how its live file stands to what git wants."""

    IN_SYNC = "in_sync"
    PENDING = "pending"
    DRIFTED = "drifted"
    HELD = "held"
    ORPHAN = "orphan"


class HealthStatus(StrEnum):
    """One word for a stack: how its services are. ``unknown``: the engine does not answer."""

    HEALTHY = "healthy"
    STARTING = "starting"
    UNHEALTHY = "unhealthy"
    STOPPED = "stopped"
    UNKNOWN = "unknown"


class Effect(StrEnum):
    """What the pass does about a target."""

    NONE = "none"
    WRITE = "write"
    DELETE = "delete"
    HOLD = "hold"
    REPORT = "report"


class Result(StrEnum):
    """How a pass ended, for one environment."""

    APPLIED = "applied"
    IN_SYNC = "in_sync"
    CORRECTED = "corrected"
    HELD = "held"
    STALLED = "stalled"
    ROLLED_BACK = "rolled_back"
    ROLLBACK_FAILED = "rollback_failed"
    FAILED = "failed"


class Phase(StrEnum):
    """The parts of a pass that are timed."""

    FETCH = "fetch"
    OBSERVE = "observe"
    GUARD = "guard"
    BACKUP = "backup"
    WRITE = "write"
    RECREATE = "recreate"
    VERIFY = "verify"
    ROLLBACK = "rollback"
    AGE = "age"


class OrderKind(StrEnum):
    """What a person may order an environment to do before its next pass; ``plan``: to look at another revision."""

    ROLLBACK = "rollback"
    UNPIN = "unpin"
    PAUSE = "pause"
    RESUME = "resume"
    RETRY = "retry"
    ACCEPT_REWRITE = "accept-rewrite"
    PLAN = "plan"


# --- what git says ---


@dataclass(frozen=True, slots=True)
class Revision:
    """One commit, and the id of the environment's subtree in it (equal subtree: nothing changed for us)."""

    commit: str
    subtree: str
    author: str = ""
    committed_at: float = 0.0
    subject: str = ""

    @property
    def short(self) -> str:
        return self.commit[:12]


@dataclass(frozen=True, slots=True)
class Blob:
    """A file in git: its object id and its bytes (ciphertext, or plain)."""

    id: str
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class RevertOrder:
    """What is to be undone in git, and why: the commits in (``good`` .. ``failed``] that touch ``directory``.

    ``good`` and ``failed`` are commit ids; ``directory`` is the environment's in the repository; ``run`` and ``host``
    say who asks.
    """

    environment: str
    directory: str
    failed: str
    good: str
    host: str
    run: str
    reason: str


class RevertState(StrEnum):
    """How far a revert in git has come.

    ``owed``: git did not answer yet, it is tried again; ``pushed``: by us; ``overtaken``: the branch no longer wants
    the failed revision (another server has reverted it, or a person has changed it); ``refused``: a person must act.
    """

    OWED = "owed"
    PUSHED = "pushed"
    OVERTAKEN = "overtaken"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Reverted:
    """What became of a revert: pushed (``commit`` is now the head of ``branch``) or overtaken; and why, in words."""

    state: RevertState
    branch: str
    commit: str
    reason: str


@dataclass(frozen=True, slots=True)
class OnChange:
    """What a change of a mounted file does to the services that mount it; ``signal`` is a name such as HUP."""

    mode: ChangeMode = ChangeMode.RECREATE
    signal: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """A command of the server's file that must succeed on the staged file; ``{file}`` stands for its path."""

    name: str
    argv: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Target:
    """One live file and its source in git. ``path`` is absolute, ``source`` is relative to the environment.

    ``contracts`` are the JSON Schemas that its variables must satisfy, relative to the directory of environments.
    """

    environment: str
    source: str
    path: str
    stack: str | None = None
    encrypted: bool = True
    mode: int = 0o600
    owner: str | None = None
    group: str | None = None
    on_drift: OnDrift = OnDrift.RESTORE
    on_change: OnChange = OnChange()
    on_first_contact: OnFirstContact = OnFirstContact.HOLD
    parser: Parser = Parser.COMPOSE
    check: Check | None = None
    contracts: tuple[str, ...] = ()
    allow_shrink: bool = False
    prune: bool = False
    ignore_keys: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        return f"{self.environment}/{self.source}"


@dataclass(frozen=True, slots=True)
class HttpCheck:
    url: str
    status: int = 200


@dataclass(frozen=True, slots=True)
class HealthPolicy:
    """``timeout`` and ``stable_for`` in seconds: how long to wait for health, how long running must last."""

    timeout: float = 90.0
    stable_for: float = 15.0
    http: tuple[HttpCheck, ...] = ()


@dataclass(frozen=True, slots=True)
class Stack:
    """One Compose project on this host. ``directory`` is absolute; ``files`` are relative to it (compose -f)."""

    environment: str
    name: str
    directory: str
    files: tuple[str, ...] = ()
    profiles: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    health: HealthPolicy = HealthPolicy()
    on_failure: OnFailure = OnFailure.ROLLBACK
    one_shot: frozenset[str] = frozenset()

    @property
    def id(self) -> str:
        return f"{self.environment}/{self.name}"


def environment_of(unit: str) -> str:
    """What an environment is called in git: "production", also for the part of it that is on another host, which goes
    by "production@web-2" everywhere else."""
    return unit.partition("@")[0]


def on_host(environment: str, host: str) -> str:
    """What the part of the environment on another host is called."""
    return f"{environment}@{host}"


@dataclass(frozen=True, slots=True)
class Manifest:
    """environment.yaml at one revision, read and resolved against the server's file."""

    environment: str
    stacks: tuple[Stack, ...]
    targets: tuple[Target, ...]

    def stack(self, name: str) -> Stack:
        return next(stack for stack in self.stacks if stack.name == name)


# --- what is on the server ---


@dataclass(frozen=True, slots=True)
class LiveFile:
    """A regular file as it was read. ``inode`` tells a replaced file from a rewritten one."""

    data: Secret
    mode: int
    uid: int
    gid: int
    inode: int = 0
    modified_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Ownership:
    """Numeric ids to set; ``None`` leaves what is there (a new file gets the daemon's own)."""

    uid: int | None = None
    gid: int | None = None


@dataclass(frozen=True, slots=True)
class Applied:
    """What we last wrote to a target (or found already right): the third of the three states.

    ``prune`` and ``stack`` are remembered because they are needed when the target has left git.
    """

    source: str
    path: str
    digest: str
    mode: int
    commit: str
    at: float
    stack: str | None = None
    prune: bool = False


# --- what Compose makes of the files ---


@dataclass(frozen=True, slots=True)
class Service:
    """A service of a resolved project.

    ``definition`` is canonical JSON of everything that shapes its container (secret: it holds the environment), the
    service itself under "service", the configs, secrets, networks and volumes it refers to beside it;
    ``environment`` the resolved variables (None: named without a value and unset); ``sources`` the absolute host
    paths of its binds, configs and secrets; ``namespace_of`` the services whose network, IPC or PID namespace it
    lives in, ``volumes_of`` those whose volumes it mounts, ``restarts_with`` those whose restart it follows.
    """

    name: str
    definition: Secret
    environment: Mapping[str, str | None] = field(repr=False)
    sources: frozenset[str] = frozenset()
    namespace_of: frozenset[str] = frozenset()
    volumes_of: frozenset[str] = frozenset()
    restarts_with: frozenset[str] = frozenset()
    replicas: int = 1
    has_healthcheck: bool = False


@dataclass(frozen=True, slots=True)
class Project:
    """`docker compose config`, read: the project's name and its services by name."""

    name: str
    services: Mapping[str, Service] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Container:
    """A container as the engine's inspect tells it.

    ``state`` is created, running, paused, restarting, removing, exited or dead; ``health`` is "", starting, healthy
    or unhealthy; ``image`` is the reference it was made from; ``out_of_memory`` says that the kernel ended it;
    ``started_at`` and ``finished_at`` are RFC 3339 times of its latest run, in the engine's clock.
    """

    id: str
    service: str
    state: str
    health: str = ""
    exit_code: int = 0
    restarts: int = 0
    started_at: str = ""
    finished_at: str = ""
    image: str = ""
    out_of_memory: bool = False
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    image_environment: Mapping[str, str] = field(default_factory=dict, repr=False)


class ActionKind(StrEnum):
    RECREATE = "recreate"
    RESTART = "restart"
    SIGNAL = "signal"


@dataclass(frozen=True, slots=True)
class Action:
    """What one service needs, and the reason in words.

    ``force``: recreate it although Compose itself would see no difference (``up --force-recreate``). ``stale``: its
    containers run older values than those the files already held before this change.
    """

    stack: str
    service: str
    kind: ActionKind
    reason: str
    signal: str = ""
    force: bool = False
    stale: bool = False


# --- decisions ---


@dataclass(frozen=True, slots=True)
class KeyChange:
    """Names of keys, sorted; never values. ``cosmetic``: other bytes, the same variables."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    cosmetic: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted({*self.added, *self.removed, *self.changed}))

    @property
    def empty(self) -> bool:
        """Whether a container could not tell the two files apart."""
        return not (self.added or self.removed or self.changed)


@dataclass(frozen=True, slots=True)
class TargetState:
    """The three states of one target, as observed. Digests are keyed; ``None`` means the thing is not there.

    ``last_path`` is where we last wrote; ``ownership_ok`` whether owner and group are as wanted (True where
    nothing is wanted).
    """

    target: Target
    desired: str | None
    live: str | None
    last: str | None
    live_mode: int | None = None
    last_mode: int | None = None
    ownership_ok: bool = True


@dataclass(frozen=True, slots=True)
class Change:
    """What was decided for one target, and why.

    ``keys`` are what the live file lacks of git's; ``by_hand`` what somebody has changed in it since we last wrote it,
    ``from_git`` what git has changed since then and waits. ``edited_at`` is when the live file was last written to.
    """

    target: Target
    kind: Kind
    effect: Effect
    reason: str
    aspects: frozenset[Aspect] = frozenset()
    keys: KeyChange = KeyChange()
    by_hand: KeyChange = KeyChange()
    from_git: KeyChange = KeyChange()
    edited_at: float | None = None

    @property
    def writes(self) -> bool:
        return self.effect in (Effect.WRITE, Effect.DELETE)

    @property
    def drifted(self) -> bool:
        """Whether somebody other than us moved the live file."""
        return self.kind in (Kind.DRIFT, Kind.CONFLICT)


@dataclass(frozen=True, slots=True)
class Plan:
    """Data only: what a pass would do for one environment at one revision."""

    environment: str
    revision: Revision
    changes: tuple[Change, ...]
    actions: tuple[Action, ...] = ()

    @property
    def writes(self) -> tuple[Change, ...]:
        return tuple(change for change in self.changes if change.writes)

    @property
    def held(self) -> tuple[Change, ...]:
        return tuple(change for change in self.changes if change.effect is Effect.HOLD)

    @property
    def reported(self) -> tuple[Change, ...]:
        return tuple(change for change in self.changes if change.effect is Effect.REPORT)

    @property
    def empty(self) -> bool:
        return not self.writes and not self.actions


@dataclass(frozen=True, slots=True)
class ServiceHealth:
    """A service as last seen: ``state`` is the engine's word, ``healthy`` our verdict on it."""

    stack: str
    service: str
    state: str
    healthy: bool
    restarts: int = 0


@dataclass(frozen=True, slots=True)
class StackHealth:
    """A stack at one look: the word for it, and its services; none where the engine does not answer."""

    stack: str
    status: HealthStatus
    services: tuple[ServiceHealth, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a pass ended for one environment; ``reason`` is one sentence a person can read.

    ``plan`` is what was to be done, ``after`` how things stand now. ``retry`` says that the same pass is worth
    repeating without a new revision; ``refused`` that it is the answer to an order that makes no sense: there was no
    pass.
    """

    environment: str
    result: Result
    reason: str
    revision: Revision | None = None
    plan: Plan | None = None
    after: Plan | None = None
    run: str | None = None
    backup: str | None = None
    retry: bool = False
    warning: str = ""
    refused: bool = False


@dataclass(frozen=True, slots=True)
class Order:
    """A person's order; ``revision`` (a commit's id; for a rollback, "" for the one before) and ``reason`` as typed.

    ``scope`` is what a pause is about: a target, a stack, or "" for the whole environment; it lasts ``seconds``.
    """

    kind: OrderKind
    revision: str = ""
    reason: str = ""
    scope: str = ""
    seconds: float = 0.0


# --- what is remembered ---


@dataclass(frozen=True, slots=True)
class Pin:
    """The revision at which a person holds an environment, why (in their words) and since when."""

    revision: Revision
    reason: str
    at: float


@dataclass(frozen=True, slots=True)
class Pause:
    """Until then (epoch seconds) a person wants nothing to be written to a target or stack; ``scope`` as in Order."""

    scope: str
    until: float
    reason: str
    at: float

    def covers(self, target: Target) -> bool:
        stack = f"{target.environment}/{target.stack}" if target.stack else None
        return self.scope in ("", target.id, stack)


@dataclass(frozen=True, slots=True)
class Quarantine:
    """A revision that broke a service: whatever has its subtree is not applied again.

    ``revert`` says how far its revert in git has come (None: none is wanted), ``revert_note`` tells of it in words;
    it is to undo what came after the revision ``good``.
    """

    revision: Revision
    reason: str
    at: float
    run: str
    good: str = ""
    revert: RevertState | None = None
    revert_note: str = ""


_MOST_QUARANTINES = 49  # beside the newest


@dataclass(frozen=True, slots=True)
class EnvironmentRecord:
    """What is known of an environment between passes.

    ``degraded`` is why a service is not healthy on files that stay nevertheless; "" where all is well. ``stopped``
    tells by stack ("" for targets of none) why nothing is done about it any more until a person says so. ``reverts``
    are the times (epoch seconds) of the last pushes of reverts.
    """

    name: str
    head: Revision | None = None
    applied: Revision | None = None
    healthy: Revision | None = None
    pin: Pin | None = None
    pauses: tuple[Pause, ...] = ()
    quarantines: tuple[Quarantine, ...] = ()
    degraded: str = ""
    stopped: Mapping[str, str] = field(default_factory=dict)
    reverts: tuple[float, ...] = ()

    def quarantine_of(self, revision: Revision) -> Quarantine | None:
        return next((one for one in self.quarantines if one.revision.subtree == revision.subtree), None)

    def quarantined(self, one: Quarantine) -> EnvironmentRecord:
        """The record with this quarantine, in the place of an earlier one of the same subtree."""
        others = self.trusting(one.revision).quarantines
        return replace(self, quarantines=(*others[-_MOST_QUARANTINES:], one))

    def trusting(self, revision: Revision) -> EnvironmentRecord:
        """The record without a quarantine of the revision's subtree."""
        others = tuple(known for known in self.quarantines if known.revision.subtree != revision.subtree)
        return replace(self, quarantines=others)


@dataclass(frozen=True, slots=True)
class RunChange:
    """One target's part of a run; ``stack`` is "" for a target of none.

    ``digest`` is the keyed digest of what the run writes to ``path``; None: it deletes the file. ``parser`` and
    ``ignore_keys`` are the target's: keys that are left to the server keep their value when the file is put back, too.
    """

    source: str
    kind: str
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    stack: str = ""
    path: str = ""
    digest: str | None = None
    parser: Parser = Parser.OPAQUE
    ignore_keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Run:
    """One transaction, from ``begin`` to ``finish``; ``result`` is None while it is unfinished.

    What follows is what a process that takes up another's unfinished run must know. ``failing`` names the services
    (stack/service) that were not healthy before it, ``silent`` the URLs of health checks that did not answer then:
    for those it is not to blame. ``rolling_back`` is why it is being undone; "" while it is not.
    """

    id: str
    environment: str
    trigger: str
    started_at: float
    revision: Revision
    from_commit: str = ""
    backup: str = ""
    changes: tuple[RunChange, ...] = ()
    actions: tuple[Action, ...] = ()
    failing: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()
    rolling_back: str = ""
    finished_at: float | None = None
    result: Result | None = None
    reason: str = ""

    @property
    def stacks(self) -> frozenset[str]:
        """The stacks it has to do with; "" for targets of none."""
        return frozenset({change.stack for change in self.changes} | {action.stack for action in self.actions})


@dataclass(frozen=True, slots=True)
class BackupEntry:
    """One file in a backup. ``file`` is its name in the backup's directory, None where nothing was there."""

    source: str
    path: str
    file: str | None
    mode: int = 0
    uid: int = 0
    gid: int = 0
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Backup:
    """Everything a run was about to change, as it was. ``id`` is the directory's name."""

    id: str
    environment: str
    run: str
    at: float
    from_commit: str
    to_commit: str
    entries: tuple[BackupEntry, ...]


@dataclass(frozen=True, slots=True)
class Adopted:
    """A live file, or ``keys`` of it (names), proposed for git: ``commit`` on ``branch``, on top of ``base``.

    ``whole``: the file has no keys to sops.
    """

    target: Target
    branch: str
    commit: str
    base: Revision
    keys: KeyChange
    whole: bool


@dataclass(frozen=True, slots=True)
class KeyAge:
    """Since when (epoch seconds) a secret has had the value it has; None: it is empty, and no secret.

    ``key`` is "" for a source that is one secret as a whole.
    """

    key: str
    at: float | None


@dataclass(frozen=True, slots=True)
class TargetAge:
    """How old the secrets of an encrypted target are, in the order of the file."""

    target: Target
    keys: tuple[KeyAge, ...]

    @property
    def oldest(self) -> float | None:
        return min((key.at for key in self.keys if key.at is not None), default=None)


@dataclass(frozen=True, slots=True)
class Settings:
    """The part of the server's file that the engine decides by. Durations in seconds."""

    repository_path: str = "envs"
    branch: str = "main"
    allowed_paths: tuple[str, ...] = ()
    allow_compose_files: bool = False
    accept_rewrites: bool = False
    verify: Verify = Verify.NONE
    host: str = ""
    git_revert: GitRevert = GitRevert.OFF
    max_reverts_per_day: int = 3
    keep_backups: int = 50
    backup_max_age: float = 90 * 86400.0
    drift_interval: float = 60.0
