"""What the engine needs from the world, as protocols. Adapters implement them; tests put fakes behind them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from reconciler.core.contract import Answer, Contract, Question
from reconciler.core.inventory import FoundFile
from reconciler.core.model.compose import Action, Container, Project, ProjectFiles, StackHealth
from reconciler.core.model.plans import Plan
from reconciler.core.model.records import Applied, EnvironmentRecord
from reconciler.core.model.revisions import Blob, GitRevert, Reverted, RevertRequest, Revision
from reconciler.core.model.runs import Backup, BackupEntry, Outcome, Phase, Result, Run
from reconciler.core.model.settings import Settings
from reconciler.core.model.targets import Check, Format, HttpCheck, LiveFile, Manifest, Ownership, Stack
from reconciler.core.secret import Digester, Secret
from reconciler.core.sops.ciphertext import Ciphertext


class Git(Protocol):
    """Reads one branch of one remote through a bare mirror; nothing from it is ever checked out."""

    async def head(self) -> str:
        """Ask the remote for the branch's commit id (ls-remote).

        Raises GitUnreachableError (no answer, refused, branch gone, empty repository).
        """
        ...

    async def fetch(self, commit: str) -> None:
        """Bring the commit into the mirror; a commit already there costs nothing.

        Raises GitUnreachableError, SourceError for an object that git itself refuses. So do the methods below.
        """
        ...

    async def revision(self, commit: str, directory: str) -> Revision:
        """The commit with the id of ``directory``'s tree ("" where it does not exist)."""
        ...

    async def read(self, commit: str, path: str) -> Blob | None:
        """The blob at ``path``, or None where there is none.

        Raises SourceError for anything but a regular file (link, submodule, directory), for one over the size
        limit and for an LFS pointer.
        """
        ...

    async def descends(self, commit: str, ancestor: str) -> bool:
        """Whether ``commit`` is ``ancestor`` or descends from it. An unknown ancestor gives False."""
        ...

    async def resolve(self, name: str) -> str:
        """The id of the commit that a person names by its id, whole or abbreviated, among those on the branch.

        Raises RefusedError where there is none, or more than one.
        """
        ...

    async def first_seen(self, commit: str, since: str | None, directory: str) -> Mapping[str, float]:
        """When each encrypted value of the directory's files, of any time, came into the commit's history.

        By the beginning of its iv (``ciphertext.ivs``), in epoch seconds: the date of the oldest commit that has it.
        With ``since``, only what commits bring that ``since`` has not; one that is no ancestor counts as None.
        Raises RefusedError for a history that is too long.
        """
        ...

    async def verify(self, commit: str, since: str | None) -> None:
        """Check the commit's signature, and that of every commit it has and ``since`` has not.

        Raises UnverifiedError, which names the first commit that carries no good signature of an allowed signer.
        """
        ...


class GitWriter(Protocol):
    """Adds commits to the remote: fast-forward only, never forced, from a throw-away worktree of the mirror."""

    async def revert(self, order: RevertRequest, mode: GitRevert) -> Reverted:
        """Undo the order's commits on top of the branch's head, and push that to the branch (``push``) or to
        reconciler/rollback-<environment>-<commit> (``branch``).

        Raises RevertRefusedError where a person must act (conflict, the commits are a revert of ours, the remote
        does not let us push), GitUnreachableError where it is worth trying again.
        """
        ...

    async def may_push(self, commit: str) -> None:
        """Ask the remote whether it lets us push at all; ``commit`` is one that it has. Nothing is pushed.

        A rule for what is pushed, like a protected branch, is found out only then. Raises RevertRefusedError,
        GitUnreachableError.
        """
        ...

    async def propose(self, branch: str, base: str, files: Mapping[str, bytes], message: str) -> str:
        """Commit the files (path → content) on top of ``base``, push that as a new branch, and return its id.

        Raises RefusedError where the branch exists or the remote does not let us push, GitUnreachableError.
        """
        ...


class Encryptor(Protocol):
    """Writes ciphertext. No value of a variable is in an argument, an environment, or a file for it."""

    async def amend(self, name: str, data: bytes, values: Mapping[str, Secret | None]) -> bytes:
        """Given a dotenv source, set the values by what stands before their ``=`` (None: take it out); all other
        ciphertexts stay.

        Raises as ``Decryptor.decrypt`` does.
        """
        ...

    async def encrypt_anew(self, name: str, data: bytes, content: Secret) -> bytes:
        """Given a binary source, return one that holds ``content``, for the same recipients.

        Raises RefusedError where that cannot be, and as ``Decryptor.decrypt`` does.
        """
        ...


