"""SIGKILL at every step of everything that changes something, and how the next process continues.

The steps are those of tests/support/killer.py. Where there are hundreds of them, containers are on paper
(tests/support/paper_engine.py); what Compose and the engine are given is killed on the real ones, below.

Of those hundreds, a fourth and all that leave a process of git running are killed. At the others a command only stops,
and what it has on disk then is what the next process finds: as after a kill, for a tenth of its price.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from benchmarks import failures
from reconciler.adapters.store import SqliteStore
from reconciler.core.model.records import EnvironmentRecord
from reconciler.core.model.runs import Result, Run
from tests.support import killer, paper_engine
from tests.support.commands import lines
from tests.support.compose import ComposeProject
from tests.support.killer import Ended
from tests.support.server import ENVIRONMENT, Daemon, Server
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

# A live file as it must be seen: its bytes, mode, user and group.
Facts = tuple[bytes, int, int, int]
Command = tuple[str, ...]

SYNC = ("sync", "--json")

OLD = {"api.env": b"MODE=one\nOLDER=1\n", "worker.env": b"JOBS=1\n", "gone.env": b"GONE=1\n"}
NEW = {"api.env": b"MODE=two\nNEWER=1\n", "worker.env": b"JOBS=2\n", "config/new.env": b"NEW=2\n"}
BAD = {"api.env": b"MODE=bad\n", "worker.env": b"JOBS=3\n", "config/new.env": b"NEW=3\n"}
NEXT = {"api.env": b"MODE=four\n", "worker.env": b"JOBS=1\n", "config/new.env": b"NEW=4\n"}
MODES_WITH_OLD = {"api.env": 0o600, "worker.env": 0o600, "gone.env": 0o600}
MODES_SINCE = {"api.env": 0o640, "worker.env": 0o600, "config/new.env": 0o644}

MANIFEST = "environment.yaml"
SHARES = 2  # of the steps, so that two workers can take them
SPARSE = 4
TWICE = 8  # runs that are killed, and then killed again
QUIET_AFTER = 4  # kills; after one of them the next reconciliation but one has nothing to do
KILLED = 4  # of so many steps one is a kill
TEMPORARY = r"\.reconciler-[0-9a-f]{12}"  # in a name
LIVES_ON = ", begun"  # ends a step at which a process of the command's own is at work, which a kill leaves alone


@dataclass(slots=True)
class Site:
    """A server whose containers are on paper; each kill begins with everything as ``save`` found it."""

    server: Server

    def commit(self, files: dict[str, bytes], *, prune: bool = True) -> str:
        """Commit these files, and no others. They are not encrypted, so that a reconciliation is quick."""
        common = {"encrypted": False, "allow_shrink": True, "prune": prune}
        manifest = self.server.manifest({name: {**common, "mode": f"{modes_of(files)[name]:04o}"} for name in files})
        desired = {**dict.fromkeys({*OLD, *NEW} - files.keys()), **files, MANIFEST: yaml.safe_dump(manifest).encode()}
        return self.server.remote.commit({f"envs/{ENVIRONMENT}/{name}": data for name, data in desired.items()})

    def sync(self, die_at: int = 0) -> Ended:
        return killer.run(self.server, *SYNC, die_at=die_at)

    def stopped(self, command: Command, places: Sequence[int]) -> dict[int, Ended]:
        """Keep what the command has on disk at each of these steps, under their numbers, and what a kill there is."""
        found: dict[int, Ended] = {}

        def keep(ended: Ended) -> None:
            at = len(ended.steps)
            self.save(str(at))
            found[at] = ended

        self.back()
        killer.stop(self.server, *command, at=places, stopped=keep)
        assert sorted(found) == sorted(places), "it ended before it came to all its steps"
        return found

    @contextlib.contextmanager
    def head_at(self, commit: str) -> Iterator[None]:
        """Meanwhile the branch's head is that commit, if any is given."""
        if not commit:
            yield
            return
        head = self.server.remote.head()
        self.server.remote.make_branch("main", commit)
        yield
        self.server.remote.make_branch("main", head)

    # --- beginning again ---

    def save(self, name: str = "saved") -> None:
        """Keep what is on disk now, under this name."""
        place = self.server.root / name
        for directory in (self.server.app, self.server.state):
            shutil.copytree(directory, place / directory.name, dirs_exist_ok=True)
        shutil.copy(self._engine, place)

    def back(self) -> None:
        self._remove()
        place = self.server.root / "saved"
        for directory in (self.server.app, self.server.state):
            shutil.copytree(place / directory.name, directory)
        shutil.copy(place / self._engine.name, self._engine)

    def take(self, name: str) -> None:
        """Have on disk what was kept under this name, and keep it no more."""
        self._remove()
        place = self.server.root / name
        for path in (self.server.app, self.server.state, self._engine):
            (place / path.name).rename(path)
        place.rmdir()

    def _remove(self) -> None:
        for directory in (self.server.app, self.server.state):
            shutil.rmtree(directory)

    # --- what there is ---

    @property
    def _engine(self) -> Path:
        return self.server.root / "engine.json"

    @property
    def live(self) -> dict[str, Facts]:
        """Every file in the stack's directory, by its path in there."""
        return files_in(self.server.app)

    @property
    def running(self) -> dict[str, tuple[dict[str, str], str]]:
        """By service, the variables it runs with, and its health."""
        containers = paper_engine.containers(self._engine)
        return {container.service: (dict(container.environment), container.health) for container in containers}

    @property
    def kept(self) -> set[bytes]:
        """The bytes of every file in every backup."""
        directories = (self.server.state / "backups" / ENVIRONMENT).glob("[!.]*")
        return {
            path.read_bytes() for backup in directories for path in backup.iterdir() if path.name != "manifest.json"
        }

    def remembered(self) -> tuple[tuple[Run, ...], EnvironmentRecord, bool]:
        """The runs, newest first; what is known of the environment; and whether any restart is pending."""
        store = SqliteStore(str(self.server.state / "state.db"))
        try:
            assert store.verify_history().problem == ""
            return store.runs(ENVIRONMENT), store.environment(ENVIRONMENT), bool(store.pending_restarts(ENVIRONMENT))
        finally:
            store.close()

    # --- what must hold ---

    def assert_ends(self, ended: Ended, *results: str) -> None:
        assert ended.outcome["result"] in results, (ended.outcome["result"], ended.outcome["reason"])

    def assert_whole(self, *generations: dict[str, bytes]) -> None:
        """Every live file is, in bytes, mode and owner, as in one of the generations, or missing as in one of them."""
        live = self.live
        for name in {*OLD, *NEW}:
            known = [facts(files).get(name) for files in generations]
            assert live.get(name) in known, f"{name} is {live.get(name)}"

    def assert_settled(self, files: dict[str, bytes], *originals: dict[str, bytes]) -> None:
        """The live files and the services' variables are these; no other file is left, and none is lost."""
        assert self.live == facts(files)  # and so no temporary file
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in self.server.app.iterdir() if path.is_dir()}
        assert set(modes.items()) <= {("config", 0o755)}
        expected = {name: paper_engine.variables(files[paper_engine.source_of(name)]) for name in paper_engine.SERVICES}
        assert self.running == {name: (variables, "healthy") for name, variables in expected.items()}
        whole = self.kept | {data for data, *_ in self.live.values()}
        assert whole >= {data for original in originals for data in original.values()}
        runs, record, owing = self.remembered()
        assert [run.id for run in runs if run.result is None] == []
        assert (record.stopped, record.degraded, owing) == ({}, "", False)
        hidden = [path.name for path in (self.server.state / "backups").rglob(".*")]
        assert hidden == [] or len(hidden) == 1, "half a backup is removed when the next one is taken"


