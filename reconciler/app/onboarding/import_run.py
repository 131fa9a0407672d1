"""`reconciler import`: turn the files of servers into an environment in git, encrypted, on a branch of this clone.

Plaintext stays in memory: files go from the machine to the standard input of sops, and only its output reaches git.
Then the import is verified: a server that follows the commit must have nothing to change.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import posixpath
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from reconciler.app.checks.run import check_tree
from reconciler.app.checks.survey import MANIFEST
from reconciler.app.config.scalars import check_environment_name
from reconciler.app.onboarding import import_files
from reconciler.app.onboarding.editor_schemas import DIRECTORY as SCHEMAS
from reconciler.app.onboarding.editor_schemas import schema_files
from reconciler.app.onboarding.import_sources import (
    ImportSide,
    StepProgress,
    host_names,
    read_import_side,
    read_sources,
)
from reconciler.app.onboarding.init import ATTRIBUTES, EMPTY_MANIFEST, directory_in_git
from reconciler.app.onboarding.sops_config import governing_rule, missing_rule, with_rule
from reconciler.app.onboarding.verify import Verification, verify_import
from reconciler.app.wiring import clone
from reconciler.core.checks.rules import Severity
from reconciler.core.errors import RefusedError
from reconciler.core.model.targets import Format
from reconciler.core.onboarding.draft import draft_environment
from reconciler.core.onboarding.manifest import example_env
from reconciler.core.onboarding.source_names import as_binary
from reconciler.core.onboarding.types import Draft, DraftFile, ImportSource, PlainFiles
from reconciler.core.ports.host import Machine
from reconciler.core.sops.creation_rules import NAME as SOPS_CONFIG
from reconciler.core.sops.creation_rules import mistyped
from reconciler.core.text import listed
from reconciler.core.tree import Tree

Agree = Callable[[Draft], bool]
"""Receives the draft, returns whether to continue."""


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
class Imported:
    """The result. ``commit`` and ``branch`` are "" if nothing was committed, because nobody agreed or because the
    verification failed, as ``verification`` shows. ``written`` are the paths of the commit, ``machines`` the sides that
    were read."""

    draft: Draft
    machines: tuple[str, ...]
    branch: str = ""
    commit: str = ""
    base_branch: str = ""
    written: tuple[str, ...] = ()
    verification: Verification | None = None


def import_environment(request: ImportRequest, agree: Agree, progress: StepProgress) -> Imported:
    """Read the machines and show the draft; once that is agreed to, encrypt, commit and verify.

    Raises RefusedError, HostUnreachableError, LiveFileError, KeyUnavailableError.
    """
    check_environment_name(request.environment)
    sides = [read_import_side(side, request.ssh_key, request.known_hosts) for side in request.sides]
    return asyncio.run(_import(request, sides, agree, progress))


async def _import(
    request: ImportRequest, sides: Sequence[ImportSide], agree: Agree, progress: StepProgress
) -> Imported:
    repository = await _Repository.open(request)
    hosts = host_names(sides)
    async with _machines(sides) as machines:
        sources = await read_sources(machines, sides, hosts, progress)
    plain = PlainFiles(request.plain, repository.earlier.plain)
    draft = draft_environment(request.environment, sources, request.exclude, plain, exact=request.exact)
    if not draft.files:
        raise _nothing(draft, sources)
    result = Imported(draft, tuple(side.text for side in sides))
    if not agree(draft):
        return result
    draft, encrypted = await _encrypt(repository, draft, progress)
    files = await _committed_files(repository, draft, encrypted)
    message = import_files.commit_message(draft, [side.text for side in sides])
    commit = await repository.git.commit(repository.head, files, message)
    branch = f"reconciler/import-{request.environment}"
    await repository.git.make_branch(branch, commit)
    verification = None
    try:
        # New connections: the verification must read everything again.
        async with _machines(sides) as machines:
            by_host = dict(zip(hosts, machines, strict=True))
            verification = await verify_import(repository.about(branch, commit), draft, by_host, progress)
    finally:
        if verification is None or verification.problems:
            await repository.git.remove_branch(branch, commit)
    if verification.problems:
        return replace(result, draft=draft, verification=verification)
    base = await repository.git.current_branch()
    return replace(
        result,
        draft=draft,
        verification=verification,
        branch=branch,
        commit=commit,
        base_branch=base,
        written=tuple(sorted(files)),
    )


@contextlib.asynccontextmanager
async def _machines(sides: Sequence[ImportSide]) -> AsyncIterator[list[Machine]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(clone.machine(side.address)) for side in sides]


# --- the repository ---


@dataclass(frozen=True, slots=True)
class _Repository:
    """The clone before the import: ``tree`` is the content of ``directory`` in the commit ``head``, ``earlier`` the
    environment's manifest there; ``configs`` are the .sops.yaml files in and above it, by path."""

    git: clone.CloneWriter
    top: str
    head: str | None
    directory: str
    environment: str
    tree: Tree
    earlier: import_files.EarlierManifest
    configs: Mapping[str, bytes]
    recipients: tuple[str, ...]
    key_file: str

    @classmethod
    async def open(cls, request: ImportRequest) -> _Repository:
        """Open the clone. Raises RefusedError if an import is impossible, before any machine is contacted."""
        top = clone.work_tree_top(os.getcwd())
        git, reader, directory = clone.CloneWriter(top), clone.Clone(top), directory_in_git(request.path)
        environment = posixpath.join(directory, request.environment)
        await _require_room(git, directory, request)
        head = await git.head()
        tree = (await reader.trees([head], directory))[0] if head else Tree({})
        _require_new(tree, environment, request)
        above = [posixpath.join(*parts, SOPS_CONFIG) for parts in _directories_above(environment)]
        contents = {path: await reader.read(head, path) for path in above} if head else {}
        configs = {path: data for path, data in contents.items() if data is not None}
        recipients = _recipients(environment, configs, request)
        manifest = tree.files.get(f"{request.environment}/{MANIFEST}", b"")
        return cls(
            git=git,
            top=top,
            head=head,
            directory=directory,
            environment=request.environment,
            tree=tree,
            earlier=import_files.read_earlier_manifest(manifest, posixpath.join(environment, MANIFEST)),
            configs=configs,
            recipients=recipients,
            key_file=_key_file(request, recipients),
        )

    @property
    def key(self) -> clone.Keys:
        return clone.Keys(self.key_file)

    def path(self, name: str) -> str:
        return posixpath.join(self.directory, self.environment, name)

    def about(self, branch: str, commit: str) -> import_files.Committed:
        return import_files.Committed(self.top, self.directory, self.environment, branch, commit, self.key_file)


