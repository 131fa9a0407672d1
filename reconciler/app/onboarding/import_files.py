"""The text that an import writes beside the sources: the manifest, the contracts, the commit message."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import yaml

from reconciler.app.config.manifest import ManifestFile, Outline, outlines
from reconciler.app.config.models import validate
from reconciler.app.config.strict_yaml import UnreadableError, read_document
from reconciler.app.onboarding.editor_schemas import modeline
from reconciler.core.errors import RefusedError
from reconciler.core.inventory import Use
from reconciler.core.model.targets import Parser
from reconciler.core.onboarding.manifest import contract_name, contract_schema, manifest_fields
from reconciler.core.onboarding.types import Draft, DraftFile
from reconciler.core.text import listed, printable

_HEAD = f"""{modeline("manifest")}\
# The environment {{environment}}, as imported. docs/configuration.md explains every field; omitted fields have their
# default. To change a value, use `sops edit` on the files beside this one.
"""
_CONTRACT_HEAD = f"""{modeline("contract")}\
# The contract for the variables of {{source}}, generated from their names. docs/checks.md explains what else it can
# say: `format: uri`, `enum: [debug, info]`, `minLength: 32`; against misspelled names, `additionalProperties: false`.
"""
_USES = {Use.ENV_FILE: "env_file of", Use.INTERPOLATION: "read by Compose itself", Use.MOUNT: "mounted into"}


@dataclass(frozen=True, slots=True)
class Committed:
    """The commit of an import: the clone's ``top``, and what a server configuration needs to follow it."""

    top: str
    directory: str
    environment: str
    branch: str
    commit: str
    key_file: str


@dataclass(frozen=True, slots=True)
class ContractFiles:
    """``files`` are new contracts by path, below the directory of environments; ``by_source`` are the paths by
    source."""

    files: Mapping[str, bytes]
    by_source: Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class EarlierManifest:
    """The manifest that an update replaces: the targets of all stacks and hosts."""

    targets: tuple[Outline, ...] = ()

    @property
    def sources(self) -> tuple[str, ...]:
        return tuple(target.source for target in self.targets)

    @property
    def plain(self) -> frozenset[str]:
        """The live paths of the files that are plain in git."""
        return frozenset(target.path for target in self.targets if not target.encrypted)

    def contracts(self, file: DraftFile) -> tuple[str, ...]:
        """The contracts of the same source; if it is gone, those of the same live file."""
        same = [target for target in self.targets if target.source == file.source]
        same = same or [target for target in self.targets if target.path == file.file.path]
        return same[0].contracts if same else ()


def manifest_text(draft: Draft, contracts: Mapping[str, Sequence[str]]) -> bytes:
    """environment.yaml, with a comment after each target that shows what uses it."""
    uses = {file.source: _use(file) for file in draft.files}
    lines: list[str] = []
    for name, value in manifest_fields(draft, contracts).items():
        if name == "defaults":
            lines.append(f"defaults: {_flow(value)}")
        elif name == "targets":
            lines += ["", "targets:", *_targets(value, uses, "  ")]
        else:
            lines += ["", "stacks:", *_stacks(value, uses)]
    return (_HEAD.format(environment=draft.environment) + "\n".join(lines).lstrip("\n") + "\n").encode()


def _stacks(stacks: object, uses: Mapping[str, str]) -> Iterable[str]:
    assert isinstance(stacks, dict)
    for name, fields in stacks.items():
        yield f"  {_flow(name)}:"
        for field, value in fields.items():
            if field == "targets":
                yield "    targets:"
                yield from _targets(value, uses, "      ")
            else:
                yield f"    {field}: {_flow(value)}"


def _targets(targets: object, uses: Mapping[str, str], indent: str) -> Iterable[str]:
    assert isinstance(targets, dict)
    for source, fields in targets.items():
        written = "" if fields is None else f" {_flow(fields)}"
        comment = f"  # {uses[source]}" if uses[source] else ""
        yield f"{indent}{_flow(source)}:{written}{comment}"


def _use(file: DraftFile) -> str:
    services = listed([name for name in file.services if name.isprintable()])
    uses = [f"{_USES[use]} {services}".strip() if use is not Use.INTERPOLATION else _USES[use] for use in file.uses]
    return ", ".join(uses)


def _flow(value: object) -> str:
    """One line of YAML."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000, allow_unicode=True)
    return text.removesuffix("...\n").strip()


def contract_files(draft: Draft, existing: Collection[str], earlier: EarlierManifest) -> ContractFiles:
    """A contract for every file whose keys are managed, unless the ``earlier`` manifest names some.

    ``existing`` contracts of other environments do not change.
    """
    files: dict[str, bytes] = {}
    by_source: dict[str, Sequence[str]] = {}
    for file in draft.files:
        if file.parser is Parser.OPAQUE or not file.keys:
            continue
        if kept := earlier.contracts(file):
            by_source[file.source] = kept
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
    lines = [f"$schema: {content['$schema']}", "type: object", f"required: {_flow(content['required'])}", "properties:"]
    lines += [f"  {_flow(name)}: {json.dumps(rule) if not rule else _flow(rule)}" for name, rule in properties.items()]
    return (_CONTRACT_HEAD.format(source=file.source) + "\n".join(lines) + "\n").encode()


def read_earlier_manifest(text: bytes, where: str) -> EarlierManifest:
    """Read the environment.yaml at ``where``; empty text stands for none. Raises RefusedError if it is invalid."""
    if not text.strip():
        return EarlierManifest()
    with contextlib.suppress(UnreadableError):
        written, _ = validate(ManifestFile, read_document(text, where))
        if written is not None:
            return EarlierManifest(tuple(outlines(written)))
    hint = "Fix what `reconciler check` reports first: --update keeps some of its settings"
    raise RefusedError("cannot be read", where=where, hint=hint)


def commit_message(draft: Draft, sides: Sequence[str]) -> str:
    """The commit message: paths and names, never a value."""
    lines = [f"{file.source}: {file.file.path}{f' ({_use(file)})' if _use(file) else ''}" for file in draft.files]
    head = f"Import {draft.environment} from {listed(list(sides))}"
    return f"{printable(head)}\n\n" + "\n".join(map(printable, lines)) + "\n"
