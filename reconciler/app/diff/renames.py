"""Recognises files of an environment that a commit has renamed, and says what becomes of their live files. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from reconciler.app.checks.survey import Source
from reconciler.app.config.manifest import Outline
from reconciler.core.dotenv.readings import RENAMED, likeness

_BY_PATH = 2.0  # the same live path says more than any likeness


def renamed_paths(
    before: Mapping[str, Source],
    after: Mapping[str, Source],
    variables: tuple[Mapping[str, Mapping[str, str]], Mapping[str, Mapping[str, str]]] = ({}, {}),
) -> dict[str, str]:
    """Given the sources of two commits by path, return the former path of each that was renamed in its environment.

    A source is the same if its live path is, or at least half of its content: of its ciphertexts, which stay as they
    are with the values; of its ``variables`` by path, where a key shows them; or of its lines.
    """
    removed = [source for path, source in before.items() if path not in after]
    added = [source for path, source in after.items() if path not in before]
    scores = sorted(
        (
            (_score(old, new, variables), old.path, new.path)
            for new in added
            for old in removed
            if old.environment == new.environment
        ),
        key=lambda score: (-score[0], *score[1:]),
    )
    former: dict[str, str] = {}
    for score, old, new in scores:
        if score >= RENAMED and new not in former and old not in former.values():
            former[new] = old
    return former


def _score(
    old: Source, new: Source, variables: tuple[Mapping[str, Mapping[str, str]], Mapping[str, Mapping[str, str]]]
) -> float:
    if old.outline and new.outline and (old.outline.path, old.outline.stack) == (new.outline.path, new.outline.stack):
        return _BY_PATH
    values = [known.get(source.path, {}) for source, known in zip((old, new), variables, strict=True)]
    return max(likeness(_parts(old), _parts(new)), likeness(*values))


def _parts(source: Source) -> dict[str, str]:
    """What a renamed file keeps: ciphertexts by name; of a plain file its lines."""
    if source.cipher is not None:
        return {entry.key: entry.encrypted for entry in source.cipher.entries if not entry.comment and entry.encrypted}
    lines = source.data.decode("utf-8", "replace").splitlines()
    return {line: "" for line in lines if line.strip()}


def fate_of(old: Outline | None, kept: Collection[str], environment: str) -> str:
    """What becomes of the live file of a target that leaves its path; "" where it stays a target (``kept`` paths)."""
    if old is None or old.path in kept:
        return ""
    if old.prune:
        return f"the live file {old.path} is deleted, after a backup (prune is set)"
    return (
        f"the live file {old.path} stays on the server (prune is not set): "
        f"`reconciler forget {environment}/{old.source} --delete` deletes it there after the merge"
    )
