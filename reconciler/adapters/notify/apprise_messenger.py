"""Sends messages through the apprise library, which only a separate process (worker.py) imports: it would cost the
daemon 25 MB, its receivers may hang, and what it logs may quote a token."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from reconciler.adapters import process
from reconciler.adapters.notify.urls_file import read_receivers
from reconciler.adapters.process import MIB, Limits, MissingProgramError
from reconciler.core.errors import ConfigError, ReconcilerError
from reconciler.core.model.notifications import Message
from reconciler.core.ports.notifications import Receiver

LIMITS = Limits(
    timeout=20.0,
    stdout=16 * 1024,
    resources={resource.RLIMIT_AS: 1024 * MIB, resource.RLIMIT_CPU: 10, resource.RLIMIT_CORE: 0},
)
_AT_ONCE = 4  # processes: each takes 50 MB while it runs
# A receiver may only be reachable through a proxy, or have a certificate of the operator's own.
_PASSED_ON = ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "ssl_cert_file", "requests_ca_bundle")
# The library that apprise uses brings certificates of its own, unless it is told of others: the system's have a CA of
# the operator's.
_SYSTEM_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"


def require_apprise() -> None:
    """Raises ConfigError where the library is not installed. Does not import it."""
    if find_spec("apprise") is None:
        hint = "Install the extra: `pipx install 'reconcilerd[notify]'`, or remove the section"
        raise ConfigError(
            "needs the apprise library, which is not installed",
            where="notifications",
            hint=hint,
            id="notify-extra-missing",
        )


class AppriseMessenger:
    """The ``Messenger`` port. ``variables`` are the daemon's environment."""

    def __init__(self, urls_file: str, variables: Mapping[str, str], limits: Limits = LIMITS) -> None:
        self._urls_file = urls_file
        self._credentials = variables.get("CREDENTIALS_DIRECTORY", "")
        self._variables = {name: value for name, value in variables.items() if name.lower() in _PASSED_ON}
        certificates = variables.get("SSL_CERT_FILE") or _SYSTEM_CERTIFICATES
        if os.path.isfile(certificates):
            self._variables.setdefault("REQUESTS_CA_BUNDLE", certificates)
        self._limits = limits
        self._slots = asyncio.Semaphore(_AT_ONCE)

    def receivers(self) -> tuple[Receiver, ...]:
        return read_receivers(self._urls_file, self._credentials)

    async def send(self, receiver: Receiver, message: Message) -> str:
        return await self._run(receiver, {"title": message.title, "body": message.body, "bad": message.bad})

    async def check(self, receiver: Receiver) -> str:
        """Why apprise cannot use the receiver's URL, as a clause; "" if it can. Sends nothing."""
        return await self._run(receiver, None)

    async def _run(self, receiver: Receiver, message: Mapping[str, Any] | None) -> str:
        argv = [sys.executable, "-I", "-m", "reconciler.adapters.notify.worker"]
        env = {"PATH": os.defpath, "HOME": "/nonexistent", "LC_ALL": "C.UTF-8", **self._variables}
        request = json.dumps({"url": receiver.url.reveal().decode(), "message": message}).encode()
        try:
            async with self._slots:
                done = await process.run(argv, env=env, limits=self._limits, stdin=request)
        except MissingProgramError:
            return "Python cannot be started"
        except ReconcilerError as error:
            return error.what
        if done.timed_out:
            return f"gave no answer within {self._limits.timeout:g} s"
        try:
            return str(json.loads(done.stdout)["problem"]) if done.ok else "apprise ended unexpectedly"
        except (ValueError, KeyError, TypeError):
            return "apprise ended unexpectedly"
