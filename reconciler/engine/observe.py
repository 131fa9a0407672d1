"""Observes git (``Desired``) and the server (``Snapshot``). Reads only."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from reconciler.core.dotenv.grammar import EnvFileError, read_entries
from reconciler.core.dotenv.ignored_keys import without_keys
from reconciler.core.dotenv.readings import key_diff
from reconciler.core.errors import (
    BadCiphertextError,
    ChangedMeanwhileError,
    ForeignKeyError,
    GuardError,
    KeyUnavailableError,
    LiveFileError,
    ManifestError,
    ReconcilerError,
    SourceError,
    all_of,
)
from reconciler.core.model.plans import KeyChange, TargetState
from reconciler.core.model.records import Applied, RestoredFile
from reconciler.core.model.revisions import Blob, Revision
from reconciler.core.model.targets import (
    FileStamp,
    LiveFile,
    Manifest,
    Ownership,
    Parser,
    Target,
    environment_of,
    host_of,
)
from reconciler.core.ports import Ports
from reconciler.core.secret import Secret
from reconciler.core.sops.ciphertext import is_certainly_a_name
from reconciler.core.sops.file_format import formats
from reconciler.core.sops.key_mismatch import UnopenedError, gathered
from reconciler.engine.ahead import Ahead

MANIFEST_NAME = "environment.yaml"
# Each time, the store waits for the disk; a kill loses what was decrypted since the last one.
_REMEMBERED_TOGETHER = 50


@dataclass(frozen=True, slots=True)
class Desired:
    """One environment at one revision: the manifest, and by source the blob and the digest of its plaintext."""

    revision: Revision
    manifest: Manifest
    blobs: Mapping[str, Blob] = field(repr=False)
    digests: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The server at one moment: every target's states; live files, ownership and last writes by live path. ``stamps``
    are those of the live files before they were read, at ``stamped_at`` (monotonic seconds)."""

    desired: Desired
    states: tuple[TargetState, ...]
    live: Mapping[str, LiveFile | None] = field(repr=False)
    ownership: Mapping[str, Ownership]
    applied: Mapping[str, Applied]
    stamps: Mapping[str, FileStamp | None] = field(default_factory=dict)
    stamped_at: float = 0.0


async def load_desired(
    ports: Ports, environment: str, revision: Revision, plaintexts: Plaintexts, ahead: Ahead | None = None
) -> Desired:
    """Read the environment at ``revision``. Decrypts only what the store has no digest of; where that concerns one
    stack, it is resolved ``ahead`` meanwhile.

    Raises ManifestError, SourceError and its subclasses (all problems of all sources in one), KeyUnavailableError.
    """
    manifest = await read_manifest(ports, environment, revision)
    blobs: dict[str, Blob] = {}
    digests: dict[str, str] = {}
    problems: dict[str, ReconcilerError] = {}
    await ports.git.preload(
        revision.commit, [path_in_git(ports, environment, target.source) for target in manifest.targets]
    )
    sources: dict[str, tuple[str, str, str]] = {}
    for target in manifest.targets:
        try:
            blob = blobs[target.source] = await read_source(ports, revision, target)
            if target.encrypted:
                sources[target.source] = await _encrypted_source(target, blob, plaintexts)
            else:
                digests[target.source] = compared(ports, target, blob.data)
        except (SourceError, UnopenedError) as error:
            problems[target.source] = error
    known = ports.store.digests(sources.values())
    digests |= {name: known[source] for name, source in sources.items() if source in known}
    unknown = sources.keys() - digests.keys()
    encrypted = [target for target in manifest.targets if target.source in unknown]
    names = {target.stack for target in encrypted}
    changed = [stack for stack in manifest.stacks if stack.name in names]
    if ahead is not None and len(changed) == 1:
        ahead.resolve(changed[0])
    digests |= await _decrypted_digests(ports, encrypted, blobs, plaintexts, problems)
    if problems:
        in_order = [problems[target.source] for target in manifest.targets if target.source in problems]
        raise _together(gathered(in_order))
    return Desired(revision, manifest, blobs, digests)


