"""`reconciler recipients`: who can read which files, and one commit that lets somebody in or out.

Works on HEAD and commits to a new branch; the working tree stays as it is. Every file below the rules that change is
encrypted for their recipients before there is a branch: none is left behind. An interrupted run continues.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from reconciler.app.checks.recipients import read_config
from reconciler.app.recipients.actions import RecipientAction
from reconciler.app.recipients.known_secrets import REMOVED, KnownSecrets, known_to
from reconciler.app.recipients.sops_rules import with_recipient, without_recipient
from reconciler.app.recipients.tree import EncryptedFile, EncryptedTree, RuleId, read_encrypted_tree
from reconciler.app.wiring import clone
from reconciler.app.wiring.arguments import inside_repository
from reconciler.core.errors import ReconcilerError, RefusedError
from reconciler.core.model.targets import Parser
from reconciler.core.sops.creation_rules import mistyped
from reconciler.core.sops.key_mismatch import brief_keys
from reconciler.core.text import listed, printable

_KEPT_EVERY = 25  # files; what an interruption loses at most
_RECIPIENT = re.compile(r"age1[0-9a-z]+|ssh-(?:ed25519|rsa) [A-Za-z0-9+/]+={0,2}(?: .*)?")
_NAME = re.compile(r"[A-Za-z0-9][\w.@-]{0,59}")

CountProgress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Recipient:
    """Somebody who can read files: ``name`` as .sops.yaml has it, or "". ``rules`` are those that name the key,
    ``unlisted`` files that are for it although their rule does not, ``lacking`` files that are not although it does."""

    key: str
    name: str
    rules: tuple[str, ...]
    files: int
    unlisted: tuple[str, ...]
    lacking: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RecipientRequest:
    """``name`` and ``key`` as the user gives them; ``path`` leads from the repository's top to its environments."""

    action: RecipientAction
    name: str
    key: str
    environments: tuple[str, ...]
    branch: str | None
    path: str
    key_file: str | None


@dataclass(frozen=True, slots=True)
class RecipientChange:
    """The commit that was made. ``continued`` counts files that an interrupted run had done; ``known`` is what somebody
    who was removed knows."""

    action: RecipientAction
    name: str
    key: str
    rules: tuple[str, ...]
    files: tuple[str, ...]
    continued: int
    branch: str
    commit: str
    known: KnownSecrets | None


async def list_recipients(path: str) -> tuple[Recipient, ...]:
    """Everybody who can read an encrypted file at HEAD. Needs no key. Raises RefusedError."""
    top, head = await _head()
    tree = await read_encrypted_tree(top, head, inside_repository(path))
    names = tree.names()
    keys = dict.fromkeys([*tree.recipients(), *(key for file in tree.files for key in file.cipher.metadata.age)])
    return tuple(_recipient(tree, key, names.get(key, "")) for key in keys)


def _recipient(tree: EncryptedTree, key: str, name: str) -> Recipient:
    rules = {
        (path, rule.number): rule.path_regex or "everything"
        for path, config in tree.configs.items()
        for rule in config.rules
        if key in rule.recipients
    }
    readable = [file for file in tree.files if key in file.cipher.metadata.age]
    unlisted = tuple(file.path for file in readable if file.rule and file.rule not in rules)
    lacking = tuple(file.path for file in tree.files if file.rule in rules and key not in file.cipher.metadata.age)
    return Recipient(key, name, tuple(rules.values()), len(readable), unlisted, lacking)


async def change_recipients(request: RecipientRequest, progress: CountProgress) -> RecipientChange:
    """Let somebody in or out. Raises RefusedError, KeyUnavailableError, DecryptFailedError; then there is no branch."""
    top, head = await _head()
    tree = await read_encrypted_tree(top, head, inside_repository(request.path))
    adds = request.action is RecipientAction.ADD
    key, name = _newcomer(tree, request) if adds else _member(tree, request)
    rules = tree.rules_of(request.environments) if request.environments else _all_rules(tree, key, adds=adds)
    configs = _new_configs(tree, rules, key, name, adds=adds)
    after = _rules_after(tree, configs)
    files = _files_of(tree, rules, key, whole=not adds and not request.environments)
    writer = clone.CloneWriter(top)
    slug = re.sub(r"[^A-Za-z0-9.-]+", "-", name or key[:16]).strip("-.")
    branch = request.branch or f"recipients/{request.action}-{slug}"
    await writer.require_room(branch, [*configs, *(file.path for file in files)])
    keys = clone.Keys(clone.require_keys(request.key_file, _NAME_KEY))
    rewriter = _Rewriter(keys, writer, tree, configs, branch)
    done = await rewriter.rewrite(files, after, rotate=not adds, progress=progress)
    if not done and all(tree.configs[path].text.encode() == data for path, data in configs.items()):
        raise RefusedError(
            "can read all of that already", where=name, hint="`reconciler recipients` lists who can read what"
        )
    patterns = tuple(tree.configs[path].rules[number].path_regex or "everything" for path, number in sorted(rules))
    commit = await writer.commit(head, {**configs, **done}, _message(request.action, key, name, patterns))
    await writer.make_branch(branch, commit, None)
    await rewriter.forget()
    known = None if adds else await known_to(top, tree, key, name or key)
    paths = tuple(file.path for file in files)
    return RecipientChange(request.action, name, key, patterns, paths, rewriter.continued, branch, commit, known)


