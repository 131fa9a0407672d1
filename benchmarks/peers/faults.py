"""Twelve faults, and what each tool makes of them: judged by its live files, its containers and its exit code.

Every fault gets a site of its own, in sync and healthy. The tool runs once, as a timer would start it, while the fault
is there, and once more after it is gone, or, where it stays, at the next turn of the timer.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from benchmarks.peers.sites import PROJECT_FILE, SERVICES, SITES, HarbormasterSite, Run, Site, content
from tests.support.commands import CommandFailed, output
from tests.support.engine_api import ask_engine, labelled
from tests.support.git_remote import LINK
from tests.support.waiting import eventually

MakeSite = Callable[[type[Site], str, int], Site]
DISK = 8 * 1024 * 1024  # bytes of the small file system
ROOM = 24 * 1024  # bytes that are left of it
FILES = (PROJECT_FILE, "api.env", "worker.env")
FIRST, SECOND = "first", "second"


class Engine(Protocol):
    """The engine of all sites, which a fault stops."""

    running: bool

    def start(self) -> None: ...

    def stop(self) -> None: ...


@dataclass(frozen=True, slots=True)
class State:
    """What is there: of which revision each live file is ("damaged", "missing" or "foreign" if of none), and the values
    and health of each service ("gone" without a container)."""

    files: tuple[str, ...]
    services: tuple[str, ...]
    healthy: bool


@dataclass(frozen=True, slots=True)
class Ending:
    """What a fault ends in, in a few words, with what was seen after each run."""

    fault: str
    tool: str
    words: str
    exit_codes: tuple[int | None, ...]
    states: tuple[State, ...]

    def data(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Fault:
    """``inject`` brings it about and returns what undoes it, if anything does; ``describe`` says how it ended."""

    name: str
    inject: Callable[[Site], Callable[[], None] | None]
    describe: Callable[[Site, list[Run], list[State]], str]
    engine_down: bool = False
    small_disk: bool = False


# --- looking ---


def look(site: Site, *, engine: bool) -> State:
    """What is there now; without an engine, no more than the files."""
    files = tuple(_revision(site, name) for name in FILES)
    if not engine:
        return State(files, ("down",) * len(SERVICES), healthy=False)
    eventually(lambda: not _starting(site), timeout=60)
    services, healthy = [], True
    for service in SERVICES:
        try:
            container = site.project.container(service)
        except CommandFailed:
            services.append("gone")
            healthy = False
            continue
        environment = dict(entry.split("=", 1) for entry in container["Config"]["Env"])
        services.append(environment.get("END", "foreign"))
        healthy = healthy and container["State"].get("Health", {}).get("Status") == "healthy"
    return State(files, tuple(services), healthy)


def _revision(site: Site, name: str) -> str:
    path = site.live(name)
    if not path.exists():
        return "missing"
    text = path.read_bytes().decode(errors="replace")
    match = re.fullmatch(r"MODE=(\w+)\n.*END=(\w+)\n", text, flags=re.DOTALL)
    if match is None:
        return "foreign" if text.startswith("STOLEN=") else "damaged"
    return match[2] if match[1] == match[2] else "damaged"


def _starting(site: Site) -> bool:
    """Whether the health of a container is not decided yet."""
    containers = [each for name in SERVICES for each in labelled("container", project=site.project.name, service=name)]
    facts = [ask_engine("GET", f"containers/{identifier}/json") for identifier in containers]
    return any(fact and fact["State"].get("Health", {}).get("Status") == "starting" for fact in facts)


# --- words ---


def _voice(run: Run) -> str:
    return "reported" if run.exit_code else "silent"


def _what(state: State, changed: tuple[str, ...] = ("api.env",)) -> str:
    """How far the second revision has come, in ``changed`` files and in the services that use them."""
    files = {state.files[FILES.index(name)] for name in changed}
    services = {state.services[SERVICES.index(name[:-4])] for name in changed if name[:-4] in SERVICES}
    if damaged := files & {"damaged", "missing"}:
        return f"live file {damaged.pop()}"
    if "gone" in services:
        return "service gone"
    if services == {"down"}:
        return "file written" if files == {SECOND} else "file not written"
    if files == {FIRST} and services == {FIRST}:
        return "old values kept"
    if files == {SECOND} and services == {SECOND}:
        return "new values"
    return "half applied"


def held(*changed: str) -> Callable[[Site, list[Run], list[State]], str]:
    """For a revision that should not be applied, and changes these files."""
    return lambda _, runs, states: f"{_what(states[-1], changed)}, {_voice(runs[0])}"


def rolled_back(_: Site, runs: list[Run], states: list[State]) -> str:
    state = states[-1]
    if state.healthy and state.files[1] == state.services[0] == FIRST:
        return f"rolled back, {_voice(runs[0])}"
    return f"left {'healthy' if state.healthy else 'unhealthy'}, {_voice(runs[0])}"


def resumed(_: Site, runs: list[Run], states: list[State]) -> str:
    """For an interruption: what is there, and whether the next run finishes."""
    middle, last = _what(states[0]), _what(states[-1])
    if last != "new values":
        return f"{last} for good, {_voice(runs[-1])}"
    killed = runs[0].exit_code is None
    return "finished by the next run" if killed else f"{middle}, {_voice(runs[0])}; then applied"


# --- faults ---


def bad_mac(site: Site) -> None:
    """One of two changed sources was damaged in git."""
    good, bad = (site.encrypt(name, content(name, SECOND)) for name in ("api.env", "worker.env"))
    middle = bad.index(b"data:") + 6 if b"data:" in bad else len(bad) // 2
    flipped = b"A" if bad[middle : middle + 1] != b"A" else b"B"
    damaged = bad[:middle] + flipped + bad[middle + 1 :]
    site.remote.commit({site.path("api.env"): good, site.path("worker.env"): damaged})


def unhealthy(site: Site) -> None:
    site.commit({"api.env": content("api.env", "bad")})


def kill(site: Site) -> None:
    """SIGKILL, with all children, when the file is written and Compose is about to be called."""
    site.commit({"api.env": content("api.env", SECOND)})
    site.gate.close()


def full_disk(site: Site) -> Callable[[], None]:
    filler = site.app / "filler"
    filler.write_bytes(bytes(max(0, _free(site.app) - ROOM)))
    site.commit({"api.env": content("api.env", SECOND, keys=4000)})
    return filler.unlink


def _free(path: Path) -> int:
    text = output("stat", "--file-system", "--format", "%a %S %b", path).decode().split()
    if int(text[2]) * int(text[1]) > 2 * DISK:
        raise RuntimeError(f"{path} is on no small disk")
    return int(text[0]) * int(text[1])


def hand_edit(site: Site) -> None:
    site.live("api.env").write_bytes(content("api.env", "hand"))


def edited(site: Site, runs: list[Run], states: list[State]) -> str:
    if states[-1].files[1] != FIRST:
        return f"edit stays, {_voice(runs[0])}"
    mark = b"END=hand\n"
    backups = [path for path in site.root.rglob("backups/**/*") if path.is_file() and mark in path.read_bytes()]
    return "restored, edit in a backup" if backups else "restored, edit lost"


def remote_down(site: Site) -> Callable[[], None]:
    site.commit({"api.env": content("api.env", SECOND)})
    away = site.remote.path.with_suffix(".away")
    site.remote.path.rename(away)
    return lambda: (away.rename(site.remote.path), None)[1]


def force_push(site: Site) -> None:
    """The branch's head is replaced by another commit on the one before."""
    start = site.remote.head()
    site.commit({"worker.env": content("worker.env", "third")})
    if site.run().exit_code != 0:
        raise RuntimeError(f"{site.tool} did not apply what is rewritten then")
    site.remote.make_branch("main", start)
    site.commit({"api.env": content("api.env", SECOND)})


