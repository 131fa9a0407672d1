"""Writes answers, as JSON or as lines, and progress on a terminal."""

from __future__ import annotations

import contextlib
import json
import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TextIO

from reconciler.cli.layout import Page, foreign, page_on
from reconciler.core.model.answers import versioned

if TYPE_CHECKING:
    from rich.console import Console

_SHOW_PROGRESS_AFTER = 1.0  # seconds
_COUNT = re.compile(r"\((\d+) of (\d+)\)$")


def answer(
    data: Any,
    report: Callable[[Any, Page], Iterable[str]],
    *,
    as_json: bool,
    verbose: bool = False,
    list_name: str = "",
) -> None:
    """Print the data as JSON (a list as the field ``list_name``), or else the lines that ``report`` makes of it."""
    if as_json:
        write_json(versioned(data, list_name))
        return
    write_lines(report(foreign(data), page_on(sys.stdout, verbose=verbose)))


def write_lines(lines: Iterable[str]) -> None:
    for line in lines:
        sys.stdout.write(f"{line}\n")


def write_json(data: Any, *, one_line: bool = False) -> None:
    json.dump(data, sys.stdout, indent=None if one_line else 2)
    sys.stdout.write("\n")


@contextlib.contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """Yields a function that takes what is being done; shown after the first second, on a terminal only. What ends with
    "(3 of 20)" is shown as a bar."""
    console = _terminal(sys.stdout)
    if console is None:
        yield lambda _: None
        return
    from rich.progress import Progress, SpinnerColumn, Task, TextColumn, TimeElapsedColumn
    from rich.progress_bar import ProgressBar
    from rich.text import Text

    class Counted(TextColumn):
        def render(self, task: Task) -> Any:
            return ProgressBar(task.total, task.completed, width=40) if task.total else Text()

    columns = (TextColumn("{task.description}", markup=False), Counted(""), TimeElapsedColumn())
    line = Progress(SpinnerColumn(), *columns, console=console, transient=True)
    task = line.add_task("starting", total=None)

    def report(text: str) -> None:
        count = _COUNT.search(text)
        done, of = (int(count[1]), int(count[2])) if count else (0, None)
        line.update(task, description=text, completed=done, total=of)

    # A timer: what takes long is often a single step, which reports nothing more.
    timer = threading.Timer(_SHOW_PROGRESS_AFTER, line.start)
    timer.start()
    try:
        yield report
    finally:
        timer.cancel()
        timer.join()
        line.stop()


@contextlib.contextmanager
def counted(activity: str) -> Iterator[Callable[[int, int], None]]:
    """Yields a function that takes how many are done, of how many; shown as a bar, on a terminal only."""
    # On standard error: the report goes to standard output, which may be a file.
    target = _terminal(sys.stderr)
    if target is None:
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
    target = _terminal(sys.stderr)
    if target is None:
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


def _terminal(stream: TextIO) -> Console | None:
    """The terminal that the stream is; None for a file, a pipe or a terminal that shows no progress."""
    if not stream.isatty():  # FORCE_COLOR makes any console a terminal
        return None
    from rich.console import Console

    console = Console(file=stream, highlight=False)
    return console if console.is_interactive else None


def can_ask() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()
