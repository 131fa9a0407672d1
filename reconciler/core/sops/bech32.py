"""Bech32 (BIP 173), in which age writes its keys. Pure."""

from __future__ import annotations

from collections.abc import Sequence

_LETTERS = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_GENERATORS = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
_CHECKSUM = 6


def decode_bech32(text: str) -> tuple[str, bytes] | None:
    """Given lower-case text, return its prefix and its bytes; None if the checksum or the form is wrong."""
    prefix, _, letters = text.rpartition("1")
    if not prefix or len(letters) < _CHECKSUM or set(letters) - set(_LETTERS):
        return None
    values = [_LETTERS.index(letter) for letter in letters]
    if _checksum([*_expanded(prefix), *values]) != 1:
        return None
    data = _regrouped(values[:-_CHECKSUM], 5, 8)
    return prefix, bytes(data[: len(values[:-_CHECKSUM]) * 5 // 8])


def encode_bech32(prefix: str, data: bytes) -> str:
    """Given a lower-case prefix and bytes, return the text with its checksum."""
    values = _regrouped(data, 8, 5)
    checksum = _checksum([*_expanded(prefix), *values, *[0] * _CHECKSUM]) ^ 1
    values += [checksum >> 5 * (_CHECKSUM - 1 - index) & 31 for index in range(_CHECKSUM)]
    return f"{prefix}1{''.join(_LETTERS[value] for value in values)}"


def _expanded(prefix: str) -> list[int]:
    return [*(ord(letter) >> 5 for letter in prefix), 0, *(ord(letter) & 31 for letter in prefix)]


def _checksum(values: Sequence[int]) -> int:
    checksum = 1
    for value in values:
        top, checksum = checksum >> 25, (checksum & 0x1FFFFFF) << 5 ^ value
        for bit, generator in enumerate(_GENERATORS):
            checksum ^= generator if top >> bit & 1 else 0
    return checksum


def _regrouped(values: Sequence[int], bits: int, into: int) -> list[int]:
    """Groups of ``bits`` as groups of ``into`` bits; the last one is filled with zeros."""
    groups, held, width = [], 0, 0
    for value in values:
        held, width = held << bits | value, width + bits
        while width >= into:
            width -= into
            groups.append(held >> width)
            held &= (1 << width) - 1
    return [*groups, held << into - width] if width else groups