class Decryptor(Protocol):
    async def identity(self) -> str:
        """What a remembered result depends on beside the blob: sops' version and a fingerprint of our key.

        Raises KeyUnavailableError, DecryptFailedError.
        """
        ...

    def format_of(self, name: str, data: bytes) -> Format:
        """Given an encrypted source's name and bytes, return the format sops must be told."""
        ...

    def read(self, name: str, data: bytes) -> Ciphertext:
        """What an encrypted source says without a key. Raises SourceError and its kinds."""
        ...

    async def decrypt(self, name: str, data: bytes) -> Secret:
        """Pre-check and decrypt ``data``; ``name`` is used for the format and in messages.

        Raises SourceError (NotEncryptedError, BadCiphertextError and what is not for us), KeyUnavailableError,
        DecryptFailedError.
        """
        ...


class Contracts(Protocol):
    """Tells whether variables keep their contracts, without ever repeating a value."""

    async def ask(self, contracts: Sequence[Contract], questions: Sequence[Question]) -> Answer:
        """Whether the contracts are JSON Schemas, and whether those that the questions name hold.

        Raises ContractError where an answer takes too much time or memory, OutsideError where it gets no time.
        """
        ...


class Host(Protocol):
    """The file system of the machine that holds live files. Every path is absolute; no link is followed.

    Where the machine is another one and does not answer, everything raises HostUnreachableError.
    """

    async def reach(self) -> None:
        """Make sure that the machine answers. Raises HostUnreachableError."""
        ...

    async def read(self, path: str) -> LiveFile | None:
        """The regular file at ``path``; None where it, or a directory on the way, does not exist.

        Raises LiveFileError for a link on the way, a directory, a device, or one that cannot be read.
        """
        ...

    async def write(
        self, path: str, data: Secret, *, mode: int, ownership: Ownership, replaces: LiveFile | None
    ) -> None:
        """Put ``data`` at ``path`` atomically and durably; missing parents are made.

        ``replaces`` is what the caller saw and backed up; it gives the owner where ``ownership`` names none. Raises
        ChangedMeanwhileError, with the other's file left in place, where something else lies there now or somebody
        is still writing to it; LiveFileError where it cannot be written.
        """
        ...

    async def remove(self, path: str, *, replaces: LiveFile) -> None:
        """Remove the file durably. Raises as ``write`` does."""
        ...

    async def ownership(self, owner: str | None, group: str | None) -> Ownership:
        """Numeric ids of the names. Raises GuardError for one that does not exist on this machine."""
        ...

    async def resolve(self, path: str) -> str:
        """``path`` with every link resolved, as far as it exists. For comparing with allowed_paths."""
        ...

    async def leftovers(self, path: str) -> tuple[str, ...]:
        """Absolute paths of what a killed run left beside ``path`` under names of ours.

        One may hold an edit that is nowhere else: ``read`` it, back it up, and only then ``remove`` it.
        """
        ...

    async def check(self, check: Check, data: Secret) -> None:
        """Run the named check on the staged bytes. Raises GuardError with the exit code when it fails."""
        ...


class Machine(Protocol):
    """A machine that is only looked at, this one or one over SSH. Every path is absolute, and links are followed.

    Everything raises HostUnreachableError where the machine does not answer.
    """

    @property
    def name(self) -> str:
        """For messages."""
        ...

    async def read(self, path: str) -> FoundFile | None:
        """The regular file at ``path``, None where there is none. Raises LiveFileError for one that may not be read."""
        ...

    async def list(self, directory: str) -> tuple[str, ...]:
        """Sorted names of what lies in the directory, with a trailing / for a directory; nothing where there is none.

        Raises LiveFileError for one that may not be read.
        """
        ...

    async def run(self, argv: Sequence[str], directory: str, seconds: float) -> Ran:
        """Run a command of the operator's there, for so long at most. It may print secrets."""
        ...

    async def get(self, url: str, seconds: float) -> Ran:
        """Ask an address from there, no redirect followed; ``exit_code`` is the status. The text may hold secrets."""
        ...


