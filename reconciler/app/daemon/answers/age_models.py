"""The shape of what `age` answers, for `reconciler schema`; see answer_models.py."""

from __future__ import annotations

from pydantic import BaseModel

from reconciler.app.daemon.answers.models import Instant, JsonAnswer, RevisionData


class KeyAgeData(BaseModel):
    """``key`` is "" where the file is one secret."""

    key: str
    empty: bool
    last_rotated: Instant | None
    too_old: bool


class TargetAgeData(BaseModel):
    target: str
    last_rotated: Instant | None
    keys: list[KeyAgeData]


class EnvironmentAgeData(BaseModel):
    environment: str
    revision: RevisionData
    targets: list[TargetAgeData]


class KnownValueData(BaseModel):
    """``key`` is "" where the file is one secret; ``secret`` is whether its name or its contract says so."""

    file: str
    key: str
    since: Instant | None
    secret: bool


class KnownSecretsData(BaseModel):
    """The values that somebody knows and that were not replaced since; ``key`` is their public key."""

    name: str
    key: str
    values: list[KnownValueData]


class AgeAnswer(JsonAnswer):
    """`age`; with --known-to, ``known`` alone."""

    environments: list[EnvironmentAgeData]
    known: KnownSecretsData | None = None
