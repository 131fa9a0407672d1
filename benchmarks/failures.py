"""What failures cost: a revision that makes a service unhealthy, kills at random instants, and full disks."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.figures import Figure, skipped
from reconciler.adapters.store import SqliteStore
from reconciler.demo import dockerd
from tests.support.age_key import make_age_key
from tests.support.commands import output, run
from tests.support.compose import ComposeProject
from tests.support.git_remote import make_git_remote
from tests.support.server import ENVIRONMENT, Server
from tests.support.waiting import eventually

ROLLBACKS = 5
ROLLBACK_TARGET = 1.5  # times what Compose alone takes
KILLS = 200
LONGEST_LIFE = 1.2  # times the length of a reconciliation that recreates both services
DISK = 256 * 1024  # bytes of the small file systems
KEYS_ON_DISK = 1000  # in each file, so that it takes many pages
STEP = 4096  # bytes: a page, the unit of a tmpfs
IMAGE = "reconciler-benchmark/busybox:1"
NAMES = ("api.env", "worker.env")
COMPOSE = f"""\
x-common: &common
  image: {IMAGE}
  network_mode: none
  stop_grace_period: 0s
  healthcheck:
    test: [CMD-SHELL, 'case $$MODE in bad*) exit 1;; esac']
    interval: 500ms
    timeout: 5s
    retries: 1
services:
  api: {{<<: *common, env_file: [api.env]}}
  worker: {{<<: *common, env_file: [worker.env]}}
"""


@contextlib.contextmanager
def stack(root: Path) -> Iterator[tuple[Server, ComposeProject]]:
    """A server with two services, in sync and running; everything is removed at the end."""
    dockerd.ensure_image(IMAGE)
    app = root / f"reconciler-benchmark-{os.getpid()}-failures"
    app.mkdir(parents=True)
    (app / "compose.yaml").write_text(COMPOSE)
    server = Server(root, app, make_git_remote(root / "remote.git"), make_age_key(root), forked=True)
    project = ComposeProject(app.name, app)
    server.commit(files("first"), server.manifest(list(NAMES)))
    _sync(server, "applied")
    try:
        project.up()
        _wait_until_healthy(project)
        yield server, project
    finally:
        project.remove()
        run("docker", "image", "rm", IMAGE)


def files(mode: str, keys: int = 40) -> dict[str, bytes]:
    """A revision: its mode is in every line of every file, so that half a file or an older one is recognized."""
    filling = "".join(f"KEY_{number}=value {number} of {mode}\n" for number in range(keys))
    return {name: f"MODE={mode}\n{filling}END={mode}\n".encode() for name in NAMES}


# --- rolling back ---


def rolling_back(server: Server, project: ComposeProject) -> list[Figure]:
    """Alternate: a revision makes api unhealthy and is rolled back, and Compose alone recreates api.

    The times are the engine's own: from its event "unhealthy" to its event "healthy" after the files were restored;
    for Compose alone, from the start of the command to that event.
    """
    rolled_back, alone = [], []
    good = files("first")
    for number in range(ROLLBACKS):
        server.commit({"api.env": files(f"bad{number}")["api.env"]})
        since = time.time()
        _sync(server, "rolled_back")
        if server.live("api.env") != good["api.env"]:
            raise RuntimeError("the result is rolled back, but the live file differs")
        events = _health(project, since)
        unhealthy = next(at for word, at in events if word == "unhealthy")
        rolled_back.append(next(at for word, at in events if word == "healthy" and at > unhealthy) - unhealthy)
        since = time.time()
        output("docker", "compose", "up", "--detach", "--no-deps", "--force-recreate", "api", cwd=project.directory)
        _wait_until_healthy(project)
        alone.append(next(at for word, at in _health(project, since) if word == "healthy") - since)
    ratios = tuple(ours / theirs for ours, theirs in zip(rolled_back, alone, strict=True))
    return [
        Figure("unhealthy to rolled back and healthy: wall", "s", tuple(rolled_back)),
        Figure("compose alone, up --no-deps until healthy: wall", "s", tuple(alone)),
        Figure("unhealthy to healthy, by compose alone until healthy", "", ratios, ROLLBACK_TARGET),
    ]


def _health(project: ComposeProject, since: float) -> list[tuple[str, float]]:
    """The engine's health events for api since then, with their times (epoch seconds)."""
    mine = [f"label=com.docker.compose.project={project.name}", "label=com.docker.compose.service=api"]
    filters = [word for label in (*mine, "event=health_status") for word in ("--filter", label)]
    command = ("docker", "events", "--since", f"{since:.6f}", "--until", f"{time.time():.6f}", "--format", "{{json .}}")
    events = [json.loads(line) for line in output(*command, *filters).decode().splitlines()]
    return [(event["Action"].removeprefix("health_status: "), event["timeNano"] / 1e9) for event in events]


def _wait_until_healthy(project: ComposeProject) -> None:
    def all_healthy() -> bool:
        return all(project.container(name)["State"]["Health"]["Status"] == "healthy" for name in ("api", "worker"))

    eventually(all_healthy, timeout=60)


def _sync(server: Server, *results: str) -> None:
    outcome = server.sync()
    if outcome["result"] not in results:
        raise RuntimeError(f"a reconciliation ended with {outcome['result']} instead of {results}: {outcome['reason']}")


# --- kills ---