def files_in(directory: Path) -> dict[str, Facts]:
    files = {}
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            facts = path.stat()
            mode = stat.S_IMODE(facts.st_mode)
            files[str(path.relative_to(directory))] = (path.read_bytes(), mode, facts.st_uid, facts.st_gid)
    return files


def named_alike(files: dict[str, Facts]) -> dict[str, Facts]:
    """Temporary files have a random part in their names."""
    return {re.sub(TEMPORARY, "", name): facts for name, facts in files.items()}


def modes_of(files: dict[str, bytes]) -> dict[str, int]:
    return MODES_SINCE | MODES_WITH_OLD if "config/new.env" not in files else MODES_WITH_OLD | MODES_SINCE


def facts(files: dict[str, bytes]) -> dict[str, Facts]:
    modes = modes_of(files)
    return {name: (data, modes[name], os.geteuid(), os.getegid()) for name, data in files.items()}


@pytest.fixture
def site(server: Server) -> Site:
    """OLD is applied and running, and in the backup of an earlier change."""
    made = Site(server)
    made.commit(dict.fromkeys(OLD, b"FIRST=1\n"))
    assert made.sync().outcome["result"] == "applied"
    paper_engine.start_all(server.root / "engine.json", server.app)
    made.commit(OLD)
    assert made.sync().outcome["result"] == "applied"
    made.save()
    return made


