"""`reconciler set` and `reconciler edit`: change an encrypted source in a clone, then check its environment.

Everything that can refuse is asked before anything is written, and the new file must decrypt to what was meant.
"""

from __future__ import annotations

import asyncio
import os
import posixpath
from collections.abc import Callable
from dataclasses import dataclass, field

from reconciler.app.checks.command import check_with_keys
from reconciler.app.checks.run import CheckReport
from reconciler.app.checks.survey import Source, survey_environments
from reconciler.app.editing.target_names import find_source, target_id
from reconciler.app.wiring import clone
from reconciler.app.wiring.arguments import inside_repository
from reconciler.core.editing.source_edits import TextEdit, edited_text, set_value, unset_value
from reconciler.core.errors import RefusedError
from reconciler.core.model.plans import KeyChange
from reconciler.core.model.targets import Format, LiveFile, Parser
from reconciler.core.secret import Secret
from reconciler.core.sops.ciphertext import Ciphertext
from reconciler.core.sops.key_mismatch import brief_keys


@dataclass(frozen=True, slots=True)
class EditRequest:
    """``target`` as the user names it; ``path`` leads from the repository's top to its environments."""

    target: str
    path: str
    key_file: str | None


@dataclass(frozen=True, slots=True)
class EditResult:
    """``path`` is the source's, from the working directory. ``report`` is None where nothing was written. A file
    without keys has changed as a ``whole``."""

    target: str
    path: str
    keys: KeyChange = field(default_factory=KeyChange)
    whole: bool = False
    blank_lines: int = 0
    report: CheckReport | None = None


@dataclass(frozen=True, slots=True)
class _OpenSource:
    """A source that our key opens. ``path`` is absolute, ``name`` is what messages call it."""

    source: Source
    directory: str
    path: str
    name: str
    keys: clone.Keys
    key_sources: clone.KeySources
    file: LiveFile
    cipher: Ciphertext
    text: Secret

    @property
    def target(self) -> str:
        return target_id(self.source)

    @property
    def reader(self) -> Parser:
        """The parser for its lines; an opaque file may be dotenv to sops."""
        return Parser.COMPOSE if self.source.parser is Parser.OPAQUE else self.source.parser


def set_key(request: EditRequest, key: str, ask: Callable[[], Secret] | None) -> EditResult:
    """Give a key of the target the value that ``ask`` returns, or remove the key (None). Only its own ciphertext
    changes. Raises RefusedError, SourceError, KeyUnavailableError, DecryptFailedError."""
    source = asyncio.run(_open(request))
    if source.cipher.format is not Format.DOTENV or source.source.parser is Parser.OPAQUE:
        hint = f"Change the file as a whole: `reconciler edit {source.target}`"
        raise RefusedError("reconciler does not know its keys", where=source.target, hint=hint)
    git = source.text.reveal()
    if ask is None:
        edit = unset_value(source.target, git, key, source.reader)
        keys = KeyChange(removed=(key,))
    else:
        known = key in {entry.key for entry in source.cipher.entries}
        change = set_value(source.target, git, key, ask(), source.reader)
        if change is None:
            return EditResult(source.target, source.name)
        edit, keys = change, KeyChange(changed=(key,)) if known else KeyChange(added=(key,))
    data = asyncio.run(source.keys.amend(source.name, source.file.data.reveal(), {edit.label: edit.value}))
    asyncio.run(_write(source, data, edit.content))
    return EditResult(source.target, source.name, keys, report=_check(source))


def edit_source(request: EditRequest, ask_again: Callable[[str], bool]) -> EditResult:
    """Open the target's text in the user's editor and encrypt what it becomes. ``ask_again`` gets the reason why that
    is impossible, and returns whether to go back to the editor. Raises as ``set_key`` does."""
    source = asyncio.run(_open(request))
    with clone.private_directory() as directory:
        edit = _edited(source, directory, ask_again)
        if edit is None:
            return EditResult(source.target, source.name)
    whole = source.cipher.format is not Format.DOTENV
    report = _check(source)
    return EditResult(source.target, source.name, edit.keys, whole, edit.blank_lines, report)


