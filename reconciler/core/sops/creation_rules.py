"""For whom sops encrypts a file: the creation rules of .sops.yaml, for age and pgp.

sops 3.11 uses the .sops.yaml of its working directory or the nearest above, and the first rule whose ``path_regex``
matches somewhere in the path relative to that file. Here the nearest one above the encrypted file governs it, which is
the same when sops runs at the top of the repository or beside the file.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reconciler.core.sops.bech32 import decode_bech32

NAME = ".sops.yaml"
_PARTIAL = (
    "unencrypted_suffix",
    "encrypted_suffix",
    "unencrypted_regex",
    "encrypted_regex",
    "unencrypted_comment_regex",
    "encrypted_comment_regex",
)

Matcher = Callable[[str, str], bool]
"""Given a pattern and a text, return whether it matches somewhere; raises ValueError for an invalid pattern."""


class CreationRulesError(ValueError):
    """.sops.yaml has a structure that sops does not accept; the message says where."""


@dataclass(frozen=True, slots=True)
class CreationRule:
    """``recipients`` are public age keys and pgp fingerprints (upper case); ``others`` names further kinds of keys;
    ``partial`` is the setting by which values stay plain, "" for none. ``groups``: a key of several
    groups is needed. ``number`` counts from 0."""

    number: int
    path_regex: str
    recipients: frozenset[str]
    others: tuple[str, ...] = ()
    partial: str = ""
    groups: bool = False


def read_rules(data: Any) -> tuple[CreationRule, ...]:
    """Given the content of .sops.yaml, return its rules. Raises CreationRulesError for an invalid structure."""
    if not isinstance(data, dict):
        raise CreationRulesError("is not a mapping")
    rules = data.get("creation_rules")
    if rules is None:
        return ()
    if not isinstance(rules, list):
        raise CreationRulesError("creation_rules is not a list")
    return tuple(_read_rule(number, rule) for number, rule in enumerate(rules))


def _read_rule(number: int, rule: Any) -> CreationRule:
    if not isinstance(rule, dict):
        raise CreationRulesError(f"creation_rules[{number}] is not a mapping")
    regex = rule.get("path_regex") or ""
    if not isinstance(regex, str):
        raise CreationRulesError(f"creation_rules[{number}].path_regex is not a string")
    groups = _groups(rule, number)
    recipients = frozenset(key for group in groups for key in _recipients(group, number))
    others = {kind for group in groups for kind in group if kind not in ("age", "pgp", "merge")}
    partial = next((name for name in _PARTIAL if rule.get(name) and rule.get(name) != "_unencrypted"), "")
    return CreationRule(number, regex, recipients, tuple(sorted(others)), partial, groups=len(groups) > 1)


def _groups(rule: Mapping[str, Any], number: int) -> list[Mapping[str, Any]]:
    """The rule's groups of keys; without key_groups, the rule itself is the only one."""
    groups = rule.get("key_groups")
    if not groups:
        kinds = ("age", "pgp", "kms", "gcp_kms", "hckms", "azure_keyvault", "hc_vault_transit_uri", "plugins")
        return [{kind: rule[kind] for kind in kinds if rule.get(kind)}]
    if not isinstance(groups, list) or not all(isinstance(group, dict) for group in groups):
        raise CreationRulesError(f"creation_rules[{number}].key_groups is not a list of mappings")
    return [member for group in groups for member in _merged(group)]


def _merged(group: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    merge = group.get("merge") or []
    parts = [rule for rule in merge if isinstance(rule, dict)] if isinstance(merge, list) else []
    keys: dict[str, Any] = {}
    for part in (group, *parts):
        for kind, value in part.items():
            if kind != "merge" and value:
                keys.setdefault(kind, [])
                keys[kind] += value if isinstance(value, list) else [value]
    return [keys]


def _recipients(group: Mapping[str, Any], number: int) -> list[str]:
    return [
        *_split(group.get("age"), f"creation_rules[{number}].age"),
        *(key.replace(" ", "").upper() for key in _split(group.get("pgp"), f"creation_rules[{number}].pgp")),
    ]


def mistyped(recipients: Iterable[str]) -> list[str]:
    """Given public keys of a rule, return the age keys that are mistyped by their checksum."""
    keys = (recipient for recipient in recipients if recipient.startswith("age1"))
    return sorted(key for key in keys if decode_bech32(key) is None)


def _split(value: Any, field: str) -> list[str]:
    """Keys are a list, or a string with commas between them."""
    texts = value if isinstance(value, list) else [value or ""]
    if not all(isinstance(text, str) for text in texts):
        raise CreationRulesError(f"{field} is neither a string nor a list of strings")
    return [key.strip() for text in texts for key in text.split(",") if key.strip()]


def governing(path: str, configs: Iterable[str]) -> str | None:
    """Given a file's path and those of the .sops.yaml files, return the one that governs it: the nearest above."""
    known = set(configs)
    directory = posixpath.dirname(path)
    while True:
        candidate = posixpath.join(directory, NAME)
        if candidate in known:
            return candidate
        if not directory:
            break
        directory = posixpath.dirname(directory)
    above = sorted((config for config in known if config.startswith("../")), key=len)
    return above[0] if above else None


def rule_for(path: str, rules: Sequence[CreationRule], matches: Matcher) -> CreationRule | None:
    """Given a path relative to .sops.yaml, return its first matching rule."""
    return next((rule for rule in rules if not rule.path_regex or matches(rule.path_regex, path)), None)
