"""What outlives a process: records and runs in the store, copies of live files in backups."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Protocol

from reconciler.core.history.chain import ChainVerification, HistoryHead
from reconciler.core.history.entries import HistoryEntry
from reconciler.core.model.compose import Action, RanService
from reconciler.core.model.records import Applied, EnvironmentRecord
from reconciler.core.model.runs import Backup, BackupEntry, Result, Run
from reconciler.core.secret import Secret


class Backups(Protocol):
    """Copies of live files as they were, 0700/0600: on this machine, and on the one they are of."""

    async def take(
        self, run: Run, files: Sequence[tuple[BackupEntry, Secret | None]], from_commit: str, to_commit: str
    ) -> Backup:
        """Store the files durably (fsynced) with a manifest that says where they belong; None: there was no file.

        Raises LiveFileError if they cannot be stored: then nothing may be changed.
        """

    def list(self, environment: str | None = None) -> tuple[Backup, ...]:
        """Newest first, by the order in which they were taken. Raises LiveFileError if they cannot be listed."""

    def read(self, backup: Backup, entry: BackupEntry) -> Secret | None:
        """The bytes of one entry; None: there was no file.

        Raises LiveFileError if they are gone or differ from the manifest's digest, or if others could have changed
        the backup.
        """

    async def discard(self, environment: str, identity: str) -> None:
        """Remove the backup of a run that changed nothing. Ignores one that is gone or cannot be removed."""

    async def expire(self, environment: str, *, keep: int, max_age: float, now: float) -> None:
        """Remove old backups, counted per live path; keeps the newest of each path.

        One that cannot be removed stays: that must not keep new files from being written.
        """


class Store(Protocol):
    """What is remembered between reconciliations. Every change is durable when the call returns."""

    @property
    def version(self) -> tuple[int, int]:
        """Equal ones mean that nothing was stored in between, by whichever process."""

    def environment(self, name: str) -> EnvironmentRecord: ...

    def environments(self) -> tuple[str, ...]:
        """The names of all environments with a record, on any host."""

    def save_environment(self, record: EnvironmentRecord) -> None: ...

    def applied(self, environment: str) -> Mapping[str, Applied]:
        """By live path."""

    def advance(self, environment: str, paths: Collection[str], commit: str) -> None:
        """Record that ``commit`` has the content that is applied at these live paths."""

    def digests(self, sources: Collection[tuple[str, str, str]]) -> Mapping[tuple[str, str, str], str]:
        """The remembered keyed digests of plaintexts, by blob, format and identity."""

    def remember_digests(self, digests: Mapping[tuple[str, str, str], str]) -> None:
        """By blob, format and identity."""

    def ever_written(self, host: str, paths: Collection[str]) -> frozenset[str]:
        """Those of the real ``paths`` that were ever written on the ``host`` ("" for this machine), from any
        environment. Letters' case counts for nothing."""

    def ever_unguarded(self, host: str, paths: Collection[str]) -> frozenset[str]:
        """Those of the real ``paths`` that were ever written without being ``guarded``."""

    def remember_written(self, host: str, paths: Collection[str], guarded: Collection[str] = ()) -> None:
        """Remember for ever that these real paths are about to be written; ``guarded`` are those whose new content
        cannot change what Compose runs, whoever reads it as a project's .env."""

    def ran_services(self, environment: str) -> tuple[RanService, ...]:
        """The services of all stacks as they ran when they were last healthy."""

    def remember_ran_services(self, environment: str, services: Sequence[RanService]) -> None:
        """Replace all of them."""

    def begin(self, run: Run) -> None:
        """Record that ``run`` is about to change files; its actions become pending restarts."""

    def amend(self, run: Run, record: EnvironmentRecord | None = None) -> None:
        """Replace what is known of an unfinished run, its pending restarts (actions) included, and in the same
        database transaction the environment's record."""

    def unfinished(self, environment: str) -> Run | None:
        """The run that was begun and not finished: its process was killed, or something outside stopped it."""

    def pending_restarts(self, environment: str) -> tuple[Action, ...]:
        """What services still need from runs that could not do it."""

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
        """In one database transaction: the run's end, its entry in the history, what was applied (and forgotten, by
        path), the record.

        Closes older unfinished runs of the environment too. ``pending_restarts`` are what this run leaves to do; those
        of other runs stay, except for the services of ``settled``.
        """

    def reopen(self, run: Run, record: EnvironmentRecord, decision: Run) -> None:
        """Make a finished run unfinished again; in the same transaction, append the ``decision`` to do that to the
        history, and store the environment's record."""

    def note(self, run: str, sentence: str, record: EnvironmentRecord, at: float) -> None:
        """Add a sentence to a finished run's reason (``at``: epoch seconds), and store the environment's record in the
        same transaction."""

    def runs(
        self,
        environment: str | Collection[str] | None = None,
        limit: int = 20,
        *,
        since: float = 0.0,
        result: Result | None = None,
    ) -> tuple[Run, ...]:
        """The runs of one environment, of several, or of all; newest first. Decisions are none. Only those that were
        started ``since`` then (epoch seconds) and ended with that ``result``: one of 1,000 changes takes long to read.
        """

    def decide(self, decision: Run, record: EnvironmentRecord | None = None, *, forgotten: Sequence[str] = ()) -> None:
        """In one database transaction: append a decision that was no run to the history, store the record, and forget
        what is no longer applied (by path)."""

    def history(
        self,
        environments: Collection[str] | None = None,
        limit: int = 20,
        *,
        before: str | None = None,
        recoveries: bool = True,
    ) -> tuple[HistoryEntry, ...]:
        """The runs that have ended, the decisions and (unless not wanted) the recoveries, each as its newest entry has
        it; newest first. ``before``: only what is older than the run with this id."""

    def history_of(self, run: str) -> HistoryEntry | None:
        """The newest entry of the run or decision with this id; None where there is none, or not any more."""

    def entries(self, after: int = 0) -> Iterator[HistoryEntry]:
        """Every entry with a number above ``after``, oldest first."""

    def history_head(self) -> HistoryHead: ...

    def verify_history(self, heads: Collection[str] = ()) -> ChainVerification:
        """Whether every entry is as it was written, none is lost, and the ``heads`` are among them."""

    def history_read(self, directory: str) -> str | None:
        """Up to which commit the history of the directory in git was read for ``first_seen``."""

    def first_seen(self, ivs: Collection[str]) -> Mapping[str, float]:
        """When these values came into git's history (epoch seconds), as far as that is known."""

    def remember_first_seen(self, directory: str, commit: str, seen: Mapping[str, float]) -> None:
        """Record when values came into the history, read up to ``commit``; the earlier time of two stays."""