@contextlib.contextmanager
def telling(killed: Ended) -> Iterator[Ended]:
    """Say where it was killed, if what follows fails."""
    try:
        yield killed
    except AssertionError as error:
        error.add_note(killed.where)
        raise


def steps_of(
    site: Site, share: int, command: Command, every: int = SHARES, until: str = "", fetches: str = ""
) -> Iterator[Ended]:
    """Run the command to its end, and then have it end, by a kill or on disk alone, at one of ``every`` so many steps.

    Before the first step that begins with ``until`` it is one of SPARSE times as many. ``fetches`` is the commit that
    the command finds as the branch's head. Yields what ended, when the disk is as that left it. Every run begins with
    everything as it was.
    """
    with site.head_at(fetches):
        steps = killer.run(site.server, *command).steps
        number = len(steps)
        assert number > 15, "the steps are not seen any more"
        same = next(place for place, step in enumerate(steps) if step.startswith(until)) if until else 0
        places = (*range(1 + share, same, every * SPARSE), *range(same + 1 + share, number + 1, every))
        stopped = site.stopped(command, places)
    for turn, at in enumerate(places):
        if turn % KILLED == 0 or steps[at - 1].endswith(LIVES_ON):
            site.back()
            with site.head_at(fetches):
                ended = killer.run(site.server, *command, die_at=at)
            assert ended.killed, f"it ended before step {at} of {number}"
            left = files_in(site.server.root / str(at) / site.server.app.name)
            assert named_alike(site.live) == named_alike(left), f"a kill leaves something else, {ended.where}"
        else:
            ended = stopped[at]
            site.take(str(at))
        yield ended


@pytest.mark.parametrize("share", range(SHARES))
def test_a_change_killed_at_any_step_is_resumed_and_loses_nothing(site: Site, share: int) -> None:
    site.commit(NEW)
    for number, killed in enumerate(steps_of(site, share, SYNC)):
        with telling(killed):
            site.assert_whole(OLD, NEW)
            site.assert_ends(site.sync(), "applied", "in_sync")
            if number % QUIET_AFTER == 0:
                site.assert_ends(site.sync(), "in_sync")
            site.assert_settled(NEW, OLD)
            assert site.remembered()[0][0].result is Result.APPLIED


@pytest.mark.parametrize("share", range(SHARES))
def test_a_bad_revision_killed_at_any_step_is_rolled_back(site: Site, share: int) -> None:
    bad = site.commit(BAD)
    # Until its services start, a bad revision does what the good one above does.
    for number, killed in enumerate(steps_of(site, share, SYNC, until="compose up")):
        with telling(killed):
            site.assert_whole(OLD, BAD)
            site.assert_ends(site.sync(), "rolled_back", "in_sync")
            if number % QUIET_AFTER == 0:
                last = site.sync().outcome
                assert (last["result"], "quarantined" in last["warning"]) == ("in_sync", True)
            site.assert_settled(OLD, OLD)
            runs, record, _ = site.remembered()
            assert runs[0].result is Result.ROLLED_BACK
            bad_runs = [run for run in runs if run.revision.commit == bad]
            assert len(bad_runs) == 1, "it is one run, however often it was killed"
            assert record.quarantine_of(bad_runs[0].revision)