@dataclass(frozen=True, slots=True)
class Ran:
    """How a command on a machine ended; ``exit_code`` None: it took too long, printed too much or is not there."""

    exit_code: int | None
    output: Secret
    problem: str = ""


class Compose(Protocol):
    async def project(self, stack: Stack, staged: Mapping[str, Secret | None] | None = None) -> Project:
        """The project as Compose resolves it, all profiles; with ``staged`` as if those files (absolute path →
        bytes, None for removed) were in place, which needs no write; one that the compose file reaches only by an
        absolute path is not seen.

        Raises ModelRefusedError (Compose refuses; says why without quoting a value), StartedOtherwiseError (the
        containers were started in another way than the manifest says), EngineUnavailableError (no docker, no compose
        file).
        """
        ...

    async def project_files(self, stack: Stack) -> ProjectFiles:
        """What Compose reads as the stack's project, by the manifest and by every one of its containers."""
        ...

    async def containers(self, stack: Stack, project: str | None) -> tuple[Container, ...]:
        """Containers of the project, found by their labels (by the stack's directory where the name is unknown).

        Raises EngineUnavailableError.
        """
        ...

    async def glance(self, stack: Stack) -> tuple[Container, ...]:
        """The stack's containers from one cheap call, which tells their id, service, state, health and exit code only.

        Raises EngineUnavailableError.
        """
        ...

    async def recreate(
        self, project: Project, services: Sequence[str], *, scale: Mapping[str, int] | None = None, force: bool = False
    ) -> None:
        """``up -d --no-deps`` for these services, run as the project was resolved; ``scale`` has the number of
        containers where it is not the project's; ``force`` where Compose itself would see no difference.
        Raises ModelRefusedError, EngineUnavailableError."""
        ...

    async def restart(self, project: str, services: Sequence[str]) -> None: ...

    async def signal(self, project: str, service: str, signal: str) -> None: ...


class HttpProbe(Protocol):
    async def ok(self, check: HttpCheck) -> bool:
        """Whether the URL answers with the wanted status."""
        ...


class Clock(Protocol):
    def now(self) -> float:
        """Seconds since the epoch, UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds that never jump."""
        ...

    async def sleep(self, seconds: float) -> None: ...


class Backups(Protocol):
    """Copies of live files as they were, 0700/0600: on this machine, and on the one they are of."""

    async def take(
        self, run: Run, files: Sequence[tuple[BackupEntry, Secret | None]], from_commit: str, to_commit: str
    ) -> Backup:
        """Store the files durably (fsynced) with a manifest that says where they belong; None: nothing was there.

        Raises LiveFileError where they cannot be stored: then nothing may be changed.
        """
        ...

    def list(self, environment: str | None = None) -> tuple[Backup, ...]:
        """Newest first, by the order in which they were taken. Raises LiveFileError where they cannot be listed."""
        ...

    def read(self, backup: Backup, entry: BackupEntry) -> Secret | None:
        """The bytes of one entry; None: nothing was there.

        Raises LiveFileError where they are gone or differ from the manifest's digest, and where others could have
        changed the backup.
        """
        ...

    async def discard(self, environment: str, identity: str) -> None:
        """Remove the backup of a run that changed nothing. One that cannot be removed, or is gone, stays so."""
        ...

    async def expire(self, environment: str, *, keep: int, max_age: float, now: float) -> int:
        """Remove old backups, counted per live path; the newest of each path always stays. Returns how many went.

        One that cannot be removed stays: that must not keep new files from being written.
        """
        ...


