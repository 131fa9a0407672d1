"""Which keys go along, and where their values come from."""

from __future__ import annotations

import pytest

from reconciler.core.contract import Differs, Notes
from reconciler.core.promotion.key_plan import (
    FileKeys,
    FilePair,
    KeyPlan,
    ValueFrom,
    is_secret,
    names_one_of,
    plan_keys,
)

COPIED, GENERATED, ASKED = ValueFrom.COPIED, ValueFrom.GENERATED, ValueFrom.ASKED


def plan(
    left: dict[str, str],
    right: dict[str, str] | None = None,
    *requested: str,
    notes: dict[str, Notes] | None = None,
    generated: str = "",
    copy_secrets: bool = False,
    linked: str = "",
) -> KeyPlan:
    here = FileKeys("staging/a.env", left, frozenset(linked.split()), {})
    there = FileKeys("production/a.env", right or {}, notes=notes or {})
    pair = FilePair(here, there, {"EXPECTED": "on purpose"}.get, {"LEFT": True}.get)  # type: ignore[arg-type]
    return plan_keys(
        [pair],
        requested,
        generated=lambda key: key in generated.split(),
        copy_secrets=copy_secrets,
        left_names=("staging", "web-1"),
    )


def sources(planned: KeyPlan) -> dict[str, ValueFrom]:
    return {key.key: key.value_from for key in planned.keys}


def test_only_what_is_missing_goes_along_in_the_order_of_the_file() -> None:
    planned = plan({"B": "1", "A": "2", "C": "3"}, {"A": "4"})
    assert [key.key for key in planned.keys] == ["B", "C"]


def test_a_named_key_replaces_another_value() -> None:
    (key,) = plan({"A": "2"}, {"A": "4"}, "A").keys
    assert not key.new
    (left_out,) = plan({"A": "2"}, {"A": "2"}, "A").left_out
    assert left_out.reason == "has that value already"


def test_secrets_have_values_of_their_own_unless_copying_is_said() -> None:
    secrets = {"API_TOKEN": "abc", "DATABASE_URL": "postgresql://db/app", "PLAIN": "amqp://u:pw@mq"}
    assert sources(plan(secrets, generated="API_TOKEN")) == {
        "API_TOKEN": GENERATED,
        "DATABASE_URL": ASKED,
        "PLAIN": ASKED,
    }
    assert set(sources(plan(secrets, copy_secrets=True)).values()) == {COPIED}


def test_the_contract_decides_what_must_and_must_not_differ() -> None:
    rules = {"A": Notes(secret=True), "URL": Notes(differs=Differs.MUST), "ROOT_TOKEN": Notes(differs=Differs.NEVER)}
    values = {"A": "1", "URL": "https://x", "ROOT_TOKEN": "t"}
    assert sources(plan(values, notes=rules)) == {"A": ASKED, "URL": ASKED, "ROOT_TOKEN": COPIED}
    # Not even with --copy-secrets: check would refuse it.
    assert sources(plan(values, notes=rules, copy_secrets=True))["URL"] is ASKED


def test_what_stays_out_says_why() -> None:
    values = {"LEFT": "1", "LINKED": "${HOST}", "EXPECTED": "1"}
    reasons = {key.key: key.reason for key in plan(values, linked="LINKED").left_out}
    assert reasons["LEFT"] == "left to the server (ignore_keys)"
    assert reasons["LINKED"].startswith("its value refers to other variables")
    assert reasons["EXPECTED"] == "expected to differ: on purpose"
    assert sources(plan(values, None, "EXPECTED")) == {"EXPECTED": COPIED}  # who names it knows


@pytest.mark.parametrize(
    ("key", "value", "secret"),
    [
        ("SESSION_SECRET", "", False),
        ("TLS_KEY", "/etc/ssl/key.pem", False),
        ("TOKEN", "${OTHER}", False),
        ("CALLBACK", "https://user:pass@example.org/", True),
        ("CALLBACK", "https://example.org/a:b@c", False),
    ],
)
def test_what_counts_as_a_secret(key: str, value: str, secret: bool) -> None:
    assert is_secret(key, value, Notes()) is secret


def test_a_value_that_still_names_the_other_side() -> None:
    assert names_one_of("https://api.Staging.example.org", ("staging",))
    assert not names_one_of("forestaging", ("staging",))
    (key,) = plan({"HOST": "web-1.example.org"}).keys
    assert key.names_left
