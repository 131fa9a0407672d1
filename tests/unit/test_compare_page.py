"""docs/compare.md and the code say the same."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from reconciler.app.config.expected import read_expected
from reconciler.app.config.probes import ProbeFile
from reconciler.core.compare.risk import RULES, Risk, RiskOverride, must_differ, risk_of
from reconciler.core.compare.types import Allows, Attribute, Remark, Status
from tests.support.cases import each

PAGE = (Path(__file__).parents[2] / "docs" / "compare.md").read_text()


def block(kind: str) -> str:
    (text,) = re.findall(rf"^```yaml {kind}\n(.+?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return str(text)


def test_the_page_has_every_rule_of_risk_in_the_order_of_the_code() -> None:
    lines = PAGE.partition("<!-- table: risks -->\n")[2].partition("\n\n")[0].splitlines()[2:]
    documented = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines]
    assert documented == [
        (str(rule.risk), rule.reason, ", ".join(f"`{word}`" for word in rule.words)) for rule in RULES
    ]


def test_the_page_names_every_class_and_remark() -> None:
    for name in (*Status, *Remark, *Allows, *Attribute):
        assert re.search(rf"\b{name}\b", PAGE), name


def test_the_examples_of_the_page_can_be_used() -> None:
    expected = read_expected(block("expected").encode(), "example.yaml")
    assert (len(expected.differences), len(expected.services), len(expected.risks)) == (3, 1, 1)
    probes = ProbeFile.model_validate(yaml.safe_load(block("probes"))).probes
    assert set(probes) == {"schema", "dependencies", "nginx", "health"}


def test_risks_by_name() -> None:
    high = ("DATABASE_URL", "PGPASSWORD", "OAUTH_CLIENT_ID", "TLS_CERT_FILE", "JWT_ISSUER", "API_KEY", "db.password")
    assert {name: risk_of(name) for name in high} == dict.fromkeys(high, Risk.HIGH)
    medium = ("PUBLIC_URL", "SMTP_FROM", "DEBUG", "CORS_ORIGINS", "FEATURE_SEARCH")
    assert {name: risk_of(name) for name in medium} == dict.fromkeys(medium, Risk.MEDIUM)
    assert {risk_of(name) for name in ("LOG_LEVEL", "WORKERS", "CARDBOARD", "HOSTILE")} == {Risk.LOW}


def test_a_contract_makes_a_key_high_and_an_override_sets_any_risk() -> None:
    assert risk_of("COLOUR", secret=True) is Risk.HIGH
    overrides = (RiskOverride(("DATABASE_*",), Risk.LOW),)
    assert risk_of("DATABASE_URL", secret=True, overrides=overrides) is Risk.LOW


def test_secrets_and_database_addresses_must_differ_between_environments() -> None:
    assert all(map(must_differ, ("SESSION_SECRET", "API_TOKEN", "DATABASE_URL", "REDIS_URI")))
    assert not any(map(must_differ, ("DB_PORT", "DATABASE_NAME", "PUBLIC_URL", "OAUTH_CLIENT_ID", "REDIS_HOST")))


@each(
    "name",
    [
        *("DB_PASS", "SMTP_PASS", "MYSQL_PASS", "AUTH_PASS", "PGPASSWORD", "GITHUB_PAT", "dbPassword", "clientSecret"),
        *("dbPass", "requirepass", "masterauth", "bindpw", "smtp_pass", "apiKey2", "PRIVATE_KEY_BASE64", "TOKEN_OLD"),
        *("ADMIN_PASSWORD_HASH", "S3_ACCESS_KEY_SECONDARY", "_authToken"),
    ],
)
def test_a_secret_by_its_name_must_differ_and_is_high(name: str) -> None:
    assert must_differ(name)
    assert risk_of(name) is Risk.HIGH


@each(
    "name",
    [
        *("TOKEN_URL", "DB_PASS_FILE", "PASSWORD_FILE", "KEY_PATH", "TOKEN_TTL", "CACHE_KEY_PREFIX", "PUBLIC_KEY"),
        *("BYPASS", "COMPASS", "PWD", "OLDPWD", "MAX_TOKENS", "MONKEY", "COMPAT", "GIT_HASH", "stripePublishableKey"),
    ],
)
def test_names_that_only_sound_like_secrets_need_not_differ(name: str) -> None:
    assert not must_differ(name)


def test_every_word_of_the_rule_of_passwords_names_a_secret() -> None:
    (rule,) = (rule for rule in RULES if rule.reason == "a password or API key")
    assert all(must_differ(f"SHOP_{word.rstrip('*')}") for word in rule.words)
