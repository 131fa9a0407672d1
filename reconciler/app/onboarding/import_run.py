"""`reconciler import`: what servers have becomes an environment in git, encrypted, on a branch of this clone.

Plaintext stays in memory: files are read from the machine, go to sops on its standard input, and only what sops gives
back reaches git. Then it is proven that a server which follows the commit would change nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import posixpath
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from reconciler.app.checks.run import check as apply_rules
from reconciler.app.checks.survey import MANIFEST
from reconciler.app.config.scalars import check_environment_name
from reconciler.app.onboarding import render
from reconciler.app.onboarding.init import ATTRIBUTES, EMPTY_MANIFEST, default_key_file, directory_in_git
from reconciler.app.onboarding.real_paths import UNRESOLVED, real_paths
from reconciler.app.onboarding.sops_config import governed, missing_rule, with_rule
from reconciler.app.onboarding.verify import Proof, prove
from reconciler.app.places import Side, parse
from reconciler.app.wiring import clone as local_wiring
from reconciler.core.checks.rules import Severity
from reconciler.core.errors import RefusedError
from reconciler.core.inventory import FoundProject, Inventory
from reconciler.core.model.targets import Format
from reconciler.core.onboarding import draft as importing
from reconciler.core.onboarding.draft import Draft, Place, Plain, Taken
from reconciler.core.ports.host import Machine
from reconciler.core.sops.creation_rules import NAME as SOPS_CONFIG
from reconciler.core.sops.creation_rules import mistyped
from reconciler.core.text import listed
from reconciler.core.tree import Tree

Progress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and of how much."""
Agree = Callable[[Draft], bool]
"""Shown what was found, says whether to go on."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a person asks for. ``key_file`` None stands for where sops looks for keys."""

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


@dataclass(frozen=True, slots=True)
class Imported:
    """How it ended. ``commit`` and ``branch`` are "" where nothing was committed: nobody agreed, or the proof failed;
    then ``proof`` says why. ``written`` are the paths of the commit, ``machines`` those that were looked at."""

    draft: Draft
    machines: tuple[str, ...]
    branch: str = ""
    commit: str = ""
    base_branch: str = ""
    written: tuple[str, ...] = ()
    proof: Proof | None = None


def run(asked: Asked, agree: Agree, progress: Progress) -> Imported:
    """Look, show, and when that is agreed to, encrypt, commit and prove.

    Raises RefusedError where it cannot or should not be, HostUnreachableError, LiveFileError, KeyUnavailableError.
    """
    check_environment_name(asked.environment)
    sides = [parse(side, asked.ssh_key, asked.known_hosts) for side in asked.sides]
    return asyncio.run(_run(asked, sides, agree, progress))


async def _run(asked: Asked, sides: Sequence[Side], agree: Agree, progress: Progress) -> Imported:
    repository = await _Repository.open(asked)
    hosts = _host_names(sides)
    async with _machines(sides) as machines:
        places = await _look(machines, sides, hosts, progress)
    plain = Plain(asked.plain, repository.earlier.plain)
    found = importing.draft(asked.environment, places, asked.exclude, plain)
    if not found.files:
        raise _nothing(found, places)
    told = Imported(found, tuple(side.text for side in sides))
    if not agree(found):
        return told
    found, sources = await _encrypt(repository, found, progress)
    files = await _everything(repository, found, sources)
    message = render.message(found, [side.text for side in sides])
    commit = await repository.git.commit(repository.head, files, message)
    branch = f"reconciler/import-{asked.environment}"
    await repository.git.make_branch(branch, commit)
    proof = None
    try:
        # Machines of its own: what was looked at before is looked at again, and nothing of it remembered.
        async with _machines(sides) as machines:
            looked_at = dict(zip(hosts, machines, strict=True))
            proof = await prove(repository.about(branch, commit), found, looked_at, progress)
    finally:
        if proof is None or proof.problems:
            await repository.git.remove_branch(branch, commit)
    if proof.problems:
        return replace(told, draft=found, proof=proof)
    base = await repository.git.current_branch()
    return replace(
        told, draft=found, proof=proof, branch=branch, commit=commit, base_branch=base, written=tuple(sorted(files))
    )


@contextlib.asynccontextmanager
async def _machines(sides: Sequence[Side]) -> AsyncIterator[list[Machine]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(local_wiring.machine(side.address)) for side in sides]


# --- the repository ---


