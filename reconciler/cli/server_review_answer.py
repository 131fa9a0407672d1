"""The shape of the JSON answer of `review`, for `reconciler schema`. Nothing is built from these models."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from reconciler.app.daemon.answers.age_models import EnvironmentAgeData
from reconciler.app.daemon.answers.models import (
    ComparedPairData,
    DaemonData,
    EnvironmentData,
    Instant,
    JsonAnswer,
    KeysData,
)
from reconciler.cli.clone_answer_models import CheckReportData


class AttentionItemData(BaseModel):
    name: str
    text: str
    keys: KeysData | None


class AttentionData(BaseModel):
    """What needs an operator. ``kind``: bad is broken, mid waits or differs, info was caused by an operator; ``word``
    is the state, ``next`` are the next steps."""

    kind: Literal["bad", "mid", "info"]
    word: str
    where: str
    reason: str
    next: list[str]
    since: Instant | None
    items: list[AttentionItemData]


class FailedPartData(BaseModel):
    """A part of the review that could not be looked at."""

    part: Literal["status", "comparisons", "age", "check"]
    error: str


class ReviewAnswer(JsonAnswer):
    """`review`. ``attention`` has the worst first; ``check`` is null if it could not be looked at."""

    host: str
    at: Instant
    summary: str
    attention: list[AttentionData]
    failures: list[FailedPartData]
    daemon: DaemonData | None
    environments: list[EnvironmentData]
    comparisons: list[ComparedPairData]
    check: CheckReportData | None
    max_age: str
    ages: list[EnvironmentAgeData]
