"""What the reconciliations of one environment keep in memory, so that an idle one is cheap. A restart loses nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from reconciler.core.errors import EngineUnavailableError, ManifestError, ReconcilerError
from reconciler.core.model.plans import Aspect
from reconciler.core.model.requests import SecretAges
from reconciler.core.model.revisions import Revision
from reconciler.core.model.runs import Outcome
from reconciler.core.model.targets import FileStamp, Manifest, Ownership, Stack
from reconciler.engine.guests import OF_NO_STACK
from reconciler.engine.history import RecordedDecisions
from reconciler.engine.key_names import KeyNames
from reconciler.engine.observe import Desired, Fingerprint, Snapshot
from reconciler.engine.planning import Prepared

# After this many seconds a failed revision is tried again: the cause may lie on the server (a missing user).
_RETRY_FAILURE_AFTER = 300.0
NEVER = float("-inf")


@dataclass(frozen=True, slots=True)
class Failure:
    """A revision that cannot be applied, remembered so that not every reconciliation decrypts it again.

    ``undecryptable`` gives, by target, why its source cannot be decrypted.
    """

    subtree: str
    error: ReconcilerError
    until: float
    undecryptable: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Settled:
    """A reconciliation that has found nothing to do: its outcome, and what that depends on.

    ``stamps`` are what the live files had before they were read at ``read_at``, and have had since ``since``
    (monotonic seconds). ``store`` is the version of the store, ``owners`` are the ids by the names of owner and group.
    """

    desired: Desired
    outcome: Outcome
    stamps: Mapping[str, FileStamp | None]
    owners: Mapping[tuple[str | None, str | None], Ownership]
    store: tuple[int, int]
    since: float
    read_at: float


class Claims:
    """Which environment of this server writes which live path: two that share one would undo each other forever."""

    def __init__(self) -> None:
        self._owners: dict[str, str] = {}
        self._stacks: dict[str, tuple[Stack, ...]] = {}

    def neighbours(self, environment: str) -> tuple[Stack, ...]:
        return tuple(stack for name, stacks in self._stacks.items() if name != environment for stack in stacks)

    def stacks_of(self, environment: str) -> tuple[Stack, ...] | None:
        """The environment's stacks, as of the last manifest that could be read; None before that."""
        return self._stacks.get(environment)

    def claim(self, manifest: Manifest) -> None:
        """Claim the manifest's paths for its environment. Raises as ``require_free`` does."""
        self.require_free(manifest)
        environment = manifest.environment
        self._owners = {path: owner for path, owner in self._owners.items() if owner != environment}
        self._owners |= dict.fromkeys((target.path for target in manifest.targets), environment)
        self._stacks[environment] = manifest.stacks

    def require_free(self, manifest: Manifest) -> None:
        """Raise ManifestError if another environment has one of the manifest's paths."""
        environment = manifest.environment
        paths = {target.path for target in manifest.targets}
        taken = [path for path in sorted(paths) if self._owners.get(path, environment) != environment]
        if taken:
            problem = f"the environment {self._owners[taken[0]]} on this server also has a target there"
            hint = "Give each environment its own path, or remove one of them from the server configuration"
            raise ManifestError(problem, where=f"environment {environment}: {taken[0]}", hint=hint)


def unresolved(prepared: Prepared) -> bool:
    """Whether something about containers or services is still to be done, which the next reconciliation must find."""
    plan = prepared.plan
    stale = any(Aspect.STALE in change.aspects for change in plan.changes)
    return bool(stale or prepared.problems or plan.held_stacks or plan.drifts)


@dataclass(slots=True)
class Memory:
    """``claims`` are shared by all environments of the server; times are monotonic seconds.

    ``git_warning`` is what the last poll met, and is kept until the next one. ``containers`` are the container ids by
    stack, as of ``stacks_observed_at``, ``files`` the live files as they were then (see ``fingerprints``);
    ``services_seen_at`` is when services were last looked at, whatever came of it, and ``engine_away`` why that failed;
    ``notes`` by stack, from when it was last looked at. ``ages`` are those that the metrics have.
    ``settled`` is the last reconciliation, if it had nothing to do; ``resolved_in_vain`` as for Ahead.
    """

    claims: Claims
    decisions: RecordedDecisions = field(default_factory=RecordedDecisions)
    names: KeyNames = field(default_factory=KeyNames)
    desired: Desired | None = None
    failure: Failure | None = None
    git_warning: ReconcilerError | None = None
    containers: Mapping[str, frozenset[str]] = field(default_factory=dict)
    files: Mapping[str, Fingerprint] = field(default_factory=dict)
    stacks_observed_at: float = NEVER
    services_seen_at: float = NEVER
    engine_away: EngineUnavailableError | None = None
    notes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    ages: SecretAges | None = None
    ages_retried_at: float = NEVER
    leftovers_cleared: bool = False
    settled: Settled | None = None
    resolved_in_vain: set[str] = field(default_factory=set)

    def forget_revision(self) -> None:
        """Load the desired revision again next time, whatever is known of it."""
        self.failure = self.desired = None

    def forget_server(self) -> None:
        """Look at the containers again, and for leftovers: a write may leave another process's edit beside a file."""
        self.stacks_observed_at = NEVER
        self.leftovers_cleared = False

    def fail(
        self, revision: Revision, error: ReconcilerError, now: float, undecryptable: Mapping[str, str] | None = None
    ) -> None:
        self.failure = Failure(revision.subtree, error, now + _RETRY_FAILURE_AFTER, dict(undecryptable or {}))

    def failure_of(self, revision: Revision, now: float) -> Failure | None:
        """Why the revision cannot be applied, if that is known and recent."""
        failure = self.failure
        return failure if failure and failure.subtree == revision.subtree and now < failure.until else None

    def look_again_if_moved(self, files: Mapping[str, Fingerprint]) -> None:
        """Look at the containers now if a live file, or what git wants of it, has changed since the last look: whoever
        changed it, what they run with may be older by now."""
        if files != self.files:
            self.stacks_observed_at = NEVER

    def moved_stacks(
        self, containers: Mapping[str, frozenset[str]], files: Mapping[str, Fingerprint], snapshot: Snapshot
    ) -> frozenset[str]:
        """The stacks of which a container or a live file is not as it was at the last look that left nothing to do."""
        stacks = {name for name, ids in containers.items() if self.containers.get(name) != ids}
        targets = (state.target for state in snapshot.states)
        moved = {target.stack for target in targets if files[target.path] != self.files.get(target.path)}
        return frozenset(stacks | {name for name in moved if name})

    def keep_containers(
        self,
        containers: Mapping[str, frozenset[str]],
        files: Mapping[str, Fingerprint],
        prepared: Prepared,
        now: float,
    ) -> None:
        """Remember the containers, unless something about them is still to be done: the next reconciliation must find
        that again."""
        if not unresolved(prepared):
            self.containers, self.files, self.stacks_observed_at = containers, files, now

    def with_notes(self, prepared: Prepared, stacks: Iterable[Stack]) -> Prepared:
        """Remember what is noted about the stacks; returns what is prepared with the notes on all of them."""
        known = {**self.notes, **prepared.notes}
        self.notes = {name: known[name] for name in (*(stack.name for stack in stacks), OF_NO_STACK) if name in known}
        notes = tuple(note for sentences in self.notes.values() for note in sentences)
        return replace(prepared, plan=replace(prepared.plan, notes=notes))

    def retry_ages(self, now: float) -> None:
        """Do not try to read the ages of secrets for a while."""
        self.ages_retried_at = now + _RETRY_FAILURE_AFTER