def _directories_above(environment: str) -> list[tuple[str, ...]]:
    parts = tuple(environment.split("/"))
    return [parts[:number] for number in range(len(parts) + 1)]


async def _require_room(git: clone.CloneWriter, directory: str, request: ImportRequest) -> None:
    """Uncommitted work must neither get lost nor be left out. Raises RefusedError."""
    branch = f"reconciler/import-{request.environment}"
    if await git.has_branch(branch):
        hint = f"Merge it, or delete it with `git branch -D {branch}`"
        raise RefusedError(f"the branch {branch} of an earlier import exists", hint=hint)
    settings = [posixpath.join(*parts, SOPS_CONFIG) for parts in _directories_above(directory)]
    attributes = posixpath.join(directory, ".gitattributes")
    schemas = posixpath.join(directory, SCHEMAS)
    paths = [posixpath.join(directory, request.environment), *settings, attributes, schemas]
    if changed := await git.uncommitted(paths):
        hint = "Commit the changes (`git add … && git commit`) or undo them first"
        raise RefusedError(f"not committed yet: {listed(changed)}", hint=hint)


def _require_new(tree: Tree, environment: str, request: ImportRequest) -> None:
    """The environment must be new, or as `reconciler init` made it. Raises RefusedError."""
    manifest = f"{request.environment}/{MANIFEST}"
    existing = [path for path in tree.below(request.environment) if path != manifest]
    if request.update or (not existing and tree.files.get(manifest, b"") in (b"", EMPTY_MANIFEST.encode())):
        return
    hint = "Choose another name, or replace it with --update (on a branch; git's history keeps the old version)"
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
            raise missing_rule(governing.config or "", environment, _relative(environment, governing.config))
        return request.recipients
    rule = governing.rule
    others = [
        *rule.others,
        *(["key_groups"] if rule.groups else []),
        *(["pgp"] if any(not recipient.startswith("age1") for recipient in rule.recipients) else []),
    ]
    if others or rule.partial or not rule.recipients:
        problem = f"its rule for {environment} is for {', '.join(others) or rule.partial or 'nobody'}"
        hint = "An import needs a rule that has only age keys and encrypts every value"
        raise RefusedError(problem, where=governing.config or "", hint=hint)
    if request.recipients and frozenset(request.recipients) != rule.recipients:
        problem = f"its rule for {environment} names other recipients than --recipient"
        raise RefusedError(problem, where=governing.config or "", hint="Remove --recipient, or correct the rule first")
    return tuple(sorted(rule.recipients))


