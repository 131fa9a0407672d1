"""The plots of docs/performance.md, as PNG and SVG: readable on a light and on a dark page."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")  # before pyplot: no display is needed
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from benchmarks.report import SIZES, TOOLS, number

GREY = "#7d8590"
COLOURS = ("#2f81f7", "#d29922", "#db61a2", "#3fb950")
AXES = {"files": "files", "hosts": "hosts over SSH", "keys": "keys of the file", "commits": "commits in git"}
UNITS = {"files": "ms of CPU", "hosts": "ms of CPU", "keys": "ms of CPU", "commits": "ms"}
BARS = {
    "no change: CPU": "Nothing changed: CPU, s",
    "one change: CPU": "One change: CPU, s",
    "one change: healthy": "One change: seconds until healthy",
    "one change: memory": "Peak memory of the largest process, MB",
}
STYLE = {
    "font.size": 10,
    "text.color": GREY,
    "axes.labelcolor": GREY,
    "axes.edgecolor": GREY,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "grid.color": GREY,
    "grid.alpha": 0.25,
    "svg.hashsalt": "reconciler",  # the same picture from the same figures
    "svg.fonttype": "none",
}


def draw(bench: Mapping[str, Any], peers: Mapping[str, Any], directory: Path) -> None:
    """Write growth and peers, each as .png and .svg."""
    with mpl.rc_context(STYLE):
        _save(growth(bench), directory / "growth")
        _save(beside_peers(peers), directory / "peers")


def _save(figure: Figure, path: Path) -> None:
    for suffix, metadata in ((".png", {"Software": None}), (".svg", {"Date": None})):
        figure.savefig(path.with_suffix(suffix), dpi=150, transparent=True, metadata=metadata)
    plt.close(figure)


def growth(bench: Mapping[str, Any]) -> Figure:
    """A panel each for files, hosts, keys and commits; a dotted line grows in proportion."""
    curves: defaultdict[str, defaultdict[str, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for measured in bench["figures"]:
        if measured["group"] in ("growth", "history") and (point := measured.get("point")):
            curve = point["curve"].partition(":")[0]
            curves[point["axis"]][curve].append((point["x"], measured["median"]))
    figure, panels = plt.subplots(2, 2, figsize=(9, 6.6), layout="constrained")
    for panel, (axis, label) in zip(panels.flat, AXES.items(), strict=True):
        for colour, (curve, points) in zip(COLOURS, curves[axis].items(), strict=False):
            _curve(panel, curve, sorted(points), colour)
        panel.set(xscale="log", yscale="log", xlabel=label, ylabel=UNITS[axis], title=f"Cost against {axis}")
        _plain_numbers(panel, sorted({x for points in curves[axis].values() for x, _ in points}))
        panel.grid(visible=True, which="major")
        costs = [cost for points in curves[axis].values() for _, cost in points]
        panel.set_ylim(min(costs) / 2.5, max(costs) * 6)
        panel.plot([], [], ":", color=GREY, label="in proportion")
        panel.legend(loc="upper left", fontsize=9, labelcolor=GREY)
    return figure


def _curve(panel: Axes, name: str, points: list[tuple[float, float]], colour: str) -> None:
    xs, ys = zip(*points, strict=True)
    panel.plot(xs, ys, "o-", color=colour, label=name)
    panel.plot(xs, [ys[-1] * x / xs[-1] for x in xs], ":", color=colour, alpha=0.5)
    panel.annotate(number(ys[-1]), (xs[-1], ys[-1]), (0, 6), textcoords="offset points", ha="center", fontsize=8)
    panel.annotate(number(ys[0]), (xs[0], ys[0]), (0, 6), textcoords="offset points", ha="center", fontsize=8)


def _plain_numbers(panel: Axes, ticks: list[float]) -> None:
    panel.set_xticks(ticks, [f"{tick:,.0f}" for tick in ticks])
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    panel.yaxis.set_minor_formatter(NullFormatter())


def beside_peers(peers: Mapping[str, Any]) -> Figure:
    """Bars of each tool, for each number of files."""
    medians = {
        (figure["group"], figure["point"]["curve"], figure["point"]["x"]): figure["median"]
        for figure in peers["figures"]
    }
    figure, panels = plt.subplots(len(BARS), 1, figsize=(9, 3 * len(BARS)), layout="constrained")
    sizes = [files for files in SIZES if any(x == files for _, _, x in medians)]
    width = 0.8 / len(TOOLS)
    for panel, (group, title) in zip(panels, BARS.items(), strict=True):
        for place, (tool, colour) in enumerate(zip(TOOLS, COLOURS, strict=True)):
            heights = [medians.get((group, tool, files), 0) for files in sizes]
            bars = panel.bar(
                [x + (place - 1.5) * width for x in range(len(sizes))], heights, width * 0.92, color=colour
            )
            bars.set_label(tool)
            labels = [number(height) if height else "" for height in heights]
            panel.bar_label(bars, labels, padding=2, fontsize=8, color=GREY)
        logarithmic = not group.endswith("memory")
        panel.set_yscale("log" if logarithmic else "linear")
        panel.set_xticks(range(len(sizes)), [f"{files} files" for files in sizes])
        panel.set_title(title)
        panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        panel.yaxis.set_minor_formatter(NullFormatter())
        panel.grid(visible=True, axis="y", which="major")
        panel.set_axisbelow(True)
        seen = [median for (measure, tool, _), median in medians.items() if measure == group and tool in TOOLS]
        panel.set_ylim(min(seen) / 5 if logarithmic else 0, max(seen) * (2 if logarithmic else 1.2))
    figure.legend(
        *panels[0].get_legend_handles_labels(),
        ncols=len(TOOLS),
        loc="outside upper center",
        fontsize=9,
        labelcolor=GREY,
    )
    return figure
