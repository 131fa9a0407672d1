"""HTTP health checks of a manifest. The reader of the manifest has already refused hosts the server does not allow."""

from __future__ import annotations

import os
import secrets
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from reconciler.adapters.ssh import SshConnection
from reconciler.core.model import HttpCheck

if TYPE_CHECKING:
    from aiohttp import BaseConnector

_TIMEOUT = 5.0  # seconds


class HttpHealth:
    """The ``HttpProbe`` port, for what is reached from this machine."""

    async def ok(self, check: HttpCheck) -> bool:
        return await _answers(check)


class TunnelledHealth:
    """The ``HttpProbe`` port for what is reached from another machine; ``directory`` is for a tunnel's socket here."""

    def __init__(self, connection: SshConnection, directory: str) -> None:
        self._connection = connection
        self._directory = directory

    async def ok(self, check: HttpCheck) -> bool:
        import aiohttp

        there = urlsplit(check.url)
        port = there.port or (443 if there.scheme == "https" else 80)
        path = os.path.join(self._directory, secrets.token_hex(4))
        connection = await self._connection.connected()
        listener = await connection.forward_local_path_to_port(path, there.hostname or "", port)
        try:
            return await _answers(check, aiohttp.UnixConnector(path))
        finally:
            listener.close()
            await listener.wait_closed()


async def _answers(check: HttpCheck, connector: BaseConnector | None = None) -> bool:
    import aiohttp

    try:
        # Redirects are not followed: they could lead to a host the server's file does not allow.
        async with (
            aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=_TIMEOUT)) as session,
            session.get(check.url, allow_redirects=False) as answer,
        ):
            return answer.status == check.status
    except (aiohttp.ClientError, TimeoutError):
        return False
