"""What the renderers share: the console, tables, JSON, and progress on a terminal."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from reconciler.core.text import printable

_COLOURS = {
    "in_sync": "green",
    "applied": "green",
    "corrected": "green",
    "ok": "green",
    "pending": "cyan",
    "held": "yellow",
    "orphan": "yellow",
    "warning": "yellow",
    "drifted": "yellow",
    "rolling_back": "magenta",
    "rolled_back": "magenta",
    "unfinished": "magenta",
}
_WHOLE = (
    "file",
    "target",
    "stack",
    "service",
    "action",
    "sync",
    "health",
    "effect",
    "since",
    "keys",
    "backup",
    "environment",
)
_SHOW_PROGRESS_AFTER = 1.0  # seconds

console = Console(highlight=False, soft_wrap=False)


def foreign_text(text: str) -> str:
    """Text that may be foreign, such as a path of a server: nothing in it steers rich or the terminal."""
    return escape(printable(text))


def new_table(*columns: str) -> Table:
    """Names and instants stay whole, so that they can be copied; sentences and paths fold."""
    table = Table(box=None, pad_edge=False, header_style="bold dim")
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column in _WHOLE)
    return table


def coloured(word: str) -> str:
    """A state or result in its colour."""
    return f"[{_COLOURS.get(word, 'red')}]{word}[/]"


def print_json(data: Any) -> None:
    json.dump(data, sys.stdout, indent=2)
    sys.stdout.write("\n")


@contextlib.contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """Yields a function that takes what is being done; shown after the first second, on a terminal only."""
    if not (sys.stdout.isatty() and console.is_interactive):  # FORCE_COLOR makes any console a terminal
        yield lambda _: None
        return
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    line = Progress(*columns, console=console, transient=True)
    task = line.add_task("starting")
    # A timer: what takes long is often a single step, which reports nothing more.
    timer = threading.Timer(_SHOW_PROGRESS_AFTER, line.start)
    timer.start()
    try:
        yield lambda text: line.update(task, description=text)
    finally:
        timer.cancel()
        timer.join()
        line.stop()


@contextlib.contextmanager
def counted(activity: str) -> Iterator[Callable[[int, int], None]]:
    """Yields a function that takes how many are done, of how many; shown as a bar, on a terminal only."""
    # On standard error: the report goes to standard output, which may be a file.
    target = Console(stderr=True)
    if not (sys.stderr.isatty() and target.is_interactive):
        yield lambda done, of: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=target, transient=True) as bar:
        task = bar.add_task(activity, total=None, visible=False)
        yield lambda done, of: bar.update(task, completed=done, total=of, visible=True)


@contextlib.contextmanager
def phases() -> Iterator[tuple[Callable[[str, int, int], None], Callable[[], None]]]:
    """Yields a function that takes what is being done, how much of it is done and of how much, shown as bars; and one
    that removes the bars. On a terminal only."""
    target = Console(stderr=True)
    if not (sys.stderr.isatty() and target.is_interactive):
        yield lambda activity, done, of: None, lambda: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    bars = Progress(*columns, console=target, transient=True)
    tasks: dict[str, Any] = {}

    def report(activity: str, done: int, of: int) -> None:
        bars.start()
        tasks[activity] = tasks[activity] if activity in tasks else bars.add_task(activity, total=of)
        bars.update(tasks[activity], completed=done, total=of)

    try:
        yield report, bars.stop
    finally:
        bars.stop()


def can_ask() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()