@dataclass(frozen=True, slots=True)
class _Repository:
    """The clone as it is before: ``tree`` is what lies below ``directory`` in the commit ``head``; ``earlier`` what
    the environment's manifest there says; ``configs`` are the files called .sops.yaml above and in it, by path."""

    git: local_wiring.CloneWriter
    clone: local_wiring.Clone
    top: str
    head: str | None
    directory: str
    environment: str
    tree: Tree
    earlier: render.Earlier
    configs: Mapping[str, bytes]
    recipients: tuple[str, ...]
    key_file: str

    @classmethod
    async def open(cls, asked: Asked) -> _Repository:
        """Raises RefusedError for everything that speaks against an import before a machine is asked."""
        top = local_wiring.work_tree_top(os.getcwd())
        git, clone, directory = local_wiring.clone_writer(top), local_wiring.clone(top), directory_in_git(asked.path)
        environment = posixpath.join(directory, asked.environment)
        await _require_room(git, directory, asked)
        head = await git.head()
        tree = (await clone.trees([head], directory))[0] if head else Tree({})
        _require_new(tree, environment, asked)
        above = [posixpath.join(*parts, SOPS_CONFIG) for parts in _directories_above(environment)]
        found = {one: await clone.read(head, one) for one in above} if head else {}
        configs = {one: data for one, data in found.items() if data is not None}
        recipients = _recipients(environment, configs, asked)
        manifest = tree.files.get(f"{asked.environment}/{MANIFEST}", b"")
        return cls(
            git=git,
            clone=clone,
            top=top,
            head=head,
            directory=directory,
            environment=asked.environment,
            tree=tree,
            earlier=render.earlier(manifest, posixpath.join(environment, MANIFEST)),
            configs=configs,
            recipients=recipients,
            key_file=_key_file(asked, recipients),
        )

    @property
    def key(self) -> local_wiring.Keys:
        return local_wiring.keys(self.key_file)

    def path(self, name: str) -> str:
        return posixpath.join(self.directory, self.environment, name)

    def about(self, branch: str, commit: str) -> render.Committed:
        return render.Committed(self.top, self.directory, self.environment, branch, commit, self.key_file)


def _directories_above(environment: str) -> list[tuple[str, ...]]:
    parts = tuple(environment.split("/"))
    return [parts[:number] for number in range(len(parts) + 1)]


async def _require_room(git: local_wiring.CloneWriter, directory: str, asked: Asked) -> None:
    """What a person has not committed yet is neither lost nor left out."""
    branch = f"reconciler/import-{asked.environment}"
    if await git.has_branch(branch):
        hint = f"Merge it, or remove it with `git branch -D {branch}`"
        raise RefusedError(f"there is a branch {branch} of an earlier import", hint=hint)
    settings = [posixpath.join(*parts, SOPS_CONFIG) for parts in _directories_above(directory)]
    attributes = posixpath.join(directory, ".gitattributes")
    paths = [posixpath.join(directory, asked.environment), *settings, attributes]
    if changed := await git.uncommitted(paths):
        hint = "Commit that first (`git add … && git commit`), or take it back"
        raise RefusedError(f"not committed yet: {listed(changed)}", hint=hint)


def _require_new(tree: Tree, environment: str, asked: Asked) -> None:
    """An environment that `reconciler init` has begun is not one yet."""
    manifest = f"{asked.environment}/{MANIFEST}"
    there = [one for one in tree.below(asked.environment) if one != manifest]
    if asked.update or (not there and tree.files.get(manifest, b"") in (b"", EMPTY_MANIFEST.encode())):
        return
    hint = "Choose another name, or write it anew with --update (on a branch; what is there stays in git's history)"
    raise RefusedError(f"there is an environment {asked.environment} already", where=environment, hint=hint)


def _recipients(environment: str, configs: Mapping[str, bytes], asked: Asked) -> tuple[str, ...]:
    """Whom to encrypt for: those of the rule, or those that are given where there is no rule."""
    wrong = [one for one in asked.recipients if not one.startswith("age1")] + mistyped(asked.recipients)
    if wrong:
        raise RefusedError(f"{', '.join(wrong)} is no public age key", hint="It is what `age-keygen -y` prints")
    found = governed(posixpath.join(environment, "any.env"), configs)
    if found.rule is None:
        if not asked.recipients:
            raise missing_rule(found.config or "", environment, _relative(environment, found.config))
        return asked.recipients
    rule = found.rule
    others = [*rule.others, *(["pgp"] if any(not one.startswith("age1") for one in rule.recipients) else [])]
    if others or rule.partial or not rule.recipients:
        what = f"its rule for {environment} is for {', '.join(others) or rule.partial or 'nobody'}"
        hint = "An import needs a rule with age keys alone that encrypts every value"
        raise RefusedError(what, where=found.config or "", hint=hint)
    if asked.recipients and frozenset(asked.recipients) != rule.recipients:
        what = f"its rule for {environment} names other recipients than --recipient"
        raise RefusedError(what, where=found.config or "", hint="Leave --recipient out, or correct the rule first")
    return tuple(sorted(rule.recipients))


