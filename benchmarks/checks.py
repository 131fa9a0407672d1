"""`check` and `diff` on a repository of 200 encrypted files, as a CI job runs them: the whole command, no key."""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.figures import Figure
from tests.support.age_key import AgeKey, make_age_key
from tests.support.git_remote import GitRemote, make_git_remote

COMMAND = str(Path(sys.executable).parent / "reconciler")
ENVIRONMENTS = ("development", "production")
FILES = 100  # in each environment
KEYS = 30  # in each file
COMMITS = 100
RUNS = 7
CHECK_TARGET = 1.0  # s
DIFF_TARGET = 1.0  # s


def measure(root: Path) -> list[Figure]:
    """Both commands, in a full clone of the repository."""
    remote, clone = make_repository(root)
    files = f"{FILES * len(ENVIRONMENTS)} files of {KEYS} keys"
    base = remote.log()[-1]
    return [
        *_figures(f"check, {files}", [_timed([COMMAND, "check"], clone) for _ in range(RUNS)], CHECK_TARGET),
        *_figures(
            f"diff of {COMMITS} commits, {files}",
            [_timed([COMMAND, "diff", f"{base}..HEAD"], clone) for _ in range(RUNS)],
            DIFF_TARGET,
        ),
    ]


def _figures(name: str, costs: Sequence[tuple[float, float]], target: float) -> list[Figure]:
    wall, cpu = zip(*costs, strict=True)
    return [
        Figure(f"{name}: wall", "s", wall, target, "the installed command, no key"),
        Figure(f"{name}: CPU", "s", cpu),
    ]


def make_repository(root: Path) -> tuple[GitRemote, Path]:
    """A remote whose last ``COMMITS`` commits change one file each, and a clone of it."""
    root.mkdir(parents=True, exist_ok=True)
    key = make_age_key(root)
    names = [f"{environment}/service-{number:03}.env" for environment in ENVIRONMENTS for number in range(FILES)]
    remote = make_git_remote(root / "config.git")
    sops = f"creation_rules:\n  - age: {key.public}\n".encode()
    with ThreadPoolExecutor(2) as pool:
        first = dict(zip(names, pool.map(lambda name: encrypted(key, name, "first"), names), strict=True))
        files = {f"envs/{name}": data for name, data in first.items()} | {"envs/.sops.yaml": sops}
        for environment in ENVIRONMENTS:
            sources = "".join(f"      service-{number:03}.env:\n" for number in range(FILES))
            manifest = f"stacks:\n  app:\n    directory: /opt/app\n    targets:\n{sources}"
            files[f"envs/{environment}/environment.yaml"] = manifest.encode()
        remote.commit(files, "Start")
        changed = [names[number % len(names)] for number in range(COMMITS)]
        for name, data in zip(changed, pool.map(lambda name: encrypted(key, name, "second"), changed), strict=True):
            remote.commit({f"envs/{name}": data}, f"Change {name}")
    clone = root / "clone"
    shutil.rmtree(clone, ignore_errors=True)
    subprocess.run(["git", "clone", "--quiet", str(remote.path), str(clone)], check=True)
    return remote, clone


def encrypted(key: AgeKey, name: str, changed: str) -> bytes:
    lines = [f"SETTING_{number:02}=value {number} of {name}" for number in range(KEYS - 1)]
    return key.encrypt(name, "\n".join([*lines, f"CHANGED={changed} {name}", ""]).encode())


def _timed(argv: Sequence[str], directory: Path) -> tuple[float, float]:
    """Seconds of one run: wall and CPU, git's included. Raises RuntimeError unless it exits with 0."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(argv, cwd=directory, capture_output=True, check=False)
    took, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:  # a command that fails is quick
        raise RuntimeError(f"{argv[1]} ended with {done.returncode}: {done.stdout[-2000:]!r} {done.stderr[-2000:]!r}")
    return took, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
