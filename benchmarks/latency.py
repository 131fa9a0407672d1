"""How soon after a push a service runs with the new value, and is seen healthy: next to the bare commands.

Both do the same in turn, on the same machine: one key of the env file of one service changes. The daemon hears of it by
its webhook. The bare commands are those that a script could not do without: fetch, decrypt, `up`. When a container has
started and become healthy is what the engine says.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import statistics
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure
from benchmarks.scratch import content
from reconciler.adapters.sops.binary import find_sops
from reconciler.demo import dockerd
from tests.support.age_key import make_age_key
from tests.support.commands import output, run
from tests.support.compose import ComposeProject
from tests.support.git_remote import make_git_remote
from tests.support.server import Daemon, Server
from tests.support.waiting import eventually

PAIRS = 11
WARM_UP = 2  # pairs that do not count
STARTED_TARGET = 1.10  # times what the bare commands take
HEALTHY_TARGET = 1.05  # times the engine's own event
SYNCS = 7
REST = 1.0  # seconds before each change, for what follows the one before
SELDOM = 0.25  # seconds between two looks at the log, which take CPU from what is measured; the log has the times
PATIENCE = 60.0  # seconds
IMAGE = "reconciler-benchmark/busybox:1"
SERVICE, SOURCE = "api", "api.env"
COMPOSE = f"""\
services:
  {SERVICE}:
    image: {IMAGE}
    network_mode: none
    env_file: [{SOURCE}]
    healthcheck: {{test: ["CMD", "true"], interval: 1s, timeout: 5s, retries: 3}}
"""
# $1: the mirror, $2: the file in git, $3: the live file
SCRIPT = """\
set -e
git -C "$1" fetch --quiet --no-tags origin main
git -C "$1" cat-file blob "FETCH_HEAD:$2" | "$SOPS" decrypt --input-type dotenv --output-type dotenv \
  --filename-override api.env > "$3.new"
mv "$3.new" "$3"
cd "$(dirname "$3")"
exec docker compose up -d --no-deps api
"""
_SECRET = b"the webhook's own secret"


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds from a change's announcement: until its container had started, was healthy by the engine's own event, and
    was seen healthy by whoever had started it."""

    started: float
    healthy: float
    seen: float = 0.0


def measure(root: Path) -> Iterator[Figure]:
    """Everything about what follows a push, and the command that an operator types instead of it."""
    yield from changes(root / "changes")
    yield from syncs(root / "syncs")


def changes(root: Path, pairs: int = PAIRS) -> list[Figure]:
    """One key is changed, by turns for `reconciler run` and for the bare commands."""
    with _stacks(root) as (server, ours, bare), server.daemon() as daemon:
        mirror = _mirror(server)
        measured = [
            (_by_webhook(server, daemon, ours, number), _by_script(server, bare, mirror, number))
            for number in range(WARM_UP + pairs)
        ][WARM_UP:]
    started = [(mine.started, theirs.started) for mine, theirs in measured]
    seen = tuple(mine.seen / mine.healthy for mine, _ in measured)
    name = "one key, announced by webhook"
    return [
        Figure(f"{name}, to container started: wall", "ms", tuple(mine * 1000 for mine, _ in started)),
        Figure("fetch, sops, up --no-deps, to container started: wall", "ms", tuple(it * 1000 for _, it in started)),
        Figure(f"{name}, to container started, by the bare commands", "", (_medians(started),), STARTED_TARGET),
        Figure("the same, pair by pair", "", tuple(mine / theirs for mine, theirs in started)),
        Figure(f"{name}, to healthy by the engine: wall", "ms", tuple(mine.healthy * 1000 for mine, _ in measured)),
        Figure(f"{name}, to seen healthy: wall", "ms", tuple(mine.seen * 1000 for mine, _ in measured)),
        Figure("to seen healthy, by the engine's own event", "", seen, HEALTHY_TARGET),
    ]


def syncs(root: Path, runs: int = SYNCS) -> list[Figure]:
    """`reconciler sync` without a daemon and with nothing to do, in turn with a script that fetches and compares."""
    with _stacks(root) as (server, _, bare):
        mirror = _mirror(server)
        ours, theirs = [], []
        for _ in range(1 + runs):
            began = time.perf_counter()
            server.sync()
            between = time.perf_counter()
            _script(server, bare, mirror, up=False)
            ours.append((between - began) * 1000)
            theirs.append((time.perf_counter() - between) * 1000)
    return [
        Figure("sync without a daemon, nothing to do: wall", "ms", tuple(ours[1:])),
        Figure("fetch and sops, nothing to do: wall", "ms", tuple(theirs[1:])),
    ]


def _medians(pairs: list[tuple[float, float]]) -> float:
    mine, theirs = zip(*pairs, strict=True)
    return statistics.median(mine) / statistics.median(theirs)


