"""A limit on how long hostile text may keep us busy: a regular expression of a configuration file, a YAML bomb."""

from __future__ import annotations

import contextlib
import re
import signal
import threading
import warnings
from collections.abc import Iterator
from types import FrameType

_LIMIT = 3.0  # seconds of CPU, so that a busy machine makes no difference
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


def _as_python(pattern: str) -> str:
    """A pattern of Go, as sops reads it, in the words of Python: classes such as ``[[:alnum:]]``, and ``\\z``."""
    for name, members in _POSIX.items():
        pattern = pattern.replace(f"[:{name}:]", members)
    return re.sub(r"(?<!\\)((?:\\\\)*)\\z", r"\1\\Z", pattern)


def matches(pattern: str, text: str) -> bool:
    """Whether the pattern matches somewhere in the text. Raises ValueError for one that cannot be used."""
    if len(pattern) > _LONGEST:
        raise ValueError(f"is longer than {_LONGEST} characters")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of "[[", a set that holds a bracket there as here
            return re.search(_as_python(pattern), text) is not None
    except (re.error, RecursionError, OverflowError):
        raise ValueError("is no regular expression that is understood here") from None
