"""The token for a forge's API: from a file, from a command, or made for a GitHub App. It stays in memory."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any, Protocol

from reconciler.adapters.private_sources import PrivateSourceError, read_private_file, run_for_secret
from reconciler.adapters.process import Limits
from reconciler.core.errors import ForgeError

_LARGEST = 16 * 1024  # bytes, of a token or a private key
_COMMAND_LIMITS = Limits(timeout=30.0, stdout=_LARGEST)
_MARGIN = 300.0  # seconds before its end from which a token of an App is not used any more
_JWT_AGE = 540.0  # seconds; GitHub accepts ten minutes
_CLOCKS_DIFFER = 60.0


class Credentials(Protocol):
    async def token(self) -> str:
        """The token to use now. Raises ForgeError."""

    def refused(self) -> None:
        """The forge does not know the last token."""


class TokenFile:
    """A file with the token, read for every request: a new token needs no reload."""

    def __init__(self, path: str, setting: str = "forge.token_file") -> None:
        self._path = path
        self._setting = setting

    async def token(self) -> str:
        return _checked(_read_private(self._path, self._setting), self._path)

    def refused(self) -> None:
        pass


class TokenCommand:
    """A command that prints the token, run for every request."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = tuple(command)

    async def token(self) -> str:
        name = os.path.basename(self._command[0])
        try:
            return _checked(await run_for_secret(self._command, _COMMAND_LIMITS, "token"), f"the output of {name}")
        except PrivateSourceError as error:
            by_hand = f"Run {name} by hand as uid {os.geteuid()}, without a terminal"
            hint = f"{by_hand}: it must print the token and nothing else"
            raise ForgeError(f"{name} {error}", where="forge.token_command", hint=hint, id="forge-token") from None

    def refused(self) -> None:
        pass


class AppCredentials:
    """The token of a GitHub App's installation, made with ``request`` and kept until shortly before it expires.

    Given the JWT of the App, ``request`` returns GitHub's answer: {"token": ..., "expires_at": ...}.
    """

    def __init__(
        self,
        app: str,
        key_file: str,
        request: Callable[[str], Awaitable[Any]],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._app = app
        self._key_file = key_file
        self._request = request
        self._now = now
        self._token = ""
        self._until = 0.0
        self._turn = asyncio.Lock()

    async def token(self) -> str:
        async with self._turn:
            if not self._token or self._now() >= self._until:
                key = _read_private(self._key_file, "forge.app.key_file")
                answer = await self._request(app_jwt(self._app, key, self._now()))
                self._token = _checked(str(answer.get("token", "")).encode(), "GitHub's answer")
                self._until = _seconds(answer.get("expires_at")) - _MARGIN
            return self._token

    def refused(self) -> None:
        self._token = ""


def app_jwt(app: str, key: bytes, now: float) -> str:
    """Given an App's id and its private key (PEM), return the token (RS256) that proves to be the App.

    Raises ForgeError for a key that is none.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import padding, rsa

    try:
        private = serialization.load_pem_private_key(key, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        private = None
    if not isinstance(private, rsa.RSAPrivateKey):
        hint = "Generate a private key on the App's page at GitHub, and put the file there as it is"
        problem = "is not an RSA private key (PEM, no passphrase)"
        raise ForgeError(problem, where="forge.app.key_file", hint=hint, id="forge-token")
    claims = {"iat": int(now - _CLOCKS_DIFFER), "exp": int(now + _JWT_AGE), "iss": app}
    text = f"{_base64(json.dumps({'alg': 'RS256', 'typ': 'JWT'}).encode())}.{_base64(json.dumps(claims).encode())}"
    return f"{text}.{_base64(private.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _seconds(text: object) -> float:
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except ValueError:
        return 0.0


def _read_private(path: str, setting: str) -> bytes:
    """The content of a file that is for its owner alone. Raises ForgeError, which names the ``setting``."""
    try:
        return read_private_file(path, _LARGEST)
    except PrivateSourceError as error:
        hint = f"It must be a file of mode 0600 that uid {os.geteuid()} owns; or correct {setting}"
        problem = str(error) if error.mode is not None else f"cannot be used ({error})"
        raise ForgeError(problem, where=path, hint=hint, id="forge-token") from None


def _checked(data: bytes, where: str) -> str:
    """The token, if it can be one: a header cannot hold anything else."""
    token = data.strip().decode("ascii", errors="replace")
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        hint = "It must be the token and nothing else, on one line"
        raise ForgeError("is not a token", where=where, hint=hint, id="forge-token")
    return token
