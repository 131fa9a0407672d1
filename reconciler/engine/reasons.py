"""Why something of a plan stays as it is, in sentences."""

from __future__ import annotations

from reconciler.core.model.plans import Plan
from reconciler.core.text import listed


def orphans_reason(plan: Plan) -> str:
    """Which live files stay although their targets left git; "" where none does."""
    names = [change.target.id for change in plan.orphans]
    return f"; {listed(names)} left git, and the live file stays: `reconciler forget` ends that" if names else ""


def held_reason(plan: Plan) -> str:
    """What waits for an operator, and why."""
    stacks = dict(plan.held_stacks)
    left = [change for change in (*plan.held, *plan.reported) if change.target.stack not in stacks]
    waiting = [f"{change.target.source}: {change.reason}" for change in left]
    waiting += [f"{drift.stack}/{drift.service}: {drift.reason}" for drift in plan.waiting_drifts]
    sentences = [f"{plan.environment}/{name} is held: {reason}" for name, reason in stacks.items()]
    if waiting:
        sentences.append(f"{len(waiting)} waiting for an operator: {'; '.join(waiting)}")
    return "\n".join(sentences)