class Store(Protocol):
    """What is remembered between passes. Every change is durable when the call returns."""

    def environment(self, name: str) -> EnvironmentRecord: ...

    def environments(self) -> tuple[str, ...]:
        """What is remembered of any, on any host: the names."""
        ...

    def save_environment(self, record: EnvironmentRecord) -> None: ...

    def applied(self, environment: str) -> Mapping[str, Applied]:
        """By live path."""
        ...

    def digest(self, blob: str, format: str, identity: str) -> str | None:
        """The remembered keyed digest of a blob's plaintext."""
        ...

    def remember_digest(self, blob: str, format: str, identity: str, digest: str) -> None: ...

    def begin(self, run: Run) -> None:
        """Record that ``run`` is about to change files, with the actions it owes."""
        ...

    def amend(self, run: Run, record: EnvironmentRecord | None = None) -> None:
        """Replace what is known of an unfinished run, what it owes (its actions) included; and the environment's
        record at the same instant."""
        ...

    def unfinished(self, environment: str) -> Run | None:
        """The run that was begun and not finished: its process was killed, or something outside stopped it."""
        ...

    def pending_restarts(self, environment: str) -> tuple[Action, ...]:
        """What unfinished runs still owe."""
        ...

    def finish(
        self,
        run: Run,
        result: Result,
        reason: str,
        *,
        at: float,
        record: EnvironmentRecord,
        applied: Sequence[Applied] = (),
        forgotten: Sequence[str] = (),
        pending_restarts: Sequence[Action] = (),
        settled: Sequence[Action] = (),
    ) -> None:
        """In one transaction: the run's end, what was applied (and forgotten, by path), the environment's record.

        Older unfinished runs of the environment are closed with it. ``owed`` is what this run leaves owed; what other
        runs have left is owed still, but for the services of ``settled``.
        """
        ...

    def reopen(self, run: Run, record: EnvironmentRecord) -> None:
        """Make an ended run an unfinished one again, and store the environment's record at the same instant."""
        ...

    def note(self, run: str, sentence: str, record: EnvironmentRecord) -> None:
        """Add a sentence to the reason of a finished run, and store the environment's record at the same instant."""
        ...

    def runs(self, environment: str | Collection[str] | None = None, limit: int = 20) -> tuple[Run, ...]:
        """Those of the environment, of any of several, or of all; the newest first."""
        ...

    def history_read(self, directory: str) -> str | None:
        """Up to which commit the history of the directory in git was read for ``first_seen``."""
        ...

    def first_seen(self, ivs: Collection[str]) -> Mapping[str, float]:
        """When these values came into git's history (epoch seconds), as far as it is known."""
        ...

    def remember_first_seen(self, directory: str, commit: str, seen: Mapping[str, float]) -> None:
        """Note when values came into the history, which was read up to ``commit``; the earlier time of two stays."""
        ...


class Metrics(Protocol):
    """What the pass tells the outside. Labels never hold a key, a value, a path or a URL."""

    def phase(self, phase: Phase, seconds: float) -> None: ...

    def fetched(self, environment: str, ok: bool, at: float) -> None: ...

    def decrypted(self, environment: str, result: str, reason: str = "") -> None: ...

    def backed_up(self, environment: str, ok: bool) -> None: ...

    def backups(self, environment: str, found: Sequence[Backup]) -> None:
        """The backups there are now, newest first."""
        ...

    def recreated(self, environment: str, stack: str, service: str, result: str) -> None: ...

    def revision(self, environment: str, state: str, revision: Revision | None) -> None: ...

    def observed(self, plan: Plan, at: float) -> None: ...

    def corrected(self, environment: str, targets: Sequence[str]) -> None: ...

    def delivered(self, environment: str, seconds: float) -> None:
        """A commit is in place with its services healthy, so long after it was made."""
        ...

    def remembered(self, record: EnvironmentRecord, at: float) -> None:
        """What is known between passes: the revisions, and what a person or a quarantine holds back."""
        ...

    def verified(self, environment: str, result: str, reason: str = "") -> None: ...

    def rolled_back(self, environment: str, kind: str, ok: bool) -> None: ...

    def failed(self, environment: str, at: float) -> None:
        """Services were judged unhealthy: a failure begins, unless one goes on already."""
        ...

    def health(self, environment: str, stacks: Sequence[StackHealth], at: float) -> None:
        """How all stacks of the environment are. A failure ends where every one is healthy."""
        ...

    def rotated(self, environment: str, target: str, at: float | None) -> None:
        """When the oldest secret of the target was made, in epoch seconds; None: it has none."""
        ...

    def finished(self, outcome: Outcome, seconds: float, at: float) -> None: ...


@dataclass(frozen=True, slots=True)
class Ports:
    """Everything one pass may touch. ``progress`` takes a short sentence about what is being done now."""

    git: Git
    git_writer: GitWriter
    decryptor: Decryptor
    encryptor: Encryptor
    host: Host
    compose: Compose
    backups: Backups
    store: Store
    probe: HttpProbe
    clock: Clock
    metrics: Metrics
    digest: Digester
    settings: Settings
    contracts: Contracts
    read_manifest: Callable[[bytes, str, str], Manifest]
    read_contract: Callable[[str, bytes], Contract]
    new_run_id: Callable[[], str]
    progress: Callable[[str], None] = lambda _: None
