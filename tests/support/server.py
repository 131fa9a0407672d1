"""A whole server for end-to-end tests: a git remote, a stack directory, the server's file, and the installed command."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.support.age_key import AgeKey
from tests.support.commands import run
from tests.support.git_remote import GitRemote
from tests.support.waiting import eventually

COMMAND = Path(sys.executable).parent / "reconciler"
ENVIRONMENT = "production"


@dataclass(slots=True)
class Server:
    """``app`` is the stack's directory, the only allowed path; every file of the daemon lies below ``root``."""

    root: Path
    app: Path
    remote: GitRemote
    key: AgeKey
    settings: dict[str, Any] = field(default_factory=dict)

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
            files[f"envs/{environment}/{name}"] = self.key.encrypt(name, data) if encrypted and data else data
        if manifest is not None:
            files[f"envs/{environment}/environment.yaml"] = yaml.safe_dump(dict(manifest)).encode()
        return self.remote.commit(files, message, author=author)

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
        path = self.root / "reconciler.yaml"
        path.write_text(yaml.safe_dump(self.settings))
        return path

    @property
    def state(self) -> Path:
        return Path(self.settings["state_dir"])

    def live(self, name: str) -> bytes:
        return (self.app / name).read_bytes()

    def cli(
        self, *arguments: str, timeout: float = 60, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run the installed command with this server's file."""
        env = {**self._environment(), **(environment or {})}
        done = run(COMMAND, *arguments, env=env, timeout=timeout)
        return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())

    def json(self, *arguments: str) -> Any:
        """The command's --json output, whatever its exit code."""
        done = self.cli(*arguments, "--json")
        assert done.stdout, done.stderr
        return json.loads(done.stdout)

    def sync(self, *arguments: str) -> dict[str, Any]:
        """One pass; returns its only environment's outcome."""
        (outcome,) = self.json("sync", *arguments)
        return dict(outcome)

    def outcomes(self, *arguments: str) -> dict[str, dict[str, Any]]:
        """One pass; the outcomes by environment."""
        return {one["environment"]: one for one in self.json("sync", *arguments)}

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name == "PATH" or name.startswith("DOCKER_")}
        return {**kept, "HOME": str(self.root), "RECONCILER_CONFIG": str(self.config), "COLUMNS": "200"}

    @contextlib.contextmanager
    def daemon(self, **environment: str) -> Iterator[Daemon]:
        """The daemon, ready; it is ended (SIGTERM, then SIGKILL) at the end."""
        log = self.root / "daemon.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                [str(COMMAND), "run"],
                env={**self._environment(), **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        running = Daemon(process, log)
        try:
            running.wait_until_ready()
            yield running
        finally:
            running.stop()


@dataclass(slots=True)
class Daemon:
    """A running `reconciler run`. Its log is JSON lines."""

    process: subprocess.Popen[bytes]
    log: Path
    port: int = 0

    def wait_until_ready(self) -> None:
        self.port = eventually(self._find_port, timeout=20)
        eventually(lambda: self.get("/readyz")[0] == 200, timeout=60)

    def _find_port(self) -> int:
        assert self.process.poll() is None, f"the daemon ended: {self.log.read_text()}"
        started = [event for event in self.events() if event.get("event") == "started"]
        return int(started[-1]["http"].rpartition(":")[2]) if started else 0

    def events(self) -> list[dict[str, Any]]:
        """What it has logged so far."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of a GET on its HTTP address."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def metrics(self) -> dict[str, float]:
        """The scrape as {"name{labels}": value}."""
        _, text = self.get("/metrics")
        samples = [line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#")]
        return {name: float(value) for name, _, value in samples}

    def stop(self) -> int:
        """SIGTERM and wait for the end; returns the exit code. After 30 s, SIGKILL."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        return self.process.returncode
