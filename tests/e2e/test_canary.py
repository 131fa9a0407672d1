"""No secret ever leaks: not printed, logged, served, passed to a process, nor left in a file that need not hold it.

Secrets that can be recognised anywhere, whole, in part or encoded, are put where secrets belong: into env files, the
git token, the webhook secret, the daemon's own environment; the age key is one already. Then everything goes wrong
that can (tests/support/failures.py), and everything that is output is searched.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import os
import re
import secrets
import stat
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.age_key import AgeKey
from tests.support.commands import output
from tests.support.compose import ComposeProject
from tests.support.failures import ENVIRONMENT_FAILURES, SERVER_FAILURES, Failure, Site, grouped, sites
from tests.support.forks import COMMAND, ForkedProcess
from tests.support.importer import BRANCH, make_importer
from tests.support.server import Daemon, Server
from tests.support.site import Site as ConfigurationSite
from tests.support.sshd import Sshd
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

LETTERS = "ghijklmnopqrstuvwxyz"  # none of a hexadecimal number, so that no digest holds the canary by chance
PIECE = 12  # characters of the age key that count as a leak
SHARED_PLACES = (Path(tempfile.gettempdir()), Path("/var/tmp"), Path("/dev/shm"))

LOOK_EVERY = 0.003  # seconds; the shortest process, git cat-file, lives as long
JSON, BOTH = [("--json",)], [(), ("--json",)]

# Its secrets come from an env file and, interpolated, from .env; MODE=bad makes it crash.
STACK = """\
services:
  api:
    image: IMAGE
    network_mode: host
    env_file: [api.env]
    environment: {DSN: 'postgres://app:${DB_PASSWORD}@db'}
    mem_limit: ${MEMORY}
    command: [sh, -c, 'case $$MODE in bad*) exit 1;; esac; exec sleep infinity']
