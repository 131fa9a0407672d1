"""Which secrets somebody knows: values that were ever in a file for their key, and have not been replaced since."""

from __future__ import annotations

from dataclasses import dataclass

from reconciler.app.checks.contracts import open_book
from reconciler.app.checks.survey import survey_environments
from reconciler.app.recipients.tree import EncryptedTree, read_encrypted_tree
from reconciler.app.wiring import clone
from reconciler.app.wiring.arguments import inside_repository
from reconciler.core.errors import RefusedError
from reconciler.core.model.targets import Format
from reconciler.core.secrets.names import is_secret_name
from reconciler.core.sops.ciphertext import IV_CHARACTERS
from reconciler.core.text import listed, printable

REMOVED = "Recipient-removed"
"""The trailer of the commit that removed somebody: their key, and their name."""


@dataclass(frozen=True, slots=True)
class KnownValue:
    """A value as somebody knows it. ``key`` is "" for a file as a whole; ``since`` is when git first had the value
    (epoch seconds); ``secret`` is whether its name or its contract says that it is one."""

    file: str
    key: str
    since: float | None
    secret: bool


@dataclass(frozen=True, slots=True)
class KnownSecrets:
    """``values`` are those that ``name`` still knows, the oldest first; ``replaced`` counts those that they knew."""

    name: str
    key: str
    values: tuple[KnownValue, ...]

    @property
    def secrets(self) -> tuple[KnownValue, ...]:
        return tuple(value for value in self.values if value.secret)


async def known_secrets(path: str, name: str) -> KnownSecrets:
    """What ``name`` knows of the files at HEAD of the clone around the working directory; ``path`` leads from its top
    to the environments. Needs no key. Raises RefusedError for a name that neither .sops.yaml nor the history has."""
    top = clone.work_tree_top(".")
    head = await clone.CloneWriter(top).head()
    if head is None:
        raise RefusedError("has no commit yet", where=top)
    tree = await read_encrypted_tree(top, head, inside_repository(path))
    return await known_to(top, tree, await _key_of(top, head, tree, name), name)


async def _key_of(top: str, head: str, tree: EncryptedTree, name: str) -> str:
    """The public key of a member or former member. Raises RefusedError where nobody or several are meant."""
    key = tree.key_of(name)
    keys = {key} if key else set()
    for text in await clone.Clone(top).trailers(head, REMOVED):
        key, _, called = text.rpartition(" = ") if " = " in text else (text, "", "")
        if name == key or name.casefold() == called.strip().casefold() or (len(name) >= 8 and key.startswith(name)):
            keys.add(key)
    if len(keys) > 1:
        raise RefusedError(
            "several keys have had this name", where=printable(name), hint=f"Give one: {listed(sorted(keys))}"
        )
    if keys:
        return keys.pop()
    hint = "`reconciler recipients list` shows the names; a former one can be named by its public key"
    raise RefusedError(
        "is no recipient, nor was it removed by `reconciler recipients remove`", where=printable(name), hint=hint
    )


async def known_to(top: str, tree: EncryptedTree, key: str, name: str) -> KnownSecrets:
    """What the owner of the public ``key`` knows of the files of the tree."""
    first_seen, known = await clone.Clone(top).values_of(tree.head, key)
    marked = await _marked_secret(top, tree)
    values = []
    for file in tree.files:
        whole = file.cipher.format is Format.BINARY
        for entry in file.cipher.entries:
            iv = entry.iv[:IV_CHARACTERS]
            if iv and iv in known and not entry.comment:
                name_of = "" if whole else entry.key
                secret = whole or is_secret_name(entry.key) or (file.path, entry.key) in marked
                values.append(KnownValue(file.path, name_of, first_seen.get(iv), secret))
    values.sort(key=lambda value: (not value.secret, value.since or 0.0, value.file, value.key))
    return KnownSecrets(name, key, tuple(values))


async def _marked_secret(top: str, tree: EncryptedTree) -> set[tuple[str, str]]:
    """What contracts call secret (`writeOnly`), by file and key."""
    (files,) = await clone.Clone(top).trees([tree.head], tree.directory)
    survey = survey_environments(files, "", parse_yaml=clone.tools(None, lambda done, of: None).parse_yaml)
    notes = open_book(survey).notes_of(survey.sources)
    prefix = f"{tree.directory}/" if tree.directory else ""
    return {(prefix + path, key) for path, by_key in notes.items() for key, note in by_key.items() if note.secret}
