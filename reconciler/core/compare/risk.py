"""The risk of a wrong value, judged by the variable's name. docs/compare.md has this table."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase

from reconciler.core.secrets.names import names_a_secret, words_of


class Risk(StrEnum):
    """What a wrong value can do: expose or lose data; break or misdirect the service; change how it runs."""

    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


@dataclass(frozen=True, slots=True)
class RiskRule:
    """``words`` match whole words of a name, between underscores or capitals, in any case."""

    risk: Risk
    words: tuple[str, ...]
    reason: str

    def matches(self, key: str) -> bool:
        pattern = _pattern(self.words)
        return any(pattern.search(text) is not None for text in (key, "_".join(words_of(key))))


@functools.cache
def _pattern(words: tuple[str, ...]) -> re.Pattern[str]:
    ends = (re.escape(word.rstrip("*")) + ("[^_.-]*" if word.endswith("*") else "") for word in words)
    return re.compile(rf"(?:^|[_.-])(?:{'|'.join(ends)})(?:[_.-]|$)", re.IGNORECASE)


RULES: tuple[RiskRule, ...] = (
    RiskRule(
        Risk.HIGH,
        (
            *("DATABASE", "DB", "SQL*", "POSTGRES", "POSTGRESQL", "MYSQL", "MARIADB"),
            *("PG", "PGHOST*", "PGPORT", "PGUSER", "PGDATA*", "PGSSL*", "PGRST", "PGBOUNCER"),
        ),
        "a database",
    ),
    RiskRule(Risk.HIGH, ("MONGO*", "REDIS", "AMQP", "RABBITMQ", "BROKER", "KAFKA", "ELASTIC*", "S3"), "a data store"),
    RiskRule(
        Risk.HIGH,
        ("OAUTH*", "OIDC", "SAML", "SSO", "LDAP", "AUTH", "AUTHORIZATION", "CLIENT_ID", "ACCESS_KEY_ID", "MASTER_KEY"),
        "who may log in",
    ),
    RiskRule(Risk.HIGH, ("TLS", "SSL", "CERT*", "CA", "CIPHERS"), "TLS and certificates"),
    RiskRule(
        Risk.HIGH,
        (
            *("PASSWORD", "PASSWD", "PASS", "PASSPHRASE", "HASH", "SECRET", "TOKEN", "PAT", "CREDENTIAL*"),
            *("APIKEY", "API_KEY"),
        ),
        "a password or API key",
    ),
    RiskRule(
        Risk.HIGH,
        (
            *("SIGN", "SIGNED", "SIGNING", "SIGNATURE", "ENCRYPT*", "JWT", "HMAC", "SALT", "PRIVATE"),
            *("PUBLIC_KEY", "PUBLISHABLE_KEY"),
        ),
        "signing and encryption",
    ),
    RiskRule(Risk.HIGH, ("STRIPE", "PAYPAL", "PAYMENT*", "BILLING"), "payments"),
    RiskRule(
        Risk.MEDIUM,
        ("URL", "URI", "HOST", "HOSTS", "HOSTNAME", "PORT", "ENDPOINT", "ADDRESS", "PROXY", "PROXIES", "PROTOCOL"),
        "addresses",
    ),
    RiskRule(
        Risk.MEDIUM,
        ("DOMAIN", "DOMAINS", "ORIGIN", "ORIGINS", "CORS", "COOKIE*", "ALLOWED", "SIGNUP*", "REGISTRATION*"),
        "who has access",
    ),
    RiskRule(Risk.MEDIUM, ("DEBUG", "ENV", "ENVIRONMENT", "MODE", "PROFILE"), "the mode it runs in"),
    RiskRule(
        Risk.MEDIUM, ("SMTP", "MAIL", "EMAIL", "WEBHOOK*", "BUCKET", "QUEUE", "TOPIC", "REGION"), "other services"
    ),
    RiskRule(
        Risk.MEDIUM,
        ("FEATURE*", "ENABLE*", "DISABLE*", "VERSION", "RELEASE", "IMAGE", "TAG", "MODEL"),
        "features and versions",
    ),
)
"""The first rule that matches counts; a name that none matches is low. Secrets, by name or contract, are always
high."""

_DATA = RULES[:2]
_ADDRESS = re.compile(r"(?:URL|URI|DSN|CONN)$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class RiskOverride:
    """An operator's own rule, which precedes the table: glob patterns of names."""

    keys: tuple[str, ...]
    risk: Risk


def risk_of(key: str, *, secret: bool = False, overrides: Sequence[RiskOverride] = ()) -> Risk:
    """Given a variable's name and whether a contract calls it secret, return its risk."""
    for override in overrides:
        if any(fnmatchcase(key, pattern) for pattern in override.keys):
            return override.risk
    if secret or names_a_secret(key):
        return Risk.HIGH
    rule = _by_table(key)
    return rule.risk if rule else Risk.LOW


@functools.lru_cache(maxsize=4096)  # many hosts have the same keys
def _by_table(key: str) -> RiskRule | None:
    return next((rule for rule in RULES if rule.matches(key)), None)


def must_differ(key: str) -> bool:
    """Whether every environment should have its own value under this name: a secret, or the address of a database,
    which contains its password."""
    if names_a_secret(key):
        return True
    return _by_table(key) in _DATA and _ADDRESS.search(key) is not None
