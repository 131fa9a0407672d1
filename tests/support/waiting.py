"""Waits for something to become true, up to a deadline. No test sleeps in the hope that a time is long enough.

Where the test's event loop has to go on meanwhile: ``await asyncio.to_thread(eventually, …)``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")

TIMEOUT = 10.0  # seconds
INTERVAL = 0.05  # seconds between two looks at first; later a twentieth of the time that has passed
LONGEST_INTERVAL = 0.25  # seconds
PATIENCE = 4  # how many times as long a wait may take: a busy machine fails no test


def eventually(predicate: Callable[[], Result], timeout: float = TIMEOUT, interval: float = INTERVAL) -> Result:
    """Ask ``predicate`` until it gives something true, and return that.

    An AssertionError inside it counts as "not yet". Raises AssertionError after
    ``timeout`` seconds, counted for a machine with nothing else to do.
    """
    began = time.monotonic()
    while True:
        result, failure = _ask(predicate)
        if result:
            return result
        waited = time.monotonic() - began
        if waited >= PATIENCE * timeout:
            raise AssertionError(f"not within {PATIENCE * timeout:g} s: {failure}")
        time.sleep(max(interval, min(waited / 20, LONGEST_INTERVAL)))


def _ask(predicate: Callable[[], Result]) -> tuple[Result | None, str]:
    try:
        result = predicate()
    except AssertionError as error:
        return None, str(error)
    return result, f"{getattr(predicate, '__qualname__', predicate)} gave {result!r}"


async def until(condition: Callable[[], bool], seconds: float = 60.0) -> bool:
    """Whether the condition becomes true within the time; other tasks go on meanwhile."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.01)
    return True
