"""The error tree: every class says what to do about it, every message says where, what and what next.

``id`` is the stable name under which docs/errors.md explains an error. A class has one; where the document explains a
case of it by itself, whoever raises it gives that case's. Ids never change, because people search for them.

Two class attributes steer the engine (see engine/reconcile.py), so that errors become outcomes at one boundary:

``blames_revision``  the desired revision is at fault: waiting does not help, a new commit does.
``retryable``        the cause is outside (engine, network, disk): try again with backoff.

No message may hold a value from an env file. Names of keys and files are fine.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

# Of several problems that are not of one kind: each line ends with its own id.
SEVERAL = "several-problems"


class ReconcilerError(Exception):
    """An error to report to an operator.

    ``what`` is the fact, ``where`` the file, field, target or address it was found at, ``hint`` the next step; ``id``
    replaces the class's. The text has no id: who shows it adds that (``with_id``).
    """

    id = "internal-error"
    blames_revision = False
    retryable = False

    def __init__(self, what: str, *, where: str = "", hint: str = "", id: str = "") -> None:
        self.what = what
        self.where = where
        self.hint = hint
        self.id = id or type(self).id
        super().__init__(str(self))

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text.rstrip('.')}. {self.hint}" if self.hint else text


def with_id(text: str, id: str) -> str:
    """A message as it is shown: its id is at the end, in brackets."""
    return text if not text or id in ("", SEVERAL) else f"{text} [{id}]"


def common_id(ids: Collection[str]) -> str:
    """The id of several problems together; "" of none."""
    return next(iter(ids), "") if len(set(ids)) < 2 else SEVERAL


def all_of(problems: Sequence[ReconcilerError], hint: str = "") -> tuple[str, str]:
    """Several problems as one text, a line each, with the ``hint`` for all of them, and its id."""
    id = common_id([problem.id for problem in problems])
    *lines, last = (str(problem) for problem in problems)
    lines.append(f"{last.rstrip('.')}. {hint}" if hint else last)
    if id == SEVERAL:
        lines = [with_id(line, problem.id) for line, problem in zip(lines, problems, strict=True)]
    return "\n".join(lines), id


class ConfigError(ReconcilerError):
    """The server configuration cannot be used; ``what`` lists every problem, one per line."""

    id = "server-configuration-invalid"


class LockedError(ReconcilerError):
    """Another process works on the same state directory."""

    id = "state-locked"


class StoreError(ReconcilerError):
    """The state database cannot be used (damaged, or written by a newer version)."""

    id = "state-unusable"


class RefusedError(ReconcilerError):
    """A command cannot be carried out as asked; nothing was changed."""

    id = "refused"


# --- the revision is at fault: nothing was written, status says Stalled ---


class RevisionError(ReconcilerError):
    """The desired revision cannot be applied as it is."""

    id = "revision-unusable"
    blames_revision = True


class ManifestError(RevisionError):
    """environment.yaml is missing, cannot be read, or breaks its schema."""

    id = "manifest-invalid"


class SourceError(RevisionError):
    """A target's source in git is missing, too large, a link, or an LFS pointer."""

    id = "source-unusable"


class NotEncryptedError(SourceError):
    """A source that must be encrypted holds plaintext; names the keys, never the values."""

    id = "not-encrypted"


class ForeignKeyError(SourceError):
    """A source is encrypted for other keys than this server's, or for a kind of key that it does not use."""

    id = "wrong-key"


class BadCiphertextError(SourceError):
    """SOPS refuses the file: tampered with, badly merged, or malformed."""

    id = "bad-ciphertext"


class GuardError(RevisionError):
    """A guard failed; see core/decide/guards.py."""

    id = "guard-failed"


class ContractError(RevisionError):
    """A contract cannot be used: missing, no JSON Schema, or too slow to evaluate."""

    id = "unusable-contract"


class QuarantinedError(RevisionError):
    """The desired revision broke a service before, and no earlier revision is known to be good."""

    id = "quarantined"


class ModelRefusedError(RevisionError):
    """Docker Compose refuses the project with the new files."""

    id = "compose-refused"


class NameTakenError(ModelRefusedError):
    """A container that is not of the service has the name that the service's container needs; nothing was touched."""

    id = "name-or-port-taken"


