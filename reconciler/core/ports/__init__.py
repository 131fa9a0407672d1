"""What the engine needs from the world, as protocols. Adapters implement them; tests put fakes behind them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from reconciler.core.contract import Answer, Contract, Question
from reconciler.core.model.runs import Activity
from reconciler.core.model.settings import Settings
from reconciler.core.model.targets import Manifest
from reconciler.core.ports.compose import Compose, HttpProbe
from reconciler.core.ports.git import Git, GitWriter
from reconciler.core.ports.host import Host
from reconciler.core.ports.metrics import Metrics
from reconciler.core.ports.sops import Decryptor, Encryptor
from reconciler.core.ports.store import Backups, Store
from reconciler.core.secret import Digester


class Contracts(Protocol):
    """Says whether variables keep their contracts, and never repeats a value."""

    async def ask(self, contracts: Sequence[Contract], questions: Sequence[Question]) -> Answer:
        """Whether the contracts are JSON Schemas, and whether those that the questions name hold.

        Raises ContractError if an answer takes too much time or memory, OutsideError if it gets no time.
        """


class Clock(Protocol):
    def now(self) -> float:
        """Seconds since the epoch, UTC."""

    def monotonic(self) -> float:
        """Seconds that never jump."""

    async def sleep(self, seconds: float) -> None: ...


@dataclass(frozen=True, slots=True)
class Ports:
    """Everything a reconciliation may touch. ``progress`` takes a short sentence about what is being done now;
    ``activity`` holds it for whoever asks."""

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
    activity: Activity = field(default_factory=Activity)
