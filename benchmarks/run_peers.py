"""Measure reconciler beside the tools that people use instead: `make bench-peers`, or `run_peers.py --peers VENV`.

Needs root, docker, git-crypt, and an environment with benchmarks/peers/requirements.txt. Starts a Docker engine of its
own, which one of the faults stops. Exits with 1 if something could not be measured, and says what.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for the package and tests/support

from benchmarks.figures import machine, table
from benchmarks.peers import costs, faults
from benchmarks.peers.sites import IMAGE, Site
from reconciler.demo import dockerd
from tests.support.age_key import AgeKey
from tests.support.engine import private_place

NEEDED = ("docker", "dockerd", "git-crypt", "unshare", "mount")


class PrivateEngine:
    """A Docker engine beside the machine's own."""

    def __init__(self, directory: Path) -> None:
        self._place = private_place(str(directory))
        self._log = str(directory / "dockerd.log")
        self.host = str(self._place.docker_host)
        self.running = False

    def start(self) -> None:
        self._engine = dockerd.spawn(self._log, self._place)
        self._engine.wait_until_ready()
        self.running = True

    def stop(self) -> None:
        self._engine.stop()
        self.running = False


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure reconciler beside the tools that people use instead.")
    parser.add_argument(
        "--peers", metavar="VENV", type=Path, required=True, help="the environment with the other tools"
    )
    parser.add_argument("--only", choices=("costs", "faults"), help="measure these only")
    sizes = {"type": int, "nargs": "+", "default": costs.SIZES}
    parser.add_argument("--files", metavar="N", **sizes, help="for how many files costs are measured")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write everything to this file")
    arguments = parser.parse_args()
    if lacking := [program for program in NEEDED if shutil.which(program, path=dockerd.SEARCH_PATH) is None]:
        print(f"not installed: {', '.join(lacking)}. Install it: apt-get install docker.io git-crypt", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that everything is cleaned up
    with tempfile.TemporaryDirectory(prefix="peers-") as scratch:
        data = _measured(Path(scratch), arguments.peers.resolve(), arguments.only, arguments.files)
    if arguments.json:
        arguments.json.write_text(json.dumps(data, indent=2) + "\n")
    if data["failed"]:
        print(f"\nfailed: {'; '.join(data['failed'])}")
    return 1 if data["failed"] else 0


def _measured(scratch: Path, peers: Path, only: str | None, sizes: Sequence[int]) -> dict[str, Any]:
    engine = PrivateEngine(scratch)
    engine.start()
    os.environ["DOCKER_HOST"] = engine.host
    failed: list[str] = []

    def make_site(kind: type[Site], name: str, key: AgeKey, disk: int = 0) -> Site:
        return kind(scratch / f"of-{name}", f"peers-{name}", key, engine.host, peers, disk)

    def attempted(name: str, parts: Callable[[], Iterable[Any]]) -> list[Any]:
        gathered: list[Any] = []
        if only in (None, name):
            began = time.monotonic()
            try:
                for part in parts():
                    gathered.append(part)  # noqa: PERF402  # those before a failure are kept
            except Exception as error:  # noqa: BLE001  # whatever it is, it is reported and ends in exit 1
                traceback.print_exception(error)
                failed.append(f"{name} ({type(error).__name__}: {error})")
            print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        return gathered

    try:
        dockerd.ensure_image(IMAGE)
        described = {**machine(), **_versions(peers)}
        print("\n".join(f"{name:>14}: {value}" for name, value in described.items()), flush=True)
        figures = attempted("costs", lambda: costs.measure(scratch, make_site, sizes))
        print("\n" + table([replace(figure, target=None) for figure in figures]), flush=True)
        endings = attempted("faults", lambda: faults.measure(scratch, make_site, engine))
        for ending in endings:
            print(f"{ending.fault:45} {ending.tool:14} {ending.words}")
    finally:
        engine.stop()
    return {
        "machine": described,
        "figures": [figure.data() for figure in figures],
        "faults": [ending.data() for ending in endings],
        "failed": failed,
    }


def _versions(peers: Path) -> dict[str, str]:
    listed = subprocess.run(
        [str(peers / "bin" / "python"), "-m", "pip", "freeze"], check=True, capture_output=True, text=True
    )
    versions = dict(line.split("==") for line in listed.stdout.splitlines() if "==" in line)
    crypt = subprocess.run(["git-crypt", "version"], check=True, capture_output=True, text=True)
    return {
        "ansible-core": versions["ansible-core"],
        "harbormaster": versions["docker-harbormaster"],
        "git-crypt": crypt.stdout.strip().removeprefix("git-crypt "),
    }


if __name__ == "__main__":
    sys.exit(main())
