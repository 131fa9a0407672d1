"""Merges random branches for real, and compares what was planned before each merge with what the merge then did.

Real git, sops, files and store; the engine is on paper (tests/support/paper_engine.py). Used by tests and benchmarks.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from reconciler.adapters.git.branch_merges import GitBranchMerges
from reconciler.adapters.git.mirror import GitMirror
from reconciler.adapters.sops.program import Sops
from reconciler.app.config.server import load_server_config
from reconciler.app.wiring import server as wiring
from reconciler.core.forge.merge_plan import PlannedUnit
from reconciler.core.model.plans import Change, Effect
from reconciler.core.model.requests import ReconcileRequest
from reconciler.core.model.revisions import Verify
from reconciler.core.model.runs import Outcome, Result
from reconciler.core.secret import Secret
from reconciler.engine.memory import Claims
from reconciler.engine.merge_preview import MergePreview
from reconciler.engine.reconcile import Reconciler
from tests.support.paper_engine import SERVICES, PaperEngine, QuickClock, source_of, start_all
from tests.support.server import ENVIRONMENT, Server

_DIRECTORY = f"envs/{ENVIRONMENT}"
_BRANCH = "change"
_CONTRACT = b"type: object\nrequired: [MODE]\nproperties: {PORT: {pattern: '^[0-9]+$'}}\n"
_WRITTEN = (Effect.WRITE, Effect.DELETE)


@dataclass(frozen=True, slots=True)
class Replayed:
    """One merge: what the branch did, what was planned, what the run then did, and the seconds that the plan took."""

    edits: tuple[str, ...]
    planned: str
    done: str
    seconds: float

    @property
    def equal(self) -> bool:
        return self.planned == self.done


async def replay(server: Server, number: int, seed: int) -> list[Replayed]:
    """Merge ``number`` random branches, one after the other."""
    async with _running(server) as world:
        merges = _Merges(server, world, random.Random(seed))
        return [await merges.next(turn) for turn in range(number)]


@dataclass(slots=True)
class _World:
    """The server's parts, and the reconciler that takes each merge."""

    runtime: wiring.Runtime
    reconciler: Reconciler
    sops: Sops
    engine: Path


@contextlib.asynccontextmanager
async def _running(server: Server) -> AsyncIterator[_World]:
    (server.app / "compose.yaml").write_text("services: {}\n")
    sources = {source_of(name): f"MODE=good\nPORT=80{number}\nTOKEN=t0\n" for number, name in enumerate(SERVICES)}
    server.remote.commit({"envs/contracts/service.yaml": _CONTRACT})
    manifest = server.manifest({source: {"schema": "contracts/service.yaml"} for source in sources})
    server.commit({source: text.encode() for source, text in sources.items()}, manifest)
    for source, text in sources.items():
        (server.app / source).write_text(text)
        (server.app / source).chmod(0o600)
    engine = server.root / "engine.json"
    start_all(engine, server.app)
    with _replaced(engine):
        async with wiring.runtime(load_server_config(str(server.config))) as runtime:
            reconciler = runtime.reconcilers[ENVIRONMENT]
            sops = runtime.ports.decryptor
            assert isinstance(sops, Sops)
            outcome = await reconciler.reconcile(ReconcileRequest("start"))
            assert outcome.result in (Result.IN_SYNC, Result.APPLIED), outcome.reason
            yield _World(runtime, reconciler, sops, engine)


@contextlib.contextmanager
def _replaced(engine: Path) -> Iterator[None]:
    """The wiring with an engine on paper, and a clock that does not wait."""
    before = wiring.stack_engines, wiring.SystemClock
    wiring.stack_engines = lambda *_, **__: PaperEngine(str(engine), lambda _: None)  # type: ignore[assignment,misc]
    wiring.SystemClock = QuickClock  # type: ignore[misc]
    try:
        yield
    finally:
        wiring.stack_engines, wiring.SystemClock = before  # type: ignore[misc]


