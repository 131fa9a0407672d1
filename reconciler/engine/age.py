"""How old the secrets of an environment are: since when git has had the values that it has now. No key is needed."""

from __future__ import annotations

from reconciler.core.ciphertext import IV_CHARACTERS, Entry
from reconciler.core.model import Format, KeyAge, Revision, TargetAge
from reconciler.core.ports import Ports
from reconciler.engine.observe import read_manifest, read_source


async def secret_ages(ports: Ports, environment: str, revision: Revision) -> tuple[TargetAge, ...]:
    """The encrypted targets at ``revision``, each with its keys.

    A value that was there before is as old as it was then: a revert does not rotate a secret. What a history knew
    before it was rewritten counts too. Raises ManifestError, SourceError, GitUnreachableError, StoreUnavailableError.
    """
    manifest = await read_manifest(ports, environment, revision)
    await _learn(ports, revision.commit)
    found = []
    for target in manifest.targets:
        if target.encrypted:
            blob = await read_source(ports, revision, target)
            source = ports.decryptor.read(target.source, blob.data)
            entries = [entry for entry in source.entries if not entry.comment]
            found.append(TargetAge(target, _ages(ports, revision, entries, whole=source.format is Format.BINARY)))
    return tuple(found)


async def tell_ages(ports: Ports, environment: str, revision: Revision) -> None:
    """Have the metrics tell the age of each target's oldest secret. Raises as ``secret_ages`` does."""
    manifest = await read_manifest(ports, environment, revision)
    found = {one.target.id: one.oldest for one in await secret_ages(ports, environment, revision)}
    for target in manifest.targets:
        ports.metrics.rotated(environment, target.id, found.get(target.id))


async def _learn(ports: Ports, commit: str) -> None:
    """Read what the history has become since it was last read."""
    directory = ports.settings.repository_path
    known = ports.store.history_read(directory)
    if known != commit:
        seen = await ports.git.first_seen(commit, known, directory)
        ports.store.remember_first_seen(directory, commit, seen)


def _ages(ports: Ports, revision: Revision, entries: list[Entry], *, whole: bool) -> tuple[KeyAge, ...]:
    """A value that the history does not explain is as old as the revision that holds it."""
    ivs = {entry.iv[:IV_CHARACTERS] for entry in entries}
    seen = ports.store.first_seen(ivs)
    return tuple(
        KeyAge(
            "" if whole else entry.key,
            seen.get(entry.iv[:IV_CHARACTERS], revision.committed_at) if entry.iv else None,
        )
        for entry in entries
    )
