"""Times the parts of a reconciliation and reports what is being done."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from reconciler.core.model.runs import Phase
from reconciler.core.ports import Ports


@contextlib.contextmanager
def phase(ports: Ports, which: Phase, saying: str) -> Iterator[None]:
    """Time a part of the pass and tell the person who waits what is being done."""
    ports.progress(saying)
    started = ports.clock.monotonic()
    try:
        yield
    finally:
        ports.metrics.phase(which, ports.clock.monotonic() - started)