async def read_manifest(ports: Ports, environment: str, revision: Revision) -> Manifest:
    """environment.yaml at the revision. Raises ManifestError."""
    path = path_in_git(ports, environment, MANIFEST_NAME)
    blob = await ports.git.read(revision.commit, path)
    if blob is None:
        hint = (
            "Add the file, or fix environment and repository.path in the server configuration "
            f"(branch {ports.settings.branch})"
        )
        raise ManifestError(f"not found at revision {revision.short}", where=path, hint=hint, id="missing-manifest")
    return ports.read_manifest(blob.data, environment, path)


def path_in_git(ports: Ports, environment: str, name: str = "") -> str:
    """The path of an environment's file in the repository; without a ``name``, of the environment's directory."""
    return "/".join(part for part in (ports.settings.repository_path, environment_of(environment), name) if part)


async def read_source(ports: Ports, revision: Revision, target: Target) -> Blob:
    """The target's source in git. Raises SourceError."""
    path = path_in_git(ports, target.environment, target.source)
    blob = await ports.git.read(revision.commit, path)
    if blob is None:
        hint = f"Commit the file, or remove the target {target.source} from {MANIFEST_NAME}"
        problem = f"the source does not exist at revision {revision.short}"
        raise SourceError(problem, where=path, hint=hint, id="missing-source")
    return blob


async def _encrypted_source(target: Target, blob: Blob, plaintexts: Plaintexts) -> tuple[str, str, str]:
    """What the digest of the source's plaintext is remembered by."""
    return blob.id, _kind(target, blob), await plaintexts.identity(target)


def _kind(target: Target, blob: Blob) -> str:
    """What the digest of a blob depends on besides the key."""
    as_compared = (target.parser.value, *target.ignore_keys) if target.ignore_keys else ()
    return " ".join([*formats(target.source, blob.data, target.parser), *as_compared])


async def _decrypted_digests(
    ports: Ports,
    targets: Sequence[Target],
    blobs: Mapping[str, Blob],
    plaintexts: Plaintexts,
    problems: dict[str, ReconcilerError],
) -> dict[str, str]:
    """Decrypt the sources, several at the same time, and remember their digests, which are returned by source. Adds
    to ``problems``, by source, why one cannot be."""
    digests: dict[str, str] = {}
    new: dict[tuple[str, str, str], str] = {}
    done = itertools.count(1)

    async def decrypt(target: Target) -> None:
        blob = blobs[target.source]
        try:
            digest = compared(ports, target, (await plaintexts.of(target, blob)).reveal())
        except (SourceError, UnopenedError) as error:
            problems[target.source] = error
            return
        digests[target.source] = new[await _encrypted_source(target, blob, plaintexts)] = digest
        ports.progress(f"decrypting ({next(done)} of {len(targets)})")
        if len(new) >= _REMEMBERED_TOGETHER:
            ports.store.remember_digests(new)
            new.clear()

    try:
        async with asyncio.TaskGroup() as group:
            for target in targets:
                group.create_task(decrypt(target))
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    finally:
        if new:
            ports.store.remember_digests(new)
    return digests


def compared(ports: Ports, target: Target, data: bytes) -> str:
    """The keyed digest by which the target's three states are compared, without the keys left to the server."""
    if target.ignore_keys:
        data = without_keys(data, target.parser, target.ignore_keys)
    return ports.digest(data)


class Plaintexts:
    """The plaintexts of sources, each decrypted once. Made for one reconciliation, so that none outlives it.

    ``failing`` gives, by target, why its current source cannot be decrypted (key, ciphertext, sops).
    """

    def __init__(self, ports: Ports) -> None:
        self._ports = ports
        self.failing: dict[str, str] = {}
        self._known: dict[tuple[str, str, Parser], Secret] = {}
        self._identity = ""

    async def identity(self, target: Target) -> str:
        """What our key is known by. Raises KeyUnavailableError."""
        if not self._identity:
            with self._recording(target):
                self._identity = await self._ports.decryptor.identity()
        return self._identity

    async def of(self, target: Target, blob: Blob, *, former: bool = False) -> Secret:
        """``former``: what git had before. Raises NotEncryptedError, BadCiphertextError, KeyUnavailableError …"""
        source = (target.source, blob.id, target.parser)
        if source not in self._known and not target.encrypted:
            return Secret(blob.data)
        if source not in self._known:
            with contextlib.nullcontext() if former else self._recording(target):
                self._known[source] = await _decrypt(self._ports, target, blob)
        return self._known[source]

    def replace(self, target: Target, blob: Blob, data: Secret) -> None:
        """Take ``data`` for the plaintext of the source from now on."""
        self._known[target.source, blob.id, target.parser] = data

    @contextlib.contextmanager
    def _recording(self, target: Target) -> Iterator[None]:
        try:
            yield
        except ReconcilerError as error:
            self.failing[target.id] = decrypt_reason(error)
            raise


