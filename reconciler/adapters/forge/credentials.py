"""The token for a forge's API: from a file, from a command, or made for a GitHub App. It stays in memory."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import stat
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any, Protocol

from reconciler.adapters import process
from reconciler.core.decide.private_files import is_exposed
from reconciler.core.errors import ExhaustedError, ForgeError

_LARGEST = 16 * 1024  # bytes, of a token or a private key
_COMMAND_LIMITS = process.Limits(timeout=30.0, stdout=_LARGEST)
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
        return _checked(read_private(self._path, self._setting), self._path)

    def refused(self) -> None:
        pass


class TokenCommand:
    """A command that prints the token, run for every request."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = tuple(command)

    async def token(self) -> str:
        name = os.path.basename(self._command[0])
        try:
            done = await process.run(self._command, env=dict(os.environ), limits=_COMMAND_LIMITS)
        except process.MissingProgramError:
            problem = "cannot be started: not found, or not executable"
        except (ExhaustedError, OSError) as error:
            problem = f"cannot be started: {error}"
        else:
            if done.ok:
                return _checked(done.stdout, f"the output of {name}")
            reason = (
                "timed out" if done.timed_out else "printed too much" if done.overflowed else f"exit {done.exit_code}"
            )
            problem = f"gave no token ({reason})"
        hint = f"Run {name} by hand as uid {os.geteuid()}, without a terminal: it must print the token and nothing else"
        raise ForgeError(f"{name} {problem}", where="forge.token_command", hint=hint, id="forge-token")

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
                key = read_private(self._key_file, "forge.app.key_file")
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


def read_private(path: str, setting: str) -> bytes:
    """The content of a file that is for its owner alone. Raises ForgeError, which names the ``setting``."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a named pipe would block forever
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            data = file.read(_LARGEST) if stat.S_ISREG(status.st_mode) else None
    except OSError as error:
        problem, data = f"cannot be read ({os.strerror(error.errno or 0)})", None
    else:
        problem, mode = "is not a regular file", stat.S_IMODE(status.st_mode)
        if data is not None and is_exposed(path, mode, os.environ.get("CREDENTIALS_DIRECTORY", "")):
            problem, data = f"has mode {mode:04o}: others may read or change it, so it is not used", None
    if data is None:
        hint = f"It must be a file of mode 0600 that uid {os.geteuid()} owns; or correct {setting}"
        raise ForgeError(problem, where=path, hint=hint, id="forge-token")
    return data


def _checked(data: bytes, where: str) -> str:
    """The token, if it can be one: a header cannot hold anything else."""
    token = data.strip().decode("ascii", errors="replace")
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        hint = "It must be the token and nothing else, on one line"
        raise ForgeError("is not a token", where=where, hint=hint, id="forge-token")
    return token
