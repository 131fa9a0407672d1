"""A reconciliation that finds everything as it was reads no live file, and never misses an edit for that."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

import pytest

from reconciler.core.errors import KeyUnavailableError
from reconciler.core.model.requests import ReconcileRequest
from reconciler.core.model.runs import Result
from reconciler.core.model.targets import FileStamp, LiveFile, Ownership
from reconciler.engine.reconcile import Reconciler
from tests.fakes import API, WORKER, FakeHost, World

TICK = 2.0  # seconds, as on FAT
LOOK = ReconcileRequest("drift", poll=False)


class CoarseHost(FakeHost):
    """Stamps files with their size and mode, and by a clock that ticks every two seconds: what is edited twice within a
    tick, and keeps its size, looks the same. ``blind`` are files of which stat says nothing."""

    def __init__(self, world: World) -> None:
        FakeHost.__init__(self, world.journal, world.host.files)
        self.clock = world.clock
        self.changed: dict[str, tuple[LiveFile, int]] = {}
        self.read_paths: list[str] = []
        self.blind: set[str] = set()
        self.frozen: dict[str, FileStamp | None] = {}
        self.ids = Ownership()

    async def read(self, path: str) -> LiveFile | None:
        self.read_paths.append(path)
        return self.files.get(path)

    async def stamps(self, paths: Collection[str]) -> Mapping[str, FileStamp | None]:
        return {path: self._stamp(path) for path in paths if path not in self.blind} | self.frozen

    def _stamp(self, path: str) -> FileStamp | None:
        if (file := self.files.get(path)) is None:
            return None
        if path not in self.changed or self.changed[path][0] is not file:
            self.changed[path] = file, int(self.clock.time // TICK)
        return len(file.data.reveal()), file.mode, self.changed[path][1]

    async def ownership(self, owner: str | None, group: str | None) -> Ownership:
        return self.ids

    def edit(self, path: str, data: bytes, mode: int = 0o600) -> None:
        self.put(path, data, mode)
        self._stamp(path)


class Site:
    """A running daemon's reconciler, everything in sync since a long time unless ``new``."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.host = CoarseHost(world)
        world.host = self.host
        world.compose.host = self.host
        self.reconciler = Reconciler(world.ports(), "production")

    async def look(self, seconds: float = 0.0, request: ReconcileRequest = LOOK) -> tuple[Result, list[str]]:
        """The result after that time, and which live files were read for it."""
        self.world.clock.time += seconds
        self.host.read_paths.clear()
        outcome = await self.reconciler.reconcile(request)
        return outcome.result, sorted(set(self.host.read_paths))


@pytest.fixture
async def site(world: World) -> Site:
    site = Site(world)
    for _ in range(3):
        await site.look(10)
    return site


async def test_what_is_unchanged_is_not_read(site: Site) -> None:
    assert await site.look(10) == (Result.IN_SYNC, [])
    assert await site.look(0, ReconcileRequest("poll")) == (Result.IN_SYNC, [])
    assert site.world.metrics.results[-2:] == [Result.IN_SYNC, Result.IN_SYNC]


async def test_nothing_is_stored_while_nothing_changes(site: Site) -> None:
    version = site.world.store.version
    await site.look(10, ReconcileRequest("poll"))
    assert site.world.store.version == version


@pytest.mark.parametrize(
    "edit",
    [
        lambda host: host.edit(API, b"A=9\n"),
        lambda host: host.edit(API, b"A=1\n", 0o644),
        lambda host: host.edit(API, b"A=12345\n"),
        lambda host: host.files.pop(API),
    ],
    ids=["same size", "mode", "longer", "removed"],
)
@pytest.mark.parametrize("later", [0.0, 0.5, 10.0])
async def test_an_edit_is_restored(site: Site, edit: Callable[[CoarseHost], None], later: float) -> None:
    edit(site.host)
    assert (await site.look(later))[0] is Result.CORRECTED
    assert site.world.live("api") == "A=1"


@pytest.mark.parametrize("begin", [0.0, 1.9])
@pytest.mark.parametrize("looks", [[0.0], [0.05], [1.0], [1.0, 1.0], [0.05, 10.0], [10.0], [3.0]])
async def test_an_edit_within_the_tick_of_the_one_that_was_read_is_restored(
    world: World, begin: float, looks: list[float]
) -> None:
    """The file keeps its stamp: only reading it again shows the edit."""
    world.clock.time = 1_000_000.0 + begin
    site = Site(world)
    site.host.edit(API, b"A=1\n")
    stamp = await site.host.stamps([API])
    assert (await site.look())[0] is Result.IN_SYNC
    site.host.edit(API, b"A=9\n")
    assert await site.host.stamps([API]) == stamp
    results = [(await site.look(seconds))[0] for seconds in looks]
    assert Result.CORRECTED in results


