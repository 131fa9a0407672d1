"""The demo's scratch directory: a git origin made from the example, a stack, a server configuration, and the daemon."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import os
import shutil
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import aiohttp
import yaml

from reconciler.adapters import process
from reconciler.adapters.sops.binary import find_sops
from reconciler.app.onboarding.deploy_files import EXAMPLE, shared_directory
from reconciler.core.errors import OutsideError, ReconcilerError

ENVIRONMENT = "production"
APP_DIRECTORY = "/opt/app"  # what the example's manifests say; replaced by a scratch path
_PATIENCE = 60.0  # seconds
_LIMITS = process.Limits(timeout=120, grace=5)
_WEBHOOK_SECRET = b"the demo's webhook secret\n"


@dataclass(slots=True)
class Site:
    """Everything the demo creates is below ``root``; ``with_engine``: whether a real stack runs."""

    root: str
    with_engine: bool
    port: int = field(init=False, default=0)
    _daemon: asyncio.subprocess.Process | None = None

    @property
    def app(self) -> str:
        """The stack's directory. Compose names the project after it, and no other stack here may have that name."""
        return os.path.join(self.root, os.path.basename(self.root).removeprefix("reconciler-"))

    @property
    def clone(self) -> str:
        """A developer's clone of the configuration repository."""
        return os.path.join(self.root, "clone")

    @property
    def origin(self) -> str:
        return os.path.join(self.root, "origin.git")

    @property
    def config(self) -> str:
        return os.path.join(self.root, "reconciler.yaml")

    @property
    def log(self) -> str:
        return os.path.join(self.root, "daemon.log")

    def live(self, name: str) -> str:
        return os.path.join(self.app, name)

    # --- creating it ---

    async def create(self) -> None:
        """Create the origin, the clone, the stack's directory and the server configuration."""
        await self.git("init", "--quiet", "--bare", "--initial-branch=main", self.origin, cwd=self.root)
        await self.git("clone", "--quiet", self.origin, self.clone, cwd=self.root)
        await self.git("checkout", "--quiet", "-b", "main")
        shutil.copytree(shared_directory("envs"), os.path.join(self.clone, "envs"))
        self._adapt_manifest()
        os.mkdir(self.app)
        shutil.copy(os.path.join(shared_directory("deploy"), EXAMPLE, "compose.yaml"), self.app)
        for name, data in {
            "age.key": _read(os.path.join(shared_directory("envs"), "demo-age-key.txt")),
            "webhook": _WEBHOOK_SECRET,
        }.items():
            _write_private(os.path.join(self.root, name), data)
        self._write_config()
        await self.commit("Start: the configuration of the example application")
        await self.git("push", "--quiet", "--set-upstream", "origin", "main")

    def _adapt_manifest(self) -> None:
        """Point the manifest to the scratch directory; without an engine its files belong to no stack."""
        path = os.path.join(self.clone, "envs", ENVIRONMENT, "environment.yaml")
        text = _read(path).decode().replace(APP_DIRECTORY, self.app)
        manifest = yaml.safe_load(text)
        if self.with_engine:
            manifest["stacks"]["app"]["health"] = {"timeout": "30s", "stable_for": "3s"}
        else:
            stack = manifest.pop("stacks")["app"]
            manifest["targets"] = {
                name: _without_stack(self.app, name, target) for name, target in stack["targets"].items()
            }
        with open(path, "w", encoding="utf-8") as file:
            yaml.safe_dump(manifest, file, sort_keys=False)

    def _write_config(self) -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.port = listener.getsockname()[1]
        config = {
            "environment": ENVIRONMENT,
            "host": "demo",
            "repository": {"url": self.origin, "branch": "main", "path": "envs", "poll_interval": "10m"},
            "decryption": {"age_key_file": os.path.join(self.root, "age.key")},
            "allowed_paths": [self.app],
            "state_dir": os.path.join(self.root, "state"),
            "drift": {"interval": "4s"},
            "http": {"listen": f"127.0.0.1:{self.port}"},
            "webhook": {"secret_file": os.path.join(self.root, "webhook")},
            "rollback": {"git": "push"},
        }
        with open(self.config, "w", encoding="utf-8") as file:
            yaml.safe_dump(config, file, sort_keys=False)

    # --- what developers and machines do ---

    async def git(self, *arguments: str, cwd: str | None = None) -> str:
        """git as a developer uses it, without the user's own settings. Raises ReconcilerError."""
        identity = {"GIT_AUTHOR_NAME": "demo", "GIT_AUTHOR_EMAIL": "demo@example.org"}
        identity |= {"GIT_COMMITTER_NAME": "demo", "GIT_COMMITTER_EMAIL": "demo@example.org"}
        env = {**_plain_environment(), **identity, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
        return await _output(["git", *arguments], env, cwd or self.clone)

    async def commit(self, message: str) -> str:
        await self.git("add", "--all")
        await self.git("commit", "--quiet", "--message", message)
        return (await self.git("rev-parse", "HEAD")).strip()

    async def set_value(self, source: str, key: str, value: str) -> None:
        """Change one value of an encrypted file in the clone, with sops."""
        path = os.path.join(self.clone, "envs", ENVIRONMENT, source)
        env = {**_plain_environment(), "SOPS_AGE_KEY_FILE": os.path.join(self.root, "age.key")}
        await _output([find_sops("sops"), "set", path, f'["{key}"]', f'"{value}"'], env, self.clone)

    async def compose(self, *arguments: str) -> str:
        return await _output(["docker", "compose", *arguments], _plain_environment(), self.app)

    async def containers(self) -> dict[str, str]:
        """Container id by service."""
        lines = (await self.compose("ps", "--format", "{{.Service}} {{.ID}}")).splitlines()
        return dict(line.split() for line in lines)

    async def merge_webhook(self) -> None:
        """What a git server does after a merge: a signed call of the daemon's webhook."""
        body = b'{"ref": "refs/heads/main"}'
        signature = "sha256=" + hmac.new(_WEBHOOK_SECRET.strip(), body, hashlib.sha256).hexdigest()
        url = f"http://127.0.0.1:{self.port}/webhook"
        headers = {"X-Hub-Signature-256": signature}
        async with aiohttp.ClientSession() as session, session.post(url, data=body, headers=headers) as answer:
            answer.raise_for_status()

    async def get(self, path: str) -> str:
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{self.port}{path}") as answer:
            return await answer.text()

    async def reconciler(self, *arguments: str, colour: bool, width: int) -> tuple[int, str]:
        """Run the installed command in the developer's clone; returns its exit code and what it printed."""
        env = {**_plain_environment(), "RECONCILER_CONFIG": self.config, "COLUMNS": str(width)}
        env |= {"FORCE_COLOR": "1"} if colour else {}
        done = await process.run([*own_command(), *arguments], env=env, limits=_LIMITS, cwd=self.clone)
        return done.exit_code, (done.stdout + done.stderr).decode()

    # --- the daemon ---

    async def start_daemon(self) -> None:
        env = {**_plain_environment(), "RECONCILER_CONFIG": self.config}
        self._daemon = await process.start([*own_command(), "run"], env=env, log_path=self.log)
        await self.until(self._ready, "the daemon to be ready")

    async def _ready(self) -> bool:
        if self._daemon is not None and self._daemon.returncode is not None:
            raise OutsideError("the daemon ended", where=self.log, hint=self._last_log())
        with contextlib.suppress(aiohttp.ClientError):
            return (await self.get("/readyz")) == "ready\n"
        return False

    async def until(self, condition: Callable[[], Awaitable[bool]], goal: str) -> None:
        """Wait for a condition. Raises OutsideError, with the end of the daemon's log, if it does not become true."""
        try:
            async with asyncio.timeout(_PATIENCE):
                while not await condition():
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise OutsideError(f"waited {_PATIENCE:.0f} s for {goal}", where=self.log, hint=self._last_log()) from None

    def _last_log(self) -> str:
        return _read(self.log).decode()[-2000:]

    async def end(self, *, keep: bool) -> None:
        """Stop the daemon and, without ``keep``, remove everything."""
        if self._daemon is not None and self._daemon.returncode is None:
            self._daemon.terminate()
            await self._daemon.wait()
        if keep:
            return
        if self.with_engine and os.path.isdir(self.app):
            with contextlib.suppress(ReconcilerError):
                await self.compose("down", "--volumes", "--timeout", "1")
        shutil.rmtree(self.root, ignore_errors=True)


def own_command() -> list[str]:
    """The installed console script, beside the interpreter that runs us."""
    script = os.path.join(os.path.dirname(sys.executable), "reconciler")
    return (
        [script]
        if os.access(script, os.X_OK)
        else [sys.executable, "-c", "from reconciler.cli.main import main; main()"]
    )


def _without_stack(app: str, name: str, target: object) -> dict[str, object]:
    full = dict(target) if isinstance(target, Mapping) else {"path": target or name}
    full.pop("on_change", None)
    return {**full, "path": os.path.join(app, str(full.get("path", name)))}


def _plain_environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name == "PATH" or name.startswith("DOCKER_")}
    return {**kept, "HOME": os.environ.get("HOME", "/nonexistent")}


async def _output(argv: list[str], env: Mapping[str, str], cwd: str) -> str:
    done = await process.run(argv, env=env, limits=_LIMITS, cwd=cwd)
    if not done.ok:
        text = done.stderr.decode(errors="replace").strip()
        raise OutsideError(f"{' '.join(argv[:3])} … failed with exit code {done.exit_code}", hint=text)
    return done.stdout.decode()


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _write_private(path: str, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