def followed(_: Site, runs: list[Run], states: list[State]) -> str:
    state = states[-1]
    if state.files[1:] == state.services == (FIRST, "third"):
        return f"old values kept, {_voice(runs[0])}"
    return f"followed, {_voice(runs[0])}" if state.files[1:] == (SECOND, FIRST) else f"half applied, {_voice(runs[0])}"


def engine_down(site: Site) -> None:
    site.commit({"api.env": content("api.env", SECOND)})


def scaled(site: Site) -> None:
    up = ("docker", "compose", "up", "--detach", "--no-deps", "--scale", "worker=3", "worker")
    output(*up, cwd=site.app, env=site.variables)
    site.commit({"worker.env": content("worker.env", SECOND)})


def kept_scale(site: Site, runs: list[Run], states: list[State]) -> str:
    count = len(labelled("container", project=site.project.name, service="worker"))
    return "3 kept" if count == 3 else f"back to {count}"


def missing_variable(site: Site) -> None:
    """The project's .env loses the variable that compose.yaml puts into every service."""
    plain = content(PROJECT_FILE, SECOND).replace(f"LEVEL={SECOND}\n".encode(), b"")
    site.commit({PROJECT_FILE: plain})


def interpolated(site: Site, runs: list[Run], states: list[State]) -> str:
    level = site.project.environment("api").get("LEVEL")
    return f"{'old value kept' if level == FIRST else 'services get an empty value'}, {_voice(runs[0])}"


