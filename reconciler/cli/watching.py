"""`status --watch` and `history --follow`: both end with Ctrl-C only, as an interruption."""

from __future__ import annotations

import contextlib
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NoReturn

from reconciler.cli import record_reports, render, status_reports
from reconciler.cli.layout import Page, counted, foreign, page_on
from reconciler.core.change_words import Data
from reconciler.core.errors import ReconcilerError, with_id
from reconciler.core.model.answers import versioned

_REFRESH = 2.0  # seconds
# Without a daemon each look takes the lock, which an operator's `sync` may want, and asks Compose.
_REFRESH_ALONE = 10.0
_REST = 4.0  # times what a look took: a watch never keeps a server busy
_LOOK_FOR_RUNS = 1.0  # seconds
_MOST_NEW_RUNS = 100  # that can end between two looks
# These change although nothing has happened.
_RESTLESS = ("checked_at", "reconciling")
_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"  # a screen of its own, without the cursor
_HOME, _REST_OF_LINE, _REST_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"


def watch_status(read: Callable[[bool], Data], *, as_json: bool, verbose: bool) -> NoReturn:
    """Show the status until Ctrl-C: on a terminal as a screen that is refreshed, else again whenever it has changed.

    ``read`` takes whether it may look itself where no daemon runs. It may if none ran at first: a watch must not take
    the lock from a daemon that is just being restarted.

    Raises KeyboardInterrupt at its end, and ReconcilerError if the first look fails; later ones are shown.
    """
    status = read(True)
    look = partial(read, not status["daemon"]["running"])
    if as_json or not sys.stdout.isatty():
        _print_changes(status, look, as_json=as_json, verbose=verbose)
    lines: Sequence[str] = ()
    try:
        with _screen():
            while True:
                page = page_on(sys.stdout, verbose=verbose)
                lines = list(status_reports.status_report(foreign(status), page))
                _draw(lines, page)
                status = _read_again(status, look, partial(_draw, lines, page))
    finally:
        render.write_lines(lines)  # what was seen last stays in the terminal


def _read_again(status: Data, read: Callable[[], Data], failed: Callable[[str], None]) -> Data:
    """The status after a rest; ``failed`` takes why it cannot be read, until it can."""
    rest = _REFRESH if status["daemon"]["running"] else _REFRESH_ALONE
    while True:
        time.sleep(rest)
        began = time.monotonic()
        try:
            return read()
        except ReconcilerError as error:
            failed(str(foreign(with_id(str(error), error.id))))
        finally:
            rest = max(rest, _REST * (time.monotonic() - began))


def _print_changes(status: Data, read: Callable[[], Data], *, as_json: bool, verbose: bool) -> NoReturn:
    """A block per change, headed by its instant; as JSON a line per change."""
    printed: Any = None
    while True:
        if (facts := _lasting(status)) != printed:
            if as_json:
                render.write_json(versioned(status), one_line=True)
            else:
                title = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime())
                report = status_reports.status_report(foreign(status), page_on(sys.stdout, verbose=verbose))
                render.write_lines([*([""] if printed else []), title, *report])
            sys.stdout.flush()
            printed = facts
        status = _read_again(status, read, lambda problem: print(problem, file=sys.stderr, flush=True))


def _lasting(status: Data) -> Any:
    """What makes a status another one."""
    return [
        status["daemon"],
        *(
            {name: value for name, value in environment.items() if name not in _RESTLESS}
            for environment in status["environments"]
        ),
    ]


def follow_history(read: Callable[[int], Sequence[Data]], limit: int, *, as_json: bool, verbose: bool) -> NoReturn:
    """Print the last ``limit`` runs, oldest first, then each run when it has ended. ``read`` takes how many runs.

    Raises KeyboardInterrupt at its end.
    """
    known: set[str] = set()
    separated, show = False, limit
    while True:
        ended = [run for run in reversed(read(max(limit, _MOST_NEW_RUNS))) if run["finished_at"]]
        new = [run for run in ended if run["run"] not in known]
        for run in new[-show:]:
            if as_json:
                render.write_json(versioned([run], "runs"), one_line=True)
            else:
                report = record_reports.history_report(foreign([run]), page_on(sys.stdout, verbose=verbose))
                render.write_lines([*([""] if separated else []), *report])
                separated = True
        sys.stdout.flush()
        known |= {run["run"] for run in new}
        show = _MOST_NEW_RUNS
        time.sleep(_LOOK_FOR_RUNS)


@contextlib.contextmanager
def _screen() -> Iterator[None]:
    """While inside, the terminal shows a screen of its own; SIGTERM leaves it too."""

    def end(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    _write(_ENTER)
    try:
        yield
    finally:
        _write(_LEAVE)
        signal.signal(signal.SIGTERM, before)


def _draw(lines: Sequence[str], page: Page, problem: str = "") -> None:
    """Write over what the screen shows, in one piece and without clearing it first, so that nothing flickers."""
    at = time.strftime("%H:%M:%SZ", time.gmtime())
    head = page.text(page.style("red", problem) if problem else page.style("dim", f"{at}, refreshed; Ctrl-C ends"))
    room = shutil.get_terminal_size().lines - len(head) - 1
    visible = list(lines)
    if len(lines) > room:
        visible[max(0, room - 1) :] = [page.style("dim", f"… {counted(len(lines) - room + 1, 'line')} more")]
    _write(_HOME + "".join(f"{line}{_REST_OF_LINE}\r\n" for line in (*head, *visible)) + _REST_OF_SCREEN)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
