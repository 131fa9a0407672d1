"""What happens while the Docker engine does not answer: live files are measured and restored, services wait for it."""

from __future__ import annotations

from dataclasses import replace

from reconciler.core.decide.suspension import suspended
from reconciler.core.errors import EngineUnavailableError
from reconciler.core.model.plans import Change, Kind, Plan
from reconciler.core.model.records import EnvironmentRecord
from reconciler.core.model.runs import Run
from reconciler.core.text import listed

_WAITS = "it waits for the Docker engine"


def without_engine(change: Change, away: EngineUnavailableError, begun: Run | None) -> Change:
    """The change, held where it needs the engine.

    What was written before may be written again: it passed the guards, and the model, when it was applied, or before
    the unfinished run ``begun`` it. New content of a stack waits, as nothing can tell what its services would need.
    """
    if change.target.stack is None or change.kind is Kind.DRIFT:
        return change
    if begun is not None and change.target.path in {written.path for written in begun.changes}:
        return change
    return suspended(change, f"{_WAITS}: {away.what}", away.id)


def held_for_engine(plan: Plan) -> list[str]:
    """The sources whose new content waits for the engine, not for an operator."""
    return [change.target.source for change in plan.held if _WAITS in change.reason]


def note_written(record: EnvironmentRecord, plan: Plan) -> EnvironmentRecord:
    """The record before the plan is carried out without the engine: which services its writes concern is to be asked
    later."""
    paths = {change.target.path for change in plan.writes if change.target.stack is not None}
    known = tuple(sorted({*record.written_without_engine, *paths}))
    return replace(record, written_without_engine=known)


def idle_reason(record: EnvironmentRecord, plan: Plan) -> str:
    """What there is to say about a plan that writes nothing."""
    if left := waiting(record, plan):
        return f"Waiting for it: {left}"
    return record.degraded or "The live files are as they should be; the services are unknown"


def waiting(record: EnvironmentRecord, plan: Plan) -> str:
    """What waits for the engine, in words; "" if nothing does."""
    sources = {change.target.path: change.target.source for change in plan.changes}
    held = held_for_engine(plan)
    services = sorted({action.service for action in plan.actions})
    restored = [sources[path] for path in record.written_without_engine if path in sources]
    parts = [
        f"new content of {listed(held)}" if held else "",
        f"pending restarts of {listed(services)}" if services else "",
        f"restarts of the services that use {listed(restored)}, if they need any" if restored else "",
    ]
    return "; ".join(filter(None, parts))
