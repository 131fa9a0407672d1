"""Limits the time that hostile input can take: a regular expression from a file, a YAML bomb."""

from __future__ import annotations

import contextlib
import re
import signal
import threading
import warnings
from collections.abc import Iterator
from types import FrameType

_LIMIT = 3.0  # seconds of CPU time, so that other load does not matter
_LONGEST = 1000  # characters of a pattern
_POSIX = {
    "alnum": "0-9A-Za-z",
    "alpha": "A-Za-z",
    "blank": "\\t ",
    "digit": "0-9",
    "lower": "a-z",
    "punct": r"!-/:-@\[-`{-~",
    "space": r"\t\n\v\f\r ",
    "upper": "A-Z",
    "word": "0-9A-Za-z_",
    "xdigit": "0-9A-Fa-f",
}


class TooSlowError(ValueError):
    """The input took unreasonably long."""


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Raise TooSlowError inside the block after some seconds. Only works in the main thread; others have no limit."""
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


def _as_python(pattern: str) -> str:
    """Translate a Go pattern, as sops uses, to Python: classes such as ``[[:alnum:]]``, and ``\\z``."""
    for name, members in _POSIX.items():
        pattern = pattern.replace(f"[:{name}:]", members)
    return re.sub(r"(?<!\\)((?:\\\\)*)\\z", r"\1\\Z", pattern)


def matches(pattern: str, text: str) -> bool:
    """Whether the pattern matches anywhere in the text. Raises ValueError for an unusable one."""
    if len(pattern) > _LONGEST:
        raise ValueError(f"is longer than {_LONGEST} characters")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # about "[[", a set that contains a bracket in Go and Python
            return re.search(_as_python(pattern), text) is not None
    except (re.error, RecursionError, OverflowError):
        raise ValueError("is not a supported regular expression") from None
