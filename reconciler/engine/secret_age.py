"""How old the secrets of an environment are: since when git has their current values. Needs no key."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from reconciler.core.errors import ReconcilerError
from reconciler.core.model.requests import KeyAge, SecretAges, TargetAge
from reconciler.core.model.revisions import Blob, Revision
from reconciler.core.model.runs import Phase
from reconciler.core.model.targets import Format, Target
from reconciler.core.ports import Ports
from reconciler.core.sops.ciphertext import IV_CHARACTERS, EncryptedEntry
from reconciler.engine.memory import Memory
from reconciler.engine.observe import Desired, read_manifest, read_source
from reconciler.engine.phases import phase


async def secret_ages(ports: Ports, environment: str, revision: Revision) -> tuple[TargetAge, ...]:
    """The encrypted targets at ``revision``, each with its keys.

    Raises ManifestError, SourceError, GitUnreachableError, StoreUnavailableError, and RefusedError for a history that
    is too long.
    """
    manifest = await read_manifest(ports, environment, revision)
    encrypted = [target for target in manifest.targets if target.encrypted]
    blobs = {target.source: await read_source(ports, revision, target) for target in encrypted}
    return await _ages_of(ports, revision, encrypted, blobs)


async def keep_ages_published(ports: Ports, memory: Memory) -> None:
    """Publish how old the secrets of the desired revision are, and keep it in ``memory``, once per subtree: between
    reconciliations, which it can neither delay nor fail."""
    desired, now = memory.desired, ports.clock.monotonic()
    known = memory.ages.revision.subtree if memory.ages else ""
    if desired is None or desired.revision.subtree == known or now < memory.ages_retried_at:
        return
    try:
        with phase(ports, Phase.AGE, "reading how old the secrets are"):
            memory.ages = SecretAges(desired.revision, await _publish_ages(ports, desired))
    except ReconcilerError:  # `reconciler age` reports it
        memory.retry_ages(now)


async def _publish_ages(ports: Ports, desired: Desired) -> tuple[TargetAge, ...]:
    """Publish the age of each target's oldest secret. Raises as ``secret_ages`` does."""
    targets = desired.manifest.targets
    encrypted = [target for target in targets if target.encrypted]
    ages = await _ages_of(ports, desired.revision, encrypted, desired.blobs)
    oldest = {age.target.id: age.oldest for age in ages}
    for target in targets:
        ports.metrics.rotated(target.environment, target.id, oldest.get(target.id))
    return ages


async def _ages_of(
    ports: Ports, revision: Revision, targets: Sequence[Target], blobs: Mapping[str, Blob]
) -> tuple[TargetAge, ...]:
    """A value that git had before is as old as it was then: a revert does not rotate a secret. What was seen before a
    history was rewritten counts too."""
    await _read_history(ports, revision.commit)
    ages = []
    for target in targets:
        await asyncio.sleep(0)  # who asks the daemon meanwhile gets an answer
        source = ports.decryptor.read(target.source, blobs[target.source].data, target.parser)
        entries = [entry for entry in source.entries if not entry.comment]
        ages.append(TargetAge(target, _keys(ports, revision, entries, whole=source.format is Format.BINARY)))
    return tuple(ages)


async def _read_history(ports: Ports, commit: str) -> None:
    """Read the commits that are new since the last time."""
    directory = ports.settings.repository_path
    known = ports.store.history_read(directory)
    if known != commit:
        seen = await ports.git.first_seen(commit, known, directory)
        ports.store.remember_first_seen(directory, commit, seen)


def _keys(ports: Ports, revision: Revision, entries: Sequence[EncryptedEntry], *, whole: bool) -> tuple[KeyAge, ...]:
    """A value that is not in the history is as old as the revision that holds it."""
    ivs = {entry.iv[:IV_CHARACTERS] for entry in entries}
    seen = ports.store.first_seen(ivs)
    return tuple(
        KeyAge(
            "" if whole else entry.key, seen.get(entry.iv[:IV_CHARACTERS], revision.committed_at) if entry.iv else None
        )
        for entry in entries
    )
