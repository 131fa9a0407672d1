"""Checks that each encrypted file has exactly the recipients of .sops.yaml, and that no ciphertext is copied."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import yaml

from reconciler.app.checks.survey import Source, Survey
from reconciler.app.checks.time_limit import limited, matches
from reconciler.core.checks import rules
from reconciler.core.checks.rules import Finding
from reconciler.core.sops.creation_rules import NAME, CreationRule, governing, mistyped, read_rules, rule_for
from reconciler.core.sops.key_mismatch import brief_keys
from reconciler.core.sops.metadata import OTHER_KEYS
from reconciler.core.text import printable

_MAX_BYTES = 64 * 1024
_MAX_DEPTH = 32
_SERVICES = {**OTHER_KEYS, "azure_keyvault": OTHER_KEYS["azure_kv"], "hc_vault_transit_uri": OTHER_KEYS["hc_vault"]}
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class _Config:
    rules: tuple[CreationRule, ...]
    lines: tuple[int, ...]


def check_recipients(survey: Survey) -> Iterator[Finding]:
    """Check the rules of .sops.yaml, and every encrypted file against its rule."""
    files = {path: data for path, data in survey.tree.files.items() if posixpath.basename(path) == NAME}
    configs: dict[str, _Config] = {}
    for path, data in {**files, **survey.tree.above}.items():
        try:
            configs[path] = _read(data)
        except ValueError as error:
            yield Finding(rules.SOPS_CONFIG_INVALID, path, 1, f"{error}: sops cannot use it")
    for path, config in configs.items():
        for rule, line in zip(config.rules, config.lines, strict=True):
            if rule.partial:
                message = f"creation_rules[{rule.number}] leaves values in plain text ({rule.partial}): remove it"
                yield Finding(rules.PARTIAL_ENCRYPTION, path, line, message)
            if wrong := mistyped(rule.recipients):
                keys = printable(brief_keys(wrong))
                message = f"creation_rules[{rule.number}].age: {keys} is not a valid age key (a typo?)"
                yield Finding(rules.SOPS_CONFIG_INVALID, path, line, message)
            if rule.groups:
                message = f"creation_rules[{rule.number}] splits the key among groups, and a server holds a key of one"
                yield Finding(rules.METADATA_KIND, path, line, f"{message}: list the keys without key_groups")
            elif (kinds := _kinds(rule)) and not any(key.startswith(("age1", "ssh-")) for key in rule.recipients):
                message = f"creation_rules[{rule.number}] encrypts for {kinds} only: add the age keys of servers"
                yield Finding(rules.METADATA_KIND, path, line, message)
    for source in survey.sources:
        if source.cipher is not None:
            yield from _about(survey, source, configs)


def _kinds(rule: CreationRule) -> str:
    """The kinds of keys beside age."""
    pgp = any(not key.startswith(("age1", "ssh-")) for key in rule.recipients)
    return ", ".join([*rule.others, *(["pgp"] if pgp else [])])


def read_config(data: bytes) -> tuple[CreationRule, ...]:
    """The rules of a .sops.yaml. Raises ValueError if sops could not use it."""
    return _read(data).rules


def matching_rule(path: str, config: str, rules: Sequence[CreationRule]) -> CreationRule | None:
    """Of the ``rules`` of the .sops.yaml at ``config``, the first for the file at ``path``; both are paths of one
    repository. Raises ValueError for a path_regex that is invalid or takes too long."""
    with limited():
        return rule_for(posixpath.relpath(path, posixpath.dirname(config) or "."), rules, matches)


def _read(data: bytes) -> _Config:
    """Unlike our strict YAML, this allows anchors; hence the limits. Raises ValueError."""
    if len(data) > _MAX_BYTES:
        raise ValueError(f"is larger than {_MAX_BYTES} bytes")
    try:
        with limited():
            _check_depth(data)
            loader = _Loader(data)
            try:
                node = loader.get_single_node()
                parsed = loader.construct_document(node) if node is not None else None
            finally:
                loader.dispose()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise ValueError(f"is not valid YAML{f' (line {mark.line + 1})' if mark else ''}") from None
    except (RecursionError, UnicodeDecodeError):
        raise ValueError("is not readable YAML") from None
    result = read_rules(parsed)
    return _Config(result, tuple(_lines(node, len(result))))


def _check_depth(data: bytes) -> None:
    """Raises ValueError for excessive nesting, since libyaml recurses on the C stack."""
    depth = 0
    for event in yaml.parse(data, Loader=_Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            raise ValueError(f"is nested deeper than {_MAX_DEPTH} levels")


def _lines(node: yaml.Node | None, number: int) -> list[int]:
    """The line of each creation rule."""
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        if getattr(key, "value", None) == "creation_rules" and isinstance(value, yaml.SequenceNode):
            return [item.start_mark.line + 1 for item in value.value]
    return [1] * number


def _about(survey: Survey, source: Source, configs: Mapping[str, _Config]) -> Iterator[Finding]:
    assert source.cipher is not None
    metadata = source.cipher.metadata
    if metadata.rule:
        message = f"was encrypted by a rule that can leave values in plain text ({metadata.rule})"
        yield Finding(rules.PARTIAL_ENCRYPTION, source.path, 1, message)
    config = governing(source.path, configs)
    if config is None:
        return
    # ".." stands for parent directories, whose names only the prefix shows.
    relative = _relative(survey, source.path, config)
    try:
        with limited():
            rule = rule_for(relative, configs[config].rules, matches)
    except ValueError as error:
        message = f"a path_regex of {survey.shown(config)} {error}"
        yield Finding(rules.SOPS_CONFIG_INVALID, config, 1, message)
        return
    if rule is None:
        message = f"no rule of {survey.shown(config)} matches it, which `sops edit` and `sops updatekeys` need"
        yield Finding(rules.NO_CREATION_RULE, source.path, 1, message)
        return
    if not mistyped(rule.recipients):  # otherwise the rule was reported
        yield from _compare(survey.shown(config), source, rule)


def _relative(survey: Survey, path: str, config: str) -> str:
    directory = posixpath.dirname(config)
    if not directory.startswith(".."):
        return posixpath.relpath(path, directory or ".")
    top = posixpath.abspath(survey.prefix)
    return posixpath.relpath(posixpath.join(top, path), posixpath.normpath(posixpath.join(top, directory)))


def _compare(config: str, source: Source, rule: CreationRule) -> Iterator[Finding]:
    assert source.cipher is not None
    metadata = source.cipher.metadata
    # PGP by its fingerprints, services by their kind: which key of a service it is, no server needs to know.
    actual = {*metadata.age, *(fingerprint.upper() for fingerprint in metadata.pgp), *metadata.others} - {"PGP"}
    named = rule.recipients | {_SERVICES.get(kind, kind) for kind in rule.others}
    missing = sorted(named - actual)
    extra = sorted(actual - named)
    problems = [f"is not encrypted for {brief_keys(missing)}"] if missing else []
    problems += [f"is encrypted for {brief_keys(extra)}, which the rule does not name"] if extra else []
    if problems:
        message = (
            f"{', and '.join(problems)} (creation_rules[{rule.number}] of {config}): "
            "run `sops updatekeys`; former recipients can still decrypt its history"
        )
        yield Finding(rules.RECIPIENTS_DIFFER, source.path, 1, message)


# --- copied ciphertexts ---


def check_copies(survey: Survey) -> Iterator[Finding]:
    """Find values copied between keys of a file (sops binds a value to its key), and files copied between
    environments."""
    holders: dict[tuple[str, str], Source] = {}
    shared: dict[tuple[str, str], tuple[Source, Source, int]] = {}
    for source in survey.sources:
        seen: dict[str, str] = {}
        for entry in source.cipher.entries if source.cipher else ():
            if not entry.encrypted or entry.comment:
                continue
            first = seen.setdefault(entry.encrypted, entry.key)
            if first != entry.key:
                message = f"{entry.key} has the ciphertext of {first}: sops binds a value to its key and will refuse it"
                yield Finding(rules.COPIED_CIPHERTEXT, source.path, entry.line or 1, message)
            holder = holders.setdefault((entry.key, entry.encrypted), source)
            if holder.environment != source.environment:
                times = shared.get((holder.path, source.path), (holder, source, 0))[2]
                shared[holder.path, source.path] = (holder, source, times + 1)
    for holder, source, times in shared.values():
        message = f"{times} value(s) have the same ciphertext as in {holder.path}: a copied file with the same secrets"
        yield Finding(rules.SHARED_CIPHERTEXT, source.path, 1, message, (holder.environment,))
