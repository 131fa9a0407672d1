"""Our age identities: from key files, from text, and from a command that prints them. They stay in memory."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

from reconciler.adapters.private_sources import PrivateSourceError, read_private_file, run_for_secret
from reconciler.adapters.process import KIB, Limits
from reconciler.adapters.sops.identities import Identity, KeyText, fingerprint, read_key_text
from reconciler.core.errors import KeyUnavailableError
from reconciler.core.secret import Secret
from reconciler.core.sops.key_mismatch import OwnKeys, public_key
from reconciler.core.text import listed

_KEY_FILE_BYTES = 64 * KIB
_COMMAND_LIMITS = Limits(timeout=30.0, grace=1.0, stdout=_KEY_FILE_BYTES)
_RUN_AGAIN_AFTER = 60.0  # seconds: files for a key that the command does not have must not run it all the time


@dataclass(frozen=True, slots=True)
class KeySources:
    """Where identities are: ``files``; ``texts`` by what messages call them; the ``command`` that prints them.

    ``strict``: a file that others may read is refused.
    """

    files: tuple[str, ...] = ()
    texts: tuple[tuple[str, Secret], ...] = ()
    command: tuple[str, ...] = ()
    strict: bool = False

    def __bool__(self) -> bool:
        return bool(self.files or self.texts or self.command)


@dataclass(frozen=True, slots=True)
class AgeKeys:
    """The identities, and what may be said of them."""

    identities: tuple[Identity, ...]
    public: OwnKeys

    def opening(self, recipients: Sequence[str]) -> tuple[Identity, ...]:
        """Those that may open a file for these public keys. A plugin is not started where a key of age's own will do,
        and an identity that this sops does not know spoils no file that is not for it."""
        theirs = {public_key(recipient) for recipient in recipients}
        matching = tuple(identity for identity in self.identities if identity.recipient in theirs)
        return matching or tuple(identity for identity in self.identities if identity.plugin)


class AgeKeyring:
    """Reads the sources again when they change. The command is run when it is first needed, and again where no key
    opens a file."""

    def __init__(self, sources: KeySources) -> None:
        self._sources = sources
        self._files = tuple(os.path.abspath(path) for path in sources.files)  # sops runs in /
        self._state: object = None
        self._keys: AgeKeys | None = None
        self._reported: tuple[str, ...] = ()
        self._printed: Secret | None = None
        self._ran_at = float("-inf")
        self._running = asyncio.Lock()

    async def load(self, *, again: bool = False) -> AgeKeys:
        """The identities; ``again`` also runs the command, unless it has just been run. Raises KeyUnavailableError."""
        if not self._sources:
            raise KeyUnavailableError(
                "no age key is configured",
                hint="Set decryption.age_key_file in the server configuration; age-keygen creates a key",
            )
        async with self._running:
            texts, errors = await self._texts(again)
        if texts == self._state and self._keys is not None and not self._keys.public.warnings and not errors:
            return self._keys
        self._keys, self._state = self._combined(texts, errors), texts
        if self._keys.public.warnings != self._reported:
            self._reported = self._keys.public.warnings
            for warning in self._reported:
                logging.getLogger(__name__).warning("age key left out: %s [age-key-left-out]", warning)
        return self._keys

    async def _texts(self, again: bool) -> tuple[dict[str, Secret], list[KeyUnavailableError]]:
        texts: dict[str, Secret] = {}
        errors: list[KeyUnavailableError] = []
        for path in self._files:
            try:
                texts[path] = Secret(_read_key_file(path, strict=self._sources.strict))
            except KeyUnavailableError as error:
                errors.append(error)
        texts |= dict(self._sources.texts)
        if self._sources.command:
            try:
                texts[_place(self._sources.command)] = await self._output(again)
            except KeyUnavailableError as error:
                errors.append(error)
        return texts, errors

    def _combined(self, texts: dict[str, Secret], errors: list[KeyUnavailableError]) -> AgeKeys:
        read: list[KeyText] = []
        for place, text in texts.items():
            try:
                read.append(read_key_text(place, text.reveal()))
            except KeyUnavailableError as error:
                errors.append(error)
        if not read:
            raise errors[0]
        identities = tuple(dict.fromkeys(identity for text in read for identity in text.identities))
        plugins = tuple(dict.fromkeys(identity.plugin for identity in identities if identity.plugin))
        noted = (key for text in read for key in text.noted)
        public = OwnKeys(
            recipients=tuple(sorted({identity.recipient for identity in identities if identity.recipient})),
            plugins=plugins,
            noted=tuple(key for key in noted if key.startswith(tuple(f"age1{plugin}1" for plugin in plugins))),
            place=listed([*texts]),
            add=self._how_to_add(),
            warnings=(*(warning for text in read for warning in text.warnings), *map(str, errors)),
            fingerprint=fingerprint(identities),
        )
        return AgeKeys(identities, public)

    def _how_to_add(self) -> str:
        if self._files:
            return f"add the private key that fits as a line of {self._files[0]}, beside what is there"
        return "let the source of its keys hold the one that fits as well, a line for each"

    async def _output(self, again: bool) -> Secret:
        """What the command prints, which only memory ever holds. Raises KeyUnavailableError."""
        due = self._printed is None or (again and time.monotonic() - self._ran_at >= _RUN_AGAIN_AFTER)
        if due:
            self._ran_at = time.monotonic()
            try:
                self._printed = await _run_key_command(self._sources.command)
            except KeyUnavailableError:
                if self._printed is None:
                    raise
        assert self._printed is not None
        return self._printed


def _place(command: Sequence[str]) -> str:
    return f"the output of {os.path.basename(command[0])}"


def _read_key_file(path: str, *, strict: bool) -> bytes:
    """Raises KeyUnavailableError."""
    try:
        return read_private_file(path, _KEY_FILE_BYTES, strict=strict)
    except PrivateSourceError as error:
        if error.mode is not None:
            hint = f"`chmod 0600 {path}`"
            raise KeyUnavailableError(str(error), where=path, hint=hint, id="age-key-readable") from None
        owner = f"It must be a file of mode 0600 that uid {os.geteuid()} owns"
        hint = f"{owner}: restore it from your copy. If it is lost: docs/keys.md"
        raise KeyUnavailableError(f"the age key is not usable: {error}", where=path, hint=hint) from None


async def _run_key_command(command: Sequence[str]) -> Secret:
    """What it prints. Raises KeyUnavailableError."""
    name = os.path.basename(command[0])
    try:
        return Secret(await run_for_secret(command, _COMMAND_LIMITS, "key"))
    except PrivateSourceError as error:
        hint = (
            f"Run {name} by hand as uid {os.geteuid()}, without a terminal: it must print identities and nothing else"
        )
        raise KeyUnavailableError(f"{name} {error}", where="age_key_command", hint=hint, id="age-key-command") from None
