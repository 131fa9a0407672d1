"""Who is whose child on this machine."""

from __future__ import annotations

import os
from pathlib import Path


def children(pid: int | None = None) -> set[int]:
    """The processes that the process (default: this one) has started and not yet waited for, by any of its threads."""
    threads = Path(f"/proc/{os.getpid() if pid is None else pid}/task")
    pids: set[int] = set()
    try:
        for thread in threads.iterdir():
            pids.update(map(int, (thread / "children").read_text().split()))
    except (FileNotFoundError, ProcessLookupError):  # a thread, or all of it, has just ended
        return pids
    return pids
