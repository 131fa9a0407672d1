"""Secrets and risks by the names of keys, against names that real projects document (tests/data/key-names.csv)."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from reconciler.core.compare.risk import Risk, must_differ, risk_of
from reconciler.core.secrets.names import names_a_secret
from tests.support.cases import each

Row = dict[str, str]
with (Path(__file__).parents[1] / "data/key-names.csv").open() as file:
    ROWS: list[Row] = list(csv.DictReader(file))


def wrong(judged: Callable[[str], bool], labelled: Callable[[Row], bool]) -> tuple[float, float, list[str]]:
    """Precision, recall, and the names that are judged otherwise than labelled."""
    positive = {row["name"] for row in ROWS if judged(row["name"])}
    labels = {row["name"] for row in ROWS if labelled(row)}
    both = len(positive & labels)
    return both / len(positive), both / len(labels), sorted(positive ^ labels)


def test_the_list_is_large_and_names_nothing_twice() -> None:
    assert len({row["name"] for row in ROWS}) == len(ROWS) >= 300
    assert {row["holds"] for row in ROWS} == {"secret", "address", "none"}
    assert {row["risk"] for row in ROWS} == set(Risk)
    assert all(row["risk"] == Risk.HIGH for row in ROWS if row["holds"] != "none")


def test_secrets_are_known_by_their_names() -> None:
    precision, recall, names = wrong(names_a_secret, lambda row: row["holds"] == "secret")
    assert precision >= 0.98, names
    assert recall >= 0.97, names


def test_what_environments_must_not_share_is_known_by_its_name() -> None:
    precision, recall, names = wrong(must_differ, lambda row: row["holds"] != "none")
    assert precision >= 0.98, names
    assert recall >= 0.97, names


@pytest.mark.parametrize(
    ("risk", "precision", "recall"), [(Risk.HIGH, 0.95, 0.98), (Risk.MEDIUM, 0.97, 0.82), (Risk.LOW, 0.89, 0.9)]
)
def test_risks_are_known_by_names(risk: Risk, precision: float, recall: float) -> None:
    measured, remembered, names = wrong(lambda name: risk_of(name) is risk, lambda row: row["risk"] == risk)
    assert measured >= precision, names
    assert remembered >= recall, names


@pytest.mark.parametrize(
    "name",
    [
        *("ConnectionString", "AZURE_STORAGE_CONNECTION_STRING", "DB_CONN_STRING", "SLACK_WEBHOOK_URL", "wpa_psk"),
        *("TEAMS_WEBHOOK", "apiKey2", "STORAGE_PRIMARY_KEY"),
    ],
)
def test_these_name_a_secret(name: str) -> None:
    assert names_a_secret(name)


@each(
    "name",
    [
        *("SORT_KEY", "partitionKey", "ALLOW_EMPTY_PASSWORD", "CORS_CREDENTIALS", "GIT_ASKPASS", "NOPASSWD"),
        *("WEBHOOK_URL", "N8N_WEBHOOK_URL", "STRING", "KEY_STRING", ""),
    ],
)
def test_these_name_no_secret(name: str) -> None:
    assert not names_a_secret(name)