async def _decrypt(ports: Ports, target: Target, blob: Blob) -> Secret:
    try:
        # Name it by its path in git: the commands in a message are typed with that.
        name = path_in_git(ports, target.environment, target.source)
        data = await ports.decryptor.decrypt(name, blob.data, target.parser)
    except ReconcilerError as error:
        ports.metrics.decrypted(target.environment, "failed", decrypt_reason(error))
        raise
    ports.metrics.decrypted(target.environment, "ok")
    return data


def decrypt_reason(error: ReconcilerError) -> str:
    """Whose fault it is: the key (ours, or what the source is encrypted for), the ciphertext, or sops itself."""
    if isinstance(error, KeyUnavailableError | ForeignKeyError):
        return "key"
    return "ciphertext" if isinstance(error, BadCiphertextError | SourceError) else "sops"


async def observe(ports: Ports, desired: Desired) -> Snapshot:
    """Read the live files of every target, and of targets that have left git.

    Raises LiveFileError (a link, a directory …) for a target that git has, GuardError for an owner that does not exist.
    """
    applied = ports.store.applied(desired.manifest.environment)
    paths = {target.path for target in desired.manifest.targets}
    orphans = orphans_of(desired.manifest, applied)
    targets = [*desired.manifest.targets, *orphans]
    stamps = await ports.host.stamps([target.path for target in targets])
    stamped_at = ports.clock.monotonic()
    live, unreadable = await _read_all(ports, targets, paths)
    owners = _other_owners(ports, desired.manifest.environment, {target.path for target in orphans})
    restored = {file.path: file for file in ports.store.environment(desired.manifest.environment).restored}
    ownership: dict[str, Ownership] = {}
    known_ids: dict[tuple[str | None, str | None], Ownership] = {}
    states = []
    for target in targets:
        file = live[target.path]
        names = (target.owner, target.group)
        ids = ownership[target.path] = known_ids[names] = known_ids.get(names) or await _ownership(ports, target)
        last = applied.get(target.path)
        states.append(
            TargetState(
                target=target,
                desired=desired.digests[target.source] if target.path in paths else None,
                live=None if file is None else compared(ports, target, file.data.reveal()),
                last=None if last is None else last.digest,
                live_mode=None if file is None else file.mode,
                last_mode=None if last is None else last.mode,
                ownership_ok=file is None or _owned(file, ids),
                restored_from=_restored_from(ports, restored.get(target.path), file),
                unreadable=unreadable.get(target.path, ""),
                owner=owners.get(target.path, ""),
            )
        )
    return Snapshot(desired, tuple(states), live, ownership, applied, stamps, stamped_at)


Fingerprint = tuple[str | None, str, float]
"""What git wants of a live file (its digest), the digest of the bytes it has, and when they were written (epoch
seconds; "" and 0 where there is no file)."""


def fingerprints(ports: Ports, snapshot: Snapshot) -> dict[str, Fingerprint]:
    """Every live file by its path, keys that are left to the server included."""
    files = ((state, snapshot.live[state.target.path]) for state in snapshot.states)
    return {
        state.target.path: (
            (state.desired, ports.digest(file.data.reveal()), file.modified_at) if file else (state.desired, "", 0.0)
        )
        for state, file in files
    }


async def require_unmoved(ports: Ports, expected: Mapping[str, Secret | None]) -> None:
    """Raise ChangedMeanwhileError if a live file has other content than expected (None: there is none)."""
    files = await ports.host.read_all(expected)
    for path, content in expected.items():
        if isinstance(file := files[path], LiveFileError):
            raise file
        if (None if file is None else file.data) != content:
            raise ChangedMeanwhileError("somebody changed the live file meanwhile", where=path)


