"""What a reconciliation reports to Prometheus."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from reconciler.core.history.chain import HistoryHead
from reconciler.core.model.compose import StackHealth
from reconciler.core.model.plans import Plan
from reconciler.core.model.records import Applied, EnvironmentRecord
from reconciler.core.model.revisions import Revision
from reconciler.core.model.runs import Backup, Outcome, Phase, Result


class Metrics(Protocol):
    """Labels never hold a key, a value, a path or a URL. ``at`` is in epoch seconds."""

    def phase(self, phase: Phase, seconds: float) -> None: ...

    def fetched(self, environment: str, ok: bool, at: float) -> None: ...

    def decrypted(self, environment: str, result: str, reason: str = "") -> None: ...

    def undecryptable(self, environment: str, reasons: Mapping[str, str]) -> None:
        """The targets whose sources cannot be decrypted now, each with the reason (key, ciphertext, sops)."""

    def backed_up(self, environment: str, ok: bool) -> None: ...

    def backups(self, environment: str, backups: Sequence[Backup]) -> None:
        """The backups that exist now, newest first."""

    def recreated(self, environment: str, stack: str, service: str, result: str) -> None: ...

    def revision(self, environment: str, state: str, revision: Revision | None) -> None: ...

    def observed(self, plan: Plan, at: float) -> None: ...

    def corrected(self, environment: str, targets: Sequence[str], at: float) -> None: ...

    def services_corrected(self, environment: str, services: Sequence[tuple[str, str]]) -> None:
        """What somebody changed of these services (stack, service) on the engine itself is taken back."""

    def delivered(self, environment: str, seconds: float) -> None:
        """A commit is in place with healthy services, this long after it was made."""

    def applied(self, environment: str, applied: Iterable[Applied]) -> None:
        """The commit whose content of each target is in place."""

    def delivered_target(self, environment: str, target: str, seconds: float) -> None:
        """A commit's content of the target is in place with healthy services, this long after it was made."""

    def remembered(self, record: EnvironmentRecord, at: float) -> None:
        """The stored record: revisions, and what an operator or a quarantine holds back."""

    def verified(self, environment: str, result: str, reason: str = "") -> None: ...

    def rolled_back(self, environment: str, kind: str, ok: bool) -> None: ...

    def failed(self, environment: str, at: float) -> None:
        """Services were judged unhealthy: a failure begins, unless one is under way."""

    def health(self, environment: str, stacks: Sequence[StackHealth], at: float) -> float | None:
        """The health of all stacks of the environment. A failure ends when every one is healthy: returns when the one
        began that ends with this (epoch seconds), so that the history says the same."""

    def changed(self, environment: str, result: Result) -> None:
        """A change has ended so: see core/history/report.py for what counts as one."""

    def engine(self, environment: str, up: bool | None) -> None:
        """Whether the Docker engine answers; None: the environment has no stack, so nobody asks."""

    def rotated(self, environment: str, target: str, at: float | None) -> None:
        """When the oldest secret of the target was made; None: it has none."""

    def recorded(self, head: HistoryHead) -> None:
        """The head of the history now."""

    def finished(self, outcome: Outcome, seconds: float, at: float) -> None: ...
