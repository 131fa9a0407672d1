"""Files with age keys: creates one that only its owner may read, and reads the public keys of one."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from dataclasses import dataclass

from reconciler.core.errors import KeyUnavailableError, RefusedError


def make_age_key_file(path: str) -> str:
    """Create a key file at ``path``, 0600, atomically; return the public key.

    Raises RefusedError where the path exists already, or cannot be written.
    """
    from pyrage import x25519

    identity = x25519.Identity.generate()
    public = str(identity.to_public())
    new = f"{path}.new"
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(f"# public key: {public}\n{identity}\n")
                file.flush()
                os.fsync(descriptor)
            os.link(new, path)  # unlike a rename, this never overwrites
        finally:
            os.unlink(new)
    except FileExistsError as error:
        hint = "Name another file with --age-key-file; a key is never overwritten"
        raise RefusedError("exists already", where=str(error.filename2 or error.filename), hint=hint) from None
    except OSError as error:
        reason = (error.strerror or "unknown reason").lower()
        hint = "Name another path with --age-key-file"
        raise RefusedError(f"the key cannot be written ({reason})", where=path, hint=hint) from None
    return public


_KEY_FILE_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class AgeIdentities:
    """What an age key file contains, without secrets.

    ``recipients`` are the public keys, sorted; ``others`` counts identities whose public key we cannot derive
    (plugins). ``fingerprint`` changes with any of them.
    """

    recipients: tuple[str, ...]
    others: int
    fingerprint: str


class AgeKeyFile:
    """The file with our age identities ("": none is configured). It is reread when it changes."""

    def __init__(self, path: str) -> None:
        self.path = path and os.path.abspath(path)  # sops runs in /
        self._state: tuple[int, ...] = ()
        self._identities = AgeIdentities((), 0, "")

    def identities(self) -> AgeIdentities:
        """What the file contains. Raises KeyUnavailableError."""
        if not self.path:
            raise KeyUnavailableError(
                "no age key is configured",
                hint="Set decryption.age_key_file in the server configuration; age-keygen creates a key",
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
            f"the age key is not usable: {reason}",
            where=self.path,
            hint=f"decryption.age_key_file must name a file of mode 0600 that uid {os.geteuid()} owns",
        )


def _read_regular(path: str, status: os.stat_result) -> str:
    if not stat.S_ISREG(status.st_mode):  # opening a named pipe would block forever
        raise OSError(errno.EINVAL, "it is not a regular file")
    with open(path, "rb") as file:
        return file.read(_KEY_FILE_BYTES).decode("utf-8", errors="replace")


def _parse_identities(path: str, text: str) -> AgeIdentities:
    """Given the text of a key file, return its public keys. As strict as sops, which refuses all for one bad line."""
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
        raise KeyUnavailableError("holds no age key", where=path, hint="age-keygen creates such a file")
    public = "\n".join(sorted(recipients | plugins))
    return AgeIdentities(tuple(sorted(recipients)), len(plugins), hashlib.sha256(public.encode()).hexdigest()[:16])


def _public_key(identity: str) -> str | None:
    from pyrage import IdentityError, x25519

    if not identity.startswith("AGE-SECRET-KEY-1"):  # pyrage accepts lower case, sops does not
        return None
    try:
        return str(x25519.Identity.from_str(identity).to_public())
    except IdentityError:
        return None
