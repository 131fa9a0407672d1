"""The text that an import writes beside the sources: the manifest, the contracts, the commit message."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reconciler.app.config.manifest import ManifestFile, Outline, StackFields, TargetFields, outlines
from reconciler.app.config.models import validate
from reconciler.app.config.strict_yaml import UnreadableError, read_document
from reconciler.app.onboarding.editor_schemas import modeline
from reconciler.app.onboarding.yaml_edits import flow
from reconciler.app.wiring.clone import Keys, KeySources
from reconciler.core.errors import RefusedError
from reconciler.core.inventory import Use
from reconciler.core.model.targets import Parser
from reconciler.core.onboarding.manifest import contract_name, contract_schema, manifest_fields
from reconciler.core.onboarding.types import Draft, DraftFile, SourceEdit
from reconciler.core.text import listed, printable
from reconciler.core.tree import Tree

_HEAD = f"""{modeline("manifest")}\
# The environment {{environment}}, as imported. docs/configuration.md explains every field; omitted fields have their
# default. To change a value, use `reconciler set` or `reconciler edit` on the files beside this one.
"""
_CONTRACT_HEAD = f"""{modeline("contract")}\
# The contract for the variables of {{source}}, generated from their names. docs/checks.md explains what else it can
# say: `format: uri`, `enum: [debug, info]`, `minLength: 32`; against misspelled names, `additionalProperties: false`.
"""
_USES = {Use.ENV_FILE: "env_file of", Use.INTERPOLATION: "read by Compose itself", Use.MOUNT: "mounted into"}


@dataclass(frozen=True, slots=True)
class Committed:
    """The commit of an import as git has it, the ``tree`` below ``directory`` and in it the environment's ``manifest``,
    and what a server configuration needs to follow it. ``key`` decrypts by ``keys``."""

    top: str
    directory: str
    environment: str
    branch: str
    tree: Tree
    manifest: EarlierManifest
    keys: KeySources
    key: Keys


@dataclass(frozen=True, slots=True)
class ContractFiles:
    """``files`` are new contracts by path, below the directory of environments; ``by_source`` are the paths by
    source."""

    files: Mapping[str, bytes]
    by_source: Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class EarlierManifest:
    """The manifest that git has: the ``targets`` of all stacks and hosts, the ``defaults`` that it gives, and the names
    of the server's ``checks`` that it uses."""

    text: str = ""
    targets: tuple[Outline, ...] = ()
    stacks: Mapping[str, StackFields] = field(default_factory=dict)
    defaults: Mapping[str, object] = field(default_factory=dict)
    checks: frozenset[str] = frozenset()

    @property
    def sources(self) -> tuple[str, ...]:
        return tuple(target.source for target in self.targets)

    @property
    def plain(self) -> frozenset[str]:
        """The live paths of the files that are plain in git."""
        return frozenset(target.path for target in self.targets if not target.encrypted)


def manifest_text(draft: Draft, contracts: Mapping[str, Sequence[str]]) -> bytes:
    """environment.yaml, with a comment after each target that shows what uses it."""
    uses = uses_by_source(draft)
    lines: list[str] = []
    for name, value in manifest_fields(draft, contracts).items():
        if name == "defaults":
            lines.append(f"defaults: {flow(value)}")
        elif name == "targets":
            lines += ["", "targets:", *target_lines(value, uses, "  ")]
        else:
            lines += ["", "stacks:", *stack_lines(value, uses, "  ")]
    return (_HEAD.format(environment=draft.environment) + "\n".join(lines).lstrip("\n") + "\n").encode()


def uses_by_source(draft: Draft) -> dict[str, str]:
    return {file.source: _use(file) for file in draft.files}


def stack_lines(stacks: Any, uses: Mapping[str, str], indent: str) -> Iterable[str]:
    """Entries of ``stacks``; a list has one item a line."""
    for name, fields in stacks.items():
        yield f"{indent}{flow(name)}:"
        for field_name, value in fields.items():
            if field_name == "targets":
                yield f"{indent}  targets:"
                yield from target_lines(value, uses, f"{indent}    ")
            elif isinstance(value, list):
                yield f"{indent}  {field_name}:"
                yield from (f"{indent}    - {flow(item)}" for item in value)
            else:
                yield f"{indent}  {field_name}: {flow(value)}"


