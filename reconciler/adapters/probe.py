"""HTTP health checks of a manifest. The reader of the manifest has already refused hosts the server does not allow."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from reconciler.core.model import HttpCheck

if TYPE_CHECKING:
    from aiohttp import BaseConnector
    from asyncssh import SSHClientConnection

    from reconciler.adapters.ssh import SshConnection

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
        async with self._door(there.hostname or "", port) as path:
            return await _answers(check, aiohttp.UnixConnector(path))

    @contextlib.asynccontextmanager
    async def _door(self, host: str, port: int) -> AsyncIterator[str]:
        """The path of a socket here that leads to the port there. At the end everything of it is gone, also what the
        other side keeps open without an answer."""
        connection = await self._connection.connected()
        path = os.path.join(self._directory, secrets.token_hex(4))
        served: set[asyncio.Task[None]] = set()

        def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            served.add(asyncio.ensure_future(_lead(connection, host, port, reader, writer)))

        server = await asyncio.start_unix_server(serve, path)
        try:
            yield path
        finally:
            server.close()
            for task in served:
                task.cancel()
            await asyncio.gather(*served, return_exceptions=True)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)


async def _lead(
    connection: SSHClientConnection,
    host: str,
    port: int,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
) -> None:
    """Carry bytes both ways until one side ends, or until cancelled."""
    import asyncssh

    async def pump(source: Any, target: Any) -> None:
        while data := await source.read(65536):
            target.write(data)
            await target.drain()

    try:
        far_reader, far_writer = await connection.open_connection(host, port)
        try:
            ways = [asyncio.ensure_future(pump(reader, far_writer)), asyncio.ensure_future(pump(far_reader, writer))]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        finally:
            far_writer.channel.abort()
    except (asyncssh.Error, OSError):
        pass  # nobody listens there: whoever asks gets no answer
    finally:
        writer.close()


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
