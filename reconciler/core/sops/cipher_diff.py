"""Compares two versions of an encrypted file without a key.

sops keeps the names of variables readable, gives a rewritten value a new ``iv``, keeps the ``iv`` where it only
re-encrypts (``rotate``), and the ciphertext where it only changes the recipients (``updatekeys``). That a value with
its old ``iv`` is unchanged is sops' habit, not a proof: whoever has the public key can encrypt another one under it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from reconciler.core.checks.line_lint import may_be_a_value
from reconciler.core.model.plans import KeyChange
from reconciler.core.model.targets import Format
from reconciler.core.sops.ciphertext import Ciphertext, EncryptedEntry


@dataclass(frozen=True, slots=True)
class CipherChange:
    """``keys`` names what was rewritten; ``joined`` and ``left`` are public keys that can now, and can no longer,
    decrypt it; ``only_reencrypted``: no value, name or comment changed; ``rotated``: all others were re-encrypted,
    so only a key could show whether they changed."""

    keys: KeyChange
    joined: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    only_reencrypted: bool = False
    rotated: bool = False


def compare_ciphertexts(old: Ciphertext | None, new: Ciphertext | None) -> CipherChange:
    """Given two versions of a file (None where it is absent), return what changed, by name."""
    before, after = _values(old), _values(new)
    common = sorted(before.keys() & after.keys())
    rotated = _is_rotated([(before[key], after[key]) for key in common])
    keys = KeyChange(
        added=tuple(sorted(after.keys() - before.keys())),
        removed=tuple(sorted(before.keys() - after.keys())),
        changed=tuple(key for key in common if _is_changed(before[key], after[key], rotated=rotated)),
    )
    unknown = rotated and any(
        before[key].encrypted != after[key].encrypted for key in common if key not in keys.changed
    )
    was, now = _recipients(old), _recipients(new)
    same_comments = _comments(old) == _comments(new)
    return CipherChange(
        keys=keys,
        joined=tuple(sorted(now - was)) if old else (),
        left=tuple(sorted(was - now)) if new else (),
        only_reencrypted=bool(old and new and keys.empty and same_comments and not unknown),
        rotated=unknown,
    )


def _values(version: Ciphertext | None) -> Mapping[str, EncryptedEntry]:
    """By name; by line where the name may itself be a secret."""
    entries = {}
    for entry in version.entries if version else ():
        if not entry.comment:
            alone = version and version.format is Format.DOTENV and may_be_a_value(entry.key, entry.encrypted)
            entries[f"line {entry.line}" if alone else entry.key] = entry
    return entries


def _comments(version: Ciphertext | None) -> list[str]:
    return sorted(entry.iv for entry in version.entries if entry.comment) if version else []


def _recipients(version: Ciphertext | None) -> frozenset[str]:
    """Public keys, and the names of services that hold one."""
    if version is None:
        return frozenset()
    return frozenset({*version.metadata.age, *version.metadata.pgp, *version.metadata.others}) - {"PGP"}


def _is_rotated(pairs: list[tuple[EncryptedEntry, EncryptedEntry]]) -> bool:
    """Whether the file has a new data key: then every ciphertext differs. A single value that changed under its old
    ``iv`` was not written by sops, and counts as changed."""
    encrypted = [(old, new) for old, new in pairs if old.encrypted and new.encrypted]
    return bool(encrypted) and all(old.encrypted != new.encrypted for old, new in encrypted)


def _is_changed(old: EncryptedEntry, new: EncryptedEntry, *, rotated: bool) -> bool:
    if old.encrypted == new.encrypted:
        return False
    return not rotated or (old.iv, old.type, _length(old)) != (new.iv, new.type, _length(new))


def _length(entry: EncryptedEntry) -> int:
    """The length of the value, in base64 without its padding."""
    return len(entry.encrypted.partition("data:")[2].partition(",")[0].rstrip("="))