_NAME_KEY = "Name the private key file of one of the recipients with --age-key-file or SOPS_AGE_KEY_FILE"


async def _head() -> tuple[str, str]:
    top = clone.work_tree_top(os.getcwd())
    head = await clone.CloneWriter(top).head()
    if head is None:
        raise RefusedError("has no commit yet", where=top, hint="Commit .sops.yaml and the encrypted files first")
    return top, head


def _newcomer(tree: EncryptedTree, request: RecipientRequest) -> tuple[str, str]:
    """The key and name of somebody to add. Raises RefusedError."""
    if not _NAME.fullmatch(request.name) or _RECIPIENT.fullmatch(request.name):
        hint = "Such as `reconciler recipients add ada age1… --environment production`"
        raise RefusedError("give a name and a public key", where=printable(request.name) or "add", hint=hint)
    key = request.key.strip()
    if not _RECIPIENT.fullmatch(key) or mistyped([key]):
        hint = "`age-keygen -y KEYFILE` prints it; of an SSH key, it is the line of the .pub file"
        raise RefusedError("is not a public key (age1…, ssh-ed25519 …)", where=printable(key) or "KEY", hint=hint)
    key = " ".join(key.split()[:2])
    called = tree.names().get(key)
    if called and called.casefold() != request.name.casefold():
        raise RefusedError(f"has the name {called} already", where=brief_keys([key]), hint="Use that name")
    if any(name.casefold() == request.name.casefold() and known != key for known, name in tree.names().items()):
        raise RefusedError("has another key already", where=request.name, hint="Remove that first, or use another name")
    return key, request.name


def _member(tree: EncryptedTree, request: RecipientRequest) -> tuple[str, str]:
    """The key and name of somebody to remove. Raises RefusedError."""
    key = tree.key_of(request.key or request.name)
    if key is None:
        key = next((key for file in tree.files for key in file.cipher.metadata.age if key == request.name), None)
    if key is None:
        hint = "`reconciler recipients list` shows the names"
        raise RefusedError("is no recipient here", where=printable(request.name) or "remove", hint=hint)
    return key, tree.names().get(key, "")


def _all_rules(tree: EncryptedTree, key: str, *, adds: bool) -> set[RuleId]:
    if adds:
        hint = f"Name them with --environment: {listed(_environments(tree)) or 'there are none'}"
        raise RefusedError("say for which environments", where="recipients add", hint=hint)
    return {
        (path, rule.number) for path, config in tree.configs.items() for rule in config.rules if key in rule.recipients
    }


def _environments(tree: EncryptedTree) -> list[str]:
    prefix = f"{tree.directory}/" if tree.directory else ""
    inside = (file.path.removeprefix(prefix) for file in tree.files if file.path.startswith(prefix))
    return list(dict.fromkeys(path.partition("/")[0] for path in inside if "/" in path))


def _new_configs(tree: EncryptedTree, rules: set[RuleId], key: str, name: str, *, adds: bool) -> dict[str, bytes]:
    texts = {}
    for path in sorted({path for path, _ in rules}):
        numbers = {number for config, number in rules if config == path}
        config = tree.configs[path]
        text = with_recipient(config, numbers, key, name) if adds else without_recipient(config, numbers, key)
        texts[path] = text.encode()
    return texts


def _rules_after(tree: EncryptedTree, configs: Mapping[str, bytes]) -> dict[RuleId, frozenset[str]]:
    """For whom each rule encrypts afterwards. Raises RefusedError where that would be nobody."""
    texts = {path: configs.get(path, config.text.encode()) for path, config in tree.configs.items()}
    rules = {(path, rule.number): rule for path, data in texts.items() for rule in read_config(data)}
    for (path, number), rule in rules.items():
        if not rule.recipients and tree.configs[path].rules[number].recipients:
            hint = "Add somebody else first"
            raise RefusedError(f"creation_rules[{number}] would have no recipient left", where=path, hint=hint)
    return {identity: rule.recipients for identity, rule in rules.items()}


def _files_of(tree: EncryptedTree, rules: set[RuleId], key: str, *, whole: bool) -> list[EncryptedFile]:
    """Every file below the rules; if somebody goes as a ``whole``, also what is for them against its rule."""
    files = [file for file in tree.files if file.rule in rules or (whole and key in file.cipher.metadata.age)]
    if lost := [file.path for file in files if file.rule is None]:
        hint = "Add a rule for it to .sops.yaml, and commit that first"
        raise RefusedError(f"no rule says for whom to encrypt {listed(lost)}", where=tree.directory, hint=hint)
    if not files and not rules:
        raise RefusedError("nothing is encrypted for that key", where=brief_keys([key]))
    return files


