"""Writes what docs/performance.md and docs/scaling.md show of the figures: `make bench-report`.

    make bench BENCH_ARGS="--json docs/_static/performance/bench.json"
    make bench-peers BENCH_ARGS="--json docs/_static/performance/peers.json"
    make bench-report

A page marks a table with `<!-- measured: NAME -->` before and `<!-- /measured -->` behind it; a test compares the
tables with the files that they are made from. The plots are made by plots.py.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "docs" / "_static" / "performance"
PAGES = [ROOT / "docs" / "performance.md", ROOT / "docs" / "scaling.md"]
TOOLS = ("reconciler", "cron script", "ansible-pull", "harbormaster")
SIZES = (3, 50, 200)
MEASURES = {
    "no change: CPU": "no change: CPU",
    "no change: CPU, only news": "the same, only where git has news: CPU",
    "one change: CPU": "one change: CPU",
    "one change: started": "one change, until its container runs",
    "one change: healthy": "one change, until it is healthy",
    "one change: memory": "peak memory of the largest process",
    "first run: CPU": "first run: CPU",
}
PUSHED_TO = 500  # servers, each of which polls and fetches
FLAT = 2.0  # times the cost, between the smallest and the largest size
LINEAR = 1.1  # times the cost that would grow in proportion to the size
_BLOCK = re.compile(r"(<!-- measured: (\S+) -->\n).*?(<!-- /measured -->)", re.DOTALL)
Data = Mapping[str, Any]


def read(name: str) -> Any:
    """The data of bench.json or peers.json."""
    return json.loads((DATA / f"{name}.json").read_text())


def refresh(page: str) -> str:
    """The text of a page with its marked tables as the data has them. Raises KeyError for an unknown name."""
    return _BLOCK.sub(lambda match: f"{match[1]}\n{BLOCKS[match[2]]()}\n\n{match[3]}", page)


# --- make bench ---


def machine_of(data: Data) -> str:
    """One sentence about the machine."""
    facts = dict(data["machine"])
    processor, load, speed = facts.pop("processor"), facts.pop("load").partition(" ")[0], facts.pop("speed", "")
    rest = ", ".join(f"{name} {re.sub(r'^(git version|sops) ', '', value)}" for name, value in facts.items())
    return f"Measured on {processor}{speed and f' ({speed})'}, load {load} at the beginning; {rest}."


def figures_table(data: Data) -> str:
    """All figures, in the order in which they were measured."""
    rows = []
    for figure in data["figures"]:
        name = figure["name"].replace("|", "\\|")
        if "skipped" in figure:
            rows.append((name, "–", "", "", "skipped", figure["skipped"]))
            continue
        spread = f"{number(figure['min'])} – {number(figure['max'])}" if len(figure["samples"]) > 1 else ""
        target = "" if figure["target"] is None else f"≤ {number(figure['target'])}"
        median = f"{number(figure['median'])} {figure['unit']}".strip()
        verdict = "" if not target else "**missed**" if figure["missed"] else "met"
        rows.append((name, median, spread, f"{len(figure['samples'])}", f"{target} {verdict}".strip(), figure["note"]))
    return table(("figure", "median", "range", "runs", "target", "note"), rows)


def remote_table(data: Data) -> str:
    """What polls and fetches cost the remote, for each way to reach it, and what a push to many servers does."""
    figures = {figure["name"]: figure for figure in data["figures"] if figure["group"] == "remote"}
    rows = []
    for way in ("git daemon", "HTTP, without TLS", "SSH"):
        names = (f"one poll, {way}, the remote's side: CPU", f"one fetch, {way}, the remote's side: CPU")
        costs = [figures[name]["median"] for name in names if name in figures]
        servers = figures.get(f"servers on one core of the remote, {way}")
        count = "–" if servers is None else number(servers["median"])
        push = f"{number(PUSHED_TO * sum(costs) / 1000)} s" if len(costs) == len(names) else "–"
        rows.append((way, *(_cell(figures.get(name), runs=False) for name in names), count, push))
    head = ("", "one poll", "one fetch of a commit", "servers on one core, at 30 s", f"a push to {PUSHED_TO} servers")
    return table(head, rows)


def growth_table(data: Data) -> str:
    """What each cost grows with, from its smallest to its largest size."""
    curves: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    for figure in data["figures"]:
        if point := figure.get("point"):
            curve = curves.setdefault((point["curve"], point["axis"], figure["unit"]), [])
            curve.append((point["x"], figure["median"]))
    rows = []
    for (name, axis, unit), points in curves.items():
        (small, least), (large, most) = min(points), max(points)
        size, cost = large / small, most / least
        sizes = f"{number(small)} → {number(large)} {axis} (× {number(size)})"
        rows.append((name, sizes, f"{number(least)} → {number(most)} {unit} (× {number(cost)})", _growth(size, cost)))
    return table(("", "size", "cost", "growth"), rows)


def _growth(size: float, cost: float) -> str:
    """In a word, for so many times the size and so many times the cost."""
    if cost <= FLAT:
        return "flat"
    return "at most linear" if cost <= size * LINEAR else "**more than linear**"


# --- make bench-peers ---


def costs_table(data: Data) -> str:
    """What a tool takes, for each measure and number of files."""
    figures = {(f["group"], f["point"]["curve"], f["point"]["x"]): f for f in data["figures"]}
    rows = []
    for measure, title in MEASURES.items():
        group, _, variant = measure.partition(", ")
        for files in SIZES:
            curves = [f"{tool}, {variant}" if variant else tool for tool in TOOLS]
            cells = [_cell(figures.get((group, curve, files))) for curve in curves]
            if any(cell != "–" for cell in cells):
                rows.append((title, f"{files}", *cells))
    return table(("", "files", *TOOLS), rows)


def _cell(figure: Data | None, *, runs: bool = True) -> str:
    if figure is None:
        return "–"
    count = len(figure["samples"])
    return f"{number(figure['median'])} {figure['unit']}" + (f" ({count}×)" if runs and count < 5 else "")


def faults_table(data: Data) -> str:
    """What each fault ends in, for each tool."""
    words = {(ending["fault"], ending["tool"]): ending["words"] for ending in data["faults"]}
    faults = dict.fromkeys(ending["fault"] for ending in data["faults"])
    return table(("fault", *TOOLS), [(fault, *(words.get((fault, tool), "–") for tool in TOOLS)) for fault in faults])


# --- text ---


def number(value: float) -> str:
    """Three digits are enough."""
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 100 else f"{value:.3g}"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table of Markdown."""
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(re.sub(r"\|  (?=\|)", "| ", f"| {' | '.join(line)} |") for line in lines)


BLOCKS: dict[str, Callable[[], str]] = {
    "machine": lambda: machine_of(read("bench")),
    "figures": lambda: figures_table(read("bench")),
    "growth": lambda: growth_table(read("bench")),
    "remote": lambda: remote_table(read("bench")),
    "peers-machine": lambda: machine_of(read("peers")),
    "costs": lambda: costs_table(read("peers")),
    "faults": lambda: faults_table(read("peers")),
}


def main() -> None:
    sys.path.insert(0, str(ROOT))
    from benchmarks import plots  # here, as the tests read this module without matplotlib

    plots.draw(read("bench"), read("peers"), DATA)
    for page in PAGES:
        page.write_text(refresh(page.read_text()))


if __name__ == "__main__":
    main()
