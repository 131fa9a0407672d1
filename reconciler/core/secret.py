"""Values that must not be shown, and keyed digests to compare them."""

import hashlib
import hmac
from typing import NoReturn

DIGEST_KEY_BYTES = 32
_DIGEST_BYTES = 16


class Secret:
    """Bytes whose ``repr``, ``str`` and ``format`` are redacted; ``reveal()`` returns them.

    Comparison takes constant time. It cannot be pickled, so it cannot get into a file by accident.
    """

    __slots__ = ("_data",)

    def __init__(self, data: bytes) -> None:
        self._data = data

    def reveal(self) -> bytes:
        """The bytes. Call this as late as possible, and never for a message."""
        return self._data

    def __repr__(self) -> str:
        return "Secret(***)"

    def __str__(self) -> str:
        return "***"

    def __format__(self, spec: str) -> str:
        return format("***", spec)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._data, other._data)

    def __hash__(self) -> int:
        return hash(self._data)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret cannot be pickled")


class Digester:
    """Given bytes, return a digest that cannot be guessed without the server's own key.

    A plain hash of a small env file can be guessed by trying values, so every digest that is stored, logged or
    shown is BLAKE2b keyed with 32 random bytes generated at first start (state_dir/digest.key, 0600).
    """

    def __init__(self, key: bytes) -> None:
        if len(key) != DIGEST_KEY_BYTES:
            raise ValueError(f"a digest key has {DIGEST_KEY_BYTES} bytes")
        self._key = key

    def __call__(self, data: bytes) -> str:
        """Given the content of a file, return 32 hex digits."""
        return hashlib.blake2b(data, digest_size=_DIGEST_BYTES, key=self._key).hexdigest()
