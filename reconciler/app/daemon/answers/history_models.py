"""The shape of the JSON answers of `history verify` and `report`."""

from __future__ import annotations

from pydantic import BaseModel

from reconciler.app.daemon.answers.models import HistoryHeadData, Instant, JsonAnswer
from reconciler.core.model.runs import Result


class HistoryVerifyAnswer(JsonAnswer):
    """`history verify`. ``head`` is that of what holds; ``bad_entry`` the number of the first entry that does not."""

    whole: bool
    entries: int
    head: HistoryHeadData
    problem: str
    bad_entry: int | None
    error_id: str


class ReportedRunData(BaseModel):
    """A change or a decision; ``at`` is when it ended, ``edited_by`` who had edited its live files by hand."""

    run: str
    environment: str
    at: Instant
    result: Result
    commit: str
    author: str
    subject: str
    targets: list[str]
    services: list[str]
    requested_by: str
    edited_by: list[str]
    reason: str
    error_id: str


class ReportedRecoveryData(BaseModel):
    environment: str
    at: Instant
    seconds: float


class OverdueData(BaseModel):
    """What waits for an operator now."""

    kind: str
    where: str
    since: Instant | None
    reason: str


class ReportAnswer(JsonAnswer):
    """`report`: of the changes from ``since`` to ``until``, the share that succeeded; null without a change."""

    host: str
    since: Instant
    until: Instant
    environments: list[str]
    changed: list[ReportedRunData]
    failed: list[ReportedRunData]
    decided: list[ReportedRunData]
    success_rate: float | None
    recoveries: list[ReportedRecoveryData]
    mean_recovery_seconds: float | None
    worst_recovery_seconds: float | None
    overdue: list[OverdueData]
    warnings: list[str]


HISTORY_ANSWERS: dict[str, type[JsonAnswer]] = {"history-verify": HistoryVerifyAnswer, "report": ReportAnswer}
"""By command."""
