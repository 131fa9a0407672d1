"""`reconciler import`: turn the files of servers into an environment in git, encrypted, on a branch of this clone.

Plaintext stays in memory: files go from the machine to the standard input of sops, and only its output reaches git.
Then the import is verified: a server that follows the commit must have nothing to change.
"""

from __future__ import annotations

import asyncio
import contextlib
import posixpath
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from reconciler.app.checks.run import check_tree
from reconciler.app.checks.survey import CHECK_SETTINGS, MANIFEST
from reconciler.app.config.scalars import check_environment_name
from reconciler.app.onboarding import import_files, import_update
from reconciler.app.onboarding.editor_schemas import schema_files
from reconciler.app.onboarding.import_repository import ImportRepository, ImportRequest, relative_to_config
from reconciler.app.onboarding.import_sources import (
    ImportSide,
    StepProgress,
    host_names,
    read_import_side,
    read_sources,
)
from reconciler.app.onboarding.init import ATTRIBUTES
from reconciler.app.onboarding.manifest_update import updated_contracts, updated_manifest
from reconciler.app.onboarding.sops_config import governing_rule, missing_rule, with_rule
from reconciler.app.onboarding.verify import Verification, verify_import
from reconciler.app.wiring import clone
from reconciler.core.checks.rules import Severity
from reconciler.core.errors import RefusedError
from reconciler.core.model.targets import Format
from reconciler.core.onboarding.draft import draft_environment
from reconciler.core.onboarding.manifest import example_env, updated_example
from reconciler.core.onboarding.source_names import as_binary
from reconciler.core.onboarding.types import Draft, DraftFile, ImportSource, PlainFiles, SourceEdit
from reconciler.core.ports.host import Machine
from reconciler.core.sops.creation_rules import NAME as SOPS_CONFIG
from reconciler.core.text import listed
from reconciler.core.tree import Tree

Agree = Callable[[Draft], bool]
"""Receives the draft, returns whether to continue."""


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
    repository = await ImportRepository.open(request)
    hosts = host_names(sides)
    draft = await _draft(request, repository, sides, hosts, progress)
    result = Imported(draft, tuple(side.text for side in sides))
    if not agree(draft) or not draft.changes:
        return result
    draft, encrypted = await _encrypt(repository, draft, progress)
    files = await _committed_files(repository, draft, encrypted)
    message = import_files.commit_message(draft, [side.text for side in sides])
    commit = await repository.git.commit(repository.head, files, message)
    branch = repository.branch
    await repository.git.make_branch(branch, commit, merged_into=repository.head)
    verification = None
    try:
        # New connections: the verification must read everything again.
        async with _machines(sides) as machines:
            by_host = dict(zip(hosts, machines, strict=True))
            verification = await verify_import(await repository.committed(branch, commit), draft, by_host, progress)
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


async def _draft(
    request: ImportRequest,
    repository: ImportRepository,
    sides: Sequence[ImportSide],
    hosts: Sequence[str],
    progress: StepProgress,
) -> Draft:
    """What to import; of an environment that git has, what the machines have changed. Raises RefusedError."""
    earlier = repository.earlier
    git = await _git_state(repository)
    async with _machines(sides) as machines:
        sources = await read_sources(machines, sides, hosts, progress)
        sources, gone = await import_update.add_managed_files(git, machines, sides, sources)
    plain, managed = PlainFiles(request.plain, earlier.plain), import_update.managed_uses(earlier)
    draft = draft_environment(request.environment, sources, request.exclude, plain, managed, exact=request.exact)
    if not draft.files:
        raise _nothing(draft, sources)
    if not earlier.targets:
        return draft
    return await import_update.compare_with_git(import_update.follow_manifest(draft, earlier, hosts, gone), git)


