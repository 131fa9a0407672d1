""".sops.yaml: for whom a new file is encrypted, and a rule more at its end."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import yaml

from reconciler.app.checks.recipients import read_config
from reconciler.app.checks.time_limit import limited, matches
from reconciler.core.errors import RefusedError
from reconciler.core.sops.creation_rules import NAME, CreationRule, governing, rule_for

HEAD = """\
# sops takes the first rule whose path_regex matches a file's path, relative to this one. One rule per environment, so
# that one environment's key cannot read another. Several recipients stand in one text, with commas between them.
# There is no encrypted_regex: every value is encrypted, key names stay readable.
creation_rules:
"""


@dataclass(frozen=True, slots=True)
class Governed:
    """``config`` is the .sops.yaml that governs a file, None where there is none; ``rule`` its rule for the file."""

    config: str | None
    rule: CreationRule | None


def governed(path: str, configs: Mapping[str, bytes]) -> Governed:
    """Given the files called .sops.yaml by their path in the repository, return what governs the file at ``path``.

    Raises RefusedError where it cannot be read.
    """
    config = governing(path, configs)
    if config is None:
        return Governed(None, None)
    try:
        rules = read_config(configs[config])
        with limited():
            relative = posixpath.relpath(path, posixpath.dirname(config) or ".")
            return Governed(config, rule_for(relative, rules, matches))
    except ValueError as error:
        hint = "`reconciler check` tells what is wrong in it"
        raise RefusedError(f"sops would not encrypt by it: {error}", where=config, hint=hint) from None


def rule_text(directory: str, recipients: Sequence[str]) -> str:
    """A rule for everything below the directory, which is relative to .sops.yaml."""
    regex = "^" + "".join(f"\\{one}" if one in "\\.^$|?*+()[]{}" else one for one in directory) + "/"
    return f"  - path_regex: {regex}\n    age: {','.join(recipients)}\n"


def with_rule(data: bytes | None, directory: str, recipients: Sequence[str]) -> bytes | None:
    """Given what .sops.yaml holds (None: there is none), return it with a rule more at its end; None where nothing can
    be added to it without changing what is there."""
    rule = rule_text(directory, recipients)
    if data is None:
        return (HEAD + rule).encode()
    before = _parsed(data)
    rules = before.get("creation_rules") if isinstance(before, dict) else None
    if not isinstance(before, dict) or not isinstance(rules, list):
        return None
    wanted = {**before, "creation_rules": [*rules, *yaml.safe_load(rule)]}
    end = data if data.endswith(b"\n") else data + b"\n"
    indented, flush = rule.encode(), b"".join(line[2:] + b"\n" for line in rule.encode().splitlines())
    return next((new for text in (indented, flush) if _parsed(new := end + text) == wanted), None)


def _parsed(data: bytes) -> object:
    try:
        return yaml.safe_load(data)
    except (yaml.YAMLError, UnicodeDecodeError):
        return None


def missing_rule(where: str, path: str, directory: str) -> RefusedError:
    """No rule tells for whom the file at ``path`` is; ``where`` is the .sops.yaml to add one to."""
    rule = rule_text(directory, ["age1…"]).strip().replace("\n    ", ", ")
    hint = f"Add a rule such as `{rule}` to it and commit that, or give --recipient age1…"
    return RefusedError(f"no rule of {where or NAME} tells for whom {path} is encrypted", hint=hint)