def _relative(environment: str, config: str | None) -> str:
    return posixpath.relpath(environment, posixpath.dirname(config or "") or ".")


def _key_file(asked: Asked, recipients: Sequence[str]) -> str:
    """A key that opens what is written: nothing is proven without. Raises RefusedError, KeyUnavailableError."""
    path = os.path.abspath(os.path.expanduser(asked.key_file or default_key_file()))
    hint = "Name the file of a private key of one of the recipients with --age-key-file; it stays where it is"
    if not os.path.exists(path):
        raise RefusedError("there is no age key, and nothing can be proven without one", where=path, hint=hint)
    if not local_wiring.keys(path).opens(recipients):
        what = f"its keys do not open what is encrypted for {listed(recipients)}"
        raise RefusedError(what, where=path, hint=hint)
    return path


# --- looking ---


def _host_names(sides: Sequence[Side]) -> list[str]:
    """What the manifest calls each machine. Raises RefusedError for two sides on one machine."""
    names = [importing.host_name(side.address.host if side.address else socket.gethostname()) for side in sides]
    for number, side in enumerate(sides):
        if side.address and names.count(names[number]) > 1:
            names[number] = f"{names[number]}-{side.address.port}"
    if len(set(names)) != len(names):
        twice = next(side.text for side, name in zip(sides, names, strict=True) if names.count(name) > 1)
        raise RefusedError("two sides are on one machine", where=twice, hint="Name a directory that holds both")
    return names


async def _look(
    machines: Sequence[Machine], sides: Sequence[Side], hosts: Sequence[str], progress: Progress
) -> list[Place]:
    done = 0

    async def one(machine: Machine, side: Side, host: str) -> Place:
        nonlocal done
        inventory = await local_wiring.take_inventory(machine, side.path)
        place = await _resolved(machine, host, inventory)
        done += 1
        progress("looking at machines", done, len(machines))
        return place

    progress("looking at machines", 0, len(machines))
    return list(await asyncio.gather(*map(one, machines, sides, hosts)))


async def _resolved(machine: Machine, host: str, inventory: Inventory) -> Place:
    """What was found, every path exchanged for the one that it leads to; what has none is left out."""
    paths = [one.path for one in inventory.loose]
    for project in inventory.projects:
        paths += [*_parts(project), *(used.file.path for used in project.files)]
    real = await real_paths(machine, paths)
    left_out = {one.path: UNRESOLVED for one in inventory.loose if one.path not in real}
    projects = []
    for project in inventory.projects:
        lost = next((path for path in _parts(project) if path not in real), None)
        why = UNRESOLVED if lost is None else f"{lost}, of its project, {UNRESOLVED}"
        left_out |= {one.file.path: why for one in project.files if lost is not None or one.file.path not in real}
        if lost is None:
            projects.append(_moved(project, real))
    loose = tuple(replace(one, path=real[one.path]) for one in inventory.loose if one.path in real)
    return Place(host, replace(inventory, projects=tuple(projects), loose=loose), left_out)


def _parts(project: FoundProject) -> tuple[str, ...]:
    directory = [project.project_directory] if project.project_directory else []
    return project.directory, *project.compose_files, *project.main_files, *project.env_files, *directory


def _moved(project: FoundProject, real: Mapping[str, str]) -> FoundProject:
    files = [one for one in project.files if one.file.path in real]
    return replace(
        project,
        directory=real[project.directory],
        compose_files=tuple(real[path] for path in project.compose_files),
        main_files=tuple(real[path] for path in project.main_files),
        env_files=tuple(real[path] for path in project.env_files),
        project_directory=real.get(project.project_directory, ""),
        files=tuple(replace(one, file=replace(one.file, path=real[one.file.path])) for one in files),
    )


def _nothing(found: Draft, places: Sequence[Place]) -> RefusedError:
    said = [f"{one.path}: {one.why}" for one in found.left_out]
    said += [text for place in places for text in (*place.inventory.unread, *place.inventory.left_out)]
    said += [project.problem for place in places for project in place.inventory.projects if project.problem]
    hint = "; ".join(said[:10]) or "Name the directory of a Compose project, or an env file"
    return RefusedError("found no file to import", where=listed([place.inventory.place for place in places]), hint=hint)


# --- encrypting ---


async def _encrypt(repository: _Repository, found: Draft, progress: Progress) -> tuple[Draft, dict[str, bytes]]:
    """The sources as they are committed, each proven to decrypt to the file's bytes; and the draft with the formats
    that it came to."""
    key, done = repository.key, 0
    progress("encrypting", 0, len(found.files))
    names = [one.source for one in found.files]

    async def one(taken: Taken) -> tuple[Taken, bytes]:
        nonlocal done
        result = await _encrypted(repository, key, taken, names)
        done += 1
        progress("encrypting", done, len(found.files))
        return result

    results = await asyncio.gather(*map(one, found.files))
    return replace(found, files=tuple(taken for taken, _ in results)), {taken.source: data for taken, data in results}