@contextmanager
def _stacks(root: Path) -> Iterator[tuple[Server, ComposeProject, ComposeProject]]:
    """A server with a webhook and its running stack, and the same stack for the bare commands."""
    dockerd.ensure_image(IMAGE)
    apps = [root / f"reconciler-benchmark-{os.getpid()}-{kind}" for kind in ("ours", "bare")]
    projects = [ComposeProject(app.name, app) for app in apps]
    for app in apps:
        app.mkdir(parents=True)
        (app / "compose.yaml").write_text(COMPOSE)
    server = Server(root, apps[0], make_git_remote(root / "remote.git"), make_age_key(root))
    secret = root / "webhook"
    secret.write_bytes(_SECRET)
    secret.chmod(0o600)
    server.settings["webhook"] = {"secret_file": str(secret)}
    _commit(server, "first")
    _commit(server, "first", environment="bare")
    server.commit({}, server.manifest([SOURCE]))
    server.sync()
    (apps[1] / SOURCE).write_bytes(content(SOURCE))
    try:
        for project in projects:
            project.up()
            eventually(lambda: project.container(SERVICE)["State"]["Health"]["Status"] == "healthy", timeout=30)  # noqa: B023
        server.sync()
        yield server, projects[0], projects[1]
    finally:
        for project in projects:
            project.remove()
        run("docker", "image", "rm", IMAGE)


def _commit(server: Server, changed: str, *, environment: str = "production") -> None:
    server.commit({SOURCE: content(SOURCE, changed)}, environment=environment)


def _mirror(server: Server) -> Path:
    mirror = server.root / "clone.git"
    output("git", "clone", "--quiet", "--bare", server.remote.url, mirror)
    output("git", "-C", mirror, "config", "gc.auto", "0")
    return mirror


def _by_webhook(server: Server, daemon: Daemon, project: ComposeProject, number: int) -> Times:
    _commit(server, f"change {number}")
    before, applied = project.container(SERVICE)["Id"], _applied(daemon)
    time.sleep(REST)
    began = time.time()
    body = json.dumps({"ref": "refs/heads/main"}).encode()
    headers = {"X-Hub-Signature-256": f"sha256={hmac.new(_SECRET, body, hashlib.sha256).hexdigest()}"}
    urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{daemon.port}/webhook", body, headers)).close()
    eventually(lambda: len(_applied(daemon)) > len(applied), timeout=PATIENCE, interval=SELDOM)
    (seen,) = _applied(daemon)[len(applied) :]
    return _times(project, before, began, seen)


def _applied(daemon: Daemon) -> list[float]:
    """When the daemon has logged that a change is applied (epoch seconds)."""
    events = [event for event in daemon.events() if event.get("result") == "applied"]
    return [datetime.fromisoformat(event["timestamp"]).timestamp() for event in events]


def _by_script(server: Server, project: ComposeProject, mirror: Path, number: int) -> Times:
    _commit(server, f"change {number}", environment="bare")
    before = project.container(SERVICE)["Id"]
    time.sleep(REST)
    began = time.time()
    _script(server, project, mirror)
    return _times(project, before, began, 0.0)


def _script(server: Server, project: ComposeProject, mirror: Path, *, up: bool = True) -> None:
    script = SCRIPT if up else SCRIPT.partition("cd ")[0]
    variables = {**os.environ, "SOPS": find_sops("sops"), "SOPS_AGE_KEY_FILE": str(server.key.path)}
    arguments = ("sh", mirror, f"envs/bare/{SOURCE}", project.directory / SOURCE)
    output("sh", "-c", script, *arguments, env=variables)


def _times(project: ComposeProject, before: str, began: float, seen: float) -> Times:
    """The engine's own times for the container that has taken the place of ``before``."""
    container = eventually(lambda: _healthy(project), timeout=PATIENCE)
    if container["Id"] == before:
        raise RuntimeError(f"the container of {project.name} was not recreated")
    started = _epoch(container["State"]["StartedAt"])
    return Times(started - began, _healthy_at(container["Id"], began) - began, seen - began)


def _healthy(project: ComposeProject) -> dict[str, Any] | None:
    container = project.container(SERVICE)
    return container if container["State"]["Health"]["Status"] == "healthy" else None


def _healthy_at(container: str, since: float) -> float:
    """When the engine reported that the container is healthy (epoch seconds)."""
    filters = ("--filter", f"container={container}", "--filter", "event=health_status")
    span = ("--since", f"{since:.6f}", "--until", f"{time.time():.6f}")
    lines = output("docker", "events", *span, *filters, "--format", "{{json .}}").decode().splitlines()
    events = [json.loads(line) for line in lines]
    return float(next(event["timeNano"] for event in events if event["Action"].endswith(": healthy"))) / 1e9


def _epoch(text: str) -> float:
    """Of the engine's "2026-11-29T21:40:01.123456789Z"; Python reads six digits of that."""
    return datetime.fromisoformat(f"{text[:26].rstrip('Z')}+00:00").timestamp()
