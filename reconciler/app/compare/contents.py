"""From the bytes of a file to what is compared of it: names, and fingerprints of values."""

from __future__ import annotations

from dataclasses import dataclass

from reconciler.app.checks.run import Opener
from reconciler.app.checks.values import is_placeholder
from reconciler.core import ciphertext, dotenv
from reconciler.core.ciphertext import YamlParser
from reconciler.core.comparison import Value
from reconciler.core.errors import BadCiphertextError, KeyUnavailableError, SourceError
from reconciler.core.lint import may_be_a_value
from reconciler.core.model import Format, Parser
from reconciler.core.secret import Digester

_KEY_TYPES = frozenset({"age", "pgp"})
_INHERITED = b"\0inherited"  # no value can be this


@dataclass(frozen=True, slots=True)
class Content:
    """``keys`` None: it has none to compare; ``digest`` None: it cannot be read without a key; ``sealed``: no key
    opened it; ``problem`` says why it cannot be compared."""

    keys: dict[str, Value] | None = None
    digest: str | None = None
    sealed: bool = False
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads files for one comparison: the fingerprints of another run are others. ``opener`` None: without a key."""

    digest: Digester
    parse_yaml: YamlParser
    opener: Opener | None

    async def read(self, name: str, data: bytes, parser: Parser) -> Content:
        """What there is to compare; an encrypted file is decrypted where the key is ours."""
        if b"ENC[AES256_GCM," not in data:
            return self.plain(data, parser)
        try:
            cipher = ciphertext.read(name, data, parse_yaml=self.parse_yaml, key_types=_KEY_TYPES)
        except SourceError as error:
            return Content(problem=f"{error.what.rstrip('.')}; `reconciler check` says more")
        plain = await self._decrypted(name, data, cipher)
        if isinstance(plain, Content):
            return plain
        return self.plain(plain, parser)

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
        keys = {entry.key: Value(None) if entry.encrypted else empty for entry in cipher.entries if not entry.comment}
        return Content(keys, sealed=True)

    def plain(self, data: bytes, parser: Parser) -> Content:
        whole = self.digest(data)
        if parser is Parser.OPAQUE:
            return Content(digest=whole)
        try:
            entries, variables = dotenv.entries(data, parser), dotenv.variables(data, parser)
        except dotenv.EnvFileError as error:
            return Content(digest=whole, problem=str(error))
        keys = {}
        for entry in entries:
            # What may be a secret that stands alone is not shown.
            name = f"(line {entry.line})" if may_be_a_value(entry.key, entry.template) else entry.key
            keys[name] = self.value(variables.get(entry.key))
        return Content(keys, whole)

    def value(self, text: str | None) -> Value:
        """``text`` None: the name stands there, and its value comes from elsewhere."""
        if text is None:
            return Value(self.digest(_INHERITED), empty=True)
        return Value(
            self.digest(text.encode("utf-8", "surrogatepass")), empty=not text, placeholder=is_placeholder(text)
        )