async def _encrypted(
    repository: _Repository, key: local_wiring.Keys, taken: Taken, names: Sequence[str]
) -> tuple[Taken, bytes]:
    if taken.format is Format.PLAIN:
        return taken, taken.file.data.reveal()
    kept = repository.tree.files.get(f"{repository.environment}/{taken.source}")
    if kept is not None and await _holds(key, repository, taken, kept):
        return taken, kept  # the same values: nothing to review
    if taken.format is Format.DOTENV:
        with contextlib.suppress(RefusedError):
            name = repository.path(taken.source)
            data = await key.encrypt(name, taken.file.data, repository.recipients, Format.DOTENV)
            if await key.decrypt(name, data) == taken.file.data:
                return taken, data
        taken = importing.as_binary(taken, "what sops' dotenv gives back has other bytes", names)
    name = repository.path(taken.source)
    data = await key.encrypt(name, taken.file.data, repository.recipients, Format.BINARY)
    if await key.decrypt(name, data) != taken.file.data:
        hint = "Leave it out with --exclude, and report this"
        raise RefusedError("what sops wrote does not decrypt to the file's bytes", where=taken.file.path, hint=hint)
    return taken, data


async def _holds(key: local_wiring.Keys, repository: _Repository, taken: Taken, data: bytes) -> bool:
    """Whether a source that is in git already decrypts to the file, for the same recipients."""
    return await key.holds(repository.path(taken.source), data, taken.file.data, repository.recipients)


# --- all that is committed ---


async def _everything(repository: _Repository, found: Draft, sources: Mapping[str, bytes]) -> dict[str, bytes | None]:
    """Path → content, None for what goes. Raises RefusedError where `reconciler check` would find an error in it."""
    below = repository.tree.files
    there = {name for name in below if name.startswith("contracts/")}
    contracts = render.contracts(found, there, repository.earlier)
    new: dict[str, bytes | None] = {f"{found.environment}/{name}": data for name, data in sources.items()}
    new[f"{found.environment}/{MANIFEST}"] = render.manifest(found, contracts.by_source)
    new[f"{found.environment}/env.example"] = importing.example(found.files).encode()
    new |= contracts.files
    gone = (f"{found.environment}/{name}" for name in repository.earlier.sources)
    new |= {path: None for path in gone if path in below and path not in new}
    if ".gitattributes" not in below:
        new[".gitattributes"] = ATTRIBUTES.encode()
    files = {posixpath.join(repository.directory, name): data for name, data in new.items()}
    config, data = _sops_config(repository)
    await _require_clean(repository, found.environment, new, {**repository.configs, config: data})
    return files | ({config: data} if repository.configs.get(config) != data else {})


def _sops_config(repository: _Repository) -> tuple[str, bytes]:
    """The .sops.yaml that governs the environment, with a rule for it."""
    environment = posixpath.join(repository.directory, repository.environment)
    found = governed(posixpath.join(environment, "any.env"), repository.configs)
    config = found.config or SOPS_CONFIG
    if found.rule is not None:
        return config, repository.configs[config]
    relative = _relative(environment, config)
    data = with_rule(repository.configs.get(config), relative, repository.recipients)
    if data is None:
        raise missing_rule(config, environment, relative)
    return config, data


async def _require_clean(
    repository: _Repository, environment: str, new: Mapping[str, bytes | None], configs: Mapping[str, bytes]
) -> None:
    """Raises RefusedError for what every server, or the next pull request, would stumble over."""
    merged = {**repository.tree.files, **new}
    inside = f"{repository.directory}/"
    above = {}
    for path, data in configs.items():
        if path.startswith(inside):
            merged[path.removeprefix(inside)] = data
        else:
            above[posixpath.relpath(path, repository.directory)] = data
    tree = Tree({path: data for path, data in merged.items() if data is not None}, repository.tree.odd, above)
    tools = local_wiring.tools(None, lambda done, of: None)
    report = await apply_rules(tree, repository.directory, tools, only=[environment])
    errors = [one for one in report.findings if one.rule.severity is Severity.ERROR]
    if errors:
        said = "\n".join(f"{one.path}:{one.line}: {one.rule.id}: {one.message}" for one in errors[:20])
        hint = "Mend it on the server or in git, or leave the file out with --exclude. Nothing was committed"
        raise RefusedError(f"`reconciler check` would refuse this:\n{said}", hint=hint)