async def _git_state(repository: ImportRepository) -> import_update.GitState:
    """What git has of the environment, and what it had after the last import."""
    environment, key, base = repository.environment, repository.key, None
    trailer = import_files.import_trailer(environment)
    commit = await repository.git.latest_with(trailer, repository.head) if repository.earlier.targets else None
    if commit is not None:
        (tree,) = await clone.Clone(repository.top).trees([commit], repository.directory)
        manifest = tree.files.get(f"{environment}/{MANIFEST}", b"")
        with contextlib.suppress(RefusedError):
            then = import_files.read_earlier_manifest(manifest, commit)
            base = import_update.GitState(environment, then, tree.inside(environment), key)
    return import_update.GitState(environment, repository.earlier, repository.tree.inside(environment), key, base)


@contextlib.asynccontextmanager
async def _machines(sides: Sequence[ImportSide]) -> AsyncIterator[list[Machine]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(clone.machine(side.address)) for side in sides]


def _nothing(draft: Draft, sources: Sequence[ImportSource]) -> RefusedError:
    reasons = [f"{file.path}: {file.reason}" for file in draft.left_out]
    reasons += [text for source in sources for text in (*source.inventory.unread, *source.inventory.left_out)]
    reasons += [project.problem for source in sources for project in source.inventory.projects if project.problem]
    hint = "; ".join(reasons[:10]) or "Name the directory of a Compose project, or an env file"
    return RefusedError(
        "found no file to import", where=listed([source.inventory.place for source in sources]), hint=hint
    )


# --- encrypting ---


async def _encrypt(
    repository: ImportRepository, draft: Draft, progress: StepProgress
) -> tuple[Draft, dict[str, bytes]]:
    """The sources that are new or change, each verified to decrypt to the file's content; and the draft with the final
    formats."""
    key, done = repository.key, 0
    progress("encrypting", 0, len(draft.files))
    names = [file.source for file in draft.files]

    async def encrypt(file: DraftFile, directory: str) -> tuple[DraftFile, bytes | None]:
        nonlocal done
        result = await _encrypted(repository, key, file, names, directory)
        done += 1
        progress("encrypting", done, len(draft.files))
        return result

    with contextlib.ExitStack() as stack:
        edits = any(file.change and file.change.edit is SourceEdit.TEXT for file in draft.files)
        directory = stack.enter_context(clone.private_directory()) if edits else ""
        results = await asyncio.gather(*(encrypt(file, directory) for file in draft.files))
    files = tuple(file for file, _ in results)
    return replace(draft, files=files), {file.source: data for file, data in results if data is not None}


async def _encrypted(
    repository: ImportRepository, key: clone.Keys, file: DraftFile, names: Sequence[str], directory: str
) -> tuple[DraftFile, bytes | None]:
    """The source; None if the one in git stays."""
    edit = file.change.edit if file.change else SourceEdit.WHOLE
    if edit is SourceEdit.KEEP:
        return file, None
    if file.format is Format.PLAIN:
        return file, file.content.reveal()
    if edit is not SourceEdit.WHOLE:
        return file, await _edited(repository, key, file, directory)
    if file.format is Format.DOTENV:
        with contextlib.suppress(RefusedError):
            name = repository.path(file.source)
            data = await key.encrypt(name, file.content, repository.recipients, Format.DOTENV)
            if await key.decrypt(name, data) == file.content:
                return file, data
        file = as_binary(file, "sops' dotenv format does not preserve its bytes", names)
    name = repository.path(file.source)
    data = await key.encrypt(name, file.content, repository.recipients, Format.BINARY)
    if await key.decrypt(name, data) != file.content:
        hint = "Leave it out with --exclude, and report this"
        raise RefusedError(
            "the ciphertext by sops does not decrypt to the file's bytes", where=file.file.path, hint=hint
        )
    return file, data


async def _edited(repository: ImportRepository, key: clone.Keys, file: DraftFile, directory: str) -> bytes:
    """The source in git with the changes alone: every other value keeps its ciphertext. Raises RefusedError."""
    assert file.change is not None
    name = repository.path(file.change.source)
    before = repository.tree.files[f"{repository.environment}/{file.change.source}"]
    if file.change.edit is SourceEdit.KEYS:
        data = await key.amend(name, before, file.change.values)
    else:
        data = await key.edit(name, before, file.content, directory)
    if await key.decrypt(name, data, file.parser) != file.content:
        hint = f"Make the change with `reconciler edit {repository.environment}/{file.change.source}`"
        raise RefusedError("sops writes something else than the live file says", where=file.file.path, hint=hint)
    return data