"""

# What the daemon's children may find in their environment (their names; no value may be a secret).
DOCUMENTED = {
    "git": r"PATH|HOME|LC_ALL|GIT_[A-Z0-9_]+|RECONCILER_TOKEN_FILE|no_proxy",
    "sops": r"PATH|HOME|GOGC|GOMAXPROCS|GOTRACEBACK|SOPS_[A-Z_]+|AWS_EC2_METADATA_DISABLED",
    "docker": r"PATH|HOME|PWD|DOCKER_[A-Z_]+",
}


# --- what is searched for --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Canary:
    """``word`` is part of every secret of a test; ``pattern`` finds it, or a piece of the age key, in any disguise."""

    word: str
    pattern: re.Pattern[bytes]

    def sings_in(self, data: bytes) -> bool:
        return self.pattern.search(data) is not None


def make_canary(age_key: str) -> Canary:
    word = "".join(secrets.choice(LETTERS) for _ in range(PIECE))
    body = age_key.strip().removeprefix("AGE-SECRET-KEY-1")
    pieces = [body[start : start + PIECE] for start in range(0, len(body) - PIECE + 1, PIECE)]
    disguises = {disguise for text in (word, *pieces) for disguise in _disguises(text.encode())}
    return Canary(word, re.compile(b"|".join(map(re.escape, sorted(disguises)))))


def _disguises(data: bytes) -> Iterator[bytes]:
    yield data
    yield data[::-1]
    yield data.hex().encode()
    for offset in range(3):  # where in a group of three bytes it begins
        encoded = base64.b64encode(bytes(offset) + data + bytes(-(offset + len(data)) % 3))
        yield encoded[(0, 2, 3)[offset] : len(encoded) - (0, 2, 3)[-(offset + len(data)) % 3]]


@pytest.fixture
def canary(age_key: AgeKey) -> Canary:
    return make_canary(age_key.path.read_text())


# --- what is said ----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Ear:
    """Keeps everything that the server outputs, by where it did."""

    server: Server
    variables: dict[str, str] = field(default_factory=dict)
    heard: dict[str, bytes] = field(default_factory=dict)

    def commands(self, *names: str, arguments: Iterable[tuple[str, ...]] = ((),)) -> None:
        for name in names:
            for more in arguments:
                done = self.server.cli(name, *more, environment=self.variables)
                self.hear(" ".join((name, *more)), done.stdout + done.stderr)

    def hear(self, where: str, text: str) -> None:
        self.heard[f"{where}, no. {len(self.heard)}"] = text.encode()

    def leaks(self, canary: Canary) -> list[str]:
        return [where for where, text in self.heard.items() if canary.sings_in(text)]


# --- what processes show ---------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Watcher:
    """Looks at all processes below a given process, repeatedly: their arguments and their environment."""

    pid: int
    arguments: set[bytes] = field(default_factory=set)
    environments: dict[str, set[bytes]] = field(default_factory=dict)
    _ended: threading.Event = field(default_factory=threading.Event)

    def look(self) -> None:
        while not self._ended.wait(LOOK_EVERY):
            self._look_below(self.pid, _read(self.pid, "cmdline"), child=True)

    def end(self) -> None:
        self._ended.set()

    def _look_below(self, parent: int, of_parent: bytes, *, child: bool) -> None:
        for pid in _children(parent):
            arguments = _read(pid, "cmdline")
            if arguments and arguments != of_parent:  # else it has not called exec yet
                self.arguments.add(arguments)
                program = os.path.basename(arguments.partition(b"\0")[0]).decode() if child else "further down"
                self.environments.setdefault(program, set()).update(_read(pid, "environ").split(b"\0"))
            self._look_below(pid, arguments, child=False)

    def undocumented(self) -> set[tuple[str, str]]:
        """Program and variable."""
        return {
            (program, variable.partition(b"=")[0].decode())
            for program, names in DOCUMENTED.items()
            for variable in self.environments.get(program, ())
            if variable and not re.fullmatch(names, variable.partition(b"=")[0].decode())
        }

    def leaks(self, canary: Canary) -> list[str]:
        leaks = [f"arguments of {arguments!r}" for arguments in self.arguments if canary.sings_in(arguments)]
        for program, variables in self.environments.items():
            leaks += [f"environment of {program}: {text!r}" for text in variables if canary.sings_in(text)]
        return leaks


def _read(pid: int, name: str) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/{name}").read_bytes()
    return b""


def _children(pid: int) -> list[int]:
    """Those of all its threads: each has its own."""
    children: list[int] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            children += map(int, _read(pid, f"task/{thread}/children").split())
    return children


@contextlib.contextmanager
def watched(daemon: Daemon) -> Iterator[Watcher]:
    watcher = Watcher(daemon.process.pid)
    thread = threading.Thread(target=watcher.look)
    thread.start()
    try:
        yield watcher
    finally:
        watcher.end()
        thread.join()


# --- what lies on disk -----------------------------------------------------------------------------------------------


def holders(directory: Path, canary: Canary) -> set[Path]:
    """Files below the directory that hold a secret; those of git are compressed."""
    files = (Path(place, name) for place, _, names in os.walk(directory) for name in names)
    return {path for path in files if holds(path, canary)}


def holds(path: Path, canary: Canary) -> bool:
    with contextlib.suppress(OSError):  # another test's, gone meanwhile
        return path.is_file() and not path.is_symlink() and canary.sings_in(path.read_bytes())
    return False


def is_private(path: Path) -> bool:
    return stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.fixture
def strays() -> Callable[[Canary], set[Path]]:
    """What was made in places shared by all, and holds a secret. Each test looks through its own directory itself."""

    def there() -> set[Path]:
        return {path for place in SHARED_PLACES for path in place.iterdir() if not path.name.startswith("pytest-of-")}

    def find(canary: Canary) -> set[Path]:
        new = there() - before
        return {path for path in new if holds(path, canary)} | {
            holder for path in new for holder in holders(path, canary)
        }

    before = there()
    return find


def assert_only_where_it_belongs(
    server: Server, canary: Canary, strays: Callable[[Canary], set[Path]], belongs: Iterable[Path]
) -> None:
    """In live files and the server's own secret files, where it must be; else in private backups only."""
    secrets = holders(server.root, canary)
    backups = {path for path in secrets if path.is_relative_to(server.state / "backups")}
    assert all(is_private(path) for path in backups)
    assert secrets - backups == {path for path in belongs if path.is_file()}
    assert strays(canary) == set()


