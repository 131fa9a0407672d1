"""The daemon's loop around reconcilers of a test's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from reconciler.adapters.clock import SystemClock
from reconciler.app.daemon.loop import Daemon
from reconciler.core.model.requests import GitAnswer
from reconciler.engine.reconcile import Reconciler
from reconciler.engine.rollout import Rollout
from tests.fakes import World

RARELY = 600  # seconds between two polls, and two looks


def make_loop(directory: Path, reconcilers: dict[str, Any], metrics: Any) -> Daemon:
    """A loop in real time over the reconcilers, by environment; git always answers with the same commit."""
    hosts = cast("dict[str, Reconciler]", reconcilers)
    rollouts = [Rollout(World(directory).ports(), [host]) for host in hosts.values()]

    async def ask_git(trigger: str) -> GitAnswer:
        return GitAnswer("a" * 40)

    return Daemon(
        hosts,
        rollouts,
        ask_git=ask_git,
        clock=SystemClock(),
        metrics=metrics,
        poll_interval=RARELY,
        drift_interval=RARELY,
    )