class StartedOtherwiseError(ModelRefusedError):
    """The manifest and the running containers disagree about how the project is run, or that can no longer be
    repeated: nothing of the stack is touched."""

    id = "started-otherwise"


class UnhealthyError(RevisionError):
    """A service that was healthy before the change is not healthy after it."""

    id = "unhealthy"


class StillStartingError(UnhealthyError):
    """The same, but nothing of it has failed: it takes longer than it may."""

    id = "still-starting"


# --- something outside is at fault: restarts stay pending, retried with backoff ---


class OutsideError(ReconcilerError):
    """Something outside failed; the revision is not to blame, and the reconciliation is retried."""

    id = "outside-failure"
    retryable = True


class KeyUnavailableError(OutsideError):
    """No usable decryption key on this server."""

    id = "age-key-unusable"


class DecryptFailedError(OutsideError):
    """sops itself could not run, crashed, or ran into a limit."""

    id = "sops-failed"


class ExhaustedError(OutsideError):
    """The machine lets no process be started: processes, memory or files have run out."""

    id = "exhausted"


class GitUnreachableError(OutsideError):
    """The remote does not answer, refuses us, or its branch is gone."""

    id = "git-unreachable"


class SignaturesUnavailableError(OutsideError):
    """Signatures cannot be checked or made on this server (a file that cannot be read, no ssh-keygen)."""

    id = "signatures-unavailable"


class UnverifiedError(RevisionError):
    """A commit carries no good signature of an allowed signer."""

    id = "unsigned-commit"


class RevertRefusedError(ReconcilerError):
    """A revert that an operator must make: it conflicts, would undo a revert of ours, or may not be pushed."""

    id = "revert-refused"


class HeldBackError(ReconcilerError):
    """A new revision is not rolled out to a host, because it failed on another one."""

    id = "held-back"


class HistoryRewrittenError(ReconcilerError):
    """The branch no longer descends from the last accepted commit."""

    id = "history-rewritten"


class LiveFileError(OutsideError):
    """A live file cannot be read or written (link on the way, a directory, ENOSPC, EROFS, EACCES …)."""

    id = "live-file"


class BackupUnusableError(LiveFileError):
    """A backup is gone, cannot be read, or is not what was stored."""

    id = "backup-unusable"


class ChangedMeanwhileError(OutsideError):
    """A third party changed a live file between our read and our write; nothing was overwritten."""

    id = "changed-meanwhile"


class StoreUnavailableError(OutsideError):
    """The state database cannot be written now (locked, disk full)."""

    id = "state-unavailable"


class EngineUnavailableError(OutsideError):
    """Docker or Compose does not answer, or the stack cannot be reached on this server.

    ``files_stay_ours``: the live files can be measured and restored meanwhile; only the services have to wait.
    """

    id = "engine-unavailable"
    files_stay_ours = True


class StackGoneError(EngineUnavailableError):
    """The stack's directory or compose file is not on this server."""

    id = "stack-gone"
    files_stay_ours = False


class SwarmUnavailableError(EngineUnavailableError):
    """The host is no Swarm manager, or the managers have lost their quorum: nobody can say what runs, or change it, so
    nothing is written."""

    id = "swarm-unavailable"
    files_stay_ours = False


class NodeLostError(EngineUnavailableError):
    """A node of the Swarm was lost during an update: that is not the revision's fault, and another deploy may work."""

    id = "node-lost"


class HostUnreachableError(EngineUnavailableError):
    """A machine reached over SSH does not answer, does not let us in, or is not the one we know; its engine cannot be
    reached either."""

    id = "host-unreachable"
    files_stay_ours = False


class ForgeError(OutsideError):
    """A forge does not answer, or refuses what it is asked for. ``retry_after`` are the seconds that it wants us to
    wait; 0 where it does not say."""

    id = "forge-refused"

    def __init__(self, what: str, *, where: str = "", hint: str = "", id: str = "", retry_after: float = 0.0) -> None:
        super().__init__(what, where=where, hint=hint, id=id)
        self.retry_after = retry_after


class ServiceFailedError(OutsideError):
    """Services are not healthy, and were not before either, or on_failure is hold."""

    id = "degraded"
