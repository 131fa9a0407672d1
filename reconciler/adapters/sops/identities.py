"""Reads age identities: age's own, post-quantum ones, those of plugins, and SSH keys."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
import shutil
from dataclasses import dataclass

from reconciler.core.errors import KeyUnavailableError
from reconciler.core.secret import Secret
from reconciler.core.sops.bech32 import decode_bech32, encode_bech32
from reconciler.core.sops.key_mismatch import public_key

_NATIVE, _HYBRID, _PLUGIN = "age-secret-key-", "age-secret-key-pq-", "AGE-PLUGIN-"
_PEM = b"-----BEGIN "
_ENCRYPTED = b"-----BEGIN AGE ENCRYPTED FILE-----"
_AGE_FILE = b"age-encryption.org/"
_NOTED_KEY = re.compile(r"\bage1[0-9a-z]{20,}")
_OPENSSH = b"openssh-key-v1\x00"
_SSH_KINDS = ("ssh-ed25519", "ssh-rsa")


@dataclass(frozen=True, slots=True)
class Identity:
    """``text`` is a line of an age key file or, with ``ssh``, a whole SSH key. ``recipient`` is its public key; ""
    where only its ``plugin`` knows it."""

    text: Secret
    recipient: str
    plugin: str = ""
    ssh: bool = False


@dataclass(frozen=True, slots=True)
class KeyText:
    """What a key file holds: usable identities, the public keys that its comments name, and what is left out."""

    identities: tuple[Identity, ...]
    noted: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def read_key_text(place: str, data: bytes) -> KeyText:
    """Given what a key file holds, return its identities. ``place`` is for messages.

    An identity that cannot be used is left out with a warning: sops would refuse all for it. Raises KeyUnavailableError
    where none is left.
    """
    if data.startswith((_ENCRYPTED, _AGE_FILE)):
        hint = "Decrypt it with `age --decrypt` into a file of mode 0600, or set age_key_command to what prints it"
        raise KeyUnavailableError("is encrypted, and nobody is there to type its passphrase", where=place, hint=hint)
    if data.startswith(_PEM):
        return KeyText((_ssh_identity(place, data),))
    identities: list[Identity] = []
    noted: list[str] = []
    errors: list[KeyUnavailableError] = []
    for number, line in enumerate(data.decode("utf-8", errors="replace").split("\n"), start=1):
        text = line.removesuffix("\r")
        if text.startswith("#"):
            noted += _NOTED_KEY.findall(text)
        elif text:
            try:
                identities.append(_identity(f"{place}, line {number}", text))
            except KeyUnavailableError as error:
                errors.append(error)
    if errors and not identities:
        raise errors[0]
    if not identities:
        raise KeyUnavailableError("holds no age key", where=place, hint="age-keygen creates such a file")
    return KeyText(tuple(identities), tuple(noted), tuple(f"{error.where}: {error.what}" for error in errors))


def fingerprint(identities: tuple[Identity, ...]) -> str:
    """What changes with any of the identities; of a plugin's own no more than a hash is known."""
    known = sorted(identity.recipient or identity.text.reveal().decode() for identity in identities)
    return hashlib.sha256("\n".join(known).encode()).hexdigest()[:16]


def _identity(where: str, text: str) -> Identity:
    if text.startswith(_PLUGIN):
        return _plugin_identity(where, text)
    decoded = decode_bech32(text.lower()) if text.isupper() else None  # sops refuses lower case
    recipient = None
    if decoded is not None and len(decoded[1]) == 32:
        prefix, secret = decoded
        if prefix == _NATIVE:
            recipient = _native_key(text)
        elif prefix == _HYBRID:
            recipient = _hybrid_key(where, secret)
    if recipient is None:
        hint = "A line is AGE-SECRET-KEY-1… with nothing around it, or starts with #; see age-keygen"
        raise KeyUnavailableError("is not an age secret key", where=where, hint=hint)
    return Identity(Secret(text.encode()), recipient)


def _plugin_identity(where: str, text: str) -> Identity:
    decoded = decode_bech32(text.lower()) if text.isupper() else None
    if decoded is None or not decoded[0].endswith("-"):
        raise KeyUnavailableError(
            "is not an identity of an age plugin", where=where, hint="Copy what the plugin printed"
        )
    plugin = decoded[0].removeprefix(_PLUGIN.lower()).removesuffix("-")
    if shutil.which(f"age-plugin-{plugin}") is None:
        hint = "Install it where the daemon's PATH leads, such as /usr/local/bin"
        raise KeyUnavailableError(f"needs age-plugin-{plugin}, which is not installed", where=where, hint=hint)
    return Identity(Secret(text.encode()), "", plugin)


def _native_key(text: str) -> str:
    from pyrage import x25519  # cryptography would add 8 MB to the daemon

    return str(x25519.Identity.from_str(text).to_public())


def _hybrid_key(where: str, secret: bytes) -> str:
    """The public key of a post-quantum identity: ML-KEM-768 and X25519, both from one seed."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    seeds = hashlib.shake_256(secret).digest(96)
    try:
        from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey

        lattice = MLKEM768PrivateKey.from_seed_bytes(seeds[:64]).public_key().public_bytes_raw()
    except (ImportError, UnsupportedAlgorithm):
        hint = "Upgrade the Python package cryptography, which brings ML-KEM"
        raise KeyUnavailableError("is post-quantum, and ML-KEM is missing here", where=where, hint=hint) from None
    curve = X25519PrivateKey.from_private_bytes(seeds[64:]).public_key().public_bytes_raw()
    return encode_bech32("age1pq", lattice + curve)


def _ssh_identity(place: str, data: bytes) -> Identity:
    import asyncssh

    if _has_passphrase(data):
        hint = f"`ssh-keygen -p -f {place}` removes it; or make a key for this purpose alone"
        raise KeyUnavailableError("has a passphrase, which nobody is there to type", where=place, hint=hint)
    try:
        key = asyncssh.import_private_key(data)
        public = public_key(key.export_public_key("openssh").decode())
    except (asyncssh.KeyImportError, ValueError):
        hint = "`ssh-keygen -t ed25519` makes one"
        raise KeyUnavailableError("is not a private SSH key", where=place, hint=hint) from None
    if not public.startswith(_SSH_KINDS):
        hint = "`ssh-keygen -t ed25519` makes one that age can use"
        raise KeyUnavailableError(f"is a key of the kind {public.split()[0]}", where=place, hint=hint)
    return Identity(Secret(data), public, ssh=True)


def _has_passphrase(data: bytes) -> bool:
    """As the key itself says: OpenSSH's own form names the cipher after its mark, others say ENCRYPTED."""
    lines = [line for line in data.splitlines() if line and not line.startswith(b"-----")]
    with contextlib.suppress(ValueError):
        body = base64.b64decode(b"".join(lines), validate=True)
        if body.startswith(_OPENSSH):
            return not body.startswith(_OPENSSH + b"\x00\x00\x00\x04none")
    return b"ENCRYPTED" in data