def _edited(source: _OpenSource, directory: str, ask_again: Callable[[str], bool]) -> TextEdit | None:
    """What the source was changed to; None where nothing was."""
    text = source.text
    while True:
        text = clone.edit_text(directory, posixpath.basename(source.source.name), text)
        if text == source.text:
            return None
        try:
            edit = _text_edit(source, text)
            if edit.content == source.text:
                return None
            data = asyncio.run(source.keys.edit(source.name, source.file.data.reveal(), edit.content, directory))
            break
        except RefusedError as error:
            if not ask_again(str(error)):
                raise
    exact = source.cipher.format in (Format.DOTENV, Format.BINARY)
    asyncio.run(_write(source, data, edit.content if exact else None))
    return edit


def _text_edit(source: _OpenSource, text: Secret) -> TextEdit:
    """Raises RefusedError for text that the source cannot hold."""
    if not text.reveal().strip():
        hint = "Remove the target in environment.yaml, if that is meant"
        raise RefusedError("nothing would be left of it", where=source.target, hint=hint)
    if source.cipher.format is Format.DOTENV:
        return edited_text(source.text.reveal(), text.reveal(), source.reader)
    return TextEdit(text, KeyChange())


async def _open(request: EditRequest) -> _OpenSource:
    """Find and decrypt the source. Raises as ``set_key`` does."""
    top = clone.work_tree_top(os.getcwd())
    directory = os.path.join(top, inside_repository(request.path))
    tree = await clone.read_tree_of_clone(directory)
    parse_yaml = clone.tools(None, _no_progress).parse_yaml
    source = find_source(survey_environments(tree, "", parse_yaml=parse_yaml), request.target, directory)
    path = os.path.join(directory, source.path)
    name = _from_here(path)
    if not source.encrypted:
        raise RefusedError("is not encrypted", where=target_id(source), hint=f"Change {name} with any editor")
    if await clone.Clone(top).is_unmerged(path):
        hint = f"`reconciler merge {name}` merges it by key; then `git add {name}`"
        raise RefusedError("is in an unfinished merge", where=name, hint=hint)
    file = await clone.read_work_file(path)
    sources = clone.require_keys(request.key_file, _NAME_KEY)
    keys = clone.Keys(sources)
    cipher = keys.read(name, file.data.reveal(), source.parser)
    if cipher.output is not cipher.format:
        hint = f"Convert it to {cipher.output} first: `reconciler check` shows the command"
        raise RefusedError(f"is a {cipher.format.upper()} store", where=name, hint=hint)
    own = await keys.own()
    if not own.may_open(cipher.metadata.age):
        recipients = brief_keys(cipher.metadata.age) or "no age key"
        hint = f"{_NAME_KEY}; or have one of them add your key, {own.shown}: docs/keys.md"
        raise RefusedError(f"the keys in {own.place} do not open it; it is for {recipients}", where=name, hint=hint)
    text = await keys.decrypt(name, file.data.reveal(), source.parser)
    return _OpenSource(source, directory, path, name, keys, sources, file, cipher, text)


_NAME_KEY = "Name the private key file of one of its recipients with --age-key-file or SOPS_AGE_KEY_FILE"


def _from_here(path: str) -> str:
    return os.path.relpath(path)


async def _write(source: _OpenSource, data: bytes, content: Secret | None) -> None:
    """Replace the file, if what sops has written is for the same keys and decrypts to ``content`` (None: unknown)."""
    same_keys = source.keys.read(source.name, data, source.source.parser).metadata.age == source.cipher.metadata.age
    decrypted = await source.keys.decrypt(source.name, data, source.source.parser)
    if not same_keys or (content is not None and decrypted != content):
        problem = "what sops wrote is not what was asked for, so nothing was changed"
        raise RefusedError(problem, where=source.name, hint=f"Try `sops edit {source.name}`")
    await clone.replace_work_file(source.path, data, source.file)


def _check(source: _OpenSource) -> CheckReport:
    """What `check` finds in the environment now."""
    environments = [source.source.environment]
    return check_with_keys(_from_here(source.directory), environments, [], source.key_sources, _no_progress)


def _no_progress(done: int, of: int) -> None:
    """A bar would disturb the prompt and the editor."""