def target_lines(targets: Any, uses: Mapping[str, str], indent: str) -> Iterable[str]:
    """Entries of ``targets``, each with what uses it."""
    for source, fields in targets.items():
        written = "" if fields is None else f" {flow(fields)}"
        comment = f"  # {uses[source]}" if uses[source] else ""
        yield f"{indent}{flow(source)}:{written}{comment}"


def _use(file: DraftFile) -> str:
    services = listed([name for name in file.services if name.isprintable()])
    uses = [f"{_USES[use]} {services}".strip() if use is not Use.INTERPOLATION else _USES[use] for use in file.uses]
    return ", ".join(uses)


def contract_files(draft: Draft, existing: Collection[str]) -> ContractFiles:
    """A contract for every new file whose keys are managed. ``existing`` contracts, of other environments or tuned by
    hand, do not change."""
    files: dict[str, bytes] = {}
    by_source: dict[str, Sequence[str]] = {}
    for file in draft.files:
        if file.change is not None or file.parser is Parser.OPAQUE or not file.keys:
            continue
        name = contract_name(file.source)
        path = f"contracts/{name}.yaml"
        if path in existing or path in files:
            path = f"contracts/{name}.{draft.environment}.yaml"
        by_source[file.source] = (path,)
        if path not in existing:
            files[path] = _contract(file)
    return ContractFiles(files, by_source)


def _contract(file: DraftFile) -> bytes:
    content = contract_schema(file)
    properties = content["properties"]
    assert isinstance(properties, dict)
    required = content["required"]
    assert isinstance(required, list)
    lines = [f"$schema: {content['$schema']}", "type: object", "required:" if required else "required: []"]
    lines += [*(f"  - {flow(name)}" for name in required), "properties:"]
    lines += [f"  {flow(name)}: {json.dumps(rule) if not rule else flow(rule)}" for name, rule in properties.items()]
    return (_CONTRACT_HEAD.format(source=file.source) + "\n".join(lines) + "\n").encode()


def read_earlier_manifest(text: bytes, where: str) -> EarlierManifest:
    """Read the environment.yaml at ``where``; empty text stands for none. Raises RefusedError if it is invalid."""
    if not text.strip():
        return EarlierManifest()
    with contextlib.suppress(UnreadableError):
        document = read_document(text, where)
        written, _ = validate(ManifestFile, document)
        if written is not None:
            defaults = document.data.get("defaults") or {}
            checks = frozenset(filter(None, (fields.check for fields in _all_fields(written))))
            return EarlierManifest(text.decode(), tuple(outlines(written)), written.stacks, defaults, checks)
    hint = "Fix what `reconciler check` reports first: --update edits it"
    raise RefusedError("cannot be read", where=where, hint=hint)


def _all_fields(manifest: ManifestFile) -> Iterable[TargetFields]:
    yield manifest.defaults
    for stack in manifest.stacks.values():
        yield from stack.targets.values()
    yield from manifest.targets.values()


def commit_message(draft: Draft, sides: Sequence[str]) -> str:
    """The commit message: paths and names, never a value."""
    lines = [_described(file) for file in draft.files if file.change is None or file.change.edit is not SourceEdit.KEEP]
    lines += [f"{target.source}: removed, {target.path} is gone" for target in draft.removed]
    verb = "Update" if draft.update else "Import"
    head = f"{verb} {draft.environment} from {listed(list(sides))}"
    body = "".join(f"{printable(line)}\n" for line in lines)
    return f"{printable(head)}\n\n{body}\n{import_trailer(draft.environment)}\n"


def import_trailer(environment: str) -> str:
    """The line by which the next update finds the commit."""
    return f"Reconciler-Import: {environment}"


def _described(file: DraftFile) -> str:
    if file.change is None:
        return f"{file.source}: {file.file.path}{f' ({_use(file)})' if _use(file) else ''}"
    keys = file.change.keys
    names = [
        f"{sign}{name}"
        for sign, group in zip("+~-", (keys.added, keys.changed, keys.removed), strict=True)
        for name in group
    ]
    return f"{file.source}: {' '.join(names) or 'changed'}"
