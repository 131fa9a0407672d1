"""Reads the rule of .sops.yaml for a new file, and appends one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import yaml

from reconciler.app.checks.recipients import matching_rule, read_config
from reconciler.core.errors import RefusedError
from reconciler.core.sops.creation_rules import NAME, CreationRule, governing

HEAD = """\
# sops takes the first rule whose path_regex matches a file's path, relative to this one. One rule per environment, so
# that one environment's key cannot read another. Several recipients are one text, separated by commas.
# There is no encrypted_regex: every value is encrypted, key names stay readable.
creation_rules:
"""


@dataclass(frozen=True, slots=True)
class GoverningRule:
    """``config`` is the .sops.yaml that governs a file, None if there is none; ``rule`` is its rule for the file."""

    config: str | None
    rule: CreationRule | None


def governing_rule(path: str, configs: Mapping[str, bytes]) -> GoverningRule:
    """Given the .sops.yaml files by path in the repository, return the one that governs the file at ``path``.

    Raises RefusedError if it cannot be read.
    """
    config = governing(path, configs)
    if config is None:
        return GoverningRule(None, None)
    try:
        rules = read_config(configs[config])
        return GoverningRule(config, matching_rule(path, config, rules))
    except ValueError as error:
        hint = "`reconciler check` shows what is wrong"
        raise RefusedError(f"sops cannot use it: {error}", where=config, hint=hint) from None


def rule_text(directory: str, recipients: Sequence[str]) -> str:
    """A rule for everything below the directory, given relative to .sops.yaml; several recipients are one a line."""
    regex = (
        "^"
        + "".join(f"\\{character}" if character in "\\.^$|?*+()[]{}" else character for character in directory)
        + "/"
    )
    several = len(recipients) > 1
    written = ">-\n      " + ",\n      ".join(recipients) if several else "".join(recipients)
    return f"  - path_regex: {regex}\n    age: {written}\n"


def with_rule(data: bytes | None, directory: str, recipients: Sequence[str]) -> bytes | None:
    """Given the content of .sops.yaml (None: there is none), return it with one more rule at its end; None if the rule
    cannot be appended without changing the rest."""
    rule = rule_text(directory, recipients)
    if data is None:
        return (HEAD + rule).encode()
    before = _parsed(data)
    rules = before.get("creation_rules") if isinstance(before, dict) else None
    if not isinstance(before, dict) or not isinstance(rules, list):
        return None
    desired = {**before, "creation_rules": [*rules, *yaml.safe_load(rule)]}
    end = data if data.endswith(b"\n") else data + b"\n"
    indented, flush = rule.encode(), b"".join(line[2:] + b"\n" for line in rule.encode().splitlines())
    return next((new for text in (indented, flush) if _parsed(new := end + text) == desired), None)


def _parsed(data: bytes) -> object:
    try:
        return yaml.safe_load(data)
    except (yaml.YAMLError, UnicodeDecodeError):
        return None


def missing_rule(where: str, path: str, directory: str) -> RefusedError:
    """The error for a file at ``path`` that no rule covers; ``where`` is the .sops.yaml to add a rule to."""
    rule = rule_text(directory, ["age1…"]).strip().replace("\n    ", ", ")
    hint = f"Add a rule such as `{rule}` and commit it, or give --recipient age1…"
    return RefusedError(f"{where or NAME} has no rule for {path}", hint=hint)
