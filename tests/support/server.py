"""A whole server for end-to-end tests: git remote, stack directory, server configuration and installed command."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.support.age_key import AgeKey
from tests.support.commands import run
from tests.support.forks import COMMAND, TIMEOUT, ForkedProcess, Hook, reconciler
from tests.support.git_remote import GitRemote
from tests.support.json_answers import read_answer
from tests.support.waiting import eventually

ENVIRONMENT = "production"
_CIPHERTEXTS: dict[tuple[str, str, bytes], bytes] = {}  # by recipient, name and plaintext, for all tests


@dataclass(slots=True)
class Server:
    """``app`` is the stack's directory, the only allowed path; every file of the daemon lies below ``root``."""

    root: Path
    app: Path
    remote: GitRemote
    key: AgeKey
    started_by: tuple[str, ...] = ()  # a program that starts the command, with its arguments
    forked: bool = False  # its commands save the time that Python takes to begin: see tests/support/forks.py
    hook: Hook | None = None  # what a forked command calls before it begins
    settings: dict[str, Any] = field(default_factory=dict)
    _encrypted: set[tuple[str, bytes]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.settings = {
            "environment": ENVIRONMENT,
            "host": "test",
            "repository": {"url": self.remote.url, "poll_interval": "10m"},
            "decryption": {"age_key_file": str(self.key.path)},
            "allowed_paths": [str(self.app)],
            "state_dir": str(self.root / "state"),
            "drift": {"interval": "10m"},
            "http": {"listen": "127.0.0.1:0"},
            "rollback": {"git": "off"},
        }

    # --- what is in git ---

    def commit(
        self,
        sources: Mapping[str, bytes | None],
        manifest: Mapping[str, Any] | None = None,
        *,
        environment: str = ENVIRONMENT,
        message: str = "Change",
        author: str = "Ada Example <ada@example.org>",
    ) -> str:
        """Commit sources (``*.env`` are encrypted) and, if given, the manifest; return the commit id."""
        files: dict[str, bytes | None] = {}
        for name, data in sources.items():
            encrypted = data is not None and name.endswith(".env")
            files[f"envs/{environment}/{name}"] = self.ciphertext(name, data) if encrypted and data else data
        if manifest is not None:
            files[f"envs/{environment}/environment.yaml"] = yaml.safe_dump(dict(manifest)).encode()
        return self.remote.commit(files, message, author=author)

    def ciphertext(self, name: str, data: bytes) -> bytes:
        """Encrypted once for all tests; but another time for each further commit of the same server."""
        key = self.key.public, name, data
        if key not in _CIPHERTEXTS or (name, data) in self._encrypted:
            _CIPHERTEXTS[key] = self.key.encrypt(name, data)
        self._encrypted.add((name, data))
        return _CIPHERTEXTS[key]

    def manifest(self, targets: Mapping[str, Any] | list[str], **stack: Any) -> dict[str, Any]:
        """A manifest with the one stack ``app``; a short health policy, so that tests are quick."""
        named = dict.fromkeys(targets) if isinstance(targets, list) else dict(targets)
        health = {"timeout": "20s", "stable_for": "1s"}
        return {"stacks": {"app": {"directory": str(self.app), "health": health, "targets": named, **stack}}}

    def plain(self, targets: Mapping[str, Any] | list[str]) -> dict[str, Any]:
        """A manifest whose targets belong to no stack: live files below the stack's directory, no engine needed."""
        named = dict.fromkeys(targets) if isinstance(targets, list) else dict(targets)
        full = {}
        for name, target in named.items():
            fields = dict(target) if isinstance(target, Mapping) else {"path": target or name}
            full[name] = {**fields, "path": str(self.app / fields.get("path", name))}
        return {"targets": full}

    # --- the server ---

    @property
    def config(self) -> Path:
        """The path of the server configuration, which holds the settings as they are now: never half of them, as a
        daemon may be reading it."""
        path, content = self.root / "reconciler.yaml", yaml.safe_dump(self.settings).encode()
        if not path.is_file() or path.read_bytes() != content:
            new = path.with_suffix(f".{threading.get_ident()}")
            new.write_bytes(content)
            new.rename(path)
        return path

    @property
    def state(self) -> Path:
        return Path(self.settings["state_dir"])

    def live(self, name: str) -> bytes:
        return (self.app / name).read_bytes()

    def cli(
        self, *arguments: str, timeout: float = TIMEOUT, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run the command with this server's configuration."""
        env = {**self.variables(), **(environment or {})}
        if self.forked and not self.started_by:
            return reconciler(*arguments, env=env, timeout=timeout, hook=self.hook)
        done = run(*self.started_by, COMMAND, *arguments, env=env, timeout=timeout)
        return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())

    def start(
        self,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        stdin: Any = subprocess.DEVNULL,
        installed: bool = False,
        **files: Any,
    ) -> subprocess.Popen[bytes]:
        """Start the command with this server's configuration; the caller ends it. ``files`` as for Popen.

        With ``installed`` it is the script, for a test that looks at its start or at what /proc says of it.
        """
        env = {**self.variables(), **(environment or {})}
        if self.forked and not self.started_by and not installed:
            return ForkedProcess([str(COMMAND), *arguments], env=env, stdin=stdin, hook=self.hook, **files)
        return subprocess.Popen(
            [*self.started_by, COMMAND, *arguments], env=env, stdin=stdin, start_new_session=True, **files
        )

    def json(self, *arguments: str) -> Any:
        """The command's --json output, whatever its exit code."""
        done = self.cli(*arguments, "--json")
        assert done.stdout, done.stderr
        return read_answer(arguments[0], done.stdout)

    def sync(self, *arguments: str) -> dict[str, Any]:
        """One pass; returns its only environment's outcome, with the command's ``exit_code``."""
        done = self.cli("sync", *arguments, "--json")
        assert done.stdout, done.stderr
        (outcome,) = read_answer("sync", done.stdout)
        return {**outcome, "exit_code": done.returncode}

    def outcomes(self, *arguments: str) -> dict[str, dict[str, Any]]:
        """One pass; the outcomes by environment."""
        return {outcome["environment"]: outcome for outcome in self.json("sync", *arguments)}

    def backed_up(self, backup: str, *, environment: str = ENVIRONMENT) -> dict[str, bytes | None]:
        """What the backup with this id holds, by source; None for a file that was not there."""
        directory = self.state / "backups" / environment / backup
        entries = json.loads((directory / "manifest.json").read_text())["entries"]
        return {
            entry["source"]: (directory / entry["file"]).read_bytes() if entry["file"] else None for entry in entries
        }

    def variables(self) -> dict[str, str]:
        """The environment of its commands."""
        kept = {name: value for name, value in os.environ.items() if name == "PATH" or name.startswith("DOCKER_")}
        return {**kept, "HOME": str(self.root), "RECONCILER_CONFIG": str(self.config), "COLUMNS": "200"}

    @contextlib.contextmanager
    def daemon(self, *, ready: bool = True, installed: bool = False, **environment: str) -> Iterator[Daemon]:
        """The daemon, serving and (by default) ready; it is ended (SIGTERM, then SIGKILL) at the end.

        ``installed`` as for ``start``.
        """
        log = self.root / "daemon.log"
        with log.open("ab") as output:
            said_before = output.tell()
            process = self.start("run", environment=environment, installed=installed, stdout=output, stderr=output)
        running = Daemon(process, log, said_before)
        try:
            running.wait_until_it_serves()
            if ready:
                running.wait_until_ready()
            yield running
        finally:
            running.stop()


@dataclass(slots=True)
class Daemon:
    """A running `reconciler run`. Its log is JSON lines; the first ``said_before`` bytes are an earlier daemon's."""

    process: subprocess.Popen[bytes]
    log: Path
    said_before: int = 0
    port: int = 0

    def wait_until_it_serves(self) -> None:
        self.port = eventually(self._find_port, timeout=20)

    def wait_until_ready(self) -> None:
        eventually(lambda: self.get("/readyz")[0] == 200, timeout=60)

    def _find_port(self) -> int:
        assert self.process.poll() is None, f"the daemon ended: {self.log.read_text()}"
        started = [event for event in self.events() if event.get("event") == "started"]
        return int(started[-1]["http"].rpartition(":")[2]) if started else 0

    def events(self) -> list[dict[str, Any]]:
        """What it has logged so far."""
        whole_lines = self.log.read_bytes()[self.said_before :].decode().rpartition("\n")[0]
        return [json.loads(line) for line in whole_lines.splitlines() if line.startswith("{")]

    def get(self, path: str, *, host: str = "") -> tuple[int, str]:
        """Status and body of a GET on its HTTP address; ``host`` is the name that it is asked for, if another."""
        return self._ask(path, None, {"Host": host} if host else {})

    def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, str]:
        """Status and body of a POST to its HTTP address."""
        return self._ask(path, body, headers)

    def _ask(self, path: str, body: bytes | None, headers: Mapping[str, str]) -> tuple[int, str]:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", body, dict(headers))
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def history(self) -> list[dict[str, Any]]:
        """Its last runs, newest first: for a loop that waits, as a command would cost more than the wait."""
        runs: list[dict[str, Any]] = json.loads(self.get("/api/v1/history")[1])["runs"]
        return runs

    def environment(self) -> dict[str, Any]:
        """The status of its only environment."""
        (environment,) = json.loads(self.get("/api/v1/status")[1])["environments"]
        return dict(environment)

    def metrics(self) -> dict[str, float]:
        """The scrape as {"name{labels}": value}, without the label ``host``, which every series has.

        The second one: a counter that begins is 0 in the first.
        """
        self.get("/metrics")
        text = re.sub(r',host="[^"]*"|(?<={)host="[^"]*",?', "", self.get("/metrics")[1]).replace("{}", "")
        samples = [line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#")]
        return {name: float(value) for name, _, value in samples}

    def kill(self) -> None:
        """SIGKILL, as when the machine runs out of memory."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM and wait for the end; returns the exit code. After two minutes, SIGKILL."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(120)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        return self.process.returncode
