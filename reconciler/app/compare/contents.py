"""From the bytes of a file to what is compared of it: names, and fingerprints of values."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from reconciler.app.checks.run import Opener
from reconciler.app.checks.values import is_placeholder
from reconciler.core.checks.line_lint import may_be_a_value
from reconciler.core.compare.types import SEALED, Value
from reconciler.core.dotenv.grammar import EnvFileError, read_entries
from reconciler.core.dotenv.readings import KeyReading, read_keys
from reconciler.core.errors import BadCiphertextError, KeyUnavailableError, SourceError
from reconciler.core.model.targets import Format, Parser
from reconciler.core.secret import Digester
from reconciler.core.sops import ciphertext
from reconciler.core.sops.ciphertext import YamlParser

_KEY_TYPES = frozenset({"age", "pgp"})


@dataclass(frozen=True, slots=True)
class Around:
    """What is known of the variables that an env file takes from around it. ``variables`` None: nothing; what the
    names of ``unsure`` stand for is not known, even where the file defines them."""

    variables: Mapping[str, str] | None = field(default=None, repr=False)
    unsure: Collection[str] = ()


ALONE = Around()


@dataclass(frozen=True, slots=True)
class Content:
    """``keys`` None: it has none to compare; ``digest`` None: it cannot be read without a key; ``sealed``: no key
    opened it; ``problem`` says why it cannot be compared. ``variables`` are the values that are known."""

    keys: dict[str, Value] | None = None
    digest: str | None = None
    sealed: bool = False
    problem: str = ""
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads files for one comparison: the fingerprints of another run are others. ``opener`` None: without a key."""

    digest: Digester
    parse_yaml: YamlParser
    opener: Opener | None

    async def read(self, name: str, data: bytes, parser: Parser, around: Around = ALONE) -> Content:
        """What there is to compare; an encrypted file is decrypted where the key is ours."""
        if b"ENC[AES256_GCM," not in data:
            return self.plain(data, parser, around)
        try:
            cipher = ciphertext.read_ciphertext(name, data, parse_yaml=self.parse_yaml, key_types=_KEY_TYPES)
        except SourceError as error:
            return Content(problem=f"{error.what.rstrip('.')}; `reconciler check` says more")
        plain = await self._decrypted(name, data, cipher)
        if isinstance(plain, Content):
            return plain
        return self.plain(plain, parser, around)

    async def _decrypted(self, name: str, data: bytes, cipher: ciphertext.Ciphertext) -> bytes | Content:
        if self.opener is not None and self.opener.opens(cipher.metadata.age):
            try:
                return (await self.opener.decrypt(name, data)).reveal()
            except BadCiphertextError as error:
                return Content(problem=error.what)
            except (KeyUnavailableError, SourceError):
                pass  # it is for others
        if cipher.format is not Format.DOTENV:
            return Content(sealed=True)
        empty = Value(self.digest(b""), empty=True)
        keys = {entry.key: SEALED if entry.encrypted else empty for entry in cipher.entries if not entry.comment}
        return Content(keys, sealed=True)

    def plain(self, data: bytes, parser: Parser, around: Around = ALONE) -> Content:
        whole = self.digest(data)
        if parser is Parser.OPAQUE:
            return Content(digest=whole)
        try:
            readings = read_keys(data, parser, self.digest, around.variables, around.unsure)
            entries = read_entries(data, parser)
        except EnvFileError as error:
            return Content(digest=whole, problem=str(error))
        keys = {}
        for entry in entries:
            # What may be a secret that stands alone is not shown.
            name = f"(line {entry.line})" if may_be_a_value(entry.key, entry.template) else entry.key
            keys[name] = self._read_value(readings[entry.key])
        known = {key: one.value for key, one in readings.items() if one.value is not None}
        return Content(keys, whole, variables=known)

    def _read_value(self, one: KeyReading) -> Value:
        if one.value is None:
            return Value(None, placeholder=is_placeholder(one.template), written=one.written, given=one.given)
        return replace(self.value(one.value), written=one.written, given=one.given)

    def value(self, text: str) -> Value:
        """Of a value that is known, and not how it is written."""
        data = text.encode("utf-8", "surrogatepass")
        return Value(self.digest(data), empty=not text, placeholder=is_placeholder(text))
