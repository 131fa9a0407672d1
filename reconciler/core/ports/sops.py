"""What sops does: decrypt, and encrypt for the recipients a source already has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from reconciler.core.model.targets import Parser
from reconciler.core.secret import Secret
from reconciler.core.sops.ciphertext import Ciphertext
from reconciler.core.sops.key_mismatch import OwnKeys


class Decryptor(Protocol):
    async def identity(self) -> str:
        """What a remembered result depends on beside the blob: sops' version and a fingerprint of our key.

        Raises KeyUnavailableError, DecryptFailedError.
        """

    async def own_keys(self) -> OwnKeys:
        """Our public keys, and which identities cannot be used. Raises KeyUnavailableError."""

    def read(self, name: str, data: bytes, parser: Parser = Parser.OPAQUE) -> Ciphertext:
        """What an encrypted source says without a key. Raises SourceError and its subclasses."""

    async def decrypt(self, name: str, data: bytes, parser: Parser = Parser.OPAQUE) -> Secret:
        """Pre-check and decrypt ``data``. Its content gives the format of the store; ``name`` and the target's
        ``parser`` give that of the plain file. Only our own age key is used, and no address is contacted.

        Raises SourceError (NotEncryptedError, BadCiphertextError, ForeignKeyError), KeyUnavailableError,
        DecryptFailedError.
        """


class Encryptor(Protocol):
    """Writes ciphertext. It puts no value of a variable in an argument, an environment, or a file."""

    async def amend(self, name: str, data: bytes, values: Mapping[str, Secret | None]) -> bytes:
        """Set values of a dotenv source by the text before their ``=`` (None: remove); other ciphertexts stay.

        Raises as ``Decryptor.decrypt`` does.
        """

    async def reencrypt(self, name: str, data: bytes, content: Secret) -> bytes:
        """Given a binary source, return one that holds ``content``, for the same recipients.

        Raises RefusedError if that is impossible, and as ``Decryptor.decrypt`` does.
        """
