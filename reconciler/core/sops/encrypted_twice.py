"""Finds files that were encrypted twice: sops takes a store of its own for a binary file, and encrypts it again. Pure.

With a key, the plaintext shows it. Without one, lengths do: encryption keeps the length of a value.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from reconciler.core.errors import BadCiphertextError
from reconciler.core.model.targets import Format
from reconciler.core.sops.ciphertext import Ciphertext
from reconciler.core.sops.file_format import store_of
from reconciler.core.sops.patterns import ENCRYPTED, line_at, restore_hint

_LEAST_ENCRYPTED = len("ENC[AES256_GCM,data:,iv:,tag:,type:str]") + 44 + 24  # and the data, in groups of four
_VALUE = re.compile(rf"^(?:.*[=: ])?[\"']?{ENCRYPTED.pattern}[\"']?,?$", re.MULTILINE)
_WHOLE = re.compile(rb"\s*\{?\s*\"?data\"?\s*[:=]\s*\"?ENC\[AES256_GCM,data:([A-Za-z0-9+/]+=*),")
_MAC = re.compile(rb"mac\\?\"?[ \t]*[:=][ \t]*\\?\"?ENC\[AES256_GCM,")  # of a store within a value, perhaps escaped
_FEWEST = 4  # values: one in four is of such a length by chance


def fix_encrypted_twice(name: str, outer: Format) -> str:
    """The command that removes the outer encryption of a store within a store."""
    return f"`sops decrypt --in-place --input-type {outer} --output-type binary {name}` leaves the inner one"


def refuse_encrypted_twice(name: str, checked: Ciphertext, plaintext: bytes) -> None:
    """Raises BadCiphertextError where what a source decrypts to is a store, or holds an encrypted value."""
    whole = [entry.key for entry in checked.entries] == ["data"]
    if _is_encrypted(plaintext) or (whole and _MAC.search(plaintext)):
        hint = fix_encrypted_twice(name, checked.format)
        raise BadCiphertextError("is encrypted twice", where=name, hint=hint, id="encrypted-twice")
    if checked.output is Format.BINARY or b"ENC[AES256_GCM," not in plaintext:
        return
    if match := _VALUE.search(plaintext.decode(errors="replace")):
        problem = f"a value is encrypted twice (line {line_at(match.string, match.start())} of the plaintext)"
        raise BadCiphertextError(problem, where=name, hint=restore_hint(name), id="encrypted-twice")


def has_lengths_of_ciphertexts(checked: Ciphertext) -> bool:
    """Whether every value of a file is as long as an encrypted one, and there are enough of them to tell."""
    values = [entry.encrypted for entry in checked.entries if entry.encrypted and not entry.comment]
    lengths = [_length_of(value.partition("data:")[2].partition(",")[0]) for value in values]
    return len(lengths) >= _FEWEST and all(
        length > _LEAST_ENCRYPTED and (length - _LEAST_ENCRYPTED) % 4 == 0 for length in lengths
    )


def length_of_whole(data: bytes) -> int | None:
    """The length in bytes of the plain file in a store of one value, as sops makes one of a binary file; None for any
    other file."""
    match = _WHOLE.match(data)
    return None if match is None else _length_of(match[1].decode())


def holds_store(data: bytes, earlier: Collection[bytes]) -> bool:
    """Whether a file is one of its ``earlier`` versions, encrypted again: of the same length, and encrypted then."""
    length = length_of_whole(data)
    return any(len(version) == length and _is_encrypted(version) for version in earlier)


def _is_encrypted(data: bytes) -> bool:
    """Whether it is a store with at least the MAC; a document may have the same keys by chance."""
    return b"ENC[AES256_GCM," in data and store_of(data) is not None


def _length_of(base64: str) -> int:
    return len(base64) // 4 * 3 - base64.count("=")