async def _read_all(
    ports: Ports, targets: Sequence[Target], in_git: Collection[str]
) -> tuple[dict[str, LiveFile | None], dict[str, str]]:
    """The live files by path, and why an orphaned one cannot be read: that must not hold up the targets that git has.

    Raises LiveFileError for a path ``in_git``.
    """
    live: dict[str, LiveFile | None] = {}
    unreadable: dict[str, str] = {}
    files = await ports.host.read_all([target.path for target in targets])
    for path in (target.path for target in targets):
        file = files[path]
        if isinstance(file, LiveFileError):
            if path in in_git:
                raise file
            file, unreadable[path] = None, str(file)
        live[path] = file
    return live, unreadable


def _restored_from(ports: Ports, restored: RestoredFile | None, file: LiveFile | None) -> str:
    """The id of the backup from which the live file, as it is, was restored; "" if it was not."""
    same = restored is not None and restored.digest == ("" if file is None else ports.digest(file.data.reveal()))
    return restored.backup if restored is not None and same else ""


def _other_owners(ports: Ports, environment: str, paths: Collection[str]) -> dict[str, str]:
    """Which other environment of the same host has written these live paths and still names them."""
    owners: dict[str, str] = {}
    for name in ports.store.environments() if paths else ():
        if name != environment and host_of(name) == host_of(environment):
            orphaned = {orphan.path for orphan in ports.store.environment(name).orphans}
            owners |= dict.fromkeys((ports.store.applied(name).keys() & set(paths)) - orphaned, name)
    return owners


def orphans_of(manifest: Manifest, applied: Mapping[str, Applied]) -> list[Target]:
    """Targets that we once wrote, by live path, and git no longer names."""
    desired = {target.path for target in manifest.targets}
    return [
        Target(
            environment=manifest.environment,
            source=record.source,
            path=record.path,
            stack=record.stack,
            mode=record.mode,
            parser=Parser.OPAQUE,
            prune=record.prune,
        )
        for record in applied.values()
        if record.path not in desired
    ]


async def _ownership(ports: Ports, target: Target) -> Ownership:
    try:
        return await ports.host.ownership(target.owner, target.group)
    except GuardError as error:
        raise GuardError(error.what, where=target.id, hint=error.hint, id=error.id) from None


def _owned(file: LiveFile, desired: Ownership) -> bool:
    return desired.uid in (None, file.uid) and desired.gid in (None, file.gid)


def key_change(target: Target, desired: bytes | None, live: bytes | None) -> KeyChange:
    """The names of the keys by which ``live`` differs from ``desired``; empty if one cannot be read."""
    if target.parser is Parser.OPAQUE:
        return KeyChange()
    try:
        difference = key_diff(live, desired, parser=target.parser)
    except EnvFileError:
        return KeyChange()
    removed = named_keys(target, difference.removed, live)
    return replace(difference, removed=removed, cosmetic=difference.empty and None not in (desired, live))


def named_keys(target: Target, names: tuple[str, ...], live: bytes | None) -> tuple[str, ...]:
    """Names that only a live file has, fit to report: a line of a pasted secret can look like a name, so a name that is
    not certainly one is reported as its line number."""
    lines = {entry.key: entry for entry in read_entries(live or b"", target.parser)}
    return tuple(
        name if is_certainly_a_name(name, lines[name].template) else f"line {lines[name].line}" for name in names
    )


async def last_written(ports: Ports, target: Target, last: Applied, plaintexts: Plaintexts) -> bytes | None:
    """What we last wrote to a live file, from git; None if that is no longer known."""
    data = await git_had(ports, target, last, plaintexts)
    return data if data is not None and compared(ports, target, data) == last.digest else None


async def git_had(ports: Ports, target: Target, last: Applied, plaintexts: Plaintexts) -> bytes | None:
    """What git has in the commit that was last applied to a live file; None if that is no longer known."""
    blob = await ports.git.read(last.commit, path_in_git(ports, target.environment, last.source))
    if blob is None:
        return None
    return (await plaintexts.of(replace(target, source=last.source), blob, former=True)).reveal()


def _together(problems: list[ReconcilerError]) -> ReconcilerError:
    if len(problems) == 1:
        return problems[0]
    text, id = all_of(problems)
    return SourceError(text, id=id)
