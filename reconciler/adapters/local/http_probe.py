"""HTTP health checks of a manifest, whose reader has already refused hosts that the server does not allow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler.adapters.imports import import_aiohttp, trust
from reconciler.core.model.targets import HttpCheck

if TYPE_CHECKING:
    from aiohttp import BaseConnector

    from reconciler.adapters.ssh.connection import SshConnection

_TIMEOUT = 5.0  # seconds


class HttpHealth:
    """The ``HttpProbe`` port, for what is reached from this machine."""

    async def ok(self, check: HttpCheck) -> bool:
        return await _answers(check)


class TunnelledHealth:
    """The ``HttpProbe`` port for what is reached from another machine."""

    def __init__(self, connection: SshConnection) -> None:
        self._connection = connection

    async def ok(self, check: HttpCheck) -> bool:
        import_aiohttp()
        import aiohttp

        from reconciler.adapters.ssh.tunnel import tunnel_socket

        async with tunnel_socket(self._connection, check.url) as path:
            return await _answers(check, aiohttp.UnixConnector(path))


async def _answers(check: HttpCheck, connector: BaseConnector | None = None) -> bool:
    import_aiohttp()
    import aiohttp

    try:
        # Redirects are not followed: they could lead to a host that the server configuration does not allow.
        async with (
            aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=_TIMEOUT)) as session,
            session.get(check.url, allow_redirects=False, ssl=trust(check.url)) as answer,
        ):
            return answer.status == check.status
    except (aiohttp.ClientError, TimeoutError):
        return False
