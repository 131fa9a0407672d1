"""The text of what an import writes beside the sources: the manifest, the contracts, the commit's message."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import yaml

from reconciler.app.config.manifest import ManifestFile, Outline, outlines
from reconciler.app.config.models import validate
from reconciler.app.config.strict_yaml import UnreadableError, read_document
from reconciler.core.errors import RefusedError
from reconciler.core.inventory import Use
from reconciler.core.model.targets import Parser
from reconciler.core.onboarding import draft
from reconciler.core.onboarding.draft import Draft, Taken
from reconciler.core.text import listed, printable

_HEAD = """\
# What {environment} has, as it was imported. docs/configuration.md explains every field; what is not said here has its
# default. A value is changed with `sops edit`, beside this file.
"""
_CONTRACT_HEAD = """\
# What the variables of {source} must satisfy: a first contract, made from their names. docs/checks.md explains more:
# `format: uri`, `enum: [debug, info]`, `minLength: 32`; against misspelt names, `additionalProperties: false`.
"""
_USES = {Use.ENV_FILE: "env_file of", Use.INTERPOLATION: "read by Compose itself", Use.MOUNT: "mounted into"}


@dataclass(frozen=True, slots=True)
class Committed:
    """A commit of an import: the clone's ``top``, and what a server's file would say to follow it."""

    top: str
    directory: str
    environment: str
    branch: str
    commit: str
    key_file: str


@dataclass(frozen=True, slots=True)
class Contracts:
    """``files`` are new contracts by their path below the directory of environments; ``by_source`` tells whose."""

    files: Mapping[str, bytes]
    by_source: Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class Earlier:
    """What the manifest says that is written anew: the targets of all stacks and hosts."""

    targets: tuple[Outline, ...] = ()

    @property
    def sources(self) -> tuple[str, ...]:
        return tuple(one.source for one in self.targets)

    @property
    def plain(self) -> frozenset[str]:
        """The live paths of the files that are plain in git."""
        return frozenset(one.path for one in self.targets if not one.encrypted)

    def contracts(self, one: Taken) -> tuple[str, ...]:
        """Those of the same source; where there is none any more, of the same live file."""
        same = [other for other in self.targets if other.source == one.source]
        same = same or [other for other in self.targets if other.path == one.file.path]
        return same[0].contracts if same else ()


def manifest(found: Draft, contracts: Mapping[str, Sequence[str]]) -> bytes:
    """environment.yaml, with a comment behind each target that tells what uses it."""
    uses = {one.source: _use(one) for one in found.files}
    lines: list[str] = []
    for name, value in draft.manifest(found, contracts).items():
        if name == "defaults":
            lines.append(f"defaults: {_flow(value)}")
        elif name == "targets":
            lines += ["", "targets:", *_targets(value, uses, "  ")]
        else:
            lines += ["", "stacks:", *_stacks(value, uses)]
    return (_HEAD.format(environment=found.environment) + "\n".join(lines).lstrip("\n") + "\n").encode()


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


def _use(one: Taken) -> str:
    services = listed([name for name in one.services if name.isprintable()])
    said = [f"{_USES[use]} {services}".strip() if use is not Use.INTERPOLATION else _USES[use] for use in one.uses]
    return ", ".join(said)


def _flow(value: object) -> str:
    """YAML in one line."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000, allow_unicode=True)
    return text.removesuffix("...\n").strip()


def contracts(found: Draft, there: Collection[str], earlier: Earlier) -> Contracts:
    """A contract for every file whose keys are managed, unless an ``earlier`` manifest names some.

    One of another environment (``there``) is left as it is.
    """
    files: dict[str, bytes] = {}
    by_source: dict[str, Sequence[str]] = {}
    for one in found.files:
        if one.parser is Parser.OPAQUE or not one.keys:
            continue
        if kept := earlier.contracts(one):
            by_source[one.source] = kept
            continue
        name = draft.contract_name(one.source)
        path = f"contracts/{name}.yaml"
        if path in there or path in files:
            path = f"contracts/{name}.{found.environment}.yaml"
        by_source[one.source] = (path,)
        if path not in there:
            files[path] = _contract(one)
    return Contracts(files, by_source)


def _contract(one: Taken) -> bytes:
    found = draft.contract(one)
    properties = found["properties"]
    assert isinstance(properties, dict)
    lines = [f"$schema: {found['$schema']}", "type: object", f"required: {_flow(found['required'])}", "properties:"]
    lines += [f"  {_flow(name)}: {json.dumps(rule) if not rule else _flow(rule)}" for name, rule in properties.items()]
    return (_CONTRACT_HEAD.format(source=one.source) + "\n".join(lines) + "\n").encode()


def earlier(text: bytes, where: str) -> Earlier:
    """What environment.yaml, which messages call ``where``, says now; "" for none says nothing.

    Raises RefusedError where it cannot be read.
    """
    if not text.strip():
        return Earlier()
    with contextlib.suppress(UnreadableError):
        written, _ = validate(ManifestFile, read_document(text, where))
        if written is not None:
            return Earlier(tuple(outlines(written)))
    hint = "`reconciler check` tells what is wrong in it; mend that first, since --update keeps some of what it says"
    raise RefusedError("cannot be read", where=where, hint=hint)


def message(found: Draft, sides: Sequence[str]) -> str:
    """The commit's message: paths and names, never a value."""
    lines = [f"{one.source}: {one.file.path}{f' ({_use(one)})' if _use(one) else ''}" for one in found.files]
    head = f"Import {found.environment} from {listed(list(sides))}"
    return f"{printable(head)}\n\n" + "\n".join(map(printable, lines)) + "\n"