@dataclass(slots=True)
class _Merges:
    server: Server
    world: _World
    random: random.Random
    _edits: list[str] = field(default_factory=list)

    async def next(self, turn: int) -> Replayed:
        remote, main = self.server.remote, self.server.remote.head()
        remote.make_branch(_BRANCH, main)
        self._edits = []
        edits = self.random.sample(self._kinds(), self.random.choice((1, 1, 1, 2, 3)))
        for edit in edits:
            await edit(turn)
        if self.random.random() < 0.4:  # the branch is behind
            remote.commit({f"docs/{turn}.md": b"x"})
            if self.random.random() < 0.5:
                await self._beside(turn)
        await self.world.reconciler.reconcile(ReconcileRequest("poll"))
        began = time.perf_counter()
        planned = await self._plan()
        seconds = time.perf_counter() - began
        remote.merge(_BRANCH)
        outcome = await self.world.reconciler.reconcile(ReconcileRequest("poll"))
        replayed = Replayed(tuple(self._edits), _as_planned(planned), _as_done(outcome), seconds)
        if outcome.result not in (Result.APPLIED, Result.IN_SYNC, Result.CORRECTED):
            await self._mend(main)
        return replayed

    async def _plan(self) -> PlannedUnit:
        ports = self.world.runtime.ports
        mirror = ports.git
        assert isinstance(mirror, GitMirror)
        head = ports.store.environment(ENVIRONMENT).head
        assert head is not None
        async with GitBranchMerges(mirror, Verify.NONE).merged(_BRANCH, head.commit) as merged:
            assert not merged.conflicts, merged.conflicts
            preview = MergePreview(ports, ENVIRONMENT, Claims(), merged)
            await preview.load()
            return await preview.plan()

    async def _mend(self, good: str) -> None:
        """Back to the tree that worked, with a new commit."""
        remote = self.server.remote
        head, tree = remote.head(), remote.git("rev-parse", f"{good}^{{tree}}")
        identity = {
            "GIT_AUTHOR_NAME": "A",
            "GIT_AUTHOR_EMAIL": "a@b",
            "GIT_COMMITTER_NAME": "A",
            "GIT_COMMITTER_EMAIL": "a@b",
        }
        remote.make_branch("main", remote.git("commit-tree", "-p", head, "-m", "Mend", tree, env=identity))
        outcome = await self.world.reconciler.reconcile(ReconcileRequest("poll"))
        assert outcome.result in (Result.APPLIED, Result.IN_SYNC, Result.CORRECTED), outcome.reason

    # --- what a branch does ---

    def _kinds(self) -> list[Callable[[int], object]]:
        often = [self._value, self._value, self._value, self._added_key, self._removed_key]
        return [*often, self._breach, self._unhealthy, self._mode, self._new_target, self._gone_target, self._outside]  # type: ignore[list-item]

    async def _value(self, turn: int) -> None:
        await self._amend("a value", {self.random.choice(("TOKEN", "PORT")): f"{turn + 1000}"})

    async def _added_key(self, turn: int) -> None:
        await self._amend("a key added", {f"KEY_{turn}": f"v{turn}"})

    async def _removed_key(self, turn: int) -> None:
        source = self._source()
        data = self.server.remote.read(f"{_DIRECTORY}/{source}", _BRANCH)
        names = [name for name in self._names(source, data) if name.startswith("KEY_")]
        if names:
            await self._amend("a key removed", {self.random.choice(names): None}, source)

    async def _breach(self, turn: int) -> None:
        await self._amend("a breach", {"PORT": f"x{turn}"})

    async def _unhealthy(self, turn: int) -> None:
        await self._amend("an unhealthy value", {"MODE": "bad"})

    async def _mode(self, turn: int) -> None:
        def change(targets: dict[str, dict[str, object]]) -> None:
            target = targets[self._source()]
            target["mode"] = "0640" if target.get("mode") != "0640" else "0600"

        self._manifest("a mode", change)

    async def _new_target(self, turn: int) -> None:
        name = f"extra-{turn}.env"
        self._commit({f"{_DIRECTORY}/{name}": self.server.key.encrypt(name, f"E={turn}\n".encode())})
        self._manifest("a new target", lambda targets: targets.update({name: {}}))

    async def _gone_target(self, turn: int) -> None:
        def remove(targets: dict[str, dict[str, object]]) -> None:
            extra = sorted(name for name in targets if name.startswith("extra-"))
            if extra:
                del targets[extra[0]]

        self._manifest("a target gone", remove)

    async def _outside(self, turn: int) -> None:
        self._edits.append("outside of the environment")
        self._commit({f"notes/{turn}.md": b"x"})

    async def _beside(self, turn: int) -> None:
        """Something on the branch that is followed, beside what the other one changes."""
        name = f"beside-{turn}.md"
        self.server.remote.commit({f"{_DIRECTORY}/{name}": b"x"})

    def _source(self) -> str:
        return source_of(self.random.choice(SERVICES))

    def _names(self, source: str, data: bytes) -> list[str]:
        return [entry.key for entry in self.world.sops.read(source, data).entries if not entry.comment]

    async def _amend(self, edit: str, values: dict[str, str | None], source: str = "") -> None:
        """As `sops set` does: the other ciphertexts stay."""
        source = source or self._source()
        self._edits.append(f"{edit} in {source}")
        data = self.server.remote.read(f"{_DIRECTORY}/{source}", _BRANCH)
        secrets = {key: None if value is None else Secret(value.encode()) for key, value in values.items()}
        self._commit({f"{_DIRECTORY}/{source}": await self.world.sops.amend(source, data, secrets)})

    def _manifest(self, edit: str, change: Callable[[dict[str, dict[str, object]]], None]) -> None:
        self._edits.append(edit)
        path = f"{_DIRECTORY}/environment.yaml"
        manifest = yaml.safe_load(self.server.remote.read(path, _BRANCH))
        targets = {name: target or {} for name, target in manifest["stacks"]["app"]["targets"].items()}
        change(targets)
        manifest["stacks"]["app"]["targets"] = targets
        self._commit({path: yaml.safe_dump(manifest).encode()})

    def _commit(self, files: dict[str, bytes]) -> None:
        self.server.remote.commit(files, branch=_BRANCH)


def _as_planned(unit: PlannedUnit) -> str:
    """What was planned, in a form that can be compared: refused, or files and services."""
    if unit.failed or unit.later or unit.waits:
        return f"not known: {unit.failed} {unit.later} {unit.waits}"
    if unit.problems:
        return "refused"
    files = sorted(file.source for file in unit.files if not file.effect.startswith("leaves git"))
    services = sorted(f"{service.service} {service.kind}" for service in unit.services)
    return f"files {files}, services {services}"


def _as_done(outcome: Outcome) -> str:
    """The plan of the reconciliation after the merge, in the same form."""
    if outcome.result is Result.STALLED:
        return "refused"
    changes: tuple[Change, ...] = outcome.plan.changes if outcome.plan else ()
    files = sorted(change.target.source for change in changes if change.effect in _WRITTEN)
    actions = outcome.plan.actions if outcome.plan else ()
    return f"files {files}, services {sorted(f'{action.service} {action.kind}' for action in actions)}"
