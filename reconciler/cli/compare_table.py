"""Renders the result of `compare` as tables on a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from reconciler.app.compare.run import ComparisonReport
from reconciler.cli import compare_reports
from reconciler.cli.compare_reports import Row
from reconciler.core.compare.types import Comparison, Status
from reconciler.core.text import printable

_COLOURS = {"high": "red", "medium": "yellow", "low": "dim"}


def print_comparison(report: ComparisonReport, *, everything: bool) -> None:
    """Print the report; with ``everything``, also what is the same on both sides."""
    console = Console(highlight=False, soft_wrap=False)
    for comparison in report.comparisons:
        _comparison(console, comparison, everything=everything, with_key=report.with_key)
    for side, error in report.failures:
        console.print(f"[red]error[/red] {_text(side)} could not be read: {_text(error)}")


def _comparison(console: Console, comparison: Comparison, *, everything: bool, with_key: bool) -> None:
    console.print(f"[bold]{_text(comparison.left.name)}[/bold] and [bold]{_text(comparison.right.name)}[/bold]")
    every = compare_reports.rows(comparison)
    visible = [row for row in every if everything or row.classes != (str(Status.SAME),)]
    variables = [row for row in visible if row.kind in ("key", "file")]
    if variables:
        console.print(_table(("file", "key", "class", "risk", "notes"), variables))
    if services := [row for row in visible if row.kind == "service"]:
        console.print(_table(("service", "fact", "class", "risk", "left | right"), services))
    if probes := [row for row in every if row.kind == "probe"]:
        console.print(_table(("", "probe", "class", "risk", "left | right"), probes))
    for problem in comparison.problems:
        console.print(f"[red]could not be compared[/red] {_text(problem)}")
    for remark in compare_reports.limits(comparison, with_key=with_key):
        console.print(f"[dim]{_text(remark)}[/dim]")
    colour = "red" if comparison.unexplained else "green"
    console.print(f"[{colour}]{_text(compare_reports.summarize_comparison(comparison))}[/{colour}]\n")


def _table(heads: tuple[str, ...], rows: list[Row]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, head in enumerate(heads):
        table.add_column(head, overflow="fold", no_wrap=number == 3)
    for row in rows:
        mark = "red" if row.unexplained else "green" if "expected" in row.classes else "dim"
        cells = (_text(row.file), _text(row.name), f"[{mark}]{row.status}[/{mark}]")
        table.add_row(*cells, f"[{_COLOURS[row.risk]}]{row.risk}[/{_COLOURS[row.risk]}]", _text(row.note))
    return table


def _text(text: str) -> str:
    return escape(printable(text))