def _relative(environment: str, config: str | None) -> str:
    return posixpath.relpath(environment, posixpath.dirname(config or "") or ".")


def _key_file(request: ImportRequest, recipients: Sequence[str]) -> str:
    """A key that opens what is written, for the verification. Raises RefusedError, KeyUnavailableError."""
    path = os.path.abspath(os.path.expanduser(request.key_file or clone.default_key_file()))
    hint = "Give the private key file of one of the recipients with --age-key-file; it is only read"
    if not os.path.exists(path):
        raise RefusedError("there is no age key, which the verification needs", where=path, hint=hint)
    if not clone.Keys(path).opens(recipients):
        problem = f"its keys cannot decrypt files for {listed(recipients)}"
        raise RefusedError(problem, where=path, hint=hint)
    return path


def _nothing(draft: Draft, sources: Sequence[ImportSource]) -> RefusedError:
    reasons = [f"{file.path}: {file.reason}" for file in draft.left_out]
    reasons += [text for source in sources for text in (*source.inventory.unread, *source.inventory.left_out)]
    reasons += [project.problem for source in sources for project in source.inventory.projects if project.problem]
    hint = "; ".join(reasons[:10]) or "Name the directory of a Compose project, or an env file"
    return RefusedError(
        "found no file to import", where=listed([source.inventory.place for source in sources]), hint=hint
    )


# --- encrypting ---


async def _encrypt(repository: _Repository, draft: Draft, progress: StepProgress) -> tuple[Draft, dict[str, bytes]]:
    """The encrypted sources, each verified to decrypt to the file's content; and the draft with the final formats."""
    key, done = repository.key, 0
    progress("encrypting", 0, len(draft.files))
    names = [file.source for file in draft.files]

    async def encrypt(file: DraftFile) -> tuple[DraftFile, bytes]:
        nonlocal done
        result = await _encrypted(repository, key, file, names)
        done += 1
        progress("encrypting", done, len(draft.files))
        return result

    results = await asyncio.gather(*map(encrypt, draft.files))
    return replace(draft, files=tuple(file for file, _ in results)), {file.source: data for file, data in results}