# --- the tests -------------------------------------------------------------------------------------------------------


def test_the_search_finds_a_secret_whole_or_in_part_and_in_any_disguise(canary: Canary, age_key: AgeKey) -> None:
    word, key = canary.word, age_key.path.read_text().strip()
    secret = f"{word}.1"
    for form in (
        secret,
        f'parsing "{secret[:-1]}…',
        repr({"TOKEN": secret}),
        key,
        key[20:50],
        secret.encode().hex(),
        *(base64.b64encode(f"{'x' * length}:{secret}".encode()).decode() for length in range(4)),
    ):
        assert canary.sings_in(f"before {form} after".encode()), form
    assert not canary.sings_in(word[:8].encode() + b"AGE-SECRET-KEY-1" + os.urandom(4096).hex().encode())


def results(daemon: Daemon) -> dict[str, str]:
    """How the last reconciliation of each environment ended."""
    environments = json.loads(daemon.get("/api/v1/status")[1])["environments"]
    return {each["environment"]: each["result"] for each in environments}


@pytest.mark.parametrize("failures", grouped(ENVIRONMENT_FAILURES, size=9))
def test_no_secret_leaks_while_everything_goes_wrong_at_the_same_time(
    failures: list[Failure], server: Server, canary: Canary, strays: Callable[[Canary], set[Path]]
) -> None:
    """An environment for each failure, and a healthy one, in the same reconciliations and the same daemon."""
    secret = server.root / "webhook-secret"
    secret.touch(0o600)
    secret.write_text(f"{canary.word}.webhook\n")
    server.settings["webhook"] = {"secret_file": str(secret)}
    with sites(server, *(failure.id for failure in failures), "well", value=canary.word) as made:
        ear = Ear(server)
        ear.commands("sync")
        for failure, site in zip(failures, made, strict=False):
            failure.happens(site)
            ear.variables |= site.variables
        made[-1].commit(2)
        ear.commands("plan", "sync")
        with (
            server.daemon(**ear.variables, APP_SECRET=canary.word) as daemon,
            watched(daemon) as watcher,
        ):
            made[-1].commit(3)
            made[-1].live.write_text(f"TOKEN={canary.word}.by-hand\n")
            ear.commands("plan", "sync", arguments=JSON)
            ear.commands("status", "history", "backups", "doctor", arguments=BOTH)
            for path in ("/metrics", "/api/v1/status", "/healthz", "/readyz"):
                ear.hear(path, daemon.get(path)[1])
            announce(daemon, secret.read_bytes().strip(), ear)
            expected = {**{failure.id: failure.result for failure in failures}, "well": "in_sync"}
            eventually(lambda: results(daemon) == expected)  # what the announcements started may go on
            eventually(lambda: {"git", "sops"} <= watcher.environments.keys(), timeout=30)
        ear.hear("log", daemon.log.read_text())

        assert ear.leaks(canary) == []
        assert watcher.leaks(canary) == []
        assert watcher.undocumented() == set()
        assert_only_where_it_belongs(server, canary, strays, [secret, *live_files(made)])
        assert holders(server.state / "backups", canary)


def live_files(made: Iterable[Site]) -> Iterator[Path]:
    """Where the failures have put them."""
    for site in made:
        yield site.live.resolve()
        yield site.directory / "aside"


def announce(daemon: Daemon, secret: bytes, ear: Ear) -> None:
    """A push, as GitHub and as GitLab announce it, and as somebody else would like to."""
    signature = hmac.new(secret, b"{}", hashlib.sha256).hexdigest()
    for headers, expected in (
        ({"X-Hub-Signature-256": f"sha256={signature}"}, 202),
        ({"X-Gitlab-Token": secret.decode()}, 202),
        ({"X-Gitlab-Token": "guessed"}, 403),
        ({}, 403),
    ):
        code, text = daemon.post("/webhook", b"{}", headers)
        assert code == expected
        ear.hear("/webhook", text)


def git_is_seen(watcher: Watcher, ear: Ear) -> bool:
    """It runs for milliseconds, at worst between two looks at the processes: then it is asked again."""
    if "git" not in watcher.environments:
        ear.commands("sync")
    return "git" in watcher.environments


