"""Waits for what happens to containers, and for work on services that must not be left half done."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable

from reconciler.adapters import process

_LAST_ORDERS = 60.0  # seconds that an `up` may continue after we are asked to stop


async def finished(work: Coroutine[None, None, process.Completed]) -> process.Completed:
    """Wait for the work to end. When cancelled, let it end first, for a while: half an `up` leaves services down."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        try:
            await asyncio.wait({task}, timeout=_LAST_ORDERS)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        raise


async def together(work: Iterable[Awaitable[None]]) -> None:
    """Do all of it at the same time and wait for all of it; then raise the first error."""
    results = await asyncio.gather(*work, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result


@contextlib.asynccontextmanager
async def noticing(listen: Callable[[Callable[[], None]], Awaitable[None]]) -> AsyncIterator[asyncio.Event]:
    """Inside, the event is set whenever ``listen``, which runs until it is cancelled, calls what it is given."""
    noticed = asyncio.Event()
    listening = asyncio.ensure_future(listen(noticed.set))
    try:
        yield noticed
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)  # what is wrong with the engine, looking at it shows
