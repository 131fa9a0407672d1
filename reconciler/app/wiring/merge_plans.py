"""Builds what plans pull requests before the merge, where the server configuration allows branches for it."""

from __future__ import annotations

import functools
from collections.abc import Mapping

from reconciler.adapters.git.branch_merges import GitBranchMerges
from reconciler.adapters.git.mirror import GitMirror
from reconciler.app.config.server import ServerConfig
from reconciler.app.wiring.forge import ForgeParts
from reconciler.core.ports import Ports
from reconciler.engine.memory import Claims
from reconciler.engine.merge_plans import MergePlans
from reconciler.engine.merge_preview import MergePreview


def merge_plans(
    config: ServerConfig,
    forge: ForgeParts | None,
    mirror: GitMirror,
    ports: Mapping[str, Ports],
    claims: Mapping[str, Claims],
) -> MergePlans | None:
    """None without a forge, or without branches to plan. ``ports`` are by unit, ``claims`` by host."""
    if forge is None or config.forge is None or not config.forge.plan_pull_requests:
        return None
    previews = {
        unit: functools.partial(MergePreview, mine, unit, claims[mine.settings.host]) for unit, mine in ports.items()
    }
    return MergePlans(
        forge.side,
        GitBranchMerges(mirror, config.repository.verify),
        next(iter(ports.values())).store,
        previews,
        patterns=config.forge.plan_pull_requests,
        host=config.host,
        interval=config.repository.poll_interval,
    )