@pytest.mark.parametrize("failure", [failure.parameter for failure in SERVER_FAILURES])
def test_no_secret_leaks_when_the_whole_server_fails(
    failure: Failure, server: Server, canary: Canary, strays: Callable[[Canary], set[Path]]
) -> None:
    with sites(server, "production", value=canary.word) as (site,):
        ear = Ear(server)
        ear.commands("sync")
        failure.happens(site)
        ear.variables = {**site.variables, "APP_SECRET": canary.word}
        if failure.result is None:
            ear.commands("sync", "run")
        else:
            with server.daemon(**ear.variables) as daemon, watched(daemon) as watcher:
                ear.commands("sync")
                ear.hear("/metrics", daemon.get("/metrics")[1])
                ear.hear("/api/v1/status", daemon.get("/api/v1/status")[1])
                eventually(lambda: git_is_seen(watcher, ear), timeout=60)
            ear.hear("log", daemon.log.read_text())
            assert watcher.leaks(canary) == []
            assert watcher.undocumented() == set()
        ear.commands("doctor", arguments=JSON)
        assert ear.leaks(canary) == []
        assert_only_where_it_belongs(server, canary, strays, [site.live, server.root / "git-token"])
        if failure.id == "git-token-refused":  # or it would prove nothing
            assert f"x-access-token:{site.token}" in site.accounts_seen


def test_no_secret_leaks_by_adopting_it(server: Server, canary: Canary, strays: Callable[[Canary], set[Path]]) -> None:
    """By the command alone and by the daemon; pushed, and refused for every reason there is."""
    word = canary.word
    path, binary = server.app / "api.env", server.app / "blob"
    manifest = server.plain({name: {"path": name, "on_drift": "report"} for name in ("api.env", "blob")})
    server.commit({"api.env": b"A=1\nB=2\n", "blob": server.key.encrypt("blob", b"old", "binary")}, manifest)
    ear = Ear(server)
    ear.commands("sync")
    binary.write_bytes(f"-----BEGIN {word}".encode() + b"\xff\0")

    def adopt_everything(started: Callable[[subprocess.Popen[bytes]], Watcher | None]) -> None:
        for content, keys in (
            (f"A={word}\nB=2\n", ()),
            (f"A={word}\n\nB={word}.b\nNEW={word}.n\n", ("A", "NEW")),
            (f'A="{word}\n{word}="\nB=2\n', ()),
            (f'A="{word}\n{word}="\nB=2\n', ("A",)),
            (f'A="{word}\n', ()),
            (f"A={word}\nB=2\n{word}Q==\n{word}Q\n", ()),
            (f"B={word}\nA={word}\n", ()),
        ):
            path.write_text(content)
            more = [argument for key in keys for argument in ("--key", key)]
            for target in ("production/api.env", *(("production/blob",) if keys else ())):
                pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
                with server.start("adopt", target, *more, **pipes) as process:
                    watcher = started(process)
                    said, _ = process.communicate(timeout=120)
                    if watcher:
                        watcher.end()
                ear.hear(f"adopt {target} {content[:2]}", said.decode())
                codes.append(process.returncode)

    codes: list[int] = []
    watchers: list[Watcher] = []

    def watch(process: subprocess.Popen[bytes]) -> Watcher:
        watchers.append(Watcher(process.pid))
        threading.Thread(target=watchers[-1].look).start()
        return watchers[-1]

    adopt_everything(watch)
    with server.daemon() as daemon, watched(daemon) as watcher:
        adopt_everything(lambda _: None)
        ear.commands("age", "status", arguments=BOTH)
    ear.hear("log", daemon.log.read_text())

    assert codes.count(0) >= 2 * 2
    assert codes.count(1) >= 2 * 4
    assert ear.leaks(canary) == []
    for seen in (*watchers, watcher):
        assert seen.leaks(canary) == []
        assert seen.undocumented() == set()
    assert "sops" in watcher.environments
    assert_only_where_it_belongs(server, canary, strays, [path, binary])


