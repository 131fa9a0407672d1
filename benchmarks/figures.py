"""Figures with their targets, the table of them, and the machine they were taken on."""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import subprocess
import timeit
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from reconciler.adapters.sops.binary import find_sops


@dataclass(frozen=True, slots=True)
class Point:
    """Where a figure lies in a plot: on the curve of this name, at ``x`` files, hosts, keys or commits (``axis``).

    Curves with the same axis and unit share a plot.
    """

    curve: str
    axis: str
    x: float


@dataclass(frozen=True, slots=True)
class Figure:
    """``samples`` in ``unit``. The median must not exceed ``target``; without one the figure is for information.

    A figure without samples was skipped; then ``note`` says why. ``point`` puts it into a plot; ``group`` is filled in
    by run.py.
    """

    name: str
    unit: str
    samples: tuple[float, ...]
    target: float | None = None
    note: str = ""
    point: Point | None = None
    group: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    @property
    def missed(self) -> bool:
        return bool(self.samples) and self.target is not None and self.median > self.target

    def data(self) -> dict[str, Any]:
        """Everything, for --json."""
        if not self.samples:
            return {"name": self.name, "group": self.group, "skipped": self.note}
        summary = {"median": self.median, "min": min(self.samples), "max": max(self.samples)}
        samples = [float(f"{sample:.4g}") for sample in self.samples]
        return {**asdict(self), **summary, "samples": samples, "missed": self.missed}


def skipped(name: str, reason: str) -> Figure:
    return Figure(name, "", (), note=reason)


def table(figures: Sequence[Figure]) -> str:
    """One line a figure: median, minimum, maximum, runs, target and verdict."""
    head = ("figure", "median", "min", "max", "runs", "target", "", "")
    rows = [head, *(_row(figure) for figure in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head) - 1)]
    return "\n".join(_line(row, widths) for row in rows)


def _row(figure: Figure) -> tuple[str, ...]:
    if not figure.samples:
        return (figure.name, "-", "-", "-", "0", "", "skipped", figure.note)
    numbers = [_number(value) for value in (figure.median, min(figure.samples), max(figure.samples))]
    target = "" if figure.target is None else f"≤ {_number(figure.target)}"
    verdict = "" if figure.target is None else "MISSED" if figure.missed else "met"
    name = f"{figure.name} [{figure.unit}]" if figure.unit else figure.name
    return (name, *numbers, str(len(figure.samples)), target, verdict, figure.note)


def _number(value: float) -> str:
    return f"{value:.0f}" if value == int(value) or abs(value) >= 100 else f"{value:.3g}"


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    name, *numbers, target, verdict, note = row
    cells = [name.ljust(widths[0])]
    cells += [cell.rjust(width) for cell, width in zip(numbers, widths[1:], strict=False)]
    cells += [target.rjust(widths[-2]), verdict.ljust(widths[-1]), note]
    return "  ".join(cells).rstrip()


# --- the file ---


class ResultFile:
    """What --json names. It is written after each part of a measurement, so that an interruption loses one part only.

    ``part_of`` gives the name of the part that a row belongs to. With ``keep``, parts that are not measured now stay in
    the file as they are. A ``path`` of None writes nothing.
    """

    def __init__(
        self, path: Path | None, described: Mapping[str, str], part_of: Callable[[Any], str], *, keep: bool
    ) -> None:
        self._path = path
        self._part_of = part_of
        known = json.loads(path.read_text()) if keep and path and path.exists() else {}
        self._data: dict[str, Any] = {**known, "machine": dict(described)}

    def write(self, section: str, part: str, rows: Iterable[Any], failure: str = "") -> None:
        """Put the part's rows into this section, in the place of those that it had. ``failure`` is why the part is not
        whole; "" if it is."""
        if self._path is None:
            return
        before = self._data.get(section, [])
        place = next((number for number, row in enumerate(before) if self._part_of(row) == part), len(before))
        others = [row for row in before if self._part_of(row) != part]
        self._data[section] = [*others[:place], *rows, *others[place:]]
        failed = [text for text in self._data.get("failed", []) if not text.startswith(f"{part} (")]
        self._data["failed"] = [*failed, f"{part} ({failure})"] if failure else failed
        self._path.write_text(json.dumps(self._data, indent=2) + "\n")


# --- the machine ---


def machine() -> dict[str, str]:
    """What the figures depend on besides the code."""
    return {
        "processor": f"{_processor()}, {len(os.sched_getaffinity(0))} cores",
        "speed": _speed(),
        "load": "{:.1f} {:.1f} {:.1f} (1, 5, 15 minutes)".format(*os.getloadavg()),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "git": _version("git", "--version"),
        "sops": _version(find_sops("sops"), "--version", "--disable-version-check"),
        "docker": _version("docker", "version", "--format", "{{.Server.Version}}"),
        "compose": _version("docker", "compose", "version", "--short"),
        "other containers": _version("docker", "info", "--format", "{{.Containers}}"),
    }


def _speed() -> str:
    """What a machine of the same name may take twice as long for on another day."""
    loop = statistics.median(timeit.repeat("x += 1", "x = 0", number=1_000_000, repeat=5)) * 1000
    process = (
        statistics.median(timeit.repeat(lambda: subprocess.run(["true"], check=True), number=20, repeat=5)) * 1000 / 20
    )
    return f"{loop:.0f} ms for a million additions in Python, {process:.1f} ms to run `true`"


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def _version(program: str, *arguments: str) -> str:
    if shutil.which(program) is None:
        return "not installed"
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=20, check=False)
    lines = done.stdout.splitlines()
    return lines[0].strip() if done.returncode == 0 and lines else "does not answer"
