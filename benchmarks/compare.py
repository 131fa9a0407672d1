"""`compare` of one environment in git with 20 hosts of 10 files each, over real SSH on loopback: the whole command."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from benchmarks.figures import Figure, skipped
from tests.support.age_key import make_age_key
from tests.support.components import missing
from tests.support.git_remote import make_git_remote
from tests.support.sshd import Sshd, make_sshd

COMMAND = str(Path(sys.executable).parent / "reconciler")
HOSTS = 20
FILES = 10  # on each host
KEYS = 30  # in each file
RUNS = 5
TARGET = 2.0  # s
NAMES = [f"service-{number:02}.env" for number in range(FILES)]
COMPOSE = "services:\n" + "".join(f"  {name[:-4]}: {{image: x, env_file: {name}}}\n" for name in NAMES)


def measure(root: Path) -> Iterator[Figure]:
    """Wall and CPU time, without that of the servers."""
    name = f"compare with {HOSTS} hosts of {FILES} files over SSH"
    if (lack := missing("sshd")) is not None:
        yield skipped(name, str(lack))
        return
    clone, key = _repository(root)
    with ExitStack() as stack:
        hosts = [_host(stack, root, number) for number in range(HOSTS)]
        known = root / "known_hosts"
        known.write_text("".join(host.known_hosts.read_text() for host, _ in hosts))
        sides = [host.url(directory) for host, directory in hosts]
        argv = [COMMAND, "compare", "git:production", *sides, "--known-hosts", str(known)]
        argv += ["--ssh-key", str(hosts[0][0].key_path), "--age-key-file", str(key), "--json"]
        wall, cpu = zip(*(_timed(argv, clone) for _ in range(RUNS)), strict=True)
        yield Figure(f"{name}: wall", "s", wall, TARGET, "with every value, sshd's own work on the same machine")
        yield Figure(f"{name}: CPU", "s", cpu, note="without that of sshd")
        for _, app in hosts:
            (app / "compose.yaml").write_text(COMPOSE)
        wall, _ = zip(*(_timed(argv, clone) for _ in range(RUNS)), strict=True)
        yield Figure(f"{name}, Compose projects: wall", "s", wall, note="and 20 times `docker ps` on the same machine")


def _content(source: str) -> bytes:
    return "".join(f"SETTING_{number:02}=value {number} of {source}\n" for number in range(KEYS)).encode()


def _repository(root: Path) -> tuple[Path, Path]:
    root.mkdir(parents=True, exist_ok=True)
    key = make_age_key(root)
    remote = make_git_remote(root / "config.git")
    targets = "".join(f"      {name}:\n" for name in NAMES)
    manifest = f"stacks:\n  app:\n    directory: /opt/app\n    targets:\n{targets}"
    files = {f"envs/production/{name}": key.encrypt(name, _content(name)) for name in NAMES}
    remote.commit({**files, "envs/production/environment.yaml": manifest.encode()}, "Start")
    clone = root / "clone"
    subprocess.run(["git", "clone", "--quiet", str(remote.path), str(clone)], check=True)
    return clone, key.path


def _host(stack: ExitStack, root: Path, number: int) -> tuple[Sshd, Path]:
    """A separate sshd that accepts the first one's key, and its directory."""
    directory = root / f"host-{number:02}"
    app = directory / "app"
    app.mkdir(parents=True)
    for name in NAMES:
        (app / name).write_bytes(_content(name))
        (app / name).chmod(0o600)
    host = make_sshd(directory)
    stack.callback(host.stop)
    if number:
        host.let_in(root / "host-00" / "client_key")
    return host, app


def _timed(argv: list[str], directory: Path) -> tuple[float, float]:
    """Seconds of one run. Raises RuntimeError unless everything is the same."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(argv, cwd=directory, capture_output=True, check=False)
    took, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0 or done.stdout.count(b'"class": "same"') < HOSTS * FILES * KEYS:
        raise RuntimeError(f"compare ended with {done.returncode}: {done.stdout[-2000:]!r} {done.stderr[-2000:]!r}")
    return took, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