async def _encrypted(
    repository: _Repository, key: clone.Keys, file: DraftFile, names: Sequence[str]
) -> tuple[DraftFile, bytes]:
    if file.format is Format.PLAIN:
        return file, file.content.reveal()
    kept = repository.tree.files.get(f"{repository.environment}/{file.source}")
    if kept is not None and await _holds(key, repository, file, kept):
        return file, kept  # same values: no new ciphertext to review
    if file.format is Format.DOTENV:
        with contextlib.suppress(RefusedError):
            name = repository.path(file.source)
            data = await key.encrypt(name, file.content, repository.recipients, Format.DOTENV)
            if await key.decrypt(name, data) == file.content:
                return file, data
        file = as_binary(file, "sops' dotenv format does not preserve its bytes", names)
    name = repository.path(file.source)
    data = await key.encrypt(name, file.file.data, repository.recipients, Format.BINARY)
    if await key.decrypt(name, data) != file.file.data:
        hint = "Leave it out with --exclude, and report this"
        raise RefusedError(
            "the ciphertext by sops does not decrypt to the file's bytes", where=file.file.path, hint=hint
        )
    return file, data


async def _holds(key: clone.Keys, repository: _Repository, file: DraftFile, data: bytes) -> bool:
    """Whether a source in git decrypts to the file's content, for the same recipients."""
    return await key.holds(repository.path(file.source), data, file.content, repository.recipients)


# --- the commit ---


async def _committed_files(
    repository: _Repository, draft: Draft, sources: Mapping[str, bytes]
) -> dict[str, bytes | None]:
    """Path → content, None for deleted files. Raises RefusedError if `reconciler check` would find an error."""
    below = repository.tree.files
    existing = {name for name in below if name.startswith("contracts/")}
    contracts = import_files.contract_files(draft, existing, repository.earlier)
    new: dict[str, bytes | None] = {f"{draft.environment}/{name}": data for name, data in sources.items()}
    new[f"{draft.environment}/{MANIFEST}"] = import_files.manifest_text(draft, contracts.by_source)
    new[f"{draft.environment}/env.example"] = example_env(draft.files).encode()
    new |= contracts.files
    gone = (f"{draft.environment}/{name}" for name in repository.earlier.sources)
    new |= {path: None for path in gone if path in below and path not in new}
    new |= {name: text.encode() for name, text in schema_files().items() if name not in below}
    if ".gitattributes" not in below:
        new[".gitattributes"] = ATTRIBUTES.encode()
    files = {posixpath.join(repository.directory, name): data for name, data in new.items()}
    config, data = _sops_config(repository)
    await _require_clean(repository, draft.environment, new, {**repository.configs, config: data})
    return files | ({config: data} if repository.configs.get(config) != data else {})


def _sops_config(repository: _Repository) -> tuple[str, bytes]:
    """The path and content of the .sops.yaml that governs the environment, with a rule for it."""
    environment = posixpath.join(repository.directory, repository.environment)
    governing = governing_rule(posixpath.join(environment, "any.env"), repository.configs)
    config = governing.config or SOPS_CONFIG
    if governing.rule is not None:
        return config, repository.configs[config]
    relative = _relative(environment, config)
    data = with_rule(repository.configs.get(config), relative, repository.recipients)
    if data is None:
        raise missing_rule(config, environment, relative)
    return config, data


async def _require_clean(
    repository: _Repository, environment: str, new: Mapping[str, bytes | None], configs: Mapping[str, bytes]
) -> None:
    """Check the environment as it will be, with the key. Raises RefusedError for errors."""
    merged = {**repository.tree.files, **new}
    inside = f"{repository.directory}/"
    above = {}
    for path, data in configs.items():
        if path.startswith(inside):
            merged[path.removeprefix(inside)] = data
        else:
            above[posixpath.relpath(path, repository.directory)] = data
    tree = Tree({path: data for path, data in merged.items() if data is not None}, repository.tree.odd, above)
    tools = clone.tools(repository.key_file, lambda done, of: None)
    report = await check_tree(tree, repository.directory, tools, only=[environment])
    errors = [finding for finding in report.findings if finding.rule.severity is Severity.ERROR]
    if errors:
        errors_text = "\n".join(
            f"{finding.path}:{finding.line}: {finding.rule.id}: {finding.message}" for finding in errors[:20]
        )
        hint = "Fix it on the server or in git, or leave the file out with --exclude. Nothing was committed"
        raise RefusedError(f"`reconciler check` would refuse this:\n{errors_text}", hint=hint)
