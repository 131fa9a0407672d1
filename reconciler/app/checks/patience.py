"""A limit on how long hostile text may keep us busy: a regular expression of a configuration file, a YAML bomb."""

from __future__ import annotations

import contextlib
import re
import signal
import threading
from collections.abc import Iterator
from types import FrameType

_LIMIT = 3.0  # seconds of CPU, so that a busy machine makes no difference
_LONGEST = 1000  # characters of a pattern


class TooSlowError(ValueError):
    """It took longer than anything reasonable would."""


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Raise TooSlowError inside the block after some seconds. Only the main thread can be interrupted; in another
    thread there is no limit."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def give_up(number: int, frame: FrameType | None) -> None:
        raise TooSlowError("takes too long")

    before = signal.signal(signal.SIGVTALRM, give_up)
    signal.setitimer(signal.ITIMER_VIRTUAL, _LIMIT)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def matches(pattern: str, text: str) -> bool:
    """Whether the pattern matches somewhere in the text. Raises ValueError for one that cannot be used."""
    if len(pattern) > _LONGEST:
        raise ValueError(f"is longer than {_LONGEST} characters")
    try:
        return re.search(pattern, text) is not None
    except (re.error, RecursionError, OverflowError):
        raise ValueError("is no regular expression that is understood here") from None