class _Rewriter:
    """Encrypts files for other recipients, two at a time, and keeps what is done on no branch meanwhile."""

    def __init__(
        self, keys: clone.Keys, writer: clone.CloneWriter, tree: EncryptedTree, configs: Mapping[str, bytes], name: str
    ) -> None:
        self._keys = keys
        self._writer = writer
        self._tree = tree
        self._configs = configs
        self._name = name
        self._done: dict[str, bytes] = {}
        self.continued = 0

    async def rewrite(
        self,
        files: Sequence[EncryptedFile],
        after: Mapping[RuleId, frozenset[str]],
        *,
        rotate: bool,
        progress: CountProgress,
    ) -> dict[str, bytes]:
        """The new content of each file that changes. Raises RefusedError where one cannot be opened or changed."""
        desired = {file.path: after[file.rule] for file in files if file.rule}
        own = await self._keys.own()
        opened = [file for file in files if own.may_open(file.cipher.metadata.age)]
        if closed := [file.path for file in opened if not own.may_open(sorted(desired[file.path]))]:
            hint = "Somebody who stays removes you, with their own key"
            raise RefusedError("your own key would not open it any more", where=closed[0], hint=hint)
        self._done = await self._earlier(desired) if rotate or files else {}
        self.continued = len(self._done)
        current = {file.path for file in files if not rotate and set(file.cipher.metadata.age) == desired[file.path]}
        waiting = [file for file in files if file.path not in self._done and file.path not in current]
        progress(len(files) - len(waiting), len(files))
        for start in range(0, len(waiting), _KEPT_EVERY):
            portion = waiting[start : start + _KEPT_EVERY]
            results = await asyncio.gather(
                *(self._rewritten(file, desired[file.path], rotate=rotate) for file in portion), return_exceptions=True
            )
            for file, result in zip(portion, results, strict=True):
                if isinstance(result, bytes):
                    self._done[file.path] = result
            await self._keep()
            if errors := [result for result in results if isinstance(result, BaseException)]:
                raise _as_refusal(errors[0])
            progress(len(files) - len(waiting) + start + len(portion), len(files))
        return self._done

    async def _rewritten(self, file: EncryptedFile, recipients: Collection[str], *, rotate: bool) -> bytes:
        before = await self._keys.decrypt(file.path, file.data)
        data = await self._keys.rekey(file.path, file.data, sorted(recipients), rotate=rotate)
        if await self._keys.decrypt(file.path, data) != before:
            hint = f"Try `sops updatekeys {file.path}`, and report this"
            raise RefusedError("what sops wrote decrypts to something else", where=file.path, hint=hint)
        return data

    async def _keep(self) -> None:
        files = {**self._configs, **self._done}
        commit = await self._writer.commit(self._tree.head, files, "Unfinished\n", signed=False)
        await self._writer.keep_unfinished(self._name, commit)

    async def _earlier(self, desired: Mapping[str, Collection[str]]) -> dict[str, bytes]:
        """What an interrupted run of the same change has done."""
        commit = await self._writer.unfinished(self._name)
        if commit is None:
            return {}
        repository = clone.Clone(self._writer.top)
        parent, _ = await repository.resolve(f"{commit}^", commit, from_fork_point=False)
        (tree,) = await repository.trees([commit], "")
        same = all(tree.files.get(path) == data for path, data in self._configs.items())
        if parent != self._tree.head or not same:
            return {}
        before = {file.path: file.data for file in self._tree.files}
        changed = {path: tree.files[path] for path in desired if tree.files.get(path) not in (None, before[path])}
        own = await self._keys.own()
        return {
            path: data
            for path, data in changed.items()
            if set(self._keys.read(path, data, Parser.OPAQUE).metadata.age) == set(desired[path])
            and own.may_open(self._keys.read(path, data, Parser.OPAQUE).metadata.age)
        }

    async def forget(self) -> None:
        if await self._writer.unfinished(self._name):
            await self._writer.keep_unfinished(self._name, None)


def _as_refusal(error: BaseException) -> BaseException:
    if isinstance(error, ReconcilerError):
        hint = ". ".join(part for part in (error.hint, "The same command continues where this one ended") if part)
        return RefusedError(error.what, where=error.where, hint=hint, id=error.id)
    return error


def _message(action: RecipientAction, key: str, name: str, patterns: Sequence[str]) -> str:
    called = name or brief_keys([key])
    rules = "".join(f"- {pattern}\n" for pattern in patterns)
    if action is RecipientAction.ADD:
        return (
            f"Encrypt for {called} too\n\nBy the rules of .sops.yaml for\n{rules}\nRecipient-added: {key} = {called}\n"
        )
    body = "Every file has a new data key. What they know stays known until it is replaced:\n"
    more = f"`reconciler age --known-to {called}` lists it.\n\nBy the rules of .sops.yaml for\n"
    return f"Encrypt for {called} no longer\n\n{body}{more}{rules}\n{REMOVED}: {key} = {called}\n"
