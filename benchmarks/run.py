"""Measure what docs/performance.md explains: `make bench`, or `python benchmarks/run.py [--only NAME] [--json FILE]`.

Print medians, with minimum and maximum, next to their targets. Exit with 1 if a median misses its target or a group
fails.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
import traceback
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for the package and tests/support

from benchmarks import failures
from benchmarks.figures import Figure, ResultFile, machine, table
from benchmarks.groups import GROUPS, Bench, Group, measure, select_groups
from reconciler.demo import dockerd


def main() -> int:
    arguments = _arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that everything is cleaned up
    with tempfile.TemporaryDirectory(prefix="reconciler-benchmark-") as scratch, ExitStack() as cleanup:
        if any(group.engine for group in arguments.only) and dockerd.obstacle() is None:
            cleanup.enter_context(dockerd.engine(f"{scratch}/dockerd.log"))
        described = machine()
        print("\n".join(f"{name:>10}: {value}" for name, value in described.items()))
        if os.getloadavg()[0] > len(os.sched_getaffinity(0)):
            print("This machine is busy with something else: do not trust the wall times.")
        sys.stdout.flush()
        file = ResultFile(arguments.json, described, lambda row: str(row["group"]), keep=arguments.only != list(GROUPS))
        figures, failed = _measured(arguments.only, Bench(Path(scratch), cleanup, arguments.kills), file)
    return _verdict([figure.name for figure in figures if figure.missed], failed)


def _measured(groups: list[Group], bench: Bench, file: ResultFile) -> tuple[list[Figure], list[str]]:
    """All figures, printed as a table, and which groups failed with what."""
    figures: list[Figure] = []
    failed: list[str] = []
    began = time.monotonic()
    try:
        for group, measured, error in measure(groups, bench):
            mine = [replace(figure, group=group.name) for figure in measured]
            figures += mine
            print(f"{group.name:>12}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
            began = time.monotonic()
            failure = f"{type(error).__name__}: {error}" if error is not None else ""
            if error is not None:
                traceback.print_exception(error)
                failed.append(f"{group.name} ({failure})")
            file.write("figures", group.name, [figure.data() for figure in mine], failure)
    finally:
        print("\n" + table(figures))  # also after an interruption half way
    return figures, failed


def _arguments() -> argparse.Namespace:
    groups = "\n".join(f"  {group.name:12} {group.about}" for group in GROUPS)
    parser = argparse.ArgumentParser(
        description="Measure reconciler on this machine, next to its targets.",
        epilog=f"groups:\n{groups}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only", metavar="NAME[,NAME]", type=_groups, default=list(GROUPS), help="measure these groups only"
    )
    parser.add_argument(
        "--json",
        metavar="FILE",
        type=Path,
        help="also write every sample to this file; with --only, it keeps the others",
    )
    parser.add_argument(
        "--kills", metavar="N", type=int, default=failures.KILLS, help="kills at random instants (default: %(default)s)"
    )
    return parser.parse_args()


def _groups(names: str) -> list[Group]:
    try:
        return select_groups(names)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _verdict(missed: list[str], failed: list[str]) -> int:
    print("\n" + (f"missed: {'; '.join(missed)}" if missed else "no target is missed"))
    if failed:
        print(f"failed: {'; '.join(failed)}")
    return 1 if missed or failed else 0


if __name__ == "__main__":
    sys.exit(main())
