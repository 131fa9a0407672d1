"""The clone that an import commits to, as it is before: what must hold, and what is there already."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reconciler.app.checks.survey import MANIFEST
from reconciler.app.onboarding import import_files
from reconciler.app.onboarding.editor_schemas import DIRECTORY as SCHEMAS
from reconciler.app.onboarding.init import EMPTY_MANIFEST, directory_in_git
from reconciler.app.onboarding.sops_config import governing_rule, missing_rule
from reconciler.app.wiring import clone
from reconciler.core.errors import RefusedError
from reconciler.core.sops.creation_rules import NAME as SOPS_CONFIG
from reconciler.core.sops.creation_rules import mistyped
from reconciler.core.sops.key_mismatch import brief_keys
from reconciler.core.text import listed
from reconciler.core.tree import Tree


@dataclass(frozen=True, slots=True)
class ImportRequest:
    """The arguments of an import. ``key_file`` None stands for the file where sops looks for keys."""

    environment: str
    sides: tuple[str, ...]
    path: str = "envs"
    key_file: str | None = None
    recipients: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    plain: tuple[str, ...] = ()
    update: bool = False
    ssh_key: str | None = None
    known_hosts: str | None = None
    exact: bool = False


@dataclass(frozen=True, slots=True)
class ImportRepository:
    """The clone before the import: ``tree`` is the content of ``directory`` in the commit ``head``, ``earlier`` the
    environment's manifest there; ``configs`` are the .sops.yaml files in and above it, by path. ``key`` decrypts by
    ``keys``, and remembers."""

    git: clone.CloneWriter
    top: str
    head: str | None
    directory: str
    environment: str
    tree: Tree
    earlier: import_files.EarlierManifest
    configs: Mapping[str, bytes]
    recipients: tuple[str, ...]
    keys: clone.KeySources
    key: clone.Keys
    branch: str

    @classmethod
    async def open(cls, request: ImportRequest) -> ImportRepository:
        """Open the clone. Raises RefusedError if an import is impossible, before any machine is contacted."""
        top = clone.work_tree_top(os.getcwd())
        git, reader, directory = clone.CloneWriter(top), clone.Clone(top), directory_in_git(request.path)
        environment = posixpath.join(directory, request.environment)
        head = await git.head()
        branch = await _require_room(git, directory, head, request)
        tree = (await reader.trees([head], directory))[0] if head else Tree({})
        _require_new(tree, environment, request)
        configs = await _sops_configs(reader, head, environment, directory, tree)
        recipients = _recipients(environment, configs, request)
        manifest = tree.files.get(f"{request.environment}/{MANIFEST}", b"")
        earlier = import_files.read_earlier_manifest(manifest, posixpath.join(environment, MANIFEST))
        keys = await _key_sources(request, recipients)
        return cls(
            git=git,
            top=top,
            head=head,
            directory=directory,
            environment=request.environment,
            tree=tree,
            earlier=earlier,
            configs=configs,
            recipients=recipients,
            keys=keys,
            key=clone.RememberingKeys(keys),
            branch=branch,
        )

    def path(self, name: str) -> str:
        return posixpath.join(self.directory, self.environment, name)

    async def committed(self, branch: str, commit: str) -> import_files.Committed:
        """What git has of the environment in a commit of the import."""
        (tree,) = await clone.Clone(self.top).trees([commit], self.directory)
        file = f"{self.environment}/{MANIFEST}"
        return import_files.Committed(
            top=self.top,
            directory=self.directory,
            environment=self.environment,
            branch=branch,
            tree=tree,
            manifest=import_files.read_earlier_manifest(tree.files[file], file),
            keys=self.keys,
            key=self.key,
        )


async def _sops_configs(
    reader: clone.Clone, head: str | None, environment: str, directory: str, tree: Tree
) -> dict[str, bytes]:
    """The .sops.yaml files in the environment and above it; ``tree`` has those in and below ``directory``."""
    inside, configs = f"{directory}/", {}
    for parts in _directories_above(environment):
        path = posixpath.join(*parts, SOPS_CONFIG)
        if path.startswith(inside):
            data = tree.files.get(path.removeprefix(inside))
        else:
            data = await reader.read(head, path) if head else None
        if data is not None:
            configs[path] = data
    return configs


def _directories_above(environment: str) -> list[tuple[str, ...]]:
    parts = tuple(environment.split("/"))
    return [parts[:number] for number in range(len(parts) + 1)]


async def _require_room(git: clone.CloneWriter, directory: str, head: str | None, request: ImportRequest) -> str:
    """The branch for the import. Uncommitted work must neither get lost nor be left out. Raises RefusedError."""
    branch, number = f"reconciler/import-{request.environment}", 1
    while await git.has_branch(branch) and not await git.is_replaceable(branch, head):
        if not request.update:
            hint = f"Merge it, or delete it with `git branch -D {branch}`"
            raise RefusedError(f"the branch {branch} of an earlier import exists", hint=hint)
        number += 1
        branch = f"reconciler/import-{request.environment}-{number}"
    settings = [posixpath.join(*parts, SOPS_CONFIG) for parts in _directories_above(directory)]
    attributes, schemas = posixpath.join(directory, ".gitattributes"), posixpath.join(directory, SCHEMAS)
    paths = [posixpath.join(directory, request.environment), *settings, attributes, schemas]
    if changed := await git.uncommitted(paths):
        hint = "Commit the changes (`git add … && git commit`) or undo them first"
        raise RefusedError(f"not committed yet: {listed(changed)}", hint=hint)
    return branch


def _require_new(tree: Tree, environment: str, request: ImportRequest) -> None:
    """The environment must be new, or as `reconciler init` made it. Raises RefusedError."""
    manifest = f"{request.environment}/{MANIFEST}"
    existing = [path for path in tree.below(request.environment) if path != manifest]
    if request.update or (not existing and tree.files.get(manifest, b"") in (b"", EMPTY_MANIFEST.encode())):
        return
    hint = "Choose another name, or bring what the server changed into it with --update"
    raise RefusedError(f"the environment {request.environment} exists already", where=environment, hint=hint)


def _recipients(environment: str, configs: Mapping[str, bytes], request: ImportRequest) -> tuple[str, ...]:
    """Whom to encrypt for: the recipients of the rule, or the given ones if there is no rule."""
    wrong = [recipient for recipient in request.recipients if not recipient.startswith("age1")] + mistyped(
        request.recipients
    )
    if wrong:
        raise RefusedError(f"{', '.join(wrong)} is not a public age key", hint="Use what `age-keygen -y` prints")
    governing = governing_rule(posixpath.join(environment, "any.env"), configs)
    if governing.rule is None:
        if not request.recipients:
            raise missing_rule(governing.config or "", environment, relative_to_config(environment, governing.config))
        return request.recipients
    rule = governing.rule
    others = [
        *rule.others,
        *(["key_groups"] if rule.groups else []),
        *(["pgp"] if any(not recipient.startswith(("age1", "ssh-")) for recipient in rule.recipients) else []),
    ]
    if others or rule.partial or not rule.recipients:
        problem = f"its rule for {environment} is for {', '.join(others) or rule.partial or 'nobody'}"
        hint = "An import needs a rule that has only age keys and encrypts every value"
        raise RefusedError(problem, where=governing.config or "", hint=hint)
    if request.recipients and frozenset(request.recipients) != rule.recipients:
        problem = f"its rule for {environment} names other recipients than --recipient"
        raise RefusedError(problem, where=governing.config or "", hint="Remove --recipient, or correct the rule first")
    return tuple(sorted(rule.recipients))


def relative_to_config(environment: str, config: str | None) -> str:
    return posixpath.relpath(environment, posixpath.dirname(config or "") or ".")


async def _key_sources(request: ImportRequest, recipients: Sequence[str]) -> clone.KeySources:
    """A key that opens what is written, for the verification. Raises RefusedError, KeyUnavailableError."""
    hint = "Give the private key file of one of the recipients with --age-key-file; it is only read"
    sources = clone.require_keys(request.key_file, hint)
    own = await clone.Keys(sources).own()
    if not own.may_open(recipients):
        raise RefusedError(f"its keys cannot decrypt files for {brief_keys(recipients)}", where=own.place, hint=hint)
    return sources
