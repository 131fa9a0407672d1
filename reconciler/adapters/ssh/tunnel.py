"""A tunnel over an SSH connection to a port that the other machine can reach, for HTTP requests."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from reconciler.adapters.ssh.connection import SshConnection

if TYPE_CHECKING:
    from asyncssh import SSHClientConnection


@contextlib.asynccontextmanager
async def tunnel_socket(connection: SshConnection, url: str) -> AsyncIterator[str]:
    """The path of a private local socket that leads to the host and port of the URL, as the other machine reaches them.

    It is removed at the end, with all of its connections. Raises HostUnreachableError.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    connected = await connection.connected()
    served: set[asyncio.Task[None]] = set()

    def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.add(asyncio.ensure_future(_forward(connected, host, port, reader, writer)))

    with tempfile.TemporaryDirectory(prefix="reconciler-") as directory:
        path = os.path.join(directory, "tunnel")
        server = await asyncio.start_unix_server(serve, path)
        try:
            yield path
        finally:
            server.close()
            for task in served:
                task.cancel()
            await asyncio.gather(*served, return_exceptions=True)


async def _forward(
    connection: SSHClientConnection, host: str, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Carry bytes both ways until one side ends, or until cancelled."""
    import asyncssh

    try:
        far_reader, far_writer = await connection.open_connection(host, port)
        try:
            await _first_end(_pump(reader, far_writer), _pump(far_reader, writer))
        finally:
            far_writer.channel.abort()
    except (asyncssh.Error, OSError):
        pass  # nobody listens there: the client gets no answer
    finally:
        writer.close()


async def _first_end(*work: Any) -> None:
    tasks = [asyncio.ensure_future(coroutine) for coroutine in work]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pump(source: Any, target: Any) -> None:
    while data := await source.read(65536):
        target.write(data)
        await target.drain()
