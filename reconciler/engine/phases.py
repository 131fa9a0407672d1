"""Times the parts of a reconciliation and reports what is being done."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from reconciler.core.model.runs import Phase
from reconciler.core.ports import Ports


@contextlib.contextmanager
def phase(ports: Ports, part: Phase, progress: str) -> Iterator[None]:
    """Time a part of the reconciliation, and report ``progress`` to its listeners."""
    ports.progress(progress)
    started = ports.activity.step_at = ports.clock.monotonic()
    try:
        with ports.activity.during(part, progress):
            yield
    finally:
        ports.activity.step_at = ports.clock.monotonic()
        ports.metrics.phase(part, ports.activity.step_at - started)