async def test_a_file_that_was_just_written_is_read_until_its_clock_has_ticked(site: Site) -> None:
    site.host.edit(API, b"A=9\n")
    assert (await site.look())[0] is Result.CORRECTED
    assert (await site.look(1))[1] == [API, WORKER]
    assert (await site.look(1))[1] == [API, WORKER]
    assert (await site.look(5))[1] == [API, WORKER]
    assert (await site.look(5))[1] == []


async def test_a_file_of_which_stat_says_too_little_is_read_every_time(world: World) -> None:
    site = Site(world)
    site.host.blind.add(API)
    for _ in range(5):
        assert API in (await site.look(10))[1]
    site.host.put(API, b"A=9\n")
    assert (await site.look(10))[0] is Result.CORRECTED


async def test_an_edit_that_stat_does_not_show_is_found_within_the_hour(site: Site) -> None:
    site.host.frozen = dict(await site.host.stamps([API, WORKER]))
    site.host.put(API, b"A=9\n")
    assert (await site.look(3000))[0] is Result.IN_SYNC
    assert (await site.look(601))[0] is Result.CORRECTED


async def test_a_request_by_an_operator_reads_everything(site: Site) -> None:
    assert await site.look(10, ReconcileRequest("manual")) == (Result.IN_SYNC, [API, WORKER])


async def test_another_id_of_the_owner_is_seen(site: Site) -> None:
    site.host.ids = Ownership(uid=5)
    assert (await site.look(10))[0] is Result.CORRECTED


async def test_another_container_is_seen_when_containers_are_due(site: Site) -> None:
    site.world.compose.running["api"] = replace(site.world.compose.running["api"], id="another")
    assert (await site.look(1))[1] == []
    assert (await site.look(site.world.settings.drift_interval))[1] == [API, WORKER]


async def test_an_engine_that_is_lost_is_seen_when_containers_are_due(site: Site) -> None:
    site.world.compose.reachable = False
    assert (await site.look(site.world.settings.drift_interval))[0] is Result.FAILED
    assert site.reconciler.engine_away
    site.world.compose.reachable = True
    assert (await site.look(1))[0] is Result.IN_SYNC


async def test_a_new_revision_is_applied(site: Site) -> None:
    site.world.commit("b", api="A=2", worker="W=1")
    assert (await site.look(10, ReconcileRequest("poll")))[0] is Result.APPLIED
    assert site.world.live("api") == "A=2"


async def test_what_another_process_has_stored_is_seen(site: Site) -> None:
    record = site.world.store.environment("production")
    assert record.applied is not None
    site.world.store.save_environment(replace(record, stopped={"app": "a rollback failed"}))
    assert (await site.look(10))[0] is Result.ROLLBACK_FAILED


async def test_a_hand_edit_that_is_only_reported_is_not_read_again_either(world: World) -> None:
    world.reported.add("api.env")
    world.git.commit("b", {"api.env": b"A=1\n", "worker.env": b"W=1\n", "environment.yaml": b"api.env worker.env"})
    site = Site(world)
    await site.look(0, ReconcileRequest("poll"))
    site.host.edit(API, b"A=9\n")
    for _ in range(3):
        assert (await site.look(10))[0] is Result.HELD
    assert await site.look(10) == (Result.HELD, [])
    site.host.edit(API, b"A=1\n")
    assert (await site.look(10))[0] is Result.IN_SYNC


async def test_what_is_decrypted_is_counted_and_none_of_it_twice(new_world: Callable[[], World]) -> None:
    world = new_world()
    world.commit("a", **{f"s{number}": f"A={number}" for number in range(60)})
    progress: list[str] = []
    ports = replace(world.ports(), progress=progress.append)
    assert (await Reconciler(ports, "production").reconcile(ReconcileRequest("start"))).result is Result.APPLIED
    assert [text for text in progress if "decrypting" in text] == [f"decrypting ({n} of 60)" for n in range(1, 61)]
    world.steps.clear()
    assert (await Reconciler(ports, "production").reconcile(ReconcileRequest("start"))).result is Result.IN_SYNC
    assert [step for step in world.steps if step.startswith("decrypt")] == []


async def test_every_source_that_cannot_be_decrypted_is_named_in_order(world: World) -> None:
    world.commit("b", api="A=2", worker="W=2")
    world.decryptor.foreign = {b"A=2\n", b"W=2\n"}
    outcome = await Reconciler(world.ports(), "production").reconcile(ReconcileRequest("poll"))
    assert outcome.result is Result.STALLED
    assert 0 < outcome.reason.index("api.env") < outcome.reason.index("worker.env")


async def test_a_key_that_cannot_be_used_ends_the_decryption(world: World) -> None:
    world.commit("b", api="A=2", worker="W=2")
    world.decryptor.error = KeyUnavailableError("no key", where="/etc/age.key")
    outcome = await Reconciler(world.ports(), "production").reconcile(ReconcileRequest("poll"))
    assert (outcome.result, "no key" in outcome.reason) == (Result.FAILED, True)
    assert world.live("api") == "A=1"