@pytest.mark.docker
@pytest.mark.parametrize("over_ssh", [False, pytest.param(True, marks=pytest.mark.sshd)], ids=["here", "over-ssh"])
def test_no_secret_leaks_by_importing_it(
    over_ssh: bool, tmp_path: Path, strays: Callable[[Canary], set[Path]], request: pytest.FixtureRequest
) -> None:
    """From files that go in well, that dotenv cannot hold, that look harmless, and that stop the import."""
    importer = make_importer(tmp_path / "import", own_key=True)
    canary = make_canary(importer.key.read_text().splitlines()[-1])
    word = canary.word
    arguments = [importer.side]
    if over_ssh:
        sshd: Sshd = request.getfixturevalue("sshd")
        logins = ["--ssh-key", str(sshd.key_path), "--known-hosts", str(sshd.known_hosts)]
        arguments = [f"ssh://{sshd.user}@{sshd.host}:{sshd.port}{importer.stack}", *logins]
    secret_files: dict[str, str | bytes] = {
        "api.env": f"# {word}\nTOKEN={word}.1\nURL=redis://x:{word}@db\n",
        "config/common.env": f'PEM="{word}\n{word}QmFzZTY0=\n"\n\nB={word}.2\n',
        ".env": f"{word}AbC=\nLEVEL={word}.3\n",
        "nginx/site.conf": f"proxy_set_header Authorization 'Bearer {word}';\n",
        "token.txt": f"{word}.4",
    }
    importer.write(secret_files)
    heard: list[bytes] = []

    def run_and_watch(*more: str) -> tuple[int, Watcher]:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL}
        command = [str(COMMAND), "import", "production", *arguments, *more]
        env = importer.environment(APP_SECRET=word)
        with ForkedProcess(command, cwd=importer.clone, env=env, **pipes) as process:
            watcher = Watcher(process.pid)
            thread = threading.Thread(target=watcher.look)
            thread.start()
            heard.append(process.communicate(timeout=120)[0])
            watcher.end()
            thread.join()
        return process.returncode, watcher

    runs = [run_and_watch("--dry-run"), run_and_watch(), run_and_watch("--yes"), run_and_watch("--yes")]
    importer.git("branch", "--move", BRANCH, "first")
    runs.append(run_and_watch("--yes", "--json"))
    importer.git("branch", "--delete", "--force", BRANCH)
    importer.write({"api.env": f"A={word}\nA='{word}\n", "nginx/site.conf": f"<<<<<<< {word}\n>>>>>>> {word}\n"})
    runs.append(run_and_watch("--yes", "--plain", "*/nginx/*"))
    importer.write({"nginx/site.conf": "server {}\n", "compose.yaml": f"services: {{api: {word}: {word}}}\n"})
    runs.append(run_and_watch("--yes"))

    assert [code for code, _ in runs] == [0, 1, 0, 1, 0, 1, 0]
    assert not any(canary.sings_in(said) for said in heard), heard
    for _, watcher in runs:
        assert watcher.leaks(canary) == []
    assert "sops" in runs[2][1].environments
    objects = output("git", "cat-file", "--batch", "--batch-all-objects", cwd=importer.clone)
    assert b"sops_mac" in objects  # or it would prove nothing
    assert not canary.sings_in(objects)
    belongs = {importer.stack / name for name in secret_files} | {importer.stack / "compose.yaml", importer.key}
    assert holders(importer.root, canary) - belongs == set()
    assert strays(canary) == set()