# --- the commit ---


async def _committed_files(
    repository: ImportRepository, draft: Draft, sources: Mapping[str, bytes]
) -> dict[str, bytes | None]:
    """Path → content, None for deleted files. Raises RefusedError if `reconciler check` would find an error."""
    below = repository.tree.files
    existing = {name for name in below if name.startswith("contracts/")}
    contracts = import_files.contract_files(draft, existing)
    manifest, example = f"{draft.environment}/{MANIFEST}", f"{draft.environment}/env.example"
    new: dict[str, bytes | None] = {f"{draft.environment}/{name}": data for name, data in sources.items()}
    if draft.update:
        where = posixpath.join(repository.directory, manifest)
        new[manifest] = updated_manifest(draft, repository.earlier, contracts.by_source, where)
        if example in below:
            new[example] = updated_example(below[example].decode(errors="surrogateescape"), draft).encode(
                errors="surrogateescape"
            )
        new |= updated_contracts(draft, repository.earlier, repository.tree)
        new |= {path: None for path in _sources_gone(repository, draft) if path in below}
    else:
        new[manifest] = import_files.manifest_text(draft, contracts.by_source)
        new[example] = example_env(draft.files).encode()
    new |= contracts.files
    new |= {name: text.encode() for name, text in schema_files(existing=below).items()}
    if ".gitattributes" not in below:
        new[".gitattributes"] = ATTRIBUTES.encode()
    new = {path: data for path, data in new.items() if below.get(path) != data}
    files = {posixpath.join(repository.directory, name): data for name, data in new.items()}
    config, data = _sops_config(repository)
    await _require_clean(repository, draft.environment, new, {**repository.configs, config: data})
    return files | ({config: data} if repository.configs.get(config) != data else {})


def _sources_gone(repository: ImportRepository, draft: Draft) -> Iterator[str]:
    """The paths of sources that no target names any more."""
    removed = {(target.source, target.path) for target in draft.removed}
    renamed = {file.change.source for file in draft.files if file.change and file.change.source != file.source}
    staying = {target.source for target in repository.earlier.targets if (target.source, target.path) not in removed}
    for source in ({source for source, _ in removed} | renamed) - (staying - renamed):
        yield f"{draft.environment}/{source}"


def _sops_config(repository: ImportRepository) -> tuple[str, bytes]:
    """The path and content of the .sops.yaml that governs the environment, with a rule for it."""
    environment = posixpath.join(repository.directory, repository.environment)
    governing = governing_rule(posixpath.join(environment, "any.env"), repository.configs)
    config = governing.config or SOPS_CONFIG
    if governing.rule is not None:
        return config, repository.configs[config]
    relative = relative_to_config(environment, config)
    data = with_rule(repository.configs.get(config), relative, repository.recipients)
    if data is None:
        raise missing_rule(config, environment, relative)
    return config, data


async def _require_clean(
    repository: ImportRepository, environment: str, new: Mapping[str, bytes | None], configs: Mapping[str, bytes]
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
    tools = replace(clone.tools(None, lambda done, of: None), opener=repository.key)
    report = await check_tree(tree, repository.directory, tools, only=[environment])
    errors = [finding for finding in report.findings if finding.rule.severity is Severity.ERROR]
    if errors:
        errors_text = "\n".join(
            f"{finding.path}:{finding.line}: {finding.rule.id}: {finding.message}" for finding in errors[:20]
        )
        first = errors[0]
        path = posixpath.relpath(first.path, repository.directory)
        settings = posixpath.join(repository.directory, CHECK_SETTINGS)
        hint = (
            f"Fix it on the server, leave the file out with --exclude, or exempt it in {settings}, committed "
            f"(`exempt: [{{rule: {first.rule.id}, path: {path}, reason: …}}]`). Nothing was committed"
        )
        raise RefusedError(f"`reconciler check` would refuse this:\n{errors_text}", hint=hint)