def test_a_killed_change_gives_way_to_a_newer_one(site: Site) -> None:
    then = site.commit(NEW)
    newer = site.commit(NEXT)
    assert site.server.remote.head() == newer
    for killed in steps_of(site, 0, SYNC, every=5, fetches=then):
        with telling(killed):
            site.assert_whole(OLD, NEW)
            site.assert_ends(site.sync(), "applied")
            site.assert_settled(NEXT, OLD)


@pytest.mark.parametrize("files", [NEW, BAD], ids=["a good revision", "a bad revision"])
def test_recovery_is_killed_too(site: Site, files: dict[str, bytes]) -> None:
    site.commit(files)
    chance = random.Random(7)
    number = len(site.sync().steps)
    for _ in range(TWICE):
        site.back()
        killed = site.sync(chance.randint(number // 4, number))
        again = site.sync(chance.randint(1, number // 2))
        with telling(killed), telling(again):
            site.assert_whole(OLD, files)
            site.sync()
            site.assert_ends(site.sync(), "in_sync")
            site.assert_settled(OLD if files is BAD else NEW, OLD)


def test_a_restore_by_hand_killed_at_any_step_loses_nothing(site: Site) -> None:
    site.commit(NEW)
    assert site.sync().outcome["result"] == "applied"
    backup = site.server.json("backups")[0]["backup"]
    site.save()
    restore = ("restore", backup)
    for killed in steps_of(site, 0, restore, every=3):
        with telling(killed):
            site.assert_whole(OLD, NEW)
            assert killer.run(site.server, *restore).exit_code == 0
            site.assert_whole(OLD)
            site.assert_ends(site.sync(), "corrected", "applied")
            site.assert_ends(site.sync(), "in_sync")
            site.assert_settled({**NEW, "gone.env": OLD["gone.env"]}, OLD, NEW)


def test_a_deletion_of_what_left_git_killed_at_any_step_ends_either_way_with_a_backup(site: Site) -> None:
    site.commit(OLD, prune=False)
    assert site.sync().outcome["result"] in ("applied", "in_sync")
    kept = {name: data for name, data in OLD.items() if name != "gone.env"}
    site.commit(kept, prune=False)
    assert site.sync().outcome["result"] == "in_sync"
    (site.server.app / "gone.env").write_bytes(b"GONE=by hand\n")
    site.save()

    forget = ("forget", f"{ENVIRONMENT}/gone.env", "--delete", "--json")
    for killed in steps_of(site, 0, forget, every=3):
        with telling(killed):
            begun = site.remembered()[0][0].result is None
            site.assert_ends(site.sync(), "applied", "in_sync")
            gone = not (site.server.app / "gone.env").exists()
            assert gone or not begun, "a deletion that was begun is finished"
            assert not gone or b"GONE=by hand\n" in site.kept
            assert site.live.keys() - {"gone.env"} == kept.keys()
            if not gone:
                site.assert_ends(killer.run(site.server, *forget), "applied")
            assert site.remembered()[0][0].result is not None
            site.assert_ends(site.sync(), "in_sync")


# --- the order of what must be on disk ---


def test_what_a_power_cut_must_find_is_on_disk_before_what_relies_on_it(site: Site) -> None:
    site.commit(NEW)
    app, backups = str(site.server.app), str(site.server.state / "backups" / ENVIRONMENT)
    steps = [re.sub(TEMPORARY, "", step) for step in site.sync().steps]

    def at(step: str) -> int:
        assert steps.count(step) == 1, f"{step} x{steps.count(step)} in {steps}"
        return steps.index(step)

    (stored,) = (number for number, step in enumerate(steps) if step.startswith(f"rename {backups}/"))
    (begun,) = (number for number, step in enumerate(steps) if step.startswith("commit insert-run"))
    files = [step.removeprefix("create ") for step in steps if step.startswith(f"create {backups}/")]
    assert len(files) == 1 + len(OLD)
    assert max(at(f"fsync {file}") for file in files) < stored
    assert stored - 1 == at(f"fsync {os.path.dirname(files[0])}")
    assert stored < at(f"fsync {backups}") < begun

    for name, change in (("api.env", "exchange"), ("config/new.env", "appear"), ("worker.env", "exchange")):
        place = at(f"{change} {app}/{name}")
        directory, _, file = name.rpartition("/")
        assert begun < at(f"fsync {os.path.join(app, directory, '.' + file)}") < place
        assert f"fsync {os.path.join(app, directory).rstrip('/')}" in steps[place : place + 3]
    pending_restarts = steps.index(
        "commit update-run delete-pending_restart insert-pending_restart insert-pending_restart"
    )
    assert at(f"rename {app}/gone.env") < pending_restarts < at("compose up api")


# --- on a real engine ------------------------------------------------------------------------------------------------

COMPOSE = """\
x-common: &common {image: IMAGE, network_mode: host, stop_grace_period: 0s}
services:
  api:
    <<: *common
    env_file: [api.env]
    command: [sh, -c, 'case $$MODE in bad*) exit 1;; esac; exec sleep infinity']
  worker: {<<: *common, env_file: [worker.env]}
"""


@dataclass(slots=True)
class RealSite:
    """A server with a stack of two services, in sync; ``api`` ends immediately where MODE begins with bad."""

    server: Server
    project: ComposeProject
    mode: str = "0"

    def commit(self, mode: str) -> bytes:
        """Have both services recreated; return the content of api.env until now."""
        before, self.mode = self.server.live("api.env"), mode
        self.server.commit({"api.env": f"MODE={mode}\n".encode(), "worker.env": f"JOBS={mode}\n".encode()})
        return before

    def sync(self, *results: str) -> None:
        outcome = self.server.sync()
        assert outcome["result"] in results, (outcome["result"], outcome["reason"])

    def assert_runs(self, mode: str) -> None:
        """Files and containers are of this revision; one container each, under its own name."""
        files = {name: self.server.live(name) for name in ("api.env", "worker.env")}
        assert files == {"api.env": f"MODE={mode}\n".encode(), "worker.env": f"JOBS={mode}\n".encode()}
        assert {path.name for path in self.server.app.iterdir()} == {"compose.yaml", *files}
        names = lines("docker", "ps", "-a", "--format", "{{.Names}}", "--filter", f"name={self.project.name}")
        assert sorted(names) == [f"{self.project.name}-{service}-1" for service in ("api", "worker")]
        assert self.project.environment("api")["MODE"] == self.project.environment("worker")["JOBS"] == mode
        assert [self.project.container(name)["State"]["Status"] for name in ("api", "worker")] == ["running"] * 2

    def assert_kept(self, data: bytes) -> None:
        backups = (self.server.state / "backups" / ENVIRONMENT).glob("*/*api.env")
        assert data in {path.read_bytes() for path in backups}
        assert {run["result"] for run in self.server.json("history")} <= {"applied", "in_sync", "rolled_back", "failed"}

    def kill_at(self, event: str, *victims: str, daemon: Daemon | None = None) -> subprocess.Popen[bytes]:
        """Reconcile, and SIGKILL the victims as soon as the engine reports the event: reconciler, compose.

        Returns the command's process, which reconciles itself if there is no daemon.
        """
        since = time.time()
        process = self.server.start("sync", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        mine = ("--filter", f"label=com.docker.compose.project={self.project.name}")
        watch = ("docker", "events", "--since", f"{since:.6f}", "--format", "{{.Action}}", *mine)
        with subprocess.Popen(watch, stdout=subprocess.PIPE, text=True) as events:
            assert events.stdout is not None
            assert any(line.strip() == event for line in events.stdout)
            for victim in victims:
                with contextlib.suppress(ProcessLookupError):
                    if victim == "compose":
                        self._kill_compose()
                    else:
                        (daemon or process).kill()
            events.terminate()
        return process

    def _kill_compose(self) -> None:
        for leader in self.ups:
            os.killpg(leader, signal.SIGKILL)

    @property
    def ups(self) -> list[int]:
        """Process ids of `docker compose up` for this project; each leads a session of its own."""
        name = self.project.name.encode()
        pids = []
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                words = entry.read_bytes().split(b"\0")
                if b"docker" in words[0] and words[1:2] == [b"compose"] and name in words and b"up" in words:
                    pids.append(int(entry.parent.name))
        return pids


@pytest.fixture
def real(stack_server: Callable[..., tuple[Server, ComposeProject]]) -> RealSite:
    server, project = stack_server(COMPOSE)
    server.commit({"api.env": b"MODE=0\n", "worker.env": b"JOBS=0\n"}, server.manifest(["api.env", "worker.env"]))
    made = RealSite(server, project)
    made.sync("applied")
    project.up()
    return made


def numbers(steps: Sequence[str], *beginnings: str) -> list[int]:
    """Where steps with these beginnings are, counted from 1."""
    matches = [number for number, step in enumerate(steps, 1) if step.startswith(beginnings)]
    assert len(matches) >= len(beginnings), steps
    return matches


SERVICE_STEPS = ("docker up", "commit delete-pending_restart update-run")


@pytest.mark.docker
def test_killed_around_a_compose_command_the_services_still_get_it(real: RealSite) -> None:
    real.commit("1")
    everything = killer.run(real.server, "sync", "--json", on_paper=False).steps
    for mode, die_at in enumerate(numbers(everything, *SERVICE_STEPS), 2):
        before = real.commit(str(mode))
        with telling(killer.run(real.server, "sync", "--json", die_at=die_at, on_paper=False)) as killed:
            assert killed.killed
            real.sync("applied")
            real.assert_runs(str(mode))
            real.assert_kept(before)
    real.sync("in_sync")


@pytest.mark.docker
def test_killed_while_services_are_rolled_back_they_are_healthy_on_the_old_values(real: RealSite) -> None:
    real.commit("bad")
    everything = killer.run(real.server, "sync", "--json", on_paper=False).steps
    begun = next(number for number, step in enumerate(everything) if "insert-environment" in step and number > 20)
    for turn, die_at in enumerate(numbers(everything[begun:], *SERVICE_STEPS)):
        real.commit(f"bad{turn}")
        with telling(killer.run(real.server, "sync", "--json", die_at=begun + die_at, on_paper=False)) as killed:
            assert killed.killed
            real.sync("rolled_back")
            real.assert_runs("0")
            real.assert_kept(b"MODE=0\n")
    real.sync("in_sync")


@pytest.mark.docker
@pytest.mark.parametrize(
    ("victims", "events"),
    [
        pytest.param(("reconciler",), ("create", "destroy"), id="reconciler"),
        pytest.param(("compose",), ("create", "destroy"), id="compose"),
        pytest.param(("reconciler", "compose"), ("create", "die", "destroy", "rename", "start"), id="both"),
    ],
)
def test_killed_in_the_middle_of_compose_the_services_run_on_the_new_values(
    real: RealSite, victims: tuple[str, ...], events: tuple[str, ...]
) -> None:
    for mode, event in enumerate(events, 1):
        before = real.commit(str(mode))
        process = real.kill_at(event, *victims)
        process.wait(120)
        # A compose that lives on has the project to itself until it has ended.
        eventually(lambda: not real.ups, timeout=30)
        real.sync("applied", "in_sync")
        real.assert_runs(str(mode))
        real.assert_kept(before)
        assert real.server.json("status")["environments"][0]["quarantine"] is None, event


@pytest.mark.docker
def test_the_daemon_after_a_killed_one_does_the_pending_restarts(real: RealSite) -> None:
    with real.server.daemon() as daemon:
        before = real.commit("1")
        real.kill_at("die", "reconciler", "compose", daemon=daemon).wait(120)
    with real.server.daemon():  # ready: its first reconciliation has ended
        real.assert_runs("1")
        assert real.server.json("history")[0]["result"] == "applied"
    real.assert_kept(before)


# --- what `make bench` does at length --------------------------------------------------------------------------------


@pytest.mark.docker
def test_kills_at_random_instants_lose_nothing(docker_engine: str, tmp_path: Path) -> None:
    with failures.stack(tmp_path) as (server, project):
        figures = failures.killed(server, project, kills=8)
    assert {figure.name: figure.median for figure in figures if figure.median} == {}


@pytest.mark.root
def test_a_disk_that_is_full_damages_no_live_file_wherever_it_is_noticed(tmp_path: Path) -> None:
    figures = failures.full_disks(tmp_path, step=16 * 1024)
    assert [figure.name for figure in figures if not figure.samples] == []
    assert {figure.name: figure.median for figure in figures if figure.median} == {}