def test_no_secret_leaks_by_setting_and_editing_it(
    site: ConfigurationSite, strays: Callable[[Canary], set[Path]], tmp_path: Path
) -> None:
    """By values that go in and that cannot, and by an editor that works, that breaks the file, and that fails."""
    canary = make_canary(site.production.path.read_text().splitlines()[-1])
    word, home = canary.word, tmp_path / "home"
    home.mkdir()
    site.encrypt("production/worker.env", f"# {word}\nQUEUE=info\nWORKERS=1\nAPI_TOKEN={word}.1\n")
    site.commit()
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\nset -e\ncat > "$2.more"\neval "$1"\n')
    editor.chmod(0o755)
    env = {"PATH": os.environ["PATH"], "HOME": str(home), "SOPS_AGE_KEY_FILE": str(site.keys)}
    heard: list[bytes] = []
    watchers: list[Watcher] = []

    def run_and_watch(stdin: str, *arguments: str, script: str = "") -> int:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        more = {"EDITOR": f"{editor} '{script}'"}
        with ForkedProcess([str(COMMAND), *arguments], cwd=site.root, env=env | more, **pipes) as process:
            watchers.append(Watcher(process.pid))
            thread = threading.Thread(target=watchers[-1].look)
            thread.start()
            heard.append(process.communicate(stdin.encode(), timeout=120)[0])
            watchers[-1].end()
            thread.join()
        return process.returncode

    name = "production/worker.env"
    codes = [
        run_and_watch(f"{word}.2\n'$x", "set", name, "API_TOKEN"),
        run_and_watch(f"{word}.3", "set", name, "NEW", "--json"),
        run_and_watch(f"{word}\0", "set", name, "API_TOKEN"),
        run_and_watch("x", "set", name, word.upper() + "AbC=="),
        run_and_watch(f"ADDED={word}.4\n", "edit", name, script='cat "$2.more" >> "$2"'),
        run_and_watch(f'"{word}\n{word}\n', "edit", name, script='cat "$2.more" >> "$2"'),
        run_and_watch("", "edit", name, script='sed -i s/info/{word}/ "$2"; exit 1'),
    ]

    assert [code for code in codes if code] == codes[2:4] + codes[5:], heard
    assert not any(canary.sings_in(said) for said in heard), heard
    assert [leak for watcher in watchers for leak in watcher.leaks(canary)] == []
    assert {"sops"} <= set().union(*(watcher.environments for watcher in watchers))
    assert b"\nADDED=ENC[" in (site.envs / name).read_bytes()
    assert holders(tmp_path, canary) == set(), "the age keys lie elsewhere"
    assert strays(canary) == set()


@pytest.mark.docker
def test_no_secret_leaks_by_a_change_a_drift_a_rollback_and_a_project_that_compose_refuses(
    stack_server: Callable[..., tuple[Server, ComposeProject]], canary: Canary, strays: Callable[[Canary], set[Path]]
) -> None:
    def sources(mode: str, memory: str = "64m") -> dict[str, bytes]:
        secret = f"{canary.word}.{mode}"
        return {
            "api.env": f"MODE={mode}\nTOKEN={secret}\n".encode(),
            ".env": f"DB_PASSWORD={secret}\nMEMORY={memory}\n".encode(),
        }

    server, project = stack_server(STACK)
    server.commit(sources("good"), server.manifest(list(sources("good"))))
    ear = Ear(server)
    ear.commands("sync")
    project.up()
    with server.daemon(installed=True, APP_SECRET=canary.word) as daemon, watched(daemon) as watcher:
        server.commit(sources("better"))
        ear.commands("plan", "sync")
        (server.app / "api.env").write_text(f"MODE=good\nTOKEN={canary.word}.by-hand\n")
        ear.commands("plan", "sync")
        server.commit(sources("bad"))
        ear.commands("sync")
        server.commit(sources("best", memory=f"{canary.word}.memory"))
        ear.commands("plan", "sync", "status", "history", "backups", "doctor", "report", "review", arguments=JSON)
        ear.commands("report", "review", arguments=[("--format", "html")])
        for path in ("/metrics", "/api/v1/status", "/api/v1/history", "/", "/secrets"):
            ear.hear(path, daemon.get(path)[1])
        environment = server.json("status")["environments"][0]
    ear.hear("log", daemon.log.read_text())

    results = [run["result"] for run in server.json("history")]
    assert results == ["stalled", "rolled_back", "corrected", "applied", "applied"]
    assert environment["result"] == "stalled"
    assert {"git", "sops", "docker-compose"} <= watcher.environments.keys()
    assert ear.leaks(canary) == []
    assert watcher.leaks(canary) == []
    assert watcher.undocumented() == set()
    assert_only_where_it_belongs(server, canary, strays, [server.app / "api.env", server.app / ".env"])
    assert holders(server.state / "backups", canary)