def shrunk(site: Site) -> None:
    """Most keys of a file were deleted by accident."""
    site.commit({"api.env": content("api.env", SECOND, keys=4)})


def foreign_link(site: Site) -> None:
    """A source is replaced by a link to a file of the server."""
    secret = site.root / "foreign.env"
    secret.write_text("STOLEN=1\n")
    path = site.path("api.env")
    attributes = {".gitattributes": b"secrets/worker.env filter=git-crypt\n.env filter=git-crypt\n"}
    more = attributes if isinstance(site, HarbormasterSite) else {}
    site.remote.commit({path: str(secret).encode(), **more}, modes={path: LINK})


def followed_link(site: Site, runs: list[Run], states: list[State]) -> str:
    stolen = "STOLEN" in site.project.environment("api")
    return f"{'service gets the foreign file' if stolen else 'not followed'}, {_voice(runs[0])}"


FAULTS = (
    Fault("bad MAC in one of two sources", bad_mac, held("api.env", "worker.env")),
    Fault("unhealthy after the change", unhealthy, rolled_back),
    Fault("kill -9 between write and restart", kill, resumed),
    Fault("disk of the live files full", full_disk, resumed, small_disk=True),
    Fault("hand edit of a live file", hand_edit, edited),
    Fault("remote down", remote_down, resumed),
    Fault("force push", force_push, followed),
    Fault("engine down", engine_down, resumed, engine_down=True),
    Fault("service scaled by hand to 3", scaled, kept_scale),
    Fault("variable of compose.yaml missing in git", missing_variable, interpolated),
    Fault("16 of 20 keys deleted by accident", shrunk, held("api.env")),
    Fault("link in git to a file of the server", foreign_link, followed_link),
)


def measure(fault: Fault, make_site: MakeSite, engine: Engine) -> list[Ending]:
    """The fault at every tool. ``make_site`` makes one of this kind and name, on a disk of so many bytes."""
    disk = DISK if fault.small_disk else 0
    sites = [make_site(kind, f"{kind.__name__.lower()}-fault-{FAULTS.index(fault)}", disk) for kind in SITES]
    try:
        return _tried(fault, sites, engine)
    finally:
        if not engine.running:
            engine.start()
        for site in sites:
            site.remove()


def _tried(fault: Fault, sites: list[Site], engine: Engine) -> list[Ending]:
    """All tools at the same time: nothing is timed here."""
    with ThreadPoolExecutor(len(sites)) as pool:
        trials = list(pool.map(lambda site: Trial(fault, site), sites))
        if fault.engine_down:
            engine.stop()
        list(pool.map(Trial.run, trials))
        if fault.engine_down:
            engine.start()
        return list(pool.map(Trial.end, trials))


class Trial:
    """One fault at one tool."""

    def __init__(self, fault: Fault, site: Site) -> None:
        self.fault, self.site = fault, site
        self._runs: list[Run] = []
        self._states: list[State] = []
        site.start({name: site.encrypt(name, content(name, FIRST)) for name in FILES})
        self._expect(State((FIRST,) * len(FILES), (FIRST,) * len(SERVICES), healthy=True))
        self._undo = fault.inject(site)

    def _expect(self, state: State) -> None:
        if (seen := look(self.site, engine=True)) != state:
            raise RuntimeError(f"{self.site.tool}, before the fault: {seen}")

    def run(self) -> None:
        """What the tool does while the fault is there."""
        self._runs.append(self.site.run())
        if self.fault.inject is kill and self._runs[0].exit_code is not None:
            raise RuntimeError(f"{self.site.tool} was not killed: {self._runs[0]}")
        self._states.append(look(self.site, engine=not self.fault.engine_down))

    def end(self) -> Ending:
        """What the next turn of the timer does, once the fault is gone."""
        if self._undo is not None:
            self._undo()
        self._runs.append(self.site.run())
        self._states.append(look(self.site, engine=True))
        words = self.fault.describe(self.site, self._runs, self._states)
        codes = tuple(run.exit_code for run in self._runs)
        return Ending(self.fault.name, self.site.tool, words, codes, tuple(self._states))