def killed(server: Server, project: ComposeProject, kills: int = KILLS, seed: int = 1) -> list[Figure]:
    """A new revision for every kill; every fourth is bad. A reconciliation is killed at a random instant, with or
    without the compose it started; the next one (of the next revision, or of the same) continues.

    After each kill every file must be complete and known to git or a backup; at the end, everything must be of the
    last revision.
    """
    chance = random.Random(seed)
    known: set[bytes] = {server.live(name) for name in NAMES}
    lost = cut = hit = inside = 0
    server.commit(files("whole"))
    began = time.monotonic()
    _sync(server, "applied")
    life = LONGEST_LIFE * (time.monotonic() - began)
    known |= set(files("whole").values())
    for number in range(kills):
        if number % 2 == 0:  # the other half of the kills hits a run that was killed before
            revision = files(f"bad{number}" if number % 8 == 6 else f"mode{number}")
            known |= set(revision.values())
            server.commit(revision)
        hit += _kill_run(server, chance.uniform(0, life), with_children=chance.random() < 0.5)
        inside += _has_unfinished(server)
        for name in NAMES:
            lost += not (server.app / name).exists()
            cut += (server.app / name).exists() and server.live(name) not in known
    last = files("last")
    server.commit(last)
    for _ in range(3):
        eventually(lambda: not _ups(project), timeout=60)
        server.sync()
    _wait_until_healthy(project)
    old = sum(
        project.environment(name)["END"] != "last" or server.live(f"{name}.env") != last[f"{name}.env"]
        for name in ("api", "worker")
    )
    left = len(list(server.app.glob(".*.reconciler-*")))
    note = f"{kills} kills, {hit} of them in the middle of a reconciliation, {inside} of a transaction"
    return [
        Figure("killed at random: live files lost", "", (float(lost),), 0.0, note),
        Figure("killed at random: live files truncated or unknown", "", (float(cut),), 0.0),
        Figure("killed at random: services left on old values", "", (float(old),), 0.0),
        Figure("killed at random: temporary files left next to live files", "", (float(left),), 0.0),
    ]


def _kill_run(server: Server, life: float, *, with_children: bool) -> bool:
    """Start a reconciliation and kill it after ``life`` seconds; return whether it was still running."""
    process = server.start("sync", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(life)
    except subprocess.TimeoutExpired:
        children = _children(process.pid) if with_children else []
        process.kill()
        process.wait()
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
        return True
    return False


def _has_unfinished(server: Server) -> bool:
    store = SqliteStore(str(server.state / "state.db"))
    try:
        return store.unfinished(ENVIRONMENT) is not None
    finally:
        store.close()


def _children(pid: int) -> list[int]:
    with contextlib.suppress(FileNotFoundError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def _ups(project: ComposeProject) -> list[str]:
    """Compose commands for this project that outlived their reconciliation."""
    processes = []
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if b"compose" in (words := command.read_bytes().split(b"\0")) and project.name.encode() in words:
                processes.append(command.parent.name)
    return processes


# --- full disks ---


def full_disks(root: Path, step: int = STEP) -> list[Figure]:
    """The same change, repeated, on a disk with ``step`` bytes more room each time, until it fits.

    First the disk of the live files, then the disk of the state: backups and the store.
    """
    if os.geteuid() != 0:
        return [skipped("full disks", "only root can mount a small file system")]
    figures = []
    for kind in ("live files", "state"):
        with _small_disk(root / kind.replace(" ", "-"), kind) as (server, disk):
            damaged, tries = _fill_by_fill(server, disk, step)
        note = f"{tries} reconciliations, each with {step} more bytes of room than the one before"
        figures.append(Figure(f"disk of the {kind} full: live files damaged", "", (float(damaged),), 0.0, note))
    return figures


@contextlib.contextmanager
def _small_disk(root: Path, kind: str) -> Iterator[tuple[Server, Path]]:
    app = root / "app"
    app.mkdir(parents=True)
    server = Server(root, app, make_git_remote(root / "remote.git"), make_age_key(root), forked=True)
    server.commit(files("first", KEYS_ON_DISK), server.plain(list(NAMES)))
    _sync(server, "applied")
    server.commit(files("second", KEYS_ON_DISK))
    server.json("plan")  # fetches it: the room that git needs is not measured here
    disk = app if kind == "live files" else server.state
    aside = root / "aside"
    disk.rename(aside)
    disk.mkdir()
    output("mount", "-t", "tmpfs", "-o", f"size={DISK if kind == 'live files' else 16 * DISK}", "tmpfs", str(disk))
    try:
        yield server, disk
    finally:
        output("umount", str(disk))


def _fill_by_fill(server: Server, disk: Path, step: int) -> tuple[int, int]:
    aside, generations = server.root / "aside", (files("first", KEYS_ON_DISK), files("second", KEYS_ON_DISK))
    damaged = tries = 0
    while True:
        for entry in disk.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        shutil.copytree(aside, disk, dirs_exist_ok=True)
        if disk != server.app:
            for name, data in generations[0].items():
                (server.app / name).write_bytes(data)
        _fill(disk, tries * step)
        outcome = server.cli("sync", "--json")
        tries += 1
        live = {name: server.live(name) for name in NAMES}
        damaged += sum(live[name] not in [generation[name] for generation in generations] for name in NAMES)
        if outcome.stdout and json.loads(outcome.stdout)["outcomes"][0]["result"] == "applied":
            return damaged + (live != generations[1]), tries


def _fill(disk: Path, room: int) -> None:
    """Fill the disk except for ``room`` bytes. Never fill a disk other than the small one."""
    if not os.path.ismount(disk):
        raise RuntimeError(f"{disk} is no longer mounted")
    free = os.statvfs(disk)
    with (disk / "filler").open("wb") as file:
        file.write(bytes(max(0, free.f_bavail * free.f_frsize - room)))
