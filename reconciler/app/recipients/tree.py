"""The encrypted files of a commit, each with the rule of .sops.yaml that says for whom it is encrypted."""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from reconciler.app.checks.recipients import matching_rule
from reconciler.app.recipients.sops_rules import SopsRules, read_sops_rules
from reconciler.app.wiring import clone
from reconciler.core.errors import NotEncryptedError, RefusedError, SourceError
from reconciler.core.secrets.plaintext import is_prose
from reconciler.core.sops.ciphertext import Ciphertext, read_ciphertext
from reconciler.core.sops.creation_rules import NAME, governing
from reconciler.core.text import listed, printable
from reconciler.core.tree import Tree

RuleId = tuple[str, int]
"""The path of a .sops.yaml, and the number of a rule in it."""


@dataclass(frozen=True, slots=True)
class EncryptedFile:
    """``rule`` is None where none of .sops.yaml covers the file."""

    path: str
    data: bytes = field(repr=False)
    cipher: Ciphertext
    rule: RuleId | None


@dataclass(frozen=True, slots=True)
class EncryptedTree:
    """``configs`` are the .sops.yaml files by path; ``directory`` is that of the environments."""

    head: str
    directory: str
    configs: dict[str, SopsRules]
    files: tuple[EncryptedFile, ...]

    def names(self) -> dict[str, str]:
        """What .sops.yaml calls public keys."""
        return {key: name for config in self.configs.values() for key, name in config.names.items()}

    def recipients(self) -> list[str]:
        """Every public key of a rule, in order."""
        rules = (rule for config in self.configs.values() for rule in config.rules)
        return list(dict.fromkeys(key for rule in rules for key in sorted(rule.recipients)))

    def rules_of(self, environments: Collection[str]) -> set[RuleId]:
        """The rules that the files of the environments follow. Raises RefusedError for an environment without one."""
        rules = set()
        for name in environments:
            below = posixpath.join(self.directory, name, "")
            own = {file.rule for file in self.files if file.rule and file.path.startswith(below)}
            if not own:
                hint = "Such as `--environment production`; its encrypted files need a rule in .sops.yaml"
                raise RefusedError("has no encrypted file with a rule", where=below.rstrip("/"), hint=hint)
            rules |= own
        return rules

    def key_of(self, name: str) -> str | None:
        """The public key that a user means by its name in .sops.yaml, by the key itself or by its beginning. Raises
        RefusedError where several are meant."""
        known = self.names()
        keys = self.recipients()
        for test in (
            lambda key: key == name,
            lambda key: known.get(key, "").casefold() == name.casefold(),
            lambda key: len(name) >= _SHORTEST and key.startswith(name),
        ):
            meant = [key for key in keys if test(key)]
            if len(meant) > 1:
                hint = f"Give the key: {listed(meant)}"
                raise RefusedError("several recipients are called so", where=printable(name), hint=hint)
            if meant:
                return meant[0]
        return None


_SHORTEST = 8  # characters of a key


async def read_encrypted_tree(top: str, head: str, directory: str) -> EncryptedTree:
    """The whole repository at a commit, not only its environments. Raises RefusedError for an encrypted file, or a
    .sops.yaml, that cannot be read."""
    (tree,) = await clone.Clone(top).trees([head], "")
    configs = {path: read_sops_rules(path, data) for path, data in tree.files.items() if _is_config(path)}
    return EncryptedTree(head, directory, configs, tuple(_encrypted_files(tree, configs)))


def _is_config(path: str) -> bool:
    return posixpath.basename(path) == NAME


def _encrypted_files(tree: Tree, configs: dict[str, SopsRules]) -> Iterator[EncryptedFile]:
    parse_yaml = clone.tools(None, lambda done, of: None).parse_yaml
    for path, data in sorted(tree.files.items()):
        if b"ENC[AES256_GCM," not in data or is_prose(posixpath.basename(path)):
            continue
        try:
            cipher = read_ciphertext(path, data, parse_yaml=parse_yaml)
        except NotEncryptedError:
            continue
        except SourceError as error:
            raise RefusedError(error.what, where=error.where or path, hint=error.hint, id=error.id) from None
        yield EncryptedFile(path, data, cipher, _rule_of(path, configs))


def _rule_of(path: str, configs: dict[str, SopsRules]) -> RuleId | None:
    config = governing(path, configs)
    if config is None:
        return None
    try:
        rule = matching_rule(path, config, configs[config].rules)
    except ValueError as error:
        raise RefusedError(f"a path_regex {error}", where=config, hint="Correct it") from None
    return (config, rule.number) if rule else None
