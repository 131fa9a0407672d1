"""Measure reconciler beside the tools that people use instead: `make bench-peers`, or `run_peers.py --peers VENV`.

Needs root, docker, git-crypt, and an environment with benchmarks/peers/requirements.txt. Starts a Docker engine of its
own, which one of the faults stops. Exits with 1 if something could not be measured, and says what.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for the package and tests/support

from benchmarks.figures import Figure, ResultFile, machine, table
from benchmarks.peers import costs, faults
from benchmarks.peers.sites import IMAGE, Site
from reconciler.demo import dockerd
from tests.support.age_key import make_age_key
from tests.support.engine import private_place

Row = TypeVar("Row", Figure, faults.Ending)
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
    parser.add_argument(
        "--json",
        metavar="FILE",
        type=Path,
        help="also write everything to this file; with --only or --files, it keeps the rest",
    )
    arguments = parser.parse_args()
    if lacking := [program for program in NEEDED if shutil.which(program, path=dockerd.SEARCH_PATH) is None]:
        print(f"not installed: {', '.join(lacking)}. Install it: apt-get install docker.io git-crypt", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that everything is cleaned up
    with tempfile.TemporaryDirectory(prefix="peers-") as scratch:
        failed = _measured(Path(scratch), arguments)
    if failed:
        print(f"\nfailed: {'; '.join(failed)}")
    return 1 if failed else 0


def _measured(scratch: Path, arguments: argparse.Namespace) -> list[str]:
    """Measure and print everything; return which parts failed, and why."""
    peers, sizes = arguments.peers.resolve(), arguments.files
    engine = PrivateEngine(scratch)
    engine.start()
    os.environ["DOCKER_HOST"] = engine.host
    key = make_age_key(scratch)
    failed: list[str] = []

    def make_site(kind: type[Site], name: str, disk: int = 0) -> Site:
        return kind(scratch / f"of-{name}", f"peers-{name}", key, engine.host, peers, disk)

    def attempted(section: str, part: str, rows: Callable[[], Iterable[Row]]) -> list[Row]:
        gathered: list[Row] = []
        failure, began = "", time.monotonic()
        try:
            for row in rows():
                gathered.append(row)  # noqa: PERF402  # those before a failure are kept
        except Exception as error:  # noqa: BLE001  # whatever it is, it is reported and ends in exit 1
            traceback.print_exception(error)
            failure = f"{type(error).__name__}: {error}"
            failed.append(f"{part} ({failure})")
        print(f"{part}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        file.write(section, part, [row.data() for row in gathered], failure)
        return gathered

    try:
        dockerd.ensure_image(IMAGE)
        described = {**machine(), **_versions(peers)}
        print("\n".join(f"{name:>14}: {value}" for name, value in described.items()), flush=True)
        partly = arguments.only is not None or list(sizes) != list(costs.SIZES)
        file = ResultFile(arguments.json, described, _part, keep=partly)
        if arguments.only != "faults":
            measured = [
                figure
                for files in sizes
                for figure in attempted("figures", f"{files} files", partial(costs.measure, files, make_site, key))
            ]
            print("\n" + table(measured), flush=True)
        for fault in faults.FAULTS if arguments.only != "costs" else ():
            for ending in attempted("faults", fault.name, partial(faults.measure, fault, make_site, engine)):
                print(f"{ending.fault:45} {ending.tool:14} {ending.words}", flush=True)
    finally:
        engine.stop()
    return failed


def _part(row: Mapping[str, Any]) -> str:
    """What a figure or a fault's ending was measured with."""
    return str(row["fault"]) if "fault" in row else f"{row['point']['x']} files"


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
