"""The manifest, the contracts and the example after an update: only what must change is edited."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import yaml

from reconciler.app.checks.survey import MANIFEST
from reconciler.app.onboarding.import_files import (
    EarlierManifest,
    read_earlier_manifest,
    stack_lines,
    target_lines,
    uses_by_source,
)
from reconciler.app.onboarding.import_update import target_of
from reconciler.app.onboarding.yaml_edits import KeyPath, YamlEdits
from reconciler.core.errors import RefusedError
from reconciler.core.model.targets import Format
from reconciler.core.onboarding.manifest import manifest_fields
from reconciler.core.onboarding.types import Draft
from reconciler.core.tree import Tree


def updated_manifest(draft: Draft, git: EarlierManifest, contracts: Mapping[str, Sequence[str]], where: str) -> bytes:
    """environment.yaml with the targets that are new, without those that are gone, and otherwise as it was typed.

    ``contracts`` are those of new files by source. Raises RefusedError if it cannot be edited in place.
    """
    edits = YamlEdits(git.text, where)
    for path in _removals(draft, git):
        edits.remove(path)
    for file in draft.files:
        target = target_of(file, git) if file.change is not None else None
        if target is None:
            continue
        path = tuple(map(str, target.field))
        if file.source != target.source:
            edits.rename(path, file.source)
            path = (*path[:-1], file.source)
            fields = edits.value(path)
            if not isinstance(fields, str) and "path" not in (fields or {}):
                edits.set_field(path, "path", target.source, "path")  # it was the source's name
        if target.encrypted is (file.format is Format.PLAIN):
            edits.set_field(path, "encrypted", file.format is not Format.PLAIN, "path")
    _add_new(edits, draft, git, contracts)
    return edits.finish().encode()


def _removals(draft: Draft, git: EarlierManifest) -> list[KeyPath]:
    """The entries that go; a stack goes with its last target."""
    gone = {(target.source, target.path) for target in draft.removed}
    going = [target for target in git.targets if (target.source, target.path) in gone]
    staying = {target.stack for target in git.targets if (target.source, target.path) not in gone}
    staying |= {file.stack for file in draft.files if file.change is None}
    paths: dict[KeyPath, None] = {}
    for target in going:
        if target.stack in staying:
            paths[tuple(map(str, target.field))] = None
        elif target.stack is None:
            paths["targets",] = None
        elif staying.isdisjoint(git.stacks):
            paths["stacks",] = None
        else:
            paths["stacks", target.stack] = None
    return list(paths)


def _add_new(edits: YamlEdits, draft: Draft, git: EarlierManifest, contracts: Mapping[str, Sequence[str]]) -> None:
    files = tuple(file for file in draft.files if file.change is None)
    names = {file.stack for file in files}
    new = replace(draft, files=files, stacks=tuple(stack for stack in draft.stacks if stack.name in names))
    fields: dict[str, Any] = manifest_fields(new, contracts, git.defaults)
    uses = uses_by_source(new)

    def add(path: KeyPath, value: object, lines: Callable[[Any, Mapping[str, str], str], Iterable[str]]) -> None:
        edits.add(path, value, lambda indent: list(lines({path[-1]: value}, uses, " " * indent)))

    for name, stack in fields.get("stacks", {}).items():
        if name not in git.stacks:
            add(("stacks", name), stack, stack_lines)
            continue
        for source, target in stack["targets"].items():
            add(("stacks", name, "targets", source), target, target_lines)
    for source, target in fields.get("targets", {}).items():
        add(("targets", source), target, target_lines)


def updated_contracts(draft: Draft, git: EarlierManifest, tree: Tree) -> dict[str, bytes]:
    """The contracts that no longer require a key which a server has removed, by path. One that another target needs as
    well stays, and `check` says what it asks for."""
    users = _contract_users(tree)
    changed: dict[str, bytes] = {}
    for file in draft.files:
        target = target_of(file, git)
        if file.change is None or target is None:
            continue
        for path in target.contracts:
            data = tree.files.get(path)
            if data is None or users[path] > 1 or not file.change.keys.removed:
                continue
            with contextlib.suppress(yaml.YAMLError, UnicodeDecodeError, RefusedError):
                text = _without_keys(data.decode(), path, file.change.keys.removed)
                changed |= {path: text.encode()} if text.encode() != data else {}
    return changed


def _contract_users(tree: Tree) -> Counter[str]:
    """How many targets name each contract, in all environments."""
    users: Counter[str] = Counter()
    for environment in tree.directories():
        path = f"{environment}/{MANIFEST}"
        with contextlib.suppress(RefusedError):
            manifest = read_earlier_manifest(tree.files.get(path, b""), path)
            users.update(contract for target in manifest.targets for contract in target.contracts)
    return users


def _without_keys(text: str, where: str, names: Sequence[str]) -> str:
    """A contract without the demand for the keys, and without what it says of them if import has written that."""
    edits = YamlEdits(text, where)
    schema = yaml.safe_load(text)
    if not isinstance(schema, dict):
        return text
    required, properties = schema.get("required"), schema.get("properties")
    for name in names:
        if isinstance(required, list) and name in required:
            edits.remove_item(("required",), name)
        if isinstance(properties, dict) and len(properties) > 1 and properties.get(name) in ({}, {"writeOnly": True}):
            edits.remove(("properties", name))
            del properties[name]
    return edits.finish()
