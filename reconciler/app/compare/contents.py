"""From the bytes of a file to what a comparison needs: names, and fingerprints of values."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from reconciler.app.checks.values import is_placeholder
from reconciler.app.wiring.tools import Opener
from reconciler.core.checks.line_lint import may_be_a_value
from reconciler.core.compare.types import SEALED, Value
from reconciler.core.dotenv.grammar import EnvFileError, read_entries
from reconciler.core.dotenv.readings import KeyReading, read_keys
from reconciler.core.errors import BadCiphertextError, KeyUnavailableError, SourceError
from reconciler.core.model.targets import Format, Parser
from reconciler.core.secret import Digester
from reconciler.core.sops import ciphertext
from reconciler.core.sops.ciphertext import YamlParser


@dataclass(frozen=True, slots=True)
class KnownVariables:
    """The variables that an env file can take from outside, if known. ``variables`` None: nothing is known. Names in
    ``unsure`` have no certain value, even if the file defines them."""

    variables: Mapping[str, str] | None = field(default=None, repr=False)
    unsure: Collection[str] = ()


NO_VARIABLES = KnownVariables()


@dataclass(frozen=True, slots=True)
class Content:
    """``keys`` is None if the file has none to compare, ``digest`` is None if it needs a key to be read; ``sealed``: no
    key opened it; ``problem`` says why it cannot be compared. ``variables`` are the known values."""

    keys: dict[str, Value] | None = None
    digest: str | None = None
    sealed: bool = False
    problem: str = ""
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads files for one comparison; fingerprints differ from run to run. ``opener`` is None without a key. ``values``
    are all that were read, so that nothing shows them."""

    digest: Digester
    parse_yaml: YamlParser
    opener: Opener | None
    values: set[str] = field(default_factory=set, repr=False)

    async def read(self, name: str, data: bytes, parser: Parser, known: KnownVariables = NO_VARIABLES) -> Content:
        """Given the bytes of a file, return what to compare; decrypt it if one of our keys can."""
        if b"ENC[AES256_GCM," not in data:
            return self.read_plain(data, parser, known)
        try:
            cipher = ciphertext.read_ciphertext(name, data, parse_yaml=self.parse_yaml, parser=parser)
        except SourceError as error:
            return Content(problem=f"{error.what.rstrip('.')}; `reconciler check` shows details")
        plain = await self._decrypted(name, data, cipher, parser)
        if isinstance(plain, Content):
            return plain
        return self.read_plain(plain, parser, known)

    async def _decrypted(
        self, name: str, data: bytes, cipher: ciphertext.Ciphertext, parser: Parser
    ) -> bytes | Content:
        if self.opener is not None and await self.opener.opens(cipher.metadata.age):
            try:
                return (await self.opener.decrypt(name, data, parser)).reveal()
            except BadCiphertextError as error:
                return Content(problem=error.what)
            except (KeyUnavailableError, SourceError):
                pass  # it is not for our keys
        if cipher.output is not Format.DOTENV:
            return Content(sealed=True)
        empty = Value(self.digest(b""), empty=True)
        keys = {entry.key: SEALED if entry.encrypted else empty for entry in cipher.entries if not entry.comment}
        return Content(keys, sealed=True)

    def read_plain(self, data: bytes, parser: Parser, known: KnownVariables = NO_VARIABLES) -> Content:
        """As ``read``, for a file that is not encrypted."""
        whole = self.digest(data)
        if parser is Parser.OPAQUE:
            return Content(digest=whole)
        try:
            readings = read_keys(data, parser, self.digest, known.variables, known.unsure)
            entries = read_entries(data, parser)
        except EnvFileError as error:
            return Content(digest=whole, problem=str(error))
        keys = {}
        for entry in entries:
            # A line that may be a bare secret is not shown.
            name = f"(line {entry.line})" if may_be_a_value(entry.key, entry.template) else entry.key
            keys[name] = self._read_value(readings[entry.key])
        variables = {key: reading.value for key, reading in readings.items() if reading.value is not None}
        return Content(keys, whole, variables=variables)

    def _read_value(self, reading: KeyReading) -> Value:
        if reading.value is None:
            return Value(
                None, placeholder=is_placeholder(reading.template), written=reading.written, given=reading.given
            )
        return replace(self.value(reading.value), written=reading.written, given=reading.given)

    def value(self, text: str) -> Value:
        """Given a known value, return its fingerprint."""
        self.values.add(text)
        data = text.encode("utf-8", "surrogatepass")
        return Value(self.digest(data), empty=not text, placeholder=is_placeholder(text))
