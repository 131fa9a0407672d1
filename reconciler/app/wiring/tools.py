"""What check, diff and compare need from outside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from reconciler.core.model.targets import Parser
from reconciler.core.ports import Contracts
from reconciler.core.secret import Secret
from reconciler.core.sops.ciphertext import YamlParser

CountProgress = Callable[[int, int], None]
"""Receives how many files are done, and of how many."""


class Opener(Protocol):
    """What decrypts: the Decryptor port, and whose keys it has."""

    async def opens(self, recipients: Sequence[str]) -> bool:
        """Whether one of our keys may open a file for these public keys. Raises KeyUnavailableError."""

    async def decrypt(self, name: str, data: bytes, parser: Parser = Parser.OPAQUE) -> Secret:
        """As the Decryptor port says."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What a check needs from outside. ``opener`` is None without a key; ``now`` in seconds since the epoch."""

    parse_yaml: YamlParser
    contracts: Contracts
    now: float
    opener: Opener | None = None
    progress: CountProgress = lambda done, of: None
